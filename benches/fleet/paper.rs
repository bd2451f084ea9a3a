//! A fleet on paper: 1,000 hosts start 30 containers each, within the EC2 calls that an account is given.
//!
//! Simulated are time, EC2's bucket, and Docker, which asks for one address after the other; how much is asked of EC2, and
//! when again after a refusal, are the driver's own decisions.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use ec2_ipam::backoff::Backoff;
use ec2_ipam::domain::plan::Burst;
use ec2_ipam::outside::ec2::{ATTEMPTS, throttle_pause};
use serde_json::json;
use tokio::time::Instant;

use super::figures::Report;
use super::plot::{self, Line, cumulated};

const HOSTS: usize = 1000;
const CONTAINERS: usize = 30;
/// Of the largest instance types: 50 addresses an interface, the primary included.
const LIMIT: usize = 49;
const TARGET: usize = 4;
/// What we reckon with for changing calls of an account and region (EC2's documentation of its default buckets).
const BUCKET: f64 = 50.0;
const REFILL: f64 = 5.0;
const ANSWER: Duration = Duration::from_millis(200);
/// From one container's address to the next one's request.
const CONTAINER: Duration = Duration::from_millis(300);
/// The driver's bound of a request; who started the container tries again so much later.
const PATIENCE: Duration = Duration::from_millis(18_500);
const TRY_AGAIN: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// Docker asks for an address.
    Ask,
    /// It has waited long enough.
    GiveUp(u64),
    /// The driver calls EC2, for the so-manieth time for the same addresses.
    Call(u32),
    /// EC2's yes.
    Assigned,
    /// The warm target is looked after.
    TopUp,
}

struct Host {
    placed: usize,
    warm: usize,
    burst: Burst,
    backoff: Backoff,
    /// The number of the request that waits.
    waiting: Option<u64>,
    requests: u64,
    /// A call, or a pause between two, is under way.
    busy: bool,
    /// For so many addresses.
    asks: usize,
}

impl Host {
    fn lacking(&self) -> usize {
        TARGET.saturating_sub(self.warm)
    }

    fn wants_call(&self) -> bool {
        self.waiting.is_some() || self.lacking() > 0
    }
}

/// When each container got its address in seconds, how many calls EC2 took, and how many requests ended in vain.
fn simulate() -> (Vec<f64>, usize, usize) {
    let start = Instant::now();
    let mut hosts: Vec<Host> = (0..HOSTS)
        .map(|_| Host {
            placed: 0,
            warm: 0,
            burst: Burst::none(start),
            backoff: Backoff::default(),
            waiting: None,
            requests: 0,
            busy: false,
            asks: 0,
        })
        .collect();
    let mut events: BinaryHeap<Reverse<(Duration, usize, Event)>> =
        (0..HOSTS).map(|n| Reverse((Duration::ZERO, n, Event::Ask))).collect();
    let (mut tokens, mut filled) = (BUCKET, Duration::ZERO);
    let (mut placed, mut calls, mut refused) = (Vec::new(), 0, 0);
    while let Some(Reverse((now, n, event))) = events.pop() {
        let host = &mut hosts[n];
        let mut at = |later: Duration, event| events.push(Reverse((now + later, n, event)));
        match event {
            Event::Ask if host.placed == CONTAINERS => continue,
            Event::Ask if host.warm > 0 => {
                host.warm -= 1;
                host.placed += 1;
                placed.push(now.as_secs_f64());
                at(CONTAINER, Event::Ask);
                at(Duration::from_secs(1), Event::TopUp);
            }
            Event::Ask => {
                host.requests += 1;
                host.waiting = Some(host.requests);
                at(PATIENCE, Event::GiveUp(host.requests));
                if !host.busy {
                    host.busy = true;
                    at(Duration::ZERO, Event::Call(0));
                }
            }
            Event::GiveUp(number) => {
                if host.waiting == Some(number) {
                    host.waiting = None;
                    refused += 1;
                    at(TRY_AGAIN, Event::Ask);
                }
            }
            Event::TopUp => {
                if !host.busy && host.lacking() > 0 {
                    host.busy = true;
                    at(Duration::ZERO, Event::Call(0));
                }
            }
            Event::Call(_) if !host.wants_call() => host.busy = false,
            Event::Call(attempt) => {
                tokens = BUCKET.min(tokens + (now - filled).as_secs_f64() * REFILL);
                filled = now;
                if attempt == 0 {
                    let waiting = usize::from(host.waiting.is_some());
                    let wanted = host.burst.refill(waiting + host.lacking(), waiting > 0, start + now);
                    host.asks = wanted.min(LIMIT - host.placed - host.warm);
                }
                if host.asks == 0 {
                    host.busy = false;
                } else if tokens >= 1.0 {
                    tokens -= 1.0;
                    calls += 1;
                    at(ANSWER, Event::Assigned);
                } else if attempt + 1 < ATTEMPTS {
                    at(ANSWER + throttle_pause(attempt), Event::Call(attempt + 1));
                } else {
                    at(ANSWER + host.backoff.fails(), Event::Call(0));
                }
            }
            Event::Assigned => {
                host.backoff.succeeds();
                host.busy = false;
                host.warm += host.asks;
                if host.waiting.take().is_some() {
                    at(Duration::ZERO, Event::Ask);
                }
            }
        }
    }
    (placed, calls, refused)
}

pub fn run(report: &mut Report) {
    let (placed, calls, refused) = simulate();
    assert_eq!(placed.len(), HOSTS * CONTAINERS);
    let took = placed.iter().copied().fold(0.0, f64::max);
    // One call a host at least.
    let least = (HOSTS as f64 - BUCKET) / REFILL;
    report.add(
        "on paper: 1,000 hosts, 30 containers each, EC2's bucket of 50 and 5 a second",
        format!("{took:.0} s, {calls} calls; {refused} starts were told to try again"),
        format!("one call a host at the bucket's own rate: {least:.0} s; {:.2} times", took / least),
        "within 1.5 times",
        json!({ "seconds": took, "calls": calls, "refused": refused, "least_seconds": least }),
    );
    let ideal = [(0.0, 0.0), (0.0, BUCKET * CONTAINERS as f64), (least, (HOSTS * CONTAINERS) as f64)];
    plot::lines(
        "paper",
        "1,000 hosts start 30 containers each within EC2's bucket (simulated)",
        "seconds",
        "containers with an address",
        &[
            Line { name: "ec2-ipam", points: cumulated(&placed) },
            Line { name: "the bucket's limit", points: ideal.to_vec() },
        ],
    );
}
