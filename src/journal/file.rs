//! The file: what is in it, how it is opened, and how it is put aside.

use std::fs::{DirBuilder, OpenOptions};
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};

use super::pen::Line;
use crate::domain::holding::{Held, Holding, Moment};
use crate::domain::id::{Claim, EniId, SubnetId};

/// One row of `journal`; one of `life` for each life of a driver that wrote here; one of `holding` for each address.
const SCHEMA: &str = "\
    CREATE TABLE IF NOT EXISTS journal(id TEXT NOT NULL, life INTEGER NOT NULL, instance TEXT, boot TEXT NOT NULL) STRICT;\
    CREATE TABLE IF NOT EXISTS holding(ip TEXT PRIMARY KEY, eni TEXT NOT NULL, subnet TEXT NOT NULL, state TEXT NOT NULL,\
    token TEXT, holder TEXT, boot TEXT NOT NULL, since_boot INTEGER NOT NULL, wall INTEGER NOT NULL, posted INTEGER NOT NULL,\
    doubted INTEGER NOT NULL) STRICT, WITHOUT ROWID";
/// Of the file; another one is another program's, or a newer driver's.
const FORMAT: u32 = 1;

/// Which journal speaks, and in which of its lives: the table keeps it for each ENI, so that an older copy is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Drawn when the file was made.
    pub id: String,
    /// How often it was opened.
    pub life: u64,
}

/// How the file was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// There was none, or it was put aside: what it knows begins now.
    pub is_new: bool,
    /// It was written in this boot of the machine.
    pub is_of_this_boot: bool,
    /// The instance that it belongs to, once it was told.
    pub instance: Option<String>,
    /// Why the one that was there was put aside.
    pub put_aside: Option<String>,
}

impl Mark {
    /// Whether the one that spoke before was an earlier life of this journal.
    pub fn follows(&self, before: &str) -> bool {
        let life = before.strip_prefix(&self.id).and_then(|rest| rest.strip_prefix(':'));
        life.and_then(|life| life.parse::<u64>().ok()).is_some_and(|life| life < self.life)
    }
}

impl std::fmt::Display for Mark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.id, self.life)
    }
}

pub(super) struct Found {
    pub(super) file: Result<File, String>,
    pub(super) holdings: Vec<Holding>,
    pub(super) opened: Opened,
}

/// Open, and locked by this process.
pub(super) struct File {
    connection: Connection,
    pub(super) mark: Mark,
}

type Result<T, E = String> = std::result::Result<T, E>;

/// Opens what is there, puts aside what cannot be read, and makes a new one where there is none.
pub(super) fn open(path: &Path, now: &Moment) -> Found {
    let existed = path.exists();
    let mut put_aside = None;
    if existed {
        match read(path, now) {
            Ok(found) => return found,
            Err(why) => {
                let whereto = aside(path);
                let becomes = whereto.as_ref().map_or_else(Clone::clone, |to| format!("put aside as {}", to.display()));
                tracing::error!("the journal {} cannot be read and is {becomes}: {why}", path.display());
                if whereto.is_err() {
                    return Found { file: Err(why), holdings: Vec::new(), opened: fresh(None) };
                }
                put_aside = Some(why);
            }
        }
    }
    Found { file: make(path, &[], now), holdings: Vec::new(), opened: fresh(put_aside) }
}

fn fresh(put_aside: Option<String>) -> Opened {
    Opened { is_new: true, is_of_this_boot: true, instance: None, put_aside }
}

fn read(path: &Path, now: &Moment) -> Result<Found> {
    let mut connection = connect(path)?;
    let sound: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(told)?;
    if sound != "ok" {
        return Err(sound);
    }
    let change = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(told)?;
    let known = "SELECT id, life, instance, boot FROM journal";
    let known = change.query_row(known, [], |row| {
        Ok((
            row.get::<_, String>(0)?,
            row.get::<_, i64>(1)?,
            row.get::<_, Option<String>>(2)?,
            row.get::<_, String>(3)?,
        ))
    });
    let Some((id, life, instance, boot)) = known.optional().map_err(told)? else {
        return Err("it was never finished".to_owned());
    };
    let life = u64::try_from(life).map_err(told)? + 1;
    change.execute("UPDATE journal SET life = ?1, boot = ?2", params![signed(life), &*now.boot]).map_err(told)?;
    let holdings = {
        let mut all = change.prepare("SELECT * FROM holding").map_err(told)?;
        let all = all.query_map([], |row| Ok(holding(row, now))).map_err(told)?;
        all.map(|row| row.map_err(told).and_then(|holding| holding)).collect::<Result<Vec<_>>>()?
    };
    change.commit().map_err(told)?;
    let is_of_this_boot = *boot == *now.boot;
    Ok(Found {
        file: Ok(File { connection, mark: Mark { id, life } }),
        holdings,
        opened: Opened { is_new: false, is_of_this_boot, instance, put_aside: None },
    })
}

/// A new file with all of this in it, or none.
pub(super) fn make(path: &Path, holdings: &[Holding], now: &Moment) -> Result<File> {
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|why| why.to_string())?;
    }
    // Readable by its owner alone: it tells which containers run here.
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|why| why.to_string())?;
    let filled = fill(path, holdings, now);
    if filled.is_err() {
        // Half of one is none.
        let _ = std::fs::remove_file(path);
    }
    filled
}

fn fill(path: &Path, holdings: &[Holding], now: &Moment) -> Result<File> {
    let mut connection = connect(path)?;
    let mark = Mark { id: format!("{:016x}", crate::random::number().map_err(told)?), life: 1 };
    let change = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(told)?;
    change.execute_batch(SCHEMA).map_err(told)?;
    change.pragma_update(None, "user_version", FORMAT).map_err(told)?;
    let insert = "INSERT INTO journal(id, life, boot) VALUES (?1, ?2, ?3)";
    change.execute(insert, params![mark.id, signed(mark.life), &*now.boot]).map_err(told)?;
    for holding in holdings {
        put(&change, holding).map_err(told)?;
    }
    change.commit().map_err(told)?;
    Ok(File { connection, mark })
}

fn connect(path: &Path) -> Result<Connection> {
    let connection = Connection::open(path).map_err(told)?;
    // The driver before this one may be about to end.
    connection.busy_timeout(Duration::from_secs(5)).map_err(told)?;
    // Nobody else has it open then.
    let setup = "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL";
    connection.execute_batch(setup).map_err(told)?;
    let format: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(told)?;
    if format > FORMAT {
        return Err(format!("a newer driver wrote it (format {format})"));
    }
    Ok(connection)
}

/// Renames the file and what goes with it; says to what.
pub(super) fn aside(path: &Path) -> Result<PathBuf> {
    let when = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_millis();
    let beside = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    // Its log first: without it a file is older than it was, and that is worse than none.
    for suffix in ["-wal", "-shm", ""] {
        match std::fs::rename(beside(suffix), beside(&format!(".aside-{when}{suffix}"))) {
            Err(why) if !matches!(why.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Err(format!("cannot be put aside ({why})"));
            }
            _ => {}
        }
    }
    Ok(beside(&format!(".aside-{when}")))
}

impl File {
    /// All of it in one commit.
    pub(super) fn write(&mut self, lines: &[&Line]) -> Result<()> {
        let change = self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(told)?;
        for line in lines {
            match line {
                Line::Put(holding) => put(&change, holding),
                Line::Strike(ip) => change
                    .prepare_cached("DELETE FROM holding WHERE ip = ?1")
                    .and_then(|mut s| s.execute([ip.to_string()])),
                Line::Belongs(instance) => change.execute("UPDATE journal SET instance = ?1", [instance]),
                Line::Anew => Ok(0),
            }
            .map_err(told)?;
        }
        change.commit().map_err(told)
    }
}

fn put(connection: &Connection, holding: &Holding) -> rusqlite::Result<usize> {
    let Holding { ip, eni, subnet, held, holder, let_go, posted, doubted } = holding;
    let mut put =
        connection.prepare_cached("INSERT OR REPLACE INTO holding VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11)")?;
    put.execute(params![
        ip.to_string(),
        eni.as_str(),
        subnet.as_str(),
        word(held),
        held.token().map(Claim::as_str),
        holder,
        &*let_go.boot,
        millis(let_go.since_boot),
        millis(let_go.wall),
        posted,
        doubted
    ])
}

fn word(held: &Held) -> &'static str {
    match held {
        Held::Idle => "idle",
        Held::Lease(_) => "lease",
        Held::Leaving(_) => "leaving",
    }
}

fn holding(row: &Row<'_>, now: &Moment) -> Result<Holding> {
    let text = |at| row.get::<_, String>(at).map_err(told);
    let token = row.get::<_, Option<String>>(4).map_err(told)?.map(Claim::stored);
    let held = match (text(3)?.as_str(), token) {
        ("idle", None) => Held::Idle,
        ("lease", Some(token)) => Held::Lease(token),
        ("leaving", Some(token)) => Held::Leaving(token),
        (state, token) => return Err(format!("an address is {state:?} by {token:?}")),
    };
    let ip: Ipv4Addr = text(0)?.parse().map_err(|_| "an address is none".to_owned())?;
    let span = |at| {
        row.get::<_, i64>(at).map_err(told).and_then(|n| u64::try_from(n).map(Duration::from_millis).map_err(told))
    };
    let mut let_go = Moment { boot: text(6)?.into(), since_boot: span(7)?, wall: span(8)? };
    // A clock that was set since: from now on it runs.
    let is_ahead = if let_go.boot == now.boot { let_go.since_boot > now.since_boot } else { let_go.wall > now.wall };
    if is_ahead {
        let_go = now.clone();
    } else if let_go.boot == now.boot {
        let_go.boot = Arc::clone(&now.boot);
    }
    Ok(Holding {
        ip,
        eni: EniId::stored(text(1)?),
        subnet: SubnetId::stored(text(2)?),
        held,
        holder: row.get(5).map_err(told)?,
        let_go,
        posted: row.get(9).map_err(told)?,
        doubted: row.get(10).map_err(told)?,
    })
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn told(why: impl std::fmt::Display) -> String {
    why.to_string()
}
