//! Several hosts in the URL: which one is used, and what happens when it is away. Two ways lead to one server here.

use std::time::Duration;

use ec2_ipam::store::{Store, StoreError};
use futures_util::future::join_all;
use tokio::time::Instant;

use super::bed::{Bed, ip, open, soon};
use super::calls::{Call, assert_sentence};
use crate::support::mariadb::{Db, server};
use crate::support::mysql;
use crate::support::proxy::Proxy;

async fn two_ways() -> (Db, [Proxy; 2]) {
    let db = Db::new().await;
    (db, [Proxy::to(server().port).await, Proxy::to(server().port).await])
}

fn url(db: &Db, ways: &[Proxy; 2]) -> String {
    db.url_over(&[ways[0].port, ways[1].port])
}

#[tokio::test]
async fn the_first_is_used_until_it_is_away_and_then_the_one_that_works() {
    let (db, ways) = two_ways().await;
    let url = url(&db, &ways);
    let bed = Bed::on(open(&url).await, db);
    bed.free(10..=12).await;
    assert_eq!(ways[1].connections(), 0);
    // A lost connection says nothing against its host.
    let before = ways[0].connections();
    ways[0].cut();
    bed.row(10).await;
    assert!(ways[0].connections() > before && ways[1].connections() == 0);
    ways[0].away(true);
    bed.row(10).await;
    assert_eq!(ways[1].connections(), 1);
    ways[0].away(false);
    let before = ways[0].connections();
    ways[1].cut();
    bed.row(10).await;
    assert_eq!(ways[0].connections(), before, "back to the second, which worked last");
    // The other way round, and from the start.
    ways[1].away(true);
    bed.row(10).await;
    open(&url).await;
    assert!(ways[0].connections() > before);
}

#[tokio::test]
async fn a_black_hole_does_not_eat_a_requests_deadline() {
    let (db, ways) = two_ways().await;
    ways[0].stall(true);
    // Less than an attempt may take.
    let until = Instant::now() + Duration::from_secs(5);
    let store = Store::open(&url(&db, &ways).parse().unwrap(), until).await.unwrap();
    let bed = Bed::on(store, db);
    // Swallowed by the one in use, in the middle of the day.
    let given = Call::Claim.given(&bed).await;
    ways[1].stall(true);
    ways[0].stall(false);
    given.make(&bed.store, soon()).await.unwrap();
    assert!(given.happened(&bed.store).await);
}

#[tokio::test]
async fn a_call_given_up_in_a_black_hole_lets_the_next_one_try_elsewhere() {
    let (db, ways) = two_ways().await;
    let bed = Bed::on(open(&url(&db, &ways)).await, db);
    bed.free(10..=10).await;
    ways[0].stall(true);
    ways[0].cut();
    let mut failed = 0;
    // Each is far too short for two hosts.
    while let Err(error) = bed.store.row(ip(10), Instant::now() + Duration::from_millis(400)).await {
        assert_sentence(&error);
        failed += 1;
        assert!(failed < 20, "it goes on trying the first host: {error}");
    }
    assert!(failed > 0);
}

#[tokio::test]
async fn each_call_moves_on_when_its_host_no_longer_answers() {
    join_all(Call::ALL.map(async |call| {
        let (db, ways) = two_ways().await;
        let bed = Bed::on(open(&url(&db, &ways)).await, db);
        let given = call.given(&bed).await;
        ways[0].stall(true);
        given.make(&bed.store, soon()).await.unwrap();
        assert!(ways[1].connections() > 0, "{call:?} stays with a host that does not answer");
        assert!(given.happened(&bed.store).await, "{call:?}");
    }))
    .await;
}

#[tokio::test]
async fn when_all_are_away_one_sentence_names_each_and_no_secret() {
    let (db, ways) = two_ways().await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = db.url_over(&[ways[0].port, free]);
    ways[0].away(true);
    let error = Store::open(&url.parse().unwrap(), soon()).await.unwrap_err();
    assert_sentence(&error);
    let StoreError::Unreachable { at, why } = error else { panic!("{error}") };
    assert_eq!(at, format!("127.0.0.1:{},127.0.0.1:{free}/{}", ways[0].port, db.name));
    let first = format!("127.0.0.1:{}: ", ways[0].port);
    assert!(why.starts_with(&first) && why.ends_with(&format!("; 127.0.0.1:{free}: Connection refused")), "{why}");
    // At a deadline too, on the way to one that does not even answer.
    ways[1].stall(true);
    let url = db.url_over(&[free, ways[1].port]);
    let until = Instant::now() + Duration::from_secs(1);
    let error = Store::open(&url.parse().unwrap(), until).await.unwrap_err();
    assert_sentence(&error);
    let StoreError::Unreachable { why, .. } = error else { panic!("{error}") };
    let silent = format!("127.0.0.1:{}: no answer in time", ways[1].port);
    assert_eq!(why, format!("127.0.0.1:{free}: Connection refused; {silent}"));
}

/// `super_read_only` binds every user, and MySQL says so in a living connection too.
#[tokio::test]
async fn a_mysql_that_has_become_a_replica_says_so_until_it_is_one_to_write_to_again() {
    let Some((db, _turn)) = mysql::alone().await else { return };
    let way = Proxy::to(db.server.port).await;
    let url = db.url_at(way.port);
    let store = open(&url).await;
    store.describe(soon()).await.unwrap();
    db.server.set("SET GLOBAL super_read_only=ON").await;
    let hold = async |until| store.hold_task("scan", "me", Duration::from_secs(600), until).await;
    let opened = Store::open(&url.parse().unwrap(), soon()).await.map(drop);
    // The time ends in the middle of an attempt as often as between two.
    way.slow(Duration::from_millis(30));
    let held = join_all((0..4).map(|n| hold(Instant::now() + Duration::from_millis(2000 + 50 * n)))).await;
    way.slow(Duration::ZERO);
    let holding = hold(soon());
    let back = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        db.server.set("SET GLOBAL read_only=OFF").await;
    };
    // Others need this server: nothing is asserted before it is as it was.
    let held_at_last = tokio::join!(holding, back).0;
    for error in held.into_iter().map(|held| held.map(drop)).chain([opened]).map(Result::unwrap_err) {
        assert_sentence(&error);
        assert!(matches!(error, StoreError::ReadOnly { .. }), "{error}");
    }
    assert_eq!(held_at_last, Ok(true), "a failover that ends in time costs no call");
}
