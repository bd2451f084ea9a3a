//! A fault in work that nobody would begin anew ends the driver, so that a new life does all of it.

use std::os::unix::process::ExitStatusExt;

use serde_json::json;

use crate::support::host::{Fleet, Host, Kind, agree, eventually, request};

/// As a panic in any of it would: whichever work it is, the process ends by itself and says why, and the next life is whole.
#[tokio::test]
async fn no_work_in_the_background_dies_alone() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (mut host, pool) = fleet.started(1, &[]).await;
    let kept = host.lease(&pool).await;
    assert!(host.stop().await.success());
    for work in [
        "serving",
        "the database",
        "EC2",
        "taking up",
        "reconciling",
        "scanning",
        "answering the table",
        "watching connections",
        "netlink",
        "the journal",
        "an interface's task",
        "a release",
        "taking back",
    ] {
        host.set(&[("EC2_IPAM_PANIC_AT", work)]);
        host.launch();
        match work {
            "a release" => call(&host, "ReleaseAddress", &json!({ "PoolID": pool, "Address": "10.77.0.200" })).await,
            // The address is granted to somebody who has left.
            "taking back" => call(&host, "RequestAddress", &json!({ "PoolID": pool, "Address": "" })).await,
            _ => {}
        }
        let status = host.exit().await;
        assert_eq!(status.signal(), Some(6), "{work}: {status:?}");
        let says = format!("ERROR a fault in the driver ({work})");
        assert!(host.log().contains(&says), "{work}: {}", host.log());
    }
    host.unset("EC2_IPAM_PANIC_AT");
    host.start().await;
    let given = host.lease(&pool).await;
    assert_ne!(given, kept, "I1");
    agree(&[&host]).await;
}

/// Sends a call once the driver listens, and does not wait for its answer.
async fn call(host: &Host, call: &str, body: &serde_json::Value) {
    let mut sent = None;
    eventually("the driver listens", async || {
        sent = host.try_connect().await;
        sent.is_some()
    })
    .await;
    sent.unwrap().send(&request(&format!("/IpamDriver.{call}"), &body.to_string())).await;
}

/// What one caller asked is that caller's alone.
#[tokio::test]
async fn a_fault_in_a_request_ends_that_request_only() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let mut host = fleet.host(1);
    host.set(&[("EC2_IPAM_PANIC_AT", "a request")]);
    host.start().await;
    for _ in 0..3 {
        let refused = host.pool_with("", json!({})).await.unwrap_err();
        assert!(refused.contains("the driver failed at this request; see its log"), "{refused}");
    }
    assert!(host.stop().await.success(), "it lives, and ends in order");
}
