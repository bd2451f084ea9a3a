//! This host on the roll: it enters itself in the table after each round of reconciling, with what it tells of itself, and
//! does what it is asked there. One host of the fleet takes those off it that are no more.
//!
//! Nothing waits for this, and a table that is away harms nothing: what is asked is only ever to give up what is idle.

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep, timeout};

use crate::backoff::Backoff;
use crate::domain::id::EniId;
use crate::domain::roll::{
    Answer, HostEntry, KnownHost, Request, forget_age, forgotten, long_gone, look_age, open_age, sweep_age,
};
use crate::domain::told::{Addresses, Told};
use crate::driver::reconcile::Reconciler;
use crate::driver::recycle::recycle;
use crate::driver::served::Served;
use crate::driver::status::Picture;
use crate::eni::Outside;
use crate::error::Error;
use crate::fleet::STORE_TIME;
use crate::journal::Mark;
use crate::plain::shortened;
use crate::store::Store;

/// Keeps this host on it.
pub struct Roll {
    outside: Arc<Outside>,
    served: Arc<Served>,
    reconciler: Arc<Reconciler>,
    picture: Arc<Picture>,
    /// The instance's primary address, which it has for life.
    address: OnceCell<Option<Ipv4Addr>>,
}

/// The bound of what a host does for one request: the calls to EC2 of a few interfaces.
const WORK: Duration = Duration::from_secs(45);
/// Characters of a problem that others are told.
const PROBLEM: usize = 200;
/// IMDS's time, which is a link-local hop away.
const BRIEF: Duration = Duration::from_secs(1);
/// EC2 is asked about so many instances at once, this one among them.
const ABOUT: usize = 199;

impl Roll {
    pub(crate) fn new(
        outside: &Arc<Outside>,
        served: &Arc<Served>,
        reconciler: &Arc<Reconciler>,
        picture: &Arc<Picture>,
    ) -> Self {
        Self {
            outside: Arc::clone(outside),
            served: Arc::clone(served),
            reconciler: Arc::clone(reconciler),
            picture: Arc::clone(picture),
            address: OnceCell::new(),
        }
    }

    /// The hosts that the table knows, in order. This one enters itself before, so that it is seen as it is now.
    ///
    /// # Errors
    /// The table cannot be reached.
    pub async fn hosts(&self, until: Instant) -> Result<Vec<KnownHost>, Error> {
        let store = self.outside.store(until).await?;
        if self.outside.journal.is_somewhere()
            && let Err(why) = self.enter(&store).await
        {
            tracing::debug!("not entered: {why}");
        }
        let mut hosts = store.hosts(self.outside.at_most_a_request(until)).await?;
        hosts.sort_by(|a, b| a.entry.instance.cmp(&b.entry.instance));
        Ok(hosts)
    }

    /// Without end.
    pub(crate) async fn run(&self) {
        let (mut rounds, mut done) = (self.reconciler.rounds(), HashMap::new());
        let mut backoff = Backoff::default();
        // A server that gave the addresses of this host until now has to see soon that it is not to.
        while let Err(why) = self.look(&mut done).await {
            tracing::debug!("not entered yet: {why}");
            sleep(backoff.fails()).await;
        }
        let mut sweep_at = Instant::now();
        loop {
            if Instant::now() >= sweep_at {
                sweep_at += sweep_age();
                if let Err(why) = self.sweep().await {
                    tracing::info!("hosts that are no more stay on the roll: {why}");
                }
            }
            let _ = timeout(look_age(), rounds.changed()).await;
            if let Err(why) = self.look(&mut done).await {
                tracing::debug!("not entered: {why}");
            }
        }
    }

    /// `done`: what is asked and was done, so that it is not done again where the answer was lost.
    #[tracing::instrument(level = "error", skip_all, fields(round = "roll"))]
    async fn look(&self, done: &mut HashMap<Request, (Instant, Answer)>) -> Result<(), Error> {
        let store = self.outside.store.now()?;
        let (instance, asked) = self.enter(&store).await?;
        // Long after nobody tells again what was asked.
        done.retain(|_, (at, _)| at.elapsed() < 10 * open_age());
        for request in asked {
            let answer = match done.get(&request) {
                Some((_, answer)) => answer.clone(),
                None => {
                    let answer = self.obey(&request).await;
                    done.insert(request.clone(), (Instant::now(), answer.clone()));
                    answer
                }
            };
            let _turn = store.background_turn().await;
            store.answer(&instance, &request, &answer, Instant::now() + STORE_TIME).await?;
        }
        Ok(())
    }

    /// Which instance this is, and what it is asked.
    async fn enter(&self, store: &Store) -> Result<(String, Vec<Request>), Error> {
        let instance = self.outside.imds.instance().await?.id;
        let mut enis: Vec<EniId> = self.served.sent_for().await.iter().map(|eni| eni.nic.eni.clone()).collect();
        enis.sort();
        let entry = HostEntry {
            instance,
            enis,
            version: env!("EC2_IPAM_VERSION").to_owned(),
            journal: self.outside.journal.mark().as_ref().map(Mark::to_string),
            told: Some(self.told().await),
        };
        let _turn = store.background_turn().await;
        let asked = store.enter(&entry, open_age(), Instant::now() + STORE_TIME).await?;
        Ok((entry.instance, asked))
    }

    async fn told(&self) -> Told {
        let problems = self.picture.problems().await;
        let drain = &self.outside.drain;
        Told {
            version: env!("EC2_IPAM_VERSION").to_owned(),
            address: self.address().await,
            server: self.served.distant().is_served(),
            addresses: self.addresses().await,
            drained: drain.is_on(),
            drained_seconds: drain.lasts().map(|lasts| lasts.as_secs()),
            problems: number(problems.len()),
            problem: problems.first().map(|problem| shortened(problem, PROBLEM).into_owned()),
        }
    }

    async fn address(&self) -> Option<Ipv4Addr> {
        let read = async || {
            let host = self.outside.imds.host(Instant::now() + BRIEF).await?;
            let first = host.interfaces.iter().find(|nic| nic.device_number == 0);
            Ok::<_, Error>(first.and_then(|nic| nic.addresses.first().copied()))
        };
        self.address.get_or_try_init(read).await.ok().copied().flatten()
    }

    /// From memory, so that nobody is asked.
    async fn addresses(&self) -> Option<Addresses> {
        let served = self.served.all().await;
        let is_server = self.served.distant().is_served() && served.is_empty();
        if is_server || served.iter().any(|eni| eni.is_distant()) {
            return None;
        }
        let mut addresses = Addresses::default();
        for tally in served.iter().map(|eni| eni.tally()) {
            addresses.leases += number(tally.lease);
            addresses.warm += number(tally.warm);
            addresses.cooling += number(tally.cooling + tally.doubted);
        }
        if self.outside.drain.is_on() {
            // Nothing is given there.
            addresses.cooling += std::mem::take(&mut addresses.warm);
        }
        Some(addresses)
    }

    /// Takes hosts off the roll that EC2 does not know any more. One host of the fleet does it at a time.
    #[tracing::instrument(level = "error", skip_all, fields(round = "roll"))]
    async fn sweep(&self) -> Result<(), Error> {
        let until = Instant::now() + WORK;
        let (store, ec2) = (self.outside.store.now()?, self.outside.ec2.now()?);
        let own = self.outside.imds.instance().await?.id;
        if !store.hold_task("hosts", &own, sweep_age() * 3 / 2, until).await? {
            return Ok(());
        }
        for some in long_gone(&store.hosts(until).await?).chunks(ABOUT) {
            let asked = [some, std::slice::from_ref(&own)].concat();
            let shown = ec2.interfaces_of_instances(&asked).await?;
            let attached: BTreeSet<String> = shown.into_iter().filter_map(|interface| interface.instance).collect();
            let gone = forgotten(some.to_vec(), &attached, &own);
            store.forget(&gone, forget_age(), until).await?;
            if !gone.is_empty() {
                tracing::info!("hosts that EC2 does not know any more are off the roll: {}", gone.join(", "));
            }
        }
        Ok(())
    }

    async fn obey(&self, request: &Request) -> Answer {
        let mut enis = self.served.sent_for().await;
        enis.retain(|eni| eni.subnet.id == request.subnet);
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        match recycle(&enis, Instant::now() + WORK).await {
            Ok(done) => {
                tracing::info!(subnet = %request.subnet, freed = done.freed, "gave idle addresses back, as another host asked");
                Answer { freed: count(done.freed), pending: count(done.pending), trouble: None }
            }
            Err(why) => Answer { freed: 0, pending: 0, trouble: Some(why.to_string()) },
        }
    }
}

fn number(things: usize) -> u64 {
    u64::try_from(things).unwrap_or(u64::MAX)
}
