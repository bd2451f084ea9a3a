//! What is on an ENI.

use std::net::Ipv4Addr;

/// The addresses of an ENI, as EC2 or IMDS lists them. Both lag behind what an Assign or Unassign was answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OnEni {
    /// None on an IPv6-only ENI.
    pub primary: Option<Ipv4Addr>,
    /// The others, those of its prefixes among them.
    pub secondary: Vec<Ipv4Addr>,
}

impl OnEni {
    /// Every address, the primary one first.
    pub fn all(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.primary.into_iter().chain(self.secondary.iter().copied())
    }
}
