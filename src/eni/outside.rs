//! What the driver reaches from an ENI's task.

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

/// One for all ENIs of the driver.
#[derive(Clone)]
#[allow(missing_docs, reason = "the types say it")]
pub struct Outside {
    pub store: Arc<Store>,
    pub ec2: Late<Ec2>,
    pub imds: Imds,
    pub links: Links,
    pub warmth: Warmth,
    pub claims: Arc<Claims>,
    pub in_use: Arc<InUse>,
    /// Something was left unclear: reconcile soon.
    pub poke: Arc<Notify>,
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
