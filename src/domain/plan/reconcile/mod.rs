//! Rows, EC2 and Docker compared, for one ENI: what does not agree, and what mends it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::net::Ipv4Addr;

use super::ledger::Sight;
use super::settle_age;
use crate::domain::address::{Change, Event, NewRow, Row, State, Status};
use crate::domain::block::{Block, SIZE, Unit};
use crate::domain::id::{Claim, EniId, Kind};
use crate::domain::on_eni::OnEni;
use crate::domain::subnet::Subnet;

/// What was read, in this order: rows, EC2, Docker. What could not be read is none, never empty.
#[derive(Debug, Clone, Copy)]
pub struct Look<'a> {
    /// The ENI.
    pub eni: &'a EniId,
    /// Its subnet.
    pub subnet: &'a Subnet,
    /// Every ENI of this host.
    pub own_enis: &'a [EniId],
    /// The rows that name the ENI, and those of addresses that are listed on it or in use.
    pub rows: &'a [Row],
    /// What is on the ENI.
    pub listed: Option<&'a OnEni>,
    /// The addresses that Docker has in use.
    pub docker: Option<&'a HashSet<Ipv4Addr>>,
    /// Those of them whose network is on this very ENI, and on no other.
    pub here: &'a HashSet<Ipv4Addr>,
    /// The leases that this life of the driver knows.
    pub leases: &'a HashMap<Ipv4Addr, Claim>,
    /// The addresses that the host itself has on the link.
    pub on_link: &'a [Ipv4Addr],
    /// Whether a prefix that nobody uses becomes the ENI's own.
    pub adopts: bool,
    /// Addresses that went on or off the ENI so recently that no list can be believed about them.
    pub recent: &'a HashSet<Ipv4Addr>,
}

/// Something that does not agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The address.
    pub ip: Ipv4Addr,
    /// Its row; none: it has none.
    pub row: Option<Row>,
    /// What it is.
    pub what: What,
}

/// The kinds of findings. Each says what mends it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum What {
    /// Idle, and not on the ENI: given up, so that an Unassign proves it gone.
    Missing,
    /// In use, and not on the ENI: assigned again.
    CutOff,
    /// On the ENI, and nobody's by its row: occupied.
    Unknown {
        /// Whether it is the ENI's primary address.
        primary: bool,
        /// Whether it is one of a prefix.
        in_block: bool,
    },
    /// The ENI's primary address, without the mark.
    Unmarked,
    /// In use, and idle or nobody's by its row, which lost the lease: leased again.
    Forgotten {
        /// The lease that this life knows; none: only Docker knows that it is in use.
        claim: Option<Claim>,
    },
    /// In use, and free by its row, and not on the ENI: claimed and assigned again.
    Lost {
        /// The lease that this life knows; none: only Docker knows that it is in use.
        claim: Option<Claim>,
    },
    /// Occupied by something on the ENI that is not there: free.
    Gone,
    /// On the ENI, nobody's, and used by nothing: idle from now on.
    Unused {
        /// Whether it is one of a prefix.
        in_block: bool,
    },
    /// Leased, and no container has it: released.
    Ended,
    /// In use here, and another ENI's by its row. Nothing mends it: a person has to.
    Conflict,
    /// On the ENI, and held by another one, or reserved, by its row. Nothing mends it.
    Contradiction,
}

/// All that [`What::kind`] says.
pub const KINDS: [&str; 11] = [
    "missing",
    "cut_off",
    "unknown",
    "unmarked",
    "forgotten",
    "lost",
    "gone",
    "unused",
    "ended",
    "conflict",
    "contradiction",
];

impl What {
    /// Its kind in one word, as the metrics have it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::CutOff => "cut_off",
            Self::Unknown { .. } => "unknown",
            Self::Unmarked => "unmarked",
            Self::Forgotten { .. } => "forgotten",
            Self::Lost { .. } => "lost",
            Self::Gone => "gone",
            Self::Unused { .. } => "unused",
            Self::Ended => "ended",
            Self::Conflict => "conflict",
            Self::Contradiction => "contradiction",
        }
    }
}

/// What mends a finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mend {
    /// A row for an address that has none.
    Insert(NewRow),
    /// This change of its row.
    Change(Change),
    /// The journal has it leased by this token, and its row follows.
    Lease(Row, Claim),
    /// The journal ends the lease of this token, and its row follows.
    Release(Claim),
    /// Its idle address is given up.
    GiveUp(Row),
    /// Its lease's address is assigned again.
    Assign(Row),
}

/// Everything that does not agree. Rows with a call to EC2 in flight are left to the ENI's task.
pub fn compare(look: &Look<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    for row in look.rows.iter().filter(|row| row.iface.as_ref() == Some(look.eni)) {
        let what = match row.state() {
            State::Ready => look.idle(row),
            State::Lease => look.leased(row),
            State::Foreign => look.occupied(row),
            State::Free | State::On | State::Off | State::Reserved => None,
        };
        found.extend(what.map(|what| Finding { ip: row.ip, row: Some(row.clone()), what }));
    }
    let row_of = |ip: Ipv4Addr| look.rows.iter().find(|row| row.ip == ip);
    for ip in look.listed.into_iter().flat_map(OnEni::all) {
        let (primary, in_block) = (look.is_primary(ip), look.in_prefix(ip));
        let what = match row_of(ip) {
            _ if look.recent.contains(&ip) => None,
            Some(row) if row.iface.as_ref() == Some(look.eni) => None,
            None => look.subnet.contains(ip).then_some(What::Unknown { primary, in_block }),
            Some(row) => match row.state() {
                State::Free | State::Foreign => Some(What::Unknown { primary, in_block }),
                // Its own driver has a call in flight, and EC2 will tell it.
                State::On | State::Off => None,
                // Below: the table lost the lease of one that is kept for somebody.
                State::Reserved if row.kept_for().is_some() && look.known_lease(ip).is_some() => None,
                State::Ready | State::Lease | State::Reserved => Some(What::Contradiction),
            },
        };
        found.extend(what.map(|what| Finding { ip, row: row_of(ip).cloned(), what }));
    }
    let in_use: BTreeSet<Ipv4Addr> = look.leases.keys().chain(look.docker.into_iter().flatten()).copied().collect();
    for row in in_use.into_iter().filter_map(row_of) {
        let what = match (&row.iface, row.state()) {
            (Some(eni), _) if !look.own_enis.contains(eni) => Some(What::Conflict),
            (None, State::Free) if look.lists(row.ip) == Some(false) => look.lost(row.ip),
            (None, State::Reserved) if row.kept_for().is_some() => look.lost(row.ip),
            _ => None,
        };
        found.extend(what.map(|what| Finding { ip: row.ip, row: Some(row.clone()), what }));
    }
    found
}

impl Look<'_> {
    /// Whether EC2 lists it on the ENI; none: that is not known, or not to be believed yet.
    fn lists(&self, ip: Ipv4Addr) -> Option<bool> {
        let listed = self.listed.filter(|_| !self.recent.contains(&ip))?;
        Some(listed.all().any(|other| other == ip))
    }

    fn is_primary(&self, ip: Ipv4Addr) -> bool {
        self.listed.is_some_and(|listed| listed.primary == Some(ip))
    }

    fn in_prefix(&self, ip: Ipv4Addr) -> bool {
        self.listed.is_some_and(|listed| listed.in_prefix(ip))
    }

    /// Whether what nobody uses of a prefix is to join the ENI's own: some of it is its own already, by the table or by a lease
    /// that the table lost, or all of it is nobody's.
    fn is_ours_to_be(&self, block: Block) -> bool {
        let rows = self.rows.iter().filter(|row| block.contains(row.ip) && row.iface.as_ref() == Some(self.eni));
        let (foreign, ours): (Vec<&Row>, Vec<&Row>) = rows.partition(|row| row.state() == State::Foreign);
        let is_unused = |row: &&Row| {
            let is_known = self.on_link.contains(&row.ip) || self.recent.contains(&row.ip);
            !row.primary && !is_known && self.is_in_docker(row.ip) == Some(false)
        };
        let is_leased = || block.addresses().any(|ip| self.known_lease(ip).is_some());
        ours.iter().any(|row| row.in_block)
            || is_leased()
            || self.adopts && foreign.len() == SIZE && foreign.iter().all(is_unused)
    }

    fn is_in_docker(&self, ip: Ipv4Addr) -> Option<bool> {
        self.docker.map(|docker| docker.contains(&ip))
    }

    /// The lease that this life knows, unless Docker's own word is that its container is gone.
    fn known_lease(&self, ip: Ipv4Addr) -> Option<Claim> {
        self.leases.get(&ip).filter(|_| self.is_in_docker(ip) != Some(false)).cloned()
    }

    /// What a container has that is nobody's by its row.
    fn lost(&self, ip: Ipv4Addr) -> Option<What> {
        let claim = self.known_lease(ip);
        // Docker's word alone does for containers that can have it from here only, and do not have it.
        let is_here =
            || self.here.contains(&ip) && self.is_in_docker(ip) == Some(true) && self.lists(ip) == Some(false);
        (claim.is_some() || is_here()).then_some(What::Lost { claim })
    }

    fn idle(&self, row: &Row) -> Option<What> {
        let claim = self.known_lease(row.ip);
        if self.is_primary(row.ip) {
            (!row.primary).then_some(What::Unmarked)
        } else if claim.is_some() || self.is_in_docker(row.ip) == Some(true) {
            Some(What::Forgotten { claim })
        } else {
            (self.lists(row.ip) == Some(false)).then_some(What::Missing)
        }
    }

    fn leased(&self, row: &Row) -> Option<What> {
        if self.is_in_docker(row.ip) == Some(false) {
            // A container that is being started may not be shown yet.
            row.claimed.is_some_and(|age| age >= settle_age()).then_some(What::Ended)
        } else {
            (self.lists(row.ip) == Some(false)).then_some(What::CutOff)
        }
    }

    fn occupied(&self, row: &Row) -> Option<What> {
        let claim = self.known_lease(row.ip);
        let in_docker = self.is_in_docker(row.ip);
        match self.lists(row.ip)? {
            _ if row.primary => None,
            true if self.is_primary(row.ip) => Some(What::Unmarked),
            _ if claim.is_some() || in_docker == Some(true) => Some(What::Forgotten { claim }),
            false => Some(What::Gone),
            true if self.on_link.contains(&row.ip) => None,
            true if self.in_prefix(row.ip) && !self.is_ours_to_be(Block::of(row.ip)) => None,
            true => (in_docker == Some(false)).then(|| What::Unused { in_block: self.in_prefix(row.ip) }),
        }
    }
}

impl Finding {
    /// What makes it the same finding at the next look.
    pub fn sight(&self) -> Sight<What> {
        Sight { ip: self.ip, what: self.what.clone(), row: self.row.as_ref().map(Row::guard) }
    }

    /// What mends it on this ENI; none: nothing does. `next`: a token that was never used before.
    pub fn mend(&self, eni: &EniId, next: impl Fn(Kind) -> Claim) -> Option<Mend> {
        let Some(row) = &self.row else {
            let What::Unknown { primary, in_block } = self.what else { return None };
            let (status, iface) = (Status::Occupied, Some(eni.clone()));
            return Some(Mend::Insert(NewRow { ip: self.ip, status, iface, primary, holder: None, in_block }));
        };
        let event = match &self.what {
            What::Missing => return Some(Mend::GiveUp(row.clone())),
            What::CutOff => return Some(Mend::Assign(row.clone())),
            What::Unknown { primary, in_block } => {
                Event::Foreign { eni: Some(eni.clone()), primary: *primary, in_block: *in_block }
            }
            What::Unmarked => Event::MarkPrimary,
            // I7: a primary address is no container's.
            What::Forgotten { .. } if row.primary => return None,
            What::Forgotten { claim } => {
                return Some(Mend::Lease(row.clone(), claim.clone().unwrap_or_else(|| next(Kind::Lease))));
            }
            What::Ended => return row.claim.clone().map(Mend::Release),
            What::Lost { .. } => Event::Claim { eni: eni.clone(), claim: next(Kind::On), in_block: false },
            What::Gone => Event::Gone,
            What::Unused { in_block } => Event::Adopt { claim: next(Kind::On), in_block: *in_block },
            What::Conflict | What::Contradiction => return None,
        };
        row.on(event).ok().map(Mend::Change)
    }

    /// Whether the mend keeps an address from being granted wrongly, so that one look is enough.
    pub fn keeps_back(&self) -> bool {
        matches!(self.what, What::Unknown { .. } | What::Unmarked)
    }

    /// Whether the mend takes the address from whoever has it by its row.
    pub fn gives_up(&self) -> bool {
        matches!(self.what, What::Missing | What::Gone | What::Ended | What::Unused { .. })
    }

    /// Whether nothing but a person can mend it.
    pub fn is_for_a_person(&self) -> bool {
        matches!(self.what, What::Conflict | What::Contradiction)
    }
}

/// Whether a look without EC2's word, or without Docker's, cannot tell whether this still is so.
pub fn is_blind(sight: &Sight<What>, listed: bool, docker: bool) -> bool {
    match &sight.what {
        What::Ended | What::Conflict => !docker,
        What::Unused { .. } | What::Forgotten { claim: None } | What::Lost { claim: None } => !docker || !listed,
        What::Missing
        | What::CutOff
        | What::Unknown { .. }
        | What::Unmarked
        | What::Forgotten { claim: Some(_) }
        | What::Lost { claim: Some(_) }
        | What::Gone
        | What::Contradiction => !listed,
    }
}

/// One sentence: what was found, and what mends it.
impl Finding {
    /// What it is found of: what containers have each by itself.
    pub fn unit(&self) -> Unit {
        match self.what {
            What::Unknown { in_block: true, .. } | What::Unused { in_block: true } => Unit::Block(Block::of(self.ip)),
            What::Missing | What::Gone | What::Contradiction => {
                self.row.as_ref().map_or(Unit::Single(self.ip), Row::unit)
            }
            What::CutOff
            | What::Unknown { .. }
            | What::Unmarked
            | What::Forgotten { .. }
            | What::Lost { .. }
            | What::Unused { .. }
            | What::Ended
            | What::Conflict => Unit::Single(self.ip),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ip = self.ip;
        let eni = self.row.as_ref().and_then(|row| row.iface.as_ref()).map_or("no interface", EniId::as_str);
        let state = self.row.as_ref().map(|row| row.state().to_string()).unwrap_or_default();
        match &self.what {
            What::Missing => write!(f, "{ip} is idle and not on the interface: to be given back to the subnet"),
            What::CutOff => {
                write!(
                    f,
                    "{ip} is in use and not on the interface, so its container has no network: to be assigned again"
                )
            }
            What::Unknown { .. } => {
                write!(f, "{ip} is on the interface and nobody's in the table: to be kept from others")
            }
            What::Unmarked => write!(f, "{ip} is the interface's primary address: its row is to be marked so"),
            What::Forgotten { .. } => {
                write!(f, "{ip} is in use and {state} in the table, which lost it: to be leased again")
            }
            What::Lost { .. } => {
                write!(f, "{ip} is in use, but {state} in the table: to be claimed and assigned again")
            }
            What::Gone => write!(f, "{ip} was somebody else's on the interface and is gone: to be freed"),
            What::Unused { .. } => write!(f, "{ip} is on the interface and used by nothing: to join the idle ones"),
            What::Ended => write!(f, "{ip} is leased and no container has it: to be released"),
            What::Conflict => write!(
                f,
                "{ip} is in use on this host, but {eni} has it by the table ({state}): two machines may answer to it; stop the \
                 container here that has it"
            ),
            What::Contradiction => write!(
                f,
                "{ip} is on the interface, but its row is {state} of {eni}: see what assigned it, and take it off where it does \
                 not belong"
            ),
        }
    }
}

#[cfg(test)]
mod tests;
