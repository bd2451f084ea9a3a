//! The table keeps it for the fleet, where it is set to.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use serde_json::{Value, json};

use super::{answer, ends, of};
use crate::support::host::{Fleet, Host, Kind, eventually, ip, on_both};

const SETTINGS: [(&str, &str); 3] =
    [("EC2_IPAM_HISTORY", "30d"), ("EC2_IPAM_COOLDOWN", "0s"), ("EC2_IPAM_SETTLE_AGE", "1s")];

on_both! { the_table_keeps_what_it_is_told_for_as_long_as_it_is_set_to }

/// What the table has in all.
async fn count(host: &Host, which: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM history WHERE {which}");
    match &host.db {
        Some(db) => {
            let mut session = db.session().await;
            let count = session.query_first(sql).await.unwrap();
            session.disconnect().await.unwrap();
            count.unwrap()
        }
        None => {
            let file = rusqlite::Connection::open(host.dir.path().join("state/ipam.db")).unwrap();
            file.busy_timeout(Duration::from_secs(30)).unwrap();
            file.query_row(&sql, [], |row| row.get(0)).unwrap()
        }
    }
}

async fn the_table_keeps_what_it_is_told_for_as_long_as_it_is_set_to(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (host, pool) = fleet.started(1, &SETTINGS).await;
    let (lasts, over) = (host.lease_for(&pool, "db").await, host.lease_for(&pool, "job").await);
    host.release(&pool, over).await;
    eventually("it is told", async || {
        count(&host, "ended IS NULL AND name='db'").await == 1
            && count(&host, "how='released' AND name='job'").await == 1
    })
    .await;
    host.sql("UPDATE history SET told=told-INTERVAL 31 DAY", "UPDATE history SET told=told-31*86400").await;
    eventually("it is forgotten", async || count(&host, "ended IS NOT NULL").await == 0).await;
    assert_eq!(count(&host, "ended IS NULL").await, 1, "{lasts} lasts");
    let text = host.ask(&["doctor"]).await.1;
    assert!(text.contains("; in the table for 30days"), "{text}");
}

#[tokio::test]
async fn any_host_tells_of_another_ones_address() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let ((a, pool), (mut b, _)) = (fleet.started(1, &SETTINGS).await, fleet.started(2, &SETTINGS).await);
    let ip = a.lease_for(&pool, "web").await;
    let text = ip.to_string();
    eventually("it is told", async || answer(&b, &[&text]).await.starts_with(&format!("{ip} is in use by web: from ")))
        .await;
    assert_eq!(of(&b, ip).await["uses"][0]["instance"], json!(a.instance));
    a.release(&pool, ip).await;
    eventually("its end is told", async || ends(&b, ip).await == ["released"]).await;
    let of_name = answer(&b, &["--container", "web"]).await;
    assert!(of_name.starts_with(&format!("web has no address; it had {ip} last: from ")), "{of_name}");
    // The command line by itself, on the table.
    b.kill();
    let (done, past): (bool, Value) = b.run_json(&["history", &text, "--json"]).await;
    assert!(done && past["uses"][0]["name"] == "web" && past["sources"][0]["of"] == "table", "{past}");
}

/// What a journal has lost the table knows, and the host that lost it says the same as any other.
#[tokio::test]
async fn a_host_that_lost_its_journal_tells_what_the_table_knows() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let ((mut a, pool), (b, _)) = (fleet.started(1, &SETTINGS).await, fleet.started(2, &SETTINGS).await);
    let ip = a.lease_for(&pool, "web").await;
    eventually("it is told", async || count(&a, "name='web'").await == 1).await;
    let begun = of(&a, ip).await["uses"][0]["from"].as_str().unwrap().to_owned();
    a.rows().await;
    a.kill();
    a.lose_journal();
    a.start().await;
    eventually("the new journal has it", async || {
        let (_, status): (bool, Value) = a.ask_json(&["status"]).await;
        status["journal"]["history"] == json!(1)
    })
    .await;
    for host in [&a, &b] {
        let told = answer(host, &[&ip.to_string(), "--at", &begun]).await;
        assert!(told.starts_with(&format!("{ip} was in use by web at {begun}: from {begun} on, for ")), "{told}");
        let told = answer(host, &["--container", "web", "--at", &begun]).await;
        assert!(told.starts_with(&format!("web had {ip} at {begun}: from {begun} on, for ")), "{told}");
        assert_eq!(of(host, ip).await["uses"][0]["found"], json!(false));
    }
}

/// Of a table that is to know of all hosts and is not there, nothing is made up.
#[tokio::test]
async fn while_the_table_is_away_nobody_is_said_to_have_nothing() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let ((a, pool), (b, other)) = (fleet.started(1, &SETTINGS).await, fleet.started(2, &SETTINGS).await);
    let (ip, own) = (a.lease_for(&pool, "web").await, b.lease_for(&other, "db").await);
    eventually("it is told", async || count(&b, "name='web' OR name='db'").await == 2).await;
    b.proxy.as_ref().unwrap().away(true);
    let past = of(&b, ip).await;
    let told = past["answer"][0].as_str().unwrap();
    let unheard = "is not known: the table has the history of all hosts, and does not answer";
    assert!(told.starts_with(&format!("who has {ip} {unheard}; ")), "{told}");
    assert!(past["sources"][1]["error"].is_string(), "{past}");
    let told = answer(&b, &["--container", "web"]).await;
    assert!(told.starts_with(&format!("what web has {unheard}; ")), "{told}");
    assert!(answer(&b, &[&own.to_string()]).await.starts_with(&format!("{own} is in use by db: from ")));
}

/// What this host knows of before that it knows of itself alone.
#[tokio::test]
async fn for_the_fleet_history_begins_with_the_table() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let (mut host, pool) = fleet.started(1, &[]).await;
    host.lease_for(&pool, "web").await;
    host.kill();
    // The table counts whole seconds.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    host.set(&SETTINGS);
    host.start().await;
    eventually("it is told", async || count(&host, "name='web'").await == 1).await;
    let past = of(&host, ip(200)).await;
    let (journal, table) = (&past["sources"][0]["since"], &past["sources"][1]["since"]);
    assert!(journal.as_str().unwrap() < table.as_str().unwrap(), "{past}");
    let told = past["answer"][0].as_str().unwrap();
    let nobody = "is in use by nobody, and was not before: history begins at";
    assert_eq!(told, format!("{} {nobody} {}", ip(200), table.as_str().unwrap()));
    // What lasts was told long ago; what was over then is not kept.
    host.sql("", "UPDATE history SET told=told-90*86400").await;
    let since = of(&host, ip(200)).await["sources"][1]["since"].as_str().unwrap().to_owned();
    let told = answer(&host, &[&ip(200).to_string(), "--at", "31d"]).await;
    assert!(told.starts_with("nothing is known of ") && told.contains(&since[..10]), "{since}: {told}");
}

#[tokio::test]
async fn without_it_another_host_says_whom_to_ask() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let ((a, pool), (b, _)) = (fleet.started(1, &[]).await, fleet.started(2, &[]).await);
    let ip = a.lease_for(&pool, "web").await;
    a.rows().await;
    let mut past = Value::Null;
    eventually("its host is on the roll", async || {
        past = of(&b, ip).await;
        past["answer"][1].as_str().is_some_and(|hint| hint.contains(&format!("ask its host {}", a.instance)))
    })
    .await;
    assert!(past["answer"][0].as_str().unwrap().contains("is not known here"), "{past}");
    assert!(past["answer"][1].as_str().unwrap().contains("in use by a container (web) of"), "{past}");
    assert_eq!(count(&a, "1=1").await, 0, "the table is told of nothing");
}

#[tokio::test]
async fn what_happened_while_it_was_away_is_told_when_it_is_back() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (mut a, pool) = fleet.started(1, &SETTINGS).await;
    let first = a.lease_for(&pool, "one").await;
    eventually("it is told", async || count(&a, "name='one'").await == 1).await;
    a.proxy.as_ref().unwrap().away(true);
    a.release(&pool, first).await;
    assert_eq!(a.lease_for(&pool, "two").await, first);
    a.release(&pool, first).await;
    // Through a crash.
    a.restart().await;
    a.proxy.as_ref().unwrap().away(false);
    eventually("all is told", async || count(&a, "how='released'").await == 2).await;
    // A database that forgets its last commits, in the midst of a life and between two.
    for is_killed in [false, true] {
        if is_killed {
            a.kill();
        }
        a.sql("DELETE FROM history", "").await;
        if is_killed {
            a.start().await;
        }
        eventually("it is told again", async || count(&a, "how='released'").await == 2).await;
    }
    assert_eq!(count(&a, "1=1").await, 2, "each of them once");
}

/// Hosts that are set to it later tell what their journals have kept.
#[tokio::test]
async fn what_was_before_it_was_set_is_told_too() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let (mut host, pool) = fleet.started(1, &[("EC2_IPAM_COOLDOWN", "0s")]).await;
    let ip = host.lease_for(&pool, "web").await;
    host.release(&pool, ip).await;
    host.kill();
    host.set(&SETTINGS);
    host.start().await;
    eventually("it is told", async || count(&host, "name='web' AND how='released'").await == 1).await;
}

/// A host that is no more ends nothing: its rows tell.
#[tokio::test]
async fn what_nobody_ends_is_over_once_the_rows_know_nothing_of_it() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let ((mut a, pool), (b, _)) = (fleet.started(1, &SETTINGS).await, fleet.started(2, &SETTINGS).await);
    let (dead, lives) = (a.lease_for(&pool, "dead").await, a.lease_for(&pool, "lives").await);
    eventually("it is told", async || count(&b, "name='dead'").await == 1 && count(&b, "name='lives'").await == 1)
        .await;
    a.rows().await;
    a.kill();
    let free = "status='free',iface=NULL,claim=NULL,claimed=NULL";
    b.sql(&format!("UPDATE allocation SET {free} WHERE ip='{dead}'"), "").await;
    b.sql("UPDATE history SET told=told-INTERVAL 1 HOUR", "").await;
    // Whoever held the task is no more.
    b.sql("UPDATE task SET holder=NULL WHERE name='history'", "").await;
    eventually("it is over", async || ends(&b, dead).await == ["lost"]).await;
    assert_eq!(ends(&b, lives).await, [""]);
}

/// It has no journal: the server tells the table, and nothing waits for that.
#[tokio::test]
async fn a_server_tells_of_the_hosts_that_it_serves() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (mut server, host) = (fleet.host(1), fleet.host(2));
    server.set(&SETTINGS);
    server.set(&[("EC2_IPAM_DISTANT", "true")]);
    server.start().await;
    let options = json!({ "eni-id": host.eni, "instance-id": host.instance });
    let pool = server.pool_with("", options).await.unwrap();
    let ip = server.lease_for(&pool, "web").await;
    let text = ip.to_string();
    eventually("it is told", async || answer(&server, &[&text]).await.contains("is in use by web: from ")).await;
    assert_eq!(of(&server, ip).await["uses"][0]["instance"], json!(host.instance));
    // What a crash lost of its beginning, its end tells.
    server.sql("DELETE FROM history", "").await;
    server.release(&pool, ip).await;
    eventually("its end is told", async || ends(&server, ip).await == ["released"]).await;
    assert_eq!(server.lease_for(&pool, "db").await, ip);
    eventually("the next", async || ends(&server, ip).await == ["", "released"]).await;
}

#[tokio::test]
async fn without_the_right_to_delete_doctor_says_what_to_grant() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let mut host = fleet.host(1);
    host.set(&SETTINGS);
    host.start().await;
    let pool = host.pool().await;
    host.lease(&pool).await;
    eventually("it is told", async || count(&host, "1=1").await == 1).await;
    assert!(host.stop().await.success());
    let db = host.db.clone().unwrap();
    let user = format!("plain_{}", db.name);
    db.exec(&format!("CREATE USER {user} IDENTIFIED BY 'p'")).await;
    db.exec(&format!("GRANT SELECT,INSERT,UPDATE ON {}.* TO {user}", db.name)).await;
    let port = host.proxy.as_ref().unwrap().port;
    host.set(&[("EC2_IPAM_DATABASE_URL", &format!("mysql://{user}:p@127.0.0.1:{port}/{}", db.name))]);
    host.start().await;
    eventually("it is told", async || {
        let text = host.ask(&["doctor"]).await.1;
        text.contains("warn  history: ") && text.contains("GRANT DELETE ON")
    })
    .await;
}
