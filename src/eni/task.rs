//! The one task of an ENI: it does every Assign, Unassign and settling of that ENI, one at a time.
//!
//! It keeps little in memory: each step reads the ENI's rows and the journal and decides from them what is next, so that a
//! step that failed half-way, or was cut short by a crash, is simply found again. Since it works alone, a claim that stands at
//! the start of a step has no call of this process in flight.

use std::future::pending;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::blocks::Blocks;
use super::pace::Pace;
use super::queue::{Queue, Want};
use super::room::Room;
use super::{Outside, STORE_TIME, Shared};
use crate::domain::address::{Row, State};
use crate::domain::plan::assign::Why;
use crate::domain::plan::next::{Need, Next, View, next};
use crate::domain::plan::{Burst, settle_age};
use crate::domain::subnet::Subnet;
use crate::error::Error;
use crate::fleet::fill;
use crate::fleet::{Acquired, Fleet};
use crate::outside::ec2::{Action, Ec2, Ec2Error};
use crate::outside::imds::Nic;
use crate::store::Store;

/// Those who ask within so long of one another go into one Assign,
const GATHER: Duration = Duration::from_millis(8);
/// but the first of them waits no longer than so for others.
const GATHER_MOST: Duration = Duration::from_millis(40);

/// What other servers do to a distant ENI is looked for at most so often.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The state of an ENI's task.
pub(super) struct Task {
    pub(super) nic: Nic,
    pub(super) subnet: Subnet,
    pub(super) instance_type: String,
    pub(super) fleet: Fleet,
    pub(super) outside: Arc<Outside>,
    pub(super) shared: Arc<Shared>,
    /// Keeps every other driver of this host from an ENI of its own. Before the inbox: who waits for that to close may lock anew.
    pub(super) _lock: Option<UnixListener>,
    pub(super) inbox: mpsc::UnboundedReceiver<Want>,
    pub(super) surveyed: watch::Sender<Result<(), Error>>,
    /// EC2 refused an address as somebody else's: a table that no other host writes to knows too little of the subnet.
    pub(super) scan_wanted: bool,
    pub(super) witness: Option<Witness>,
    /// When it last began to look at the ENI.
    looked: Instant,
    pub(super) queue: Queue,
    pub(super) pace: Pace,
    pub(super) room: Room,
    pub(super) burst: Burst,
    pub(super) blocks: Blocks,
}

/// Who said which addresses an ENI has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Witness {
    /// EC2: lags a little.
    Ec2,
    /// IMDS: lags by up to a minute, so what it does not list may be there all the same.
    Imds,
}

/// What follows a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// Another one.
    Again,
    /// Nothing for so long, unless somebody comes.
    Rest(Duration),
}

impl Task {
    #[allow(clippy::too_many_arguments, reason = "each is one of the task's own fields, given once")]
    pub(super) fn new(
        nic: Nic,
        subnet: Subnet,
        instance_type: String,
        lock: Option<UnixListener>,
        outside: Arc<Outside>,
        shared: Arc<Shared>,
        inbox: mpsc::UnboundedReceiver<Want>,
        surveyed: watch::Sender<Result<(), Error>>,
    ) -> Self {
        let now = Instant::now();
        Self {
            nic,
            subnet,
            instance_type,
            fleet: shared.fleet.clone(),
            outside,
            shared,
            _lock: lock,
            inbox,
            surveyed,
            scan_wanted: false,
            witness: None,
            looked: now,
            queue: Queue::default(),
            pace: Pace::new(now),
            room: Room::default(),
            burst: Burst::none(now),
            blocks: Blocks::default(),
        }
    }

    /// Works until the driver stops or the ENI's handle is dropped.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let vouching = Arc::clone(&self.shared).vouch(self.surveyed.clone());
        let looking = async {
            while let Err(why) = self.look().await {
                // Nobody is refused for what only a person can change, such as a database that lets nobody in, while the journal
                // is yet to be heard.
                let why = if self.shared.may_vouch() { Error::Missing(why.to_string()) } else { why };
                // Whoever may be served meanwhile is.
                if self.surveyed.borrow().is_err()
                    && self.surveyed.send_replace(Err(why.clone())).err().as_ref() != Some(&why)
                {
                    tracing::warn!(eni = %self.nic.eni, "{why}");
                }
                sleep_until(self.pace.failed(Instant::now())).await;
            }
        };
        let first_look = async {
            tokio::select! {
                () = looking => {}
                () = async { vouching.await; pending().await } => {}
            }
        };
        if stop.run_until_cancelled(Box::pin(first_look)).await.is_none() {
            return;
        }
        self.pace.went_on();
        let _ = self.surveyed.send_replace(Ok(()));
        self.outside.poke.notify_one();
        tracing::info!(eni = %self.nic.eni, subnet = %self.subnet.id, "serving {} in {}", self.nic.eni, self.subnet.cidr);

        let mut wake = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                want = self.inbox.recv() => match want {
                    // Nothing to do at once.
                    Some(Want::TopUp) => {
                        wake = wake.min(self.pace.top_up_soon(Instant::now()));
                        continue;
                    }
                    Some(want) => {
                        let is_order = matches!(want, Want::Order(_));
                        self.take(want);
                        if is_order {
                            self.gather().await;
                        }
                    }
                    None => return,
                },
                () = sleep_until(wake) => {}
            }
            while let Ok(want) = self.inbox.try_recv() {
                self.take(want);
            }
            wake = self.work().await;
        }
    }

    #[tracing::instrument(level = "error", skip_all, fields(round = "look", eni = %self.nic.eni))]
    async fn look(&mut self) -> Result<(), Error> {
        self.looked = Instant::now();
        // EC2's word, once had, is not forgotten for IMDS's.
        let has_ec2 = self.witness == Some(Witness::Ec2);
        if !has_ec2 {
            self.pace.look_again(Instant::now());
        }
        let witness = self.survey().await?;
        if !has_ec2 {
            self.witness = Some(witness);
        }
        if witness == Witness::Ec2 {
            self.pace.has_looked();
        }
        Ok(())
    }

    /// Who comes right after somebody who waits is served with him.
    async fn gather(&mut self) {
        let end = Instant::now() + GATHER_MOST;
        while let Ok(Some(want)) = timeout_at(end.min(Instant::now() + GATHER), self.inbox.recv()).await {
            self.take(want);
        }
    }

    fn take(&mut self, want: Want) {
        match want {
            Want::Order(order) => {
                self.pace.called(Instant::now());
                self.queue.order(order);
            }
            Want::TopUp | Want::Look => drop(self.pace.top_up_soon(Instant::now())),
            Want::Recycle(answer) => self.queue.recycle(answer),
            Want::Repair(findings, answer) => self.queue.repair(findings, answer),
        }
    }

    /// Steps until there is nothing to do, or something outside is in the way; says when to look again.
    #[tracing::instrument(level = "error", skip_all, fields(round = "step", eni = %self.nic.eni))]
    async fn work(&mut self) -> Instant {
        loop {
            self.queue.drop_who_left();
            if let Err(why) = self.shared.is_open() {
                self.queue.refuse_all(&why);
            }
            let now = Instant::now();
            if let Some(end) = self.pace.pauses(now) {
                return end;
            }
            match self.step(now).await {
                Ok(then) => {
                    self.pace.went_on();
                    self.shared.trouble.stepped(None);
                    if let Then::Rest(rest) = then {
                        return now + rest;
                    }
                }
                Err(why) => {
                    self.shared.trouble.stepped(Some(why.to_string()));
                    tracing::warn!(eni = %self.nic.eni, "{why}");
                    if matches!(why, Error::Store(_)) && !why.may_pass() {
                        self.queue.refuse_all(&why);
                    }
                    self.pace.failed(Instant::now());
                }
            }
        }
    }

    /// Does the most urgent thing. An error is one that may pass: those who wait go on waiting.
    async fn step(&mut self, now: Instant) -> Result<Then, Error> {
        let ec2 = self.outside.ec2.now()?;
        self.shared.place.is_ours().await?;
        self.look_for_recalls(now).await?;
        let mut view = self.view(now).await?;
        if self.is_to_see_anothers(&view) {
            self.look().await?;
            view = self.view(now).await?;
        }
        let until = Instant::now() + STORE_TIME;
        match next(&view, now) {
            Next::Look => self.look().await?,
            Next::Scan => {
                self.scan_wanted = false;
                fill::refresh(&*self.store()?, &ec2, &self.subnet, until).await?;
            }
            Next::Fill => self.fill_again(&ec2).await?,
            Next::Acquire(Need::Settled(claimed)) => return self.settle(claimed).await,
            Next::Acquire(Need::Named { ip, slot }) => return self.fetch_named(&ec2, ip, slot, &view.rows).await,
            Next::Acquire(Need::More(refill)) => return self.refill(&ec2, refill, &view.rows, now).await,
            Next::GiveBack(rows, because) => self.give_back(&rows, because, now).await?,
            Next::Post => self.shared.post().await?,
            Next::Repair => {
                if let Some((findings, answer)) = self.queue.next_repair() {
                    let _ = answer.send(self.repair(findings).await);
                }
            }
            Next::AskLink => drop(self.shared.parent().await?),
            Next::Serve(warm) => self.serve(warm).await?,
            Next::Full => return self.refuse_any(&view.rows, now).await,
            Next::Rest(rest) => {
                self.pace.rests(now);
                return Ok(Then::Rest(rest));
            }
        }
        Ok(Then::Again)
    }

    pub(super) fn store(&self) -> Result<Arc<Store>, Error> {
        self.outside.store.now()
    }

    /// What the decision depends on, as of `now` or later.
    async fn view(&self, now: Instant) -> Result<View, Error> {
        let memory = &self.shared.memory;
        let sends = self.shared.sends().await?;
        // Before the rows are read: what is posted meanwhile may not show in them.
        let behind = self.shared.behind();
        let mut rows = self.fleet.look(&self.nic.eni, &[], STORE_TIME).await?;
        let capacity = self.capacity(&rows);
        let elsewhere = rows.iter().any(|row| self.is_anothers(row) || self.is_unseen(row));
        rows.retain(|row| !self.is_anothers(row));
        self.shared.take_in(&rows).await;
        self.shared.has_seen(&rows, now).await;
        self.shared.as_journal_has(&mut rows, &behind);
        self.shared.were_read(&rows);
        memory.read_blocks_of(&rows);
        let holdings = self.shared.journal().of(&self.nic.eni);
        let link = self.shared.parent().await.ok();
        let which = |may: &dyn Fn(Ipv4Addr) -> bool| rows.iter().map(|row| row.ip).filter(|ip| may(*ip)).collect();
        let may_give = |ip| {
            // I10: granted and released since it was read, so it cools.
            let is_as_read = self.outside.in_use.last_release(ip).is_none_or(|released| released < now);
            is_as_read && memory.may_give(ip, link.as_ref()).is_ok()
        };
        Ok(View {
            queue: self.queue.wishes(),
            unposted: !behind.is_empty(),
            // In doubt it may know too little of any of them.
            held: match self.shared.is_in_doubt() {
                true => rows.iter().map(|row| row.ip).collect(),
                false => holdings.iter().map(|holding| holding.ip).collect(),
            },
            leaving: self.shared.leaving().into_iter().collect(),
            in_use: which(&|ip| memory.has_container(ip) || self.shared.is_doubted(ip)),
            may_give: link.is_some().then(|| which(&may_give)),
            sub_pool: memory.sub_pool(),
            recalled: memory.recalled(),
            capacity,
            elsewhere,
            warmth: self.outside.warmth,
            drain: memory.is_drained().then(|| self.drained_after()),
            burst: self.burst,
            scan: self.scan_wanted && self.store()?.is_private(),
            repair: sends && self.queue.has_repair(),
            recycle: sends && self.queue.has_recycle(),
            times: if sends { self.pace.times() } else { self.pace.times_of_another(now) },
            rows,
        })
    }

    /// How long an address has been idle before a drained host gives it back. A shared table keeps since when it is, so that no
    /// other host gives it too early (I10); to hosts with tables of their own it would be as good as any.
    fn drained_after(&self) -> Duration {
        let is_private = self.outside.store.now().is_ok_and(|store| store.is_private());
        if is_private { self.outside.warmth.cooldown } else { Duration::ZERO }
    }

    /// Whether somebody waits while there are idle addresses that another server had put on the ENI: EC2 has to tell this one.
    fn is_to_see_anothers(&self, view: &View) -> bool {
        !view.queue.is_empty() && self.looked.elapsed() >= LOOK_AGAIN && view.rows.iter().any(|row| self.is_unseen(row))
    }

    /// Whether another server has put it on the ENI, and this one has not seen it there.
    fn is_unseen(&self, row: &Row) -> bool {
        self.shared.place.is_distant && row.state() == State::Ready && !self.shared.memory.is_listed(row.ip)
    }

    /// Whether another server may be about to assign it. What such a one has left is settled once it is old.
    fn is_anothers(&self, row: &Row) -> bool {
        let is_young = row.claimed.is_some_and(|age| age < settle_age());
        let is_ours = row.claim.as_ref().is_some_and(|claim| claim.is_of(self.outside.claims.boot()));
        self.shared.place.is_distant && row.state() == State::On && is_young && !is_ours
    }

    /// The rows that are there can be granted all the same.
    async fn fill_again(&mut self, ec2: &Ec2) -> Result<(), Error> {
        self.pace.fill_again(Instant::now());
        match self.fill(ec2, true).await {
            Err(why @ Error::Ec2(_)) => {
                tracing::warn!(eni = %self.nic.eni, "{} is not filled yet: {why}", self.subnet.id)
            }
            outcome => {
                outcome?;
                self.pace.was_filled();
            }
        }
        Ok(())
    }

    /// Serves those who wait with what EC2 has on the ENI now; then what stood in the way of the rest decides.
    pub(super) async fn outcome(&mut self, acquired: Acquired) -> Result<Then, Error> {
        let progress = !acquired.on_eni.is_empty();
        let asked: Vec<Ipv4Addr> = acquired.asked.iter().flat_map(|unit| unit.addresses()).collect();
        self.shared.memory.doubt(&asked);
        self.scan_wanted |= acquired.refused.iter().any(|refused| matches!(refused.why, Why::Taken(_)));
        self.confirm(acquired.on_eni).await?;
        self.note(Action::Assign, acquired.trouble.as_ref());
        match acquired.trouble {
            None if progress => {
                self.pace.was_fruitful();
                Ok(Then::Again)
            }
            None => {
                self.pace.was_fruitless(Instant::now());
                Ok(Then::Again)
            }
            Some(Ec2Error::EniFull { .. }) => {
                self.room.lacks(acquired.asked.len(), Instant::now());
                self.look().await.map(|()| Then::Again)
            }
            // It may pass, so those who wait go on waiting.
            Some(why) if why.is_transient() => Err(Error::Ec2(why)),
            Some(_) if progress => Ok(Then::Again),
            Some(why) => {
                self.pace.hold_no_reserve(Instant::now());
                let refusal = Error::Ec2(why);
                self.queue.refuse_all(&refusal);
                Err(refusal)
            }
        }
    }
}
