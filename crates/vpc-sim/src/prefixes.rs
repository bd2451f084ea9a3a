//! AWS's rules for Assign and Unassign of /28 prefixes.
//!
//! A prefix takes one slot, lies in the subnet, and has none of its sixteen addresses in use. The first and the last /28 of
//! a subnet cannot be one, for AWS's five lie there. Little of what AWS says to the rest is known: [`PrefixSwitches`].
//!
//! [`PrefixSwitches`]: crate::switches::PrefixSwitches

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::errors::ApiError;
use crate::rules::Assigned;
use crate::switches::{AssignRefused, AssignReply, Duplicates, InReservation, Misaligned, OwnAddress, Switches};
use crate::world::{Change, Eni, Reservation, World, all_of, overlap};

/// Whether the block lies in the subnet and at neither end of it.
pub(crate) fn is_possible(subnet: Ipv4Net, block: Ipv4Net) -> bool {
    subnet.contains(&block) && !all_of(block).any(|ip| World::is_reserved(subnet, ip))
}

/// By number: from what is reserved for prefixes, if there is such, else from what is not reserved for those who name it.
pub(crate) fn assign_count(
    world: &mut World,
    switches: &Switches,
    eni: &Eni,
    count: usize,
) -> Result<Assigned, ApiError> {
    if let Some(kind) = world.refuses_prefixes(eni) {
        return Err(ApiError::no_prefixes_on(kind, switches));
    }
    check_slots(world, eni, count)?;
    let subnet = world.subnets[&eni.subnet];
    let reserved = |kind| world.reserved(&eni.subnet, kind);
    let is_kept = |block: Ipv4Net| match reserved(Reservation::Prefix).next() {
        Some(_) => !reserved(Reservation::Prefix).any(|net| net.contains(&block)),
        None => reserved(Reservation::Explicit).any(|net| overlap(net, block)),
    };
    let is_free = |block: Ipv4Net| {
        is_possible(subnet, block) && !is_kept(block) && !world.enis.values().any(|eni| eni.touches(block))
    };
    let blocks = subnet.subnets(28).map_err(|_| ApiError::no_cidr_blocks())?;
    let fresh: Vec<_> = blocks.filter(|block| is_free(*block)).take(count).collect();
    if fresh.len() < count {
        return Err(ApiError::no_cidr_blocks());
    }
    put_on(world, eni, &fresh);
    Ok(assigned(eni, fresh))
}

/// By name.
pub(crate) fn assign_list(
    world: &mut World,
    switches: &Switches,
    eni: &Eni,
    texts: &[String],
) -> Result<Assigned, ApiError> {
    let asked = parse_list(texts, switches)?;
    if let Some(kind) = world.refuses_prefixes(eni) {
        return Err(ApiError::no_prefixes_on(kind, switches));
    }
    let (mut fresh, mut refused) = (Vec::new(), None);
    for prefix in &asked {
        match check(world, switches, eni, *prefix) {
            Ok(()) if eni.prefixes.contains(prefix) => {}
            Ok(()) => fresh.push(*prefix),
            Err(why) => refused = refused.or(Some(why)),
        }
    }
    if let Some(why) = refused.take_if(|_| switches.prefixes.assign_refused == AssignRefused::FailsWhole) {
        return Err(why);
    }
    check_slots(world, eni, fresh.len())?;
    put_on(world, eni, &fresh);
    match refused {
        Some(why) => Err(why),
        None => Ok(assigned(
            eni,
            match switches.prefixes.assign_reply {
                AssignReply::Requested => asked,
                AssignReply::NewOnly => fresh,
                AssignReply::Whole => world.enis[&eni.id].prefixes.iter().copied().collect(),
            },
        )),
    }
}

/// Whether the prefix may be on the ENI, where it may be already.
fn check(world: &World, switches: &Switches, eni: &Eni, prefix: Ipv4Net) -> Result<(), ApiError> {
    let subnet = world.subnets[&eni.subnet];
    if !subnet.contains(&prefix) {
        return Err(ApiError::prefix_not_in_subnet(prefix, switches));
    }
    if let Some(ip) = all_of(prefix).find(|ip| World::is_reserved(subnet, *ip)) {
        return Err(ApiError::prefix_reserved(prefix, ip, switches));
    }
    let refused = match switches.prefixes.in_reservation {
        InReservation::Accepted => None,
        InReservation::ExplicitRefused => Some(Reservation::Explicit),
        InReservation::PrefixRefused => Some(Reservation::Prefix),
    };
    if refused.is_some_and(|kind| world.reserved(&eni.subnet, kind).any(|net| overlap(net, prefix))) {
        return Err(ApiError::prefix_reserved(prefix, prefix.network(), switches));
    }
    let is_own = eni.prefixes.contains(&prefix);
    if is_own && switches.prefixes.own == OwnAddress::Accepted {
        return Ok(());
    }
    let in_use: Vec<Ipv4Addr> = all_of(prefix).filter(|ip| world.holder(*ip).is_some()).collect();
    if in_use.is_empty() { Ok(()) } else { Err(ApiError::prefix_in_use(prefix, &in_use, switches)) }
}

fn check_slots(world: &World, eni: &Eni, more: usize) -> Result<(), ApiError> {
    if eni.slots() + more > world.slot_limit(eni) { Err(ApiError::interface_full()) } else { Ok(()) }
}

fn put_on(world: &mut World, eni: &Eni, prefixes: &[Ipv4Net]) {
    for prefix in prefixes {
        world.apply(Change::PrefixOn(eni.id.clone(), *prefix));
    }
}

fn assigned(eni: &Eni, prefixes: Vec<Ipv4Net>) -> Assigned {
    Assigned { eni: eni.id.clone(), addresses: Vec::new(), prefixes }
}

/// Those of an Unassign's list that the ENI has, and those that it has not.
pub(crate) fn known(
    switches: &Switches,
    eni: &Eni,
    texts: &[String],
) -> Result<(Vec<Ipv4Net>, Vec<Ipv4Net>), ApiError> {
    // As with addresses, twice is once.
    let asked = parse_list(texts, &Switches { duplicates: Duplicates::Collapsed, ..switches.clone() })?;
    Ok(asked.into_iter().partition(|prefix| eni.prefixes.contains(prefix)))
}

fn parse_list(texts: &[String], switches: &Switches) -> Result<Vec<Ipv4Net>, ApiError> {
    let mut list = Vec::new();
    for text in texts {
        let malformed = || ApiError::malformed_address(text);
        let given: Ipv4Net = text.parse().map_err(|_| malformed())?;
        let is_aligned = given == given.trunc() || switches.prefixes.misaligned == Misaligned::Truncated;
        if given.prefix_len() != 28 || !is_aligned {
            return Err(malformed());
        }
        let prefix = given.trunc();
        if !list.contains(&prefix) {
            list.push(prefix);
        } else if switches.duplicates == Duplicates::Refused {
            return Err(ApiError::duplicate(prefix));
        }
    }
    Ok(list)
}
