//! The connections of this host: four at most, closed when idle for a minute.
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

use crate::id::SubnetId;

use super::super::clock::Clock;
use super::super::raw::LeftOut;
use super::super::url::Server;
use super::hosts::Hosts;
use super::session::{self, goodbye};
use super::tries::ATTEMPT;
use super::trouble::Trouble;
use crate::late::Away;
use crate::supervise::supervised;

/// A fleet of a thousand hosts must fit into a small server's connections.
const CONNECTIONS: usize = 4;
const IDLE: Duration = Duration::from_secs(60);

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
    permits: Arc<Semaphore>,
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
            permits: Arc::new(Semaphore::new(CONNECTIONS)),
            idle: Mutex::default(),
        })
    }

    /// Closes idle connections and looks after the server, until the pool is dropped.
    pub(super) fn watch(pool: &Arc<Self>) {
        let pool = Arc::downgrade(pool);
        tokio::spawn(supervised("watching connections", async move {
            loop {
                sleep(IDLE / 4).await;
                let Some(pool) = Weak::upgrade(&pool) else { return };
                pool.close_idle(IDLE).await;
                pool.look().await;
            }
        }));
    }

    /// Leaves a host that has become read-only. Calls cannot tell: reads go on there, and a user with the right to write
    /// on a read-only server is not even told when writing.
    async fn look(self: &Arc<Self>) {
        let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else { return };
        let Some(Idle { conn, host, .. }) = self.take_idle() else { return };
        let mut leased = Leased { conn: Some(conn), host, pool: Arc::clone(self), _permit: permit };
        match timeout(ATTEMPT, leased.stands()).await {
            Ok(Ok(())) => leased.keep(),
            Ok(Err(_)) | Err(_) => {
                self.hosts.leave(host);
                self.close_idle(Duration::ZERO).await;
            }
        }
    }

    /// An idle connection or a new one.
    pub(super) async fn get(self: &Arc<Self>) -> Result<Leased, Trouble> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| Trouble::silent())?;
        let (host, conn) = match self.take_idle() {
            Some(idle) => (idle.host, idle.conn),
            None => {
                let connected = self.hosts.connect().await;
                self.away.note("the database", connected.as_ref().err().map(|why| why.clone().into_error(&self.at)));
                connected?
            }
        };
        Ok(Leased { conn: Some(conn), host, pool: Arc::clone(self), _permit: permit })
    }

    /// One to the host in use. Those to a host that was left are closed.
    fn take_idle(&self) -> Option<Idle> {
        let (mut idle, now) = (self.idle(), self.hosts.now());
        for left in idle.extract_if(.., |idle| idle.host != now) {
            goodbye(left.conn);
        }
        idle.pop()
    }

    /// Says goodbye on connections idle for so long. Zero: on all, after the server was lost.
    pub(super) async fn close_idle(&self, idle_for: Duration) {
        let now = Instant::now();
        let old: Vec<_> = self.idle().extract_if(.., |idle| now.duration_since(idle.since) >= idle_for).collect();
        for idle in old {
            let _ = timeout(Duration::from_secs(1), idle.conn.disconnect()).await;
        }
    }

    pub(super) fn totals(&self) -> MutexGuard<'_, HashMap<SubnetId, (Instant, u64)>> {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection in use. Dropped, it is closed; [`Leased::keep`] gives it back.
pub(super) struct Leased {
    conn: Option<Conn>,
    host: usize,
    pool: Arc<Pool>,
    _permit: OwnedSemaphorePermit,
}

/// What one statement of a packet brought.
#[derive(Debug)]
pub(super) struct Answer {
    /// Rows that an UPDATE found, or that an INSERT inserted.
    pub(super) found: u64,
    pub(super) rows: Vec<Row>,
}

impl Leased {
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

    /// Every answer was read: the next call may have it.
    pub(super) fn keep(mut self) {
        if let Some(conn) = self.conn.take() {
            self.pool.idle().push(Idle { conn, host: self.host, since: Instant::now() });
        }
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take() {
            goodbye(conn);
        }
    }
}
