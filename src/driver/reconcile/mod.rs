//! Reconciling: rows, EC2 and Docker compared at the start, every interval, and when something was left unclear.
//!
//! A round reads rows, then EC2, then Docker, so that what a row says was so before it was asked about. Findings that two
//! rounds agree on go to the ENI's own task. Docker is read here, in the background, and never from inside one of its calls:
//! it may hold the very lock that its own API needs.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep_until};

use crate::domain::address::Row;
use crate::domain::id::EniId;
use crate::domain::on_eni::OnEni;
use crate::domain::plan::attachment::{Whose, Word};
use crate::domain::plan::brief_age;
use crate::driver::docker_watch::DockerWatch;
use crate::driver::found::{Found, Manner};
use crate::driver::interfaces::Interfaces;
use crate::driver::served::Served;
use crate::eni::{Eni, Outside};
use crate::error::Error;
use crate::fail_point::point;
use crate::outside::engine::Snapshot;
use crate::outside::imds::Host;
use crate::outside::link::LinkError;

mod networks;
mod outcome;
mod seen;
mod watched;

use networks::{Networks, is_on};
pub use outcome::{Outcome, Problems};
use seen::Seen;
use watched::Watched;

/// Compares them, and has put right what does not agree.
pub struct Reconciler {
    outside: Arc<Outside>,
    interfaces: Arc<Interfaces>,
    served: Arc<Served>,
    docker: Arc<DockerWatch>,
    networks: Networks,
    interval: Duration,
    /// Locked for as long as a round takes.
    enis: Mutex<HashMap<EniId, Watched>>,
    outcome: watch::Sender<Outcome>,
}

/// The bound of what a round asks of the store, and of an ENI's task.
const ROUND: Duration = Duration::from_secs(30);
/// While IMDS agrees with the rows EC2 itself is asked every so many intervals only: a thousand hosts that describe their
/// ENI each minute would use up the account's whole rate.
const CALM: u32 = 10;
/// What the silence of Docker is told under, among the problems.
const DOCKER: &str = "Docker";

impl Reconciler {
    pub(crate) fn new(
        outside: &Arc<Outside>,
        interfaces: &Arc<Interfaces>,
        served: &Arc<Served>,
        docker: &Arc<DockerWatch>,
        interval: Duration,
    ) -> Self {
        let networks = Networks::new(outside, interfaces, served);
        let (enis, outcome) = (Mutex::default(), watch::Sender::default());
        Self {
            outside: Arc::clone(outside),
            interfaces: Arc::clone(interfaces),
            served: Arc::clone(served),
            docker: Arc::clone(docker),
            networks,
            interval,
            enis,
            outcome,
        }
    }

    /// As of the last round.
    pub(crate) fn outcome(&self) -> Outcome {
        self.outcome.borrow().clone()
    }

    /// Tells when a round is over.
    pub(crate) fn rounds(&self) -> watch::Receiver<Outcome> {
        self.outcome.subscribe()
    }

    /// What only a person can put right, as of the last round; Docker's silence as it is now.
    pub(crate) fn problems(&self) -> Problems {
        let mut problems = self.outcome().problems;
        problems.remove(DOCKER);
        problems.extend(self.silence());
        problems
    }

    fn silence(&self) -> Option<(String, String)> {
        Some((DOCKER.to_owned(), self.docker.silence()?))
    }

    /// Reconciles without end.
    pub(crate) async fn run(&self) {
        // A pause between rounds that are asked for: something that stays unclear would ask without end.
        let gap = self.interval.min(brief_age());
        // EC2's own word on every ENI, whatever IMDS says: at first, and when something was left unclear.
        let (thorough, usual) = (Duration::ZERO, self.interval * CALM);
        let mut calm = thorough;
        // Before any row is read: what a container has is never granted, whatever the table says.
        self.docker.look(None).await;
        loop {
            let began = Instant::now();
            let is_idle = self.served.all().await.iter().all(|eni| eni.not_ready().is_some());
            if let Err(why) = self.round(Manner::Usual, calm).await {
                tracing::debug!("not reconciled: {why}");
            }
            // A fleet that was started at once does not ask EC2 at once for ever.
            let interval = self.interval.mul_f64(1.0 + fastrand::f64() / 10.0);
            let is_settling = self.served.all().await.iter().any(|eni| eni.is_settling());
            let interval = if is_settling { gap } else { interval };
            calm = tokio::select! {
                () = sleep_until(began + interval) => usual,
                () = self.outside.poke.notified() => thorough,
                () = self.docker.until_it_answers() => thorough,
            };
            if !is_idle {
                sleep_until(began + gap).await;
            }
        }
    }

    /// One round now, for an operator, with EC2's own word on every ENI.
    pub async fn reconcile(&self, manner: Manner) -> Result<Vec<Found>, Error> {
        self.round(manner, Duration::ZERO).await
    }

    /// `calm`: for how long EC2 need not be asked of an ENI while IMDS agrees with the rows.
    #[tracing::instrument(level = "error", skip_all, fields(round = "reconcile"))]
    async fn round(&self, manner: Manner, calm: Duration) -> Result<Vec<Found>, Error> {
        let mut watched = self.enis.lock().await;
        let now = Instant::now();
        let until = now + ROUND;
        let served = self.served.all().await;
        watched.retain(|id, _| served.iter().any(|eni| eni.nic.eni == *id));
        let host = self.interfaces.host().await.ok();
        // Nothing was compared where there is nothing, and not all of it where an ENI's first look has not come to its end.
        let mut whole = !served.is_empty() && served.iter().all(|eni| eni.not_ready().is_none());
        let mut read = Vec::new();
        for eni in served.into_iter().filter(|eni| eni.not_ready().is_none()) {
            let leases = eni.known().leases;
            let store = self.outside.store(until).await?;
            let rows = self.served.rows(&store, &eni.nic.eni, until).await?;
            let lists = |host: &Host| host.interfaces.iter().any(|nic| nic.eni == eni.nic.eni);
            let imds = host.as_ref().map(lists).filter(|_| !eni.is_distant());
            let calm = if imds == Some(false) { Duration::ZERO } else { calm };
            let known = watched.entry(eni.nic.eni.clone()).or_default();
            let (listed, ec2) = known.listed(&self.outside, &eni, &rows, calm).await;
            whole &= listed.is_some() || eni.is_distant() && known.was_asked_within(calm);
            if eni.judge(&Word { imds, ec2 }) == Whose::Ours {
                read.push((eni, leases, rows, listed));
            }
        }
        point("reconcile:read").await;
        let docker = self.docker.look(host.as_ref()).await;
        let mut found = Vec::new();
        whole &= docker.is_some() || !self.docker.is_asked();
        for (eni, leases, rows, listed) in read {
            let watched = watched.entry(eni.nic.eni.clone()).or_default();
            watched.begin_round();
            // Another host's containers are not shown here, though this host may have a network in the same subnet.
            let docker = docker.as_ref().filter(|_| !eni.is_distant());
            let shown = docker.filter(|docker| watched.is_shown_by(docker, &eni, &self.outside.in_use));
            let mut look = self.complete(&eni, rows, listed, shown, host.as_ref(), until).await?;
            // What was granted or released since the rows were read is not lost.
            look.known.leases.retain(|ip, claim| leases.get(ip) == Some(claim));
            if let Some(listed) = &look.listed {
                eni.believe(listed, &look.rows, now);
            }
            let findings = look.compare(&eni);
            if manner == Manner::DryRun {
                found.extend(findings.iter().map(|finding| watched.told(&eni, finding, now)));
                continue;
            }
            found.extend(watched.settle(&self.outside, &eni, findings, &look, now).await);
            let unjudged = look.unjudged(&eni).filter(|_| docker.is_some());
            watched.problems.extend(unjudged.map(|problem| (eni.nic.eni.to_string(), problem)));
        }
        if let Some(docker) = &docker {
            self.served.forget_lost(|eni| docker.networks.iter().any(|network| is_on(network, eni))).await;
        }
        if manner != Manner::DryRun {
            let misfits = match (&docker, &host) {
                (Some(docker), Some(host)) => {
                    self.networks.serve(docker, host).await;
                    Some(self.networks.misfits(docker, host, until).await)
                }
                _ => None,
            };
            let problems =
                watched.values().flat_map(|watched| watched.problems.clone()).chain(self.silence()).collect();
            self.outcome.send_modify(|outcome| outcome.note(problems, misfits, whole.then_some(now)));
        }
        Ok(found)
    }

    async fn complete(
        &self,
        eni: &Eni,
        mut rows: Vec<Row>,
        listed: Option<OnEni>,
        docker: Option<&Snapshot>,
        host: Option<&Host>,
        until: Instant,
    ) -> Result<Seen, Error> {
        let known = eni.known();
        let here = match (docker, host) {
            (Some(docker), Some(host)) => self.networks.addresses_on(docker, host, eni).await,
            _ => HashSet::new(),
        };
        let docker = docker.map(Snapshot::addresses);
        let in_use = docker.iter().flatten().chain(known.leases.keys()).copied();
        let others: BTreeSet<Ipv4Addr> = listed.iter().flat_map(OnEni::all).chain(in_use).collect();
        let others: Vec<Ipv4Addr> = others.into_iter().filter(|ip| rows.iter().all(|row| row.ip != *ip)).collect();
        rows.extend(self.outside.store(until).await?.rows_at(&others, until).await?);
        let mut own_enis: Vec<EniId> =
            host.iter().flat_map(|host| &host.interfaces).map(|nic| nic.eni.clone()).collect();
        own_enis.extend(self.served.all().await.iter().map(|eni| eni.nic.eni.clone()));
        let on_link = match eni.parent().await {
            Ok(parent) => parent.addresses,
            // There is no link to have any.
            Err(LinkError::Gone { .. }) => Vec::new(),
            Err(why) => return Err(why.into()),
        };
        Ok(Seen { rows, listed, docker, here, known, own_enis, on_link })
    }
}
