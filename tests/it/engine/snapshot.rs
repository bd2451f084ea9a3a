//! What Docker has in use, from answers as Engines 20.10 to 29 write them, and from broken ones.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ec2_ipam::outside::engine::{Engine, EngineError, Network};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

const CONTAINERS: &str = "/containers/json?all=true";
const NETWORKS: &str = "/networks";
const FRONT: &str = "/networks/f0";
const BACK: &str = "/networks/b0";

/// What a path is answered with; any other path with 404.
#[derive(Clone)]
enum Answer {
    Json(Value),
    /// Bytes as they are.
    Raw(Vec<u8>),
    /// Nothing, for ever.
    Hang,
    /// After so long.
    Late(Duration, Value),
}

type Script = BTreeMap<&'static str, Answer>;

/// A Docker socket, an answer for each path, and what was asked.
struct Docker {
    _dir: tempfile::TempDir,
    engine: Engine,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Docker {
    fn new(script: Script) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("docker.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (log, script) = (Arc::clone(&asked), Arc::new(script));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&log), Arc::clone(&script)));
            }
        });
        Self { _dir: dir, engine: Engine::new(path), asked }
    }
}

/// One request; the end of the connection is the end of a body without a length.
async fn serve(mut stream: UnixStream, log: Arc<Mutex<Vec<String>>>, script: Arc<Script>) {
    let mut request = [0; 1024];
    let n = stream.read(&mut request).await.unwrap();
    let text = String::from_utf8_lossy(&request[..n]).into_owned();
    let Some(path) = text.strip_prefix("GET ").and_then(|rest| rest.split(' ').next()) else {
        return;
    };
    log.lock().unwrap().push(path.to_owned());
    let json = |value: &Value| format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{value}").into_bytes();
    // Any further network is like the first.
    let answer = script.get(path).or_else(|| script.get(FRONT).filter(|_| path.starts_with("/networks/n")));
    let bytes = match answer {
        Some(Answer::Json(value)) => json(value),
        Some(Answer::Raw(bytes)) => bytes.clone(),
        Some(Answer::Hang) => std::future::pending().await,
        Some(Answer::Late(span, value)) => {
            tokio::time::sleep(*span).await;
            json(value)
        }
        None => http(404, r#"{"message":"not found"}"#),
    };
    // The driver may have hung up.
    let _ = stream.write_all(&bytes).await;
}

fn http(status: u16, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
}

fn container(state: &str, networks: Value) -> Value {
    json!({ "Names": ["/x"], "State": state, "NetworkSettings": { "Networks": networks } })
}

fn network(id: &str, driver: &str, ipam: Value, containers: Value) -> Value {
    json!({
        "Name": format!("net-{id}"), "Id": id, "Driver": driver, "IPAM": ipam, "Containers": containers,
        "Options": { "parent": "eth1" }, "Labels": {}
    })
}

fn endpoint(ipv4: &str, ipv6: &str) -> Value {
    json!({ "Name": "x", "IPv4Address": ipv4, "IPv6Address": ipv6 })
}

/// Two networks of the driver's host, and those that each Engine has.
fn script() -> Script {
    let ipam = json!({
        "Driver": "ec2-ipam:latest", "Options": { "eni-id": "eni-1" },
        "Config": [{ "Subnet": "10.0.0.9/24", "AuxiliaryAddresses": { "a": "10.0.0.2", "six": "fd00::2" } }]
    });
    let front = network(
        "f0",
        "ipvlan",
        ipam,
        json!({ "c1": endpoint("10.0.0.20/24", ""), "ep-2": endpoint("10.0.0.21/24", "fd00::21/64") }),
    );
    let plain = json!({ "Driver": "default", "Options": null, "Config": [{ "Subnet": "10.1.0.0/16" }, { "Subnet": "fd00::/64" }] });
    let mut back = network("b0", "bridge", plain, json!({ "c2": endpoint("", ""), "c3": endpoint("10.1.0.3/16", "") }));
    back["Options"] = Value::Null;
    let none = json!({ "Driver": "", "Options": null, "Config": null });
    BTreeMap::from([
        (
            CONTAINERS,
            Answer::Json(json!([
                container("running", json!({
                    "front": { "NetworkID": "f0", "IPAddress": "10.0.0.20" },
                    "back": { "NetworkID": "b0", "IPAddress": "10.1.0.4" }
                })),
                container("paused", json!({ "net-f0": { "NetworkID": "", "IPAddress": "10.0.0.22" } })),
                container("restarting", json!({
                    "front": { "NetworkID": "f0", "IPAddress": "10.0.0.23" }, "gone": null,
                    "new": { "NetworkID": "e0", "IPAddress": "10.2.0.2" }
                })),
                container("created", json!({ "front": { "IPAddress": "", "IPAMConfig": { "IPv4Address": "10.0.0.77" } } })),
                container("exited", json!({ "front": { "IPAddress": "10.0.0.88" } })),
                container("running", json!({ "host": { "IPAddress": "" } })),
                container("running", Value::Null),
                { "State": "running", "NetworkSettings": null }
            ])),
        ),
        (
            NETWORKS,
            Answer::Json(json!([
                front,
                back,
                network("h0", "host", none.clone(), json!({})),
                network("n0", "null", none, json!({}))
            ])),
        ),
        (FRONT, Answer::Json(front)),
        (BACK, Answer::Json(back)),
    ])
}

fn ips(texts: &[&str]) -> HashSet<Ipv4Addr> {
    texts.iter().map(|ip| ip.parse().unwrap()).collect()
}

/// Of endpoints, each of which is called x.
fn names(texts: &[&str]) -> HashMap<Ipv4Addr, String> {
    ips(texts).into_iter().map(|ip| (ip, "x".to_owned())).collect()
}

#[tokio::test]
async fn every_endpoint_and_every_auxiliary_address_is_a_use() {
    let docker = Docker::new(script());
    let snapshot = docker.engine.snapshot().await.unwrap();
    let expected = ["10.0.0.2", "10.0.0.20", "10.0.0.21", "10.0.0.22", "10.0.0.23", "10.1.0.3", "10.1.0.4", "10.2.0.2"];
    assert_eq!(snapshot.addresses(), ips(&expected));
    assert_eq!(snapshot.strays, ips(&["10.2.0.2"]), "its network came after they were listed");
    let front = Network {
        name: "net-f0".into(),
        driver: "ipvlan".into(),
        parent: Some("eth1".into()),
        ipam: "ec2-ipam:latest".into(),
        ipam_options: BTreeMap::from([("eni-id".into(), "eni-1".into())]),
        subnets: vec!["10.0.0.0/24".parse().unwrap()],
        addresses: ips(&expected[..5]),
        names: names(&["10.0.0.20", "10.0.0.21"]),
        // The other one is an endpoint without a container.
        containers: HashMap::from([("10.0.0.20".parse().unwrap(), "c1".to_owned())]),
    };
    let back = Network {
        name: "net-b0".into(),
        driver: "bridge".into(),
        parent: None,
        ipam: "default".into(),
        ipam_options: BTreeMap::new(),
        subnets: vec!["10.1.0.0/16".parse().unwrap()],
        addresses: ips(&expected[5..7]),
        names: names(&["10.1.0.3"]),
        containers: HashMap::from([("10.1.0.3".parse().unwrap(), "c3".to_owned())]),
    };
    assert_eq!(snapshot.networks, [front, back]);
    assert_eq!(*docker.asked.lock().unwrap(), [CONTAINERS, NETWORKS, FRONT, BACK]);
}

#[tokio::test]
async fn an_idle_docker_is_whole_and_empty() {
    let docker =
        Docker::new(BTreeMap::from([(CONTAINERS, Answer::Json(json!([]))), (NETWORKS, Answer::Json(json!([])))]));
    let snapshot = docker.engine.snapshot().await.unwrap();
    assert!(snapshot.addresses().is_empty() && snapshot.networks.is_empty());
}

#[tokio::test]
async fn a_network_that_goes_while_docker_is_read_has_no_endpoints() {
    let mut gone = script();
    gone.remove(FRONT);
    let snapshot = Docker::new(gone).engine.snapshot().await.unwrap();
    assert_eq!(snapshot.strays, ips(&["10.0.0.20", "10.0.0.22", "10.0.0.23", "10.2.0.2"]));
    assert_eq!(snapshot.networks[0].addresses, ips(&["10.1.0.3", "10.1.0.4"]));
    assert_eq!(snapshot.networks.len(), 1);
}

#[tokio::test]
async fn whatever_else_goes_wrong_makes_the_snapshot_unknown() {
    let with = |value: &Value, pointer: &str, put: Option<Value>| {
        let mut value = value.clone();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let at = value.pointer_mut(parent).unwrap();
        match put {
            Some(put) => at[key] = put,
            None => drop(at.as_object_mut().unwrap().remove(key).unwrap()),
        }
        Answer::Json(value)
    };
    let whole = script();
    let json = |path: &str| match &whole[path] {
        Answer::Json(value) => value.clone(),
        _ => panic!("not JSON"),
    };
    let (containers, networks, front) = (json(CONTAINERS), json(NETWORKS), json(FRONT));
    let cut = |value: &Value, head: &str| {
        let body = value.to_string();
        let half = body.len() / 2;
        let head = head.replace("LENGTH", &body.len().to_string()).replace("HALF", &format!("{half:x}"));
        Answer::Raw(format!("HTTP/1.1 200 OK\r\n{head}{}", &body[..half]).into_bytes())
    };
    let mut huge = http(200, "");
    huge.resize(huge.len() + (17 << 20), b' ');
    let huge = String::from_utf8(huge).unwrap().replace("Content-Length: 0\r\n", "");

    let mut cases = Vec::new();
    for (path, value) in [(CONTAINERS, &containers), (NETWORKS, &networks), (FRONT, &front)] {
        cases.push((path, "HTTP 500", Answer::Raw(http(500, r#"{"message":"no"}"#))));
        cases.push((path, "a broken body", cut(value, "Content-Length: LENGTH\r\n\r\n")));
        cases.push((path, "a broken body", cut(value, "Transfer-Encoding: chunked\r\n\r\nHALF\r\n")));
        cases.push((path, "unreadable JSON", cut(value, "Connection: close\r\n\r\n")));
        cases.push((path, "unreadable JSON", Answer::Json(json!({ "message": "no" }))));
        cases.push((path, "unreadable JSON", Answer::Json(Value::Null)));
        cases.push((path, "unreadable JSON", Answer::Raw(http(200, ""))));
        cases.push((path, "a broken body", Answer::Raw(huge.clone().into_bytes())));
        cases.push((path, "does not answer", Answer::Raw(Vec::new())));
    }
    for path in [CONTAINERS, NETWORKS] {
        cases.push((path, "HTTP 404", Answer::Raw(http(404, "{}"))));
    }
    for (path, value, pointer, put, why) in [
        (
            CONTAINERS,
            &containers,
            "/1/NetworkSettings/Networks/net-f0/IPAddress",
            Some(json!("10.0.0")),
            "is no address",
        ),
        (CONTAINERS, &containers, "/1/NetworkSettings/Networks/net-f0/IPAddress", None, "IPAddress"),
        (CONTAINERS, &containers, "/4/NetworkSettings/Networks/front/IPAddress", Some(json!(7)), "invalid type"),
        (CONTAINERS, &containers, "/1/NetworkSettings/Networks", None, "Networks"),
        (CONTAINERS, &containers, "/1/NetworkSettings", None, "NetworkSettings"),
        (CONTAINERS, &containers, "/1/State", None, "State"),
        (NETWORKS, &networks, "/0/Id", None, "Id"),
        (NETWORKS, &networks, "/0/Id", Some(json!("")), "the network id"),
        (NETWORKS, &networks, "/0/Id", Some(json!("f0/../h0 x")), "the network id"),
        (NETWORKS, &networks, "/0/Driver", None, "Driver"),
        (FRONT, &front, "/Containers", None, "Containers"),
        (FRONT, &front, "/Containers/c1/IPv4Address", None, "IPv4Address"),
        (FRONT, &front, "/Containers/c1/IPv4Address", Some(json!("10.0.0.20/99")), "is no address"),
        (FRONT, &front, "/IPAM", None, "IPAM"),
        (FRONT, &front, "/IPAM/Config", None, "Config"),
        (FRONT, &front, "/IPAM/Config/0/Subnet", Some(json!("10.0.0.0")), "is no subnet"),
        (FRONT, &front, "/IPAM/Config/0/AuxiliaryAddresses/a", Some(json!("a")), "is no address"),
    ] {
        cases.push((path, why, with(value, pointer, put)));
    }

    for (path, why, answer) in cases {
        let mut broken = whole.clone();
        broken.insert(path, answer);
        let outcome = Docker::new(broken).engine.snapshot().await;
        let Err(error) = outcome else {
            panic!("{path}, {why}: taken for a whole snapshot: {outcome:?}");
        };
        assert!(matches!(error, EngineError::Odd { .. } | EngineError::Silent { .. }), "{path}, {why}: {error:?}");
        let text = error.to_string();
        assert!(text.contains(why) && text.lines().count() == 1, "{path}, {why}: {text}");
    }
}

#[tokio::test]
async fn a_docker_that_hangs_or_dawdles_is_given_up() {
    let hangs = async |path| {
        let mut script = script();
        script.insert(path, Answer::Hang);
        let error = Docker::new(script).engine.snapshot().await.unwrap_err();
        assert!(error.to_string().contains("no answer within 5 s"), "{path}: {error}");
    };
    let dawdles = async {
        let mut script = script();
        let ids = (0..1000).map(|n| network(&format!("n{n}"), "ipvlan", json!(null), json!({})));
        script.insert(NETWORKS, Answer::Json(ids.collect()));
        let Some(Answer::Json(front)) = script.remove(FRONT) else { panic!("not JSON") };
        script.insert(FRONT, Answer::Late(Duration::from_millis(500), front));
        let docker = Docker::new(script);
        let error = docker.engine.snapshot().await.unwrap_err();
        assert!(error.to_string().contains("not all of it within 30 s"), "{error}");
        assert!(docker.asked.lock().unwrap().len() < 1000);
    };
    tokio::join!(hangs(CONTAINERS), hangs(NETWORKS), hangs(FRONT), dawdles);
}
