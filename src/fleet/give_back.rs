//! Idle addresses back to the subnet: ready -> off -> Unassign -> free.
//!
//! An off-claim never becomes ready again. A row is freed on EC2's own answer to an Unassign, and never while an earlier
//! Unassign of it may still land: it would take the address from whoever has it by then. Hence a row that was left off is
//! tried again only once its claim is older than the settle age, and every attempt renews the claim.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::time::Instant;

use super::said::{Off, to_unassign};
use super::sender::BRIEF;
use super::{Fleet, by};
use crate::domain::address::{Change, Event, Row};
use crate::domain::id::{Claim, EniId};
use crate::error::Error;
use crate::fail_point::point;
use crate::outside::ec2::{Ec2, Ec2Error};

/// Rows that an ENI is to give back.
#[derive(Debug, Clone)]
pub struct GiveBack<'a> {
    /// The ENI.
    pub eni: &'a EniId,
    /// Idle ones, or ones left off long ago, as they were seen. What is neither stays.
    pub rows: &'a [Row],
    /// An `off` token of this request alone.
    pub token: Claim,
    /// How long each access to the table may take. EC2's calls have a bound of their own.
    pub budget: Duration,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct GivenBack {
    /// Addresses that are free again.
    pub freed: Vec<Ipv4Addr>,
    /// Addresses whose Unassign is not settled yet: they stay off, and are to be given back again once they are old.
    pub pending: usize,
    /// What EC2 says against it.
    pub trouble: Option<Ec2Error>,
}

impl Fleet {
    /// Unassigns these rows' addresses with as few calls as EC2 lets us, and frees what is gone.
    ///
    /// # Errors
    /// The store's, or that EC2 cannot be asked yet.
    pub async fn give_back(&self, request: GiveBack<'_>) -> Result<GivenBack, Error> {
        let GiveBack { eni, rows, token, budget } = request;
        let ec2 = self.ec2.now()?;
        self.may_unassign(budget).await?;
        let given_up =
            |row: &Row| row.on(Event::GiveUp { claim: token.clone() }).ok().map(|change| (change.after(row), change));
        let (off, changes): (Vec<Row>, Vec<Change>) = rows.iter().filter_map(given_up).unzip();
        let done = self.store.now()?.apply(&changes, by(budget)).await?;
        // I3: only what the table now says is given up may leave the ENI.
        let off: Vec<Row> = off.into_iter().zip(done).filter_map(|(row, done)| done.then_some(row)).collect();
        if off.is_empty() {
            return Ok(GivenBack::default());
        }
        point("off:claimed").await;
        let off = self.still_off(off, budget).await?;
        let ips: Vec<Ipv4Addr> = off.iter().map(|row| row.ip).collect();
        let (gone, trouble) = unassign(&ec2, eni, &ips).await;
        point("off:unassigned").await;
        let freed: Vec<Change> =
            off.iter().filter(|row| gone.contains(&row.ip)).filter_map(|row| row.on(Event::Gone).ok()).collect();
        let done = self.store.now()?.apply(&freed, by(budget)).await?;
        point("off:freed").await;
        let freed: Vec<Ipv4Addr> =
            freed.iter().zip(done).filter_map(|(change, done)| done.then_some(change.ip)).collect();
        let count = freed.len();
        tracing::info!(%eni, freed = count, "gave {count} of {} addresses back to the subnet", off.len());
        Ok(GivenBack { freed, pending: off.len() - count, trouble })
    }

    /// Those that are to be unassigned still, by a look of this moment. Of a distant ENI another server may have settled them while
    /// this one stood still, and given them again; whoever stood still while it looked sends nothing either.
    async fn still_off(&self, mut off: Vec<Row>, budget: Duration) -> Result<Vec<Row>, Error> {
        if self.sender.is_none() {
            return Ok(off);
        }
        let asked = Instant::now();
        self.may_unassign(budget).await?;
        let ips: Vec<Ipv4Addr> = off.iter().map(|row| row.ip).collect();
        let now = self.store.now()?.rows_at(&ips, by(budget)).await?;
        if asked.elapsed() >= BRIEF {
            return Err(Error::Missing("the table answered too late for anything to be given back".into()));
        }
        off.retain(|row| now.iter().any(|now| now.ip == row.ip && now.guard() == row.guard()));
        Ok(off)
    }
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
