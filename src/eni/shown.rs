//! What EC2 shows of the ENI beside its addresses: who reaches them from outside.

use std::net::Ipv4Addr;

use super::{Eni, Shared};
use crate::ec2::{Action, Interface};

impl Shared {
    /// EC2 has shown the ENI.
    pub(super) fn shown(&self, interface: &Interface) {
        let of_containers = interface.addresses.iter().filter(|address| !address.primary);
        let elastic = of_containers.filter_map(|address| Some((address.ip, address.elastic?))).collect();
        let mut memory = self.memory();
        memory.elastic = elastic;
        memory.trouble.answered(Action::DescribeInterfaces, None);
    }
}

impl Eni {
    /// What EC2 has shown to somebody else than the ENI's task.
    pub fn shown(&self, interface: &Interface) {
        self.shared.shown(interface);
    }

    /// The Elastic IP of an address, as EC2 last showed it.
    pub fn elastic_ip(&self, ip: Ipv4Addr) -> Option<Ipv4Addr> {
        self.shared.memory().elastic.get(&ip).copied()
    }

    /// An Elastic IP stays with its private address, whoever has that: an operator should know of a new one.
    pub fn warn_of_elastic_ip(&self, ip: Ipv4Addr) {
        if let Some(public) = self.elastic_ip(ip) {
            tracing::warn!(
                eni = %self.nic.eni, %ip,
                "the Elastic IP {public} is on {ip}, so whoever has it is now reached through that: take it off, or reserve {ip} for \
                 one container with `ec2-ipam reserve {ip} NAME` while it is free"
            );
        }
    }
}
