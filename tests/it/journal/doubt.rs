//! A journal in doubt: what came from the table alone is neither given nor given up before Docker was read late enough.

use std::collections::BTreeSet;
use std::time::Duration;

use ec2_ipam::domain::address::State;

use super::{QUICK, follows, spoken, state, status, watched};
use crate::support::docker::Docker;
use crate::support::host::{ASSIGN, Fleet, Host, Kind, UNASSIGN, agree, eventually};

/// Long enough for a test to look at what is in doubt.
const SLOW: [(&str, &str); 3] =
    [("EC2_IPAM_SETTLE_AGE", "6s"), ("EC2_IPAM_RECONCILE_INTERVAL", "1s"), ("EC2_IPAM_COOLDOWN", "0s")];

/// A host that gave an address of which the table never heard, and that lost its journal. Docker does not show it yet.
async fn amnesiac(fleet: &Fleet) -> (Host, Docker, String, std::net::Ipv4Addr) {
    let (mut host, docker, pool) = watched(fleet, &SLOW, 3).await;
    host.proxy.as_ref().unwrap().away(true);
    let lives = host.lease(&pool).await;
    host.kill();
    host.proxy.as_ref().unwrap().away(false);
    std::fs::remove_dir_all(state(&host)).unwrap();
    docker.runs(&[]);
    host.start().await;
    (host, docker, pool, lives)
}

#[tokio::test]
async fn what_the_table_alone_has_idle_waits_for_a_late_look_at_docker() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (host, docker, pool, lives) = amnesiac(&fleet).await;
    // A fresh claim is not in doubt.
    let given = host.lease(&pool).await;
    assert!(host.log().contains("the journal is new, or older"), "{}", host.log());
    let told = status(&host).await;
    assert_eq!(told.journal.in_doubt, 3, "{told:?}");
    assert_eq!(fleet.vpc.count_ok(UNASSIGN), 0, "nothing is given up");
    assert!(host.assigned().contains(&lives) && given != lives);
    // Now Docker shows what it has.
    docker.runs(&[lives, given]);
    eventually("the doubt is over", async || status(&host).await.journal.in_doubt == 0).await;
    follows(&host, &[lives, given].into()).await;
    for _ in 0..2 {
        assert!(![lives, given].contains(&host.lease(&pool).await), "I1");
    }
    agree(&[&host]).await;
}

/// A list that was read before a container could be seen does not count.
#[tokio::test]
async fn an_early_look_is_no_witness() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (host, docker, pool, lives) = amnesiac(&fleet).await;
    let before = docker.with(|docker| docker.listings);
    eventually("it was read", async || docker.with(|docker| docker.listings) > before + 2).await;
    assert!(!host.mine(State::Ready).await.is_empty(), "the table has it idle");
    assert_ne!(host.lease(&pool).await, lives, "I1: read too early");
    assert_eq!(status(&host).await.journal.in_doubt, 3);
}

/// Docker is not configured: what is in doubt stays so, and fresh claims serve.
#[tokio::test]
async fn without_docker_what_is_in_doubt_stays_so() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (mut host, _docker, pool) = watched(&fleet, &[("EC2_IPAM_WARM_MAX", "1")], 1).await;
    host.set(&[("EC2_IPAM_DOCKER_SOCKET", "")]);
    host.proxy.as_ref().unwrap().away(true);
    let lives = host.lease(&pool).await;
    host.kill();
    host.proxy.as_ref().unwrap().away(false);
    std::fs::remove_dir_all(state(&host)).unwrap();
    host.start().await;
    let mut given = vec![lives];
    for _ in 0..3 {
        let ip = host.lease(&pool).await;
        assert!(!given.contains(&ip), "I1");
        given.push(ip);
        // Several settle ages.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(status(&host).await.journal.in_doubt, 1);
    // Who drains the host is told why it does not end.
    let (done, text) = host.ask(&["drain", "--wait", "1"]).await;
    assert!(
        !done && text.contains("in the way: 1 address is in doubt until Docker has shown its containers"),
        "{text}"
    );
    host.tell(&["drain", "--undo"]).await;
    assert!(host.assigned().contains(&lives), "I2: it is not taken off under its container");
    assert!(host.request(&pool, &lives.to_string()).await.is_err(), "I1: not by its name either");
}

/// Killed in the middle of its doubt, it is in doubt again.
#[tokio::test]
async fn a_doubt_outlives_the_driver() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (mut host, docker, pool, lives) = amnesiac(&fleet).await;
    docker.with(|docker| docker.fails = true);
    eventually("it speaks", async || host.log().contains("the journal is new, or older")).await;
    for _ in 0..3 {
        host.restart().await;
        assert_ne!(host.lease(&pool).await, lives, "I1");
    }
}

/// A plugin is replaced by a service, with a folder of its own, and back: whoever did not speak last knows too little.
#[tokio::test]
async fn of_two_folders_only_the_one_that_spoke_last_is_believed() {
    for is_told in [true, false] {
        let fleet = Fleet::new(Kind::Mariadb).await;
        let (mut host, docker, pool) = watched(&fleet, &QUICK, 3).await;
        let idle = host.mine(State::Ready).await;
        assert!(host.stop().await.success());
        let (service, plugin) = (host.dir.path().join("service"), state(&host));
        host.set(&[("EC2_IPAM_STATE_DIR", service.to_str().unwrap())]);
        host.start().await;
        // Given once the doubt is over.
        let first = *idle.first().unwrap();
        assert_eq!(host.request(&pool, &first.to_string()).await, Ok(first));
        host.proxy.as_ref().unwrap().away(!is_told);
        let mut leased = BTreeSet::from([first]);
        for _ in 0..2 {
            assert!(leased.insert(host.lease(&pool).await), "I1");
        }
        assert_eq!(leased, idle);
        if is_told {
            follows(&host, &leased).await;
        }
        host.kill();
        host.proxy.as_ref().unwrap().away(false);
        docker.with(|docker| docker.fails = true);
        host.set(&[("EC2_IPAM_STATE_DIR", plugin.to_str().unwrap())]);
        host.start().await;
        assert!(leased.insert(host.lease(&pool).await), "I1, the table was told: {is_told}");
    }
}

/// Whoever gives addresses while in doubt is known to have done so: the one that spoke before is not believed again.
#[tokio::test]
async fn a_folder_that_was_not_the_last_to_give_is_not_believed() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (mut host, docker, pool) = watched(&fleet, &QUICK, 0).await;
    // So that its journal has spoken.
    let kept = host.lease(&pool).await;
    docker.with(|docker| docker.fails = true);
    follows(&host, &[kept].into()).await;
    eventually("it has spoken", async || spoken(&host).await > 0).await;
    assert!(host.stop().await.success());
    let (service, plugin) = (host.dir.path().join("service"), state(&host));
    host.set(&[("EC2_IPAM_STATE_DIR", service.to_str().unwrap())]);
    host.start().await;
    eventually("it is in doubt", async || host.log().contains("the journal is new, or older")).await;
    // Its row is claimed, and the table hears no more of it.
    fleet.vpc.latency_of(ASSIGN, Duration::from_secs(1));
    let before = fleet.vpc.count(ASSIGN);
    let asked = async {
        eventually("EC2 is asked", async || fleet.vpc.count(ASSIGN) > before).await;
        host.proxy.as_ref().unwrap().away(true);
    };
    let (given, ()) = tokio::join!(host.request(&pool, ""), asked);
    let given = given.unwrap();
    host.kill();
    host.proxy.as_ref().unwrap().away(false);
    fleet.vpc.latency_of(ASSIGN, Duration::ZERO);
    host.set(&[("EC2_IPAM_STATE_DIR", plugin.to_str().unwrap())]);
    host.start().await;
    host.settled().await;
    for _ in 0..2 {
        assert!(![kept, given].contains(&host.lease(&pool).await), "I1");
    }
}
