//! Metrics: as curl, promtool and a real Prometheus get them, and what they say of what has happened.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use ec2_ipam::domain::address::State;
use serde_json::{Value, json};
use vpc_sim::{Fault, FaultKind};

use crate::support::host::{ASSIGN, Fleet, Host, Kind, RDS, SUBNET, eni, eventually, ip};

/// Where the tests' drivers and Prometheus listen, each in a namespace of its own.
const METRICS: &str = "127.0.0.1:9809";

fn read(file: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

/// The page of the own socket.
async fn page(host: &Host) -> String {
    host.program("curl", &["-sS", "--unix-socket", host.socket().to_str().unwrap(), "http://driver/metrics"]).await
}

/// The figure of one series, given as it stands on the page.
fn figure(page: &str, series: &str) -> Option<f64> {
    page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

fn of_eni(name: &str, state: &str) -> String {
    let state = if state.is_empty() { String::new() } else { format!(",state=\"{state}\"") };
    format!(
        "ec2_ipam_{name}{{eni=\"{}\",subnet=\"subnet-0aaaaaaaaaaaaaaa1\",host=\"i-0aaaaaaaaaaaaaa01\"{state}}}",
        eni(1)
    )
}

/// Waits until the page says so.
async fn says(host: &Host, series: &str, expected: f64) {
    let mut last = String::new();
    eventually(&format!("{series} {expected}"), async || {
        last = page(host).await;
        figure(&last, series) == Some(expected)
    })
    .await;
}

#[tokio::test]
async fn figures_say_what_has_happened() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (host, pool) = fleet.started(1, &[("EC2_IPAM_WARM_TARGET", "2"), ("EC2_IPAM_WARM_MAX", "4")]).await;
    let fresh = page(&host).await;
    // What has not happened is there, so that its first time has a rate.
    for series in [
        "ec2_ipam_refusals_total{call=\"RequestAddress\",reason=\"subnet_full\"}",
        "ec2_ipam_releases_total{by=\"comparison\"}",
        "ec2_ipam_findings_total{kind=\"cut_off\"}",
        "ec2_ipam_ec2_throttled_total{action=\"AssignPrivateIpAddresses\"}",
        "ec2_ipam_grants_total{how=\"cold\"}",
    ] {
        assert_eq!(figure(&fresh, series), Some(0.0), "{series}: {fresh}");
    }
    // Until somebody wants one none is kept.
    let held = host.lease(&pool).await;
    says(&host, &of_eni("eni_addresses", "warm"), 2.0).await;
    let gone = host.lease(&pool).await;
    host.release(&pool, gone).await;
    host.request(&pool, "10.77.0.3").await.unwrap_err();
    host.request("nonsense", "").await.unwrap_err();
    says(&host, &of_eni("eni_addresses", "warm"), 2.0).await;
    // The primary address, the lease, the one that cools and two that are warm.
    says(&host, &of_eni("eni_slots_used", ""), 5.0).await;
    let page = page(&host).await;
    for (series, expected) in [
        ("ec2_ipam_grants_total{how=\"cold\"}", 1.0),
        ("ec2_ipam_grants_total{how=\"warm\"}", 1.0),
        ("ec2_ipam_grant_seconds_count{how=\"warm\"}", 1.0),
        ("ec2_ipam_releases_total{by=\"engine\"}", 1.0),
        ("ec2_ipam_refusals_total{call=\"RequestAddress\",reason=\"not_given\"}", 1.0),
        ("ec2_ipam_refusals_total{call=\"RequestAddress\",reason=\"asked\"}", 1.0),
        (&of_eni("eni_addresses", "lease"), 1.0),
        (&of_eni("eni_addresses", "cooling"), 1.0),
        (&of_eni("eni_slots", ""), 10.0),
        (&of_eni("eni_ready", ""), 1.0),
        ("ec2_ipam_store_up", 1.0),
        ("ec2_ipam_ec2_up", 1.0),
        ("ec2_ipam_journal_up", 1.0),
        ("ec2_ipam_problems", 0.0),
        ("ec2_ipam_warm_target_addresses", 2.0),
    ] {
        assert_eq!(figure(&page, series), Some(expected), "{series}: {page}");
    }
    assert!(figure(&page, "ec2_ipam_ec2_calls_total{action=\"AssignPrivateIpAddresses\",code=\"OK\"}").unwrap() >= 1.0);
    assert!(!page.contains(&held.to_string()), "no address is a label: {page}");
}

#[tokio::test]
async fn blocks_are_one_slot_each_and_subnets_are_told_by_what_is_left_of_theirs() {
    for kind in [Kind::Mariadb, Kind::Sqlite] {
        let fleet = Fleet::new(kind).await;
        // In a /28 at the end, which is no block whoever has an address there, and in one that would be.
        fleet.vpc.take(RDS, ip(250));
        fleet.vpc.take("eni-0dddddddddddddd02", ip(70));
        let (host, pool) = fleet.started(1, &[("EC2_IPAM_BLOCKS", "auto")]).await;
        fleet.vpc.fail(Fault::on(
            ASSIGN,
            FaultKind::Error { status: 400, code: "InsufficientCidrBlocks", message: "There are none." },
        ));
        for _ in 0..17 {
            host.lease(&pool).await;
        }
        host.request(&pool, "10.77.0.254").await.unwrap();
        host.rows().await;
        let subnet = |state| format!("ec2_ipam_subnet_blocks{{subnet=\"{SUBNET}\",state=\"{state}\"}}");
        says(&host, &subnet("whole"), 11.0).await;
        let page = page(&host).await;
        for (series, expected) in [
            (subnet("broken"), 1.0),
            (subnet("full"), 2.0),
            (subnet("unusable"), 2.0),
            (of_eni("eni_blocks", ""), 2.0),
            (of_eni("eni_slots", ""), 10.0),
            (of_eni("eni_addresses", "lease"), 18.0),
            ("ec2_ipam_blocks_wanted".to_owned(), 1.0),
            ("ec2_ipam_blocks_refused_total".to_owned(), 1.0),
        ] {
            assert_eq!(figure(&page, &series), Some(expected), "{series}: {page}");
        }
        // The primary address, two blocks and a single one.
        says(&host, &of_eni("eni_slots_used", ""), 4.0).await;
    }
}

#[tokio::test]
async fn what_the_driver_needs_and_lacks_shows() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (host, pool) = fleet.started(1, &[("EC2_IPAM_WARM_TARGET", "1"), ("EC2_IPAM_RECONCILE_INTERVAL", "1s")]).await;
    host.lease(&pool).await;
    says(&host, &of_eni("eni_addresses", "warm"), 1.0).await;
    // The journal is ahead of the table.
    says(&host, "ec2_ipam_journal_unposted_addresses", 0.0).await;
    let since = figure(&page(&host).await, "ec2_ipam_store_last_success_timestamp_seconds").unwrap();
    host.proxy.as_ref().unwrap().away(true);
    host.lease(&pool).await;
    says(&host, "ec2_ipam_store_up", 0.0).await;
    says(&host, "ec2_ipam_journal_unposted_addresses", 1.0).await;
    let away = page(&host).await;
    assert!(figure(&away, "ec2_ipam_journal_unposted_seconds").unwrap() > 0.0, "{away}");
    host.proxy.as_ref().unwrap().away(false);
    says(&host, "ec2_ipam_journal_unposted_addresses", 0.0).await;
    says(&host, "ec2_ipam_store_up", 1.0).await;
    let now = figure(&page(&host).await, "ec2_ipam_store_last_success_timestamp_seconds").unwrap();
    assert!(now > since, "{now} > {since}");

    // Throttled once, and tried again by itself.
    says(&host, &of_eni("eni_addresses", "warm"), 1.0).await;
    fleet.vpc.fail(Fault::on(ASSIGN, FaultKind::Throttle));
    let throttled = "ec2_ipam_ec2_throttled_total{action=\"AssignPrivateIpAddresses\"}";
    host.lease(&pool).await;
    says(&host, throttled, 1.0).await;
    assert_eq!(
        figure(
            &page(&host).await,
            "ec2_ipam_ec2_calls_total{action=\"AssignPrivateIpAddresses\",code=\"RequestLimitExceeded\"}"
        ),
        Some(1.0)
    );
}

/// Where nothing was compared nothing is said to have been.
#[tokio::test]
async fn a_comparison_counts_once_table_ec2_and_docker_were_read() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (mut host, pool) =
        fleet.started(1, &[("EC2_IPAM_RECONCILE_INTERVAL", "1s"), ("EC2_IPAM_WARM_TARGET", "1")]).await;
    host.lease(&pool).await;
    const AT: &str = "ec2_ipam_reconciled_timestamp_seconds";
    eventually("it was compared", async || figure(&page(&host).await, AT).is_some()).await;
    says(&host, &of_eni("eni_addresses", "warm"), 1.0).await;
    host.proxy.as_ref().unwrap().away(true);
    host.restart().await;
    host.lease(&pool).await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(figure(&page(&host).await, AT), None);
    assert!(host.ask(&["status"]).await.1.contains("\nnot reconciled yet\n"));
    host.proxy.as_ref().unwrap().away(false);
    eventually("it is compared", async || figure(&page(&host).await, AT).is_some()).await;
}

#[tokio::test]
async fn a_subnet_has_no_figures_before_it_is_filled() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let (host, _) = fleet.started(1, &[("EC2_IPAM_RECONCILE_INTERVAL", "1h")]).await;
    // As another host's first look at a new subnet finds it: the ENI's own row, and no other yet.
    let unfilled = "DELETE FROM allocation WHERE ip <> '10.77.0.4'";
    host.sql(unfilled, unfilled).await;
    for _ in 0..3 {
        let shown = page(&host).await;
        let figures = shown.lines().filter_map(|line| line.strip_prefix("ec2_ipam_subnet_addresses{")?.split_once(' '));
        let all: f64 = figures.map(|(_, addresses)| addresses.parse::<f64>().unwrap()).sum();
        // A scan of the driver's own may fill it meanwhile.
        assert!(all == 0.0 && !shown.contains("ec2_ipam_subnet_addresses{") || all == 256.0, "{shown}");
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
    host.tell(&["init", SUBNET]).await;
    let free = format!("ec2_ipam_subnet_addresses{{subnet=\"{SUBNET}\",state=\"free\"}}");
    says(&host, &free, 250.0).await;
}

#[tokio::test]
async fn nobody_keeps_the_port_busy_for_others() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let mut host = fleet.host(1);
    host.set(&[("EC2_IPAM_METRICS", METRICS)]);
    host.start().await;
    let mut flood = Vec::new();
    for _ in 0..200 {
        flood.push(host.connect_tcp("127.0.0.9", METRICS).await);
    }
    let begun = std::time::Instant::now();
    let url = format!("http://{METRICS}/metrics");
    let shown = host.program("curl", &["-s", "-m", "5", "--interface", "127.0.0.2", &url]).await;
    assert!(shown.contains("ec2_ipam_build_info{") && begun.elapsed().as_secs() < 2, "{:?}", begun.elapsed());
    assert!(host.log().contains("16 connections from 127.0.0.9 at once"), "{}", host.log());
    drop(flood);
}

#[tokio::test]
async fn scrapes_are_answered_where_they_are_wanted_and_nothing_else_is() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let mut host = fleet.host(1);
    host.set(&[
        ("EC2_IPAM_METRICS", METRICS),
        ("EC2_IPAM_LISTEN", &format!("unix://{},http://127.0.0.1:8031", host.socket().display())),
    ]);
    host.start().await;
    host.pool().await;
    let code = ["-s", "-o", "/dev/null", "-w", "%{http_code} %{content_type}"];
    let curl = async |args: &[&str]| host.program("curl", &[&code, args].concat()).await;
    let (metrics, own) = (format!("http://{METRICS}/metrics"), host.socket());
    eventually("it listens", async || curl(&[&metrics]).await == "200 text/plain; version=0.0.4; charset=utf-8").await;
    let open = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(
        curl(&["-H", "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5", &metrics]).await,
        format!("200 {open}")
    );
    for accept in [
        ["Accept: text/plain;q=0.5", "Accept: APPLICATION/OPENMETRICS-TEXT"],
        ["Accept: */*;q=0.1", "Accept: application/openmetrics-text;q=0.2"],
    ] {
        assert_eq!(curl(&["-H", accept[0], "-H", accept[1], &metrics]).await, format!("200 {open}"), "{accept:?}");
    }
    let no = curl(&["-H", "Accept: application/openmetrics-text;q=0,text/plain", &metrics]).await;
    assert!(no.starts_with("200 text/plain;"), "{no}");
    assert!(curl(&["-I", &metrics]).await.starts_with("200 "));
    assert!(curl(&["-d", "{}", &metrics]).await.starts_with("405 "));
    for path in ["/", "/v1/status", "/Plugin.Activate", "/IpamDriver.RequestAddress", "/metrics/x"] {
        assert!(curl(&["-d", "{}", &format!("http://{METRICS}{path}")]).await.starts_with("404 "), "{path}");
    }
    // Whoever may ask for addresses over TCP is not told how the fleet is.
    assert!(curl(&["http://127.0.0.1:8031/metrics"]).await.starts_with("405 "));
    let own = ["--unix-socket", own.to_str().unwrap(), "http://driver/metrics"];
    assert!(curl(&own).await.starts_with("200 "));
    assert!(curl(&[&own[..], &["-d", "{}"]].concat()).await.starts_with("405 "));
}

#[tokio::test]
async fn a_port_that_somebody_else_has_keeps_nothing_from_working() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let mut host = fleet.host(1);
    host.set(&[("EC2_IPAM_METRICS", METRICS)]);
    let other = host.listener_at(9809);
    host.start().await;
    let pool = host.pool().await;
    host.lease(&pool).await;
    eventually("it says so", async || host.log().contains("EC2_IPAM_METRICS is 127.0.0.1:9809, but that cannot be"))
        .await;
    let doctor = async || host.ask(&["doctor"]).await.1;
    let text = doctor().await;
    assert!(
        text.contains(&format!("warn  metrics: EC2_IPAM_METRICS is {METRICS}, but that cannot be listened on: ")),
        "{text}"
    );
    drop(other);
    let metrics = format!("http://{METRICS}/metrics");
    eventually("it listens", async || host.program("curl", &["-s", &metrics]).await.contains("ec2_ipam_build_info{"))
        .await;
    let text = doctor().await;
    assert!(text.contains(&format!("\nok    metrics: at http://{METRICS}/metrics\n")), "{text}");
}

#[tokio::test]
async fn promtool_and_prometheus_read_them() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let mut host = fleet.host(1);
    let docker = host.docker();
    host.set(&[("EC2_IPAM_METRICS", METRICS), ("EC2_IPAM_WARM_TARGET", "4")]);
    host.start().await;
    let pool = host.pool().await;
    docker.runs(&[host.lease(&pool).await]);
    eventually("it is warm", async || host.mine(State::Ready).await.len() == 4).await;
    // A scrape has the subnet read, for the next one. Free are all but AWS's five, the primary address and five more.
    let subnet =
        |name, state| format!("ec2_ipam_subnet_{name}{{subnet=\"subnet-0aaaaaaaaaaaaaaa1\",state=\"{state}\"}}");
    says(&host, &subnet("addresses", "free"), 245.0).await;
    let shown = page(&host).await;
    let [whole, broken, full] =
        ["whole", "broken", "full"].map(|state| figure(&shown, &subnet("blocks", state)).unwrap());
    assert!(whole + broken + full == 14.0 && (0.0..=5.0).contains(&broken) && full == 0.0, "{shown}");
    let socket = host.socket();
    let check = format!(
        "curl -sS --unix-socket {} http://driver/metrics | promtool check metrics && echo clean",
        socket.display()
    );
    assert_eq!(host.program("sh", &["-c", &check]).await.trim(), "clean");

    documented(&host).await;

    let prometheus = Prometheus::start(&host);
    eventually("it has scraped", async || prometheus.ask(&host, "up{job=\"ec2-ipam\"}").await == json!("1")).await;
    for (query, expected) in [
        ("sum(ec2_ipam_eni_addresses{state=\"lease\"})", "1"),
        ("sum(ec2_ipam_grants_total)", "1"),
        ("histogram_quantile(1, sum by (le) (ec2_ipam_grant_seconds_bucket)) > 0 and vector(1) or vector(0)", "*"),
    ] {
        eventually(query, async || {
            let found = prometheus.ask(&host, query).await;
            if expected == "*" { found != json!("0") && !found.is_null() } else { found == json!(expected) }
        })
        .await;
    }
    let dashboard: Value = serde_json::from_str(&read("packaging/prometheus/dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let queries = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let queries: Vec<String> = queries
        .map(|target| target["expr"].as_str().unwrap().replace("$__rate_interval", "1m").replace("$instance", ".*"))
        .collect();
    assert!(queries.len() > 15);
    for query in queries {
        let told = prometheus.told(&host, &query).await;
        assert_eq!(told["status"], "success", "{query}: {told}");
    }
    let samples = prometheus.ask(&host, "scrape_samples_scraped").await;
    assert!(samples.as_str().unwrap().parse::<u32>().unwrap() > 50, "{samples}");
}

#[test]
fn alarms_go_off_when_they_should_and_say_what_to_do() {
    let tested = Command::new("promtool")
        .args(["test", "rules", "ec2-ipam.rules.test.yml"])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/prometheus"))
        .output()
        .expect("promtool is needed");
    assert!(tested.status.success(), "{}", String::from_utf8_lossy(&[tested.stdout, tested.stderr].concat()));
    let rules = read("packaging/prometheus/ec2-ipam.rules.yml");
    let tests = read("packaging/prometheus/ec2-ipam.rules.test.yml");
    let page = read("docs/metrics.md");
    let alarms: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    let remedies: Vec<&str> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("remedy: docs/metrics.md#")).collect();
    assert!(alarms.len() > 10);
    assert_eq!(remedies, alarms.iter().map(|alarm| alarm.to_lowercase()).collect::<Vec<_>>());
    for alarm in alarms {
        assert!(page.contains(&format!("\n### {alarm}\n")), "docs/metrics.md says nothing of {alarm}");
        let goes_off = format!("alertname: {alarm}\n        exp_alerts:");
        assert!(tests.contains(&goes_off), "{alarm} is not seen to go off");
    }
}

/// Every metric is on its page, with its labels, and the page names no other.
async fn documented(host: &Host) {
    let text = read("docs/metrics.md");
    let shown = page(host).await;
    let types = shown.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let shown: BTreeSet<&str> = types.collect();
    let rows = text.lines().filter(|line| line.starts_with("| `ec2_ipam_"));
    let names = rows.flat_map(|row| row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2));
    assert_eq!(shown, names.collect::<BTreeSet<&str>>());
}

/// A real one, in the host's network, until it is dropped.
struct Prometheus {
    child: Child,
    _dir: tempfile::TempDir,
}

impl Prometheus {
    fn start(host: &Host) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("prometheus.yml");
        let text = format!(
            "scrape_configs: [{{job_name: ec2-ipam, scrape_interval: 1s, static_configs: [{{targets: ['{METRICS}']}}]}}]\n"
        );
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
            .arg("--web.listen-address=127.0.0.1:9090")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Self { child: host.beside(command), _dir: dir }
    }

    /// The first value of an instant query; null: none.
    async fn ask(&self, host: &Host, query: &str) -> Value {
        self.told(host, query).await["data"]["result"][0]["value"][1].clone()
    }

    async fn told(&self, host: &Host, query: &str) -> Value {
        let told = host
            .program(
                "curl",
                &["-s", "--data-urlencode", &format!("query={query}"), "http://127.0.0.1:9090/api/v1/query"],
            )
            .await;
        serde_json::from_str(&told).unwrap_or_default()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
