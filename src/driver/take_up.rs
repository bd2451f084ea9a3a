//! Taking up: the ENIs of this host that the table knows as ours are served even if no container starts.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::backoff::Backoff;
use crate::domain::address::{Row, Status};
use crate::driver::interfaces::Interfaces;
use crate::driver::served::Served;
use crate::eni::Outside;
use crate::error::Error;

/// Takes up those that are there, and those that appear later, so that claims of an earlier life are settled.
pub struct TakeUp {
    outside: Arc<Outside>,
    interfaces: Arc<Interfaces>,
    served: Arc<Served>,
    interval: Duration,
}

/// So many times in a row the ENIs of this host are looked for with no more than seconds in between.
const BRISK: u32 = 12;

impl TakeUp {
    pub(crate) fn new(
        outside: &Arc<Outside>,
        interfaces: &Arc<Interfaces>,
        served: &Arc<Served>,
        interval: Duration,
    ) -> Self {
        Self { outside: Arc::clone(outside), interfaces: Arc::clone(interfaces), served: Arc::clone(served), interval }
    }

    /// Without end.
    pub(crate) async fn run(&self) {
        let (mut backoff, mut is_whole) = (Backoff::default(), false);
        loop {
            let rest = match self.round(&mut is_whole).await {
                Err(why) if backoff.failures() < BRISK => {
                    tracing::debug!("not taken up yet: {why}");
                    backoff.fails()
                }
                _ => self.interval,
            };
            sleep(rest).await;
        }
    }

    /// `is_whole`: IMDS has once listed all that EC2 has attached. EC2 is not asked again then.
    #[tracing::instrument(level = "error", skip_all, fields(round = "take-up"))]
    async fn round(&self, is_whole: &mut bool) -> Result<(), Error> {
        let until = Instant::now() + self.outside.request_timeout;
        let host = self.interfaces.host().await?;
        let mut outcome = Ok(());
        for nic in &host.interfaces {
            if !self.served.lacks(nic, &host).await {
                continue;
            }
            // The journal alone may know it while the database is away.
            let ours = |row: &Row| row.claim.is_some() || row.status == Status::Ready;
            let is_ours = if self.outside.journal.of(&nic.eni).is_empty() {
                self.outside.store.get(until).await?.rows_of_eni(&nic.eni, until).await?.iter().any(ours)
            } else {
                true
            };
            if is_ours {
                outcome = self.served.serve(nic).await.map(drop).and(outcome);
            }
        }
        if !*is_whole && self.interfaces.may_list_more(&host, until).await {
            return outcome.and(Err(Error::Absent("IMDS may not list every interface of this host yet".into())));
        }
        *is_whole = true;
        outcome
    }
}
