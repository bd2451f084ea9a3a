//! What is on an ENI.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::subnet::all_of;

/// The addresses of an ENI, as EC2 or IMDS lists them. Both lag behind what an Assign or Unassign was answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OnEni {
    /// None on an IPv6-only ENI.
    pub primary: Option<Ipv4Addr>,
    /// The other single ones.
    pub secondary: Vec<Ipv4Addr>,
    /// Its prefixes, whose addresses are listed nowhere else.
    pub prefixes: Vec<Ipv4Net>,
}

impl OnEni {
    /// Every address, the primary one first, those of its prefixes last.
    pub fn all(&self) -> impl Iterator<Item = Ipv4Addr> {
        let of_prefixes = self.prefixes.iter().copied().flat_map(all_of);
        self.primary.into_iter().chain(self.secondary.iter().copied()).chain(of_prefixes)
    }

    /// Whether the address is one of a prefix.
    pub fn in_prefix(&self, ip: Ipv4Addr) -> bool {
        self.prefixes.iter().any(|prefix| prefix.contains(&ip))
    }
}
