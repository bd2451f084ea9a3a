//! The facts about /28 prefixes, asked with two whole free blocks, `a` and `b`. What each means for the driver is in
//! docs/conformance.md.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::Asked;
use super::bench::{Bench, SPARED};
use super::report::{Report, Way, other_words, way, words};
use super::ways::{IN_USE, MORE, NOT_THERE, OUTSIDE, VALUE, is_in_use, is_not_there, list, soon};
use crate::outside::ec2::{Answer, AssignCall, Ec2Error, UnassignCall};

/// Stands for them all where they cannot be tried.
const FIRST: &str = "prefix";
const ON_XEN: &str = "prefix-on-xen";
const TAKEN: &str = "[P] assigned, but move is not allowed";

/// Tries all, as far as this instance type and this subnet have prefixes.
pub(super) async fn check(bench: &mut Bench, report: &mut Report, asked: &Asked) {
    let kind = bench.host.instance_type.clone();
    let takes_prefixes = match bench.takes_prefixes().await {
        Ok(takes_prefixes) => takes_prefixes,
        Err(why) => return report.unchecked(FIRST, why.to_string()),
    };
    let ranges = [asked.explicit_reservation, asked.prefix_reservation];
    let is_elsewhere = |block: &Ipv4Net| !ranges.iter().flatten().any(|range| range.contains(block));
    let blocks: Vec<Ipv4Net> = bench.blocks.iter().copied().filter(is_elsewhere).collect();
    let Some(&[a, b]) = blocks.first_chunk() else {
        let found = blocks.len();
        return report.unchecked(FIRST, format!("the subnet has {found} whole free /28 blocks, and 2 are needed"));
    };
    if bench.free.len() < 2 * 16 + SPARED {
        return report.unchecked(FIRST, "two /28 blocks would leave too few free addresses to others");
    }
    if !takes_prefixes {
        let answer = bench.assign_in_vain(prefixes(&[a])).await;
        report.answer(ON_XEN, &answer, [way("refused, in whatever words", is_refused(&answer))]);
        return report.unchecked(FIRST, format!("{kind} is not of Nitro, which alone has prefixes"));
    }
    report.unchecked(ON_XEN, format!("{kind} may have prefixes"));
    unknown(bench, report, b).await;
    if !first(bench, report, a).await {
        return;
    }
    again(bench, report, a, b).await;
    never_had(bench, report, b).await;
    taken_off(bench, report, a, b).await;
    overlaps(bench, report, a, b).await;
    of_other(bench, report, b).await;
    let in_explicit = ("prefix-in-explicit-reservation", asked.explicit_reservation, "--explicit-reservation");
    let in_prefix = ("prefix-in-prefix-reservation", asked.prefix_reservation, "--prefix-reservation");
    for (name, range, option) in [in_explicit, in_prefix] {
        in_reservation(bench, report, name, range, option).await;
    }
}

/// Unassign of one that is not there. By its code others are seen to be gone. Before any is put on, as with addresses.
async fn unknown(bench: &mut Bench, report: &mut Report, absent: Ipv4Net) {
    let eni = bench.eni.id.clone();
    let answer = bench.unassign_prefixes(&eni, &[absent]).await;
    if is_refused(&answer) {
        bench.no_prefix.clone_from(&answer.code);
    }
    report.answer("unassign-prefix-unknown", &answer, not_there(&answer, "accepted: it is gone"));
}

/// A free one, when it shows, and what it takes of the subnet. It stays on. Says whether EC2 took it.
async fn first(bench: &mut Bench, report: &mut Report, new: Ipv4Net) -> bool {
    let eni = bench.eni.id.clone();
    let before = bench.available().await;
    let answer = bench.assign(&eni, prefixes(&[new])).await;
    report.answer(FIRST, &answer, [way("accepted, lists it", lists(&answer, &[new])), more(&answer, &[new])]);
    if answer.read.is_err() {
        return false;
    }
    let lags = bench.lags(new, true).await;
    report.lag("prefix-to-describe", lags.ec2, bench.wait, [soon(lags.ec2)]);
    let later = way("later: IMDS's silence is not taken for gone", true);
    report.lag("prefix-to-imds", lags.imds, bench.wait, [soon(lags.imds), later]);
    let name = "prefix-available-count";
    match (before, bench.available().await) {
        (Ok(before), Ok(after)) => {
            let ways =
                [way("16 fewer", before - after == 16), way("another number, which others may have changed", true)];
            report.seen(name, format!("AvailableIpAddressCount {before}, then {after}"), ways);
        }
        (Err(why), _) | (_, Err(why)) => report.unchecked(name, why.to_string()),
    }
    true
}

/// What is on the ENI already, alone, with a new one, and one address of it.
async fn again(bench: &mut Bench, report: &mut Report, own: Ipv4Net, new: Ipv4Net) {
    let eni = bench.eni.id.clone();
    let refused = |answer: &Answer| way("refused: EC2's list tells that it is there", is_refused(answer));
    let alone = bench.assign(&eni, prefixes(&[own])).await;
    let it = way("accepted, lists it", lists(&alone, &[own]));
    let nothing = way("accepted, lists nothing", lists(&alone, &[]));
    report.answer("prefix-own", &alone, [it, nothing, more(&alone, &[own]), refused(&alone)]);
    let partly = bench.assign(&eni, prefixes(&[own, new])).await;
    let both = way("accepted, lists both", lists(&partly, &[own, new]));
    let only_new = way("accepted, lists only the new one", lists(&partly, &[new]));
    report.answer("prefix-own-and-new", &partly, [both, only_new, more(&partly, &[own, new]), refused(&partly)]);
    bench.unassign_prefixes(&eni, &[new]).await;

    let answer = bench.assign_in_vain(list(&[nth(own, 5)])).await;
    let accepted = way("accepted: it is there, in its prefix", answer.read.is_ok());
    let [words, other, whatever] = in_use(&answer);
    report.answer("prefix-member-of-own", &answer, [words, other, whatever, accepted]);
}

/// Blocks that no ENI can have as a prefix, and one that is written as nobody should.
async fn never_had(bench: &mut Bench, report: &mut Report, free: Ipv4Net) {
    let odd = Ipv4Net::new_assert(nth(free, 1), 28);
    let answer = bench.assign_in_vain(prefixes(&[odd])).await;
    let [words, whatever] = refused(&answer, "invalid value for parameter address: P");
    report.answer("prefix-misaligned", &answer, [words, whatever, way("taken for the /28", lists(&answer, &[free]))]);

    let cidr = bench.subnet.cidr;
    let end = |ip: Ipv4Addr| Ipv4Net::new_assert(ip, 28).trunc();
    let beyond = Ipv4Addr::from(u32::from(cidr.broadcast()).saturating_add(1));
    let reserved = "Address P is in subnet's reserved address range";
    for (name, block, text) in [
        ("prefix-first", end(cidr.network()), reserved),
        ("prefix-last", end(cidr.broadcast()), reserved),
        ("prefix-outside-subnet", end(beyond), &OUTSIDE.replace("[A]", "[P]")),
    ] {
        let answer = bench.assign_in_vain(prefixes(&[block])).await;
        report.answer(name, &answer, refused(&answer, text));
    }

    let name = "prefix-over-primary";
    let primaries = bench.other.as_ref().map(|other| other.primary).into_iter().chain([bench.eni.primary]);
    let mut around = primaries.chain(bench.neighbour).map(end);
    let inside = around.find(|block| !bench.subnet.aws_reserved().iter().any(|ip| block.contains(ip)));
    match inside {
        Some(block) => {
            let answer = bench.assign_in_vain(prefixes(&[block])).await;
            report.answer(name, &answer, refused(&answer, TAKEN));
        }
        None => report.unchecked(name, "the primary addresses lie in the first and the last /28 of the subnet"),
    }
}

/// Of `on`, which is on the ENI, and `absent`, which is not. Both are off afterwards.
async fn taken_off(bench: &mut Bench, report: &mut Report, on: Ipv4Net, absent: Ipv4Net) {
    let eni = bench.eni.id.clone();
    let single = [nth(absent, 3)];
    let name = "unassign-prefix-and-address";
    match bench.assign(&eni, list(&single)).await.read {
        Ok(()) => {
            let both = UnassignCall { private_ip_addresses: &single, ipv4_prefixes: &[on] };
            let answer = bench.unassign_call(&eni, both).await;
            report.answer(name, &answer, one_kind(&answer));
        }
        Err(why) => report.unchecked(name, why.to_string()),
    }
    bench.unassign(&eni, &single).await;

    bench.assign(&eni, prefixes(&[on])).await;
    let answer = bench.unassign_prefixes(&eni, &[on, absent]).await;
    report.answer("unassign-prefix-list", &answer, not_there(&answer, "accepted: both are gone"));
    let name = "unassign-prefix-list-rest";
    let probe = bench.unassign_prefixes(&eni, &[on]).await;
    if answer.read.is_ok() || bench.no_prefix.is_none() {
        report.unchecked(name, "Unassign does not tell what is there");
    } else {
        let none = way("a refused list takes none off", probe.read.is_ok());
        let rest = way("a refused list takes its rest off", bench.says_no_prefix(&probe));
        report.answer(name, &probe, [none, rest]);
    }

    bench.assign(&eni, prefixes(&[on])).await;
    let answer = bench.unassign_prefixes(&eni, &[on]).await;
    report.answer("unassign-prefix", &answer, [way("accepted", answer.read.is_ok())]);
    let lags = bench.lags(on, false).await;
    report.lag("unassign-prefix-to-describe", lags.ec2, bench.wait, [soon(lags.ec2)]);
    let later = way("later: IMDS's word is not taken for there", true);
    report.lag("unassign-prefix-to-imds", lags.imds, bench.wait, [soon(lags.imds), later]);
}

/// One in which the ENI has an address, alone and with a good one; then an address and a prefix in one call.
async fn overlaps(bench: &mut Bench, report: &mut Report, broken: Ipv4Net, good: Ipv4Net) {
    let eni = bench.eni.id.clone();
    let single = [nth(broken, 7)];
    let names = ["prefix-over-secondary", "prefix-list", "prefix-list-rest"];
    if let Err(why) = bench.assign(&eni, list(&single)).await.read {
        return names.into_iter().for_each(|name| report.unchecked(name, why.to_string()));
    }
    let alone = bench.assign_in_vain(prefixes(&[broken])).await;
    report.answer(names[0], &alone, refused(&alone, TAKEN));
    let both = bench.assign_in_vain(prefixes(&[good, broken])).await;
    report.answer(names[1], &both, refused(&both, TAKEN));
    let probe = bench.unassign_prefixes(&eni, &[good]).await;
    if both.read.is_ok() || bench.no_prefix.is_none() {
        report.unchecked(names[2], "Unassign does not tell what is there");
    } else {
        let none = way("a refused list assigns none", bench.says_no_prefix(&probe));
        report.answer(names[2], &probe, [none, way("a refused list assigns its rest", probe.read.is_ok())]);
    }
    bench.unassign(&eni, &single).await;
    let answer = bench.assign_in_vain(AssignCall { ipv4_prefixes: &[good], ..list(&single) }).await;
    report.answer("prefix-and-address", &answer, one_kind(&answer));
}

/// What another ENI has.
async fn of_other(bench: &mut Bench, report: &mut Report, theirs: Ipv4Net) {
    let names = ["prefix-in-use", "prefix-member-of-other"];
    let Some(other) = bench.other.as_ref().map(|other| other.id.clone()) else {
        return names.into_iter().for_each(|name| report.unchecked(name, "needs a second spare ENI, named by --other"));
    };
    if let Err(why) = bench.assign(&other, prefixes(&[theirs])).await.read {
        return names.into_iter().for_each(|name| report.unchecked(name, why.to_string()));
    }
    let whole = bench.assign_in_vain(prefixes(&[theirs])).await;
    report.answer(names[0], &whole, refused(&whole, TAKEN));
    let member = bench.assign_in_vain(list(&[nth(theirs, 5)])).await;
    let [words_of_address, other_words, whatever] = in_use(&member);
    report.answer(names[1], &member, [words_of_address, words(&member, VALUE, TAKEN), other_words, whatever]);
    bench.unassign_prefixes(&other, &[theirs]).await;
}

async fn in_reservation(
    bench: &mut Bench,
    report: &mut Report,
    name: &'static str,
    range: Option<Ipv4Net>,
    option: &str,
) {
    let Some(range) = range else {
        return report.unchecked(name, format!("needs a CIDR reservation of that type, named by {option}"));
    };
    let Some(block) = bench.blocks.iter().copied().find(|block| range.contains(block)) else {
        return report.unchecked(name, format!("no whole /28 of {range} is free"));
    };
    let answer = bench.assign_in_vain(prefixes(&[block])).await;
    let accepted = way("accepted, lists it", lists(&answer, &[block]));
    let refused = way("refused, in whatever words: blocks are to be chosen outside", is_refused(&answer));
    report.answer(name, &answer, [accepted, more(&answer, &[block]), refused]);
}

fn prefixes(ipv4_prefixes: &[Ipv4Net]) -> AssignCall<'_> {
    AssignCall { ipv4_prefixes, ..AssignCall::default() }
}

fn nth(block: Ipv4Net, n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(block.network()).saturating_add(n))
}

/// Accepted, and lists these and no others.
fn lists(answer: &Answer, prefixes: &[Ipv4Net]) -> bool {
    answer.read.is_ok()
        && answer.listed_prefixes.len() == prefixes.len()
        && prefixes.iter().all(|prefix| answer.listed_prefixes.contains(prefix))
}

fn more(answer: &Answer, prefixes: &[Ipv4Net]) -> Way {
    way(MORE, answer.read.is_ok() && prefixes.iter().all(|prefix| answer.listed_prefixes.contains(prefix)))
}

/// A clear word against what was asked for.
fn is_refused(answer: &Answer) -> bool {
    let is_clear = |why: &Ec2Error| {
        let is_about_eni = matches!(why, Ec2Error::EniFull { .. } | Ec2Error::NoSuchEni { .. });
        !why.is_transient() && !why.is_for_a_person() && !is_about_eni
    };
    answer.read.as_ref().is_err_and(is_clear)
}

/// Whatever EC2 says to a prefix that cannot be had, it is said of that one only.
fn refused(answer: &Answer, text: &str) -> [Way; 2] {
    [words(answer, VALUE, text), way("refused in other words, which are taken to be of that block", is_refused(answer))]
}

/// An address that lies in a prefix.
fn in_use(answer: &Answer) -> [Way; 3] {
    let whatever = way("refused in words that the driver does not know, as it may be", is_refused(answer));
    [words(answer, VALUE, IN_USE), other_words(is_in_use(answer)), whatever]
}

/// Unassign of what is not there, or not all there.
fn not_there(answer: &Answer, accepted: &str) -> [Way; 4] {
    let whatever = way("refused in words that the driver does not know: EC2's list tells", is_refused(answer));
    [words(answer, VALUE, NOT_THERE), other_words(is_not_there(answer)), whatever, way(accepted, answer.read.is_ok())]
}

/// Addresses and prefixes in one call.
fn one_kind(answer: &Answer) -> [Way; 3] {
    let has = |code: &str| way(code, answer.code.as_deref() == Some(code));
    [has("InvalidParameterCombination"), has("InvalidParameter"), way("accepted", answer.read.is_ok())]
}
