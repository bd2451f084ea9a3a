//! Who had an address when: by the journal of the host, whatever becomes of it, and by the table for the fleet.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde_json::Value;

use crate::support::docker::Docker;
use crate::support::host::{Fleet, Host};

mod asked;
mod kept;
mod table;

/// What is known of an address, or `--container` and its name, and more.
async fn history(host: &Host, words: &[&str]) -> Value {
    host.tell_json(&[&["history"], words].concat()).await
}

async fn of(host: &Host, ip: Ipv4Addr) -> Value {
    history(host, &[&ip.to_string()]).await
}

/// How the uses of an address ended, the last first; empty: it is in use.
async fn ends(host: &Host, ip: Ipv4Addr) -> Vec<String> {
    let past = of(host, ip).await;
    past["uses"].as_array().unwrap().iter().map(|it| it["ended"].as_str().unwrap_or_default().to_owned()).collect()
}

/// The first sentence of the answer.
async fn answer(host: &Host, words: &[&str]) -> String {
    history(host, words).await["answer"][0].as_str().unwrap().to_owned()
}

/// A started host that reads Docker, and its pool.
async fn watched(fleet: &Fleet, settings: &[(&str, &str)]) -> (Host, Docker, String) {
    let mut host = fleet.host(1);
    let docker = host.docker();
    host.set(&[("EC2_IPAM_SETTLE_AGE", "1s"), ("EC2_IPAM_RECONCILE_INTERVAL", "1h"), ("EC2_IPAM_COOLDOWN", "0s")]);
    host.set(settings);
    host.start().await;
    let pool = host.pool().await;
    (host, docker, pool)
}

fn journal(host: &Host) -> PathBuf {
    host.dir.path().join("state/journal.db")
}

/// What the journal's file answers while no driver has it.
fn in_journal(host: &Host, sql: &str) -> i64 {
    assert!(!host.is_running());
    let file = rusqlite::Connection::open(journal(host)).unwrap();
    file.query_row(sql, [], |row| row.get(0)).unwrap()
}
