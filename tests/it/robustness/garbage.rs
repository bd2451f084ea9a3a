//! Random and mutated requests over one socket, by thousands. What the driver grants, it grants to somebody: those are let
//! go; all else must change nothing.

use std::net::Ipv4Addr;

use ec2_ipam::domain::address::State;
use ec2_ipam::domain::id::PoolId;
use fastrand::Rng;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::Target;
use crate::support::authority::Authority;
use crate::support::host::{Kind, SUBNET, request};

const CASES: usize = 4000;
/// What parsers stumble over.
const WORDS: [&str; 34] = [
    "\"",
    "\\",
    "\\u0000",
    "\\ud800",
    "\u{0}",
    "\u{1b}[2J",
    "\u{9b}",
    "\n",
    "\r\n",
    "{",
    "}",
    "[",
    "]",
    "null",
    "true",
    "1e999",
    "-0",
    "99999999999999999999",
    "'; DROP TABLE allocation; --",
    "%",
    "%00",
    "%s%n",
    "../",
    "/",
    "-",
    "+24",
    "0.0.0.0-0",
    "fd00::1",
    "\u{fffd}",
    "\u{202e}",
    "😀",
    "fixed:",
    "PoolID",
    "Address",
];

/// The seed of this run; one that failed is run again by setting `EC2_IPAM_TEST_SEED`.
fn seed() -> u64 {
    let seed = std::env::var("EC2_IPAM_TEST_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("EC2_IPAM_TEST_SEED={seed}");
    seed
}

fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>) {
    for _ in 0..=rng.usize(..3) {
        let at = rng.usize(..=bytes.len());
        let to = rng.usize(at..=bytes.len().min(at + 8));
        match rng.u8(..7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.u8(..8),
            1 if at < bytes.len() => bytes[at] = rng.u8(..),
            2 => drop(bytes.drain(at..to)),
            3 => bytes.truncate(at),
            4 => {
                let again = bytes[at..to].repeat(1 + rng.usize(..20));
                bytes.splice(at..at, again).for_each(drop);
            }
            5 => {
                let some: Vec<u8> = (0..rng.usize(..40)).map(|_| rng.u8(..)).collect();
                bytes.splice(at..to, some).for_each(drop);
            }
            _ => {
                let word = WORDS[rng.usize(..WORDS.len())].repeat(if rng.u8(..20) == 0 { 1000 } else { 1 });
                bytes.splice(at..to, word.into_bytes()).for_each(drop);
            }
        }
    }
}

fn text(rng: &mut Rng, from: &str) -> String {
    if rng.bool() {
        return from.to_owned();
    }
    let mut bytes = from.as_bytes().to_vec();
    mutate(rng, &mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A value of any kind.
fn value(rng: &mut Rng, depth: usize) -> Value {
    match rng.u8(..if depth == 0 { 5 } else { 8 }) {
        0 => Value::Null,
        1 => json!(rng.bool()),
        2 => json!(rng.f64() * 1e9),
        3 => json!(rng.i64(..)),
        4 => json!(text(rng, "10.9.9.9")),
        5 => (0..rng.usize(..4)).map(|_| value(rng, depth - 1)).collect(),
        6 => json!({ text(rng, "eni-id"): value(rng, depth - 1) }),
        _ => (0..rng.usize(..100)).fold(Value::Null, |inner, _| json!([inner])),
    }
}

/// A call and a body: as the Engine has them, or with other texts, other kinds of values, missing and further keys.
fn call(rng: &mut Rng, pool: &str, kept: Ipv4Addr) -> (String, Vec<u8>) {
    let pool = text(rng, pool);
    let address = ["", "10.77.0.77", "10.77.0.1", "10.77.0.4", "10.9.9.9"][rng.usize(..5)];
    let address = text(rng, address);
    let options = match rng.u8(..5) {
        0 => Value::Null,
        1 => json!({}),
        2 => json!({ text(rng, "RequestAddressType"): text(rng, "com.docker.network.gateway") }),
        3 => json!({ text(rng, "com.docker.network.endpoint.name"): text(rng, "web-1") }),
        _ => json!({ text(rng, "parent"): text(rng, "eth1"), text(rng, "eni-id"): pool }),
    };
    let (path, mut body) = match rng.u8(..8) {
        0 | 1 => (
            "/IpamDriver.RequestPool",
            json!({ "AddressSpace": "ec2-ipam", "Pool": text(rng, "10.77.0.0/24"), "SubPool": text(rng, ""), "Options": options,
                    "V6": false }),
        ),
        2 | 3 => ("/IpamDriver.RequestAddress", json!({ "PoolID": pool, "Address": address, "Options": options })),
        4 => ("/IpamDriver.ReleaseAddress", json!({ "PoolID": pool, "Address": address })),
        5 => ("/IpamDriver.ReleasePool", json!({ "PoolID": pool })),
        6 => ("/v1/list", json!({ "subnet": text(rng, SUBNET), "free": rng.bool() })),
        // An address of no subnet of this table.
        _ => {
            (["/v1/reserve", "/v1/unreserve"][rng.usize(..2)], json!({ "ip": text(rng, "192.0.2.1"), "name": address }))
        }
    };
    let fields = body.as_object_mut().unwrap();
    let keys: Vec<String> = fields.keys().cloned().collect();
    let key = keys[rng.usize(..keys.len())].clone();
    match rng.u8(..6) {
        0 => drop(fields.insert(key, value(rng, 3))),
        1 => drop(fields.remove(&key)),
        2 => drop(fields.insert(text(rng, &key), value(rng, 1))),
        _ => {}
    }
    // An address in use that is released is no garbage.
    if path.ends_with("ReleaseAddress") && body["Address"] == kept.to_string() {
        body["Address"] = Value::Null;
    }
    let mut bytes = body.to_string().into_bytes();
    if rng.u8(..4) == 0 {
        mutate(rng, &mut bytes);
        if String::from_utf8_lossy(&bytes).contains(&format!("\"{kept}\"")) {
            bytes.clear();
        }
    }
    (path.to_owned(), bytes)
}

async fn bodies(kind: Kind) {
    let seed = seed();
    let mut rng = Rng::with_seed(seed);
    let target = Target::new(kind, |_| ()).await;
    let standing = async |target: &Target| {
        let rows = target.host.rows().await.into_iter();
        rows.filter(|row| matches!(row.state, State::Reserved | State::Foreign)).collect::<Vec<_>>()
    };
    let before = standing(&target).await;
    let mut wire = target.host.connect().await;
    let (mut granted, mut refused) = (0, 0);
    for n in 0..CASES {
        let (path, body) = call(&mut rng, &target.pool, target.kept);
        let case = format!("EC2_IPAM_TEST_SEED={seed}, case {n}: {path} {:?}", String::from_utf8_lossy(&body));
        // The head of a body of that length, then the body, which may be no text.
        wire.send(request(&path, &" ".repeat(body.len())).trim_end_matches(' ')).await;
        wire.stream.write_all(&body).await.unwrap();
        let answer = wire.answer().await.unwrap_or_else(|| panic!("no answer: {case}"));
        let json = match answer.outcome() {
            Ok(json) => json,
            Err(why) => {
                assert!(!why.chars().any(char::is_control) && why.chars().count() <= 1001, "{why:?}: {case}");
                refused += 1;
                continue;
            }
        };
        let asked: Value = serde_json::from_slice(&body).unwrap();
        // The router, or an address of somebody else's interface: no row is touched.
        let is_gateway = asked["Options"]["RequestAddressType"] == "com.docker.network.gateway";
        if let Some(address) = json["Address"].as_str().filter(|_| !is_gateway) {
            let given: ipnet::Ipv4Net = address.parse().unwrap();
            let ip = given.addr();
            assert_ne!(ip, target.kept, "I1: {case}");
            let usable = (5..255).contains(&ip.octets()[3]) && ip.octets()[..3] == [10, 77, 0];
            assert!(usable, "I7: {ip}: {case}");
            let pool: PoolId = asked["PoolID"].as_str().unwrap().parse().unwrap();
            assert_eq!(pool.eni.as_str(), target.host.eni, "{case}");
            let named = asked["Address"].as_str().unwrap_or_default();
            assert!(named.is_empty() || named == ip.to_string(), "{ip}: {case}");
            target.host.release(&target.pool, ip).await;
            granted += 1;
        }
    }
    println!("{CASES} calls: {granted} granted, {refused} refused");
    assert!(granted > 50 && refused > CASES / 2, "{granted} granted, {refused} refused: the cases are worth something");
    drop(wire);
    assert_eq!(
        standing(&target).await,
        before,
        "EC2_IPAM_TEST_SEED={seed}: reserved and others' rows are as they were"
    );
    target.is_unharmed("mutated bodies").await;
}

#[tokio::test]
async fn mutated_bodies_on_sqlite() {
    bodies(Kind::Sqlite).await;
}

#[tokio::test]
async fn mutated_bodies_on_mariadb() {
    bodies(Kind::Mariadb).await;
}

/// Heads that are none any more, so the connection may end at any point; and bodies that belong to no head.
#[tokio::test]
async fn mutated_heads() {
    let seed = seed();
    let mut rng = Rng::with_seed(seed);
    let target = Target::new(Kind::Sqlite, |_| ()).await;
    let mut ends = 0;
    for n in 0..CASES {
        let wire = target.host.connect().await;
        ends += usize::from(
            mutated_head(&mut rng, &target, wire.stream, &format!("EC2_IPAM_TEST_SEED={seed}, case {n}")).await,
        );
    }
    println!("{CASES} heads, {ends} of them reset");
    target.is_unharmed("mutated heads").await;
}

#[tokio::test]
async fn mutated_heads_over_tls() {
    let seed = seed();
    let mut rng = Rng::with_seed(seed);
    let files = tempfile::tempdir().unwrap();
    let ca = Authority::new(files.path(), "ca");
    let own = ca.issue("own", "/CN=ec2-ipam", "IP:127.0.0.1");
    let target = Target::new(Kind::Sqlite, |host| {
        let listen = format!("unix://{},https://127.0.0.1:8031", host.socket().display());
        let (cert, key) = (own.cert.to_str().unwrap(), own.key.to_str().unwrap());
        host.set(&[("EC2_IPAM_LISTEN", &listen), ("EC2_IPAM_TLS_CERT", cert), ("EC2_IPAM_TLS_KEY", key)]);
    })
    .await;
    // A handshake costs more than what is sent through it.
    for n in 0..CASES / 8 {
        let stream = target.host.connect_tcp("127.0.0.1", "127.0.0.1:8031").await;
        let stream = ca.connect(stream, None).await.unwrap();
        mutated_head(&mut rng, &target, stream, &format!("EC2_IPAM_TEST_SEED={seed}, case {n}")).await;
    }
    target.is_unharmed("mutated heads over TLS").await;
}

/// Says whether the connection was reset.
async fn mutated_head(
    rng: &mut Rng,
    target: &Target,
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    which: &str,
) -> bool {
    let (path, body) = call(rng, "eni-0123456789abcdef0", target.kept);
    let mut bytes = request(&path, &String::from_utf8_lossy(&body)).into_bytes();
    match rng.u8(..8) {
        0 => bytes = (0..rng.usize(..2000)).map(|_| rng.u8(..)).collect(),
        1 => bytes = bytes.repeat(1 + rng.usize(..5)),
        _ => {}
    }
    mutate(rng, &mut bytes);
    // It may have hung up already.
    let _ = stream.write_all(&bytes).await;
    let _ = stream.shutdown().await;
    let mut got = Vec::new();
    let is_reset = stream.read_to_end(&mut got).await.is_err();
    let got = String::from_utf8_lossy(&got).into_owned();
    target.host.hear(&got);
    assert!(got.is_empty() || got.starts_with("HTTP/1."), "{which}: {got}");
    is_reset
}
