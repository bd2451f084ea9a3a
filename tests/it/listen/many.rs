//! Many connections of one client's address.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;
use tokio::io::AsyncReadExt;

use super::{AT, Bed, ME, ask};
use crate::support::host::request;

#[tokio::test]
async fn of_one_peer_sixteen_are_served_at_once_and_its_others_wait() {
    let bed = Bed::started("http://127.0.0.1:8031").await;
    let mut wires = Vec::new();
    for _ in 0..20 {
        let mut wire = bed.tcp().await;
        wire.send(&request("/Plugin.Activate", "")).await;
        wires.push(wire);
    }
    let begun = Instant::now();
    // Another one does not wait for them.
    let mut other = bed.host.wire(bed.host.connect_tcp("127.0.0.2", AT).await);
    assert_eq!(ask(&mut other, "/Plugin.Activate", "").await.status, 200);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    // All are answered: those that were quiet for a while go for those that wait.
    let answers = join_all(wires.iter_mut().map(async |wire| (wire.answer().await, begun.elapsed()))).await;
    assert!(answers.iter().all(|(answer, _)| answer.as_ref().is_some_and(|answer| answer.status == 200)));
    let late = answers.iter().filter(|(_, took)| *took > Duration::from_secs(1)).count();
    assert!(late >= 4, "{answers:?}");
    let ended = join_all(wires.iter_mut().map(async |wire| {
        let end = tokio::time::timeout(Duration::from_secs(1), wire.stream.read(&mut [0])).await;
        matches!(end, Ok(Ok(0)))
    }));
    let ended = ended.await.into_iter().filter(|has_ended| *has_ended).count();
    assert!((4..=8).contains(&ended), "{ended} went for 4");
    let log = bed.host.log();
    assert!(log.contains("16 connections from 127.0.0.1 at once, the most that there may be"), "{log}");
    assert!(!log.contains("from 127.0.0.2 at once"), "{log}");
}

#[tokio::test]
async fn an_engine_that_stops_many_containers_at_once_has_all_of_its_calls_answered() {
    let bed = Bed::started("http://127.0.0.1:8031").await;
    let pool = bed.host.pool().await;
    let release = async |n: usize| {
        let body = json!({ "PoolID": pool, "Address": format!("10.99.0.{}", n % 256) });
        let mut wire = bed.host.wire(bed.host.connect_tcp(ME, AT).await);
        let path = if n.is_multiple_of(4) { "/Plugin.Activate" } else { "/IpamDriver.ReleaseAddress" };
        wire.send(&request(path, &format!("{body}\n"))).await;
        wire.answer().await.map(|answer| answer.status)
    };
    let answers = join_all((0..400).map(release)).await;
    assert!(answers.iter().all(|status| *status == Some(200)), "{answers:?}");
}

#[tokio::test]
async fn a_flood_of_one_peer_costs_no_other_a_connection() {
    let mut bed = Bed::new("http://127.0.0.1:8031").await;
    // Room for 256 over TCP.
    bed.host.within = vec!["prlimit".into(), "--nofile=1024:1024".into()];
    bed.host.start().await;
    let mut kept = Vec::new();
    for n in 0..60 {
        let mut wire = bed.host.wire(bed.host.connect_tcp(&format!("127.0.1.{}", n / 6), AT).await);
        assert_eq!(ask(&mut wire, "/Plugin.Activate", "").await.status, 200);
        kept.push(wire);
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut flood = Vec::new();
    for _ in 0..300 {
        flood.push(bed.host.connect_tcp(ME, AT).await);
    }
    let mut other = bed.host.wire(bed.host.connect_tcp("127.0.0.2", AT).await);
    assert_eq!(ask(&mut other, "/Plugin.Activate", "").await.status, 200);
    for wire in &mut kept {
        assert_eq!(ask(wire, "/Plugin.Activate", "").await.status, 200);
    }
    assert!(bed.host.log().contains("256 connections over TCP at once"), "{}", bed.host.log());
}
