//! The table follows the journal: what it is told, and when.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::{STORE_TIME, Shared};
use crate::backoff::Backoff;
use crate::domain::holding::{Held, Holding};
use crate::domain::id::Claim;
use crate::error::Error;
use crate::fail_point::point;
use crate::fleet::Posted;
use crate::journal::{Journal, Recorded, State, Version};

/// What comes together is posted together.
const GATHER: Duration = Duration::from_millis(50);
/// So often the table is looked over: it may have lost its last commits, and a host that has nothing to tell it must notice.
const LOOK: Duration = Duration::from_secs(10);
/// Between two marks: what is posted need not be written twice.
const SPEAK: Duration = Duration::from_secs(1);
/// Rows to a round trip.
const MOST: usize = 500;

impl Shared {
    pub(super) fn journal(&self) -> &Journal {
        &self.journal
    }

    /// What the journal has of one of the ENI's addresses.
    pub(super) fn holding(&self, ip: Ipv4Addr) -> Option<Holding> {
        self.journal().holding(&self.place.nic.eni, ip)
    }

    /// The token of its lease.
    pub(super) fn lease(&self, ip: Ipv4Addr) -> Option<Claim> {
        self.journal().lease(&self.place.nic.eni, ip)
    }

    /// What was recorded reaches the table: at once if it stands nowhere else, however long that takes.
    pub(super) async fn follow(&self, recorded: Recorded) {
        self.to_post.notify_one();
        if recorded == Recorded::InMemory {
            let mut backoff = Backoff::default();
            while let Err(why) = self.post().await {
                if backoff.failures() == 0 {
                    tracing::warn!(eni = %self.place.nic.eni, "neither the journal nor the database has it yet: {why}");
                }
                sleep(backoff.fails()).await;
            }
        }
    }

    /// Without end: what changed is posted soon, and from time to time the table is asked whether it still says so.
    pub(super) async fn post_always(&self) {
        let mut spoke = Instant::now();
        loop {
            let mut looks = timeout(LOOK, self.to_post.notified()).await.is_err();
            if !looks {
                sleep(GATHER).await;
            }
            let mut backoff = Backoff::default();
            while let Err(why) = self.keep_up(looks, &mut spoke).await {
                tracing::debug!(eni = %self.place.nic.eni, "not posted yet: {why}");
                sleep(backoff.fails()).await;
                // It may come back without its last commits.
                looks = true;
            }
        }
    }

    /// `spoke`: when the table last heard how far the journal has come.
    async fn keep_up(&self, looks: bool, spoke: &mut Instant) -> Result<(), Error> {
        self.post().await?;
        if looks || spoke.elapsed() >= SPEAK {
            self.speaks().await?;
            *spoke = Instant::now();
        }
        if looks {
            let asked = Instant::now();
            let rows = self.fleet.look(&self.place.nic.eni, &[], STORE_TIME).await?;
            self.has_seen(&rows, asked).await;
        }
        Ok(())
    }

    /// Tells the table what it does not say yet. Those that differ stay unposted: reconciling finds them.
    ///
    /// # Errors
    /// The table is away, or a file that could be believed later is still there.
    pub(super) async fn post(&self) -> Result<(), Error> {
        self.compare().await?;
        // One at a time, so that none overtakes another.
        let _turn = self.posting.lock().await;
        if matches!(self.journal().state(), State::Stuck(_)) {
            self.disown().await?;
        }
        let mut left = self.journal().to_post(&self.place.nic.eni);
        while !left.is_empty() {
            let rest = left.split_off(left.len().min(MOST));
            self.post_these(&left).await?;
            left = rest;
        }
        Ok(())
    }

    async fn post_these(&self, unposted: &[(Holding, Version)]) -> Result<(), Error> {
        let holdings: Vec<Holding> = unposted.iter().map(|(holding, _)| holding.clone()).collect();
        let outcome = self.fleet.post(&holdings, &self.journal().now(), STORE_TIME).await?;
        point("post:done").await;
        let of = |wanted: Posted| {
            let with = unposted.iter().zip(&outcome).filter(move |(_, posted)| **posted == wanted);
            with.map(|((holding, version), _)| (holding.ip, *version)).collect::<Vec<_>>()
        };
        self.journal().was_posted(&of(Posted::Done));
        if !of(Posted::Again).is_empty() {
            self.to_post.notify_one();
        }
        // Nobody's here any more by the table, and no container's: it is not given.
        self.journal().differs(&of(Posted::Differs));
        let differs: Vec<Ipv4Addr> = of(Posted::Differs).into_iter().map(|(ip, _)| ip).collect();
        let _ = self.journal().strike(&differs, |holding| holding.held == Held::Idle).await;
        Ok(())
    }
}
