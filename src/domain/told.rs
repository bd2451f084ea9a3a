//! What a host tells the fleet of itself, in its row of the roll.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// A host's own word, as of when it entered itself. Fields are added, and missing ones are as in the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Told {
    /// The driver's version: an older driver that comes later leaves the word of this one standing.
    pub version: String,
    /// The primary address of the instance; none: IMDS did not tell.
    pub address: Option<Ipv4Addr>,
    /// Whether it serves ENIs of other hosts too.
    pub server: bool,
    /// What its own ENIs have, by its journal; none where ENIs of other hosts are served, which have none.
    pub addresses: Option<Addresses>,
    /// Whether it is drained.
    pub drained: bool,
    /// For how long, where that is known.
    pub drained_seconds: Option<u64>,
    /// What only a person can put right: how many things,
    pub problems: u64,
    /// and the first of them.
    pub problem: Option<String>,
}

/// Addresses of a host's ENIs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Addresses {
    /// In use by containers.
    pub leases: u64,
    /// Idle, and given at once to any container.
    pub warm: u64,
    /// Idle, and not given to any yet: they cool, were named, or are in doubt.
    pub cooling: u64,
}
