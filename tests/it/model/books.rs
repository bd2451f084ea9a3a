//! The tables as the test sees them, and what it does to them behind the driver's back.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use ec2_ipam::domain::address::{FIXED, State, Status};
use ec2_ipam::domain::block::{Block, Unit};
use ec2_ipam::domain::id::Claim;
use ec2_ipam::store::Store;
use mysql_async::prelude::Queryable;

use crate::support::host::Kind;
use crate::support::mariadb::Db;

/// A row, with times as if no clock had been moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub ip: Ipv4Addr,
    pub status: String,
    pub iface: Option<String>,
    pub primary: bool,
    pub claim: Option<String>,
    pub holder: Option<String>,
    /// Seconds.
    pub ts: i64,
    /// Milliseconds.
    pub claimed: Option<i64>,
    pub in_block: bool,
}

impl Entry {
    pub fn state(&self) -> State {
        State::of(Status::parse(&self.status).unwrap(), self.claim.clone().map(Claim::stored).as_ref())
    }

    pub fn is_of(&self, eni: &str) -> bool {
        self.iface.as_deref() == Some(eni)
    }

    /// What takes one slot with it.
    pub fn unit(&self) -> Unit {
        if self.in_block { Unit::Block(Block::of(self.ip)) } else { Unit::Single(self.ip) }
    }

    pub fn is_fixed(&self) -> bool {
        self.holder.as_deref().is_some_and(|holder| holder.starts_with(FIXED))
    }

    pub fn shown(&self) -> String {
        let Self { ip, iface, primary, claim, holder, .. } = self;
        let marks = [(*primary, " primary"), (self.in_block, " in a block")];
        let marks: String = marks.into_iter().filter(|(is, _)| *is).map(|(_, mark)| mark).collect();
        format!("{ip} {:?} {iface:?} {claim:?} {holder:?}{marks}", self.state())
    }
}

/// The tables of a bed: one for all hosts, or one of each.
pub struct Books {
    tables: Tables,
    /// By how many seconds all rows have been aged.
    aged: AtomicI64,
}

enum Tables {
    Mariadb { db: Db, jobs: Mutex<mpsc::Sender<Job>> },
    Sqlite { files: Vec<(PathBuf, Mutex<rusqlite::Connection>)> },
}

/// A statement, and where its rows go. The database's own thread runs it, since those who ask must not wait in a runtime.
type Job = (String, mpsc::Sender<Result<Vec<mysql_async::Row>, mysql_async::Error>>);

const MARIADB: &str = "SELECT ip, status, iface, `primary`, claim, holder, UNIX_TIMESTAMP(ts), \
    CAST(UNIX_TIMESTAMP(claimed)*1000 AS SIGNED), in_block FROM allocation";
const SQLITE: &str = "SELECT ip, status, iface, \"primary\", claim, holder, ts, claimed, in_block FROM allocation";

impl Books {
    pub fn new(kind: Kind, dir: &Path, seats: usize) -> Self {
        let tables = match kind {
            Kind::Sqlite => {
                let files = (0..seats).map(|seat| {
                    let path = dir.join(format!("host{seat}")).join("ipam.db");
                    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    runtime.block_on(made(&format!("sqlite://{}", path.display())));
                    let file = rusqlite::Connection::open(&path).unwrap();
                    file.busy_timeout(Duration::from_secs(30)).unwrap();
                    (path, Mutex::new(file))
                });
                Tables::Sqlite { files: files.collect() }
            }
            Kind::Mariadb => {
                let (jobs, inbox) = mpsc::channel::<Job>();
                let (sender, db) = mpsc::channel();
                std::thread::spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    let mut conn = runtime.block_on(async {
                        let db = Db::new().await;
                        // The server's crash is not what is tested here.
                        db.exec("SET GLOBAL innodb_flush_log_at_trx_commit=0").await;
                        made(&db.url_here()).await;
                        let mut conn = db.session().await;
                        conn.query_drop("SET innodb_lock_wait_timeout=1").await.unwrap();
                        sender.send(db).unwrap();
                        conn
                    });
                    for (sql, rows) in inbox {
                        let found = runtime.block_on(async {
                            let mut result = conn.query_iter(sql.as_str()).await?;
                            let rows = result.collect().await?;
                            result.drop_result().await?;
                            Ok(rows)
                        });
                        let _ = rows.send(found);
                    }
                });
                Tables::Mariadb { db: db.recv().unwrap(), jobs: Mutex::new(jobs) }
            }
        };
        Self { tables, aged: AtomicI64::new(0) }
    }

    /// The URL that a host is given.
    pub fn url(&self, seat: usize) -> String {
        match &self.tables {
            Tables::Mariadb { db, .. } => db.url_here(),
            Tables::Sqlite { files } => format!("sqlite://{}", files[seat].0.display()),
        }
    }

    pub fn is_shared(&self) -> bool {
        matches!(self.tables, Tables::Mariadb { .. })
    }

    /// The hosts that have a table of their own.
    pub fn owners(&self) -> usize {
        if let Tables::Sqlite { files } = &self.tables { files.len() } else { 1 }
    }

    /// All rows of the table that the host sees, in order of address.
    pub fn rows(&self, seat: usize) -> Vec<Entry> {
        self.matching(seat, "")
    }

    pub fn row(&self, seat: usize, ip: Ipv4Addr) -> Option<Entry> {
        self.matching(seat, &format!(" WHERE ip='{ip}'")).pop()
    }

    fn matching(&self, seat: usize, which: &str) -> Vec<Entry> {
        type Columns = (String, String, Option<String>, bool, Option<String>, Option<String>, i64, Option<i64>, bool);
        let columns: Vec<Columns> = match &self.tables {
            Tables::Mariadb { .. } => {
                self.ask(format!("{MARIADB}{which}")).unwrap().into_iter().map(mysql_async::from_row).collect()
            }
            Tables::Sqlite { files } => {
                let file = lock(&files[seat].1);
                let mut read = file.prepare_cached(&format!("{SQLITE}{which}")).unwrap();
                let rows = read.query_map([], |r| {
                    Ok((
                        r.get(0)?,
                        r.get(1)?,
                        r.get(2)?,
                        r.get(3)?,
                        r.get(4)?,
                        r.get(5)?,
                        r.get(6)?,
                        r.get(7)?,
                        r.get(8)?,
                    ))
                });
                rows.unwrap().collect::<Result<_, _>>().unwrap()
            }
        };
        let aged = self.aged.load(Ordering::Acquire);
        let entry = |(ip, status, iface, primary, claim, holder, ts, claimed, in_block): Columns| {
            let ip: String = ip;
            let claimed = claimed.map(|claimed| claimed + aged * 1000);
            Entry { ip: ip.parse().unwrap(), status, iface, primary, claim, holder, ts: ts + aged, claimed, in_block }
        };
        let mut rows: Vec<Entry> = columns.into_iter().map(entry).collect();
        rows.sort_by_key(|row| row.ip);
        rows
    }

    /// For how long the row has been let go.
    #[allow(clippy::disallowed_methods, reason = "the databases run here, by the same clock")]
    pub fn idle(&self, row: &Entry) -> Duration {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let now = i64::try_from(now).unwrap() + self.aged.load(Ordering::Acquire);
        Duration::from_secs(u64::try_from(now - row.ts).unwrap_or(0))
    }

    /// So many seconds pass by the database's clock: every age in it grows. `false`: a host that stands still has rows locked.
    pub fn age(&self, seconds: u64) -> bool {
        let seconds = i64::try_from(seconds).unwrap();
        match &self.tables {
            Tables::Mariadb { .. } => {
                let aged = self.ask(format!(
                    "START TRANSACTION;\
                     UPDATE allocation SET ts=ts-INTERVAL {seconds} SECOND,claimed=claimed-INTERVAL {seconds} SECOND;\
                     UPDATE task SET until=until-INTERVAL {seconds} SECOND;COMMIT"
                ));
                if aged.is_err() {
                    self.ask("ROLLBACK".to_owned()).unwrap();
                    return false;
                }
            }
            Tables::Sqlite { files } => {
                for (_, file) in files {
                    let aged = lock(file).execute_batch(&format!(
                        "UPDATE allocation SET ts=ts-{seconds},claimed=claimed-{seconds}*1000;\
                         UPDATE task SET until=until-{seconds}"
                    ));
                    aged.unwrap();
                }
            }
        }
        self.aged.fetch_add(seconds, Ordering::AcqRel);
        true
    }

    /// The row becomes what it was, as after a failover that lost the last commits.
    pub fn set_back(&self, seat: usize, to: &Entry) {
        let aged = self.aged.load(Ordering::Acquire);
        let text = |text: &Option<String>| text.as_ref().map_or("NULL".to_owned(), |text| format!("'{text}'"));
        let (ts, claimed) = (to.ts - aged, to.claimed.map(|claimed| claimed - aged * 1000));
        let (ts, claimed) = match &self.tables {
            Tables::Mariadb { .. } => (
                format!("FROM_UNIXTIME({ts})"),
                claimed.map_or("NULL".to_owned(), |at| format!("FROM_UNIXTIME({at}/1000)")),
            ),
            Tables::Sqlite { .. } => (ts.to_string(), claimed.map_or("NULL".to_owned(), |at| at.to_string())),
        };
        let quote = if self.is_shared() { '`' } else { '"' };
        let sql = format!(
            "UPDATE allocation SET status='{}',iface={},{quote}primary{quote}={},claim={},holder={},ts={ts},claimed={claimed},in_block={} WHERE ip='{}'",
            to.status,
            text(&to.iface),
            u8::from(to.primary),
            text(&to.claim),
            text(&to.holder),
            u8::from(to.in_block),
            to.ip
        );
        self.exec(seat, &sql);
    }

    /// Empty tables, for another sequence; no host runs.
    pub fn clear(&self) {
        for seat in 0..self.owners() {
            self.forget(seat);
        }
        self.aged.store(0, Ordering::Release);
    }

    /// Empties the host's table.
    pub fn forget(&self, seat: usize) {
        self.exec(seat, "DELETE FROM allocation;DELETE FROM task");
    }

    fn exec(&self, seat: usize, sql: &str) {
        match &self.tables {
            Tables::Mariadb { .. } => drop(self.ask(sql.to_owned()).unwrap()),
            Tables::Sqlite { files } => lock(&files[seat].1).execute_batch(sql).unwrap(),
        }
    }

    fn ask(&self, sql: String) -> Result<Vec<mysql_async::Row>, mysql_async::Error> {
        let Tables::Mariadb { jobs, .. } = &self.tables else { panic!("there is no server") };
        let (sender, rows) = mpsc::channel();
        lock(jobs).send((sql, sender)).unwrap();
        rows.recv().expect("the database answers")
    }
}

/// The driver itself makes the tables.
async fn made(url: &str) {
    let until = tokio::time::Instant::now() + Duration::from_secs(60);
    Store::open(&url.parse().unwrap(), until).await.unwrap();
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
