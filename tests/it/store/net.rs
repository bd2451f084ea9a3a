//! The block that each row lies in, of tables where nobody has written it: the original's, and what it or an older driver inserts
//! beside us.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ec2_ipam::domain::address::Status;
use ec2_ipam::domain::block::{Block, SIZE};
use ec2_ipam::domain::id::Kind;
use mysql_async::prelude::Queryable;
use tokio::time::Instant;

use super::bed::{Bed, Raw, ip, new_row, on_servers, open, soon, subnet, token};
use super::blocks::{block, claim_blocks, of};
use crate::support::galera;
use crate::support::mariadb::{Db, ORIGINAL};

on_servers! {
    a_table_that_is_taken_over_is_filled_in_and_nothing_of_it_ages
    rows_that_others_have_locked_keep_nobody_waiting_and_are_filled_in_later
    what_is_inserted_beside_us_is_found_and_filled_in
    what_the_original_does_beside_us_goes_on_while_eight_hosts_take_its_table_over
    a_wrong_block_costs_nothing_but_the_look
}

/// Free rows of the original in 10.0.0.0 and on.
async fn original(db: &Db, count: u32) {
    db.exec(ORIGINAL).await;
    let rows: Vec<_> = (0..count)
        .map(|n| format!("('{}','{}',0,'2019-03-31 01:30:00')", std::net::Ipv4Addr::from(0x0a00_0000 + n), subnet()))
        .collect();
    for rows in rows.chunks(4000) {
        db.exec(&format!("INSERT INTO allocation (ip,subnet,`primary`,ts) VALUES {}", rows.join(","))).await;
    }
}

/// `net` of each row; and that none is wrong.
async fn nets(db: &Db) -> BTreeMap<String, Option<u32>> {
    let mut session = db.session().await;
    let read = session.query("SELECT ip,net FROM allocation").await.unwrap();
    session.disconnect().await.unwrap();
    let read: BTreeMap<String, Option<u32>> = read.into_iter().collect();
    for (ip, net) in &read {
        let right = ip.parse().map(|ip| Block::of(ip).number()).ok();
        assert!(net.is_none() || *net == right, "{ip}: {net:?}");
    }
    read
}

async fn without(db: &Db) -> usize {
    nets(db).await.values().filter(|net| net.is_none()).count()
}

async fn times(db: &Db) -> Vec<(String, String)> {
    let mut session = db.session().await;
    let read = "SET time_zone='+00:00'; SELECT ip,CAST(ts AS CHAR) FROM allocation ORDER BY ip";
    let mut answer = session.query_iter(read).await.unwrap();
    answer.collect::<mysql_async::Row>().await.unwrap();
    let times = answer.collect().await.unwrap();
    drop(answer);
    session.disconnect().await.unwrap();
    times
}

/// No address, though a column takes it; and what only looks like one.
const ODD: [&str; 6] = ["ten", "", "10.0.0.9 x", "fe80::1", "300.1.1.1", "10.0.0"];

async fn a_table_that_is_taken_over_is_filled_in_and_nothing_of_it_ages(db: Db) {
    original(&db, 2500).await;
    let odd: Vec<_> = ODD.iter().map(|ip| format!("('{ip}','{}',0)", subnet())).collect();
    db.exec(&format!("INSERT INTO allocation (ip,subnet,`primary`) VALUES {}", odd.join(","))).await;
    db.exec("UPDATE allocation SET status='ready',iface='eni-0123456789abcde01',ts=NOW()-INTERVAL 1 HOUR WHERE ip LIKE '%.7'").await;
    db.exec("SET sql_mode=''; UPDATE allocation SET status='occupied',ts='0000-00-00 00:00:00' WHERE ip LIKE '%.8'")
        .await;
    db.exec("INSERT INTO allocation VALUES ('10.9.0.1','subnet-ffffffffffffffff0','reserved',NULL,0,NOW())").await;
    let before = times(&db).await;
    let store = open(&db.url()).await;
    assert_eq!(times(&db).await, before);
    let nets = nets(&db).await;
    let left: Vec<_> = nets.iter().filter(|(_, net)| net.is_none()).map(|(ip, _)| ip.as_str()).collect();
    assert_eq!(left.len(), ODD.len(), "{left:?}");
    assert!(ODD.iter().all(|odd| left.contains(odd)), "{left:?}");
    // 2500 rows: ten times sixteen blocks in each 256, two of which have one of those in use.
    let whole = store.whole_blocks(&subnet(), None, 64, soon()).await.unwrap();
    assert_eq!(whole.len(), 64);
    assert!(whole.iter().all(|block| block.number() % 16 != 0 && block.number() * 16 < 0x0a00_0000 + 2500));
    open(&db.url()).await;
    assert_eq!(without(&db).await, ODD.len());
}

async fn rows_that_others_have_locked_keep_nobody_waiting_and_are_filled_in_later(db: Db) {
    let bed = Bed::on(open(&db.url()).await, db);
    bed.free(16..=63).await;
    let Raw::MySql(db) = &bed.raw else { panic!() };
    db.exec("UPDATE allocation SET net=NULL,ts=ts").await;
    let mut others = db.session().await;
    others.query_drop("START TRANSACTION").await.unwrap();
    others
        .query_drop("UPDATE allocation SET ts=ts+INTERVAL 1 SECOND WHERE ip IN ('10.0.0.20','10.0.0.21')")
        .await
        .unwrap();
    let begun = Instant::now();
    open(&db.url()).await;
    assert!(begun.elapsed() < Duration::from_secs(3), "a statement waits so long for a lock: {:?}", begun.elapsed());
    assert_eq!(without(db).await, 2);
    // A claim is not kept waiting either, and has all that is to be had.
    assert_eq!(of(&claim_blocks(&bed.store, &[1, 2, 3].map(block), 3, &token(Kind::On)).await), [block(2), block(3)]);
    assert_eq!(bed.claim_free(&token(Kind::On), 14, |_| ()).await.len(), 14);
    others.query_drop("COMMIT").await.unwrap();
    assert_eq!(bed.claim_free(&token(Kind::On), 1, |_| ()).await.len(), 1);
    assert_eq!(without(db).await, 0);
    assert_eq!(bed.claim_free(&token(Kind::On), 2, |_| ()).await.len(), 1);
}

async fn what_is_inserted_beside_us_is_found_and_filled_in(db: Db) {
    let bed = Bed::on(open(&db.url()).await, db);
    let Raw::MySql(db) = &bed.raw else { panic!() };
    for rows in 0..2 {
        let rows: Vec<_> =
            (16..48).map(|n| format!("('10.0.{rows}.{n}','{}',0,'2019-03-31 01:30:00')", subnet())).collect();
        db.exec(&format!("INSERT INTO allocation (ip,subnet,`primary`,ts) VALUES {}", rows.join(","))).await;
        assert_eq!(without(db).await, 32);
        let before = times(db).await;
        assert!(bed.store.whole_blocks(&subnet(), None, 64, soon()).await.unwrap().is_empty(), "not known yet");
        let taken = bed.claim_free(&token(Kind::On), 3, |_| ()).await;
        assert_eq!((taken.len(), without(db).await), (3, 0));
        assert_eq!(times(db).await, before);
        assert_eq!(bed.store.whole_blocks(&subnet(), None, 64, soon()).await.unwrap().len(), 1);
        let rest = bed.claim_free(&token(Kind::On), 40, |_| ()).await;
        assert_eq!(rest.len(), 29);
    }
    // Nor does it matter to a sub-pool, or to what cools.
    let rows = format!("('10.0.9.16','{0}',0,NOW()),('10.0.9.17','{0}',0,'2019-03-31 01:30:00')", subnet());
    db.exec(&format!("INSERT INTO allocation (ip,subnet,`primary`,ts) VALUES {rows}")).await;
    let minute = Duration::from_secs(60);
    let net = Some("10.0.9.0/24".parse().unwrap());
    let taken = bed.claim_free(&token(Kind::On), 2, |w| (w.sub_pool, w.cooldown) = (net, minute)).await;
    assert_eq!(taken, [std::net::Ipv4Addr::new(10, 0, 9, 17)]);
}

async fn what_the_original_does_beside_us_goes_on_while_eight_hosts_take_its_table_over(db: Db) {
    original(&db, 6000).await;
    beside_the_original(&db, &vec![db.url(); 8]).await;
}

#[tokio::test]
async fn what_the_original_does_goes_on_on_a_cluster() {
    let Some((cluster, _turn)) = galera::shared().await else { return };
    let db = cluster.db(0).await;
    original(&db, 3000).await;
    let urls: Vec<_> = (0..6).map(|host| db.url_over(&cluster.ports_from(host))).collect();
    beside_the_original(&db, &urls).await;
}

/// Its claim, its free and its recycle, of rows by its own key, each a statement.
async fn beside_the_original(db: &Db, urls: &[String]) {
    let stop = Arc::new(AtomicBool::new(false));
    let at_work: Vec<_> = (0..3)
        .map(|n| (n, db.url(), Arc::clone(&stop)))
        .map(|(n, url, stop)| {
            let opts = mysql_async::Opts::from_url(url.split('?').next().unwrap()).unwrap();
            tokio::spawn(async move {
                let mut session = mysql_async::Conn::new(opts).await.unwrap();
                let (eni, mut rounds, mut worst) = (format!("eni-0123456789abcdd{n:02}"), 0_u64, Duration::ZERO);
                let of = format!("subnet='{}'", subnet());
                while !stop.load(Ordering::Relaxed) || rounds < 3 {
                    for statement in [
                        format!("UPDATE allocation SET status='ready',iface='{eni}' WHERE {of} AND status='free' LIMIT 3"),
                        format!("UPDATE allocation SET status='occupied' WHERE {of} AND status='ready' AND iface='{eni}' LIMIT 1"),
                        format!("UPDATE allocation SET status='ready' WHERE {of} AND status='occupied' AND iface='{eni}'"),
                        format!("UPDATE allocation SET status='free',iface=NULL WHERE {of} AND status='ready' AND iface='{eni}'"),
                    ] {
                        let begun = Instant::now();
                        // Among themselves they collide without our doing.
                        if let Err(why) = session.query_drop(&statement).await {
                            assert!(why.to_string().contains("1213"), "{why}");
                        }
                        worst = worst.max(begun.elapsed());
                    }
                    rounds += 1;
                }
                (rounds, worst)
            })
        })
        .collect();
    let begun = Instant::now();
    let opening: Vec<_> = urls
        .iter()
        .map(|url| {
            let url = url.clone();
            tokio::spawn(async move { open(&url).await })
        })
        .collect();
    let mut stores = Vec::new();
    for opened in opening {
        stores.push(opened.await.unwrap());
    }
    println!("{} hosts took it over in {:.1?}", urls.len(), begun.elapsed());
    // Ours beside it.
    let mut taken = Vec::new();
    for store in &stores {
        let known = store.whole_blocks(&subnet(), None, 64, soon()).await.unwrap();
        taken.extend(claim_blocks(store, &known, 1, &token(Kind::On)).await);
    }
    assert_eq!(of(&taken).len(), urls.len());
    stop.store(true, Ordering::Relaxed);
    for session in at_work {
        let (rounds, worst) = session.await.unwrap();
        println!("the original: {rounds} rounds, at worst {worst:.1?} for a statement");
    }
    let ours = stores[0].rows_of_eni(&super::bed::eni(1), soon()).await.unwrap();
    assert_eq!(of(&ours), of(&taken), "the original took none of ours, nor we of its");
    open(&urls[0]).await;
    assert_eq!(without(db).await, 0);
}

async fn a_wrong_block_costs_nothing_but_the_look(db: Db) {
    let bed = Bed::on(open(&db.url()).await, db);
    let rows: Vec<_> = (16..64).map(|last| new_row(ip(last), Status::Free)).collect();
    bed.store.insert_missing(&subnet(), &rows, soon()).await.unwrap();
    let Raw::MySql(db) = &bed.raw else { panic!() };
    db.exec("UPDATE allocation SET status='reserved',ts=ts WHERE ip='10.0.0.20'").await;
    db.exec(&format!("UPDATE allocation SET net={},ts=ts WHERE ip='10.0.0.33'", block(1).number())).await;
    let found = bed.store.whole_blocks(&subnet(), None, 64, soon()).await.unwrap();
    assert!(found.contains(&block(1)) && !found.contains(&block(2)), "{found:?}");
    let taken = claim_blocks(&bed.store, &[1, 2, 3].map(block), 3, &token(Kind::On)).await;
    assert_eq!((of(&taken), taken.len()), (vec![block(2), block(3)], 2 * SIZE));
    assert_eq!(bed.claim_free(&token(Kind::On), 20, |_| ()).await.len(), 15);
}
