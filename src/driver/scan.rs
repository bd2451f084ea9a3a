//! The subnet scan: all of a subnet's interfaces against its rows, by one host of the fleet at a time.
//!
//! It mends what no host's own driver would: addresses that others took or let go, and rows of interfaces that are no more.
//! Poor sight must not harm, so each finding has to be seen by two scans, an answer without our own interface is discarded,
//! and a scan that would free very many rows changes nothing.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex as Plain, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep};

use crate::domain::address::Change;
use crate::domain::block::told_once;
use crate::domain::id::{EniId, SubnetId};
use crate::domain::plan::drain_age;
use crate::domain::plan::ledger::Ledger;
use crate::domain::plan::scan::{Finding, What, compare, freed, limit, unseen};
use crate::domain::subnet::Subnet;
use crate::driver::found::{Found, Manner};
use crate::driver::interfaces::Interfaces;
use crate::driver::served::Served;
use crate::eni::Outside;
use crate::error::Error;
use crate::fail_point::point;
use crate::fleet::fill::assigned;
use crate::outside::ec2::{Ec2, Ec2Error, Interface};
use crate::outside::imds::{Host, Nic};
use crate::store::Store;

/// Compares them, and has put right what does not agree.
pub struct Scanner {
    outside: Arc<Outside>,
    interfaces: Arc<Interfaces>,
    served: Arc<Served>,
    interval: Duration,
    subnets: Mutex<HashMap<SubnetId, Ledger<What>>>,
    problems: watch::Sender<HashMap<SubnetId, String>>,
    /// ENIs that IMDS lists and EC2 did not know, and since when.
    unknown: Plain<HashMap<EniId, Instant>>,
    left_out: Plain<HashSet<EniId>>,
}

/// The bound of a scan's calls to the store.
const SCAN: Duration = Duration::from_secs(120);
/// Rows to a read.
const CHUNK: usize = 500;
/// ENIs that rows name and EC2 did not list are asked about one by one; so many to a scan.
const UNSEEN: usize = 50;

impl Scanner {
    pub(crate) fn new(
        outside: &Arc<Outside>,
        interfaces: &Arc<Interfaces>,
        served: &Arc<Served>,
        interval: Duration,
    ) -> Self {
        let (subnets, problems) = (Mutex::default(), watch::Sender::default());
        let (unknown, left_out) = (Plain::default(), Plain::default());
        Self {
            outside: Arc::clone(outside),
            interfaces: Arc::clone(interfaces),
            served: Arc::clone(served),
            interval,
            subnets,
            problems,
            unknown,
            left_out,
        }
    }

    /// Why the last scan changed nothing, by subnet.
    pub fn problems(&self) -> Vec<String> {
        let mut problems: Vec<String> = self.problems.borrow().values().cloned().collect();
        problems.sort();
        problems
    }

    /// Scans the subnets of the served ENIs without end.
    pub(crate) async fn run(&self) {
        // Not all hosts of a fleet that was started at once.
        sleep(self.interval.min(Duration::from_secs(20)).mul_f64(fastrand::f64())).await;
        loop {
            if let Err(why) = self.scan(Manner::Usual).await {
                tracing::debug!("not scanned: {why}");
            }
            sleep(self.interval.mul_f64(1.0 + fastrand::f64() / 10.0)).await;
        }
    }

    /// One scan of each subnet in which an ENI is served.
    pub async fn scan(&self, manner: Manner) -> Result<Vec<Found>, Error> {
        let mut ledgers = self.subnets.lock().await;
        let served = self.served.all().await;
        let subnets: HashMap<SubnetId, Subnet> =
            served.iter().map(|eni| (eni.subnet.id.clone(), eni.subnet.clone())).collect();
        let host = match self.interfaces.host().await {
            Ok(host) => Some(host),
            // What serves distant interfaces alone may stand where there is no IMDS.
            Err(_) if served.iter().any(|eni| eni.is_distant()) => None,
            Err(why) => return Err(why),
        };
        let listed: Vec<Own<'_>> = host.iter().flat_map(Own::of_host).collect();
        let mut found = Vec::new();
        for (id, subnet) in subnets {
            let ledger = ledgers.entry(id.clone()).or_default();
            // Distant ones are none of IMDS's, and it may leave one out for a while.
            let omitted = served.iter().map(|eni| Own { nic: &eni.nic, instance: eni.instance() });
            let omitted = omitted.filter(|own| listed.iter().all(|listed| listed.nic.eni != own.nic.eni));
            let mut own: Vec<Own<'_>> = listed.iter().copied().chain(omitted).collect();
            own.retain(|own| own.nic.subnet == id);
            let outcome = self.scan_one(&subnet, &own, ledger, manner).await;
            let is_blind = outcome.as_ref().is_err_and(|why| !matches!(why, Error::WouldFree { .. }));
            if is_blind
                && manner == Manner::Usual
                && let Ok(store) = self.outside.store.now()
            {
                // Another host may see more: it need not wait for this one to die.
                let _ = self.holds_scan(&store, &subnet, &own, Duration::ZERO, Instant::now() + SCAN).await;
            }
            if manner != Manner::DryRun {
                self.tell(&id, &outcome);
            }
            found.extend(outcome?);
        }
        Ok(found)
    }

    #[tracing::instrument(level = "error", skip_all, fields(round = "scan", subnet = %subnet.id))]
    async fn scan_one(
        &self,
        subnet: &Subnet,
        own: &[Own<'_>],
        ledger: &mut Ledger<What>,
        manner: Manner,
    ) -> Result<Vec<Found>, Error> {
        let (now, until) = (Instant::now(), Instant::now() + SCAN);
        let store = self.outside.store(until).await?;
        if manner == Manner::Usual && !self.holds_scan(&store, subnet, own, self.scan_span(), until).await? {
            // Another host's: what this one saw is too old by the time that it scans again.
            *ledger = Ledger::default();
            return Ok(Vec::new());
        }
        let ec2 = self.outside.ec2(until).await?;
        let interfaces = ec2.interfaces_of_subnet(&subnet.id).await?;
        self.sees_itself(&ec2, &interfaces, own, &subnet.id).await?;
        // Where other hosts write too, rows of theirs are their own drivers'.
        let is_alien = |interface: &&Interface| {
            let is_it =
                |own: &Own<'_>| interface.instance.as_deref() == Some(own.instance) || own.nic.eni == interface.id;
            !own.iter().any(is_it)
        };
        let alien: BTreeSet<EniId> = if store.is_private() {
            interfaces.iter().filter(is_alien).map(|interface| interface.id.clone()).collect()
        } else {
            BTreeSet::new()
        };
        let (findings, rows) = findings(&store, &ec2, subnet, &interfaces, &alien, until).await?;
        point("scan:read").await;
        let told = |finding: &Finding, repaired| Found {
            of: subnet.id.to_string(),
            ip: finding.row.ip,
            found: finding.to_string(),
            seen_seconds: ledger.age(&finding.sight(), now).map(|age| age.as_secs()),
            repaired,
        };
        let mut found: Vec<Found> = findings.iter().map(|finding| told(finding, false)).collect();
        if manner == Manner::DryRun {
            return Ok(found);
        }
        ledger.note(findings.iter().map(Finding::sight), |_| false, now);
        let due: Vec<Finding> = findings.into_iter().filter(|finding| ledger.is_due(&finding.sight(), now)).collect();
        let freed = freed(&due);
        // In a table of this host alone, an address that was freed wrongly costs no more than an Assign that EC2 refuses.
        if freed > limit(rows) && manner != Manner::Forced && !store.is_private() {
            return Err(Error::WouldFree { subnet: subnet.id.clone(), freed, rows });
        }
        // It may have taken long.
        if due.is_empty()
            || manner == Manner::Usual && !self.holds_scan(&store, subnet, own, self.scan_span(), until).await?
        {
            return Ok(found);
        }
        let changes: Vec<Change> = due.iter().filter_map(|finding| finding.row.on(finding.event()).ok()).collect();
        let done = store.apply(&changes, until).await?;
        point("scan:changed").await;
        let done: BTreeSet<Ipv4Addr> =
            changes.iter().zip(done).filter(|(_, done)| *done).map(|(change, _)| change.ip).collect();
        let mended = || due.iter().filter(|finding| done.contains(&finding.row.ip));
        mended().for_each(|finding| self.outside.counts.mended(finding.what.kind()));
        for (unit, finding) in told_once(mended().map(|finding| (finding.unit(), finding.row.ip, finding.to_string())))
        {
            tracing::warn!(subnet = %subnet.id, ip = %unit, "{finding}");
        }
        for found in &mut found {
            found.repaired = done.contains(&found.ip);
        }
        Ok(found)
    }

    /// EC2's list has to have what is this very host's. IMDS, too, may be behind: what was deleted, or went to another
    /// instance, is listed for hours.
    async fn sees_itself(
        &self,
        ec2: &Ec2,
        interfaces: &[Interface],
        own: &[Own<'_>],
        subnet: &SubnetId,
    ) -> Result<(), Error> {
        let mut seen = 0;
        for Own { nic, instance } in own {
            let is_here = |interface: &Interface| interface.instance.as_deref() == Some(*instance);
            let listed = interfaces.iter().find(|interface| interface.id == nic.eni && interface.primary().is_some());
            if listed.is_some_and(is_here) {
                seen += 1;
                continue;
            }
            let is_elsewhere = match listed {
                Some(_) => true,
                None => match ec2.interface(&nic.eni).await {
                    Ok(interface) => !is_here(&interface),
                    Err(Ec2Error::NoSuchEni { .. }) => self.is_deleted(nic).await,
                    Err(_) => false,
                },
            };
            if !is_elsewhere {
                seen = 0;
                break;
            }
            self.leave_out(nic);
        }
        if seen > 0 {
            return Ok(());
        }
        Err(Error::Missing(format!(
            "EC2's list of the interfaces in {subnet} lacks those of this very host, so the scan changed nothing: are the \
             credentials another account's?"
        )))
    }

    /// What EC2 does not know was deleted, or is so new that EC2 does not show it yet: then it has a link here.
    async fn is_deleted(&self, nic: &Nic) -> bool {
        let since = *self.unknown().entry(nic.eni.clone()).or_insert_with(Instant::now);
        since.elapsed() >= drain_age() || self.outside.links.by_mac(&nic.mac).await.is_ok_and(|link| link.is_none())
    }

    /// So that the fleet has one scan an interval, and another host takes over from a dead one.
    fn scan_span(&self) -> Duration {
        self.interval.mul_f64(1.5)
    }

    /// Whether this host has the task for so long. An interface stands for it, so that its next life has it still.
    async fn holds_scan(
        &self,
        store: &Store,
        subnet: &Subnet,
        own: &[Own<'_>],
        span: Duration,
        until: Instant,
    ) -> Result<bool, Error> {
        let holder = own.first().map_or("nobody", |own| own.nic.eni.as_str());
        Ok(store.hold_task(&format!("scan:{}", subnet.id), holder, span, until).await?)
    }

    fn unknown(&self) -> MutexGuard<'_, HashMap<EniId, Instant>> {
        self.unknown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave_out(&self, nic: &Nic) {
        if self.left_out.lock().unwrap_or_else(PoisonError::into_inner).insert(nic.eni.clone()) {
            tracing::warn!(
                "IMDS lists {} ({}), which is not this instance's by EC2's word: it is left out",
                nic.eni,
                nic.mac
            );
        }
    }

    /// What stands in the way is told once in the log, and shown by `status` for as long as it lasts.
    fn tell(&self, subnet: &SubnetId, outcome: &Result<Vec<Found>, Error>) {
        self.problems.send_modify(|problems| match outcome {
            Err(why @ (Error::Missing(_) | Error::WouldFree { .. })) => {
                let why = why.to_string();
                if problems.insert(subnet.clone(), why.clone()).as_ref() != Some(&why) {
                    tracing::error!("{why}");
                }
            }
            Err(_) => {}
            Ok(_) => drop(problems.remove(subnet)),
        });
    }
}

/// An interface that is served here, and what it is attached to.
#[derive(Clone, Copy)]
struct Own<'a> {
    nic: &'a Nic,
    instance: &'a str,
}

impl<'a> Own<'a> {
    fn of_host(host: &'a Host) -> impl Iterator<Item = Self> {
        host.interfaces.iter().map(|nic| Self { nic, instance: &host.instance })
    }
}

/// What does not agree, and how many rows the subnet has.
async fn findings(
    store: &Store,
    ec2: &Ec2,
    subnet: &Subnet,
    interfaces: &[Interface],
    alien: &BTreeSet<EniId>,
    until: Instant,
) -> Result<(Vec<Finding>, u64), Error> {
    let assigned = assigned(interfaces, subnet);
    let mut rows = store.rows_taken(&subnet.id, until).await?;
    let known: BTreeSet<Ipv4Addr> = rows.iter().map(|row| row.ip).collect();
    let others: Vec<Ipv4Addr> = assigned.keys().copied().filter(|ip| !known.contains(ip)).collect();
    for some in others.chunks(CHUNK) {
        rows.extend(store.rows_at(some, until).await?);
    }
    let seen: BTreeSet<EniId> = interfaces.iter().map(|interface| interface.id.clone()).collect();
    let mut dead = BTreeSet::new();
    for eni in unseen(&rows, &seen).into_iter().take(UNSEEN) {
        if let Err(Ec2Error::NoSuchEni { .. }) = ec2.interface(eni).await {
            dead.insert(eni.clone());
        }
    }
    let total = store.census(&subnet.id, until).await?.iter().map(|count| count.rows).sum();
    Ok((compare(&rows, &assigned, &dead, alien), total))
}
