//! Claims: which rows are eligible, and that no row is taken twice.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use ec2_ipam::domain::address::{NewRow, Row, State, Status};
use ec2_ipam::domain::id::Kind;
use ec2_ipam::store::FreeClaim;
use ipnet::Ipv4Net;

use super::bed::{Bed, eni, ip, new_row, on_all, soon, subnet, token};

on_all! {
    a_claim_takes_free_rows_for_its_eni
    what_is_taken_is_told_as_it_is_now
    a_claim_is_content_with_less_than_it_asked_for
    a_claim_keeps_to_its_subnet_and_sub_pool
    a_claim_leaves_what_is_cooling
    a_primary_address_is_never_taken
    forty_claims_on_thirty_rows_take_each_once
}

async fn a_claim_takes_free_rows_for_its_eni(bed: Bed) {
    bed.free(10..=20).await;
    let claim = bed.claim(1, Kind::On);
    assert!(bed.claim_free(&claim, 0, |_| ()).await.is_empty());
    let taken = bed.claim_free(&claim, 3, |_| ()).await;
    assert_eq!(taken.len(), 3);
    for row in bed.store.rows_at(&taken, soon()).await.unwrap() {
        assert_eq!(
            (row.state(), row.iface, row.claim, row.holder),
            (State::On, Some(eni(1)), Some(claim.clone()), None)
        );
        assert!(row.claimed.is_some());
    }
}

async fn what_is_taken_is_told_as_it_is_now(bed: Bed) {
    bed.free(10..=20).await;
    let (eni, subnet, sub_pool) = (eni(1), subnet(), "10.0.0.0/24".parse().unwrap());
    let ageless = |row: &Row| Row { idle: Duration::ZERO, claimed: None, ..row.clone() };
    for (count, sub_pool) in [(3, None), (2, Some(sub_pool))] {
        let claim = &token(Kind::On);
        let wanted =
            FreeClaim { subnet: &subnet, eni: &eni, sub_pool, cooldown: Duration::ZERO, except: &[], count, claim };
        let mut taken = bed.store.claim_free(&wanted, soon()).await.unwrap();
        taken.sort_unstable_by_key(|row| row.ip);
        let ips: Vec<_> = taken.iter().map(|row| row.ip).collect();
        let rows = bed.store.rows_at(&ips, soon()).await.unwrap();
        assert_eq!(
            (taken.len(), rows.iter().map(ageless).collect()),
            (count, taken.iter().map(ageless).collect::<Vec<_>>())
        );
        assert!(taken.iter().all(|row| row.claim.as_ref() == Some(claim) && row.idle >= Duration::from_secs(86_400)));
        assert!(taken.iter().all(|row| row.claimed.is_some_and(|age| age < Duration::from_secs(60))));
    }
}

async fn a_claim_is_content_with_less_than_it_asked_for(bed: Bed) {
    bed.free(10..=12).await;
    assert_eq!(bed.claim_free(&bed.claim(1, Kind::On), 8, |_| ()).await, [ip(10), ip(11), ip(12)]);
    assert!(bed.claim_free(&bed.claim(2, Kind::On), 8, |_| ()).await.is_empty());
}

async fn a_claim_keeps_to_its_subnet_and_sub_pool(bed: Bed) {
    bed.free(1..=120).await;
    // As texts, 10.0.0.9 lies behind 10.0.0.100.
    let net: Ipv4Net = "10.0.0.8/30".parse().unwrap();
    assert_eq!(bed.claim_free(&bed.claim(1, Kind::On), 2, |w| w.sub_pool = Some(net)).await.len(), 2);
    let rest = bed.claim_free(&bed.claim(2, Kind::On), 90, |w| w.sub_pool = Some(net)).await;
    assert_eq!(rest.len(), 2);
    assert!(bed.claim_free(&bed.claim(3, Kind::On), 1, |w| w.sub_pool = Some(net)).await.is_empty());
    let rows = bed.store.rows_of_eni(&eni(1), soon()).await.unwrap();
    assert!(rows.iter().all(|row| net.contains(&row.ip)) && rows.len() == 4);
    let (claim, eni, other) = (bed.claim(4, Kind::On), eni(1), "subnet-ffffffffffffffff0".parse().unwrap());
    let wanted = FreeClaim {
        subnet: &other,
        eni: &eni,
        sub_pool: None,
        cooldown: Duration::ZERO,
        except: &[],
        count: 1,
        claim: &claim,
    };
    assert!(bed.store.claim_free(&wanted, soon()).await.unwrap().is_empty());
}

async fn a_claim_leaves_what_is_cooling(bed: Bed) {
    bed.free(10..=12).await;
    let cooldown = Duration::from_secs(600);
    bed.age(ip(10), 590).await;
    // `ts` counts whole seconds, so a second more is asked for: 600 may be 599.1.
    bed.age(ip(11), 602).await;
    bed.exec(
        "UPDATE allocation SET ts=NOW()+INTERVAL 1 DAY WHERE ip='10.0.0.12'",
        "UPDATE allocation SET ts=unixepoch()+86400 WHERE ip='10.0.0.12'",
    )
    .await;
    assert_eq!(bed.claim_free(&bed.claim(1, Kind::On), 9, |w| w.cooldown = cooldown).await, [ip(11)]);
    assert_eq!(bed.claim_free(&bed.claim(2, Kind::On), 9, |_| ()).await, [ip(10), ip(12)]);
    // However long, it does not outlast the age of a fresh table.
    bed.free(50..=50).await;
    assert_eq!(bed.claim_free(&bed.claim(3, Kind::On), 9, |w| w.cooldown = Duration::MAX).await, [ip(50)]);
}

async fn a_primary_address_is_never_taken(bed: Bed) {
    let row = NewRow { primary: true, ..new_row(ip(10), Status::Free) };
    bed.store.insert_missing(&subnet(), &[row], soon()).await.unwrap();
    assert!(bed.claim_free(&bed.claim(1, Kind::On), 9, |_| ()).await.is_empty());
    let all = Some("10.0.0.0/8".parse().unwrap());
    assert!(bed.claim_free(&bed.claim(1, Kind::On), 9, |w| w.sub_pool = all).await.is_empty());
}

async fn forty_claims_on_thirty_rows_take_each_once(bed: Bed) {
    bed.free(1..=30).await;
    let bed = Arc::new(bed);
    let claims: Vec<_> = (0..40)
        .map(|n| {
            let bed = Arc::clone(&bed);
            let sub_pool = (n % 2 == 0).then(|| "10.0.0.0/24".parse().unwrap());
            tokio::spawn(async move { bed.claim_free(&token(Kind::On), 1, |w| w.sub_pool = sub_pool).await })
        })
        .collect();
    let (mut taken, mut refused) = (HashSet::new(), 0);
    for claim in claims {
        match claim.await.unwrap().as_slice() {
            [] => refused += 1,
            [ip] => assert!(taken.insert(*ip), "{ip} twice"),
            more => panic!("{more:?}"),
        }
    }
    assert_eq!((taken.len(), refused), (30, 10));
}
