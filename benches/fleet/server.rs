//! One server for the Engines of many hosts: all of them start and stop containers at once, each by connections of its own.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use nix::sys::resource::{Resource, setrlimit};
use serde_json::json;
use tokio::net::TcpStream;

use super::figures::{Report, Times, timed};
use super::life::resident;
use crate::support::host::{Fleet, Host, Kind, Wire, request};
use vpc_sim::Switches;

const HOSTS: u8 = 16;
/// Connections of each Engine.
const EACH: usize = 4;
const LONG: Duration = Duration::from_secs(5);

pub async fn run(report: &mut Report) {
    let fleet = Fleet::with(Kind::Mariadb, "10.77.0.0/22", Switches::default()).await;
    let mut server = fleet.host_of(1, "m5.24xlarge");
    let listen = format!("unix://{} http://0.0.0.0:8031", server.socket().display());
    server.set(&[("EC2_IPAM_LISTEN", &listen), ("EC2_IPAM_LISTEN_PLAIN", "true"), ("EC2_IPAM_DISTANT", "true")]);
    server.set(&[("EC2_IPAM_COOLDOWN", "0s"), ("EC2_IPAM_LOG", "warn")]);
    if let Some(db) = &fleet.db {
        server.set(&[("EC2_IPAM_DATABASE_URL", &db.url_here())]);
    }
    let hosts: Vec<Host> = (2..2 + HOSTS).map(|n| fleet.host_of(n, "m5.24xlarge")).collect();
    let own = |host: &Host| fleet.vpc.primary(&host.eni).to_string();
    for host in &hosts {
        server.ip(&format!("addr add {}/32 dev lo", own(host)));
    }
    server.start().await;
    let pools = join_all(hosts.iter().map(|host| server.pool_with("", json!({ "eni-id": host.eni })))).await;
    let engines: Vec<(String, String)> = hosts.iter().map(own).zip(pools.into_iter().map(Result::unwrap)).collect();
    let all = || engines.iter().flat_map(|engine| std::iter::repeat_n(engine, EACH));
    // Once for warmth.
    join_all(all().map(|engine| containers(&server, engine, Duration::from_secs(2)))).await;
    let (began, used) = (Instant::now(), cpu(&server));
    let done = join_all(all().map(|engine| containers(&server, engine, LONG))).await;
    let (took, used) = (began.elapsed().as_secs_f64(), cpu(&server) - used);
    let mut grants = Times::default();
    done.into_iter().for_each(|times| grants.join(times));
    let rate = grants.all().len() as f64 / took;
    report.add(
        &format!("{HOSTS} Engines, {EACH} connections each, start and stop by one server"),
        format!("{rate:.0} starts a second, each with its stop; {}; {:.2} processors", grants.text(), used / took),
        "the original, measured earlier: 126 starts a second at 16 hosts".into(),
        "2,000 starts a second on two processors",
        json!({ "starts_per_s": rate, "cpu": used / took, "times": grants.json() }),
    );
    crowd(&server, report).await;
}

/// What a thousand Engines keep open, each from an address of its own, while one of them stops and starts containers.
async fn crowd(server: &Host, report: &mut Report) {
    setrlimit(Resource::RLIMIT_NOFILE, 16_384, 16_384).unwrap();
    let before = resident(server.pid()).1;
    let began = Instant::now();
    let connect = async |n: usize| {
        let from = format!("127.1.{}.{}", n / 6 / 250, n / 6 % 250 + 1);
        let mut wire = server.wire(server.connect_tcp(&from, "127.0.0.1:8031").await);
        wire.send(&request("/Plugin.Activate", "")).await;
        assert_eq!(wire.answer().await.unwrap().status, 200);
        wire
    };
    let mut kept: Vec<Wire<'_, TcpStream>> = stream::iter(0..6000).map(connect).buffer_unordered(64).collect().await;
    let took = began.elapsed();
    let memory = resident(server.pid()).1 - before;
    let mut answered = 0;
    for wire in &mut kept {
        wire.send(&request("/IpamDriver.GetCapabilities", "")).await;
        answered += usize::from(wire.answer().await.is_some_and(|answer| answer.status == 200));
    }
    report.add(
        "1,000 Engines keep six connections each to one server",
        format!("{answered} of 6000 answered again; there after {:.1} s; {memory:.0} MB more", took.as_secs_f64()),
        String::new(),
        "all",
        json!({ "answered": answered, "mb": memory }),
    );
}

/// One container after the other, for so long; how long each start took.
async fn containers(server: &Host, (own, pool): &(String, String), long: Duration) -> Times {
    let mut wire = server.wire(server.connect_tcp(own, "127.0.0.1:8031").await);
    let mut times = Times::default();
    let call = |path: &str, body: serde_json::Value| request(&format!("/IpamDriver.{path}"), &format!("{body}\n"));
    let began = Instant::now();
    while began.elapsed() < long {
        wire.send(&call("RequestAddress", json!({ "PoolID": pool, "Address": "", "Options": null }))).await;
        let (time, answer) = timed(wire.answer()).await;
        times.push(time);
        let given = answer.unwrap().outcome().unwrap();
        let ip = given["Address"].as_str().unwrap().split('/').next().unwrap();
        wire.send(&call("ReleaseAddress", json!({ "PoolID": pool, "Address": ip }))).await;
        wire.answer().await.unwrap().outcome().unwrap();
    }
    times
}

/// Processor time of the server until now, in seconds.
pub fn cpu(server: &Host) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.pid())).unwrap();
    // After the name, which ends with the last parenthesis: the 12th and 13th field, in hundredths.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    [11, 12].iter().map(|n| fields[*n].parse::<f64>().unwrap()).sum::<f64>() / 100.0
}
