//! The journal: what each address of this host's ENIs is to this host, durable in one file of its own.
//!
//! A container's start and stop are written here, and nowhere else, before Docker is answered; the table follows. All of it is
//! in memory, and only writes touch the disk. Those that come at the same time share one commit.
//!
//! A file that takes no writes is put aside before anything is answered without it, so that it is not believed again later. As
//! long as there is none, what is recorded stands in memory alone ([`Recorded::InMemory`]), and the table has to know it first.

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ipnet::Ipv4Net;

use crate::domain::block::Block;
use crate::domain::history::Ended;
use crate::domain::holding::{Held, Holding, Moment};
use crate::domain::id::{Claim, EniId};

mod book;
mod choice;
mod clock;
mod drain;
mod file;
mod history;
mod line;
mod pen;
mod row;
mod use_row;
mod uses;

use book::Book;
pub use book::Version;
pub use choice::Choice;
use clock::Clock;
pub use drain::Drain;
pub use file::{Mark, Opened};
use line::Line;
pub use line::Untold;
use pen::Pen;
pub use pen::State;
pub use uses::{Given, Kept};

/// What was recorded where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Recorded {
    /// On the disk.
    Durable,
    /// In this life's memory alone: the table has to know it before anybody is answered.
    InMemory,
}

/// An idle address that is wanted.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Wanted<'a> {
    pub eni: &'a EniId,
    /// Only inside this block.
    pub sub_pool: Option<Ipv4Net>,
    /// Only of these; what the first allows before the next.
    pub choices: &'a [Choice<'a>],
    /// The ENI's blocks: the fullest gives first, so that the others empty and can go back; single addresses give last.
    pub blocks: &'a BTreeSet<Block>,
    /// Those of them that another host has asked back: they give only where nothing else is to be had.
    pub recalled: &'a BTreeSet<Block>,
    /// A `lease` token, used for this alone.
    pub token: &'a Claim,
    /// The endpoint, if the Engine names it.
    pub holder: Option<&'a str>,
}

/// How a lease ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Its container is gone, as Docker says: it cools from now on.
    Released,
    /// The same, as an operator says.
    LetGo,
    /// The same, as Docker did not say, but shows.
    Found,
    /// Its container never got it: it is what it was before.
    TakenBack,
}

impl End {
    /// As history has it.
    pub fn ended(self) -> Ended {
        match self {
            Self::Released | Self::LetGo => Ended::Released,
            Self::Found => Ended::Found,
            Self::TakenBack => Ended::TakenBack,
        }
    }
}

/// One for the life of a driver.
pub struct Journal {
    book: Arc<Mutex<Book>>,
    pen: Pen,
    clock: Clock,
    opened: Mutex<Opened>,
    /// As what it spoke to the table in this life.
    spoken: Mutex<HashMap<EniId, Spoken>>,
}

/// As what it spoke for an ENI.
struct Spoken {
    tried: Mark,
    told: Option<Mark>,
}

impl Journal {
    /// Opens the file, or makes a new one. What cannot be read is put aside; what cannot be made either is told by
    /// [`Self::state`], and tried again.
    pub fn open(path: &Path) -> Self {
        let clock = Clock::new();
        let now = clock.now();
        let mut found = file::open(path, &now);
        let opened = Mutex::new(found.opened.clone());
        let book = Arc::new(Mutex::new(Book::new(std::mem::take(&mut found.holdings))));
        let pen = Pen::new(path.to_owned(), found, Arc::clone(&book));
        Self { book, pen, clock, opened, spoken: Mutex::default() }
    }

    /// Without a file: for a process that serves no host.
    pub fn nowhere() -> Self {
        let opened = Opened { is_of_this_boot: true, instance: None, marks: Vec::new() };
        Self {
            book: Arc::default(),
            pen: Pen::without(),
            clock: Clock::new(),
            opened: Mutex::new(opened),
            spoken: Mutex::default(),
        }
    }

    /// Whether it has a file, or is to have one.
    pub fn is_somewhere(&self) -> bool {
        !self.path().as_os_str().is_empty()
    }

    /// Where it is, or is to be.
    pub fn path(&self) -> &Path {
        self.pen.path()
    }

    /// How it was found.
    pub fn opened(&self) -> Opened {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// This host's instance. What another one's journal says is not of this host: a disk was cloned. It is put aside.
    pub fn belongs_to(&self, instance: &str) {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if opened.instance.as_deref() == Some(instance) {
            return;
        }
        let mut lines = vec![Line::Belongs(instance.to_owned())];
        if let Some(other) = opened.instance.replace(instance.to_owned()) {
            tracing::error!("the journal is that of {other}: put aside, and a new one is begun");
            opened.marks.clear();
            self.book().clear();
            lines.insert(0, Line::Anew);
        }
        self.pen.write_soon(lines);
    }

    /// Whether it takes writes.
    pub fn state(&self) -> State {
        self.pen.state()
    }

    /// As what a file was last put aside in this life, and why.
    pub fn put_aside(&self) -> Option<String> {
        self.pen.put_aside()
    }

    /// Which journal this is and how far it has come, for the table to know who spoke last. None: none that lasts.
    pub fn mark(&self) -> Option<Mark> {
        self.pen.mark()
    }

    /// What the table is to be told of it now; none where it was told that last.
    pub fn is_to_speak(&self, eni: &EniId) -> Option<Mark> {
        let mark = self.mark()?;
        let mut spoken = self.spoken();
        let told = spoken.get(eni).and_then(|spoken| spoken.told.clone());
        if told.as_ref() == Some(&mark) {
            return None;
        }
        // Its answer may be lost.
        spoken.insert(eni.clone(), Spoken { tried: mark.clone(), told });
        Some(mark)
    }

    /// The table was told that.
    pub fn has_spoken(&self, eni: &EniId, mark: Mark) {
        self.spoken().insert(eni.clone(), Spoken { tried: mark.clone(), told: Some(mark) });
    }

    /// Whether it has all that the journal knew which left this mark with the table.
    pub fn follows(&self, eni: &EniId, before: &str) -> bool {
        let is_of_this_life = self.spoken().get(eni).is_some_and(|spoken| spoken.tried.has(before));
        let is_followed = match self.opened().marks.as_slice() {
            [own, others @ ..] => own.follows(before) || others.iter().any(|mark| mark.has(before)),
            [] => false,
        };
        is_of_this_life || is_followed
    }

    fn spoken(&self) -> MutexGuard<'_, HashMap<EniId, Spoken>> {
        self.spoken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The moment by its clocks.
    pub fn now(&self) -> Moment {
        self.clock.now()
    }

    /// The addresses of an ENI.
    pub fn of(&self, eni: &EniId) -> Vec<Holding> {
        self.book().all().filter(|holding| holding.eni == *eni).cloned().collect()
    }

    /// One of them. What an interface had that left this host may be another one's by now.
    pub fn holding(&self, eni: &EniId, ip: Ipv4Addr) -> Option<Holding> {
        self.book().get(ip).filter(|holding| holding.eni == *eni).cloned()
    }

    /// The token of its lease.
    pub fn lease(&self, eni: &EniId, ip: Ipv4Addr) -> Option<Claim> {
        match self.holding(eni, ip)?.held {
            Held::Lease(token) => Some(token),
            Held::Idle | Held::Leaving(_) => None,
        }
    }

    /// What the table does not say yet.
    pub fn unposted(&self, eni: &EniId) -> Vec<Holding> {
        self.book().unposted(eni).cloned().collect()
    }

    /// Of which the table has been told, with nothing since then.
    pub fn settled(&self, eni: &EniId, since: Instant) -> Vec<Holding> {
        self.book().settled(eni, since).cloned().collect()
    }

    /// Since when the first of them has waited.
    pub fn unposted_since(&self, eni: &EniId) -> Option<Instant> {
        self.book().unposted_since(eni)
    }

    /// The same, to be told to it now, with what to give to [`Self::was_posted`].
    pub fn to_post(&self, eni: &EniId) -> Vec<(Holding, Version)> {
        self.book().begin_post(eni)
    }

    /// The table says so; what was changed since is still to be posted.
    pub fn was_posted(&self, posted: &[(Ipv4Addr, Version)]) {
        let mut book = self.book();
        let lines = posted.iter().filter_map(|(ip, version)| book.was_posted(*ip, *version)).map(Line::Put).collect();
        // Lost, it would be posted once more.
        self.pen.write_sometime(lines);
    }

    /// The table says that these are not this ENI's: it is not told again before something changes.
    pub fn differs(&self, differing: &[(Ipv4Addr, Version)]) {
        let mut book = self.book();
        differing.iter().for_each(|(ip, version)| book.differs(*ip, *version));
    }

    /// The table says otherwise: it is to be told again.
    pub fn to_be_posted(&self, ip: Ipv4Addr) {
        let mut book = self.book();
        let lines = book.change(ip, |holding| holding.posted = false).map(Line::Put).into_iter().collect();
        self.pen.write_soon(lines);
    }

    /// idle -> lease: the one that is chosen, of those that may be given. Whoever leaves before the answer did not get it.
    pub async fn give(&self, wanted: &Wanted<'_>, may_give: impl Fn(Ipv4Addr) -> bool) -> Option<(Ipv4Addr, Recorded)> {
        let now = self.clock.now();
        let (ip, written) = {
            let mut book = self.book();
            let ip = book.choose(wanted, &now, may_give)?;
            let lease = book.lease(ip, wanted.token.clone(), wanted.holder)?;
            (ip, self.pen.write(vec![Line::Give(lease, wanted.holder.map(str::to_owned))]))
        };
        let mut unheard = Unheard { journal: self, ip, token: Some(wanted.token) };
        let recorded = written.await;
        unheard.token = None;
        Some((ip, recorded))
    }

    /// lease -> idle, if it is this lease; says whether it was.
    pub async fn end(&self, ip: Ipv4Addr, token: &Claim, end: End) -> Option<Recorded> {
        let now = self.clock.now();
        let written = {
            let mut book = self.book();
            self.pen.write(vec![Line::End(book.end(ip, token, end, &now)?, end.ended())])
        };
        Some(written.await)
    }

    /// lease -> idle, whichever lease it is; none where this ENI has none of it.
    pub async fn release(&self, eni: &EniId, ip: Ipv4Addr) -> Option<Recorded> {
        self.end(ip, &self.lease(eni, ip)?, End::Released).await
    }

    /// From now on these are this host's: EC2 has put them on the ENI, or the table has them there. `given`: to whom some of them
    /// are given with that; other leases among them were given before.
    pub async fn enter(&self, holdings: Vec<Holding>, given: &[Given]) -> Recorded {
        let line = |holding: &Holding| match given.iter().find(|given| given.ip == holding.ip) {
            Some(given) => Line::Give(holding.clone(), given.holder.clone()),
            None => Line::Put(holding.clone()),
        };
        let written = {
            let mut book = self.book();
            let lines = holdings.iter().map(line).collect();
            holdings.into_iter().for_each(|holding| book.put(holding));
            self.pen.write(lines)
        };
        written.await
    }

    /// Changes those that are there still.
    pub async fn change(&self, ips: &[Ipv4Addr], change: impl Fn(&mut Holding)) -> Recorded {
        let written = {
            let mut book = self.book();
            let lines = ips.iter().filter_map(|ip| book.change(*ip, &change)).map(Line::Put).collect();
            self.pen.write(lines)
        };
        written.await
    }

    /// idle -> leaving; those that are. Of each unit all or none do; an address that it does not have is in nobody's way.
    pub async fn leave(&self, units: &[Vec<Ipv4Addr>], token: &Claim) -> (Vec<Ipv4Addr>, Recorded) {
        let (left, written) = {
            let mut book = self.book();
            let left: Vec<Holding> = units.iter().flat_map(|ips| book.leave(ips, token)).collect();
            let gone = left.iter().map(|holding| holding.ip).collect();
            (gone, self.pen.write(left.into_iter().map(Line::Put).collect()))
        };
        (left, written.await)
    }

    /// They are not this host's any more, as far as they are still what `is` says.
    pub async fn strike(&self, ips: &[Ipv4Addr], is: impl Fn(&Holding) -> bool) -> Recorded {
        let written = {
            let mut book = self.book();
            let struck = ips.iter().filter(|ip| book.get(**ip).is_some_and(&is)).copied().collect::<Vec<_>>();
            struck.iter().for_each(|ip| book.strike(*ip));
            self.pen.write(struck.into_iter().map(Line::Strike).collect())
        };
        written.await
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        book(&self.book)
    }
}

/// A grant that nobody has heard of yet.
struct Unheard<'a> {
    journal: &'a Journal,
    ip: Ipv4Addr,
    /// None once somebody has.
    token: Option<&'a Claim>,
}

impl Drop for Unheard<'_> {
    fn drop(&mut self) {
        let Self { journal, ip, token } = self;
        if let Some(token) = token {
            let mut book = journal.book();
            let ended = book.end(*ip, token, End::TakenBack, &journal.clock.now());
            let line = |holding| Line::End(holding, End::TakenBack.ended());
            journal.pen.write_soon(ended.map(line).into_iter().collect());
        }
    }
}

/// Of these addresses the one that is wanted, as the lease that it becomes. None is recorded.
pub fn chosen(
    holdings: Vec<Holding>,
    wanted: &Wanted<'_>,
    now: &Moment,
    may_give: impl Fn(Ipv4Addr) -> bool,
) -> Option<Holding> {
    let mut book = Book::new(holdings);
    let ip = book.choose(wanted, now, may_give)?;
    book.lease(ip, wanted.token.clone(), wanted.holder)
}

/// Nothing in a critical section of this lock can panic half-way through a change.
fn book(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
