//! Hosts that enter themselves in the table, and what they are asked there.

use std::time::Duration;

use ec2_ipam::domain::roll::{Answer, HostEntry, Request};
use ec2_ipam::domain::told::{Addresses, Told};

use super::bed::{Bed, eni, on_all, soon, subnet};

const OPEN: Duration = Duration::from_secs(90);

on_all! {
    a_host_is_known_as_it_entered_itself_last
    what_a_host_tells_of_itself_is_believed_until_an_older_driver_enters_it
    hosts_are_forgotten_with_what_they_were_asked_unless_they_are_back
    a_host_is_asked_until_it_has_answered
    what_was_asked_long_ago_or_will_be_is_not_asked
    an_answer_to_what_was_asked_before_is_none
    hosts_and_tokens_are_not_sql
}

fn host(instance: &str) -> HostEntry {
    HostEntry {
        instance: instance.to_owned(),
        enis: vec![eni(1), eni(2)],
        version: "1.0".into(),
        journal: Some("a:1".into()),
        told: None,
    }
}

fn request(token: &str) -> Request {
    Request { subnet: subnet(), token: token.to_owned() }
}

async fn enter(bed: &Bed, instance: &str) -> Vec<Request> {
    bed.store.enter(&host(instance), OPEN, soon()).await.unwrap()
}

async fn ask(bed: &Bed, instances: &[&str], token: &str) {
    let instances: Vec<String> = instances.iter().map(|instance| (*instance).to_owned()).collect();
    bed.store.ask(&instances, &request(token), soon()).await.unwrap();
}

async fn answered(bed: &Bed, instance: &str) -> Option<Answer> {
    let mut answers = bed.store.answers(&[instance.to_owned()], &subnet(), soon()).await.unwrap();
    answers.remove(instance)
}

async fn a_host_is_known_as_it_entered_itself_last(bed: Bed) {
    assert!(enter(&bed, "i-1").await.is_empty());
    bed.exec("UPDATE host SET seen=seen-INTERVAL 500 SECOND", "UPDATE host SET seen=seen-500").await;
    let known = bed.store.hosts(soon()).await.unwrap();
    assert_eq!(known[0].entry, host("i-1"));
    assert!((500..560).contains(&known[0].seen.as_secs()), "{known:?}");
    let now = HostEntry { enis: Vec::new(), version: "v".repeat(100), journal: None, ..host("i-1") };
    bed.store.enter(&now, OPEN, soon()).await.unwrap();
    let known = bed.store.hosts(soon()).await.unwrap();
    assert_eq!(known.len(), 1);
    assert_eq!(known[0].entry, HostEntry { version: "v".repeat(64), ..now });
    assert!(known[0].seen.as_secs() < 60, "{known:?}");
    // A clock that was set back since.
    bed.exec("UPDATE host SET seen=seen+INTERVAL 1 HOUR", "UPDATE host SET seen=seen+3600").await;
    assert_eq!(bed.store.hosts(soon()).await.unwrap()[0].seen, Duration::ZERO);
}

fn told() -> Told {
    Told {
        version: "1.0".into(),
        address: Some("10.0.0.9".parse().unwrap()),
        server: true,
        addresses: Some(Addresses { leases: 3, warm: 2, cooling: 1 }),
        drained: true,
        drained_seconds: Some(60),
        problems: 1,
        problem: Some(r#"it's "\ ` % 容器"#.into()),
    }
}

async fn what_a_host_tells_of_itself_is_believed_until_an_older_driver_enters_it(bed: Bed) {
    let entry = HostEntry { told: Some(told()), ..host("i-1") };
    bed.store.enter(&entry, OPEN, soon()).await.unwrap();
    let entries =
        async || bed.store.hosts(soon()).await.unwrap().into_iter().map(|host| host.entry).collect::<Vec<_>>();
    assert_eq!(entries().await, std::slice::from_ref(&entry));
    // As one enters itself that does not know the column.
    bed.exec("UPDATE host SET version='0.9',seen=NOW()", "UPDATE host SET version='0.9', seen=unixepoch()").await;
    assert_eq!(entries().await, [HostEntry { version: "0.9".into(), told: None, ..entry.clone() }]);
    for word in ["", "null", "[]", "{\"leases\":-1}", "nonsense"] {
        let sql = format!("UPDATE host SET version='1.0', told='{word}'");
        bed.exec(&sql, &sql).await;
        assert_eq!(entries().await, [HostEntry { told: None, ..entry.clone() }], "{word}");
    }
    // A newer one may tell more.
    let sql = "UPDATE host SET told='{\"version\":\"1.0\",\"blocks\":7}'";
    bed.exec(sql, sql).await;
    let word = Told { version: "1.0".into(), ..Told::default() };
    assert_eq!(entries().await, [HostEntry { told: Some(word), ..entry }]);
}

async fn hosts_are_forgotten_with_what_they_were_asked_unless_they_are_back(bed: Bed) {
    let hour = Duration::from_secs(3600);
    for instance in ["i-1", "i-2", "i-3"] {
        enter(&bed, instance).await;
    }
    ask(&bed, &["i-1", "i-2"], "t").await;
    bed.exec("UPDATE host SET seen=seen-INTERVAL 2 HOUR", "UPDATE host SET seen=seen-7200").await;
    enter(&bed, "i-2").await;
    bed.store.forget(&[], hour, soon()).await.unwrap();
    let names = ["i-1", "i-2", "i-9", "'"].map(str::to_owned);
    bed.store.forget(&names, hour, soon()).await.unwrap();
    let mut left: Vec<String> =
        bed.store.hosts(soon()).await.unwrap().into_iter().map(|host| host.entry.instance).collect();
    left.sort();
    assert_eq!(left, ["i-2", "i-3"]);
    assert!(enter(&bed, "i-1").await.is_empty(), "what it was asked is forgotten too");
}

async fn a_host_is_asked_until_it_has_answered(bed: Bed) {
    // Whether or not it was seen before.
    ask(&bed, &["i-1", "i-2"], "t").await;
    for _ in 0..2 {
        assert_eq!(enter(&bed, "i-1").await, [request("t")]);
    }
    assert!(enter(&bed, "i-3").await.is_empty(), "only who is meant");
    let answer = Answer { freed: 3, pending: 1, trouble: Some("é".repeat(300)) };
    bed.store.answer("i-1", &request("t"), &answer, soon()).await.unwrap();
    assert!(enter(&bed, "i-1").await.is_empty());
    assert_eq!(answered(&bed, "i-1").await, Some(Answer { trouble: Some("é".repeat(255)), ..answer }));
    assert_eq!(answered(&bed, "i-2").await, None);
    assert_eq!(enter(&bed, "i-2").await, [request("t")], "one answer is not another's");
    ask(&bed, &["i-1"], "u").await;
    assert_eq!(answered(&bed, "i-1").await, None, "asked anew, it has not answered");
    assert_eq!(enter(&bed, "i-1").await, [request("u")]);
}

async fn what_was_asked_long_ago_or_will_be_is_not_asked(bed: Bed) {
    ask(&bed, &["i-1"], "t").await;
    for (seconds, is_asked) in [(60, true), (31, false), (3600, false)] {
        bed.exec(
            &format!("UPDATE recycle SET asked=asked-INTERVAL {seconds} SECOND"),
            &format!("UPDATE recycle SET asked=asked-{seconds}000"),
        )
        .await;
        assert_eq!(!enter(&bed, "i-1").await.is_empty(), is_asked, "{seconds} s more");
    }
    bed.exec("UPDATE recycle SET asked=NOW()+INTERVAL 1 HOUR", "UPDATE recycle SET asked=unixepoch()*1000+3600000")
        .await;
    assert!(enter(&bed, "i-1").await.is_empty(), "by a clock that was set back since");
}

async fn an_answer_to_what_was_asked_before_is_none(bed: Bed) {
    ask(&bed, &["i-1"], "old").await;
    ask(&bed, &["i-1"], "new").await;
    let answer = Answer { freed: 3, pending: 0, trouble: None };
    bed.store.answer("i-1", &request("old"), &answer, soon()).await.unwrap();
    assert_eq!(answered(&bed, "i-1").await, None);
    assert_eq!(enter(&bed, "i-1").await, [request("new")]);
}

async fn hosts_and_tokens_are_not_sql(bed: Bed) {
    let nasty = r#"it's "\ ` % 容器"#;
    enter(&bed, nasty).await;
    ask(&bed, &[nasty], nasty).await;
    assert_eq!(enter(&bed, nasty).await, [request(nasty)]);
    let answer = Answer { freed: 0, pending: 0, trouble: Some(nasty.to_owned()) };
    bed.store.answer(nasty, &request(nasty), &answer, soon()).await.unwrap();
    assert_eq!(answered(&bed, nasty).await, Some(answer));
}
