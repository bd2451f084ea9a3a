//! A network and a server that fail at the worst moment.

use std::time::Duration;

use ec2_ipam::domain::address::Event;
use ec2_ipam::domain::id::Kind;
use ec2_ipam::store::StoreError;
use mysql_async::prelude::Queryable;
use tokio::time::Instant;

use super::bed::{Bed, ip, on_servers, open, soon, subnet, told};
use super::blocks::{block, claim_blocks, of};
use crate::support::mariadb::{Db, server};
use crate::support::proxy::Proxy;

async fn behind_a_proxy() -> (Bed, Proxy) {
    let db = Db::new().await;
    let proxy = Proxy::to(server().port).await;
    let store = open(&db.url_at(proxy.port)).await;
    (Bed::on(store, db), proxy)
}

#[tokio::test]
async fn a_claim_is_a_look_and_a_round_trip_and_all_else_is_one() {
    let (bed, proxy) = behind_a_proxy().await;
    bed.free(16..=47).await;
    bed.free(100..=110).await;
    bed.warm(1, &[10, 11, 12], 10).await;
    let change = bed.row(10).await.on(told(None, Duration::from_secs(10))).unwrap();
    let connections = proxy.connections();
    let mut trips = Vec::new();
    let mut before = proxy.requests();
    let mut trip = || {
        let after = proxy.requests();
        trips.push(after - std::mem::replace(&mut before, after));
    };
    bed.claim_free(&bed.claim(1, Kind::On), 2, |_| ()).await;
    trip();
    assert_eq!(bed.apply(&[change]).await, [true]);
    trip();
    bed.store.rows_at(&[ip(10), ip(11), ip(12)], soon()).await.unwrap();
    trip();
    bed.store.whole_blocks(&subnet(), None, 64, soon()).await.unwrap();
    trip();
    let taken = claim_blocks(&bed.store, &[block(1), block(2)], 2, &bed.claim(2, Kind::On)).await;
    assert_eq!(of(&taken).len(), 2);
    trip();
    let given_back =
        taken.chunks(16).map(|rows| rows.iter().map(|row| row.on(told(None, Duration::ZERO)).unwrap()).collect());
    assert_eq!(bed.store.apply_together(&given_back.collect::<Vec<_>>(), soon()).await.unwrap(), [true; 2]);
    trip();
    assert_eq!((trips, proxy.connections()), (vec![2, 1, 1, 1, 1, 1], connections));
}

on_servers! {
    a_claim_that_the_server_is_still_at_when_it_is_given_up_takes_once
}

/// Seconds longer than an attempt may take, as when a Galera cluster loses a node.
async fn a_claim_that_the_server_is_still_at_when_it_is_given_up_takes_once(db: Db) {
    let bed = Bed::on(open(&db.url()).await, db);
    bed.free(10..=20).await;
    let super::bed::Raw::MySql(db) = &bed.raw else { panic!() };
    let slow = "CREATE TRIGGER slow BEFORE UPDATE ON allocation FOR EACH ROW SET NEW.holder=IF(SLEEP(8),'x',NULL)";
    db.exec(slow).await;
    let claimed = bed.claim_free(&bed.claim(1, Kind::On), 1, |_| ()).await;
    let rows = bed.store.rows_of_subnet(&subnet(), soon()).await.unwrap();
    let taken: Vec<_> = rows.iter().filter(|row| row.claim.is_some()).map(|row| row.ip).collect();
    assert_eq!(taken, claimed, "I1: what the caller was told is what was taken");
    assert_eq!(claimed.len(), 1);
}

#[tokio::test]
async fn a_cut_or_killed_connection_is_replaced() {
    let (bed, proxy) = behind_a_proxy().await;
    bed.free(10..=20).await;
    proxy.cut();
    assert_eq!(bed.claim_free(&bed.claim(1, Kind::On), 1, |_| ()).await.len(), 1);
    let super::bed::Raw::MySql(db) = &bed.raw else { panic!() };
    let mut root = db.session().await;
    let read = format!("SELECT id FROM information_schema.processlist WHERE db='{}' AND user='ipam'", db.name);
    for id in root.query::<u64, _>(read).await.unwrap() {
        root.query_drop(format!("KILL {id}")).await.unwrap();
    }
    assert_eq!(bed.claim_free(&bed.claim(2, Kind::On), 1, |_| ()).await.len(), 1);
}

#[tokio::test]
async fn a_stalled_server_ends_calls_in_time_and_does_not_eat_the_pool() {
    let (bed, proxy) = behind_a_proxy().await;
    bed.free(10..=20).await;
    proxy.stall(true);
    let until = Instant::now() + Duration::from_millis(300);
    let calls: Vec<_> = (0..8).map(|_| bed.store.row(ip(10), until)).collect();
    for answer in futures_util::future::join_all(calls).await {
        assert!(matches!(answer, Err(StoreError::Unreachable { .. })), "{answer:?}");
    }
    proxy.stall(false);
    let calls: Vec<_> = (0..8).map(|_| bed.store.row(ip(10), soon())).collect();
    for answer in futures_util::future::join_all(calls).await {
        assert!(answer.unwrap().is_some());
    }
}

#[tokio::test]
async fn a_connection_that_was_forgotten_costs_no_whole_attempt() {
    let (bed, proxy) = behind_a_proxy().await;
    bed.free(10..=20).await;
    futures_util::future::join_all((0..4).map(|_| bed.row(10))).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    proxy.forget();
    // Less than an attempt may take.
    let until = Instant::now() + Duration::from_secs(5);
    assert!(bed.store.row(ip(10), until).await.unwrap().is_some());
}

#[tokio::test]
async fn a_deadlock_is_tried_again() {
    let (bed, _proxy) = behind_a_proxy().await;
    bed.free(10..=11).await;
    let super::bed::Raw::MySql(db) = &bed.raw else { panic!() };
    let mut other = db.session().await;
    // Locks against our order and has changed more, so that the store's transaction is the victim.
    other.query_drop("START TRANSACTION").await.unwrap();
    other.query_drop("INSERT INTO task (name) SELECT seq FROM seq_1_to_1000").await.unwrap();
    other.query_drop("UPDATE allocation SET ts=ts-INTERVAL 1 SECOND WHERE ip='10.0.0.11'").await.unwrap();
    let mut changes = Vec::new();
    for last in [10, 11] {
        changes.push(bed.row(last).await.on(Event::Reserve { holder: None }).unwrap());
    }
    let ours = bed.apply(&changes);
    let theirs = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        other.query_drop("UPDATE allocation SET ts=ts-INTERVAL 1 SECOND WHERE ip='10.0.0.10'").await.unwrap();
        other.query_drop("COMMIT").await.unwrap();
    };
    let (found, ()) = tokio::join!(ours, theirs);
    assert_eq!(found, [true, true]);
}
