//! Many calls for few connections: whoever waits for a turn waits for this host's other calls, not for the server.

use std::time::Duration;

use ec2_ipam::store::{Store, StoreError};
use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use super::bed::{Bed, ip, open, soon};
use crate::support::host::eventually;
use crate::support::mariadb::{self, Db, server};
use crate::support::proxy::Proxy;

/// Whose time is up costs nothing: no connection that works, and no host that answers.
#[tokio::test]
async fn calls_that_wait_in_vain_take_neither_connections_nor_a_host_along() {
    // A machine that stands still for two seconds is a host that does not answer; it does not do so each time.
    let mut strayed = 0;
    for _ in 0..3 {
        strayed = strayed_of_a_crowd().await;
        if strayed == 0 {
            break;
        }
    }
    assert_eq!(strayed, 0, "a host that answers was left");
}

/// How many connections went to another host than the one that answers.
async fn strayed_of_a_crowd() -> usize {
    let db = Db::new().await;
    let ways = [Proxy::to(server().port).await, Proxy::to(server().port).await];
    let bed = Bed::on(open(&db.url_over(&[ways[0].port, ways[1].port])).await, db);
    bed.free(10..=12).await;
    // All connections are there.
    join_all((0..8).map(|_| bed.row(10))).await;
    // Slow for all these calls, yet a login is far from the two seconds in which a host has to let us in, on any machine.
    ways[0].slow(Duration::from_millis(40));
    let before = ways[0].connections();
    // More than can be served in time, and their time ends one after the other.
    let calls = (0..400).map(async |n| {
        let until = Instant::now() + Duration::from_millis(1000 + 10 * n);
        bed.store.row(ip(10), until).await
    });
    let answers = join_all(calls).await;
    let refused: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
    println!("{} of 400 answered, {} new connections", 400 - refused.len(), ways[0].connections() - before);
    assert!(!refused.is_empty(), "the network is too fast for this test");
    // Those that are under way just then.
    let lost = ways[0].connections() - before;
    assert!(lost * 4 <= refused.len(), "{lost} new connections for {} calls", refused.len());
    let own_calls =
        |error: &&StoreError| matches!(error, StoreError::Busy { .. }) && error.to_string().contains("this host");
    assert!(refused.iter().any(own_calls), "{refused:?}");
    ways[1].connections()
}

/// A server for one connection a host: bursts share what is there, and give it back.
#[tokio::test]
async fn a_fleet_shares_few_connections() {
    const HOSTS: u32 = 16;
    let (server, _turn) = mariadb::alone().await;
    let db = Db::on(&server.server).await;
    let proxy = Proxy::to(server.port).await;
    let url = db.url_of_plain_user().await.replace(&server.port.to_string(), &proxy.port.to_string());
    let bed = Bed::on(open(&url).await, db);
    bed.free(10..=12).await;
    let Bed { store, raw, .. } = bed;
    drop(store);
    server.server.set(&format!("SET GLOBAL max_connections={HOSTS}")).await;
    let before = proxy.connections();
    let answers = join_all((0..HOSTS).map(async |host| {
        // Some come while those before them have all connections. As the driver does it: whoever is not let in comes again.
        sleep(Duration::from_millis(20) * host).await;
        let until = soon();
        let store = loop {
            match Store::open(&url.parse().unwrap(), until).await {
                Err(StoreError::Unreachable { .. }) if Instant::now() < until => {
                    sleep(Duration::from_millis(200)).await
                }
                opened => break opened?,
            }
        };
        for _ in 0..5 {
            for answer in join_all((0..8).map(|_| store.row(ip(10), soon()))).await {
                answer?;
            }
        }
        // It goes on holding what it holds.
        Ok::<_, StoreError>(store)
    }))
    .await;
    server.server.set("SET GLOBAL max_connections=500").await;
    println!("{} connections for {HOSTS} hosts", proxy.connections() - before);
    let stores: Result<Vec<_>, _> = answers.into_iter().collect();
    let stores = stores.unwrap();
    // Beyond the first they are kept for seconds only.
    let super::bed::Raw::MySql(db) = &raw else { panic!() };
    let name = db.name.clone();
    eventually("one connection a host stays", async || server.server.visitors(&name).await <= stores.len() as u64)
        .await;
}
