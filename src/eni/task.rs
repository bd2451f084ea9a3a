//! The one task of an ENI: it does every Assign, Unassign and settling of that ENI, one at a time.
//!
//! It keeps little in memory: each step reads the ENI's rows and decides from them what is next, so that a step that failed
//! half-way, or was cut short by a crash, is simply found again. Since it works alone, a claim that stands at the start of
//! a step has no call of this process in flight.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::survey::Witness;
use super::{Order, Outside, Recycled, Repair, STORE_TIME, Shared, Want};
use crate::backoff::Backoff;
use crate::ec2::{Action, Ec2, Ec2Error};
use crate::error::Error;
use crate::fill;
use crate::fleet::{Acquired, Fleet};
use crate::imds::Nic;
use crate::plan::next::{Next, REST, Times, View, next};
use crate::plan::{Burst, settle_age};
use crate::store::Store;
use crate::subnet::Subnet;

/// The state of an ENI's task.
pub(super) struct Task {
    pub(super) nic: Nic,
    pub(super) subnet: Subnet,
    pub(super) instance_type: String,
    pub(super) store: Arc<Store>,
    pub(super) fleet: Fleet,
    pub(super) outside: Arc<Outside>,
    pub(super) shared: Arc<Shared>,
    /// Keeps every other driver of this host from the ENI. Before the inbox: who waits for that to close may lock anew.
    pub(super) _lock: UnixListener,
    pub(super) inbox: mpsc::UnboundedReceiver<Want>,
    pub(super) surveyed: watch::Sender<Result<(), Error>>,
    /// EC2 refused an address as somebody else's: a table that no other host writes to knows too little of the subnet.
    pub(super) scan_wanted: bool,
    pub(super) queue: VecDeque<Order>,
    pub(super) recycles: Vec<oneshot::Sender<Result<Recycled, Error>>>,
    pub(super) repairs: VecDeque<Repair>,
    pub(super) witness: Option<Witness>,
    pub(super) burst: Burst,
    /// How many more addresses the ENI takes at most, after it refused some, and until when that is believed.
    pub(super) room: Option<(usize, Instant)>,
    pub(super) top_up_at: Option<Instant>,
    pub(super) failures: Backoff,
    /// Assigns in a row that gave nothing, because all that they asked for was somebody else's.
    pub(super) fruitless: Backoff,
    /// Claims that could not be settled are tried again from then on.
    pub(super) settle_at: Instant,
    pub(super) retry_at: Instant,
    pub(super) warm_retry_at: Instant,
    pub(super) survey_at: Instant,
    pub(super) trim_at: Instant,
    /// Whose the ENI is was not sure: nothing is given up until then.
    pub(super) give_up_at: Instant,
    /// When it is seen whether the subnet has all its rows; none: it was.
    pub(super) fill_at: Option<Instant>,
    /// A container asked for an address, or released one.
    pub(super) last_call: Instant,
}

/// A warm address taken is replaced so much later: within a burst one large refill does it all.
const TOP_UP_DELAY: Duration = Duration::from_secs(1);
/// After a refusal nothing is asked of EC2 for warmth alone for so long (vpc-cni waits as long for a full subnet).
pub(super) const WARM_BACK_OFF: Duration = Duration::from_secs(120);
/// Between two attempts at claims that could not be settled.
pub(super) const SETTLE_PAUSE: Duration = Duration::from_secs(10);

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
        lock: UnixListener,
        store: Arc<Store>,
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
            fleet: Fleet::new(Arc::clone(&store), outside.ec2.clone()),
            store,
            outside,
            shared,
            _lock: lock,
            inbox,
            surveyed,
            scan_wanted: false,
            queue: VecDeque::new(),
            recycles: Vec::new(),
            repairs: VecDeque::new(),
            witness: None,
            burst: Burst::none(now),
            room: None,
            top_up_at: None,
            failures: Backoff::default(),
            fruitless: Backoff::default(),
            settle_at: now,
            retry_at: now,
            warm_retry_at: now,
            survey_at: now,
            trim_at: now + settle_age(),
            give_up_at: now,
            fill_at: Some(now),
            last_call: now,
        }
    }

    /// Works until the driver stops or the ENI's handle is dropped.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let first_look = async {
            while let Err(why) = self.look().await {
                if self.surveyed.send_replace(Err(why.clone())).err().as_ref() != Some(&why) {
                    tracing::warn!(eni = %self.nic.eni, "{why}");
                }
                sleep(self.failures.fails()).await;
            }
        };
        if stop.run_until_cancelled(first_look).await.is_none() {
            return;
        }
        self.failures.succeeds();
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
                        wake = wake.min(self.top_up_soon());
                        continue;
                    }
                    Some(want) => self.take(want),
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
        // Asked again soon if it was IMDS that answered, but not by the whole fleet at once.
        self.survey_at = Instant::now() + SETTLE_PAUSE.mul_f64(0.5 + fastrand::f64());
        let witness = self.survey().await?;
        // EC2's word, once had, is not forgotten for IMDS's.
        self.witness = self.witness.filter(|known| *known == Witness::Ec2).or(Some(witness));
        Ok(())
    }

    fn take(&mut self, want: Want) {
        match want {
            Want::Order(order) => {
                self.last_call = Instant::now();
                self.queue.push_back(order);
            }
            Want::TopUp | Want::Look => drop(self.top_up_soon()),
            Want::Recycle(answer) => self.recycles.push(answer),
            Want::Repair(repair) => self.repairs.push_back(repair),
        }
    }

    /// A container came or went: a while later the pool is filled, if that is called for.
    fn top_up_soon(&mut self) -> Instant {
        self.last_call = Instant::now();
        *self.top_up_at.get_or_insert(self.last_call + TOP_UP_DELAY)
    }

    /// Steps until there is nothing to do, or something outside is in the way; says when to look again.
    #[tracing::instrument(level = "error", skip_all, fields(round = "step", eni = %self.nic.eni))]
    async fn work(&mut self) -> Instant {
        loop {
            self.queue.retain(|order| !order.answer.is_closed());
            let now = Instant::now();
            if now < self.retry_at {
                return self.retry_at;
            }
            match self.step(now).await {
                Ok(then) => {
                    self.failures.succeeds();
                    self.shared.trouble.stepped(None);
                    if let Then::Rest(rest) = then {
                        return now + rest;
                    }
                }
                Err(why) => {
                    self.shared.trouble.stepped(Some(why.to_string()));
                    tracing::warn!(eni = %self.nic.eni, "{why}");
                    if matches!(why, Error::Store(_)) && !why.may_pass() {
                        self.answer_all(&why);
                    }
                    self.retry_at = Instant::now() + self.failures.fails();
                }
            }
        }
    }

    /// Does the most urgent thing. An error is one that may pass: those who wait go on waiting.
    async fn step(&mut self, now: Instant) -> Result<Then, Error> {
        let ec2 = self.outside.ec2.now().map_err(Error::Missing)?;
        self.shared.place.is_ours().await?;
        self.repairs.retain(|repair| !repair.answer.is_closed());
        let view = self.view(now).await?;
        let until = Instant::now() + STORE_TIME;
        match next(&view, now) {
            Next::Look => self.look().await?,
            Next::Scan => {
                self.scan_wanted = false;
                fill::refresh(&self.store, &ec2, &self.subnet, until).await?;
            }
            Next::Fill => self.fill_again(&ec2).await?,
            Next::Settle(claimed) => return self.settle(claimed).await,
            Next::Restore(lost) => drop(self.shared.stand_again(&lost, until).await?),
            Next::Release(orphans) => {
                for change in &orphans {
                    tracing::warn!(eni = %self.nic.eni, ip = %change.ip, "released {}: no container got it", change.ip);
                }
                self.store.apply(&orphans, until).await?;
            }
            Next::GiveUp(rows) => self.give_up(&rows).await?,
            Next::Repair => {
                if let Some(Repair { findings, answer }) = self.repairs.pop_front() {
                    let _ = answer.send(self.repair(findings).await);
                }
            }
            Next::Recycle(idle) => {
                // What an operator gives back shall not be refilled for the sake of an earlier call.
                self.top_up_at = None;
                self.recycle(&idle).await;
            }
            Next::AskLink => drop(self.outside.links.parent(&self.nic.mac).await?),
            Next::Serve(warm) => self.serve(warm).await?,
            Next::Fetch { ip, slot } => return self.fetch_named(&ec2, ip, slot, &view.rows).await,
            Next::Refill(refill) => {
                self.was_topped_up(now);
                return self.refill(&ec2, refill, &view.rows, now).await;
            }
            Next::Full => {
                self.was_topped_up(now);
                return self.refuse_any(&view.rows, now).await;
            }
            Next::Trim(excess) => {
                self.trim_at = now + settle_age();
                self.give_up(&excess).await?;
            }
            Next::Rest(rest) => {
                self.was_topped_up(now);
                if now >= self.trim_at.max(self.give_up_at) {
                    self.trim_at = now + settle_age();
                }
                return Ok(Then::Rest(rest));
            }
        }
        Ok(Then::Again)
    }

    /// What the decision depends on, as of `now` or later.
    async fn view(&self, now: Instant) -> Result<View, Error> {
        let Shared { memory, idle, .. } = &*self.shared;
        let (leases_before, let_go) = (memory.leases(), idle.let_go());
        let rows = self.fleet.look(&self.nic.eni, &[], STORE_TIME).await?;
        idle.was_read(&rows, let_go);
        let link = self.outside.links.parent(&self.nic.mac).await.ok();
        let which = |may: &dyn Fn(Ipv4Addr) -> bool| rows.iter().map(|row| row.ip).filter(|ip| may(*ip)).collect();
        let may_give = |ip| {
            // I10: granted and released since it was read, so it cools.
            let is_as_read = self.outside.in_use.last_release(ip).is_none_or(|released| released < now);
            is_as_read && memory.may_give(ip, link.as_ref()).is_ok()
        };
        Ok(View {
            queue: self.queue.iter().map(|order| order.wish).collect(),
            leases: memory.leases(),
            leases_before,
            boot: self.outside.claims.boot().clone(),
            in_use: which(&|ip| memory.has_container(ip)),
            may_give: link.is_some().then(|| which(&may_give)),
            sub_pool: memory.sub_pool(),
            capacity: self.capacity(&rows),
            warmth: self.outside.warmth,
            burst: self.burst,
            scan: self.scan_wanted && self.store.is_private(),
            repair: !self.repairs.is_empty(),
            recycle: !self.recycles.is_empty(),
            times: Times {
                look_at: (self.witness == Some(Witness::Imds)).then_some(self.survey_at),
                fill_at: self.fill_at,
                settle_at: self.settle_at,
                give_up_at: self.give_up_at,
                warm_at: self.warm_retry_at,
                top_up_at: self.top_up_at,
                trim_at: self.trim_at,
                last_call: self.last_call,
            },
            rows,
        })
    }

    /// The rows that are there can be granted all the same.
    async fn fill_again(&mut self, ec2: &Ec2) -> Result<(), Error> {
        self.fill_at = Some(Instant::now() + REST);
        match self.fill(ec2, true).await {
            Err(why @ Error::Ec2(_)) => {
                tracing::warn!(eni = %self.nic.eni, "{} is not filled yet: {why}", self.subnet.id)
            }
            outcome => {
                outcome?;
                self.fill_at = None;
            }
        }
        Ok(())
    }

    /// Unless somebody waits: then it was for him.
    fn was_topped_up(&mut self, now: Instant) {
        if self.queue.is_empty() {
            self.top_up_at.take_if(|at| *at <= now);
        }
    }

    /// Serves those who wait with what EC2 has on the ENI now; then what stood in the way of the rest decides.
    pub(super) async fn outcome(&mut self, acquired: Acquired) -> Result<Then, Error> {
        let progress = !acquired.on_eni.is_empty();
        self.serve(acquired.on_eni).await?;
        self.note(Action::Assign, acquired.trouble.as_ref());
        match acquired.trouble {
            None if progress => {
                self.fruitless.succeeds();
                Ok(Then::Again)
            }
            None => {
                self.retry_at = Instant::now() + self.fruitless.fails();
                Ok(Then::Again)
            }
            Some(Ec2Error::EniFull { .. }) => {
                // Something is on it that the table did not know, or the limit is not known.
                self.room = Some((acquired.asked.len() / 2, Instant::now() + REST));
                self.look().await.map(|()| Then::Again)
            }
            // It may pass, so those who wait go on waiting.
            Some(why) if why.is_transient() => Err(Error::Ec2(why)),
            Some(_) if progress => Ok(Then::Again),
            Some(why) => {
                self.warm_retry_at = Instant::now() + WARM_BACK_OFF;
                let refusal = Error::Ec2(why);
                self.answer_all(&refusal);
                Err(refusal)
            }
        }
    }
}
