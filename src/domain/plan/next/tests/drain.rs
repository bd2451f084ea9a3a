//! What a drained host does next.

use super::*;

/// A drained host with idle addresses: cold, hot, named, one that a container has, one in doubt about whose it is.
fn drained(least: u64, change: Brings) -> Next {
    let now = Instant::now();
    let mut view = nothing(now);
    view.drain = Some(Duration::from_secs(least));
    view.warmth = warmth(4);
    view.rows.extend([ready(10, 900), ready(11, 5), fixed(12, 5), ready(13, 900), row(14, Status::Occupied, None, 9)]);
    view.rows.push(row(15, Status::Occupied, claim(Kind::Lease), 900));
    view.in_use.insert(ip(13));
    change(&mut view, now);
    next(&view, now)
}

#[test]
fn it_gives_back_what_is_idle_whatever_the_target_and_nothing_that_a_container_has() {
    assert_eq!(kind(&drained(0, |_, _| {})), "drain");
    assert_eq!(lasts(drained(0, |_, _| {})), [10, 11, 12]);
    assert_eq!(lasts(drained(60, |_, _| {})), [10], "I10: what cools waits where nobody else can tell");
    assert_eq!(lasts(drained(0, |view, now| view.times.trim_at = now)), [10, 11, 12]);
}

#[test]
fn what_is_let_go_at_about_the_same_time_goes_with_one_unassign() {
    let gathering: Brings = |view, now| view.times.top_up_at = Some(now + Duration::from_secs(1));
    assert_eq!(drained(0, gathering), Next::Rest(Duration::from_secs(1)));
    assert_eq!(lasts(drained(0, |view, now| view.times.top_up_at = Some(now))), [10, 11, 12]);
}

#[test]
fn nothing_is_given_up_while_whose_the_interface_is_is_not_sure() {
    let unsure: Brings = |view, now| view.times.give_up_at = now + Duration::from_secs(10);
    assert_eq!(drained(0, unsure), Next::Rest(Duration::from_secs(10)));
}

#[test]
fn nothing_is_fetched_or_given() {
    let wanted: Brings = |view, now| {
        view.rows.clear();
        view.queue.extend([named(99), ANY]);
        view.times.top_up_at = Some(now);
    };
    assert_eq!(kind(&drained(0, wanted)), "rest");
}

#[test]
fn all_else_goes_on() {
    let unsettled: Brings = |view, now| {
        view.rows.extend([on(20), off(21, 60)]);
        view.times.settle_at = now;
    };
    assert_eq!(lasts(drained(0, unsettled)), [20]);
    assert_eq!(kind(&drained(0, |view, _| view.unposted = true)), "post");
    assert_eq!(kind(&drained(0, |view, _| view.repair = true)), "repair");
    assert_eq!(kind(&drained(0, |view, _| view.recycle = true)), "recycle");
}

#[test]
fn what_cools_is_waited_for() {
    let cools: Brings = |view, _| view.rows = vec![ready(10, 42)];
    assert_eq!(drained(60, cools), Next::Rest(Duration::from_secs(20)));
}
