//! What a refill reads of a large subnet: no more than it needs, however many addresses that has and whoever has them.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use ec2_ipam::domain::address::Status;
use ec2_ipam::domain::block::Block;
use ec2_ipam::domain::id::{EniId, Kind};
use ec2_ipam::domain::subnet::Subnet;
use ec2_ipam::store::{BlockClaim, FreeClaim, Store};
use ipnet::Ipv4Net;
use mysql_async::prelude::Queryable;

use super::bed::{eni, new_row, open, soon, subnet, token};
use crate::support::mariadb::{self, Db};
use crate::support::mysql;

const ROWS: u32 = 65_536;
/// A sixth of a /16's addresses, what any one question reads at most: 256 blocks in a window for single addresses, which MySQL
/// counts twice.
const MOST: u64 = 11_000;

#[tokio::test]
async fn a_refill_reads_no_whole_subnet_of_mariadb() {
    let (server, _turn) = mariadb::alone().await;
    refills(Db::on(&server.server).await).await;
}

#[tokio::test]
async fn a_refill_reads_no_whole_subnet_of_mysql() {
    if let Some((db, _turn)) = mysql::alone().await {
        refills(db).await;
    }
}

/// Rows and entries of keys that the server has read since it began, for whomever: this test is alone on it.
async fn reads(db: &Db) -> u64 {
    let mut session = db.session().await;
    let counted: Vec<(String, u64)> = session
        .query(
            "SHOW GLOBAL STATUS WHERE Variable_name IN ('Handler_read_first','Handler_read_key','Handler_read_last',\
                'Handler_read_next','Handler_read_prev')",
        )
        .await
        .unwrap();
    session.disconnect().await.unwrap();
    counted.iter().map(|(_, count)| count).sum()
}

/// What the work makes the server read, and what it brings.
async fn reading<T>(db: &Db, what: &str, work: impl Future<Output = T>) -> (u64, T) {
    let before = reads(db).await;
    let done = work.await;
    let read = reads(db).await - before;
    println!("{what}: {read} of {ROWS}");
    (read, done)
}

async fn few<T>(db: &Db, what: &str, work: impl Future<Output = T>) -> T {
    let (read, done) = reading(db, what, work).await;
    assert!(read <= MOST, "{what}: {read}");
    done
}

/// A driver that has told of itself.
fn known() -> BTreeSet<EniId> {
    (0..200).map(|n| EniId::stored(format!("eni-{n:017x}"))).collect()
}

/// All that a refill asks the table: how many blocks, and how many single addresses it has.
async fn refill(db: &Db, store: &Store, how: &str, within: Option<Ipv4Net>) -> (usize, usize) {
    let all = Subnet::new(subnet(), "10.0.0.0/16".parse().unwrap()).unwrap();
    let (subnet, eni) = (subnet(), eni(1));
    let is_strange = few(db, &format!("{how}, strangers"), store.has_strangers(&subnet, &known(), soon())).await;
    assert!(!is_strange.unwrap());
    few(db, &format!("{how}, plenty"), store.plenty(&all, soon())).await.unwrap();
    few(db, &format!("{how}, enough left"), store.has_free(&subnet, 2048, soon())).await.unwrap();
    let found = few(db, &format!("{how}, find blocks"), store.whole_blocks(&subnet, within, 64, soon())).await.unwrap();
    let (claim, cooldown) = (token(Kind::On), Duration::from_secs(60));
    let wanted = BlockClaim { subnet: &subnet, eni: &eni, candidates: &found, cooldown, count: 1, claim: &claim };
    let block = few(db, &format!("{how}, claim a block"), store.claim_blocks(&wanted, soon())).await.unwrap();
    let claim = token(Kind::On);
    let wanted =
        FreeClaim { subnet: &subnet, eni: &eni, sub_pool: within, cooldown, except: &[], count: 5, claim: &claim };
    let singles = few(db, &format!("{how}, claim singles"), store.claim_free(&wanted, soon())).await.unwrap();
    let give_back =
        "UPDATE allocation SET status='free',iface=NULL,claim=NULL,claimed=NULL,in_block=0,ts=ts WHERE iface='";
    db.exec(&format!("{give_back}{eni}'")).await;
    (super::blocks::of(&block).len(), singles.len())
}

async fn refills(db: Db) {
    let store = open(&db.url()).await;
    let rows: Vec<_> = (0..ROWS).map(|n| new_row(Ipv4Addr::from(0x0a00_0000 + n), Status::Free)).collect();
    store.insert_missing(&subnet(), &rows, soon()).await.unwrap();
    let (counted, _) = reading(&db, "a census", store.census(&subnet(), soon())).await;
    assert!(counted >= u64::from(ROWS), "what is counted here is what the server reads");
    assert_eq!(refill(&db, &store, "free", None).await, (1, 5));
    let takes = |which: &str, status: &str, claim: &str| {
        format!(
            "UPDATE allocation SET status='{status}',iface=CONCAT('eni-',LPAD(HEX(net MOD 200),17,'0')),claim={claim},ts=ts \
             WHERE {which}"
        )
    };
    // Of hosts that are known: in use and idle ones.
    db.exec(&takes("net MOD 4 IN (1,2)", "occupied", "'x:1:lease'")).await;
    db.exec(&takes("net MOD 4=3", "ready", "NULL")).await;
    db.exec("UPDATE allocation SET iface=LOWER(iface),ts=ts WHERE iface IS NOT NULL").await;
    assert_eq!(refill(&db, &store, "three quarters taken", None).await, (1, 5));
    let range = "10.0.16.0/24";
    let first = Block::of([10, 0, 16, 0].into()).number();
    db.exec(&takes(&format!("status='free' AND net BETWEEN {first} AND {}", first + 15), "ready", "NULL")).await;
    assert_eq!(refill(&db, &store, "a range without any", Some(range.parse().unwrap())).await, (0, 0));
    db.exec(&takes("status='free'", "ready", "NULL")).await;
    db.exec("UPDATE allocation SET iface=LOWER(iface),ts=ts WHERE iface IS NOT NULL").await;
    assert_eq!(refill(&db, &store, "all taken", None).await, (0, 0));
    strangers(&db, &store).await;
}

async fn strangers(db: &Db, store: &Store) {
    let is_strange = async || store.has_strangers(&subnet(), &known(), soon()).await.unwrap();
    let takes = async |status: &str, claim: &str, ips: &str| {
        let row = format!("status='{status}',iface='eni-0123456789abcde77',claim={claim}");
        db.exec(&format!("UPDATE allocation SET {row} WHERE ip IN ({ips})")).await;
    };
    takes("occupied", "NULL", "'10.0.3.1'").await;
    assert!(!is_strange().await, "an instance with its primary address");
    takes("occupied", "'x:2:lease'", "'10.0.3.2','10.0.3.3'").await;
    assert!(!is_strange().await, "of a driver of ours that the roll has forgotten");
    takes("occupied", "NULL", "'10.0.3.2'").await;
    assert!(is_strange().await, "containers of the original");
    takes("occupied", "'x:2:lease'", "'10.0.3.2'").await;
    takes("ready", "NULL", "'10.0.3.3'").await;
    assert!(is_strange().await, "an idle address of the original");
    let other = "subnet-ffffffffffffffff0".parse().unwrap();
    assert!(!store.has_strangers(&other, &known(), soon()).await.unwrap());
}
