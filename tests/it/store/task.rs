//! Jobs that one host does at a time.

use std::sync::Arc;
use std::time::Duration;

use super::bed::{Bed, on_all, soon};

const LONG: Duration = Duration::from_secs(600);

on_all! {
    a_task_has_one_holder_who_may_renew_it
    a_lapsed_task_goes_to_the_next
    of_twenty_hosts_at_once_one_gets_the_task
    a_tasks_names_are_not_sql
}

async fn hold(bed: &Bed, name: &str, holder: &str, span: Duration) -> bool {
    bed.store.hold_task(name, holder, span, soon()).await.unwrap()
}

/// As if so many seconds had passed.
async fn later(bed: &Bed, seconds: u32) {
    bed.exec(
        &format!("UPDATE task SET `until`=`until`-INTERVAL {seconds} SECOND"),
        &format!("UPDATE task SET until=until-{seconds}"),
    )
    .await;
}

async fn a_task_has_one_holder_who_may_renew_it(bed: Bed) {
    assert!(hold(&bed, "scan", "a", LONG).await);
    assert!(!hold(&bed, "scan", "b", LONG).await);
    assert!(hold(&bed, "other", "b", LONG).await, "each task is one by itself");
    later(&bed, 500).await;
    assert!(hold(&bed, "scan", "a", LONG).await);
    later(&bed, 500).await;
    assert!(!hold(&bed, "scan", "b", LONG).await, "renewed from then on");
    // A row that somebody emptied belongs to nobody.
    let empty = "UPDATE task SET holder=NULL WHERE name='scan'";
    bed.exec(empty, empty).await;
    assert!(hold(&bed, "scan", "b", LONG).await);
    assert!(!hold(&bed, "scan", "a", LONG).await);
}

async fn a_lapsed_task_goes_to_the_next(bed: Bed) {
    assert!(hold(&bed, "scan", "a", Duration::from_millis(599_001)).await);
    later(&bed, 590).await;
    assert!(!hold(&bed, "scan", "b", LONG).await);
    later(&bed, 12).await;
    assert!(hold(&bed, "scan", "b", LONG).await);
    assert!(!hold(&bed, "scan", "a", LONG).await, "no longer its own");
    // Longer than any clock counts is held all the same; nothing at all is let go.
    assert!(hold(&bed, "scan", "b", Duration::MAX).await);
    assert!(!hold(&bed, "scan", "a", LONG).await);
    assert!(hold(&bed, "scan", "b", Duration::ZERO).await);
    later(&bed, 1).await;
    assert!(hold(&bed, "scan", "a", LONG).await);
}

async fn of_twenty_hosts_at_once_one_gets_the_task(bed: Bed) {
    let stores: Vec<_> = bed.hosts(20).await.into_iter().map(Arc::new).collect();
    // First while there is no row, then while there is a lapsed one.
    for _ in 0..2 {
        let hosts: Vec<_> = stores
            .iter()
            .enumerate()
            .map(|(n, store)| {
                let (store, name) = (Arc::clone(store), format!("host-{n}"));
                tokio::spawn(async move { store.hold_task("scan", &name, LONG, soon()).await.unwrap() })
            })
            .collect();
        let mut holders = 0;
        for host in hosts {
            holders += usize::from(host.await.unwrap());
        }
        assert_eq!(holders, 1, "a job that one host does at a time has two holders, or none");
        later(&bed, 1000).await;
    }
}

async fn a_tasks_names_are_not_sql(bed: Bed) {
    let nasty = r#"it's "\ ` % 容器"#;
    assert!(hold(&bed, nasty, nasty, LONG).await);
    assert!(hold(&bed, nasty, nasty, LONG).await);
    assert!(!hold(&bed, nasty, "b", LONG).await);
}
