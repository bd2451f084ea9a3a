//! The one seam: the table of addresses, in MySQL for a fleet or in an SQLite file for one host.
//!
//! The store carries out claims and guarded changes and decides nothing else. No transaction outlives a call (I4). Every
//! call ends by `until`; conflicts and lost connections are retried within it. Whatever is retried is safe to: a claim is
//! looked up by its token, a guarded change that finds its row already changed as wanted has happened.
//!
//! What somebody dropped under an open store is made again at the next call (`schema`); what a clock wrote that has been set
//! since is not believed (`clock`); rows that cannot be read are left out (`raw`).

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ipnet::Ipv4Net;
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::domain::address::{Change, NewRow, Row, State};
use crate::domain::history::Use;
use crate::domain::id::{Claim, EniId, SubnetId};
use crate::domain::roll::{Answer, HostEntry, KnownHost, Request};
use crate::fail_point::Underway;

/// Hands a call to whichever store it is.
macro_rules! either {
    ($store:expr, $s:ident => $call:expr) => {{
        let _underway = Underway::here();
        let outcome = match &$store.table {
            Table::MySql($s) => $call.await,
            Table::Sqlite($s) => $call.await,
        };
        $store.fared(outcome.as_ref().err());
        outcome
    }};
}

mod blocks;
mod clock;
mod error;
mod login;
mod mysql;
pub mod password_file;
mod raw;
mod schema;
mod sqlite;
mod url;

pub use blocks::{BlockClaim, Blocks};
pub use error::StoreError;
pub use login::{Login, Password, Tokens};
pub use schema::whole as whole_schema;
pub use url::{BadUrl, Database, HostPort, Server, Tls};

/// How the name of a task begins that is who sends for a distant ENI; then its id.
const SENDER: &str = "eni:";
/// So many uses of addresses are read at most, the last ones,
const MOST_USES: u32 = 10_000;
/// and so many looked at, or forgotten, at once.
const PAGE: u64 = 1000;

/// Free addresses of a subnet to be taken for an ENI.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the names say it")]
pub struct FreeClaim<'a> {
    pub subnet: &'a SubnetId,
    pub eni: &'a EniId,
    /// Only inside this block.
    pub sub_pool: Option<Ipv4Net>,
    /// Only those let go at least so long ago; zero: any.
    pub cooldown: Duration,
    /// None of these.
    pub except: &'a [Ipv4Addr],
    /// At most so many.
    pub count: usize,
    /// An `on` token, used for this call only.
    pub claim: &'a Claim,
}

/// What a store is, for `status` and `doctor`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Description {
    /// `mysql` or `sqlite`.
    pub kind: &'static str,
    /// Where: host, port and database, or the file. No user, no password.
    pub at: String,
    /// The server's own version text.
    pub version: String,
    /// The binary log's format; none where there is no binary log.
    pub binlog_format: Option<String>,
    /// The server's connections; none where there is no server.
    pub connections: Option<Connections>,
    /// Columns and keys that the schema lacks, and the SQL that adds them.
    pub lacking: Vec<String>,
    /// Rows that cannot be read and were left out of late: a sentence for each.
    pub left_out: Vec<String>,
}

/// Connections to a server, of whatever client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Connections {
    /// What the server allows (`max_connections`).
    pub limit: u64,
    /// Open now.
    pub now: u64,
    /// The most that were open at once since the server started.
    pub most: u64,
}

/// How many rows of a subnet are in a state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Count {
    pub state: State,
    pub iface: Option<EniId>,
    pub rows: u64,
}

/// An open store.
#[derive(Debug)]
pub struct Store {
    table: Table,
    health: Mutex<Health>,
}

/// Of one of the two kinds.
#[derive(Debug)]
enum Table {
    /// Shared by a fleet.
    MySql(mysql::MySql),
    /// This host's own file.
    Sqlite(sqlite::Sqlite),
}

/// How its calls fared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Why the last one that ended did not succeed; none: it did.
    pub trouble: Option<String>,
    /// When one last did.
    pub last_success: Instant,
}

type Result<T> = std::result::Result<T, StoreError>;

impl Store {
    /// Connects, refuses servers that are too old, and brings the schema up to date: tables are created if missing,
    /// columns and keys are only ever added.
    ///
    /// # Errors
    /// Any of [`StoreError`] but `Busy`; an unreachable server is not waited for here.
    pub async fn open(database: &Database, until: Instant) -> Result<Self> {
        let _underway = Underway::here();
        let table = match database {
            Database::MySql(server) => Table::MySql(mysql::MySql::open(server, until).await?),
            Database::Sqlite(file) => Table::Sqlite(sqlite::Sqlite::open(file, until).await?),
        };
        let health = Health { trouble: None, last_success: Instant::now() };
        Ok(Self { table, health: Mutex::new(health) })
    }

    /// How its calls fared.
    pub fn health(&self) -> Health {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn fared(&self, why: Option<&StoreError>) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        health.trouble = why.map(ToString::to_string);
        if why.is_none() {
            health.last_success = Instant::now();
        }
    }

    /// The statements that make its tables what they must be, as far as they are not yet; an SQLite file needs none.
    ///
    /// # Errors
    /// As [`Store::open`]; this one changes nothing.
    pub async fn lacking(database: &Database, until: Instant) -> Result<Vec<&'static str>> {
        match database {
            Database::MySql(server) => mysql::lacking(server, until).await,
            Database::Sqlite(_) => Ok(Vec::new()),
        }
    }

    /// As the store of a server for many hosts: more calls go beside each other.
    pub fn serves_many(&self) {
        match &self.table {
            Table::MySql(mysql) => mysql.serves_many(),
            Table::Sqlite(_) => {}
        }
    }

    /// A turn for work that nobody waits for, such as a release: so few have one at a time that requests never wait behind
    /// more than these. To be held for one attempt; none where it takes no time.
    pub async fn background_turn(&self) -> Option<OwnedSemaphorePermit> {
        match &self.table {
            Table::MySql(mysql) => mysql.background_turn().await,
            Table::Sqlite(_) => None,
        }
    }

    /// Whether other hosts cannot see it: then only EC2 knows which addresses they have.
    pub fn is_private(&self) -> bool {
        matches!(self.table, Table::Sqlite(_))
    }

    /// What it is and whether its schema is whole. A round trip: proves that it answers.
    pub async fn describe(&self, until: Instant) -> Result<Description> {
        either!(self, s => s.describe(until))
    }

    /// The row of an address.
    pub async fn row(&self, ip: Ipv4Addr, until: Instant) -> Result<Option<Row>> {
        Ok(self.rows_at(&[ip], until).await?.pop())
    }

    /// The rows of these addresses, in order of address; those without a row are missing.
    pub async fn rows_at(&self, ips: &[Ipv4Addr], until: Instant) -> Result<Vec<Row>> {
        either!(self, s => s.rows_at(ips, until))
    }

    /// All rows that name the ENI, coldest first.
    pub async fn rows_of_eni(&self, eni: &EniId, until: Instant) -> Result<Vec<Row>> {
        either!(self, s => s.rows_of_eni(eni, until))
    }

    /// All rows of a subnet, in order of address.
    pub async fn rows_of_subnet(&self, subnet: &SubnetId, until: Instant) -> Result<Vec<Row>> {
        either!(self, s => s.rows_of_subnet(subnet, until))
    }

    /// The rows of a subnet that are not free, in order of address: few, however large the subnet is.
    pub async fn rows_taken(&self, subnet: &SubnetId, until: Instant) -> Result<Vec<Row>> {
        either!(self, s => s.rows_taken(subnet, until))
    }

    /// The subnets that have rows, in order.
    pub async fn subnets(&self, until: Instant) -> Result<Vec<SubnetId>> {
        either!(self, s => s.subnets(until))
    }

    /// The reserved rows of a subnet, in order of address.
    pub async fn rows_reserved(&self, subnet: &SubnetId, until: Instant) -> Result<Vec<Row>> {
        either!(self, s => s.rows_reserved(subnet, until))
    }

    /// The rows of a subnet counted by state and ENI.
    pub async fn census(&self, subnet: &SubnetId, until: Instant) -> Result<Vec<Count>> {
        either!(self, s => s.census(subnet, until))
    }

    /// The same for a look now and then: how many rows there are in all may have been counted minutes ago, as nobody takes
    /// any away, and counting a large subnet's costs the database more than all else.
    pub async fn census_lately(&self, subnet: &SubnetId, until: Instant) -> Result<Vec<Count>> {
        either!(self, s => s.census_lately(subnet, until))
    }

    /// Whether at least so many rows of the subnet are free. No more than these are read.
    pub async fn has_free(&self, subnet: &SubnetId, least: u64, until: Instant) -> Result<bool> {
        either!(self, s => s.has_free(subnet, least, until))
    }

    /// free -> allocated, on: free rows, as they are now, skipping those that other hosts have locked. They come from blocks that
    /// are broken already, the fullest first and its coldest ones; from whole ones only where no broken one near the lowest has
    /// any. Empty only when a plain read found none either. A primary address is never taken (I7).
    pub async fn claim_free(&self, wanted: &FreeClaim<'_>, until: Instant) -> Result<Vec<Row>> {
        either!(self, s => s.claim_free(wanted, until))
    }

    /// Carries out guarded changes in one transaction, each on its own terms: `false` means that the row was not what the
    /// change expected, so somebody else moved it: look again (I5); after `true` it is [`Change::after`]. Where the answer was
    /// lost on the way, they may have moved it after the change.
    pub async fn apply(&self, changes: &[Change], until: Instant) -> Result<Vec<bool>> {
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        either!(self, s => s.apply(changes, until))
    }

    /// Inserts rows where the address has none, in committed chunks, as let go long ago; says how many were new.
    pub async fn insert_missing(&self, subnet: &SubnetId, rows: &[NewRow], until: Instant) -> Result<u64> {
        either!(self, s => s.insert_missing(subnet, rows, until))
    }

    /// Which journal spoke last for an ENI.
    pub async fn spoke(&self, eni: &EniId, until: Instant) -> Result<Option<String>> {
        either!(self, s => s.spoke(&format!("journal:{eni}"), until))
    }

    /// Which journal speaks for an ENI from now on (at most 64 characters).
    pub async fn speaks(&self, eni: &EniId, mark: &str, until: Instant) -> Result<()> {
        either!(self, s => s.speaks(&format!("journal:{eni}"), mark, until))
    }

    /// Whether this holder now sends for a distant ENI: as [`Self::hold_task`].
    pub async fn hold_sender(&self, eni: &EniId, holder: &str, span: Duration, until: Instant) -> Result<bool> {
        self.hold_task(&format!("{SENDER}{eni}"), holder, span, until).await
    }

    /// ENIs whose sender let its time run out within the last so long: nobody sees to them.
    pub async fn senderless(&self, within: Duration, until: Instant) -> Result<Vec<EniId>> {
        let names = either!(self, s => s.tasks_over(SENDER, within, until))?;
        Ok(names.iter().filter_map(|name| name.strip_prefix(SENDER)?.parse().ok()).collect())
    }

    /// Whether this holder now holds the task (both at most 64 characters) for `span` from now by the database's clock: it
    /// was free, its holder's time was over, or it was this holder's and is renewed. `until` and clocks count whole
    /// seconds, so others get it up to a second later. `Duration::ZERO` lets go.
    pub async fn hold_task(&self, name: &str, holder: &str, span: Duration, until: Instant) -> Result<bool> {
        either!(self, s => s.hold_task(name, holder, span, until))
    }

    /// Enters this host, or anew, as seen now; says what it is asked, of what was asked within `open` by the database's clock,
    /// and has not answered.
    pub async fn enter(&self, host: &HostEntry, open: Duration, until: Instant) -> Result<Vec<Request>> {
        either!(self, s => s.enter(host, open, until))
    }

    /// How long ago this host entered itself; none: it never did.
    pub async fn host_seen(&self, instance: &str, until: Instant) -> Result<Option<Duration>> {
        either!(self, s => s.host_seen(instance, until))
    }

    /// The hosts that have entered themselves.
    pub async fn hosts(&self, until: Instant) -> Result<Vec<KnownHost>> {
        either!(self, s => s.hosts(until))
    }

    /// Takes these hosts off the roll, but for those that were seen within `unseen` by the database's clock.
    pub async fn forget(&self, hosts: &[String], unseen: Duration, until: Instant) -> Result<()> {
        either!(self, s => s.forget(hosts, unseen, until))
    }

    /// Asks these hosts, by instance. What they were asked of the same subnet before is over, answered or not.
    pub async fn ask(&self, hosts: &[String], request: &Request, until: Instant) -> Result<()> {
        either!(self, s => s.ask(hosts, request, until))
    }

    /// This host's answer, unless it has been asked anew since.
    pub async fn answer(&self, host: &str, request: &Request, answer: &Answer, until: Instant) -> Result<()> {
        either!(self, s => s.answer(host, request, answer, until))
    }

    /// Which of these hosts have answered what they were asked of the subnet last, and what.
    pub async fn answers(
        &self,
        hosts: &[String],
        subnet: &SubnetId,
        until: Instant,
    ) -> Result<HashMap<String, Answer>> {
        either!(self, s => s.answers(hosts, subnet, until))
    }

    /// Takes down uses as they are known now; each replaces what was told of it before, but for when it began.
    pub async fn tell_uses(&self, uses: &[Use], until: Instant) -> Result<()> {
        if uses.is_empty() {
            return Ok(());
        }
        either!(self, s => s.tell_uses(uses, until))
    }

    /// The uses of an address, the last first.
    pub async fn uses_of(&self, ip: Ipv4Addr, until: Instant) -> Result<Vec<Use>> {
        either!(self, s => s.uses_of(ip, until))
    }

    /// The uses of a container ([`Use::is_of`]), the last first.
    pub async fn uses_of_container(&self, container: &str, until: Instant) -> Result<Vec<Use>> {
        either!(self, s => s.uses_of_container(container, until))
    }

    /// The use of this lease.
    pub async fn use_at(&self, token: &Claim, until: Instant) -> Result<Option<Use>> {
        either!(self, s => s.use_at(token, until))
    }

    /// Since when uses are kept, in Unix milliseconds; none: there are none.
    pub async fn uses_since(&self, until: Instant) -> Result<Option<u64>> {
        either!(self, s => s.uses_since(until))
    }

    /// A page of the uses that are not over, and of which nothing was told for so long, in order of their tokens, from the one
    /// after this on.
    pub async fn open_uses(&self, after: Option<&Claim>, quiet: Duration, until: Instant) -> Result<Vec<Use>> {
        let after = after.map_or("", Claim::as_str);
        either!(self, s => s.open_uses(after, quiet, until))
    }

    /// Those of these uses that are not over, and of which nothing was told for so long, are lost: they are over now. Says how
    /// many.
    pub async fn close_uses(&self, tokens: &[Claim], quiet: Duration, until: Instant) -> Result<u64> {
        if tokens.is_empty() {
            return Ok(0);
        }
        either!(self, s => s.close_uses(tokens, quiet, until))
    }

    /// Forgets some of the uses that were over for so long, or were told to be, and says whether there may be more.
    pub async fn forget_uses(&self, kept: Duration, until: Instant) -> Result<bool> {
        Ok(either!(self, s => s.forget_uses(kept, until))? >= PAGE)
    }
}
