//! Who sends for a distant ENI: of several servers on one table, the one that holds the ENI's row in `task`.
//!
//! An Assign may come from any of them: it takes nothing from anybody. An Unassign that is sent late may take an address from a
//! container that has it by then, so the row is read again right before each (an exhaustive search: a server that stood still,
//! and did not look again, reaches a lease that is off its ENI).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::id::{Boot, EniId};
use crate::domain::plan::settle_age;
use crate::domain::roll::{gone_age, look_age};
use crate::error::Error;
use crate::store::Store;

/// For so long the row is held, by the database's clock. Longer than a call to EC2, and what may follow it, takes.
const SPAN: Duration = Duration::from_secs(90);
/// A look at the row is good for so long where nothing is sent on its word.
const FRESH: Duration = Duration::from_secs(30);
/// And where something is.
pub(super) const BRIEF: Duration = Duration::from_secs(2);

/// In place of a journal's mark: whatever journal turns up, a server has spoken since.
const SERVER: &str = "server";

/// One server's part in it.
#[derive(Clone)]
pub struct Sender {
    eni: EniId,
    /// The instance that has the ENI.
    instance: String,
    holder: String,
    seen: Arc<Mutex<Seen>>,
}

/// When it was seen last.
#[derive(Default)]
struct Seen {
    /// That the row is this server's.
    held: Option<Instant>,
    /// That the ENI's host has no driver of its own.
    driverless: Option<Instant>,
}

impl Sender {
    /// Of the server whose life has this boot.
    pub fn new(eni: EniId, instance: &str, boot: &Boot) -> Self {
        Self { eni, instance: instance.to_owned(), holder: format!("server:{boot}"), seen: Arc::default() }
    }

    /// Whether it is this one, or has become so now: nobody else was.
    ///
    /// # Errors
    /// The store's, or [`Error::Driven`]: the ENI's host has a driver of its own.
    pub async fn is_this(&self, store: &Store, until: Instant) -> Result<bool, Error> {
        self.was_within(FRESH, store, until).await
    }

    /// The same, by a look of now.
    ///
    /// # Errors
    /// The same, or that it is another one.
    pub(super) async fn may_unassign(&self, store: &Store, until: Instant) -> Result<(), Error> {
        if self.was_within(BRIEF, store, until).await? {
            return Ok(());
        }
        Err(Error::Missing(format!("another server gives back the addresses of {}", self.eni)))
    }

    /// That the ENI's host has no driver of its own, by a look that is at most so old: two would give the same address. A driver
    /// that comes enters itself at once, and finds that its journal was not the last to speak; so for the first minute it gives
    /// nothing that a server may have given.
    ///
    /// # Errors
    /// The store's, or [`Error::Driven`]: it has one.
    pub async fn is_driverless(&self, age: Duration, store: &Store, until: Instant) -> Result<(), Error> {
        let before = self.seen().driverless;
        if before.is_some_and(|at| at.elapsed() < age) {
            return Ok(());
        }
        let asked = Instant::now();
        if let Some(seen) = store.host_seen(&self.instance, until).await?.filter(|seen| *seen < gone_age()) {
            let (instance, seen, gone) = (self.instance.clone(), seen.as_secs(), gone_age().as_secs());
            return Err(Error::Driven { instance, seen, gone });
        }
        // Between two looks that are farther apart one may have come and gone.
        if before.is_none_or(|at| at.elapsed() > look_age()) {
            store.speaks(&self.eni, SERVER, until).await?;
        }
        self.seen().driverless = Some(asked);
        Ok(())
    }

    async fn was_within(&self, age: Duration, store: &Store, until: Instant) -> Result<bool, Error> {
        self.is_driverless(age.min(driverless_age()), store, until).await?;
        if self.seen().held.is_some_and(|at| at.elapsed() < age) {
            return Ok(true);
        }
        // Before it is asked: the answer may come late.
        let asked = Instant::now();
        let is_this = store.hold_sender(&self.eni, &self.holder, SPAN, until).await?;
        self.seen().held = is_this.then_some(asked);
        Ok(is_this)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        // Nothing in a critical section of this lock can panic half-way through a change.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// So long a grant may rely on a look: it and the grant are over before a driver that came since gives anything of its own.
pub(super) fn driverless_age() -> Duration {
    settle_age() / 2
}
