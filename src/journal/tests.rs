use std::time::Duration;

use super::*;
use crate::domain::id::{Boot, Kind, SubnetId};

fn eni() -> EniId {
    EniId::stored("eni-0123456789abcdef0".into())
}

fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, last)
}

fn idle(journal: &Journal, last: u8) -> Holding {
    Holding {
        ip: ip(last),
        eni: eni(),
        subnet: SubnetId::stored("subnet-0123456789abcdef0".into()),
        held: Held::Idle,
        holder: Some("web".into()),
        let_go: journal.now().before(Duration::from_secs(60)),
        posted: true,
        doubted: false,
    }
}

fn token() -> Claim {
    Boot::random().unwrap().claim(1, Kind::Lease)
}

async fn filled(path: &Path) -> Journal {
    let journal = Journal::open(path);
    assert_eq!(journal.enter((10..13).map(|last| idle(&journal, last)).collect()).await, Recorded::Durable);
    journal
}

async fn given(journal: &Journal) -> Option<(Ipv4Addr, Recorded)> {
    let (eni, token) = (eni(), token());
    let wanted = Wanted { eni: &eni, sub_pool: None, choice: Choice::Any, token: &token, holder: Some("db") };
    journal.give(&wanted, |_| true).await
}

/// What beside the file itself is in its folder.
fn beside(path: &Path) -> Vec<String> {
    let all = std::fs::read_dir(path.parent().unwrap()).unwrap();
    let mut names: Vec<_> = all.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name.contains("aside"));
    names
}

#[tokio::test]
async fn what_was_recorded_is_there_in_the_next_life_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state/journal.db");
    let journal = filled(&path).await;
    assert!(journal.opened().is_new);
    let (leased, recorded) = given(&journal).await.unwrap();
    assert_eq!(recorded, Recorded::Durable);
    let off = Boot::random().unwrap().claim(1, Kind::Off);
    let others: Vec<_> = (10..13).map(ip).filter(|ip| *ip != leased).collect();
    assert_eq!(journal.leave(&others[..1], &off).await.0, others[..1]);
    let before = journal.of(&eni());
    let first = journal.mark().unwrap();
    drop(journal);

    let journal = Journal::open(&path);
    assert_eq!(journal.of(&eni()), before);
    let opened = journal.opened();
    assert!(!opened.is_new && opened.is_of_this_boot && opened.put_aside.is_none());
    let second = journal.mark().unwrap();
    assert!(second.follows(&first.to_string()) && !first.follows(&second.to_string()), "{first} {second}");
    assert!(!second.follows(&second.to_string()), "it is an older copy, or another driver has it");
    let _ = journal.strike(&others, |_| true).await;
    drop(journal);
    assert_eq!(Journal::open(&path).of(&eni()).len(), 1);
}

#[tokio::test]
async fn those_that_come_at_once_each_get_another_one() {
    let dir = tempfile::tempdir().unwrap();
    let journal = filled(&dir.path().join("journal.db")).await;
    let all = futures_util::future::join_all((0..4).map(|_| given(&journal))).await;
    let given: std::collections::BTreeSet<_> = all.iter().flatten().map(|(ip, _)| *ip).collect();
    assert_eq!((given.len(), all[3]), (3, None));
}

#[tokio::test]
async fn a_file_that_is_broken_is_put_aside_and_named() {
    for (spoilt, how) in
        [("truncated", 0), ("garbled", 1), ("empty", 2), ("another program's", 3), ("a newer driver's", 4)]
    {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.db");
        drop(filled(&path).await);
        // Closed by its thread, which ends a moment later.
        while path.with_extension("db-wal").exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut bytes = std::fs::read(&path).unwrap();
        match how {
            0 => bytes.truncate(bytes.len() / 2),
            1 => bytes.iter_mut().skip(100).step_by(7).for_each(|byte| *byte ^= 0x55),
            2 => bytes.clear(),
            3 => {
                bytes = b"not a database at all, and long enough to be taken for one if nobody looked at it closely"
                    .to_vec()
            }
            _ => bytes[63] = 9,
        }
        std::fs::write(&path, bytes).unwrap();
        let journal = Journal::open(&path);
        let opened = journal.opened();
        assert!(opened.is_new && opened.put_aside.is_some(), "{spoilt}: {opened:?}");
        assert_eq!(beside(&path).len(), 1, "{spoilt}");
        assert!(journal.of(&eni()).is_empty() && journal.state() == State::Writable);
    }
}

#[tokio::test]
async fn another_instances_journal_is_put_aside() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.db");
    let journal = filled(&path).await;
    journal.belongs_to("i-0123456789abcdef0");
    journal.belongs_to("i-0123456789abcdef0");
    assert_eq!(journal.of(&eni()).len(), 3);
    let _ = journal.change(&[ip(10)], |_| ()).await;
    drop(journal);
    let journal = Journal::open(&path);
    assert_eq!(journal.opened().instance.as_deref(), Some("i-0123456789abcdef0"));
    let first = journal.mark().unwrap();
    journal.belongs_to("i-0123456789abcdef1");
    assert!(journal.of(&eni()).is_empty() && journal.opened().is_new);
    assert_eq!(journal.enter(vec![idle(&journal, 20)]).await, Recorded::Durable);
    assert_ne!(journal.mark().unwrap().id, first.id);
    assert_eq!(beside(&path).iter().filter(|name| !name.ends_with("-wal")).count(), 1, "{:?}", beside(&path));
    drop(journal);
    let opened = Journal::open(&path).opened();
    assert_eq!(opened.instance.as_deref(), Some("i-0123456789abcdef1"));
}

#[tokio::test]
async fn where_no_file_can_be_made_it_stands_in_memory_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let in_the_way = dir.path().join("state");
    std::fs::write(&in_the_way, "a file where the folder should be").unwrap();
    let journal = Journal::open(&in_the_way.join("journal.db"));
    assert!(matches!(journal.state(), State::Without(_)), "{:?}", journal.state());
    assert_eq!(journal.enter(vec![idle(&journal, 10)]).await, Recorded::InMemory);
    assert_eq!(given(&journal).await, Some((ip(10), Recorded::InMemory)));
    assert_eq!(journal.mark(), None);
}
