//! The driver measured as a fleet uses it: the real binary on real databases and a real Engine, AWS simulated.
//!
//!     cargo bench --bench fleet -- [PART...]
//!
//! Prints one table, and leaves `bench.json` and plots in build/bench. What is compared is measured in turn within one
//! run, so that a machine whose speed drifts favours neither side. Nothing passes or fails here: goals stand beside what
//! was measured.
#![allow(
    unreachable_pub,
    missing_docs,
    dead_code,
    unused_macros,
    unused_imports,
    reason = "a bench has no outside, and uses a part of the tests' support"
)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::wildcard_enum_match_arm,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::large_futures,
    clippy::exit,
    reason = "a bench ends at the first surprise, and prints what it measured"
)]

#[path = "../../tests/support/mod.rs"]
mod support;

mod blocks;
mod burst;
mod churn;
mod claims;
mod docker;
mod figures;
mod hosts;
mod life;
mod paper;
mod plot;
mod server;
mod warm;
mod watch;

use figures::Report;

const PARTS: [&str; 10] = ["warm", "burst", "server", "watch", "claims", "life", "docker", "paper", "blocks", "churn"];

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    // `cargo bench` adds options of its own.
    let asked: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    if let Some(unknown) = asked.iter().find(|word| !PARTS.contains(&word.as_str())) {
        eprintln!("no such part: {unknown}; there are {}", PARTS.join(", "));
        std::process::exit(2);
    }
    let wants = |part: &str| asked.is_empty() || asked.iter().any(|word| word == part);
    let mut report = Report::new();
    for part in PARTS.into_iter().filter(|part| wants(part)) {
        eprintln!("-- {part}");
        match part {
            "warm" => warm::run(&mut report).await,
            "burst" => burst::run(&mut report).await,
            "server" => server::run(&mut report).await,
            "watch" => watch::run(&mut report).await,
            "claims" => claims::run(&mut report).await,
            "life" => life::run(&mut report).await,
            "docker" => docker::run(&mut report),
            "paper" => paper::run(&mut report),
            "blocks" => blocks::run(&mut report).await,
            _ => churn::run(&mut report).await,
        }
    }
    report.write();
}
