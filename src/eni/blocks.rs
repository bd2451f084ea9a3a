//! How it went with blocks on the ENI.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::block::Block;
use crate::fleet::Acquired;

/// After so many refused in a row there are none for this ENI,
pub(super) const REFUSALS: u32 = 3;
/// for so long; and one that was refused is not asked for again before.
pub(super) const PAUSE: Duration = Duration::from_secs(600);
/// Where the subnet has no whole one it is not looked at again for so long (the VPC CNI waits as long after
/// `InsufficientCidrBlocks`).
const NONE_WHOLE: Duration = Duration::from_secs(120);

/// How it went with blocks on this ENI.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    /// None is asked for until then.
    not_before: Option<Instant>,
    in_a_row: u32,
    refused: HashMap<Block, Instant>,
    /// EC2 has refused several at once: each goes by itself.
    pub(super) singly: bool,
    /// Whether a driver that knows nothing of blocks is at work in the subnet, and when that was looked at.
    pub(super) stranger: Option<(bool, Instant)>,
    /// When it was last looked whether other hosts ask for some of them.
    pub(super) recalls_at: Option<Instant>,
}

impl Blocks {
    pub(super) fn may_be_had(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|at| at <= now)
    }

    /// Those that EC2 refused a while ago.
    pub(super) fn refused(&mut self, now: Instant) -> Vec<Block> {
        self.refused.retain(|_, at| now.duration_since(*at) < PAUSE);
        self.refused.keys().copied().collect()
    }

    /// None is whole.
    pub(super) fn are_none(&mut self, now: Instant) {
        self.not_before = Some(now + NONE_WHOLE);
    }

    /// What EC2 said to a call for blocks.
    pub(super) fn heard(&mut self, acquired: &Acquired, now: Instant) {
        self.singly |= acquired.asked.len() > 1 && !acquired.refused_blocks.is_empty();
        self.refused.extend(acquired.refused_blocks.iter().map(|block| (*block, now)));
        if !acquired.on_eni.is_empty() {
            self.in_a_row = 0;
        } else if acquired.trouble.is_none() {
            self.in_a_row += u32::try_from(acquired.refused_blocks.len()).unwrap_or(REFUSALS);
        }
        if self.in_a_row >= REFUSALS {
            (self.in_a_row, self.not_before) = (0, Some(now + PAUSE));
        }
    }
}
