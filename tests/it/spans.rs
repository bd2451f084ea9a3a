//! Whose work a line of the log is of: what it says of the request, or of the round in the background, as text and as JSON.

use serde_json::{Map, Value, json};

use crate::support::host::{Fleet, Host, Kind, eventually, ip, request};

const FORMATS: [&str; 2] = ["text", "json"];
/// A line break that forges a line, fields that forge others, and JSON that forges an object.
const FORGED: &str = "web\nERROR forged outcome=granted\",\"level\":\"ERROR\"}\n{\"level\":\"ERROR\u{2028}";

async fn started(fleet: &Fleet, format: &str, level: &str) -> (Host, String) {
    fleet.started(1, &[("EC2_IPAM_LOG_FORMAT", format), ("EC2_IPAM_LOG", level)]).await
}

/// Every line as an object, in either format.
fn lines(host: &Host, format: &str) -> Vec<Map<String, Value>> {
    let read = |line: &str| match format {
        "json" => serde_json::from_str(line).unwrap_or_else(|why| panic!("{why}: {line}")),
        _ => of_text(line),
    };
    host.log().lines().map(read).collect()
}

/// ` INFO granted 10.77.0.5 endpoint="web 1" milliseconds=3`: the fields are what stands at its end.
fn of_text(line: &str) -> Map<String, Value> {
    let (level, mut rest) = (line[..5].trim(), &line[6..]);
    let mut object = Map::new();
    while let Some((before, value)) = last_field(rest) {
        let (before, name) = before.rsplit_once(' ').unwrap();
        let number = value.parse::<u64>().map(Value::from);
        object.insert(name.to_owned(), number.unwrap_or_else(|_| Value::from(value)));
        rest = before;
    }
    object.insert("level".to_owned(), level.into());
    object.insert("message".to_owned(), rest.into());
    object
}

/// What stands before `=` of the last field, and its value; none if the text ends otherwise.
fn last_field(text: &str) -> Option<(&str, &str)> {
    let is_name = |before: &&str| {
        let name = before.rsplit(' ').next().unwrap();
        before.contains(' ') && !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase())
    };
    if let Some(quoted) = text.strip_suffix('"') {
        let (before, _) = quoted.rsplit_once("=\"").filter(|(before, _)| is_name(before))?;
        return Some((before, &text[before.len() + 1..]));
    }
    let (before, value) = text.rsplit_once('=').filter(|(before, _)| is_name(before))?;
    (!value.contains(' ')).then_some((before, value))
}

fn with<'a>(lines: &'a [Map<String, Value>], message: &str) -> Vec<&'a Map<String, Value>> {
    lines.iter().filter(|line| line["message"].as_str().unwrap().starts_with(message)).collect()
}

fn one<'a>(lines: &'a [Map<String, Value>], message: &str) -> &'a Map<String, Value> {
    let found = with(lines, message);
    assert_eq!(found.len(), 1, "{message}: {lines:#?}");
    found[0]
}

/// All fields but those that differ each time, which must be there.
fn without(line: &Map<String, Value>, varying: &[&str]) -> Value {
    let mut line = line.clone();
    for name in varying {
        let value = line.remove(*name).unwrap_or_else(|| panic!("no {name}: {line:?}"));
        assert_ne!(value, "", "{name}");
        assert!(*name != "milliseconds" || value.as_u64().is_some_and(|took| took < 30_000), "{value}");
    }
    line.into()
}

#[tokio::test]
async fn a_request_is_one_line_that_says_all_of_it() {
    for format in FORMATS {
        let fleet = Fleet::new(Kind::Sqlite).await;
        let (host, pool) = started(&fleet, format, "info").await;
        let held = host.lease_for(&pool, "web-1").await;
        host.release(&pool, held).await;
        let lines = lines(&host, format);
        assert_eq!(
            without(one(&lines, "Docker uses pool "), &["milliseconds"]),
            json!({ "level": "INFO", "message": format!("Docker uses pool {pool}"), "call": "RequestPool", "pool": pool,
                    "outcome": "answered" }),
        );
        assert_eq!(
            without(one(&lines, "granted "), &["milliseconds", "claim"]),
            json!({ "level": "INFO", "message": format!("granted {held}"), "call": "RequestAddress", "pool": pool,
                    "endpoint": "web-1", "address": held, "outcome": "granted" }),
        );
        // As its work is done, which may be later than the answer.
        assert_eq!(
            without(one(&lines, "released "), &[]),
            json!({ "level": "INFO", "message": format!("released {held}"), "call": "ReleaseAddress", "pool": pool,
                    "address": held, "eni": host.eni, "ip": held }),
        );
        let nothing = with(&lines, "answered").len() + with(&lines, "Docker sends").len();
        assert_eq!(nothing, 0, "what changes nothing and the bodies are for debug: {lines:#?}");
    }
}

#[tokio::test]
async fn a_refusal_says_whom_it_was_told() {
    for format in FORMATS {
        let fleet = Fleet::new(Kind::Sqlite).await;
        let (host, pool) = started(&fleet, format, "warn").await;
        let options = json!({ "com.docker.network.endpoint.name": "web-1" });
        let body = json!({ "PoolID": pool, "Address": "10.99.0.1", "Options": options });
        let why = host.post("RequestAddress", &body).await.outcome().unwrap_err();
        host.pool_with("", json!({ "nonsense": "1" })).await.unwrap_err();
        host.call("/IpamDriver.RequestAddress", "").await.outcome().unwrap_err();
        host.call("/nowhere", "{}").await.outcome().unwrap_err();
        let lines = lines(&host, format);
        assert_eq!(
            without(one(&lines, "refused: 10.99.0.1 "), &["milliseconds"]),
            json!({ "level": "WARN", "message": format!("refused: {why}"), "call": "RequestAddress", "pool": pool,
                    "endpoint": "web-1", "address": "10.99.0.1", "outcome": "refused" }),
        );
        let of = |message: &str| without(one(&lines, message), &["milliseconds", "message"]);
        let refused = |call: &str| json!({ "level": "WARN", "call": call, "outcome": "refused" });
        assert_eq!(of("refused: the request has no body"), refused("RequestAddress"));
        assert_eq!(of("refused: \"/nowhere\" is not a call"), refused("/nowhere"));
        let pool = one(&lines, "refused: unknown --ipam-opt");
        assert_eq!((&pool["call"], &pool["pool"]), (&json!("RequestPool"), &json!(host.cidr)));
    }
}

/// Of a granted address that nobody reads, all that the driver does about it is told with the request.
#[tokio::test]
async fn what_a_request_leaves_behind_is_told_as_its_own() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let (host, pool) = started(&fleet, "json", "info").await;
    let options = json!({ "com.docker.network.endpoint.name": "web-1" });
    let body = json!({ "PoolID": pool, "Address": "10.77.0.50", "Options": options });
    let mut wire = host.connect().await;
    wire.send(&request("/IpamDriver.RequestAddress", &body.to_string())).await;
    drop(wire);
    eventually("it is taken back", async || host.log().contains("took 10.77.0.50 back")).await;
    let lines = lines(&host, "json");
    let took = one(&lines, "took 10.77.0.50 back");
    for (name, value) in [("call", "RequestAddress"), ("pool", &pool), ("endpoint", "web-1"), ("address", "10.77.0.50")]
    {
        assert_eq!(took[name], value, "{took:?}");
    }
}

#[tokio::test]
async fn bodies_are_shown_at_debug_cut_and_escaped() {
    for format in FORMATS {
        let fleet = Fleet::new(Kind::Sqlite).await;
        let (host, pool) = started(&fleet, format, "debug").await;
        let held = host.lease_for(&pool, "web-1").await;
        let long = format!("{{\"PoolID\":\"{}\u{7f}", "x".repeat(10_000));
        host.call("/IpamDriver.ReleasePool", &long).await.outcome().unwrap_err();
        host.call("/Plugin.Activate", "").await.outcome().unwrap();
        host.tell(&["status"]).await;
        let log = host.log();
        if format == "text" {
            let asked = format!(
                "DEBUG Docker sends {{\"Address\":\"\",\"Options\":{{\"com.docker.network.endpoint.name\":\"web-1\"}},\
                 \"PoolID\":\"{pool}\"}} call=RequestAddress\n"
            );
            assert!(log.contains(&asked), "as it was sent: {log}");
            assert!(
                log.contains(&format!("DEBUG the answer is {{\"Address\":\"{held}/24\",\"Data\":{{}}}} call=")),
                "{log}"
            );
            assert!(log.contains("DEBUG Docker sends no body call=/Plugin.Activate\n"), "{log}");
        }
        let all = lines(&host, format);
        let of = |call: &str, message: &str| with(&all, message).iter().filter(|line| line["call"] == call).count();
        for call in ["RequestPool", "RequestAddress", "ReleasePool", "/Plugin.Activate"] {
            assert!(of(call, "Docker sends ") > 0 && of(call, "the answer is ") > 0, "{call}: {log}");
        }
        assert_eq!(of("/v1/status", "Docker sends ") + of("/v1/status", "the answer is "), 0, "not Docker's: {log}");
        assert_eq!(of("/v1/status", "answered"), 1, "{log}");
        assert!(log.lines().all(|line| line.chars().count() < 2500), "cut: {log}");
        assert!(!log.contains('\u{7f}'), "escaped: {log}");
    }
}

#[tokio::test]
async fn no_name_forges_a_line_or_a_field() {
    for format in FORMATS {
        let fleet = Fleet::new(Kind::Sqlite).await;
        let (host, pool) = started(&fleet, format, "debug").await;
        host.lease_for(&pool, FORGED).await;
        assert!(!host.log().lines().any(|line| line.starts_with("ERROR") || line.starts_with("{\"level\":\"ERROR")));
        let lines = lines(&host, format);
        assert!(lines.iter().all(|line| line["level"] != "ERROR"), "{lines:#?}");
        let granted = one(&lines, "granted ");
        let expected = if format == "json" { FORGED.to_owned() } else { format!("{FORGED:?}") };
        assert_eq!((granted["endpoint"].as_str(), &granted["outcome"]), (Some(expected.as_str()), &json!("granted")));
    }
}

/// What repeats is counted though each line took another time, and every line that is written of it parses.
#[tokio::test]
async fn the_time_that_each_took_keeps_no_line_from_being_a_repetition() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let (mut host, pool) = started(&fleet, "json", "info").await;
    let names = ["web-1", "web-2"];
    for n in 0..60 {
        let options = json!({ "com.docker.network.endpoint.name": names[n % 2] });
        let body = json!({ "PoolID": pool, "Address": "10.99.0.1", "Options": options });
        host.post("RequestAddress", &body).await.outcome().unwrap_err();
        host.release(&pool, ip(77)).await;
    }
    assert!(host.stop().await.success());
    let lines = lines(&host, "json");
    for kind in ["refused: 10.99.0.1 cannot be given", "nothing to release: it is no lease"] {
        let found = with(&lines, kind);
        assert!((2..=3).contains(&found.len()), "{found:#?}");
        assert!(found[1]["message"].as_str().unwrap().ends_with(" times in the last minute)"), "{found:#?}");
        assert!(found[1].contains_key("call"), "{found:#?}");
    }
}

#[tokio::test]
async fn a_round_in_the_background_names_itself() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let mut host = fleet.host(1);
    let docker = host.docker();
    host.set(&[("EC2_IPAM_LOG_FORMAT", "json"), ("EC2_IPAM_RECONCILE_INTERVAL", "1s")]);
    host.start().await;
    let pool = host.pool().await;
    host.lease(&pool).await;
    docker.with(|docker| docker.fails = true);
    eventually("Docker's silence is told", async || host.log().contains("is not seen from now on")).await;
    let lines = lines(&host, "json");
    assert_eq!(one(&lines, "which addresses containers have is not seen")["round"], "reconcile");
    assert!(one(&lines, "serving ").get("call").is_none(), "the ENI's task is nobody's request");
}

#[test]
fn what_ends_the_driver_is_told_in_the_logs_format() {
    let taken = tempfile::tempdir().unwrap();
    let socket = taken.path().join("driver.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let listen = format!("unix://{}", socket.display());
    for format in FORMATS {
        let driver = std::process::Command::new(env!("CARGO_BIN_EXE_ec2-ipam"))
            .arg("serve")
            .env_clear()
            .envs([("EC2_IPAM_LOG_FORMAT", format), ("EC2_IPAM_LISTEN", listen.as_str())])
            .output()
            .unwrap();
        assert_eq!(driver.status.code(), Some(1), "{driver:?}");
        assert_eq!(driver.stdout, b"");
        let told = String::from_utf8(driver.stderr).unwrap();
        let line = match format {
            "json" => serde_json::from_str(&told).unwrap(),
            _ => of_text(told.trim_end_matches('\n')),
        };
        assert_eq!(line["level"], "ERROR");
        assert!(line["message"].as_str().unwrap().starts_with("another driver listens on"), "{told}");
    }
}
