//! The facts, one after the other: a call, and the ways in which it may be answered, the assumed one first.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Asked;
use super::bench::{Bench, NEEDED, SPARED};
use super::prefixes;
use super::report::{Report, Way, other_words, way, words};
use super::ways::{IN_USE, MORE, NOT_THERE, OUTSIDE, VALUE, is_in_use, is_not_there, list, soon};
use crate::domain::id::EniId;
use crate::outside::ec2::{Answer, AssignCall, Ec2Error};

const FULL: (&str, &str) = ("PrivateIpAddressLimitExceeded", "Number of private addresses will exceed limit");
/// Where IMDS is, if the environment does not say.
const IMDS: &str = "http://169.254.169.254";

/// Tries all. The error says why the rest cannot be tried.
pub(super) async fn check(bench: &mut Bench, report: &mut Report, asked: &Asked) -> anyhow::Result<()> {
    let Some(&[a, b, c, d, e]) = bench.free.first_chunk::<NEEDED>() else {
        bail!("there are too few free addresses");
    };
    reads(bench, report).await;
    let tells = unknown(bench, report, d).await?;
    first(bench, report, &[a, b]).await?;
    again(bench, report, a, c).await;
    refused(bench, report, c, tells).await;
    never_sent(bench, report, c).await;
    in_use(bench, report, e, c, tells).await;
    taken_off(bench, report, [a, b, d], tells).await;
    prefixes::check(bench, report, asked).await;
    if asked.skip_limits {
        report.unchecked("limit-fill", "--skip-limits");
    } else {
        limits(bench, report, tells).await;
    }
    forwarded(report).await;
    throttling(bench, report);
    Ok(())
}

async fn reads(bench: &mut Bench, report: &mut Report) {
    let eni = bench.eni.id.clone();
    let dry = bench.describe(&eni, true).await;
    let would = dry.code.as_deref() == Some("DryRunOperation");
    report.answer(
        "describe-dry-run",
        &dry,
        [
            way("HTTP 412 DryRunOperation", would && dry.status == Some(412)),
            way("DryRunOperation with another HTTP status", would),
        ],
    );
    let nowhere = EniId::stored(format!("eni-0{:016x}", fastrand::u64(..)));
    let gone = bench.describe(&nowhere, false).await;
    report.answer(
        "describe-unknown-eni",
        &gone,
        [
            words(&gone, "InvalidNetworkInterfaceID.NotFound", "The networkInterface ID 'ENI' does not exist"),
            other_words(matches!(gone.read, Err(Ec2Error::NoSuchEni { .. }))),
        ],
    );
}

/// Two free addresses, and when they show. They stay on.
async fn first(bench: &mut Bench, report: &mut Report, ips: &[Ipv4Addr; 2]) -> anyhow::Result<()> {
    let eni = bench.eni.id.clone();
    let new = bench.assign(&eni, list(ips)).await;
    let more = way(MORE, lists_among_others(&new, ips));
    report.answer("assign", &new, [way("accepted, lists all", lists(&new, ips)), more]);
    if let Err(why) = &new.read {
        bail!("EC2 does not take two free addresses: {why}");
    }
    let lags = bench.lags(ips[0], true).await;
    report.lag("assign-to-describe", lags.ec2, bench.wait, [soon(lags.ec2)]);
    let later = way("later: IMDS's silence is not taken for gone", true);
    report.lag("assign-to-imds", lags.imds, bench.wait, [soon(lags.imds), later]);
    let (name, what) = ("imds-primary-first", "the primary address is the first line of local-ipv4s");
    match bench.imds.addresses(&bench.eni.mac).await {
        Ok(shown) => {
            let (place, lines) = (shown.iter().position(|ip| *ip == bench.eni.primary), shown.len());
            let seen = place.map_or("it is missing".to_owned(), |at| format!("line {} of {lines}", at + 1));
            report.seen(name, seen, [way(what, place == Some(0))]);
        }
        Err(why) => report.unchecked(name, why.to_string()),
    }
    Ok(())
}

/// Unassign of what is not there; says whether its refusal tells what is there. Before anything is put on: what the run may
/// not take off it must not assign.
async fn unknown(bench: &mut Bench, report: &mut Report, absent: Ipv4Addr) -> anyhow::Result<bool> {
    let eni = bench.eni.id.clone();
    let alone = bench.unassign(&eni, &[absent]).await;
    let accepted = way("accepted: it is gone", alone.read.is_ok());
    let refusal = [words(&alone, VALUE, NOT_THERE), other_words(is_not_there(&alone)), accepted];
    report.answer("unassign-unknown", &alone, refusal);
    if let Err(why @ (Ec2Error::Denied { .. } | Ec2Error::BadCredentials { .. } | Ec2Error::NoCredentials { .. })) =
        &alone.read
    {
        bail!("{why}");
    }
    // `doctor` learns by it whether it may.
    let nowhere = bench.unassign(&eni, &[Ipv4Addr::LOCALHOST]).await;
    report.answer("unassign-127.0.0.1", &nowhere, permits(&nowhere, NOT_THERE));
    Ok(is_not_there(&alone))
}

/// What is on the ENI already, alone and with a new one.
async fn again(bench: &mut Bench, report: &mut Report, own: Ipv4Addr, new: Ipv4Addr) {
    let eni = bench.eni.id.clone();
    let refusal = |answer: &Answer| way("refused like an address of another ENI", is_in_use(answer));
    for (name, allow_reassignment) in [("assign-own", None), ("assign-own-without-reassignment", Some(false))] {
        let answer = bench.assign(&eni, AssignCall { allow_reassignment, ..list(&[own]) }).await;
        let it = way("accepted, lists it", lists(&answer, &[own]));
        let nothing = way("accepted, lists nothing", lists(&answer, &[]));
        let more = way(MORE, lists_among_others(&answer, &[own]));
        report.answer(name, &answer, [it, nothing, more, refusal(&answer)]);
    }
    let partly = bench.assign(&eni, list(&[own, new])).await;
    let both = way("accepted, lists both", lists(&partly, &[own, new]));
    let only_new = way("accepted, lists only the new one", lists(&partly, &[new]));
    let more = way(MORE, lists_among_others(&partly, &[own, new]));
    report.answer("assign-own-and-new", &partly, [both, only_new, more, refusal(&partly)]);
    bench.unassign(&eni, &[new]).await;
}

/// Addresses that no ENI may have, or that another has as its primary one.
async fn refused(bench: &mut Bench, report: &mut Report, new: Ipv4Addr, tells: bool) {
    let own = Some(bench.eni.primary);
    for (name, ip) in [("assign-own-primary", own), ("assign-other-primary", bench.neighbour)] {
        let Some(ip) = ip else {
            report.unchecked(name, "no other ENI of this instance is in the subnet; the own primary address was tried");
            continue;
        };
        let answer = bench.assign_in_vain(list(&[ip])).await;
        let known = [words(&answer, VALUE, "secondary-addresses"), other_words(is_in_use(&answer))];
        report.answer(name, &answer, known);
    }
    let reserved = bench.subnet.aws_reserved();
    let names = ["assign-base", "assign-base+1", "assign-base+2", "assign-base+3", "assign-broadcast"];
    for (name, ip) in names.into_iter().zip(reserved) {
        let answer = bench.assign_in_vain(list(&[ip])).await;
        let known = [
            words(&answer, VALUE, "Address A is in subnet's reserved address range"),
            words(&answer, VALUE, "Address A is in subnet's reserved range"),
            other_words(matches!(answer.read, Err(Ec2Error::AwsReserved { .. }))),
        ];
        report.answer(name, &answer, known);
    }
    let both = bench.assign_in_vain(list(&[new, reserved[0]])).await;
    rest(bench, report, "assign-new-and-base-rest", &both, new, tells).await;

    let beyond = Ipv4Addr::from(u32::from(bench.subnet.cidr.broadcast()).saturating_add(1));
    let answer = bench.assign_in_vain(list(&[beyond])).await;
    let outside = other_words(matches!(answer.read, Err(Ec2Error::OutsideSubnet { .. })));
    report.answer("assign-outside-subnet", &answer, [words(&answer, VALUE, OUTSIDE), outside]);
    let answer = bench.assign_in_vain(list(&[Ipv4Addr::LOCALHOST])).await;
    report.answer("assign-127.0.0.1", &answer, permits(&answer, OUTSIDE));
}

/// Calls that the driver does not make.
async fn never_sent(bench: &mut Bench, report: &mut Report, new: Ipv4Addr) {
    let ips = [new];
    let has = |answer: &Answer, code: &str| way(code, answer.code.as_deref() == Some(code));
    let none = bench.assign_in_vain(AssignCall::default()).await;
    let known = [has(&none, "InvalidParameter"), has(&none, "InvalidParameterCombination")];
    report.answer("assign-neither-list-nor-count", &none, known);
    let both = AssignCall { secondary_private_ip_address_count: Some(1), ..list(&ips) };
    let both = bench.assign_in_vain(both).await;
    let known = [has(&both, "InvalidParameterCombination"), has(&both, "InvalidParameter")];
    report.answer("assign-list-and-count", &both, known);
    let dry = bench.assign_in_vain(AssignCall { dry_run: true, ..list(&ips) }).await;
    report.answer("assign-dry-run", &dry, [has(&dry, "UnknownParameter"), has(&dry, "DryRunOperation")]);
    let twice = bench.assign_in_vain(list(&[new, new])).await;
    let refused = way(format!("{VALUE}, whatever the text"), twice.code.as_deref() == Some(VALUE));
    report.answer("assign-duplicates", &twice, [refused, way("accepted as one", twice.read.is_ok())]);
}

/// A secondary address of another ENI. AllowReassignment is never sent, so that it stays there.
async fn in_use(bench: &mut Bench, report: &mut Report, theirs: Ipv4Addr, new: Ipv4Addr, tells: bool) {
    let names = ["assign-in-use", "assign-in-use-and-new", "assign-in-use-and-new-rest"];
    let other = bench.other.as_ref().map(|other| other.id.clone());
    let Some(other) = other else {
        return names.into_iter().for_each(|name| report.unchecked(name, "needs a second spare ENI, named by --other"));
    };
    if let Err(why) = bench.assign(&other, list(&[theirs])).await.read {
        return names.into_iter().for_each(|name| report.unchecked(name, why.to_string()));
    }
    let alone = bench.assign_in_vain(list(&[theirs])).await;
    report.answer(names[0], &alone, [words(&alone, VALUE, IN_USE), other_words(is_in_use(&alone))]);
    let list_of_two = bench.assign_in_vain(list(&[theirs, new])).await;
    let named: &[Ipv4Addr] = if let Err(Ec2Error::InUse { addresses }) = &list_of_two.read { addresses } else { &[] };
    let known = [
        way("refused, names the one in use", named == [theirs]),
        way("refused, names both", named.contains(&theirs) && named.contains(&new)),
        way("refused, names none", is_in_use(&list_of_two) && named.is_empty()),
    ];
    report.answer(names[1], &list_of_two, known);
    rest(bench, report, names[2], &list_of_two, new, tells).await;
    bench.unassign(&other, &[theirs]).await;
}

/// Whether a list of which one address was refused left the good one on the ENI; it is off afterwards.
async fn rest(
    bench: &mut Bench,
    report: &mut Report,
    name: &'static str,
    refused: &Answer,
    good: Ipv4Addr,
    tells: bool,
) {
    let eni = bench.eni.id.clone();
    if refused.read.is_ok() {
        return report.unchecked(name, "the list was accepted");
    }
    let probe = bench.unassign(&eni, &[good]).await;
    if tells {
        let none = way("a refused list assigns none", is_not_there(&probe));
        report.answer(name, &probe, [none, way("a refused list assigns its rest", probe.read.is_ok())]);
    } else {
        report.unchecked(name, "Unassign does not tell what is there");
    }
}

/// Of `on` and `last`, which are on the ENI, and `absent`, which is not. Both are off afterwards.
async fn taken_off(bench: &mut Bench, report: &mut Report, [on, last, absent]: [Ipv4Addr; 3], tells: bool) {
    let eni = bench.eni.id.clone();
    let primary = [bench.eni.primary];
    let answer = bench.unassign(&eni, &primary).await;
    let text = "Address A cannot be unassigned. The primary IP address of an interface cannot be unassigned";
    let known = [
        words(&answer, VALUE, text),
        other_words(matches!(answer.read, Err(Ec2Error::Primary { .. }))),
        way("refused as if it were not there", is_not_there(&answer)),
    ];
    report.answer("unassign-primary", &answer, known);

    let mixed = bench.unassign(&eni, &[on, absent]).await;
    let accepted = way("accepted: both are gone", mixed.read.is_ok());
    report.answer(
        "unassign-list",
        &mixed,
        [words(&mixed, VALUE, NOT_THERE), other_words(is_not_there(&mixed)), accepted],
    );
    let name = "unassign-list-rest";
    let probe = bench.unassign(&eni, &[on]).await;
    if mixed.read.is_ok() || !tells {
        report.unchecked(name, "Unassign does not tell what is there");
    } else {
        let none = way("a refused list takes none off", probe.read.is_ok());
        report.answer(name, &probe, [none, way("a refused list takes its rest off", is_not_there(&probe))]);
    }

    let answer = bench.unassign(&eni, &[last]).await;
    report.answer("unassign", &answer, [way("accepted", answer.read.is_ok())]);
    let lags = bench.lags(last, false).await;
    report.lag("unassign-to-describe", lags.ec2, bench.wait, [soon(lags.ec2)]);
    let later = way("later: IMDS's word is not taken for there", true);
    report.lag("unassign-to-imds", lags.imds, bench.wait, [soon(lags.imds), later]);
}

/// As many addresses as the instance type allows, and one more, by two calls and by one.
async fn limits(bench: &mut Bench, report: &mut Report, tells: bool) {
    let name = "limit-fill";
    let eni = bench.eni.id.clone();
    let limit = match bench.limit().await {
        Ok(limit) => limit,
        Err(why) => return report.unchecked(name, why.to_string()),
    };
    // Nothing that went before may count.
    bench.clean_up().await;
    if !bench.left().is_empty() {
        return report.unchecked(name, "what was tried before is not off the interface yet");
    }
    let Some((more, fill)) = bench.free.get(..limit).and_then(<[_]>::split_first) else {
        return report.unchecked(name, format!("the subnet has too few free addresses for {limit}"));
    };
    if bench.free.len() < limit + SPARED {
        return report.unchecked(name, format!("{limit} addresses would leave too few free ones to others"));
    }
    let (more, fill) = (*more, fill.to_vec());
    let all = bench.assign(&eni, list(&fill)).await;
    if is_in_use(&all) {
        return report.unchecked(name, "somebody took one of the addresses meanwhile");
    }
    let told = format!("accepted: {limit} with the primary one, as DescribeInstanceTypes tells");
    report.answer(name, &all, [way(told, lists(&all, &fill)), way(MORE, lists_among_others(&all, &fill))]);
    let full = |answer: &Answer| {
        [words(answer, FULL.0, FULL.1), other_words(matches!(answer.read, Err(Ec2Error::EniFull { .. })))]
    };
    let answer = bench.assign_in_vain(list(&[more])).await;
    report.answer("limit-one-more", &answer, full(&answer));
    let off = bench.unassign(&eni, &fill).await;
    report.answer("limit-unassign", &off, [way("accepted", off.read.is_ok())]);
    let too_many: Vec<_> = fill.iter().copied().chain([more]).collect();
    let at_once = bench.assign_in_vain(list(&too_many)).await;
    report.answer("limit-at-once", &at_once, full(&at_once));
    rest(bench, report, "limit-at-once-rest", &at_once, fill.first().copied().unwrap_or(more), tells).await;
}

/// IMDS refuses what came through a proxy.
async fn forwarded(report: &mut Report) {
    let name = "imds-forwarded-for";
    match forwarded_status().await {
        Ok(status) => {
            let refused = way("a token asked for with X-Forwarded-For is refused with HTTP 403", status == 403);
            let other = way("refused with another status", (400..500).contains(&status));
            report.seen(name, format!("HTTP {status}"), [refused, other]);
        }
        Err(why) => report.unchecked(name, format!("{why:#}")),
    }
}

/// The SDK's client sends no header of ours.
async fn forwarded_status() -> anyhow::Result<u16> {
    let endpoint = std::env::var("AWS_EC2_METADATA_SERVICE_ENDPOINT").unwrap_or_else(|_| IMDS.to_owned());
    let host = endpoint.strip_prefix("http://").context("IMDS is not at an http endpoint")?.trim_end_matches('/');
    let place = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
    let exchange = async {
        let mut stream = TcpStream::connect(&place).await?;
        let request = format!(
            "PUT /latest/api/token HTTP/1.1\r\nHost: {host}\r\nX-aws-ec2-metadata-token-ttl-seconds: 1\r\n\
             X-Forwarded-For: 192.0.2.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut start = [0; "HTTP/1.1 200".len()];
        stream.read_exact(&mut start).await?;
        anyhow::Ok(String::from_utf8_lossy(&start).into_owned())
    };
    let start = tokio::time::timeout(Duration::from_secs(5), exchange).await.context("no answer within 5 s")??;
    start.split(' ').nth(1).and_then(|status| status.parse().ok()).with_context(|| format!("not HTTP: {start:?}"))
}

/// Seen only if it happens by itself: to provoke it would take the request rate of the whole account.
fn throttling(bench: &Bench, report: &mut Report) {
    let name = "throttling";
    match &bench.throttled {
        Some(answer) => {
            let newer = answer.message.as_deref().is_some_and(|text| text.contains("has been throttled on"));
            let known = [
                words(answer, "RequestLimitExceeded", "Request limit exceeded"),
                way("the newer text, which names account and action", newer),
                other_words(true),
            ];
            report.answer(name, answer, known);
        }
        None => report.unchecked(name, "EC2 did not throttle, and to provoke it would harm the whole account"),
    }
    report.unchecked(
        "request-rate",
        "5 changes a second, after a burst of 50: to measure it would harm the whole account",
    );
}

/// Accepted, and lists these and no others.
fn lists(answer: &Answer, ips: &[Ipv4Addr]) -> bool {
    answer.read.is_ok() && answer.listed.len() == ips.len() && ips.iter().all(|ip| answer.listed.contains(ip))
}

/// Accepted, and lists these and others.
fn lists_among_others(answer: &Answer, ips: &[Ipv4Addr]) -> bool {
    answer.read.is_ok() && ips.iter().all(|ip| answer.listed.contains(ip))
}

/// `doctor` asks for 127.0.0.1 to learn whether it may ask at all.
fn permits(answer: &Answer, text: &str) -> [Way; 2] {
    let is_past = answer.read.as_ref().err().is_none_or(Ec2Error::is_past_permission);
    [words(answer, VALUE, text), way("answered otherwise, by which `doctor` sees that it may", is_past)]
}
