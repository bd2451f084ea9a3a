//! What `status` tells: of Docker's API, of networks that cannot work, and in which form scripts get it.

use std::collections::BTreeSet;

use ec2_ipam::domain::address::State;
use ec2_ipam::domain::block::Block;
use serde_json::{Value, json};

use crate::support::docker::Docker;
use crate::support::host::{Fleet, Host, Kind, eni, eventually, ip};

/// A started host with a Docker, and its pool. It reconciles that often.
async fn bed(fleet: &Fleet, interval: &str) -> (Host, Docker, String) {
    let mut host = fleet.host(1);
    let docker = host.docker();
    host.set(&[("EC2_IPAM_SETTLE_AGE", "1s"), ("EC2_IPAM_RECONCILE_INTERVAL", interval)]);
    host.start().await;
    let pool = host.pool().await;
    (host, docker, pool)
}

/// The exit status, and what is told.
async fn status(host: &Host) -> (bool, Value) {
    host.ask_json(&["status"]).await
}

fn problems(status: &Value) -> String {
    status["problems"].to_string()
}

#[tokio::test]
async fn dockers_silence_is_told_when_it_begins_while_it_lasts_and_when_it_ends() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let (host, docker, pool) = bed(&fleet, "1s").await;
    let lives = host.lease(&pool).await;
    docker.runs(&[lives]);
    let text = host.tell(&["status"]).await;
    assert!(text.contains("\nDocker    1 addresses in use by containers\n"), "{text}");

    docker.with(|docker| docker.fails = true);
    eventually("it says why", async || status(&host).await.1["docker"]["error"].to_string().contains("HTTP 500")).await;
    let told = status(&host).await.1;
    assert_eq!(told["docker"]["addresses"], 1, "the last picture");
    // Five settle ages, which are five minutes but for tests.
    eventually("it is a problem", async || {
        let (is_well, told) = status(&host).await;
        !is_well && problems(&told).contains("Docker has not answered for ")
    })
    .await;
    let text = host.ask(&["status"]).await.1;
    assert!(text.contains("1 addresses in use by containers ") && text.contains(" s ago; Docker answers "), "{text}");
    let (done, text) = host.ask(&["doctor"]).await;
    assert!(!done && text.contains("FAIL  agreement: Docker has not answered for "), "{text}");
    eventually("the log shouts", async || host.log().contains("ERROR Docker has not answered for ")).await;
    assert_eq!(host.ask(&["status", "--quiet"]).await, (false, String::new()));

    docker.with(|docker| docker.fails = false);
    eventually("all is well", async || {
        let (is_well, told) = status(&host).await;
        is_well && told["docker"]["error"] == Value::Null
    })
    .await;
    assert_eq!(host.ask(&["status", "--quiet"]).await, (true, String::new()));
    let log = host.log();
    for once in
        ["WARN which addresses containers have is not seen", "ERROR Docker has not", "INFO Docker answers again"]
    {
        assert_eq!(log.matches(once).count(), 1, "{once}: {log}");
    }
}

#[tokio::test]
async fn a_docker_socket_that_is_not_there_is_named_at_each_start() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let (mut host, docker, _) = bed(&fleet, "1h").await;
    assert!(status(&host).await.1["docker"]["error"].is_null());
    let wrong = host.dir.path().join("nowhere.sock");
    host.set(&[("EC2_IPAM_DOCKER_SOCKET", wrong.to_str().unwrap())]);
    host.restart().await;
    let says = format!("there is no Docker socket {}: set EC2_IPAM_DOCKER_SOCKET", wrong.display());
    let text = host.tell(&["status"]).await;
    assert!(text.contains(&format!("\nDocker    {says}")), "{text}");
    assert!(host.log().contains(&format!("WARN which addresses containers have is not seen from now on: {says}")));
    let (done, text) = host.ask(&["doctor"]).await;
    assert!(!done && text.contains(&format!("FAIL  Docker: {says}")), "{text}");
    eventually("it is a problem", async || problems(&status(&host).await.1).contains(&says)).await;
    drop(docker);
}

#[tokio::test]
async fn docker_is_looked_at_when_somebody_asks_and_names_the_containers() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let (host, docker, pool) = bed(&fleet, "1h").await;
    let lives = host.lease(&pool).await;
    eventually("the start is over", async || docker.with(|docker| docker.listings) > 0).await;
    docker.runs(&[lives]);
    let told = status(&host).await.1;
    assert_eq!((&told["docker"]["addresses"], &told["docker"]["age_seconds"]), (&json!(1), &json!(0)));
    // An Engine before 29 did not say who asks.
    let text = host.tell(&["list"]).await;
    let line = text.lines().find(|line| line.starts_with(&format!("{lives} "))).unwrap();
    assert!(line.ends_with(&format!("c{lives}")), "{line}");
    host.release(&pool, lives).await;
    let text = host.tell(&["list"]).await;
    assert!(!text.contains(&format!("c{lives}")), "nobody has it any more: {text}");
}

#[tokio::test]
async fn a_network_that_cannot_work_is_a_problem_with_each_way_out() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let (host, docker, pool) = bed(&fleet, "1s").await;
    host.lease(&pool).await;
    let second = "eni-0eeeeeeeeeeeeee02";
    host.attach(second, 2, 9, "eth2");
    for driver in ["bridge", "macvtap", "weave"] {
        docker.with(|docker| docker.driver = driver.to_owned());
        let says = format!("the network pods has the driver {driver}");
        eventually(&says, async || problems(&status(&host).await.1).contains(&says)).await;
        assert!(problems(&status(&host).await.1).contains("create it again with -d ipvlan -o parent=eth1"));
    }
    let (done, text) = host.ask(&["doctor"]).await;
    assert!(!done && text.contains("FAIL  agreement: the network pods has the driver weave"), "{text}");
    assert!(host.log().contains("ERROR the network pods has the driver bridge"), "{}", host.log());
    for (driver, parent, says) in [
        ("ipvlan", "eth2", format!("with -o parent=eth1, or with --ipam-opt eni-id={second}")),
        ("macvlan", "eth2", format!("with -o parent=eth1, or with --ipam-opt eni-id={second}")),
        ("ipvlan", "", "is on no parent interface".to_owned()),
        ("ipvlan", "eth9", "is on eth9".to_owned()),
    ] {
        docker.with(|docker| (docker.driver, docker.parent) = (driver.to_owned(), parent.to_owned()));
        eventually(&says, async || problems(&status(&host).await.1).contains(&says)).await;
    }
    for driver in ["macvlan", "ipvlan"] {
        docker.with(|docker| (docker.driver, docker.parent) = (driver.to_owned(), "eth1".to_owned()));
        eventually("no problem is left", async || status(&host).await.0).await;
    }
    // What Docker was not asked about is not over.
    docker.with(|docker| docker.driver = "bridge".to_owned());
    eventually("a problem", async || !status(&host).await.0).await;
    docker.with(|docker| docker.fails = true);
    eventually("silence", async || status(&host).await.1["docker"]["error"].is_string()).await;
    for _ in 0..3 {
        host.tell(&["reconcile"]).await;
    }
    assert!(problems(&status(&host).await.1).contains("the network pods has the driver bridge"));
}

#[tokio::test]
async fn a_wrong_subnet_is_refused_with_each_way_out() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let mut host = fleet.host(1);
    host.start().await;
    for (subnet, says) in [
        ("10.78.0.0/24", "or name --ipam-opt eni-id=eni-0bbbbbbbbbbbbbb01, which is in it"),
        ("10.99.0.0/24", "or name another ENI of this host by --ipam-opt eni-id="),
    ] {
        host.cidr = subnet.to_owned();
        let why = host.pool_with("", json!({})).await.unwrap_err();
        assert!(
            why.contains(&format!("is not the subnet of {} on eth1: pass --subnet 10.77.0.0/24, {says}", eni(1))),
            "{why}"
        );
    }
}

#[tokio::test]
async fn idle_addresses_are_not_in_use() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let (host, pool) = fleet.started(1, &[("EC2_IPAM_WARM_TARGET", "5"), ("EC2_IPAM_WARM_MAX", "9")]).await;
    for _ in 0..4 {
        host.lease(&pool).await;
    }
    // Ten addresses: the primary one, four leases, five to spare.
    eventually("the interface is full", async || host.assigned().len() == 9).await;
    let text = host.tell(&["doctor"]).await;
    assert!(
        text.contains(&format!("ok    address limit: 10 of 10 addresses are on {}, 5 of them idle", eni(1))),
        "{text}"
    );
    for _ in 0..5 {
        host.lease(&pool).await;
    }
    let text = host.tell(&["doctor"]).await;
    assert!(text.contains(&format!("warn  address limit: all 10 addresses of {} are in use", eni(1))), "{text}");
}

#[tokio::test]
async fn a_block_is_one_slot() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let (host, pool) = fleet.started(1, &[("EC2_IPAM_BLOCKS", "auto")]).await;
    let text = host.tell(&["status"]).await;
    assert!(!text.contains("slots"), "{text}");
    let first = host.lease(&pool).await;
    for _ in 0..16 {
        host.lease(&pool).await;
    }
    let prefixes = fleet.vpc.prefixes(&eni(1));
    let other = (1..15).map(|n| ip(n * 16)).find(|ip| !prefixes.iter().any(|net| net.contains(ip))).unwrap();
    host.request(&pool, &other.to_string()).await.unwrap();
    host.rows().await;
    let enis = status(&host).await.1["enis"][0].clone();
    let counts = ["limit", "slots", "blocks", "singles"].map(|name| enis[name].as_u64());
    assert_eq!(counts, [10, 4, 2, 1].map(Some), "{enis}");
    assert_eq!(enis["addresses"], json!({ "ready": 15, "lease": 18, "foreign": 1 }));
    let text = host.tell(&["status"]).await;
    assert!(text.contains("; limit 10; 0 waiting\n"), "{text}");
    assert!(text.contains("\n          2 blocks of 16 and 1 single addresses; 4 of 10 slots are taken\n"), "{text}");
    let text = host.tell(&["doctor"]).await;
    let says =
        format!("address limit: 4 of 10 slots of {} are taken, 2 of them by blocks; 15 addresses are idle", eni(1));
    assert!(text.contains(&says), "{text}");
    let list: Vec<Value> = host.tell_json(&["list"]).await;
    let block_of = |ip: String| list.iter().find(|row| row["ip"] == ip).unwrap()["block"].clone();
    let of_first = prefixes.iter().find(|net| net.contains(&first)).unwrap().to_string();
    assert_eq!((block_of(first.to_string()), block_of(other.to_string())), (json!(of_first), Value::Null));
}

#[tokio::test]
async fn the_log_has_a_line_for_a_block_and_not_sixteen() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let settings = [
        ("EC2_IPAM_BLOCKS", "auto"),
        ("EC2_IPAM_LOG", "info"),
        ("EC2_IPAM_RECONCILE_INTERVAL", "1s"),
        ("EC2_IPAM_SETTLE_AGE", "2s"),
        ("EC2_IPAM_COOLDOWN", "0s"),
    ];
    let (host, pool) = fleet.started(1, &settings).await;
    let before = host.log().lines().count();
    let first = host.lease(&pool).await;
    host.release(&pool, first).await;
    host.rows().await;
    let log = host.log();
    let told: Vec<&str> = log.lines().skip(before).collect();
    assert!(told.len() <= 3, "a grant and a release: {told:#?}");
    let block = Block::of(first).to_string();
    fleet.vpc.remove_prefix(&eni(1), &block);
    eventually("its rows are free", async || host.mine(State::Ready).await.is_empty()).await;
    let log = host.log();
    let told: Vec<&str> = log.lines().filter(|line| line.contains("is idle and not on the interface")).collect();
    assert!(told.len() == 1 && told[0].contains(&format!("{block} is idle")), "{told:#?}");
}

#[tokio::test]
async fn a_network_that_is_removed_leaves_no_line_of_its_gateway() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let (host, pool) = fleet.started(1, &[]).await;
    let lease = host.lease(&pool).await;
    for ip in [lease, ip(1)] {
        host.release(&pool, ip).await;
    }
    assert!(!host.log().contains("nothing to release"), "{}", host.log());
    host.release(&pool, lease).await;
    assert!(host.log().contains("nothing to release"), "a repetition is worth a line: {}", host.log());
}

/// Each place in the JSON as `docs/status.md` writes it. The keys of these are data.
fn places(at: &str, value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields)
            if !["addresses", "subnets", "counts", "subnets[].blocks"].iter().any(|data| at.ends_with(data)) =>
        {
            for (name, value) in fields {
                let at = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
                places(&at, value, found);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            items.iter().for_each(|item| places(&format!("{at}[]"), item, found));
        }
        _ => {
            found.insert(at.to_owned());
        }
    }
}

#[tokio::test]
async fn the_json_is_what_its_document_says() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let (host, _docker, pool) = bed(&fleet, "1h").await;
    host.lease(&pool).await;
    // With this it has entered itself, which the map shows.
    host.tell(&["hosts"]).await;
    let document = include_str!("../../docs/status.md");
    for command in ["status", "list", "map", "doctor", "hosts", "drain"] {
        let title = format!("## `ec2-ipam {command} --json`");
        let section =
            document.split(&title).nth(1).unwrap_or_else(|| panic!("no {title}")).split("\n## ").next().unwrap();
        let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
        let (told, kinds): (BTreeSet<_>, Vec<_>) = rows.map(|(place, rest)| (place.to_owned(), rest)).unzip();
        assert!(
            kinds
                .iter()
                .all(|kind| ["text", "number", "true", "object", "array"].iter().any(|k| kind.trim().starts_with(k)))
        );
        let json: Value = host.tell_json(&[command]).await;
        let mut found = BTreeSet::new();
        places("", &json, &mut found);
        assert_eq!(found, told, "{command}");
        let text = json.to_string();
        assert!(!text.contains("\"Ok\"") && !text.contains("\"Err\""), "no words of Rust: {text}");
    }
}
