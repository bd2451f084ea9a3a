//! A journal that takes no writes: the table is the witness until there is a new one, and the old one is never believed again.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use ec2_ipam::domain::address::State;

use super::{file, follows, put_aside, state, status, warm, watched};
use crate::support::host::{Fleet, Host, Kind, agree, eventually};

/// The driver's state folder as a disk of its own: so large, with what was in the folder before on it. A new life of the driver
/// begins with the folder as it was.
fn small_disk(host: &mut Host, then: &str) {
    // Its log would make room as it is folded in.
    rusqlite::Connection::open(file(host)).unwrap().execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    let folder = state(host).display().to_string();
    let script = format!(
        "set -e; cp -a {folder} {folder}.was; mount -t tmpfs -o size=512k,mode=700 none {folder}; cp -a {folder}.was/. {folder}; \
         rm -r {folder}.was; {then} exec \"$@\""
    );
    host.within = ["sh", "-c", &script, "sh"].map(str::to_owned).into();
}

/// The folder as the driver sees it.
fn seen(host: &Host) -> PathBuf {
    PathBuf::from(format!("/proc/{}/root{}", host.pid(), state(host).display()))
}

/// Nothing more fits on the disk, or it does again.
fn fills(host: &Host, is_full: bool) {
    let filler = seen(host).join("filler");
    if is_full {
        let _ = Command::new("dd")
            .args(["if=/dev/zero", "bs=1k"])
            .arg(format!("of={}", filler.display()))
            .output()
            .unwrap();
    } else {
        std::fs::remove_file(filler).unwrap();
    }
}

async fn error(host: &Host) -> Option<String> {
    status(host).await.journal.error
}

/// A disk that fills while the driver runs, and is emptied again.
#[tokio::test]
async fn a_disk_that_fills_and_empties_while_it_runs() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (mut host, pool, idle) = warm(&fleet, &[("EC2_IPAM_REQUEST_TIMEOUT", "5s")], 4).await;
    let before = host.lease(&pool).await;
    follows(&host, &[before].into()).await;
    assert!(host.stop().await.success());
    small_disk(&mut host, "");
    host.start().await;
    fills(&host, true);
    // Each is with the table before it is answered. What fits before the disk is full is in the journal.
    let mut leased = BTreeSet::from([before]);
    for round in 0.. {
        let lease = host.lease(&pool).await;
        assert!(!leased.contains(&lease), "I1");
        if error(&host).await.is_some() {
            let rows = host.rows_now().await;
            let row = rows.iter().find(|row| row.ip == lease).unwrap();
            assert!(
                row.claim.as_ref().is_some_and(|claim| claim.ends_with("lease")),
                "answered before it was posted: {row:?}"
            );
            leased.insert(lease);
            break;
        }
        assert!(round < 10_000, "it takes writes for ever");
        host.release(&pool, lease).await;
    }
    let why = error(&host).await.unwrap();
    assert!(why.contains("full"), "{why}");
    assert!(host.log().contains("takes no writes and is put aside as "), "{}", host.log());
    let aside =
        || std::fs::read_dir(seen(&host)).unwrap().any(|e| e.unwrap().path().display().to_string().contains("aside"));
    assert!(aside() && !seen(&host).join("journal.db").exists(), "it is not there to be believed");
    let (_, text) = host.ask(&["status"]).await;
    assert!(
        text.contains("takes no writes, so the database is waited for: ") && text.contains("put aside as "),
        "{text}"
    );
    let (done, text) = host.ask(&["doctor"]).await;
    assert!(!done && text.contains("FAIL  journal: "), "{text}");

    // With the table away as well nobody is told anything that could be forgotten.
    host.proxy.as_ref().unwrap().away(true);
    let why = host.request(&pool, "").await.unwrap_err();
    assert!(why.contains("database"), "{why}");
    host.proxy.as_ref().unwrap().away(false);
    fills(&host, false);
    eventually("a new journal", async || error(&host).await.is_none()).await;
    host.proxy.as_ref().unwrap().away(true);
    let last = host.lease(&pool).await;
    assert!(!leased.contains(&last) && idle.contains(&last), "I1");
    leased.insert(last);
    host.proxy.as_ref().unwrap().away(false);
    eventually("only what was answered is leased", async || host.mine(State::Lease).await == leased).await;
    agree(&[&host]).await;
}

/// The disk is full, or may not be written to, as the driver begins.
#[tokio::test]
async fn a_folder_that_takes_no_writes_at_the_start() {
    for (what, then) in [
        ("full", "dd if=/dev/zero of=FOLDER/filler bs=1k 2>/dev/null || true;"),
        ("read-only", "mount -o remount,ro FOLDER;"),
    ] {
        let fleet = Fleet::new(Kind::Mariadb).await;
        let (mut host, pool, idle) = warm(&fleet, &[("EC2_IPAM_REQUEST_TIMEOUT", "5s")], 3).await;
        let kept = host.lease(&pool).await;
        follows(&host, &[kept].into()).await;
        assert!(host.stop().await.success());
        let then = then.replace("FOLDER", &state(&host).display().to_string());
        small_disk(&mut host, &then);
        host.start().await;
        assert!(error(&host).await.is_some(), "{what}: {}", host.log());
        let given = host.lease(&pool).await;
        assert_ne!(given, kept, "I1, {what}");
        let rows = host.rows_now().await;
        let row = rows.iter().find(|row| row.ip == given).unwrap();
        assert!(row.claim.as_ref().is_some_and(|claim| claim.ends_with("lease")), "{what}: {row:?}");
        host.proxy.as_ref().unwrap().away(true);
        assert!(host.request(&pool, "").await.is_err(), "{what}");
        host.proxy.as_ref().unwrap().away(false);

        // What stayed where it was is older than what was answered since, and writable again.
        host.kill();
        host.within.clear();
        host.start().await;
        let mut leased = BTreeSet::from([kept, given]);
        assert!(leased.insert(host.lease(&pool).await), "I1, {what}: {idle:?}");
        follows(&host, &leased).await;
        agree(&[&host]).await;
    }
}

/// A file that cannot even be renamed, and takes writes again in the next life: by then the table knows that it is not to be
/// believed.
#[tokio::test]
async fn what_stayed_where_it_was_is_not_believed_later() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (mut host, docker, pool) = watched(&fleet, &[], 1).await;
    let lives = *host.mine(State::Ready).await.first().unwrap();
    assert!(host.stop().await.success());
    let then = format!("mount -o remount,ro {};", state(&host).display());
    small_disk(&mut host, &then);
    host.start().await;
    // Given once the doubt is over.
    assert_eq!(host.request(&pool, &lives.to_string()).await, Ok(lives));
    assert_eq!(host.row(lives).await.state, State::Lease);
    docker.with(|docker| docker.fails = true);
    host.kill();
    host.within.clear();
    host.start().await;
    assert_ne!(host.lease(&pool).await, lives, "I1");
    agree(&[&host]).await;
}

/// Another process has the file for some seconds: it is waited for, and nothing is lost.
#[tokio::test]
async fn a_file_that_another_process_has_is_waited_for() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (mut host, pool, _) = warm(&fleet, &[], 3).await;
    host.proxy.as_ref().unwrap().away(true);
    let kept = host.lease(&pool).await;
    host.kill();
    let theirs = rusqlite::Connection::open(file(&host)).unwrap();
    theirs.execute_batch("BEGIN; SELECT count(*) FROM holding").unwrap();
    host.launch();
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    drop(theirs);
    let mut given = None;
    eventually("it is answered", async || {
        given = match host.try_connect().await {
            Some(_) => host.request(&pool, "").await.ok(),
            None => None,
        };
        given.is_some()
    })
    .await;
    assert_ne!(given, Some(kept), "I1: the table never heard of it");
    assert!(put_aside(&host).is_empty() && error(&host).await.is_none());
}

/// The folder is moved away under a running driver.
#[tokio::test]
async fn what_is_answered_is_found_in_the_folder_that_is_there() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (mut host, pool, idle) = warm(&fleet, &[], 3).await;
    std::fs::rename(state(&host), host.dir.path().join("moved")).unwrap();
    host.proxy.as_ref().unwrap().away(true);
    let kept = host.lease(&pool).await;
    host.restart().await;
    host.proxy.as_ref().unwrap().away(false);
    let given = host.lease(&pool).await;
    assert!(given != kept && idle.contains(&given), "I1");
    follows(&host, &[kept, given].into()).await;
    agree(&[&host]).await;
}
