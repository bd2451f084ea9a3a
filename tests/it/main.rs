//! One binary for all integration tests: it links once.
#![allow(unreachable_pub, missing_docs, reason = "a test binary has no outside")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::wildcard_enum_match_arm,
    reason = "a test ends at the first surprise, and says what it measured"
)]
#![allow(clippy::large_futures, reason = "a test may be as large as it likes")]

#[path = "../support/mod.rs"]
mod support;

mod allocation;
mod arm64;
mod beds;
mod blocks;
mod choice;
mod cli;
mod clocks;
mod conformance;
mod contention;
mod crash;
mod dependencies;
mod distance;
mod distant;
mod docker_faults;
mod docs;
mod drain;
mod drivers;
mod e2e;
mod ec2;
mod engine;
mod environment;
mod history;
mod hosts;
mod imds;
mod journal;
mod layers;
mod lifecycle;
mod link;
mod listen;
mod login;
mod map;
mod metrics;
#[cfg(feature = "fail-points")]
mod model;
mod moved;
mod outage;
mod packaging;
mod parent;
mod protocol;
mod reconcile;
mod recycle;
mod refusals;
mod released;
mod releases;
mod robustness;
mod scripts;
mod secrets;
mod settings;
mod spans;
mod status;
mod store;
mod stub;
#[cfg(feature = "fail-points")]
mod supervise;
mod telemetry;
mod twins;
mod unfilled;
mod waiting;
