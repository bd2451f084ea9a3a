//! An ENI as DescribeNetworkInterfaces shows it.

use std::net::Ipv4Addr;

use aws_sdk_ec2::types::{AttachmentStatus, NetworkInterface};
use ipnet::Ipv4Net;

use crate::domain::id::{EniId, SubnetId};
use crate::domain::on_eni::OnEni;
use crate::domain::subnet::all_of;

/// An ENI: ours, another host's, or that of a load balancer, a database or a NAT gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its id.
    pub id: EniId,
    /// Its subnet.
    pub subnet: SubnetId,
    /// What its maker wrote, such as `ELB app/web/50dc6c495c0c9188` or `RDSNetworkInterface`; often empty.
    pub description: String,
    /// The instance it is attached to. None for a detached ENI, which keeps its addresses.
    pub instance: Option<String>,
    /// Lowercase, `0a:1b:...`; empty if EC2 tells none.
    pub mac: String,
    /// Its single addresses. None on an IPv6-only ENI.
    pub addresses: Vec<Address>,
    /// Its delegated prefixes, each a /28 of 16 addresses.
    pub prefixes: Vec<Ipv4Net>,
}

/// A private address of an ENI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "AWS's words")]
pub struct Address {
    pub ip: Ipv4Addr,
    pub primary: bool,
    /// The Elastic IP that is associated with it.
    pub elastic: Option<Ipv4Addr>,
}

impl Interface {
    /// The primary address; none on an IPv6-only ENI.
    pub fn primary(&self) -> Option<Ipv4Addr> {
        self.addresses.iter().find(|address| address.primary).map(|address| address.ip)
    }

    /// Whether the address is one of its own or lies in one of its prefixes.
    pub fn has(&self, ip: Ipv4Addr) -> bool {
        self.addresses.iter().any(|address| address.ip == ip) || self.in_prefix(ip)
    }

    /// Whether the address lies in one of its prefixes.
    pub fn in_prefix(&self, ip: Ipv4Addr) -> bool {
        self.prefixes.iter().any(|prefix| prefix.contains(&ip))
    }

    /// Every address it holds, those of its prefixes included.
    pub fn held(&self) -> impl Iterator<Item = Ipv4Addr> {
        let of_prefixes = self.prefixes.iter().copied().flat_map(all_of);
        self.addresses.iter().map(|address| address.ip).chain(of_prefixes)
    }

    /// The same, as IMDS is asked for it too.
    pub fn on_eni(&self) -> OnEni {
        let secondary = self.addresses.iter().filter(|address| !address.primary).map(|address| address.ip).collect();
        OnEni { primary: self.primary(), secondary, prefixes: self.prefixes.clone() }
    }

    /// Who has it, for a user: `eni-... of instance i-...`, else `eni-... (description)`.
    pub fn holder(&self) -> String {
        match &self.instance {
            Some(instance) => format!("{} of instance {instance}", self.id),
            None if self.description.is_empty() => self.id.to_string(),
            None => format!("{} ({})", self.id, self.description),
        }
    }

    /// Reads one of EC2's; the error says what is missing.
    pub(super) fn read(found: &NetworkInterface) -> Result<Self, String> {
        let id = found.network_interface_id().unwrap_or_default();
        let missing = |what: &str| format!("its answer tells no {what} of the interface {id:?}");
        let mut addresses = Vec::new();
        for entry in found.private_ip_addresses() {
            let ip = entry.private_ip_address().and_then(|ip| ip.parse().ok()).ok_or_else(|| missing("address"))?;
            let elastic = entry.association().and_then(|association| association.public_ip()?.parse().ok());
            addresses.push(Address { ip, primary: entry.primary().unwrap_or(false), elastic });
        }
        let mut prefixes = Vec::new();
        for entry in found.ipv4_prefixes() {
            prefixes.push(entry.ipv4_prefix().and_then(|net| net.parse().ok()).ok_or_else(|| missing("prefix"))?);
        }
        let attached = found.attachment().filter(|attachment| attachment.status() != Some(&AttachmentStatus::Detached));
        Ok(Self {
            id: id.parse().map_err(|_| missing("id"))?,
            subnet: found.subnet_id().and_then(|subnet| subnet.parse().ok()).ok_or_else(|| missing("subnet"))?,
            description: found.description().unwrap_or_default().to_owned(),
            instance: attached.and_then(|attachment| attachment.instance_id()).map(str::to_owned),
            mac: found.mac_address().unwrap_or_default().to_ascii_lowercase(),
            addresses,
            prefixes,
        })
    }
}
