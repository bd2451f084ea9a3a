//! AWS's rules for Assign and Unassign of single addresses, and which of them a call is about: functions over a [`World`],
//! without IO.
//!
//! A call either takes effect whole or changes nothing, except where a switch says otherwise.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::errors::ApiError;
use crate::prefixes;
use crate::requests::{Assign, Unassign};
use crate::switches::{
    AssignRefused, AssignReply, BothLists, Duplicates, InUseNames, MemberOfOther, MemberOfOwn, OwnAddress, Switches,
    UnassignPrimary, UnassignUnknown,
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
    let is_both_lists = given == [true, false, true, false] && switches.prefixes.both_lists == BothLists::Accepted;
    let given = given.into_iter().filter(|is_given| *is_given).count();
    if given != 1 && !is_both_lists {
        return Err(ApiError::list_or_count(given > 1, switches));
    }
    if let Some(count) = call.count {
        return assign_count(world, &eni, count);
    }
    if let Some(count) = call.prefix_count {
        return prefixes::assign_count(world, switches, &eni, count);
    }
    if call.addresses.is_empty() {
        return prefixes::assign_list(world, switches, &eni, &call.prefixes);
    }
    if !is_both_lists {
        return assign_list(world, switches, &eni, call);
    }
    let before = world.clone();
    let Assigned { prefixes, .. } = prefixes::assign_list(world, switches, &eni, &call.prefixes)?;
    let eni = world.enis[&eni.id].clone();
    match assign_list(world, switches, &eni, call) {
        Ok(assigned) => Ok(Assigned { prefixes, ..assigned }),
        Err(why) => {
            *world = before;
            Err(why)
        }
    }
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
    let fresh: Vec<_> = asked.iter().copied().filter(|ip| !refused.contains(ip) && !eni.holds(*ip)).collect();
    if !refused.is_empty() && switches.assign_refused == AssignRefused::FailsWhole {
        return Err(in_use(world, switches, eni, &refused, &asked));
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
        return Err(in_use(world, switches, eni, &refused, &asked));
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
        Some(holder) if holder.id == eni.id => switches.prefixes.member_of_own == MemberOfOwn::Refused,
        // An address out of a prefix does not move by itself.
        Some(holder) => !(call.allow_reassignment && holder.secondaries.contains(&ip)),
    }
}

fn in_use(world: &World, switches: &Switches, eni: &Eni, refused: &[Ipv4Addr], asked: &[Ipv4Addr]) -> ApiError {
    let others = world.enis.values().filter(|other| other.id != eni.id);
    let around = others.flat_map(|other| &other.prefixes).find(|prefix| refused.iter().any(|ip| prefix.contains(ip)));
    match (around, switches.prefixes.member_of_other) {
        (None, _) | (_, MemberOfOther::NamesAddress) => {}
        (Some(prefix), MemberOfOther::NamesPrefix) => return ApiError::in_use(&[prefix]),
        (Some(_), MemberOfOther::Unheard) => return ApiError::unheard(),
    }
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
    let is_kept = |ip: &Ipv4Addr| world.reservations.iter().any(|(of, net, _)| *of == eni.subnet && net.contains(ip));
    let free = world.free(world.subnets[&eni.subnet]).filter(|ip| !is_kept(ip));
    let addresses: Vec<_> = free.take(count).collect();
    if addresses.len() < count {
        return Err(ApiError::subnet_full());
    }
    for ip in &addresses {
        world.apply(Change::Assigned(eni.id.clone(), *ip));
    }
    Ok(Assigned { eni: eni.id.clone(), addresses, prefixes: Vec::new() })
}

/// UnassignPrivateIpAddresses.
pub(crate) fn unassign(world: &mut World, switches: &Switches, call: &Unassign) -> Result<(), ApiError> {
    let eni = world.enis.get(&call.eni).ok_or_else(|| ApiError::no_interface(&call.eni))?.clone();
    let is_given = [!call.addresses.is_empty(), !call.prefixes.is_empty()];
    let accepts_both = switches.prefixes.both_lists == BothLists::Accepted;
    if is_given == [false; 2] || is_given == [true; 2] && !accepts_both {
        return Err(ApiError::list_or_count(is_given == [true; 2], switches));
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
    let (prefixes, no_prefixes) = prefixes::known(switches, &eni, &call.prefixes)?;
    if !unknown.is_empty() && switches.unassign_unknown == UnassignUnknown::FailsWhole {
        return Err(ApiError::not_assigned(&eni.id));
    }
    if !no_prefixes.is_empty() && switches.prefixes.unassign_unknown == UnassignUnknown::FailsWhole {
        return Err(ApiError::prefix_not_assigned(&eni.id, switches));
    }
    for ip in known {
        world.apply(Change::Unassigned(eni.id.clone(), ip));
    }
    for prefix in prefixes {
        world.apply(Change::PrefixOff(eni.id.clone(), prefix));
    }
    if !unknown.is_empty() {
        return Err(ApiError::not_assigned(&eni.id));
    }
    if no_prefixes.is_empty() { Ok(()) } else { Err(ApiError::prefix_not_assigned(&eni.id, switches)) }
}
