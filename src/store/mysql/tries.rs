//! Again until the deadline: what one call remembers between its attempts.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use super::super::StoreError;
use super::migrate::migrate;
use super::pool::Pool;
use super::trouble::Trouble;

/// The longest that one attempt may take before a new connection is tried: above the lock wait time-out, far below the
/// deadline of Docker's calls. A connection that a firewall forgot costs this once.
pub(super) const ATTEMPT: Duration = Duration::from_secs(6);

pub(super) struct Tries<'a> {
    pool: &'a Arc<Pool>,
    until: Instant,
    longest: Duration,
    /// Others were in the way so often.
    pub(super) conflicts: u32,
    lost: u32,
    /// Whether the schema was looked at since the call began.
    checked: bool,
    /// What ended the attempt before this one.
    last: Option<Trouble>,
    /// The host that the attempt began with.
    host: usize,
}

impl<'a> Tries<'a> {
    pub(super) fn new(pool: &'a Arc<Pool>, until: Instant) -> Self {
        Self {
            pool,
            until,
            longest: ATTEMPT,
            conflicts: 0,
            lost: 0,
            checked: false,
            last: None,
            host: pool.hosts.now(),
        }
    }

    /// For work that takes its time.
    pub(super) fn patient(pool: &'a Arc<Pool>, until: Instant) -> Self {
        Self { longest: Duration::from_secs(600), ..Self::new(pool, until) }
    }

    /// Whether an earlier attempt may have taken effect: look before doing it again.
    pub(super) fn unclear(&self) -> bool {
        self.lost > 0
    }

    /// One attempt, within its time: all of it, or as much as one attempt may take.
    pub(super) async fn bound<T>(&self, attempt: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
        let until = self.until.min(Instant::now() + self.longest);
        if let Ok(done) = timeout_at(until, attempt).await {
            return done;
        }
        if until < self.until {
            return Err(self.pool.hosts.silent());
        }
        // The next call shall not wait there too.
        self.pool.hosts.leave(self.host);
        let silent = self.pool.hosts.silent();
        // What the attempt before was told says more than that this one had too little time.
        Err(self.last.clone().unwrap_or(silent))
    }

    /// Waits until another attempt makes sense; else says why there is none.
    pub(super) async fn after(&mut self, trouble: Trouble) -> Result<(), StoreError> {
        let longest_wait = match &trouble {
            Trouble::Conflict | Trouble::Duplicate | Trouble::There => {
                self.conflicts += 1;
                Duration::from_millis(5 << self.conflicts.min(6))
            }
            Trouble::Lost(_) | Trouble::Away(_) | Trouble::Unknown(_) | Trouble::ReadOnly => {
                self.lost += 1;
                // Connections are lost for many reasons, and their host knows best what became of the packet.
                if self.lost > 1 || !matches!(trouble, Trouble::Lost(_)) {
                    self.pool.hosts.leave(self.host);
                }
                // Those beside it are most likely dead as well.
                self.pool.close_idle(Duration::ZERO).await;
                Duration::from_millis(25 << self.lost.min(5))
            }
            // Somebody dropped or changed it under us. Nothing took effect, and what is lacking can be added again.
            Trouble::Schema(_) if !self.checked => {
                self.checked = true;
                Box::pin(migrate(self.pool, self.until)).await?;
                Duration::ZERO
            }
            Trouble::Schema(_)
            | Trouble::Refused(_)
            | Trouble::TooOld(_)
            | Trouble::MayNot(_)
            | Trouble::Strange(_) => {
                return Err(trouble.into_error(&self.pool.at));
            }
        };
        let again = Instant::now() + longest_wait.mul_f64(fastrand::f64());
        if again >= self.until {
            return Err(trouble.into_error(&self.pool.at));
        }
        sleep_until(again).await;
        self.last = Some(trouble);
        self.host = self.pool.hosts.now();
        Ok(())
    }
}
