//! The log under load, and while something outside is away.

use std::time::{Duration, Instant};

use vpc_sim::ImdsMode;

use crate::support::docker::Docker;
use crate::support::host::{Fleet, Host, Kind, eventually, ip};

/// Once, and a line a minute with the number of those that were not written.
#[tokio::test]
async fn what_repeats_is_counted() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let mut host = fleet.host(1);
    host.set(&[("EC2_IPAM_LOG", "info")]);
    host.start().await;
    let pool = host.pool().await;
    let begin = Instant::now();
    for n in 0..200 {
        host.release(&pool, ip(n)).await;
        host.release_text("eni-0fffffffffffffff1/10.0.0.0-24", &format!("somewhere {n}")).await;
        host.request(&pool, "10.99.0.1").await.unwrap_err();
    }
    // On a full ENI an address is given before its cool-down is over, each time.
    let mut leases = Vec::new();
    for _ in 0..9 {
        leases.push(host.lease(&pool).await);
    }
    for ip in leases {
        host.release(&pool, ip).await;
    }
    for _ in 0..30 {
        let ip = host.lease(&pool).await;
        host.release(&pool, ip).await;
    }
    assert!(host.stop().await.success());
    let log = host.log();
    let minutes = usize::try_from(begin.elapsed().as_secs()).unwrap() / 60;
    for kind in [
        "nothing to release: it is no lease of this interface",
        "nothing to release: it is not ours",
        "refused: 10.99.0.1 cannot be given",
        "granted an address before its cool-down is over",
    ] {
        let lines: Vec<&str> = log.lines().filter(|line| line.contains(kind)).collect();
        assert!((2..=3 + minutes).contains(&lines.len()), "{kind}: {lines:#?}");
        assert!(lines[1].ends_with(" times in the last minute)"), "{lines:#?}");
    }
    assert_eq!(log.matches("INFO granted 10.77.0.").count(), 39, "each grant stands for itself: {log}");
}

#[tokio::test]
async fn what_is_away_is_told_as_it_goes_and_as_it_comes_back() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    fleet.vpc.imds_mode(ImdsMode::Down);
    let mut host = fleet.host(1);
    let docker = host.docker();
    docker.with(|docker| docker.fails = true);
    host.set(&[("EC2_IPAM_LOG", "info"), ("EC2_IPAM_RECONCILE_INTERVAL", "1s")]);
    host.start().await;
    // Time for many attempts.
    tokio::time::sleep(Duration::from_secs(8)).await;
    told(&host, "the instance metadata service does not answer", 1).await;
    told(&host, "Docker answers /", 1).await;
    let log = host.log();
    assert!(!log.contains("failed to load region"), "what the SDK says of it is told in a sentence: {log}");
    assert!(log.lines().count() < 15, "{log}");
    fleet.vpc.imds_mode(ImdsMode::Up);
    docker.with(|docker| docker.fails = false);
    told(&host, "the instance metadata service answers again, after ", 1).await;
    told(&host, "Docker answers again, after ", 1).await;
    let pool = host.pool().await;
    host.lease(&pool).await;

    let proxy = host.proxy.as_ref().unwrap();
    for n in 1..=2 {
        proxy.away(true);
        told(&host, "the database 127.0.0.1:", n).await;
        proxy.away(false);
        told(&host, "the database answers again, after ", n).await;
    }
    goes_silent(&docker, &host).await;
}

/// The Engine stops to answer while the driver runs.
async fn goes_silent(docker: &Docker, host: &Host) {
    docker.with(|docker| docker.fails = true);
    told(host, "Docker answers /", 2).await;
    docker.with(|docker| docker.fails = false);
    told(host, "Docker answers again, after ", 2).await;
}

async fn told(host: &Host, what: &str, times: usize) {
    eventually(what, async || host.log().matches(what).count() >= times).await;
}

/// Names that are not there to be read: they clear the screen, and forge a line of the log.
const ODD: &str = "web\u{1b}[2J\nERROR forged \u{9b}31m\u{202e}";
const PLAIN: &str = r"web\u{1b}[2J\nERROR forged \u{9b}31m\u{202e}";

fn assert_plain(text: &str) {
    let is_odd = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
    assert!(!text.contains(is_odd) && !text.contains("\nERROR forged"), "{text:?}");
}

#[tokio::test]
async fn names_from_outside_rewrite_no_terminal_and_forge_no_line() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let mut host = fleet.host(1);
    let docker = host.docker();
    docker.with(|docker| docker.parent = ODD.to_owned());
    host.set(&[("EC2_IPAM_RECONCILE_INTERVAL", "1s")]);
    host.start().await;
    let pool = host.pool().await;
    let held = host.lease_for(&pool, ODD).await;
    let why = host.request(&pool, &held.to_string()).await.unwrap_err();
    assert!(why.contains(PLAIN), "{why}");
    assert_plain(&why);
    let text = host.tell(&["list"]).await;
    assert!(text.contains(PLAIN), "{text}");
    assert_plain(&text);
    let text = host.tell(&["list", "--json"]).await;
    assert_plain(&text);
    let listed: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(listed.as_array().unwrap().iter().any(|row| row["holder"] == ODD), "as it is: {text}");
    eventually("the network's parent is named", async || {
        let (_, text) = host.ask(&["status"]).await;
        assert_plain(&text);
        text.contains(PLAIN)
    })
    .await;

    let free = held.octets()[3] % 200 + 10;
    let free = ip(if free == held.octets()[3] { free + 1 } else { free }).to_string();
    for (ip, name, says) in [
        (free.as_str(), ODD, "has control characters"),
        (&free, "AWS", "AWS keeps"),
        (&free, "aws", "AWS keeps"),
        (&free, "fixed:web", "choose another"),
        (&free, "  ", "is blank"),
        (&free, &"x".repeat(241), "longer than the table can keep"),
        (ODD, "web", PLAIN),
    ] {
        let (done, text) = host.ask(&["reserve", ip, name]).await;
        assert!(!done && text.contains(says), "{ip} {name}: {text}");
        assert_plain(&text);
    }
    let (_, text) = host.run(&["--socket", &format!("/nowhere/{ODD}"), "status"]).await;
    assert_plain(&text);
    // Whatever stands in the table, only AWS's own five are kept for good.
    let five = "UPDATE allocation SET status='reserved', holder='AWS' WHERE ip='10.77.0.240'";
    host.sql(five, five).await;
    host.tell(&["unreserve", "10.77.0.240"]).await;
    assert!(!host.ask(&["unreserve", "10.77.0.1"]).await.0);
    assert_plain(&host.log());
    assert!(host.log().contains(PLAIN), "{}", host.log());
}
