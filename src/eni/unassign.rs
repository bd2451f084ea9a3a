//! Giving idle addresses back to the subnet: ready -> off -> Unassign -> free.
//!
//! An off-claim never becomes ready again. A row is freed on EC2's own answer to an Unassign, and never while an earlier
//! Unassign of it may still land: it would take the address from whoever has it by then. Hence a row that was left off is
//! tried again only once its claim is older than [`settle_age`], and every attempt renews the claim.

use std::net::Ipv4Addr;

use tokio::time::Instant;

use super::task::{SETTLE_PAUSE, Task};
use super::{Recycled, STORE_TIME};
use crate::address::{Change, Event, Row};
use crate::ec2::{Action, Ec2, Ec2Error};
use crate::error::Error;
use crate::fault::point;
use crate::fleet::said::{Off, to_unassign};
use crate::id::{Claim, EniId, Kind};
use crate::store::Store;

impl Task {
    pub(super) async fn give_up(&mut self, ec2: &Ec2, rows: &[Row]) -> Result<(), Error> {
        let (_, trouble) = self.unassign(ec2, rows).await?;
        self.note(Action::Unassign, trouble.as_ref());
        trouble.map_or(Ok(()), |why| Err(Error::Ec2(why)))
    }

    pub(super) async fn unassign(&mut self, ec2: &Ec2, rows: &[Row]) -> Result<(Recycled, Option<Ec2Error>), Error> {
        if let Err(why) = self.shared.place.may_give_up().await {
            self.give_up_at = Instant::now() + SETTLE_PAUSE;
            return Err(why);
        }
        let ips: Vec<Ipv4Addr> = rows.iter().map(|row| row.ip).collect();
        self.shared.memory.taken_off(&ips);
        let claim = self.outside.claims.next(Kind::Off);
        let outcome = give_up(&self.store, claim, ec2, &self.nic.eni, rows).await;
        self.shared.memory.taken_off(&ips);
        if rows.iter().any(|row| row.kept_for().is_some()) {
            // It is reserved again.
            self.shared.reserved.forget();
        }
        if outcome.as_ref().is_ok_and(|(done, _)| done.freed > 0) {
            self.room = None;
        }
        outcome
    }

    pub(super) async fn recycle(&mut self, ec2: &Ec2, idle: &[Row]) {
        let outcome = self.unassign(ec2, idle).await;
        let outcome = outcome.and_then(|(done, trouble)| match trouble {
            Some(why) if done.freed == 0 => Err(Error::Ec2(why)),
            _ => Ok(done),
        });
        for answer in self.recycles.drain(..) {
            let _ = answer.send(outcome.clone());
        }
    }
}

/// Unassigns these rows' addresses, idle or left off, with as few calls as EC2 lets us, and frees what is gone. `claim`: an
/// off-claim of its own.
///
/// # Errors
/// The store's. What EC2 says against it is returned beside the count: those rows stay off and are tried again later.
pub async fn give_up(
    store: &Store,
    claim: Claim,
    ec2: &Ec2,
    eni: &EniId,
    rows: &[Row],
) -> Result<(Recycled, Option<Ec2Error>), Error> {
    let given_up =
        |row: &Row| row.on(Event::GiveUp { claim: claim.clone() }).ok().map(|change| (change.after(row), change));
    let (off, changes): (Vec<Row>, Vec<Change>) = rows.iter().filter_map(given_up).unzip();
    let done = store.apply(&changes, Instant::now() + STORE_TIME).await?;
    // I3: only what the table now says is given up may leave the ENI.
    let off: Vec<Row> = off.into_iter().zip(done).filter_map(|(row, done)| done.then_some(row)).collect();
    if off.is_empty() {
        return Ok((Recycled::default(), None));
    }

    point("off:claimed").await;
    let ips: Vec<Ipv4Addr> = off.iter().map(|row| row.ip).collect();
    let (gone, trouble) = unassign(ec2, eni, &ips).await;
    point("off:unassigned").await;
    let freed: Vec<_> =
        off.iter().filter(|row| gone.contains(&row.ip)).filter_map(|row| row.on(Event::Gone).ok()).collect();
    let done = store.apply(&freed, Instant::now() + STORE_TIME).await?;
    point("off:freed").await;
    let freed = done.into_iter().filter(|done| *done).count();
    tracing::info!(%eni, freed, "gave {freed} of {} addresses back to the subnet", off.len());
    Ok((Recycled { freed, pending: off.len() - freed }, trouble))
}

/// Which of the addresses are off the ENI for certain, and what is in the way of the others.
async fn unassign(ec2: &Ec2, eni: &EniId, ips: &[Ipv4Addr]) -> (Vec<Ipv4Addr>, Option<Ec2Error>) {
    let answer = ec2.unassign(eni, ips).await;
    match to_unassign(&answer, ips.len()) {
        Off::Gone => return (ips.to_vec(), None),
        Off::Perhaps => return (Vec::new(), answer.err()),
        Off::NotAll => {}
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
        let answer = ec2.unassign(eni, &[ip]).await;
        match to_unassign(&answer, 1) {
            Off::Gone => gone.push(ip),
            Off::NotAll | Off::Perhaps => return (gone, answer.err()),
        }
    }
    (gone, None)
}
