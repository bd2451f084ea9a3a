//! Everything behind the simulator's one lock.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use crate::calls::CallLog;
use crate::effect::Watcher;
use crate::faults::{CallClass, Fault, TokenBucket};
use crate::imds::{ImdsMode, ImdsRead};
use crate::switches::Switches;
use crate::world::World;

/// The world, what was scripted, and what happened.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) world: World,
    pub(crate) switches: Switches,
    pub(crate) log: CallLog,
    pub(crate) imds_log: Vec<ImdsRead>,

    pub(crate) faults: Vec<Fault>,
    pub(crate) denied: BTreeSet<String>,
    pub(crate) buckets: BTreeMap<CallClass, TokenBucket>,
    pub(crate) latency: Duration,
    pub(crate) latency_of: HashMap<String, Duration>,
    pub(crate) describe_lag: Duration,
    pub(crate) page_size: Option<usize>,
    pub(crate) ec2_down: bool,
    pub(crate) watcher: Option<Watcher>,
    pub(crate) is_landing_late: bool,

    pub(crate) imds_mode: ImdsMode,
    pub(crate) imds_modes: HashMap<String, ImdsMode>,
    pub(crate) imds_assign_lag: Duration,
    pub(crate) imds_unassign_lag: Duration,
    pub(crate) imds_latency: Duration,
    /// Items that answer 404, by the end of their path.
    pub(crate) imds_absent: BTreeSet<String>,
    pub(crate) imds_has_role: bool,
    /// What the auto-scaling group wants of an instance.
    pub(crate) lifecycle: BTreeMap<String, String>,
    /// ENIs that IMDS does not list, though they are attached.
    pub(crate) imds_omits: BTreeSet<String>,
    /// Items that are empty, by the end of their path.
    pub(crate) imds_blank: BTreeSet<String>,
    /// Instance and token, to when it expires.
    pub(crate) imds_tokens: HashMap<(String, String), Instant>,
    /// All tokens ever handed out.
    pub(crate) imds_secrets: BTreeSet<String>,
}
