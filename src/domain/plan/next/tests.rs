mod drain;

use super::*;
use std::collections::{BTreeSet, HashSet};

use crate::domain::address::{FIXED, Status};
use crate::domain::id::{Boot, Claim, Kind};
use crate::domain::plan::tests::{row, warmth};

/// Nothing is to be done, and nothing is ahead.
fn nothing(now: Instant) -> View {
    let later = now + Duration::from_secs(600);
    View {
        rows: Vec::new(),
        queue: Vec::new(),
        unposted: false,
        held: HashSet::new(),
        leaving: HashSet::new(),
        in_use: HashSet::new(),
        may_give: Some(HashSet::new()),
        sub_pool: Some(None),
        recalled: BTreeSet::new(),
        capacity: 8,
        elsewhere: false,
        warmth: Warmth { max: 0, ..warmth(0) },
        drain: None,
        burst: Burst::none(now),
        scan: false,
        repair: false,
        recycle: false,
        times: Times {
            look_at: None,
            fill_at: None,
            settle_at: later,
            give_up_at: now,
            warm_at: now,
            top_up_at: None,
            trim_at: later,
            last_call: now,
        },
    }
}

const ANY: Wish = Wish { ip: None, sub_pool: None, cooldown: Duration::from_secs(60) };

fn named(last: u8) -> Wish {
    Wish { ip: Some(ip(last)), cooldown: Duration::ZERO, ..ANY }
}

fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, last)
}

fn claim(kind: Kind) -> Option<Claim> {
    Some(Boot::random().unwrap().claim(1, kind))
}

fn ready(last: u8, idle: u64) -> Row {
    row(last, Status::Ready, None, idle)
}

fn fixed(last: u8, idle: u64) -> Row {
    Row { holder: Some(format!("{FIXED}web")), ..ready(last, idle) }
}

fn on(last: u8) -> Row {
    row(last, Status::Allocated, claim(Kind::On), 0)
}

fn off(last: u8, claimed: u64) -> Row {
    Row { claimed: Some(Duration::from_secs(claimed)), ..row(last, Status::Allocated, claim(Kind::Off), 0) }
}

/// What brings something.
type Brings = fn(&mut View, Instant);

/// Each kind of [`Next`], the most urgent first, and what of itself brings it.
const KINDS: [(&str, Brings); 16] = [
    ("post", |view, _| view.unposted = true),
    ("look", |view, now| view.times.look_at = Some(now)),
    ("scan", |view, _| view.scan = true),
    ("fill", |view, now| view.times.fill_at = Some(now)),
    ("settle", |view, now| {
        view.rows.push(on(10));
        view.times.settle_at = now;
    }),
    ("give up: left off", |view, _| view.rows.push(off(13, 60))),
    ("repair", |view, _| view.repair = true),
    ("recycle", |view, _| view.recycle = true),
    ("ask link", |view, _| {
        view.queue.push(ANY);
        view.may_give = None;
    }),
    ("serve", |view, _| {
        view.queue.push(ANY);
        view.rows.push(ready(14, 900));
        view.may_give = Some([ip(14)].into());
    }),
    ("fetch", |view, _| view.queue.insert(0, named(15))),
    ("refill: somebody waits", |view, _| view.queue.insert(0, ANY)),
    ("refill: the target", |view, now| {
        view.warmth.target = 4;
        view.times.top_up_at = Some(now);
    }),
    ("give up: named", |view, _| view.rows.push(fixed(16, 900))),
    ("trim", |view, now| {
        view.rows.push(ready(17, 900));
        view.times.trim_at = now;
    }),
    ("rest", |_, _| {}),
];

fn kind(next: &Next) -> &'static str {
    match next {
        Next::Look => "look",
        Next::Scan => "scan",
        Next::Fill => "fill",
        Next::Acquire(Need::Settled(_)) => "settle",
        Next::Acquire(Need::Named { .. }) => "fetch",
        Next::Acquire(Need::More(Refill { waiting: 0, .. })) => "refill: the target",
        Next::Acquire(Need::More(_)) => "refill: somebody waits",
        Next::Post => "post",
        Next::GiveBack(_, Because::LeftOff) => "give up: left off",
        Next::GiveBack(_, Because::Named) => "give up: named",
        Next::GiveBack(_, Because::Room) => "give up: to make room",
        Next::GiveBack(_, Because::Recycled) => "recycle",
        Next::GiveBack(_, Because::Excess) => "trim",
        Next::GiveBack(_, Because::Drained) => "drain",
        Next::Repair => "repair",
        Next::AskLink => "ask link",
        Next::Serve(_) => "serve",
        Next::Full => "full",
        Next::Rest(_) => "rest",
    }
}

fn first(brings: &[Brings]) -> Next {
    let now = Instant::now();
    let mut view = nothing(now);
    brings.iter().for_each(|bring| bring(&mut view, now));
    next(&view, now)
}

/// What is next where only this was brought.
fn of(change: Brings) -> Next {
    first(&[change])
}

fn lasts(next: Next) -> Vec<u8> {
    let (Next::Acquire(Need::Settled(rows)) | Next::GiveBack(rows, _) | Next::Serve(rows)) = next else {
        panic!("{next:?} is not about rows");
    };
    rows.iter().map(|row| row.ip.octets()[3]).collect()
}

#[test]
fn each_kind_has_what_brings_it() {
    for (name, brings) in KINDS {
        assert_eq!(kind(&first(&[brings])), name);
    }
}

#[test]
fn of_two_things_the_more_urgent_one_comes_first() {
    for (at, (urgent, first_brings)) in KINDS.into_iter().enumerate() {
        for (other, then_brings) in KINDS.into_iter().skip(at + 1) {
            let both = first(&[then_brings, first_brings]);
            assert_eq!(kind(&both), urgent, "beside {other}: {both:?}");
        }
    }
}

#[test]
fn all_at_once_come_one_after_the_other() {
    for (at, (urgent, _)) in KINDS.into_iter().enumerate() {
        let rest: Vec<Brings> = KINDS.into_iter().skip(at).rev().map(|(_, brings)| brings).collect();
        assert_eq!(kind(&first(&rest)), urgent);
    }
}

#[test]
fn claims_are_settled_early_only_where_somebody_waits_for_their_slots() {
    assert_eq!(kind(&of(|view, _| view.rows.push(on(10)))), "rest");
    let full: Brings = |view, _| {
        view.rows.push(on(10));
        view.capacity = 0;
    };
    assert_eq!(kind(&of(full)), "rest");
    assert_eq!(lasts(first(&[full, |view, _| view.queue.push(ANY)])), [10]);
    let open = first(&[|view, _| view.rows.push(on(10)), |view, _| view.queue.push(ANY)]);
    assert_eq!(kind(&open), "refill: somebody waits");
}

#[test]
fn what_the_journal_has_is_not_given_back_because_its_row_says_so() {
    let held: Brings = |view, _| {
        view.rows.push(off(10, 60));
        view.held.insert(ip(10));
    };
    assert_eq!(kind(&of(held)), "rest");
    assert_eq!(lasts(first(&[held, |view, _| view.leaving.extend([ip(10)])])), [10]);
    let never_told: Brings = |view, _| {
        view.rows.push(ready(10, 5));
        view.leaving.insert(ip(10));
    };
    assert_eq!(lasts(of(never_told)), [10], "and it is given to nobody");
}

#[test]
fn nothing_is_given_up_while_whose_the_interface_is_is_not_sure() {
    let doubt: Brings = |view, now| {
        view.rows.extend([off(10, 60), fixed(11, 900), ready(12, 900)]);
        view.times.trim_at = now;
        view.times.give_up_at = now + Duration::from_secs(10);
    };
    assert_eq!(of(doubt), Next::Rest(Duration::from_secs(10)));
}

#[test]
fn what_is_left_off_waits_for_the_settle_age() {
    assert_eq!(of(|view, _| view.rows.push(off(10, 40))), Next::Rest(Duration::from_secs(20)));
    assert_eq!(lasts(of(|view, _| view.rows.extend([off(10, 40), off(11, 61)]))), [11]);
}

#[test]
fn an_operator_gets_back_what_is_idle_however_hot() {
    let recycled = of(|view, _| {
        view.recycle = true;
        view.rows.extend([ready(10, 5), ready(11, 5), fixed(12, 5), Row { primary: true, ..ready(13, 5) }, off(14, 5)]);
        view.in_use.insert(ip(11));
    });
    assert_eq!(lasts(recycled), [10, 12]);
}

#[test]
fn those_who_wait_are_served_only_with_what_may_be_given_to_them() {
    let warm: Brings = |view, _| {
        view.queue.push(ANY);
        view.rows.extend([ready(10, 900), ready(11, 900), ready(12, 5), fixed(13, 900), ready(14, 900)]);
        view.may_give = Some([10, 11, 12, 13].map(ip).into());
    };
    assert_eq!(lasts(of(warm)), [10, 11]);
    assert_eq!(lasts(first(&[warm, |view, _| view.in_use.extend([ip(10)])])), [11]);
    let elsewhere: Brings =
        |view, _| view.queue = vec![Wish { sub_pool: Some("10.0.0.128/25".parse().unwrap()), ..ANY }];
    assert_eq!(kind(&first(&[warm, elsewhere])), "refill: somebody waits");
    assert_eq!(kind(&first(&[warm, |view, _| view.queue = vec![named(10)]])), "fetch");
}

#[test]
fn a_named_address_takes_the_slot_of_the_coldest_idle_one_that_nobody_has() {
    let slot = |change: Brings| {
        let next = first(&[|view, _| view.queue.push(named(99)), change]);
        let Next::Acquire(Need::Named { ip: asked, slot }) = next else { panic!("{next:?}") };
        assert_eq!(asked, ip(99));
        slot
    };
    assert_eq!(slot(|_, _| {}), Slot::Open);
    assert_eq!(slot(|view, _| view.capacity = 0), Slot::Full);
    let taken = slot(|view, _| {
        view.capacity = 0;
        view.rows.extend([ready(10, 900), ready(11, 800), ready(12, 700)]);
        view.in_use.insert(ip(10));
    });
    assert_eq!(taken, Slot::Taken(vec![ready(11, 800)]));
}

#[test]
fn a_refill_is_for_all_who_wait_for_the_same_range_and_for_the_target() {
    fn refill(change: Brings) -> Refill {
        let queue: Brings = |view, _| {
            let range = Wish { sub_pool: Some("10.0.0.128/25".parse().unwrap()), ..ANY };
            view.queue.extend([Wish { cooldown: Duration::ZERO, ..ANY }, range, ANY, named(99)]);
            view.warmth.target = 4;
        };
        let next = first(&[queue, change]);
        let Next::Acquire(Need::More(refill)) = next else { panic!("{next:?}") };
        refill
    }
    let whole = Refill { sub_pool: None, cooldown: Duration::ZERO, waiting: 2, lacking: Some(4), capacity: 8 };
    assert_eq!(refill(|_, _| {}), whole);
    let alone = Refill { lacking: None, ..whole };
    assert_eq!(refill(|view, _| view.warmth.target = 0), alone);
    assert_eq!(refill(|view, _| view.rows.push(on(10))), alone, "claims are not clear yet");
    assert_eq!(refill(|view, now| view.times.warm_at = now + Duration::from_secs(1)), alone, "after a refusal");
    assert_eq!(refill(|view, _| view.rows.push(ready(10, 900))), Refill { lacking: Some(3), ..whole });
}

#[test]
fn the_target_is_fetched_where_a_network_has_asked_and_something_is_lacking() {
    fn topped_up(change: Brings) -> &'static str {
        let due: Brings = |view, now| {
            view.warmth = warmth(4);
            view.times.top_up_at = Some(now);
        };
        kind(&first(&[due, change]))
    }
    assert_eq!(topped_up(|_, _| {}), "refill: the target");
    assert_eq!(topped_up(|view, _| view.sub_pool = None), "rest");
    assert_eq!(topped_up(|view, now| view.times.top_up_at = Some(now + Duration::from_secs(1))), "rest");
    assert_eq!(topped_up(|view, now| view.times.warm_at = now + Duration::from_secs(1)), "rest");
    assert_eq!(topped_up(|view, _| view.rows.extend((10..14).map(|last| ready(last, 900)))), "rest");
    assert_eq!(topped_up(|view, _| view.capacity = 0), "full");
}

#[test]
fn a_full_interface_makes_room_for_those_who_wait_with_what_is_of_no_use_to_them() {
    let full: Brings = |view, _| {
        view.queue.push(Wish { sub_pool: Some("10.0.0.128/25".parse().unwrap()), ..ANY });
        view.capacity = 0;
    };
    assert_eq!(of(full), Next::Full);
    assert_eq!(lasts(first(&[full, |view, _| view.rows.extend([ready(10, 5), ready(11, 900)])])), [11]);
    let elsewhere: Brings = |view, _| view.elsewhere = true;
    assert_eq!(kind(&first(&[full, elsewhere])), "rest", "what another server has claimed may be for them");
    assert_eq!(kind(&first(&[full, elsewhere, |view, _| view.queue[0] = named(99)])), "rest");
    assert_eq!(first(&[full, |view, _| view.rows.push(ready(200, 5))]), Next::Full, "it cools, for them");
}

#[test]
fn a_quiet_interface_gives_back_all_that_is_cool_and_a_busy_one_what_is_beyond_its_maximum() {
    fn trimmed(change: Brings) -> Next {
        let due: Brings = |view, now| {
            view.warmth = Warmth { max: 1, ..warmth(1) };
            view.rows.extend([ready(10, 900), ready(11, 800), ready(12, 700)]);
            view.times.trim_at = now;
        };
        first(&[due, change])
    }
    assert_eq!(lasts(trimmed(|_, _| {})), [10, 11]);
    assert_eq!(lasts(trimmed(|view, now| view.times.last_call = now - drain_age())), [10, 11, 12]);
    let used: Brings = |view, now| {
        view.times.last_call = now - drain_age();
        view.rows.push(row(13, Status::Occupied, claim(Kind::Lease), 0));
    };
    assert_eq!(lasts(trimmed(used)), [10, 11]);
    let burst: Brings = |view, now| {
        view.burst.refill(2, true, now);
    };
    assert_eq!(lasts(trimmed(burst)), [10], "a burst may want them");
    assert_eq!(lasts(trimmed(|view, _| view.in_use.extend([ip(10)]))), [11], "a container has it");
    assert_eq!(trimmed(|view, _| view.warmth.max = 3), Next::Rest(settle_age()), "and looks again");
}

#[test]
fn a_block_that_is_asked_back_gives_nothing_and_goes_once_it_has_cooled_whole() {
    fn asked_back(change: Brings) -> Next {
        let recalled: Brings = |view, _| {
            let block = (16..32).map(|last| Row { in_block: true, ..ready(last, 900) });
            view.recalled = block.clone().map(|row| Block::of(row.ip)).collect();
            view.rows.extend(block);
            view.may_give = Some((0..=255).map(ip).collect());
        };
        first(&[recalled, change])
    }
    assert_eq!(lasts(asked_back(|_, _| {})), (16..32).collect::<Vec<_>>());
    assert_eq!(asked_back(|view, _| view.rows[3].idle = Duration::from_secs(42)), Next::Rest(Duration::from_secs(20)));
    let leased: Brings = |view, _| {
        view.rows[3].status = Status::Occupied;
        view.rows[3].claim = claim(Kind::Lease);
    };
    assert_eq!(kind(&asked_back(leased)), "rest");
    assert_eq!(kind(&asked_back(|view, _| view.queue.push(ANY))), "refill: somebody waits", "others are fetched");
    let full: Brings = |view, _| {
        view.queue.push(ANY);
        view.capacity = 0;
    };
    assert_eq!(lasts(asked_back(full)), (16..32).collect::<Vec<_>>(), "it makes room for them");
}

#[test]
fn it_rests_until_the_first_thing_that_time_brings() {
    for (change, seconds) in [
        ((|_, _| {}) as Brings, 60),
        (|view, now| view.times.trim_at = now + Duration::from_secs(30), 30),
        (|view, now| view.times.look_at = Some(now + Duration::from_secs(9)), 9),
        (|view, now| view.times.fill_at = Some(now + Duration::from_secs(8)), 8),
        (|view, now| view.times.top_up_at = Some(now + Duration::from_secs(1)), 1),
        (|view, _| view.rows.push(fixed(10, 42)), 20),
        (|view, _| view.rows.push(ready(10, 42)), 60),
        (|view, _| view.rows.push(off(10, 55)), 5),
        (
            |view, now| {
                view.rows.push(on(10));
                view.times.settle_at = now + Duration::from_secs(7);
            },
            7,
        ),
        (
            |view, now| {
                view.rows.push(fixed(10, 42));
                view.times.give_up_at = now + Duration::from_secs(25);
            },
            25,
        ),
        // Docker shows that a container has it: only that ends it.
        (
            |view, _| {
                view.rows.push(fixed(10, 900));
                view.in_use.insert(ip(10));
            },
            60,
        ),
        (|view, now| view.times.top_up_at = Some(now + Duration::from_micros(1)), 0),
    ] {
        let Next::Rest(rest) = of(change) else { panic!() };
        assert_eq!(rest.as_secs(), seconds, "{rest:?}");
        assert!(rest >= Duration::from_millis(10), "not again at once: {rest:?}");
    }
}
