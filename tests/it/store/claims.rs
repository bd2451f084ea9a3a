//! Claims and grants: which rows are eligible, and that no row is taken twice.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use ec2_ipam::domain::address::{Event, NewRow, Row, State, Status};
use ec2_ipam::domain::id::Kind;
use ec2_ipam::store::{Choice, FreeClaim, WarmGrant};
use ipnet::Ipv4Net;

use super::bed::{Bed, eni, ip, new_row, on_all, soon, subnet, token};

on_all! {
    a_claim_takes_free_rows_for_its_eni
    what_is_taken_is_told_as_it_is_now
    a_claim_is_content_with_less_than_it_asked_for
    a_claim_keeps_to_its_subnet_and_sub_pool
    a_claim_leaves_what_is_cooling
    a_primary_address_is_never_taken
    a_grant_takes_the_coldest_warm_row_of_its_eni
    a_grant_leaves_what_is_cooling
    a_grant_leaves_exceptions_and_fixed_addresses
    a_grant_takes_the_address_that_it_names_first_if_it_may
    a_grant_keeps_to_its_sub_pool
    a_grant_to_an_endpoint_that_returns_is_the_address_it_had
    forty_claims_on_thirty_rows_take_each_once
    forty_grants_on_thirty_rows_take_each_once
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
    bed.warm(1, &[30, 31, 32], 100).await;
    bed.age(ip(31), 900).await;
    let (eni, subnet, sub_pool) = (eni(1), subnet(), "10.0.0.0/24".parse().unwrap());
    let ageless = |row: &Row| Row { idle: Duration::ZERO, claimed: None, ..row.clone() };
    for (count, sub_pool) in [(3, None), (2, Some(sub_pool))] {
        let claim = &token(Kind::On);
        let wanted = FreeClaim { subnet: &subnet, eni: &eni, sub_pool, cooldown: Duration::ZERO, count, claim };
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
    // By its key, by its age, and where more than its age decides.
    for (first, choice, ip) in [
        (Some(ip(30)), Choice::Cooled(Duration::from_secs(60)), ip(30)),
        (Some(ip(30)), Choice::Cooled(Duration::from_secs(60)), ip(31)),
        (None, Choice::Any, ip(32)),
    ] {
        let (except, claim, holder) = (&[][..], &token(Kind::Lease), Some("web"));
        let wanted = WarmGrant { eni: &eni, sub_pool: None, choice, first, except, claim, holder };
        let row = bed.store.grant_warm(&wanted, soon()).await.unwrap().unwrap();
        let read = bed.store.row(ip, soon()).await.unwrap().unwrap();
        assert_eq!((ageless(&row), row.claim.as_ref()), (ageless(&read), Some(claim)));
        assert!(row.idle >= Duration::from_secs(100) && row.claimed.is_some_and(|age| age < Duration::from_secs(60)));
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
    let wanted =
        FreeClaim { subnet: &other, eni: &eni, sub_pool: None, cooldown: Duration::ZERO, count: 1, claim: &claim };
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
    let rows = [
        NewRow { primary: true, ..new_row(ip(10), Status::Free) },
        NewRow { primary: true, iface: Some(eni(1)), ..new_row(ip(11), Status::Ready) },
    ];
    bed.store.insert_missing(&subnet(), &rows, soon()).await.unwrap();
    assert!(bed.claim_free(&bed.claim(1, Kind::On), 9, |_| ()).await.is_empty());
    let all = Some("10.0.0.0/8".parse().unwrap());
    assert!(bed.claim_free(&bed.claim(1, Kind::On), 9, |w| w.sub_pool = all).await.is_empty());
    assert_eq!(bed.grant(|_| ()).await, None);
    assert_eq!(bed.grant(|w| w.sub_pool = all).await, None);
}

async fn a_grant_takes_the_coldest_warm_row_of_its_eni(bed: Bed) {
    bed.free(1..=1).await;
    bed.warm(1, &[10, 11, 12], 100).await;
    bed.warm(2, &[20], 9000).await;
    bed.age(ip(11), 500).await;
    let (eni, claim) = (eni(1), bed.claim(1, Kind::Lease));
    let wanted = WarmGrant {
        eni: &eni,
        sub_pool: None,
        choice: Choice::Any,
        first: None,
        except: &[],
        claim: &claim,
        holder: Some("web"),
    };
    assert_eq!(bed.store.grant_warm(&wanted, soon()).await.unwrap().unwrap().ip, ip(11));
    let row = bed.row(11).await;
    assert_eq!((row.state(), row.claim, row.holder.as_deref()), (State::Lease, Some(claim.clone()), Some("web")));
    assert!(row.idle >= Duration::from_secs(500) && row.claimed.is_some());
    for _ in 0..2 {
        assert!(bed.grant(|_| ()).await.is_some());
    }
    assert_eq!(bed.grant(|_| ()).await, None);
}

async fn a_grant_leaves_what_is_cooling(bed: Bed) {
    bed.warm(1, &[10], 590).await;
    let cooldown = Duration::from_secs(600);
    assert_eq!(bed.grant(|w| w.choice = Choice::Cooled(cooldown)).await, None);
    assert!(!bed.row(10).await.has_cooled(cooldown));
    bed.age(ip(10), 602).await;
    assert!(bed.row(10).await.has_cooled(cooldown));
    assert_eq!(bed.grant(|w| w.choice = Choice::Cooled(cooldown)).await, Some(ip(10)));
    assert!(bed.event(10, Event::Release).await);
    assert_eq!(bed.grant(|w| w.choice = Choice::Cooled(cooldown)).await, None);
    assert_eq!(bed.grant(|_| ()).await, Some(ip(10)));
}

async fn a_grant_takes_the_address_that_it_names_first_if_it_may(bed: Bed) {
    bed.warm(1, &[10, 11, 12, 13], 100).await;
    bed.warm(2, &[20], 100).await;
    bed.age(ip(10), 900).await;
    bed.age(ip(13), 1).await;
    let grant =
        async |first| bed.grant(|w| (w.first, w.choice) = (Some(first), Choice::Cooled(Duration::from_secs(60)))).await;
    assert_eq!(grant(ip(12)).await, Some(ip(12)));
    assert_eq!(bed.row(12).await.state(), State::Lease);
    // In use by now, still cooling, another interface's, without a row: then it is the coldest.
    assert_eq!(grant(ip(12)).await, Some(ip(10)));
    assert_eq!(grant(ip(13)).await, Some(ip(11)));
    assert_eq!(grant(ip(20)).await, None);
    assert_eq!(grant(ip(99)).await, None);
    // Outside the block, or not wanted.
    let range = Some("10.0.0.12/31".parse().unwrap());
    bed.warm(1, &[14], 900).await;
    assert_eq!(bed.grant(|w| (w.first, w.sub_pool) = (Some(ip(14)), range)).await, Some(ip(13)));
    let except: &'static [_] = vec![ip(14)].leak();
    assert_eq!(bed.grant(|w| (w.first, w.except) = (Some(ip(14)), except)).await, None);
}

async fn a_grant_leaves_exceptions_and_fixed_addresses(bed: Bed) {
    bed.warm(1, &[10, 11, 12], 100).await;
    bed.age(ip(10), 300).await;
    bed.age(ip(11), 200).await;
    bed.exec(
        "UPDATE allocation SET ts=ts,holder='fixed:db' WHERE ip='10.0.0.11'",
        "UPDATE allocation SET holder='fixed:db' WHERE ip='10.0.0.11'",
    )
    .await;
    let except: &'static [_] = vec![ip(10)].leak();
    let cooled = Choice::Cooled(Duration::ZERO);
    assert_eq!(bed.grant(|w| (w.except, w.choice) = (except, cooled)).await, Some(ip(12)));
    assert_eq!(bed.grant(|w| (w.except, w.choice) = (except, cooled)).await, None);
    assert_eq!(bed.grant(|w| w.except = except).await, Some(ip(11)));
    assert_eq!(bed.grant(|w| w.choice = cooled).await, Some(ip(10)));
}

async fn a_grant_to_an_endpoint_that_returns_is_the_address_it_had(bed: Bed) {
    bed.warm(1, &[10, 11, 12], 100).await;
    bed.exec(
        "UPDATE allocation SET ts=NOW(),holder='it''s' WHERE ip='10.0.0.11'",
        "UPDATE allocation SET ts=unixepoch(),holder='it''s' WHERE ip='10.0.0.11'",
    )
    .await;
    for other in ["It's", "it's ", "its"] {
        assert_eq!(bed.grant(|w| (w.choice, w.holder) = (Choice::Returning, Some(other))).await, None, "{other}");
    }
    assert_eq!(bed.grant(|w| (w.choice, w.holder) = (Choice::Returning, Some("it's"))).await, Some(ip(11)));
    assert_eq!(bed.grant(|w| (w.choice, w.holder) = (Choice::Returning, Some("it's"))).await, None);
}

async fn a_grant_keeps_to_its_sub_pool(bed: Bed) {
    bed.warm(1, &[9, 100, 11, 10], 100).await;
    bed.age(ip(100), 900).await;
    bed.age(ip(10), 500).await;
    let net: Ipv4Net = "10.0.0.8/30".parse().unwrap();
    assert_eq!(bed.grant(|w| w.sub_pool = Some(net)).await, Some(ip(10)));
    for _ in 0..2 {
        assert!(bed.grant(|w| w.sub_pool = Some(net)).await.is_some_and(|ip| net.contains(&ip)));
    }
    assert_eq!(bed.grant(|w| w.sub_pool = Some(net)).await, None);
    assert_eq!(bed.grant(|_| ()).await, Some(ip(100)));
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

async fn forty_grants_on_thirty_rows_take_each_once(bed: Bed) {
    bed.warm(1, &(1..=30).collect::<Vec<_>>(), 100).await;
    let bed = Arc::new(bed);
    let grants: Vec<_> = (0..40)
        .map(|_| {
            let bed = Arc::clone(&bed);
            tokio::spawn(async move { bed.grant(|_| ()).await })
        })
        .collect();
    let (mut taken, mut refused) = (HashSet::new(), 0);
    for grant in grants {
        match grant.await.unwrap() {
            None => refused += 1,
            Some(ip) => assert!(taken.insert(ip), "{ip} twice"),
        }
    }
    assert_eq!((taken.len(), refused), (30, 10));
}
