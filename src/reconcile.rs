//! Reconciling: rows, EC2 and Docker compared at the start, every interval, and when something was left unclear.
//!
//! A round reads rows, then EC2, then Docker, so that what a row says was so before it was asked about. Findings that two
//! rounds agree on go to the ENI's own task. Docker is read here, in the background, and never from inside one of its calls:
//! it may hold the very lock that its own API needs.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep_until};

use crate::address::{Row, State};
use crate::engine::{Engine, Network, Snapshot};
use crate::eni::{Eni, Known};
use crate::error::Error;
use crate::fault::point;
use crate::id::EniId;
use crate::imds::Host;
use crate::ipam::Ipam;
use crate::link::LinkError;
use crate::plan::attachment::{Whose, Word};
use crate::plan::brief_age;
use crate::plan::ledger::{Ledger, Sight};
use crate::plan::reconcile::{Finding, Look, compare, is_blind};
use crate::supervise::supervised;

mod docker;
mod listing;
mod networks;

/// What rounds know of each other.
pub struct Reconciler {
    engine: Option<Engine>,
    /// Locked for as long as a round takes.
    enis: Mutex<HashMap<EniId, Watched>>,
    outcome: watch::Sender<Outcome>,
}

/// One ENI over the rounds.
#[derive(Default)]
struct Watched {
    ledger: Ledger,
    /// When EC2 was last asked what is on it.
    asked: Option<Instant>,
    rounds: u32,
    /// Docker has shown a network on it: this is the Engine whose containers have its addresses.
    is_dockers: bool,
    problems: Problems,
}

/// What only a person can put right: one sentence for each thing that it is about.
type Problems = BTreeMap<String, String>;

/// What `status` shows.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// When the last round ended that read all there is to read.
    pub whole: Option<Instant>,
    /// What only a person can put right, as the last round saw it: a sentence for each thing that it is about.
    pub problems: BTreeMap<String, String>,
    /// Those of them that are Docker networks without a way into the VPC.
    misfits: Problems,
    /// What is no problem of the driver's, and may be one of the host's: a sentence for each network that it is about.
    pub warnings: BTreeMap<String, String>,
    /// How many such things there were in this life.
    pub conflicts: u64,
}

/// A finding, for the operator.
#[derive(Debug, Serialize, Deserialize)]
pub struct Found {
    /// The ENI, or the subnet.
    pub of: String,
    /// The address.
    pub ip: Ipv4Addr,
    /// What was found, and what mends it.
    pub found: String,
    /// For how long it has been seen; none: for the first time.
    pub seen_seconds: Option<u64>,
    /// Whether this round has put it right.
    pub repaired: bool,
}

/// The bound of what a round asks of the store, and of an ENI's task.
const ROUND: Duration = Duration::from_secs(30);

impl Reconciler {
    pub(crate) fn new(engine: Option<Engine>) -> Self {
        Self { engine, enis: Mutex::default(), outcome: watch::Sender::default() }
    }

    /// As of the last round.
    pub fn outcome(&self) -> Outcome {
        self.outcome.borrow().clone()
    }
}

impl Ipam {
    /// Reconciles until the driver stops.
    pub fn reconcile_always(self: &Arc<Self>) {
        let ipam = Arc::clone(self);
        let work = async move {
            // A pause between rounds that are asked for: something that stays unclear would ask without end.
            let gap = ipam.settings.reconcile_interval.min(brief_age());
            let mut thorough = true;
            // Before any row is read: what a container has is never granted, whatever the table says.
            ipam.docker(None).await;
            loop {
                let began = Instant::now();
                let is_idle = ipam.served().await.iter().all(|eni| eni.not_ready().is_some());
                if let Err(why) = ipam.round(thorough, false).await {
                    tracing::debug!("not reconciled: {why}");
                }
                // A fleet that was started at once does not ask EC2 at once for ever.
                let interval = ipam.settings.reconcile_interval.mul_f64(1.0 + fastrand::f64() / 10.0);
                let is_settling = ipam.served().await.iter().any(|eni| eni.is_settling());
                let interval = if is_settling { gap } else { interval };
                thorough = tokio::select! {
                    () = sleep_until(began + interval) => false,
                    () = ipam.outside.poke.notified() => true,
                    () = ipam.until_docker_answers() => true,
                };
                if !is_idle {
                    sleep_until(began + gap).await;
                }
            }
        };
        let stop = self.stop.clone();
        self.outside.tasks.spawn(supervised("reconciling", async move { stop.run_until_cancelled(work).await }));
    }

    /// One round now, for an operator. `dry_run` changes nothing, and counts as no observation either.
    pub async fn reconcile(&self, dry_run: bool) -> Result<Vec<Found>, Error> {
        self.round(true, dry_run).await
    }

    async fn round(&self, thorough: bool, dry_run: bool) -> Result<Vec<Found>, Error> {
        let mut watched = self.reconciler.enis.lock().await;
        let now = Instant::now();
        let until = now + ROUND;
        let served = self.served().await;
        watched.retain(|id, _| served.iter().any(|eni| eni.nic.eni == *id));
        let host = self.host().await.ok();
        let mut read = Vec::new();
        for eni in served.into_iter().filter(|eni| eni.not_ready().is_none()) {
            let leases = eni.known().leases;
            let rows = self.store(until).await?.rows_of_eni(&eni.nic.eni, until).await?;
            let imds = host.as_ref().map(|host| host.interfaces.iter().any(|nic| nic.eni == eni.nic.eni));
            let thorough = thorough || imds == Some(false);
            let known = watched.entry(eni.nic.eni.clone()).or_default();
            let (listed, ec2) = self.listed(&eni, &rows, known, thorough).await;
            if eni.judge(&Word { imds, ec2 }) == Whose::Ours {
                read.push((eni, leases, rows, listed));
            }
        }
        point("reconcile:read").await;
        let docker = self.docker(host.as_ref()).await;
        let mut found = Vec::new();
        let mut whole = docker.is_some() || self.reconciler.engine.is_none();
        for (eni, leases, rows, listed) in read {
            whole &= listed.is_some();
            let watched = watched.entry(eni.nic.eni.clone()).or_default();
            watched.rounds = watched.rounds.saturating_add(1);
            let shown = docker.as_ref().filter(|docker| watched.is_shown_by(docker, &eni));
            let mut look = self.complete(&eni, rows, listed, shown, host.as_ref(), until).await?;
            // What was granted or released since the rows were read is not lost.
            look.known.leases.retain(|ip, claim| leases.get(ip) == Some(claim));
            if let Some(listed) = &look.listed {
                eni.believe(listed, &look.rows, now);
            }
            let findings = look.compare(&eni);
            if dry_run {
                found.extend(findings.iter().map(|finding| watched.told(&eni, finding, false, now)));
                continue;
            }
            found.extend(watched.settle(&eni, findings, &look, now).await);
            let unjudged = look.unjudged(&eni).filter(|_| docker.is_some());
            watched.problems.extend(unjudged.map(|problem| (eni.nic.eni.to_string(), problem)));
        }
        if let Some(docker) = &docker {
            self.forget_lost(|eni| docker.networks.iter().any(|network| is_on(network, eni))).await;
        }
        if !dry_run {
            let misfits = match (&docker, &host) {
                (Some(docker), Some(host)) => {
                    self.serve_networks(docker, host, until).await;
                    Some(self.misfits(docker, host).await)
                }
                // What a look was blind to is not over.
                _ => None,
            };
            self.reconciler.tell(&watched, misfits, self.silence(), whole.then_some(now));
        }
        Ok(found)
    }

    async fn complete(
        &self,
        eni: &Eni,
        mut rows: Vec<Row>,
        listed: Option<Vec<(Ipv4Addr, bool)>>,
        docker: Option<&Snapshot>,
        host: Option<&Host>,
        until: Instant,
    ) -> Result<Seen, Error> {
        let known = eni.known();
        let docker = docker.map(Snapshot::addresses);
        let on_list = listed.iter().flatten().map(|(ip, _)| ip);
        let others: BTreeSet<Ipv4Addr> =
            on_list.chain(docker.iter().flatten()).chain(known.leases.keys()).copied().collect();
        let others: Vec<Ipv4Addr> = others.into_iter().filter(|ip| rows.iter().all(|row| row.ip != *ip)).collect();
        rows.extend(self.store(until).await?.rows_at(&others, until).await?);
        let mut own_enis: Vec<EniId> =
            host.iter().flat_map(|host| &host.interfaces).map(|nic| nic.eni.clone()).collect();
        own_enis.extend(self.served().await.iter().map(|eni| eni.nic.eni.clone()));
        let on_link = match self.outside.links.parent(&eni.nic.mac).await {
            Ok(parent) => parent.addresses,
            // There is no link to have any.
            Err(LinkError::Gone { .. }) => Vec::new(),
            Err(why) => return Err(why.into()),
        };
        Ok(Seen { rows, listed, docker, known, own_enis, on_link })
    }
}

/// All that a look at one ENI has read.
struct Seen {
    rows: Vec<Row>,
    listed: Option<Vec<(Ipv4Addr, bool)>>,
    docker: Option<HashSet<Ipv4Addr>>,
    known: Known,
    own_enis: Vec<EniId>,
    on_link: Vec<Ipv4Addr>,
}

impl Seen {
    fn compare(&self, eni: &Eni) -> Vec<Finding> {
        compare(&Look {
            eni: &eni.nic.eni,
            subnet: &eni.subnet,
            own_enis: &self.own_enis,
            rows: &self.rows,
            listed: self.listed.as_deref(),
            docker: self.docker.as_ref(),
            leases: &self.known.leases,
            on_link: &self.on_link,
            prefixes: &self.known.prefixes,
            recent: &self.known.recent,
        })
    }
}

impl Seen {
    /// Leases whose containers this Docker cannot know.
    fn unjudged(&self, eni: &Eni) -> Option<String> {
        let is_lease = |row: &&Row| row.state() == State::Lease && row.iface.as_ref() == Some(&eni.nic.eni);
        let leases = self.rows.iter().filter(is_lease).count();
        (self.docker.is_none() && leases > 0).then(|| {
            format!(
                "{leases} addresses of {} are leased, but Docker shows no network on it: create its network again, and those \
                 without a container are released; or correct EC2_IPAM_DOCKER_SOCKET if its containers are another Engine's",
                eni.nic.eni
            )
        })
    }
}

impl Watched {
    /// Whether this Engine's word on the ENI's addresses is worth anything: another one on the same host shows none of them in
    /// use, and would have every lease released.
    fn is_shown_by(&mut self, docker: &Snapshot, eni: &Eni) -> bool {
        self.is_dockers |= docker.networks.iter().any(|network| is_on(network, eni));
        self.is_dockers
    }

    fn told(&self, eni: &Eni, finding: &Finding, repaired: bool, now: Instant) -> Found {
        let seen_seconds = self.ledger.age(&finding.sight(), now).map(|age| age.as_secs());
        Found { of: eni.nic.eni.to_string(), ip: finding.ip, found: finding.to_string(), seen_seconds, repaired }
    }

    /// Has what was seen twice put right, and takes down the rest.
    async fn settle(&mut self, eni: &Eni, findings: Vec<Finding>, look: &Seen, now: Instant) -> Vec<Found> {
        let told: Vec<(Ipv4Addr, Found)> =
            findings.iter().map(|finding| (finding.ip, self.told(eni, finding, false, now))).collect();
        let (listed, docker) = (look.listed.is_some(), look.docker.is_some());
        let is_blind = |sight: &Sight| is_blind(sight, listed, docker) || look.known.recent.contains(&sight.ip);
        self.ledger.note(findings.iter().map(Finding::sight), is_blind, now);
        let is_due = |finding: &Finding| {
            let sight = finding.sight();
            let is_second = self.ledger.age(&sight, now).is_some_and(|age| !age.is_zero());
            self.ledger.is_due(&sight, now) || is_second && eni.is_due_early(finding)
        };
        let due = findings.into_iter().filter(is_due);
        let (hopeless, due): (Vec<Finding>, Vec<Finding>) = due.partition(Finding::is_for_a_person);
        // What a look was blind to is not over.
        let before = std::mem::take(&mut self.problems);
        let mut is_blind = !listed || !docker;
        self.problems.extend(hopeless.iter().map(|finding| (finding.ip.to_string(), finding.to_string())));
        let mut done = Vec::new();
        if !due.is_empty() {
            match eni.repair(due, Instant::now() + ROUND).await {
                Ok(repaired) => {
                    done = repaired.done;
                    self.problems.extend(repaired.hopeless.into_iter().map(|(ip, why)| (ip.to_string(), why)));
                }
                Err(why) => {
                    tracing::warn!(eni = %eni.nic.eni, "not put right yet: {why}");
                    is_blind = true;
                }
            }
        }
        if is_blind {
            for (about, why) in before {
                self.problems.entry(about).or_insert(why);
            }
        }
        told.into_iter().map(|(ip, found)| Found { repaired: done.contains(&ip), ..found }).collect()
    }
}

impl Reconciler {
    /// Every problem is told once in the log, counted, and shown by `status` for as long as it lasts.
    fn tell(
        &self,
        watched: &HashMap<EniId, Watched>,
        misfits: Option<Problems>,
        silence: Option<(String, String)>,
        whole: Option<Instant>,
    ) {
        let of_enis = watched.values().flat_map(|watched| watched.problems.clone());
        let mut problems: Problems = of_enis.chain(silence).collect();
        self.outcome.send_modify(|outcome| {
            outcome.misfits = misfits.unwrap_or_else(|| std::mem::take(&mut outcome.misfits));
            problems.extend(outcome.misfits.clone());
            for (_, problem) in problems.iter().filter(|(about, _)| !outcome.problems.contains_key(*about)) {
                tracing::error!("{problem}");
                outcome.conflicts += 1;
            }
            outcome.problems = problems;
            outcome.whole = whole.or(outcome.whole);
        });
    }
}

/// Whether its addresses may be this ENI's.
fn is_on(network: &Network, eni: &Eni) -> bool {
    networks::is_of_a_driver(network) && network.subnets.contains(&eni.subnet.cidr)
}
