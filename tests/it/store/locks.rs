//! What a claim locks on a server: its own rows, and nothing that another host needs.

use std::time::Duration;

use ec2_ipam::domain::address::Event;
use ec2_ipam::domain::id::Kind;
use ec2_ipam::store::StoreError;
use mysql_async::prelude::Queryable;
use tokio::time::Instant;

use super::bed::{Bed, Raw, eni, on_servers, open, soon, subnet, told};
use crate::support::mariadb::Db;

on_servers! {
    a_claim_locks_its_own_rows_and_hinders_nobody
    a_block_and_a_draw_of_singles_lock_their_own_rows
    all_rows_locked_is_not_none
}

/// The claim's own packet, as the server's log shows it, left open in a session of ours.
async fn open_claim(bed: &Bed, count: usize) -> mysql_async::Conn {
    let Raw::MySql(db) = &bed.raw else { panic!() };
    let mut conn = db.session().await;
    conn.query_drop("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED; START TRANSACTION").await.unwrap();
    let claim = format!(
        "UPDATE (SELECT ip FROM allocation FORCE INDEX (cold) WHERE subnet='{}' AND status='free' AND `primary`=0 \
         AND ts<=NOW()-INTERVAL 61 SECOND ORDER BY ts LIMIT {count} FOR UPDATE SKIP LOCKED) s \
         STRAIGHT_JOIN allocation a ON a.ip=s.ip \
         SET a.status='allocated',a.iface='eni-0123456789abcde09',a.claim='x:1:on',a.claimed=NOW(3),a.holder=NULL,a.ts=a.ts",
        subnet()
    );
    conn.query_drop(claim).await.unwrap();
    assert_eq!(conn.affected_rows(), count as u64);
    conn
}

const BECOMES: &str =
    "a.status='allocated',a.iface='eni-0123456789abcde09',a.claim='x:1:on',a.claimed=NOW(3),a.holder=NULL,a.ts=a.ts";

/// So many of these, and all sixteen of a block, as the packets of a claim do it.
async fn open_by_key(bed: &Bed, statement: &str, rows: u64) -> mysql_async::Conn {
    let Raw::MySql(db) = &bed.raw else { panic!() };
    let mut conn = db.session().await;
    conn.query_drop("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED; START TRANSACTION").await.unwrap();
    conn.query_drop(statement).await.unwrap();
    assert_eq!(conn.affected_rows(), rows);
    conn
}

fn keys(addresses: std::ops::Range<u8>) -> String {
    addresses.map(|last| format!("'{}'", super::bed::ip(last))).collect::<Vec<_>>().join(",")
}

async fn a_block_and_a_draw_of_singles_lock_their_own_rows(db: Db) {
    let bed = Bed::on(open(&db.url()).await, db);
    bed.free(16..=127).await;
    let free = format!("subnet='{}' AND status='free' AND `primary`=0", subnet());
    let draw = keys(64..128);
    let five = format!(
        "UPDATE (SELECT ip FROM allocation FORCE INDEX (PRIMARY) WHERE ip IN ({draw}) AND {free} LIMIT 5 FOR UPDATE SKIP LOCKED) s \
         STRAIGHT_JOIN allocation a ON a.ip=s.ip SET {BECOMES},a.in_block=0"
    );
    let block = |n: u8| {
        let ips = keys(n * 16..n * 16 + 16);
        format!(
            "UPDATE (SELECT COUNT(*) AS free FROM allocation FORCE INDEX (PRIMARY) WHERE ip IN ({ips}) AND {free} \
             HAVING free=16 FOR UPDATE SKIP LOCKED) s STRAIGHT_JOIN allocation a FORCE INDEX (PRIMARY) ON a.ip IN ({ips}) \
             SET {BECOMES},a.in_block=1"
        )
    };
    let mut singles = open_by_key(&bed, &five, 5).await;
    let mut whole = open_by_key(&bed, &block(1), 16).await;
    let locked = [rows_locked(&mut singles).await, rows_locked(&mut whole).await];
    println!("records locked by five singles of 64, and by a block: {locked:?}");
    assert_eq!(locked, [5, 16]);
    // Who finds one of sixteen locked leaves the others alone, and who claims beside them has no need to wait.
    // Keys sort as texts: the five begin with 10.0.0.100.
    let mut broken = open_by_key(&bed, &block(6), 0).await;
    broken.query_drop("COMMIT").await.unwrap();
    let claim = bed.claim(1, Kind::On);
    let taken = super::blocks::claim_blocks(&bed.store, &[1, 6, 2].map(super::blocks::block), 1, &claim).await;
    assert_eq!(super::blocks::of(&taken), [super::blocks::block(2)]);
    assert_eq!(bed.claim_free(&bed.claim(2, Kind::On), 59, |_| ()).await.len(), 59);
    for mut open in [singles, whole] {
        open.query_drop("ROLLBACK").await.unwrap();
    }
}

async fn rows_locked(conn: &mut mysql_async::Conn) -> u64 {
    let read = "SELECT trx_rows_locked FROM information_schema.innodb_trx WHERE trx_mysql_thread_id=CONNECTION_ID()";
    // The view is refreshed every tenth of a second.
    tokio::time::sleep(Duration::from_millis(300)).await;
    conn.query_first::<u64, _>(read).await.unwrap().unwrap()
}

async fn a_claim_locks_its_own_rows_and_hinders_nobody(db: Db) {
    let bed = Bed::on(open(&db.url()).await, db);
    let rows: Vec<_> = (0..1024_u32)
        .map(|n| super::bed::new_row((0x0a00_0000 + n).into(), ec2_ipam::domain::address::Status::Free))
        .collect();
    bed.store.insert_missing(&subnet(), &rows, soon()).await.unwrap();
    // Rows of ours in every stage.
    let taken = bed.claim_free(&bed.claim(1, Kind::On), 3, |_| ()).await;
    assert_eq!(taken.len(), 3);
    let mut narrow = open_claim(&bed, 1).await;
    let one = rows_locked(&mut narrow).await;
    let mut wide = open_claim(&bed, 16).await;
    let sixteen = rows_locked(&mut wide).await;
    println!("records locked by a claim of 1: {one}, of 16: {sixteen}, of 1024 rows");
    assert!(one <= 4 && sixteen <= 16 * 4, "{one} {sixteen}");
    // Beside both open claims: another claim, what the journal says, a give-up, a free.
    assert_eq!(bed.claim_free(&bed.claim(2, Kind::On), 16, |w| w.cooldown = Duration::from_secs(60)).await.len(), 16);
    let last = taken[0].octets()[3];
    assert!(bed.event(last, told(None, Duration::ZERO)).await);
    assert!(bed.event(last, Event::GiveUp { claim: bed.claim(3, Kind::Off) }).await);
    assert!(bed.event(last, Event::Gone).await);
    assert_eq!(bed.store.rows_of_eni(&eni(9), soon()).await.unwrap().len(), 0, "not committed");
    narrow.query_drop("ROLLBACK").await.unwrap();
    wide.query_drop("ROLLBACK").await.unwrap();
}

async fn all_rows_locked_is_not_none(db: Db) {
    let bed = Bed::on(open(&db.url()).await, db);
    bed.free(10..=13).await;
    let mut others = open_claim(&bed, 4).await;
    let (claim, eni, subnet) = (bed.claim(1, Kind::On), eni(1), subnet());
    let wanted = ec2_ipam::store::FreeClaim {
        subnet: &subnet,
        eni: &eni,
        sub_pool: None,
        cooldown: Duration::ZERO,
        except: &[],
        count: 2,
        claim: &claim,
    };
    let busy = bed.store.claim_free(&wanted, Instant::now() + Duration::from_secs(2)).await;
    assert!(matches!(busy, Err(StoreError::Busy { .. })), "{busy:?}");
    let claiming = bed.store.claim_free(&wanted, soon());
    let ending = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        others.query_drop("ROLLBACK").await.unwrap();
    };
    let (taken, ()) = tokio::join!(claiming, ending);
    assert_eq!(taken.unwrap().len(), 2);
}
