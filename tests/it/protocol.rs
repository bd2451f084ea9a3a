//! Docker's protocol as the Engine speaks it, and what nobody should send, against the real binary.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use ec2_ipam::domain::address::State;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use vpc_sim::ImdsMode;

use crate::support::host::{ASSIGN, Fleet, Host, Kind, RDS, SUBNET, eni, eventually, ip, request};

const CIDR: &str = "10.77.0.0/24";

fn pool_id() -> String {
    format!("{}/10.77.0.0-24", eni(1))
}

/// A pool answer, whole.
fn pool_answer(id: &str) -> Value {
    json!({ "PoolID": id, "Pool": CIDR, "Data": { "com.docker.network.gateway": "10.77.0.1/24" } })
}

#[tokio::test]
async fn the_calls_of_an_engine_20_10() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let mut host = fleet.host(1);
    host.start().await;
    // Bodies as recorded from 20.10.24, in its order: create without a subnet, run, run --ip, restart, rm, network rm.
    let empty = "";
    for (path, body, answer) in [
        ("/Plugin.Activate", empty, json!({ "Implements": ["IpamDriver"] })),
        ("/IpamDriver.GetCapabilities", empty, json!({ "RequiresMACAddress": false, "RequiresRequestReplay": false })),
        (
            "/IpamDriver.GetDefaultAddressSpaces",
            empty,
            json!({ "LocalDefaultAddressSpace": "ec2-ipam", "GlobalDefaultAddressSpace": "ec2-ipam" }),
        ),
        (
            "/IpamDriver.RequestPool",
            r#"{"AddressSpace":"ec2-ipam","Pool":"","SubPool":"","Options":{},"V6":false}"#,
            pool_answer(&pool_id()),
        ),
        (
            "/IpamDriver.RequestAddress",
            r#"{"PoolID":"POOL","Address":"","Options":{"RequestAddressType":"com.docker.network.gateway"}}"#,
            json!({ "Address": "10.77.0.1/24", "Data": {} }),
        ),
        (
            "/IpamDriver.RequestAddress",
            r#"{"PoolID":"POOL","Address":"10.77.0.77","Options":null}"#,
            json!({ "Address": "10.77.0.77/24", "Data": {} }),
        ),
        ("/IpamDriver.ReleaseAddress", r#"{"PoolID":"POOL","Address":"10.77.0.77"}"#, json!({})),
        ("/IpamDriver.ReleaseAddress", r#"{"PoolID":"POOL","Address":"10.77.0.1"}"#, json!({})),
        ("/IpamDriver.ReleasePool", r#"{"PoolID":"POOL"}"#, json!({})),
    ] {
        let mut wire = host.connect().await;
        let body = body.replace("POOL", &pool_id());
        let body = if body.is_empty() { body } else { format!("{body}\n") };
        wire.send(&request(path, &body)).await;
        let got = wire.answer().await.unwrap();
        assert_eq!((got.status, &got.json), (200, &answer), "{path} {body}");
    }
    assert_eq!(host.row(ip(77)).await.state, State::Ready);
}

#[tokio::test]
async fn the_calls_of_an_engine_29() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    // A gateway beside the VPC's router is somebody else's interface.
    fleet.vpc.take(RDS, ip(254));
    let mut host = fleet.host(1);
    host.start().await;
    let mut wire = host.connect().await;
    let id = format!("{}/10.77.0.128-25", pool_id());
    // Recorded from 29.7.2, all on one connection, as it keeps it.
    for (path, body, answer) in [
        (
            "/IpamDriver.GetDefaultAddressSpaces",
            "",
            Some(json!({ "LocalDefaultAddressSpace": "ec2-ipam", "GlobalDefaultAddressSpace": "ec2-ipam" })),
        ),
        (
            "/IpamDriver.RequestPool",
            r#"{"AddressSpace":"ec2-ipam","Pool":"10.77.0.0/24","SubPool":"10.77.0.128/25","Options":null,"V6":false}"#,
            Some(pool_answer(&id)),
        ),
        (
            "/IpamDriver.RequestAddress",
            r#"{"PoolID":"POOL","Address":"10.77.0.254","Options":{"RequestAddressType":"com.docker.network.gateway"}}"#,
            Some(json!({ "Address": "10.77.0.254/24", "Data": {} })),
        ),
        (
            "/IpamDriver.RequestAddress",
            r#"{"PoolID":"POOL","Address":"10.77.0.130","Options":null}"#,
            Some(json!({ "Address": "10.77.0.130/24", "Data": {} })),
        ),
        (
            "/IpamDriver.RequestAddress",
            r#"{"PoolID":"POOL","Address":"","Options":{"com.docker.network.endpoint.name":"c1","com.docker.network.ipam.serial":"true"}}"#,
            None,
        ),
    ] {
        let body = body.replace("POOL", &id);
        let body = if body.is_empty() { body } else { format!("{body}\n") };
        let with_host = request(path, &body).replace("Host: ", "Host: plugin.moby.localhost");
        wire.send(&with_host).await;
        let got = wire.answer().await.unwrap();
        assert_eq!(got.status, 200, "{:?}", got.json);
        match answer {
            Some(answer) => assert_eq!(got.json, answer),
            None => {
                let given: ipnet::Ipv4Net = got.json["Address"].as_str().unwrap().parse().unwrap();
                assert!(given.addr() >= ip(128) && given.prefix_len() == 24, "{given}");
                assert_eq!(host.row(given.addr()).await.holder.as_deref(), Some("c1"));
            }
        }
    }
}

#[tokio::test]
async fn what_nobody_should_send_is_refused_in_a_sentence_and_changes_nothing() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let (host, _) = fleet.started(1, &[]).await;
    let rows = host.rows().await;
    let large = format!(r#"{{"PoolID":"{}","Address":"{}"}}"#, pool_id(), "x".repeat(70_000));
    let pool = |rest: &str| format!(r#"{{"AddressSpace":"ec2-ipam",{rest}}}"#);
    let bodied = ["RequestPool", "RequestAddress", "ReleaseAddress", "ReleasePool"];
    let mut cases: Vec<(u16, String, String, &str)> = Vec::new();
    for call in bodied {
        for empty in ["", "\n", "  \r\n"] {
            cases.push((500, call.into(), empty.into(), "lost it"));
        }
        for garbage in ["{", "[]", "\"x\"", "\u{0}", "null", r#"{"PoolID":7,"Pool":7}"#, "{}{}"] {
            cases.push((500, call.into(), garbage.into(), "not what Docker sends"));
        }
        cases.push((413, call.into(), large.clone(), "64 KiB"));
    }
    for (body, says) in [
        (pool(r#""Pool":"","V6":"yes""#), "not what Docker sends"),
        (pool(r#""Pool":"","Options":{"eni-id":5}"#), "not what Docker sends"),
        (pool(r#""Pool":"10.77.0.0/24","V6":true"#), "--ipv6"),
        (pool(r#""Pool":"10.77.0.0/24","Options":{"enid":"x"}"#), "\"enid\""),
        (pool(r#""Pool":"10.77.0.0/25""#), "pass --subnet 10.77.0.0/24"),
        (pool(r#""Pool":"10.99.0.0/24""#), "pass --subnet 10.77.0.0/24"),
        (pool(r#""Pool":"10.77.0.7/24""#), "--subnet \"10.77.0.7/24\""),
        (pool(r#""Pool":"fd00::/64""#), "IPv4"),
        (pool(r#""Pool":"10.77.0.0/24","SubPool":"10.78.0.0/25""#), "--ip-range 10.78.0.0/25"),
        (pool(r#""Pool":"10.77.0.0/24","SubPool":"10.76.0.0/15""#), "--ip-range"),
        (pool(r#""Pool":"10.77.0.0/24","SubPool":"x""#), "--ip-range \"x\""),
        (pool(r#""Pool":"","Options":{"eni-id":"eth1"}"#), "\"eth1\" is not an id"),
        (pool(r#""Pool":"","Options":{"eni-id":"eni-0123456789abcdef0"}"#), "not attached to this instance"),
        (pool(r#""Pool":"","Options":{"parent":"eth7"}"#), "no interface \"eth7\""),
        (pool(r#""Pool":"","Options":{"parent":"lo"}"#), "not an ENI"),
        (pool(r#""Pool":"","Options":{"instance-id":"i-0ffffffffffffffff"}"#), "is not this host"),
    ] {
        cases.push((500, "RequestPool".into(), body, says));
    }
    // The ENI's own primary address answers nothing that comes from its ipvlan.
    for gateway in ["10.77.0.4", "10.77.0.9", "10.99.0.1", "x"] {
        let options = json!({ "RequestAddressType": "com.docker.network.gateway" });
        let body = json!({ "PoolID": pool_id(), "Address": gateway, "Options": options });
        cases.push((500, "RequestAddress".into(), body.to_string(), "the gateway"));
    }
    for (pool, address, says) in [
        ("", "", "PoolID"),
        ("LocalDefault/172.18.0.0/16", "", "another IPAM driver"),
        ("eni-0123456789abcdef0/10.77.0.0-24", "", "not attached"),
        ("POOL", "10.99.0.1", "not in the subnet"),
        ("POOL", "fd00::1", "not an IPv4 address"),
        ("POOL", "999.1.1.1", "not an IPv4 address"),
        ("POOL", "10.77.0.9'; DROP TABLE allocation; --", "not an IPv4 address"),
    ] {
        let body = json!({ "PoolID": pool.replace("POOL", &pool_id()), "Address": address });
        cases.push((500, "RequestAddress".into(), body.to_string(), says));
    }
    for (status, call, body, says) in cases {
        let mut wire = host.connect().await;
        // The driver may have hung up on a body that is too large.
        let _ = wire.stream.write_all(request(&format!("/IpamDriver.{call}"), &body).as_bytes()).await;
        let answer = wire.answer().await.unwrap_or_else(|| panic!("no answer to {call} {body:.80}"));
        assert_eq!(answer.status, status, "{call} {body:.200}: {:?}", answer.json);
        let why = answer.outcome().unwrap_err();
        assert!(why.contains(says), "{call} {body:.200}: {why}");
    }
    // Whatever a release names that is no lease of ours is a success.
    for (pool, address) in [
        ("POOL", "10.77.0.1"),
        ("POOL", "10.77.0.77"),
        ("POOL", "garbage"),
        ("POOL", ""),
        ("POOL", "10.99.0.9"),
        ("nonsense", "10.77.0.77"),
        ("eni-0123456789abcdef0", "10.77.0.77"),
    ] {
        host.release_text(&pool.replace("POOL", &pool_id()), address).await;
    }
    assert_eq!(host.rows().await, rows);
    assert_eq!(fleet.vpc.count(ASSIGN), 0);
}

#[tokio::test]
async fn other_paths_methods_and_connections() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let (host, pool) = fleet.started(1, &[]).await;
    for (line, status) in [
        ("POST /", 404),
        ("POST /IpamDriver.Nothing", 404),
        ("POST /v1/nothing", 404),
        ("POST /../etc/passwd", 404),
        ("GET /IpamDriver.GetCapabilities", 405),
        ("PUT /IpamDriver.RequestPool", 405),
        ("DELETE /v1/status", 405),
    ] {
        let mut wire = host.connect().await;
        wire.send(&format!("{line} HTTP/1.1\r\nHost: \r\nContent-Length: 0\r\n\r\n")).await;
        let answer = wire.answer().await.unwrap();
        assert_eq!(answer.status, status, "{line}");
        answer.outcome().unwrap_err();
    }
    let mut wire = host.connect().await;
    wire.send("GET /v1/status HTTP/1.1\r\n\r\n").await;
    assert_eq!(wire.answer().await.unwrap().status, 200, "no Host at all");
    // Two on one connection, then several at once without waiting.
    let capabilities = request("/IpamDriver.GetCapabilities", "");
    for _ in 0..2 {
        wire.send(&capabilities).await;
        assert_eq!(wire.answer().await.unwrap().json["RequiresMACAddress"], false);
    }
    let ask = request(
        "/IpamDriver.RequestAddress",
        &format!("{}\n", json!({ "PoolID": pool, "Address": "", "Options": null })),
    );
    wire.send(&format!("{capabilities}{ask}{ask}{capabilities}")).await;
    let mut given = Vec::new();
    for _ in 0..4 {
        let json = wire.answer().await.unwrap().outcome().unwrap();
        given.extend(json.get("Address").cloned());
    }
    assert!(given.len() == 2 && given[0] != given[1], "{given:?}");
    assert_eq!(host.mine(State::Lease).await.len(), 2, "answers that were read stay leases");
    // Not HTTP at all, and a head that never ends, harm nobody.
    for bytes in ["\u{16}\u{3}\u{1}", "hello\r\n\r\n", "POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n"] {
        let mut wire = host.connect().await;
        wire.send(bytes).await;
    }
    let long = format!("POST / HTTP/1.1\r\nX: {}", "y".repeat(200_000));
    let _ = host.connect().await.stream.write_all(long.as_bytes()).await;
    // A body that is announced and cut short.
    let mut wire = host.connect().await;
    wire.send("POST /IpamDriver.RequestAddress HTTP/1.1\r\nHost: \r\nContent-Length: 100\r\n\r\n{\"PoolID\"").await;
    drop(wire);
    assert_eq!(host.call("/Plugin.Activate", "").await.status, 200);
    assert_eq!(host.mine(State::Lease).await.len(), 2);
}

/// What Docker does not get to know is taken back, and as if it had never been given: no cool-down.
#[tokio::test]
async fn a_client_that_hangs_up_before_the_answer_leaves_no_lease() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (host, pool) = fleet.started(1, &[("EC2_IPAM_COOLDOWN", "12h")]).await;
    let body = format!("{}\n", json!({ "PoolID": pool, "Address": "", "Options": null }));
    let ask = request("/IpamDriver.RequestAddress", &body);
    fleet.vpc.latency_of(ASSIGN, Duration::from_millis(600));
    let mut wire = host.connect().await;
    wire.send(&ask).await;
    eventually("Assign arrives", async || fleet.vpc.count(ASSIGN) == 1).await;
    drop(wire);
    eventually("it is idle", async || {
        host.mine(State::Ready).await.len() == 1 && host.mine(State::Lease).await.is_empty()
    })
    .await;
    let idle = *host.assigned().first().unwrap();
    let ts = host.row(idle).await.ts;
    assert_eq!(host.lease(&pool).await, idle, "no cool-down");
    assert_eq!(fleet.vpc.count(ASSIGN), 1);
    assert_eq!(host.row(idle).await.ts, ts);

    // Half-closed: either the answer comes, or nothing stays leased.
    let mut wire = host.connect().await;
    wire.send(&ask).await;
    wire.stream.shutdown().await.unwrap();
    let answered = usize::from(wire.answer().await.is_some());
    drop(wire);
    eventually("leases are those that were answered", async || host.mine(State::Lease).await.len() == 1 + answered)
        .await;
}

#[tokio::test]
async fn engines_before_27_are_stopped_in_their_pool_loop() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let mut host = fleet.host(1);
    host.start().await;
    let empty = json!({ "AddressSpace": "ec2-ipam", "Pool": "", "SubPool": "", "Options": {}, "V6": false });
    let spaces = async || host.post("GetDefaultAddressSpaces", &json!({})).await.outcome().unwrap();
    // Once at registration, then RequestPool again and again.
    spaces().await;
    assert_eq!(host.post("RequestPool", &empty).await.json, pool_answer(&pool_id()));
    for _ in 0..2 {
        let why = host.post("RequestPool", &empty).await.outcome().unwrap_err();
        assert!(why.contains("--subnet 10.77.0.0/24"), "{why}");
    }
    host.pool().await;
    // From 27 on each RequestPool has its GetDefaultAddressSpaces.
    for _ in 0..3 {
        spaces().await;
        assert_eq!(host.post("RequestPool", &empty).await.status, 200);
    }
}

async fn refused(host: &Host, options: Value) -> String {
    host.pool_with("", options).await.unwrap_err()
}

#[tokio::test]
async fn which_interface_a_pool_is_for() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let mut host = fleet.host(1);
    let other = "eni-0cccccccccccccc01";
    host.attach(other, 2, 99, "eth2");
    // A link that is down may yet be brought up: it is waited for.
    host.set(&[("EC2_IPAM_REQUEST_TIMEOUT", "5s")]);
    host.start().await;
    let of_eth1 = Ok(pool_id());
    let of_eth2 = Ok(format!("{other}/10.77.0.0-24"));
    for (options, expected) in [
        (json!({}), &of_eth1),
        (json!({ "eni-id": other }), &of_eth2),
        (json!({ "parent": "eth2" }), &of_eth2),
        (json!({ "parent": "eth2", "eni-id": other }), &of_eth2),
        (json!({ "instance-id": host.instance.clone() }), &of_eth1),
        (json!({ "instance-id": host.instance.clone(), "eni-id": eni(1) }), &of_eth1),
    ] {
        assert_eq!(&host.pool_with("", options.clone()).await, expected, "{options}");
    }
    assert!(refused(&host, json!({ "parent": "eth2", "eni-id": eni(1) })).await.contains("different interfaces"));
    // Both serve at once, each its own.
    let (one, two) = (of_eth1.clone().unwrap(), of_eth2.clone().unwrap());
    let (a, b) = (host.lease(&one).await, host.lease(&two).await);
    assert!(fleet.vpc.addresses(&eni(1)).contains(&a) && fleet.vpc.addresses(other).contains(&b));
    // A PoolID of the original is the bare interface.
    let c = host.lease(other).await;
    assert!(fleet.vpc.addresses(other).contains(&c));
    let gateway =
        json!({ "PoolID": other, "Address": "", "Options": { "RequestAddressType": "com.docker.network.gateway" } });
    assert_eq!(host.post("RequestAddress", &gateway).await.json["Address"], "10.77.0.1/24");
    host.release(other, c).await;
    assert_eq!(host.row(c).await.state, State::Ready);

    // Down, and gone.
    host.ip("link set eth1 down");
    let why = refused(&host, json!({})).await;
    assert!(why.contains("`ip link set eth1 up`"), "{why}");
    host.ip("link set eth1 up");
    host.pool().await;
    host.ip("link del eth1");
    let why = refused(&host, json!({})).await;
    assert!(why.contains("no interface of this host has the MAC"), "{why}");
    // The setting.
    host.set(&[("EC2_IPAM_PARENT", "eth2")]);
    host.restart().await;
    assert_eq!(host.pool().await, two);
    // Without a device 1 there is no default.
    host.unset("EC2_IPAM_PARENT");
    host.restart().await;
    fleet.vpc.detach_eni(&eni(1));
    fleet.vpc.settle();
    let why = refused(&host, json!({})).await;
    assert!(why.contains("eni-id") && why.contains(other), "{why}");
}

#[tokio::test]
async fn the_socket_is_roots_and_one_drivers() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let mut host = fleet.host(1);
    host.start().await;
    let mode = std::fs::metadata(host.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let (done, text) = host.run(&["serve"]).await;
    assert!(!done && text.contains("another driver listens on"), "{text}");
    assert_eq!(host.call("/Plugin.Activate", "").await.status, 200);
    host.kill();
    assert!(host.socket().exists(), "left by SIGKILL, replaced by the next");
    host.start().await;
    assert_eq!(host.call("/Plugin.Activate", "").await.status, 200);

    // One driver an interface, whatever its socket: the second names it.
    host.pool().await;
    let socket = format!("unix://{}/second.sock", host.dir.path().display());
    let table = format!("sqlite://{}/second/ipam.db", host.dir.path().display());
    let mut twin = host.spawn(&["serve"], &[("EC2_IPAM_LISTEN", &socket), ("EC2_IPAM_DATABASE_URL", &table)]);
    let path = host.dir.path().join("second.sock");
    eventually("the second listens", async || path.exists()).await;
    let socket = path.to_str().unwrap();
    let body = json!({ "AddressSpace": "", "Pool": CIDR, "SubPool": "", "Options": {}, "V6": false });
    let why = host.call_at(socket, "/IpamDriver.RequestPool", &body.to_string()).await.outcome().unwrap_err();
    assert!(why.contains("another ec2-ipam") && why.contains(&eni(1)), "{why}");
    twin.kill().unwrap();
    twin.wait().unwrap();
}

#[tokio::test]
async fn sigterm_lets_what_runs_finish() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (mut host, pool) = fleet.started(1, &[]).await;
    fleet.vpc.latency_of(ASSIGN, Duration::from_millis(1500));
    let body = format!("{}\n", json!({ "PoolID": pool, "Address": "", "Options": null }));
    let stream = {
        let mut wire = host.connect().await;
        wire.send(&request("/IpamDriver.RequestAddress", &body)).await;
        eventually("Assign arrives", async || fleet.vpc.count(ASSIGN) == 1).await;
        host.terminate();
        wire.answer().await.expect("the answer still comes").outcome().unwrap()
    };
    assert!(stream["Address"].is_string());
    assert!(host.exit().await.success());
    assert!(host.log().contains("SIGTERM") && host.log().contains("stopped"), "{}", host.log());
    assert_eq!(host.mine(State::Lease).await.len(), 1);
    host.start().await;
    assert!(host.stop().await.success(), "with nothing to do");
}

#[tokio::test]
async fn it_listens_while_nothing_outside_answers_and_then_names_it() {
    for kind in [Kind::Mariadb, Kind::Sqlite] {
        let fleet = Fleet::new(kind).await;
        let mut host = fleet.host(1);
        host.set(&[("EC2_IPAM_REQUEST_TIMEOUT", "3s"), ("AWS_REGION", "")]);
        fleet.vpc.imds_mode(ImdsMode::Hang);
        fleet.vpc.ec2_down(true);
        if let Some(proxy) = &host.proxy {
            proxy.stall(true);
        }
        host.start().await;
        for path in ["/Plugin.Activate", "/IpamDriver.GetCapabilities", "/IpamDriver.GetDefaultAddressSpaces"] {
            assert_eq!(host.call(path, "").await.status, 200);
        }
        let why = host.pool_with("", json!({})).await.unwrap_err();
        assert!(why.contains("metadata service"), "{why}");
        let why = host.request(&pool_id(), "").await.unwrap_err();
        assert!(why.contains("metadata service") || why.contains("database"), "{why}");
        // IMDS is back: now it is the next thing's turn.
        fleet.vpc.imds_mode(ImdsMode::Up);
        if let Some(proxy) = &host.proxy {
            eventually("the database is named", async || {
                host.pool_with("", json!({})).await.unwrap_err().contains("database")
            })
            .await;
            proxy.stall(false);
        }
        eventually("EC2 is named", async || host.pool_with("", json!({})).await.unwrap_err().contains("EC2")).await;
        fleet.vpc.ec2_down(false);
        eventually("all is well", async || host.pool_with("", json!({})).await.is_ok()).await;
        assert_eq!(host.rows().await.len(), 256, "{SUBNET} was filled on the spot");
    }
}
