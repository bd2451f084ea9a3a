//! The plugin for arm64 under emulation, as it is shipped: with its own loader and libraries. `make test-arm64` builds it.

use std::path::Path;

use serde_json::Value;

use crate::support::host::{Fleet, Host, Kind};

const ROOTFS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/build/plugin-arm64/rootfs");

/// In place of the binary under test.
fn emulate(host: &mut Host) {
    let binary = format!("{ROOTFS}/usr/bin/ec2-ipam");
    assert!(Path::new(&binary).exists(), "{binary} is missing: make plugin ARCH=arm64");
    let script = format!(r#"shift; exec /usr/bin/qemu-aarch64 -L {ROOTFS} {binary} "$@""#);
    host.within = ["sh", "-c", &script, "sh"].map(str::to_owned).into();
}

/// What the command line finds, check by check, without the words.
async fn checks(host: &Host) -> Vec<(Value, Value)> {
    let (_, checks): (bool, Vec<Value>) = host.ask_json(&["doctor"]).await;
    checks.iter().map(|check| (check["name"].clone(), check["verdict"].clone())).collect()
}

#[tokio::test]
#[ignore = "make test-arm64 builds what it runs"]
async fn the_plugin_for_arm64_gives_addresses_and_takes_them_back() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let mut host = fleet.host(1);
    emulate(&mut host);
    let (done, text) = host.run(&["--version"]).await;
    assert!(done && text.starts_with(concat!("ec2-ipam ", env!("CARGO_PKG_VERSION"))), "{text}");
    host.start().await;
    let pool = host.pool().await;
    let cold = host.lease(&pool).await;
    assert!(fleet.vpc.addresses(&host.eni).contains(&cold), "EC2 has it");
    let found = checks(&host).await;

    // What it has is in its journal.
    host.restart().await;
    let pool = host.pool().await;
    let other = host.lease(&pool).await;
    assert_ne!(other, cold);
    host.release(&pool, cold).await;
    host.release(&pool, other).await;
    assert!(host.stop().await.success(), "{}", host.log());
    assert!(host.leases_of_journal().is_empty(), "{}", host.log());

    // The one for this machine finds the same.
    host.within.clear();
    host.start().await;
    let pool = host.pool().await;
    host.request(&pool, &cold.to_string()).await.unwrap();
    assert_eq!(checks(&host).await, found);
}
