//! Whom the command line asks: the one driver that runs, one of several, or none.

use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use ec2_ipam::domain::address::State;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::net::UnixStream;

use crate::support::host::{Fleet, Host, Kind, SUBNET, eventually, ip};

/// The subnet of the hosts' first interfaces.
const OTHER_SUBNET: &str = "subnet-0bbbbbbbbbbbbbbb1";

/// The socket of a managed plugin: as the host sees it, and where it is.
fn plugin(host: &Host, id: &str) -> (String, PathBuf) {
    let folder = host.run_dir().join("docker/plugins").join(id);
    std::fs::create_dir_all(&folder).unwrap();
    (format!("/run/docker/plugins/{id}/ec2-ipam.sock"), folder.join("ec2-ipam.sock"))
}

#[tokio::test]
async fn of_several_drivers_none_is_chosen_for_a_change() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let (host, pool) = fleet.started(1, &[]).await;
    host.request(&pool, "10.77.0.50").await.unwrap();
    let first = host.socket().display().to_string();
    // A plugin that ended without taking its socket along.
    let (dead, at) = plugin(&host, "0dead");
    drop(UnixListener::bind(at).unwrap());
    let (done, text) = host.run(&["status"]).await;
    assert!(done && text.contains(&format!("asking {first}")), "{text}");
    assert!(text.contains(&format!("{dead} (nobody answers)")), "{text}");
    let (done, text) = host.run(&["reserve", "10.77.0.60"]).await;
    assert!(done && text.contains("is reserved"), "one answers: {text}");

    let (second, at) = plugin(&host, "1live");
    let url = format!("sqlite://{}/second/ipam.db", host.dir.path().display());
    let listen = format!("unix://{second}");
    let settings = [("EC2_IPAM_LISTEN", listen.as_str()), ("EC2_IPAM_DATABASE_URL", url.as_str())];
    let mut driver = host.spawn(&["serve"], &settings);
    eventually("the second driver listens", async || UnixStream::connect(&at).await.is_ok()).await;

    let rows = host.rows().await;
    for args in [
        &["init", SUBNET][..],
        &["recycle", SUBNET],
        &["reserve", "10.77.0.61"],
        &["unreserve", "10.77.0.60"],
        &["reconcile"],
    ] {
        let (done, text) = host.run(args).await;
        assert!(!done && text.contains("2 drivers run on this host"), "{args:?}: {text}");
        assert!(text.contains(&first) && text.contains(&second) && text.contains("--socket"), "{args:?}: {text}");
    }
    assert_eq!(host.rows().await, rows, "nothing was changed");
    for args in [&["status"][..], &["list"], &["reconcile", "--dry-run"], &["list", "--json"]] {
        let (done, text) = host.run(args).await;
        assert!(done && text.contains(&format!("asking {first}")) && text.contains(&second), "{args:?}: {text}");
    }
    let named = ["--socket", first.as_str(), "reserve", "10.77.0.61"];
    assert_eq!(host.run(&named).await, (true, "10.77.0.61 is reserved\n".to_owned()));
    assert_eq!(host.row(ip(61)).await.state, State::Reserved);

    let two = format!("FAIL  driver: 2 run on this host, on {first} and {second}");
    for socket in [None, Some(&first), Some(&second)] {
        let mut args: Vec<&str> = socket.into_iter().flat_map(|socket| ["--socket", socket]).collect();
        args.push("doctor");
        let (done, text) = host.run(&args).await;
        assert!(!done && text.contains(&two), "{text}");
        let refused = text.contains(&format!("FAIL  interface: {} is served by another ec2-ipam", host.eni));
        assert_eq!(refused, socket == Some(&second), "each start fails there: {text}");
    }
    let (done, text) = host.run(&["doctor", "--json"]).await;
    assert!(!done && text.contains("\"2 run on this host"), "{text}");
    driver.kill().unwrap();
    driver.wait().unwrap();
    let (done, text) = host.run(&["doctor"]).await;
    assert!(done && text.contains(&format!("ok    driver: answers on {first}")), "{text}");
}

#[tokio::test]
async fn without_a_driver_a_command_says_so_at_once() {
    const ABSENT: &str = "ec2-ipam: no driver answers on ";
    let fleet = Fleet::new(Kind::Mariadb).await;
    let host = fleet.host(1);
    let (done, text) = host.run(&["list"]).await;
    assert!(done && text.contains(ABSENT) && text.contains("no address is taken"), "{text}");
    for subnet in [SUBNET, OTHER_SUBNET] {
        let (done, text) = host.run(&["init", subnet]).await;
        assert!(done && text.contains(ABSENT) && text.contains("256 rows added"), "{text}");
    }
    let (done, rows): (bool, Value) = host.run_json(&["list", "--json"]).await;
    let of = |subnet: &str| rows.as_array().unwrap().iter().filter(|row| row["subnet"] == subnet).count();
    assert!(done && of(SUBNET) > 5 && of(OTHER_SUBNET) > 5, "all subnets: {rows}");
    let (done, text) = host.run(&["list", "subnet-0fffffffffffffff1"]).await;
    assert!(!done && text.contains("the table has no rows of subnet-0fffffffffffffff1"), "{text}");
    assert!(text.contains(SUBNET) && text.contains(OTHER_SUBNET), "{text}");

    for args in [&["status"][..], &["status", "--json"], &["reconcile"], &["reconcile", "--dry-run"]] {
        let (done, text) = host.run(args).await;
        assert!(!done && text.starts_with(ABSENT) && !text.contains("life"), "only a driver knows: {text}");
    }
    let (done, text) = host.run(&["doctor"]).await;
    assert!(!done && text.contains("FAIL  driver: no driver answers on ") && text.contains("ok    database"), "{text}");

    // A server that does not answer is waited for, but not in silence.
    let proxy = host.proxy.as_ref().unwrap();
    proxy.stall(true);
    for command in ["list", "doctor"] {
        let before = host.log().len();
        let mut waiting = host.spawn(&[command], &[("EC2_IPAM_REQUEST_TIMEOUT", "29s")]);
        eventually("it says so", async || host.log()[before..].contains(ABSENT)).await;
        assert!(waiting.try_wait().unwrap().is_none(), "{command}: {}", host.log());
        eventually("it ends", async || waiting.try_wait().unwrap().is_some()).await;
        assert!(!waiting.wait().unwrap().success(), "{command}");
    }
    let (done, text) = host.run(&["status"]).await;
    assert!(!done && text.starts_with(ABSENT), "{text}");
}

#[tokio::test]
async fn a_driver_that_hangs_is_named() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let (host, _) = fleet.started(1, &[]).await;
    let pid = Pid::from_raw(i32::try_from(host.pid()).unwrap());
    let before = host.log().len();
    kill(pid, Signal::SIGSTOP).unwrap();
    let mut asking = host.spawn(&["status"], &[]);
    let says = format!("waiting for the driver on {}", host.socket().display());
    eventually("it says whom it waits for", async || host.log()[before..].contains(&says)).await;
    kill(pid, Signal::SIGCONT).unwrap();
    eventually("it is answered", async || asking.try_wait().unwrap().is_some()).await;
    assert!(asking.wait().unwrap().success());
}

#[tokio::test]
async fn whoever_stops_reading_ends_a_command_quietly() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let (host, _) = fleet.started(1, &[]).await;
    for args in [
        &["status"][..],
        &["status", "--json"],
        &["list", "--free"],
        &["list", "--json"],
        &["doctor"],
        &["reconcile", "--dry-run"],
        &["init", SUBNET],
        &["recycle", SUBNET],
        &["reserve", "10.77.0.60"],
        &["unreserve", "10.77.0.60"],
        &["--help"],
        &["--version"],
    ] {
        assert_eq!(host.run_unread(args).await, (Some(0), String::new()), "{args:?}");
    }
    // What it found still counts.
    let mut bare = fleet.host(2);
    bare.set(&[("EC2_IPAM_REQUEST_TIMEOUT", "3s")]);
    assert_eq!(bare.run_unread(&["doctor"]).await.0, Some(1));
}
