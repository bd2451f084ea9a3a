//! Interfaces that a server serves no more: deleted, moved, detached, or of a host that got a driver. All of that is usual.

use super::*;

#[tokio::test]
async fn what_left_is_told_once_and_is_no_problem() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (mut server, deleted, moved) = (fleet.host(1), fleet.host(2), fleet.host(3));
    let mut driven = fleet.host(4);
    server.set(&SERVER);
    server.set(&[("EC2_IPAM_RECONCILE_INTERVAL", "1s")]);
    server.start().await;
    for host in [&deleted, &moved, &driven] {
        pool_of(&server, host).await.unwrap();
    }
    fleet.vpc.remove_eni(&deleted.eni);
    fleet.vpc.move_eni(&moved.eni, &deleted.instance, 2);
    fleet.vpc.settle();
    driven.set(&SERVER[1..]);
    driven.start().await;
    driven.pool().await;
    let told = |host: &Host, why: &str| {
        let log = server.log();
        log.lines().filter(|line| line.contains(&host.eni) && line.contains(why)).count()
    };
    eventually("all of them are told", async || {
        server.tell(&["reconcile"]).await;
        let gone = told(&deleted, "is served here no more, as EC2 does not know it any more");
        let elsewhere = format!("as it is attached to {} and not to {} any more", deleted.instance, moved.instance);
        let given_away = told(&driven, &format!("as {} has a driver of its own", driven.instance));
        gone > 0 && told(&moved, &elsewhere) > 0 && given_away > 0
    })
    .await;
    let (is_well, status) = server.ask(&["status"]).await;
    assert!(is_well && !status.contains("PROBLEM"), "{status}");
    let (_, doctor) = server.ask(&["doctor"]).await;
    assert!(doctor.contains("ok    agreement"), "{doctor}");
    assert!(!server.log().contains("attach it to this instance"), "{}", server.log());
    // The one that moved is the new instance's, though nobody asks for it.
    eventually("it is served for its new instance", async || {
        server.tell(&["status"]).await.contains(&format!("interface {} of {}", moved.eni, deleted.instance))
    })
    .await;
    assert_eq!(told(&deleted, "is served here no more"), 1, "{}", server.log());
}

/// What is idle on it goes back again, though nobody asks for an address.
#[tokio::test]
async fn what_is_back_is_taken_up_by_itself() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (mut server, detached, mut driven) = (fleet.host(1), fleet.host(2), fleet.host(3));
    server.set(&SERVER);
    server.set(&[("EC2_IPAM_RECONCILE_INTERVAL", "1s")]);
    server.start().await;
    for host in [&detached, &driven] {
        pool_of(&server, host).await.unwrap();
    }
    fleet.vpc.detach_eni(&detached.eni);
    fleet.vpc.settle();
    driven.set(&SERVER[1..]);
    driven.start().await;
    driven.pool().await;
    let serves = async |host: &Host| {
        server.tell(&["status"]).await.contains(&format!("interface {} of {}", host.eni, host.instance))
    };
    eventually("neither is served", async || {
        server.tell(&["reconcile"]).await;
        !serves(&detached).await && !serves(&driven).await
    })
    .await;
    // As long after it as no server looks for what another one has left.
    server.sql("UPDATE task SET until=NOW()-INTERVAL 2 HOUR WHERE name LIKE 'eni:%'", "").await;
    assert!(driven.stop().await.success());
    server.sql("UPDATE host SET seen=seen-INTERVAL 1 HOUR", "").await;
    fleet.vpc.attach_eni(&detached.eni, &detached.instance, 1);
    fleet.vpc.settle();
    eventually("both are served", async || serves(&detached).await && serves(&driven).await).await;
}
