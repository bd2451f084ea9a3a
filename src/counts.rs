//! What is counted as it happens, for Prometheus. What is so at a moment is read when somebody asks (`driver::exposition`).
//!
//! All that there may be of a counter is there from the start, at zero: what appears with its first event has no rate.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::domain::plan::{reconcile, scan};
use crate::error::REASONS;
use crate::journal::End;
use crate::metrics::{Counters, Histograms, one, two};

/// The calls of Docker whose refusals keep a container from its address.
pub const CALLS: [&str; 2] = ["RequestPool", "RequestAddress"];

/// How an address came to be granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// It was there, idle.
    Warm,
    /// EC2 put it on the ENI while the container waited.
    Cold,
    /// It was there and still cooled: failing was all else that was left.
    Cooling,
}

impl How {
    const ALL: [Self; 3] = [Self::Warm, Self::Cold, Self::Cooling];

    fn as_str(self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::Cold => "cold",
            Self::Cooling => "cooling",
        }
    }
}

/// All ways in which a lease ends.
const ENDS: [End; 4] = [End::Released, End::LetGo, End::Found, End::TakenBack];

/// Who ended it, as the metrics have it.
fn by(end: End) -> &'static str {
    match end {
        End::Released => "engine",
        End::LetGo => "operator",
        End::Found => "comparison",
        End::TakenBack => "not_answered",
    }
}

/// What happened in the life of a driver.
#[derive(Debug)]
pub struct Counts {
    grants: Counters<1>,
    seconds: Histograms<1>,
    refusals: Counters<2>,
    releases: Counters<1>,
    findings: Counters<1>,
    blocks_refused: Counter,
}

impl Default for Counts {
    /// Nothing yet.
    fn default() -> Self {
        let counts = Self {
            grants: Family::default(),
            // From a commit to the disk to the longest time that a request may take.
            seconds: Family::new_with_constructor(|| {
                Histogram::new([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0])
            }),
            refusals: Family::default(),
            releases: Family::default(),
            findings: Family::default(),
            blocks_refused: Counter::default(),
        };
        for how in How::ALL {
            drop(counts.grants.get_or_create(&one("how", how.as_str())));
            drop(counts.seconds.get_or_create(&one("how", how.as_str())));
        }
        for call in CALLS {
            for reason in REASONS {
                drop(counts.refusals.get_or_create(&two("call", call, "reason", reason)));
            }
        }
        for end in ENDS {
            drop(counts.releases.get_or_create(&one("by", by(end))));
        }
        for kind in reconcile::KINDS.iter().chain(&scan::KINDS) {
            drop(counts.findings.get_or_create(&one("kind", kind)));
        }
        counts
    }
}

impl Counts {
    /// An address was granted so long after it was asked for.
    pub fn granted(&self, how: How, after: Duration) {
        self.grants.get_or_create(&one("how", how.as_str())).inc();
        self.seconds.get_or_create(&one("how", how.as_str())).observe(after.as_secs_f64());
    }

    /// Docker was refused this call.
    pub fn refused(&self, call: &str, reason: &str) {
        self.refusals.get_or_create(&two("call", call, "reason", reason)).inc();
    }

    /// A lease has ended.
    pub fn released(&self, end: End) {
        self.releases.get_or_create(&one("by", by(end))).inc();
    }

    /// What two looks had agreed on is put right.
    pub fn mended(&self, kind: &str) {
        self.findings.get_or_create(&one("kind", kind)).inc();
    }

    /// EC2 does not give so many blocks that were claimed.
    pub fn refused_blocks(&self, blocks: usize) {
        self.blocks_refused.inc_by(blocks as u64);
    }

    /// Shows them.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("grants", "Addresses granted to containers", self.grants.clone());
        registry.register_with_unit(
            "grant",
            "From a request for an address to its grant",
            Unit::Seconds,
            self.seconds.clone(),
        );
        registry.register("refusals", "Calls of Docker that were refused", self.refusals.clone());
        registry.register(
            "blocks_refused",
            "Blocks that were whole by the table, and that EC2 did not give",
            self.blocks_refused.clone(),
        );
        registry.register("releases", "Leases that have ended", self.releases.clone());
        registry.register(
            "findings",
            "What did not agree among table, EC2 and Docker, and was put right",
            self.findings.clone(),
        );
    }
}
