//! The roll: the hosts that the table knows, and whom of them to ask for their idle addresses.
//!
//! What a host's containers have is in its journal, and the table may be behind. So a host gives up only its own addresses, and
//! whoever wants those of a whole subnet back asks each host, which sees it at its next look at the table.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use super::address::{Row, State};
use super::id::{EniId, SubnetId};
use super::plan::settle_age;

/// A host looks at the table at least so often: a minute, and what rounds of a minute differ by.
pub fn look_age() -> Duration {
    settle_age() * 7 / 6
}

/// A host that entered itself longer ago has no driver any more.
pub fn gone_age() -> Duration {
    look_age() * 3
}

/// What was asked longer ago, by the database's clock, is not done any more.
pub fn open_age() -> Duration {
    settle_age() * 3 / 2
}

/// Who has not answered after so long will not: a host that looked at the last moment has had a minute to do it.
pub fn answer_age() -> Duration {
    settle_age() * 5 / 2
}

/// A host as it enters itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct HostEntry {
    pub instance: String,
    /// Those that it serves.
    pub enis: Vec<EniId>,
    /// The driver's.
    pub version: String,
    /// The mark of its journal; none while it has none that takes writes.
    pub journal: Option<String>,
}

/// A host that the table knows.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct KnownHost {
    pub entry: HostEntry,
    /// How long ago it entered itself last.
    pub seen: Duration,
}

/// What a host is asked: to give back what is idle on its interfaces in this subnet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Request {
    /// The subnet.
    pub subnet: SubnetId,
    /// What tells it from any other request, at most 64 characters.
    pub token: String,
}

/// What a host answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Addresses that are free again.
    pub freed: u32,
    /// Addresses whose Unassign is not settled yet.
    pub pending: u32,
    /// What was in the way.
    pub trouble: Option<String>,
}

/// Who has a subnet's addresses.
#[derive(Debug, PartialEq, Eq)]
pub struct Whom<'h> {
    /// The hosts that serve interfaces with addresses, by instance.
    pub hosts: BTreeMap<&'h str, &'h KnownHost>,
    /// Interfaces with idle addresses that no host serves, as far as the table knows.
    pub strays: BTreeSet<EniId>,
}

/// Whether a row is a driver's, and its interface therefore one that a host serves or served.
pub fn is_a_drivers(row: &Row) -> bool {
    match row.state() {
        State::On | State::Off | State::Ready | State::Lease => !row.primary,
        State::Free | State::Foreign | State::Reserved => false,
    }
}

/// Whom to ask for these rows. A host with leases alone is asked too: what the table says of them may be old.
pub fn whom<'h>(rows: &[Row], hosts: &'h [KnownHost]) -> Whom<'h> {
    // An interface that moved may still stand with the host that had it before.
    let mut serving: HashMap<&EniId, &KnownHost> = HashMap::new();
    for host in hosts {
        for eni in &host.entry.enis {
            let last = serving.entry(eni).or_insert(host);
            if host.seen < last.seen {
                *last = host;
            }
        }
    }
    let mut whom = Whom { hosts: BTreeMap::new(), strays: BTreeSet::new() };
    for row in rows.iter().filter(|row| is_a_drivers(row)) {
        let Some(eni) = &row.iface else { continue };
        match serving.get(eni).copied() {
            Some(host) => drop(whom.hosts.insert(&host.entry.instance, host)),
            None if row.state() == State::Ready => drop(whom.strays.insert(eni.clone())),
            None => {}
        }
    }
    whom
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::domain::address::Status;
    use crate::domain::id::Claim;

    fn eni(n: u8) -> EniId {
        EniId::stored(format!("eni-0aaaaaaaaaaaaaa{n:02x}"))
    }

    fn row(last: u8, of: u8, status: Status, claim: Option<&str>) -> Row {
        Row {
            ip: Ipv4Addr::new(10, 0, 0, last),
            subnet: SubnetId::stored("subnet-0123456789abcdef0".into()),
            status,
            iface: Some(eni(of)),
            primary: false,
            holder: None,
            idle: Duration::ZERO,
            claim: claim.map(|claim| Claim::stored(claim.into())),
            claimed: claim.map(|_| Duration::ZERO),
        }
    }

    fn host(name: &str, enis: &[u8], seen: u64) -> KnownHost {
        let enis = enis.iter().map(|n| eni(*n)).collect();
        let entry = HostEntry { instance: name.into(), enis, version: "1".into(), journal: None };
        KnownHost { entry, seen: Duration::from_secs(seen) }
    }

    #[test]
    fn those_are_asked_whose_interfaces_have_addresses() {
        let hosts = [host("i-a", &[1], 20), host("i-b", &[2, 3], 4000), host("i-c", &[4], 1), host("i-d", &[3], 10)];
        let rows = [
            row(10, 1, Status::Ready, None),
            row(11, 3, Status::Occupied, Some("b:1:lease")),
            row(12, 5, Status::Ready, None),
            row(13, 6, Status::Occupied, Some("b:2:lease")),
            // Somebody else's interface is nobody's to ask for.
            row(14, 7, Status::Occupied, None),
            Row { primary: true, ..row(15, 4, Status::Ready, None) },
        ];
        let whom = whom(&rows, &hosts);
        // i-d was seen with the interface last.
        assert_eq!(whom.hosts.keys().copied().collect::<Vec<_>>(), ["i-a", "i-d"]);
        assert_eq!(whom.strays, [eni(5)].into());
    }

    #[test]
    fn a_request_is_over_before_nobody_waits_for_it() {
        assert!(look_age() < open_age() && open_age() < answer_age());
    }
}
