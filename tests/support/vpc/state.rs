//! Everything behind the simulator's one lock.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::calls::CallLog;
use super::effect::Watcher;
use super::faults::{CallClass, Fault, TokenBucket};
use super::imds::{ImdsMode, ImdsRead};
use super::switches::Switches;
use super::world::World;

/// The world, what was scripted, and what happened.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) world: World,
    pub(super) switches: Switches,
    pub(super) log: CallLog,
    pub(super) imds_log: Vec<ImdsRead>,

    pub(super) faults: Vec<Fault>,
    pub(super) denied: BTreeSet<String>,
    pub(super) buckets: BTreeMap<CallClass, TokenBucket>,
    pub(super) latency: Duration,
    pub(super) latency_of: HashMap<String, Duration>,
    pub(super) describe_lag: Duration,
    pub(super) page_size: Option<usize>,
    pub(super) ec2_down: bool,
    pub(super) watcher: Option<Watcher>,
    pub(super) is_landing_late: bool,

    pub(super) imds_mode: ImdsMode,
    pub(super) imds_modes: HashMap<String, ImdsMode>,
    pub(super) imds_assign_lag: Duration,
    pub(super) imds_unassign_lag: Duration,
    pub(super) imds_latency: Duration,
    /// Items that answer 404, by the end of their path.
    pub(super) imds_absent: BTreeSet<String>,
    pub(super) imds_has_role: bool,
    /// ENIs that IMDS does not list, though they are attached.
    pub(super) imds_omits: BTreeSet<String>,
    /// Items that are empty, by the end of their path.
    pub(super) imds_blank: BTreeSet<String>,
    /// Instance and token, to when it expires.
    pub(super) imds_tokens: HashMap<(String, String), Instant>,
    /// All tokens ever handed out.
    pub(super) imds_secrets: BTreeSet<String>,
}
