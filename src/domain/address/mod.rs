//! An address's row and every way that it may change.
//!
//! The transitions stand here once, as a pure function from a row and an event to a guarded change (invariant I5). The
//! store carries changes out; nobody else writes to rows. `ts` is when the address was last let go and nothing else, so
//! a change says whether it lets go.

use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::block::{Block, Unit};
use crate::domain::id::{Claim, EniId, Kind, SubnetId};

mod change;

use change::LONGEST;
pub use change::{Change, Guard, Holder, NewRow, Target};

/// The `status` column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "`State` says what they mean")]
pub enum Status {
    Free,
    Ready,
    Allocated,
    Occupied,
    Reserved,
}

impl Status {
    /// The column's text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Ready => "ready",
            Self::Allocated => "allocated",
            Self::Occupied => "occupied",
            Self::Reserved => "reserved",
        }
    }

    /// From the column's text; none for a text that the column cannot hold.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Free, Self::Ready, Self::Allocated, Self::Occupied, Self::Reserved]
            .into_iter()
            .find(|status| status.as_str() == text)
    }
}

/// So long ago nothing was let go.
const NEVER: Duration = Duration::from_secs(10 * 365 * 86_400);

/// What a row means: its status, told apart by its claim where that matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nobody's.
    Free,
    /// Claimed; an Assign may be in flight.
    On,
    /// Given up; an Unassign may be in flight. Never becomes ready again.
    Off,
    /// On the ENI and idle: warm, or still cooling.
    Ready,
    /// In use by a container of the ENI's host.
    Lease,
    /// In use by something that is not ours.
    Foreign,
    /// Kept back by AWS or an operator. Given at most to whom it is kept for ([`Row::kept_for`]).
    Reserved,
}

impl State {
    /// What a status means beside a claim. An `allocated` row whose claim is not ours can only be given up.
    pub fn of(status: Status, claim: Option<&Claim>) -> Self {
        match (status, claim.and_then(Claim::kind)) {
            (Status::Free, _) => Self::Free,
            (Status::Ready, _) => Self::Ready,
            (Status::Reserved, _) => Self::Reserved,
            (Status::Allocated, Some(Kind::On)) => Self::On,
            (Status::Allocated, _) => Self::Off,
            (Status::Occupied, Some(Kind::Lease)) => Self::Lease,
            (Status::Occupied, _) => Self::Foreign,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Free => "free",
            Self::On => "on",
            Self::Off => "off",
            Self::Ready => "ready",
            Self::Lease => "lease",
            Self::Foreign => "foreign",
            Self::Reserved => "reserved",
        })
    }
}

/// One row of the table. Ages are measured by the database's clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The address.
    pub ip: Ipv4Addr,
    /// The subnet it lies in.
    pub subnet: SubnetId,
    /// The `status` column; [`Row::state`] says what it means.
    pub status: Status,
    /// The ENI that holds it.
    pub iface: Option<EniId>,
    /// Whether it is an ENI's primary address.
    pub primary: bool,
    /// Whether it is on its ENI, or on its way there or off it, as one of a block's sixteen.
    pub in_block: bool,
    /// Who moved it last, and what for.
    pub claim: Option<Claim>,
    /// The endpoint that uses it, or used it last; or who reserved it.
    pub holder: Option<String>,
    /// Since it was let go, whole seconds.
    pub idle: Duration,
    /// Since it was claimed; none when nobody holds a claim.
    pub claimed: Option<Duration>,
}

/// How `holder` begins when a container asked for this very address (`--ip`): such an address goes back to the subnet
/// once it has cooled, so that the container can move to another host.
pub const FIXED: &str = "fixed:";
/// How `holder` begins for as long as an address that is kept for a name is on an ENI: it is reserved again when it leaves.
/// It is [`FIXED`] as well, and no name of a container, which has no colon.
pub const KEPT: &str = "fixed:reserved:";
/// Who holds the five addresses that no subnet gives.
pub const AWS: &str = "AWS";
/// How `holder` begins where EC2 itself said that nobody may have the address.
pub const EC2: &str = "EC2: ";

impl Row {
    /// What the row means.
    pub fn state(&self) -> State {
        State::of(self.status, self.claim.as_ref())
    }

    /// What it moves with.
    pub fn unit(&self) -> Unit {
        if self.in_block { Unit::Block(Block::of(self.ip)) } else { Unit::Single(self.ip) }
    }

    /// Whether a container that named this address used it last.
    pub fn is_fixed(&self) -> bool {
        self.holder.as_deref().is_some_and(|holder| holder.starts_with(FIXED))
    }

    /// The name of the endpoint, or of who reserved it; none where none was given.
    pub fn endpoint(&self) -> Option<&str> {
        let holder = self.holder.as_deref()?;
        let name = holder.strip_prefix(KEPT).or_else(|| holder.strip_prefix(FIXED)).unwrap_or(holder);
        Some(name).filter(|name| !name.is_empty())
    }

    /// The name that an operator keeps it for: nobody else gets it but who names the address itself. None for what nobody may
    /// have.
    pub fn kept_for(&self) -> Option<&str> {
        let holder = self.holder.as_deref()?;
        let name = if self.status == Status::Reserved {
            Some(holder).filter(|by| *by != AWS && !by.starts_with(EC2))
        } else {
            holder.strip_prefix(KEPT)
        };
        name.filter(|name| !name.is_empty())
    }

    /// Whether it has been idle for the cool-down. `idle` counts whole seconds of a clock read in whole seconds, so a
    /// second more is asked for: never too early (I10).
    pub fn has_cooled(&self, cooldown: Duration) -> bool {
        self.idle.as_secs() >= cooldown_seconds(cooldown)
    }

    /// How long ago it was let go; none: it was never in use, and has the time long past of a fresh row.
    pub fn let_go(&self) -> Option<Duration> {
        Some(self.idle).filter(|idle| *idle < NEVER)
    }

    /// The change that an event makes of this row, or why there is none.
    pub fn on(&self, event: Event) -> Result<Change, Forbidden> {
        use State::{Foreign, Free, Lease, Off, On, Ready, Reserved};
        let state = self.state();
        let mine = self.iface.clone();
        let stays = self.in_block;
        let keep = |status, claim| {
            let (iface, holder) = (mine.clone(), Holder::Keep);
            Target { status, iface, claim, holder, primary: None, in_block: stays }
        };
        let nobody =
            |status, holder| Target { status, iface: None, claim: None, holder, primary: None, in_block: false };
        let kept = self.kept_for();
        let marked = |mark: &str| Holder::set(kept.map(|name| format!("{mark}{name}")));
        // What is kept for somebody never becomes anybody's.
        let free = || nobody(kept.map_or(Status::Free, |_| Status::Reserved), marked(""));
        let (to, let_go) = match (state, event) {
            // A primary address must never reach a container, whatever its status says (I7).
            (_, Event::Claim { .. } | Event::Follow { .. } | Event::Adopt { .. } | Event::GiveUp { .. })
                if self.primary =>
            {
                return Err(Forbidden { ip: self.ip, state });
            }
            (Free, Event::Claim { eni, claim, in_block }) => {
                let (status, iface, holder) = (Status::Allocated, Some(eni), Holder::Clear);
                (Target { status, iface, claim: Some(claim), holder, primary: None, in_block }, None)
            }
            // What is kept for a name never is a block's.
            (Reserved, Event::Claim { eni, claim, in_block: false }) if kept.is_some() => {
                let (status, iface, holder) = (Status::Allocated, Some(eni), marked(KEPT));
                (Target { status, iface, claim: Some(claim), holder, primary: None, in_block: false }, None)
            }
            // Off: an older one that a database brought back. What the journal gives back does not follow.
            (On | Off | Ready | Lease, Event::Follow { lease, holder, idle }) => {
                let status = if lease.is_some() { Status::Occupied } else { Status::Ready };
                (Target { holder: Holder::set(holder), ..keep(status, lease) }, Some(idle))
            }
            // A container has what nobody knew whose it was.
            (Foreign, Event::Follow { lease: Some(lease), holder, idle }) => {
                (Target { holder: Holder::set(holder), ..keep(Status::Occupied, Some(lease)) }, Some(idle))
            }
            (On | Ready | Off, Event::GiveUp { claim }) => (keep(Status::Allocated, Some(claim)), None),
            // Whoever used it until now may be remembered out there: it cools from now on.
            (Foreign, Event::Adopt { claim, in_block }) => {
                (Target { in_block, ..keep(Status::Allocated, Some(claim)) }, JUST_NOW)
            }
            (Off, Event::Gone) => (free(), None),
            (Foreign, Event::Gone) | (On | Off | Ready | Lease | Foreign, Event::EniGone) => {
                (Target { primary: Some(false), ..free() }, JUST_NOW)
            }
            // Let go just now: the next claim tries others first instead of this one again.
            (On, Event::Refuse { address_at_fault }) => (free(), JUST_NOW.filter(|_| address_at_fault)),
            (Free | On | Off | Ready | Lease | Foreign, Event::Foreign { eni, primary, in_block }) => {
                let status = Status::Occupied;
                let holder = if kept.is_some() { Holder::Keep } else { Holder::Clear };
                (Target { status, iface: eni, claim: None, holder, primary: Some(primary), in_block }, None)
            }
            (Foreign | Ready, Event::MarkPrimary) => {
                let (primary, holder, in_block) = (Some(true), Holder::Clear, false);
                (Target { primary, holder, in_block, ..keep(Status::Occupied, None) }, None)
            }
            (Free | On, Event::Reserve { holder }) => {
                let name = holder.map(|name| name.chars().take(LONGEST - KEPT.len()).collect());
                (nobody(Status::Reserved, Holder::set(name)), None)
            }
            (Reserved, Event::Unreserve) => (nobody(Status::Free, Holder::Clear), None),
            // From now on it is an address that a container has named, or had.
            (On | Off | Ready | Lease | Foreign, Event::Unreserve) if kept.is_some() => {
                (Target { holder: marked(FIXED), ..keep(self.status, self.claim.clone()) }, None)
            }
            (Free | On | Off | Ready | Lease | Foreign | Reserved, _) => return Err(Forbidden { ip: self.ip, state }),
        };
        Ok(Change { ip: self.ip, from: self.guard(), to, let_go })
    }

    /// What a change of this row expects it to be.
    pub fn guard(&self) -> Guard {
        let (iface, claim, holder) = (self.iface.clone(), self.claim.clone(), self.holder.clone());
        Guard { status: self.status, iface, claim, holder, in_block: self.in_block }
    }
}

/// What is let go by the change itself.
const JUST_NOW: Option<Duration> = Some(Duration::ZERO);

/// Whole seconds that `ts` must lie back, by a clock that counts whole seconds, for an address to have cooled.
pub fn cooldown_seconds(cooldown: Duration) -> u64 {
    if cooldown.is_zero() { 0 } else { cooldown.as_secs() + u64::from(cooldown.subsec_nanos() > 0) + 1 }
}

/// What happens to an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Taken for an ENI before an Assign (I3).
    Claim {
        /// The ENI it is meant for.
        eni: EniId,
        /// An `on` token.
        claim: Claim,
        /// Whether as one of a block's sixteen.
        in_block: bool,
    },
    /// What the journal says of it.
    Follow {
        /// The lease's token; none: it is idle.
        lease: Option<Claim>,
        /// The endpoint that has it, or had it last, marked as in [`Row::holder`].
        holder: Option<String>,
        /// Since it was last let go.
        idle: Duration,
    },
    /// On the ENI and used by nothing: claimed, for EC2 to confirm.
    Adopt {
        /// An `on` token.
        claim: Claim,
        /// Whether it is there as one of a block's sixteen.
        in_block: bool,
    },
    /// To be unassigned (or: to be unassigned once more, under a newer token).
    GiveUp {
        /// An `off` token.
        claim: Claim,
    },
    /// EC2 says that it is not on the ENI; or that what had it does not have it any more.
    Gone,
    /// EC2 does not know the ENI any more: all its addresses are nobody's.
    EniGone,
    /// EC2 refused to assign it, and says nothing of anybody else having it.
    Refuse {
        /// Whether the address itself was the reason, so that others are tried first next time.
        address_at_fault: bool,
    },
    /// Something that is not ours has it.
    Foreign {
        /// The ENI that has it, if known.
        eni: Option<EniId>,
        /// Whether it is that ENI's primary address.
        primary: bool,
        /// Whether it is there as one of a block's sixteen.
        in_block: bool,
    },
    /// EC2 says that it is the ENI's primary address, and the row does not: it must not stay grantable.
    MarkPrimary,
    /// An operator or AWS keeps it.
    Reserve {
        /// Who or what for.
        holder: Option<String>,
    },
    /// The operator lets it go.
    Unreserve,
}

/// An event that must not happen to a row in this state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{ip} is {state} and may not change so")]
pub struct Forbidden {
    /// The address.
    pub ip: Ipv4Addr,
    /// Its state.
    pub state: State,
}

#[cfg(test)]
mod tests;
