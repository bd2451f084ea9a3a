//! Again until the deadline: what one call remembers between its attempts.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use crate::fail_point::point;

use super::super::StoreError;
use super::hosts::PATIENCE;
use super::migrate::{Progress, step};
use super::pool::{Checkout, Pool};
use super::pulse::ATTEMPT;
use super::trouble::{By, Trouble};

pub(super) struct Tries<'a> {
    pool: &'a Arc<Pool>,
    until: Instant,
    longest: Duration,
    /// Others were in the way so often.
    conflicts: u32,
    lost: u32,
    full: u32,
    /// Whether the schema was looked at since the call began.
    checked: bool,
    /// What ended the attempt before this one.
    last: Option<Trouble>,
    /// What a look told of whoever holds a lock.
    holder: Option<By>,
    /// The host that the attempt began with, and when.
    host: usize,
    begun: Instant,
}

/// What the attempts before this one leave open.
#[derive(Clone, Copy)]
pub(super) struct Before {
    /// Others were in the way.
    pub(super) contended: bool,
    /// One may have taken effect: look before doing it again.
    pub(super) unclear: bool,
}

impl<'a> Tries<'a> {
    pub(super) fn new(pool: &'a Arc<Pool>, until: Instant) -> Self {
        let (host, begun) = (pool.hosts.now(), Instant::now());
        let (conflicts, lost, full, checked, last, holder) = (0, 0, 0, false, None, None);
        Self { pool, until, longest: ATTEMPT, conflicts, lost, full, checked, last, holder, host, begun }
    }

    /// For the schema's own steps, which take their time, and where looking at the schema again would find the same.
    pub(super) fn patient(pool: &'a Arc<Pool>, until: Instant) -> Self {
        Self { longest: Duration::from_secs(600), checked: true, ..Self::new(pool, until) }
    }

    /// Attempts until one succeeds. Each is told what those before it leave open.
    pub(super) async fn run<T, F>(&mut self, attempt: impl Fn(Checkout, Before) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Trouble>>,
    {
        loop {
            let before = Before { contended: self.conflicts > 0, unclear: self.unclear() };
            match self.attempt(|conn| attempt(conn, before)).await {
                Ok(done) => return Ok(done),
                Err(trouble) => self.after(trouble).await?,
            }
        }
    }

    /// Whether an earlier attempt may have taken effect.
    pub(super) fn unclear(&self) -> bool {
        self.lost > 0
    }

    /// One attempt with a connection of its own, within its time: all of it, or as much as one attempt may take. Neither
    /// the wait for a turn nor the way to a host is part of that: they say nothing of what was asked.
    pub(super) async fn attempt<T, F>(&mut self, attempt: impl FnOnce(Checkout) -> F) -> Result<T, Trouble>
    where
        F: Future<Output = Result<T, Trouble>>,
    {
        self.begun = Instant::now();
        let conn = match timeout_at(self.until, self.pool.get(self.until)).await {
            Ok(got) => got?,
            Err(_) => return Err(self.silent(PATIENCE)),
        };
        (self.host, self.begun) = (conn.host, Instant::now());
        self.pool.pulse.asked();
        let until = self.until.min(self.begun + self.longest);
        if let Ok(done) = timeout_at(until, attempt(conn)).await {
            if !matches!(done, Err(Trouble::Lost(_) | Trouble::Away(_) | Trouble::Unknown(_))) {
                self.pool.pulse.answered(self.begun);
            }
            return done;
        }
        if until < self.until {
            return Err(self.pool.hosts.silent());
        }
        self.pool.pulse.cut_off(self.begun);
        Err(self.silent(ATTEMPT))
    }

    /// The deadline came first. The next call shall not wait there too; but a host is not left because one call had little
    /// time.
    fn silent(&self, patience: Duration) -> Trouble {
        let silent = self.pool.hosts.silent();
        if self.pool.pulse.silent_for() >= patience {
            self.pool.hosts.leave(self.host);
        }
        // What the attempt before was told says more than that this one had too little time.
        self.last.clone().unwrap_or(silent)
    }

    /// Waits until another attempt makes sense; else says why there is none.
    pub(super) async fn after(&mut self, trouble: Trouble) -> Result<(), StoreError> {
        let mut trouble = trouble;
        let longest_wait = match &trouble {
            Trouble::Conflict(_) | Trouble::Duplicate | Trouble::There => {
                if trouble == Trouble::Conflict(By::Lock) {
                    trouble = Trouble::Conflict(self.whose_lock().await);
                }
                self.conflicts += 1;
                Duration::from_millis(5 << self.conflicts.min(6))
            }
            // Connections that this host has go on, and one of them will be idle soon.
            Trouble::Full(_) => {
                self.full += 1;
                Duration::from_millis(25 << self.full.min(5))
            }
            Trouble::Lost(_) | Trouble::Away(_) | Trouble::Unknown(_) | Trouble::ReadOnly => {
                self.lost += 1;
                let alone = matches!(trouble, Trouble::Lost(_));
                // One connection of several that work says nothing against the others, nor against their host.
                if !(alone && self.pool.pulse.was_answered_since(self.begun)) {
                    // Connections are lost for many reasons, and their host knows best what became of the packet.
                    if self.lost > 1 || !alone {
                        self.pool.hosts.leave(self.host);
                    }
                    // Those beside it are most likely dead as well.
                    self.pool.close_all().await;
                    self.pool.hosts.spread();
                }
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

    /// Who kept us waiting for a lock until the server gave up: it has one error for all of them, so it is asked once.
    async fn whose_lock(&mut self) -> By {
        if let Some(known) = self.holder {
            return known;
        }
        let look = timeout_at(self.until, async { self.pool.get(self.until).await?.meets_table_lock().await });
        let found = match look.await {
            Ok(Ok(true)) => By::Table,
            Ok(Ok(false)) => By::Rows,
            Ok(Err(_)) | Err(_) => return By::Lock,
        };
        self.holder = Some(found);
        found
    }
}

/// Takes the steps that the tables lack, one at a time, looking again after each.
pub(super) async fn migrate(pool: &Arc<Pool>, until: Instant) -> Result<(), StoreError> {
    // A key on a big table takes its time, and giving up on it half way would only begin it again.
    let mut tries = Tries::patient(pool, until);
    loop {
        match tries.run(|conn, _| step(conn)).await? {
            Progress::Whole => return Ok(()),
            Progress::Stepped => point("init:stepped").await,
            Progress::MayNot(steps) => {
                let lacks = steps.iter().map(|step| step.what).collect::<Vec<_>>().join(", ");
                let sql = steps.iter().map(|step| step.sql).collect::<Vec<_>>().join("; ");
                return Err(StoreError::Schema { lacks, sql });
            }
        }
    }
}
