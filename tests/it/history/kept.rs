//! What is kept, through crashes and losses, and for how long.

use rusqlite::Connection;
use serde_json::json;

use super::{answer, ends, history, in_journal, journal, of, watched};
use crate::support::host::{Fleet, Host, Kind, eventually};

/// So many uses of one address in the journal of a driver that does not run, each over by now.
pub(super) fn fill(host: &Host, count: u32) {
    assert!(!host.is_running());
    Connection::open(journal(host))
        .unwrap()
        .execute_batch(&format!(
            "INSERT INTO history WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {count}) \
             SELECT n + 1000, 'x:' || n || ':lease', '10.9.9.9', 'eni-1', 'job-' || n, NULL, NULL, NULL, 0, \
             (unixepoch() - {count} + n - 10) * 1000, 0, (unixepoch() - {count} + n - 5) * 1000, 'released', 0 FROM n"
        ))
        .unwrap();
}

#[tokio::test]
async fn a_use_goes_on_through_kills_and_reboots() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (mut host, docker, pool) = watched(&fleet, &[]).await;
    let ip = host.lease_for(&pool, "web").await;
    docker.runs(&[ip]);
    let begun = of(&host, ip).await["uses"][0]["from"].clone();
    host.restart().await;
    host.reboot();
    // The table has nothing to do with it.
    host.proxy.as_ref().unwrap().away(true);
    host.start().await;
    let past = of(&host, ip).await;
    assert_eq!(past["uses"].as_array().unwrap().len(), 1);
    assert_eq!((&past["uses"][0]["from"], &past["uses"][0]["found"]), (&begun, &json!(false)));
    assert!(past["sources"][1]["error"].as_str().unwrap().contains("database"), "{past}");
    host.release(&pool, ip).await;
    host.restart().await;
    assert_eq!(ends(&host, ip).await, ["released"]);
}

/// With the journal its history is lost, and what is in use is found to be so.
#[tokio::test]
async fn a_journal_that_is_lost_begins_history_anew() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (mut host, docker, pool) = watched(&fleet, &[]).await;
    let (ip, over) = (host.lease_for(&pool, "web").await, host.lease(&pool).await);
    docker.runs(&[ip]);
    host.release(&pool, over).await;
    host.rows().await;
    host.kill();
    host.lose_journal();
    host.start().await;
    eventually("it is known again", async || ends(&host, ip).await == [""]).await;
    let past = of(&host, ip).await;
    assert_eq!((&past["uses"][0]["found"], &past["uses"][0]["name"]), (&json!(true), &json!("web")));
    assert!(past["answer"][0].as_str().unwrap().contains("at the latest, when it was found"), "{past}");
    let before = answer(&host, &[&ip.to_string(), "--at", "1m"]).await;
    assert!(before.contains("is not known: ") && before.contains("was found with it at"), "{before}");
    assert!(ends(&host, over).await.is_empty());
}

/// A grant of which neither the table nor the new journal has heard.
#[tokio::test]
async fn what_a_lost_journal_knew_is_not_known_until_docker_has_shown_it() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (mut host, docker, pool) = watched(&fleet, &[("EC2_IPAM_RECONCILE_INTERVAL", "1s")]).await;
    let ip = host.lease_for(&pool, "one").await;
    let text = ip.to_string();
    host.release(&pool, ip).await;
    host.rows().await;
    host.proxy.as_ref().unwrap().away(true);
    assert_eq!(host.lease_for(&pool, "run").await, ip);
    docker.with(|docker| drop(docker.names.insert(ip, "run".to_owned())));
    docker.runs(&[ip]);
    host.kill();
    host.lose_journal();
    host.proxy.as_ref().unwrap().away(false);
    host.start().await;
    let (mut of_address, mut of_name) = (Vec::new(), Vec::new());
    eventually("it is found", async || {
        of_name.push(answer(&host, &["--container", "run"]).await);
        of_address.push(answer(&host, &[&text]).await);
        of_address.last().unwrap().starts_with(&format!("{ip} is in use by run"))
    })
    .await;
    of_address.pop();
    of_name.pop();
    assert!(of_address.iter().all(|told| told.contains(" is not known")), "{of_address:#?}");
    assert!(of_address.iter().any(|told| told.contains(" is not known yet: ")), "{of_address:#?}");
    assert!(of_name.iter().any(|told| told.starts_with("what run has is not known yet: ")), "{of_name:#?}");
    // Whoever had it before is somebody else.
    let named = &of(&host, ip).await["uses"][0];
    assert_eq!((&named["name"], &named["renamed"], &named["found"]), (&json!("run"), &json!(null), &json!(true)));
    assert_eq!(history(&host, &["--container", "one"]).await["uses"], json!([]));
}

/// A driver without history wrote the file: what it has stays what it is, and history begins.
#[tokio::test]
async fn a_journal_of_before_history_is_taken_over() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (mut host, pool) = fleet.started(1, &[("EC2_IPAM_COOLDOWN", "0s")]).await;
    let ip = host.lease(&pool).await;
    host.rows().await;
    assert!(host.stop().await.success());
    let older = "DROP TABLE history; DROP TABLE kept; PRAGMA user_version = 1";
    Connection::open(journal(&host)).unwrap().execute_batch(older).unwrap();
    host.start().await;
    assert_eq!(ends(&host, ip).await, [""]);
    assert_eq!(of(&host, ip).await["uses"][0]["found"], json!(true));
    assert!(host.request(&pool, &ip.to_string()).await.is_err(), "I1");
    host.release(&pool, ip).await;
    assert_eq!(host.lease(&pool).await, ip, "it is not in doubt");
    assert!(host.stop().await.success());
    assert_eq!(in_journal(&host, "PRAGMA user_version"), 2);
}

#[tokio::test]
async fn what_was_over_a_month_ago_is_forgotten_and_what_lasts_is_not() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let (mut host, pool) = fleet.started(1, &[("EC2_IPAM_COOLDOWN", "0s")]).await;
    let (lasts, over) = (host.lease_for(&pool, "db").await, host.lease_for(&pool, "job").await);
    host.release(&pool, over).await;
    host.age(29 * 86_400).await;
    host.restart().await;
    assert_eq!(ends(&host, over).await, ["released"]);
    host.age(2 * 86_400).await;
    host.restart().await;
    eventually("it is forgotten", async || ends(&host, over).await.is_empty()).await;
    assert_eq!(ends(&host, lasts).await, [""]);
    let old = answer(&host, &[&over.to_string(), "--at", "30d 2h"]).await;
    assert!(old.starts_with("nothing is known of "), "{old}");
    host.kill();
    assert_eq!(in_journal(&host, "SELECT count(*) FROM history"), 1);
}

#[tokio::test]
async fn of_too_many_the_oldest_go_and_the_file_grows_no_more() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let (mut host, pool) = fleet.started(1, &[("EC2_IPAM_COOLDOWN", "0s")]).await;
    let ip = host.lease(&pool).await;
    assert!(host.stop().await.success());
    fill(&host, 50_500);
    host.start().await;
    let status: serde_json::Value = host.tell_json(&["status"]).await;
    assert_eq!(status["journal"]["history"], json!(50_000), "as it is opened");
    host.release(&pool, ip).await;
    for _ in 0..5 {
        assert_eq!(host.lease(&pool).await, ip);
        host.release(&pool, ip).await;
    }
    let status: serde_json::Value = host.tell_json(&["status"]).await;
    assert_eq!(status["journal"]["history"], json!(50_000));
    assert!(host.stop().await.success());
    assert_eq!(in_journal(&host, "SELECT count(*) FROM history"), 50_000);
    assert_eq!(
        in_journal(&host, "SELECT count(*) FROM history WHERE ip = '10.9.9.9'"),
        49_995,
        "the oldest is this host's first"
    );
    let bytes = std::fs::metadata(journal(&host)).unwrap().len();
    assert!(bytes < 20_000_000, "{bytes}");
    // What had an address for long and went with the oldest is missing up to its end.
    let since = in_journal(&host, "SELECT since FROM kept");
    assert!(since >= in_journal(&host, "SELECT min(ended) FROM history"));
}

#[tokio::test]
async fn doctor_and_status_say_since_when() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let (host, pool) = fleet.started(1, &[]).await;
    host.lease(&pool).await;
    let text = host.ask(&["doctor"]).await.1;
    assert!(text.contains("ok    history: 1 uses of addresses in the journal, since 20"), "{text}");
    let status: serde_json::Value = host.tell_json(&["status"]).await;
    assert_eq!(status["journal"]["history"], json!(1));
    assert!(status["journal"]["history_since"].as_str().unwrap().starts_with("20"));
}
