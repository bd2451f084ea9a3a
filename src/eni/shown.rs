//! What EC2 shows of the ENI beside its addresses: how many it takes, and who reaches them from outside.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Mutex;

use ipnet::Ipv4Net;

use super::{Eni, Shared, locked};
use crate::outside::ec2::{Action, Interface, Limits};

/// As EC2 last showed it.
#[derive(Default)]
pub(super) struct Shown(Mutex<Last>);

#[derive(Default)]
struct Last {
    /// The Elastic IPs of its addresses but the primary one.
    elastic: HashMap<Ipv4Addr, Ipv4Addr>,
    /// Its prefixes, of 16 addresses and one slot each. Those that the table does not know are somebody else's.
    prefixes: Vec<Ipv4Net>,
    /// What the instance type lets it have.
    limits: Option<Limits>,
}

impl Shown {
    pub(super) fn prefixes(&self) -> Vec<Ipv4Net> {
        locked(&self.0).prefixes.clone()
    }

    /// Whether the address is one of a prefix.
    pub(super) fn in_prefix(&self, ip: Ipv4Addr) -> bool {
        locked(&self.0).prefixes.iter().any(|prefix| prefix.contains(&ip))
    }

    /// These addresses went off the ENI, and with them its prefixes that have them.
    pub(super) fn went_off(&self, ips: &[Ipv4Addr]) {
        locked(&self.0).prefixes.retain(|prefix| !ips.iter().any(|ip| prefix.contains(ip)));
    }

    pub(super) fn limits(&self) -> Option<Limits> {
        locked(&self.0).limits
    }

    pub(super) fn has_limits(&self, limits: Limits) {
        locked(&self.0).limits = Some(limits);
    }
}

impl Shared {
    /// EC2 has shown the ENI.
    pub(super) fn shown(&self, interface: &Interface) {
        {
            let mut last = locked(&self.shown.0);
            let of_containers = interface.addresses.iter().filter(|address| !address.primary);
            last.elastic = of_containers.filter_map(|address| Some((address.ip, address.elastic?))).collect();
            last.prefixes.clone_from(&interface.prefixes);
        }
        self.trouble.answered(Action::DescribeInterfaces, None);
    }
}

impl Eni {
    /// What EC2 has shown to somebody else than the ENI's task.
    pub fn shown(&self, interface: &Interface) {
        self.shared.shown(interface);
    }

    /// The Elastic IP of an address, as EC2 last showed it.
    pub fn elastic_ip(&self, ip: Ipv4Addr) -> Option<Ipv4Addr> {
        locked(&self.shared.shown.0).elastic.get(&ip).copied()
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
