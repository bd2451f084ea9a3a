//! `hosts`: the fleet as its hosts tell of themselves, from any of them.

use ec2_ipam::domain::address::State;
use serde_json::{Value, json};

use crate::support::host::{Fleet, Host, Kind, UNASSIGN, eventually, on_both};

/// A minute is two seconds here.
const QUICK: [(&str, &str); 4] = [
    ("EC2_IPAM_SETTLE_AGE", "2s"),
    ("EC2_IPAM_RECONCILE_INTERVAL", "1s"),
    ("EC2_IPAM_SCAN_INTERVAL", "1h"),
    ("EC2_IPAM_COOLDOWN", "1h"),
];

on_both! {
    what_ec2_does_not_know_any_more_is_off_the_roll_after_a_day
}

/// Rows of `host` as others left them: instance, version, what is told, seconds since it was seen.
async fn enter(host: &Host, rows: &[(&str, &str, Option<&str>, u32)]) {
    let told = |told: Option<&str>| told.map_or_else(|| "NULL".to_owned(), |told| format!("'{told}'"));
    let values = |seen: &dyn Fn(u32) -> String| {
        let rows = rows.iter().map(|(instance, version, word, age)| {
            format!("('{instance}','eni-0{instance}','{version}',{},{})", told(*word), seen(*age))
        });
        format!("INSERT INTO host (instance,enis,version,told,seen) VALUES {}", rows.collect::<Vec<_>>().join(","))
    };
    let (mariadb, sqlite) =
        (values(&|age| format!("NOW()-INTERVAL {age} SECOND")), values(&|age| format!("unixepoch()-{age}")));
    host.sql(&mariadb, &sqlite).await;
}

async fn listed(host: &Host) -> Vec<Value> {
    host.tell_json(&["hosts"]).await
}

/// The line about an instance, by words.
fn words<'t>(text: &'t str, instance: &str) -> Vec<&'t str> {
    let line = text.lines().find(|line| line.starts_with(instance));
    line.unwrap_or_else(|| panic!("nothing about {instance}: {text}")).split_whitespace().collect()
}

#[tokio::test]
async fn each_host_is_shown_as_it_told_and_what_an_older_one_does_not_tell_is_unknown() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    // A minute is one here: nobody falls silent while this is slow.
    let settings = &QUICK[1..];
    let ((a, pool), (b, _)) = (fleet.started(1, settings).await, fleet.started(2, settings).await);
    let leases = [a.lease(&pool).await, a.lease(&pool).await];
    a.release(&pool, leases[0]).await;
    let version = env!("CARGO_PKG_VERSION");
    enter(&a, &[("i-old", "0.0.9", None, 3), ("i-gone", "0.0.9", None, 3600)]).await;
    // Of a driver that was exchanged for an older one since.
    let stale = r#"{"version":"9.9.9","addresses":{"leases":7,"warm":7,"cooling":7},"drained":true,"problems":3}"#;
    enter(&a, &[("i-back", "0.0.9", Some(stale), 3)]).await;
    eventually("b has heard of a", async || {
        let text = b.tell(&["hosts"]).await;
        text.contains(&a.instance) && words(&text, &a.instance)[4..7] == ["1", "0", "1"]
    })
    .await;
    let text = b.tell(&["hosts"]).await;
    let lines: Vec<&str> = text.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
    let (first, second) = (a.instance.as_str(), b.instance.as_str());
    assert_eq!(lines, ["INSTANCE", first, second, "i-back", "i-gone", "i-old"], "{text}");
    assert_eq!(words(&text, first)[1..4], ["10.78.0.4", version, "serving"], "{text}");
    assert_eq!(words(&text, first)[8], a.eni);
    assert_eq!(words(&text, second)[4..7], ["0", "0", "0"], "{text}");
    for (instance, state) in [("i-old", "serving"), ("i-back", "serving"), ("i-gone", "SILENT")] {
        assert_eq!(words(&text, instance)[1..7], ["-", "0.0.9", state, "-", "-", "-"], "{text}");
    }
    let json = listed(&b).await;
    assert_eq!(
        (&json[4]["instance"], &json[4]["leases"], &json[4]["drained"]),
        (&json!("i-old"), &json!(null), &json!(null))
    );

    // A problem of one host is seen from the other, and so is that it is drained.
    fleet.vpc.deny(UNASSIGN, true);
    a.tell(&["drain"]).await;
    let problem = format!("\n  PROBLEM: {}: ", a.eni);
    eventually("b has heard of it", async || {
        let text = b.tell(&["hosts"]).await;
        words(&text, first)[3] == "draining"
            && text.contains(&problem)
            && text.contains("ec2:UnassignPrivateIpAddresses")
    })
    .await;
    // Where no driver runs the table is asked.
    let c = fleet.host(3);
    let (done, text) = c.run(&["hosts"]).await;
    assert!(done && words(&text, first)[3] == "draining" && !text.contains(&c.instance), "{text}");
}

#[tokio::test]
async fn a_host_with_a_table_of_its_own_shows_itself_and_one_whose_table_is_away_says_so() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let (mut host, pool) = fleet.started(1, &QUICK).await;
    host.lease(&pool).await;
    let text = host.tell(&["hosts"]).await;
    assert_eq!(text.lines().count(), 2, "{text}");
    assert_eq!(words(&text, &host.instance)[3..7], ["serving", "1", "0", "0"], "as it is now");
    host.stop().await;
    let (done, text) = host.run(&["hosts"]).await;
    assert!(!done && text.contains("no driver answers on "), "{text}");

    let fleet = Fleet::new(Kind::Mariadb).await;
    let (host, _) = fleet.started(1, &[("EC2_IPAM_REQUEST_TIMEOUT", "3s")]).await;
    host.proxy.as_ref().unwrap().away(true);
    let (done, text) = host.ask(&["hosts"]).await;
    assert!(!done && text.contains("the database ") && text.contains("cannot be reached"), "{text}");
}

#[tokio::test]
async fn a_thousand_hosts_are_shown_in_order_each_in_its_line() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (host, _) = fleet.started(1, &QUICK).await;
    let names: Vec<String> = (0..1000).map(|n| format!("i-{n:017x}")).collect();
    let word = format!(r#"{{"version":"1","problems":1,"problem":"{}"}}"#, "lasts ".repeat(30));
    let rows: Vec<_> = names.iter().map(|name| (name.as_str(), "1", Some(word.as_str()), 1)).collect();
    enter(&host, &rows).await;
    let text = host.tell(&["hosts"]).await;
    assert_eq!(text.lines().filter(|line| line.starts_with("i-")).count(), 1001);
    assert_eq!(text.lines().filter(|line| line.starts_with("  PROBLEM: lasts ")).count(), 1000);
    assert!(text.lines().filter(|line| line.starts_with("i-")).is_sorted());
    assert_eq!(listed(&host).await.len(), 1001);
    let (code, said) = host.run_unread(&["--socket", host.socket().to_str().unwrap(), "hosts"]).await;
    assert_eq!((code, said.as_str()), (Some(0), ""), "as with `head`");
}

/// A stopped instance has its interfaces still.
async fn what_ec2_does_not_know_any_more_is_off_the_roll_after_a_day(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (mut host, pool) = fleet.started(1, &QUICK).await;
    host.lease(&pool).await;
    eventually("it is on the roll", async || listed(&host).await.len() == 1).await;
    let stopped = fleet.host(2);
    host.kill();
    let day = 2 * 60 * 24;
    let rows = [("i-gone", day + 60), (stopped.instance.as_str(), day + 60), ("i-away", day - 600)];
    let rows: Vec<_> = rows.iter().map(|(instance, age)| (*instance, "0.1.0", None, *age)).collect();
    enter(&host, &rows).await;
    // Another account's credentials show none of this one's.
    let stranger = Fleet::new(Kind::Sqlite).await;
    let _theirs = stranger.host(9);
    let theirs = stranger.vpc.serve_ec2(host.listener());
    let ours = host.ec2_url();
    let names = async |host: &Host| -> Vec<String> {
        listed(host).await.iter().map(|host| host["instance"].as_str().unwrap().to_owned()).collect()
    };
    let all = [host.instance.clone(), stopped.instance.clone(), "i-away".to_owned(), "i-gone".to_owned()];
    host.set(&[("AWS_ENDPOINT_URL_EC2", &theirs.url())]);
    host.start().await;
    let asks = async || stranger.vpc.count("DescribeNetworkInterfaces") > 1;
    eventually("it has asked", asks).await;
    assert_eq!(names(&host).await, all);
    host.kill();
    host.sql("DELETE FROM task WHERE name='hosts'", "DELETE FROM task WHERE name='hosts'").await;
    host.set(&[("AWS_ENDPOINT_URL_EC2", &ours)]);
    host.start().await;
    eventually("it is off the roll", async || names(&host).await == all[..3]).await;
    assert_eq!(host.mine(State::Lease).await.len(), 1);
}
