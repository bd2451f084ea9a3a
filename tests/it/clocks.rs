//! The host's clock is set under the real driver, whose table is its own file.

use ec2_ipam::domain::address::State;
use ec2_ipam::driver::status::Status;

use crate::support::clock::Clock;
use crate::support::host::{Fleet, Host, Kind, eventually};

/// A host whose clock is the test's to set.
fn bed(fleet: &Fleet, settings: &[(&str, &str)]) -> (Host, Clock) {
    let (mut host, clock) = (fleet.host(1), Clock::new());
    for (name, value) in clock.environment() {
        host.set(&[(name, &value)]);
    }
    host.set(settings);
    (host, clock)
}

#[tokio::test]
async fn a_clock_set_forward_ends_no_cool_down() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let (mut host, clock) = bed(&fleet, &[("EC2_IPAM_COOLDOWN", "1h")]);
    host.start().await;
    let pool = host.pool().await;
    let hot = host.lease(&pool).await;
    host.release(&pool, hot).await;
    eventually("it is idle", async || host.mine(State::Ready).await == [hot].into()).await;
    clock.set(6 * 3600);
    for _ in 0..3 {
        assert_ne!(host.lease(&pool).await, hot, "I10: six hours have not passed");
    }
}

#[tokio::test]
async fn a_lost_lease_is_released_and_an_idle_address_cools_though_the_clock_was_set_back() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let quick = [
        ("EC2_IPAM_SETTLE_AGE", "1s"),
        ("EC2_IPAM_RECONCILE_INTERVAL", "1s"),
        ("EC2_IPAM_COOLDOWN", "2s"),
        ("EC2_IPAM_WARM_TARGET", "1"),
    ];
    let (mut host, clock) = bed(&fleet, &quick);
    let docker = host.docker();
    host.start().await;
    let pool = host.pool().await;
    let (lost, lives) = (host.lease(&pool).await, host.lease(&pool).await);
    docker.runs(&[lost, lives]);
    clock.set(-6 * 3600);
    docker.runs(&[lives]);
    eventually("the lost lease is released", async || !host.mine(State::Lease).await.contains(&lost)).await;
    assert!(host.mine(State::Lease).await.contains(&lives), "I1: what lives stays");
    // Written by the clock before: it lies in the future once more.
    clock.set(-12 * 3600);
    eventually("it cools in the end", async || {
        let status: Status = host.tell_json(&["status"]).await;
        status.enis.iter().any(|eni| eni.warm >= 1)
    })
    .await;
}
