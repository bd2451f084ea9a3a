//! The commands: each asks the driver that runs on this host, or, where none runs, does the same on the MySQL table.

mod driver;
mod history;
mod hosts;
mod map;
mod print;

use std::io::{ErrorKind, IsTerminal, Write};
use std::process::ExitCode;

use anyhow::bail;
use serde_json::{Value, json};

use crate::cli::conformance;
use crate::cli::{Cli, Command};
use crate::domain::id::SubnetId;
use crate::domain::map::Map;
use crate::domain::roll::answer_age;
use crate::driver::doctor::{Check, Verdict};
use crate::driver::found::{Found, Manner};
use crate::driver::history::{Past, ToKnow};
use crate::driver::hosts::ListedHost;
use crate::driver::leases::Leased;
use crate::driver::list::Listed;
use crate::driver::operate::Filled;
use crate::driver::recycle::Report;
use crate::driver::status::Status;
use crate::plain::PlainLines;
use crate::socket::control::{OfAddress, OfSubnet, ToLease, ToList, ToMap, ToRecycle};
use crate::store;
use driver::{Driver, Sockets, note};

/// Runs a command other than `serve` and prints what came of it.
pub async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let mut out = PlainLines(Vec::new());
    if let Command::Doctor { json, asked } = &cli.command
        && asked.conformance
    {
        let code = Box::pin(conformance::run(&cli.given.settings()?, asked, *json, &mut out)).await?;
        show(&out.0)?;
        return Ok(code);
    }
    if matches!(cli.command, Command::Schema { all: true }) {
        print::schema(&mut out, store::whole_schema())?;
        show(&out.0)?;
        return Ok(ExitCode::SUCCESS);
    }
    let sockets = Sockets::look(cli.given.socket()?).await;
    let driver = Driver::choose(&cli, &sockets).await?;
    let is_well = answer(cli.command, &driver, &sockets, &mut out).await?;
    driver.end().await;
    show(&out.0)?;
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// To standard output. Whoever stops reading, as `head` does, has read enough.
fn show(text: &[u8]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(why) if why.kind() == ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}

/// Asks whoever sits at the terminal.
fn confirm(question: &str) -> anyhow::Result<()> {
    if !std::io::stdin().is_terminal() {
        bail!("this asks whether the container is gone, and nobody sits here to answer: say --yes");
    }
    write!(std::io::stderr(), "ec2-ipam: {question} [y/N] ")?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => bail!("nothing is done"),
    }
}

/// Does it, and says whether all is well.
async fn answer(command: Command, driver: &Driver, sockets: &Sockets, out: &mut impl Write) -> anyhow::Result<bool> {
    let mut is_well = true;
    match command {
        Command::Serve { .. } => {}
        Command::Init { subnet } => {
            subnet.parse::<SubnetId>()?;
            let done: Filled = driver.ask("init", &OfSubnet { subnet: subnet.clone() }).await?;
            print::filled(out, &subnet, &done)?;
        }
        Command::Schema { .. } => {
            let lacking: Vec<String> = driver.ask("schema", &json!({})).await?;
            print::schema(out, lacking.iter().map(String::as_str))?;
        }
        Command::Recycle { subnet, all } => {
            subnet.parse::<SubnetId>()?;
            if all {
                let most = answer_age().as_secs();
                note(&format!("each host sees it within a minute; those that do not answer are waited for {most} s"));
            }
            let report: Report = driver.ask("recycle", &ToRecycle { subnet: subnet.clone(), all }).await?;
            is_well = report.parts.iter().all(|part| part.came.is_done());
            print::recycled(out, &subnet, &report)?;
        }
        Command::Reconcile { dry_run, force, json } => {
            let manner = match (dry_run, force) {
                (true, _) => Manner::DryRun,
                (false, true) => Manner::Forced,
                (false, false) => Manner::Usual,
            };
            let found: Vec<Found> = driver.ask("reconcile", &manner).await?;
            if json { print::json(out, &found)? } else { print::found(out, &found)? }
        }
        Command::Status { json, quiet } => {
            let status: Status = driver.ask("status", &json!({})).await?;
            is_well = status.is_well();
            match (quiet, json) {
                (true, _) => {}
                (false, true) => print::json(out, &status)?,
                (false, false) => print::status(out, &status)?,
            }
        }
        Command::List { subnet, free, json } => {
            let asked = ToList { subnet: subnet.unwrap_or_default(), free };
            let rows: Vec<Listed> = driver.ask("list", &asked).await?;
            if json { print::json(out, &rows)? } else { print::list(out, &rows)? }
        }
        Command::Map { subnet, full, color, html, json } => {
            let asked = ToMap { all: html.is_some(), subnet: subnet.unwrap_or_default() };
            let map: Map = driver.ask("map", &asked).await?;
            match html {
                Some(file) => map::write_page(out, &file, &map)?,
                None if json => print::json(out, &map)?,
                None => map::draw(out, &map, color, full)?,
            }
        }
        Command::Leases { older_than, json } => {
            let leases: Vec<Leased> = driver.ask("leases", &ToLease { older_seconds: older_than.as_secs() }).await?;
            if json { print::json(out, &leases)? } else { print::leases(out, &leases)? }
        }
        Command::Hosts { json } => {
            let hosts: Vec<ListedHost> = driver.ask("hosts", &json!({})).await?;
            if json { print::json(out, &hosts)? } else { hosts::hosts(out, &hosts)? }
        }
        Command::Drain { undo, wait, json } => {
            let found = hosts::drain(driver, undo, wait).await?;
            is_well = wait.is_none() || found.is_done();
            if json { print::json(out, &found)? } else { hosts::drained(out, &found)? }
        }
        Command::History { ip, container, at, since, json } => {
            let is_of_one_time = at.is_some();
            let past: Past = driver.ask("history", &ToKnow { ip, container, at, since }).await?;
            if json { print::json(out, &past)? } else { history::print(out, &past, is_of_one_time)? }
        }
        Command::Release { ip, yes } => {
            if !yes {
                confirm(&format!(
                    "A container that has {ip} loses nothing at once, but another one may get the same address. Is it gone?"
                ))?;
            }
            let _: Value = driver.ask("release", &OfAddress { ip, name: None }).await?;
            writeln!(out, "{ip} is let go of")?;
        }
        Command::Doctor { json, .. } => {
            let mut checks: Vec<Check> = driver.ask("doctor", &json!({})).await?;
            if driver.leaves_the_table_alone() {
                checks.retain(|check| check.name != "database");
            }
            checks.insert(0, sockets.check(driver));
            is_well = checks.iter().all(|check| check.verdict != Verdict::Failure);
            if json { print::json(out, &checks)? } else { print::checks(out, driver, &checks)? }
        }
        Command::Reserve { ip, name } => {
            let _: Value = driver.ask("reserve", &OfAddress { ip, name }).await?;
            writeln!(out, "{ip} is reserved")?;
        }
        Command::Unreserve { ip } => {
            let _: Value = driver.ask("unreserve", &OfAddress { ip, name: None }).await?;
            writeln!(out, "{ip} may be given out again")?;
        }
    }
    Ok(is_well)
}
