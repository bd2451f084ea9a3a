//! Hosts of one image that boot alike.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

use crate::support::host::{Fleet, Kind};

/// The clocks of such hosts may read the same: nothing that must differ between them may come from there.
#[tokio::test]
async fn they_share_neither_life_nor_luck() {
    let dir = tempfile::tempdir().unwrap();
    let clock = dir.path().join("standing_clock.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/standing_clock.c");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&clock).arg(source).status().unwrap();
    assert!(built.success(), "a C compiler is needed, as for the build");

    let (mut lives, mut draws) = (BTreeSet::new(), BTreeSet::new());
    for _ in 0..3 {
        // Each in a VPC of its own, so that nothing else tells them apart.
        let fleet = Fleet::new(Kind::Sqlite).await;
        let mut host = fleet.host(1);
        host.set(&[("LD_PRELOAD", clock.to_str().unwrap())]);
        host.start().await;
        let pool = host.pool().await;
        let mut addresses = Vec::new();
        for _ in 0..4 {
            addresses.push(host.lease(&pool).await);
        }
        let status: Value = host.tell_json(&["status"]).await;
        lives.insert(status["boot"].as_str().unwrap().to_owned());
        draws.insert(addresses);
    }
    assert_eq!((lives.len(), draws.len()), (3, 3), "{lives:?}, and addresses drawn: {draws:?}");
}
