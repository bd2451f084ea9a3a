//! An address in use: taken back if Docker never got it, released when Docker says so.

use std::net::Ipv4Addr;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};
use tracing::{Instrument, Span};

use super::{STORE_TIME, Shared};
use crate::backoff::Backoff;
use crate::domain::address::{Change, Event, Row, State};
use crate::domain::id::Claim;
use crate::fail_point::point;
use crate::store::StoreError;
use crate::supervise::supervised;

/// An address granted to a container, not yet known to have reached Docker.
///
/// Wherever it is dropped, the address is taken back: in a channel that nobody reads any more, too (I9).
pub struct Lease {
    /// The address.
    pub ip: Ipv4Addr,
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
            let work = async move { eni.let_go(ip, claim, Event::TakeBack).await };
            tasks.spawn_on(supervised("taking back", work).in_current_span(), &runtime);
        }
    }
}

impl Shared {
    /// Its row is a lease of this token now.
    pub(super) fn granted(self: &Arc<Self>, ip: Ipv4Addr, claim: Claim) -> Lease {
        self.memory.granted(ip, claim.clone());
        Lease { ip, held: Some((claim, Arc::clone(self))), span: Span::current() }
    }

    pub(super) async fn release(&self, ip: Ipv4Addr) {
        if let Err(why) = self.place.is_ours().await {
            return tracing::info!(eni = %self.place.nic.eni, %ip, "nothing to release: {why}");
        }
        // Forgotten before the row changes, so that the next grant of this address is not mistaken for a lost commit.
        let known = self.memory.released(ip);
        let claim = match known {
            Some(claim) => claim,
            // A lease of this life is known until it is released: one in the table is the next container's, and this a repetition.
            None => match self.lease_in_table(ip).await.filter(|claim| !claim.is_of(self.outside.claims.boot())) {
                Some(claim) => claim,
                None => {
                    tracing::info!(eni = %self.place.nic.eni, %ip, "nothing to release: it is no lease of this interface");
                    return;
                }
            },
        };
        point("release:begun").await;
        self.let_go(ip, claim, Event::Release).await;
        tracing::info!(eni = %self.place.nic.eni, %ip, "released {ip}");
        point("release:done").await;
    }

    /// lease -> ready, however long the database is away. It names the lease's own token, so that a late one cannot end
    /// somebody else's lease (I5).
    async fn let_go(&self, ip: Ipv4Addr, claim: Claim, event: Event) {
        self.memory.let_go(ip, &claim);
        let mut backoff = Backoff::default();
        loop {
            let turn = self.store.background_turn().await;
            let Err(why) = self.change(ip, &claim, event.clone(), Instant::now() + STORE_TIME).await else { break };
            drop(turn);
            self.again(why, &mut backoff).await;
        }
        self.idle.was_let_go();
    }

    async fn lease_in_table(&self, ip: Ipv4Addr) -> Option<Claim> {
        let mut backoff = Backoff::default();
        loop {
            let turn = self.store.background_turn().await;
            let row = self.store.row(ip, Instant::now() + STORE_TIME).await;
            drop(turn);
            match row {
                Ok(row) => {
                    let ours =
                        |row: &Row| row.state() == State::Lease && row.iface.as_ref() == Some(&self.place.nic.eni);
                    return row.filter(ours)?.claim;
                }
                Err(why) => self.again(why, &mut backoff).await,
            }
        }
    }

    async fn again(&self, why: StoreError, backoff: &mut Backoff) {
        if backoff.failures() == 0 {
            tracing::warn!(eni = %self.place.nic.eni, "{why}; trying again");
        }
        sleep(backoff.fails()).await;
    }

    /// I1: leases that this life knows and the database lost stand again. Docker may let go of one meanwhile, and its
    /// release then found a row that was not leased: it is done once more.
    pub(super) async fn stand_again(
        self: &Arc<Self>,
        changes: &[Change],
        until: Instant,
    ) -> Result<Vec<bool>, StoreError> {
        let outcome = self.store.apply(changes, until).await;
        for Change { ip, to, .. } in changes {
            let (ip, Some(claim)) = (*ip, to.claim.clone()) else { continue };
            if self.memory.has_lease(ip, &claim) {
                continue;
            }
            let eni = Arc::clone(self);
            let work = async move { eni.let_go(ip, claim, Event::Release).await };
            self.outside.tasks.spawn(supervised("a release", work));
        }
        let done = outcome?;
        for Change { ip, .. } in changes.iter().zip(&done).filter(|(_, done)| **done).map(|(change, _)| change) {
            tracing::error!(eni = %self.place.nic.eni, %ip, "the database lost the lease of {ip}; it is put right");
        }
        Ok(done)
    }

    /// One change of a row that carries this claim; `false` when it does not any more.
    pub(super) async fn change(
        &self,
        ip: Ipv4Addr,
        claim: &Claim,
        event: Event,
        until: Instant,
    ) -> Result<bool, StoreError> {
        let Some(row) = self.store.row(ip, until).await?.filter(|row| row.claim.as_ref() == Some(claim)) else {
            return Ok(false);
        };
        let Ok(change) = row.on(event) else { return Ok(false) };
        Ok(self.store.apply(&[change], until).await? == [true])
    }
}
