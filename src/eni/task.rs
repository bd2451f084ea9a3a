//! The one task of an ENI: it does every Assign, Unassign and settling of that ENI, one at a time.
//!
//! It keeps little in memory: each step reads the ENI's rows and decides from them what is next, so that a step that failed
//! half-way, or was cut short by a crash, is simply found again. Since it works alone, a claim that stands at the start of
//! a step has no call of this process in flight.

use std::collections::VecDeque;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::assign::Assigned;
use super::lease::Weak;
use super::survey::Witness;
use super::{Order, Outside, Recycled, Repair, STORE_TIME, Shared, Want, unassign};
use crate::address::{Row, State};
use crate::ec2::{Action, Ec2Error};
use crate::error::Error;
use crate::fill;
use crate::imds::Nic;
use crate::late::pause;
use crate::plan::{Burst, drain_age, settle_age};
use crate::subnet::Subnet;

/// The state of an ENI's task.
pub(super) struct Task {
    pub(super) nic: Nic,
    pub(super) subnet: Subnet,
    pub(super) instance_type: String,
    pub(super) outside: Outside,
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
    pub(super) failures: u32,
    /// Assigns in a row that gave nothing, because all that they asked for was somebody else's.
    pub(super) fruitless: u32,
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
/// Nothing to do: look at the rows again after so long.
const REST: Duration = Duration::from_secs(60);

impl Task {
    #[allow(clippy::too_many_arguments, reason = "each is one of the task's own fields, given once")]
    pub(super) fn new(
        nic: Nic,
        subnet: Subnet,
        instance_type: String,
        lock: UnixListener,
        outside: Outside,
        shared: Arc<Shared>,
        inbox: mpsc::UnboundedReceiver<Want>,
        surveyed: watch::Sender<Result<(), Error>>,
    ) -> Self {
        let now = Instant::now();
        Self {
            nic,
            subnet,
            instance_type,
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
            failures: 0,
            fruitless: 0,
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
                sleep(pause(self.failures)).await;
                self.failures += 1;
            }
        };
        if stop.run_until_cancelled(first_look).await.is_none() {
            return;
        }
        self.failures = 0;
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

    pub(super) fn weak(&self) -> Weak {
        Weak { id: self.nic.eni.clone(), outside: self.outside.clone(), shared: Arc::clone(&self.shared) }
    }

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
    async fn work(&mut self) -> Instant {
        loop {
            self.queue.retain(|order| !order.answer.is_closed());
            let now = Instant::now();
            if now < self.retry_at {
                return self.retry_at;
            }
            match self.step(now).await {
                Ok(rest) => {
                    self.failures = 0;
                    self.shared.memory().trouble.stepped(None);
                    if let Some(rest) = rest {
                        return now + rest;
                    }
                }
                Err(why) => {
                    self.shared.memory().trouble.stepped(Some(why.to_string()));
                    tracing::warn!(eni = %self.nic.eni, "{why}");
                    if matches!(why, Error::Store(_)) && !why.may_pass() {
                        self.answer_all(&why);
                    }
                    self.retry_at = Instant::now() + pause(self.failures);
                    self.failures += 1;
                }
            }
        }
    }

    /// The most urgent thing that the rows and the queue call for. None: it is done, look again; else: nothing to do for so
    /// long. An error is one that may pass: those who wait go on waiting.
    async fn step(&mut self, now: Instant) -> Result<Option<Duration>, Error> {
        let ec2 = self.outside.ec2.now().map_err(Error::Missing)?;
        self.weak().is_ours().await?;
        if self.witness == Some(Witness::Imds) && now >= self.survey_at {
            self.look().await?;
        }
        if std::mem::take(&mut self.scan_wanted) && self.outside.store.is_private() {
            fill::refresh(&self.outside.store, &ec2, &self.subnet, now + STORE_TIME).await?;
        }
        if self.fill_at.is_some_and(|at| at <= now) {
            self.fill_at = None;
            match self.fill(&ec2, true).await {
                // The rows that are there can be granted all the same.
                Err(why @ Error::Ec2(_)) => {
                    tracing::warn!(eni = %self.nic.eni, "{} is not filled yet: {why}", self.subnet.id);
                    self.fill_at = Some(now + REST);
                }
                outcome => drop(outcome?),
            }
        }
        let (known, let_go) = {
            let memory = self.shared.memory();
            (memory.leases.clone(), memory.idle.let_go())
        };
        let rows = self.outside.store.rows_of_eni(&self.nic.eni, now + STORE_TIME).await?;
        self.shared.memory().idle.was_read(&rows, let_go);
        let warmth = self.outside.warmth;

        let unsettled: Vec<Row> = rows.iter().filter(|row| row.state() == State::On).cloned().collect();
        // Nobody is told that the ENI is full while some of its slots are only claimed.
        let in_the_way = !self.queue.is_empty() && self.capacity(&rows) == 0;
        if !unsettled.is_empty() && (now >= self.settle_at || in_the_way) {
            return self.settle(&ec2, unsettled).await;
        }
        if self.restore(&rows, known).await? {
            return Ok(None);
        }
        self.release_orphans(&rows).await?;
        let due: Vec<Row> = rows.iter().filter(|row| unassign::is_due(row)).cloned().collect();
        let may_give_up = now >= self.give_up_at;
        if !due.is_empty() && may_give_up {
            return self.give_up(&ec2, &due).await;
        }
        if let Some(Repair { findings, answer }) = self.repairs.pop_front().filter(|repair| !repair.answer.is_closed())
        {
            let _ = answer.send(self.repair(&ec2, findings).await);
            return Ok(None);
        }
        let mut idle: Vec<Row> =
            rows.iter().filter(|row| row.state() == State::Ready && !row.primary).cloned().collect();
        // What a container has by Docker's last word is not idle, whatever the table says.
        idle.retain(|row| !self.outside.in_use.contains(row.ip));
        if !self.recycles.is_empty() {
            return self.recycle(&ec2, &idle).await;
        }
        let listed = self.shared.memory().listed.clone();
        // No link, or no answer from the kernel: nothing is given, and nothing is fetched to be given (I7).
        let parent = self.outside.links.parent(&self.nic.mac).await;
        let own = match parent {
            Err(why) if !self.queue.is_empty() => return Err(why.into()),
            parent => parent.map(|parent| parent.addresses),
        };
        let is_own = |ip| own.as_ref().map_or(true, |own| own.contains(ip));
        let warm: Vec<Row> = idle
            .iter()
            .filter(|row| warmth.is_warm(row) && listed.contains(&row.ip) && !is_own(&row.ip))
            .filter(|row| !self.outside.in_use.contains(row.ip))
            // I10: granted and released since it was read, so it cools.
            .filter(|row| self.outside.in_use.last_release(row.ip).is_none_or(|released| released < now))
            .cloned()
            .collect();
        if warm.iter().any(|row| self.queue.iter().any(|order| order.ip.is_none() && order.fits(row.ip))) {
            return self.serve(warm).await.map(|()| None);
        }
        if let Some(order) = self.queue.front() {
            return match order.ip {
                Some(_) => self.fetch_named(&ec2, &rows).await,
                None => self.refill(&ec2, &rows, now).await,
            };
        }
        let lacking = warmth.lacking(&rows);
        if self.top_up_at.is_some_and(|at| at <= now) {
            self.top_up_at = None;
            if lacking > 0 && now >= self.warm_retry_at {
                return self.refill(&ec2, &rows, now).await;
            }
        }
        // A container that named its address may come back on another host.
        let named: Vec<Row> =
            idle.iter().filter(|row| row.is_fixed() && row.has_cooled(warmth.cooldown)).cloned().collect();
        if !named.is_empty() && may_give_up {
            return self.give_up(&ec2, &named).await;
        }
        // Not one by one, so that many go with one Unassign.
        if now >= self.trim_at && may_give_up {
            self.trim_at = now + settle_age();
            let in_use = rows.iter().any(|row| row.state() == State::Lease);
            let quiet = !in_use && now.duration_since(self.last_call) >= drain_age();
            let excess: Vec<Row> = warmth.excess(&idle, self.burst.expected(now), quiet).into_iter().cloned().collect();
            if !excess.is_empty() {
                return self.give_up(&ec2, &excess).await;
            }
        }
        Ok(Some(self.rest(&rows, now)))
    }

    /// Until the next thing that time alone brings.
    fn rest(&self, rows: &[Row], now: Instant) -> Duration {
        let cooled = rows.iter().filter(|row| row.state() == State::Ready && row.is_fixed()).map(|row| {
            // A second more than the rule asks for, as the database counts whole ones.
            (self.outside.warmth.cooldown + Duration::from_secs(2)).saturating_sub(row.idle)
        });
        let unsettled = rows.iter().filter(|row| row.state() == State::On);
        let unsettled = unsettled.map(|_| self.settle_at.saturating_duration_since(now));
        let settled = rows.iter().filter(|row| row.state() == State::Off);
        let settled = settled.map(|row| settle_age().saturating_sub(row.claimed.unwrap_or_default()));
        let given_up = cooled.chain(settled).map(|rest| rest.max(self.give_up_at.saturating_duration_since(now)));
        let survey = (self.witness == Some(Witness::Imds)).then_some(self.survey_at);
        let planned = self.top_up_at.into_iter().chain(survey).chain([self.trim_at]);
        let planned = planned.map(|at| at.saturating_duration_since(now));
        given_up.chain(unsettled).chain(planned).min().unwrap_or(REST).clamp(Duration::from_millis(10), REST)
    }

    /// Serves those who wait with what EC2 has on the ENI now; then what stood in the way of the rest decides.
    pub(super) async fn outcome(&mut self, assigned: Assigned, asked: usize) -> Result<Option<Duration>, Error> {
        let progress = !assigned.on_eni.is_empty();
        self.serve(assigned.on_eni).await?;
        self.note(Action::Assign, assigned.trouble.as_ref());
        match assigned.trouble {
            None if progress => {
                self.fruitless = 0;
                Ok(None)
            }
            None => {
                self.retry_at = Instant::now() + pause(self.fruitless);
                self.fruitless += 1;
                Ok(None)
            }
            Some(Ec2Error::EniFull { .. }) => {
                // Something is on it that the table did not know, or the limit is not known.
                self.room = Some((asked / 2, Instant::now() + REST));
                self.look().await.map(|()| None)
            }
            // It may pass, so those who wait go on waiting.
            Some(why) if why.is_transient() => Err(Error::Ec2(why)),
            Some(_) if progress => Ok(None),
            Some(why) => {
                self.warm_retry_at = Instant::now() + WARM_BACK_OFF;
                let refusal = Error::Ec2(why);
                self.answer_all(&refusal);
                Err(refusal)
            }
        }
    }
}
