//! The ENIs that a run is given: whether nothing uses them, and the commands that make them so.

use std::net::Ipv4Addr;
use std::os::unix::net::UnixListener;

use anyhow::{Context, bail};
use ipnet::Ipv4Net;

use super::patiently;
use crate::domain::id::EniId;
use crate::driver::served::lock;
use crate::outside::ec2::{Ec2, Interface};
use crate::outside::imds::{Host, Imds};

/// An ENI that nothing uses.
pub(super) struct Spare {
    pub(super) id: EniId,
    pub(super) mac: String,
    pub(super) primary: Ipv4Addr,
    /// No driver of this host takes it up meanwhile.
    _lock: UnixListener,
}

impl Spare {
    /// The ENI, if nothing uses it.
    pub(super) async fn take(ec2: &Ec2, imds: &Imds, host: &Host, id: &EniId) -> anyhow::Result<(Self, Interface)> {
        let Some(nic) = host.interfaces.iter().find(|nic| nic.eni == *id) else {
            bail!("{id} is not attached to this instance, as far as IMDS knows: attach it, or name one that is");
        };
        if nic.device_number == 0 {
            bail!("{id} is the interface that this instance was started with (device 0): name a spare one");
        }
        let lock = lock(id).with_context(|| {
            format!("a driver on this host serves {id}, or it was named twice: name an interface that no network uses")
        })?;
        let interface = patiently(async || ec2.interface(id).await).await?;
        if interface.instance.as_ref() != Some(&host.instance) {
            bail!("EC2 says that {id} is not attached to this instance, and IMDS that it is: try again in a minute");
        }
        let primary = interface.primary().with_context(|| format!("{id} has no IPv4 address: name one that has"))?;
        let others = beside_primary(&interface);
        if !others.is_empty() {
            let what = match interface.prefixes.as_slice() {
                [] => "secondary addresses".to_owned(),
                [prefix, ..] => format!("the prefix {prefix}"),
            };
            bail!(
                "{id} has {what}: name an interface without secondary addresses and prefixes; if an earlier run was killed, \
                 take them off by: {}",
                commands(ec2.region(), id, &others).join("; ")
            );
        }
        if nic.addresses != [primary] {
            bail!("IMDS still shows secondary addresses on {id}, which EC2 says are gone: try again in a minute");
        }
        if let [prefix, ..] = imds.prefixes(&nic.mac).await?.as_slice() {
            bail!("IMDS still shows the prefix {prefix} on {id}, which EC2 says is gone: try again in a minute");
        }
        Ok((Self { id: id.clone(), mac: nic.mac.clone(), primary, _lock: lock }, interface))
    }
}

/// What is on an ENI beside its primary address: single addresses as /32, and prefixes.
pub(super) fn beside_primary(interface: &Interface) -> Vec<Ipv4Net> {
    let singles = interface.addresses.iter().filter(|address| !address.primary).map(|address| address.ip.into());
    singles.chain(interface.prefixes.iter().copied()).collect()
}

/// Single addresses and prefixes: no call has both.
pub(super) fn by_kind(nets: &[Ipv4Net]) -> (Vec<Ipv4Addr>, Vec<Ipv4Net>) {
    let (singles, prefixes): (Vec<Ipv4Net>, Vec<_>) = nets.iter().partition(|net| net.prefix_len() == 32);
    (singles.into_iter().map(|net| net.addr()).collect(), prefixes)
}

/// What takes these off. One call for each: EC2 refuses a list of which one is not there.
pub(super) fn commands(region: &str, eni: &EniId, nets: &[Ipv4Net]) -> Vec<String> {
    let (singles, prefixes) = by_kind(nets);
    let kinds = [("--private-ip-addresses", texts(&singles)), ("--ipv4-prefixes", texts(&prefixes))];
    let call = format!("aws ec2 unassign-private-ip-addresses --region {region} --network-interface-id {eni}");
    let command = |(option, given): (&str, Vec<String>)| match given.as_slice() {
        [] => None,
        [one] => Some(format!("{call} {option} {one}")),
        many => Some(format!("for ip in {}; do {call} {option} $ip; done", many.join(" "))),
    };
    kinds.into_iter().filter_map(command).collect()
}

fn texts<T: ToString>(given: &[T]) -> Vec<String> {
    given.iter().map(T::to_string).collect()
}
