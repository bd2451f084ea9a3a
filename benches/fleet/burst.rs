//! Many containers start at once, and no address is warm.

use std::time::{Duration, Instant};

use ec2_ipam::domain::address::State;
use futures_util::future::join_all;
use serde_json::json;
use vpc_sim::Switches;

use super::figures::{Report, Times, ms, quantile};
use super::hosts;
use super::plot::{self, Line};
use crate::support::host::{ASSIGN, Fleet, Host, Kind, SUBNET, agree, eventually};

const HOSTS: u8 = 16;
const ROUNDS: usize = 5;
const LATENCY: Duration = Duration::from_millis(200);

/// How the containers of a host come.
#[derive(Clone, Copy)]
enum Order {
    /// All at once, as on several networks, or from an orchestrator that asks by itself.
    Together(usize),
    /// One after the other, as the Engine asks on one network.
    InTurn(usize),
}

pub async fn run(report: &mut Report) {
    let (times, calls, points) = measure(Order::Together(10)).await;
    report.add(
        "cold burst: 16 hosts, 10 addresses each at once, EC2 at 200 ms",
        told(&times, &calls),
        "the original, measured earlier: 32 s".into(),
        "under 350 ms; 1 call a host",
        json!({ "total": times.json(), "assign_calls_a_host": calls }),
    );
    let last = points.last().map_or(0.0, |point| point.0);
    // Its five a second, as measured earlier on a machine of this size.
    let original =
        (0..=160).map(|n| (f64::from(n) * 200.0, f64::from(n))).take_while(|point| point.0 <= last * 8.0).collect();
    plot::lines(
        "burst",
        "160 containers on 16 hosts ask at once, nothing is warm, EC2 answers after 200 ms",
        "milliseconds",
        "addresses given",
        &[Line { name: "ec2-ipam", points }, Line { name: "the original: 5 a second", points: original }],
    );
    let (times, calls, _) = measure(Order::InTurn(30)).await;
    report.add(
        "the same one at a time: 16 hosts, 30 addresses each",
        told(&times, &calls),
        String::new(),
        "under 1500 ms; at most 4 calls a host",
        json!({ "total": times.json(), "assign_calls_a_host": calls }),
    );
}

fn told(times: &Times, calls: &[usize]) -> String {
    let mean = calls.iter().sum::<usize>() as f64 / calls.len() as f64;
    let most = calls.iter().max().unwrap();
    let total = ms(times.median());
    format!("{total} in all (median of {ROUNDS} rounds), {mean:.2} Assign calls a host, {most} at most")
}

/// The time of each round, the Assign calls of each host in each, and when each address of a middling round came.
async fn measure(order: Order) -> (Times, Vec<usize>, Vec<(f64, f64)>) {
    let fleet = Fleet::with(Kind::Mariadb, "10.77.0.0/19", Switches::default()).await;
    let mut hosts = Vec::new();
    for n in 1..=HOSTS {
        hosts.push(hosts::started(&fleet, n, "m5.24xlarge", &[]).await);
    }
    let (mut times, mut made, mut rounds) = (Times::default(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let pools = join_all(hosts.iter().map(empty_pool)).await;
        fleet.vpc.forget_calls();
        fleet.vpc.latency(LATENCY);
        let began = Instant::now();
        let each = hosts.iter().zip(&pools).map(async |(host, pool)| {
            let one = async |_| (host.lease(pool).await, began.elapsed());
            match order {
                Order::Together(count) => join_all((0..count).map(one)).await,
                Order::InTurn(count) => {
                    let mut given = Vec::new();
                    for n in 0..count {
                        given.push(one(n).await);
                    }
                    given
                }
            }
        });
        let given = join_all(each).await;
        times.push(began.elapsed());
        rounds.push(given.iter().flatten().map(|(_, at)| at.as_secs_f64() * 1e3).collect::<Vec<_>>());
        fleet.vpc.latency(Duration::ZERO);
        let calls = fleet.vpc.calls();
        let of_host = |host: &Host| {
            calls.iter().filter(|call| call.action == ASSIGN && call.eni.as_ref() == Some(&host.eni)).count()
        };
        made.extend(hosts.iter().map(of_host));
        agree(&hosts.iter().collect::<Vec<_>>()).await;
        for ((host, pool), given) in hosts.iter().zip(&pools).zip(given) {
            for (ip, _) in given {
                host.release(pool, ip).await;
            }
        }
        // A life that has seen no burst yet.
        for host in &mut hosts {
            host.restart().await;
        }
    }
    rounds.sort_by(|a, b| quantile(a, 1.0).total_cmp(&quantile(b, 1.0)));
    (times, made, plot::cumulated(&rounds[ROUNDS / 2]))
}

/// A pool whose ENI has nothing, and refills nothing before it is asked.
async fn empty_pool(host: &Host) -> String {
    let pool = host.pool().await;
    eventually("nothing is on the interface", async || {
        host.tell(&["recycle", SUBNET]).await;
        host.mine(State::Ready).await.is_empty() && host.assigned().is_empty()
    })
    .await;
    pool
}
