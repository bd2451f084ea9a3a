//! The table is told of uses, where it is to keep them for the fleet: some time after they begin or end, and in nobody's way.
//!
//! What it was not told, the journal keeps. Whoever holds the task takes out of the table what is too old, and ends what nobody will
//! end any more: uses of hosts that are gone.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::backoff::Backoff;
use crate::domain::history::{Use, millis};
use crate::domain::id::Claim;
use crate::domain::plan::settle_age;
use crate::eni::Outside;
use crate::error::Error;
use crate::fleet::STORE_TIME;
use crate::store::Store;

/// What comes together is told together.
const GATHER: Duration = Duration::from_secs(1);
/// Uses to a round trip.
const MOST: usize = 200;
/// Between two pages of what is looked through.
const PAUSE: Duration = Duration::from_millis(200);

/// So often, if nothing is told, it is looked whether the table has what it was told: a minute.
fn look() -> Duration {
    settle_age()
}

/// For so long after a telling: a failover may lose the last commits. An hour.
fn watched() -> Duration {
    settle_age() * 60
}

/// How often one host of the fleet tidies up: ten minutes.
fn tidy() -> Duration {
    settle_age() * 10
}

/// A use that the table has as not over, and whose lease it does not have, is lost after this: its host may be slow. An hour.
fn quiet() -> Duration {
    settle_age() * 60
}

/// Tells it.
pub(crate) struct Teller {
    outside: Arc<Outside>,
}

/// What a life of the driver has told so far.
#[derive(Default)]
struct Progress {
    /// The journal knows that it is to tell.
    has_begun: bool,
    /// What the table was last told, and when.
    last: Option<(Instant, Use)>,
    /// When it was last looked whether the table has that still.
    looked: Option<Instant>,
}

impl Teller {
    pub(crate) fn new(outside: &Arc<Outside>) -> Self {
        Self { outside: Arc::clone(outside) }
    }

    /// Without end.
    pub(crate) async fn run(&self) {
        let Some(kept) = self.outside.untold.kept else { return std::future::pending().await };
        tokio::join!(self.tell_always(kept), self.tidy_always(kept));
    }

    async fn tell_always(&self, kept: Duration) {
        let (mut progress, mut backoff) = (Progress::default(), Backoff::default());
        loop {
            sleep(GATHER).await;
            match self.round(kept, &mut progress).await {
                Ok(()) => backoff = Backoff::default(),
                Err(why) => {
                    tracing::debug!("the table is not told of uses yet: {why}");
                    // It may come back without its last commits.
                    progress.looked = None;
                    sleep(backoff.fails()).await;
                }
            }
        }
    }

    async fn round(&self, kept: Duration, progress: &mut Progress) -> Result<(), Error> {
        let journal = &self.outside.journal;
        let disk = |why: String| Error::Missing(format!("the journal: {why}"));
        let store = self.outside.store.now()?;
        if !progress.has_begun {
            journal.tells_of_uses(kept, false).await.map_err(disk)?;
            let last = journal.last_told().await.map_err(disk)?;
            progress.last = last.filter(|of| self.is_recent(of)).map(|of| (Instant::now(), of));
            progress.has_begun = true;
        }
        let is_due = progress.looked.is_none_or(|looked| looked.elapsed() >= look());
        if is_due || !journal.untold(1).await.map_err(disk)?.is_empty() {
            if let Some((told, of)) = &progress.last
                && told.elapsed() < watched()
                && !is_there(&store, of).await?
            {
                tracing::warn!("the database lost what it was told of uses: it is told again");
                journal.tells_of_uses(kept, true).await.map_err(disk)?;
                progress.last = None;
            }
            progress.looked = Some(Instant::now());
        }
        let untold = journal.untold(MOST).await.map_err(disk)?;
        let distant = self.outside.untold.take(MOST);
        if untold.is_empty() && distant.is_empty() {
            return Ok(());
        }
        let instance = journal.opened().instance;
        let own = untold.iter().map(|it| Use { instance: instance.clone(), ..it.of.clone() });
        let uses: Vec<Use> = own.chain(distant.iter().cloned()).collect();
        let outcome = {
            let _turn = store.background_turn().await;
            store.tell_uses(&uses, Instant::now() + STORE_TIME).await
        };
        if let Err(why) = outcome {
            self.outside.untold.again(distant);
            return Err(why.into());
        }
        // As they are committed.
        let last = uses.into_iter().max_by(|a, b| a.token.as_str().cmp(b.token.as_str()));
        progress.last = last.map(|of| (Instant::now(), of));
        if !untold.is_empty() {
            journal.was_told(untold);
        }
        Ok(())
    }

    fn is_recent(&self, of: &Use) -> bool {
        let now = millis(self.outside.journal.now().wall);
        of.end.map_or(of.begun, |(end, _)| end).saturating_add(millis(watched())) > now
    }

    async fn tidy_always(&self, kept: Duration) {
        loop {
            sleep(tidy().mul_f64(0.5 + fastrand::f64())).await;
            let outcome = self.tidy(kept).await;
            let trouble = outcome.err().filter(|why| !why.may_pass()).map(|why| why.to_string());
            if self.outside.untold.is_in_trouble(trouble.clone())
                && let Some(why) = trouble
            {
                tracing::error!("history in the table is not tidied up, and grows: {why}");
            }
        }
    }

    async fn tidy(&self, kept: Duration) -> Result<(), Error> {
        let store = self.outside.store.now()?;
        let holder = self.outside.claims.boot().to_string();
        if !store.hold_task("history", &holder, tidy() * 2, Instant::now() + STORE_TIME).await? {
            return Ok(());
        }
        let (mut after, mut closed) = (None, 0);
        while let Some(last) = close_lost(&store, after.as_ref(), &mut closed).await? {
            after = Some(last);
            sleep(PAUSE).await;
        }
        if closed > 0 {
            tracing::info!(
                "{closed} uses of addresses are over in the history: the rows know nothing of them any more"
            );
        }
        loop {
            let turn = store.background_turn().await;
            let is_more = store.forget_uses(kept, Instant::now() + STORE_TIME).await?;
            drop(turn);
            if !is_more {
                return Ok(());
            }
            sleep(PAUSE).await;
        }
    }
}

/// Ends those of a page whose lease the rows do not have; says which was the last of it.
async fn close_lost(store: &Store, after: Option<&Claim>, closed: &mut u64) -> Result<Option<Claim>, Error> {
    let until = Instant::now() + STORE_TIME;
    let _turn = store.background_turn().await;
    let open = store.open_uses(after, quiet(), until).await?;
    let rows = store.rows_at(&open.iter().map(|it| it.ip).collect::<Vec<_>>(), until).await?;
    let leased: HashSet<&Claim> = rows.iter().filter_map(|row| row.claim.as_ref()).collect();
    let lost: Vec<Claim> = open.iter().map(|it| &it.token).filter(|token| !leased.contains(token)).cloned().collect();
    *closed += store.close_uses(&lost, quiet(), until).await?;
    Ok(open.last().map(|it| it.token.clone()))
}

/// Whether the table has it as it was told. Another server, or whoever tidies up, may have ended it since.
async fn is_there(store: &Store, of: &Use) -> Result<bool, Error> {
    let there = store.use_at(&of.token, Instant::now() + STORE_TIME).await?;
    Ok(there.is_some_and(|there| of.end.is_none() || there.end == of.end))
}
