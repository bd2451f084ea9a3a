//! Looks that an operator asks for, and what they find.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// How rows are compared with EC2 and Docker. On the wire an object: what another version sends is refused, not misread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "manner", rename_all = "kebab-case")]
pub enum Manner {
    /// As every interval: what two looks have seen is put right, and a subnet is scanned if no other host does it.
    Usual,
    /// Changes nothing, and counts as no observation.
    DryRun,
    /// A scan is done whoever else does it, and however many rows it frees.
    Forced,
}

/// A finding, for the operator.
#[derive(Debug, Serialize, Deserialize)]
pub struct Found {
    /// The ENI, or the subnet.
    pub of: String,
    /// The address.
    pub ip: Ipv4Addr,
    /// What was found, and what mends it.
    pub found: String,
    /// For how long it has been seen; none: for the first time.
    pub seen_seconds: Option<u64>,
    /// Whether this round has put it right.
    pub repaired: bool,
}
