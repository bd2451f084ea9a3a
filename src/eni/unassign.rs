//! Idle addresses that the ENI gives back to the subnet.

use std::net::Ipv4Addr;

use tokio::time::Instant;

use super::task::Task;
use super::{Recycled, STORE_TIME};
use crate::domain::address::{Change, Event, Row, State};
use crate::domain::block::by_unit;
use crate::domain::holding::Held;
use crate::domain::id::Kind;
use crate::domain::plan::blocks::unless_torn;
use crate::domain::plan::next::Because;
use crate::error::Error;
use crate::fleet::{GiveBack, GivenBack};
use crate::journal::Recorded;
use crate::outside::ec2::Action;

impl Task {
    pub(super) async fn give_back(&mut self, rows: &[Row], because: Because, now: Instant) -> Result<(), Error> {
        match because {
            Because::Recycled => {
                self.pace.forget_top_up();
                self.recycle(rows).await;
                return Ok(());
            }
            Because::Excess => self.pace.was_trimmed(now),
            Because::Drained => self.pace.was_drained(now),
            Because::LeftOff | Because::Room | Because::Named => {}
        }
        self.give_up(rows).await
    }

    pub(super) async fn give_up(&mut self, rows: &[Row]) -> Result<(), Error> {
        let given = self.unassign(rows).await?;
        self.note(Action::Unassign, given.trouble.as_ref());
        given.trouble.map_or(Ok(()), |why| Err(Error::Ec2(why)))
    }

    pub(super) async fn unassign(&mut self, rows: &[Row]) -> Result<GivenBack, Error> {
        if let Err(why) = self.shared.place.may_give_up().await {
            self.pace.give_up_later(Instant::now());
            return Err(why);
        }
        // What the table has just been found not to say, or not to say rightly, would stay.
        let behind = self.shared.behind();
        if rows.iter().any(|row| behind.contains(&row.ip)) {
            self.shared.post().await?;
        }
        let token = self.outside.claims.next(Kind::Off);
        // In the journal first, so that nothing can grant it: what became a lease meanwhile stays.
        let journal = self.shared.journal();
        let ips = |rows: Vec<&Row>| rows.iter().map(|row| row.ip).collect();
        let units: Vec<Vec<Ipv4Addr>> = by_unit(rows, |row| row.unit()).into_values().map(ips).collect();
        let (leaving, recorded) = journal.leave(&units, &token).await;
        if recorded == Recorded::InMemory {
            self.shared.post().await?;
        }
        let goes = |ip: &Ipv4Addr| leaving.contains(ip) || self.shared.holding(*ip).is_none();
        let going: Vec<Ipv4Addr> = units.into_iter().filter(|ips| ips.iter().all(goes)).flatten().collect();
        let all: Vec<Row> = rows.iter().filter(|row| going.contains(&row.ip)).cloned().collect();
        let rows = unless_torn(self.ready(all.clone()).await?, all.iter());
        let ips: Vec<Ipv4Addr> = rows.iter().map(|row| row.ip).collect();
        self.shared.memory.taken_off(&ips);
        let request = GiveBack { eni: &self.nic.eni, rows: &rows, token, budget: STORE_TIME };
        let outcome = self.fleet.give_back(request).await;
        self.shared.memory.taken_off(&ips);
        if rows.iter().any(|row| row.kept_for().is_some()) {
            // It is reserved again.
            self.shared.reserved.forget();
        }
        if let Ok(given) = &outcome
            && !given.freed.is_empty()
        {
            self.room.was_made();
            self.shared.shown.went_off(&given.freed);
            let _ =
                self.shared.journal().strike(&given.freed, |holding| matches!(holding.held, Held::Leaving(_))).await;
        }
        outcome
    }

    /// A lease that a database brought back, of an address that was given back before: it is none.
    async fn ready(&self, rows: Vec<Row>) -> Result<Vec<Row>, Error> {
        let (leased, mut rows): (Vec<Row>, Vec<Row>) = rows.into_iter().partition(|row| row.state() == State::Lease);
        let is_none = |row: &Row| {
            let event = Event::Follow { lease: None, holder: row.holder.clone(), idle: row.idle };
            row.on(event).ok().map(|change| (change.after(row), change))
        };
        let (after, changes): (Vec<Row>, Vec<Change>) = leased.iter().filter_map(is_none).unzip();
        let done = self.store()?.apply(&changes, Instant::now() + STORE_TIME).await?;
        rows.extend(after.into_iter().zip(done).filter_map(|(row, done)| done.then_some(row)));
        Ok(rows)
    }

    async fn recycle(&mut self, idle: &[Row]) {
        if idle.is_empty() && self.shared.is_in_doubt() {
            let why = format!(
                "what containers have of {} is in doubt until its driver has seen Docker show them, about a minute after it started: \
                 try again then",
                self.nic.eni
            );
            return self.queue.recycled(&Err(Error::Missing(why)));
        }
        let outcome = self.unassign(idle).await.and_then(|given| match given.trouble {
            Some(why) if given.freed.is_empty() => Err(Error::Ec2(why)),
            _ => Ok(Recycled { freed: given.freed.len(), pending: given.pending }),
        });
        self.queue.recycled(&outcome);
    }
}
