//! One ENI: granting its warm addresses and taking them back.
//!
//! That of this host has a journal, a link, a Docker and IMDS. Of a distant one, whose host has no driver, EC2 says what there is
//! to say, and the table is the first to know what its containers have (`by_table`).
//!
//! Whatever needs a call to EC2 is left to the ENI's one task (`task`), which does every Assign, Unassign and settling of
//! that ENI, one at a time. Requests for warm addresses do not wait for it.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use crate::domain::address::Row;
use crate::domain::holding::Held;
use crate::domain::id::Claim;
use crate::domain::on_eni::OnEni;
use crate::domain::plan::blocks::Policy;
use crate::domain::plan::reconcile::{Finding, What};
use crate::domain::plan::{brief_age, settle_age};
use crate::domain::subnet::Subnet;
use crate::error::Error;
use crate::fleet::{Fleet, STORE_TIME, Sender};
use crate::journal::{End, Journal};
use crate::late::LAST_WORD;
use crate::outside::imds::{Instance, Nic};
use crate::supervise::supervised;

mod assign;
mod attached;
mod blocks;
mod by_table;
mod doubt;
mod fetch_blocks;
mod grant;
pub mod in_use;
mod lease;
mod memory;
mod outside;
mod pace;
mod post;
mod queue;
mod refill;
mod repair;
mod reserved;
mod room;
mod serve;
mod shown;
mod survey;
mod tally;
mod task;
mod trouble;
mod unassign;

use attached::Place;
use doubt::Doubt;
pub use lease::Lease;
use memory::{Memory, WhyNot};
pub use outside::{Claims, Outside, Untold};
use queue::Want;
pub use repair::Repaired;
use reserved::Reserved;
use shown::Shown;
use tally::LastRows;
pub use tally::Tally;
use trouble::Trouble;

/// What came of recycling.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Recycled {
    /// Addresses that are free again.
    pub freed: usize,
    /// Addresses whose Unassign is not settled yet; the driver goes on with them.
    pub pending: usize,
}

impl std::ops::Add for Recycled {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { freed: self.freed + other.freed, pending: self.pending + other.pending }
    }
}

/// Whose an ENI is, and by what it is held.
pub enum Hold {
    /// This host's: no other driver of the host has this.
    Own(UnixListener),
    /// Another host's, which has no driver: whoever holds its row in the table sends for it.
    Distant(Sender),
}

/// An ENI that this driver serves.
pub struct Eni {
    /// As IMDS knows it, or EC2 a distant one.
    pub nic: Nic,
    /// Its subnet.
    pub subnet: Subnet,
    wants: mpsc::UnboundedSender<Want>,
    /// Err until the first survey is done: why not yet.
    surveyed: watch::Receiver<Result<(), Error>>,
    shared: Arc<Shared>,
}

/// What grants and the task share of the ENI.
struct Shared {
    fleet: Fleet,
    outside: Arc<Outside>,
    /// What its containers have; empty for a distant one.
    journal: Arc<Journal>,
    place: Place,
    memory: Memory,
    doubt: Doubt,
    to_post: Notify,
    /// Held while the table is told something, or of a distant one while somebody chooses what is given.
    posting: tokio::sync::Mutex<()>,
    reserved: Reserved,
    shown: Shown,
    last_rows: LastRows,
    trouble: Trouble,
    waiting: AtomicUsize,
}

/// What this life of the driver knows of an ENI beside its rows.
pub struct Known {
    /// The leases that Docker holds.
    pub leases: HashMap<Ipv4Addr, Claim>,
    /// Addresses that went on or off the ENI so recently that no list can be believed about them.
    pub recent: HashSet<Ipv4Addr>,
}

impl Shared {
    fn new(nic: Nic, instance: &Instance, sender: Option<Sender>, outside: Arc<Outside>) -> Self {
        let is_distant = sender.is_some();
        let journal = if is_distant { Arc::new(Journal::nowhere()) } else { Arc::clone(&outside.journal) };
        let drain = (!is_distant).then(|| Arc::clone(&outside.drain));
        let in_use = Arc::clone(&outside.in_use);
        Self {
            fleet: Fleet::new(outside.store.clone(), outside.ec2.clone(), sender),
            doubt: Doubt::new(&nic.eni, &journal),
            memory: Memory::new(nic.eni.clone(), in_use, Arc::clone(&journal), drain),
            place: Place::new(nic, instance, is_distant, Arc::clone(&outside)),
            journal,
            to_post: Notify::new(),
            posting: tokio::sync::Mutex::default(),
            reserved: Reserved::default(),
            shown: Shown::default(),
            last_rows: LastRows::default(),
            trouble: Trouble::default(),
            waiting: AtomicUsize::new(0),
            outside,
        }
    }

    /// Work for the ENI, cut short as by a crash once it is not ours: nothing more may be done for it. Then this.
    fn as_long_as_it_is_here<T>(
        &self,
        what: &'static str,
        work: impl Future<Output = T> + Send + 'static,
        then: impl Future<Output = ()> + Send + 'static,
    ) {
        let left = self.place.left.clone();
        let work = async move {
            if Box::pin(left.run_until_cancelled(work)).await.is_none() {
                then.await;
            }
        };
        self.outside.tasks.spawn(supervised(what, work));
    }

    /// The refusal while its host is drained.
    fn is_open(&self) -> Result<(), Error> {
        if self.memory.is_drained() { Err(Error::Drained) } else { Ok(()) }
    }

    /// Whether addresses of an unknown past wait for Docker to show whether containers have them.
    fn is_settling(&self) -> bool {
        self.place.began.elapsed() < settle_age() && self.memory.found_any()
    }

    /// Whether Docker is about to show whose those are.
    fn is_looked_at(&self) -> bool {
        self.outside.in_use.is_read() && self.is_settling()
    }
}

/// Nothing in the critical sections of an ENI's locks can panic half-way through a change.
fn locked<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Eni {
    /// Starts serving an ENI of this instance: its task runs until the driver stops, or until the ENI is not the instance's any
    /// more.
    pub fn start(nic: Nic, subnet: Subnet, instance: &Instance, hold: Hold, outside: Arc<Outside>) -> Arc<Self> {
        let (wants, inbox) = mpsc::unbounded_channel();
        let (lock, sender) = match hold {
            Hold::Own(lock) => (Some(lock), None),
            Hold::Distant(sender) => (None, Some(sender)),
        };
        let shared = Arc::new(Shared::new(nic.clone(), instance, sender, Arc::clone(&outside)));
        shared.begins();
        let (sender, surveyed) = watch::channel(Err(Error::Missing(
            "the first look at the ENI is not done yet: EC2 or the database is slow".into(),
        )));
        let task = task::Task::new(
            nic.clone(),
            subnet.clone(),
            instance.instance_type.clone(),
            lock,
            Arc::clone(&outside),
            Arc::clone(&shared),
            inbox,
            sender,
        );
        let (posts, reserved, left) = (Arc::clone(&shared), Arc::clone(&shared), Arc::clone(&shared));
        let stop = outside.stop.clone();
        shared.as_long_as_it_is_here("an interface's task", task.run(stop), async {});
        shared.as_long_as_it_is_here(
            "posting",
            outside.stop.clone().run_until_cancelled_owned(async move { posts.post_always().await }),
            async move { left.has_left().await },
        );
        shared.as_long_as_it_is_here(
            "reading what is reserved",
            outside.stop.clone().run_until_cancelled_owned(async move { reserved.read_reserved_always().await }),
            async {},
        );
        Arc::new(Self { nic, subnet, wants, surveyed, shared })
    }

    /// The container is gone: its address cools from now on. Unknown, repeated and foreign releases change nothing (I8).
    /// However long the database is away, it is done.
    pub async fn release(&self, ip: Ipv4Addr, end: End) {
        self.shared.release(ip, end).await;
        // One that a container had named is given back once it has cooled: the task has to know.
        let _ = self.wants.send(Want::Look);
    }

    /// Its host was drained, or that is over: its task is to see what that calls for.
    pub fn look_again(&self) {
        let _ = self.wants.send(Want::Look);
    }

    /// This ENI's idle addresses back to the subnet.
    pub async fn recycle(&self, until: Instant) -> Result<Recycled, Error> {
        let (answer, recycled) = oneshot::channel();
        self.wants.send(Want::Recycle(answer)).map_err(|_| self.closed())?;
        match timeout_at(until, recycled).await {
            Ok(outcome) => outcome.map_err(|_| self.closed())?,
            Err(_) => Err(Error::Missing(self.last_error().unwrap_or_else(|| "the ENI's task is busy".into()))),
        }
    }

    /// Puts right what reconciling found.
    pub async fn repair(&self, findings: Vec<Finding>, until: Instant) -> Result<Repaired, Error> {
        let (answer, repaired) = oneshot::channel();
        self.wants.send(Want::Repair(findings, answer)).map_err(|_| self.closed())?;
        match timeout_at(until, repaired).await {
            Ok(outcome) => outcome.map_err(|_| self.closed())?,
            Err(_) => Err(Error::Missing(self.last_error().unwrap_or_else(|| "the ENI's task is busy".into()))),
        }
    }

    /// Whether addresses of an unknown past wait for Docker to show whether containers have them.
    pub fn is_settling(&self) -> bool {
        self.shared.is_settling()
    }

    /// Whether a finding of two looks need not wait for the settle age. An address that the table did not know when this life
    /// of the ENI began was given by a life that is over: a container that got it then is shown by now, and EC2 is asked again
    /// for the address before it is granted.
    pub fn is_due_early(&self, finding: &Finding) -> bool {
        matches!(finding.what, What::Unused { .. })
            && self.shared.place.began.elapsed() >= brief_age()
            && self.shared.memory.was_found(finding.ip)
    }

    /// Whether a prefix that it finds on the ENI, and that nothing uses, becomes its own.
    pub fn adopts(&self) -> bool {
        self.shared.outside.blocks != Policy::Never
    }

    /// What this life knows beside the rows.
    pub fn known(&self) -> Known {
        let leases = self.shared.journal().of(&self.nic.eni).into_iter();
        let leases = leases.filter_map(|holding| match holding.held {
            Held::Lease(claim) => Some((holding.ip, claim)),
            Held::Idle | Held::Leaving(_) => None,
        });
        Known { leases: leases.collect(), recent: self.shared.memory.doubted() }
    }

    /// Whether a container may have it of which the journal knows nothing yet. `row`: as the table has it.
    pub fn may_have(&self, ip: Ipv4Addr, row: Option<&Row>) -> bool {
        self.shared.may_have(ip, row)
    }

    /// Whether there may be any such container.
    pub fn is_in_doubt(&self) -> bool {
        self.shared.is_in_doubt() || self.shared.journal().of(&self.nic.eni).iter().any(|holding| holding.doubted)
    }

    /// Whether the table has said if this journal is the one that spoke for the ENI last.
    pub fn is_compared(&self) -> bool {
        self.shared.is_compared()
    }

    /// Addresses whose rows do not say yet what the journal says: to be asked before rows are read.
    pub fn behind(&self) -> Vec<Ipv4Addr> {
        self.shared.behind()
    }

    /// Rows that did not say yet what the journal says, as they will. `behind`: what was behind before they were read, and may
    /// have been told since.
    pub fn overlay(&self, rows: &mut [Row], behind: &[Ipv4Addr]) {
        self.shared.overlay(rows, behind);
    }

    /// What a look has seen listed on the ENI: what is not is given to nobody until it is again. `asked`: when the rows were
    /// read.
    pub fn believe(&self, listed: &OnEni, rows: &[Row], asked: Instant) {
        self.shared.memory.believe(listed, rows, asked);
    }

    /// Requests that wait for EC2.
    pub fn waiting(&self) -> usize {
        self.shared.waiting.load(Ordering::Relaxed)
    }

    /// What went wrong last, until what it is about goes right again.
    pub fn last_error(&self) -> Option<String> {
        self.shared.trouble.last()
    }

    /// What EC2 refuses until somebody gives the driver other rights or credentials.
    pub fn denied(&self) -> Option<String> {
        self.shared.trouble.denied()
    }

    /// Why nothing is granted yet; none once the first survey is done.
    pub fn not_ready(&self) -> Option<String> {
        self.surveyed.borrow().clone().err().map(|why| why.to_string())
    }

    /// The instance type's limit of addresses per ENI, the primary included.
    pub fn limit(&self) -> Option<usize> {
        self.shared.shown.limits().map(|limits| limits.addresses)
    }

    /// How many blocks are its own.
    pub fn blocks(&self) -> usize {
        self.shared.memory.blocks().len()
    }

    /// Nothing is granted before rows and EC2 were compared once, so that idle rows are known to be on the ENI (I2), unless
    /// the journal knows that.
    pub async fn survey_done(&self, until: Instant) -> Result<(), Error> {
        let mut surveyed = self.surveyed.clone();
        // Only a person can change some reasons: those are told at once.
        let is_settled = |state: &Result<(), Error>| state.as_ref().map_or_else(|why| !why.may_pass(), |()| true);
        let _ = timeout_at(until - LAST_WORD, surveyed.wait_for(is_settled)).await;
        self.shared.place.check()?;
        surveyed.borrow().clone()
    }
}
