//! Taking up: the ENIs of this host that the table knows as ours are served even if no container starts, and by a server those
//! that another one has left.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::backoff::Backoff;
use crate::domain::address::{Row, Status};
use crate::domain::id::EniId;
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

/// As a server starts: what others served within the last so long.
const LONG: Duration = Duration::from_secs(86_400);
/// And from then on. Longer than a few rounds.
const SHORT: Duration = Duration::from_secs(600);
/// Between two of them, for EC2 is asked a few things about each.
const PACE: Duration = Duration::from_secs(1);

/// So many of those that left are tried again in each round. A fleet that goes to the plugin leaves all of them.
const AGAIN: usize = 10;

/// So many times in a row the ENIs of this host are looked for with no more than seconds in between.
const BRISK: u32 = 12;

/// Distant ENIs that left, and when that was seen: those come first that were not tried for longest.
#[derive(Default)]
struct Left(VecDeque<(EniId, Instant)>);

impl Left {
    fn note(&mut self, gone: Vec<EniId>) {
        for eni in gone {
            self.0.retain(|(known, _)| *known != eni);
            self.0.push_back((eni, Instant::now()));
        }
    }
}

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
        if self.served.distant().is_served() {
            tokio::join!(self.take_up_own(), self.take_up_distant());
        } else {
            self.take_up_own().await;
        }
    }

    /// Distant ENIs that another server has left, so that what it had begun is settled though nobody asks for anything.
    async fn take_up_distant(&self) {
        let (mut within, mut left) = (LONG, Left::default());
        loop {
            left.note(self.served.forget_gone().await);
            match self.distant_round(within, &mut left).await {
                Ok(()) => within = SHORT,
                Err(why) => tracing::debug!("not taken up yet: {why}"),
            }
            sleep(self.interval).await;
        }
    }

    #[tracing::instrument(level = "error", skip_all, fields(round = "take-up"))]
    async fn distant_round(&self, within: Duration, left: &mut Left) -> Result<(), Error> {
        let until = Instant::now() + self.outside.request_timeout;
        for eni in self.outside.store(until).await?.senderless(within, until).await? {
            self.take_up_one(&eni, "took up what another server left").await;
        }
        for _ in 0..left.0.len().min(AGAIN) {
            let Some((eni, since)) = left.0.pop_front() else { break };
            if since.elapsed() < LONG && !self.take_up_one(&eni, "took up what had left, and is back").await {
                left.0.push_back((eni, since));
            }
        }
        Ok(())
    }

    /// Whether it is served now.
    async fn take_up_one(&self, eni: &EniId, done: &str) -> bool {
        if self.served.serves(eni).await {
            return true;
        }
        let outcome = self.served.serve_distant(eni, Instant::now() + self.outside.request_timeout).await;
        match &outcome {
            Ok(_) => tracing::info!(%eni, "{done}"),
            Err(why) => tracing::debug!(%eni, "not taken up: {why}"),
        }
        sleep(PACE).await;
        outcome.is_ok()
    }

    async fn take_up_own(&self) {
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
        self.outside.drain.belongs_to(&host.instance);
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
