//! The VPC as it is: subnets, instances, ENIs and their addresses, with the changes of the last minutes.
//!
//! A lagging view (EC2's eventually consistent describes, IMDS) is the present with its youngest changes undone, so
//! there is one truth and no second copy to keep in step.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;
use tokio::time::Instant;

/// The simulated account.
pub const ACCOUNT: &str = "123456789012";
/// The simulated region; a signature for another one is refused.
pub const REGION: &str = "eu-central-1";
/// The availability zone of everything.
pub const ZONE: &str = "eu-central-1a";
/// The one VPC.
pub const VPC_ID: &str = "vpc-0a1b2c3d4e5f60718";
/// The security group of every ENI.
pub const GROUP_ID: &str = "sg-0a1b2c3d4e5f60718";

/// What an instance type runs on. Only Xen takes no prefixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "AWS's words")]
pub enum Platform {
    Nitro,
    Xen,
    BareMetal,
}

/// Name, platform, number of interfaces, and IPv4 addresses per interface including the primary one.
pub const INSTANCE_TYPES: [(&str, Platform, u32, usize); 9] = [
    ("t3.micro", Platform::Nitro, 2, 2),
    ("t3.small", Platform::Nitro, 3, 4),
    ("t3.medium", Platform::Nitro, 3, 6),
    ("m4.large", Platform::Xen, 2, 10),
    ("c5.large", Platform::Nitro, 3, 10),
    ("c5.4xlarge", Platform::Nitro, 8, 30),
    ("c5.metal", Platform::BareMetal, 15, 50),
    ("m5.24xlarge", Platform::Nitro, 15, 50),
    ("p5.48xlarge", Platform::Nitro, 64, 50),
];

/// Whom a CIDR reservation of a subnet keeps addresses for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reservation {
    /// Who names them: EC2 chooses none of them by itself.
    Explicit,
    /// Prefixes that EC2 chooses; it chooses them nowhere else.
    Prefix,
}

/// An ENI that is on no instance has no instance type to take its limit from; AWS's largest common one stands in.
const DETACHED_LIMIT: usize = 50;

/// How long changes are remembered, hence the longest lag that can be shown.
const MEMORY: Duration = Duration::from_secs(15 * 60);

/// One network interface.
#[derive(Clone, Debug)]
pub(crate) struct Eni {
    pub id: String,
    pub subnet: String,
    pub instance: Option<String>,
    pub device_number: u32,
    pub mac: String,
    pub primary: Ipv4Addr,
    pub secondaries: BTreeSet<Ipv4Addr>,
    pub prefixes: BTreeSet<Ipv4Net>,
    pub description: String,
    pub requester_managed: bool,
    pub tags: BTreeMap<String, String>,
    /// Elastic IPs of its private addresses.
    pub elastic: BTreeMap<Ipv4Addr, Ipv4Addr>,
}

impl Eni {
    /// Attached, be it to an instance of ours or to a service of AWS.
    pub(crate) fn in_use(&self) -> bool {
        self.instance.is_some() || self.requester_managed
    }

    /// Address slots taken: the primary address, each secondary one, each /28.
    pub(crate) fn slots(&self) -> usize {
        1 + self.secondaries.len() + self.prefixes.len()
    }

    /// The primary address first, as AWS lists them.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        std::iter::once(self.primary).chain(self.secondaries.iter().copied())
    }

    /// Has an address or a prefix in `net`, or a prefix around it.
    pub(crate) fn touches(&self, net: Ipv4Net) -> bool {
        net.contains(&self.primary)
            || self.secondaries.range(net.network()..=net.broadcast()).next().is_some()
            || self.prefixes.iter().any(|prefix| overlap(*prefix, net))
    }

    /// Holds `ip` as an address or within a prefix.
    pub(crate) fn holds(&self, ip: Ipv4Addr) -> bool {
        self.primary == ip || self.secondaries.contains(&ip) || self.prefixes.iter().any(|p| p.contains(&ip))
    }
}

/// One change of an ENI, with what it takes to undo it.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Assigned(String, Ipv4Addr),
    Unassigned(String, Ipv4Addr),
    PrefixOn(String, Ipv4Net),
    PrefixOff(String, Ipv4Net),
    EniMade(String),
    EniGone(Box<Eni>),
    Detached(String, String),
    /// To an instance, as a device.
    Attached(String, String, u32),
}

impl Change {
    /// Something came, as opposed to went; IMDS is quick with the one and slow with the other.
    fn is_gain(&self) -> bool {
        match self {
            Self::Assigned(..) | Self::PrefixOn(..) | Self::EniMade(_) | Self::Attached(..) => true,
            Self::Unassigned(..) | Self::PrefixOff(..) | Self::EniGone(_) | Self::Detached(..) => false,
        }
    }
}

/// Everything in the VPC.
#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    pub(crate) subnets: BTreeMap<String, Ipv4Net>,
    /// Instance id to its type.
    pub(crate) instances: BTreeMap<String, String>,
    pub(crate) enis: BTreeMap<String, Eni>,
    /// Subnet, range and kind.
    pub(crate) reservations: Vec<(String, Ipv4Net, Reservation)>,
    changes: VecDeque<(Instant, Change)>,
}

impl World {
    /// Makes `change` and remembers it.
    ///
    /// # Panics
    ///
    /// When the ENI does not exist: the rules, or the test, should have looked.
    pub(crate) fn apply(&mut self, change: Change) {
        match &change {
            Change::Assigned(eni, ip) => assert!(self.eni_mut(eni).secondaries.insert(*ip), "{ip} is on {eni} already"),
            Change::Unassigned(eni, ip) => assert!(self.eni_mut(eni).secondaries.remove(ip), "{ip} is not on {eni}"),
            Change::PrefixOn(eni, net) => assert!(self.eni_mut(eni).prefixes.insert(*net), "{net} is on {eni} already"),
            Change::PrefixOff(eni, net) => assert!(self.eni_mut(eni).prefixes.remove(net), "{net} is not on {eni}"),
            Change::EniGone(eni) => drop(self.enis.remove(&eni.id)),
            Change::Detached(eni, _) => self.eni_mut(eni).instance = None,
            Change::Attached(eni, instance, device) => {
                let eni = self.eni_mut(eni);
                (eni.instance, eni.device_number) = (Some(instance.clone()), *device);
            }
            Change::EniMade(_) => {}
        }
        let now = Instant::now();
        self.changes.push_back((now, change));
        while self.changes.front().is_some_and(|(at, _)| now.duration_since(*at) > MEMORY) {
            self.changes.pop_front();
        }
    }

    fn eni_mut(&mut self, id: &str) -> &mut Eni {
        self.enis.get_mut(id).unwrap_or_else(|| panic!("no ENI {id}"))
    }

    /// Forgets all changes: the present is what has always been.
    pub(crate) fn settle(&mut self) {
        self.changes.clear();
    }

    /// The world without the gains younger than `gains` and the losses younger than `losses`.
    pub(crate) fn lagging(&self, gains: Duration, losses: Duration) -> Cow<'_, Self> {
        let now = Instant::now();
        let hidden =
            |(at, change): &&(Instant, Change)| now.duration_since(*at) < if change.is_gain() { gains } else { losses };
        if !self.changes.iter().any(|entry| hidden(&entry)) {
            return Cow::Borrowed(self);
        }
        let mut past = Self { changes: VecDeque::new(), ..self.clone() };
        for (_, change) in self.changes.iter().rev().filter(hidden) {
            past.undo(change);
        }
        Cow::Owned(past)
    }

    fn undo(&mut self, change: &Change) {
        match change {
            Change::EniMade(id) => drop(self.enis.remove(id)),
            Change::EniGone(eni) => drop(self.enis.insert(eni.id.clone(), (**eni).clone())),
            Change::Assigned(id, ip) => self.undo_in(id, |eni| drop_entry(&mut eni.secondaries, ip)),
            Change::Unassigned(id, ip) => self.undo_in(id, |eni| eni.secondaries.extend([*ip])),
            Change::PrefixOn(id, net) => self.undo_in(id, |eni| drop_entry(&mut eni.prefixes, net)),
            Change::PrefixOff(id, net) => self.undo_in(id, |eni| eni.prefixes.extend([*net])),
            Change::Detached(id, instance) => self.undo_in(id, |eni| eni.instance = Some(instance.clone())),
            Change::Attached(id, ..) => self.undo_in(id, |eni| eni.instance = None),
        }
    }

    /// An ENI that a younger undo has taken away is not an error.
    fn undo_in(&mut self, id: &str, undo: impl FnOnce(&mut Eni)) {
        if let Some(eni) = self.enis.get_mut(id) {
            undo(eni);
        }
    }

    /// The ENI that holds `ip`, as an address or within a prefix.
    pub(crate) fn holder(&self, ip: Ipv4Addr) -> Option<&Eni> {
        self.enis.values().find(|eni| eni.holds(ip))
    }

    /// How many address slots the ENI has, by its instance's type.
    pub(crate) fn slot_limit(&self, eni: &Eni) -> usize {
        self.instance_type(eni).map_or(DETACHED_LIMIT, |(.., limit)| limit)
    }

    /// The name of the ENI's instance type, if that takes no prefixes.
    pub(crate) fn refuses_prefixes(&self, eni: &Eni) -> Option<&'static str> {
        self.instance_type(eni).filter(|(_, platform, ..)| *platform == Platform::Xen).map(|(name, ..)| name)
    }

    fn instance_type(&self, eni: &Eni) -> Option<(&'static str, Platform, u32, usize)> {
        let kind = self.instances.get(eni.instance.as_ref()?)?;
        INSTANCE_TYPES.into_iter().find(|(name, ..)| name == kind)
    }

    /// The ranges of the subnet that are reserved so.
    pub(crate) fn reserved<'a>(
        &'a self,
        subnet: &'a str,
        kind: Reservation,
    ) -> impl Iterator<Item = Ipv4Net> + Clone + 'a {
        let of_subnet = self.reservations.iter().filter(move |(of, _, is)| of == subnet && *is == kind);
        of_subnet.map(|(_, net, _)| *net)
    }

    /// AWS's five: network, router, DNS, future use, broadcast.
    pub(crate) fn is_reserved(subnet: Ipv4Net, ip: Ipv4Addr) -> bool {
        let offset = u32::from(ip).wrapping_sub(u32::from(subnet.network()));
        offset < 4 || ip == subnet.broadcast()
    }

    /// The subnet's addresses that nothing holds, in order.
    pub(crate) fn free<'a>(&'a self, subnet: Ipv4Net) -> impl Iterator<Item = Ipv4Addr> + 'a {
        let enis: Vec<_> = self.enis.values().filter(|eni| subnet.contains(&eni.primary)).collect();
        all_of(subnet).filter(move |ip| !Self::is_reserved(subnet, *ip) && !enis.iter().any(|eni| eni.holds(*ip)))
    }

    /// The VPC's blocks: the /16 around each subnet.
    pub(crate) fn vpc_cidrs(&self) -> BTreeSet<Ipv4Net> {
        self.subnets
            .values()
            .map(|net| Ipv4Net::new(net.network(), net.prefix_len().min(16)).expect("at most 16").trunc())
            .collect()
    }
}

/// Whether blocks have an address in common.
pub(crate) fn overlap(a: Ipv4Net, b: Ipv4Net) -> bool {
    a.contains(&b) || b.contains(&a)
}

/// Every address of a block, the first and the last one too.
pub(crate) fn all_of(net: Ipv4Net) -> impl Iterator<Item = Ipv4Addr> {
    (u32::from(net.network())..=u32::from(net.broadcast())).map(Ipv4Addr::from)
}

fn drop_entry<T: Ord>(set: &mut BTreeSet<T>, entry: &T) {
    set.remove(entry);
}
