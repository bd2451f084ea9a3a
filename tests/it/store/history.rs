//! Uses of addresses in the table.

use std::sync::LazyLock;
use std::time::{Duration, UNIX_EPOCH};

use ec2_ipam::domain::history::{Ended, Shown, Use};
use ec2_ipam::domain::id::{Claim, Kind};

use super::bed::{Bed, eni, ip, on_all, soon};

on_all! {
    what_is_told_again_is_there_once_and_as_it_was_told_last
    a_container_is_found_by_each_of_its_names_and_its_id_to_the_letter
    what_is_old_and_over_is_forgotten
    what_nobody_tells_of_any_more_is_closed_unless_somebody_does
}

static NOW: LazyLock<Duration> = LazyLock::new(|| UNIX_EPOCH.elapsed().unwrap());
const HOUR: Duration = Duration::from_secs(3600);

fn used(bed: &Bed, number: u64, name: &str) -> Use {
    // An hour ago, by a clock that does not move.
    let begun = u64::try_from(NOW.as_millis()).unwrap() - 3_600_000 + number;
    let begins = Use::begins(bed.claim(number, Kind::Lease), ip(10), eni(1), Some(name), begun);
    Use { instance: Some("i-1".into()), ..begins }
}

fn over(of: &Use) -> Use {
    Use { end: Some((of.begun + 5000, Ended::Released)), ..of.clone() }
}

fn tokens(uses: &[Use]) -> Vec<&Claim> {
    uses.iter().map(|it| &it.token).collect()
}

async fn age(bed: &Bed, hours: u32) {
    let seconds = hours * 3600;
    let (mysql, sqlite) = (format!("told-INTERVAL {seconds} SECOND"), format!("told-{seconds}"));
    bed.exec(&format!("UPDATE history SET told={mysql}"), &format!("UPDATE history SET told={sqlite}")).await;
}

async fn what_is_told_again_is_there_once_and_as_it_was_told_last(bed: Bed) {
    assert_eq!(bed.store.uses_since(soon()).await.unwrap(), None);
    let (first, second) = (used(&bed, 1, "web"), used(&bed, 2, "fixed:it's \\ \"日本\""));
    for _ in 0..2 {
        bed.store.tell_uses(&[second.clone(), first.clone()], soon()).await.unwrap();
        assert_eq!(bed.store.uses_of(ip(10), soon()).await.unwrap(), [second.clone(), first.clone()], "the last first");
    }
    // Whoever tells its end may not know when it began.
    let mut end = over(&first);
    end.is_shown(&Shown { ip: ip(10), name: "new".into(), container: Some("ab".repeat(32)), network: "pods".into() });
    bed.store.tell_uses(&[Use { begun: first.begun + 9, ..end.clone() }], soon()).await.unwrap();
    assert_eq!(bed.store.use_at(&first.token, soon()).await.unwrap(), Some(end));
    assert_eq!(bed.store.use_at(&bed.claim(9, Kind::Lease), soon()).await.unwrap(), None);
    assert!(bed.store.uses_since(soon()).await.unwrap().is_some());
    let many: Vec<Use> = (10..1010).map(|number| over(&used(&bed, number, "job"))).collect();
    bed.store.tell_uses(&many, soon()).await.unwrap();
    assert_eq!(bed.store.uses_of(ip(10), soon()).await.unwrap().len(), 1002);
    // A clock that shows what no clock shows.
    let odd = Use { begun: u64::MAX, end: Some((0, Ended::Gone)), ..used(&bed, 5, "odd") };
    bed.store.tell_uses(std::slice::from_ref(&odd), soon()).await.unwrap();
    assert_eq!(bed.store.use_at(&odd.token, soon()).await.unwrap().unwrap().end, odd.end);
}

async fn a_container_is_found_by_each_of_its_names_and_its_id_to_the_letter(bed: Bed) {
    let mut web = used(&bed, 1, "web");
    web.is_shown(&Shown {
        ip: ip(10),
        name: "was-web".into(),
        container: Some("3f2a1b".repeat(10)),
        network: "n".into(),
    });
    bed.store.tell_uses(&[web, used(&bed, 2, "Web"), used(&bed, 3, "we_")], soon()).await.unwrap();
    for (name, count) in
        [("web", 1), ("Web", 1), ("was-web", 1), ("3f2a1b3f", 1), ("3f2", 0), ("we_", 1), ("%", 0), ("' OR 1=1 -- ", 0)]
    {
        assert_eq!(bed.store.uses_of_container(name, soon()).await.unwrap().len(), count, "{name}");
    }
}

async fn what_is_old_and_over_is_forgotten(bed: Bed) {
    let (open, closed) = (used(&bed, 1, "db"), over(&used(&bed, 2, "web")));
    bed.store.tell_uses(&[open.clone(), closed], soon()).await.unwrap();
    age(&bed, 23).await;
    assert!(!bed.store.forget_uses(24 * HOUR, soon()).await.unwrap());
    assert_eq!(bed.store.uses_of(ip(10), soon()).await.unwrap().len(), 2);
    age(&bed, 2).await;
    assert!(!bed.store.forget_uses(24 * HOUR, soon()).await.unwrap(), "there are no more");
    assert_eq!(bed.store.uses_of(ip(10), soon()).await.unwrap(), std::slice::from_ref(&open));
    // What was over long ago is not kept anew because it is told now, and a clock that is ahead keeps nothing for ever.
    let day = 86_400_000;
    let moved = |of: Use, by: i64| {
        let begun = of.begun.saturating_add_signed(by);
        over(&Use { begun, ..of })
    };
    let (late, ahead) = (moved(used(&bed, 3, "late"), -25 * 3_600_000), moved(used(&bed, 4, "ahead"), 365 * day));
    bed.store.tell_uses(&[late, ahead.clone()], soon()).await.unwrap();
    assert!(!bed.store.forget_uses(24 * HOUR, soon()).await.unwrap());
    assert_eq!(bed.store.uses_of(ip(10), soon()).await.unwrap(), [ahead, open.clone()]);
    age(&bed, 25).await;
    assert!(!bed.store.forget_uses(24 * HOUR, soon()).await.unwrap());
    assert_eq!(bed.store.uses_of(ip(10), soon()).await.unwrap(), [open]);
    let many: Vec<Use> = (10..1510).map(|number| over(&used(&bed, number, "job"))).collect();
    bed.store.tell_uses(&many, soon()).await.unwrap();
    age(&bed, 25).await;
    assert!(bed.store.forget_uses(24 * HOUR, soon()).await.unwrap(), "a thousand at a time");
    assert!(!bed.store.forget_uses(24 * HOUR, soon()).await.unwrap());
    assert_eq!(bed.store.uses_of(ip(10), soon()).await.unwrap().len(), 1);
}

async fn what_nobody_tells_of_any_more_is_closed_unless_somebody_does(bed: Bed) {
    let uses: Vec<Use> = (1..1200).map(|number| used(&bed, number, "web")).collect();
    bed.store.tell_uses(&uses, soon()).await.unwrap();
    assert!(bed.store.open_uses(None, HOUR, soon()).await.unwrap().is_empty(), "they were told just now");
    age(&bed, 2).await;
    let first = bed.store.open_uses(None, HOUR, soon()).await.unwrap();
    let rest = bed.store.open_uses(first.last().map(|it| &it.token), HOUR, soon()).await.unwrap();
    assert_eq!((first.len(), rest.len()), (1000, 199));
    assert!(tokens(&first).iter().all(|token| !tokens(&rest).contains(token)));
    // A host tells of one of them meanwhile.
    let told = over(&first[0]);
    bed.store.tell_uses(std::slice::from_ref(&told), soon()).await.unwrap();
    let closed: Vec<Claim> = first[..2].iter().map(|it| it.token.clone()).collect();
    assert_eq!(bed.store.close_uses(&closed, HOUR, soon()).await.unwrap(), 1);
    assert_eq!(bed.store.use_at(&told.token, soon()).await.unwrap(), Some(told));
    let lost = bed.store.use_at(&closed[1], soon()).await.unwrap().unwrap();
    assert!(matches!(lost.end, Some((_, Ended::Gone))), "{lost:?}");
    // Its host was only slow.
    let late = over(&first[1]);
    bed.store.tell_uses(std::slice::from_ref(&late), soon()).await.unwrap();
    assert_eq!(bed.store.use_at(&late.token, soon()).await.unwrap(), Some(late));
}
