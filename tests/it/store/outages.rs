//! A network that loses, delays, stalls and cuts, under each call: it happens once, and its caller is told so.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::bed::{Bed, on_servers, open, soon};
use super::calls::{Call, Given, assert_sentence};
use crate::support::mariadb::Db;
use crate::support::proxy::{Fate, Proxy};

on_servers! {
    a_call_whose_request_is_lost_is_made_again
    a_call_whose_answer_is_lost_after_the_commit_has_happened_once
    a_call_whose_answer_never_comes_has_happened_once
    a_transaction_cut_in_the_middle_happens_once
    a_slow_network_only_takes_longer
    a_database_that_is_back_after_thirty_seconds_costs_no_call
    at_the_deadline_a_call_ends_with_one_sentence_and_what_it_did_is_whole
}

struct Outage {
    call: Call,
    bed: Bed,
    proxy: Proxy,
    given: Given,
}

/// Each call with a database and a way to it of its own.
async fn each(beside: &Db) -> Vec<Outage> {
    let mut outages = Vec::new();
    for call in Call::ALL {
        let db = Db::on(beside.server).await;
        let proxy = Proxy::to(db.server.port).await;
        let bed = Bed::on(open(&db.url_at(proxy.port)).await, db);
        let given = call.given(&bed).await;
        outages.push(Outage { call, bed, proxy, given });
    }
    outages
}

impl Outage {
    /// Without an error, since the deadline allows.
    async fn succeeds(&self) {
        if let Err(error) = self.given.make(&self.bed.store, soon()).await {
            panic!("{:?}: {error}", self.call);
        }
        assert!(self.given.happened(&self.bed.store).await, "{:?} is said to have happened and has not", self.call);
    }
}

async fn whose_request_meets(db: &Db, fate: Fate) {
    let outages = each(db).await;
    join_all(outages.iter().map(async |outage| {
        outage.proxy.next(outage.call.mark(), fate);
        outage.succeeds().await;
        assert!(outage.proxy.met(), "{:?} without its fault", outage.call);
    }))
    .await;
}

async fn a_call_whose_request_is_lost_is_made_again(db: Db) {
    whose_request_meets(&db, Fate::Lost).await;
}

async fn a_call_whose_answer_is_lost_after_the_commit_has_happened_once(db: Db) {
    whose_request_meets(&db, Fate::Swallowed).await;
}

async fn a_call_whose_answer_never_comes_has_happened_once(db: Db) {
    whose_request_meets(&db, Fate::Unanswered).await;
}

async fn a_transaction_cut_in_the_middle_happens_once(db: Db) {
    for fate in [Fate::Lost, Fate::Swallowed] {
        for outage in each(&db).await.into_iter().filter(|outage| outage.call == Call::Changes) {
            outage.proxy.next("UPDATE allocation", fate);
            outage.succeeds().await;
            assert!(outage.proxy.met());
        }
    }
}

async fn a_slow_network_only_takes_longer(db: Db) {
    let outages = each(&db).await;
    join_all(outages.iter().map(async |outage| {
        outage.proxy.slow(Duration::from_millis(150));
        // A new connection too.
        outage.proxy.cut();
        outage.succeeds().await;
    }))
    .await;
}

/// The store gives up before any call of Docker's does, yet not while there is time.
async fn a_database_that_is_back_after_thirty_seconds_costs_no_call(db: Db) {
    let outages = each(&db).await;
    let calls = join_all(outages.iter().map(async |outage| {
        outage.proxy.away(true);
        outage.succeeds().await;
    }));
    let back = async {
        tokio::time::sleep(Duration::from_secs(30)).await;
        for outage in &outages {
            outage.proxy.away(false);
        }
    };
    tokio::join!(calls, back);
}

/// Away, stalled, too slow, and an answer that never comes.
async fn at_the_deadline_a_call_ends_with_one_sentence_and_what_it_did_is_whole(db: Db) {
    for fault in 0..4 {
        let outages = each(&db).await;
        join_all(outages.iter().map(async |outage| {
            match fault {
                0 => outage.proxy.away(true),
                1 => outage.proxy.stall(true),
                2 => outage.proxy.slow(Duration::from_secs(5)),
                _ => outage.proxy.next(outage.call.mark(), Fate::Unanswered),
            }
            let until = Instant::now() + Duration::from_millis(700);
            let error = outage.given.make(&outage.bed.store, until).await.unwrap_err();
            assert_sentence(&error);
            outage.proxy.slow(Duration::ZERO);
            outage.proxy.stall(false);
            outage.proxy.away(false);
            // The connection it was on may still be the slow one's.
            outage.proxy.cut();
            let happened = outage.given.happened(&outage.bed.store).await;
            assert!(happened || fault < 3, "{:?}: the server did it", outage.call);
            assert!(!happened || fault > 1, "{:?}: the server never heard of it", outage.call);
        }))
        .await;
    }
}
