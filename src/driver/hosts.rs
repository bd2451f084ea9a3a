//! A host of the fleet, as `hosts` shows it.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::domain::id::EniId;
use crate::domain::roll::{KnownHost, Standing};

/// One of them. What its driver does not tell is none, and not zero.
#[derive(Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "columns")]
pub struct ListedHost {
    pub instance: String,
    /// The primary address of the instance.
    pub address: Option<Ipv4Addr>,
    /// The driver's.
    pub version: String,
    pub state: Standing,
    /// Those that it serves.
    pub enis: Vec<EniId>,
    pub leases: Option<u64>,
    pub warm: Option<u64>,
    pub cooling: Option<u64>,
    pub drained: Option<bool>,
    /// When it was seen last, it had been drained for so long.
    pub drained_seconds: Option<u64>,
    pub problems: Option<u64>,
    /// The first of them.
    pub problem: Option<String>,
    pub seen_seconds: u64,
}

impl From<KnownHost> for ListedHost {
    fn from(host: KnownHost) -> Self {
        let (state, seen) = (host.standing(), host.seen);
        let told = host.entry.told.as_ref();
        // A server without an ENI of its own has none to count.
        let is_nobodys = told.is_some_and(|told| told.server) && host.entry.enis.is_empty();
        let addresses = told.and_then(|told| told.addresses).filter(|_| !is_nobodys);
        Self {
            address: told.and_then(|told| told.address),
            state,
            leases: addresses.map(|addresses| addresses.leases),
            warm: addresses.map(|addresses| addresses.warm),
            cooling: addresses.map(|addresses| addresses.cooling),
            drained: told.map(|told| told.drained),
            drained_seconds: told.and_then(|told| told.drained_seconds),
            problems: told.map(|told| told.problems),
            problem: told.and_then(|told| told.problem.clone()),
            seen_seconds: seen.as_secs(),
            instance: host.entry.instance,
            version: host.entry.version,
            enis: host.entry.enis,
        }
    }
}
