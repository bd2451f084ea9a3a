//! The connections of this host: four at most, of which one stays.
//!
//! Not mysql_async's pool. That one reads a dropped connection's answer to the end before it counts it as gone, so four
//! calls that gave up on a stalled server use it up for good. Here a connection on which anything failed or timed out is
//! closed at once, and only one whose every answer was read comes back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout};

use crate::domain::id::SubnetId;

use super::super::clock::Clock;
use super::super::raw::LeftOut;
use super::super::url::Server;
use super::hosts::Hosts;
use super::pulse::{ATTEMPT, Pulse};
use super::session::{self, goodbye};
use super::trouble::{By, Trouble};
use crate::once::Away;
use crate::supervise::supervised;

/// A fleet of a thousand hosts must fit into a small server's connections.
const CONNECTIONS: usize = 4;
/// A server is there in place of many hosts, and each of its calls is waited for.
const OF_SERVER: usize = 16;
/// Work that nobody waits for leaves one to requests, and waits behind those that wait for another.
const BACKGROUND: usize = 3;
/// Connections beyond the one that stays are closed when idle for so long: other hosts may lack them.
const IDLE: Duration = Duration::from_secs(3);
/// A connection that was idle for so long has to show a sign of life, within a time that any round trip takes.
const STALE: Duration = Duration::from_secs(5);
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);
/// How often the server is asked whether it still is one to write to.
const LOOK: Duration = Duration::from_secs(15);

pub(super) struct Pool {
    /// Where it leads, for sentences.
    pub(super) at: String,
    pub(super) hosts: Hosts,
    /// The server's clock; of whichever host.
    pub(super) clock: Clock,
    pub(super) left_out: LeftOut,
    /// How many rows each subnet has, and when they were counted.
    totals: Mutex<HashMap<SubnetId, (Instant, u64)>>,
    away: Away,
    pub(super) pulse: Pulse,
    turns: Arc<Semaphore>,
    background: Arc<Semaphore>,
    /// Last used last.
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    conn: Conn,
    host: usize,
    since: Instant,
}

impl Pool {
    pub(super) fn new(server: &Server) -> Arc<Self> {
        Arc::new(Self {
            at: server.to_string(),
            hosts: Hosts::new(server),
            clock: Clock::default(),
            left_out: LeftOut::default(),
            totals: Mutex::default(),
            away: Away::default(),
            pulse: Pulse::default(),
            turns: Arc::new(Semaphore::new(CONNECTIONS)),
            background: Arc::new(Semaphore::new(BACKGROUND)),
            idle: Mutex::default(),
        })
    }

    /// Closes idle connections and looks after the server, until the pool is dropped.
    pub(super) fn watch(pool: &Arc<Self>) {
        let pool = Arc::downgrade(pool);
        tokio::spawn(supervised("watching connections", async move {
            let mut looked = Instant::now();
            loop {
                sleep(IDLE / 3).await;
                let Some(pool) = Weak::upgrade(&pool) else { return };
                pool.close_surplus().await;
                if looked.elapsed() >= LOOK {
                    pool.look().await;
                    looked = Instant::now();
                }
            }
        }));
    }

    /// Leaves a host that has become read-only. Calls cannot tell: reads go on there, and a user with the right to write
    /// on a read-only server is not even told when writing.
    #[tracing::instrument(level = "error", skip_all, fields(round = "watch"))]
    async fn look(self: &Arc<Self>) {
        let Ok(turn) = Arc::clone(&self.turns).acquire_owned().await else { return };
        let Some(Idle { conn, host, .. }) = self.take_idle() else { return };
        let mut checkout = Checkout { conn: Some(conn), host, pool: Arc::clone(self), _turn: turn };
        match timeout(ATTEMPT, checkout.stands()).await {
            Ok(Ok(())) => checkout.keep(),
            Ok(Err(_)) | Err(_) => {
                self.hosts.leave(host);
                self.close_all().await;
                self.hosts.spread();
            }
        }
    }

    /// From now on as many calls go beside each other as a server has.
    pub(super) fn serves_many(&self) {
        self.turns.add_permits(OF_SERVER - CONNECTIONS);
    }

    /// Held beside a turn by work that nobody waits for.
    pub(super) async fn background_turn(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.background).acquire_owned().await.ok()
    }

    /// An idle connection or a new one, when it is this call's turn. In a crowd a call whose time ends before an answer can
    /// come is not begun: it would have nothing, and cost its connection.
    pub(super) async fn get(self: &Arc<Self>, until: Instant) -> Result<Checkout, Trouble> {
        let turns = Arc::clone(&self.turns);
        let turn = match Arc::clone(&turns).try_acquire_owned() {
            Ok(turn) => turn,
            Err(_) => {
                let came = Instant::now();
                let turn = tokio::time::timeout_at(until, turns.acquire_owned()).await;
                match turn {
                    Ok(Ok(turn)) if until.saturating_duration_since(Instant::now()) > self.need() => turn,
                    _ if self.pulse.was_answered_since(came) => return Err(Trouble::Conflict(By::Calls)),
                    _ => return Err(self.hosts.silent()),
                }
            }
        };
        let (host, conn) = match self.take_living().await {
            Some(idle) => (idle.host, idle.conn),
            None => {
                self.pulse.asked();
                let begun = Instant::now();
                let connected = self.hosts.connect().await;
                self.away.note("the database", connected.as_ref().err().map(|why| why.clone().into_error(&self.at)));
                let found = connected?;
                self.pulse.let_in(begun);
                found
            }
        };
        Ok(Checkout { conn: Some(conn), host, pool: Arc::clone(self), _turn: turn })
    }

    fn need(&self) -> Duration {
        self.pulse.need(self.idle().is_empty())
    }

    /// One that shows that it still leads somewhere, if it was idle long enough to be forgotten: by a firewall, or with a server
    /// that lost its power and came back. It costs a round trip, and spares the time of a whole attempt.
    async fn take_living(&self) -> Option<Idle> {
        let mut idle = self.take_idle()?;
        if idle.since.elapsed() < STALE {
            return Some(idle);
        }
        if let Ok(Ok(())) = timeout(SIGN_OF_LIFE, idle.conn.ping()).await {
            return Some(idle);
        }
        goodbye(idle.conn);
        // Those beside it were idle for longer.
        for older in std::mem::take(&mut *self.idle()) {
            goodbye(older.conn);
        }
        None
    }

    /// One to the host in use. Those to a host that was left are closed.
    fn take_idle(&self) -> Option<Idle> {
        let (mut idle, now) = (self.idle(), self.hosts.now());
        for left in idle.extract_if(.., |idle| idle.host != now) {
            goodbye(left.conn);
        }
        idle.pop()
    }

    async fn close_surplus(&self) {
        let now = Instant::now();
        let old: Vec<_> = {
            let mut idle = self.idle();
            let surplus = idle.len().saturating_sub(1);
            idle.extract_if(..surplus, |idle| now.duration_since(idle.since) >= IDLE).collect()
        };
        close(old).await;
    }

    /// Says goodbye on all idle connections, after the server was lost.
    pub(super) async fn close_all(&self) {
        let all = std::mem::take(&mut *self.idle());
        close(all).await;
    }

    pub(super) fn totals(&self) -> MutexGuard<'_, HashMap<SubnetId, (Instant, u64)>> {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn close(idle: Vec<Idle>) {
    for idle in idle {
        let _ = timeout(Duration::from_secs(1), idle.conn.disconnect()).await;
    }
}

/// A connection in use. Dropped, it is closed; [`Checkout::keep`] gives it back.
pub(super) struct Checkout {
    conn: Option<Conn>,
    pub(super) host: usize,
    pool: Arc<Pool>,
    _turn: OwnedSemaphorePermit,
}

/// What one statement of a packet brought.
#[derive(Debug)]
pub(super) struct Answer {
    /// Rows that an UPDATE found, or that an INSERT inserted.
    pub(super) found: u64,
    pub(super) rows: Vec<Row>,
}

impl Checkout {
    /// Sends so many statements in one packet and reads all their answers. After an error the connection must be
    /// dropped, which makes the server roll back.
    pub(super) async fn send(&mut self, packet: &str, statements: usize) -> Result<Vec<Answer>, Trouble> {
        let conn = self.conn.as_mut().ok_or_else(Trouble::silent)?;
        let mut result = conn.query_iter(packet).await?;
        let mut answers = Vec::with_capacity(statements);
        for _ in 0..statements {
            let found = result.affected_rows();
            answers.push(Answer { found, rows: result.collect().await? });
        }
        result.drop_result().await?;
        Ok(answers)
    }

    /// The pool that it comes from.
    pub(super) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// One statement that brings rows.
    pub(super) async fn rows(&mut self, statement: &str) -> Result<Vec<Row>, Trouble> {
        Ok(self.send(statement, 1).await?.pop().map(|answer| answer.rows).unwrap_or_default())
    }

    /// Whether the server is still one to write to.
    async fn stands(&mut self) -> Result<(), Trouble> {
        let conn = self.conn.as_mut().ok_or_else(Trouble::silent)?;
        session::stands(conn).await
    }

    /// Whether somebody holds a lock on the table as a whole, or on all of the server: a change of no row waits for nothing
    /// else.
    pub(super) async fn meets_table_lock(mut self) -> Result<bool, Trouble> {
        self.send("SET lock_wait_timeout=1", 1).await?;
        match self.send("UPDATE allocation SET ts=ts WHERE ip=''", 1).await {
            Ok(_) => {
                self.send("SET lock_wait_timeout=3", 1).await?;
                self.keep();
                Ok(false)
            }
            Err(Trouble::Conflict(By::Lock)) => Ok(true),
            Err(other) => Err(other),
        }
    }

    /// Every answer was read: the next call may have it.
    pub(super) fn keep(mut self) {
        if let Some(conn) = self.conn.take() {
            self.pool.idle().push(Idle { conn, host: self.host, since: Instant::now() });
        }
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take() {
            goodbye(conn);
        }
    }
}
