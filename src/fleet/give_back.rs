//! Idle addresses back to the subnet: ready -> off -> Unassign -> free.
//!
//! An off-claim never becomes ready again. A row is freed on EC2's own answer to an Unassign, and never while an earlier
//! Unassign of it may still land: it would take the address from whoever has it by then. Hence a row that was left off is
//! tried again only once its claim is older than the settle age, and every attempt renews the claim.

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::said::{Off, to_unassign, to_unassign_of_blocks};
use super::sender::BRIEF;
use super::{Fleet, by};
use crate::domain::address::{Change, Event, Row};
use crate::domain::block::{Block, by_unit};
use crate::domain::id::{Claim, EniId};
use crate::domain::plan::settle_age;
use crate::error::Error;
use crate::fail_point::point;
use crate::outside::ec2::{Ec2, Ec2Error};

/// Rows that an ENI is to give back.
#[derive(Debug, Clone)]
pub struct GiveBack<'a> {
    /// The ENI.
    pub eni: &'a EniId,
    /// Idle ones, or ones left off long ago, as they were seen. What is neither stays. Of a block: every row that is the ENI's,
    /// which are fewer than sixteen only if the block is not on it any more.
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

/// Blocks whose Unassign EC2 refused, and that it did not show on the ENI: since when.
#[derive(Debug, Default)]
pub(super) struct Unlisted(Mutex<HashMap<Block, Instant>>);

impl Unlisted {
    /// It is not shown; says whether it was not so long ago either that no list can have lagged all the time.
    fn seen(&self, block: Block) -> bool {
        let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        since.retain(|_, at| at.elapsed() < settle_age() * 10);
        let is_old = since.entry(block).or_insert_with(Instant::now).elapsed() >= settle_age();
        if is_old {
            since.remove(&block);
        }
        is_old
    }
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
        // A block goes whole: a row of it that has changed keeps all of it here.
        let groups: Vec<(Vec<Row>, Vec<Change>)> = by_unit(rows, |row| row.unit())
            .into_values()
            .map(|rows| rows.into_iter().filter_map(given_up).unzip())
            .collect();
        let (off, changes): (Vec<Vec<Row>>, Vec<Vec<Change>>) =
            groups.into_iter().filter(|(_, changes)| !changes.is_empty()).unzip();
        let done = self.store.now()?.apply_together(&changes, by(budget)).await?;
        // I3: only what the table now says is given up may leave the ENI.
        let off: Vec<Row> = off.into_iter().zip(done).filter(|(_, done)| *done).flat_map(|(rows, _)| rows).collect();
        if off.is_empty() {
            return Ok(GivenBack::default());
        }
        point("off:claimed").await;
        let off = self.still_off(off, budget).await?;
        let (of_blocks, singles): (Vec<&Row>, Vec<&Row>) = off.iter().partition(|row| row.in_block);
        let ips: Vec<Ipv4Addr> = singles.iter().map(|row| row.ip).collect();
        let (mut gone, mut trouble) = unassign(&ec2, eni, &ips).await;
        let blocks: BTreeSet<Block> = of_blocks.iter().map(|row| Block::of(row.ip)).collect();
        if !blocks.is_empty() {
            let (blocks, why) = self.unassign_blocks(&ec2, eni, blocks.into_iter().collect()).await;
            gone.extend(blocks.into_iter().flat_map(Block::addresses));
            trouble = trouble.or(why);
        }
        point("off:unassigned").await;
        let freed = off.iter().filter(|row| gone.contains(&row.ip));
        let units: Vec<Vec<&Row>> = by_unit(freed, |row| row.unit()).into_values().collect();
        let gone = |rows: &Vec<&Row>| rows.iter().filter_map(|row| row.on(Event::Gone).ok()).collect();
        let changes: Vec<Vec<Change>> = units.iter().map(gone).collect();
        let done = self.store.now()?.apply_together(&changes, by(budget)).await?;
        point("off:freed").await;
        let freed: Vec<Ipv4Addr> =
            units.iter().zip(done).filter(|(_, done)| *done).flat_map(|(rows, _)| rows).map(|row| row.ip).collect();
        let count = freed.len();
        tracing::info!(%eni, freed = count, "gave {count} of {} addresses back to the subnet", off.len());
        Ok(GivenBack { freed, pending: off.len() - count, trouble })
    }

    /// Which of the blocks are off the ENI for certain, and what is in the way of the others. How EC2 refuses one that is not there
    /// is not known for certain, so that after any clear refusal the ENI itself is looked at: what two looks do not show, farther
    /// apart than its lists lag, is gone.
    async fn unassign_blocks(&self, ec2: &Ec2, eni: &EniId, blocks: Vec<Block>) -> (Vec<Block>, Option<Ec2Error>) {
        let answer = ec2.unassign_blocks(eni, &blocks).await;
        match to_unassign_of_blocks(&answer) {
            Off::Gone => return (blocks, None),
            Off::Perhaps => return (Vec::new(), answer.err()),
            Off::NotAll => {}
        }
        let listed = match ec2.interface(eni).await {
            Ok(interface) => interface.prefixes,
            Err(Ec2Error::NoSuchEni { .. }) => return (blocks, None),
            Err(why) => return (Vec::new(), Some(why)),
        };
        let alone = blocks.len() == 1;
        let (mut gone, mut trouble) = (Vec::new(), None);
        for block in blocks {
            if !listed.contains(&block.net()) {
                gone.extend(self.unlisted.seen(block).then_some(block));
            } else if alone {
                trouble = answer.as_ref().err().cloned();
            } else {
                match ec2.unassign_blocks(eni, &[block]).await {
                    Ok(()) => gone.push(block),
                    Err(why) => trouble = Some(why),
                }
            }
        }
        (gone, trouble)
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
