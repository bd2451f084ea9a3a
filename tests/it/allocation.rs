//! Who gets which address, on a simulated VPC with both kinds of table: grants, releases, refusals, and what goes wrong.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use ec2_ipam::domain::address::State;
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use serde_json::json;
use vpc_sim::{Fault, FaultKind, Switches};

use crate::support::host::{
    ACCESS_KEY, ASSIGN, Fleet, Host, Kind, RDS, SECRET_KEY, SUBNET, UNASSIGN, agree, eni, eventually, ip, on_both,
    request,
};
use crate::support::mariadb;

on_both! {
    a_cold_request_calls_ec2_and_a_warm_one_does_not
    parallel_requests_share_calls
    a_burst_of_single_requests_needs_few_calls
    a_released_address_rests_and_the_coldest_is_the_last_resort
    an_address_asked_for_by_name
    addresses_that_may_not_be_named
    a_full_interface_gives_up_an_idle_address_for_a_named_one
    a_named_address_returns_to_the_subnet
    a_range_limits_what_is_chosen
    releases_are_idempotent
    a_subnet_is_used_to_its_last_address
    what_others_took_meanwhile_is_passed_over
    the_hosts_own_addresses_are_never_given
    a_full_interface_whose_idle_addresses_the_host_has_says_so
    every_refusal_of_ec2_has_its_sentence
    unclear_calls_are_settled
    a_kill_in_the_middle_of_an_assign
    after_a_reboot_only_listed_addresses_are_granted
    a_lost_commit_gives_no_address_twice
}

const FAST: Duration = Duration::ZERO;

async fn a_cold_request_calls_ec2_and_a_warm_one_does_not(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (host, pool) = fleet.started(1, &[("EC2_IPAM_WARM_TARGET", "2")]).await;
    let first = host.lease(&pool).await;
    assert_eq!((fleet.vpc.count(ASSIGN), host.assigned().len()), (1, 3), "one call for it and the target");
    assert!(host.assigned().contains(&first));
    let row = host.row(first).await;
    assert_eq!((row.state, row.iface), (State::Lease, Some(eni(1))));
    agree(&[&host]).await;
    eventually("the rest is idle", async || host.mine(State::Ready).await.len() == 2).await;

    fleet.vpc.forget_calls();
    let second = host.lease(&pool).await;
    assert_eq!(fleet.vpc.calls().len(), 0, "a warm request makes no call");
    assert!(second != first && host.assigned().contains(&second));
    // The target is made good in the background.
    eventually("two are warm again", async || host.mine(State::Ready).await.len() == 2).await;
    assert_eq!(fleet.vpc.count(ASSIGN), 1);
    agree(&[&host]).await;
}

async fn parallel_requests_share_calls(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let mut host = fleet.host_of(1, "c5.4xlarge");
    host.start().await;
    let pool = host.pool().await;
    fleet.vpc.latency_of(ASSIGN, Duration::from_secs(1));
    let given = join_all((0..10).map(|_| host.lease(&pool))).await;
    assert_eq!(BTreeSet::from_iter(given).len(), 10);
    assert!(fleet.vpc.count(ASSIGN) <= 2, "{}", fleet.vpc.count(ASSIGN));
    agree(&[&host]).await;
}

async fn a_burst_of_single_requests_needs_few_calls(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let mut host = fleet.host_of(1, "c5.4xlarge");
    host.set(&[("EC2_IPAM_WARM_TARGET", "4")]);
    host.start().await;
    let pool = host.pool().await;
    let mut given = BTreeSet::new();
    for _ in 0..29 {
        assert!(given.insert(host.lease(&pool).await));
    }
    assert!(fleet.vpc.count(ASSIGN) <= 4, "{}", fleet.vpc.count(ASSIGN));
    let why = host.request(&pool, "").await.unwrap_err();
    assert!(why.contains("as many addresses as its instance type allows") && why.contains(&eni(1)), "{why}");
    assert_eq!(fleet.vpc.count(ASSIGN), fleet.vpc.count_ok(ASSIGN), "a full interface is not asked for more");
    agree(&[&host]).await;
}

async fn a_released_address_rests_and_the_coldest_is_the_last_resort(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let mut host = fleet.host_of(1, "t3.small");
    host.start().await;
    let pool = host.pool().await;
    let a = host.lease(&pool).await;
    host.release(&pool, a).await;
    let b = host.lease(&pool).await;
    assert_ne!(a, b, "it cools");
    host.age(3590).await;
    assert_eq!(host.row(a).await.state, State::Ready);
    host.age(30).await;
    fleet.vpc.forget_calls();
    assert_eq!(host.lease(&pool).await, a, "it has cooled");
    assert_eq!(fleet.vpc.count(ASSIGN), 0);

    // Three are all that the interface takes. All of them cool: the coldest is given, and that is logged.
    let c = host.lease(&pool).await;
    for idle in [b, a, c] {
        host.release(&pool, idle).await;
        host.age(20).await;
    }
    assert_eq!(host.lease(&pool).await, b, "the coldest");
    let log = host.log();
    let mut lines = log.lines().filter(|line| line.contains("granted an address before its cool-down is over"));
    assert!(lines.any(|line| line.ends_with(&format!(" ip={b}"))), "{log}");
    agree(&[&host]).await;
}

async fn an_address_asked_for_by_name(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (host, pool) = fleet.started(1, &[]).await;
    assert_eq!(host.request(&pool, "10.77.0.50").await, Ok(ip(50)), "free");
    assert!(host.assigned().contains(&ip(50)));
    let a = host.lease(&pool).await;
    host.release(&pool, a).await;
    fleet.vpc.forget_calls();
    assert_eq!(host.request(&pool, &a.to_string()).await, Ok(a), "idle on the interface, however hot");
    assert_eq!(fleet.vpc.calls().len(), 0);
    // Docker deletes an endpoint before it releases its address: the next container waits for that.
    let named = a.to_string();
    let (given, ()) = tokio::join!(host.request(&pool, &named), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        host.release(&pool, a).await;
    });
    assert_eq!(given, Ok(a));
    let why = host.request(&pool, "10.77.0.50").await.unwrap_err();
    assert!(why.contains("a container on") && why.contains(&eni(1)), "{why}");
    agree(&[&host]).await;
}

async fn addresses_that_may_not_be_named(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    fleet.vpc.take(RDS, ip(70));
    fleet.vpc.add_address(RDS, ip(71));
    // Its primary address, before the other one draws any at random.
    let mut host = fleet.host(1);
    let (other, theirs) = fleet.started(2, &[]).await;
    other.tell(&["reserve", "10.77.0.60"]).await;
    let (leased, idle) = (other.lease(&theirs).await, other.lease(&theirs).await);
    other.release(&theirs, idle).await;
    host.start().await;
    let pool = host.pool().await;
    if kind == Kind::Sqlite {
        // It has a file of its own.
        host.tell(&["reserve", "10.77.0.60"]).await;
    }
    let mut cases = vec![
        (ip(60), "it is reserved for nobody; `ec2-ipam unreserve 10.77.0.60`".to_owned()),
        (ip(4), format!("the primary address of {}", eni(1))),
        (ip(70), format!("the primary address of {RDS}; if it was given as --aux-address, drop that")),
        (ip(71), format!("{RDS} has it, and not for a container")),
        (Ipv4Addr::new(10, 77, 1, 1), "not in the subnet 10.77.0.0/24".to_owned()),
    ];
    for last in [0, 1, 2, 3, 255] {
        cases.push((ip(last), "AWS reserves the first four addresses and the last one".to_owned()));
    }
    if kind == Kind::Mariadb {
        cases.push((leased, format!("a container on {} has it", eni(2))));
        cases.push((idle, format!("{} holds it idle", eni(2))));
    } else {
        // Its own file does not know the other host: EC2 refuses, and then it does.
        cases.push((leased, format!("{} has it", eni(2))));
        cases.push((idle, format!("{} has it", eni(2))));
    }
    let answers = join_all(cases.iter().map(|(ip, _)| async { host.request(&pool, &ip.to_string()).await })).await;
    for ((ip, says), answer) in cases.iter().zip(answers) {
        let why = answer.unwrap_err();
        assert!(why.contains(says.as_str()) && why.contains(&ip.to_string()), "{ip}: {why}");
    }
    host.tell(&["unreserve", "10.77.0.60"]).await;
    assert_eq!(host.request(&pool, "10.77.0.60").await, Ok(ip(60)));
    assert_eq!(other.row(leased).await.state, State::Lease);
    agree(&[&host, &other]).await;
}

async fn a_full_interface_gives_up_an_idle_address_for_a_named_one(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let mut host = fleet.host_of(1, "t3.small");
    host.start().await;
    let pool = host.pool().await;
    let mut given = Vec::new();
    for _ in 0..3 {
        given.push(host.lease(&pool).await);
    }
    let free = (100..).map(ip).find(|ip| !given.contains(ip)).unwrap();
    let why = host.request(&pool, &free.to_string()).await.unwrap_err();
    assert!(why.contains("as many addresses as its instance type allows"), "{why}");
    host.release(&pool, given[1]).await;
    assert_eq!(host.request(&pool, &free.to_string()).await, Ok(free));
    assert_eq!(host.row(given[1]).await.state, State::Free);
    // The same for a range in which the interface has nothing idle.
    host.release(&pool, free).await;
    let range = host.pool_with("10.77.0.240/28", json!({})).await.unwrap();
    let inside = host.lease(&range).await;
    assert!(inside >= ip(240), "{inside}");
    agree(&[&host]).await;
}

async fn a_named_address_returns_to_the_subnet(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (host, pool) = fleet.started(1, &[("EC2_IPAM_COOLDOWN", "1s"), ("EC2_IPAM_WARM_TARGET", "1")]).await;
    assert_eq!(host.request(&pool, "10.77.0.50").await, Ok(ip(50)));
    let any = host.lease(&pool).await;
    host.release(&pool, ip(50)).await;
    host.release(&pool, any).await;
    eventually("it is free", async || host.row(ip(50)).await.state == State::Free).await;
    assert_eq!(fleet.vpc.holder(ip(50)), None);
    assert_eq!(host.row(any).await.state, State::Ready, "what was chosen for it stays warm");
    if kind == Kind::Mariadb {
        let (other, pool) = fleet.started(2, &[]).await;
        assert_eq!(other.request(&pool, "10.77.0.50").await, Ok(ip(50)), "on another host");
        agree(&[&host, &other]).await;
    }
}

async fn a_range_limits_what_is_chosen(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (mut host, whole) = fleet.started(1, &[("EC2_IPAM_COOLDOWN", "0s")]).await;
    let outside = host.request(&whole, "10.77.0.20").await.unwrap();
    host.release(&whole, outside).await;
    let range = host.pool_with("10.77.0.248/29", json!({})).await.unwrap();
    let mut given = BTreeSet::new();
    for _ in 0..7 {
        given.insert(host.lease(&range).await);
    }
    assert_eq!(given, (248..255).map(ip).collect(), "all of them but AWS's");
    let why = host.request(&range, "").await.unwrap_err();
    assert!(why.contains(SUBNET) && why.contains("in the range 10.77.0.248/29"), "{why}");
    assert_eq!(host.request(&range, "10.77.0.20").await, Ok(ip(20)), "one that is named may lie outside");
    // The PoolID alone tells the range: Docker never repeats RequestPool.
    host.release(&range, ip(250)).await;
    host.restart().await;
    assert_eq!(host.request(&range, "").await, Ok(ip(250)));
    agree(&[&host]).await;
}

async fn releases_are_idempotent(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    fleet.vpc.take(RDS, ip(70));
    let (host, pool) = fleet.started(1, &[]).await;
    let (a, b) = (host.lease(&pool).await, host.lease(&pool).await);
    host.release(&pool, a).await;
    host.age(100).await;
    let rows = host.rows().await;
    let nobodys = rows.iter().find(|row| row.state == State::Free).unwrap().ip.to_string();
    // Again; the primary, the gateway, somebody else's, one of nobody, and none.
    for address in [&a.to_string(), "10.77.0.4", "10.77.0.1", "10.77.0.70", &nobodys, "10.9.9.9", "x", ""] {
        host.release_text(&pool, address).await;
    }
    host.release_text("garbage", &b.to_string()).await;
    host.release_text("eni-0123456789abcdef0/10.77.0.0-24", &b.to_string()).await;
    assert_eq!(host.rows().await, rows);
    // Ten at once, as an Engine sends them unlocked.
    join_all((0..10).map(|_| host.release(&pool, b))).await;
    assert_eq!(host.row(b).await.state, State::Ready);
    agree(&[&host]).await;
}

async fn a_subnet_is_used_to_its_last_address(kind: Kind) {
    let fleet = Fleet::with(kind, "10.77.0.0/28", Switches::default()).await;
    let mut host = fleet.host_of(1, "c5.4xlarge");
    host.set(&[("EC2_IPAM_WARM_TARGET", "3")]);
    host.start().await;
    let pool = host.pool().await;
    // 16 but AWS's five and the primary.
    let answers = join_all((0..13).map(|_| host.request(&pool, ""))).await;
    let (given, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!(given.iter().map(|ip| ip.clone().unwrap()).collect::<BTreeSet<_>>().len(), 10);
    assert_eq!(refused.len(), 3);
    for why in refused {
        let why = why.unwrap_err();
        assert!(why.contains(SUBNET) && why.contains("has no free address"), "{why}");
        assert_eq!(why.contains("--all"), kind == Kind::Mariadb, "a file knows nothing of other hosts: {why}");
    }
    // Cooling, but all that is left.
    let last = given[7].clone().unwrap();
    host.release(&pool, last).await;
    assert_eq!(host.lease(&pool).await, last);
    agree(&[&host]).await;
}

async fn what_others_took_meanwhile_is_passed_over(kind: Kind) {
    let fleet = Fleet::with(kind, "10.77.0.0/28", Switches::default()).await;
    let mut host = fleet.host_of(1, "c5.4xlarge");
    host.set(&[("EC2_IPAM_WARM_TARGET", "1")]);
    host.start().await;
    let pool = host.pool().await;
    // .5 to .14 are free in the table. A database takes two as primary addresses and three as secondary ones.
    fleet.vpc.take(RDS, ip(5));
    fleet.vpc.take("eni-0dddddddddddddd02", ip(9));
    for last in [6, 8, 12] {
        fleet.vpc.add_address(RDS, ip(last));
    }
    let mut given = BTreeSet::new();
    for _ in 0..5 {
        given.insert(host.lease(&pool).await);
    }
    assert_eq!(given, [7, 10, 11, 13, 14].map(ip).into());
    let why = host.request(&pool, "").await.unwrap_err();
    assert!(why.contains("has no free address"), "{why}");
    for (last, holder) in [(5, RDS), (6, RDS), (8, RDS), (9, "eni-0dddddddddddddd02"), (12, RDS)] {
        let row = host.row(ip(last)).await;
        assert_eq!((row.state, row.iface.as_deref()), (State::Foreign, Some(holder)), "{last}");
        assert_eq!(row.primary, last == 5 || last == 9);
    }
    agree(&[&host]).await;
}

async fn the_hosts_own_addresses_are_never_given(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (host, pool) = fleet.started(1, &[("EC2_IPAM_WARM_TARGET", "3"), ("EC2_IPAM_COOLDOWN", "0s")]).await;
    host.lease(&pool).await;
    eventually("three are idle", async || host.mine(State::Ready).await.len() == 3).await;
    let own = host.mine(State::Ready).await;
    for ip in &own {
        host.ip(&format!("addr add {ip}/32 dev eth1"));
    }
    for _ in 0..3 {
        assert!(!own.contains(&host.lease(&pool).await), "a host agent has it");
    }
    let named = own.first().unwrap();
    let why = host.request(&pool, &named.to_string()).await.unwrap_err();
    assert!(why.contains(&format!("`ip addr del {named}/32 dev eth1`")), "{why}");
    host.ip("addr flush dev eth1");
    assert_eq!(host.request(&pool, &named.to_string()).await, Ok(*named));
    // One that the host took without EC2 or the table knowing.
    let free = Ipv4Addr::new(10, 77, 0, 200);
    host.ip(&format!("addr add {free}/32 dev eth1"));
    let why = host.request(&pool, &free.to_string()).await.unwrap_err();
    assert!(why.contains(&format!("`ip addr del {free}/32 dev eth1`")), "{why}");
    agree(&[&host]).await;
}

async fn a_full_interface_whose_idle_addresses_the_host_has_says_so(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let mut host = fleet.host_of(1, "t3.small");
    host.set(&[("EC2_IPAM_WARM_TARGET", "3"), ("EC2_IPAM_COOLDOWN", "0s")]);
    host.start().await;
    let pool = host.pool().await;
    host.lease(&pool).await;
    eventually("it is full", async || host.mine(State::Ready).await.len() == 2).await;
    let own = host.mine(State::Ready).await;
    for ip in &own {
        host.ip(&format!("addr add {ip}/32 dev eth1"));
    }
    let why = host.request(&pool, "").await.unwrap_err();
    assert!(own.iter().all(|ip| why.contains(&ip.to_string())) && why.contains("on eth1"), "{why}");
    assert_eq!(host.mine(State::Ready).await, own, "nothing is given up for what could not be had");
    host.ip("addr flush dev eth1");
    assert!(own.contains(&host.lease(&pool).await));
    agree(&[&host]).await;
}

async fn every_refusal_of_ec2_has_its_sentence(kind: Kind) {
    let error = |status, code, message| FaultKind::Error { status, code, message };
    let value = |message| error(400, "InvalidParameterValue", message);
    let cases = [
        (FaultKind::Deny, "may not do ec2:AssignPrivateIpAddresses"),
        (FaultKind::BadCredentials, "the AWS credentials do not work"),
        (FaultKind::Expired, "clock"),
        (error(400, "ExpiredToken", "The provided token has expired."), "session has expired"),
        (
            error(400, "InsufficientFreeAddressesInSubnet", "The specified subnet does not have enough."),
            "no free address left",
        ),
        (
            error(400, "InvalidNetworkInterfaceID.NotFound", "The networkInterface ID 'eni-1' does not exist"),
            "EC2 does not know eni-",
        ),
        (value("Address [10.77.9.9] does not fall within the subnet's address range"), "10.77.9.9"),
        (value("Address 10.77.0.2 is in subnet's reserved address range"), "AWS reserves it"),
        (value("invalid value for parameter address: x"), "EC2 cannot read the request"),
        (error(400, "InvalidParameterCombination", "One of them"), "InvalidParameterCombination: One of them"),
        (error(400, "OperationNotPermitted", "Not on this."), "OperationNotPermitted: Not on this"),
        (FaultKind::Throttle, "throttles ec2:AssignPrivateIpAddresses"),
        (FaultKind::InternalError, "not clear whether EC2 did"),
        (FaultKind::Unavailable, "not clear whether EC2 did"),
        (FaultKind::LoseReply, "not clear whether EC2 did"),
        (error(400, "PrivateIpAddressLimitExceeded", "x"), "as many addresses as its instance type allows"),
    ];
    // Each on a host of its own: a refusal makes the next call wait.
    join_all(cases.into_iter().map(|(fault, says)| async move {
        let fleet = Fleet::new(kind).await;
        let (host, pool) = fleet.started(1, &[("EC2_IPAM_REQUEST_TIMEOUT", "6s")]).await;
        fleet.vpc.fail(Fault::on(ASSIGN, fault.clone()).times(u32::MAX));
        let why = host.request(&pool, "").await.unwrap_err();
        assert!(why.contains(says), "{fault:?}: {why}");
        fleet.vpc.forget_faults();
        host.settled().await;
        agree(&[&host]).await;
        if says.starts_with("as many") {
            return;
        }
        // What was assigned after all is idle: nothing is lost.
        eventually("it works again", async || host.request(&pool, "").await.is_ok()).await;
        assert_eq!(host.mine(State::Lease).await.len(), 1, "{fault:?}");
        agree(&[&host]).await;
    }))
    .await;
}

async fn unclear_calls_are_settled(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (host, pool) = fleet.started(1, &[("EC2_IPAM_REQUEST_TIMEOUT", "25s")]).await;
    let mut given = BTreeSet::new();
    for fault in [
        FaultKind::LoseReply,
        FaultKind::LandLate(Duration::from_millis(1200)),
        FaultKind::InternalError,
        FaultKind::Throttle,
        FaultKind::Hang(Duration::from_secs(60)),
    ] {
        fleet.vpc.fail(Fault::on(ASSIGN, fault.clone()));
        assert!(given.insert(host.lease(&pool).await), "{fault:?}");
    }
    let calls = fleet.vpc.calls();
    let calls: Vec<_> = calls.iter().filter(|call| call.action == ASSIGN).collect();
    assert_eq!(calls[0].addresses, calls[1].addresses, "the same list again");
    // What landed late landed where it was meant to, and what was not settled at once is, and idle.
    host.settled().await;
    agree(&[&host]).await;
    assert_eq!(host.mine(State::Lease).await, given);
    let given = host.assigned();

    for ip in &host.mine(State::Lease).await {
        host.release(&pool, *ip).await;
    }
    let count = given.len();
    fleet.vpc.fail(Fault::on(UNASSIGN, FaultKind::LoseReply));
    let (_, text) = host.ask(&["recycle", SUBNET]).await;
    assert!(text.contains("not clear") || text.contains(&format!("{count} more are not settled")), "{text}");
    assert_eq!(host.mine(State::Off).await, given, "it may still land, so they wait");
    agree(&[&host]).await;
    host.age(61).await;
    host.tell(&["recycle", SUBNET]).await;
    eventually("all are free", async || host.mine(State::Off).await.is_empty()).await;
    assert!(host.assigned().is_empty());
    agree(&[&host]).await;
}

async fn a_kill_in_the_middle_of_an_assign(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (mut host, pool) = fleet.started(1, &[("EC2_IPAM_WARM_TARGET", "2")]).await;
    fleet.vpc.latency_of(ASSIGN, Duration::from_secs(3));
    let body = format!("{}\n", json!({ "PoolID": pool, "Address": "", "Options": null }));
    {
        let mut wire = host.connect().await;
        wire.send(&request("/IpamDriver.RequestAddress", &body)).await;
        eventually("Assign arrives", async || fleet.vpc.count(ASSIGN) == 1).await;
    }
    host.kill();
    let claimed = host.mine(State::On).await;
    assert_eq!(claimed.len(), 3);
    assert!(host.assigned().is_empty(), "it has not landed yet");
    fleet.vpc.latency_of(ASSIGN, FAST);
    host.start().await;
    let given = host.lease(&pool).await;
    assert!(host.mine(State::On).await.is_empty(), "settled before anything is granted");
    assert!(claimed.contains(&given));
    assert_eq!(host.assigned(), claimed);
    let calls = fleet.vpc.calls();
    let second = calls.iter().filter(|call| call.action == ASSIGN).nth(1).unwrap();
    assert_eq!(BTreeSet::from_iter(second.addresses.clone()), claimed);
    agree(&[&host]).await;
}

/// What the journal knows needs no witness, and after a start of the machine a list.
async fn after_a_reboot_only_listed_addresses_are_granted(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (mut host, pool) =
        fleet.started(1, &[("EC2_IPAM_WARM_TARGET", "4"), ("EC2_IPAM_REQUEST_TIMEOUT", "15s")]).await;
    let first = host.lease(&pool).await;
    eventually("four are idle", async || host.mine(State::Ready).await.len() == 4).await;
    host.reboot();
    let idle: Vec<_> = host.mine(State::Ready).await.into_iter().collect();
    // EC2 is away and IMDS says what is there.
    fleet.vpc.remove_address(&eni(1), idle[0]);
    fleet.vpc.ec2_down(true);
    host.start().await;
    let mut given = BTreeSet::from([host.lease(&pool).await]);
    given.insert(host.lease(&pool).await);
    given.insert(host.lease(&pool).await);
    assert_eq!(given, idle[1..].iter().copied().collect());
    let why = host.request(&pool, "").await.unwrap_err();
    assert!(why.contains("EC2"), "{why}");
    let why = host.request(&pool, &idle[0].to_string()).await.unwrap_err();
    assert!(why.contains("EC2 has not confirmed yet"), "{why}");
    host.kill();
    // EC2 is back. What it does not list goes back to the subnet.
    fleet.vpc.ec2_down(false);
    host.start().await;
    eventually("the lost one is free", async || {
        let row = host.row(idle[0]).await;
        row.state == State::Free || fleet.vpc.holder(idle[0]).is_some()
    })
    .await;
    let again = host.lease(&pool).await;
    assert!(!given.contains(&again) && again != first, "leases survive the driver");
    agree(&[&host]).await;
}

async fn a_lost_commit_gives_no_address_twice(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (mut host, pool) = fleet.started(1, &[("EC2_IPAM_COOLDOWN", "0s")]).await;
    let a = host.lease(&pool).await;
    for after_restart in [false, true] {
        if after_restart {
            host.restart().await;
            host.lease(&pool).await;
        }
        host.rows().await;
        let lost = format!("UPDATE allocation SET status='ready', claim=NULL, claimed=NULL WHERE ip='{a}'");
        host.sql(&lost, &lost).await;
        assert_ne!(host.lease(&pool).await, a, "I1");
        eventually("it is put right", async || host.row(a).await.state == State::Lease).await;
        assert!(host.log().contains(&format!("the database lost what {a} is")));
    }
    // Its release still counts.
    host.release(&pool, a).await;
    assert_eq!(host.lease(&pool).await, a);
    agree(&[&host]).await;
}

/// The whole way under each of the facts about EC2 that nobody could check.
#[tokio::test]
async fn whatever_ec2_does_where_it_is_not_documented() {
    let variants = Switches::all().into_iter().chain(Switches::of_emulators()).chain(Switches::of_prefixes());
    let lives = variants.map(|(name, switches)| async move {
        let fleet = Fleet::with(Kind::Mariadb, "10.77.0.0/24", switches).await;
        fleet.vpc.take(RDS, ip(200));
        fleet.vpc.add_prefix(RDS, "10.77.0.16/28");
        let mut host = fleet.host_of(1, "c5.4xlarge");
        host.set(&[("EC2_IPAM_WARM_TARGET", "1"), ("EC2_IPAM_COOLDOWN", "0s")]);
        host.start().await;
        let pool = host.pool().await;
        let a = host.lease(&pool).await;
        let b = host.lease(&pool).await;
        assert_ne!(a, b, "{name}");
        assert_eq!(host.request(&pool, "10.77.0.50").await, Ok(ip(50)), "{name}");
        // Somebody takes the next ones in order.
        let next = (5..200).map(ip).filter(|ip| fleet.vpc.holder(*ip).is_none());
        for taken in next.take(2).collect::<Vec<_>>() {
            fleet.vpc.add_address(RDS, taken);
        }
        fleet.vpc.fail(Fault::on(ASSIGN, FaultKind::LoseReply));
        let mut given = BTreeSet::from([a, b, ip(50)]);
        for _ in 0..4 {
            assert!(given.insert(host.lease(&pool).await), "{name}");
        }
        // Describe is believed a minute after the claim, where a repeated Assign does not list what was there.
        host.age(61).await;
        host.settled().await;
        agree(&[&host]).await;
        for ip in &given {
            host.release(&pool, *ip).await;
        }
        // One of them is gone behind the driver's back: a list with it in it is refused, or half done.
        fleet.vpc.remove_address(&eni(1), a);
        host.tell(&["recycle", SUBNET]).await;
        eventually(&format!("{name}: none is left"), async || {
            let rows = host.rows().await;
            host.assigned().is_empty()
                && given.iter().all(|ip| rows.iter().any(|row| row.ip == *ip && row.state == State::Free))
        })
        .await;
        agree(&[&host]).await;
    });
    stream::iter(lives).buffer_unordered(15).collect::<Vec<()>>().await;
}

#[tokio::test]
async fn two_hosts_race_for_the_last_addresses_of_a_subnet() {
    let fleet = Fleet::with(Kind::Mariadb, "10.77.0.0/28", Switches::default()).await;
    let (mut a, mut b) = (fleet.host(1), fleet.host(2));
    for host in [&mut a, &mut b] {
        host.set(&[("EC2_IPAM_COOLDOWN", "0s"), ("EC2_IPAM_RECONCILE_INTERVAL", "1s")]);
        host.start().await;
    }
    fleet.vpc.latency_of(ASSIGN, Duration::from_millis(50));
    let (pool_a, pool_b) = tokio::join!(a.pool(), b.pool());
    eventually("each knows of the other", async || {
        let (_, hosts) = a.run(&["hosts"]).await;
        hosts.contains(&a.eni) && hosts.contains(&b.eni)
    })
    .await;
    for round in 0..3 {
        let (of_a, of_b) = tokio::join!(
            join_all((0..7).map(|_| a.request(&pool_a, ""))),
            join_all((0..7).map(|_| b.request(&pool_b, ""))),
        );
        let given: Vec<_> = of_a.iter().chain(&of_b).filter_map(|answer| answer.clone().ok()).collect();
        assert_eq!(given.len(), BTreeSet::from_iter(&given).len(), "round {round}: none twice");
        assert!(given.len() == 9, "round {round}: {given:?}");
        agree(&[&a, &b]).await;
        for (host, pool, answers) in [(&a, &pool_a, of_a), (&b, &pool_b, of_b)] {
            for ip in answers.into_iter().flatten() {
                host.release(pool, ip).await;
            }
        }
        // Hosts are asked that have idle ones by the table.
        eventually("it knows", async || a.rows_now().await.iter().all(|row| row.state != State::Lease)).await;
        let done = a.tell(&["recycle", SUBNET, "--all"]).await;
        assert!(done.contains("9 addresses are free again"), "{done}");
        agree(&[&a, &b]).await;
    }
}

#[tokio::test]
async fn a_release_while_the_database_is_away_is_done_when_it_is_back() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (host, pool) = fleet.started(1, &[]).await;
    let (a, b) = (host.lease(&pool).await, host.lease(&pool).await);
    assert_eq!(host.mine(State::Lease).await.len(), 2);
    let proxy = host.proxy.as_ref().unwrap();
    proxy.stall(true);
    proxy.cut();
    tokio::join!(host.release(&pool, a), host.release(&pool, b));
    assert_eq!(host.mine(State::Lease).await.len(), 2);
    let (is_well, status) = host.ask(&["status", "--json"]).await;
    assert!(
        !is_well && status.contains("\"store\"") && status.contains("\"unposted\": 2"),
        "it still answers: {status}"
    );
    proxy.stall(false);
    proxy.cut();
    eventually("both are released", async || host.mine(State::Ready).await == [a, b].into()).await;
    agree(&[&host]).await;
}

#[tokio::test]
async fn the_originals_table_settings_and_pools_are_taken_over() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let mut host = fleet.host(1);
    let db = host.db.clone().unwrap();
    db.exec(mariadb::ORIGINAL).await;
    let mut rows = Vec::new();
    for last in 0..=255u8 {
        let (status, iface, primary) = match last {
            0..=3 | 255 => ("reserved", None, 0),
            // The original lost the mark of this one.
            4 => ("ready", Some(eni(1)), 0),
            10 | 11 => ("ready", Some(eni(1)), 0),
            12 => ("occupied", Some(eni(1)), 0),
            13 => ("allocated", Some(eni(1)), 0),
            _ => ("free", None, 0),
        };
        let iface = iface.map_or("NULL".to_owned(), |eni| format!("'{eni}'"));
        rows.push(format!("('10.77.0.{last}','{SUBNET}','{status}',{iface},{primary},NOW()-INTERVAL 1 DAY)"));
    }
    db.exec(&format!("INSERT INTO allocation (ip,subnet,status,iface,`primary`,ts) VALUES {}", rows.join(","))).await;
    for last in [10, 11, 12, 13] {
        fleet.vpc.add_address(&eni(1), ip(last));
    }
    fleet.vpc.settle();
    let port = host.proxy.as_ref().unwrap().port;
    let config = json!({
        "mysql": { "host": "127.0.0.1", "port": port, "user": "ipam", "password": mariadb::PASSWORD, "database": db.name },
        "aws": { "region": "eu-central-1", "accessKeyId": ACCESS_KEY, "secretAccessKey": SECRET_KEY },
    });
    let file = host.dir.path().join("config.json");
    std::fs::write(&file, config.to_string()).unwrap();
    for given in ["EC2_IPAM_DATABASE_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
        host.unset(given);
    }
    host.args = vec!["--config".into(), file.display().to_string()];
    host.start().await;
    // Docker kept the original's PoolID, the bare interface.
    let pool = eni(1);
    let given = BTreeSet::from([host.lease(&pool).await, host.lease(&pool).await]);
    assert_eq!(given, [10, 11].map(ip).into(), "the ready ones, without a call: {given:?}");
    assert_eq!(fleet.vpc.count(ASSIGN), 0);
    let marked = host.row(ip(4)).await;
    assert!(marked.primary && marked.state == State::Foreign, "{marked:?}");
    let third = host.lease(&pool).await;
    assert!(![10, 11, 12, 13].map(ip).contains(&third), "neither the original's occupied nor its allocated: {third}");
    assert_eq!(host.row(ip(12)).await.state, State::Foreign);
    // The original goes on working beside us: its own statements still fit.
    db.exec("INSERT INTO allocation (ip,subnet,status,iface,`primary`) VALUES ('10.77.1.1','subnet-0','free',NULL,0)")
        .await;
    agree(&[&host]).await;
    assert_eq!(fleet.vpc.calls().iter().filter(|call| call.access_key != ACCESS_KEY).count(), 0);
    let (done, text) = host.run(&["--config", file.to_str().unwrap(), "list", SUBNET]).await;
    assert!(done && text.contains("10.77.0.12"), "{text}");
    let _: &Host = &host;
}

/// One attempt that is waited for beats several that are cut off, and an answer that comes after those who wait have left
/// counts for the next.
#[tokio::test]
async fn while_ec2_is_slow_nothing_is_cut_off_and_asked_again() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let mut host = fleet.host(1);
    fleet.vpc.latency(Duration::from_secs(9));
    host.start().await;
    let mut pool = Err(String::new());
    eventually("a network", async || {
        pool = host.pool_with("", json!({})).await;
        pool.is_ok()
    })
    .await;
    let pool = pool.unwrap();
    eventually("an address", async || host.request(&pool, "").await.is_ok()).await;
    assert_eq!(fleet.vpc.count(ASSIGN), 1, "{:?}", fleet.vpc.calls());
    fleet.vpc.latency_of(ASSIGN, Duration::from_secs(22));
    let refused = host.request(&pool, "").await.unwrap_err();
    assert!(refused.contains("EC2 is slow"), "{refused}");
    eventually("the answer comes late", async || !host.mine(State::Ready).await.is_empty()).await;
    let calls = fleet.vpc.count(ASSIGN);
    host.lease(&pool).await;
    assert_eq!(fleet.vpc.count(ASSIGN), calls, "{:?}", fleet.vpc.calls());
    agree(&[&host]).await;
}
