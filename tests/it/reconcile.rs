//! Rows, EC2 and Docker that have come apart, put right by the real driver: reconciling, trim and drain, the subnet scan,
//! and an address that its container gets back.
//!
//! The settle age is a second here (a setting that only a build for tests has), so that two looks are a second apart.

use std::net::Ipv4Addr;
use std::time::Duration;

use ec2_ipam::domain::address::State;
use ec2_ipam::driver::found::Found;
use ec2_ipam::driver::status::Status;
use serde_json::json;
use vpc_sim::{EniSpec, Fault, FaultKind, Vpc};

use crate::support::docker::{Docker, Other};
use crate::support::host::{ASSIGN, Fleet, Host, Kind, RDS, SUBNET, UNASSIGN, agree, eventually, ip, on_both};

on_both! {
    a_lost_release_is_found_and_a_living_container_keeps_its_address
    nothing_is_released_while_docker_fails_or_is_another_one
    a_container_whose_address_left_the_interface_gets_it_back
    an_address_that_another_interface_took_from_a_container_is_never_silent
    an_idle_address_that_left_the_interface_is_given_back
    an_unknown_address_on_the_interface_joins_the_idle_ones_only_if_nothing_uses_it
    what_the_database_lost_is_leased_again
    what_a_container_has_is_not_recycled_though_the_table_says_idle
    what_a_container_has_is_not_given_up_at_the_first_look_though_the_table_says_idle
    what_only_docker_knows_of_is_claimed_and_assigned_again
    another_engine_behind_the_socket_ends_no_lease
    idle_addresses_beyond_the_maximum_go_in_one_call_and_the_target_stays
    an_interface_that_nobody_uses_is_drained
    what_is_given_up_never_turns_back_however_often_ec2_is_unclear
    a_dry_run_tells_and_changes_nothing
    a_network_on_the_wrong_parent_is_told
    a_calm_interface_is_not_described_every_time
    what_others_take_and_let_go_is_scanned
    a_container_that_comes_back_gets_the_address_it_had
    a_prefix_on_the_interface_is_foreign_and_takes_one_slot
    an_interface_that_is_deleted_and_still_listed_is_left_out_and_named
}

const SETTLE: Duration = Duration::from_secs(1);
const QUICK: [(&str, &str); 4] = [
    ("EC2_IPAM_SETTLE_AGE", "1s"),
    ("EC2_IPAM_RECONCILE_INTERVAL", "1s"),
    ("EC2_IPAM_SCAN_INTERVAL", "1s"),
    ("EC2_IPAM_COOLDOWN", "0s"),
];

/// A host that reconciles every second, its Docker, and its pool.
async fn bed(fleet: &Fleet, n: u8, settings: &[(&str, &str)]) -> (Host, Docker, String) {
    let mut host = fleet.host(n);
    let docker = host.docker();
    host.set(&QUICK);
    host.set(settings);
    host.start().await;
    let pool = host.pool().await;
    (host, docker, pool)
}

/// So many whole rounds begin and end, each a settle age after the one before.
async fn rounds(docker: &Docker, count: usize) {
    for _ in 0..count {
        let before = docker.with(|docker| docker.listings);
        eventually("a round", async || docker.with(|docker| docker.listings) > before + 1).await;
        tokio::time::sleep(SETTLE).await;
    }
}

async fn status(host: &Host) -> Status {
    let (is_well, status): (bool, Status) = host.ask_json(&["status"]).await;
    assert_eq!(is_well, status.problems.is_empty() && status.store.error.is_none(), "{status:?}");
    status
}

async fn a_lost_release_is_found_and_a_living_container_keeps_its_address(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (host, docker, pool) = bed(&fleet, 1, &[]).await;
    let (gone, lives) = (host.lease(&pool).await, host.lease(&pool).await);
    docker.runs(&[gone, lives]);
    rounds(&docker, 2).await;
    assert_eq!(host.mine(State::Lease).await, [gone, lives].into(), "I1: nothing live is released");
    docker.runs(&[lives]);
    eventually("the lost release", async || host.mine(State::Ready).await == [gone].into()).await;
    assert_eq!(host.mine(State::Lease).await, [lives].into(), "I1: nothing live is released");
    let log = host.log();
    assert!(log.contains(&format!("{gone} is leased and no container has it")), "{log}");
    agree(&[&host]).await;
}

async fn nothing_is_released_while_docker_fails_or_is_another_one(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (host, docker, pool) = bed(&fleet, 1, &[]).await;
    let lives = host.lease(&pool).await;
    docker.with(|docker| docker.fails = true);
    for _ in 0..4 {
        host.tell(&["reconcile"]).await;
        tokio::time::sleep(SETTLE / 2).await;
    }
    assert_eq!(host.mine(State::Lease).await, [lives].into(), "I1: an error is not an empty answer");
    drop(host);
    // Another Engine on the same host, with neither the network nor the container.
    let fleet = Fleet::new(kind).await;
    let mut host = fleet.host(1);
    let docker = host.docker();
    docker.with(|docker| docker.subnet = None);
    host.set(&QUICK);
    host.start().await;
    let pool = host.pool().await;
    let lives = host.lease(&pool).await;
    rounds(&docker, 3).await;
    assert_eq!(host.mine(State::Lease).await, [lives].into(), "I1: another Engine knows nothing of it");
    let status = status(&host).await;
    assert!(status.problems.iter().any(|problem| problem.contains("Docker shows no network")), "{:?}", status.problems);
}

async fn a_container_whose_address_left_the_interface_gets_it_back(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (host, docker, pool) = bed(&fleet, 1, &[]).await;
    let lives = host.lease(&pool).await;
    docker.runs(&[lives]);
    fleet.vpc.remove_address(&host.eni, lives);
    eventually("it is assigned again", async || host.assigned().contains(&lives)).await;
    assert_eq!(host.mine(State::Lease).await, [lives].into());
    assert!(host.log().contains("its container has no network"), "it is shouted about");
    agree(&[&host]).await;
}

async fn an_address_that_another_interface_took_from_a_container_is_never_silent(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (host, docker, pool) = bed(&fleet, 1, &[]).await;
    fleet.vpc.add_eni(EniSpec::new(RDS, SUBNET, ip(200)));
    fleet.vpc.settle();
    let lives = host.lease(&pool).await;
    docker.runs(&[lives]);
    fleet.vpc.move_address(&host.eni, RDS, lives);
    eventually("a line in status", async || status(&host).await.problems.len() == 1).await;
    let told = status(&host).await;
    assert!(told.problems[0].contains(&lives.to_string()) && told.problems[0].contains(RDS), "{:?}", told.problems);
    assert_eq!(told.conflicts, 1, "a counter");
    let (is_well, shown) = host.ask(&["status"]).await;
    assert!(!is_well && shown.contains("PROBLEM") && shown.contains("1 conflicts"), "{shown}");
    assert!(host.log().contains(&format!("ERROR {lives} is in use")), "{}", host.log());
    let (done, text) = host.ask(&["doctor"]).await;
    assert!(!done && text.contains("FAIL  agreement"), "{text}");
    // Once told, it is not counted each second anew; once mended, it is gone.
    rounds(&docker, 2).await;
    assert_eq!(status(&host).await.conflicts, 1);
    fleet.vpc.move_address(RDS, &host.eni, lives);
    eventually("no problem is left", async || status(&host).await.problems.is_empty()).await;
    assert_eq!(host.mine(State::Lease).await, [lives].into());
}

async fn an_idle_address_that_left_the_interface_is_given_back(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (host, docker, pool) = bed(&fleet, 1, &[]).await;
    let (idle, lives) = (host.lease(&pool).await, host.lease(&pool).await);
    docker.runs(&[lives]);
    host.release(&pool, idle).await;
    fleet.vpc.remove_address(&host.eni, idle);
    eventually("its row is free", async || host.row(idle).await.state == State::Free).await;
    agree(&[&host]).await;
}

async fn an_unknown_address_on_the_interface_joins_the_idle_ones_only_if_nothing_uses_it(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (host, docker, pool) = bed(&fleet, 1, &[]).await;
    // Named: any other could be one of those that somebody takes below.
    let lives = host.request(&pool, "10.77.0.40").await.unwrap();
    let (unused, in_docker, on_link) = (ip(100), ip(101), ip(102));
    docker.runs(&[lives, in_docker]);
    host.ip(&format!("addr add {on_link}/32 dev eth1"));
    for ip in [unused, in_docker, on_link] {
        fleet.vpc.add_address(&host.eni, ip);
    }
    eventually("the unused one is idle", async || host.mine(State::Ready).await.contains(&unused)).await;
    eventually("the container's one is leased", async || host.mine(State::Lease).await.contains(&in_docker)).await;
    rounds(&docker, 2).await;
    assert_eq!(host.row(on_link).await.state, State::Foreign, "I7: the host itself has it");
    assert_eq!(host.mine(State::Ready).await, [unused].into());
    // Its container ends as any other does.
    host.release(&pool, in_docker).await;
    assert_eq!(host.mine(State::Ready).await, [unused, in_docker].into());
    // What was somebody else's and is gone is free.
    fleet.vpc.remove_address(&host.eni, on_link);
    eventually("the row of what is gone is free", async || host.row(on_link).await.state == State::Free).await;
    agree(&[&host]).await;
}

async fn what_the_database_lost_is_leased_again(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (mut host, docker, pool) = bed(&fleet, 1, &[]).await;
    let ips = [host.lease(&pool).await, host.lease(&pool).await, host.lease(&pool).await];
    docker.runs(&ips);
    let lose = async |host: &Host, ip: Ipv4Addr, status: &str, iface: &str| {
        let row = format!("status='{status}',iface={iface},claim=NULL,claimed=NULL WHERE ip='{ip}'");
        host.sql(&format!("UPDATE allocation SET ts=ts,{row}"), &format!("UPDATE allocation SET {row}")).await;
    };
    // Its last commits: the lease; the claim as well.
    lose(&host, ips[0], "ready", &format!("'{}'", host.eni)).await;
    lose(&host, ips[1], "free", "NULL").await;
    eventually("all are leased", async || host.mine(State::Lease).await == ips.into()).await;
    // The same while no driver knows better than Docker.
    host.kill();
    lose(&host, ips[0], "ready", &format!("'{}'", host.eni)).await;
    lose(&host, ips[2], "free", "NULL").await;
    host.start().await;
    eventually("all are leased", async || host.mine(State::Lease).await == ips.into()).await;
    for ip in ips {
        host.release(&pool, ip).await;
    }
    assert_eq!(host.mine(State::Ready).await, ips.into());
    agree(&[&host]).await;
}

/// Whether the journal knows better than the table, or Docker alone does.
async fn what_a_container_has_is_not_recycled_though_the_table_says_idle(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let slow = [("EC2_IPAM_RECONCILE_INTERVAL", "1h"), ("EC2_IPAM_SCAN_INTERVAL", "1h")];
    for (n, lost) in [(1, false), (2, true)] {
        let (mut host, docker, pool) = bed(&fleet, n, &slow).await;
        let (lives, idle) = (host.lease(&pool).await, host.lease(&pool).await);
        docker.runs(&[lives]);
        host.release(&pool, idle).await;
        host.rows().await;
        host.kill();
        let row = format!("status='ready',claim=NULL,claimed=NULL WHERE ip='{lives}'");
        host.sql(&format!("UPDATE allocation SET ts=ts,{row}"), &format!("UPDATE allocation SET {row}")).await;
        if lost {
            host.lose_journal();
        }
        host.start().await;
        let is_read = |status: Status| status.docker.is_some_and(|docker| docker.addresses == Some(1));
        eventually("Docker is read", async || is_read(status(&host).await)).await;
        eventually("one goes", async || host.ask(&["recycle", SUBNET]).await.1.contains("1 address")).await;
        assert!(host.assigned().contains(&lives), "I1: a container's address is taken from it");
        assert!(!host.assigned().contains(&idle));
        for _ in 0..2 {
            host.ask(&["reconcile"]).await;
            tokio::time::sleep(SETTLE).await;
        }
        assert_eq!(host.mine(State::Lease).await, [lives].into());
        agree(&[&host]).await;
    }
}

/// A container's row is this after an older copy of the table, and its address has left the interface: in the end it is leased
/// again and back, and nothing was given up.
async fn a_container_that_lost_both(kind: Kind, row: &str) -> String {
    let fleet = Fleet::new(kind).await;
    let (mut host, docker, pool) = bed(&fleet, 1, &[]).await;
    let lives = host.lease(&pool).await;
    docker.runs(&[lives]);
    host.kill();
    let row = format!("{row},claim=NULL,claimed=NULL WHERE ip='{lives}'");
    host.sql(&format!("UPDATE allocation SET ts=ts,{row}"), &format!("UPDATE allocation SET {row}")).await;
    host.vpc.remove_address(&host.eni, lives);
    host.vpc.forget_calls();
    host.start().await;
    eventually("it is leased again, and on the interface", async || {
        host.mine(State::Lease).await == [lives].into() && host.assigned().contains(&lives)
    })
    .await;
    assert_eq!(host.vpc.count(UNASSIGN), 0, "I1: a container's address is given up");
    agree(&[&host]).await;
    host.log()
}

/// Free, it could be another host's next.
async fn what_a_container_has_is_not_given_up_at_the_first_look_though_the_table_says_idle(kind: Kind) {
    a_container_that_lost_both(kind, "status='ready'").await;
}

/// Nobody but Docker knows.
async fn what_only_docker_knows_of_is_claimed_and_assigned_again(kind: Kind) {
    let log = a_container_that_lost_both(kind, "status='free',iface=NULL").await;
    assert!(log.contains("to be claimed and assigned again"), "{log}");
}

async fn another_engine_behind_the_socket_ends_no_lease(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (host, docker, pool) = bed(&fleet, 1, &[]).await;
    let lives = host.lease(&pool).await;
    docker.runs(&[lives]);
    rounds(&docker, 2).await;
    docker.with(|docker| docker.subnet = None);
    docker.runs(&[]);
    rounds(&docker, 3).await;
    assert_eq!(host.mine(State::Lease).await, [lives].into(), "I1: another Engine knows nothing of it");
    let problems = status(&host).await.problems;
    assert!(problems.iter().any(|problem| problem.contains("Docker shows no network")), "{problems:?}");
    // A network that is removed takes its pool along: what is leased then is a lost release.
    host.post("ReleasePool", &json!({ "PoolID": pool })).await.outcome().unwrap();
    eventually("it is released", async || host.mine(State::Lease).await.is_empty()).await;
    eventually("nothing is wrong", async || status(&host).await.problems.is_empty()).await;
}

async fn idle_addresses_beyond_the_maximum_go_in_one_call_and_the_target_stays(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let settings = [("EC2_IPAM_WARM_TARGET", "1"), ("EC2_IPAM_WARM_MAX", "2"), ("EC2_IPAM_SETTLE_AGE", "3s")];
    let (host, docker, pool) = bed(&fleet, 1, &settings).await;
    let mut ips = Vec::new();
    for _ in 0..7 {
        ips.push(host.lease(&pool).await);
    }
    docker.runs(&ips[..1]);
    for ip in &ips[1..] {
        host.release(&pool, *ip).await;
    }
    fleet.vpc.forget_calls();
    let before = host.assigned().len();
    // A burst may still want as many as it took last; that is halved each settle age.
    eventually("the idle ones are trimmed", async || host.assigned().len() == 1 + 2).await;
    let calls = fleet.vpc.count(UNASSIGN);
    assert!(calls <= 3 && before - 3 > calls, "many with one call: {calls} calls for {} addresses", before - 3);
    rounds(&docker, 2).await;
    assert_eq!(host.mine(State::Ready).await.len(), 2, "the target stays");
    assert_eq!(host.mine(State::Lease).await, ips[..1].iter().copied().collect());
    agree(&[&host]).await;
}

async fn an_interface_that_nobody_uses_is_drained(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (host, docker, pool) = bed(&fleet, 1, &[("EC2_IPAM_WARM_TARGET", "3")]).await;
    let only = host.lease(&pool).await;
    docker.runs(&[only]);
    host.release(&pool, only).await;
    docker.runs(&[]);
    eventually("nothing is left on it", async || host.assigned().is_empty()).await;
    eventually("nor in the table", async || {
        host.rows().await.iter().all(|row| row.primary || row.iface.as_ref() != Some(&host.eni))
    })
    .await;
    agree(&[&host]).await;
}

async fn what_is_given_up_never_turns_back_however_often_ec2_is_unclear(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (host, docker, pool) = bed(&fleet, 1, &[]).await;
    let (idle, lives) = (host.lease(&pool).await, host.lease(&pool).await);
    docker.runs(&[lives]);
    host.release(&pool, idle).await;
    // The first Unassign never arrives, the second one's answer is lost.
    fleet.vpc.fail(Fault::on(UNASSIGN, FaultKind::InternalError));
    fleet.vpc.fail(Fault::on(UNASSIGN, FaultKind::LoseReply));
    let (_, text) = host.ask(&["recycle", SUBNET]).await;
    let now = host.rows_now().await.into_iter().find(|row| row.ip == idle).unwrap();
    assert!(now.state == State::Off, "{text}");
    let next = host.lease(&pool).await;
    assert_ne!(next, idle, "I2: what is given up is granted to nobody");
    docker.runs(&[lives, next]);
    eventually("EC2 says gone", async || host.row(idle).await.state == State::Free).await;
    assert_eq!(fleet.vpc.count(UNASSIGN), 3);
    assert!(!host.assigned().contains(&idle));
    agree(&[&host]).await;
}

async fn a_dry_run_tells_and_changes_nothing(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    // Only commands look.
    let slow = [("EC2_IPAM_RECONCILE_INTERVAL", "1h"), ("EC2_IPAM_SCAN_INTERVAL", "1h")];
    let (host, docker, pool) = bed(&fleet, 1, &slow).await;
    let (gone, lives) = (host.lease(&pool).await, host.lease(&pool).await);
    docker.runs(&[lives]);
    assert!(host.tell(&["list"]).await.contains(&gone.to_string()));
    tokio::time::sleep(SETTLE).await;
    for _ in 0..3 {
        let told: Vec<Found> = host.tell_json(&["reconcile", "--dry-run"]).await;
        assert_eq!(told.iter().map(|found| (found.ip, found.repaired)).collect::<Vec<_>>(), [(gone, false)]);
        assert_eq!(host.mine(State::Lease).await, [gone, lives].into());
        tokio::time::sleep(SETTLE / 2).await;
    }
    let first = host.tell(&["reconcile"]).await;
    assert!(first.contains("no container has it: to be released") && first.contains("for the first time"), "{first}");
    assert_eq!(host.mine(State::Lease).await, [gone, lives].into(), "one look proves nothing");
    tokio::time::sleep(SETTLE).await;
    let second = host.tell(&["reconcile"]).await;
    assert!(second.contains("[done]"), "{second}");
    assert_eq!(host.mine(State::Lease).await, [lives].into());
    assert!(host.tell(&["reconcile"]).await.contains("agree"));
}

async fn a_network_on_the_wrong_parent_is_told(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (host, docker, _) = bed(&fleet, 1, &[]).await;
    docker.with(|docker| docker.parent = "eth0".to_owned());
    eventually("a line in status", async || status(&host).await.problems.len() == 1).await;
    let problem = status(&host).await.problems.remove(0);
    assert!(problem.contains("network pods is on eth0") && problem.contains("-o parent=eth1"), "{problem}");
    docker.with(|docker| docker.parent = "eth1".to_owned());
    eventually("no problem is left", async || status(&host).await.problems.is_empty()).await;
}

/// A bridge and a Swarm's overlay may have the same numbers as the VPC, as the default pools of a Swarm do.
#[tokio::test]
async fn networks_that_merely_have_numbers_of_the_vpc_count_for_nothing() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    // So long that the idle address is not drained meanwhile.
    let (host, docker, pool) = bed(&fleet, 1, &[("EC2_IPAM_SETTLE_AGE", "2s")]).await;
    fleet.vpc.add_eni(EniSpec::new(RDS, SUBNET, ip(200)));
    // A parent that is no ENI's interface.
    host.ip("link add lan type veth peer name lanfar");
    let idle = host.lease(&pool).await;
    host.release(&pool, idle).await;
    host.tell(&["init", SUBNET]).await;
    let other = |name, driver, parent, subnet, ip| Other { name, driver, parent, ipam: "default", subnet, ip };
    docker.with(|docker| {
        docker.others = vec![
            other("bridged", "bridge", "", "10.77.0.0/24", idle),
            other("ingress", "overlay", "", "10.0.0.0/8", ip(200)),
            other("lan", "macvlan", "lan", "10.77.0.128/25", ip(200)),
            other("apart", "bridge", "", "172.18.0.0/16", Ipv4Addr::new(172, 18, 0, 2)),
        ];
    });
    rounds(&docker, 4).await;
    let status = status(&host).await;
    assert_eq!(status.problems, Vec::<String>::new(), "{}", host.log());
    assert_eq!(status.docker.unwrap().addresses, Some(0));
    assert_eq!(host.mine(State::Ready).await, [idle].into(), "an idle address is no lease");
    assert_eq!(host.lease(&pool).await, idle, "and is given");
    let (_, told) = host.ask(&["doctor"]).await;
    for name in ["bridged", "ingress", "lan"] {
        let warning = format!("Docker's network {name} (");
        assert_eq!(host.log().matches(&warning).count(), 1, "{name}: {}", host.log());
        assert!(told.contains(&warning), "{name}: {told}");
    }
    assert!(!told.contains("network apart"), "{told}");
    docker.with(|docker| docker.others.clear());
    rounds(&docker, 1).await;
    assert!(!host.ask(&["doctor"]).await.1.contains("Docker's network"), "it is gone");
}

/// Whoever may write to that socket is root on the host; the driver has no use for it.
#[tokio::test]
async fn docker_is_only_ever_read() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let (mut host, docker, pool) = bed(&fleet, 1, &[("EC2_IPAM_WARM_TARGET", "2")]).await;
    let (gone, lives) = (host.lease(&pool).await, host.lease_for(&pool, "web").await);
    docker.runs(&[lives]);
    eventually("a lost release is mended", async || !host.mine(State::Lease).await.contains(&gone)).await;
    docker.with(|docker| docker.parent = "eth0".to_owned());
    rounds(&docker, 2).await;
    for command in [
        &["status"][..],
        &["list", "--free"],
        &["doctor"],
        &["init", SUBNET],
        &["reconcile"],
        &["reconcile", "--dry-run"],
        &["reconcile", "--force"],
        &["recycle", SUBNET],
        &["reserve", "10.77.0.99", "printer"],
        &["unreserve", "10.77.0.99"],
    ] {
        host.ask(command).await;
    }
    host.restart().await;
    host.release(&pool, lives).await;
    rounds(&docker, 2).await;
    assert!(host.stop().await.success());
    let requests = docker.with(|docker| docker.requests.clone());
    assert!(requests.len() >= 4, "{requests:?}");
    let others: Vec<_> = requests.iter().filter(|line| !line.starts_with("GET /")).collect();
    assert!(others.is_empty(), "{others:?}");
}

#[tokio::test]
async fn whatever_has_addresses_of_the_interface_counts_whoever_gives_them() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let (host, docker, pool) = bed(&fleet, 1, &[]).await;
    host.ip("link property add dev eth1 altname enp0s6");
    let given = [host.lease(&pool).await, host.lease(&pool).await, host.lease(&pool).await, host.lease(&pool).await];
    for ip in given {
        host.release(&pool, ip).await;
    }
    // `--ip` with Docker's own IPAM, the same by the interface's other name, networks made by another name of the driver, and
    // one made without `-d ipvlan`.
    let kinds = [
        ("ipvlan", "eth1", "default"),
        ("macvlan", "enp0s6", "default"),
        ("ipvlan", "eth1", "team/ipam:1.0"),
        ("bridge", "", "ec2-ipam"),
    ];
    let names = ["static", "othername", "otheralias", "nodriver"];
    docker.with(|docker| {
        docker.others = kinds
            .into_iter()
            .zip(names.into_iter().zip(given))
            .map(|((driver, parent, ipam), (name, ip))| Other {
                name,
                driver,
                parent,
                ipam,
                subnet: "10.77.0.0/24",
                ip,
            })
            .collect();
    });
    eventually("each is leased again", async || host.mine(State::Lease).await == given.into()).await;
    assert!(!given.contains(&host.lease(&pool).await), "I1: what a container has is never given");
}

async fn a_calm_interface_is_not_described_every_time(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (host, docker, pool) = bed(&fleet, 1, &[("EC2_IPAM_SCAN_INTERVAL", "1h")]).await;
    let lives = host.lease(&pool).await;
    docker.runs(&[lives]);
    rounds(&docker, 2).await;
    fleet.vpc.forget_calls();
    let before = docker.with(|docker| docker.listings);
    eventually("thirty rounds", async || docker.with(|docker| docker.listings) > before + 30).await;
    let described = fleet.vpc.count("DescribeNetworkInterfaces");
    assert!((1..=8).contains(&described), "{described} times in thirty rounds");
    // What IMDS shows otherwise is asked about at once.
    fleet.vpc.remove_address(&host.eni, lives);
    eventually("it is assigned again", async || host.assigned().contains(&lives)).await;
    assert_eq!(fleet.vpc.count(ASSIGN), 1);
}

async fn what_others_take_and_let_go_is_scanned(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (host, docker, pool) = bed(&fleet, 1, &[]).await;
    // Named: any other could be one of those that somebody takes below.
    let lives = host.request(&pool, "10.77.0.40").await.unwrap();
    docker.runs(&[lives]);
    fleet.vpc.add_eni(EniSpec::new(RDS, SUBNET, ip(200)));
    fleet.vpc.take(RDS, ip(201));
    let holder = async |ip: Ipv4Addr| Some(host.row(ip).await).filter(|row| row.state == State::Foreign)?.iface;
    eventually("both are kept from others", async || {
        holder(ip(200)).await.as_deref() == Some(RDS) && holder(ip(201)).await.as_deref() == Some(RDS)
    })
    .await;
    assert!(host.row(ip(200)).await.primary);
    fleet.vpc.remove_eni(RDS);
    eventually("both are free", async || {
        host.row(ip(200)).await.state == State::Free && host.row(ip(201)).await.state == State::Free
    })
    .await;
    assert!(!host.row(ip(200)).await.primary, "the mark goes with the interface");
    assert_eq!(host.mine(State::Lease).await, [lives].into());
    agree(&[&host]).await;
}

async fn a_container_that_comes_back_gets_the_address_it_had(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (mut host, _, pool) = bed(&fleet, 1, &[("EC2_IPAM_COOLDOWN", "1h"), ("EC2_IPAM_WARM_TARGET", "2")]).await;
    let web = host.lease_for(&pool, "web").await;
    let db = host.lease_for(&pool, "db").await;
    host.release(&pool, web).await;
    host.release(&pool, db).await;
    let other = host.lease_for(&pool, "other").await;
    assert!(other != web && other != db, "I10: both still cool");
    assert_eq!((host.lease_for(&pool, "db").await, host.lease_for(&pool, "web").await), (db, web));
    // Whichever life of the driver it comes back to.
    host.release(&pool, web).await;
    host.restart().await;
    assert_eq!(host.lease_for(&pool, "web").await, web);
    // An Engine that names nobody gets what has cooled.
    host.release(&pool, web).await;
    assert_ne!(host.lease(&pool).await, web);
    agree(&[&host]).await;
}

async fn an_interface_that_is_deleted_and_still_listed_is_left_out_and_named(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (host, docker, pool) = bed(&fleet, 1, &[]).await;
    let lives = host.request(&pool, "10.77.0.40").await.unwrap();
    docker.runs(&[lives]);
    let deleted = "eni-0ccccccccccccccc4";
    host.attach(deleted, 2, 150, "eth2");
    fleet.vpc.imds_lag(Duration::ZERO, Duration::from_secs(600));
    fleet.vpc.remove_eni(deleted);
    host.ip("link del eth2");
    fleet.vpc.take(RDS, ip(200));
    eventually("the scan sees what others take", async || host.row(ip(200)).await.state == State::Foreign).await;
    let (_, text) = host.ask(&["doctor"]).await;
    assert!(text.contains(deleted) && text.contains("does not know"), "{text}");
    assert!(host.log().contains(deleted), "{}", host.log());
    assert!(status(&host).await.problems.is_empty());
}

async fn a_prefix_on_the_interface_is_foreign_and_takes_one_slot(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (host, docker, pool) = bed(&fleet, 1, &[]).await;
    let lives = host.request(&pool, "10.77.0.40").await.unwrap();
    docker.runs(&[lives]);
    fleet.vpc.add_prefix(&host.eni, "10.77.0.64/28");
    let foreign = async || host.mine(State::Foreign).await.len() == 16;
    eventually("its addresses are kept from others", foreign).await;
    for _ in 0..40 {
        assert!(foreign().await, "they stay so");
        tokio::time::sleep(SETTLE / 10).await;
    }
    assert_eq!(host.mine(State::Lease).await, [lives].into());
    // The primary, the prefix and the first one take a slot each of ten.
    let mut all = vec![lives];
    for _ in 0..7 {
        all.push(host.lease(&pool).await);
        docker.runs(&all);
    }
    let refused = host.request(&pool, "").await.unwrap_err();
    assert!(refused.contains("as many addresses as its instance type allows"), "{refused}");
    assert!(foreign().await);
    agree(&[&host]).await;
}

/// A file that was cloned with the image of another host.
#[tokio::test]
async fn rows_of_another_hosts_interface_in_a_private_table_are_mended() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let (host, docker, pool) = bed(&fleet, 1, &[]).await;
    let lives = host.request(&pool, "10.77.0.40").await.unwrap();
    docker.runs(&[lives]);
    let other = fleet.host(2);
    let rows = [
        (ip(100), "occupied", "'x:1:lease'"),
        (ip(101), "ready", "NULL"),
        (ip(102), "allocated", "'x:2:on'"),
        (ip(103), "allocated", "'x:3:off'"),
    ];
    // Of each state one that the other host still has, and many that it does not have any more.
    for (ip, status, claim) in rows {
        fleet.vpc.add_address(&other.eni, ip);
        let [a, b, c, last] = ip.octets();
        let all: Vec<String> = (0..10).map(|n| format!("'{}'", Ipv4Addr::new(a, b, c, last + n * 10))).collect();
        let row = format!("status='{status}',iface='{}',claim={claim} WHERE ip IN ({})", other.eni, all.join(","));
        host.sql("", &format!("UPDATE allocation SET {row}")).await;
    }
    eventually("they are foreign, or free", async || {
        let rows = host.rows().await;
        let of_other = rows.iter().filter(|row| row.iface.as_ref() == Some(&other.eni) && !row.primary);
        let (foreign, rest): (Vec<_>, Vec<_>) = of_other.partition(|row| row.state == State::Foreign);
        foreign.len() == 4 && rest.is_empty()
    })
    .await;
    assert_eq!(host.row(ip(110)).await.state, State::Free);
    assert_eq!(host.mine(State::Lease).await, [lives].into());
    assert!(status(&host).await.problems.is_empty());
    agree(&[&host]).await;
}

/// Hosts of a fleet on one table.
mod fleet {
    use super::*;

    fn scans(vpc: &Vpc) -> usize {
        // Of a whole subnet, not of one interface.
        vpc.calls().iter().filter(|call| call.action == "DescribeNetworkInterfaces" && call.eni.is_none()).count()
    }

    #[tokio::test]
    async fn rows_of_a_host_that_is_no_more_are_free_after_two_scans() {
        let fleet = Fleet::new(Kind::Mariadb).await;
        let (host, docker, pool) = bed(&fleet, 1, &[]).await;
        let (mut dead, _, dead_pool) = bed(&fleet, 2, &[("EC2_IPAM_SCAN_INTERVAL", "1h")]).await;
        let lives = host.lease(&pool).await;
        docker.runs(&[lives]);
        let lost = [dead.lease(&dead_pool).await, dead.lease(&dead_pool).await];
        dead.release(&dead_pool, lost[1]).await;
        dead.kill();
        // Detached it keeps its addresses, and so do its rows.
        fleet.vpc.detach_eni(&dead.eni);
        rounds(&docker, 3).await;
        assert_eq!(dead.mine(State::Lease).await, [lost[0]].into(), "I1: a detached interface has them still");
        fleet.vpc.remove_eni(&dead.eni);
        eventually("its rows are free", async || {
            host.rows().await.iter().all(|row| row.iface.as_ref() != Some(&dead.eni))
        })
        .await;
        assert_eq!(host.row(lost[0]).await.state, State::Free);
        assert_eq!(host.mine(State::Lease).await, [lives].into(), "I1: nothing live is released");
        agree(&[&host]).await;
    }

    #[tokio::test]
    async fn one_host_scans_for_all_and_another_takes_over_when_it_dies() {
        let fleet = Fleet::new(Kind::Mariadb).await;
        let (mut a, _, _) = bed(&fleet, 1, &[("EC2_IPAM_SCAN_INTERVAL", "2s")]).await;
        let holder = async || -> Option<String> {
            let mut session = a.db.as_ref().unwrap().session().await;
            let sql = format!("SELECT holder FROM task WHERE name='scan:{SUBNET}'");
            let row = mysql_async::prelude::Queryable::query_first(&mut session, sql).await.unwrap();
            session.disconnect().await.unwrap();
            row
        };
        eventually("the first host has the task", async || holder().await.as_ref() == Some(&a.eni)).await;
        let (b, docker, _) = bed(&fleet, 2, &[("EC2_IPAM_SCAN_INTERVAL", "2s")]).await;
        rounds(&docker, 3).await;
        assert_eq!(holder().await.as_ref(), Some(&a.eni), "one host at a time");
        let before = scans(&fleet.vpc);
        a.kill();
        eventually("the other one takes over", async || {
            let mut session = b.db.as_ref().unwrap().session().await;
            let sql = format!("SELECT holder FROM task WHERE name='scan:{SUBNET}'");
            let row: Option<String> = mysql_async::prelude::Queryable::query_first(&mut session, sql).await.unwrap();
            session.disconnect().await.unwrap();
            row.as_ref() == Some(&b.eni)
        })
        .await;
        eventually("it scans", async || scans(&fleet.vpc) > before).await;
    }

    #[tokio::test]
    async fn poor_sight_changes_nothing_unless_a_person_says_so() {
        let fleet = Fleet::new(Kind::Mariadb).await;
        fleet.vpc.take(RDS, ip(250));
        let (host, docker, _) = bed(&fleet, 1, &[]).await;
        // Thirty addresses that an interface has had, and EC2 does not show there: more than a tenth of the subnet.
        host.db
            .as_ref()
            .unwrap()
            .exec(&format!(
                "UPDATE allocation SET ts=ts,status='occupied',iface='{RDS}' WHERE status='free' ORDER BY ip LIMIT 30"
            ))
            .await;
        let ghosts =
            async || host.rows().await.iter().filter(|row| row.iface.as_deref() == Some(RDS) && !row.primary).count();
        eventually("it is reported", async || {
            status(&host).await.problems.iter().any(|problem| problem.contains("would free 30 of 256 rows"))
        })
        .await;
        rounds(&docker, 2).await;
        assert_eq!(ghosts().await, 30, "too much to be true");
        let told = host.tell(&["reconcile", "--force"]).await;
        assert!(told.contains("[done]"), "{told}");
        assert_eq!(ghosts().await, 0);
        eventually("no problem is left", async || status(&host).await.problems.is_empty()).await;
    }

    #[tokio::test]
    async fn a_view_without_our_own_interface_is_discarded() {
        let fleet = Fleet::new(Kind::Mariadb).await;
        let (host, docker, _) = bed(&fleet, 1, &[]).await;
        let gone = "eni-0ccccccccccccccc2";
        host.db
            .as_ref()
            .unwrap()
            .exec(&format!("UPDATE allocation SET ts=ts,status='occupied',iface='{gone}' WHERE ip='10.77.0.99'"))
            .await;
        // Another account's credentials would show such a list; here an interface is so new that only IMDS shows it.
        fleet.vpc.describe_lag(Duration::from_secs(600));
        let mac = "0a:77:00:00:02:96";
        fleet.vpc.add_eni(EniSpec::new("eni-0ccccccccccccccc3", SUBNET, ip(150)).on(&host.instance, 2).mac(mac));
        host.ip(&format!("link add eth2 address {mac} type veth peer name eth2far"));
        eventually("it is reported", async || {
            status(&host).await.problems.iter().any(|problem| problem.contains("lacks"))
        })
        .await;
        rounds(&docker, 2).await;
        assert_eq!(host.row(ip(99)).await.state, State::Foreign, "what is not seen is not gone");
        fleet.vpc.describe_lag(Duration::ZERO);
        eventually("with the whole view it is free", async || host.row(ip(99)).await.state == State::Free).await;
    }
}
