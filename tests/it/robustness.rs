//! What nobody should send, in quantity: after each attack the driver serves others, has grown little, and has given
//! nothing away.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use ec2_ipam::domain::address::State;
use futures_util::future::join_all;
use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::support::host::{Fleet, Host, Kind, agree, eventually, request};

mod crowds;
mod garbage;

/// Resident memory of the driver's own, at most: it idles at 6 MiB.
const MEMORY: u64 = 64 * 1024;

/// A host under attack, with one address in use.
pub struct Target {
    _fleet: Fleet,
    pub host: Host,
    pub pool: String,
    pub kept: Ipv4Addr,
    pid: u32,
}

impl Target {
    pub async fn new(kind: Kind, prepare: impl FnOnce(&mut Host)) -> Self {
        let fleet = Fleet::new(kind).await;
        let mut host = fleet.host_of(1, "c5.4xlarge");
        host.set(&[("EC2_IPAM_COOLDOWN", "0s")]);
        prepare(&mut host);
        host.start().await;
        let pool = host.pool().await;
        let kept = host.lease(&pool).await;
        let pid = host.pid();
        Self { _fleet: fleet, host, pool, kept, pid }
    }

    /// Of the process that was started.
    fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let line = line.unwrap_or_else(|| panic!("the driver ended: {}", self.host.log()));
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// What must hold whatever was done to it.
    pub async fn is_unharmed(&self, after: &str) {
        let memory = self.memory();
        println!("after {after}: {memory} KiB");
        assert!(memory < MEMORY, "after {after}: {memory} KiB");
        let given = self.host.lease(&self.pool).await;
        assert_ne!(given, self.kept, "I1: after {after}");
        self.host.release(&self.pool, given).await;
        let kept = BTreeSet::from([self.kept]);
        eventually(&format!("I9: after {after} only {} is in use", self.kept), async || {
            self.host.mine(State::Lease).await == kept
        })
        .await;
        agree(&[&self.host]).await;
        let log = self.host.log();
        assert!(!log.contains("panicked"), "after {after}: {log}");
        // One line an event, whatever it quotes.
        let odd = log.lines().find(|line| line.chars().any(char::is_control));
        assert_eq!(odd, None, "after {after}");
    }

    fn ask(&self) -> String {
        request(
            "/IpamDriver.RequestAddress",
            &json!({ "PoolID": self.pool, "Address": "", "Options": null }).to_string(),
        )
    }

    /// Sends it whole or until the driver hangs up, then reads until the driver hangs up or has sent so many answers.
    async fn exchange(&self, bytes: Vec<u8>, answers: usize) -> Vec<(u16, String)> {
        let socket = self.host.socket();
        let work = move || {
            let stream = UnixStream::connect(socket).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            let writer = stream.try_clone().unwrap();
            std::thread::scope(|scope| {
                scope.spawn(move || drop((&writer).write_all(&bytes)));
                let got = read(&stream, answers);
                // The writer may be stuck in what nobody reads any more.
                let _ = stream.shutdown(std::net::Shutdown::Both);
                got
            })
        };
        let got = tokio::task::spawn_blocking(work).await.unwrap();
        got.iter().for_each(|(_, body)| self.host.hear(body));
        got
    }
}

/// So many answers, or as many as come before the end.
fn read(stream: &UnixStream, answers: usize) -> Vec<(u16, String)> {
    let mut reader = BufReader::new(stream);
    let mut got = Vec::new();
    while got.len() < answers {
        let (mut status, mut length) = (None, 0);
        loop {
            let mut line = String::new();
            match reader.read_line(&mut line) {
                Ok(0) | Err(_) => return got,
                Ok(_) => {}
            }
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            match line.strip_prefix("content-length: ") {
                Some(number) => length = number.parse().unwrap(),
                None if status.is_none() => status = Some(line.split(' ').nth(1).unwrap().parse().unwrap()),
                None => {}
            }
        }
        let mut body = vec![0; length];
        if reader.read_exact(&mut body).is_err() {
            return got;
        }
        if status != Some(100) {
            got.push((status.unwrap(), String::from_utf8(body).unwrap()));
        }
    }
    got
}

#[tokio::test]
async fn bodies_of_ten_megabytes() {
    let target = Target::new(Kind::Sqlite, |_| ()).await;
    let head = |headers: &str| format!("POST /IpamDriver.RequestAddress HTTP/1.1\r\nHost: \r\n{headers}\r\n");
    let large = "x".repeat(10 << 20);
    let fields = json!({ "PoolID": target.pool, "Address": "" }).to_string();
    let chunked: String = (0..640).map(|_| format!("4000\r\n{}\r\n", &large[..0x4000])).collect();
    for (what, bytes, statuses) in [
        ("with their length", head(&format!("Content-Length: {}\r\n", large.len())) + &large, vec![413]),
        (
            "that are JSON",
            head("Content-Length: 10485760\r\n") + &fields + &" ".repeat((10 << 20) - fields.len()),
            vec![413],
        ),
        ("longer than announced", head("Content-Length: 5\r\n") + &large, vec![500, 431]),
        ("shorter than announced", head("Content-Length: 99999999999\r\n") + &large, vec![413]),
        ("without a length", head("") + &large, vec![500, 431]),
        ("in chunks", head("Transfer-Encoding: chunked\r\n") + &chunked + "0\r\n\r\n", vec![413]),
        ("in one chunk", head("Transfer-Encoding: chunked\r\n") + "A00000\r\n" + &large, vec![413]),
        ("in chunks of one byte", head("Transfer-Encoding: chunked\r\n") + &"1\r\nx\r\n".repeat(1 << 20), vec![413]),
        ("with a length of nonsense", head("Content-Length: -1\r\n") + &large, vec![400]),
        ("with a length beyond numbers", head("Content-Length: 99999999999999999999999\r\n") + &large, vec![400]),
        ("with two lengths", head("Content-Length: 5\r\nContent-Length: 6\r\n") + &large, vec![400]),
        ("with a length in a list", head("Content-Length: 5, 6\r\n") + &large, vec![400]),
        ("in chunks that are none", head("Transfer-Encoding: chunked\r\n") + &large, vec![413]),
        ("in another coding", head("Transfer-Encoding: gzip\r\n") + &large, vec![400]),
    ] {
        let exchanges = (0..4).map(|_| target.exchange(bytes.clone().into_bytes(), 2));
        for got in join_all(exchanges).await {
            let got: Vec<u16> = got.iter().map(|(status, _)| *status).collect();
            assert_eq!(got, statuses, "bodies {what}");
        }
        target.is_unharmed(&format!("bodies of 10 MB {what}")).await;
    }
}

#[tokio::test]
async fn heads_of_every_kind() {
    let target = Target::new(Kind::Sqlite, |_| ()).await;
    let post = |line: &str| format!("{line}\r\nHost: \r\nContent-Length: 0\r\n\r\n");
    let many = |count: usize| (0..count).map(|n| format!("X-{n}: y\r\n")).collect::<String>();
    let long = "y".repeat(1 << 20);
    let path = format!("POST /{} HTTP/1.1", "p".repeat(60_000));
    for (what, head, status) in [
        ("a thousand headers", format!("POST /Plugin.Activate HTTP/1.1\r\n{}\r\n", many(1000)), 431),
        ("a hundred thousand headers", format!("POST /Plugin.Activate HTTP/1.1\r\n{}\r\n", many(100_000)), 431),
        ("a header of a megabyte", format!("POST /Plugin.Activate HTTP/1.1\r\nX: {long}\r\n\r\n"), 431),
        ("a name of a megabyte", format!("POST /Plugin.Activate HTTP/1.1\r\n{long}: x\r\n\r\n"), 431),
        ("a path of 60 KB", post(&path), 404),
        ("a path of a megabyte", post(&format!("POST /{long} HTTP/1.1")), 431),
        ("a method of a megabyte", post(&format!("{long} / HTTP/1.1")), 431),
        ("no path", post("POST HTTP/1.1"), 400),
        ("a path that is none", post("POST x HTTP/1.1"), 404),
        ("another host's URL", post("POST http://169.254.169.254/latest/meta-data HTTP/1.1"), 404),
        ("a path of control characters", post("POST /\u{1b}[2J HTTP/1.1"), 400),
        ("a path of C1 control characters", post("POST /\u{9b}2J HTTP/1.1"), 404),
        ("an encoded path", post("POST /%0aPlugin.Activate%00 HTTP/1.1"), 404),
        ("a climbing path", post("POST /../../etc/passwd HTTP/1.1"), 404),
        ("an unknown method", post("BREW /Plugin.Activate HTTP/1.1"), 405),
        ("a small method", post("post /Plugin.Activate HTTP/1.1"), 405),
        ("CONNECT", post("CONNECT db:3306 HTTP/1.1"), 405),
        ("OPTIONS *", post("OPTIONS * HTTP/1.1"), 405),
        ("TRACE", post("TRACE / HTTP/1.1"), 405),
        ("HTTP/1.0", post("POST /Plugin.Activate HTTP/1.0"), 200),
        ("HTTP/0.9", "GET /\r\n\r\n".to_owned(), 400),
        ("HTTP/2", post("POST /Plugin.Activate HTTP/2.0"), 400),
        ("HTTP/2 by prior knowledge", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\u{4}".to_owned(), 0),
        ("HTTP/9.9", post("POST /Plugin.Activate HTTP/9.9"), 400),
        ("TLS", "\u{16}\u{3}\u{1}\u{2}\0\u{1}".to_owned(), 400),
        ("an upgrade", "POST /Plugin.Activate HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n".to_owned(), 200),
        ("a folded header", "POST / HTTP/1.1\r\nX: a\r\n b\r\n\r\n".to_owned(), 400),
        ("a space before the colon", "POST / HTTP/1.1\r\nContent-Length : 5\r\n\r\nhello".to_owned(), 400),
        ("a NUL in a header", "POST / HTTP/1.1\r\nX: \0\r\n\r\n".to_owned(), 400),
    ] {
        let got = target.exchange(head.into_bytes(), 1).await;
        let (got, body) = got.into_iter().next().unwrap_or_default();
        assert!(body.len() < 8192, "{what}: a sentence of {} bytes", body.len());
        assert_eq!(got, status, "{what}: {body}");
    }
    target.is_unharmed("heads of every kind").await;
}

#[tokio::test]
async fn requests_without_waiting_for_answers_are_answered_in_order() {
    let target = Target::new(Kind::Sqlite, |_| ()).await;
    for count in [500, 20_000] {
        let asked = |n: usize| match n % 3 {
            0 => request(&format!("/none/{n}"), ""),
            1 => request("/Plugin.Activate", ""),
            _ => request("/IpamDriver.ReleasePool", &json!({ "PoolID": n.to_string() }).to_string()),
        };
        let got = target.exchange((0..count).map(asked).collect::<String>().into_bytes(), count).await;
        assert_eq!(got.len(), count);
        for (n, (status, body)) in got.into_iter().enumerate() {
            let as_asked = match n % 3 {
                0 => status == 404 && body.contains(&format!("\\\"/none/{n}\\\"")),
                1 => status == 200 && body.contains("IpamDriver"),
                _ => (status, body.as_str()) == (200, "{}"),
            };
            assert!(as_asked, "answer {n} of {count}: {status} {body}");
        }
        target.is_unharmed(&format!("{count} requests at once")).await;
    }
    // Nobody reads: the driver stops reading.
    let mut deaf = target.host.connect().await;
    let flood = request("/Plugin.Activate", "").repeat(200_000);
    let stuck = tokio::time::timeout(Duration::from_secs(3), deaf.stream.write_all(flood.as_bytes())).await;
    assert!(stuck.is_err(), "32 MB of requests are not taken in");
    target.is_unharmed("requests whose answers nobody reads").await;
}

#[tokio::test]
async fn slow_callers_are_waited_for_and_unfinished_ones_do_no_harm() {
    let mut target = Target::new(Kind::Sqlite, |host| host.set(&[("EC2_IPAM_REQUEST_TIMEOUT", "10s")])).await;
    let whole = target.ask();
    let (head, body) = whole.split_at(whole.find("\r\n\r\n").unwrap() + 4);
    // A head, a body, and a length that do not come to their end.
    let (mut heads, mut bodies) = (Vec::new(), Vec::new());
    for n in 0..60 {
        let mut wire = target.host.connect().await;
        wire.send(&head[..1 + n * (head.len() - 3) / 60]).await;
        heads.push(wire.stream);
        let mut wire = target.host.connect().await;
        wire.send(head).await;
        wire.send(&body[..n * (body.len() - 1) / 60]).await;
        bodies.push(wire);
    }
    // To the driver's own calls the same bound applies, however long their work may take.
    let mut own = target.host.connect().await;
    own.send("POST /v1/list HTTP/1.1\r\nContent-Length: 9\r\n\r\n{").await;
    bodies.push(own);
    // One byte at a time.
    let mut slow = target.host.connect().await;
    for at in 0..whole.len() {
        slow.send(&whole[at..=at]).await;
        tokio::task::yield_now().await;
    }
    let given = slow.answer().await.unwrap().outcome().unwrap();
    let given: ipnet::Ipv4Net = given["Address"].as_str().unwrap().parse().unwrap();
    target.host.release(&target.pool, given.addr()).await;
    target.is_unharmed("heads and bodies without an end, while they last").await;
    for wire in &mut bodies {
        let answer = wire.answer().await.expect("I9: an answer within the deadline");
        assert_eq!(answer.status, 408);
        assert!(answer.outcome().unwrap_err().contains("did not arrive whole"));
    }
    drop(bodies);
    target.is_unharmed("bodies without an end").await;
    // Half a request does not keep the driver from stopping.
    assert!(target.host.stop().await.success());
    let log = target.host.log();
    assert!(log.ends_with("stopped\n") && !log.contains("unfinished"), "{log}");
    drop(heads);
}

#[tokio::test]
async fn callers_that_vanish_at_any_moment_leave_nothing() {
    let target = Target::new(Kind::Sqlite, |_| ()).await;
    // An answer that arrived and was never read.
    for _ in 0..20 {
        let mut wire = target.host.connect().await;
        wire.send(&target.ask()).await;
        wire.stream.readable().await.unwrap();
    }
    target.is_unharmed("callers that do not read their answer").await;
    // Gone, or half gone, after some time: before, while and after it is answered.
    let begun = std::time::Instant::now();
    let given = target.host.lease(&target.pool).await;
    let usual = begun.elapsed();
    target.host.release(&target.pool, given).await;
    for n in 0..40 {
        let leave = async |k: u32| {
            let mut wire = target.host.connect().await;
            wire.send(&target.ask()).await;
            tokio::time::sleep(usual.mul_f64(fastrand::f64() * 3.0)).await;
            if (n + k).is_multiple_of(4) {
                // What it reads it has, and lets go as Docker does.
                let _ = wire.stream.shutdown().await;
                if let Some(answer) = wire.answer().await
                    && let Ok(answer) = answer.outcome()
                {
                    let given: ipnet::Ipv4Net = answer["Address"].as_str().unwrap().parse().unwrap();
                    target.host.release(&target.pool, given.addr()).await;
                }
            }
        };
        join_all((0..8).map(leave)).await;
    }
    target.is_unharmed("callers that vanish").await;
}
