//! The driver: Docker's four calls, and what its operators ask of it.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::address::{Row, Status};
use crate::config::Settings;
use crate::ec2::{Ec2, Ec2Error, Interface};
use crate::engine::Engine;
use crate::eni::{Claims, Eni, Lease, Outside};
use crate::error::Error;
use crate::id::{Boot, EniId, PoolId};
use crate::imds::{Imds, Nic};
use crate::late::{Away, Late, Shared, in_time, pause};
use crate::link::Links;
use crate::reconcile::Reconciler;
use crate::scan::Scanner;
use crate::store::Store;
use crate::subnet::{Subnet, router};
use crate::supervise::supervised;

mod host;

pub(crate) use host::{by_name, not_here};

/// The driver of one host.
pub struct Ipam {
    /// What it was told.
    pub settings: Settings,
    /// The table, EC2, IMDS, the host's interfaces.
    pub outside: Arc<Outside>,
    imds_away: Away,
    /// Rows, EC2 and Docker compared.
    pub reconciler: Reconciler,
    /// Subnets compared with all of their interfaces.
    pub scanner: Scanner,
    pub(crate) stop: CancellationToken,
    /// Those served, and those that left since and have not come back.
    enis: Mutex<HashMap<EniId, Arc<Eni>>>,
    /// The ENIs that EC2 has attached to this instance.
    attached: Shared<Vec<Interface>, Ec2Error>,
    /// Set by GetDefaultAddressSpaces, spent by an answer to an empty Pool.
    asked_for_spaces: AtomicBool,
}

/// So many times in a row the ENIs of this host are looked for with no more than seconds in between.
const BRISK: u32 = 12;
/// How long a release waits before it is answered and goes on alone.
const RELEASE_PATIENCE: Duration = Duration::from_secs(2);

impl Ipam {
    /// Starts reaching the store and EC2; with wrong settings, nothing.
    pub fn start(settings: Settings, tasks: TaskTracker, stop: CancellationToken) -> anyhow::Result<Arc<Self>> {
        if let Some(why) = &settings.wrong {
            let (store, ec2) = (Late::never(why.clone()), Late::never(why.clone()));
            return Self::with(settings, store, ec2, Imds::new(), tasks, stop);
        }
        let database = settings.database.clone();
        let patience = settings.request_timeout;
        let store = Late::reach("the database", &tasks, stop.clone(), move || {
            let database = database.clone();
            async move { Store::open(&database, Instant::now() + patience).await.map(Arc::new) }
        });
        Self::with_store(settings, store, tasks, stop)
    }

    /// The same with a store that is reached, or not, by somebody else.
    pub fn with_store(
        settings: Settings,
        store: Late<Arc<Store>>,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> anyhow::Result<Arc<Self>> {
        let imds = Imds::new();
        let (given, of_instance) = (settings.clone(), imds.clone());
        let ec2 = Late::reach("EC2", &tasks, stop.clone(), move || {
            let (given, of_instance) = (given.clone(), of_instance.clone());
            async move { connect(&given, &of_instance).await }
        });
        Self::with(settings, store, ec2, imds, tasks, stop)
    }

    /// The same with all of the outside given.
    pub fn with(
        settings: Settings,
        store: Late<Arc<Store>>,
        ec2: Late<Ec2>,
        imds: Imds,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> anyhow::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            reconciler: Reconciler::new(settings.docker_socket.clone().map(Engine::new)),
            scanner: Scanner::default(),
            outside: Arc::new(Outside {
                store,
                ec2,
                imds,
                links: Links::new()?,
                warmth: settings.warmth,
                claims: Claims::new(Boot::random()?),
                in_use: Arc::default(),
                poke: Notify::new(),
                tasks,
            }),
            settings,
            imds_away: Away::default(),
            stop,
            enis: Mutex::default(),
            attached: Shared::default(),
            asked_for_spaces: AtomicBool::new(false),
        }))
    }

    /// Takes up the ENIs of this host that the table knows as ours, so that claims of an earlier life are settled even if no
    /// container starts: those there now, and those that appear later.
    pub fn take_up(self: &Arc<Self>) {
        let ipam = Arc::clone(self);
        let work = async move {
            let (mut failures, mut is_whole) = (0, false);
            loop {
                let rest = match ipam.take_up_all(&mut is_whole).await {
                    Err(why) if failures < BRISK => {
                        tracing::debug!("not taken up yet: {why}");
                        failures += 1;
                        pause(failures)
                    }
                    _ => ipam.settings.reconcile_interval,
                };
                sleep(rest).await;
            }
        };
        let stop = self.stop.clone();
        self.outside.tasks.spawn(supervised("taking up", async move { stop.run_until_cancelled(work).await }));
    }

    /// `is_whole`: IMDS has once listed all that EC2 has attached. EC2 is not asked again then.
    async fn take_up_all(&self, is_whole: &mut bool) -> Result<(), Error> {
        let until = Instant::now() + self.settings.request_timeout;
        let store = self.outside.store.get(until).await?;
        let host = self.host().await?;
        let mut outcome = Ok(());
        for nic in &host.interfaces {
            if self.is_served(&nic.eni).await || self.has_lost(&nic.eni).await && !self.is_back(nic, &host).await {
                continue;
            }
            let rows = store.rows_of_eni(&nic.eni, until).await?;
            let ours = |row: &Row| row.claim.is_some() || row.status == Status::Ready;
            if rows.iter().any(ours) {
                outcome = self.serve(nic, until).await.map(drop).and(outcome);
            }
        }
        if !*is_whole && self.may_list_more(&host, until).await {
            return outcome.and(Err(Error::Absent("IMDS may not list every interface of this host yet".into())));
        }
        *is_whole = true;
        outcome
    }

    /// Docker asked for the address spaces: engines from 27 on do so before each RequestPool, older ones never inside their
    /// loop, which repeats RequestPool for as long as the answer overlaps a route of the host.
    pub fn address_spaces_asked(&self) {
        self.asked_for_spaces.store(true, Ordering::Relaxed);
    }

    /// Whether they were asked for since the last empty Pool was answered.
    pub(crate) fn may_answer_empty_pool(&self) -> bool {
        self.asked_for_spaces.swap(false, Ordering::Relaxed)
    }

    /// RequestAddress. The answer has the subnet's mask.
    pub async fn request_address(
        &self,
        pool: &PoolId,
        address: &str,
        holder: Option<String>,
        until: Instant,
    ) -> Result<(String, Lease), Error> {
        let named =
            match address {
                "" => None,
                given => Some(given.parse::<Ipv4Addr>().map_err(|_| {
                    Error::Asked(format!("{given:?} is not an IPv4 address; this driver gives no other"))
                })?),
            };
        if let (Some(ip), Some(cidr)) = (named, pool.cidr)
            && !cidr.contains(&ip)
        {
            return Err(Error::NotGiven { ip, why: format!("it is not in the subnet {cidr}") });
        }
        let holder = &holder;
        let granted = self.patiently(until, || async move {
            let eni = self.eni_now(&pool.eni, until).await?;
            let lease = match named {
                None => eni.lease_any(pool.sub_pool, holder.clone(), until).await?,
                Some(ip) if !eni.subnet.contains(ip) => {
                    return Err(Error::NotGiven { ip, why: format!("it is not in the subnet {}", eni.subnet.cidr) });
                }
                Some(ip) => eni.lease_this(ip, holder.clone(), until).await?,
            };
            Ok((eni, lease))
        });
        let (eni, lease) = granted.await?;
        let claim = lease.claim().map(tracing::field::display);
        tracing::info!(eni = %eni.nic.eni, ip = %lease.ip, claim, "granted {}", lease.ip);
        eni.warn_of_elastic_ip(lease.ip);
        Ok((eni.subnet.with_mask(lease.ip), lease))
    }

    /// ReleaseAddress. Whatever is not a lease of this host is a success too, and changes nothing (I8).
    ///
    /// It waits for what is missing for a moment and then goes on by itself, since Docker never repeats it.
    pub async fn release_address(self: &Arc<Self>, pool: &str, address: &str) {
        let (Ok(pool), Ok(ip)) = (pool.parse::<PoolId>(), address.parse::<Ipv4Addr>()) else {
            tracing::info!(?address, ?pool, "nothing to release: it is not ours");
            return;
        };
        if pool.cidr.is_some_and(|cidr| router(cidr) == ip) {
            // The gateway of a network that is removed: it was answered from the pool, and is nobody's lease.
            tracing::debug!(%ip, "Docker let go of the gateway {ip}");
            return;
        }
        // Whatever this waits for, rows that were read before are wrong from now on.
        self.outside.in_use.released(ip);
        let ipam = Arc::clone(self);
        let mut work =
            self.outside.tasks.spawn(supervised("a release", async move { ipam.release(pool.eni, ip).await }));
        if timeout(RELEASE_PATIENCE, &mut work).await.is_err() {
            tracing::warn!(%ip, "a release waits for what is missing, and goes on by itself");
        }
    }

    async fn release(&self, id: EniId, ip: Ipv4Addr) {
        let (vain, mut failures) = (std::sync::Mutex::default(), 0);
        loop {
            let until = Instant::now() + self.settings.request_timeout;
            let eni = self.eni_now(&id, until).await;
            match self.unless_in_vain(eni, &vain, until).await {
                Ok(eni) => return eni.release(ip).await,
                // It is not attached to this host, and not about to be.
                Err(Error::Asked(why)) => return tracing::info!(%ip, "nothing to release: {why}"),
                Err(why) if failures == 0 => tracing::warn!(%ip, "a release waits: {why}"),
                Err(_) => {}
            }
            sleep(pause(failures)).await;
            failures += 1;
        }
    }

    /// The ENIs served now.
    pub async fn served(&self) -> Vec<Arc<Eni>> {
        self.enis.lock().await.values().filter(|eni| eni.lost().is_none()).cloned().collect()
    }

    /// Why ENIs that were served here are not any more: they are not this instance's.
    pub async fn lost(&self) -> Vec<String> {
        let mut lost: Vec<String> = self.enis.lock().await.values().filter_map(|eni| eni.lost()).collect();
        lost.sort();
        lost
    }

    /// Whether it is served.
    pub(crate) async fn is_served(&self, eni: &EniId) -> bool {
        self.enis.lock().await.get(eni).is_some_and(|eni| eni.lost().is_none())
    }

    /// Whether it was served, and left.
    pub(crate) async fn has_lost(&self, eni: &EniId) -> bool {
        self.enis.lock().await.get(eni).is_some_and(|eni| eni.lost().is_some())
    }

    /// Lost ENIs of which this host has no network any more are forgotten.
    pub(crate) async fn forget_lost(&self, has_network: impl Fn(&Eni) -> bool) {
        self.enis.lock().await.retain(|_, eni| eni.lost().is_none() || has_network(eni));
    }

    /// The store, waited for until then, and no longer than a request may take: an operator has more time for the work, but
    /// wants to know soon that it cannot begin.
    pub async fn store(&self, until: Instant) -> Result<Arc<Store>, Error> {
        self.outside.store.get(self.at_most_a_request(until)).await
    }

    /// EC2, waited for likewise.
    pub async fn ec2(&self, until: Instant) -> Result<Ec2, Error> {
        self.outside.ec2.get(self.at_most_a_request(until)).await
    }

    /// Until then, or until a request that began now would end.
    pub fn at_most_a_request(&self, until: Instant) -> Instant {
        until.min(Instant::now() + self.settings.request_timeout)
    }

    /// What of the outside does not answer, for a request whose time is up.
    pub fn what_is_missing(&self) -> String {
        let missing: Vec<String> =
            [self.outside.store.now().err(), self.outside.ec2.now().err()].into_iter().flatten().collect();
        if missing.is_empty() { "the database or EC2 is slow".into() } else { missing.join("; ") }
    }

    /// The ENI of a pool, taken up if this life of the driver has not served it yet.
    pub async fn eni(&self, id: &EniId, until: Instant) -> Result<Arc<Eni>, Error> {
        self.patiently(until, || self.eni_now(id, until)).await
    }

    async fn eni_now(&self, id: &EniId, until: Instant) -> Result<Arc<Eni>, Error> {
        let known = self.enis.lock().await.get(id).cloned();
        let lost = known.as_ref().and_then(|eni| eni.lost());
        if let (Some(eni), None) = (known, &lost) {
            return Ok(eni);
        }
        let nic = self.nic(id, until).await.map_err(|why| match (why, lost) {
            (Error::Absent(_), Some(lost)) => Error::Absent(lost),
            (why, _) => why,
        })?;
        self.serve(&nic, until).await
    }

    pub(crate) async fn serve(&self, nic: &Nic, until: Instant) -> Result<Arc<Eni>, Error> {
        let store = self.store(in_time(until)).await?;
        let instance = self.outside.imds.instance().await?;
        let subnet = Subnet::new(nic.subnet.clone(), nic.cidr)?;
        let mut enis = self.enis.lock().await;
        if let Some(eni) = enis.get(&nic.eni) {
            if eni.lost().is_none() {
                return Ok(Arc::clone(eni));
            }
            eni.ended().await;
        }
        let lock = lock(&nic.eni).map_err(|e| {
            Error::Missing(format!(
                "another ec2-ipam on this host serves {} already ({e}): stop one of them (`docker plugin ls`, `systemctl status ec2-ipam`)",
                nic.eni
            ))
        })?;
        let eni = Eni::start(nic.clone(), subnet, &instance, lock, store, Arc::clone(&self.outside), self.stop.clone());
        enis.insert(nic.eni.clone(), Arc::clone(&eni));
        Ok(eni)
    }
}

/// EC2 with what the settings and the environment say, else the instance itself.
///
/// # Errors
/// [`Ec2Error::NoRegion`].
pub async fn connect(settings: &Settings, imds: &Imds) -> Result<Ec2, Ec2Error> {
    let (region, keys) = (settings.region.clone(), settings.keys.clone());
    match Ec2::connect(region, keys.clone(), imds.role()).await {
        Err(Ec2Error::NoRegion) => {
            let region = imds.region().await.map_err(|_| Ec2Error::NoRegion)?;
            Ec2::connect(Some(region), keys, imds.role()).await
        }
        outcome => outcome,
    }
}

/// One driver per ENI and host: whoever holds this serves it. It lies in the host's network namespace, where the plugin, a
/// plain service and the command line all see it.
pub(crate) fn lock(eni: &EniId) -> std::io::Result<UnixListener> {
    UnixListener::bind_addr(&SocketAddr::from_abstract_name(format!("ec2-ipam/{eni}"))?)
}

/// Whether some driver of this host serves the ENI. Neither taken nor connected to: either would be in a driver's way.
pub(crate) fn is_locked(eni: &EniId) -> bool {
    let name = format!(" @ec2-ipam/{eni}");
    std::fs::read_to_string("/proc/net/unix").is_ok_and(|sockets| sockets.lines().any(|line| line.ends_with(&name)))
}
