//! The journal, seen from outside: what containers have survives whatever else is away, lost or old.
//!
//! The settle age is a second here where a test has to see it pass.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use ec2_ipam::domain::address::State;
use ec2_ipam::driver::status::Status;
use mysql_async::prelude::Queryable;

use crate::support::docker::Docker;
use crate::support::host::{Fleet, Host, eventually};

mod away;
mod clocks;
mod doubt;
mod folder;
mod unwritable;

const QUICK: [(&str, &str); 3] =
    [("EC2_IPAM_SETTLE_AGE", "1s"), ("EC2_IPAM_RECONCILE_INTERVAL", "1s"), ("EC2_IPAM_COOLDOWN", "0s")];
const TABLE: [&str; 2] = ["DROP TABLE IF EXISTS older", "CREATE TABLE older AS SELECT * FROM allocation"];

/// A host with so many idle addresses, all of which the table knows, and its pool.
async fn warm(fleet: &Fleet, settings: &[(&str, &str)], count: usize) -> (Host, String, BTreeSet<Ipv4Addr>) {
    let (host, pool) = fleet.started(1, &[&[("EC2_IPAM_COOLDOWN", "0s")], settings].concat()).await;
    let idle = fill(&host, &pool, count).await;
    (host, pool, idle)
}

/// The same with Docker.
async fn watched(fleet: &Fleet, settings: &[(&str, &str)], count: usize) -> (Host, Docker, String) {
    let mut host = fleet.host(1);
    let docker = host.docker();
    host.set(&QUICK);
    host.set(settings);
    host.start().await;
    let pool = host.pool().await;
    fill(&host, &pool, count).await;
    (host, docker, pool)
}

async fn fill(host: &Host, pool: &str, count: usize) -> BTreeSet<Ipv4Addr> {
    let mut idle = BTreeSet::new();
    for _ in 0..count {
        idle.insert(host.lease(pool).await);
    }
    for ip in &idle {
        host.release(pool, *ip).await;
    }
    eventually("the table knows", async || host.mine(State::Ready).await == idle).await;
    eventually("nothing is unposted", async || status(host).await.journal.unposted == 0).await;
    idle
}

async fn status(host: &Host) -> Status {
    let (_, status): (bool, Status) = host.ask_json(&["status"]).await;
    status
}

/// The table says what was answered.
async fn follows(host: &Host, leased: &BTreeSet<Ipv4Addr>) {
    eventually("the table follows", async || host.mine(State::Lease).await == *leased).await;
}

/// How far the journal has come that spoke for the host's ENI last, by the table's word.
async fn spoken(host: &Host) -> u64 {
    let mut session = host.db.as_ref().unwrap().session().await;
    let holder = format!("SELECT holder FROM task WHERE name='journal:{}'", host.eni);
    let mark: Option<String> = session.query_first(holder).await.unwrap();
    session.disconnect().await.unwrap();
    mark.and_then(|mark| mark.split_once(':')?.1.parse().ok()).unwrap_or_default()
}

fn state(host: &Host) -> PathBuf {
    host.dir.path().join("state")
}

fn file(host: &Host) -> PathBuf {
    state(host).join("journal.db")
}

/// Brings a copy of the state folder there, in place of what is there.
fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// What was put aside in the state folder, but for what belongs to it.
fn put_aside(host: &Host) -> Vec<String> {
    let names = std::fs::read_dir(state(host)).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.contains("aside") && !name.ends_with("-wal") && !name.ends_with("-shm")).collect()
}
