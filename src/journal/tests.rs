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
    assert_eq!(journal.enter((10..13).map(|last| idle(&journal, last)).collect(), &[]).await, Recorded::Durable);
    journal
}

async fn given(journal: &Journal) -> Option<(Ipv4Addr, Recorded)> {
    let (eni, token) = (eni(), token());
    let wanted = Wanted {
        eni: &eni,
        sub_pool: None,
        choices: &[Choice::Any],
        blocks: &BTreeSet::new(),
        recalled: &BTreeSet::new(),
        token: &token,
        holder: Some("db"),
    };
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
    assert!(journal.opened().is_new());
    let (leased, recorded) = given(&journal).await.unwrap();
    assert_eq!(recorded, Recorded::Durable);
    let off = Boot::random().unwrap().claim(1, Kind::Off);
    let others: Vec<_> = (10..13).map(ip).filter(|ip| *ip != leased).collect();
    assert_eq!(journal.leave(&[others[..1].to_vec()], &off).await.0, others[..1]);
    let before = journal.of(&eni());
    let first = journal.mark().unwrap();
    drop(journal);

    let journal = Journal::open(&path);
    assert_eq!(journal.of(&eni()), before);
    let opened = journal.opened();
    assert!(!opened.is_new() && opened.is_of_this_boot && journal.put_aside().is_none());
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

/// The file of a journal of three that is closed, its log folded in.
async fn closed(path: &Path) -> Vec<u8> {
    drop(filled(path).await);
    // Closed by its thread, which ends a moment later.
    while path.with_extension("db-wal").exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    std::fs::read(path).unwrap()
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_put_aside_and_named() {
    for what in ["truncated", "garbled", "empty", "another program's", "a newer driver's", "a folder", "nowhere"] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.db");
        let mut bytes = closed(&path).await;
        match what {
            "truncated" => bytes.truncate(bytes.len() / 2),
            "garbled" => bytes.iter_mut().skip(100).step_by(7).for_each(|byte| *byte ^= 0x55),
            "empty" => bytes.clear(),
            "another program's" => bytes = b"not a database, and longer than the head of one would be ".repeat(3),
            "a newer driver's" => bytes[63] = 9,
            _ => {}
        }
        std::fs::remove_file(&path).unwrap();
        match what {
            "a folder" => std::fs::create_dir(&path).unwrap(),
            "nowhere" => std::os::unix::fs::symlink("nowhere", &path).unwrap(),
            _ => std::fs::write(&path, &bytes).unwrap(),
        }
        let journal = Journal::open(&path);
        assert!(
            journal.opened().is_new() && journal.of(&eni()).is_empty() && journal.state() == State::Writable,
            "{what}"
        );
        let put_aside = journal.put_aside().unwrap();
        assert_eq!(beside(&path).len(), 1, "{what}");
        assert!(put_aside.contains(&beside(&path)[0]), "{what}: {put_aside}");
        let kept = dir.path().join(&beside(&path)[0]);
        // An empty one is a database, and gets a head.
        let is_as_it_was = bytes.is_empty() || !kept.is_file() || std::fs::read(kept).unwrap() == bytes;
        assert!(is_as_it_was, "{what}");
    }
}

/// Where a flipped bit matters it is noticed.
#[tokio::test]
async fn a_garbled_file_says_what_it_said_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.db");
    let whole = closed(&path).await;
    let said = Journal::open(&path).of(&eni());
    let mut noticed = 0;
    let used: Vec<usize> = (0..whole.len()).filter(|at| whole[*at] != 0).collect();
    for at in used.iter().step_by(3).copied().chain([18, 19, 27, 40]) {
        for bit in [0x01, 0x10] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("journal.db");
            let mut bytes = whole.clone();
            bytes[at] ^= bit;
            std::fs::write(&path, bytes).unwrap();
            let journal = Journal::open(&path);
            if journal.put_aside().is_some() {
                noticed += 1;
                assert!(journal.of(&eni()).is_empty());
            } else {
                assert_eq!(journal.of(&eni()), said, "byte {at}, bit {bit:#x}");
            }
        }
    }
    assert!(noticed > 100, "{noticed}");
}

#[tokio::test]
async fn a_file_that_somebody_has_for_a_while_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.db");
    closed(&path).await;
    let theirs = rusqlite::Connection::open(&path).unwrap();
    theirs.execute_batch("BEGIN; SELECT * FROM holding").unwrap();
    let opening = std::thread::spawn({
        let path = path.clone();
        move || Journal::open(&path)
    });
    std::thread::sleep(Duration::from_secs(1));
    assert!(!opening.is_finished());
    drop(theirs);
    let journal = opening.join().unwrap();
    assert_eq!((journal.of(&eni()).len(), journal.state(), journal.put_aside()), (3, State::Writable, None));
}

#[tokio::test]
async fn a_file_that_somebody_keeps_is_neither_believed_nor_taken_away() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.db");
    closed(&path).await;
    let theirs = rusqlite::Connection::open(&path).unwrap();
    theirs.execute_batch("BEGIN; SELECT * FROM holding").unwrap();
    let journal = Journal::open(&path);
    assert!(matches!(journal.state(), State::Stuck(_)), "{:?}", journal.state());
    assert_eq!(journal.enter(vec![idle(&journal, 20)], &[]).await, Recorded::InMemory);
    assert_eq!((journal.mark(), journal.put_aside(), beside(&path)), (None, None, Vec::new()));
    drop(theirs);
    // By itself, sooner or later.
    while journal.state() != State::Writable {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(journal.put_aside().unwrap().contains("locked"), "{:?}", journal.put_aside());
    drop(journal);
    assert_eq!(Journal::open(&path).of(&eni()).len(), 1, "what was answered meanwhile, and not what was there before");
}

#[tokio::test]
async fn what_is_moved_away_under_it_is_begun_anew_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state/journal.db");
    let journal = filled(&path).await;
    journal.belongs_to("i-0123456789abcdef0");
    std::fs::rename(dir.path().join("state"), dir.path().join("lost")).unwrap();
    let (leased, recorded) = given(&journal).await.unwrap();
    assert_eq!((recorded, journal.state()), (Recorded::Durable, State::Writable));
    drop(journal);
    let journal = Journal::open(&path);
    assert_eq!(journal.of(&eni()).len(), 3);
    assert!(journal.lease(&eni(), leased).is_some(), "a grant is answered only once the next life knows it");
    let whose = journal.opened().instance;
    assert_eq!(whose.as_deref(), Some("i-0123456789abcdef0"), "every file says whose it is");
}

#[tokio::test]
async fn whoever_leaves_before_the_answer_did_not_get_it() {
    let dir = tempfile::tempdir().unwrap();
    let journal = filled(&dir.path().join("journal.db")).await;
    let before = journal.of(&eni());
    {
        let mut giving = std::pin::pin!(given(&journal));
        assert!(futures_util::poll!(&mut giving).is_pending());
        assert_eq!(journal.of(&eni()).iter().filter(|holding| holding.held != Held::Idle).count(), 1);
    }
    assert_eq!(journal.of(&eni()), before);
}

#[tokio::test]
async fn it_is_its_owners_alone_to_read() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state/journal.db");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let journal = filled(&path).await;
    assert_eq!((mode(path.parent().unwrap()), mode(&path)), (0o700, 0o600));
    assert_eq!(mode(&path.with_extension("db-wal")), 0o600);
    drop(journal);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let _journal = filled(&path).await;
    assert_eq!(mode(&path), 0o600, "a copy that was brought back");
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
    assert!(journal.of(&eni()).is_empty() && journal.opened().is_new());
    assert_eq!(journal.enter(vec![idle(&journal, 20)], &[]).await, Recorded::Durable);
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
    assert_eq!(journal.enter(vec![idle(&journal, 10)], &[]).await, Recorded::InMemory);
    assert_eq!(given(&journal).await, Some((ip(10), Recorded::InMemory)));
    assert_eq!(journal.mark(), None);
}

#[tokio::test]
async fn a_use_is_known_from_its_grant_to_its_end_whatever_becomes_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.db");
    let journal = filled(&path).await;
    let uses = async |journal: &Journal| {
        let all = journal.uses(|_| true).await.unwrap();
        all.iter().map(|it| (it.ip, it.name.clone(), it.end.map(|(_, how)| how))).collect::<Vec<_>>()
    };
    let db = || Some("db".to_owned());
    let (first, _) = given(&journal).await.unwrap();
    assert_eq!(uses(&journal).await, [(first, db(), None)]);
    // Another file takes its place: what is in use is in that too.
    std::fs::remove_file(&path).unwrap();
    let (second, recorded) = given(&journal).await.unwrap();
    assert_eq!(recorded, Recorded::Durable);
    assert_eq!(uses(&journal).await, [(second, db(), None), (first, db(), None)]);
    let begun = journal.kept();
    assert_eq!(begun.rows, 2);
    let token = journal.lease(&eni(), first).unwrap();
    let _ = journal.end(first, &token, End::Found).await;
    drop(journal);
    let journal = Journal::open(&path);
    let all = [(second, db(), None), (first, db(), Some(Ended::Found))];
    assert_eq!(uses(&journal).await, all);
    assert_eq!(journal.kept(), begun);
    // What was idle and is struck is no use; what was in use has left.
    let _ = journal.strike(&[second, ip(12)], |_| true).await;
    assert_eq!(uses(&journal).await[0], (second, db(), Some(Ended::Left)));
    journal.belongs_to("i-1");
    journal.belongs_to("i-2");
    assert_eq!(given(&journal).await, None);
    let nobody: Vec<(Ipv4Addr, Option<String>, Option<Ended>)> = Vec::new();
    assert_eq!(uses(&journal).await, nobody, "another instance's history is none of this one's");
}
