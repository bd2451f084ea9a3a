//! `recycle --all`: each host of a fleet gives up its own idle addresses when it is asked, and nobody else does it for it.
//!
//! A minute lasts eight seconds here (the settle age, a setting that only a build for tests has).

use std::net::Ipv4Addr;
use std::time::Duration;

use ec2_ipam::domain::address::State;
use mysql_async::prelude::{FromRow, Queryable};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::host::{Fleet, Host, Kind, SUBNET, agree, eni, eventually, on_both};

const QUICK: [(&str, &str); 3] =
    [("EC2_IPAM_SETTLE_AGE", "8s"), ("EC2_IPAM_RECONCILE_INTERVAL", "1s"), ("EC2_IPAM_SCAN_INTERVAL", "1h")];
const ALL: [&str; 3] = ["recycle", SUBNET, "--all"];

on_both! { a_host_enters_itself_with_its_interfaces }

/// A host with so many idle addresses and a container, and its pool.
async fn bed(fleet: &Fleet, n: u8, idle: usize) -> (Host, String) {
    let (host, pool) = fleet.started(n, &QUICK).await;
    let mut ips = Vec::new();
    for _ in 0..=idle {
        ips.push(host.lease(&pool).await);
    }
    for ip in &ips[1..] {
        host.release(&pool, *ip).await;
    }
    eventually("the table knows", async || host.mine(State::Ready).await.len() == idle).await;
    if fleet.db.is_some() {
        eventually("it is on the roll", async || enis_of(&host).await == Some(host.eni.clone())).await;
    }
    (host, pool)
}

/// What the shared table answers.
async fn read<T: FromRow + Send + 'static>(host: &Host, sql: &str) -> Option<T> {
    let mut session = host.db.as_ref().unwrap().session().await;
    let row = session.query_first(sql).await.unwrap();
    session.disconnect().await.unwrap();
    row
}

async fn enis_of(host: &Host) -> Option<String> {
    read(host, &format!("SELECT enis FROM host WHERE instance='{}'", host.instance)).await
}

/// The line that a command has printed about a host or an interface.
fn line<'t>(text: &'t str, of: &str) -> &'t str {
    let line = text.lines().find(|line| line.trim_start().starts_with(of));
    line.unwrap_or_else(|| panic!("nothing about {of}: {text}"))
}

async fn a_host_enters_itself_with_its_interfaces(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (mut host, pool) = fleet.started(1, &QUICK).await;
    // What its interface has lets the next life take it up by itself.
    host.lease(&pool).await;
    let entry = async |host: &Host| -> Option<(String, String, String, Option<String>)> {
        let sql = "SELECT instance, enis, version, journal FROM host";
        match kind {
            Kind::Mariadb => read(host, sql).await,
            Kind::Sqlite => {
                let file = rusqlite::Connection::open(host.dir.path().join("state/ipam.db")).unwrap();
                file.busy_timeout(Duration::from_secs(30)).unwrap();
                file.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))).ok()
            }
        }
    };
    eventually("it has entered itself", async || entry(&host).await.is_some_and(|entry| entry.1 == host.eni)).await;
    let first = entry(&host).await.unwrap();
    assert_eq!(first.0, host.instance);
    assert!(first.2.starts_with(env!("CARGO_PKG_VERSION")), "{first:?}");
    let journal = first.3.as_deref().and_then(|mark| mark.split(':').next()).expect("the mark of a journal");
    // Whatever becomes of the row, the next round mends it, and so does the next life.
    for is_next in [false, true] {
        if is_next {
            host.kill();
        }
        host.sql("UPDATE host SET enis='x',journal=NULL", "UPDATE host SET enis='x', journal=NULL").await;
        if is_next {
            host.start().await;
        }
        eventually("it enters itself anew", async || {
            let (instance, enis, _, mark) = entry(&host).await.unwrap();
            let is_same = mark.is_some_and(|mark| mark.starts_with(journal));
            instance == host.instance && enis == host.eni && is_same
        })
        .await;
    }
}

#[tokio::test]
async fn each_host_gives_up_its_own_and_is_named() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let ((a, _), (b, pool), (c, _)) = (bed(&fleet, 1, 1).await, bed(&fleet, 2, 2).await, bed(&fleet, 3, 0).await);
    let text = a.tell(&ALL).await;
    assert!(text.contains(&format!("{SUBNET}: 3 addresses are free again\n")), "{text}");
    for (host, freed) in [(&a, "1 freed"), (&b, "2 freed"), (&c, "0 freed")] {
        assert!(line(&text, &host.instance).ends_with(freed), "{text}");
        assert_eq!(host.assigned().len(), 1, "what a container has stays");
    }
    assert!(text.contains("waited for 20 s"), "{text}");
    assert!(b.log().contains("as another host asked"), "it has done it itself");
    b.lease(&pool).await;
    agree(&[&a, &b, &c]).await;
}

#[tokio::test]
async fn what_a_silent_host_has_stays_until_ec2_does_not_know_its_interface() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let ((a, _), (mut b, _)) = (bed(&fleet, 1, 1).await, bed(&fleet, 2, 2).await);
    let idle = b.mine(State::Ready).await;
    b.stop().await;
    let (done, text) = a.ask(&ALL).await;
    assert!(!done && text.contains(&format!("{SUBNET}: 1 addresses are free again\n")), "{text}");
    assert!(line(&text, &a.instance).ends_with("1 freed"), "{text}");
    assert!(line(&text, &b.instance).contains("NO ANSWER"), "{text}");
    // A detached interface has its addresses still.
    fleet.vpc.detach_eni(&b.eni);
    fleet.vpc.settle();
    let (done, text) = a.ask(&ALL).await;
    assert!(!done && line(&text, &b.instance).contains("NO ANSWER"), "{text}");
    assert_eq!((b.mine(State::Ready).await, b.assigned().len()), (idle.clone(), 3));
    // To credentials of another account, which show interfaces of its own, each of these is unknown.
    let stranger = Fleet::new(Kind::Sqlite).await;
    let _theirs = stranger.host(9);
    let mut c = fleet.host(3);
    c.set(&QUICK);
    let ec2 = stranger.vpc.serve_ec2(c.listener());
    let (done, text) = c.run_with(&ALL, &[("AWS_ENDPOINT_URL_EC2", &ec2.url())]).await;
    assert!(!done && line(&text, &b.instance).contains("NO ANSWER"), "{text}");
    assert_eq!((b.mine(State::Ready).await, b.assigned().len()), (idle, 3));
    fleet.vpc.remove_eni(&b.eni);
    fleet.vpc.settle();
    let text = a.tell(&ALL).await;
    assert!(line(&text, &b.eni).contains("4 freed: EC2 does not know it any more"), "{text}");
    assert!(a.rows().await.iter().all(|row| row.iface.as_ref() != Some(&b.eni)), "{text}");
    agree(&[&a]).await;
}

/// As a host with an older driver is: it has rows, and never entered itself.
#[tokio::test]
async fn interfaces_of_hosts_that_the_table_does_not_know_are_left_alone() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let ((a, _), (mut b, _)) = (bed(&fleet, 1, 0).await, bed(&fleet, 2, 2).await);
    b.stop().await;
    fleet.db.as_ref().unwrap().exec(&format!("DELETE FROM host WHERE instance='{}'", b.instance)).await;
    let (done, text) = a.ask(&ALL).await;
    assert!(!done && line(&text, &b.eni).contains("NO HOST"), "{text}");
    assert_eq!((b.mine(State::Ready).await.len(), b.assigned().len()), (2, 3));
}

/// I1: the table may be behind what a host has given to its containers.
#[tokio::test]
async fn what_a_host_gave_while_the_database_was_away_from_it_stays() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (a, _) = bed(&fleet, 1, 0).await;
    let (b, pool) = fleet.started(2, &[QUICK.as_slice(), &[("EC2_IPAM_COOLDOWN", "0s")]].concat()).await;
    let idle = [b.lease(&pool).await, b.lease(&pool).await];
    for ip in idle {
        b.release(&pool, ip).await;
    }
    eventually("the table knows", async || b.mine(State::Ready).await == idle.into()).await;
    eventually("it is on the roll", async || enis_of(&b).await == Some(b.eni.clone())).await;
    b.proxy.as_ref().unwrap().away(true);
    let given = b.lease(&pool).await;
    assert_eq!(b.row(given).await.state, State::Ready, "the table does not know");
    let (done, text) = a.ask(&ALL).await;
    assert!(!done && line(&text, &b.instance).contains("NO ANSWER"), "{text}");
    assert!(b.assigned().contains(&given), "I1: {given} is a container's");
    // What was asked is over by now: a host that sees it late does not do it.
    b.proxy.as_ref().unwrap().away(false);
    eventually("the table follows", async || b.mine(State::Lease).await == [given].into()).await;
    let seen = "UPDATE host SET seen='2020-01-01'";
    fleet.db.as_ref().unwrap().exec(seen).await;
    let of_b = format!("SELECT 1 FROM host WHERE instance='{}' AND seen>'2021-01-01'", b.instance);
    eventually("it looks", async || read::<u8>(&a, &of_b).await.is_some()).await;
    assert_eq!(b.assigned(), idle.into(), "too late is not at all");
    let text = a.tell(&ALL).await;
    assert!(line(&text, &b.instance).ends_with("1 freed"), "{text}");
    assert_eq!(b.assigned(), [given].into());
    agree(&[&a, &b]).await;
}

/// I1, I2: containers come and go while the addresses are asked for.
#[tokio::test]
async fn containers_that_start_in_that_moment_keep_their_addresses() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (a, _) = bed(&fleet, 1, 0).await;
    let (b, pool) = fleet.started(2, &[QUICK.as_slice(), &[("EC2_IPAM_COOLDOWN", "0s")]].concat()).await;
    let mut living: Vec<Ipv4Addr> = Vec::new();
    for _ in 0..4 {
        living.push(b.lease(&pool).await);
    }
    eventually("it is on the roll", async || enis_of(&b).await == Some(b.eni.clone())).await;
    for _ in 0..3 {
        let churn = async {
            for _ in 0..12 {
                let gone = living.remove(0);
                b.release(&pool, gone).await;
                tokio::time::sleep(Duration::from_millis(100)).await;
                living.push(b.lease(&pool).await);
            }
        };
        let (text, ()) = tokio::join!(a.tell(&ALL), churn);
        assert!(line(&text, &b.instance).contains("freed"), "{text}");
        for ip in &living {
            assert!(b.assigned().contains(ip), "I2: {ip} is a container's: {text}");
        }
        assert_eq!(b.mine(State::Lease).await, living.iter().copied().collect());
    }
    agree(&[&a, &b]).await;
}

#[tokio::test]
async fn what_was_asked_is_done_once_however_often_the_answer_is_lost() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let ((a, _), (b, pool)) = (bed(&fleet, 1, 0).await, bed(&fleet, 2, 1).await);
    let answer = format!("SELECT freed FROM recycle WHERE instance='{}' AND freed IS NOT NULL", b.instance);
    assert!(line(&a.tell(&ALL).await, &b.instance).ends_with("1 freed"));
    let ip = b.lease(&pool).await;
    b.release(&pool, ip).await;
    eventually("it is idle", async || b.mine(State::Ready).await == [ip].into()).await;
    for _ in 0..2 {
        fleet.db.as_ref().unwrap().exec("UPDATE recycle SET freed=NULL,asked=NOW(3)").await;
        eventually("it answers again", async || read::<u32>(&a, &answer).await == Some(1)).await;
    }
    assert_eq!(b.mine(State::Ready).await, [ip].into(), "it was asked before this one was idle");
    // Asked anew, it is another matter.
    assert!(line(&a.tell(&ALL).await, &b.instance).ends_with("1 freed"));
    agree(&[&a, &b]).await;
}

#[tokio::test]
async fn who_leaves_the_command_has_asked_all_the_same() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let ((a, _), (b, _)) = (bed(&fleet, 1, 1).await, bed(&fleet, 2, 2).await);
    // Stopped, the other host does not answer before the command has gone.
    b.signal(Signal::SIGSTOP);
    let socket = a.socket();
    let mut command = a.spawn(&[&["--socket", socket.to_str().unwrap()], &ALL[..]].concat(), &[]);
    let asked = "SELECT 1 FROM recycle WHERE freed IS NULL";
    eventually("it is asked", async || read::<u8>(&a, asked).await.is_some()).await;
    kill(Pid::from_raw(i32::try_from(command.id()).unwrap()), Signal::SIGTERM).unwrap();
    assert!(!command.wait().unwrap().success());
    b.signal(Signal::SIGCONT);
    for host in [&a, &b] {
        eventually("it has done it", async || host.assigned().len() == 1).await;
    }
    agree(&[&a, &b]).await;
}

/// What EC2 denies is told by the host that it is denied to.
#[tokio::test]
async fn what_is_in_a_hosts_way_is_told() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let ((a, _), (b, _)) = (bed(&fleet, 1, 0).await, bed(&fleet, 2, 1).await);
    fleet.vpc.deny("UnassignPrivateIpAddresses", true);
    let (done, text) = a.ask(&ALL).await;
    let said = line(&text, &b.instance);
    assert!(!done && said.contains("FAILED") && said.contains("ec2:UnassignPrivateIpAddresses"), "{text}");
    fleet.vpc.deny("UnassignPrivateIpAddresses", false);
    assert_eq!(fleet.vpc.holder(*b.mine(State::Off).await.first().unwrap()), Some(eni(2)));
    eventually("it goes on by itself", async || b.assigned().len() == 1).await;
    agree(&[&a, &b]).await;
}
