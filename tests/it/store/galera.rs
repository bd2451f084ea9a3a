//! A Galera cluster whose nodes are harmed while all of them are written to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use ec2_ipam::domain::address::{Event, State};
use ec2_ipam::domain::id::Kind;
use ec2_ipam::store::{Database, Store, StoreError};
use futures_util::future::join_all;
use mysql_async::prelude::Queryable;
use tokio::time::Instant;

use super::bed::{Bed, ip, open, soon, subnet, token, told};
use super::calls::{Call, assert_sentence};
use super::contention::{Held, claim_one, free, move_on};
use crate::support::galera::{self, Galera};
use crate::support::host::eventually;

const HOSTS: u8 = 9;

/// One host's containers, coming and going: claimed, idle, leased, and sometimes released and given back.
async fn live(store: Store, n: u8, held: Arc<Held>, rounds: Arc<[AtomicUsize]>, stop: Arc<AtomicBool>) {
    let mut leases = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let claim = token(Kind::On);
        let ip = claim_one(&store, n, &claim).await.expect("there are more addresses than all hosts hold");
        held.take(ip, &claim);
        let lease = token(Kind::Lease);
        for lease in [None, Some(lease.clone())] {
            move_on(&store, ip, told(lease, Duration::ZERO)).await;
        }
        held.let_go(ip);
        held.take(ip, &lease);
        leases.push(ip);
        if leases.len() > 3 {
            let ip = leases.remove(0);
            for event in [told(None, Duration::ZERO), Event::GiveUp { claim: token(Kind::Off) }] {
                move_on(&store, ip, event).await;
            }
            held.let_go(ip);
            free(&store, ip).await;
        }
        rounds[usize::from(n)].fetch_add(1, Ordering::Relaxed);
    }
}

/// On the nodes that live on: one that begins anew counts anew.
async fn collisions(cluster: &Galera) -> u64 {
    let mut sum = 0;
    for node in [&cluster.nodes[0], &cluster.nodes[2]] {
        let mut root = node.root(None).await;
        let read = "SHOW STATUS WHERE variable_name IN ('wsrep_local_cert_failures','wsrep_local_bf_aborts')";
        sum += root.query::<(String, u64), _>(read).await.unwrap().iter().map(|(_, count)| count).sum::<u64>();
    }
    sum
}

#[tokio::test]
async fn a_node_killed_under_claims_and_changes_on_all_nodes_loses_and_doubles_nothing() {
    let Some((cluster, _turn)) = galera::alone().await else { return };
    let db = cluster.db(0).await;
    let url = |host: usize| db.url_over(&cluster.ports_from(host));
    let before = collisions(cluster).await;
    let table = open(&url(0)).await;
    let rows: Vec<_> = (1..=60).map(|n| super::bed::new_row(ip(n), ec2_ipam::domain::address::Status::Free)).collect();
    table.insert_missing(&subnet(), &rows, soon()).await.unwrap();
    let (held, stop) = (Arc::new(Held::default()), Arc::new(AtomicBool::new(false)));
    let rounds: Arc<[AtomicUsize]> = (0..HOSTS).map(|_| AtomicUsize::new(0)).collect();
    let mut hosts = Vec::new();
    for host in 0..HOSTS {
        let store = open(&url(host.into())).await;
        let host = live(store, host, Arc::clone(&held), Arc::clone(&rounds), Arc::clone(&stop));
        hosts.push(tokio::spawn(host));
    }
    let all_go_on = async |when: &str| {
        let seen: Vec<_> = rounds.iter().map(|rounds| rounds.load(Ordering::Relaxed)).collect();
        let further = || rounds.iter().zip(&seen).all(|(now, seen)| now.load(Ordering::Relaxed) > seen + 5);
        let ended = || hosts.iter().any(tokio::task::JoinHandle::is_finished);
        eventually(&format!("every host goes on {when}"), async || further() || ended()).await;
    };
    all_go_on("with three nodes").await;
    assert!(cluster.nodes[1].visitors(&db.name).await > 0);
    cluster.kill(1);
    all_go_on("with two nodes").await;
    cluster.start(1);
    all_go_on("while the third comes back").await;
    cluster.whole(1).await;
    all_go_on("with three nodes again").await;
    stop.store(true, Ordering::Relaxed);
    for host in hosts {
        host.await.unwrap();
    }
    // What callers were told is what the table says, on every node.
    for host in 0..3 {
        let store = open(&url(host)).await;
        assert!(cluster.nodes[host].visitors(&db.name).await > 0, "node {host} is used by those who name it first");
        let rows = store.rows_taken(&subnet(), soon()).await.unwrap();
        assert!(rows.iter().all(|row| row.state() == State::Lease), "a claim that nobody was told of: {rows:?}");
        let leases = rows.into_iter().map(|row| (row.ip, row.claim.unwrap())).collect();
        assert_eq!(held.all(), leases, "I1: the leases of node {host} are those that callers were told of");
    }
    let collisions = collisions(cluster).await - before;
    println!("{collisions} collisions in {:?} rounds", rounds);
    assert!(collisions > 0, "nothing collided, so nothing was shown");
}

#[tokio::test]
async fn a_node_cut_off_from_its_cluster_is_left() {
    let Some((cluster, _turn)) = galera::alone().await else { return };
    let db = cluster.db(0).await;
    let (port, url) = (cluster.nodes[2].port, db.url_over(&cluster.ports_from(2)));
    let bed = Bed::on(open(&url).await, db);
    let given = join_all(Call::ALL.map(|call| call.given(&bed))).await;
    let super::bed::Raw::MySql(db) = &bed.raw else { panic!() };
    cluster.nodes[2].set("SET GLOBAL wsrep_provider_options='gmcast.isolate=1'").await;
    for (call, made) in Call::ALL.iter().zip(join_all(given.iter().map(|g| g.make(&bed.store, soon()))).await) {
        assert_eq!(made, Ok(()), "{call:?} on a node that is cut off, though there are two more");
    }
    let elsewhere = open(&db.url()).await;
    for given in &given {
        assert!(given.happened(&elsewhere).await);
    }
    let url: Database = db.url_at(port).parse().unwrap();
    let error = Store::open(&url, soon()).await.unwrap_err();
    assert_sentence(&error);
    assert!(error.to_string().contains("cut off from its Galera cluster"), "{error}");
    // Nodes look for one another ever more rarely; one that comes anew is let in at once.
    cluster.kill(2);
    cluster.start(2);
    cluster.whole(2).await;
    open(&db.url_at(port)).await;
}

/// Else a lost answer is not found on the next node, and a guard fails that should not.
#[tokio::test]
async fn what_one_host_has_committed_the_next_host_sees_on_another_node() {
    let Some((cluster, _turn)) = galera::shared().await else { return };
    let db = cluster.db(0).await;
    let (here, there) =
        (open(&db.url_over(&cluster.ports_from(0))).await, open(&db.url_over(&cluster.ports_from(1))).await);
    let row = super::bed::new_row(ip(10), ec2_ipam::domain::address::Status::Free);
    here.insert_missing(&subnet(), &[row], soon()).await.unwrap();
    for round in 0..100 {
        let (first, second) = if round % 2 == 0 { (&here, &there) } else { (&there, &here) };
        move_on(first, ip(10), Event::Reserve { holder: None }).await;
        move_on(second, ip(10), Event::Unreserve).await;
    }
}

fn assert_read_only(error: &StoreError) {
    assert_sentence(error);
    assert!(matches!(error, StoreError::ReadOnly { .. }) && error.to_string().contains("is read-only: "), "{error}");
}

/// A user without the right to write on a read-only server is told when writing, one with it never.
#[tokio::test]
async fn a_host_that_becomes_read_only_under_living_connections_is_left_whoever_the_user_is() {
    let Some((cluster, _turn)) = galera::alone().await else { return };
    let db = cluster.db(2).await;
    let [first, second, _] = cluster.ports();
    db.exec(&format!(
        "CREATE USER {0} IDENTIFIED BY 'p'; GRANT SELECT,INSERT,UPDATE,CREATE,ALTER,INDEX ON {0}.* TO {0}",
        db.name
    ))
    .await;
    let powerful = open(&db.url_over(&[first, second])).await;
    let plain = format!("mysql://{0}:p@127.0.0.1:{first},127.0.0.1:{second}/{0}", db.name);
    let bed = Bed::on(open(&plain).await, db);
    let given = join_all(Call::ALL.map(|call| call.given(&bed))).await;
    let super::bed::Raw::MySql(db) = &bed.raw else { panic!() };
    assert_eq!(cluster.nodes[1].visitors(&db.name).await, 0);
    cluster.nodes[0].set("SET GLOBAL read_only=1").await;
    for (call, made) in Call::ALL.iter().zip(join_all(given.iter().map(|g| g.make(&bed.store, soon()))).await) {
        assert_eq!(made, Ok(()), "{call:?} on a host that has become read-only, though there is another");
    }
    for given in &given {
        assert!(given.happened(&bed.store).await);
    }
    assert!(cluster.nodes[1].visitors(&db.name).await > 0);
    eventually("reads leave it too, and a powerful user's calls", async || {
        powerful.row(ip(10), soon()).await.unwrap();
        cluster.nodes[0].visitors(&db.name).await == 0
    })
    .await;
    // Who comes now does not stay, and is told when there is no other.
    let only: Database = db.url_at(first).parse().unwrap();
    assert_read_only(&Store::open(&only, soon()).await.unwrap_err());
    open(&db.url_over(&[first, second])).await;
    cluster.nodes[1].set("SET GLOBAL read_only=1").await;
    let both: Database = db.url_over(&[first, second]).parse().unwrap();
    assert_read_only(&Store::open(&both, soon()).await.unwrap_err());
    let until = Instant::now() + Duration::from_secs(2);
    assert_read_only(&bed.store.hold_task("late", "me", Duration::from_secs(60), until).await.unwrap_err());
    for node in &cluster.nodes {
        node.set("SET GLOBAL read_only=0").await;
    }
    assert_eq!(bed.store.hold_task("late", "me", Duration::from_secs(60), soon()).await, Ok(true));
}
