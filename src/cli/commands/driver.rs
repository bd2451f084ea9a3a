//! Who answers a command: a driver that runs on this host, or, where none runs, this process on the shared table.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cli::{Cli, Command};
use crate::config::Settings;
use crate::driver::doctor::{Check, bad, ok};
use crate::driver::ipam::Ipam;
use crate::late::Late;
use crate::plain::plain;
use crate::socket::control;
use crate::store::Database;

/// Where dockerd looks for sockets; a managed plugin's lies one folder deeper.
const PLUGINS: &str = "/run/docker/plugins";
const SOCKET: &str = "ec2-ipam.sock";
/// A command that takes longer says what it waits for.
const QUIET: Duration = Duration::from_secs(2);
/// A running driver answers within its own bound; this is for one that hangs.
const LONGEST: Duration = Duration::from_secs(control::PATIENCE.as_secs() + 10);
const OTHER_VERSION: &str = "the driver that runs is of another version; run the command that belongs to it";
const START: &str =
    "start it (`docker plugin enable ec2-ipam:latest`, `systemctl start ec2-ipam`), or name its socket with --socket";

/// The sockets of drivers on this host.
pub(super) struct Sockets {
    listen: PathBuf,
    /// Those that are there, whether or not somebody listens.
    there: Vec<PathBuf>,
    answering: Vec<PathBuf>,
    denied: Option<PathBuf>,
}

impl Sockets {
    /// The socket of the settings, then those of managed plugins.
    pub(super) async fn look(listen: PathBuf) -> Self {
        let mut there = vec![listen.clone()];
        let folders = std::fs::read_dir(PLUGINS).into_iter().flatten().flatten();
        let mut plugins: Vec<_> = folders.map(|folder| folder.path().join(SOCKET)).collect();
        plugins.sort();
        there.extend(plugins.into_iter().filter(|socket| !is_same(socket, &listen)));
        let (mut answering, mut denied) = (Vec::new(), None);
        for socket in &there {
            match UnixStream::connect(socket).await {
                Ok(_) => answering.push(socket.clone()),
                Err(e) if e.kind() == ErrorKind::PermissionDenied => denied = Some(socket.clone()),
                Err(_) => {}
            }
        }
        there.retain(|socket| socket.exists());
        Self { listen, there, answering, denied }
    }

    fn absence(&self) -> String {
        format!("no driver answers on {} or under {PLUGINS}", self.listen.display())
    }

    /// Whether there is a driver, and one alone: each ENI is served by one of them, and the other refuses to.
    pub(super) fn check(&self, asked: &Driver) -> Check {
        let mut all = self.answering.clone();
        match asked {
            Driver::Running(socket) if !all.iter().any(|one| is_same(one, socket)) => all.push(socket.clone()),
            Driver::Running(_) | Driver::Here { .. } => {}
        }
        match all.as_slice() {
            [] => bad("driver", self.absence(), START),
            [one] => ok("driver", format!("answers on {}", one.display())),
            _ => bad(
                "driver",
                format!("{} run on this host, on {}", all.len(), shown(&all)),
                "stop all but one (`docker plugin ls`, `systemctl status ec2-ipam`): what one of them serves, the others refuse",
            ),
        }
    }
}

fn is_same(a: &Path, b: &Path) -> bool {
    a == b || a.canonicalize().is_ok_and(|a| b.canonicalize().is_ok_and(|b| a == b))
}

fn shown(sockets: &[PathBuf]) -> String {
    let sockets: Vec<_> = sockets.iter().map(|socket| socket.display().to_string()).collect();
    sockets.join(" and ")
}

/// Who does it.
pub(super) enum Driver {
    /// One that runs on this host.
    Running(PathBuf),
    /// This process, on the shared table.
    Here { ipam: Arc<Ipam>, tasks: TaskTracker, stop: CancellationToken },
}

impl Driver {
    /// The one driver that runs, or the one that is named. Of several the first tells, and none is chosen for a change.
    pub(super) async fn choose(cli: &Cli, sockets: &Sockets) -> anyhow::Result<Self> {
        if let Some(socket) = &cli.socket {
            return Ok(Self::Running(socket.clone()));
        }
        match sockets.answering.as_slice() {
            [_, _, ..] if cli.command.changes() => bail!(
                "{} drivers run on this host, on {}, and this would change something: say which one with --socket",
                sockets.answering.len(),
                shown(&sockets.answering)
            ),
            [first, ..] => {
                if sockets.there.len() > 1 {
                    let others = sockets.there.iter().filter(|socket| *socket != first);
                    let others: Vec<_> = others
                        .map(|other| {
                            let silent = if sockets.answering.contains(other) { "" } else { " (nobody answers)" };
                            format!("{}{silent}", other.display())
                        })
                        .collect();
                    note(&format!("asking {}; --socket would ask another one: {}", first.display(), others.join(", ")));
                }
                Ok(Self::Running(first.clone()))
            }
            [] => match &sockets.denied {
                Some(socket) => bail!("{} is root's: use sudo", socket.display()),
                None => Self::here(cli, sockets).await,
            },
        }
    }

    async fn here(cli: &Cli, sockets: &Sockets) -> anyhow::Result<Self> {
        let absence = sockets.absence();
        if matches!(cli.command, Command::Status { .. } | Command::Reconcile { .. } | Command::Drain { .. }) {
            bail!(
                "{absence}, and only a running one knows: {START}; `doctor` looks without one, and so does `list` with \
                 --database-url mysql://…"
            );
        }
        if matches!(cli.command, Command::Release { .. }) {
            bail!("{absence}, and a driver alone may do that, the one that serves the address: {START}");
        }
        // A driver's own, which may begin at any moment.
        let settings = Settings { journal: None, ..cli.given.settings()? };
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let patience = settings.request_timeout;
        let is_doctor = matches!(cli.command, Command::Doctor { .. });
        let ipam = match &settings.database {
            // Opening it would add what it lacks.
            Database::MySql(_) if matches!(cli.command, Command::Schema { .. }) => {
                Ipam::with_store(settings, Late::never(absence), tasks.clone(), stop.clone())?
            }
            Database::MySql(server) => {
                note(&format!("{absence}; this is done on the table itself, {server}"));
                Ipam::start(settings, tasks.clone(), stop.clone())?
            }
            // Only a running driver may open its file; the rest can be looked at without it.
            Database::Sqlite(_) if is_doctor => {
                note(&format!("{absence}; this process looks"));
                Ipam::with_store(settings, Late::never(absence), tasks.clone(), stop.clone())?
            }
            Database::Sqlite(_) => bail!("{absence}: {START}, or give --database-url mysql://…"),
        };
        if is_doctor {
            // It says by itself what does not answer.
            let until = Instant::now() + patience;
            let _ = tokio::join!(ipam.outside.store.get(until), ipam.outside.ec2.get(until));
        }
        Ok(Self::Here { ipam, tasks, stop })
    }

    /// Does a call of the driver's own.
    ///
    /// # Errors
    /// Its refusal; nobody answers; the answer is another version's.
    pub(super) async fn ask<T: DeserializeOwned>(&self, call: &str, body: &impl Serialize) -> anyhow::Result<T> {
        let path = format!("{}{call}", control::PREFIX);
        let body = serde_json::to_vec(body)?;
        let answer = async {
            match self {
                Self::Running(socket) => timeout(LONGEST, post(socket, &path, body)).await.unwrap_or_else(|_| {
                    bail!("the driver on {} does not answer; see its log", socket.display());
                }),
                Self::Here { ipam, .. } => {
                    match control::call(ipam, &path, &body, Instant::now() + control::PATIENCE).await {
                        Ok(reply) => Ok(reply.json),
                        Err(refusal) => bail!("{}", refusal.why),
                    }
                }
            }
        };
        tokio::pin!(answer);
        let answer = match timeout(QUIET, &mut answer).await {
            Ok(answer) => answer?,
            Err(_) => {
                note(&self.waits());
                answer.await?
            }
        };
        serde_json::from_value(answer).context(OTHER_VERSION)
    }

    /// An SQLite file is opened by its driver alone.
    pub(super) fn leaves_the_table_alone(&self) -> bool {
        matches!(self, Self::Here { ipam, .. } if matches!(ipam.settings.database, Database::Sqlite(_)))
    }

    fn waits(&self) -> String {
        match self {
            Self::Running(socket) => format!("waiting for the driver on {}", socket.display()),
            Self::Here { ipam, .. } => format!("waiting: {}", ipam.outside.what_is_missing()),
        }
    }

    pub(super) async fn end(self) {
        if let Self::Here { tasks, stop, .. } = self {
            stop.cancel();
            tasks.close();
            tasks.wait().await;
        }
    }
}

/// A word beside the output. Whether anybody reads it is no matter.
pub(super) fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "ec2-ipam: {}", plain(text));
}

async fn post(socket: &Path, path: &str, body: Vec<u8>) -> anyhow::Result<Value> {
    let stream = UnixStream::connect(socket)
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
    if status == StatusCode::NOT_FOUND {
        bail!(OTHER_VERSION);
    }
    if !status.is_success() {
        bail!("{}", json.get("Err").and_then(Value::as_str).unwrap_or("the driver refused without a reason"));
    }
    Ok(json)
}
