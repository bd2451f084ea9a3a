//! Giving idle addresses back to the subnet: ready -> off -> Unassign -> free.
//!
//! An off-claim never becomes ready again. A row is freed on EC2's own answer to an Unassign, and never while an earlier
//! Unassign of it may still land: it would take the address from whoever has it by then. Hence a row that was left off is
//! tried again only once its claim is older than [`settle_age`], and every attempt renews the claim.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::time::Instant;

use super::task::{SETTLE_PAUSE, Task};
use super::{Outside, Recycled, STORE_TIME};
use crate::address::{Event, Row, State};
use crate::ec2::{Action, Ec2, Ec2Error};
use crate::error::Error;
use crate::fault::point;
use crate::id::{EniId, Kind};
use crate::plan::settle_age;

/// Rows that were left off, and are old enough to be tried again.
pub fn is_due(row: &Row) -> bool {
    row.state() == State::Off && row.claimed.is_none_or(|age| age >= settle_age())
}

impl Task {
    pub(super) async fn give_up(&mut self, ec2: &Ec2, rows: &[Row]) -> Result<Option<Duration>, Error> {
        let (_, trouble) = self.unassign(ec2, rows).await?;
        self.note(Action::Unassign, trouble.as_ref());
        trouble.map_or(Ok(None), |why| Err(Error::Ec2(why)))
    }

    pub(super) async fn unassign(&mut self, ec2: &Ec2, rows: &[Row]) -> Result<(Recycled, Option<Ec2Error>), Error> {
        if let Err(why) = self.weak().may_give_up().await {
            self.give_up_at = Instant::now() + SETTLE_PAUSE;
            return Err(why);
        }
        // I2: not even if the database loses what is committed now, and has them idle again. A look under way may have seen
        // them on the ENI: it is not to be believed.
        let ips: Vec<Ipv4Addr> = rows.iter().map(|row| row.ip).collect();
        self.shared.memory().take_off(&ips);
        let outcome = give_up(&self.outside, ec2, &self.nic.eni, rows).await;
        {
            let mut memory = self.shared.memory();
            // EC2's lists lag from now on.
            memory.take_off(&ips);
            // What is kept for a name is reserved again.
            memory.reserved.take_if(|_| rows.iter().any(|row| row.kept_for().is_some()));
        }
        if outcome.as_ref().is_ok_and(|(done, _)| done.freed > 0) {
            self.room = None;
        }
        outcome
    }

    pub(super) async fn recycle(&mut self, ec2: &Ec2, idle: &[Row]) -> Result<Option<Duration>, Error> {
        // What an operator gives back shall not be refilled for the sake of an earlier call.
        self.top_up_at = None;
        let outcome = self.unassign(ec2, idle).await;
        let outcome = outcome.and_then(|(done, trouble)| match trouble {
            Some(why) if done.freed == 0 => Err(Error::Ec2(why)),
            _ => Ok(done),
        });
        for answer in self.recycles.drain(..) {
            let _ = answer.send(outcome.clone());
        }
        Ok(None)
    }
}

/// Unassigns these rows' addresses, idle or left off, with as few calls as EC2 lets us, and frees what is gone.
///
/// # Errors
/// The store's. What EC2 says against it is returned beside the count: those rows stay off and are tried again later.
pub async fn give_up(
    outside: &Outside,
    ec2: &Ec2,
    eni: &EniId,
    rows: &[Row],
) -> Result<(Recycled, Option<Ec2Error>), Error> {
    let claim = outside.claims.next(Kind::Off);
    let changes: Vec<_> = rows.iter().filter_map(|row| row.on(Event::GiveUp { claim: claim.clone() }).ok()).collect();
    outside.store.apply(&changes, Instant::now() + STORE_TIME).await?;
    // I3: only what the table now says is given up may leave the ENI.
    let ips: Vec<Ipv4Addr> = changes.iter().map(|change| change.ip).collect();
    let mut off = outside.store.rows_at(&ips, Instant::now() + STORE_TIME).await?;
    off.retain(|row| row.claim.as_ref() == Some(&claim));
    if off.is_empty() {
        return Ok((Recycled::default(), None));
    }

    point("off:claimed").await;
    let ips: Vec<Ipv4Addr> = off.iter().map(|row| row.ip).collect();
    let (gone, trouble) = unassign(ec2, eni, &ips).await;
    point("off:unassigned").await;
    let freed: Vec<_> =
        off.iter().filter(|row| gone.contains(&row.ip)).filter_map(|row| row.on(Event::Gone).ok()).collect();
    let done = outside.store.apply(&freed, Instant::now() + STORE_TIME).await?;
    point("off:freed").await;
    let freed = done.into_iter().filter(|done| *done).count();
    tracing::info!(%eni, freed, "gave {freed} of {} addresses back to the subnet", off.len());
    Ok((Recycled { freed, pending: off.len() - freed }, trouble))
}

/// Which of the addresses are off the ENI for certain.
async fn unassign(ec2: &Ec2, eni: &EniId, ips: &[Ipv4Addr]) -> (Vec<Ipv4Addr>, Option<Ec2Error>) {
    match ec2.unassign(eni, ips).await {
        Ok(()) | Err(Ec2Error::NoSuchEni { .. }) => return (ips.to_vec(), None),
        Err(Ec2Error::NotAssigned { .. }) if ips.len() == 1 => return (ips.to_vec(), None),
        Err(Ec2Error::NotAssigned { .. }) => {}
        Err(why) => return (Vec::new(), Some(why)),
    }
    // One unknown address fails the whole call. Describe tells which are worth a call together; it lags, so the others are
    // asked for one by one, since only the answer to an Unassign is certain.
    let listed = match ec2.interface(eni).await {
        Ok(interface) => interface,
        Err(Ec2Error::NoSuchEni { .. }) => return (ips.to_vec(), None),
        Err(why) => return (Vec::new(), Some(why)),
    };
    let (together, mut singly): (Vec<Ipv4Addr>, Vec<Ipv4Addr>) = ips.iter().copied().partition(|ip| listed.has(*ip));
    let mut gone = Vec::new();
    match together.as_slice() {
        [] => {}
        together if together.len() < ips.len() && ec2.unassign(eni, together).await.is_ok() => gone.extend(together),
        together => singly.extend(together),
    }
    for ip in singly {
        match ec2.unassign(eni, &[ip]).await {
            Ok(()) | Err(Ec2Error::NotAssigned { .. } | Ec2Error::NoSuchEni { .. }) => gone.push(ip),
            Err(why) => return (gone, Some(why)),
        }
    }
    (gone, None)
}
