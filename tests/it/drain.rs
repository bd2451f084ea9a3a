//! A drained host: it refuses starts, keeps what its containers have, and gives back the rest, until that is undone.

use std::net::Ipv4Addr;

use ec2_ipam::domain::address::State;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::host::{ASSIGN, Fleet, Host, Kind, UNASSIGN, eventually, on_both};

const QUICK: [(&str, &str); 5] = [
    ("EC2_IPAM_SETTLE_AGE", "2s"),
    ("EC2_IPAM_RECONCILE_INTERVAL", "1s"),
    ("EC2_IPAM_COOLDOWN", "0s"),
    ("EC2_IPAM_WARM_TARGET", "2"),
    ("EC2_IPAM_WARM_MAX", "2"),
];

on_both! {
    a_drained_host_keeps_what_containers_have_and_nothing_else
    it_is_drained_over_restarts_of_the_driver_and_of_the_machine
    what_cools_goes_at_once_where_its_age_travels_with_it
    a_claim_that_was_unclear_as_it_began_is_settled_and_goes
}

/// A host with one container and two warm addresses; its pool.
async fn bed(fleet: &Fleet) -> (Host, String, Ipv4Addr) {
    let (host, pool) = fleet.started(1, &QUICK).await;
    let lease = host.lease(&pool).await;
    eventually("it is warm", async || host.mine(State::Ready).await.len() == 2).await;
    (host, pool, lease)
}

async fn refusal(host: &Host, pool: &str, address: &str) -> String {
    host.request(pool, address).await.expect_err("it is drained")
}

async fn a_drained_host_keeps_what_containers_have_and_nothing_else(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (host, pool, lease) = bed(&fleet).await;
    let warm = *host.mine(State::Ready).await.first().unwrap();
    let text = host.tell(&["drain"]).await;
    assert!(text.contains("no container starts on it until `ec2-ipam drain --undo`\n1 container still has"), "{text}");
    for address in ["", &warm.to_string(), "10.77.0.90"] {
        let why = refusal(&host, &pool, address).await;
        assert!(why.starts_with("this host is drained") && why.contains("`ec2-ipam drain --undo`"), "{why}");
    }
    // Again it changes nothing, and what is waited for comes.
    for args in [&["drain", "--wait", "60"][..], &["drain", "--wait"]] {
        let text = host.tell(args).await;
        assert!(text.contains("1 container still has an address\nnothing idle is left"), "{text}");
    }
    assert_eq!(host.assigned(), [lease].into());
    // Networks can be made, their gateways are told, and operators go on.
    assert_eq!(host.pool().await, pool);
    host.tell(&["init", crate::support::host::SUBNET]).await;
    host.tell(&["reserve", "10.77.0.91", "web"]).await;
    host.tell(&["recycle", crate::support::host::SUBNET]).await;
    host.tell(&["reconcile"]).await;
    let (is_well, status): (bool, Value) = host.ask_json(&["status"]).await;
    assert!(is_well && status["drained"] == json!(true) && status["drained_seconds"].is_u64(), "{status}");
    assert!(host.tell(&["status"]).await.contains("\nDRAINED   for "));
    assert!(host.ask(&["doctor"]).await.1.contains("warn  drain: this host is drained"));
    let (_, hosts): (bool, Value) = host.ask_json(&["hosts"]).await;
    assert_eq!(
        (&hosts[0]["state"], &hosts[0]["leases"], &hosts[0]["warm"]),
        (&json!("draining"), &json!(1), &json!(0))
    );

    // The last container ends, as for a restart: its address goes, and it does not come back.
    host.release(&pool, lease).await;
    refusal(&host, &pool, "").await;
    eventually("the last one goes", async || host.assigned().is_empty()).await;
    let told: Value = host.tell_json(&["drain", "--wait"]).await;
    assert_eq!((&told["leases"], &told["idle"], &told["pending"]), (&json!(0), &json!(0), &json!(0)));
    assert!(host.tell(&["hosts"]).await.contains("  drained  "));

    for _ in 0..2 {
        assert_eq!(host.tell(&["drain", "--undo"]).await, "this host is not drained: containers get addresses\n");
    }
    eventually("it is warm again", async || host.mine(State::Ready).await.len() == 2).await;
    host.lease(&pool).await;
    assert!(!host.tell(&["status"]).await.contains("DRAINED"));
}

async fn it_is_drained_over_restarts_of_the_driver_and_of_the_machine(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (mut host, pool, lease) = bed(&fleet).await;
    // In the midst of it.
    fleet.vpc.deny(UNASSIGN, true);
    let (done, text) = host.ask(&["drain", "--wait", "2"]).await;
    assert!(!done && text.contains("2 idle addresses") || text.contains("2 not settled"), "{text}");
    assert!(text.contains("in the way: ") && text.contains("ec2:UnassignPrivateIpAddresses"), "{text}");
    host.restart().await;
    refusal(&host, &pool, "").await;
    fleet.vpc.deny(UNASSIGN, false);
    host.tell(&["drain", "--wait"]).await;
    assert_eq!(host.assigned(), [lease].into());
    host.reboot();
    host.start().await;
    assert!(host.log().contains("this host is drained, by an order of before"));
    refusal(&host, &pool, "").await;
    host.tell(&["drain", "--undo"]).await;
    host.restart().await;
    host.lease(&pool).await;
    // An image of a drained host makes hosts that are not, and can be.
    let file = host.dir.path().join("state/drained");
    for is_asked in [false, true] {
        host.kill();
        std::fs::write(&file, r#"{"instance":"i-0123456789abcdef0","since":1}"#).unwrap();
        host.start().await;
        if is_asked {
            host.tell(&["drain"]).await;
            refusal(&host, &pool, "").await;
            host.restart().await;
            refusal(&host, &pool, "").await;
        } else {
            host.lease(&pool).await;
            assert!(!file.exists());
        }
    }
}

/// I10: no other host that shares the table gives it too early; one with a table of its own could not tell.
async fn what_cools_goes_at_once_where_its_age_travels_with_it(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (host, pool) =
        fleet.started(1, &[&QUICK[..], &[("EC2_IPAM_COOLDOWN", "1h"), ("EC2_IPAM_WARM_TARGET", "0")]].concat()).await;
    let hot = host.lease(&pool).await;
    host.release(&pool, hot).await;
    let before = host.row(hot).await;
    if kind == Kind::Sqlite {
        let (done, text) = host.ask(&["drain", "--wait", "3"]).await;
        assert!(!done && text.contains("1 idle addresses are to be given back"), "{text}");
        assert_eq!(host.assigned(), [hot].into());
        host.age(3700).await;
    }
    host.tell(&["drain", "--wait"]).await;
    assert!(host.assigned().is_empty());
    let after = host.row(hot).await;
    assert_eq!(after.state, State::Free);
    if kind == Kind::Mariadb {
        assert!((before.ts - after.ts).abs() <= 1, "{before:?} {after:?}");
    }
}

/// Nobody knows whether EC2 has done what it was asked for.
async fn a_claim_that_was_unclear_as_it_began_is_settled_and_goes(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (host, pool, lease) = bed(&fleet).await;
    for _ in 0..2 {
        host.lease(&pool).await;
    }
    let kept = host.mine(State::Lease).await;
    fleet.vpc.fail(vpc_sim::Fault::on(ASSIGN, vpc_sim::FaultKind::LoseReply).times(20));
    let drain = async {
        eventually("a claim is unclear", async || !host.mine(State::On).await.is_empty()).await;
        host.tell(&["drain"]).await;
        fleet.vpc.forget_faults();
    };
    let ((), asked) = tokio::join!(drain, join_all((0..4).map(|_| host.request(&pool, ""))));
    let given: Vec<Ipv4Addr> = asked.into_iter().filter_map(Result::ok).collect();
    host.tell(&["drain", "--wait"]).await;
    let expected = kept.iter().copied().chain(given).collect();
    assert_eq!(host.assigned(), expected);
    assert!(expected.contains(&lease));
}

#[tokio::test]
async fn those_who_wait_for_an_address_are_told_at_once() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let (host, pool) = fleet.started(1, &[("EC2_IPAM_REQUEST_TIMEOUT", "25s")]).await;
    fleet.vpc.ec2_down(true);
    let drain = async {
        eventually("somebody waits", async || host.tell(&["status"]).await.contains("; 1 waiting")).await;
        host.tell(&["drain"]).await;
    };
    let (why, ()) = tokio::join!(refusal(&host, &pool, ""), drain);
    assert!(why.starts_with("this host is drained"), "{why}");
}

#[tokio::test]
async fn with_the_database_away_starts_are_refused_and_the_rest_follows() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (host, pool, lease) = bed(&fleet).await;
    host.proxy.as_ref().unwrap().away(true);
    let (done, text) = host.ask(&["drain", "--wait", "1"]).await;
    assert!(
        !done && text.contains("1 container still has an address\n2 idle addresses are to be given back"),
        "{text}"
    );
    assert!(text.contains("in the way: the database "), "{text}");
    refusal(&host, &pool, "").await;
    assert_eq!(host.assigned().len(), 3);
    host.proxy.as_ref().unwrap().away(false);
    host.tell(&["drain", "--wait"]).await;
    assert_eq!(host.assigned(), [lease].into());
    // And it is over while that is away.
    host.proxy.as_ref().unwrap().away(true);
    host.tell(&["drain", "--undo"]).await;
    host.proxy.as_ref().unwrap().away(false);
    eventually("it is warm again", async || host.mine(State::Ready).await.len() == 2).await;
}

#[tokio::test]
async fn what_cannot_be_done_is_said_and_changes_nothing() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let (mut host, pool, _) = bed(&fleet).await;
    let in_the_way = host.dir.path().join("state/drained");
    std::fs::create_dir(&in_the_way).unwrap();
    let (done, text) = host.ask(&["drain"]).await;
    assert!(
        !done && text.contains("nothing is done, as it would be forgotten") && text.contains("state/drained"),
        "{text}"
    );
    host.lease(&pool).await;
    let answer = host.call("/v1/drain", r#"{"order":"sideways"}"#).await;
    assert!(answer.status >= 400 && answer.clone().outcome().is_err(), "{answer:?}");
    host.stop().await;
    let (done, text) = host.run(&["drain"]).await;
    assert!(!done && text.contains("no driver answers on ") && text.contains("only a running one"), "{text}");
    for args in [&["drain", "--wait", "soon"][..], &["drain", "--undo", "--wait"]] {
        let (done, text) = host.run(args).await;
        assert!(!done && text.contains("--wait"), "{args:?}: {text}");
    }
}

/// Whose containers are on other hosts.
#[tokio::test]
async fn a_server_drains_its_own_interfaces_alone() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (mut server, host) = (fleet.host(1), fleet.host(2));
    server.set(&QUICK);
    server.set(&[("EC2_IPAM_DISTANT", "true")]);
    server.start().await;
    let distant = server.pool_with("", json!({ "eni-id": host.eni, "instance-id": host.instance })).await.unwrap();
    server.lease(&distant).await;
    let (done, text) = server.ask(&["drain"]).await;
    assert!(!done && text.contains("this server has no interface of its own to drain"), "{text}");
    let own = server.pool().await;
    let lease = server.lease(&own).await;
    let text = server.tell(&["drain", "--wait"]).await;
    assert!(text.contains("1 container still has an address"), "{text}");
    assert_eq!(server.assigned(), [lease].into());
    refusal(&server, &own, "").await;
    server.lease(&distant).await;
    assert!(server.tell(&["hosts"]).await.contains("  draining  "));
}
