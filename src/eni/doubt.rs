//! Whether what the journal and the table say of an ENI is all that there is to know.
//!
//! A journal that was kept in this boot of the machine is. One that is new, or an older copy, is not: its host may have given an
//! address of which neither it nor the table has heard. Until Docker has shown its containers, by a read that began late enough
//! for every one of them to be shown, nothing that came from the table alone is given, and nothing is given back.

use std::net::Ipv4Addr;
use std::sync::Mutex;

use tokio::time::Instant;

use super::{Shared, locked};
use crate::domain::address::{Row, State};
use crate::domain::holding::{Follow, Held, Holding};
use crate::domain::id::EniId;
use crate::domain::plan::settle_age;
use crate::error::Error;
use crate::journal::{Journal, Mark};

pub(super) struct Doubt {
    /// A whole journal of this boot knows the ENI: no witness is needed.
    vouched: bool,
    is_in_doubt: Mutex<bool>,
}

impl Doubt {
    pub(super) fn new(eni: &EniId, journal: &Journal) -> Self {
        let opened = journal.opened();
        let vouched = !opened.is_new && opened.is_of_this_boot && !journal.of(eni).is_empty();
        Self { vouched, is_in_doubt: Mutex::new(false) }
    }
}

impl Shared {
    /// Whether idle addresses may be given before anybody else was asked.
    pub(super) fn is_vouched(&self) -> bool {
        self.doubt.vouched && !self.is_in_doubt()
    }

    pub(super) fn is_in_doubt(&self) -> bool {
        *locked(&self.doubt.is_in_doubt)
    }

    /// Whether nobody knows yet if a container has it.
    pub(super) fn is_doubted(&self, ip: Ipv4Addr) -> bool {
        self.journal().holding(ip).is_some_and(|holding| holding.doubted)
    }

    /// As the service of the ENI begins: what the journal has of it.
    pub(super) fn begins(&self) {
        let holdings = self.journal().of(&self.place.nic.eni);
        // Their Unassign may still land.
        let is_leaving = |holding: &&Holding| matches!(holding.held, Held::Leaving(_));
        let leaving: Vec<Ipv4Addr> = holdings.iter().filter(is_leaving).map(|holding| holding.ip).collect();
        self.memory.taken_off(&leaving);
        if self.doubt.vouched {
            self.memory.vouched(holdings.iter().filter(|holding| !is_leaving(holding)).map(|holding| holding.ip));
        }
        self.to_post.notify_one();
    }

    /// Whether this journal is the one that spoke for the ENI last, by the table's word; from now on it is.
    pub(super) async fn compare_marks(&self, until: Instant) -> Result<(), Error> {
        let journal = self.journal();
        let eni = &self.place.nic.eni;
        let mark = journal.mark();
        let said = mark.as_ref().map_or_else(|| "none".to_owned(), Mark::to_string);
        let before = self.outside.store.now()?.speaks(eni, &said, until).await?;
        let is_whole = match (before.as_deref(), mark) {
            // No journal ever spoke for it: the table was told before anybody else.
            (None, _) => true,
            (Some(before), Some(mark)) => !journal.opened().is_new && mark.follows(before) || before == said,
            (Some(_), None) => false,
        };
        if is_whole {
            return Ok(());
        }
        tracing::warn!(
            %eni,
            "the journal is new, or older than the one that the table knows: what came from the table alone is not given before \
             Docker has shown its containers"
        );
        *locked(&self.doubt.is_in_doubt) = true;
        let idle = journal.of(eni).into_iter().filter(|holding| holding.held == Held::Idle);
        let idle: Vec<Ipv4Addr> = idle.map(|holding| holding.ip).collect();
        let recorded = journal.change(&idle, |holding| holding.doubted = true).await;
        self.follow(recorded).await;
        Ok(())
    }

    /// A file that could be believed later, and takes no writes: the table learns that it speaks no more.
    pub(super) async fn disown(&self) -> Result<(), Error> {
        let store = self.outside.store.now()?;
        store.speaks(&self.place.nic.eni, "none", Instant::now() + super::STORE_TIME).await?;
        Ok(())
    }

    /// What the table gives to this ENI, and the journal has not heard of. `rows`: as they were read just now.
    pub(super) async fn take_in(&self, rows: &[Row]) {
        let (journal, eni) = (self.journal(), &self.place.nic.eni);
        let now = journal.now();
        let unknown = rows.iter().filter(|row| journal.holding(row.ip).is_none());
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
            let recorded = journal.enter(entered).await;
            self.follow(recorded).await;
        }
    }

    /// Holds the rows of the ENI, as they were read, against the journal; and Docker's word against what is in doubt.
    pub(super) async fn has_seen(&self, rows: &[Row]) {
        let (journal, eni) = (self.journal(), &self.place.nic.eni);
        let now = journal.now();
        let (mut gone, mut left) = (Vec::new(), Vec::new());
        let leaving = self.memory.taken_off_lately();
        let unposted: Vec<Ipv4Addr> = journal.unposted(eni).iter().map(|holding| holding.ip).collect();
        for holding in journal.of(eni) {
            let row = rows.iter().find(|row| row.ip == holding.ip);
            let is_ours = row.is_some_and(|row| row.iface.as_ref() == Some(eni));
            match &holding.held {
                Held::Idle if !is_ours => gone.push(holding.ip),
                Held::Leaving(_) if !is_ours && !leaving.contains(&holding.ip) => left.push(holding.ip),
                // The database lost what it was told, or has come to say that it is this ENI's.
                Held::Idle | Held::Lease(_) if is_ours => {
                    let is_behind = matches!(holding.follow(row, &now), Follow::Change(_));
                    if is_behind && !unposted.contains(&holding.ip) {
                        journal.to_be_posted(holding.ip);
                        self.to_post.notify_one();
                    }
                }
                Held::Idle | Held::Lease(_) | Held::Leaving(_) => {}
            }
        }
        if !gone.is_empty() || !left.is_empty() {
            let ips: Vec<Ipv4Addr> = gone.into_iter().chain(left).collect();
            let _ = journal.strike(&ips, |holding| !matches!(holding.held, Held::Lease(_))).await;
        }
        self.lift().await;
    }

    /// Docker has been read late enough: what it does not show, no container has.
    async fn lift(&self) {
        let is_late = |asked: Instant| asked >= self.place.began + settle_age();
        if !self.outside.in_use.count().is_some_and(|(_, asked)| is_late(asked)) {
            return;
        }
        let journal = self.journal();
        let doubted = journal.of(&self.place.nic.eni).into_iter().filter(|holding| holding.doubted);
        let open: Vec<Ipv4Addr> =
            doubted.map(|holding| holding.ip).filter(|ip| !self.outside.in_use.contains(*ip)).collect();
        if !open.is_empty() {
            let recorded = journal.change(&open, |holding| holding.doubted = false).await;
            self.follow(recorded).await;
        }
        *locked(&self.doubt.is_in_doubt) = false;
    }

    pub(super) fn has_unposted(&self) -> bool {
        !self.journal().unposted(&self.place.nic.eni).is_empty()
    }

    /// Rows that do not say yet what the journal says, as they will.
    pub(super) fn overlay(&self, rows: &mut [Row]) {
        let journal = self.journal();
        let (unposted, now) = (journal.unposted(&self.place.nic.eni), journal.now());
        for row in rows.iter_mut() {
            let holding = unposted.iter().find(|holding| holding.ip == row.ip);
            let may_follow = matches!(row.state(), State::Ready | State::Lease | State::On);
            if let Some(holding) = holding.filter(|holding| may_follow && row.iface.as_ref() == Some(&holding.eni)) {
                *row = Row { primary: row.primary, ..holding.row(&now) };
            }
        }
    }
}
