//! Blocks in the table: their sixteen rows move all or none.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::domain::address::{Change, Row};
use crate::domain::block::Block;
use crate::domain::id::{Claim, EniId, SubnetId};
use crate::domain::subnet::Subnet;
use crate::fail_point::Underway;

use super::{Result, Store, Table};

/// How the task is called by which a block is asked back.
const RECALL: &str = "recall:";

/// Whole free blocks to be taken for an ENI.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the names say it")]
pub struct BlockClaim<'a> {
    pub subnet: &'a SubnetId,
    pub eni: &'a EniId,
    /// Tried in this order. They need not be whole any more.
    pub candidates: &'a [Block],
    /// Only those of which every address was let go at least so long ago; zero: any.
    pub cooldown: Duration,
    /// At most so many.
    pub count: usize,
    /// An `on` token, used for this call only.
    pub claim: &'a Claim,
}

/// How a subnet's aligned blocks stand that EC2 may put on an ENI.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocks {
    /// Those of which all sixteen addresses are free,
    pub whole: u64,
    /// some,
    pub broken: u64,
    /// none.
    pub full: u64,
}

impl Blocks {
    /// So many have a row that is not free, and of so many none is.
    fn of(subnet: &Subnet, taken: u64, full: u64) -> Self {
        let all = Block::numbers_in(subnet.cidr).len() as u64;
        Self { whole: all.saturating_sub(taken), broken: taken.saturating_sub(full), full }
    }
}

impl fmt::Display for Blocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { whole, broken, full } = self;
        write!(f, "{whole} whole, {broken} broken, {full} full")
    }
}

/// Blocks that are looked at to tell how many of a subnet's are whole.
const SAMPLE: u32 = 64;

/// Some of those that the subnet can have, drawn evenly from all over it.
pub(super) fn sample(subnet: &Subnet) -> Vec<Block> {
    let all = Block::numbers_in(subnet.cidr);
    let usable = all.end.saturating_sub(all.start);
    let sample = usable.min(SAMPLE);
    let drawn = (0..sample).map(|n| all.start + fastrand::u32(n * usable / sample..(n + 1) * usable / sample));
    drawn.filter_map(Block::numbered).collect()
}

impl Store {
    /// How many of a subnet's blocks are whole, broken and full.
    pub async fn blocks(&self, subnet: &Subnet, until: Instant) -> Result<Blocks> {
        let (taken, full) = either!(self, s => s.blocks_taken(subnet, until))?;
        Ok(Blocks::of(subnet, taken, full))
    }

    /// Some blocks of which all sixteen rows are free, `most` at most, and wholly inside `within`: from a random place of the
    /// subnet on, and then from its beginning. None: there was none. Only looked at, and on a server by a column that is a
    /// hint: the claim looks again.
    pub async fn whole_blocks(
        &self,
        subnet: &SubnetId,
        within: Option<Ipv4Net>,
        most: usize,
        until: Instant,
    ) -> Result<Vec<Block>> {
        either!(self, s => s.whole_blocks(subnet, within, most, until))
    }

    /// Whether a quarter of the blocks that the subnet can have is whole and free, as far as a sample of 64 tells.
    pub async fn plenty(&self, subnet: &Subnet, until: Instant) -> Result<bool> {
        either!(self, s => s.plenty(subnet, until))
    }

    /// Whether interfaces other than the known ones have idle addresses in the subnet, or several in use that are nobody's claim:
    /// those of a driver that does not enter itself. What known ones have is not read.
    pub async fn has_strangers(&self, subnet: &SubnetId, known: &BTreeSet<EniId>, until: Instant) -> Result<bool> {
        either!(self, s => s.has_strangers(subnet, known, until))
    }

    /// free -> allocated, on, in a block: the first of the candidates that are whole and free, all sixteen rows of each or none.
    /// Those of which others have locked a row are passed by. No primary address is ever taken (I7).
    pub async fn claim_blocks(&self, wanted: &BlockClaim<'_>, until: Instant) -> Result<Vec<Row>> {
        if wanted.count == 0 || wanted.candidates.is_empty() {
            return Ok(Vec::new());
        }
        either!(self, s => s.claim_blocks(wanted, until))
    }

    /// Asks the host that has this block to give it back. `who`: whoever asks, at most 64 characters.
    pub async fn recall(&self, block: Block, who: &str, until: Instant) -> Result<()> {
        // Held for no time: it is over at once, and says when it was asked.
        self.hold_task(&format!("{RECALL}{block}"), who, Duration::ZERO, until).await.map(drop)
    }

    /// The blocks that were asked back within so long, by the database's clock.
    pub async fn recalled(&self, within: Duration, until: Instant) -> Result<BTreeSet<Block>> {
        let names = either!(self, s => s.tasks_over(RECALL, within, until))?;
        let block = |name: &String| Block::exactly(name.strip_prefix(RECALL)?.parse().ok()?);
        Ok(names.iter().filter_map(block).collect())
    }

    /// Carries out groups of guarded changes, none of them empty, of different rows: those of a group all or none, and each
    /// group by itself. `false`: one of its rows at least was not what its change expected, and nothing of it happened (I5).
    pub async fn apply_together(&self, groups: &[Vec<Change>], until: Instant) -> Result<Vec<bool>> {
        // What is alone needs no commit of its own.
        let alone: Vec<Change> = groups.iter().filter(|group| group.len() == 1).flatten().cloned().collect();
        let several: Vec<Vec<Change>> = groups.iter().filter(|group| group.len() > 1).cloned().collect();
        let mut alone = self.apply(&alone, until).await?.into_iter();
        let mut several = match several.as_slice() {
            [] => Vec::new(),
            several => either!(self, s => s.apply_together(several, until))?,
        }
        .into_iter();
        let done = groups.iter().map(|group| if group.len() == 1 { alone.next() } else { several.next() });
        Ok(done.map(|done| done == Some(true)).collect())
    }
}
