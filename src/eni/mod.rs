//! One ENI of this host: granting its warm addresses and taking them back.
//!
//! Whatever needs a call to EC2 is left to the ENI's one task (`task`), which does every Assign, Unassign and settling of
//! that ENI, one at a time. Requests for warm addresses do not wait for it.

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnet::Ipv4Net;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::address::{Event, FIXED, Row, State};
use crate::ec2::Ec2;
use crate::error::Error;
use crate::id::{Boot, Claim, EniId, Kind};
use crate::imds::{Imds, Nic};
use crate::in_use::InUse;
use crate::late::Late;
use crate::link::{Link, Links};
use crate::plan::Warmth;
use crate::store::{Store, WarmGrant};
use crate::subnet::Subnet;

mod assign;
mod lease;
mod refill;
mod serve;
mod survey;
mod task;
pub mod unassign;

pub use lease::Lease;
use lease::Weak;

/// What the driver reaches from an ENI's task.
#[derive(Clone)]
#[allow(missing_docs, reason = "the types say it")]
pub struct Outside {
    pub store: Arc<Store>,
    pub ec2: Late<Ec2>,
    pub imds: Imds,
    pub links: Links,
    pub warmth: Warmth,
    pub claims: Arc<Claims>,
    pub in_use: Arc<InUse>,
    pub tasks: TaskTracker,
}

/// The tokens of this life of the driver.
pub struct Claims {
    boot: Boot,
    last: AtomicU64,
}

impl Claims {
    /// None used yet.
    pub fn new(boot: Boot) -> Self {
        Self { boot, last: AtomicU64::new(0) }
    }

    /// A token that was never used before.
    pub fn next(&self, kind: Kind) -> Claim {
        self.boot.claim(self.last.fetch_add(1, Ordering::Relaxed), kind)
    }

    /// Whose tokens they are.
    pub fn boot(&self) -> &Boot {
        &self.boot
    }
}

/// What is asked of an ENI's task.
enum Want {
    /// An address for a container.
    Order(Order),
    /// An address was granted or released: the pool may want filling, or an address that was named may go back.
    Look,
    /// Idle addresses back to the subnet.
    Recycle(oneshot::Sender<Result<Recycled, Error>>),
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
    /// The parent interface.
    pub link: Link,
    outside: Outside,
    wants: mpsc::UnboundedSender<Want>,
    /// Err until the first survey is done: why not yet.
    surveyed: watch::Receiver<Result<(), String>>,
    shared: Arc<Shared>,
}

/// What grants and the task both know of the ENI.
struct Shared {
    memory: Mutex<Memory>,
    waiting: AtomicUsize,
}

#[derive(Default)]
struct Memory {
    /// Leases that Docker holds, as granted by this process or found at its start: a grant that hits one shows that the
    /// database lost a commit.
    leases: HashMap<Ipv4Addr, Claim>,
    /// Idle rows that nobody has listed on the ENI since the start (I2).
    unlisted: BTreeSet<Ipv4Addr>,
    /// The sub-pool of the last request; none until a network has asked, since only Docker knows its networks.
    sub_pool: Option<Option<Ipv4Net>>,
    /// The instance type's limit of addresses per ENI, the primary included.
    limit: Option<usize>,
    last_error: Option<String>,
}

impl Shared {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        // Nothing in a critical section of this lock can panic half-way through a change.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a request for a named address waits for that address's own release.
const RELEASE_IN_FLIGHT: Duration = Duration::from_secs(5);
/// The bound of one attempt at the table where nobody waits for it.
const STORE_TIME: Duration = Duration::from_secs(20);
/// A request stops waiting so long before its deadline, to look for a last resort and to say what was missing.
const LAST_WORD: Duration = Duration::from_millis(1500);

impl Eni {
    /// Starts serving an ENI: its task runs until the driver stops.
    pub fn start(
        nic: Nic,
        subnet: Subnet,
        link: Link,
        instance_type: String,
        outside: Outside,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let (wants, inbox) = mpsc::unbounded_channel();
        let (sender, surveyed) = watch::channel(Err("the ENI has not been looked at yet".to_owned()));
        let shared = Arc::new(Shared { memory: Mutex::default(), waiting: AtomicUsize::new(0) });
        let task = task::Task::new(
            nic.clone(),
            subnet.clone(),
            link.clone(),
            instance_type,
            outside.clone(),
            Arc::clone(&shared),
            inbox,
            sender,
        );
        outside.tasks.spawn(task.run(stop));
        Arc::new(Self { nic, subnet, link, outside, wants, surveyed, shared })
    }

    fn weak(&self) -> Weak {
        Weak { id: self.nic.eni.clone(), outside: self.outside.clone(), shared: Arc::clone(&self.shared) }
    }

    /// Any address: the coldest cooled warm one, else what the task gets from EC2, else the coldest that still cools.
    pub async fn lease_any(
        &self,
        sub_pool: Option<Ipv4Net>,
        holder: Option<String>,
        until: Instant,
    ) -> Result<Lease, Error> {
        self.shared.memory().sub_pool = Some(sub_pool);
        self.survey_done(until).await?;
        let cooldown = self.outside.warmth.cooldown;
        if let Some(lease) = self.grant_warm(sub_pool, cooldown, holder.as_deref(), until).await? {
            let _ = self.wants.send(Want::Look);
            return Ok(lease);
        }
        let why = match self.order(None, sub_pool, cooldown, holder.clone(), until - LAST_WORD).await {
            Ok(lease) => return Ok(lease),
            Err(why) => why,
        };
        // I10: before its cool-down is over an address is given only where failing is all that is left.
        if let Some(lease) = self.grant_warm(sub_pool, Duration::ZERO, holder.as_deref(), until).await? {
            tracing::warn!(eni = %self.nic.eni, ip = %lease.ip, "granted {} before its cool-down is over: {why}", lease.ip);
            return Ok(lease);
        }
        if matches!(why, Error::NoFreeAddress { .. }) && !cooldown.is_zero() {
            let lease = self.order(None, sub_pool, Duration::ZERO, holder, until - LAST_WORD / 2).await?;
            tracing::warn!(eni = %self.nic.eni, ip = %lease.ip, "granted {} before its cool-down is over: {why}", lease.ip);
            return Ok(lease);
        }
        Err(why)
    }

    /// The address that the container named, exempt from cool-down and sub-pool.
    pub async fn lease_this(&self, ip: Ipv4Addr, holder: Option<String>, until: Instant) -> Result<Lease, Error> {
        self.shared.memory().sub_pool.get_or_insert(None);
        self.survey_done(until).await?;
        let holder = Some(format!("{FIXED}{}", holder.unwrap_or_default()));
        let patience = until.min(Instant::now() + RELEASE_IN_FLIGHT);
        loop {
            let row = self.outside.store.row(ip, until).await?;
            let mine = row.as_ref().is_some_and(|row| row.iface.as_ref() == Some(&self.nic.eni));
            match row.as_ref().map(Row::state) {
                Some(State::Free) => {
                    match self.order(Some(ip), None, Duration::ZERO, holder.clone(), until - LAST_WORD).await {
                        // Another request was quicker: look again.
                        Err(Error::NotGiven { .. }) if Instant::now() < patience => {}
                        outcome => return outcome,
                    }
                }
                Some(State::Ready) if mine => {
                    self.nobody_has(ip).await?;
                    let row = row.ok_or(Error::Stopping)?;
                    // I1: a lease that the database lost stands again; then it is somebody's, and waited for.
                    let older = self.shared.memory().leases.get(&ip).cloned();
                    let is_lost = older.is_some();
                    let claim = older.unwrap_or_else(|| self.outside.claims.next(Kind::Lease));
                    let event = Event::Lease { claim: claim.clone(), holder: holder.clone() };
                    if let Ok(change) = row.on(event)
                        && self.outside.store.apply(&[change], until).await? == [true]
                        && !is_lost
                    {
                        self.shared.memory().leases.insert(ip, claim.clone());
                        let _ = self.wants.send(Want::Look);
                        return Ok(Lease { ip, claim, eni: self.weak() });
                    }
                }
                // Its own release, or an Unassign, may be in flight: Docker deletes an endpoint before it releases the
                // address, so another container may name it in between.
                Some(State::Lease | State::Off | State::On) if Instant::now() < patience => {}
                state => return Err(self.not_given(ip, state, row.as_ref())),
            }
            sleep(Duration::from_millis(50).mul_f64(0.5 + fastrand::f64())).await;
        }
    }

    fn not_given(&self, ip: Ipv4Addr, state: Option<State>, row: Option<&Row>) -> Error {
        let named = row.and_then(Row::endpoint).map(|name| format!(" ({name})")).unwrap_or_default();
        let eni = row.and_then(|row| row.iface.as_ref()).map_or("another interface", EniId::as_str);
        let why = match state {
            None => format!("the table has no row for it; run `ec2-ipam init {}`", self.subnet.id),
            Some(State::Reserved) if self.subnet.is_aws_reserved(ip) => {
                "AWS reserves the first four addresses and the last one of every subnet".to_owned()
            }
            Some(State::Reserved) => format!("it is reserved{named}; `ec2-ipam unreserve {ip}` lets it go"),
            Some(State::Lease) => format!("a container{named} on {eni} has it"),
            Some(State::Foreign) if row.is_some_and(|row| row.primary) => {
                format!(
                    "it is the primary address of {eni}; if it was given as --aux-address, drop that: it is already excluded"
                )
            }
            Some(State::Foreign) => format!(
                "{eni} has it, and not for a container of this driver; if it was given as --aux-address, drop that: it is \
                 already excluded"
            ),
            Some(State::Ready | State::On | State::Off) => format!(
                "{eni} holds it idle; it returns to the subnet with `ec2-ipam recycle {}` on that host, or soon by itself if \
                 a container there had named it",
                self.subnet.id
            ),
            Some(State::Free) => "other requests for it were quicker; try again".to_owned(),
        };
        Error::NotGiven { ip, why }
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
        self.wants.send(Want::Recycle(answer)).map_err(|_| Error::Stopping)?;
        match timeout_at(until, recycled).await {
            Ok(outcome) => outcome.map_err(|_| Error::Stopping)?,
            Err(_) => Err(Error::Missing(self.last_error().unwrap_or_else(|| "the ENI's task is busy".into()))),
        }
    }

    /// Requests that wait for EC2.
    pub fn waiting(&self) -> usize {
        self.shared.waiting.load(Ordering::Relaxed)
    }

    /// What went wrong last, until something goes right again.
    pub fn last_error(&self) -> Option<String> {
        self.shared.memory().last_error.clone()
    }

    /// Why nothing is granted yet; none once the first survey is done.
    pub fn not_ready(&self) -> Option<String> {
        self.surveyed.borrow().clone().err()
    }

    /// The instance type's limit of addresses per ENI, the primary included.
    pub fn limit(&self) -> Option<usize> {
        self.shared.memory().limit
    }

    /// Nothing is granted before rows and EC2 were compared once: claims of an earlier life are settled, and idle rows are
    /// known to be on the ENI (I2).
    pub async fn survey_done(&self, until: Instant) -> Result<(), Error> {
        let mut surveyed = self.surveyed.clone();
        let _ = timeout_at(until - LAST_WORD, surveyed.wait_for(Result::is_ok)).await;
        surveyed.borrow().clone().map_err(Error::Missing)
    }

    /// ready -> lease, in one round trip.
    async fn grant_warm(
        &self,
        sub_pool: Option<Ipv4Net>,
        cooldown: Duration,
        holder: Option<&str>,
        until: Instant,
    ) -> Result<Option<Lease>, Error> {
        // I7: a host agent may have put a secondary address of the ENI on the link itself since it became warm.
        let mut except =
            self.outside.links.addresses(self.link.index).await.map_err(|e| Error::Missing(e.to_string()))?;
        except.extend(self.outside.in_use.addresses());
        {
            let memory = self.shared.memory();
            // Leases are not idle rows, unless the database lost one: then the hit below puts it right.
            except.retain(|ip| !memory.leases.contains_key(ip));
            except.extend(memory.unlisted.iter());
        }
        loop {
            let claim = self.outside.claims.next(Kind::Lease);
            let wanted = WarmGrant {
                eni: &self.nic.eni,
                sub_pool,
                cooldown,
                except: &except,
                fixed_too: cooldown.is_zero(),
                claim: &claim,
                holder,
            };
            let Some(ip) = self.outside.store.grant_warm(&wanted, until).await? else {
                return Ok(None);
            };
            let known = self.shared.memory().leases.get(&ip).cloned();
            let Some(older) = known else {
                self.shared.memory().leases.insert(ip, claim.clone());
                return Ok(Some(Lease { ip, claim, eni: self.weak() }));
            };
            // I1: Docker has this address in use, whatever the table says.
            tracing::error!(eni = %self.nic.eni, %ip, "the database lost the lease of {ip}; it is put right");
            self.weak().change(ip, &claim, Event::Restore { claim: older }, until).await?;
            except.push(ip);
        }
    }

    async fn nobody_has(&self, ip: Ipv4Addr) -> Result<(), Error> {
        let own = self.outside.links.addresses(self.link.index).await.map_err(|e| Error::Missing(e.to_string()))?;
        if own.contains(&ip) {
            let link = &self.link.name;
            let why = format!(
                "the host itself has it on {link}; take it off with `ip addr del {ip}/32 dev {link}`, and see `ec2-ipam doctor`"
            );
            return Err(Error::NotGiven { ip, why });
        }
        if self.outside.in_use.contains(ip) {
            let why = "Docker shows that a container of this host has it".into();
            return Err(Error::NotGiven { ip, why });
        }
        if self.shared.memory().unlisted.contains(&ip) {
            return Err(Error::NotGiven {
                ip,
                why: format!("EC2 has not confirmed yet that it is on {}; try again", self.nic.eni),
            });
        }
        Ok(())
    }

    /// Leaves it to the task, and waits for its answer.
    async fn order(
        &self,
        ip: Option<Ipv4Addr>,
        sub_pool: Option<Ipv4Net>,
        cooldown: Duration,
        holder: Option<String>,
        until: Instant,
    ) -> Result<Lease, Error> {
        let (answer, lease) = oneshot::channel();
        let order = Order { ip, sub_pool, cooldown, holder, answer };
        let asked = Instant::now();
        self.shared.waiting.fetch_add(1, Ordering::Relaxed);
        let outcome = async {
            self.wants.send(Want::Order(order)).map_err(|_| Error::Stopping)?;
            match timeout_at(until, lease).await {
                Ok(outcome) => outcome.map_err(|_| Error::Stopping)?,
                Err(_) => {
                    let why = self.last_error().unwrap_or_else(|| "EC2 has not answered yet".into());
                    Err(Error::Late { waited: asked.elapsed(), why })
                }
            }
        }
        .await;
        self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
        outcome
    }
}
