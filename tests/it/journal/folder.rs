//! The state folder lost, of another time or another instance, and broken.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{QUICK, copy, file, follows, put_aside, spoken, state, status, warm, watched};
use crate::support::host::{Fleet, Host, Kind, agree, eventually};

/// With the table there a lost journal is rebuilt from it, and what containers have stays theirs.
#[tokio::test]
async fn a_folder_that_is_lost_is_rebuilt() {
    for what in ["lost", "empty", "truncated", "garbled", "not a database", "a folder", "a newer driver's"] {
        let fleet = Fleet::new(Kind::Mariadb).await;
        let (mut host, docker, pool) = watched(&fleet, &[], 3).await;
        let kept = host.lease(&pool).await;
        docker.runs(&[kept]);
        follows(&host, &[kept].into()).await;
        assert!(host.stop().await.success());
        spoil(&host, what);
        host.start().await;
        assert!(host.request(&pool, &kept.to_string()).await.is_err(), "I1, {what}");
        let mut given = BTreeSet::from([kept]);
        for _ in 0..3 {
            assert!(given.insert(host.lease(&pool).await), "I1, {what}");
        }
        let told = host.log().contains("cannot be used and is put aside as");
        assert_eq!((told, put_aside(&host).len()), (what != "lost", usize::from(what != "lost")), "{what}");
        docker.with(|docker| docker.in_use = given.clone());
        follows(&host, &given).await;
        eventually("nothing is in doubt", async || status(&host).await.journal.in_doubt == 0).await;
        agree(&[&host]).await;
    }
}

fn spoil(host: &Host, what: &str) {
    let file = file(host);
    let mut bytes = std::fs::read(&file).unwrap();
    std::fs::remove_dir_all(state(host)).unwrap();
    if what == "lost" {
        return;
    }
    std::fs::create_dir(state(host)).unwrap();
    match what {
        "truncated" => bytes.truncate(bytes.len() / 2),
        "garbled" => bytes.iter_mut().step_by(101).for_each(|byte| *byte ^= 0x08),
        "empty" => bytes.clear(),
        "not a database" => bytes = b"{}".to_vec(),
        "a newer driver's" => bytes[63] = 9,
        _ => return std::fs::create_dir(&file).unwrap(),
    }
    std::fs::write(&file, bytes).unwrap();
}

/// A host of its own loses journal and table at once: what Docker shows is its container's.
#[tokio::test]
async fn a_host_that_loses_both_files_gives_no_address_that_a_container_has() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let (mut host, docker, pool) = watched(&fleet, &[], 2).await;
    let lives = host.lease(&pool).await;
    docker.runs(&[lives]);
    follows(&host, &[lives].into()).await;
    host.kill();
    std::fs::remove_dir_all(state(&host)).unwrap();
    host.start().await;
    assert_eq!(host.pool().await, pool);
    let mut given = BTreeSet::from([lives]);
    for _ in 0..3 {
        assert!(given.insert(host.lease(&pool).await), "I1");
        docker.with(|docker| docker.in_use = given.clone());
    }
    follows(&host, &given).await;
    agree(&[&host]).await;
}

/// Without a journal and without the table nobody knows what containers have.
#[tokio::test]
async fn without_journal_and_table_nothing_is_granted_and_the_answer_says_why() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (mut host, pool, _) = warm(&fleet, &[("EC2_IPAM_REQUEST_TIMEOUT", "5s")], 3).await;
    let kept = host.lease(&pool).await;
    follows(&host, &[kept].into()).await;
    host.kill();
    std::fs::remove_dir_all(state(&host)).unwrap();
    host.proxy.as_ref().unwrap().away(true);
    host.start().await;
    let why = host.request(&pool, "").await.unwrap_err();
    assert!(why.contains("database"), "{why}");
    host.proxy.as_ref().unwrap().away(false);
    let mut given = None;
    eventually("it is back", async || {
        given = host.request(&pool, "").await.ok();
        given.is_some()
    })
    .await;
    assert_ne!(given, Some(kept), "I1");
    agree(&[&host]).await;
}

/// A copy of the folder from before is older than what the table was told since: nothing that it has idle is given before Docker
/// was read late enough.
#[tokio::test]
async fn a_copy_of_the_folder_from_before_is_not_believed() {
    for is_of_this_life in [true, false] {
        let fleet = Fleet::new(Kind::Mariadb).await;
        let (mut host, docker, pool) = watched(&fleet, &[], 1).await;
        let older = host.dir.path().join("older");
        let then = spoken(&host).await;
        copy(&state(&host), &older);
        if !is_of_this_life {
            host.restart().await;
        }
        // Docker does not show at once what it has just started.
        docker.with(|docker| docker.fails = true);
        let lives = host.lease(&pool).await;
        follows(&host, &[lives].into()).await;
        eventually("the table knows how far it is", async || spoken(&host).await > then + 1).await;
        host.kill();
        copy(&older, &state(&host));
        // It takes a while to be connected to.
        host.proxy.as_ref().unwrap().slow(Duration::from_millis(20));
        host.start().await;
        let given = host.lease(&pool).await;
        assert_ne!(given, lives, "I1, this life: {is_of_this_life}");
        docker.with(|docker| docker.fails = false);
        docker.runs(&[lives, given]);
        follows(&host, &[lives, given].into()).await;
        agree(&[&host]).await;
    }
}

/// A disk was cloned: what another instance's containers have is nobody's here.
#[tokio::test]
async fn another_instances_folder_is_put_aside() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (mut first, pool, _) = warm(&fleet, &QUICK, 3).await;
    let theirs = first.lease(&pool).await;
    follows(&first, &[theirs].into()).await;
    let cloned = first.dir.path().join("cloned");
    copy(&state(&first), &cloned);
    let mut second = fleet.host(2);
    second.set(&QUICK);
    copy(&cloned, &state(&second));
    second.start().await;
    let pool_there = second.pool().await;
    let given = second.lease(&pool_there).await;
    assert_ne!(given, theirs, "I1");
    assert!(second.log().contains(&format!("the journal is that of {}", first.instance)), "{}", second.log());
    assert_eq!(put_aside(&second).len(), 1);
    second.restart().await;
    assert_eq!(put_aside(&second).len(), 1, "the new one is its own");
    assert!(second.request(&pool_there, &given.to_string()).await.is_err(), "I1");
    first.restart().await;
    agree(&[&first, &second]).await;
    assert_ne!(first.lease(&pool).await, given, "I1");
}

#[tokio::test]
async fn nobody_else_may_read_it_and_it_tells_no_secret() {
    use std::os::unix::fs::PermissionsExt;
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (host, pool, _) = warm(&fleet, &[], 2).await;
    host.lease_for(&pool, "web").await;
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&state(&host)), 0o700);
    for entry in std::fs::read_dir(state(&host)).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        // What is heard of a host is looked through for secrets at its end.
        host.hear(&String::from_utf8_lossy(&std::fs::read(&path).unwrap()));
    }
}
