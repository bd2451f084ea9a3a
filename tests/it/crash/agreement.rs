//! Rows, EC2 and Docker compared exactly, and how many reconciles it may take until they agree.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ec2_ipam::domain::address::State;
use ipnet::Ipv4Net;

use super::bed::{Bed, PAST, until_none};
use crate::support::host::Row;

/// What does not agree. Nothing may be under way; all hosts of the table are given, as to a file there is only one.
pub async fn disagreement(beds: &[&Bed]) -> Option<String> {
    for bed in beds {
        let (held, truth, rows) = (bed.engine.held(), bed.host.assigned(), bed.host.rows().await);
        let mine = |state: State| -> BTreeSet<Ipv4Addr> {
            let of_state = |row: &&Row| row.state == state && row.iface.as_ref() == Some(&bed.host.eni) && !row.primary;
            rows.iter().filter(of_state).map(|row| row.ip).collect()
        };
        let (leases, idle) = (mine(State::Lease), mine(State::Ready));
        if leases != held {
            return Some(format!("leases are {leases:?}, and containers have {held:?}"));
        }
        if leases.union(&idle).copied().collect::<BTreeSet<_>>() != truth {
            return Some(format!(
                "{truth:?} are on {}, {leases:?} leased and {idle:?} idle by the table",
                bed.host.eni
            ));
        }
        let size = 1_usize << (32 - bed.host.cidr.parse::<Ipv4Net>().unwrap().prefix_len());
        if rows.len() != size {
            return Some(format!("{} rows of {size} addresses", rows.len()));
        }
        if let Some(why) = rows.iter().find_map(|row| misnamed(bed, row)) {
            return Some(why);
        }
        let enis: BTreeSet<&String> = beds.iter().map(|bed| &bed.host.eni).collect();
        let is_lost = |row: &&Row| {
            matches!(row.state, State::On | State::Off)
                || matches!(row.state, State::Lease | State::Ready)
                    && !row.iface.as_ref().is_some_and(|eni| enis.contains(eni))
        };
        if let Some(row) = rows.iter().find(is_lost) {
            return Some(format!("{row:?} is nobody's"));
        }
    }
    None
}

/// A row that names another holder than EC2 does, or is of a block that is none there: so that slots are counted alike.
fn misnamed(bed: &Bed, row: &Row) -> Option<String> {
    let holder = bed.host.vpc.holder(row.ip);
    let named = if matches!(row.state, State::Free | State::Reserved) { None } else { row.iface.clone() };
    let primary = holder.as_ref().is_some_and(|eni| bed.host.vpc.primary(eni) == row.ip);
    let of_prefix = |eni: &String| bed.host.vpc.prefixes(eni).iter().any(|prefix| prefix.contains(&row.ip));
    let in_block = holder.as_ref().is_some_and(of_prefix);
    (holder != named || primary != row.primary || in_block != row.in_block)
        .then(|| format!("EC2 says that {holder:?} has {row:?}{}", if in_block { " in a block" } else { "" }))
}

/// Containers whose address the driver has let go of. None ever, at any moment: what was answered was leased before.
pub async fn let_go(bed: &Bed) -> Option<String> {
    let before = bed.engine.held();
    // As long as a driver runs nobody else reads its journal.
    if before.is_empty() || bed.has_forgotten && bed.host.is_running() {
        return None;
    }
    let (rows, journal) = (bed.host.rows().await, bed.host.leases_of_journal());
    let is_leased = |ip: &Ipv4Addr| {
        let is_it = |row: &Row| row.ip == *ip && row.state == State::Lease && row.iface.as_ref() == Some(&bed.host.eni);
        rows.iter().any(is_it) || journal.contains(ip)
    };
    let lost: Vec<Ipv4Addr> = before.intersection(&bed.engine.held()).filter(|ip| !is_leased(ip)).copied().collect();
    (!lost.is_empty()).then(|| format!("containers have {lost:?}, which are no leases any more"))
}

/// I6 after a crash, in lives that were begun by [`Bed::start`].
///
/// What is counted: the driver reads Docker once in a round, and the interval is an hour, so every round is one that this
/// test began, or one of those at the driver's own start, or one that an unclear call of EC2 asked for. Rounds that begin
/// once all claims are settled and a settle age has passed since then are "begun after the settle age": nothing that the
/// dead life did is younger. Two of them, a settle age apart, must be all that it takes, and no third may have begun.
pub async fn reached(beds: &[&Bed], after: &str, scans: bool) {
    // Claims are settled without a round: those of an Assign at the start, those of an Unassign by their age.
    for bed in beds {
        until_none(&format!("I6 {after}: never settled"), async || {
            let claimed = |row: &Row| matches!(row.state, State::On | State::Off);
            bed.host.rows().await.into_iter().find(claimed).map(|row| format!("{row:?}"))
        })
        .await;
        is_up(bed, after).await;
    }
    if scans {
        // A scan has an interval of its own, and a dead host's turn lasts for one and a half: waited for, not counted.
        until_none(&format!("I6 {after}, by scans"), async || disagreement(beds).await).await;
    }
    beds[0].host.vpc.forget_faults();
    let read = || beds.iter().map(|bed| bed.engine.docker.with(|docker| docker.listings)).collect::<Vec<_>>();
    // Rounds of the start go on for a sixth of the age longer, while Docker may yet show containers with addresses of an
    // unknown past. The rest of a second age is for a slow machine.
    tokio::time::sleep(2 * PAST).await;
    let twice_more: Vec<usize> = read().into_iter().map(|read| read + 2).collect();
    for _ in 0..2 {
        for bed in beds {
            assert_eq!(let_go(bed).await, None, "{after}: nothing live is released");
            assert!(bed.engine.reconcile().await, "{after}: the driver answers");
        }
        tokio::time::sleep(PAST).await;
    }
    until_none(&format!("I6 {after}"), async || disagreement(beds).await).await;
    assert_eq!(read(), twice_more, "I6 {after}: more than two reconciles were begun");
}

/// The interface is served, by itself if it has anything of ours, and the rounds of the start are over.
async fn is_up(bed: &Bed, after: &str) {
    let ours = |row: &Row| {
        matches!(row.state, State::Ready | State::Lease) && !row.primary && row.iface.as_ref() == Some(&bed.host.eni)
    };
    if !bed.host.rows().await.iter().any(ours) {
        assert!(bed.engine.pool().await, "{after}: the driver answers");
    }
    until_none(&format!("I6 {after}"), async || {
        (!bed.engine.is_served().await).then(|| "the interface is not taken up".to_owned())
    })
    .await;
    // Docker is read once before the first round.
    until_none(&format!("I6 {after}"), async || {
        let read = bed.engine.docker.with(|docker| docker.listings);
        (read < bed.read_before + 3).then(|| "no round at the start, or none after the first look".to_owned())
    })
    .await;
}

/// Nothing is lost for good: the interfaces can be used to their last address, and then all of it is free again. I1 and I2
/// are looked at by every grant.
pub async fn nothing_is_lost(beds: &[&Bed], after: &str) {
    for bed in beds {
        // What a block has is used to the last, too.
        while bed.engine.slots() < bed.limit || bed.engine.held() != bed.host.assigned() {
            assert!(bed.engine.lease().await.is_some(), "{after}: the driver answers");
        }
        let full = bed.engine.request("").await.expect("an answer");
        assert!(full.is_err_and(|why| why.contains("as many addresses as")), "{after}: more than the interface takes");
    }
    for bed in beds {
        for ip in bed.engine.held() {
            bed.engine.release(ip).await;
        }
        until_none(&format!("I6 {after}: lost for good"), async || {
            bed.engine.tell("recycle").await;
            let left = bed.host.assigned();
            (!left.is_empty()).then(|| format!("{left:?} are not given back"))
        })
        .await;
    }
    until_none(&format!("I6 {after}: lost for good"), async || disagreement(beds).await).await;
}
