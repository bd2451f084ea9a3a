//! The roll: the hosts that the table knows, how each stands, which of them are no more, and whom to ask for idle addresses.
//!
//! What a host's containers have is in its journal, and the table may be behind. So a host gives up only its own addresses, and
//! whoever wants those of a whole subnet back asks each host, which sees it at its next look at the table.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::address::{Row, State};
use super::id::{EniId, SubnetId};
use super::plan::settle_age;
use super::told::{Addresses, Told};

/// A host looks at the table at least so often: a minute, and what rounds of a minute differ by.
pub fn look_age() -> Duration {
    settle_age() * 7 / 6
}

/// A host that entered itself longer ago has no driver any more.
pub fn gone_age() -> Duration {
    look_age() * 3
}

/// A host that EC2 does not know any more is forgotten so long after it was seen.
pub fn forget_age() -> Duration {
    sweep_age() * 24
}

/// One host of the fleet looks for such ones so often.
pub fn sweep_age() -> Duration {
    settle_age() * 60
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
    /// What else it tells; none: its driver is of before that.
    pub told: Option<Told>,
}

/// A host that the table knows.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct KnownHost {
    pub entry: HostEntry,
    /// How long ago it entered itself last.
    pub seen: Duration,
}

/// How a host stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// Containers get addresses.
    Serving,
    /// The same, of other hosts' too.
    Server,
    /// None gets one, and some still have theirs, or idle ones are on the way back.
    Draining,
    /// None gets one, and nothing is left.
    Drained,
    /// It has not been seen for minutes.
    Silent,
}

impl KnownHost {
    /// As of now.
    pub fn standing(&self) -> Standing {
        if self.seen >= gone_age() {
            return Standing::Silent;
        }
        let nothing = Some(Addresses::default());
        match &self.entry.told {
            Some(told) if told.drained && told.addresses == nothing => Standing::Drained,
            Some(told) if told.drained => Standing::Draining,
            Some(told) if told.server => Standing::Server,
            Some(_) | None => Standing::Serving,
        }
    }
}

/// Hosts that may be no more: EC2 is to be asked about them.
pub fn long_gone(hosts: &[KnownHost]) -> Vec<String> {
    let gone = hosts.iter().filter(|host| host.seen >= forget_age());
    gone.map(|host| host.entry.instance.clone()).collect()
}

/// Those of them that are no more. `attached`: the instances that EC2 shows with interfaces; each has one for as long as it is
/// there, stopped or not. Where EC2 does not show this host itself, it shows another account: that says nothing.
pub fn forgotten(long_gone: Vec<String>, attached: &BTreeSet<String>, own: &str) -> Vec<String> {
    if !attached.contains(own) {
        return Vec::new();
    }
    long_gone.into_iter().filter(|instance| !attached.contains(instance)).collect()
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

/// Which host serves each interface: one that moved may still stand with the host that had it before.
pub fn serving(hosts: &[KnownHost]) -> HashMap<&EniId, &KnownHost> {
    let mut serving: HashMap<&EniId, &KnownHost> = HashMap::new();
    for host in hosts {
        for eni in &host.entry.enis {
            let last = serving.entry(eni).or_insert(host);
            if host.seen < last.seen {
                *last = host;
            }
        }
    }
    serving
}

/// Whom to ask for these rows. A host with leases alone is asked too: what the table says of them may be old.
pub fn whom<'h>(rows: &[Row], hosts: &'h [KnownHost]) -> Whom<'h> {
    let serving = serving(hosts);
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
            in_block: false,
            holder: None,
            idle: Duration::ZERO,
            claim: claim.map(|claim| Claim::stored(claim.into())),
            claimed: claim.map(|_| Duration::ZERO),
        }
    }

    fn host(name: &str, enis: &[u8], seen: u64) -> KnownHost {
        let enis = enis.iter().map(|n| eni(*n)).collect();
        let entry = HostEntry { instance: name.into(), enis, version: "1".into(), journal: None, told: None };
        KnownHost { entry, seen: Duration::from_secs(seen) }
    }

    fn seen(instance: &str, seen: Duration, told: Option<Told>) -> KnownHost {
        let KnownHost { entry, .. } = host(instance, &[], 0);
        KnownHost { entry: HostEntry { told, ..entry }, seen }
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
    fn a_host_stands_as_it_told_unless_it_is_silent() {
        let now = Duration::ZERO;
        let drained = Told { drained: true, addresses: Some(Addresses::default()), ..Told::default() };
        let full = Some(Addresses { leases: 1, ..Addresses::default() });
        let idle = Some(Addresses { cooling: 1, ..Addresses::default() });
        for (age, told, standing) in [
            (now, None, Standing::Serving),
            (now, Some(Told::default()), Standing::Serving),
            (now, Some(Told { server: true, ..Told::default() }), Standing::Server),
            (now, Some(drained.clone()), Standing::Drained),
            (now, Some(Told { addresses: full, ..drained.clone() }), Standing::Draining),
            (now, Some(Told { addresses: idle, ..drained.clone() }), Standing::Draining),
            (now, Some(Told { addresses: None, server: true, ..drained.clone() }), Standing::Draining),
            (gone_age(), Some(drained), Standing::Silent),
            (gone_age(), None, Standing::Silent),
        ] {
            assert_eq!(seen("i-a", age, told.clone()).standing(), standing, "{told:?}");
        }
    }

    #[test]
    fn only_what_ec2_does_not_show_beside_this_host_is_forgotten() {
        let hosts = [
            seen("i-own", Duration::ZERO, None),
            seen("i-stopped", forget_age(), None),
            seen("i-gone", forget_age() * 2, None),
            seen("i-away", forget_age() / 2, None),
        ];
        let gone = long_gone(&hosts);
        assert_eq!(gone, ["i-stopped", "i-gone"]);
        let shown = |instances: &[&str]| instances.iter().map(|instance| (*instance).to_owned()).collect();
        assert_eq!(forgotten(gone.clone(), &shown(&["i-own", "i-stopped"]), "i-own"), ["i-gone"]);
        assert!(forgotten(gone, &shown(&["i-stopped"]), "i-own").is_empty(), "another account's credentials");
    }

    #[test]
    fn a_request_is_over_before_nobody_waits_for_it() {
        assert!(look_age() < open_age() && open_age() < answer_age());
    }
}
