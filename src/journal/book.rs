//! The holdings in memory: which one is given, and what becomes of each.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::{End, Wanted};
use crate::domain::address::{FIXED, KEPT};
use crate::domain::block::{Block, SIZE};
use crate::domain::holding::{Held, Holding, Moment};
use crate::domain::id::{Claim, EniId};

/// How often a holding was changed in this life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version(u64);

/// Which of an ENI's idle addresses may be given; the coldest of them is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice<'a> {
    /// Those let go at least so long ago, that no container had named, and that are in no block that is asked back.
    Cooled(Duration),
    /// The one that is kept for this endpoint, or that it had last, cooled or not.
    Returning(&'a str),
    /// Any but those that are kept for somebody; those that a container had named come last.
    Any,
    /// This one.
    This(Ipv4Addr),
}

#[derive(Default)]
pub(super) struct Book {
    entries: BTreeMap<Ipv4Addr, Entry>,
    changes: u64,
}

struct Entry {
    holding: Holding,
    version: Version,
    /// What it was before its lease, as long as the table has not heard of that.
    before: Option<Box<Holding>>,
    /// The table says that it is not this ENI's: it is not told again before something changes.
    differs: bool,
    /// Since when the table does not say so.
    behind: Instant,
    /// When it was changed, or the table told, last.
    touched: Instant,
}

impl Book {
    pub(super) fn new(holdings: Vec<Holding>) -> Self {
        let mut book = Self::default();
        holdings.into_iter().for_each(|holding| book.put(holding));
        book
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Holding> {
        self.entries.values().map(|entry| &entry.holding)
    }

    pub(super) fn get(&self, ip: Ipv4Addr) -> Option<&Holding> {
        self.entries.get(&ip).map(|entry| &entry.holding)
    }

    pub(super) fn put(&mut self, holding: Holding) {
        self.changes += 1;
        let version = Version(self.changes);
        let now = Instant::now();
        let entry = Entry { holding, version, before: None, differs: false, behind: now, touched: now };
        self.entries.insert(entry.holding.ip, entry);
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }

    pub(super) fn strike(&mut self, ip: Ipv4Addr) {
        self.entries.remove(&ip);
    }

    pub(super) fn change(&mut self, ip: Ipv4Addr, change: impl FnOnce(&mut Holding)) -> Option<Holding> {
        let entry = self.entries.get_mut(&ip)?;
        self.changes += 1;
        entry.version = Version(self.changes);
        (entry.before, entry.differs) = (None, false);
        entry.touched = Instant::now();
        if entry.holding.posted {
            entry.behind = entry.touched;
        }
        change(&mut entry.holding);
        Some(entry.holding.clone())
    }

    /// The coldest that a choice allows; of those that are as cold none comes first by its number.
    pub(super) fn choose(
        &self,
        wanted: &Wanted<'_>,
        now: &Moment,
        may_give: impl Fn(Ipv4Addr) -> bool,
    ) -> Option<Ipv4Addr> {
        wanted.choices.iter().find_map(|choice| self.coldest(*choice, wanted, now, &may_give))
    }

    fn coldest(
        &self,
        choice: Choice<'_>,
        wanted: &Wanted<'_>,
        now: &Moment,
        may_give: impl Fn(Ipv4Addr) -> bool,
    ) -> Option<Ipv4Addr> {
        let in_range = |ip| wanted.sub_pool.is_none_or(|range| range.contains(&ip));
        let idle = self.all().filter(|holding| holding.eni == *wanted.eni && holding.held == Held::Idle);
        let open = idle.filter(|holding| !holding.doubted && in_range(holding.ip));
        let fit = open.filter(|holding| allows(choice, holding, wanted, now) && may_give(holding.ip));
        // Of those that one endpoint may have: what is kept for it. Otherwise what a container had named comes last.
        let rank = |holding: &Holding| match choice {
            Choice::Returning(_) => !is_marked(holding, KEPT),
            Choice::Cooled(_) | Choice::Any | Choice::This(_) => {
                is_named(holding, wanted.blocks) || wanted.recalled.contains(&Block::of(holding.ip))
            }
        };
        let leases = self.leases_of_blocks(wanted);
        let emptiness = |ip| leases.get(&Block::of(ip)).map_or(usize::MAX, |leases| SIZE - leases);
        let key = |holding: &&Holding| {
            (rank(holding), emptiness(holding.ip), u64::MAX - age(holding, now), fastrand::u64(..))
        };
        fit.min_by_key(key).map(|holding| holding.ip)
    }

    /// How many addresses of each of the ENI's blocks containers have.
    fn leases_of_blocks(&self, wanted: &Wanted<'_>) -> BTreeMap<Block, usize> {
        let mut leases: BTreeMap<Block, usize> = wanted.blocks.iter().map(|block| (*block, 0)).collect();
        if !leases.is_empty() {
            let leased = self.all().filter(|holding| matches!(holding.held, Held::Lease(_)));
            for holding in leased.filter(|holding| holding.eni == *wanted.eni) {
                leases.entry(Block::of(holding.ip)).and_modify(|leases| *leases += 1);
            }
        }
        leases
    }

    /// What is kept for somebody stays so.
    pub(super) fn lease(&mut self, ip: Ipv4Addr, token: Claim, holder: Option<&str>) -> Option<Holding> {
        let before = self.get(ip)?.clone();
        let now = self.change(ip, |holding| {
            if !is_marked(holding, KEPT) {
                holding.holder = holder.map(str::to_owned);
            }
            (holding.held, holding.posted) = (Held::Lease(token), false);
        });
        if let Some(entry) = self.entries.get_mut(&ip).filter(|_| before.posted) {
            entry.before = Some(Box::new(before));
        }
        now
    }

    pub(super) fn end(&mut self, ip: Ipv4Addr, token: &Claim, end: End, now: &Moment) -> Option<Holding> {
        let entry = self.entries.get_mut(&ip)?;
        if entry.holding.held != Held::Lease(token.clone()) {
            return None;
        }
        let before = entry.before.take();
        self.change(ip, |holding| match (end, before) {
            // The table was never told.
            (End::TakenBack, Some(before)) => *holding = *before,
            (End::TakenBack, None) => (holding.held, holding.posted) = (Held::Idle, false),
            (End::Released | End::LetGo | End::Found, _) => {
                (holding.held, holding.posted, holding.let_go) = (Held::Idle, false, now.clone());
            }
        })
    }

    /// All of them or none. What the table has not heard of yet is told first: else its row would be given back as what it is no
    /// more.
    pub(super) fn leave(&mut self, ips: &[Ipv4Addr], token: &Claim) -> Vec<Holding> {
        let stays = |ip: &Ipv4Addr| {
            self.get(*ip).is_some_and(|holding| match holding.held {
                Held::Idle => !holding.posted,
                Held::Leaving(_) => false,
                Held::Lease(_) => true,
            })
        };
        if ips.iter().any(stays) {
            return Vec::new();
        }
        let leave = |holding: &mut Holding| holding.held = Held::Leaving(token.clone());
        ips.iter().filter_map(|ip| self.change(*ip, leave)).collect()
    }

    /// But for those that leave: whoever gives them back tells the table.
    pub(super) fn unposted(&self, eni: &EniId) -> impl Iterator<Item = &Holding> {
        let all = self.entries.values().filter(|entry| !entry.differs).map(|entry| &entry.holding);
        let is_behind = |holding: &&Holding| !holding.posted && !matches!(holding.held, Held::Leaving(_));
        all.filter(is_behind).filter(move |holding| holding.eni == *eni)
    }

    pub(super) fn unposted_since(&self, eni: &EniId) -> Option<Instant> {
        let behind = self.unposted(eni).filter_map(|holding| self.entries.get(&holding.ip));
        behind.map(|entry| entry.behind).min()
    }

    /// Those of which the table has been told all there is, those that leave among them, with nothing since then.
    pub(super) fn settled(&self, eni: &EniId, since: Instant) -> impl Iterator<Item = &Holding> {
        let is_told = |holding: &Holding| holding.posted || matches!(holding.held, Held::Leaving(_));
        let all = self.entries.values().filter(move |entry| is_told(&entry.holding) && entry.touched < since);
        all.map(|entry| &entry.holding).filter(move |holding| holding.eni == *eni)
    }

    /// Whatever becomes of it, the table may have heard of it from now on.
    pub(super) fn begin_post(&mut self, eni: &EniId) -> Vec<(Holding, Version)> {
        let unposted: Vec<Ipv4Addr> = self.unposted(eni).map(|holding| holding.ip).collect();
        let told = unposted.iter().filter_map(|ip| {
            let entry = self.entries.get_mut(ip)?;
            entry.before = None;
            Some((entry.holding.clone(), entry.version))
        });
        told.collect()
    }

    pub(super) fn differs(&mut self, ip: Ipv4Addr, version: Version) {
        if let Some(entry) = self.entries.get_mut(&ip).filter(|entry| entry.version == version) {
            entry.differs = true;
        }
    }

    pub(super) fn was_posted(&mut self, ip: Ipv4Addr, version: Version) -> Option<Holding> {
        let entry = self.entries.get_mut(&ip).filter(|entry| entry.version == version)?;
        entry.holding.posted = true;
        (entry.before, entry.touched) = (None, Instant::now());
        Some(entry.holding.clone())
    }
}

fn allows(choice: Choice<'_>, holding: &Holding, wanted: &Wanted<'_>, now: &Moment) -> bool {
    let is_recalled = || wanted.recalled.contains(&Block::of(holding.ip));
    match choice {
        Choice::Cooled(cooldown) => {
            !is_named(holding, wanted.blocks) && !is_recalled() && holding.let_go.age(now) >= cooldown
        }
        Choice::Returning(name) => holding.holder.as_deref() == Some(name) || holding.kept_for() == Some(name),
        Choice::Any => !is_marked(holding, KEPT),
        Choice::This(ip) => holding.ip == ip,
    }
}

/// Whether it is on its way back to the subnet for the container that had named it. One of a block stays with the block, and is
/// anybody's once it has cooled.
fn is_named(holding: &Holding, blocks: &BTreeSet<Block>) -> bool {
    is_marked(holding, FIXED) && (is_marked(holding, KEPT) || !blocks.contains(&Block::of(holding.ip)))
}

fn is_marked(holding: &Holding, mark: &str) -> bool {
    holding.holder.as_deref().is_some_and(|holder| holder.starts_with(mark))
}

fn age(holding: &Holding, now: &Moment) -> u64 {
    holding.let_go.age(now).as_secs()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::domain::id::{Boot, Kind, SubnetId};

    const MINUTE: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> Moment {
        Moment { boot: Arc::from("boot"), since_boot: Duration::from_secs(seconds), wall: Duration::from_secs(seconds) }
    }

    fn now() -> Moment {
        at(10_000)
    }

    fn eni() -> EniId {
        EniId::stored("eni-0123456789abcdef0".into())
    }

    fn ip(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, last)
    }

    fn idle(last: u8, idle: u64, holder: Option<&str>) -> Holding {
        Holding {
            ip: ip(last),
            eni: eni(),
            subnet: SubnetId::stored("subnet-0123456789abcdef0".into()),
            held: Held::Idle,
            holder: holder.map(str::to_owned),
            let_go: at(10_000 - idle),
            posted: true,
            doubted: false,
        }
    }

    fn token() -> Claim {
        Boot::random().unwrap().claim(1, Kind::Lease)
    }

    fn chosen(book: &Book, choice: Choice<'_>, may_give: impl Fn(u8) -> bool) -> Option<u8> {
        chosen_with(book, &[], choice, may_give)
    }

    /// `blocks`: the last numbers of their first addresses.
    fn chosen_with(book: &Book, blocks: &[u8], choice: Choice<'_>, may_give: impl Fn(u8) -> bool) -> Option<u8> {
        chosen_beside(book, blocks, &[], choice, may_give)
    }

    /// `recalled`: of the blocks.
    fn chosen_beside(
        book: &Book,
        blocks: &[u8],
        recalled: &[u8],
        choice: Choice<'_>,
        may_give: impl Fn(u8) -> bool,
    ) -> Option<u8> {
        let (eni, token) = (eni(), token());
        let those = |lasts: &[u8]| lasts.iter().map(|last| Block::of(ip(*last))).collect();
        let (choices, blocks, recalled) = (&[choice], &those(blocks), &those(recalled));
        let wanted = Wanted { eni: &eni, sub_pool: None, choices, blocks, recalled, token: &token, holder: None };
        book.choose(&wanted, &now(), |ip| may_give(ip.octets()[3])).map(|ip| ip.octets()[3])
    }

    #[test]
    fn the_coldest_that_a_choice_allows_and_that_may_be_given_is_chosen() {
        let book = Book::new(vec![
            idle(10, 900, Some("fixed:db")),
            idle(11, 800, Some("web")),
            idle(12, 700, None),
            idle(13, 5, None),
            idle(14, 950, Some("fixed:reserved:mail")),
            Holding { doubted: true, ..idle(15, 9000, None) },
            Holding { held: Held::Lease(token()), ..idle(16, 9000, None) },
            Holding { held: Held::Leaving(token()), ..idle(17, 9000, None) },
            Holding { eni: EniId::stored("eni-0123456789abcdef1".into()), ..idle(18, 9000, None) },
        ]);
        let any = |_| true;
        assert_eq!(chosen(&book, Choice::Cooled(MINUTE), any), Some(11));
        assert_eq!(chosen(&book, Choice::Cooled(MINUTE), |last| last != 11), Some(12));
        assert_eq!(chosen(&book, Choice::Cooled(MINUTE), |last| last > 12), None, "I10: it cools, or is somebody's");
        assert_eq!(chosen(&book, Choice::Returning("web"), any), Some(11));
        assert_eq!(chosen(&book, Choice::Returning("mail"), any), Some(14));
        assert_eq!(chosen(&book, Choice::Returning("db"), any), None, "it named its address");
        assert_eq!(chosen(&book, Choice::Any, |last| last != 11 && last != 12), Some(13));
        assert_eq!(
            chosen(&book, Choice::Any, |last| [10, 14].contains(&last)),
            Some(10),
            "I7: it is kept for somebody"
        );
        assert_eq!(chosen(&book, Choice::This(ip(10)), any), Some(10));
        for last in [15, 16, 17, 18] {
            assert_eq!(chosen(&book, Choice::This(ip(last)), any), None, "{last}");
        }
    }

    #[test]
    fn the_fullest_block_gives_first_and_single_addresses_last() {
        let lease = |last| Holding { held: Held::Lease(token()), ..idle(last, 0, None) };
        let mut holdings = vec![idle(5, 9000, None), idle(16, 9000, None), idle(17, 900, None), lease(18)];
        holdings.extend([idle(32, 100, None), idle(33, 800, Some("fixed:db")), lease(34), lease(35)]);
        let book = Book::new(holdings);
        let (cooled, blocks, any) = (Choice::Cooled(MINUTE), [16, 32], |_| true);
        assert_eq!(
            chosen_with(&book, &blocks, cooled, any),
            Some(33),
            "the coldest there; a block keeps what was named"
        );
        assert_eq!(chosen_with(&book, &blocks, cooled, |last| last != 33), Some(32));
        assert_eq!(chosen_with(&book, &blocks, cooled, |last| last < 32), Some(16));
        assert_eq!(chosen_with(&book, &blocks, cooled, |last| last == 5), Some(5));
        let without = |choice, may_give: fn(u8) -> bool| chosen_beside(&book, &blocks, &[32], choice, may_give);
        assert_eq!(without(cooled, |_| true), Some(16), "the other one is asked back");
        assert_eq!(without(cooled, |last| last >= 32), None);
        assert_eq!(without(Choice::Any, |last| last >= 32), Some(33), "before a container has none");
        assert_eq!(without(Choice::Any, |_| true), Some(16));
    }

    #[test]
    fn of_a_block_all_leave_or_none() {
        let (off, both) = (token(), [ip(16), ip(17)]);
        let mut book = Book::new(vec![idle(16, 900, None), idle(17, 900, None)]);
        book.lease(ip(17), token(), None);
        assert!(book.leave(&both, &off).is_empty());
        assert_eq!(book.get(ip(16)).unwrap().held, Held::Idle);
        let mut book = Book::new(vec![idle(16, 900, None)]);
        assert_eq!(book.leave(&both, &off).len(), 1, "what it does not have is in nobody's way");
    }

    #[test]
    fn of_those_that_are_as_cold_none_comes_first_by_its_number() {
        let book = Book::new((1..=50).map(|last| idle(last, 900, None)).collect());
        let firsts: std::collections::HashSet<_> = (0..50).map(|_| chosen(&book, Choice::Any, |_| true)).collect();
        assert!(firsts.len() > 10, "{firsts:?}");
    }

    #[test]
    fn what_is_taken_back_is_what_it_was_and_the_table_is_not_told_of_what_it_never_heard() {
        let (mut book, token) = (Book::new(vec![idle(10, 900, Some("db"))]), token());
        let before = book.get(ip(10)).unwrap().clone();
        let lease = book.lease(ip(10), token.clone(), Some("web")).unwrap();
        assert_eq!(
            (lease.held, lease.holder.as_deref(), lease.posted),
            (Held::Lease(token.clone()), Some("web"), false)
        );
        assert_eq!(book.end(ip(10), &token, End::TakenBack, &now()), Some(before.clone()));
        // The table may have heard of it.
        book.lease(ip(10), token.clone(), Some("web"));
        assert_eq!(book.begin_post(&eni()).len(), 1);
        let back = book.end(ip(10), &token, End::TakenBack, &now()).unwrap();
        assert_eq!((back.held, back.let_go, back.posted), (Held::Idle, before.let_go, false));
    }

    #[test]
    fn a_lease_ends_by_its_own_token_only_and_cools_from_then_on() {
        let (mut book, first, second) = (Book::new(vec![idle(10, 900, None)]), token(), token());
        book.lease(ip(10), second.clone(), None);
        assert_eq!(book.end(ip(10), &first, End::Released, &now()), None);
        let released = book.end(ip(10), &second, End::Released, &now()).unwrap();
        assert_eq!((released.held, released.let_go, released.posted), (Held::Idle, now(), false));
        assert_eq!(book.end(ip(10), &second, End::Released, &now()), None, "I8");
    }

    #[test]
    fn what_leaves_never_turns_back() {
        let (mut book, off) = (Book::new(vec![idle(10, 900, None)]), token());
        assert_eq!(book.leave(&[ip(10)], &off).len(), 1);
        assert_eq!(chosen(&book, Choice::Any, |_| true), None);
        assert_eq!(book.end(ip(10), &off, End::Released, &now()), None);
        assert!(book.begin_post(&eni()).is_empty(), "its row is told by whoever gives it back");
        let mut leased = Book::new(vec![idle(10, 900, None)]);
        leased.lease(ip(10), token(), None);
        assert!(leased.leave(&[ip(10)], &off).is_empty(), "a container has it");
        let mut behind = Book::new(vec![Holding { posted: false, ..idle(10, 900, None) }]);
        assert!(behind.leave(&[ip(10)], &off).is_empty(), "the table is told first what it is");
    }

    #[test]
    fn what_changed_while_it_was_posted_is_posted_again() {
        let (mut book, token) = (Book::new(vec![idle(10, 900, None)]), token());
        book.lease(ip(10), token.clone(), None);
        let (_, version) = book.begin_post(&eni()).pop().unwrap();
        book.end(ip(10), &token, End::Released, &now());
        assert_eq!(book.was_posted(ip(10), version), None);
        let (_, version) = book.begin_post(&eni()).pop().unwrap();
        assert!(book.was_posted(ip(10), version).unwrap().posted);
        assert!(book.begin_post(&eni()).is_empty());
    }
}
