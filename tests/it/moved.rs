//! An interface that goes to another instance while this host's driver runs, and comes back: whose it is decides, and
//! neither its link, which stays here, nor what this life knows of it.

use std::time::Duration;

use ec2_ipam::domain::address::State;
use ec2_ipam::driver::status::Status;

use crate::support::docker::Docker;
use crate::support::host::{Fleet, Host, Kind, Row, SUBNET, UNASSIGN, agree, eni, eventually, on_both};

on_both! {
    an_interface_that_moves_is_given_up_and_taken_up_anew
    an_interface_that_moves_is_noticed_before_the_next_look
    a_release_changes_nothing_of_an_interface_that_another_host_has
    an_interface_that_metadata_omits_for_a_while_has_not_moved
    an_interface_that_metadata_still_lists_is_not_ours_all_the_same
}

const QUICK: [(&str, &str); 5] = [
    ("EC2_IPAM_SETTLE_AGE", "1s"),
    ("EC2_IPAM_RECONCILE_INTERVAL", "1s"),
    ("EC2_IPAM_SCAN_INTERVAL", "1s"),
    ("EC2_IPAM_COOLDOWN", "0s"),
    ("EC2_IPAM_WARM_MAX", "1"),
];
/// Nothing is looked at but on request.
const CALM: [(&str, &str); 3] =
    [("EC2_IPAM_RECONCILE_INTERVAL", "1h"), ("EC2_IPAM_SCAN_INTERVAL", "1h"), ("EC2_IPAM_SETTLE_AGE", "60s")];

async fn bed(fleet: &Fleet, n: u8, settings: &[(&str, &str)]) -> (Host, Docker) {
    let mut host = fleet.host(n);
    let docker = host.docker();
    host.set(&QUICK);
    host.set(settings);
    host.start().await;
    (host, docker)
}

async fn status(host: &Host) -> Status {
    host.ask_json(&["status"]).await.1
}

async fn names_it(host: &Host, moved: &str) -> bool {
    let told = status(host).await;
    told.enis.iter().all(|eni| eni.eni != moved) && told.problems.iter().any(|problem| problem.contains(moved))
}

async fn taken(host: &Host) -> Vec<Row> {
    host.rows().await.into_iter().filter(|row| row.iface.as_ref() == Some(&host.eni)).collect()
}

/// A pool on an interface that is not the host's first one.
async fn pool_on(host: &Host, eni: &str) -> String {
    host.pool_with("", serde_json::json!({ "eni-id": eni })).await.unwrap()
}

/// The scan of several rounds, of the old host and of the new one.
async fn rounds(dockers: &[&Docker]) {
    for docker in dockers {
        for _ in 0..4 {
            let before = docker.with(|docker| docker.listings);
            eventually("a round", async || docker.with(|docker| docker.listings) > before + 1).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

/// What an interface had that left is nobody's of this host any more.
#[tokio::test]
async fn an_address_of_an_interface_that_left_may_be_had_by_another_one_of_the_host() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (old, docker) = bed(&fleet, 1, &[]).await;
    let (pool, moved) = (old.pool().await, old.eni.clone());
    let ip = old.lease(&pool).await;
    docker.runs(&[ip]);
    old.rows().await;
    let (new, _) = bed(&fleet, 2, &[]).await;
    new.take_over(&old, 2, "eth2");
    docker.runs(&[]);
    eventually("it is named", async || names_it(&old, &moved).await).await;
    // Over there it was given back.
    fleet.vpc.remove_address(&moved, ip);
    let free = format!("UPDATE allocation SET status='free',iface=NULL,claim=NULL,claimed=NULL WHERE ip='{ip}'");
    old.sql(&free, "").await;
    let other = "eni-0aaaaaaaaaaaaaa77";
    old.attach(other, 3, 77, "eth3");
    let theirs = pool_on(&old, other).await;
    assert_eq!(old.request(&theirs, &ip.to_string()).await, Ok(ip));
}

async fn an_interface_that_moves_is_given_up_and_taken_up_anew(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (old, old_docker) = bed(&fleet, 1, &[]).await;
    let pool = old.pool().await;
    let (stopped, idle) = (old.lease(&pool).await, old.lease(&pool).await);
    old_docker.runs(&[stopped, idle]);
    let moved = old.eni.clone();
    let (new, new_docker) = bed(&fleet, 2, &[]).await;
    new.take_over(&old, 2, "eth2");
    // Its containers went with it.
    old_docker.runs(&[]);
    eventually("it is named", async || names_it(&old, &moved).await).await;
    let (done, text) = old.ask(&["doctor"]).await;
    assert!(!done && text.contains(&moved) && text.contains(&new.instance), "{text}");

    // The new host has it now.
    new_docker.with(|docker| docker.parent = "eth2".to_owned());
    let theirs = pool_on(&new, &moved).await;
    let mut leased = Vec::new();
    for _ in 0..4 {
        leased.push(new.lease(&theirs).await);
        new_docker.runs(&leased);
    }
    let before = fleet.vpc.addresses(&moved);
    let unassigned = fleet.vpc.calls().iter().filter(|call| call.action == UNASSIGN).count();
    rounds(&[&old_docker, &new_docker]).await;
    assert!(fleet.vpc.addresses(&moved).is_superset(&leased.iter().copied().collect()), "they stay where they are");
    for ip in &leased {
        assert_eq!(new.row(*ip).await.state, State::Lease, "I1: a living container keeps its address");
        old.release(&pool, *ip).await;
        assert_eq!(new.row(*ip).await.state, State::Lease, "I1: another host's lease is nobody's to release");
    }
    let refused = old.request(&pool, "").await.unwrap_err();
    assert!(refused.contains(&moved) && refused.contains("attach"), "{refused}");
    let by_old = fleet.vpc.calls().iter().filter(|call| call.action == UNASSIGN).count() - unassigned;
    assert!(by_old <= before.len(), "{by_old}");

    // It comes back.
    new_docker.runs(&[]);
    fleet.vpc.move_eni(&moved, &old.instance, 1);
    eventually("the new host names it", async || names_it(&new, &moved).await).await;
    let back = old.lease(&pool).await;
    assert!(fleet.vpc.addresses(&moved).contains(&back));
    old_docker.runs(&[back]);
    eventually("no problem is left", async || status(&old).await.problems.is_empty()).await;
    eventually("one lease is left", async || old.mine(State::Lease).await == [back].into()).await;
    agree(&[&old]).await;
}

async fn an_interface_that_moves_is_noticed_before_the_next_look(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (old, docker) = bed(&fleet, 1, &CALM).await;
    let pool = old.pool().await;
    let (idle, named) = (old.lease(&pool).await, old.lease(&pool).await);
    docker.runs(&[named]);
    old.release(&pool, idle).await;
    let new = fleet.host(2);
    // Longer than what was told of it is kept.
    tokio::time::sleep(Duration::from_secs(2)).await;
    new.take_over(&old, 2, "eth2");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let rows = taken(&old).await;
    let (done, text) = old.ask(&["recycle", SUBNET]).await;
    assert!(!done || text.contains('0'), "{text}");
    for address in ["", &idle.to_string(), "10.77.0.200"] {
        let refused = old.request(&pool, address).await.unwrap_err();
        assert!(refused.contains(&old.eni), "{refused}");
    }
    assert_eq!(taken(&old).await, rows, "its rows belong to whoever has it");
    assert_eq!(fleet.vpc.count(UNASSIGN), 0);
    assert_eq!(fleet.vpc.addresses(&old.eni), [idle, named].into());
}

async fn a_release_changes_nothing_of_an_interface_that_another_host_has(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (old, docker) = bed(&fleet, 1, &CALM).await;
    let pool = old.pool().await;
    let lives = old.lease(&pool).await;
    docker.runs(&[lives]);
    let new = fleet.host(2);
    new.take_over(&old, 2, "eth2");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let rows = taken(&old).await;
    old.release(&pool, lives).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(taken(&old).await, rows);
}

async fn an_interface_that_metadata_omits_for_a_while_has_not_moved(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (old, docker) = bed(&fleet, 1, &[]).await;
    let pool = old.pool().await;
    let (gone, lives) = (old.lease(&pool).await, old.lease(&pool).await);
    docker.runs(&[lives, gone]);
    rounds(&[&docker]).await;
    fleet.vpc.imds_omits(&old.eni, true);
    docker.runs(&[lives]);
    rounds(&[&docker]).await;
    assert_eq!(old.mine(State::Lease).await, [lives, gone].into(), "nothing is released while one source doubts");
    let granted = old.lease(&pool).await;
    docker.runs(&[lives, granted]);
    assert_eq!(fleet.vpc.count(UNASSIGN), 0);
    let told = status(&old).await;
    assert!(told.problems.is_empty() && told.enis.iter().any(|eni| eni.eni == old.eni), "{told:?}");
    fleet.vpc.imds_omits(&old.eni, false);
    eventually("what ended is released", async || old.mine(State::Lease).await == [lives, granted].into()).await;
    agree(&[&old]).await;
}

async fn an_interface_that_metadata_still_lists_is_not_ours_all_the_same(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (old, docker) = bed(&fleet, 1, &[]).await;
    let pool = old.pool().await;
    let ips = [old.lease(&pool).await, old.lease(&pool).await, old.lease(&pool).await];
    docker.runs(&ips);
    rounds(&[&docker]).await;
    // As of an interface that was deleted, which is seen to be listed for hours.
    fleet.vpc.imds_lag(Duration::ZERO, Duration::from_secs(600));
    let new = fleet.host(2);
    new.take_over(&old, 2, "eth2");
    docker.runs(&[]);
    eventually("it is named", async || names_it(&old, &eni(1)).await).await;
    rounds(&[&docker]).await;
    assert_eq!(old.mine(State::Lease).await, ips.into());
    assert_eq!(fleet.vpc.count(UNASSIGN), 0);
    let refused = old.request(&pool, "").await.unwrap_err();
    assert!(refused.contains(&old.eni) && refused.contains(&new.instance), "{refused}");
}
