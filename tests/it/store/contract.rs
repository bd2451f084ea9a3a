//! What every store promises, call by call.

use std::time::Duration;

use ec2_ipam::domain::address::{Change, Event, Guard, Holder, NewRow, Row, State, Status, Target};
use ec2_ipam::domain::id::{Claim, Kind};
use ec2_ipam::store::Count;

use super::bed::{Bed, eni, ip, new_row, on_all, soon, subnet, told};

on_all! {
    it_describes_itself
    rows_come_back_in_order
    rows_are_inserted_once_and_counted
    a_halfway_init_is_completed
    another_subnets_address_refuses_the_whole_init
    the_states_are_counted
    a_look_now_and_then_counts_what_is_taken
    a_change_needs_its_row_as_it_was
    null_equals_null_in_a_guard
    a_change_makes_of_its_row_what_it_says
    changes_of_one_call_report_each_for_itself
    only_letting_go_moves_ts
    a_holder_is_kept_cleared_or_set
    ages_are_whole_seconds_and_never_negative
    texts_are_not_sql
    a_row_that_is_no_row_is_left_out_and_named
    a_whole_16_is_inserted_in_chunks
}

async fn it_describes_itself(bed: Bed) {
    let description = bed.store.describe(soon()).await.unwrap();
    assert!(description.lacking.is_empty(), "{description:?}");
    assert!(!description.version.is_empty() && !format!("{description:?}").contains("p@ss"));
    assert_eq!(description.kind == "sqlite", bed.store.is_private());
}

async fn rows_come_back_in_order(bed: Bed) {
    bed.free(9..=11).await;
    bed.warm(1, &[30, 4, 200], 100).await;
    bed.age(ip(200), 500).await;
    let store = &bed.store;
    let of = |rows: Vec<Row>| rows.iter().map(|row| row.ip.octets()[3]).collect::<Vec<_>>();
    assert_eq!(of(store.rows_of_subnet(&subnet(), soon()).await.unwrap()), [4, 9, 10, 11, 30, 200]);
    let mine = store.rows_of_eni(&eni(1), soon()).await.unwrap();
    assert!(mine[0].idle >= Duration::from_secs(500) && mine[2].idle < Duration::from_secs(400));
    assert_eq!(of(mine)[0], 200);
    assert_eq!(of(store.rows_at(&[ip(30), ip(99), ip(9), ip(30)], soon()).await.unwrap()), [9, 30]);
    assert!(store.rows_at(&[], soon()).await.unwrap().is_empty());
    assert_eq!(store.row(ip(99), soon()).await.unwrap(), None);
    assert!(store.rows_of_eni(&eni(2), soon()).await.unwrap().is_empty());
}

async fn rows_are_inserted_once_and_counted(bed: Bed) {
    let rows = [
        NewRow { holder: Some("AWS".into()), ..new_row(ip(0), Status::Reserved) },
        NewRow { iface: Some(eni(1)), primary: true, ..new_row(ip(10), Status::Occupied) },
        new_row(ip(11), Status::Free),
    ];
    assert_eq!(bed.store.insert_missing(&subnet(), &rows, soon()).await, Ok(3));
    assert_eq!(bed.store.insert_missing(&subnet(), &rows, soon()).await, Ok(0));
    assert_eq!(bed.store.insert_missing(&subnet(), &[], soon()).await, Ok(0));
    let row = bed.row(10).await;
    assert_eq!((row.state(), row.primary, row.iface), (State::Foreign, true, Some(eni(1))));
    assert_eq!(bed.row(0).await.holder.as_deref(), Some("AWS"));
    // Let go long ago: it neither cools nor looks hot.
    assert!(bed.row(11).await.idle > Duration::from_secs(20 * 365 * 86_400));
}

async fn a_halfway_init_is_completed(bed: Bed) {
    bed.free(20..=40).await;
    bed.event(30, Event::Reserve { holder: Some("me".into()) }).await;
    let rows: Vec<_> = (10..=60).map(|n| new_row(ip(n), Status::Free)).collect();
    assert_eq!(bed.store.insert_missing(&subnet(), &rows, soon()).await, Ok(30));
    assert_eq!(bed.row(30).await.state(), State::Reserved);
}

async fn another_subnets_address_refuses_the_whole_init(bed: Bed) {
    bed.free(200..=200).await;
    let other = "subnet-ffffffffffffffff0".parse().unwrap();
    let rows: Vec<_> = (1..=200).map(|n| new_row(ip(n), Status::Free)).collect();
    let refused = bed.store.insert_missing(&other, &rows, soon()).await.unwrap_err().to_string();
    assert!(refused.contains("10.0.0.200") && refused.contains("subnet-0123456789abcdef0"), "{refused}");
    assert!(refused.contains("subnet-ffffffffffffffff0"), "{refused}");
    assert!(bed.store.rows_of_subnet(&other, soon()).await.unwrap().is_empty());
}

async fn the_states_are_counted(bed: Bed) {
    bed.free(10..=14).await;
    bed.warm(1, &[20, 21], 10).await;
    bed.claim_free(&bed.claim(1, Kind::On), 2, |_| ()).await;
    bed.lease(20, bed.claim(2, Kind::Lease)).await;
    bed.exec(
        "UPDATE allocation SET status='occupied' WHERE ip='10.0.0.21' OR ip='10.0.0.20'",
        "UPDATE allocation SET status='occupied' WHERE ip='10.0.0.21' OR ip='10.0.0.20'",
    )
    .await;
    let census = bed.store.census(&subnet(), soon()).await.unwrap();
    let counts: Vec<_> = census.iter().map(|c| (c.state, c.iface.clone(), c.rows)).collect();
    let expected = [
        (State::Free, None, 3),
        (State::On, Some(eni(1)), 2),
        (State::Lease, Some(eni(1)), 1),
        (State::Foreign, Some(eni(1)), 1),
    ];
    assert_eq!(counts, expected);
}

async fn a_change_needs_its_row_as_it_was(bed: Bed) {
    bed.free(10..=10).await;
    let stale = bed.row(10).await;
    assert!(bed.event(10, Event::Claim { eni: eni(1), claim: bed.claim(1, Kind::On), in_block: false }).await);
    let late = stale.on(Event::Claim { eni: eni(2), claim: bed.claim(2, Kind::On), in_block: false }).unwrap();
    assert_eq!(bed.apply(&[late]).await, [false]);
    let row = bed.row(10).await;
    assert_eq!(
        (row.state(), row.iface.clone(), row.claim.clone()),
        (State::On, Some(eni(1)), Some(bed.claim(1, Kind::On)))
    );
    assert!(row.claimed.is_some());
    // Each part of the guard counts by itself.
    let right = row.on(told(None, row.idle)).unwrap();
    for wrong in [
        Guard { status: Status::Ready, ..right.from.clone() },
        Guard { iface: Some(eni(2)), ..right.from.clone() },
        Guard { iface: None, ..right.from.clone() },
        Guard { claim: None, ..right.from.clone() },
        Guard { claim: Some(bed.claim(9, Kind::On)), ..right.from.clone() },
        Guard { holder: Some("web".to_owned()), ..right.from.clone() },
        Guard { in_block: true, ..right.from.clone() },
    ] {
        assert_eq!(bed.apply(&[Change { from: wrong, ..right.clone() }]).await, [false]);
    }
    assert_eq!(bed.apply(&[right]).await, [true]);
    assert_eq!((bed.row(10).await.state(), bed.row(10).await.claimed), (State::Ready, None));
    assert!(bed.apply(&[]).await.is_empty());
}

async fn null_equals_null_in_a_guard(bed: Bed) {
    bed.free(10..=10).await;
    // Found, although nothing about the row changes: a guarded no-op is not "somebody moved".
    let to =
        Target { status: Status::Free, iface: None, claim: None, holder: Holder::Keep, primary: None, in_block: false };
    let from = Guard { status: Status::Free, iface: None, claim: None, holder: None, in_block: false };
    assert_eq!(bed.apply(&[Change { ip: ip(10), from, to, let_go: None }]).await, [true]);
}

async fn a_change_makes_of_its_row_what_it_says(bed: Bed) {
    bed.free(10..=10).await;
    bed.age(ip(10), 1000).await;
    let (n, minute) = (eni(1), Duration::from_secs(60));
    for event in [
        Event::Claim { eni: n.clone(), claim: bed.claim(1, Kind::On), in_block: false },
        told(None, Duration::from_secs(1000)),
        told(Some(bed.claim(2, Kind::Lease)), Duration::from_secs(1000)),
        told(None, minute),
        told(Some(bed.claim(3, Kind::Lease)), minute),
        told(None, Duration::ZERO),
        Event::GiveUp { claim: bed.claim(4, Kind::Off) },
        Event::Gone,
        Event::Foreign { eni: Some(n), primary: true, in_block: false },
        Event::EniGone,
        Event::Claim { eni: eni(2), claim: bed.claim(6, Kind::On), in_block: true },
        told(None, Duration::ZERO),
        Event::GiveUp { claim: bed.claim(7, Kind::Off) },
        Event::Gone,
        Event::Reserve { holder: Some("db".into()) },
        Event::Claim { eni: eni(2), claim: bed.claim(5, Kind::On), in_block: false },
    ] {
        let row = bed.row(10).await;
        let change = row.on(event.clone()).unwrap();
        let after = change.after(&row);
        assert_eq!(bed.apply(std::slice::from_ref(&change)).await, [true]);
        let read = bed.row(10).await;
        // Both were measured, the second a little later.
        let close = |ages: [Duration; 2]| ages[1] - ages[0] < Duration::from_secs(60);
        assert!(close([after.idle, read.idle]), "{event:?}: {after:?}, {read:?}");
        assert!(after.claimed.zip(read.claimed).is_none_or(|(then, now)| close([then, now])), "{event:?}");
        let claimed = after.claimed.and(read.claimed);
        assert_eq!(Row { idle: read.idle, claimed, ..after }, read, "{event:?}");
    }
}

async fn changes_of_one_call_report_each_for_itself(bed: Bed) {
    bed.free(10..=13).await;
    let mut changes = Vec::new();
    for last in [13, 10, 12, 11] {
        changes.push(bed.row(last).await.on(Event::Reserve { holder: None }).unwrap());
    }
    assert!(bed.event(12, Event::Reserve { holder: Some("first".into()) }).await);
    assert_eq!(bed.apply(&changes).await, [true, true, false, true]);
    assert_eq!(bed.row(12).await.holder.as_deref(), Some("first"));
    // More than fit a packet.
    let rows: Vec<_> = (0..1200_u32).map(|n| new_row((0x0a01_0000 + n).into(), Status::Free)).collect();
    bed.store.insert_missing(&subnet(), &rows, soon()).await.unwrap();
    let rows = bed.store.rows_of_subnet(&subnet(), soon()).await.unwrap();
    let reserve = |row: &Row| row.on(Event::Reserve { holder: None }).ok();
    let many: Vec<_> = rows.iter().rev().filter_map(reserve).collect();
    let found = bed.apply(&many).await;
    assert_eq!((found.len(), found.iter().all(|f| *f)), (1200, true));
}

async fn only_letting_go_moves_ts(bed: Bed) {
    bed.free(10..=10).await;
    bed.age(ip(10), 1000).await;
    let (on, lease, off) = (bed.claim(1, Kind::On), bed.claim(2, Kind::Lease), bed.claim(3, Kind::Off));
    let old = |row: Row| row.idle >= Duration::from_secs(1000);
    assert_eq!(bed.claim_free(&on, 1, |_| ()).await, [ip(10)]);
    assert!(old(bed.row(10).await));
    bed.lease(10, lease).await;
    assert!(old(bed.row(10).await));
    assert!(bed.event(10, told(None, Duration::from_secs(500))).await);
    assert!((500..900).contains(&bed.row(10).await.idle.as_secs()), "as long ago as it is told");
    assert!(bed.event(10, Event::GiveUp { claim: off }).await);
    assert!(bed.event(10, Event::Gone).await);
    assert!((500..900).contains(&bed.row(10).await.idle.as_secs()));
    assert!(bed.event(10, Event::Foreign { eni: Some(eni(7)), primary: false, in_block: false }).await);
    assert!(bed.event(10, Event::Gone).await);
    assert!(bed.row(10).await.idle < Duration::from_secs(400));
}

async fn a_holder_is_kept_cleared_or_set(bed: Bed) {
    bed.warm(1, &[10], 10).await;
    let (lease, off) = (bed.claim(1, Kind::Lease), bed.claim(2, Kind::Off));
    let long = "é".repeat(300);
    let follow = |lease, holder| Event::Follow { lease, holder, idle: Duration::ZERO };
    assert!(bed.event(10, follow(Some(lease), Some(long))).await);
    assert_eq!(bed.row(10).await.holder, Some("é".repeat(255)));
    assert!(bed.event(10, follow(None, None)).await);
    assert_eq!(bed.row(10).await.holder, None);
    assert!(bed.event(10, follow(None, Some("web".into()))).await);
    assert!(bed.event(10, Event::GiveUp { claim: off }).await);
    assert_eq!(bed.row(10).await.holder.as_deref(), Some("web"));
    assert!(bed.event(10, Event::Gone).await);
    assert_eq!((bed.row(10).await.holder, bed.row(10).await.iface), (None, None));
    assert!(bed.event(10, Event::Foreign { eni: Some(eni(7)), primary: true, in_block: false }).await);
    assert!(bed.row(10).await.primary);
}

async fn ages_are_whole_seconds_and_never_negative(bed: Bed) {
    bed.free(10..=10).await;
    bed.claim_free(&bed.claim(1, Kind::On), 1, |_| ()).await;
    bed.exec(
        "UPDATE allocation SET ts=NOW()+INTERVAL 1 HOUR, claimed=NOW(3)-INTERVAL 90500000 MICROSECOND",
        "UPDATE allocation SET ts=unixepoch()+3600, claimed=unixepoch('subsec')*1000-90500",
    )
    .await;
    let row = bed.row(10).await;
    assert_eq!(row.idle, Duration::ZERO);
    assert!(row.claimed.unwrap() >= Duration::from_secs(90) && row.claimed.unwrap().subsec_nanos() == 0);
}

async fn a_look_now_and_then_counts_what_is_taken(bed: Bed) {
    bed.free(100..=110).await;
    bed.warm(1, &[10, 11], 10).await;
    let both = async || {
        let sorted = |mut counts: Vec<Count>| {
            counts.sort_by_key(|count| (count.state, count.iface.clone()));
            counts
        };
        let whole = bed.store.census(&subnet(), soon()).await.unwrap();
        (sorted(whole), sorted(bed.store.census_lately(&subnet(), soon()).await.unwrap()))
    };
    let (whole, lately) = both().await;
    assert_eq!(whole, lately);
    bed.claim_free(&bed.claim(1, Kind::On), 3, |_| ()).await;
    bed.lease(10, bed.claim(2, Kind::Lease)).await;
    let lately = bed.store.census_lately(&subnet(), soon()).await.unwrap();
    let rows = |state| lately.iter().filter(|count| count.state == state).map(|count| count.rows).sum::<u64>();
    assert_eq!([State::Free, State::On, State::Ready, State::Lease].map(rows), [8, 3, 1, 1]);
    let (whole, lately) = both().await;
    assert_eq!(whole, lately);
}

async fn texts_are_not_sql(bed: Bed) {
    let nasty = r#"'; DROP TABLE allocation; -- \ " ` % _ \' 容器"#;
    bed.warm(1, &[10], 10).await;
    let odd = Claim::stored(r"it's \".into());
    let (lease, holder, idle) = (Some(odd.clone()), Some(nasty.to_owned()), Duration::ZERO);
    assert!(bed.event(10, Event::Follow { lease, holder, idle }).await);
    let row = bed.row(10).await;
    assert_eq!((row.holder.as_deref(), row.claim.as_ref()), (Some(nasty), Some(&odd)));
    assert!(bed.event(10, told(Some(bed.claim(1, Kind::Lease)), idle)).await, "it is found by what it is");
}

async fn a_row_that_is_no_row_is_left_out_and_named(bed: Bed) {
    let insert =
        "INSERT INTO allocation (ip,subnet,status,`primary`) VALUES ('ten','subnet-0123456789abcdef0','free',0)";
    bed.exec(insert, insert).await;
    bed.warm(1, &[10, 11], 100).await;
    // What an older server, or a session without strict mode, lets into an enum.
    let odd = "UPDATE allocation SET status='' WHERE ip='10.0.0.11'";
    bed.exec(&format!("SET sql_mode=''; {odd}"), &format!("PRAGMA ignore_check_constraints=ON; {odd}")).await;
    let rows = bed.store.rows_of_subnet(&subnet(), soon()).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.ip).collect::<Vec<_>>(), [ip(10)]);
    assert_eq!(bed.store.rows_of_eni(&eni(1), soon()).await.unwrap().len(), 1);
    let counts = bed.store.census(&subnet(), soon()).await.unwrap();
    assert!(counts.iter().any(|count| count.state == State::Ready && count.rows == 1), "{counts:?}");
    let named = bed.store.describe(soon()).await.unwrap().left_out.join("; ");
    assert!(named.contains("\"ten\"") && named.contains("10.0.0.11"), "{named}");
    // The coldest of the free ones cannot be given; the next one can.
    bed.free(20..=21).await;
    bed.age(ip(20), 500).await;
    assert_eq!(bed.claim_free(&bed.claim(1, Kind::On), 1, |_| ()).await.len(), 1);
}

async fn a_whole_16_is_inserted_in_chunks(bed: Bed) {
    let rows: Vec<_> = (0..65_536_u32).map(|n| new_row((0x0a00_0000 + n).into(), Status::Free)).collect();
    let began = std::time::Instant::now();
    assert_eq!(bed.store.insert_missing(&subnet(), &rows, soon()).await, Ok(65_536));
    let inserted = began.elapsed();
    assert_eq!(bed.store.insert_missing(&subnet(), &rows, soon()).await, Ok(0));
    println!("/16 inserted in {inserted:?}, again in {:?}", began.elapsed() - inserted);
    assert_eq!(bed.store.rows_of_subnet(&subnet(), soon()).await.unwrap().len(), 65_536);
}
