//! What the driver reaches beyond its own memory, and what all of it shares.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::locked;
use crate::counts::Counts;
use crate::domain::history::Use;
use crate::domain::id::{Boot, Claim, Kind};
use crate::domain::plan::Warmth;
use crate::domain::plan::blocks::Policy;
use crate::eni::in_use::InUse;
use crate::error::Error;
use crate::journal::{Drain, Journal};
use crate::late::Late;
use crate::outside::ec2::Ec2;
use crate::outside::imds::Imds;
use crate::outside::link::Links;
use crate::store::Store;

/// All of it, built once in the life of a driver.
#[allow(missing_docs, reason = "the types say it")]
pub struct Outside {
    pub store: Late<Arc<Store>>,
    pub journal: Arc<Journal>,
    pub drain: Arc<Drain>,
    pub ec2: Late<Ec2>,
    pub imds: Imds,
    pub links: Links,
    pub warmth: Warmth,
    pub blocks: Policy,
    pub claims: Claims,
    pub in_use: Arc<InUse>,
    pub counts: Counts,
    pub untold: Untold,
    /// Something was left unclear: reconcile soon.
    pub poke: Notify,
    /// The bound of every request.
    pub request_timeout: Duration,
    pub tasks: TaskTracker,
    /// The driver stops.
    pub stop: CancellationToken,
}

impl Outside {
    /// The store, waited for until then, and no longer than a request may take: an operator has more time for the work, but
    /// wants to know soon that it cannot begin.
    pub async fn store(&self, until: Instant) -> Result<Arc<Store>, Error> {
        self.store.get(self.at_most_a_request(until)).await
    }

    /// EC2, waited for likewise.
    pub async fn ec2(&self, until: Instant) -> Result<Ec2, Error> {
        self.ec2.get(self.at_most_a_request(until)).await
    }

    /// Until then, or until a request that began now would end.
    pub fn at_most_a_request(&self, until: Instant) -> Instant {
        until.min(Instant::now() + self.request_timeout)
    }

    /// What of it does not answer, for a request whose time is up.
    pub fn what_is_missing(&self) -> String {
        let store = match self.store.now() {
            Ok(store) => store.health().trouble,
            Err(why) => Some(why.to_string()),
        };
        let ec2 = self.ec2.now().err().map(|why| why.to_string());
        let missing: Vec<String> = [store, ec2].into_iter().flatten().collect();
        if missing.is_empty() { "the database or EC2 is slow".into() } else { missing.join("; ") }
    }
}

/// Uses of addresses of distant ENIs, which no journal keeps, until the table is told of them.
#[derive(Default)]
pub struct Untold {
    /// For how long the table keeps uses; none: it is told of none.
    pub kept: Option<Duration>,
    uses: Mutex<VecDeque<Use>>,
    trouble: Mutex<Option<String>>,
}

/// So many wait for a table that is away; what is told of the oldest is then what their end tells.
const UNTOLD: usize = 10_000;

impl Untold {
    /// For how long the table keeps uses; none: it is told of none.
    pub fn new(kept: Option<Duration>) -> Self {
        Self { kept, ..Self::default() }
    }

    /// Why the table keeps them for longer: what only a person can change.
    pub fn trouble(&self) -> Option<String> {
        locked(&self.trouble).clone()
    }

    /// From now on, or no more; says whether that is another.
    pub fn is_in_trouble(&self, why: Option<String>) -> bool {
        let mut known = locked(&self.trouble);
        let is_another = *known != why;
        *known = why;
        is_another
    }

    pub(super) fn add(&self, of: impl FnOnce() -> Use) {
        if self.kept.is_some() {
            self.put(std::iter::once(of()));
        }
    }

    /// The first so many.
    pub fn take(&self, most: usize) -> Vec<Use> {
        let mut uses = locked(&self.uses);
        let count = most.min(uses.len());
        uses.drain(..count).collect()
    }

    /// They could not be told.
    pub fn again(&self, mut before: Vec<Use>) {
        let mut uses = locked(&self.uses);
        before.extend(uses.drain(..));
        drop(uses);
        self.put(before.into_iter());
    }

    fn put(&self, more: impl Iterator<Item = Use>) {
        let mut uses = locked(&self.uses);
        uses.extend(more);
        let many = uses.len().saturating_sub(UNTOLD);
        uses.drain(..many);
    }
}

/// The tokens of this life of the driver.
pub struct Claims {
    boot: Boot,
    last: AtomicU64,
}

impl Claims {
    /// None used yet.
    pub fn new(boot: Boot) -> Self {
        Self { boot, last: AtomicU64::new(0) }
    }

    /// A token that was never used before.
    pub fn next(&self, kind: Kind) -> Claim {
        self.boot.claim(self.last.fetch_add(1, Ordering::Relaxed), kind)
    }

    /// Whose tokens they are.
    pub fn boot(&self) -> &Boot {
        &self.boot
    }
}
