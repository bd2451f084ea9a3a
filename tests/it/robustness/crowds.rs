//! More connections than there is room for, and more than there are file descriptors.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use futures_util::future::join_all;
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::io::AsyncWriteExt;

use super::Target;
use crate::support::host::{Host, Kind, Wire, eventually, request};

/// Connections that another process holds, since each takes one of its file descriptors too.
struct Idle {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Idle {
    fn hold(host: &Host, count: usize) -> Self {
        let mut child = Command::new("prlimit")
            .arg(format!("--nofile={}:", count + 100))
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "--nocapture", "robustness::crowds::in_a_process"])
            .env("SOCKET", host.socket())
            .env("COUNT", count.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains("holding") {
            line.clear();
            assert!(output.read_line(&mut line).unwrap() > 0, "another process holds {count} connections");
        }
        let input = child.stdin.take().unwrap();
        Self { child, input, output }
    }

    fn let_go(mut self) {
        drop(self.input);
        self.output.read_to_string(&mut String::new()).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

/// Not a test by itself: what holds connections for others, until the end of its input.
#[tokio::test]
#[ignore = "run by another test"]
async fn in_a_process() {
    let count: usize = std::env::var("COUNT").unwrap().parse().unwrap();
    let socket = std::env::var("SOCKET").unwrap();
    let mut held = Vec::new();
    for _ in 0..count {
        // Without waiting: an error once the driver's queue is full.
        eventually("a connection", async || {
            tokio::net::UnixStream::connect(&socket).await.map(|c| held.push(c)).is_ok()
        })
        .await;
    }
    println!("holding");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    drop(held);
}

/// A connection as an Engine keeps it: it was used, and will be.
async fn is_kept_open(wire: &mut Wire<'_>, what: &str) {
    // What was closed may refuse the request or break it off.
    let _ = wire.stream.write_all(request("/Plugin.Activate", "").as_bytes()).await;
    let answer = wire.answer().await.unwrap_or_else(|| panic!("{what} was closed"));
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn a_thousand_idle_connections_keep_nobody_out() {
    for files in ["--nofile=1024:", "--nofile=64:"] {
        let target = Target::new(Kind::Sqlite, |host| host.within = vec!["prlimit".into(), files.into()]).await;
        let mut keeping = target.host.connect().await;
        is_kept_open(&mut keeping, "a new connection").await;
        let idle = Idle::hold(&target.host, 1000);
        is_kept_open(&mut keeping, "an Engine's idle connection").await;
        drop(keeping);
        target.is_unharmed(&format!("1000 idle connections, {files}")).await;
        // The same with connections that were used.
        let mut used = Vec::new();
        for _ in 0..300 {
            let mut wire = target.host.connect().await;
            is_kept_open(&mut wire, "a new connection beside idle ones").await;
            used.push(wire);
        }
        is_kept_open(used.last_mut().unwrap(), "the youngest connection").await;
        drop(used);
        idle.let_go();
        target.is_unharmed(&format!("1000 idle connections, {files}, gone")).await;
        assert!(
            !target.host.log().contains("cannot accept"),
            "{files}: file descriptors are left to the driver's own calls"
        );
    }
}

#[tokio::test]
async fn without_file_descriptors_it_recovers() {
    let target = Target::new(Kind::Sqlite, |_| ()).await;
    let idle = Idle::hold(&target.host, 100);
    // A connection waits in the queue until the driver has taken all before it.
    assert_eq!(target.host.call("/Plugin.Activate", "").await.status, 200);
    let limit = |files: &str| {
        let pid = format!("--pid={}", target.host.pid());
        assert!(Command::new("prlimit").args([&pid, &format!("--nofile={files}:")]).status().unwrap().success());
    };
    let open = std::fs::read_dir(format!("/proc/{}/fd", target.host.pid())).unwrap().count();
    limit(&(open - 50).to_string());
    target.is_unharmed("a limit of file descriptors below those that are open").await;
    let complaints = target.host.log().matches("cannot accept a connection").count();
    assert!((1..20).contains(&complaints), "{complaints} lines say so");
    idle.let_go();
    target.is_unharmed("connections that are gone").await;
}

/// A release, as an Engine that stops sends one for each of its containers; of an address that nobody has.
fn release(target: &Target, n: usize) -> String {
    let body = json!({ "PoolID": target.pool, "Address": format!("10.99.0.{}", n % 256) });
    request("/IpamDriver.ReleaseAddress", &format!("{body}\n"))
}

fn is_stopped(pid: u32) -> bool {
    let mut states = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten().map(|task| {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('T'))
    });
    states.all(|is_stopped| is_stopped)
}

/// Asks on each, while the driver is stopped, so that it finds all of it at once; all must be answered.
async fn all_at_once(target: &Target, quiet: Vec<Wire<'_>>, newcomers: usize, what: &str) {
    target.host.signal(Signal::SIGSTOP);
    eventually("each of its threads is stopped", async || is_stopped(target.host.pid())).await;
    let mut wires = quiet;
    for _ in 0..newcomers {
        wires.push(target.host.connect().await);
    }
    for (n, wire) in wires.iter_mut().enumerate() {
        wire.send(&release(target, n)).await;
    }
    target.host.signal(Signal::SIGCONT);
    let count = wires.len();
    // Each hangs up as it has its answer: the Engine keeps a few open, and closes the rest.
    let answered = join_all(wires.into_iter().map(async |mut wire| wire.answer().await.is_some())).await;
    let reset = answered.iter().filter(|answered| !**answered).count();
    assert_eq!(reset, 0, "{what}: of {count} calls so many were reset");
    target.is_unharmed(what).await;
}

#[tokio::test]
async fn more_calls_at_once_than_there_is_room_for_wait_and_none_is_reset() {
    let target = Target::new(Kind::Sqlite, |_| ()).await;
    all_at_once(&target, Vec::new(), 400, "400 calls at once").await;
    // With few file descriptors, and half of those wanted by connections that are due to go for others.
    for (files, held) in [("--nofile=96:", 44), ("--nofile=40:", 16)] {
        let target = Target::new(Kind::Sqlite, |host| host.within = vec!["prlimit".into(), files.into()]).await;
        let mut quiet = Vec::new();
        for n in 0..held {
            let mut wire = target.host.connect().await;
            if n % 2 == 0 {
                is_kept_open(&mut wire, "a new connection").await;
            }
            quiet.push(wire);
        }
        tokio::time::sleep(Duration::from_millis(2500)).await;
        all_at_once(&target, quiet, 200, &format!("200 calls beside quiet connections that ask too, {files}")).await;
    }
}

#[tokio::test]
async fn requests_that_never_become_whole_keep_nobody_out() {
    let target = Target::new(Kind::Sqlite, |host| {
        host.within = vec!["prlimit".into(), "--nofile=64:".into()];
        host.set(&[("EC2_IPAM_REQUEST_TIMEOUT", "29s")]);
    })
    .await;
    let whole = release(&target, 0);
    let mut held = Vec::new();
    for end in [whole.len() - 3, whole.find("\r\n").unwrap()] {
        for _ in 0..40 {
            let mut wire = target.host.connect().await;
            // One that was slow to ask may have gone for others.
            let _ = wire.stream.write_all(&whole.as_bytes()[..end]).await;
            held.push(wire);
        }
        assert_eq!(target.host.call("/Plugin.Activate", "").await.status, 200);
        // Its place was made, and not left by a request whose time was over.
        assert!(!target.host.log().contains("did not arrive whole"), "it waited for half a request");
    }
    target.is_unharmed("requests that never become whole").await;
}
