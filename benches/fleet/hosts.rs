//! Hosts as they are shipped: the default settings, and nothing between them and the database.

use crate::support::host::{Fleet, Host};

/// The n-th host, not started.
pub fn host(fleet: &Fleet, n: u8, instance_type: &str, settings: &[(&str, &str)]) -> Host {
    let mut host = fleet.host_of(n, instance_type);
    host.set(&[("EC2_IPAM_WARM_TARGET", "4"), ("EC2_IPAM_COOLDOWN", "60s"), ("EC2_IPAM_LOG", "info")]);
    // The server's local socket, which every network namespace reaches.
    if let Some(db) = &fleet.db {
        host.set(&[("EC2_IPAM_DATABASE_URL", &db.url_here())]);
    }
    host.set(settings);
    host
}

/// The same, started.
pub async fn started(fleet: &Fleet, n: u8, instance_type: &str, settings: &[(&str, &str)]) -> Host {
    let mut host = host(fleet, n, instance_type, settings);
    host.start().await;
    host
}
