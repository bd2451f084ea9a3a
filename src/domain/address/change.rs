//! What is done to a row: a guarded change of one that is there, or a new one.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::{Row, Status};
use crate::domain::id::{Claim, EniId};

/// A guarded UPDATE of one row: it takes place only if the row still is what the decision saw (I5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The address.
    pub ip: Ipv4Addr,
    /// What the row must be.
    pub from: Guard,
    /// What it becomes.
    pub to: Target,
    /// So long ago `ts` becomes; none: it stays.
    pub let_go: Option<Duration>,
}

impl Change {
    /// What the row that it was decided on is once it has taken place, so that nobody reads what he has just written. An age
    /// that begins with it is zero.
    pub fn after(&self, row: &Row) -> Row {
        let Target { status, iface, claim, holder, primary, in_block } = self.to.clone();
        Row {
            ip: row.ip,
            subnet: row.subnet.clone(),
            status,
            iface,
            primary: primary.unwrap_or(row.primary),
            in_block,
            holder: match holder {
                Holder::Keep => row.holder.clone(),
                Holder::Clear => None,
                Holder::Set(text) => Some(text),
            },
            idle: self.let_go.unwrap_or(row.idle),
            claimed: claim.as_ref().map(|_| Duration::ZERO),
            claim,
        }
    }
}

/// What a row must be for its change to take place; NULL equals NULL here. An operator changes `holder` alone, and what is
/// decided by the name that an address is kept for must not undo that.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "columns")]
pub struct Guard {
    pub status: Status,
    pub iface: Option<EniId>,
    pub claim: Option<Claim>,
    pub holder: Option<String>,
    pub in_block: bool,
}

/// What a row becomes. `claimed` becomes now where there is a claim, else NULL.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "columns")]
pub struct Target {
    pub status: Status,
    pub iface: Option<EniId>,
    pub claim: Option<Claim>,
    pub holder: Holder,
    /// None: as it was.
    pub primary: Option<bool>,
    pub in_block: bool,
}

/// Longest `holder`, in characters.
pub(super) const LONGEST: usize = 255;

/// What becomes of `holder`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// As it was.
    Keep,
    /// NULL.
    Clear,
    /// This text, of at most 255 characters.
    Set(String),
}

impl Holder {
    pub(super) fn set(text: Option<String>) -> Self {
        text.map_or(Self::Clear, |text| Self::Set(text.chars().take(LONGEST).collect()))
    }
}

/// A row to insert where there is none: of a fresh subnet, or an address that no row knew.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "columns")]
pub struct NewRow {
    pub ip: Ipv4Addr,
    pub status: Status,
    pub iface: Option<EniId>,
    pub primary: bool,
    pub holder: Option<String>,
    pub in_block: bool,
}
