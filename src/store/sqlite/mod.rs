//! The table in a file of this host's own: nothing to set up.
//!
//! One connection, used by one call at a time, on threads where blocking is allowed. Other hosts do not see the file,
//! so EC2 alone tells what they have; hence free addresses are drawn at random, lest every host try the same ones.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv4Net;
use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use crate::domain::address::{Change, NewRow, Row};
use crate::domain::block::Block;
use crate::domain::history::Use;
use crate::domain::id::{Claim, EniId, SubnetId};
use crate::domain::roll::{Answer, HostEntry, KnownHost, Request};
use crate::domain::subnet::Subnet;
use crate::fail_point::point;

use super::clock::Clock;
use super::raw::LeftOut;
use super::{BlockClaim, Count, Description, FreeClaim, StoreError, raw};
use trouble::Trouble;

mod blocks;
mod history;
mod read;
mod roll;
mod schema;
mod trouble;
mod write;

type Result<T> = std::result::Result<T, StoreError>;

/// A file that was opened once.
pub(super) struct Sqlite {
    at: String,
    path: PathBuf,
    file: Arc<Mutex<File>>,
}

/// The file as it is open now.
struct File {
    connection: Option<Connection>,
    /// Device and inode: whether the path still leads to it.
    id: Option<(u64, u64)>,
    known: Arc<Known>,
}

/// What was seen of the file's rows.
#[derive(Default)]
struct Known {
    clock: Clock,
    left_out: LeftOut,
}

impl File {
    /// The connection to what is at the path now. A file that was moved away is left behind whole, and what is there instead
    /// is used; if that is nothing, a new one is made.
    fn at(&mut self, path: &Path, patience: Duration) -> std::result::Result<&mut Connection, Trouble> {
        if self.connection.is_none() || self.id != identity(path) {
            if let Some(old) = self.connection.take() {
                tracing::error!("{} was moved away, deleted or replaced: what is there now is used", path.display());
                // Before another one is opened: closing would remove that one's log.
                let _ = old.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
                drop(old);
            }
            let mut new = create(path)?;
            new.busy_timeout(patience)?;
            migrate(&mut new)?;
            self.id = identity(path);
            return Ok(self.connection.insert(new));
        }
        let connection = self.connection.as_mut().ok_or(Trouble::Silent)?;
        connection.busy_timeout(patience)?;
        Ok(connection)
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    path.metadata().ok().map(|meta| (meta.dev(), meta.ino()))
}

impl Sqlite {
    pub(super) async fn open(file: &Path, until: Instant) -> Result<Self> {
        let known = Arc::new(Known::default());
        let closed = File { connection: None, id: None, known };
        let sqlite = Self { at: file.display().to_string(), path: file.to_owned(), file: Arc::new(Mutex::new(closed)) };
        sqlite.run(until, |_, _| Ok(())).await?;
        Ok(sqlite)
    }

    /// Does the work on a thread that may block. A call that is given up on goes on there, and the next one waits.
    async fn run<T: Send + 'static>(
        &self,
        until: Instant,
        work: impl Fn(&mut Connection, &Known) -> std::result::Result<T, Trouble> + Send + 'static,
    ) -> Result<T> {
        let path = self.path.clone();
        let work = async {
            let mut file = Arc::clone(&self.file).lock_owned().await;
            let patience = until.saturating_duration_since(Instant::now());
            let done = tokio::task::spawn_blocking(move || {
                let known = Arc::clone(&file.known);
                let connection = file.at(&path, patience)?;
                match work(connection, &known) {
                    // Somebody dropped or changed it under us: what is lacking can be added again.
                    Err(Trouble::Schema(_)) => {
                        migrate(connection)?;
                        work(connection, &known)
                    }
                    done => done,
                }
            });
            done.await.unwrap_or_else(|_| Err(Trouble::silent()))
        };
        let done = timeout_at(until, work).await.unwrap_or_else(|_| Err(Trouble::silent()));
        done.map_err(|trouble| trouble.into_error(&self.at))
    }

    pub(super) async fn describe(&self, until: Instant) -> Result<Description> {
        let seen = |file: &mut Connection, known: &Known| Ok((read::version(file)?, known.left_out.told()));
        let (version, left_out) = self.run(until, seen).await?;
        let (kind, at, binlog_format, connections) = ("sqlite", self.at.clone(), None, None);
        Ok(Description { kind, at, version, binlog_format, connections, lacking: Vec::new(), left_out })
    }

    pub(super) async fn rows_at(&self, ips: &[Ipv4Addr], until: Instant) -> Result<Vec<Row>> {
        let ips = ips.to_vec();
        self.run(until, move |file, known| read::rows_at(file, known, ips.clone())).await
    }

    pub(super) async fn rows_of_eni(&self, eni: &EniId, until: Instant) -> Result<Vec<Row>> {
        let eni = eni.clone();
        self.run(until, move |file, known| read::rows_of_eni(file, known, &eni)).await
    }

    pub(super) async fn rows_of_subnet(&self, subnet: &SubnetId, until: Instant) -> Result<Vec<Row>> {
        let subnet = subnet.clone();
        self.run(until, move |file, known| read::rows_of_subnet(file, known, &subnet, "")).await
    }

    pub(super) async fn rows_taken(&self, subnet: &SubnetId, until: Instant) -> Result<Vec<Row>> {
        let subnet = subnet.clone();
        self.run(until, move |file, known| read::rows_of_subnet(file, known, &subnet, raw::TAKEN)).await
    }

    pub(super) async fn rows_reserved(&self, subnet: &SubnetId, until: Instant) -> Result<Vec<Row>> {
        let subnet = subnet.clone();
        self.run(until, move |file, known| read::rows_of_subnet(file, known, &subnet, raw::RESERVED)).await
    }

    pub(super) async fn subnets(&self, until: Instant) -> Result<Vec<SubnetId>> {
        self.run(until, |file, _| read::subnets(file)).await
    }

    pub(super) async fn census(&self, subnet: &SubnetId, until: Instant) -> Result<Vec<Count>> {
        let subnet = subnet.clone();
        self.run(until, move |file, known| read::census(file, known, &subnet)).await
    }

    /// Counting all of it costs next to nothing here.
    pub(super) async fn census_lately(&self, subnet: &SubnetId, until: Instant) -> Result<Vec<Count>> {
        self.census(subnet, until).await
    }

    pub(super) async fn has_free(&self, subnet: &SubnetId, least: u64, until: Instant) -> Result<bool> {
        let subnet = subnet.clone();
        self.run(until, move |file, _| read::has_free(file, &subnet, least)).await
    }

    /// Nobody else writes to it.
    pub(super) async fn has_strangers(&self, _: &SubnetId, _: &BTreeSet<EniId>, _: Instant) -> Result<bool> {
        Ok(false)
    }

    pub(super) async fn blocks_taken(&self, subnet: &Subnet, until: Instant) -> Result<(u64, u64)> {
        let subnet = subnet.clone();
        self.run(until, move |file, _| read::blocks_taken(file, &subnet)).await
    }

    pub(super) async fn claim_free(&self, wanted: &FreeClaim<'_>, until: Instant) -> Result<Vec<Row>> {
        let take = write::Take::new(wanted);
        self.run(until, move |file, known| take.run(file, known)).await
    }

    pub(super) async fn apply(&self, changes: &[Change], until: Instant) -> Result<Vec<bool>> {
        let changes = changes.to_vec();
        self.run(until, move |file, _| write::apply(file, &changes)).await
    }

    pub(super) async fn apply_together(&self, groups: &[Vec<Change>], until: Instant) -> Result<Vec<bool>> {
        let groups = groups.to_vec();
        self.run(until, move |file, _| blocks::apply_together(file, &groups)).await
    }

    pub(super) async fn whole_blocks(
        &self,
        subnet: &SubnetId,
        within: Option<Ipv4Net>,
        most: usize,
        until: Instant,
    ) -> Result<Vec<Block>> {
        let subnet = subnet.clone();
        self.run(until, move |file, _| blocks::whole(file, subnet.as_str(), within, most)).await
    }

    pub(super) async fn plenty(&self, subnet: &Subnet, until: Instant) -> Result<bool> {
        let subnet = subnet.clone();
        self.run(until, move |file, _| blocks::plenty(file, &subnet)).await
    }

    pub(super) async fn claim_blocks(&self, wanted: &BlockClaim<'_>, until: Instant) -> Result<Vec<Row>> {
        let take = blocks::Take::new(wanted);
        self.run(until, move |file, known| take.run(file, known)).await
    }

    pub(super) async fn insert_missing(&self, subnet: &SubnetId, rows: &[NewRow], until: Instant) -> Result<u64> {
        // All is checked before anything is inserted: a second VPC in the table must not leave half of itself there.
        let (of, all): (_, Vec<_>) = (subnet.clone(), rows.iter().map(|row| row.ip).collect());
        self.run(until, move |file, _| write::not_elsewhere(file, &of, &all)).await?;
        let mut inserted = 0;
        for chunk in rows.chunks(write::CHUNK) {
            let (of, chunk) = (subnet.clone(), chunk.to_vec());
            inserted += self.run(until, move |file, _| write::insert_missing(file, &of, &chunk)).await?;
            point("init:chunk").await;
        }
        Ok(inserted)
    }

    pub(super) async fn spoke(&self, name: &str, until: Instant) -> Result<Option<String>> {
        let name = name.to_owned();
        self.run(until, move |file, _| write::spoke(file, &name)).await
    }

    pub(super) async fn speaks(&self, name: &str, mark: &str, until: Instant) -> Result<()> {
        let (name, mark) = (name.to_owned(), mark.to_owned());
        self.run(until, move |file, _| write::speaks(file, &name, &mark)).await
    }

    pub(super) async fn tasks_over(&self, prefix: &str, within: Duration, until: Instant) -> Result<Vec<String>> {
        let prefix = prefix.to_owned();
        self.run(until, move |file, _| write::tasks_over(file, &prefix, within)).await
    }

    pub(super) async fn hold_task(&self, name: &str, holder: &str, span: Duration, until: Instant) -> Result<bool> {
        let (name, holder) = (name.to_owned(), holder.to_owned());
        self.run(until, move |file, _| write::hold_task(file, &name, &holder, span)).await
    }

    pub(super) async fn enter(&self, host: &HostEntry, open: Duration, until: Instant) -> Result<Vec<Request>> {
        let host = host.clone();
        self.run(until, move |file, _| roll::enter(file, &host, open)).await
    }

    pub(super) async fn host_seen(&self, instance: &str, until: Instant) -> Result<Option<Duration>> {
        let instance = instance.to_owned();
        self.run(until, move |file, _| roll::host_seen(file, &instance)).await
    }

    pub(super) async fn hosts(&self, until: Instant) -> Result<Vec<KnownHost>> {
        self.run(until, |file, _| roll::hosts(file)).await
    }

    pub(super) async fn forget(&self, hosts: &[String], unseen: Duration, until: Instant) -> Result<()> {
        let hosts = hosts.to_vec();
        self.run(until, move |file, _| roll::forget(file, &hosts, unseen)).await
    }

    pub(super) async fn ask(&self, hosts: &[String], request: &Request, until: Instant) -> Result<()> {
        let (hosts, request) = (hosts.to_vec(), request.clone());
        self.run(until, move |file, _| roll::ask(file, &hosts, &request)).await
    }

    pub(super) async fn answer(&self, host: &str, request: &Request, answer: &Answer, until: Instant) -> Result<()> {
        let (host, request, answer) = (host.to_owned(), request.clone(), answer.clone());
        self.run(until, move |file, _| roll::answer(file, &host, &request, &answer)).await
    }

    pub(super) async fn answers(
        &self,
        hosts: &[String],
        subnet: &SubnetId,
        until: Instant,
    ) -> Result<HashMap<String, Answer>> {
        let (hosts, subnet) = (hosts.to_vec(), subnet.clone());
        self.run(until, move |file, _| roll::answers(file, &hosts, &subnet)).await
    }

    pub(super) async fn tell_uses(&self, uses: &[Use], until: Instant) -> Result<()> {
        let uses = uses.to_vec();
        self.run(until, move |file, _| history::tell(file, &uses)).await
    }

    pub(super) async fn uses_of(&self, ip: Ipv4Addr, until: Instant) -> Result<Vec<Use>> {
        self.run(until, move |file, _| history::of(file, ip)).await
    }

    pub(super) async fn uses_of_container(&self, container: &str, until: Instant) -> Result<Vec<Use>> {
        let container = container.to_owned();
        self.run(until, move |file, _| history::of_container(file, &container)).await
    }

    pub(super) async fn use_at(&self, token: &Claim, until: Instant) -> Result<Option<Use>> {
        let token = token.as_str().to_owned();
        self.run(until, move |file, _| history::at(file, &token)).await
    }

    pub(super) async fn uses_since(&self, until: Instant) -> Result<Option<u64>> {
        self.run(until, |file, _| history::since(file)).await
    }

    pub(super) async fn open_uses(&self, after: &str, quiet: Duration, until: Instant) -> Result<Vec<Use>> {
        let after = after.to_owned();
        self.run(until, move |file, _| history::open(file, &after, quiet)).await
    }

    pub(super) async fn close_uses(&self, tokens: &[Claim], quiet: Duration, until: Instant) -> Result<u64> {
        let tokens: Vec<String> = tokens.iter().map(|token| token.as_str().to_owned()).collect();
        self.run(until, move |file, _| history::close(file, &tokens, quiet)).await
    }

    pub(super) async fn forget_uses(&self, kept: Duration, until: Instant) -> Result<u64> {
        self.run(until, move |file, _| history::forget(file, kept)).await
    }
}

/// Opens the file, made if missing, readable by its owner alone: its rows tell which containers run where.
fn create(path: &Path) -> std::result::Result<Connection, Trouble> {
    if let Some(parent) = path.parent() {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(parent);
        made.map_err(|error| Trouble::io("its directory cannot be made", &error))?;
    }
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = opened.map_err(|error| Trouble::io("it cannot be opened for writing", &error))?;
    let meta = file.metadata().map_err(|error| Trouble::io("it cannot be looked at", &error))?;
    if !meta.is_file() {
        return Err(Trouble::Broken("it is not a file".to_owned()));
    }
    if meta.permissions().mode() & 0o077 != 0 {
        let closed = file.set_permissions(Permissions::from_mode(0o600));
        closed.map_err(|error| Trouble::io("it is readable by others, and that cannot be changed", &error))?;
    }
    // Closing any descriptor of the file drops this process's locks on it, so this one goes before SQLite takes any.
    drop(file);
    let connection = Connection::open(path)?;
    let mode: String = connection.query_row("PRAGMA journal_mode=WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        return Err(Trouble::Broken("its file system is unfit: SQLite cannot keep a write-ahead log there".to_owned()));
    }
    connection.execute_batch("PRAGMA synchronous=FULL")?;
    Ok(connection)
}

/// Takes the steps, which change nothing that is there, and adds columns that somebody dropped. A file of a newer driver
/// has more in it, which does no harm.
fn migrate(connection: &mut Connection) -> std::result::Result<(), Trouble> {
    let change = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let taken: u32 = change.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    for (step, number) in schema::STEPS.iter().zip(1_u32..) {
        change.execute_batch(step)?;
        if number > taken {
            change.pragma_update(None, "user_version", number)?;
        }
    }
    for (table, column, kind) in schema::COLUMNS {
        let there = "SELECT count(*) FROM pragma_table_info(?1) WHERE name = ?2";
        if change.query_row(there, [table, column], |row| row.get::<_, u32>(0))? > 0 {
            continue;
        }
        let Some(kind) = kind else {
            return Err(Trouble::Broken(format!(
                "its table `{table}` has no column {column}; move the file away, and the driver makes a new one"
            )));
        };
        change.execute_batch(&format!("ALTER TABLE {table} ADD COLUMN {column} {kind}"))?;
    }
    change.commit()?;
    Ok(())
}

impl fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sqlite({})", self.at)
    }
}
