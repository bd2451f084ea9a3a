//! A store of each kind, on each kind of server, with a way to set its rows up, and the words that the tests share.

use std::net::Ipv4Addr;
use std::time::Duration;

use ec2_ipam::domain::address::{Change, Event, NewRow, Row, Status};
use ec2_ipam::domain::id::{Boot, Claim, EniId, Kind, SubnetId};
use ec2_ipam::store::{Database, FreeClaim, Store};
use tokio::time::Instant;

use crate::support::mariadb::Db;
use crate::support::server::Shared;
use crate::support::{galera, mysql};

pub enum Raw {
    MySql(Db),
    Sqlite(tempfile::TempDir),
}

pub struct Bed {
    pub store: Store,
    pub raw: Raw,
    boot: Boot,
    /// Where other hosts open the same table, in turn.
    urls: Vec<String>,
    _turn: Option<Shared>,
}

/// Far enough for any machine: no test measures time.
pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(120)
}

pub fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, last)
}

pub fn eni(n: u8) -> EniId {
    format!("eni-0123456789abcde{n:02x}").parse().unwrap()
}

pub fn subnet() -> SubnetId {
    "subnet-0123456789abcdef0".parse().unwrap()
}

pub fn new_row(ip: Ipv4Addr, status: Status) -> NewRow {
    NewRow { ip, status, iface: None, primary: false, holder: None, in_block: false }
}

pub async fn open(url: &str) -> Store {
    Store::open(&url.parse::<Database>().unwrap(), soon()).await.unwrap()
}

pub fn token(kind: Kind) -> Claim {
    Boot::random().unwrap().claim(1, kind)
}

/// What the table is told of an address on the ENI: who has it, or that it was let go so long ago.
pub fn told(lease: Option<Claim>, idle: Duration) -> Event {
    Event::Follow { lease, holder: Some("web".to_owned()), idle }
}

impl Bed {
    pub async fn mariadb() -> Self {
        let db = Db::new().await;
        let store = open(&db.url()).await;
        Self::on(store, db)
    }

    pub async fn mysql() -> Option<Self> {
        let (db, turn) = mysql::shared().await?;
        let store = open(&db.url()).await;
        Some(Self { _turn: Some(turn), ..Self::on(store, db) })
    }

    /// The store on one node, sessions beside it on another, other hosts on each in turn.
    pub async fn galera() -> Option<Self> {
        let (cluster, turn) = galera::shared().await?;
        let node = fastrand::usize(..3);
        let db = cluster.db(node + 1).await;
        let urls: Vec<_> = (node..node + 3).map(|node| db.url_over(&cluster.ports_from(node))).collect();
        let store = open(&urls[0]).await;
        Some(Self { urls, _turn: Some(turn), ..Self::on(store, db) })
    }

    pub fn on(store: Store, db: Db) -> Self {
        Self { store, urls: vec![db.url()], raw: Raw::MySql(db), boot: Boot::random().unwrap(), _turn: None }
    }

    pub async fn sqlite() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/state/ipam.db", dir.path().display());
        let store = open(&url).await;
        Self { store, raw: Raw::Sqlite(dir), boot: Boot::random().unwrap(), urls: vec![url], _turn: None }
    }

    /// The stores of so many other hosts.
    pub async fn hosts(&self, count: usize) -> Vec<Store> {
        let mut stores = Vec::new();
        for url in self.urls.iter().cycle().take(count) {
            stores.push(open(url).await);
        }
        stores
    }

    pub fn claim(&self, number: u64, kind: Kind) -> Claim {
        self.boot.claim(number, kind)
    }

    /// Free rows for 10.0.0.first to last.
    pub async fn free(&self, addresses: std::ops::RangeInclusive<u8>) {
        let rows: Vec<_> = addresses.map(|n| new_row(ip(n), Status::Free)).collect();
        self.store.insert_missing(&subnet(), &rows, soon()).await.unwrap();
    }

    /// Warm rows of an ENI, let go so many seconds ago.
    pub async fn warm(&self, n: u8, addresses: &[u8], idle: u32) {
        for &last in addresses {
            let row = NewRow { iface: Some(eni(n)), ..new_row(ip(last), Status::Ready) };
            self.store.insert_missing(&subnet(), &[row], soon()).await.unwrap();
            self.age(ip(last), idle).await;
        }
    }

    pub async fn exec(&self, mysql: &str, sqlite: &str) {
        match &self.raw {
            Raw::MySql(db) => db.exec(mysql).await,
            Raw::Sqlite(dir) => {
                let file = rusqlite::Connection::open(dir.path().join("state/ipam.db")).unwrap();
                file.execute_batch(sqlite).unwrap();
            }
        }
    }

    /// As if let go so many seconds ago.
    pub async fn age(&self, ip: Ipv4Addr, seconds: u32) {
        self.exec(
            &format!("UPDATE allocation SET ts=NOW()-INTERVAL {seconds} SECOND WHERE ip='{ip}'"),
            &format!("UPDATE allocation SET ts=unixepoch()-{seconds} WHERE ip='{ip}'"),
        )
        .await;
    }

    pub async fn row(&self, last: u8) -> Row {
        self.store.row(ip(last), soon()).await.unwrap().unwrap()
    }

    /// What an event makes of a row, carried out.
    pub async fn event(&self, last: u8, event: Event) -> bool {
        let change = self.row(last).await.on(event).unwrap();
        self.apply(&[change]).await == [true]
    }

    pub async fn apply(&self, changes: &[Change]) -> Vec<bool> {
        self.store.apply(changes, soon()).await.unwrap()
    }

    pub async fn claim_free(
        &self,
        claim: &Claim,
        count: usize,
        with: impl FnOnce(&mut FreeClaim<'_>),
    ) -> Vec<Ipv4Addr> {
        let (eni, subnet) = (eni(1), subnet());
        let mut wanted = FreeClaim {
            subnet: &subnet,
            eni: &eni,
            sub_pool: None,
            cooldown: Duration::ZERO,
            except: &[],
            count,
            claim,
        };
        with(&mut wanted);
        let rows = self.store.claim_free(&wanted, soon()).await.unwrap();
        let mut ips: Vec<_> = rows.iter().map(|row| row.ip).collect();
        ips.sort_unstable();
        ips
    }

    /// A container has it, by this token.
    pub async fn lease(&self, last: u8, claim: Claim) {
        let idle = self.row(last).await.idle;
        assert!(self.event(last, told(Some(claim), idle)).await);
    }
}

/// Runs a test on every kind of store and server.
macro_rules! on_all {
    ($($name:ident)*) => {
        mod on_mariadb { $(#[tokio::test] async fn $name() { super::$name(super::Bed::mariadb().await).await; })* }
        mod on_sqlite { $(#[tokio::test] async fn $name() { super::$name(super::Bed::sqlite().await).await; })* }
        mod on_mysql { $(#[tokio::test] async fn $name() {
            if let Some(bed) = super::Bed::mysql().await { super::$name(bed).await; }
        })* }
        mod on_galera { $(#[tokio::test] async fn $name() {
            if let Some(bed) = super::Bed::galera().await { super::$name(bed).await; }
        })* }
    };
}
pub(crate) use on_all;

/// Runs a test on a database of either single server.
macro_rules! on_servers {
    ($($name:ident)*) => {
        mod on_mariadb { $(#[tokio::test] async fn $name() { super::$name(super::Db::new().await).await; })* }
        mod on_mysql { $(#[tokio::test] async fn $name() {
            if let Some((db, _turn)) = crate::support::mysql::shared().await { super::$name(db).await; }
        })* }
    };
}
pub(crate) use on_servers;
