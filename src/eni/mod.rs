//! One ENI of this host: granting its warm addresses and taking them back.
//!
//! Whatever needs a call to EC2 is left to the ENI's one task (`task`), which does every Assign, Unassign and settling of
//! that ENI, one at a time. Requests for warm addresses do not wait for it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnet::Ipv4Net;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::address::{Row, State};
use crate::error::Error;
use crate::id::Claim;
use crate::imds::{Instance, Nic};
use crate::late::LAST_WORD;
use crate::plan::reconcile::{Finding, What};
use crate::plan::{brief_age, settle_age};
use crate::subnet::Subnet;
use crate::supervise::supervised;

mod assign;
mod attached;
mod grant;
mod idle;
mod lease;
mod outside;
mod refill;
mod repair;
mod reserved;
mod serve;
mod shown;
mod survey;
mod task;
mod trouble;
pub mod unassign;

use attached::Place;
use idle::Idle;
pub use lease::Lease;
use lease::Weak;
pub use outside::{Claims, Outside};
pub use repair::Repaired;
use reserved::Reserved;
use trouble::Trouble;

/// What is asked of an ENI's task.
enum Want {
    /// An address for a container.
    Order(Order),
    /// A warm address was granted: the pool wants filling soon.
    TopUp,
    /// An address was released, or granted by name: one that was named is to go back once it has cooled.
    Look,
    /// Idle addresses back to the subnet.
    Recycle(oneshot::Sender<Result<Recycled, Error>>),
    /// What reconciling found.
    Repair(Repair),
}

/// Findings to be put right, and where to tell what came of it.
struct Repair {
    findings: Vec<Finding>,
    answer: oneshot::Sender<Result<Repaired, Error>>,
}

/// A container's request that waits for the task.
struct Order {
    /// This address; none: any.
    ip: Option<Ipv4Addr>,
    sub_pool: Option<Ipv4Net>,
    cooldown: Duration,
    holder: Option<String>,
    /// Where the lease goes; closed when nobody waits any more.
    answer: oneshot::Sender<Result<Lease, Error>>,
}

impl Order {
    fn fits(&self, ip: Ipv4Addr) -> bool {
        self.ip.map_or_else(|| self.sub_pool.is_none_or(|range| range.contains(&ip)), |named| named == ip)
    }
}

/// What came of recycling.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Recycled {
    /// Addresses that are free again.
    pub freed: usize,
    /// Addresses whose Unassign is not settled yet; the driver goes on with them.
    pub pending: usize,
}

/// An ENI that this driver serves.
pub struct Eni {
    /// As IMDS knows it.
    pub nic: Nic,
    /// Its subnet.
    pub subnet: Subnet,
    outside: Outside,
    wants: mpsc::UnboundedSender<Want>,
    /// Err until the first survey is done: why not yet.
    surveyed: watch::Receiver<Result<(), Error>>,
    shared: Arc<Shared>,
}

/// What grants and the task both know of the ENI.
struct Shared {
    place: Place,
    memory: Mutex<Memory>,
    waiting: AtomicUsize,
}

struct Memory {
    /// Leases that Docker holds, as granted by this process or found at its start: a grant that hits one shows that the
    /// database lost a commit.
    leases: HashMap<Ipv4Addr, Claim>,
    /// Addresses that EC2 has on the ENI, as this life was told by it, or by IMDS at the start: only these are granted (I2),
    /// whatever rows a database brings back.
    listed: BTreeSet<Ipv4Addr>,
    /// Addresses that were on the ENI when this life of it began, and that the table did not know.
    found: HashSet<Ipv4Addr>,
    /// Its prefixes, of 16 addresses and one slot each. They are somebody else's.
    prefixes: Vec<Ipv4Net>,
    idle: Idle,
    /// None: not known.
    reserved: Option<Reserved>,
    /// Addresses that the host itself had on the link when last asked.
    on_link: Vec<Ipv4Addr>,
    /// The sub-pool of the last request; none until a network has asked, since only Docker knows its networks.
    sub_pool: Option<Option<Ipv4Net>>,
    /// The instance type's limit of addresses per ENI, the primary included.
    limit: Option<usize>,
    trouble: Trouble,
    /// The Elastic IPs of its addresses but the primary one, as EC2 last showed them.
    elastic: HashMap<Ipv4Addr, Ipv4Addr>,
    /// When addresses went on or off the ENI: EC2's lists lag.
    touched: HashMap<Ipv4Addr, Instant>,
    /// When this life took addresses off the ENI: a list that has them may be one from before.
    taken_off: HashMap<Ipv4Addr, Instant>,
}

impl Memory {
    fn empty() -> Self {
        Self {
            leases: HashMap::new(),
            listed: BTreeSet::new(),
            found: HashSet::new(),
            prefixes: Vec::new(),
            idle: Idle::unknown(),
            reserved: None,
            on_link: Vec::new(),
            sub_pool: None,
            limit: None,
            trouble: Trouble::default(),
            elastic: HashMap::new(),
            touched: HashMap::new(),
            taken_off: HashMap::new(),
        }
    }

    /// They go on or off the ENI now.
    fn touch(&mut self, ips: impl IntoIterator<Item = Ipv4Addr>) {
        let now = Instant::now();
        self.touched.retain(|_, at| now.duration_since(*at) < settle_age());
        self.touched.extend(ips.into_iter().map(|ip| (ip, now)));
    }

    /// They go off the ENI now.
    fn take_off(&mut self, ips: &[Ipv4Addr]) {
        self.touch(ips.iter().copied());
        let now = Instant::now();
        self.taken_off.retain(|_, at| now.duration_since(*at) < settle_age());
        self.taken_off.extend(ips.iter().map(|ip| (*ip, now)));
        self.listed.retain(|ip| !ips.contains(ip));
    }

    /// I2: whether a list that has the address on the ENI is believed. It may be from before it was taken off.
    fn believes(&self, ip: Ipv4Addr) -> bool {
        self.taken_off.get(&ip).is_none_or(|at| at.elapsed() >= settle_age())
    }
}

/// What this life of the driver knows of an ENI beside its rows.
pub struct Known {
    /// The leases that Docker holds.
    pub leases: HashMap<Ipv4Addr, Claim>,
    /// Addresses that went on or off the ENI so recently that no list can be believed about them.
    pub recent: HashSet<Ipv4Addr>,
    /// The ENI's prefixes.
    pub prefixes: Vec<Ipv4Net>,
}

impl Shared {
    /// Whether addresses of an unknown past wait for Docker to show whether containers have them.
    fn is_settling(&self) -> bool {
        self.place.began.elapsed() < settle_age() && !self.memory().found.is_empty()
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // Nothing in a critical section of this lock can panic half-way through a change.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Unless it is another lease by now.
    fn forget(&self, ip: Ipv4Addr, claim: &Claim) {
        let mut memory = self.memory();
        if memory.leases.get(&ip) == Some(claim) {
            memory.leases.remove(&ip);
        }
    }
}

/// The bound of one attempt at the table where nobody waits for it.
const STORE_TIME: Duration = Duration::from_secs(20);

impl Eni {
    /// Starts serving an ENI of this host: its task runs until the driver stops, or until the ENI is not this host's any more;
    /// so long it holds the `lock`.
    pub fn start(
        nic: Nic,
        subnet: Subnet,
        instance: &Instance,
        lock: UnixListener,
        outside: Outside,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let (wants, inbox) = mpsc::unbounded_channel();
        let (sender, surveyed) = watch::channel(Err(Error::Missing(
            "the first look at the ENI is not done yet: EC2 or the database is slow".into(),
        )));
        let place = Place::new(nic.clone(), instance);
        let shared = Arc::new(Shared { place, memory: Mutex::new(Memory::empty()), waiting: AtomicUsize::new(0) });
        let task = task::Task::new(
            nic.clone(),
            subnet.clone(),
            instance.instance_type.clone(),
            lock,
            outside.clone(),
            Arc::clone(&shared),
            inbox,
            sender,
        );
        let left = shared.place.left.clone();
        // Cut short as by a crash: nothing more may be done for an ENI that is not ours.
        let work = async move { Box::pin(left.run_until_cancelled(task.run(stop))).await };
        outside.tasks.spawn(supervised("an interface's task", work));
        Arc::new(Self { nic, subnet, outside, wants, surveyed, shared })
    }

    fn weak(&self) -> Weak {
        Weak { id: self.nic.eni.clone(), outside: self.outside.clone(), shared: Arc::clone(&self.shared) }
    }

    /// The container is gone: its address cools from now on. Unknown, repeated and foreign releases change nothing (I8).
    /// However long the database is away, it is done.
    pub async fn release(&self, ip: Ipv4Addr) {
        self.weak().release(ip).await;
        // One that a container had named is given back once it has cooled: the task has to know.
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
        self.wants.send(Want::Repair(Repair { findings, answer })).map_err(|_| self.closed())?;
        match timeout_at(until, repaired).await {
            Ok(outcome) => outcome.map_err(|_| self.closed())?,
            Err(_) => Err(Error::Missing(self.last_error().unwrap_or_else(|| "the ENI's task is busy".into()))),
        }
    }

    /// What EC2 has just said of its prefixes.
    pub fn has_prefixes(&self, prefixes: &[Ipv4Net]) {
        self.shared.memory().prefixes = prefixes.to_vec();
    }

    /// Whether addresses of an unknown past wait for Docker to show whether containers have them.
    pub fn is_settling(&self) -> bool {
        self.shared.is_settling()
    }

    /// Whether a finding of two looks need not wait for the settle age. An address that the table did not know when this life
    /// of the ENI began was given by a life that is over: a container that got it then is shown by now, and EC2 is asked again
    /// for the address before it is granted.
    pub fn is_due_early(&self, finding: &Finding) -> bool {
        finding.what == What::Unused
            && self.shared.place.began.elapsed() >= brief_age()
            && self.shared.memory().found.contains(&finding.ip)
    }

    /// What this life knows beside the rows.
    pub fn known(&self) -> Known {
        let memory = self.shared.memory();
        let recent = memory.touched.iter().filter(|(_, at)| at.elapsed() < settle_age()).map(|(ip, _)| *ip).collect();
        Known { leases: memory.leases.clone(), recent, prefixes: memory.prefixes.clone() }
    }

    /// What is listed on the ENI: what is not is given to nobody until it is again, and neither is what the table has given up
    /// since, whatever rows a database brings back (I2). `asked`: when the rows were read.
    pub fn believe(&self, listed: &[(Ipv4Addr, bool)], rows: &[Row], asked: Instant) {
        let listed: HashSet<Ipv4Addr> = listed.iter().map(|(ip, _)| *ip).collect();
        let recent = self.known().recent;
        let mut memory = self.shared.memory();
        let ours = |states: &'static [State]| {
            let ours = rows.iter().filter(|row| row.iface.as_ref() == Some(&self.nic.eni));
            ours.filter(|row| states.contains(&row.state())).map(|row| row.ip)
        };
        let held: HashSet<Ipv4Addr> = ours(&[State::Ready, State::Lease, State::On]).collect();
        let Memory { listed: believed, touched, .. } = &mut *memory;
        believed.retain(|ip| {
            touched.get(ip).is_some_and(|at| *at >= asked)
                || held.contains(ip) && (listed.contains(ip) || recent.contains(ip))
        });
        believed.extend(ours(&[State::Ready, State::Lease]).filter(|ip| listed.contains(ip) && !recent.contains(ip)));
    }

    /// Requests that wait for EC2.
    pub fn waiting(&self) -> usize {
        self.shared.waiting.load(Ordering::Relaxed)
    }

    /// What went wrong last, until what it is about goes right again.
    pub fn last_error(&self) -> Option<String> {
        self.shared.memory().trouble.last()
    }

    /// Why nothing is granted yet; none once the first survey is done.
    pub fn not_ready(&self) -> Option<String> {
        self.surveyed.borrow().clone().err().map(|why| why.to_string())
    }

    /// The instance type's limit of addresses per ENI, the primary included.
    pub fn limit(&self) -> Option<usize> {
        self.shared.memory().limit
    }

    /// Nothing is granted before rows and EC2 were compared once: claims of an earlier life are settled, and idle rows are
    /// known to be on the ENI (I2).
    pub async fn survey_done(&self, until: Instant) -> Result<(), Error> {
        let mut surveyed = self.surveyed.clone();
        // Only a person can change some reasons: those are told at once.
        let is_settled = |state: &Result<(), Error>| state.as_ref().map_or_else(|why| !why.may_pass(), |()| true);
        let _ = timeout_at(until - LAST_WORD, surveyed.wait_for(is_settled)).await;
        self.shared.place.check()?;
        surveyed.borrow().clone()
    }
}
