//! The database's clock is set: under an open store, and between two.

use std::time::Duration;

use ec2_ipam::domain::address::Event;
use ec2_ipam::domain::id::Kind;

use super::bed::{Bed, eni, ip, on_all, open, soon};
use crate::support::clock::Clock;
use crate::support::mariadb::{Db, with_clock};

const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);

mod everywhere {
    use super::*;
    on_all! {
        what_a_clock_wrote_that_was_set_back_since_is_just_now_once_and_then_ages
        what_a_clock_wrote_before_it_was_set_at_all_is_just_now_too
    }
}

/// As if the clock had been set by so much since.
async fn shift(bed: &Bed, mysql: &str, sqlite: i64) {
    bed.exec(
        &format!("UPDATE allocation SET ts=ts+INTERVAL {mysql},claimed=claimed+INTERVAL {mysql}"),
        &format!("UPDATE allocation SET ts=ts+{sqlite},claimed=claimed+{sqlite}000"),
    )
    .await;
}

async fn what_a_clock_wrote_that_was_set_back_since_is_just_now_once_and_then_ages(bed: Bed) {
    bed.free(20..=22).await;
    for last in 20..=22 {
        bed.age(ip(last), 10).await;
    }
    bed.warm(1, &[10, 11], 10).await;
    bed.lease(11, bed.claim(7, Kind::Lease)).await;
    shift(&bed, "6 HOUR", 6 * 3600).await;
    let cooled =
        async |number| bed.claim_free(&bed.claim(number, Kind::On), 1, |wanted| wanted.cooldown = MINUTE).await;
    let rows = bed.store.rows_of_eni(&eni(1), soon()).await.unwrap();
    assert!(rows.len() == 2 && rows.iter().all(|row| row.idle < HOUR && row.claimed.is_none_or(|age| age < HOUR)));
    assert!(rows.iter().all(|row| !row.has_cooled(MINUTE)), "I10: {rows:?}");
    assert!(cooled(1).await.is_empty());
    // It is a minute and a half later, and not six hours.
    shift(&bed, "-90 SECOND", -90).await;
    let rows = bed.store.rows_of_eni(&eni(1), soon()).await.unwrap();
    assert!(rows.iter().all(|row| (90..3600).contains(&row.idle.as_secs())), "{rows:?}");
    assert!(rows.iter().any(|row| row.claimed.is_some_and(|age| (90..3600).contains(&age.as_secs()))), "{rows:?}");
    assert!(rows.iter().all(|row| row.has_cooled(MINUTE)), "{rows:?}");
    assert_eq!(cooled(2).await.len(), 1);
}

async fn what_a_clock_wrote_before_it_was_set_at_all_is_just_now_too(bed: Bed) {
    bed.warm(1, &[10], 10).await;
    bed.warm(1, &[11], 10).await;
    bed.lease(11, bed.claim(7, Kind::Lease)).await;
    bed.exec(
        "UPDATE allocation SET ts='1970-01-01 00:10:00',claimed=NULL",
        "UPDATE allocation SET ts=600,claimed=NULL",
    )
    .await;
    let rows = bed.store.rows_of_eni(&eni(1), soon()).await.unwrap();
    assert!(rows.iter().all(|row| row.idle < HOUR), "{rows:?}");
    shift(&bed, "-90 SECOND", -90).await;
    let rows = bed.store.rows_of_eni(&eni(1), soon()).await.unwrap();
    assert!(rows.iter().all(|row| (90..3600).contains(&row.idle.as_secs())), "{rows:?}");
    let lease = rows.iter().find(|row| row.ip == ip(11)).unwrap();
    assert!(lease.claimed.is_some_and(|age| (90..3600).contains(&age.as_secs())), "a lost lease ages: {lease:?}");
}

/// The server's own clock, under an open store.
#[tokio::test]
async fn a_servers_clock_set_forward_ends_no_cool_down() {
    let clock = Clock::new();
    let server = tokio::task::spawn_blocking(move || (with_clock(&clock), clock)).await;
    let (server, clock) = server.unwrap();
    let db = Db::on(&server.server).await;
    let bed = Bed::on(open(&db.url()).await, db);
    bed.warm(1, &[10, 11], 10).await;
    bed.free(20..=20).await;
    bed.age(ip(20), 10).await;
    assert!(bed.event(11, Event::GiveUp { claim: bed.claim(7, Kind::Off) }).await);
    let before = bed.store.rows_of_eni(&eni(1), soon()).await.unwrap();
    clock.set(6 * 3600);
    // Before anything was read by the new clock, and after.
    for read in [false, true] {
        if read {
            let rows = bed.store.rows_of_eni(&eni(1), soon()).await.unwrap();
            assert_eq!(rows.len(), before.len());
            assert!(rows.iter().all(|row| row.idle < HOUR && !row.has_cooled(HOUR)), "I10: {rows:?}");
            assert!(rows.iter().all(|row| row.claimed.is_none_or(|age| age < HOUR)), "{rows:?}");
        }
        let taken = bed.claim_free(&bed.claim(1, Kind::On), 1, |wanted| wanted.cooldown = HOUR).await;
        assert!(taken.is_empty(), "I10: it cools");
    }
    // What is let go by the new clock ages by it.
    bed.age(ip(10), 70).await;
    let row = bed.row(10).await;
    assert!((70..3600).contains(&row.idle.as_secs()), "{row:?}");
    // And set right again, all is as old as it is.
    clock.set(0);
    bed.age(ip(10), 7200).await;
    assert!(bed.row(10).await.idle >= 2 * HOUR);
    assert!(bed.row(10).await.has_cooled(HOUR));
}
