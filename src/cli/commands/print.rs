//! What a command prints for people.

use std::io::Write;

use serde::Serialize;

use super::driver::{Driver, note};
use crate::domain::address::State;
use crate::driver::doctor::{Check, RESERVE, Verdict};
use crate::driver::found::Found;
use crate::driver::leases::Leased;
use crate::driver::list::Listed;
use crate::driver::operate::Filled;
use crate::driver::recycle::{Came, Part, Report};
use crate::driver::status::{DockerStatus, EniStatus, JournalStatus, Status};
use crate::eni::Recycled;
use crate::fleet::fill::Refreshed;
use crate::plain::write_json;
use crate::store::Blocks;

pub(super) fn json(out: &mut impl Write, value: &impl Serialize) -> anyhow::Result<()> {
    Ok(write_json(out, value)?)
}

fn line(out: &mut impl Write, text: &str) -> anyhow::Result<()> {
    Ok(writeln!(out, "{text}")?)
}

pub(super) fn schema<'s>(out: &mut impl Write, statements: impl Iterator<Item = &'s str>) -> anyhow::Result<()> {
    let mut statements = statements.peekable();
    if statements.peek().is_none() {
        writeln!(out, "-- the database lacks nothing")?;
    }
    for statement in statements {
        writeln!(out, "{statement};")?;
    }
    Ok(())
}

pub(super) fn filled(out: &mut impl Write, subnet: &str, filled: &Filled) -> anyhow::Result<()> {
    let Refreshed { inserted, changed, assigned } = filled.rows;
    line(out, &format!("{subnet}: {inserted} rows added, {changed} changed; EC2 has {assigned} addresses in use"))?;
    match filled.blocks {
        Some(blocks) if blocks == Blocks::default() => line(out, "it has no /28 that may be a block: a /26 has two"),
        Some(blocks) => line(out, &format!("/28s that may be blocks: {blocks}; {RESERVE}")),
        None => Ok(()),
    }
}

pub(super) fn found(out: &mut impl Write, found: &[Found]) -> anyhow::Result<()> {
    if found.is_empty() {
        line(out, "rows, EC2 and Docker agree")?;
    }
    for found in found {
        let when = match (found.repaired, found.seen_seconds) {
            (true, _) => "done".to_owned(),
            (false, None) => "seen for the first time; mended if it is still so in a minute".to_owned(),
            (false, Some(seconds)) => format!("seen for {seconds} s"),
        };
        line(out, &format!("{}: {} [{when}]", found.of, found.found))?;
    }
    Ok(())
}

pub(super) fn recycled(out: &mut impl Write, subnet: &str, report: &Report) -> anyhow::Result<()> {
    line(out, &format!("{subnet}: {} addresses are free again", report.total.freed))?;
    if report.total.pending > 0 {
        line(out, &format!("{} more are not settled with EC2 yet; run it again in a minute", report.total.pending))?;
    }
    for Part { of, came } in &report.parts {
        let text = match came {
            Came::Done(Recycled { freed, pending: 0 }) => format!("{freed} freed"),
            Came::Done(Recycled { freed, pending }) => format!("{freed} freed, {pending} pending"),
            Came::Gone(freed) => format!("{freed} freed: EC2 does not know it any more"),
            Came::Failed(why) => format!("FAILED: {why}"),
            Came::Silent { version, seen_seconds } => format!(
                "NO ANSWER (ec2-ipam {version}, seen {seen_seconds} s ago): what it has stays until it answers, or EC2 does not \
                 know its interface any more"
            ),
            Came::Unserved => {
                "NO HOST that the table knows serves it: its addresses stay; run `ec2-ipam recycle` on its \
                               host, whose driver may be an older one"
                    .to_owned()
            }
        };
        line(out, &format!("  {of}: {text}"))?;
    }
    Ok(())
}

pub(super) fn leases(out: &mut impl Write, leases: &[Leased]) -> anyhow::Result<()> {
    for Leased { ip, eni, instance, holder, seconds } in leases {
        let since = seconds.map_or_else(|| "long ago".to_owned(), |seconds| format!("{seconds} s ago"));
        let of = instance.as_deref().map(|instance| format!(" of {instance}")).unwrap_or_default();
        let holder = holder.as_deref().map(|holder| format!("  {holder}")).unwrap_or_default();
        line(out, &format!("{:<15}  {eni}{of}  given {since}{holder}", ip.to_string()))?;
    }
    Ok(())
}

pub(super) fn status(out: &mut impl Write, status: &Status) -> anyhow::Result<()> {
    line(out, &format!("ec2-ipam {} (life {})", status.version, status.boot))?;
    let store = &status.store;
    match &store.error {
        None => {
            line(out, &format!("store     {} {} at {}", store.kind, store.version.as_deref().unwrap_or("?"), store.at))?
        }
        Some(why) => line(out, &format!("store     {why}"))?,
    }
    journal(out, &status.journal)?;
    let ec2 = [&status.ec2.region, &status.ec2.error];
    line(out, &format!("EC2       {}", ec2.into_iter().flatten().map(String::as_str).collect::<Vec<_>>().join("; ")))?;
    docker(out, status.docker.as_ref())?;
    match status.reconciled_seconds {
        Some(seconds) => {
            line(out, &format!("reconciled {seconds} s ago; {} conflicts since the start", status.conflicts))?
        }
        None => line(out, "not reconciled yet")?,
    }
    if status.drained {
        let lasts = status.drained_seconds.map(|seconds| format!(" for {seconds} s")).unwrap_or_default();
        line(out, &format!("DRAINED  {lasts}: no container starts here until `ec2-ipam drain --undo`"))?;
    }
    for problem in &status.problems {
        line(out, &format!("PROBLEM   {problem}"))?;
    }
    if status.enis.is_empty() {
        line(out, "no interface is served yet: each is once a network on it is made, or a container of one starts")?;
    }
    for eni in &status.enis {
        self::eni(out, eni)?;
    }
    for (subnet, counts) in &status.subnets {
        line(out, &format!("subnet    {subnet}: {}", counted(counts)))?;
    }
    Ok(())
}

fn journal(out: &mut impl Write, journal: &JournalStatus) -> anyhow::Result<()> {
    let JournalStatus { path, error, put_aside, unposted, unposted_seconds, in_doubt, history: _, history_since: _ } =
        journal;
    let mut parts = vec![match error {
        None => path.clone(),
        Some(why) => format!("{path} takes no writes, so the database is waited for: {why}").trim_start().to_owned(),
    }];
    parts.extend(put_aside.as_ref().map(|why| format!("one was put aside as {why}")));
    if let (1.., Some(seconds)) = (unposted, unposted_seconds) {
        parts.push(format!("{unposted} addresses not in the table yet, for {seconds} s"));
    }
    if *in_doubt > 0 {
        parts.push(format!("{in_doubt} addresses in doubt until Docker has shown its containers"));
    }
    line(out, &format!("journal   {}", parts.join("; ")))
}

fn docker(out: &mut impl Write, docker: Option<&DockerStatus>) -> anyhow::Result<()> {
    let Some(docker) = docker else {
        return line(out, "Docker    is not read, as EC2_IPAM_DOCKER_SOCKET says");
    };
    let seen = match (docker.addresses, docker.age_seconds) {
        (Some(addresses), Some(0)) => Some(format!("{addresses} addresses in use by containers")),
        (Some(addresses), Some(age)) => Some(format!("{addresses} addresses in use by containers {age} s ago")),
        _ => None,
    };
    let parts: Vec<&str> = seen.as_deref().into_iter().chain(docker.error.as_deref()).collect();
    let text = if parts.is_empty() { "has not answered yet".to_owned() } else { parts.join("; ") };
    line(out, &format!("Docker    {text}"))
}

fn eni(out: &mut impl Write, eni: &EniStatus) -> anyhow::Result<()> {
    let link = match eni.up {
        Some(true) => "up",
        Some(false) => "DOWN",
        None => "MISSING",
    };
    let known = |count: Option<usize>| count.map_or("?".to_owned(), |count| count.to_string());
    let limit = known(eni.limit);
    let place = match &eni.host {
        Some(instance) => format!("of {instance} (its link and its Docker are not seen)"),
        None => format!("on {} ({link})", eni.link),
    };
    line(out, &format!("interface {} {place} in {} {}", eni.eni, eni.subnet, eni.cidr))?;
    line(
        out,
        &format!("          {}; {} warm; limit {limit}; {} waiting", counted(&eni.addresses), eni.warm, eni.waiting),
    )?;
    if eni.blocks > 0 {
        let (EniStatus { blocks, singles, .. }, slots) = (eni, known(eni.slots));
        let text = format!("{blocks} blocks of 16 and {singles} single addresses; {slots} of {limit} slots are taken");
        line(out, &format!("          {text}"))?;
    }
    if let Some(why) = &eni.not_ready {
        line(out, &format!("          not ready: {why}"))?;
    }
    if let Some(why) = &eni.last_error {
        line(out, &format!("          last error: {why}"))?;
    }
    Ok(())
}

fn counted(counts: &std::collections::BTreeMap<State, u64>) -> String {
    let counts: Vec<_> = counts.iter().map(|(state, rows)| format!("{rows} {}", state)).collect();
    if counts.is_empty() { "no rows".into() } else { counts.join(", ") }
}

pub(super) fn list(out: &mut impl Write, rows: &[Listed]) -> anyhow::Result<()> {
    if rows.is_empty() {
        note(
            "no address is taken, as far as the table knows; it is filled by the first network, or by `ec2-ipam init SUBNET`",
        );
    }
    line(out, &format!("{:<15} {:<9} {:<22} {:>8}  HOLDER", "ADDRESS", "STATE", "INTERFACE", "IDLE"))?;
    for row in rows {
        let mut holder = if row.primary { "(primary)" } else { row.holder.as_deref().unwrap_or("") }.to_owned();
        if row.named {
            // Docker asks for an auxiliary address as it does for a container's, before Engine 29 to the letter.
            let by = if row.holder.is_some() { "--ip" } else { "--ip or --aux-address" };
            holder = format!("{holder} (named by {by})").trim_start().to_owned();
        } else if row.reserved && row.state != State::Reserved {
            holder = format!("{holder} (reserved)");
        }
        if let Some(public) = row.elastic_ip {
            holder = format!("{holder} (Elastic IP {public})").trim_start().to_owned();
        }
        if let Some(host) = &row.host {
            holder = format!("{holder} (on {host})").trim_start().to_owned();
        }
        let idle = row.idle_seconds.filter(|_| row.state == State::Ready);
        let idle = idle.map(|idle| format!("{idle}s")).unwrap_or_default();
        let iface = row.iface.as_deref().unwrap_or("-");
        line(out, &format!("{:<15} {:<9} {iface:<22} {idle:>8}  {holder}", row.ip.to_string(), row.state))?;
    }
    Ok(())
}

pub(super) fn checks(out: &mut impl Write, driver: &Driver, checks: &[Check]) -> anyhow::Result<()> {
    match driver {
        Driver::Running(socket) => line(out, &format!("as the driver on {} sees it:", socket.display()))?,
        Driver::Here { .. } => line(out, "as this process sees it:")?,
    }
    for check in checks {
        let mark = match check.verdict {
            Verdict::Ok => "ok  ",
            Verdict::Warning => "warn",
            Verdict::Failure => "FAIL",
        };
        line(out, &format!("{mark}  {}: {}", check.name, check.found))?;
        if let Some(remedy) = &check.remedy {
            line(out, &format!("      -> {remedy}"))?;
        }
    }
    Ok(())
}
