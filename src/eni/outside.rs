//! What the driver reaches beyond its own memory, and what all of it shares.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use crate::ec2::Ec2;
use crate::id::{Boot, Claim, Kind};
use crate::imds::Imds;
use crate::in_use::InUse;
use crate::late::Late;
use crate::link::Links;
use crate::plan::Warmth;
use crate::store::Store;

/// All of it, built once in the life of a driver.
#[allow(missing_docs, reason = "the types say it")]
pub struct Outside {
    pub store: Late<Arc<Store>>,
    pub ec2: Late<Ec2>,
    pub imds: Imds,
    pub links: Links,
    pub warmth: Warmth,
    pub claims: Claims,
    pub in_use: Arc<InUse>,
    /// Something was left unclear: reconcile soon.
    pub poke: Notify,
    pub tasks: TaskTracker,
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
