use super::super::standing::of_no_containers;
use super::*;
use crate::domain::address::{AWS, Row, Status};
use crate::domain::history::Shown;
use crate::domain::id::{Boot, Claim, EniId, Kind, SubnetId};

const IP: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 23);
/// 2026-11-26T12:00:00Z.
const NOON: u64 = 1_795_694_400_000;
const HOUR: u64 = 3_600_000;

fn used(name: &str, begun: u64, end: Option<(u64, Ended)>) -> Use {
    let token = Boot::random().unwrap().claim(1, Kind::Lease);
    let eni = EniId::stored("eni-0123456789abcdef0".into());
    Use { instance: Some("i-1".into()), end, ..Use::begins(token, IP, eni, Some(name), begun) }
}

fn known(uses: &[Use], at: u64) -> Known<'_> {
    Known { uses, since: Some(NOON - 48 * HOUR), at, now: NOON, scope: Scope::Fleet, standing: None }
}

#[test]
fn an_answer_says_who_or_since_when_nobody() {
    let mut web = used("fixed:web-1", NOON - HOUR, None);
    let id = "3f2a1b0c9d8e7766".to_owned();
    web.is_shown(&Shown { ip: IP, name: "web-1".into(), container: Some(id), network: "pods".into() });
    let db = used("db", NOON - 5 * HOUR, Some((NOON - 2 * HOUR, Ended::Released)));
    let uses = [web, db];
    for (at, expected) in [
        (
            NOON,
            "10.0.1.23 is in use by web-1 (3f2a1b0c9d8e): from 2026-11-26T11:00:00.000Z on, for 1h by now\n  network pods, \
             eni-0123456789abcdef0 of i-1, named by --ip",
        ),
        (
            NOON - 3 * HOUR,
            "10.0.1.23 was in use by db at 2026-11-26T09:00:00.000Z: from 2026-11-26T07:00:00.000Z to 2026-11-26T10:00:00.000Z (3h), \
             released\n  eni-0123456789abcdef0 of i-1",
        ),
        (
            NOON - HOUR - 1000,
            "10.0.1.23 was in use by nobody at 2026-11-26T10:59:59.000Z; db had it last: from 2026-11-26T07:00:00.000Z to \
             2026-11-26T10:00:00.000Z (3h), released",
        ),
        (
            NOON - 20 * HOUR,
            "10.0.1.23 was in use by nobody at 2026-11-25T16:00:00.000Z, and was not before: history begins at \
             2026-11-24T12:00:00.000Z",
        ),
        (
            NOON - 50 * HOUR,
            "nothing is known of 10.0.1.23 at 2026-11-24T10:00:00.000Z: history begins at 2026-11-24T12:00:00.000Z",
        ),
    ] {
        assert_eq!(known(&uses, at).of_address(IP).0.join("\n"), expected);
    }
    let idle = known(&uses[1..], NOON).of_address(IP).0.join("\n");
    assert!(
        idle.starts_with("10.0.1.23 is in use by nobody and idle since 2026-11-26T10:00:00.000Z (2h); db had it last")
    );
    let own = Known { scope: Scope::Host, ..known(&[], NOON) };
    assert!(own.of_address(IP).0[0].starts_with("10.0.1.23 is in use by no container of this host, and was not"));
    let found = [Use { was_found: true, ..used("web", NOON - HOUR, None) }];
    let perhaps = known(&found, NOON - 2 * HOUR).of_address(IP).0.join("\n");
    assert!(perhaps.contains("is not known: web was found with it at 2026-11-26T11:00:00.000Z, and may"), "{perhaps}");
    let set_back = [used("web", NOON, Some((NOON - HOUR, Ended::Found)))];
    assert!(known(&set_back, NOON).of_address(IP).0.join("\n").contains("(a clock was set in between)"));
}

#[test]
fn a_container_is_answered_likewise() {
    let uses = [used("web", NOON - HOUR, Some((NOON - HOUR / 2, Ended::Left)))];
    let text = |at| known(&uses, at).of_container("web").0.join("\n");
    assert!(text(NOON).starts_with("web has no address; it had 10.0.1.23 last: from "), "{}", text(NOON));
    assert!(text(NOON - 3 * HOUR / 4).starts_with("web had 10.0.1.23 at 2026-11-26T11:15:00.000Z: from "));
    let back = [used("gone", NOON - HOUR, Some((NOON - HOUR + 4, Ended::TakenBack)))];
    let back = |at| known(&back, at).of_container("gone").0.join("\n");
    let never = "gone has no address, and none before: 10.0.1.23 was meant for it at 2026-11-26T11:00:00.000Z, and taken back: the \
                 answer did not reach Docker";
    assert_eq!(back(NOON), never);
    assert!(back(NOON - 2 * HOUR).starts_with("nothing is known of a container gone at "), "{}", back(NOON - 2 * HOUR));
    assert!(
        text(NOON - 2 * HOUR).starts_with("nothing is known of a container web at 2026-11-26T10:00:00.000Z: history")
    );
}

fn row(claim: Option<Claim>, holder: Option<&str>) -> Row {
    Row {
        ip: IP,
        subnet: SubnetId::stored("subnet-0123456789abcdef0".into()),
        status: Status::Occupied,
        iface: Some(EniId::stored("eni-0123456789abcdef1".into())),
        primary: false,
        in_block: false,
        claim,
        holder: holder.map(str::to_owned),
        idle: Duration::ZERO,
        claimed: None,
    }
}

#[test]
fn another_hosts_address_is_asked_of_that_host() {
    let row = row(Some(Boot::random().unwrap().claim(1, Kind::Lease)), Some("db"));
    let there = |is_told| Elsewhere {
        row: row.clone(),
        eni: row.iface.clone().unwrap(),
        instance: Some("i-2".into()),
        is_served_here: false,
        is_told,
    };
    let (before, open) = (used("web", NOON - HOUR, Some((NOON - 5, Ended::Released))), used("db", NOON - 3, None));
    let open = Use { token: row.claim.clone().unwrap(), ..open };
    let of = |uses: &[Use], at, is_told| {
        let known = Known { standing: Some(Standing::Elsewhere(there(is_told))), ..known(uses, at) };
        known.of_address(IP).0.join("\n")
    };
    let text = |uses: &[Use], at| of(uses, at, false);
    let hint = "\n  by the table 10.0.1.23 is in use by a container (db) of eni-0123456789abcdef1: ask its host i-2 \
                (`ec2-ipam history 10.0.1.23`), or have all hosts tell the table (EC2_IPAM_HISTORY=30d)";
    assert_eq!(text(&[], NOON), format!("who has 10.0.1.23 is not known here{hint}"));
    assert!(of(&[], NOON, true).ends_with("and see that EC2_IPAM_HISTORY is set there too"));
    assert!(text(std::slice::from_ref(&before), NOON).ends_with(hint), "who had it before need not be who has it");
    assert!(text(std::slice::from_ref(&before), NOON - 10).contains("was in use by web"));
    assert!(text(&[open, before], NOON).starts_with("10.0.1.23 is in use by db: from"));
}

#[test]
fn what_is_not_known_is_not_said_to_be_nobodys() {
    let last = used("web", NOON - HOUR, Some((NOON - HOUR / 2, Ended::Released)));
    let found = Use { was_found: true, ..used("db", NOON - 5000, None) };
    let last = std::slice::from_ref(&last);
    let doubted = |uses: &[Use], at| {
        let known = Known { standing: Some(Standing::Doubted(Some("run".into()))), ..known(uses, at) };
        (known.of_address(IP).0.join("\n"), known.of_container("web").0.join("\n"))
    };
    for uses in [&[], last] {
        let (of_address, of_container) = doubted(uses, NOON);
        assert!(of_address.starts_with(&format!("who has 10.0.1.23 is not known yet: {DOUBT}")), "{of_address}");
        assert!(of_address.ends_with("\n  Docker shows run with it now"), "{of_address}");
        assert!(of_container.starts_with(&format!("what web has is not known yet: {DOUBT}; ")), "{of_container}");
    }
    assert!(doubted(last, NOON - 3 * HOUR / 4).0.contains("was in use by web"), "what is known is told");
    assert!(doubted(std::slice::from_ref(&found), NOON - 9000).0.contains("db was found with it at"));
    assert!(doubted(&[found], NOON).0.contains("is in use by db"));
    let unheard = |uses: &[Use], at| {
        let known = Known { scope: Scope::Unheard, ..known(uses, at) };
        (known.of_address(IP).0.join("\n"), known.of_container("web").0.join("\n"))
    };
    let not_heard = |which: &str, then: &str| format!("{which}{then} is not known: {UNHEARD}; ");
    for (uses, at, then) in
        [(&[][..], NOON, ""), (last, NOON, ""), (&[], NOON - 50 * HOUR, " at 2026-11-24T10:00:00.000Z")]
    {
        let (of_address, of_container) = unheard(uses, at);
        let verb = if then.is_empty() { "has" } else { "had" };
        assert!(of_address.starts_with(&not_heard(&format!("who {verb} 10.0.1.23"), then)), "{of_address}");
        assert!(of_container.starts_with(&not_heard(&format!("what web {verb}"), then)), "{of_container}");
        assert_eq!(of_address.contains("web had it last: from"), !uses.is_empty(), "{of_address}");
    }
    assert!(unheard(last, NOON - 3 * HOUR / 4).0.contains("was in use by web"));
}

#[test]
fn what_no_container_can_have_is_said_to_be_what_it_is() {
    let foreign = row(None, None);
    let reserved = |holder| Row { status: Status::Reserved, iface: None, ..row(None, holder) };
    let web = used("web", NOON - HOUR, Some((NOON - HOUR / 2, Ended::Released)));
    for (row, expected) in [
        (
            Row { primary: true, ..foreign.clone() },
            Some("10.0.1.23 is the primary address of eni-0123456789abcdef1, and no container's"),
        ),
        (
            foreign,
            Some(
                "10.0.1.23 is in use on eni-0123456789abcdef1 by something that is no container of this table's hosts",
            ),
        ),
        (reserved(Some(AWS)), Some("10.0.1.23 is kept back by AWS, and no container's")),
        (reserved(Some("web")), None),
        (reserved(None), None),
        (Row { status: Status::Free, iface: None, ..row(None, None) }, None),
    ] {
        let told = |uses: &[Use], at| {
            let known = Known { standing: of_no_containers(&row), ..known(uses, at) };
            known.of_address(IP).0
        };
        let nobody = "10.0.1.23 is in use by nobody, and was not before: history begins at 2026-11-24T12:00:00.000Z";
        assert_eq!(told(&[], NOON), [expected.unwrap_or(nobody)]);
        if let Some(expected) = expected {
            let last = told(std::slice::from_ref(&web), NOON);
            assert!(last[0].starts_with(&format!("{expected}; web had it last: from ")), "{last:?}");
            let then = told(&[], NOON - HOUR);
            assert!(then[0].starts_with("10.0.1.23 was in use by nobody at "), "{then:?}");
            assert_eq!(then[1], format!("  by the table {expected}, by now"));
            let alone = Known { since: None, standing: of_no_containers(&row), ..known(&[], NOON) };
            assert_eq!(alone.of_address(IP).0, [expected], "without any history");
        }
    }
}

#[test]
fn a_span_is_two_units_of_it() {
    for (seconds, expected) in [
        (0, "0s"),
        (59, "59s"),
        (60, "1m"),
        (96, "1m 36s"),
        (3600, "1h"),
        (3605, "1h"),
        (7380, "2h 3m"),
        (255_900, "2d 23h"),
    ] {
        assert_eq!(long(seconds * 1000 + 999), expected);
    }
    let found = Use { was_found: true, ..used("web", NOON - 7000, None) };
    let told = known(&[found], NOON).of_address(IP).0.join("\n");
    assert!(told.contains("since 2026-11-26T11:59:53.000Z at the latest, when it was found, for 7s by now"), "{told}");
}
