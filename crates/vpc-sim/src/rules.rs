//! AWS's rules for Assign and Unassign: functions over a [`World`], without IO.
//!
//! A call either takes effect whole or changes nothing, except where a switch says otherwise.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::errors::ApiError;
use crate::requests::{Assign, Unassign};
use crate::switches::{
    AssignRefused, AssignReply, Duplicates, InUseNames, OwnAddress, Switches, UnassignPrimary, UnassignUnknown,
};
use crate::world::{Change, Eni, World};

/// What a successful Assign answers.
#[derive(Debug)]
pub(crate) struct Assigned {
    pub(crate) eni: String,
    pub(crate) addresses: Vec<Ipv4Addr>,
    pub(crate) prefixes: Vec<Ipv4Net>,
}

/// AssignPrivateIpAddresses.
pub(crate) fn assign(world: &mut World, switches: &Switches, call: &Assign) -> Result<Assigned, ApiError> {
    let eni = world.enis.get(&call.eni).ok_or_else(|| ApiError::no_interface(&call.eni))?.clone();
    let given =
        [!call.addresses.is_empty(), call.count.is_some(), !call.prefixes.is_empty(), call.prefix_count.is_some()];
    let given = given.into_iter().filter(|is_given| *is_given).count();
    if given != 1 {
        return Err(ApiError::list_or_count(given > 1, switches));
    }
    if let Some(count) = call.count {
        return assign_count(world, &eni, count);
    }
    if let Some(count) = call.prefix_count {
        let prefixes = free_prefixes(world, &eni, count)?;
        return assign_prefixes(world, &eni, prefixes);
    }
    if !call.prefixes.is_empty() {
        let prefixes = given_prefixes(world, &eni, &call.prefixes)?;
        return assign_prefixes(world, &eni, prefixes);
    }
    assign_list(world, switches, &eni, call)
}

fn assign_list(world: &mut World, switches: &Switches, eni: &Eni, call: &Assign) -> Result<Assigned, ApiError> {
    let subnet = world.subnets[&eni.subnet];
    let asked = parse_list(&call.addresses, switches)?;
    for ip in &asked {
        if !subnet.contains(ip) {
            return Err(ApiError::not_in_subnet(ip));
        }
        if World::is_reserved(subnet, *ip) {
            return Err(ApiError::reserved(ip, switches));
        }
    }
    // An ENI's primary address never moves and is never a secondary one, its own included.
    if asked.iter().any(|ip| world.enis.values().any(|other| other.primary == *ip)) {
        return Err(ApiError::other_primary());
    }
    let refused: Vec<_> = asked.iter().copied().filter(|ip| is_refused(world, switches, eni, call, *ip)).collect();
    let fresh: Vec<_> =
        asked.iter().copied().filter(|ip| !refused.contains(ip) && !eni.secondaries.contains(ip)).collect();
    if !refused.is_empty() && switches.assign_refused == AssignRefused::FailsWhole {
        return Err(in_use(switches, &refused, &asked));
    }
    if eni.slots() + fresh.len() > world.slot_limit(eni) {
        return Err(ApiError::interface_full());
    }
    for ip in &fresh {
        // Only AllowReassignment gets an address this far that is somewhere else.
        if let Some(from) = world.holder(*ip).map(|holder| holder.id.clone()) {
            world.apply(Change::Unassigned(from, *ip));
        }
        world.apply(Change::Assigned(eni.id.clone(), *ip));
    }
    if !refused.is_empty() {
        return Err(in_use(switches, &refused, &asked));
    }
    let addresses = match switches.assign_reply {
        AssignReply::Requested => asked,
        AssignReply::NewOnly => fresh,
        AssignReply::Whole => world.enis[&eni.id].addresses().collect(),
    };
    Ok(Assigned { eni: eni.id.clone(), addresses, prefixes: Vec::new() })
}

/// Whether the address sits where it may not be taken from.
fn is_refused(world: &World, switches: &Switches, eni: &Eni, call: &Assign, ip: Ipv4Addr) -> bool {
    match world.holder(ip) {
        None => false,
        Some(holder) if holder.id == eni.id && holder.secondaries.contains(&ip) => {
            switches.own_address == OwnAddress::Refused
        }
        // An address out of a prefix does not move by itself.
        Some(holder) => !(call.allow_reassignment && holder.secondaries.contains(&ip)),
    }
}

fn in_use(switches: &Switches, refused: &[Ipv4Addr], asked: &[Ipv4Addr]) -> ApiError {
    match switches.in_use_names {
        InUseNames::Offending => ApiError::in_use(refused),
        InUseNames::WholeList => ApiError::in_use(asked),
    }
}

fn parse_list(texts: &[String], switches: &Switches) -> Result<Vec<Ipv4Addr>, ApiError> {
    let mut list = Vec::new();
    for text in texts {
        let ip: Ipv4Addr = text.parse().map_err(|_| ApiError::malformed_address(text))?;
        if !list.contains(&ip) {
            list.push(ip);
        } else if switches.duplicates == Duplicates::Refused {
            return Err(ApiError::duplicate(ip));
        }
    }
    Ok(list)
}

fn assign_count(world: &mut World, eni: &Eni, count: usize) -> Result<Assigned, ApiError> {
    if eni.slots() + count > world.slot_limit(eni) {
        return Err(ApiError::interface_full());
    }
    let addresses: Vec<_> = world.free(world.subnets[&eni.subnet]).take(count).collect();
    if addresses.len() < count {
        return Err(ApiError::subnet_full());
    }
    for ip in &addresses {
        world.apply(Change::Assigned(eni.id.clone(), *ip));
    }
    Ok(Assigned { eni: eni.id.clone(), addresses, prefixes: Vec::new() })
}

/// Whole /28 blocks of the subnet in which nothing is in use or reserved.
fn free_prefixes(world: &World, eni: &Eni, count: usize) -> Result<Vec<Ipv4Net>, ApiError> {
    let subnet = world.subnets[&eni.subnet];
    let free: BTreeSet<_> = world.free(subnet).collect();
    let blocks = subnet.subnets(28).map_err(|_| ApiError::no_cidr_blocks())?;
    let prefixes: Vec<_> = blocks.filter(|block| is_free(*block, &free)).take(count).collect();
    if prefixes.len() < count { Err(ApiError::no_cidr_blocks()) } else { Ok(prefixes) }
}

fn given_prefixes(world: &World, eni: &Eni, texts: &[String]) -> Result<Vec<Ipv4Net>, ApiError> {
    let subnet = world.subnets[&eni.subnet];
    let free: BTreeSet<_> = world.free(subnet).collect();
    let mut prefixes = Vec::new();
    for text in texts {
        let prefix: Ipv4Net = text.parse().map_err(|_| ApiError::malformed_address(text))?;
        if prefix.prefix_len() != 28 || prefix.trunc() != prefix {
            return Err(ApiError::malformed_address(text));
        }
        if !subnet.contains(&prefix) {
            return Err(ApiError::not_in_subnet(prefix));
        }
        if !is_free(prefix, &free) || prefixes.contains(&prefix) {
            return Err(ApiError::no_cidr_blocks());
        }
        prefixes.push(prefix);
    }
    Ok(prefixes)
}

fn is_free(prefix: Ipv4Net, free: &BTreeSet<Ipv4Addr>) -> bool {
    free.range(prefix.network()..=prefix.broadcast()).count() == 16
}

fn assign_prefixes(world: &mut World, eni: &Eni, prefixes: Vec<Ipv4Net>) -> Result<Assigned, ApiError> {
    if eni.slots() + prefixes.len() > world.slot_limit(eni) {
        return Err(ApiError::interface_full());
    }
    for prefix in &prefixes {
        world.apply(Change::PrefixOn(eni.id.clone(), *prefix));
    }
    Ok(Assigned { eni: eni.id.clone(), addresses: Vec::new(), prefixes })
}

/// UnassignPrivateIpAddresses.
pub(crate) fn unassign(world: &mut World, switches: &Switches, call: &Unassign) -> Result<(), ApiError> {
    let eni = world.enis.get(&call.eni).ok_or_else(|| ApiError::no_interface(&call.eni))?.clone();
    if call.addresses.is_empty() == call.prefixes.is_empty() {
        return Err(ApiError::list_or_count(!call.addresses.is_empty(), switches));
    }
    // Releasing twice in one call asks for one release; nothing is known that would refuse it.
    let asked: BTreeSet<_> =
        parse_list(&call.addresses, &Switches { duplicates: Duplicates::Collapsed, ..switches.clone() })?
            .into_iter()
            .collect();
    if asked.contains(&eni.primary) && switches.unassign_primary == UnassignPrimary::OwnMessage {
        return Err(ApiError::unassign_primary(eni.primary));
    }
    let (known, unknown): (Vec<Ipv4Addr>, Vec<_>) = asked.into_iter().partition(|ip| eni.secondaries.contains(ip));
    let mut prefixes = BTreeSet::new();
    for text in &call.prefixes {
        let prefix: Ipv4Net = text.parse().map_err(|_| ApiError::malformed_address(text))?;
        if !eni.prefixes.contains(&prefix) {
            return Err(ApiError::not_assigned(&eni.id));
        }
        prefixes.insert(prefix);
    }
    if !unknown.is_empty() && switches.unassign_unknown == UnassignUnknown::FailsWhole {
        return Err(ApiError::not_assigned(&eni.id));
    }
    for ip in known {
        world.apply(Change::Unassigned(eni.id.clone(), ip));
    }
    for prefix in prefixes {
        world.apply(Change::PrefixOff(eni.id.clone(), prefix));
    }
    if unknown.is_empty() { Ok(()) } else { Err(ApiError::not_assigned(&eni.id)) }
}
