//! Whole blocks on an interface: how many containers one takes, what EC2's refusals and lost answers do, and when a block goes
//! back.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use ec2_ipam::domain::address::State;
use ec2_ipam::domain::block::Block;
use futures_util::future::join_all;
use serde_json::json;
use vpc_sim::{Fault, FaultKind, Switches};

use crate::support::host::{
    ASSIGN, Fleet, Host, Kind, RDS, Row, SUBNET, UNASSIGN, agree, eni, eventually, ip, on_both,
};

on_both! {
    an_interface_fills_its_slots_with_blocks
    a_lost_answer_to_an_assign_of_a_block
    no_start_fails_over_a_block_that_ec2_does_not_give
    where_no_block_is_whole_single_addresses_do
    a_block_goes_back_whole_and_at_once
    grants_come_from_the_fullest_block
    a_named_address_of_a_block
    a_block_is_given_back_for_an_address_that_another_host_names
    what_was_taken_of_a_block_meanwhile_fails_no_start
    a_host_with_nine_blocks_that_is_gone_leaves_its_subnet_free
    what_cools_when_its_block_goes_back_cools_for_every_host
    a_range_that_is_smaller_than_a_block
    a_block_that_left_the_interface_under_a_container_comes_back
    a_prefix_of_somebody_else_is_one_slot_and_one_that_nobody_uses_is_taken_over
    a_driver_that_is_killed_anywhere_loses_no_block
    a_drained_host_gives_its_blocks_back
}

const WIDE: &str = "10.77.0.0/20";
const AUTO: (&str, &str) = ("EC2_IPAM_BLOCKS", "auto");
const BRISK: (&str, &str) = ("EC2_IPAM_RECONCILE_INTERVAL", "1s");

async fn host_with(fleet: &Fleet, kind: &str, settings: &[(&str, &str)]) -> (Host, String) {
    let mut host = fleet.host_of(1, kind);
    host.set(&[AUTO]);
    host.set(settings);
    host.start().await;
    let pool = host.pool().await;
    (host, pool)
}

fn blocks_of(ips: &BTreeSet<Ipv4Addr>) -> BTreeSet<Block> {
    ips.iter().map(|ip| Block::of(*ip)).collect()
}

async fn an_interface_fills_its_slots_with_blocks(kind: Kind) {
    for (instance, most) in [("c5.large", 144), ("t3.medium", 80), ("t3.small", 48)] {
        let fleet = Fleet::with(kind, WIDE, Switches::default()).await;
        let (host, pool) = host_with(&fleet, instance, &[("EC2_IPAM_WARM_TARGET", "4")]).await;
        let mut given = BTreeSet::new();
        for _ in 0..most {
            assert!(given.insert(host.lease(&pool).await));
        }
        assert!(fleet.vpc.calls().len() <= 12, "{instance}: {} calls", fleet.vpc.calls().len());
        let why = host.request(&pool, "").await.unwrap_err();
        assert!(why.contains("as many addresses as its instance type allows"), "{why}");
        assert_eq!(fleet.vpc.prefixes(&eni(1)).len() * 16, most);
        assert_eq!(fleet.vpc.count(ASSIGN), fleet.vpc.count_ok(ASSIGN), "a full interface is not asked for more");
        agree(&[&host]).await;
    }
}

async fn a_lost_answer_to_an_assign_of_a_block(kind: Kind) {
    for (name, switches) in Switches::of_prefixes() {
        for fate in [FaultKind::LoseReply, FaultKind::Hang(Duration::ZERO)] {
            let fleet = Fleet::with(kind, "10.77.0.0/24", switches.clone()).await;
            let (host, pool) = host_with(&fleet, "c5.large", &[]).await;
            fleet.vpc.fail(Fault::on(ASSIGN, fate.clone()));
            let first = host.lease(&pool).await;
            host.settled().await;
            agree(&[&host]).await;
            let prefixes = fleet.vpc.prefixes(&eni(1));
            assert!(fleet.vpc.addresses(&eni(1)).is_empty(), "{name}: a single one was assigned instead");
            assert_eq!(prefixes.len(), 1, "{name}");
            assert!(prefixes.iter().all(|net| net.contains(&first)), "{name}");
            host.release(&pool, first).await;
        }
    }
}

async fn no_start_fails_over_a_block_that_ec2_does_not_give(kind: Kind) {
    let refusals = [
        (
            "InsufficientCidrBlocks",
            "The specified subnet does not have enough free cidr blocks to satisfy the request.",
        ),
        ("InvalidParameterValue", "The prefix 10.77.0.16/28 is none that can be had."),
        ("InvalidIpv4Prefix.Made.Up", "No."),
        ("InvalidParameterValue", "Address 10.77.0.16 is in subnet's reserved address range"),
    ];
    for (code, message) in refusals {
        let fleet = Fleet::with(kind, "10.77.0.0/24", Switches::default()).await;
        let (host, pool) = host_with(&fleet, "c5.large", &[]).await;
        let refusal = || FaultKind::Error { status: 400, code, message };
        fleet.vpc.fail(Fault::on(ASSIGN, refusal()));
        host.lease(&pool).await;
        assert_eq!(fleet.vpc.prefixes(&eni(1)).len(), 1, "{code}: the next block");
        // Three in a row: none for a while, but single addresses.
        for _ in 0..15 {
            host.lease(&pool).await;
        }
        fleet.vpc.fail(Fault::on(ASSIGN, refusal()).times(3));
        host.lease(&pool).await;
        assert_eq!((fleet.vpc.prefixes(&eni(1)).len(), fleet.vpc.addresses(&eni(1)).len()), (1, 1), "{code}");
        host.lease(&pool).await;
        assert_eq!((fleet.vpc.prefixes(&eni(1)).len(), fleet.vpc.addresses(&eni(1)).len()), (1, 2), "{code}");
        agree(&[&host]).await;
        let reserved = host.rows().await.iter().filter(|row| row.state == State::Reserved).count();
        assert_eq!(reserved, 5, "{code}: a refusal of a block says nothing of its addresses");
    }
}

async fn where_no_block_is_whole_single_addresses_do(kind: Kind) {
    let fleet = Fleet::with(kind, "10.77.0.0/26", Switches::default()).await;
    fleet.vpc.take(RDS, ip(20));
    fleet.vpc.take("eni-0dddddddddddddd02", ip(40));
    let (host, pool) = host_with(&fleet, "c5.large", &[]).await;
    let mut given = BTreeSet::new();
    for _ in 0..9 {
        given.insert(host.lease(&pool).await);
    }
    assert_eq!((fleet.vpc.addresses(&eni(1)), fleet.vpc.prefixes(&eni(1)).len()), (given, 0));
    agree(&[&host]).await;
}

async fn a_block_goes_back_whole_and_at_once(kind: Kind) {
    let fleet = Fleet::with(kind, WIDE, Switches::default()).await;
    let (host, pool) = host_with(&fleet, "c5.large", &[("EC2_IPAM_COOLDOWN", "60s"), BRISK]).await;
    let given = join_all((0..40).map(|_| host.lease(&pool))).await;
    let on = fleet.vpc.prefixes(&eni(1)).len();
    assert!(on >= 3, "{on}");
    for ip in &given[1..] {
        host.release(&pool, *ip).await;
    }
    host.age(30).await;
    fleet.vpc.forget_calls();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(fleet.vpc.count(UNASSIGN), 0, "I10: what cools stays");
    host.age(90).await;
    eventually("all but one went back", async || fleet.vpc.prefixes(&eni(1)).len() == 1).await;
    assert!(fleet.vpc.prefixes(&eni(1)).iter().all(|net| net.contains(&given[0])), "one is in use");
    agree(&[&host]).await;
    let (done, told) = host.run(&["recycle", SUBNET]).await;
    assert!(done, "{told}");
    assert_eq!(fleet.vpc.prefixes(&eni(1)).len(), 1, "what has a container stays whole");
    host.release(&pool, given[0]).await;
    let (done, told) = host.run(&["recycle", SUBNET]).await;
    assert!(done && told.contains("16"), "{told}");
    assert!(fleet.vpc.prefixes(&eni(1)).is_empty());
    assert!(host.mine(State::Ready).await.is_empty());
    agree(&[&host]).await;
}

async fn grants_come_from_the_fullest_block(kind: Kind) {
    let fleet = Fleet::with(kind, WIDE, Switches::default()).await;
    let (host, pool) = host_with(&fleet, "c5.large", &[("EC2_IPAM_COOLDOWN", "0s")]).await;
    let given: BTreeSet<Ipv4Addr> = join_all((0..20).map(|_| host.lease(&pool))).await.into_iter().collect();
    let most = |given: &BTreeSet<Ipv4Addr>| {
        let blocks = blocks_of(given).into_iter();
        blocks.max_by_key(|block| given.iter().filter(|ip| block.contains(**ip)).count()).unwrap()
    };
    let full = most(&given);
    let freed = *given.iter().find(|ip| full.contains(**ip)).unwrap();
    host.release(&pool, freed).await;
    assert!(full.contains(host.lease(&pool).await), "its last free address");
    agree(&[&host]).await;
}

async fn a_named_address_of_a_block(kind: Kind) {
    let fleet = Fleet::with(kind, "10.77.0.0/24", Switches::default()).await;
    let (host, pool) = host_with(&fleet, "c5.large", &[("EC2_IPAM_COOLDOWN", "60s"), BRISK]).await;
    let first = host.lease(&pool).await;
    let other = Block::of(first).addresses().find(|ip| *ip != first).unwrap();
    assert_eq!(host.request(&pool, &other.to_string()).await, Ok(other), "of a block that is here");
    host.release(&pool, other).await;
    host.age(120).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(host.row(other).await.state, State::Ready, "it stays with its block");
    let (done, told) = host.run(&["reserve", &other.to_string(), "web"]).await;
    assert!(!done && told.contains("only a free address can be reserved"), "{told}");
    // One of a whole free block is a single one, and its block is none from then on.
    let whole = (1..15).map(|n| Block::of(ip(n * 16))).find(|block| *block != Block::of(first)).unwrap();
    let single = whole.addresses().nth(7).unwrap();
    assert_eq!(host.request(&pool, &single.to_string()).await, Ok(single));
    assert!(fleet.vpc.addresses(&eni(1)).contains(&single));
    agree(&[&host]).await;
}

async fn a_block_is_given_back_for_an_address_that_another_host_names(kind: Kind) {
    if kind == Kind::Sqlite {
        return; // Each host has a table of its own.
    }
    let fleet = Fleet::with(kind, "10.77.0.0/24", Switches::default()).await;
    let (first, pool) = host_with(&fleet, "c5.large", &[("EC2_IPAM_COOLDOWN", "60s"), BRISK]).await;
    let mut second = fleet.host_of(2, "c5.large");
    second.set(&[BRISK]);
    second.start().await;
    let there = second.pool().await;
    let used = first.lease(&pool).await;
    let block = Block::of(used);
    let named = block.addresses().find(|ip| *ip != used).unwrap();
    let why = second.request(&there, &named.to_string()).await.unwrap_err();
    assert!(why.contains(&block.to_string()) && why.contains(eni(1).as_str()), "{why}");
    // From then on others are given, though addresses of it are warm.
    eventually("it is told there", async || first.log().contains("another host asks for an address")).await;
    first.lease(&pool).await;
    assert_eq!(fleet.vpc.prefixes(&eni(1)).len(), 2);
    first.release(&pool, used).await;
    first.rows().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(fleet.vpc.prefixes(&eni(1)).contains(&block.net()), "I10: what cools stays");
    first.age(120).await;
    eventually("it is given back", async || !fleet.vpc.prefixes(&eni(1)).contains(&block.net())).await;
    assert_eq!(second.request(&there, &named.to_string()).await, Ok(named));
    agree(&[&first, &second]).await;
}

async fn what_was_taken_of_a_block_meanwhile_fails_no_start(kind: Kind) {
    let fleet = Fleet::with(kind, "10.77.0.0/24", Switches::default()).await;
    let (host, pool) = host_with(&fleet, "c5.large", &[BRISK, ("EC2_IPAM_SETTLE_AGE", "2s")]).await;
    // Of each block that the table has as whole somebody has got an address or all, and only EC2 knows it.
    let other = fleet.host_of(3, "c5.4xlarge");
    for n in 1..15 {
        match n % 2 {
            0 => fleet.vpc.add_address(&other.eni, ip(n * 16 + n)),
            _ => fleet.vpc.add_prefix(&other.eni, &Block::of(ip(n * 16)).to_string()),
        }
    }
    fleet.vpc.settle();
    let mut given = BTreeSet::new();
    for _ in 0..6 {
        assert!(given.insert(host.lease(&pool).await));
    }
    let theirs = other.assigned();
    assert!(given.is_disjoint(&theirs), "{given:?}");
    assert!(fleet.vpc.prefixes(&eni(1)).is_empty());
    host.settled().await;
    agree(&[&host]).await;
}

async fn a_host_with_nine_blocks_that_is_gone_leaves_its_subnet_free(kind: Kind) {
    if kind == Kind::Sqlite {
        return; // Each host has a table of its own.
    }
    let fleet = Fleet::with(kind, "10.77.0.0/24", Switches::default()).await;
    let brisk = [BRISK, ("EC2_IPAM_SCAN_INTERVAL", "1s"), ("EC2_IPAM_SETTLE_AGE", "2s")];
    let (mut dead, pool) = host_with(&fleet, "c5.large", &brisk).await;
    for _ in 0..144 {
        dead.lease(&pool).await;
    }
    assert_eq!(dead.mine(State::Lease).await.len(), 144);
    let mut other = fleet.host_of(2, "c5.large");
    other.set(&brisk);
    other.start().await;
    other.pool().await;
    dead.kill();
    fleet.vpc.remove_eni(&dead.eni);
    let is_dead = |row: &Row| row.iface.as_ref() == Some(&dead.eni);
    eventually("all of it is free", async || !other.rows_now().await.iter().any(is_dead)).await;
    agree(&[&other]).await;
}

async fn what_cools_when_its_block_goes_back_cools_for_every_host(kind: Kind) {
    if kind == Kind::Sqlite {
        return; // Each host has a table of its own.
    }
    let fleet = Fleet::with(kind, "10.77.0.0/26", Switches::default()).await;
    let (first, pool) = host_with(&fleet, "c5.large", &[("EC2_IPAM_COOLDOWN", "60s")]).await;
    let used = first.lease(&pool).await;
    first.release(&pool, used).await;
    let (done, told) = first.run(&["drain"]).await;
    assert!(done, "{told}");
    eventually("its block went back", async || fleet.vpc.prefixes(&eni(1)).is_empty()).await;
    let mut second = fleet.host_of(2, "c5.large");
    second.set(&[AUTO, ("EC2_IPAM_COOLDOWN", "60s")]);
    second.start().await;
    let there = second.pool().await;
    // More than the other block has.
    let mut given = BTreeSet::new();
    for _ in 0..20 {
        given.insert(second.lease(&there).await);
    }
    assert!(!given.contains(&used), "I10");
    assert!(fleet.vpc.prefixes(&eni(2)).iter().all(|net| !net.contains(&used)), "its block is none while it cools");
    agree(&[&first, &second]).await;
}

async fn a_range_that_is_smaller_than_a_block(kind: Kind) {
    let fleet = Fleet::with(kind, "10.77.0.0/24", Switches::default()).await;
    let (host, _) = host_with(&fleet, "c5.large", &[]).await;
    let small = host.pool_with("10.77.0.64/29", json!({})).await.unwrap();
    assert!(Block::of(ip(64)).contains(host.lease(&small).await));
    assert_eq!((fleet.vpc.prefixes(&eni(1)).len(), fleet.vpc.addresses(&eni(1)).len()), (0, 1));
    let wide = host.pool_with("10.77.0.128/27", json!({})).await.unwrap();
    let given = host.lease(&wide).await;
    let prefixes = fleet.vpc.prefixes(&eni(1));
    assert_eq!(prefixes.len(), 1);
    assert!(prefixes.iter().all(|net| net.contains(&given) && [ip(128), ip(144)].contains(&net.network())));
    agree(&[&host]).await;
}

async fn a_block_that_left_the_interface_under_a_container_comes_back(kind: Kind) {
    let fleet = Fleet::with(kind, "10.77.0.0/24", Switches::default()).await;
    let settings = [BRISK, ("EC2_IPAM_SETTLE_AGE", "2s"), ("EC2_IPAM_COOLDOWN", "0s")];
    let (host, pool) = host_with(&fleet, "c5.large", &settings).await;
    let first = host.lease(&pool).await;
    fleet.vpc.remove_prefix(&eni(1), &Block::of(first).to_string());
    eventually("it is on the interface again", async || fleet.vpc.prefixes(&eni(1)).len() == 1).await;
    agree(&[&host]).await;
    assert_eq!(host.row(first).await.state, State::Lease);
    // Without a container it is given up.
    host.release(&pool, first).await;
    host.rows().await;
    fleet.vpc.remove_prefix(&eni(1), &Block::of(first).to_string());
    eventually("its rows are free", async || host.mine(State::Ready).await.is_empty()).await;
    agree(&[&host]).await;
}

async fn a_prefix_of_somebody_else_is_one_slot_and_one_that_nobody_uses_is_taken_over(kind: Kind) {
    let fleet = Fleet::with(kind, "10.77.0.0/24", Switches::default()).await;
    let mut host = fleet.host_of(1, "t3.small");
    let docker = host.docker();
    docker.runs(&[]);
    host.set(&[AUTO, BRISK, ("EC2_IPAM_SETTLE_AGE", "2s")]);
    fleet.vpc.add_prefix(&eni(1), "10.77.0.64/28");
    host.start().await;
    let pool = host.pool().await;
    eventually("its addresses are idle", async || host.mine(State::Ready).await.len() == 16).await;
    agree(&[&host]).await;
    let given = host.lease(&pool).await;
    assert!(fleet.vpc.prefixes(&eni(1)).len() <= 2, "{given}");
}

async fn a_driver_that_is_killed_anywhere_loses_no_block(kind: Kind) {
    for point in ["refill:claimed", "assign:answered", "serve:leased", "off:claimed", "off:unassigned"] {
        let fleet = Fleet::with(kind, "10.77.0.0/24", Switches::default()).await;
        let mut host = fleet.host_of(1, "c5.large");
        host.set(&[AUTO, BRISK, ("EC2_IPAM_SETTLE_AGE", "2s"), ("EC2_IPAM_COOLDOWN", "0s")]);
        host.start().await;
        let pool = host.pool().await;
        if point.starts_with("off") {
            let first = host.lease(&pool).await;
            host.release(&pool, first).await;
            host.rows().await;
        }
        host.stop_at(point);
        host.restart().await;
        let pool = host.pool().await;
        if point.starts_with("off") {
            let _ = host.run(&["recycle", SUBNET]).await;
        } else {
            let _ = host.request(&pool, "").await;
        }
        host.kill();
        host.unset("EC2_IPAM_STOP_AT");
        host.start().await;
        let pool = host.pool().await;
        let given = host.lease(&pool).await;
        host.settled().await;
        agree(&[&host]).await;
        assert!(fleet.vpc.prefixes(&eni(1)).iter().any(|net| net.contains(&given)), "{point}");
        let half = blocks_of(&host.mine(State::Off).await);
        assert!(half.len() <= 1, "{point}: {half:?}");
    }
}

async fn a_drained_host_gives_its_blocks_back(kind: Kind) {
    let fleet = Fleet::with(kind, WIDE, Switches::default()).await;
    let (host, pool) = host_with(&fleet, "c5.large", &[("EC2_IPAM_COOLDOWN", "0s"), BRISK]).await;
    let given = join_all((0..20).map(|_| host.lease(&pool))).await;
    let kept = given[0];
    for ip in &given[1..] {
        host.release(&pool, *ip).await;
    }
    let (done, told) = host.run(&["drain"]).await;
    assert!(done, "{told}");
    eventually("one block is left", async || fleet.vpc.prefixes(&eni(1)).len() == 1).await;
    host.release(&pool, kept).await;
    eventually("none is left", async || fleet.vpc.prefixes(&eni(1)).is_empty()).await;
    agree(&[&host]).await;
}
