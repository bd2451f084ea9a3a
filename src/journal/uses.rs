//! Uses of addresses as the thread that writes knows them: they follow from the lines of holdings, so that history is as true as
//! those are, and goes into the same commit.
//!
//! In memory are those that are not over, and what is not on the disk yet. All others are on the disk alone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::time::Instant;

use super::line::{Line, Number, Untold};
use crate::domain::address::KEPT;
use crate::domain::history::{Ended, Shown, Use};
use crate::domain::holding::{Held, Holding};
use crate::domain::id::Claim;

/// So many that are not on the disk are remembered while there is none to write to.
const UNWRITTEN: usize = 10_000;

/// What there is of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kept {
    /// From when on it is whole, in Unix milliseconds.
    pub since: u64,
    /// How many there are.
    pub rows: u64,
}

#[derive(Default)]
pub(super) struct Uses {
    open: HashMap<Ipv4Addr, Open>,
    next: Number,
    changes: u64,
    /// What is not on the disk yet,
    changed: BTreeMap<Number, Use>,
    /// and what the table was told of in the meantime.
    told: BTreeSet<Number>,
    /// Those that the table does not have, by their last change; none: it is told of no use.
    untold: Option<BTreeMap<Number, u64>>,
    /// The first that is not on the disk.
    new: Number,
    pub(super) kept: Kept,
}

struct Open {
    number: Number,
    token: Claim,
    of: Use,
    /// Docker's word of before is about somebody else.
    since: Instant,
}

impl Uses {
    /// As a file has them: those that are not over, with their numbers. What its holdings say otherwise was written by a driver that
    /// kept no history.
    pub(super) fn of_file(open: Vec<(Number, Use)>, next: Number, kept: Kept, holdings: &[Holding], now: u64) -> Self {
        let mut uses = Self { next, new: next, kept, ..Self::default() };
        for (number, of) in open {
            uses.opens(number, of);
        }
        for line in holdings {
            uses.holds(line, None, now);
        }
        let leased = |ip: &Ipv4Addr| holdings.iter().any(|it| it.ip == *ip && matches!(it.held, Held::Lease(_)));
        let lost: Vec<Ipv4Addr> = uses.open.keys().filter(|ip| !leased(ip)).copied().collect();
        lost.into_iter().for_each(|ip| uses.ends(ip, Ended::Gone, now));
        uses
    }

    /// What a line about holdings, or about uses, means for them. `now`: by the wall clock.
    pub(super) fn follow(&mut self, line: &Line, now: u64) {
        match line {
            Line::Put(holding) => self.holds(holding, None, now),
            Line::Give(holding, holder) => self.holds(holding, Some(holder.as_deref()), now),
            Line::End(holding, ended) => {
                self.ends(holding.ip, *ended, now);
            }
            Line::Strike(ip) => self.ends(*ip, Ended::Left, now),
            Line::Shown(all, asked) => all.iter().for_each(|shown| self.shows(shown, *asked)),
            Line::Told(all) => all.iter().for_each(|told| self.was_told(told)),
            Line::Anew => {
                let untold = self.untold.as_ref().map(|_| BTreeMap::new());
                *self = Self { next: self.next, new: self.next, changes: self.changes, untold, ..Self::default() };
            }
            Line::Belongs(_) => {}
        }
    }

    /// `given`: to whom it is given now, as far as the request names him; none: what is leased was so before.
    fn holds(&mut self, holding: &Holding, given: Option<Option<&str>>, now: u64) {
        let ip = holding.ip;
        let Held::Lease(token) = &holding.held else { return self.ends(ip, Ended::Gone, now) };
        if self.open.get(&ip).is_some_and(|open| open.token == *token) {
            return;
        }
        self.ends(ip, Ended::Gone, now);
        // Who an operator keeps it for need not be who has it.
        let of_before = holding.holder.as_deref().filter(|holder| !holder.starts_with(KEPT));
        let holder = given.unwrap_or(of_before);
        let begins = Use::begins(token.clone(), ip, holding.eni.clone(), holder, now);
        let of = Use { was_found: given.is_none(), ..begins };
        let number = self.next;
        self.next += 1;
        self.change(number, of.clone());
        self.opens(number, of);
    }

    fn opens(&mut self, number: Number, of: Use) {
        self.open.insert(of.ip, Open { number, token: of.token.clone(), of, since: Instant::now() });
    }

    /// None was open: nothing.
    fn ends(&mut self, ip: Ipv4Addr, ended: Ended, now: u64) {
        if let Some(Open { number, of, .. }) = self.open.remove(&ip) {
            self.change(number, Use { end: Some((now, ended)), ..of });
        }
    }

    fn shows(&mut self, shown: &Shown, asked: Instant) {
        let Some(open) = self.open.get_mut(&shown.ip).filter(|open| open.since < asked) else { return };
        if open.of.is_shown(shown) {
            let (number, of) = (open.number, open.of.clone());
            self.change(number, of);
        }
    }

    fn change(&mut self, number: Number, of: Use) {
        self.changes += 1;
        self.changed.insert(number, of);
        if let Some(untold) = &mut self.untold {
            untold.insert(number, self.changes);
        }
        self.told.remove(&number);
        while self.changed.len() > UNWRITTEN {
            self.changed.pop_first();
        }
    }

    /// What changed since is still to be told.
    fn was_told(&mut self, told: &Untold) {
        let Some(untold) = &mut self.untold else { return };
        if untold.get(&told.number) == Some(&told.change) {
            untold.remove(&told.number);
            self.told.insert(told.number);
        }
    }

    /// From now on the table is told: of these, and of whatever changes.
    pub(super) fn is_to_tell(&mut self, numbers: impl IntoIterator<Item = Number>) {
        let change = self.changes;
        let untold = self.untold.get_or_insert_default();
        numbers.into_iter().for_each(|number| {
            untold.entry(number).or_insert(change);
        });
        untold.extend(self.changed.keys().map(|number| (*number, change)));
    }

    /// The first so many that the table does not have, with their last change.
    pub(super) fn untold(&self, most: usize) -> Vec<(Number, u64)> {
        self.untold.iter().flatten().take(most).map(|(number, change)| (*number, *change)).collect()
    }

    /// They are on the disk no more: too old.
    pub(super) fn forgets(&mut self, numbers: &[Number]) {
        self.kept.rows = self.kept.rows.saturating_sub(u64::try_from(numbers.len()).unwrap_or_default());
        self.are_gone(numbers);
    }

    pub(super) fn are_gone(&mut self, numbers: &[Number]) {
        if let Some(untold) = &mut self.untold {
            untold.retain(|number, _| !numbers.contains(number));
        }
    }

    /// What a file of its own has to have, and those that are not over.
    pub(super) fn for_a_new_file(&mut self, since: u64) {
        self.changed.extend(self.open.values().map(|open| (open.number, open.of.clone())));
        (self.new, self.told) = (0, BTreeSet::new());
        self.kept = Kept { since, rows: 0 };
    }

    /// What is to be written: which change, and which the table has been told of.
    pub(super) fn unwritten(&self) -> (impl Iterator<Item = (Number, &Use)>, impl Iterator<Item = Number>) {
        (self.changed.iter().map(|(number, of)| (*number, of)), self.told.iter().copied())
    }

    /// How many rows a file has more once it is written.
    pub(super) fn more(&self) -> u64 {
        u64::try_from(self.changed.range(self.new..).count()).unwrap_or(u64::MAX)
    }

    pub(super) fn has_unwritten(&self) -> bool {
        !self.changed.is_empty() || !self.told.is_empty()
    }

    /// It is on the disk, and these are not any more.
    pub(super) fn written(&mut self, kept: Kept, forgotten: &[Number]) {
        self.are_gone(forgotten);
        self.new = self.next;
        self.kept = kept;
        self.changed.clear();
        self.told.clear();
    }

    /// One that is in memory: all that are not on the disk are.
    pub(super) fn in_memory(&self, number: Number) -> Option<&Use> {
        self.changed.get(&number)
    }

    /// Those in memory, last first: all that there is while there is no file.
    pub(super) fn all_in_memory(&self) -> Vec<Use> {
        let open = self.open.values().map(|open| (open.number, &open.of));
        let all: BTreeMap<Number, &Use> = open.chain(self.changed.iter().map(|(number, of)| (*number, of))).collect();
        all.into_values().rev().cloned().collect()
    }
}

/// Who gets an address as it enters the journal.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Given {
    pub ip: Ipv4Addr,
    /// As the request named him, with its mark.
    pub holder: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::holding::Moment;
    use crate::domain::id::{Boot, EniId, Kind, SubnetId};

    const IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);

    fn holding(held: Held) -> Holding {
        Holding {
            ip: IP,
            eni: EniId::stored("eni-0123456789abcdef0".into()),
            subnet: SubnetId::stored("subnet-0123456789abcdef0".into()),
            held,
            holder: None,
            let_go: Moment { boot: "a".into(), since_boot: std::time::Duration::ZERO, wall: std::time::Duration::ZERO },
            posted: true,
            doubted: false,
        }
    }

    fn lease() -> Holding {
        holding(Held::Lease(Boot::random().unwrap().claim(1, Kind::Lease)))
    }

    /// Its number, its beginning, whether it was found, and its end.
    type Brief = (Number, u64, bool, Option<(u64, Ended)>);

    fn written(uses: &Uses) -> Vec<Brief> {
        uses.unwritten().0.map(|(number, of)| (number, of.begun, of.was_found, of.end)).collect()
    }

    #[test]
    fn a_use_follows_from_what_is_written_of_its_address() {
        let (first, second) = (lease(), lease());
        let mut uses = Uses::default();
        uses.follow(&Line::Put(holding(Held::Idle)), 1);
        assert!(!uses.has_unwritten());
        uses.follow(&Line::Give(first.clone(), Some("web".into())), 2);
        // The table was told of it.
        uses.follow(&Line::Put(first.clone()), 3);
        assert_eq!(written(&uses), [(0, 2, false, None)]);
        uses.follow(&Line::End(holding(Held::Idle), Ended::Released), 4);
        uses.follow(&Line::Put(holding(Held::Idle)), 5);
        assert_eq!(written(&uses), [(0, 2, false, Some((4, Ended::Released)))]);
        // The table has it leased, of which this journal knew nothing; then by another token.
        uses.follow(&Line::Put(first), 6);
        uses.follow(&Line::Put(second), 7);
        uses.follow(&Line::Strike(IP), 8);
        let rest = [(1, 6, true, Some((7, Ended::Gone))), (2, 7, true, Some((8, Ended::Left)))];
        assert_eq!(written(&uses)[1..], rest);
        assert_eq!(uses.more(), 3);
    }

    #[test]
    fn dockers_word_of_before_a_grant_names_nobody() {
        let shown = |name: &str, asked| {
            Line::Shown(vec![Shown { ip: IP, name: name.into(), container: None, network: "pods".into() }], asked)
        };
        let mut uses = Uses::default();
        let before = Instant::now();
        uses.follow(&Line::Give(lease(), None), 1);
        uses.follow(&shown("the one before", before), 2);
        let name = |uses: &Uses| uses.unwritten().0.next().and_then(|(_, of)| of.name.clone());
        assert_eq!(name(&uses), None);
        uses.follow(&shown("web", Instant::now()), 3);
        assert_eq!(name(&uses).as_deref(), Some("web"));
        uses.written(Kept::default(), &[]);
        uses.follow(&shown("web", Instant::now()), 4);
        assert!(!uses.has_unwritten(), "it is no news");
        uses.follow(&Line::End(holding(Held::Idle), Ended::Released), 5);
        assert_eq!(name(&uses).as_deref(), Some("web"), "it is kept");
    }

    #[test]
    fn whom_an_address_is_kept_for_need_not_be_who_is_found_with_it() {
        for (holder, name) in [("web", Some("web")), ("fixed:web", Some("web")), ("fixed:reserved:web", None)] {
            let mut uses = Uses::default();
            uses.follow(&Line::Put(Holding { holder: Some(holder.into()), ..lease() }), 1);
            assert_eq!(uses.all_in_memory()[0].name.as_deref(), name, "{holder}");
        }
    }

    #[test]
    fn what_changed_while_the_table_was_told_is_told_again() {
        let mut uses = Uses::default();
        uses.is_to_tell([]);
        uses.follow(&Line::Give(lease(), None), 1);
        let told = |uses: &Uses| {
            let (number, change) = uses.untold(9)[0];
            Untold::new(number, change, uses.in_memory(number).unwrap().clone())
        };
        let early = told(&uses);
        uses.follow(&Line::End(holding(Held::Idle), Ended::Released), 2);
        uses.follow(&Line::Told(vec![early]), 3);
        assert_eq!(uses.untold(9).len(), 1);
        let whole = told(&uses);
        uses.follow(&Line::Told(vec![whole]), 4);
        assert!(uses.untold(9).is_empty());
    }

    #[test]
    fn what_a_driver_without_history_wrote_is_put_right() {
        let (kept, lost, unknown) = (lease(), lease(), lease());
        let of = |holding: &Holding, ip| {
            let Held::Lease(token) = &holding.held else { panic!() };
            Use::begins(token.clone(), ip, holding.eni.clone(), None, 1)
        };
        let other = Ipv4Addr::new(10, 0, 0, 10);
        let third = Ipv4Addr::new(10, 0, 0, 11);
        let open = vec![(3, of(&kept, IP)), (4, of(&lost, other))];
        let holdings = [kept, Holding { ip: third, ..unknown }];
        let uses = Uses::of_file(open, 7, Kept { since: 1, rows: 2 }, &holdings, 9);
        assert_eq!(written(&uses), [(4, 1, false, Some((9, Ended::Gone))), (7, 9, true, None)]);
    }
}
