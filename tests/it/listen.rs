//! Addresses for clients elsewhere, over TCP, against the real binary.

use std::time::{Duration, Instant};

use ec2_ipam::domain::address::State;
use serde_json::json;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use vpc_sim::Switches;

use crate::support::authority::{Authority, Issued};
use crate::support::host::{ASSIGN, Answer, Fleet, Host, Kind, Wire, eventually, request};

mod files;
mod many;

const AT: &str = "127.0.0.1:8031";
const ME: &str = "127.0.0.1";

/// A host that listens on TCP too.
struct Bed {
    fleet: Fleet,
    host: Host,
    files: tempfile::TempDir,
    ca: Authority,
    own: Issued,
}

impl Bed {
    /// Not started.
    async fn new(tcp: &str) -> Self {
        let fleet = Fleet::with(Kind::Sqlite, "10.77.0.0/24", Switches::default()).await;
        let mut host = fleet.host_of(1, "c5.4xlarge");
        listen(&mut host, tcp);
        let files = tempfile::tempdir().unwrap();
        let ca = Authority::new(files.path(), "ca");
        let own = ca.issue("own", "/CN=ec2-ipam", "IP:127.0.0.1");
        if tcp.contains("https") {
            host.set(&[("EC2_IPAM_TLS_CERT", text(&own.cert)), ("EC2_IPAM_TLS_KEY", text(&own.key))]);
        }
        Self { fleet, host, files, ca, own }
    }

    async fn started(tcp: &str) -> Self {
        let mut bed = Self::new(tcp).await;
        bed.host.start().await;
        bed
    }

    /// Who is not of this authority is not let in.
    fn wants_certificates(&mut self) {
        self.host.set(&[("EC2_IPAM_TLS_CLIENT_CA", text(&self.ca.cert()))]);
    }

    async fn tcp(&self) -> Wire<'_, TcpStream> {
        self.host.wire(self.host.connect_tcp(ME, AT).await)
    }

    /// One call over TLS, by a client with a certificate or without one.
    async fn call_by_tls(&self, ca: &Authority, own: Option<&Issued>) -> Result<Answer, String> {
        let stream = self.host.connect_tcp(ME, AT).await;
        let stream = ca.connect(stream, own).await.map_err(|why| why.to_string())?;
        let mut wire = self.host.wire(stream);
        wire.stream.write_all(request("/Plugin.Activate", "").as_bytes()).await.map_err(|why| why.to_string())?;
        // With TLS 1.3 a client learns only then whether it was let in.
        wire.answer().await.ok_or_else(|| "no answer".to_owned())
    }

    /// No secret is in the log, where all keys are one.
    fn tells_no_key(&self) {
        let log = self.host.log();
        for entry in self.files.path().read_dir().unwrap().map(|entry| entry.unwrap().path()) {
            // A pipe has no end.
            if !entry.is_file() {
                continue;
            }
            let Ok(text) = std::fs::read_to_string(&entry) else { continue };
            for line in text.lines().filter(|line| line.len() > 20 && !line.starts_with("--")) {
                assert!(!log.contains(line), "{}: {log}", entry.display());
            }
        }
    }
}

fn text(path: &std::path::Path) -> &str {
    path.to_str().unwrap()
}

fn listen(host: &mut Host, tcp: &str) {
    let listen = format!("unix://{},{tcp}", host.socket().display());
    host.set(&[("EC2_IPAM_LISTEN", &listen)]);
}

async fn ask<S: AsyncRead + AsyncWrite + Unpin>(wire: &mut Wire<'_, S>, path: &str, body: &str) -> Answer {
    wire.send(&request(path, body)).await;
    wire.answer().await.unwrap_or_else(|| panic!("no answer to {path}"))
}

fn of_pool(pool: &str, address: &str) -> String {
    format!("{}\n", json!({ "PoolID": pool, "Address": address, "Options": null }))
}

#[tokio::test]
async fn docker_is_answered_over_tcp_and_the_command_line_on_the_socket_alone() {
    let bed = Bed::started("http://127.0.0.1:8031 http://127.0.0.2:8032").await;
    let host = &bed.host;
    let told = format!("listens on {}, http://127.0.0.1:8031, http://127.0.0.2:8032\n", host.socket().display());
    assert!(host.log().contains(&told), "{}", host.log());
    let mut wire = bed.tcp().await;
    assert_eq!(ask(&mut wire, "/Plugin.Activate", "").await.json, json!({ "Implements": ["IpamDriver"] }));
    let body = json!({ "AddressSpace": "ec2-ipam", "Pool": host.cidr, "SubPool": "", "Options": {}, "V6": false });
    let pool = ask(&mut wire, "/IpamDriver.RequestPool", &format!("{body}\n")).await.outcome().unwrap();
    let pool = pool["PoolID"].as_str().unwrap();
    let mut other = host.wire(host.connect_tcp("127.0.0.3", "127.0.0.2:8032").await);
    let given = ask(&mut other, "/IpamDriver.RequestAddress", &of_pool(pool, "")).await.outcome().unwrap();
    let given: ipnet::Ipv4Net = given["Address"].as_str().unwrap().parse().unwrap();
    assert!(host.mine(State::Lease).await.contains(&given.addr()));
    let log = host.log();
    let line = log.lines().find(|line| line.contains(&format!("granted {}", given.addr()))).unwrap();
    assert!(line.contains(" peer=127.0.0.3 "), "{line}");
    // The Engine repeats a call that met the end of a connection without its body.
    for call in ["RequestPool", "RequestAddress", "ReleaseAddress", "ReleasePool"] {
        let why = ask(&mut wire, &format!("/IpamDriver.{call}"), "").await.outcome().unwrap_err();
        assert!(why.contains("lost it"), "{call}: {why}");
    }
    let release = of_pool(pool, &given.addr().to_string());
    ask(&mut wire, "/IpamDriver.ReleaseAddress", &release).await.outcome().unwrap();
    assert!(host.mine(State::Lease).await.is_empty());

    for line in ["POST /v1/status", "GET /v1/status", "POST /v1/recycle", "DELETE /v1/", "POST /v1/nothing"] {
        let mut wire = bed.tcp().await;
        wire.send(&format!("{line} HTTP/1.1\r\nContent-Length: 2\r\n\r\n{{}}")).await;
        let answer = wire.answer().await.unwrap();
        assert_eq!(answer.status, 404, "{line}");
        let why = answer.outcome().unwrap_err();
        assert!(why.contains("is not answered over TCP"), "{line}: {why}");
    }
    host.tell(&["status"]).await;
    let log = host.log();
    let on_socket = log.lines().filter(|line| line.contains("call=/v1/status") && !line.contains(" peer="));
    assert!(on_socket.count() > 0, "{log}");
}

#[tokio::test]
async fn with_tcp_alone_the_command_line_has_its_socket_all_the_same() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let mut host = fleet.host(1);
    host.set(&[("EC2_IPAM_LISTEN", "http://0.0.0.0:8031"), ("EC2_IPAM_LISTEN_PLAIN", "true")]);
    host.within = vec!["prlimit".into(), "--nofile=1024:".into()];
    host.launch();
    let socket = host.run_dir().join("docker/plugins/ec2-ipam.sock");
    eventually("the driver listens", async || UnixStream::connect(&socket).await.is_ok()).await;
    let (_, told) = host.run(&["status"]).await;
    assert!(told.contains("(life "), "{told}");
    let mut wire = host.wire(host.connect_tcp(ME, AT).await);
    assert_eq!(ask(&mut wire, "/Plugin.Activate", "").await.status, 200);
    let log = host.log();
    assert!(log.contains("WARN http://0.0.0.0:8031 is not encrypted"), "{log}");
    // A thousand Engines have six connections each.
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", host.pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let [soft, hard] = [3, 4].map(|n| line.split_whitespace().nth(n).unwrap().parse::<u64>().unwrap());
    assert_eq!(soft, hard.min(16_896), "{line}");
    assert_eq!(log.contains("connections over TCP at once; an Engine keeps six"), hard < 16_896, "{log}");
}

#[tokio::test]
async fn an_address_that_cannot_be_listened_on_is_named() {
    let mut bed = Bed::new("http://127.0.0.1:8031").await;
    let host = &mut bed.host;
    let _taken = host.listener_at(8033);
    for (listen, plain, says) in [
        ("http://0.0.0.0:8031", "", "has \"http://0.0.0.0:8031\", but must have https there"),
        ("http://127.0.0.1:8033", "", "has \"http://127.0.0.1:8033\", but another program listens there"),
        (
            "http://0.0.0.0:8034,http://127.0.0.1:8034",
            "true",
            "has \"http://127.0.0.1:8034\", but \"http://0.0.0.0:8034\" has it too",
        ),
        ("http://192.0.2.1:8031", "true", "has \"http://192.0.2.1:8031\", but that is no address of this host"),
        ("https://127.0.0.1:8031", "", "has \"https://127.0.0.1:8031\", but EC2_IPAM_TLS_CERT is not set"),
        ("http://localhost:8031", "", "has \"http://localhost:8031\", but must have an IP address and a port"),
    ] {
        let socket = host.socket();
        let listen = format!("unix://{},{listen}", socket.display());
        let settings = [("EC2_IPAM_LISTEN", listen.as_str()), ("EC2_IPAM_LISTEN_PLAIN", plain)];
        let (done, text) = host.run_with(&["serve"], &settings).await;
        assert!(!done && text.contains(&format!("EC2_IPAM_LISTEN {says}")), "{listen}: {text}");
        assert!(!text.contains("listens on"), "{text}");

        // As a plugin it says so to whoever asks.
        host.set(&settings);
        host.args = vec!["--plugin".into()];
        host.start().await;
        let why = host.pool_with("", json!({})).await.unwrap_err();
        assert!(why.contains(&format!("EC2_IPAM_LISTEN {says}")), "{listen}: {why}");
        assert!(host.log().contains("ERROR nothing is served: EC2_IPAM_LISTEN"), "{}", host.log());
        assert!(host.stop().await.success());
    }
}

#[tokio::test]
async fn clients_speak_tls_and_show_who_they_are() {
    let mut bed = Bed::new("https://127.0.0.1:8031").await;
    bed.wants_certificates();
    bed.host.start().await;
    let names = "DNS:i-0a1b2c3d4e5f60718.example,URI:spiffe://example/host/1,IP:10.0.0.1,email:a@b.example";
    let right = bed.ca.issue("right", "/O=Example/CN=i-0a1b2c3d4e5f60718", names);
    let activated = json!({ "Implements": ["IpamDriver"] });
    assert_eq!(bed.call_by_tls(&bed.ca, Some(&right)).await.unwrap().json, activated);
    let shown = "the names in its certificate: [\"i-0a1b2c3d4e5f60718.example\", \"spiffe://example/host/1\", \
                 \"i-0a1b2c3d4e5f60718\"]";
    assert!(bed.host.log().contains(&format!("DEBUG 127.0.0.1 speaks TLS; {shown}")), "{}", bed.host.log());

    bed.call_by_tls(&bed.ca, None).await.unwrap_err();
    let is_told = async |why: &str| {
        eventually(&format!("it is told: {why}"), async || bed.host.log().contains(why)).await;
    };
    is_told("no TLS with 127.0.0.1: it has no certificate, which EC2_IPAM_TLS_CLIENT_CA demands").await;
    let folder = tempfile::tempdir().unwrap();
    let other = Authority::new(folder.path(), "other");
    let wrong = other.issue("wrong", "/CN=i-0a1b2c3d4e5f60718", names);
    bed.call_by_tls(&bed.ca, Some(&wrong)).await.unwrap_err();
    is_told("UnknownIssuer").await;
    // A client that does not know the driver's authority.
    bed.call_by_tls(&other, Some(&right)).await.unwrap_err();

    // What is no TLS at all, or ends in the middle of it.
    for bytes in [request("/Plugin.Activate", "").as_bytes(), b"\x16\x03\x01\x02\0\x01", b"garbage\r\n\r\n", b"\0", b""]
    {
        let mut stream = bed.host.connect_tcp(ME, AT).await;
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(!String::from_utf8_lossy(&answer).contains("HTTP"), "{bytes:?}: {answer:?}");
    }
    is_told("no TLS with 127.0.0.1: what it sends is no TLS").await;
    assert_eq!(bed.call_by_tls(&bed.ca, Some(&right)).await.unwrap().json, activated);
    bed.tells_no_key();
}

#[tokio::test]
async fn clients_without_certificates_are_let_in_where_none_are_wanted() {
    let bed = Bed::started("https://127.0.0.1:8031,http://127.0.0.1:8032").await;
    assert_eq!(bed.call_by_tls(&bed.ca, None).await.unwrap().status, 200);
    let mut wire = bed.host.wire(bed.host.connect_tcp(ME, "127.0.0.1:8032").await);
    assert_eq!(ask(&mut wire, "/Plugin.Activate", "").await.status, 200);
    let stream = bed.host.connect_tcp(ME, AT).await;
    let mut wire = bed.host.wire(bed.ca.connect(stream, None).await.unwrap());
    let pool = bed.host.pool().await;
    let given = ask(&mut wire, "/IpamDriver.RequestAddress", &of_pool(&pool, "")).await.outcome().unwrap();
    assert!(given["Address"].is_string(), "{given}");
    assert!(bed.host.log().contains(" peer=127.0.0.1 "), "{}", bed.host.log());
    // Another program's TLS, in both versions, and none below.
    let ca = bed.ca.cert();
    for (version, is_let_in) in [("1.3", true), ("1.2", true), ("1.1", false)] {
        let url = "https://127.0.0.1:8031/Plugin.Activate";
        let args = ["-sS", "-m", "20", "-X", "POST", "--cacert", text(&ca), "--tls-max", version, url];
        let answer = bed.host.program("curl", &args).await;
        assert_eq!(answer.contains("IpamDriver"), is_let_in, "TLS {version}: {answer}");
    }
}

/// Over TCP a peer that has read everything and resets looks like one that has not (I9).
#[tokio::test]
async fn what_was_sent_over_tcp_stays_a_lease_and_what_was_not_does_not() {
    let bed = Bed::started("https://127.0.0.1:8031,http://127.0.0.1:8032").await;
    let host = &bed.host;
    let pool = host.pool().await;
    let ask = request("/IpamDriver.RequestAddress", &of_pool(&pool, ""));
    let reset = |stream: &TcpStream| SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();

    let mut plain = host.wire(host.connect_tcp(ME, "127.0.0.1:8032").await);
    plain.send(&ask).await;
    plain.stream.readable().await.unwrap();
    reset(&plain.stream);
    drop(plain);
    let mut encrypted = host.wire(bed.ca.connect(host.connect_tcp(ME, AT).await, None).await.unwrap());
    encrypted.send(&ask).await;
    encrypted.stream.get_ref().0.readable().await.unwrap();
    reset(encrypted.stream.get_ref().0);
    drop(encrypted);
    // Longer than it takes to notice, and to take back.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let kept = host.mine(State::Lease).await;
    assert_eq!(kept.len(), 2, "{}", host.log());
    assert!(!host.log().contains("took "), "{}", host.log());

    // On the socket it is known.
    let mut local = host.connect().await;
    local.send(&ask).await;
    local.stream.readable().await.unwrap();
    drop(local);
    eventually("it is taken back", async || host.log().matches("took ").count() == 1).await;

    // Gone before there was an answer, none was sent. What is idle is given first, so that EC2 has to be asked.
    host.lease(&pool).await;
    bed.fleet.vpc.latency_of(ASSIGN, Duration::from_millis(600));
    for to in ["127.0.0.1:8032", AT] {
        let (asked, taken) = (bed.fleet.vpc.count(ASSIGN), host.log().matches("took ").count());
        let is_asked = async || bed.fleet.vpc.count(ASSIGN) > asked;
        let stream = host.connect_tcp(ME, to).await;
        if to == AT {
            let mut wire = host.wire(bed.ca.connect(stream, None).await.unwrap());
            wire.send(&ask).await;
            eventually("Assign arrives", is_asked).await;
            reset(wire.stream.get_ref().0);
        } else {
            let mut wire = host.wire(stream);
            wire.send(&ask).await;
            eventually("Assign arrives", is_asked).await;
            reset(&wire.stream);
        }
        eventually("it is taken back", async || host.log().matches("took ").count() > taken).await;
        host.lease(&pool).await;
    }
    assert!(host.mine(State::Lease).await.is_superset(&kept));
}

#[tokio::test]
async fn a_handshake_without_an_end_is_ended_and_harms_nobody() {
    let bed = Bed::started("https://127.0.0.1:8031").await;
    let begun = Instant::now();
    let mut silent = Vec::new();
    for n in 0..12 {
        let mut stream = bed.host.connect_tcp(ME, AT).await;
        // The head of a record whose rest does not come.
        stream.write_all(&b"\x16\x03\x01\x02\0\x01"[..n % 7]).await.unwrap();
        silent.push(stream);
    }
    assert_eq!(bed.call_by_tls(&bed.ca, None).await.unwrap().status, 200);
    assert!(begun.elapsed() < Duration::from_secs(9), "it waits for nobody");
    for mut stream in silent {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(8) && took < Duration::from_secs(40), "{took:?}");
    let log = bed.host.log();
    assert!(log.contains("INFO no TLS with 127.0.0.1: the handshake was not done within 10 s"), "{log}");
    assert_eq!(bed.call_by_tls(&bed.ca, None).await.unwrap().status, 200);
}
