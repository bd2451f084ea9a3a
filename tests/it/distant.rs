//! Interfaces of hosts that have no driver: one server for many, by EC2's word and the table.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use ec2_ipam::domain::address::State;
use futures_util::future::join_all;
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::support::authority::Authority;
use crate::support::host::{Fleet, Host, Kind, SUBNET, UNASSIGN, eventually, ip, on_both, request};
use crate::support::proxy::Fate;

mod away;
mod blocks;
mod gone;
mod strangers;
mod words;

const SERVER: [(&str, &str); 5] = [
    ("EC2_IPAM_DISTANT", "true"),
    ("EC2_IPAM_COOLDOWN", "0s"),
    ("EC2_IPAM_SETTLE_AGE", "2s"),
    ("EC2_IPAM_WARM_TARGET", "2"),
    ("EC2_IPAM_WARM_MAX", "4"),
];

on_both! {
    a_start_and_a_stop_are_in_the_table_before_they_are_answered
    what_nobody_holds_goes_back
    what_the_original_gave_is_let_go
}

/// A server, and a host without a driver; the pool of its interface.
async fn bed(fleet: &Fleet) -> (Host, Host, String) {
    let (mut server, host) = (fleet.host(1), fleet.host(2));
    server.set(&SERVER);
    server.start().await;
    let pool = pool_of(&server, &host).await.unwrap();
    (server, host, pool)
}

async fn pool_of(server: &Host, host: &Host) -> Result<String, String> {
    server.pool_with("", json!({ "eni-id": host.eni, "instance-id": host.instance })).await
}

/// The time for which another server serves the interface of `host` is over.
async fn let_lapse(server: &Host, host: &Host) {
    let over = format!("UPDATE task SET until=NOW()-INTERVAL 1 SECOND WHERE name='eni:{}'", host.eni);
    server.sql(&over, "").await;
}

async fn state(server: &Host, ip: Ipv4Addr) -> (State, Option<String>) {
    let row = server.rows_now().await.into_iter().find(|row| row.ip == ip).expect("a row");
    (row.state, row.iface)
}

async fn a_start_and_a_stop_are_in_the_table_before_they_are_answered(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (server, host, pool) = bed(&fleet).await;
    for _ in 0..3 {
        let ip = server.lease(&pool).await;
        assert_eq!(state(&server, ip).await, (State::Lease, Some(host.eni.clone())));
        assert!(host.assigned().contains(&ip), "I2: it is on the interface of the host that asks");
        server.release(&pool, ip).await;
        assert_eq!(state(&server, ip).await, (State::Ready, Some(host.eni.clone())));
        server.release(&pool, ip).await;
        assert_eq!(state(&server, ip).await.0, State::Ready, "I8");
    }
    // By its address.
    assert_eq!(server.request(&pool, "10.77.0.60").await, Ok(ip(60)));
    let refused = server.request(&pool, "10.77.0.60").await.unwrap_err();
    assert!(refused.contains("a container on"), "{refused}");
}

async fn what_nobody_holds_goes_back(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (server, host, pool) = bed(&fleet).await;
    let leases: Vec<Ipv4Addr> = join_all((0..9).map(|_| server.lease(&pool))).await;
    assert_eq!(leases.iter().collect::<BTreeSet<_>>().len(), 9, "I1");
    for ip in &leases[1..] {
        server.release(&pool, *ip).await;
    }
    // Those beyond the warm maximum.
    eventually("what is too much is given back", async || host.assigned().len() <= 5).await;
    assert!(host.assigned().contains(&leases[0]), "I2: a container has it");
}

/// Its rows of a container's address have no token.
async fn what_the_original_gave_is_let_go(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (server, host, pool) = bed(&fleet).await;
    fleet.vpc.add_address(&host.eni, ip(80));
    let given =
        format!("UPDATE allocation SET status='occupied',iface='{}',claim=NULL WHERE ip='10.77.0.80'", host.eni);
    server.sql(&given, &given).await;
    assert_eq!(state(&server, ip(80)).await.0, State::Foreign);
    // A bare interface is how it names a pool.
    server.release(&host.eni, ip(80)).await;
    eventually("it is idle", async || state(&server, ip(80)).await.0 == State::Ready).await;
    assert!(host.assigned().contains(&ip(80)));
    assert!(server.request(&host.eni, "").await.is_ok());
    // The primary address of the interface is nobody's to let go.
    let primary = fleet.vpc.primary(&host.eni);
    server.release(&pool, primary).await;
    assert!(!matches!(state(&server, primary).await.0, State::On | State::Ready), "I7");
}

/// Two servers on one table: whoever is asked answers, and nothing is given twice.
#[tokio::test]
async fn any_server_may_be_asked_and_none_gives_what_another_gave() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (one, host, pool) = bed(&fleet).await;
    let mut other = fleet.host(3);
    other.set(&SERVER);
    other.start().await;
    assert_eq!(pool_of(&other, &host).await.as_ref(), Ok(&pool));
    let asked = (0..9).map(|n| if n % 2 == 0 { one.request(&pool, "") } else { other.request(&pool, "") });
    let leases: Vec<Ipv4Addr> = join_all(asked).await.into_iter().map(|answer| answer.unwrap()).collect();
    assert_eq!(leases.iter().collect::<BTreeSet<_>>().len(), 9, "I1: {leases:?}");
    // What the one gave the other one lets go.
    for (n, ip) in leases.iter().enumerate() {
        let server = if n % 2 == 0 { &other } else { &one };
        server.release(&pool, *ip).await;
        assert_eq!(state(server, *ip).await.0, State::Ready);
    }
}

#[tokio::test]
async fn an_interface_that_is_not_served_is_refused_by_its_reason() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let (server, host, _) = bed(&fleet).await;
    let wrong = server.pool_with("", json!({ "eni-id": host.eni, "instance-id": "i-0aaaaaaaaaaaaaa09" })).await;
    assert!(wrong.unwrap_err().contains(&format!("which is {}", host.instance)));
    fleet.vpc.detach_eni(&host.eni);
    fleet.vpc.settle();
    let mut late = fleet.host(3);
    late.set(&SERVER);
    late.start().await;
    let refused = pool_of(&late, &host).await.unwrap_err();
    assert!(refused.contains("attached to no instance"), "{refused}");
    let mut plain = fleet.host(4);
    plain.start().await;
    let refused = plain.pool_with("", json!({ "eni-id": host.eni })).await.unwrap_err();
    assert!(refused.contains("is not attached to this instance"), "{refused}");
}

/// A server that is killed leaves no lease and no claim behind: the next life, or another one, goes on.
#[tokio::test]
async fn another_server_takes_over_from_a_dead_one() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (mut one, host, pool) = bed(&fleet).await;
    let held = one.lease(&pool).await;
    one.kill();
    let mut other = fleet.host(3);
    other.set(&SERVER);
    other.start().await;
    // It gives at once, and lets go of what the dead one gave.
    let more: Vec<Ipv4Addr> = join_all((0..4).map(|_| other.lease(&pool))).await;
    assert!(!more.contains(&held), "I1");
    other.release(&pool, held).await;
    assert_eq!(state(&other, held).await.0, State::Ready);
    for ip in more {
        other.release(&pool, ip).await;
    }
    // Once the dead one's time is over it gives back, too.
    let_lapse(&other, &host).await;
    eventually("what is too much is given back", async || host.assigned().len() <= 5).await;
}

/// An interface that moves to another instance: the old one's Engine is refused, and nothing of it is given back.
#[tokio::test]
async fn an_interface_that_moves_is_served_for_its_new_instance() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (server, host, pool) = bed(&fleet).await;
    let held = server.lease(&pool).await;
    let third = fleet.host(3);
    fleet.vpc.move_eni(&host.eni, &third.instance, 2);
    fleet.vpc.settle();
    let on_new = || server.pool_with("", json!({ "eni-id": host.eni, "instance-id": third.instance }));
    eventually("it is the new instance's", async || on_new().await.as_ref() == Ok(&pool)).await;
    let refused = pool_of(&server, &host).await.unwrap_err();
    assert!(refused.contains(&format!("which is {}", third.instance)), "{refused}");
    assert_eq!(state(&server, held).await.0, State::Lease, "whose container it is nobody knows");
    assert_ne!(server.lease(&pool).await, held, "I1");
}

/// One call over the network, from an address of the server's network that stands for another host's.
async fn call_from(
    server: &Host,
    from: &str,
    path: &str,
    body: &serde_json::Value,
) -> Result<serde_json::Value, String> {
    call(server, from, "127.0.0.1:8031", path, body).await
}

async fn call(
    server: &Host,
    from: &str,
    to: &str,
    path: &str,
    body: &serde_json::Value,
) -> Result<serde_json::Value, String> {
    let mut wire = server.wire(server.connect_tcp(from, to).await);
    wire.send(&request(&format!("/IpamDriver.{path}"), &format!("{body}\n"))).await;
    wire.answer().await.expect("an answer").outcome()
}

/// A server on the network with the addresses of two other hosts, and the pool of the first one's interface.
async fn on_the_network() -> (Fleet, Host, Host, serde_json::Value) {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (mut server, host) = (fleet.host(1), fleet.host(2));
    let listen = format!("unix://{} http://0.0.0.0:8031", server.socket().display());
    server.set(&SERVER);
    server.set(&[("EC2_IPAM_LISTEN", &listen), ("EC2_IPAM_LISTEN_PLAIN", "true")]);
    for address in ["10.77.0.5", "10.78.0.5", "10.77.0.6", "10.77.0.99"] {
        server.ip(&format!("addr add {address}/32 dev lo"));
    }
    server.start().await;
    let pool = json!({
        "AddressSpace": "ec2-ipam", "Pool": server.cidr, "SubPool": "", "V6": false,
        "Options": { "eni-id": host.eni, "instance-id": host.instance },
    });
    (fleet, server, host, pool)
}

/// What the server's interface and another one's primary address are: each asks for an interface that it has not.
#[tokio::test]
async fn only_the_instance_that_has_the_interface_may_ask() {
    let (fleet, server, host, pool) = on_the_network().await;
    let _third = fleet.host(3);
    let mut empty = pool.clone();
    empty["Pool"] = json!("");
    let refused = call_from(&server, "10.77.0.5", "RequestPool", &empty).await.unwrap_err();
    assert!(refused.contains("pass --subnet 10.77.0.0/24"), "an older Engine would ask without end: {refused}");
    // Any interface of the instance will do.
    for own in ["10.77.0.5", "10.78.0.5"] {
        let id = call_from(&server, own, "RequestPool", &pool).await.unwrap()["PoolID"].as_str().unwrap().to_owned();
        let any = json!({ "PoolID": id, "Address": "", "Options": null });
        let given = call_from(&server, own, "RequestAddress", &any).await.unwrap();
        let ip = given["Address"].as_str().unwrap().split('/').next().unwrap().to_owned();
        assert!(host.assigned().contains(&ip.parse().unwrap()));
        let ours = json!({ "PoolID": id, "Address": ip });
        // Another host, a container's address, a process beside the server.
        for other in ["10.77.0.6", "10.77.0.99", "127.0.0.1"] {
            let refused = call_from(&server, other, "RequestPool", &pool).await.unwrap_err();
            assert!(refused.contains(&format!("is attached to {}, and {other}", host.instance)), "{refused}");
            let refused = call_from(&server, other, "RequestAddress", &any).await.unwrap_err();
            assert!(refused.contains("is not the primary address"), "{refused}");
            call_from(&server, other, "ReleaseAddress", &ours).await.unwrap();
            assert_eq!(state(&server, ip.parse().unwrap()).await.0, State::Lease, "{other} lets go of what it has not");
        }
        call_from(&server, own, "ReleaseAddress", &ours).await.unwrap();
        assert_eq!(state(&server, ip.parse().unwrap()).await.0, State::Ready);
    }
    assert!(server.log().contains("10.77.0.99, which asks for it"), "the refusal is logged with the peer");
}

/// The server's own interface is its own Engine's alone.
#[tokio::test]
async fn nobody_on_the_network_has_the_servers_own_interface() {
    let (_fleet, server, host, _) = on_the_network().await;
    let own = server.pool().await;
    let held = server.lease(&own).await;
    let any = json!({ "PoolID": own, "Address": "", "Options": null });
    let refused = call_from(&server, "10.77.0.5", "RequestAddress", &any).await.unwrap_err();
    assert!(refused.contains("its own Engine alone"), "{refused}");
    for path in ["ReleaseAddress", "ReleasePool"] {
        let all = json!({ "PoolID": own, "Address": held });
        call_from(&server, "10.77.0.5", path, &all).await.unwrap();
    }
    assert_eq!(server.row(held).await.state, State::Lease);
    // Its own Engine is itself, by the loopback or by an address of its own.
    for own in ["127.0.0.1", "10.77.0.99"] {
        assert!(call(&server, own, &format!("{own}:8031"), "RequestAddress", &any).await.is_ok(), "{own}");
    }
    // Whoever calls over the network has to say for which interface.
    let nameless =
        json!({ "AddressSpace": "ec2-ipam", "Pool": server.cidr, "SubPool": "", "Options": {}, "V6": false });
    let refused = call_from(&server, "10.77.0.5", "RequestPool", &nameless).await.unwrap_err();
    assert!(refused.contains("which interface?"), "{refused}");
    assert!(host.assigned().is_empty());
}

/// A host that gets the driver itself, as a fleet moves to the plugin one by one: from then on that one gives.
#[tokio::test]
async fn a_host_with_a_driver_of_its_own_is_served_no_more() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (server, mut host, pool) = bed(&fleet).await;
    let held = server.lease(&pool).await;
    eventually("some are idle", async || host.mine(State::Ready).await.len() == 2).await;
    host.set(&SERVER[1..]);
    host.start().await;
    let own = host.pool().await;
    eventually("the server sees it", async || pool_of(&server, &host).await.is_err()).await;
    for refused in [server.request(&pool, "").await.map(drop), pool_of(&server, &host).await.map(drop)] {
        let why = refused.unwrap_err();
        assert!(why.contains(&format!("{} has a driver of its own", host.instance)), "{why}");
    }
    // Whoever started it: its Engine lets go of it there.
    server.release(&pool, held).await;
    assert_eq!(host.row(held).await.state, State::Lease);
    let mut given = BTreeSet::from([held]);
    for _ in 0..2 {
        assert!(given.insert(host.lease(&own).await), "I1: {given:?}");
    }
    host.release(&own, held).await;
    eventually("it is idle", async || host.row(held).await.state != State::Lease).await;
    // What the server gives back meanwhile is nothing of this interface: with the plugin gone it is asked again.
    assert!(host.stop().await.success());
    server.sql("UPDATE host SET seen=seen-INTERVAL 1 HOUR", "").await;
    let more = server.request(&pool, "").await.unwrap();
    given.remove(&held);
    assert!(given.insert(more), "I1");
    // And back: what the server gave meanwhile the host's journal does not know.
    host.start().await;
    let last = host.lease(&host.pool().await).await;
    assert!(given.insert(last), "I1");
    assert!(given.iter().all(|ip| host.assigned().contains(ip)), "I2");
}

/// What a server left half done is settled by another one, though nobody asks it for anything.
#[tokio::test]
async fn what_a_dead_server_left_another_one_takes_up() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (mut one, host, pool) = bed(&fleet).await;
    let leases: Vec<Ipv4Addr> = join_all((0..9).map(|_| one.lease(&pool))).await;
    fleet.vpc.deny(UNASSIGN, true);
    for ip in &leases {
        one.release(&pool, *ip).await;
    }
    eventually("some are given up", async || {
        one.rows_now().await.iter().any(|row| row.state == State::Off && row.iface.as_ref() == Some(&host.eni))
    })
    .await;
    one.kill();
    fleet.vpc.deny(UNASSIGN, false);
    let mut other = fleet.host(3);
    other.set(&SERVER);
    other.start().await;
    let_lapse(&other, &host).await;
    eventually("what is too much is given back", async || host.assigned().len() <= 5).await;
    eventually("nothing is under way", async || {
        other.rows_now().await.iter().all(|row| !matches!(row.state, State::Off | State::On))
    })
    .await;
}

/// A server that stands still right before it gives an address back, while another one takes over, gives the address back and
/// then to a container, and is gone: what the first one goes on with takes it from nobody.
#[tokio::test]
async fn a_server_that_stood_still_gives_nothing_back_that_was_given_since() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (mut one, host, pool) = bed(&fleet).await;
    let ip = one.lease(&pool).await;
    one.release(&pool, ip).await;
    eventually("some are idle", async || host.mine(State::Ready).await.len() >= 2).await;
    let mut other = fleet.host(3);
    other.set(&SERVER);
    other.start().await;
    let proxy = one.proxy.as_ref().unwrap();
    // The look at the rows after they were given up.
    proxy.next(" WHERE ip IN (", Fate::Late);
    let recycling = async { one.ask(&["recycle", SUBNET]).await };
    let meanwhile = async {
        eventually("it looks again", async || proxy.met()).await;
        one.signal(Signal::SIGSTOP);
        assert_eq!(state(&other, ip).await.0, State::Off);
        let_lapse(&other, &host).await;
        assert_eq!(pool_of(&other, &host).await.as_ref(), Ok(&pool));
        eventually("another one gives it back", async || state(&other, ip).await.0 == State::Free).await;
        assert_eq!(other.request(&pool, &ip.to_string()).await, Ok(ip));
        other.kill();
        let_lapse(&other, &host).await;
        one.signal(Signal::SIGCONT);
    };
    tokio::join!(recycling, meanwhile);
    // Longer than it takes to go on.
    sleep(Duration::from_secs(4)).await;
    assert_eq!(state(&other, ip).await.0, State::Lease);
    assert!(host.assigned().contains(&ip), "I2: a container has it");
    one.kill();
}

/// A server that demands certificates, on the network, where a host has the address 10.77.0.5; the authority.
async fn with_certificates(server: &mut Host, files: &tempfile::TempDir) -> Authority {
    let ca = Authority::new(files.path(), "ca");
    let own = ca.issue("own", "/CN=ec2-ipam", "IP:127.0.0.1");
    let [cert, key, clients] = [&own.cert, &own.key, &ca.cert()].map(|path| path.to_str().unwrap().to_owned());
    let listen = format!("unix://{} https://0.0.0.0:8031", server.socket().display());
    server.set(&SERVER);
    server.set(&[("EC2_IPAM_LISTEN", &listen), ("EC2_IPAM_TLS_CERT", &cert), ("EC2_IPAM_TLS_KEY", &key)]);
    server.set(&[("EC2_IPAM_TLS_CLIENT_CA", &clients)]);
    server.ip("addr add 10.77.0.5/32 dev lo");
    server.start().await;
    ca
}

/// Where certificates are wanted, the address alone is not enough.
#[tokio::test]
async fn a_certificate_has_to_name_the_instance() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let (mut server, host) = (fleet.host(1), fleet.host(2));
    let files = tempfile::tempdir().unwrap();
    let ca = with_certificates(&mut server, &files).await;
    let pool = json!({
        "AddressSpace": "ec2-ipam", "Pool": server.cidr, "SubPool": "", "V6": false, "Options": { "eni-id": host.eni },
    });
    let named = format!("DNS:{}", host.instance);
    for (subject, names, is_its) in [
        ("/CN=host", named.as_str(), true),
        ("/CN=host", "URI:i-0aaaaaaaaaaaaaa09,DNS:i-0aaaaaaaaaaaaaa02", true),
        ("/CN=host", "DNS:i-0aaaaaaaaaaaaaa01", false),
        ("/CN=host", "DNS:i-0aaaaaaaaaaaaaa02.example", false),
        ("/CN=i-0aaaaaaaaaaaaaa021", "IP:10.77.0.5", false),
        ("/O=i-0aaaaaaaaaaaaaa02", "email:i-0aaaaaaaaaaaaaa02@example.com", false),
    ] {
        let client = ca.issue("client", subject, names);
        let stream = server.connect_tcp("10.77.0.5", "127.0.0.1:8031").await;
        let mut wire = server.wire(ca.connect(stream, Some(&client)).await.unwrap());
        wire.send(&request("/IpamDriver.RequestPool", &format!("{pool}\n"))).await;
        let outcome = wire.answer().await.expect("an answer").outcome();
        assert_eq!(outcome.is_ok(), is_its, "{names}: {outcome:?}");
        if let Err(why) = outcome {
            assert!(why.contains("the certificate of 10.77.0.5"), "{why}");
        }
    }
}

/// Whatever a server had begun as it was killed, another one comes to the end of it.
#[tokio::test]
async fn a_server_killed_at_any_point_is_followed_by_another() {
    let points = [
        "refill:claimed",
        "assign:answered",
        "assign:recorded",
        "distant:granted",
        "off:claimed",
        "off:unassigned",
        "off:freed",
    ];
    join_all(points.map(killed_at)).await;
}

async fn killed_at(point: &'static str) {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (mut one, host, mut other) = (fleet.host(1), fleet.host(2), fleet.host(3));
    one.set(&SERVER);
    one.stop_at(point);
    one.start().await;
    let pool = pool_of(&one, &host).await.unwrap();
    let is_there = || one.log().contains(&format!("stopped at {point}"));
    let mut given = BTreeSet::new();
    for _ in 0..9 {
        // Where it stands still no answer comes.
        if let Ok(answer) = timeout(Duration::from_secs(3), one.request(&pool, "")).await {
            assert!(given.insert(answer.unwrap()), "I1");
        }
        if is_there() {
            break;
        }
    }
    let kept: BTreeSet<Ipv4Addr> = given.iter().take(2).copied().collect();
    for ip in given.difference(&kept) {
        let _ = timeout(Duration::from_secs(3), one.release(&pool, *ip)).await;
    }
    eventually(point, async || is_there()).await;
    one.kill();
    other.set(&SERVER);
    other.start().await;
    let_lapse(&other, &host).await;
    assert_eq!(pool_of(&other, &host).await.as_ref(), Ok(&pool), "{point}");
    eventually("nothing is under way", async || {
        let rows = other.rows_now().await;
        let is_clear = |state: State| !matches!(state, State::On | State::Off);
        let on_eni: BTreeSet<Ipv4Addr> =
            rows.iter().filter(|row| row.iface.as_ref() == Some(&host.eni) && !row.primary).map(|row| row.ip).collect();
        rows.iter().all(|row| is_clear(row.state)) && on_eni == host.assigned()
    })
    .await;
    for ip in &kept {
        assert_eq!(state(&other, *ip).await, (State::Lease, Some(host.eni.clone())), "{point}: {ip}");
    }
    let more = other.lease(&pool).await;
    assert!(!kept.contains(&more) && host.assigned().contains(&more), "{point}: I1, I2");
}

#[tokio::test]
async fn what_is_served_for_other_hosts_is_shown_by_host() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (server, host, pool) = bed(&fleet).await;
    let third = fleet.host(3);
    let of_third = pool_of(&server, &third).await.unwrap();
    let own = server.pool().await;
    let leases = [server.lease(&pool).await, server.lease(&of_third).await, server.lease(&own).await];
    let status = server.tell(&["status"]).await;
    let (_, doctor) = server.ask(&["doctor"]).await;
    let listed = server.tell(&["list"]).await;
    for (one, ip) in [(&host, leases[0]), (&third, leases[1])] {
        let shown = format!("interface {} of {} (its link and its Docker are not seen)", one.eni, one.instance);
        assert!(status.contains(&shown), "{status}");
        let checked = format!("{} of {}: its link and its Docker are not seen from here", one.eni, one.instance);
        assert!(doctor.contains(&checked), "{doctor}");
        let line = listed.lines().find(|line| line.starts_with(&format!("{ip} "))).unwrap();
        assert!(line.contains("lease") && line.ends_with(&format!("(on {})", one.instance)), "{line}");
    }
    let line = listed.lines().find(|line| line.starts_with(&format!("{} ", leases[2]))).unwrap();
    assert!(!line.contains("(on "), "its own is this host's: {line}");
    let shown = server.tell(&["leases"]).await;
    assert_eq!(shown.lines().count(), 3, "{shown}");
    assert!(shown.contains(&format!("{} of {}  given", host.eni, host.instance)), "{shown}");
    assert_eq!(server.tell(&["leases", "--older-than", "1h"]).await, "");
    // Nobody sits at a terminal.
    let (done, text) = server.ask(&["release", &leases[0].to_string()]).await;
    assert!(!done && text.contains("say --yes"), "{text}");
    assert_eq!(
        server.tell(&["release", &leases[0].to_string(), "--yes"]).await,
        format!("{} is let go of\n", leases[0])
    );
    assert_eq!(state(&server, leases[0]).await.0, State::Ready);
    let (done, text) = server.ask(&["release", &leases[0].to_string(), "--yes"]).await;
    assert!(!done && text.contains("there is nothing to let go of"), "{text}");
}
