//! An interface filled by containers one after the other, through the real binary: how many calls that takes, and how long.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vpc_sim::Switches;

use crate::figures::Report;
use crate::hosts;
use crate::support::host::{Fleet, Kind, agree};

const LATENCY: Duration = Duration::from_millis(200);

pub(super) async fn run(report: &mut Report) {
    let (blocks, singles) = (filled("auto", 144).await, filled("never", 9).await);
    report.add(
        "a c5.large filled by 144 containers, one after the other, EC2 at 200 ms",
        blocks.told(),
        format!("without blocks by 9: {}", singles.told()),
        "10 EC2 calls or fewer, 3 s",
        json!({ "blocks": blocks.json(), "singles": singles.json() }),
    );
}

/// An interface that was filled.
struct Filled {
    took: Duration,
    /// What EC2 was asked, and how often.
    calls: BTreeMap<String, usize>,
}

impl Filled {
    fn told(&self) -> String {
        let calls: Vec<String> = self.calls.iter().map(|(action, count)| format!("{count} {action}")).collect();
        format!("{:.2} s, EC2 calls: {}", self.took.as_secs_f64(), calls.join(", "))
    }

    fn json(&self) -> Value {
        json!({ "seconds": self.took.as_secs_f64(), "calls": self.calls })
    }
}

async fn filled(blocks: &str, most: usize) -> Filled {
    let fleet = Fleet::with(Kind::Mariadb, "10.77.0.0/20", Switches::default()).await;
    let host = hosts::started(&fleet, 1, "c5.large", &[("EC2_IPAM_BLOCKS", blocks)]).await;
    let pool = host.pool().await;
    fleet.vpc.latency(LATENCY);
    fleet.vpc.forget_calls();
    let began = Instant::now();
    for _ in 0..most {
        host.lease(&pool).await;
    }
    let took = began.elapsed();
    let mut calls = BTreeMap::new();
    for call in fleet.vpc.calls() {
        *calls.entry(call.action.to_string()).or_default() += 1;
    }
    fleet.vpc.latency(Duration::ZERO);
    agree(&[&host]).await;
    Filled { took, calls }
}
