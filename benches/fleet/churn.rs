//! Containers come and go on a whole fleet: what it costs in EC2 calls, whether anything drifts, whether memory grows.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;
use vpc_sim::Switches;

use super::figures::{Report, Times, timed};
use super::hosts;
use super::life::resident;
use super::plot::{self, Line};
use crate::support::host::{ASSIGN, Fleet, Host, Kind, UNASSIGN, agree};

const HOSTS: u8 = 64;
/// Containers that run on a host at a time.
const RUNNING: usize = 5;
/// Starts a second on each host.
const RATE: f64 = 8.0;

pub async fn run(report: &mut Report) {
    let leases: usize =
        std::env::var("CHURN").map_or(100_000, |given| given.parse().expect("CHURN is a number of leases"));
    let each = leases / usize::from(HOSTS);
    let fleet = Fleet::with(Kind::Mariadb, "10.77.0.0/19", Switches::default()).await;
    let mut hosts = Vec::new();
    for n in 1..=HOSTS {
        let host = hosts::started(&fleet, n, "m5.24xlarge", &[("EC2_IPAM_COOLDOWN", "1s")]).await;
        let pool = host.pool().await;
        hosts.push((host, pool));
    }
    fleet.vpc.latency(Duration::from_millis(200));
    fleet.vpc.forget_calls();
    let began = Instant::now();
    let churn = hosts.iter().map(|(host, pool)| containers(host, pool, each));
    let watch = async {
        let (mut points, mut last) = (Vec::new(), 0.0);
        loop {
            let memory: Vec<f64> = hosts.iter().map(|(host, _)| resident(host.pid()).0).collect();
            points.push((last, memory.iter().sum::<f64>() / memory.len() as f64));
            tokio::time::sleep(Duration::from_secs(5)).await;
            last = began.elapsed().as_secs_f64();
            if last > each as f64 / RATE {
                return points;
            }
        }
    };
    let (times, points) = tokio::join!(join_all(churn), watch);
    let took = began.elapsed();
    fleet.vpc.latency(Duration::ZERO);
    let calls = fleet.vpc.count(ASSIGN) + fleet.vpc.count(UNASSIGN);
    agree(&hosts.iter().map(|(host, _)| host).collect::<Vec<_>>()).await;
    let mut all = Times::default();
    times.into_iter().for_each(|times| all.extend(times));
    let done = all.all().len();
    report.add(
        &format!("churn: {done} leases on {HOSTS} hosts, cool-down 1 s, EC2 at 200 ms"),
        format!(
            "{:.0} starts a second; {calls} Assign and Unassign calls, {:.2} in 100 leases; start {}; rows and EC2 agree",
            done as f64 / took.as_secs_f64(),
            calls as f64 * 100.0 / done as f64,
            all.text()
        ),
        String::new(),
        "fewer than 1 call in 100 leases, no drift",
        json!({ "leases": done, "seconds": took.as_secs_f64(), "ec2_calls": calls, "start": all.json() }),
    );
    // The first tenth is what starting takes.
    let (early, late) = (points[points.len() / 10].1, points[points.len() - 1].1);
    report.add(
        "memory through the churn, RssAnon of a driver in the mean",
        format!("{early:.1} MB after a tenth of it, {late:.1} MB at its end"),
        String::new(),
        "no growth",
        json!({ "rssanon_mb": points }),
    );
    plot::lines(
        "memory",
        "Memory of a driver through the churn (mean of 64)",
        "seconds",
        "RssAnon, MB",
        &[Line { name: "ec2-ipam", points }],
    );
}

/// Containers one after the other, some of them running at a time.
async fn containers(host: &Host, pool: &str, count: usize) -> Vec<Duration> {
    let (mut running, mut times) = (VecDeque::<Ipv4Addr>::new(), Vec::new());
    let began = tokio::time::Instant::now() + Duration::from_secs_f64(fastrand::f64() / RATE);
    for n in 0..count {
        tokio::time::sleep_until(began + Duration::from_secs_f64(n as f64 / RATE)).await;
        let (time, ip) = timed(host.lease(pool)).await;
        times.push(time);
        running.push_back(ip);
        if running.len() > RUNNING
            && let Some(ip) = running.pop_front()
        {
            host.release(pool, ip).await;
        }
    }
    for ip in running {
        host.release(pool, ip).await;
    }
    times
}
