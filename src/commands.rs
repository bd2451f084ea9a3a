//! The commands: each asks the driver that runs on this host, or, where none runs, does the same on the MySQL table.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::address::State;
use crate::cli::{Cli, Command};
use crate::conformance;
use crate::doctor::{Check, Verdict};
use crate::eni::Recycled;
use crate::fill::Refreshed;
use crate::id::SubnetId;
use crate::ipam::Ipam;
use crate::late::Late;
use crate::reconcile::Found;
use crate::socket::control::{self, HowToReconcile, OfAddress, OfSubnet};
use crate::status::{EniStatus, Listed, Status};
use crate::store::Database;

/// Where dockerd looks for sockets; a managed plugin's lies one folder deeper.
const PLUGINS: &str = "/run/docker/plugins";
const SOCKET: &str = "ec2-ipam.sock";

/// Runs a command other than `serve` and prints what came of it.
pub async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    if let Command::Doctor { json, asked } = &cli.command
        && asked.conformance
    {
        return Box::pin(conformance::run(&cli.given.settings()?, asked, *json)).await;
    }
    let driver = Driver::find(&cli).await?;
    let mut out = std::io::stdout().lock();
    let mut code = ExitCode::SUCCESS;
    match cli.command {
        Command::Serve { .. } => {}
        Command::Init { subnet } => {
            subnet.parse::<SubnetId>()?;
            let done: Refreshed = driver.ask("init", &OfSubnet { subnet: subnet.clone(), all: false }).await?;
            writeln!(
                out,
                "{subnet}: {} rows added, {} changed; EC2 has {} addresses in use",
                done.inserted, done.changed, done.in_use
            )?;
        }
        Command::Recycle { subnet, all } => {
            subnet.parse::<SubnetId>()?;
            let done: Recycled = driver.ask("recycle", &OfSubnet { subnet: subnet.clone(), all }).await?;
            writeln!(out, "{subnet}: {} addresses are free again", done.freed)?;
            if done.pending > 0 {
                writeln!(out, "{} more are not settled with EC2 yet; run it again in a minute", done.pending)?;
            }
        }
        Command::Reconcile { dry_run, force, json } => {
            if matches!(driver, Driver::Here { .. }) {
                bail!("no driver runs on this host: only a running one knows what its containers use; start it");
            }
            let found: Vec<Found> = driver.ask("reconcile", &HowToReconcile { dry_run, force }).await?;
            if json { print_json(&mut out, &found)? } else { print_found(&mut out, &found)? }
        }
        Command::Status { json } => {
            let status: Status = driver.ask("status", &json!({})).await?;
            if json { print_json(&mut out, &status)? } else { print_status(&mut out, &status)? }
        }
        Command::List { subnet, free, json } => {
            let asked = OfSubnet { subnet: subnet.unwrap_or_default(), all: free };
            let rows: Vec<Listed> = driver.ask("list", &asked).await?;
            if json { print_json(&mut out, &rows)? } else { print_list(&mut out, &rows)? }
        }
        Command::Doctor { json, .. } => {
            let checks: Vec<Check> = driver.ask("doctor", &json!({})).await?;
            if checks.iter().any(|check| check.verdict == Verdict::Failure) {
                code = ExitCode::FAILURE;
            }
            if json { print_json(&mut out, &checks)? } else { print_checks(&mut out, &driver, &checks)? }
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
    driver.end().await;
    Ok(code)
}

/// Who does it.
enum Driver {
    /// The one that runs on this host.
    Running(PathBuf),
    /// This process, on the shared table.
    Here { ipam: Arc<Ipam>, tasks: TaskTracker, stop: CancellationToken },
}

impl Driver {
    async fn find(cli: &Cli) -> anyhow::Result<Self> {
        if let Some(socket) = &cli.socket {
            return Ok(Self::Running(socket.clone()));
        }
        let settings = cli.given.settings()?;
        for socket in sockets(&settings.listen, Path::new(PLUGINS)) {
            match tokio::net::UnixStream::connect(&socket).await {
                Ok(_) => return Ok(Self::Running(socket)),
                Err(e) if e.kind() == ErrorKind::PermissionDenied => bail!("{} is root's: use sudo", socket.display()),
                Err(_) => {}
            }
        }
        let absent = format!(
            "no driver answers on {} or under {PLUGINS}: start it (`docker plugin enable`, `systemctl start ec2-ipam`), name its \
             socket with --socket, or give --database-url mysql://…",
            settings.listen.display()
        );
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let patience = settings.request_timeout;
        let ipam = match settings.database {
            Database::MySql(_) => Ipam::start(settings, tasks.clone(), stop.clone())?,
            // Only a running driver may open its file; the rest can be looked at without it.
            Database::Sqlite(_) if matches!(cli.command, Command::Doctor { .. }) => {
                Ipam::with_store(settings, Late::never(absent), tasks.clone(), stop.clone())?
            }
            Database::Sqlite(_) => bail!(absent),
        };
        // The doctor says by itself what does not answer.
        let _ = tokio::join!(ipam.store.get(Instant::now() + patience), ipam.ec2.get(Instant::now() + patience));
        Ok(Self::Here { ipam, tasks, stop })
    }

    async fn ask<T: DeserializeOwned>(&self, call: &str, body: &impl Serialize) -> anyhow::Result<T> {
        let path = format!("{}{call}", control::PREFIX);
        let body = serde_json::to_vec(body)?;
        let answer = match self {
            Self::Running(socket) => post(socket, &path, body).await?,
            Self::Here { ipam, .. } => {
                match control::call(ipam, &path, &body, Instant::now() + control::PATIENCE).await {
                    Ok(reply) => reply.json,
                    Err((_, why)) => bail!("{why}"),
                }
            }
        };
        serde_json::from_value(answer)
            .context("the driver that runs is of another version; run the command that belongs to it")
    }

    async fn end(self) {
        if let Self::Here { tasks, stop, .. } = self {
            stop.cancel();
            tasks.close();
            tasks.wait().await;
        }
    }
}

/// The socket of the settings, then those of managed plugins.
fn sockets(listen: &Path, plugins: &Path) -> Vec<PathBuf> {
    let mut sockets = vec![listen.to_owned()];
    let folders = std::fs::read_dir(plugins).into_iter().flatten().flatten();
    sockets.extend(folders.map(|folder| folder.path().join(SOCKET)).filter(|socket| socket.exists()));
    sockets
}

async fn post(socket: &Path, path: &str, body: Vec<u8>) -> anyhow::Result<Value> {
    let stream = tokio::net::UnixStream::connect(socket)
        .await
        .with_context(|| format!("no driver answers on {}: is it running, and are you root?", socket.display()))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(hyper::header::HOST, "ec2-ipam")
        .body(Full::new(Bytes::from(body)))?;
    let answer = sender.send_request(request).await.context("the driver ended the connection; see its log")?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    let json: Value = serde_json::from_slice(&body).context("the driver's answer is not JSON")?;
    if !status.is_success() {
        bail!("{}", json.get("Err").and_then(Value::as_str).unwrap_or("the driver refused without a reason"));
    }
    Ok(json)
}

fn print_json(out: &mut impl Write, value: &impl Serialize) -> anyhow::Result<()> {
    Ok(writeln!(out, "{}", serde_json::to_string_pretty(value)?)?)
}

fn print_found(out: &mut impl Write, found: &[Found]) -> anyhow::Result<()> {
    if found.is_empty() {
        writeln!(out, "rows, EC2 and Docker agree")?;
    }
    for found in found {
        let when = match (found.repaired, found.seen_seconds) {
            (true, _) => "done".to_owned(),
            (false, None) => "seen for the first time; mended if it is still so in a minute".to_owned(),
            (false, Some(seconds)) => format!("seen for {seconds} s"),
        };
        writeln!(out, "{}: {} [{when}]", found.of, found.found)?;
    }
    Ok(())
}

fn print_status(out: &mut impl Write, status: &Status) -> anyhow::Result<()> {
    writeln!(out, "ec2-ipam {} (life {})", status.version, status.boot)?;
    match &status.store {
        Ok(store) => writeln!(out, "store     {} {} at {}", store.kind, store.version, store.at)?,
        Err(why) => writeln!(out, "store     {why}")?,
    }
    match &status.ec2 {
        Ok(region) => writeln!(out, "EC2       {region}")?,
        Err(why) => writeln!(out, "EC2       {why}")?,
    }
    match status.docker {
        Some(addresses) => writeln!(out, "Docker    {addresses} addresses in use by containers when last asked")?,
        None => writeln!(out, "Docker    not read")?,
    }
    match status.reconciled_seconds {
        Some(seconds) => writeln!(out, "reconciled {seconds} s ago; {} conflicts since the start", status.conflicts)?,
        None => writeln!(out, "not reconciled yet")?,
    }
    for problem in &status.problems {
        writeln!(out, "PROBLEM   {problem}")?;
    }
    if status.enis.is_empty() {
        writeln!(out, "no interface is served yet: create a network")?;
    }
    for eni in &status.enis {
        print_eni(out, eni)?;
    }
    for (subnet, counts) in &status.subnets {
        writeln!(out, "subnet    {subnet}: {}", counted(counts))?;
    }
    Ok(())
}

fn print_eni(out: &mut impl Write, eni: &EniStatus) -> anyhow::Result<()> {
    let link = match eni.up {
        Some(true) => "up",
        Some(false) => "DOWN",
        None => "MISSING",
    };
    let limit = eni.limit.map_or("?".to_owned(), |limit| limit.to_string());
    writeln!(out, "interface {} on {} ({link}) in {} {}", eni.eni, eni.link, eni.subnet, eni.cidr)?;
    writeln!(out, "          {}; {} warm; limit {limit}; {} waiting", counted(&eni.addresses), eni.warm, eni.waiting)?;
    if let Some(why) = &eni.not_ready {
        writeln!(out, "          not ready: {why}")?;
    }
    if let Some(why) = &eni.last_error {
        writeln!(out, "          last error: {why}")?;
    }
    Ok(())
}

fn counted(counts: &std::collections::BTreeMap<State, u64>) -> String {
    let counts: Vec<_> = counts.iter().map(|(state, rows)| format!("{rows} {}", name(*state))).collect();
    if counts.is_empty() { "no rows".into() } else { counts.join(", ") }
}

fn name(state: State) -> String {
    format!("{state:?}").to_lowercase()
}

fn print_list(out: &mut impl Write, rows: &[Listed]) -> anyhow::Result<()> {
    writeln!(out, "{:<15} {:<9} {:<22} {:>8}  HOLDER", "ADDRESS", "STATE", "INTERFACE", "IDLE")?;
    for row in rows {
        let mut holder = if row.primary { "(primary)" } else { row.holder.as_deref().unwrap_or("") }.to_owned();
        if row.named {
            holder = format!("{holder} (named by --ip)").trim_start().to_owned();
        }
        let idle = row.idle_seconds.filter(|_| row.state == State::Ready);
        let idle = idle.map(|idle| format!("{idle}s")).unwrap_or_default();
        let iface = row.iface.as_deref().unwrap_or("-");
        writeln!(out, "{:<15} {:<9} {iface:<22} {idle:>8}  {holder}", row.ip.to_string(), name(row.state))?;
    }
    Ok(())
}

fn print_checks(out: &mut impl Write, driver: &Driver, checks: &[Check]) -> anyhow::Result<()> {
    match driver {
        Driver::Running(socket) => writeln!(out, "as the driver on {} sees it:", socket.display())?,
        Driver::Here { .. } => writeln!(out, "no driver runs on this host; as this process sees it:")?,
    }
    for check in checks {
        let mark = match check.verdict {
            Verdict::Ok => "ok  ",
            Verdict::Warning => "warn",
            Verdict::Failure => "FAIL",
        };
        writeln!(out, "{mark}  {}: {}", check.name, check.found)?;
        if let Some(remedy) = &check.remedy {
            writeln!(out, "      -> {remedy}")?;
        }
    }
    Ok(())
}
