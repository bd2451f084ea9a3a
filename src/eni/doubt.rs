//! Whether what the journal and the table say of an ENI is all that there is to know.
//!
//! A journal that was kept in this boot of the machine is. One that is new, or an older copy, is not: its host may have given an
//! address of which neither it nor the table has heard. Until Docker has shown its containers, by a read that began late enough
//! for every one of them to be shown, nothing that came from the table alone is given, and nothing is given back.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::{STORE_TIME, Shared, locked};
use crate::domain::address::{FIXED, Row, State};
use crate::domain::holding::{Follow, Held, Holding};
use crate::domain::id::EniId;
use crate::domain::plan::settle_age;
use crate::error::Error;
use crate::journal::Journal;
use crate::supervise::supervised;

/// So long the first look of a life may take before the journal serves without it.
const BRIEF: Duration = Duration::from_secs(1);
/// In place of a mark: whatever journal turns up is not to be believed.
const NOBODY: &str = "none";

pub(super) struct Doubt {
    journal: Vouches,
    /// Whether the table has said who spoke for the ENI last.
    is_compared: tokio::sync::Mutex<bool>,
    is_in_doubt: Mutex<bool>,
}

/// How much a journal's word on an ENI is worth as its service begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Vouches {
    /// It was written in this boot of the machine: without IMDS too, where that does not answer in time.
    Alone,
    /// Before that: what IMDS lists on the ENI.
    WithList,
    /// It is new, or knows nothing of the ENI.
    Not,
}

impl Doubt {
    pub(super) fn new(eni: &EniId, journal: &Journal) -> Self {
        let opened = journal.opened();
        let journal = match opened.is_of_this_boot {
            _ if opened.is_new() || journal.of(eni).is_empty() => Vouches::Not,
            true => Vouches::Alone,
            false => Vouches::WithList,
        };
        Self { journal, is_compared: tokio::sync::Mutex::default(), is_in_doubt: Mutex::default() }
    }
}

impl Shared {
    pub(super) fn is_in_doubt(&self) -> bool {
        *locked(&self.doubt.is_in_doubt)
    }

    /// Whether nobody knows yet if a container has it.
    pub(super) fn is_doubted(&self, ip: Ipv4Addr) -> bool {
        self.holding(ip).is_some_and(|holding| holding.doubted)
    }

    /// Whether the table has said who spoke for the ENI last.
    pub(super) fn is_compared(&self) -> bool {
        self.place.is_distant || self.doubt.is_compared.try_lock().is_ok_and(|is_compared| *is_compared)
    }

    /// Whether a container may have it of which the journal knows nothing yet. `row`: as the table has it.
    pub(super) fn may_have(&self, ip: Ipv4Addr, row: Option<&Row>) -> bool {
        if self.place.is_distant {
            return false;
        }
        let is_of_this = row.is_some_and(|row| row.iface.as_ref() == Some(&self.place.nic.eni) && !row.primary);
        match self.holding(ip) {
            Some(holding) if matches!(holding.held, Held::Lease(_)) => false,
            Some(holding) => holding.doubted || self.outside.in_use.contains(ip),
            None => {
                is_of_this
                    && row.is_some_and(|row| match row.state() {
                        State::Lease => true,
                        State::Ready | State::On => !self.is_compared() || self.is_in_doubt(),
                        State::Free | State::Off | State::Foreign | State::Reserved => self.outside.in_use.contains(ip),
                    })
            }
        }
    }

    /// As the service of the ENI begins: what the journal has of it.
    pub(super) fn begins(&self) {
        // Their Unassign may still land.
        self.memory.taken_off(&self.leaving());
        self.to_post.notify_one();
    }

    /// The ENI is another instance's now. If it comes back, the table says what was done there: of what it knows nothing is kept.
    pub(super) async fn has_left(&self) {
        let journal = self.journal();
        let ips: Vec<Ipv4Addr> = journal.of(&self.place.nic.eni).iter().map(|holding| holding.ip).collect();
        let is_known = |holding: &Holding| match holding.held {
            Held::Idle => true,
            Held::Lease(_) => holding.posted,
            // Its Unassign may still land.
            Held::Leaving(_) => false,
        };
        let _ = journal.strike(&ips, is_known).await;
    }

    /// Whether the journal's word is worth something.
    pub(super) fn may_vouch(&self) -> bool {
        self.doubt.journal != Vouches::Not
    }

    /// Serves by the journal's word, if that is worth something, what the first look is too slow for: by then the table, where
    /// it answers, has said whether the journal is an older copy, and Docker who has what. Ends with the first look.
    pub(super) async fn vouch(self: Arc<Self>, surveyed: watch::Sender<Result<(), Error>>) {
        if !self.may_vouch() {
            return;
        }
        let shared = Arc::clone(&self);
        // Not to be cut short.
        let comparing = async move { drop(shared.compare().await) };
        self.outside.tasks.spawn(supervised("comparing the journal", comparing));
        // Once it has listed anything, or must, IMDS has what time it takes.
        let (mut needs_list, unhurried) = (self.doubt.journal == Vouches::WithList, self.outside.request_timeout);
        loop {
            let patience = if needs_list { unhurried } else { BRIEF };
            let asked = timeout(patience, self.outside.imds.on_eni(&self.place.nic.mac));
            let (listed, ()) = tokio::join!(asked, sleep(BRIEF));
            let listed: Option<HashSet<Ipv4Addr>> =
                listed.ok().and_then(Result::ok).map(|listed| listed.all().collect());
            if listed.is_none() && needs_list {
                continue;
            }
            needs_list = true;
            let stays = |holding: &&Holding| !matches!(holding.held, Held::Leaving(_));
            let is_listed = |ip: &Ipv4Addr| listed.as_ref().is_none_or(|listed| listed.contains(ip));
            let holdings = self.journal().of(&self.place.nic.eni);
            // What is missing may have been put on a moment ago, or an operator may have taken it off: it is looked for again.
            let (there, missing): (Vec<_>, Vec<_>) =
                holdings.iter().filter(stays).map(|holding| holding.ip).partition(is_listed);
            self.memory.vouched(there.into_iter());
            let _ = surveyed.send_replace(Ok(()));
            if missing.is_empty() {
                return;
            }
        }
    }

    /// The first that is asked of the table: whether this journal is the one that spoke for the ENI last. If it is not, nothing
    /// of it is told to the table before what both say was put together.
    pub(super) async fn compare(&self) -> Result<(), Error> {
        let mut is_compared = self.doubt.is_compared.lock().await;
        // Of a distant one the table is the first to know.
        if *is_compared || self.place.is_distant {
            return Ok(());
        }
        let (journal, eni) = (self.journal(), &self.place.nic.eni);
        let until = Instant::now() + STORE_TIME;
        let before = self.outside.store.get(until).await?.spoke(eni, until).await?;
        let rows = self.fleet.look(eni, &[], STORE_TIME).await?;
        // Where no journal ever spoke for it, the table was told before anybody else.
        if before.is_none_or(|before| journal.follows(eni, &before)) {
            self.heed_older(&rows).await;
            self.speaks().await?;
        } else {
            tracing::warn!(
                %eni,
                "the journal is new, or older than the one that the table knows: what came from the table alone is not given \
                 before Docker has shown its containers"
            );
            *locked(&self.doubt.is_in_doubt) = true;
            self.put_together(&rows).await;
            // Neither the one that spoke before is whole from now on, nor the next life of this one.
            if journal.is_somewhere() {
                self.disown().await?;
            }
        }
        *is_compared = true;
        Ok(())
    }

    /// The table is to know that this journal speaks for the ENI, and how far it has come. As long as it is in doubt nobody
    /// does.
    pub(super) async fn speaks(&self) -> Result<(), Error> {
        let (journal, eni) = (self.journal(), &self.place.nic.eni);
        if self.is_in_doubt() {
            return Ok(());
        }
        let Some(mark) = journal.is_to_speak(eni) else { return Ok(()) };
        let until = Instant::now() + STORE_TIME;
        self.outside.store.now()?.speaks(eni, &mark.to_string(), until).await?;
        journal.has_spoken(eni, mark);
        Ok(())
    }

    /// An older driver, which leaves no mark, may have given what the journal has idle: that is for Docker to say.
    async fn heed_older(&self, rows: &[Row]) {
        let is_idle = |ip: &Ipv4Addr| self.holding(*ip).is_some_and(|it| it.posted && it.held == Held::Idle);
        let leased = rows.iter().filter(|row| row.state() == State::Lease).map(|row| row.ip);
        let doubted: Vec<Ipv4Addr> = leased.filter(is_idle).collect();
        // Where no file takes it the next life finds out the same.
        let _ = self.journal().change(&doubted, |holding| holding.doubted = true).await;
    }

    /// Of an older journal and the table: an address is leased if either says so, and no other is given yet.
    async fn put_together(&self, rows: &[Row]) {
        let (journal, eni) = (self.journal(), &self.place.nic.eni);
        let ips: Vec<Ipv4Addr> = journal.of(eni).iter().map(|holding| holding.ip).collect();
        // Where no file takes it the next life finds out the same.
        let _ = journal
            .change(&ips, |holding| {
                let row = rows.iter().find(|row| row.ip == holding.ip && row.iface.as_ref() == Some(eni));
                let leased = row.filter(|row| row.state() == State::Lease);
                let leased = leased.and_then(|row| Some((row.claim.clone()?, row.holder.clone())));
                match (&holding.held, leased) {
                    (Held::Idle | Held::Lease(_), Some((claim, holder))) => {
                        (holding.held, holding.holder, holding.posted) = (Held::Lease(claim), holder, true);
                    }
                    (Held::Idle, None) => holding.doubted = true,
                    (Held::Lease(_), None) | (Held::Leaving(_), _) => {}
                }
            })
            .await;
    }

    /// A file that could be believed later, and takes no writes: the table learns that it speaks no more.
    pub(super) async fn disown(&self) -> Result<(), Error> {
        let store = self.outside.store.now()?;
        store.speaks(&self.place.nic.eni, NOBODY, Instant::now() + STORE_TIME).await?;
        Ok(())
    }

    /// What the table gives to this ENI, and the journal has not heard of. `rows`: as they were read just now.
    pub(super) async fn take_in(&self, rows: &[Row]) {
        if self.place.is_distant {
            return;
        }
        let (journal, eni) = (self.journal(), &self.place.nic.eni);
        let now = journal.now();
        // An older table may have lost the mark of the primary address.
        let primary = self.place.nic.addresses.first();
        let unknown = rows.iter().filter(|row| Some(&row.ip) != primary && self.holding(row.ip).is_none());
        let entered: Vec<Holding> = unknown
            .filter_map(|row| {
                let mut holding = Holding::of_row(row, eni, &now)?;
                // Docker may have let go of it since it was read.
                let is_earlier = row.claim.as_ref().is_none_or(|claim| !claim.is_of(self.outside.claims.boot()));
                if let Held::Lease(_) = holding.held
                    && is_earlier
                    && self.outside.in_use.last_release(row.ip).is_some()
                {
                    (holding.held, holding.posted, holding.let_go) = (Held::Idle, false, now.clone());
                }
                holding.doubted = holding.held == Held::Idle && self.is_in_doubt();
                Some(holding)
            })
            .collect();
        if !entered.is_empty() {
            let recorded = journal.enter(entered, &[]).await;
            self.follow(recorded).await;
        }
    }

    /// Holds the rows of the ENI, read since `asked`, against the journal; and Docker's word against what is in doubt.
    pub(super) async fn has_seen(&self, rows: &[Row], asked: Instant) {
        let (journal, eni) = (self.journal(), &self.place.nic.eni);
        let now = journal.now();
        let (leaving, mut gone) = (self.memory.taken_off_lately(), Vec::new());
        for holding in journal.settled(eni, asked.into_std()) {
            let ip = holding.ip;
            let Some(row) = rows.iter().find(|row| row.ip == ip && row.iface.as_ref() == Some(eni)) else {
                match holding.held {
                    Held::Idle => gone.push(ip),
                    Held::Leaving(_) if !leaving.contains(&ip) => gone.push(ip),
                    Held::Lease(_) | Held::Leaving(_) => {}
                }
                continue;
            };
            // An Assign settles the one, Docker the other.
            if row.state() == State::On || holding.doubted {
                continue;
            }
            let wanted = holding.row(&now);
            let is_lost = (row.status, &row.claim) != (wanted.status, &wanted.claim);
            // Across boots ages are told by a clock that may have been set.
            let counts = is_lost || row.holder != wanted.holder || holding.let_go.boot == now.boot;
            if counts && matches!(holding.follow(Some(row), &now), Follow::Change(_)) {
                if is_lost {
                    tracing::error!(%eni, %ip, "the database lost what {ip} is, or was changed by hand: it is told again");
                }
                journal.to_be_posted(ip);
                self.to_post.notify_one();
            } else if let (Some(name), None) = (wanted.kept_for(), row.kept_for()) {
                // An operator has let it go.
                let recorded = journal.change(&[ip], |it| it.holder = Some(format!("{FIXED}{name}"))).await;
                self.follow(recorded).await;
            }
        }
        let _ = journal.strike(&gone, |holding| !matches!(holding.held, Held::Lease(_))).await;
        self.lift().await;
    }

    /// Docker has been read late enough: what it does not show, no container has.
    async fn lift(&self) {
        let held = self.journal().of(&self.place.nic.eni);
        if !self.is_in_doubt() && !held.iter().any(|holding| holding.doubted) {
            return;
        }
        let is_late = |asked: Instant| asked >= self.place.began + settle_age();
        if !self.outside.in_use.count().is_some_and(|(_, asked)| is_late(asked)) {
            if is_late(Instant::now()) {
                self.outside.poke.notify_one();
            }
            return;
        }
        let doubted: Vec<Ipv4Addr> = held.iter().filter(|holding| holding.doubted).map(|holding| holding.ip).collect();
        let recorded = self.journal().change(&doubted, |holding| holding.doubted = false).await;
        self.follow(recorded).await;
        *locked(&self.doubt.is_in_doubt) = false;
    }

    /// What was given back, and is not known to be off.
    pub(super) fn leaving(&self) -> Vec<Ipv4Addr> {
        let leaving = self.journal().of(&self.place.nic.eni).into_iter();
        leaving.filter(|holding| matches!(holding.held, Held::Leaving(_))).map(|holding| holding.ip).collect()
    }

    /// What the table does not say yet.
    pub(super) fn behind(&self) -> Vec<Ipv4Addr> {
        self.journal().unposted(&self.place.nic.eni).into_iter().map(|holding| holding.ip).collect()
    }

    /// Rows that did not say yet what the journal says, as they will; `behind`: before they were read.
    pub(super) fn overlay(&self, rows: &mut [Row], behind: &[Ipv4Addr]) {
        let now_behind = self.behind();
        let mut holdings = self.journal().of(&self.place.nic.eni);
        holdings.retain(|holding| behind.contains(&holding.ip) || now_behind.contains(&holding.ip));
        self.lay_over(rows, &holdings, &[State::Ready, State::Lease, State::On]);
    }

    /// Rows as the journal has them, whenever they were read. A claim that the table knows best is settled by an Assign.
    pub(super) fn as_journal_has(&self, rows: &mut [Row], behind: &[Ipv4Addr]) {
        self.overlay(rows, behind);
        self.lay_over(rows, &self.journal().of(&self.place.nic.eni), &[State::Ready, State::Lease]);
    }

    fn lay_over(&self, rows: &mut [Row], holdings: &[Holding], states: &[State]) {
        let now = self.journal().now();
        for row in rows.iter_mut() {
            let follows = states.contains(&row.state()) && row.iface.as_ref() == Some(&self.place.nic.eni);
            let holding = holdings.iter().find(|holding| holding.ip == row.ip);
            if let Some(holding) = holding.filter(|holding| follows && !matches!(holding.held, Held::Leaving(_))) {
                *row = Row { primary: row.primary, ..holding.row_in_place_of(row, &now) };
            }
        }
    }
}
