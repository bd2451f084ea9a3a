//! Whole blocks for the ENI: whether any are to be had, and their Assigns.

use std::collections::BTreeSet;
use std::time::Duration;

use ipnet::Ipv4Net;
use tokio::time::Instant;

use super::STORE_TIME;
use super::blocks::{PAUSE, REFUSALS};
use super::task::{Task, Then};
use crate::domain::address::{Row, State};
use crate::domain::block::{Block, Unit, by_unit};
use crate::domain::id::EniId;
use crate::domain::plan::assign::Wanted;
use crate::domain::plan::blocks::{Outlook, Policy};
use crate::domain::plan::next::Refill;
use crate::error::Error;

/// One that is here may be a host of ours that has not entered itself yet: it is looked for again so soon.
const STRANGER: Duration = Duration::from_secs(60);
/// For so long a block that is asked back is one,
const RECALLED: Duration = Duration::from_secs(600);
/// which is looked for so often.
const LOOK_FOR_RECALLS: Duration = Duration::from_secs(10);

impl Task {
    /// Whether, and how, blocks come into question for a refill.
    pub(super) async fn outlook(&mut self, wanted: &Refill, rows: &[Row], now: Instant) -> Result<Outlook, Error> {
        let policy = self.outside.blocks;
        let takes_them = self.shared.shown.limits().map_or(policy == Policy::Always, |limits| limits.blocks);
        let has_room = |range: Ipv4Net| range.prefix_len() <= 28;
        let possible = policy != Policy::Never
            && takes_them
            && !Block::numbers_in(self.subnet.cidr).is_empty()
            && wanted.sub_pool.is_none_or(has_room)
            && self.blocks.may_be_had(now)
            && (policy == Policy::Always || !self.is_stranger_here(now).await?);
        let plenty = possible && policy == Policy::Auto && self.store()?.plenty(&self.subnet, now + STORE_TIME).await?;
        let units = by_unit(rows.iter().filter(|row| is_ours(row)), |row| row.unit());
        let blocks = units.keys().filter(|unit| matches!(unit, Unit::Block(_))).count();
        Ok(Outlook {
            policy,
            possible,
            plenty,
            slots: self.shared.limit().saturating_sub(1),
            left: wanted.capacity,
            singles: units.len() - blocks,
            blocks,
            waiting: wanted.waiting,
        })
    }

    /// Blocks for a refill; none: there are none, or EC2 gives none, so that single addresses have to do. No start fails over a
    /// block that EC2 refuses: the next one is asked for, and then none.
    pub(super) async fn fetch_blocks(&mut self, wanted: &Refill, count: usize) -> Result<Option<Then>, Error> {
        let Refill { sub_pool, cooldown, .. } = *wanted;
        let mut count = if self.blocks.singly { 1 } else { count };
        for _ in 0..REFUSALS {
            let now = Instant::now();
            let mut except = self.blocks.refused(now);
            except.extend(self.store()?.recalled(RECALLED, now + STORE_TIME).await?);
            let acquired = self.acquire(Wanted::Blocks { count, sub_pool, cooldown, except }).await?;
            let now = Instant::now();
            if acquired.asked.is_empty() {
                self.blocks.are_none(now);
                return Ok(None);
            }
            self.blocks.heard(&acquired, now);
            if !acquired.on_eni.is_empty() || acquired.trouble.is_some() || acquired.refused_blocks.is_empty() {
                return self.outcome(acquired).await.map(Some);
            }
            let refused: Vec<String> = acquired.refused_blocks.iter().map(Block::to_string).collect();
            tracing::warn!(eni = %self.nic.eni, "EC2 does not give the block {}", refused.join(", "));
            if !self.blocks.may_be_had(now) {
                break;
            }
            count = 1;
        }
        Ok(None)
    }

    /// Whether other hosts have asked for blocks of this ENI: of those nothing is given while there is anything else, and they
    /// go back once nothing of them is in use.
    pub(super) async fn look_for_recalls(&mut self, now: Instant) -> Result<(), Error> {
        let (memory, store) = (&self.shared.memory, self.store()?);
        let blocks = memory.blocks();
        let is_due = self.blocks.recalls_at.is_none_or(|at| now.duration_since(at) >= LOOK_FOR_RECALLS);
        if blocks.is_empty() || store.is_private() || !is_due {
            return Ok(());
        }
        self.blocks.recalls_at = Some(now);
        let asked_back = store.recalled(RECALLED, now + STORE_TIME).await?;
        let recalled: BTreeSet<Block> = blocks.intersection(&asked_back).copied().collect();
        for block in recalled.difference(&memory.recalled()) {
            tracing::info!(eni = %self.nic.eni, "another host asks for an address of {block}: it goes back once nothing has any of it");
        }
        memory.are_recalled(recalled);
        Ok(())
    }

    /// Whether the original, or another driver that does not enter itself, has addresses in the subnet: its `recycle` takes any
    /// idle row, and fails at one that is in a prefix. Interfaces of which the roll does not know and that have more than their
    /// primary address, or idle ones, are taken for such.
    async fn is_stranger_here(&mut self, now: Instant) -> Result<bool, Error> {
        let store = self.store()?;
        if store.is_private() {
            return Ok(false);
        }
        if let Some((is_here, at)) = self.blocks.stranger
            && now.duration_since(at) < if is_here { STRANGER } else { PAUSE }
        {
            return Ok(is_here);
        }
        let until = now + STORE_TIME;
        let hosts = store.hosts(until).await?;
        let own = self.nic.eni.clone();
        let known: BTreeSet<EniId> = hosts.into_iter().flat_map(|host| host.entry.enis).chain([own]).collect();
        let is_here = store.has_strangers(&self.subnet.id, &known, until).await?;
        if is_here && self.blocks.stranger.is_none_or(|(before, _)| !before) {
            tracing::warn!(
                eni = %self.nic.eni,
                "interfaces that no host of the table has told of have idle addresses, or several in use, in {}: no blocks are taken \
                 there, as the driver of such a host could not give one back; EC2_IPAM_BLOCKS=always takes them all the same",
                self.subnet.id
            );
        }
        self.blocks.stranger = Some((is_here, now));
        Ok(is_here)
    }
}

fn is_ours(row: &Row) -> bool {
    !row.primary && matches!(row.state(), State::On | State::Off | State::Ready | State::Lease)
}
