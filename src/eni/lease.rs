//! An address in use: taken back if Docker never got it, released when Docker says so.

use std::net::Ipv4Addr;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};
use tracing::{Instrument, Span};

use super::{STORE_TIME, Shared};
use crate::backoff::Backoff;
use crate::counts::How;
use crate::domain::address::{Row, State};
use crate::domain::holding::{Held, Holding};
use crate::domain::id::Claim;
use crate::error::Error;
use crate::fail_point::point;
use crate::journal::End;
use crate::supervise::supervised;

/// An address granted to a container, not yet known to have reached Docker.
///
/// Wherever it is dropped, the address is taken back: in a channel that nobody reads any more, too (I9).
pub struct Lease {
    /// The address.
    pub ip: Ipv4Addr,
    /// How it came to be granted.
    pub how: How,
    /// None once Docker has it.
    held: Option<(Claim, Arc<Shared>)>,
    /// Of the request that it was granted to.
    span: Span,
}

impl Lease {
    /// The token that its row carries; none once Docker has it.
    pub fn claim(&self) -> Option<&Claim> {
        self.held.as_ref().map(|(claim, _)| claim)
    }

    /// The same, granted so.
    pub(super) fn got(mut self, how: How) -> Self {
        self.how = how;
        self
    }

    /// Docker has it.
    pub fn keep(mut self) {
        self.held = None;
    }
}

impl Drop for Lease {
    /// The answer never reached Docker: the address is idle again, and no colder nor hotter than before.
    fn drop(&mut self) {
        // Without a runtime the process is ending.
        if let (Some((claim, eni)), Ok(runtime)) = (self.held.take(), Handle::try_current()) {
            let (ip, _in_span) = (self.ip, self.span.enter());
            tracing::warn!(eni = %eni.place.nic.eni, %ip, "took {ip} back: Docker did not get the answer");
            let tasks = eni.outside.tasks.clone();
            let work = async move { eni.ends(ip, &claim, End::TakenBack).await };
            tasks.spawn_on(
                supervised("taking back", async {
                    let _ = work.await;
                })
                .in_current_span(),
                &runtime,
            );
        }
    }
}

impl Shared {
    /// A container gets it: the journal has it as a lease of this token.
    pub(super) fn granted(self: &Arc<Self>, ip: Ipv4Addr, claim: Claim) -> Lease {
        Lease { ip, how: How::Warm, held: Some((claim, Arc::clone(self))), span: Span::current() }
    }

    pub(super) async fn release(self: &Arc<Self>, ip: Ipv4Addr, end: End) {
        if let Err(why) = self.may_serve().await {
            return tracing::info!(eni = %self.place.nic.eni, %ip, "nothing to release: {why}");
        }
        point("release:begun").await;
        let was_lease = match self.holding(ip).map(|holding| holding.held) {
            Some(Held::Lease(claim)) => self.ends(ip, &claim, end).await,
            Some(Held::Idle | Held::Leaving(_)) => false,
            None if self.place.is_distant => self.end_by_table(ip, None, end).await,
            None => self.release_in_table(ip, end).await,
        };
        if was_lease {
            tracing::info!(eni = %self.place.nic.eni, %ip, "released {ip}");
        } else {
            tracing::info!(eni = %self.place.nic.eni, %ip, "nothing to release: it is no lease of this interface");
        }
        point("release:done").await;
    }

    /// lease -> idle. It names the lease's own token, so that a late one cannot end somebody else's lease (I5). Says whether it
    /// was that lease.
    pub(super) async fn ends(&self, ip: Ipv4Addr, claim: &Claim, end: End) -> bool {
        if self.place.is_distant {
            return self.end_by_table(ip, Some(claim), end).await;
        }
        let Some(recorded) = self.journal().end(ip, claim, end).await else { return false };
        self.outside.counts.released(end);
        self.follow(recorded).await;
        true
    }

    /// A lease that only the table knows: the journal is new, and has not read it yet.
    async fn release_in_table(&self, ip: Ipv4Addr, end: End) -> bool {
        let mut backoff = Backoff::default();
        loop {
            match self.lease_in_table(ip).await {
                Ok(None) => return false,
                Ok(Some(row)) => {
                    let now = self.journal().now();
                    // Read by somebody else meanwhile.
                    if self.holding(ip).is_none()
                        && let Some(holding) = Holding::of_row(&row, &self.place.nic.eni, &now)
                    {
                        self.follow(self.journal().enter(vec![holding], &[]).await).await;
                    }
                    let claim = self.lease(ip);
                    return match claim {
                        Some(claim) => self.ends(ip, &claim, end).await,
                        None => false,
                    };
                }
                Err(why) => {
                    if backoff.failures() == 0 {
                        tracing::warn!(eni = %self.place.nic.eni, %ip, "a release waits: {why}");
                    }
                    sleep(backoff.fails()).await;
                }
            }
        }
    }

    async fn lease_in_table(&self, ip: Ipv4Addr) -> Result<Option<Row>, Error> {
        let store = self.outside.store.now()?;
        let _turn = store.background_turn().await;
        let row = store.row(ip, Instant::now() + STORE_TIME).await?;
        // A lease of this life is known until it is released: one in the table is what is still to be posted.
        let is_earlier = |row: &Row| row.claim.as_ref().is_some_and(|claim| !claim.is_of(self.outside.claims.boot()));
        let ours = |row: &Row| row.state() == State::Lease && row.iface.as_ref() == Some(&self.place.nic.eni);
        Ok(row.filter(|row| ours(row) && is_earlier(row)))
    }
}
