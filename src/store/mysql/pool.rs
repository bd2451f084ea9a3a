//! The connections of this host: four at most, closed when idle for a minute.
//!
//! Not mysql_async's pool. That one reads a dropped connection's answer to the end before it counts it as gone, so four
//! calls that gave up on a stalled server use it up for good. Here a connection on which anything failed or timed out is
//! closed at once, and only one whose every answer was read comes back.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, Row};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout};

use super::super::url::Server;
use super::session;
use super::trouble::Trouble;

/// A fleet of a thousand hosts must fit into a small server's connections.
const CONNECTIONS: usize = 4;
const IDLE: Duration = Duration::from_secs(60);

pub(super) struct Pool {
    /// Where it leads, for sentences.
    pub(super) at: String,
    options: Opts,
    permits: Arc<Semaphore>,
    /// Last used last.
    idle: Mutex<Vec<(Conn, Instant)>>,
}

impl Pool {
    pub(super) fn new(server: &Server) -> Arc<Self> {
        Arc::new(Self {
            at: server.to_string(),
            options: session::options(server),
            permits: Arc::new(Semaphore::new(CONNECTIONS)),
            idle: Mutex::default(),
        })
    }

    /// Closes idle connections until the pool is dropped.
    pub(super) fn watch(pool: &Arc<Self>) {
        let pool = Arc::downgrade(pool);
        tokio::spawn(async move {
            loop {
                sleep(IDLE / 4).await;
                let Some(pool) = Weak::upgrade(&pool) else { return };
                pool.close_idle(IDLE).await;
            }
        });
    }

    /// An idle connection or a new one.
    pub(super) async fn get(self: &Arc<Self>) -> Result<Leased, Trouble> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| Trouble::silent())?;
        let idle = self.idle().pop();
        let conn = match idle {
            Some((conn, _)) => conn,
            None => session::connect(&self.options).await?,
        };
        Ok(Leased { conn: Some(conn), pool: Arc::clone(self), _permit: permit })
    }

    /// Says goodbye on connections idle for so long. Zero: on all, after the server was lost.
    pub(super) async fn close_idle(&self, idle_for: Duration) {
        let now = Instant::now();
        let old: Vec<_> = self.idle().extract_if(.., |(_, since)| now.duration_since(*since) >= idle_for).collect();
        for (conn, _) in old {
            let _ = timeout(Duration::from_secs(1), conn.disconnect()).await;
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<(Conn, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection in use. Dropped, it is closed; [`Leased::keep`] gives it back.
pub(super) struct Leased {
    conn: Option<Conn>,
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

    /// One statement that brings rows.
    pub(super) async fn rows(&mut self, statement: &str) -> Result<Vec<Row>, Trouble> {
        Ok(self.send(statement, 1).await?.pop().map(|answer| answer.rows).unwrap_or_default())
    }

    /// Every answer was read: the next call may have it.
    pub(super) fn keep(mut self) {
        if let Some(conn) = self.conn.take() {
            self.pool.idle().push((conn, Instant::now()));
        }
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        // Polled once: a goodbye if it can be written at once, and then the socket is closed. A plain drop would leave a
        // task behind that reads what a stalled server never sends.
        if let Some(conn) = self.conn.take() {
            let _ = conn.disconnect().now_or_never();
        }
    }
}
