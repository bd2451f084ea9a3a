//! A block: the sixteen addresses of a /28, which take one slot of an ENI and move to it and off it together.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::ops::Range;

use ipnet::Ipv4Net;

use crate::domain::subnet::{Subnet, all_of};

/// Addresses of a block. AWS knows no other size for IPv4 ("Prefix delegation for Amazon EC2 network interfaces").
pub const SIZE: usize = 16;
const LENGTH: u8 = 28;

/// A /28, by its first address divided by sixteen, as the table's column `net` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Block(u32);

impl Block {
    /// The one that the address lies in.
    pub fn of(ip: Ipv4Addr) -> Self {
        Self(u32::from(ip) / 16)
    }

    /// None for what is no whole, aligned /28.
    pub fn exactly(net: Ipv4Net) -> Option<Self> {
        (net.prefix_len() == LENGTH && net.trunc() == net).then(|| Self::of(net.network()))
    }

    /// Its number, the table's `net`.
    pub fn number(self) -> u32 {
        self.0
    }

    /// From its number; none beyond the last one.
    pub fn numbered(net: u32) -> Option<Self> {
        (net <= u32::MAX / 16).then_some(Self(net))
    }

    /// As EC2 writes it.
    pub fn net(self) -> Ipv4Net {
        Ipv4Net::new_assert(Ipv4Addr::from(self.0 * 16), LENGTH)
    }

    /// All sixteen, in order.
    pub fn addresses(self) -> impl Iterator<Item = Ipv4Addr> {
        all_of(self.net())
    }

    /// Whether the address lies in it.
    pub fn contains(self, ip: Ipv4Addr) -> bool {
        Self::of(ip) == self
    }

    /// The numbers of those that EC2 may put on an ENI of the subnet: all but the first and the last, in which AWS keeps its
    /// five addresses (AWS's own tool on the fragmentation of subnets marks them as never to be had).
    pub fn numbers_in(subnet: Ipv4Net) -> Range<u32> {
        Self::of(subnet.network()).0 + 1..Self::of(subnet.broadcast()).0
    }

    /// Whether it is one of those.
    pub fn may_be_in(self, subnet: &Subnet) -> bool {
        Self::numbers_in(subnet.cidr).contains(&self.0)
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.net().fmt(f)
    }
}

/// What is claimed, assigned, counted and given back as one, and takes one slot of an ENI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unit {
    /// One address.
    Single(Ipv4Addr),
    /// Sixteen.
    Block(Block),
}

impl Unit {
    /// Its addresses, in order.
    pub fn addresses(self) -> impl Iterator<Item = Ipv4Addr> {
        let (single, block) = match self {
            Self::Single(ip) => (Some(ip), None),
            Self::Block(block) => (None, Some(block)),
        };
        single.into_iter().chain(block.into_iter().flat_map(Block::addresses))
    }
}

/// The address, or `10.0.1.16/28`.
impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Single(ip) => ip.fmt(f),
            Self::Block(block) => block.fmt(f),
        }
    }
}

/// What moves together: single addresses each by itself, those of a block with each other. In order, singles first.
pub fn by_unit<T>(things: impl IntoIterator<Item = T>, unit: impl Fn(&T) -> Unit) -> BTreeMap<Unit, Vec<T>> {
    let mut units: BTreeMap<Unit, Vec<T>> = BTreeMap::new();
    things.into_iter().for_each(|thing| units.entry(unit(&thing)).or_default().push(thing));
    units
}

/// Sentences on addresses, each of which begins with its own, by what they are part of: what is said alike of several of a block is
/// said once.
pub fn told_once(told: impl IntoIterator<Item = (Unit, Ipv4Addr, String)>) -> Vec<(Unit, String)> {
    let mut kinds: BTreeMap<(Unit, String), Vec<String>> = BTreeMap::new();
    for (unit, ip, text) in told {
        let rest = text.strip_prefix(&ip.to_string()).unwrap_or(&text).to_owned();
        kinds.entry((unit, rest)).or_default().push(text);
    }
    let once = |((unit, rest), mut alike): ((Unit, String), Vec<String>)| match alike.len() {
        SIZE => (unit, format!("{unit}{rest}")),
        2.. => (unit, format!("{unit} ({} of {SIZE}){rest}", alike.len())),
        _ => (unit, alike.pop().unwrap_or_default()),
    };
    kinds.into_iter().map(once).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::SubnetId;

    fn block(text: &str) -> Block {
        Block::exactly(text.parse().unwrap()).unwrap()
    }

    #[test]
    fn a_block_has_sixteen_addresses_and_one_number() {
        let it = block("10.0.1.16/28");
        let addresses: Vec<_> = it.addresses().collect();
        assert_eq!(
            (addresses.len(), addresses[0], addresses[15]),
            (SIZE, [10, 0, 1, 16].into(), [10, 0, 1, 31].into())
        );
        assert!(addresses.iter().all(|ip| Block::of(*ip) == it && it.contains(*ip)));
        assert!(!it.contains([10, 0, 1, 32].into()));
        assert_eq!((it.to_string(), Block::numbered(it.number())), ("10.0.1.16/28".into(), Some(it)));
        assert_eq!(block("255.255.255.240/28").addresses().last(), Some(Ipv4Addr::BROADCAST));
        assert_eq!(Block::numbered(u32::MAX / 16 + 1), None);
        for no_block in ["10.0.1.16/27", "10.0.1.17/28", "10.0.1.16/29", "10.0.1.16/32"] {
            assert_eq!(Block::exactly(no_block.parse().unwrap()), None, "{no_block}");
        }
    }

    #[test]
    fn the_first_and_the_last_of_a_subnet_are_never_to_be_had() {
        let may = |cidr: &str, net: &str| {
            let subnet = Subnet::new(SubnetId::stored("subnet-0123456789abcdef0".into()), cidr.parse().unwrap());
            block(net).may_be_in(&subnet.unwrap())
        };
        assert!(may("10.0.1.0/24", "10.0.1.16/28") && may("10.0.1.0/24", "10.0.1.224/28"));
        for (cidr, net) in [
            ("10.0.1.0/24", "10.0.1.0/28"),
            ("10.0.1.0/24", "10.0.1.240/28"),
            ("10.0.1.0/24", "10.0.2.16/28"),
            ("10.0.1.0/27", "10.0.1.0/28"),
            ("10.0.1.0/27", "10.0.1.16/28"),
            ("10.0.1.0/28", "10.0.1.0/28"),
        ] {
            assert!(!may(cidr, net), "{net} in {cidr}");
        }
        for (cidr, expected) in
            [("10.0.0.0/16", 4094), ("10.0.1.0/24", 14), ("10.0.1.0/26", 2), ("10.0.1.0/27", 0), ("10.0.1.0/28", 0)]
        {
            assert_eq!(Block::numbers_in(cidr.parse().unwrap()).len(), expected, "{cidr}");
        }
    }

    #[test]
    fn a_unit_is_one_address_or_sixteen() {
        let (single, whole) = (Unit::Single([10, 0, 1, 20].into()), Unit::Block(block("10.0.1.16/28")));
        assert_eq!(single.addresses().collect::<Vec<_>>(), [Ipv4Addr::new(10, 0, 1, 20)]);
        assert_eq!((whole.addresses().count(), whole.to_string()), (SIZE, "10.0.1.16/28".into()));
    }

    #[test]
    fn what_is_so_of_a_block_is_said_once() {
        let whole = block("10.0.1.16/28");
        let of_block = whole.addresses().map(|ip| (Unit::Block(whole), ip, format!("{ip} is gone")));
        let mut told: Vec<_> = of_block.collect();
        assert_eq!(told_once(told.clone()), [(Unit::Block(whole), "10.0.1.16/28 is gone".to_owned())]);
        told[4].2 = "10.0.1.20 is in use".to_owned();
        let once: Vec<String> = told_once(told).into_iter().map(|(_, text)| text).collect();
        assert_eq!(once, ["10.0.1.16/28 (15 of 16) is gone", "10.0.1.20 is in use"]);
        let singles = whole.addresses().take(2).map(|ip| (Unit::Single(ip), ip, format!("{ip} is gone")));
        assert_eq!(told_once(singles).len(), 2);
    }
}
