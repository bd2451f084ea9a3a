//! This host on the roll: it enters itself in the table after each round of reconciling, and does what it is asked there.
//!
//! Nothing waits for this, and a table that is away harms nothing: what is asked is only ever to give up what is idle.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::backoff::Backoff;
use crate::domain::id::EniId;
use crate::domain::roll::{Answer, HostEntry, Request, look_age, open_age};
use crate::driver::reconcile::Reconciler;
use crate::driver::recycle::recycle;
use crate::driver::served::Served;
use crate::eni::Outside;
use crate::error::Error;
use crate::fleet::STORE_TIME;
use crate::journal::Mark;

/// Keeps this host on it.
pub struct Roll {
    outside: Arc<Outside>,
    served: Arc<Served>,
    reconciler: Arc<Reconciler>,
}

/// The bound of what a host does for one request: the calls to EC2 of a few interfaces.
const WORK: Duration = Duration::from_secs(45);

impl Roll {
    pub(crate) fn new(outside: &Arc<Outside>, served: &Arc<Served>, reconciler: &Arc<Reconciler>) -> Self {
        Self { outside: Arc::clone(outside), served: Arc::clone(served), reconciler: Arc::clone(reconciler) }
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
        loop {
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
        let instance = self.outside.imds.instance().await?.id;
        let mut enis: Vec<EniId> = self.served.sent_for().await.iter().map(|eni| eni.nic.eni.clone()).collect();
        enis.sort();
        let entry = HostEntry {
            instance,
            enis,
            version: env!("EC2_IPAM_VERSION").to_owned(),
            journal: self.outside.journal.mark().as_ref().map(Mark::to_string),
        };
        let asked = {
            let _turn = store.background_turn().await;
            store.enter(&entry, open_age(), Instant::now() + STORE_TIME).await?
        };
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
            store.answer(&entry.instance, &request, &answer, Instant::now() + STORE_TIME).await?;
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
