//! The holdings in memory, and what becomes of each.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Instant;

use super::End;
use crate::domain::address::KEPT;
use crate::domain::holding::{Held, Holding, Moment};
use crate::domain::id::{Claim, EniId};

/// How often a holding was changed in this life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version(u64);

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

pub(super) fn is_marked(holding: &Holding, mark: &str) -> bool {
    holding.holder.as_deref().is_some_and(|holder| holder.starts_with(mark))
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::domain::id::{Boot, Kind, SubnetId};

    fn at(seconds: u64) -> Moment {
        Moment { boot: Arc::from("boot"), since_boot: Duration::from_secs(seconds), wall: Duration::from_secs(seconds) }
    }

    pub(crate) fn now() -> Moment {
        at(10_000)
    }

    pub(crate) fn eni() -> EniId {
        EniId::stored("eni-0123456789abcdef0".into())
    }

    pub(crate) fn ip(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, last)
    }

    pub(crate) fn idle(last: u8, idle: u64, holder: Option<&str>) -> Holding {
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

    pub(crate) fn token() -> Claim {
        Boot::random().unwrap().claim(1, Kind::Lease)
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
        assert!(matches!(book.get(ip(10)).unwrap().held, Held::Leaving(_)));
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
