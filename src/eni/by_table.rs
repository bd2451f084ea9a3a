//! What a distant ENI's containers have: the table is the first to know, so each grant and each release is a guarded commit
//! there before anybody is answered. Whoever else serves the ENI does the same.

use std::net::Ipv4Addr;
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::{Lease, STORE_TIME, Shared};
use crate::backoff::Backoff;
use crate::domain::address::{Change, Event, Row, State};
use crate::domain::history::{Use, millis};
use crate::domain::holding::{Follow, Held, Holding};
use crate::domain::id::{Claim, Kind};
use crate::error::Error;
use crate::fail_point::point;
use crate::journal::{End, Wanted, chosen};

impl Shared {
    /// idle -> lease: the one that is chosen of the rows as they are now.
    pub(super) async fn give_by_table(
        self: &Arc<Self>,
        wanted: &Wanted<'_>,
        may_give: impl Fn(Ipv4Addr) -> bool,
        until: Instant,
    ) -> Result<Option<Lease>, Error> {
        // Those who ask at once would all choose the same one, and all but one in vain.
        let Ok(_turn) = timeout_at(until, self.posting.lock()).await else {
            return Err(Error::Missing(self.outside.what_is_missing()));
        };
        loop {
            let now = self.journal().now();
            let store = self.outside.store(until).await?;
            let rows = store.rows_of_eni(wanted.eni, until).await?;
            let idle = rows.iter().filter_map(|row| Holding::of_row(row, wanted.eni, &now)).collect();
            let Some(holding) = chosen(idle, wanted, &now, &may_give) else { return Ok(None) };
            let row = rows.iter().find(|row| row.ip == holding.ip);
            let Follow::Change(change) = holding.follow(row, &now) else { return Ok(None) };
            // From here on it is taken back if Docker does not get it: the answer may be lost, and the commit not.
            let lease = self.granted(holding.ip, wanted.token.clone());
            if store.apply(slice::from_ref(&change), until).await? == [true] {
                point("distant:granted").await;
                self.note_begin(&holding, wanted.holder);
                return Ok(Some(lease));
            }
            // Somebody else had it at this moment.
            lease.keep();
        }
    }

    /// What EC2 has put on the ENI, as it is decided: which of the rows say so now.
    pub(super) async fn confirm_by_table(&self, rows: &[Row], holdings: &[Holding]) -> Result<Vec<bool>, Error> {
        let now = self.journal().now();
        let row = |ip| rows.iter().find(|row| row.ip == ip);
        let changes: Vec<Option<Change>> = holdings
            .iter()
            .map(|holding| match holding.follow(row(holding.ip), &now) {
                Follow::Change(change) => Some(change),
                Follow::Same | Follow::Differs => None,
            })
            .collect();
        let wanted: Vec<Change> = changes.iter().flatten().cloned().collect();
        let mut done = self.outside.store.now()?.apply(&wanted, Instant::now() + STORE_TIME).await?.into_iter();
        let said: Vec<bool> = changes.iter().map(|change| change.is_some() && done.next() == Some(true)).collect();
        for holding in holdings.iter().zip(&said).filter_map(|(holding, said)| said.then_some(holding)) {
            self.note_begin(holding, holding.holder.as_deref());
        }
        Ok(said)
    }

    /// For the history: after the grant, and in nobody's way. What a crash in between loses, its end tells.
    fn note_begin(&self, holding: &Holding, holder: Option<&str>) {
        if let Held::Lease(token) = &holding.held {
            let now = millis(self.journal().now().wall);
            self.outside.untold.add(|| self.use_of(token, holding.ip, holder, now));
        }
    }

    fn use_of(&self, token: &Claim, ip: Ipv4Addr, holder: Option<&str>, begun: u64) -> Use {
        let instance = Some(self.place.instance.clone());
        Use { instance, ..Use::begins(token.clone(), ip, self.place.nic.eni.clone(), holder, begun) }
    }

    fn note_end(&self, row: &Row, end: End) {
        if let Some(token) = row.claim.as_ref().filter(|_| row.state() == State::Lease) {
            let now = self.journal().now().wall;
            let begun = millis(now.saturating_sub(row.claimed.unwrap_or_default()));
            let over = Some((millis(now), end.ended()));
            self.outside.untold.add(|| Use { end: over, ..self.use_of(token, row.ip, row.holder.as_deref(), begun) });
        }
    }

    /// lease -> idle; `claim`: only if it is this lease. However long the table is away, it is done. Says whether it was one.
    pub(super) async fn end_by_table(&self, ip: Ipv4Addr, claim: Option<&Claim>, end: End) -> bool {
        let mut backoff = Backoff::default();
        loop {
            match self.end_now(ip, claim, end).await {
                Ok(Some(done)) => return done,
                // Somebody moved it at this moment.
                Ok(None) => {}
                Err(why) => {
                    if backoff.failures() == 0 {
                        tracing::warn!(eni = %self.place.nic.eni, %ip, "a release waits: {why}");
                    }
                }
            }
            sleep(backoff.fails()).await;
        }
    }

    async fn end_now(&self, ip: Ipv4Addr, claim: Option<&Claim>, end: End) -> Result<Option<bool>, Error> {
        let store = self.outside.store.now()?;
        let until = Instant::now() + STORE_TIME;
        let Some(row) = store.row(ip, until).await?.filter(|row| row.iface.as_ref() == Some(&self.place.nic.eni))
        else {
            return Ok(Some(false));
        };
        let event = match row.state() {
            State::Lease if claim.is_none_or(|claim| row.claim.as_ref() == Some(claim)) => {
                let idle = if end == End::TakenBack { row.idle } else { Duration::ZERO };
                Event::Follow { lease: None, holder: row.holder.clone(), idle }
            }
            // The original gave it. That it is on the ENI EC2 has to say.
            State::Foreign if claim.is_none() && !row.primary => {
                Event::Adopt { claim: self.outside.claims.next(Kind::On), in_block: row.in_block }
            }
            State::Lease | State::Foreign | State::Free | State::On | State::Off | State::Ready | State::Reserved => {
                return Ok(Some(false));
            }
        };
        let Ok(change) = row.on(event) else { return Ok(Some(false)) };
        let done = store.apply(slice::from_ref(&change), until).await? == [true];
        if done {
            self.outside.counts.released(end);
            self.note_end(&row, end);
        }
        Ok(done.then_some(true))
    }
}
