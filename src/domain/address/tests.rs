//! The transition table, whole, and the rules around it.

use super::*;
use crate::domain::id::Boot;

fn row(status: Status, claim: Option<Claim>) -> Row {
    Row {
        ip: Ipv4Addr::new(10, 0, 0, 9),
        subnet: SubnetId::stored("subnet-0123456789abcdef0".into()),
        status,
        iface: None,
        primary: false,
        in_block: false,
        claim,
        holder: None,
        idle: Duration::ZERO,
        claimed: None,
    }
}

fn every_state() -> Vec<Row> {
    let boot = Boot::random().unwrap();
    vec![
        row(Status::Free, None),
        row(Status::Allocated, Some(boot.claim(1, Kind::On))),
        row(Status::Allocated, Some(boot.claim(1, Kind::Off))),
        row(Status::Ready, None),
        row(Status::Occupied, Some(boot.claim(1, Kind::Lease))),
        row(Status::Occupied, None),
        row(Status::Reserved, None),
    ]
}

fn every_event() -> Vec<(&'static str, Event)> {
    let boot = Boot::random().unwrap();
    let claim = |kind| boot.claim(2, kind);
    let (eni, idle) = (EniId::stored("eni-0123456789abcdef0".into()), Duration::from_secs(100));
    vec![
        ("claim", Event::Claim { eni: eni.clone(), claim: claim(Kind::On), in_block: false }),
        ("claim in block", Event::Claim { eni: eni.clone(), claim: claim(Kind::On), in_block: true }),
        ("lease", Event::Follow { lease: Some(claim(Kind::Lease)), holder: None, idle }),
        ("idle", Event::Follow { lease: None, holder: None, idle }),
        ("adopt", Event::Adopt { claim: claim(Kind::On), in_block: false }),
        ("give up", Event::GiveUp { claim: claim(Kind::Off) }),
        ("gone", Event::Gone),
        ("eni gone", Event::EniGone),
        ("refuse", Event::Refuse { address_at_fault: true }),
        ("foreign", Event::Foreign { eni: Some(eni.clone()), primary: false, in_block: false }),
        ("foreign in block", Event::Foreign { eni: Some(eni), primary: false, in_block: true }),
        ("mark primary", Event::MarkPrimary),
        ("reserve", Event::Reserve { holder: None }),
        ("unreserve", Event::Unreserve),
    ]
}

fn becomes(change: &Change) -> State {
    row(change.to.status, change.to.claim.clone()).state()
}

#[test]
fn the_whole_transition_table() {
    use State::{Foreign, Free, Lease, Off, On, Ready, Reserved};
    let mut seen = Vec::new();
    for row in every_state() {
        for (name, event) in every_event() {
            if let Ok(change) = row.on(event) {
                assert_eq!(change.from, row.guard(), "I5: a change expects the row as it was seen");
                seen.push((row.state(), name, becomes(&change)));
            }
        }
    }
    let expected = [
        (Free, "claim", On),
        (Free, "claim in block", On),
        (Free, "foreign", Foreign),
        (Free, "foreign in block", Foreign),
        (Free, "reserve", Reserved),
        (On, "lease", Lease),
        (On, "idle", Ready),
        (On, "give up", Off),
        (On, "eni gone", Free),
        (On, "refuse", Free),
        (On, "foreign", Foreign),
        (On, "foreign in block", Foreign),
        (On, "reserve", Reserved),
        (Off, "lease", Lease),
        (Off, "idle", Ready),
        (Off, "give up", Off),
        (Off, "gone", Free),
        (Off, "eni gone", Free),
        (Off, "foreign", Foreign),
        (Off, "foreign in block", Foreign),
        (Ready, "lease", Lease),
        (Ready, "idle", Ready),
        (Ready, "give up", Off),
        (Ready, "eni gone", Free),
        (Ready, "foreign", Foreign),
        (Ready, "foreign in block", Foreign),
        (Ready, "mark primary", Foreign),
        (Lease, "lease", Lease),
        (Lease, "idle", Ready),
        (Lease, "eni gone", Free),
        (Lease, "foreign", Foreign),
        (Lease, "foreign in block", Foreign),
        (Foreign, "lease", Lease),
        (Foreign, "adopt", On),
        (Foreign, "gone", Free),
        (Foreign, "eni gone", Free),
        (Foreign, "foreign", Foreign),
        (Foreign, "foreign in block", Foreign),
        (Foreign, "mark primary", Foreign),
        (Reserved, "unreserve", Free),
    ];
    assert_eq!(seen, expected);
}

/// Who claims it or finds it says whether it is one of a block's, and it is none any more once it is nobody's.
#[test]
fn a_row_is_of_a_block_from_its_claim_until_it_is_nobodys() {
    for row in every_state() {
        for in_block in [false, true] {
            let row = Row { in_block, ..row.clone() };
            for (name, event) in every_event() {
                let Ok(change) = row.on(event) else { continue };
                let expected = match name {
                    "claim in block" | "foreign in block" => true,
                    "lease" | "idle" | "give up" => in_block,
                    _ => false,
                };
                assert_eq!(change.from.in_block, in_block, "{:?} {name}", row.state());
                assert_eq!(
                    (change.to.in_block, change.after(&row).in_block),
                    (expected, expected),
                    "{:?} {name}",
                    row.state()
                );
            }
        }
    }
}

/// All but the primary mark, which outweighs it; what the journal says bears the mark itself.
#[test]
fn what_is_kept_for_a_name_stays_so_until_it_is_unreserved() {
    for mut row in every_state().into_iter().filter(|row| row.state() != State::Free) {
        row.holder = Some(if row.status == Status::Reserved { "web".into() } else { format!("{KEPT}web") });
        assert_eq!((row.kept_for(), row.endpoint()), (Some("web"), Some("web")));
        for (name, event) in every_event().into_iter().filter(|(_, event)| !matches!(event, Event::Follow { .. })) {
            let Ok(change) = row.on(event) else { continue };
            let after = match &change.to.holder {
                Holder::Keep => row.holder.clone(),
                Holder::Clear => None,
                Holder::Set(text) => Some(text.clone()),
            };
            let after = Row { status: change.to.status, claim: change.to.claim, holder: after, ..row.clone() };
            let kept = !matches!(name, "unreserve" | "mark primary" | "reserve");
            assert_eq!(after.kept_for(), kept.then_some("web"), "{:?} {name}: {after:?}", row.state());
            assert!(!kept || after.state() != State::Free, "{:?} {name}", row.state());
            if name == "unreserve" && row.status != Status::Reserved {
                assert_eq!((after.state(), after.holder.as_deref()), (row.state(), Some("fixed:web")));
            }
        }
    }
    let mut reserved = row(Status::Reserved, None);
    let eni = EniId::stored("eni-0123456789abcdef0".into());
    let claim = Event::Claim { eni, claim: Boot::random().unwrap().claim(1, Kind::On), in_block: false };
    for (by, may) in [("web", true), ("", false), (AWS, false), ("EC2: Address is in subnet's reserved range", false)] {
        reserved.holder = Some(by.into());
        assert_eq!(reserved.on(claim.clone()).is_ok(), may, "{by:?}");
    }
}

#[test]
fn only_what_somebody_used_and_an_address_at_fault_are_let_go_now() {
    for row in every_state() {
        for (name, event) in every_event() {
            let told = if let Event::Follow { idle, .. } = event { Some(idle) } else { None };
            if let Ok(change) = row.on(event) {
                let was_used = matches!(name, "refuse" | "adopt" | "eni gone");
                let was_used = was_used || name == "gone" && row.state() == State::Foreign;
                let let_go = told.or(was_used.then_some(Duration::ZERO));
                assert_eq!(change.let_go, let_go, "{:?} {name}", row.state());
            }
        }
    }
}

#[test]
fn a_primary_address_is_never_given_whatever_its_status_says() {
    for mut row in every_state() {
        row.primary = true;
        for (name, event) in every_event() {
            if matches!(name, "claim" | "claim in block" | "lease" | "idle" | "adopt" | "give up") {
                assert!(row.on(event).is_err(), "I7: {:?} {name}", row.state());
            }
        }
    }
}

#[test]
fn cooling_is_counted_in_whole_seconds_and_never_ends_early() {
    let mut r = row(Status::Ready, None);
    assert!(r.has_cooled(Duration::ZERO));
    for (idle, cooldown, cooled) in [(60, 60_000, false), (61, 60_000, true), (1, 500, false), (2, 500, true)] {
        r.idle = Duration::from_secs(idle);
        assert_eq!(r.has_cooled(Duration::from_millis(cooldown)), cooled, "{idle} {cooldown}");
    }
}
