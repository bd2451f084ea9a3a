//! The file: how it is opened, written, and put aside.

use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, TransactionBehavior, params};

use super::clock::wall;
use super::line::Line;
use super::uses::Uses;
use super::{row, use_row};
use crate::domain::history::millis;
use crate::domain::holding::{Holding, Moment};

/// One row: which journal this is. The addresses are `row`'s.
const SCHEMA: &str = "\
    CREATE TABLE IF NOT EXISTS journal(id TEXT NOT NULL, commits INTEGER NOT NULL, instance TEXT, boot TEXT NOT NULL,\
    heir_of TEXT NOT NULL) STRICT";
/// Of the file; another one is another program's, or a newer driver's.
const FORMAT: u32 = 2;
/// How long another process that has the file is waited for. Longer than a driver takes to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which journal speaks, and how far it has come: the table keeps it for each ENI, so that an older copy is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Drawn when the file was made.
    pub id: String,
    /// How many commits it has had.
    pub commits: u64,
}

/// How the file was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// It was written in this boot of the machine.
    pub is_of_this_boot: bool,
    /// The instance that it belongs to, once it was told.
    pub instance: Option<String>,
    /// Which one it was, and how far it had come, and of which others it has all; none where it is new.
    pub marks: Vec<Mark>,
}

impl Opened {
    /// There was none that could be used: what it knows begins now.
    pub fn is_new(&self) -> bool {
        self.marks.is_empty()
    }
}

impl Mark {
    /// Whether what spoke before was this journal, not as far as it is now.
    pub fn follows(&self, before: &str) -> bool {
        self.commits_of(before).is_some_and(|commits| commits < self.commits)
    }

    /// The same, or as far as it is now.
    pub fn has(&self, before: &str) -> bool {
        self.commits_of(before).is_some_and(|commits| commits <= self.commits)
    }

    fn parse(text: &str) -> Option<Self> {
        let (id, commits) = text.split_once(':')?;
        Some(Self { id: id.to_owned(), commits: commits.parse().ok()? })
    }

    /// How far this journal had come then.
    fn commits_of(&self, before: &str) -> Option<u64> {
        before.strip_prefix(&self.id)?.strip_prefix(':')?.parse().ok()
    }
}

impl std::fmt::Display for Mark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.id, self.commits)
    }
}

pub(super) struct Found {
    pub(super) file: Result<File>,
    pub(super) holdings: Vec<Holding>,
    pub(super) uses: Uses,
    pub(super) opened: Opened,
    /// As what the one that was there was put aside, and why.
    pub(super) put_aside: Option<String>,
}

/// Open, and locked by this process.
pub(super) struct File {
    connection: Connection,
    path: PathBuf,
    /// Device and inode: whether the path still leads to it.
    identity: Option<(u64, u64)>,
    pub(super) mark: Mark,
    heir_of: Vec<Mark>,
}

type Result<T, E = String> = std::result::Result<T, E>;

/// Opens what is there, puts aside what cannot be used, and makes a new one where there is none.
pub(super) fn open(path: &Path, now: &Moment) -> Found {
    let opened = Opened { is_of_this_boot: true, instance: None, marks: Vec::new() };
    let uses = Uses::default();
    let mut found = Found { file: Err(String::new()), holdings: Vec::new(), uses, opened, put_aside: None };
    if path.symlink_metadata().is_ok() {
        let why = match read(path, now) {
            Ok(found) => return found,
            Err(why) => why,
        };
        match aside(path) {
            Ok(to) => {
                tracing::error!("the journal {} cannot be used and is put aside as {to}: {why}", path.display());
                found.put_aside = Some(format!("{to} ({why})"));
            }
            Err(_) => return Found { file: Err(why), ..found },
        }
    }
    found.file = make(path, &[], &mut found.uses, None, Vec::new(), now);
    found
}

fn read(path: &Path, now: &Moment) -> Result<Found> {
    let mut connection = connect(path)?;
    let sound: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(told)?;
    if sound != "ok" {
        return Err(sound);
    }
    let change = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(told)?;
    let known = change.query_row("SELECT id, commits, instance, boot, heir_of FROM journal", [], |row| {
        let (id, commits, heir_of): (String, i64, String) = (row.get(0)?, row.get(1)?, row.get(4)?);
        let (instance, boot): (Option<String>, String) = (row.get(2)?, row.get(3)?);
        Ok((id, commits, instance, boot, heir_of))
    });
    let Some((id, commits, instance, boot, heir_of)) = known.optional().map_err(told)? else {
        return Err("it was never finished".to_owned());
    };
    let commits = u64::try_from(commits).map_err(told)? + 1;
    change.execute("UPDATE journal SET commits = ?1, boot = ?2", params![signed(commits), &*now.boot]).map_err(told)?;
    let holdings = row::all(&change, now)?;
    // A driver before history wrote it.
    change.execute_batch(use_row::SCHEMA).map_err(told)?;
    change.pragma_update(None, "user_version", FORMAT).map_err(told)?;
    let mut uses = use_row::load(&change, &holdings, millis(now.wall)).map_err(told)?;
    let (kept, forgotten) = use_row::write(&change, &uses).map_err(told)?;
    change.commit().map_err(told)?;
    uses.written(kept, &forgotten);
    let mark = Mark { id, commits };
    let heir_of: Vec<Mark> = heir_of.split_whitespace().filter_map(Mark::parse).collect();
    let marks = std::iter::once(mark.clone()).chain(heir_of.iter().cloned()).collect();
    let opened = Opened { is_of_this_boot: *boot == *now.boot, instance, marks };
    Ok(Found { file: Ok(File::new(connection, path, mark, heir_of)), holdings, uses, opened, put_aside: None })
}

/// A new file with all of this in it, or none. `heir_of`: the files whose place it takes in the midst of a life.
pub(super) fn make(
    path: &Path,
    holdings: &[Holding],
    uses: &mut Uses,
    instance: Option<&str>,
    heir_of: Vec<Mark>,
    now: &Moment,
) -> Result<File> {
    let folder = path.parent().unwrap_or(path);
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(told)?;
    // Readable by its owner alone: it tells which containers run here.
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(told)?;
    uses.for_a_new_file(millis(now.wall));
    let filled = fill(path, holdings, uses, instance, heir_of, now).and_then(|file| sync(folder).map(|()| file));
    if filled.is_err() {
        // Half of one is none.
        for suffix in ["", "-wal", "-journal"] {
            let _ = std::fs::remove_file(beside(path, suffix));
        }
    }
    filled
}

fn fill(
    path: &Path,
    holdings: &[Holding],
    uses: &mut Uses,
    instance: Option<&str>,
    heir_of: Vec<Mark>,
    now: &Moment,
) -> Result<File> {
    let mut connection = connect(path)?;
    let mark = Mark { id: format!("{:016x}", crate::random::number().map_err(told)?), commits: 1 };
    let change = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(told)?;
    change.execute_batch(SCHEMA).map_err(told)?;
    change.execute_batch(row::SCHEMA).map_err(told)?;
    change.execute_batch(use_row::SCHEMA).map_err(told)?;
    change.pragma_update(None, "user_version", FORMAT).map_err(told)?;
    let before = heir_of.iter().map(Mark::to_string).collect::<Vec<_>>().join(" ");
    let insert = "INSERT INTO journal(id, commits, instance, boot, heir_of) VALUES (?1, ?2, ?3, ?4, ?5)";
    change.execute(insert, params![mark.id, signed(mark.commits), instance, &*now.boot, before]).map_err(told)?;
    for holding in holdings {
        row::put(&change, holding).map_err(told)?;
    }
    use_row::begin(&change, uses.kept.since).map_err(told)?;
    let (kept, forgotten) = use_row::write(&change, uses).map_err(told)?;
    change.commit().map_err(told)?;
    uses.written(kept, &forgotten);
    Ok(File::new(connection, path, mark, heir_of))
}

fn connect(path: &Path) -> Result<Connection> {
    let connection = Connection::open_with_flags(path, existing()).map_err(told)?;
    // The driver before this one may be about to end, or somebody looks at the file.
    connection.busy_timeout(PATIENCE).map_err(told)?;
    // Nobody else has it open then.
    let setup = "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL";
    connection.execute_batch(setup).map_err(told)?;
    let format: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(told)?;
    if format > FORMAT {
        return Err(format!("a newer driver wrote it (format {format})"));
    }
    // A copy that was brought back may be everybody's to read.
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(told)?;
    Ok(connection)
}

/// Renames the file and what goes with it, for good; says to what. If it cannot, the error ends a sentence that says "it is".
pub(super) fn aside(path: &Path) -> Result<String> {
    if is_in_use(path) {
        return Err("in use by another process".to_owned());
    }
    let when = wall().as_millis();
    // Its log first: without it a file is older than it was, and that is worse than none.
    for suffix in ["-wal", "-shm", "-journal", ""] {
        match std::fs::rename(beside(path, suffix), beside(path, &format!(".aside-{when}{suffix}"))) {
            Err(why) if !matches!(why.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Err(format!("left where it is, as it cannot be renamed ({why})"));
            }
            _ => {}
        }
    }
    // The machine may fail: the old name would be back.
    sync(path.parent().unwrap_or(path)).map_err(|why| format!("renamed, but that may not last ({why})"))?;
    Ok(beside(path, &format!(".aside-{when}")).display().to_string())
}

/// Only what is there is opened.
fn existing() -> OpenFlags {
    OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX
}

/// Renamed under another process it would be written on, and be missing here.
fn is_in_use(path: &Path) -> bool {
    let take = |file: Connection| {
        file.busy_timeout(Duration::ZERO)?;
        file.execute_batch("PRAGMA locking_mode=EXCLUSIVE; BEGIN EXCLUSIVE; ROLLBACK")
    };
    let taken = Connection::open_with_flags(path, existing()).and_then(take);
    taken.is_err_and(|why| why.sqlite_error_code() == Some(ErrorCode::DatabaseBusy))
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// What is in a folder is there after the machine failed, too.
fn sync(folder: &Path) -> Result<()> {
    match std::fs::File::open(folder).and_then(|folder| folder.sync_all()) {
        Err(why) if !matches!(why.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Err(told(why)),
        _ => Ok(()),
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    path.metadata().ok().map(|meta| (meta.dev(), meta.ino()))
}

impl File {
    fn new(connection: Connection, path: &Path, mark: Mark, heir_of: Vec<Mark>) -> Self {
        Self { connection, path: path.to_owned(), identity: identity(path), mark, heir_of }
    }

    /// The marks of all that it has, for the file that takes its place.
    pub(super) fn marks(self) -> Vec<Mark> {
        std::iter::once(self.mark).chain(self.heir_of).collect()
    }

    /// All of it in one commit, what follows from it for uses as well.
    pub(super) fn write(&mut self, lines: &[&Line], uses: &mut Uses) -> Result<()> {
        self.is_there()?;
        let commits = self.mark.commits + 1;
        let change = self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(told)?;
        for line in lines {
            match line {
                Line::Put(holding) | Line::Give(holding, _) | Line::End(holding, _) => row::put(&change, holding),
                Line::Strike(ip) => row::strike(&change, *ip),
                Line::Belongs(instance) => change.execute("UPDATE journal SET instance = ?1", [instance]),
                Line::Anew | Line::Shown(..) | Line::Told(_) => Ok(0),
            }
            .map_err(told)?;
        }
        let (kept, forgotten) = use_row::write(&change, uses).map_err(told)?;
        let count = |mut count: rusqlite::CachedStatement<'_>| count.execute([signed(commits)]);
        change.prepare_cached("UPDATE journal SET commits = ?1").and_then(count).map_err(told)?;
        change.commit().map_err(told)?;
        self.mark.commits = commits;
        uses.written(kept, &forgotten);
        Ok(())
    }

    /// Takes out some of the uses that were over before that time (Unix milliseconds), and says whether there may be more.
    pub(super) fn forget(&mut self, before: u64, uses: &mut Uses) -> Result<bool> {
        self.is_there()?;
        let forgotten = use_row::forget(&self.connection, before).map_err(told)?;
        uses.forgets(&forgotten);
        Ok(u32::try_from(forgotten.len()).is_ok_and(|count| count >= use_row::PAGE))
    }

    /// Looks at uses on the disk.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        look(&self.connection).map_err(told)
    }

    fn is_there(&self) -> Result<()> {
        if self.identity == identity(&self.path) {
            return Ok(());
        }
        Err("it was moved away, deleted or replaced".to_owned())
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn told(why: impl std::fmt::Display) -> String {
    why.to_string()
}
