//! What is asked and answered.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use super::{answer, ends, history, of, watched};
use crate::support::host::{Fleet, Host, Kind, eni, eventually, ip, on_both, request};

on_both! {
    each_use_of_an_address_is_known_from_its_beginning_to_its_end
    what_no_container_can_have_is_told_as_what_it_is
}

async fn each_use_of_an_address_is_known_from_its_beginning_to_its_end(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let settings = [("EC2_IPAM_COOLDOWN", "0s")];
    let (host, pool) = fleet.started(1, &settings).await;
    let ip = host.lease_for(&pool, "web-1").await;
    let text = ip.to_string();
    assert!(answer(&host, &[&text]).await.starts_with(&format!("{ip} is in use by web-1: from 20")));
    let past = of(&host, ip).await;
    let now = &past["then"][0];
    assert_eq!((&now["name"], &now["ended"], &now["named"]), (&json!("web-1"), &Value::Null, &json!(false)));
    assert_eq!((&now["eni"], &now["instance"]), (&json!(eni(1)), &json!(host.instance)));
    host.release(&pool, ip).await;
    assert!(
        answer(&host, &[&text])
            .await
            .starts_with(&format!("{ip} is in use by no container of this host and idle since 20"))
    );
    // Two after the other with one name, and one that names its address.
    assert_eq!(host.lease_for(&pool, "web-1").await, ip);
    host.release(&pool, ip).await;
    assert_eq!(host.request(&pool, &text).await, Ok(ip));
    let uses = of(&host, ip).await["uses"].as_array().unwrap().clone();
    let brief: Vec<_> = uses.iter().map(|it| (it["name"].as_str(), it["ended"].as_str(), &it["named"])).collect();
    let (yes, no) = (json!(true), json!(false));
    assert_eq!(
        brief,
        [(None, None, &yes), (Some("web-1"), Some("released"), &no), (Some("web-1"), Some("released"), &no)]
    );
    let of_name = history(&host, &["--container", "web-1"]).await;
    assert_eq!(of_name["uses"].as_array().unwrap().len(), 2);
    assert!(of_name["answer"][0].as_str().unwrap().starts_with(&format!("web-1 has no address; it had {ip} last")));
    // For people: the answer first, then a line each.
    let text = host.tell(&["history", &text]).await;
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].contains("a container whose name is not known") && lines[1].contains("named by --ip"), "{text}");
    assert!(
        lines[2].starts_with("FROM ") && lines[4].contains(" web-1 ") && lines[4].contains(" released; eni-"),
        "{text}"
    );
    assert!(text.contains("this host's journal has history since 20"), "{text}");
}

#[tokio::test]
async fn who_had_it_then_is_answered_for_any_time() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let (host, pool) = fleet.started(1, &[("EC2_IPAM_COOLDOWN", "0s")]).await;
    let ip = host.lease_for(&pool, "web").await;
    let text = ip.to_string();
    host.age(7200).await;
    host.release(&pool, ip).await;
    host.age(3600).await;
    let begun = of(&host, ip).await["uses"][0]["from"].as_str().unwrap().to_owned();
    for (at, expected) in [
        ("2h", "was in use by web at 20"),
        (begun.as_str(), "was in use by web at 20"),
        ("30m", "was in use by no container of this host at 20"),
        ("0s", "is in use by no container of this host and idle since 20"),
        ("1d", "nothing is known of "),
        ("2020-01-01", "nothing is known of "),
    ] {
        let told = answer(&host, &[&text, "--at", at]).await;
        assert!(told.contains(expected), "{at}: {told}");
    }
    assert!(answer(&host, &["--container", "web", "--at", "2h"]).await.starts_with(&format!("web had {ip} at 20")));
    let printed = host.tell(&["history", &text, "--at", "2h"]).await;
    assert!(!printed.contains("FROM"), "one moment is asked for: {printed}");
    // What is left out of the list is known all the same.
    let of_name = ["--container", "web"];
    for (words, begins) in [
        (&[text.as_str(), "--at", "2h"][..], format!("{text} was in use by web at 20")),
        (&[&text], format!("{text} is in use by no container of this host and idle since 20")),
        (&of_name, format!("web has no address; it had {text} last: from 20")),
        (&[of_name[0], of_name[1], "--at", "2h"], format!("web had {text} at 20")),
    ] {
        let whole = history(&host, words).await;
        assert_eq!(whole["uses"].as_array().unwrap().len(), 1);
        for (since, count) in [("30m", 0), ("2h", 1)] {
            let less = history(&host, &[words, &["--since", since]].concat()).await;
            assert!(less["answer"][0].as_str().unwrap().starts_with(&begins), "{words:?} {since}: {less}");
            assert_eq!((&less["then"], less["uses"].as_array().unwrap().len()), (&whole["then"], count), "{words:?}");
        }
    }
    // Who takes local time for UTC is not answered with now.
    for words in [[text.as_str(), "--at", "2090-01-01T00:00+02:00"], [&text, "--since", "2090-01-01"]] {
        let (done, told) = host.run(&[&["history"], &words[..]].concat()).await;
        assert!(!done && told.contains(" is in the future: now it is 20"), "{words:?}: {told}");
    }
}

#[tokio::test]
async fn what_cannot_be_asked_is_refused_with_what_can() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let mut host = fleet.host(1);
    for (words, says) in [
        (&["history"][..], "<IP|--container <CONTAINER>>"),
        (&["history", "--container", ""], "a value is required for '--container <CONTAINER>'"),
        (&["history", "10.77.0.256"], "invalid value '10.77.0.256'"),
        (&["history", "10.77.0.9", "--at", "yesterday"], "2h for two hours ago"),
        (&["history", "10.77.0.9", "--since", "12:00"], "2h for two hours ago"),
        (&["history", "10.77.0.9", "--container", "web"], "cannot be used with"),
        (&["history", "10.77.0.9"], "no driver answers on"),
    ] {
        let (done, text) = host.run(words).await;
        assert!(!done && text.contains(says), "{words:?}: {text}");
    }
    host.start().await;
    for (body, says) in [
        ("{}", "name an address, or a container"),
        (r#"{"container":""}"#, "name an address, or a container"),
        (r#"{"ip":"10.77.0.9","container":"web"}"#, "one of the two"),
        (r#"{"ip":"10.77.0.9","at":"noon"}"#, "unknown variant"),
    ] {
        let why = host.call("/v1/history", body).await.outcome().unwrap_err();
        assert!(why.contains(says), "{body}: {why}");
    }
    // An address of nobody's, and names that are none.
    let told = answer(&host, &["192.0.2.1"]).await;
    assert_eq!(told, "192.0.2.1 is none of the table's addresses, and no container's of its hosts");
    for name in ["nobody", "%", "'; --", "\u{1b}[2J", &"x".repeat(5000)] {
        let (done, text) = host.ask(&["history", "--container", name]).await;
        assert!(done && text.starts_with("nothing is known of a container ") && !text.contains('\u{1b}'), "{text}");
    }
}

#[tokio::test]
async fn docker_names_whom_the_request_did_not() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let (host, docker, pool) = watched(&fleet, &[]).await;
    let ip = host.lease(&pool).await;
    let nameless = answer(&host, &[&ip.to_string()]).await;
    assert!(nameless.contains("a container whose name is not known"), "{nameless}");
    docker.runs(&[ip]);
    let named = async |name: &str| {
        eventually(name, async || {
            // It lists Docker's containers.
            host.tell(&["status"]).await;
            answer(&host, &[&ip.to_string()]).await.contains(&format!("in use by {name} ("))
        })
        .await;
    };
    named(&format!("c{ip}")).await;
    let past = of(&host, ip).await;
    let id = format!("{:064x}", u32::from(ip));
    assert_eq!((&past["uses"][0]["container"], &past["uses"][0]["network"]), (&json!(id), &json!("pods")));
    // Renamed, it is found by each of its names, and by its id.
    docker.with(|docker| drop(docker.names.insert(ip, "renamed".to_owned())));
    named("renamed").await;
    for name in [&format!("c{ip}"), "renamed", &id[..12], &id] {
        assert_eq!(history(&host, &["--container", name]).await["uses"].as_array().unwrap().len(), 1, "{name}");
    }
    // It is kept. And what Docker still shows for a moment is not the next one's.
    host.release(&pool, ip).await;
    assert_eq!(host.lease(&pool).await, ip);
    host.tell(&["status"]).await;
    let uses = of(&host, ip).await["uses"].as_array().unwrap().clone();
    assert_eq!((&uses[0]["name"], &uses[1]["renamed"]), (&Value::Null, &json!("renamed")));
}

#[tokio::test]
async fn the_end_says_whether_docker_told_or_showed_it() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let settings = [("EC2_IPAM_RECONCILE_INTERVAL", "1s")];
    let (host, docker, pool) = watched(&fleet, &settings).await;
    let (gone, stays) = (host.lease(&pool).await, host.lease(&pool).await);
    docker.runs(&[stays]);
    eventually("it is found gone", async || ends(&host, gone).await == ["found gone"]).await;
    assert_eq!(ends(&host, stays).await, [""]);
    assert!(answer(&host, &[&gone.to_string()]).await.contains("found gone: no container had it by then"));
}

#[tokio::test]
async fn what_no_container_ever_had_is_not_said_to_be_anybodys() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let (host, pool) = fleet.started(1, &[]).await;
    // Whoever asks hangs up before he is answered.
    let options = json!({ "com.docker.network.endpoint.name": "gone" });
    let body = json!({ "PoolID": pool, "Address": "10.77.0.50", "Options": options }).to_string();
    let mut wire = host.connect().await;
    wire.send(&request("/IpamDriver.RequestAddress", &body)).await;
    drop(wire);
    eventually("it is taken back", async || ends(&host, ip(50)).await == ["taken back"]).await;
    let told = answer(&host, &["10.77.0.50"]).await;
    assert!(told.starts_with("10.77.0.50 is in use by no container of this host, and was not before"), "{told}");
    let told = answer(&host, &["--container", "gone"]).await;
    assert!(told.starts_with("gone has no address, and none before: 10.77.0.50 was meant for it at 20"), "{told}");
    assert!(told.ends_with(", and taken back: the answer did not reach Docker"), "{told}");
}

async fn what_no_container_can_have_is_told_as_what_it_is(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (host, pool) = fleet.started(1, &[]).await;
    host.lease(&pool).await;
    let rows = host.rows().await;
    let primary = rows.iter().find(|row| row.primary).expect("the ENI's own").ip;
    for (ip, is) in [
        (primary, format!("is the primary address of {}, and no container's", eni(1))),
        (ip(1), "is kept back by AWS, and no container's".to_owned()),
        ("192.0.2.1".parse().unwrap(), "is none of the table's addresses, and no container's of its hosts".to_owned()),
    ] {
        assert_eq!(answer(&host, &[&ip.to_string()]).await, format!("{ip} {is}"));
    }
}

/// Each field of the JSON as its document writes it.
#[tokio::test]
async fn the_json_is_what_its_document_says() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let (host, pool) = fleet.started(1, &[]).await;
    let ip = host.lease_for(&pool, "web").await;
    let document = include_str!("../../../docs/status.md");
    let section = document.split("## `ec2-ipam history IP --json`").nth(1).expect("its section");
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    let written: BTreeSet<String> = rows.map(|(place, _)| place.to_owned()).collect();
    let past = of(&host, ip).await;
    let mut found: BTreeSet<String> = past.as_object().unwrap().keys().cloned().collect();
    for list in ["uses", "sources"] {
        found.remove(list);
        let fields = past[list][0].as_object().unwrap().keys();
        found.extend(fields.map(|field| format!("{list}[].{field}")));
    }
    found.remove("then");
    found.insert("then[]".into());
    assert_eq!(found, written);
    assert_eq!(past["then"], past["uses"]);
}

/// The wall clock is set back while a container runs: what was written stays as it was written.
#[tokio::test]
async fn a_clock_that_was_set_back_is_shown_and_hides_nothing() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let (mut host, clock) = (fleet.host(1), crate::support::clock::Clock::new());
    for (name, value) in clock.environment() {
        host.set(&[(name, &value)]);
    }
    host.set(&[("EC2_IPAM_COOLDOWN", "0s")]);
    host.start().await;
    let pool = host.pool().await;
    let first = host.lease_for(&pool, "web").await;
    clock.set(-6 * 3600);
    host.release(&pool, first).await;
    assert_eq!(host.lease_for(&pool, "db").await, first);
    let past = of(&host, first).await;
    assert!(past["answer"][0].as_str().unwrap().contains("is in use by db"), "{past}");
    let names: Vec<_> = past["uses"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["db", "web"], "as they came");
    assert_eq!(past["uses"][1]["clock_was_set"], json!(true));
    let text = host.tell(&["history", &first.to_string()]).await;
    assert!(text.contains("released, A CLOCK WAS SET"), "{text}");
}

/// A grant waits for nobody who looks at history, however much of it there is.
#[tokio::test]
async fn a_long_history_is_read_beside_grants() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let (mut host, pool) = fleet.started(1, &[("EC2_IPAM_COOLDOWN", "0s")]).await;
    let ip = host.lease(&pool).await;
    host.kill();
    super::kept::fill(&host, 40_000);
    host.start().await;
    let all = async |host: &Host| history(host, &["10.9.9.9"]).await["uses"].as_array().unwrap().len();
    let grants = async {
        for _ in 0..20 {
            host.release(&pool, ip).await;
            assert_eq!(host.lease(&pool).await, ip);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let (seen, ()) = tokio::join!(all(&host), grants);
    assert_eq!(seen, 10_000, "the last ones");
    assert_eq!(all(&host).await, 10_000, "and no more though others came between them");
    assert_eq!(ends(&host, ip).await.len(), 21);
}
