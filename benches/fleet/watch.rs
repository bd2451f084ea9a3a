//! What a scrape costs, and the dashboard as a real Prometheus fills it: hosts with containers that come and go, a table that
//! is away for a while, an EC2 that throttles.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;
use vpc_sim::{Fault, FaultKind, Switches};

use super::figures::{Report, Times, timed};
use super::plot::{self, Panel};
use super::server::cpu;
use crate::support::host::{ASSIGN, Fleet, Host, Kind, request};

const HOSTS: u8 = 4;
/// What the picture shows.
const LONG: Duration = Duration::from_secs(120);

pub async fn run(report: &mut Report) {
    scrapes(report).await;
    dashboard(report).await;
}

/// One server with a thousand leases: twenty-one ENIs of the largest kind.
async fn scrapes(report: &mut Report) {
    let fleet = Fleet::with(Kind::Mariadb, "10.77.0.0/20", Switches::default()).await;
    let mut server = fleet.host_of(1, "m5.24xlarge");
    let listen = format!("unix://{} http://127.0.0.1:8031", server.socket().display());
    server.set(&[("EC2_IPAM_LISTEN", &listen), ("EC2_IPAM_DISTANT", "true"), ("EC2_IPAM_LOG", "warn")]);
    let hosts: Vec<Host> = (2..23).map(|n| fleet.host_of(n, "m5.24xlarge")).collect();
    let own = |host: &Host| fleet.vpc.primary(&host.eni).to_string();
    for host in &hosts {
        server.ip(&format!("addr add {}/32 dev lo", own(host)));
    }
    server.start().await;
    let (mut bare, mut full) = (Times::default(), Times::default());
    let size = scrape(&server, &mut bare, 50).await;
    let leases: usize = join_all(hosts.iter().map(async |host| {
        let pool = server.pool_with("", json!({ "eni-id": host.eni })).await.unwrap();
        let mut wire = server.wire(server.connect_tcp(&own(host), "127.0.0.1:8031").await);
        let mut leases = 0;
        for _ in 0..48 {
            let body = json!({ "PoolID": pool, "Address": "", "Options": null });
            wire.send(&request("/IpamDriver.RequestAddress", &format!("{body}\n"))).await;
            leases += usize::from(wire.answer().await.unwrap().outcome().is_ok());
        }
        leases
    }))
    .await
    .into_iter()
    .sum();
    let (used, began) = (cpu(&server), Instant::now());
    let large = scrape(&server, &mut full, 500).await;
    let each = (cpu(&server) - used) / 500.0 * 1e3;
    report.add(
        &format!("a scrape of a server with {leases} leases on {} ENIs", hosts.len()),
        format!("{:.1} kB; {}; {each:.2} ms of a processor", large as f64 / 1e3, full.text()),
        format!("with none: {:.1} kB; {}", size as f64 / 1e3, bare.text()),
        "no question to the database",
        json!({ "bytes": large, "cpu_ms": each, "times": full.json(), "s": began.elapsed().as_secs_f64() }),
    );
}

/// The page's size in bytes.
async fn scrape(host: &Host, times: &mut Times, count: usize) -> usize {
    let mut size = 0;
    let mut stream = BufReader::new(UnixStream::connect(host.socket()).await.unwrap());
    for _ in 0..count {
        let (time, page) = timed(async {
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: driver\r\n\r\n").await.unwrap();
            read(&mut stream).await
        })
        .await;
        times.push(time);
        size = page;
    }
    size
}

/// Bytes of an answer's body.
async fn read(stream: &mut BufReader<UnixStream>) -> usize {
    let mut length = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    stream.read_exact(&mut vec![0; length]).await.unwrap();
    length
}

#[allow(clippy::disallowed_methods, reason = "Prometheus is asked by the wall clock")]
async fn dashboard(report: &mut Report) {
    let fleet = Fleet::with(Kind::Mariadb, "10.77.0.0/25", Switches::default()).await;
    fleet.vpc.latency(Duration::from_millis(200));
    let mut hosts = Vec::new();
    for n in 1..=HOSTS {
        let mut host = fleet.host_of(n, "m5.xlarge");
        host.set(&[("EC2_IPAM_COOLDOWN", "5s"), ("EC2_IPAM_WARM_TARGET", "3"), ("EC2_IPAM_WARM_MAX", "6")]);
        host.set(&[("EC2_IPAM_LOG", "error")]);
        host.start().await;
        hosts.push(host);
    }
    let prometheus = Prometheus::start(&hosts);
    let began = SystemTime::now();
    let (first, end) = (hosts.first().unwrap(), Instant::now() + LONG);
    tokio::join!(join_all(hosts.iter().zip(1..).map(|(host, busy)| containers(host, busy, end))), async {
        sleep(LONG / 3).await;
        hosts.iter().filter_map(|host| host.proxy.as_ref()).for_each(|proxy| proxy.away(true));
        sleep(LONG / 6).await;
        hosts.iter().filter_map(|host| host.proxy.as_ref()).for_each(|proxy| proxy.away(false));
        sleep(LONG / 6).await;
        fleet.vpc.fail(Fault::on(ASSIGN, FaultKind::Throttle).times(12));
    });
    let panels = prometheus.panels(first, began).await;
    let lines: usize = panels.iter().map(|panel| panel.lines.len()).sum();
    let file = plot::panels("dashboard", &panels);
    report.add(
        "the dashboard, by a real Prometheus",
        format!("{} panels with {lines} lines, in {}", panels.len(), file.display()),
        String::new(),
        "a line in each",
        json!({ "lines": lines }),
    );
}

/// Containers that come and go, more of them as time goes by.
async fn containers(host: &Host, busy: u64, end: Instant) {
    let pool = host.pool().await;
    let mut held = Vec::new();
    while Instant::now() < end {
        let most = 7 - (end - Instant::now()).as_secs() * 6 / LONG.as_secs();
        if (held.len() as u64) < most && fastrand::u8(..3) > 0 {
            // Now and then one wants an address that is somebody else's.
            let named = if fastrand::u8(..20) == 0 { "10.77.0.3" } else { "" };
            held.extend(host.request(&pool, named).await);
        } else if !held.is_empty() {
            host.release(&pool, held.swap_remove(fastrand::usize(..held.len()))).await;
        }
        sleep(Duration::from_millis(300 + 300 * busy).mul_f64(fastrand::f64())).await;
    }
}

/// A real one, in the first host's network. It reaches each driver's own socket by a port there.
struct Prometheus {
    child: Child,
    _dir: tempfile::TempDir,
    _relays: Vec<AbortOnDropHandle<()>>,
}

const ADDRESS: &str = "127.0.0.1:9190";

impl Prometheus {
    fn start(hosts: &[Host]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (mut targets, mut relays) = (String::new(), Vec::new());
        for (host, n) in hosts.iter().zip(1..) {
            let listener = hosts[0].listener();
            writeln!(
                targets,
                "      - {{targets: ['{}'], labels: {{instance: host-{n}}}}}",
                listener.local_addr().unwrap()
            )
            .unwrap();
            relays.push(AbortOnDropHandle::new(tokio::spawn(relay(listener, host.socket()))));
        }
        let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/prometheus/ec2-ipam.rules.yml");
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 2s}}\nrule_files: [{rules}]\nscrape_configs:\n  - job_name: \
             ec2-ipam\n    static_configs:\n{targets}"
        );
        let file = dir.path().join("prometheus.yml");
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
            .arg(format!("--web.listen-address={ADDRESS}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Self { child: hosts[0].beside(command), _dir: dir, _relays: relays }
    }

    /// Each panel of the dashboard, by its own queries.
    async fn panels(&self, host: &Host, began: SystemTime) -> Vec<Panel> {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/prometheus/dashboard.json");
        let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        let from = began.duration_since(UNIX_EPOCH).unwrap().as_secs();
        let mut panels = Vec::new();
        for panel in dashboard["panels"].as_array().unwrap() {
            let mut lines = Vec::new();
            for target in panel["targets"].as_array().unwrap() {
                let query =
                    target["expr"].as_str().unwrap().replace("$__rate_interval", "8s").replace("$instance", ".*");
                let url =
                    format!("http://{ADDRESS}/api/v1/query_range?start={from}&end={}&step=2", from + LONG.as_secs());
                let told = host.program("curl", &["-sS", "--data-urlencode", &format!("query={query}"), &url]).await;
                let told: Value = serde_json::from_str(&told).unwrap();
                assert_eq!(told["status"], "success", "{query}: {told}");
                lines.extend(told["data"]["result"].as_array().unwrap().iter().map(|series| {
                    let points = series["values"].as_array().unwrap().iter().map(|point| {
                        let at = point[0].as_f64().unwrap() - from as f64;
                        (at, point[1].as_str().unwrap().parse().unwrap())
                    });
                    let points = points.filter(|(_, value): &(f64, f64)| value.is_finite()).collect();
                    (legend(target["legendFormat"].as_str().unwrap(), &series["metric"]), points)
                }));
            }
            let is_stacked = panel["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] == "normal";
            panels.push(Panel { title: panel["title"].as_str().unwrap().to_owned(), lines, is_stacked });
        }
        panels
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A legend with the labels in it.
fn legend(format: &str, labels: &Value) -> String {
    labels.as_object().unwrap().iter().fold(format.to_owned(), |legend, (name, value)| {
        legend.replace(&format!("{{{{{name}}}}}"), value.as_str().unwrap_or_default())
    })
}

async fn relay(listener: std::net::TcpListener, socket: PathBuf) {
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    while let Ok((mut stream, _)) = listener.accept().await {
        let socket = socket.clone();
        tokio::spawn(async move {
            if let Ok(mut driver) = UnixStream::connect(socket).await {
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut driver).await;
            }
        });
    }
}
