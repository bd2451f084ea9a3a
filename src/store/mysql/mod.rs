//! The table on a MySQL or MariaDB server, shared by a fleet.
//!
//! Statements go as text, values escaped, several in one packet: a claim is one round trip. Every session runs in
//! READ COMMITTED (in REPEATABLE READ an under-filled claim blocks other hosts' frees) and at +00:00 (an hour of DST
//! breaks ages otherwise). Every UPDATE sets `ts=ts` unless it lets go.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv4Net;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};

use crate::domain::address::{Change, NewRow, Row};
use crate::domain::block::Block;
use crate::domain::history::Use;
use crate::domain::id::{Claim, EniId, SubnetId};
use crate::domain::roll::{Answer, HostEntry, KnownHost, Request};
use crate::domain::subnet::Subnet;
use std::net::Ipv4Addr;

use super::login::Login;
use super::url::Server;
use super::{BlockClaim, Count, Description, FreeClaim, StoreError, password_file, raw};
use pool::Pool;
use tries::Tries;
use trouble::Trouble;

mod blocks;
mod change;
mod history;
mod host;
mod hosts;
mod insert;
mod migrate;
mod net;
mod pool;
mod proof;
mod pulse;
mod read;
mod roll;
mod session;
mod take;
mod task;
mod together;
mod token;
mod tries;
mod trouble;
mod variables;
mod window;

type Result<T> = std::result::Result<T, StoreError>;

/// A server that was reached once.
pub(super) struct MySql {
    pool: Arc<Pool>,
}

impl MySql {
    pub(super) async fn open(server: &Server, until: Instant) -> Result<Self> {
        let pool = Pool::new(server);
        let first = timeout_at(until, pool.get(until)).await;
        first.unwrap_or_else(|_| Err(pool.hosts.silent())).map_err(|trouble| trouble.into_error(&pool.at))?.keep();
        tries::migrate(&pool, until).await?;
        if let Err(why) = net::fill_all(&pool, until).await {
            tracing::warn!("column net is filled in as rows are looked at, since {why}");
        }
        if let Login::PasswordFile(path) = &server.login
            && let Some(exposed) = password_file::read(path).await.ok().and_then(|found| found.exposed)
        {
            tracing::warn!("EC2_IPAM_DATABASE_PASSWORD_FILE is {path:?}, but {exposed}");
        }
        Pool::watch(&pool);
        Ok(Self { pool })
    }

    pub(super) fn serves_many(&self) {
        self.pool.serves_many();
    }

    pub(super) async fn background_turn(&self) -> Option<OwnedSemaphorePermit> {
        self.pool.background_turn().await
    }

    pub(super) async fn describe(&self, until: Instant) -> Result<Description> {
        Tries::new(&self.pool, until).run(|conn, _| migrate::description(conn, &self.pool)).await
    }

    pub(super) async fn rows_at(&self, ips: &[Ipv4Addr], until: Instant) -> Result<Vec<Row>> {
        read::rows_at(&self.pool, ips, until).await
    }

    pub(super) async fn rows_of_eni(&self, eni: &EniId, until: Instant) -> Result<Vec<Row>> {
        read::rows_of_eni(&self.pool, eni, until).await
    }

    pub(super) async fn rows_of_subnet(&self, subnet: &SubnetId, until: Instant) -> Result<Vec<Row>> {
        read::rows_of_subnet(&self.pool, subnet, "", until).await
    }

    pub(super) async fn rows_taken(&self, subnet: &SubnetId, until: Instant) -> Result<Vec<Row>> {
        read::rows_of_subnet(&self.pool, subnet, raw::TAKEN, until).await
    }

    pub(super) async fn rows_reserved(&self, subnet: &SubnetId, until: Instant) -> Result<Vec<Row>> {
        read::rows_of_subnet(&self.pool, subnet, raw::RESERVED, until).await
    }

    pub(super) async fn subnets(&self, until: Instant) -> Result<Vec<SubnetId>> {
        read::subnets(&self.pool, until).await
    }

    pub(super) async fn census(&self, subnet: &SubnetId, until: Instant) -> Result<Vec<Count>> {
        read::census(&self.pool, subnet, until).await
    }

    pub(super) async fn census_lately(&self, subnet: &SubnetId, until: Instant) -> Result<Vec<Count>> {
        read::census_lately(&self.pool, subnet, until).await
    }

    pub(super) async fn has_free(&self, subnet: &SubnetId, least: u64, until: Instant) -> Result<bool> {
        read::has_free(&self.pool, subnet, least, until).await
    }

    pub(super) async fn has_strangers(
        &self,
        subnet: &SubnetId,
        known: &BTreeSet<EniId>,
        until: Instant,
    ) -> Result<bool> {
        read::has_strangers(&self.pool, subnet, known, until).await
    }

    pub(super) async fn blocks_taken(&self, subnet: &Subnet, until: Instant) -> Result<(u64, u64)> {
        read::blocks_taken(&self.pool, subnet, until).await
    }

    pub(super) async fn claim_free(&self, wanted: &FreeClaim<'_>, until: Instant) -> Result<Vec<Row>> {
        take::claim_free(&self.pool, wanted, until).await
    }

    pub(super) async fn apply(&self, changes: &[Change], until: Instant) -> Result<Vec<bool>> {
        change::apply(&self.pool, changes, until).await
    }

    pub(super) async fn apply_together(&self, groups: &[Vec<Change>], until: Instant) -> Result<Vec<bool>> {
        together::apply_together(&self.pool, groups, until).await
    }

    pub(super) async fn whole_blocks(
        &self,
        subnet: &SubnetId,
        within: Option<Ipv4Net>,
        most: usize,
        until: Instant,
    ) -> Result<Vec<Block>> {
        window::whole_blocks(&self.pool, subnet, within, most, until).await
    }

    pub(super) async fn plenty(&self, subnet: &Subnet, until: Instant) -> Result<bool> {
        window::plenty(&self.pool, subnet, until).await
    }

    pub(super) async fn claim_blocks(&self, wanted: &BlockClaim<'_>, until: Instant) -> Result<Vec<Row>> {
        blocks::claim_blocks(&self.pool, wanted, until).await
    }

    pub(super) async fn insert_missing(&self, subnet: &SubnetId, rows: &[NewRow], until: Instant) -> Result<u64> {
        insert::insert_missing(&self.pool, subnet, rows, until).await
    }

    pub(super) async fn spoke(&self, name: &str, until: Instant) -> Result<Option<String>> {
        task::spoke(&self.pool, name, until).await
    }

    pub(super) async fn speaks(&self, name: &str, mark: &str, until: Instant) -> Result<()> {
        task::speaks(&self.pool, name, mark, until).await
    }

    pub(super) async fn tasks_over(&self, prefix: &str, within: Duration, until: Instant) -> Result<Vec<String>> {
        task::over(&self.pool, prefix, within, until).await
    }

    pub(super) async fn hold_task(&self, name: &str, holder: &str, span: Duration, until: Instant) -> Result<bool> {
        task::hold(&self.pool, name, holder, span, until).await
    }

    pub(super) async fn enter(&self, host: &HostEntry, open: Duration, until: Instant) -> Result<Vec<Request>> {
        roll::enter(&self.pool, host, open, until).await
    }

    pub(super) async fn host_seen(&self, instance: &str, until: Instant) -> Result<Option<Duration>> {
        roll::host_seen(&self.pool, instance, until).await
    }

    pub(super) async fn hosts(&self, until: Instant) -> Result<Vec<KnownHost>> {
        roll::hosts(&self.pool, until).await
    }

    pub(super) async fn forget(&self, hosts: &[String], unseen: Duration, until: Instant) -> Result<()> {
        roll::forget(&self.pool, hosts, unseen, until).await
    }

    pub(super) async fn ask(&self, hosts: &[String], request: &Request, until: Instant) -> Result<()> {
        roll::ask(&self.pool, hosts, request, until).await
    }

    pub(super) async fn answer(&self, host: &str, request: &Request, answer: &Answer, until: Instant) -> Result<()> {
        roll::answer(&self.pool, host, request, answer, until).await
    }

    pub(super) async fn answers(
        &self,
        hosts: &[String],
        subnet: &SubnetId,
        until: Instant,
    ) -> Result<HashMap<String, Answer>> {
        roll::answers(&self.pool, hosts, subnet, until).await
    }

    pub(super) async fn tell_uses(&self, uses: &[Use], until: Instant) -> Result<()> {
        history::tell(&self.pool, uses, until).await
    }

    pub(super) async fn uses_of(&self, ip: Ipv4Addr, until: Instant) -> Result<Vec<Use>> {
        history::of(&self.pool, ip, until).await
    }

    pub(super) async fn uses_of_container(&self, container: &str, until: Instant) -> Result<Vec<Use>> {
        history::of_container(&self.pool, container, until).await
    }

    pub(super) async fn use_at(&self, token: &Claim, until: Instant) -> Result<Option<Use>> {
        history::at(&self.pool, token, until).await
    }

    pub(super) async fn uses_since(&self, until: Instant) -> Result<Option<u64>> {
        history::since(&self.pool, until).await
    }

    pub(super) async fn open_uses(&self, after: &str, quiet: Duration, until: Instant) -> Result<Vec<Use>> {
        history::open(&self.pool, after, quiet, until).await
    }

    pub(super) async fn close_uses(&self, tokens: &[Claim], quiet: Duration, until: Instant) -> Result<u64> {
        history::close(&self.pool, tokens, quiet, until).await
    }

    pub(super) async fn forget_uses(&self, kept: Duration, until: Instant) -> Result<u64> {
        history::forget(&self.pool, kept, until).await
    }
}

/// What the tables on a server lack.
pub(super) async fn lacking(server: &Server, until: Instant) -> Result<Vec<&'static str>> {
    Tries::new(&Pool::new(server), until).run(|conn, _| migrate::wanted(conn)).await
}

impl fmt::Debug for MySql {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MySql({})", self.pool.at)
    }
}

/// A text as an SQL literal. Sessions run without NO_BACKSLASH_ESCAPES, in utf8mb4.
fn text(value: &str) -> String {
    mysql_async::Value::from(value).as_sql(false)
}

/// A text or NULL.
fn maybe(value: Option<&str>) -> String {
    value.map_or_else(|| "NULL".to_owned(), text)
}

/// `'10.0.0.1','10.0.0.2'`: an address needs no escaping.
fn list(ips: &[Ipv4Addr]) -> String {
    ips.iter().map(|ip| format!("'{ip}'")).collect::<Vec<_>>().join(",")
}

/// A further condition on rows of the table that `of` names: how long they must have cooled, by [`raw::cooling`].
fn cooled(of: &str, cooling: Option<(i64, i64)>) -> String {
    cooling.map_or_else(String::new, |(seconds, latest)| {
        format!(" AND {of}ts<=LEAST(NOW(),FROM_UNIXTIME({latest}))-INTERVAL {seconds} SECOND")
    })
}

/// A column of a row. The text protocol's values convert to whatever the column holds.
fn column<T: mysql_async::prelude::FromValue>(
    row: &mut mysql_async::Row,
    index: usize,
) -> std::result::Result<T, Trouble> {
    row.take_opt(index)
        .and_then(std::result::Result::ok)
        .ok_or_else(|| Trouble::Strange(format!("column {index} of an answer is not what it should be")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_cannot_be_left() {
        assert_eq!(text(r"it's \ end"), r"'it\'s \\ end'");
        assert_eq!(maybe(None), "NULL");
        assert_eq!(list(&[Ipv4Addr::LOCALHOST, Ipv4Addr::BROADCAST]), "'127.0.0.1','255.255.255.255'");
    }
}
