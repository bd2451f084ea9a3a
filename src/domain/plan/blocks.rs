//! When an ENI takes whole blocks, and which idle addresses go back once it has some.
//!
//! A block costs one slot and one call and brings sixteen addresses; but where whole ones are few each that is taken for a
//! container or two is lost to a host that needs sixteen. The rules are those of simulated lives, which the benchmark `blocks`
//! plays on these very functions.

use std::collections::{BTreeMap, HashSet};
use std::net::Ipv4Addr;

use super::Warmth;
use crate::domain::address::{Row, State};
use crate::domain::block::{Block, SIZE};

/// Whether ENIs take blocks, as the operator has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// Single addresses only. Blocks that are there are used and given back.
    #[default]
    Never,
    /// Where they pay.
    Auto,
    /// Wherever one is to be had.
    Always,
}

/// A refill of this size is worth a block, however few whole ones there are.
const WORTH: usize = 8;

/// What is known when an ENI needs more.
#[derive(Debug, Clone, Copy)]
pub struct Outlook {
    /// The operator's word.
    pub policy: Policy,
    /// Whether a block may be had at all: by the instance type, the subnet, the range that is asked for, and how it went lately.
    pub possible: bool,
    /// Whether at least a quarter of the subnet's blocks are whole.
    pub plenty: bool,
    /// How many slots the ENI has beside the primary address's,
    pub slots: usize,
    /// and how many of them are open.
    pub left: usize,
    /// Single addresses on it,
    pub singles: usize,
    /// and blocks.
    pub blocks: usize,
    /// Containers that wait for any address.
    pub waiting: usize,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetch {
    /// So many blocks, else what [`Outlook::singles`] says.
    Blocks(usize),
    /// So many single addresses.
    Singles(usize),
}

impl Outlook {
    /// One Assign for a refill of `size` addresses.
    pub fn fetch(&self, size: usize) -> Fetch {
        let half = (self.slots / 2).max(1);
        let is_worth = match self.policy {
            Policy::Never => false,
            Policy::Always => true,
            // Where they are scarce none is taken for warmth alone.
            Policy::Auto => {
                let pays = self.blocks > 0 || self.singles >= half || size >= WORTH;
                self.plenty || self.waiting > 0 && pays
            }
        };
        if self.possible && is_worth && self.left > 0 && size > 0 {
            return Fetch::Blocks(size.div_ceil(SIZE).clamp(1, self.left));
        }
        Fetch::Singles(self.singles(size))
    }

    /// How many single addresses, where no block is to be had or worth it: never so many that no slot is left for one, but
    /// for those who wait.
    pub fn singles(&self, size: usize) -> usize {
        let size = size.min(self.left);
        match self.policy {
            Policy::Never => size,
            Policy::Auto | Policy::Always => {
                let half = (self.slots / 2).max(1);
                let (in_reserve, needed) = if self.possible {
                    // A block comes once this many are used up.
                    (half.saturating_sub(self.singles).max(1), 1)
                } else {
                    (self.left.saturating_sub(1), self.waiting)
                };
                size.min(in_reserve.max(needed)).min(self.left)
            }
        }
    }
}

/// The idle addresses of an ENI, by what they can go back as: singles alone, those of a block with all others of it.
#[derive(Debug, Default)]
pub struct Idle<'r> {
    /// All of them, those of blocks in use too, coldest first.
    pub all: Vec<&'r Row>,
    /// Single ones, coldest first.
    pub singles: Vec<&'r Row>,
    /// Blocks of which every address is idle.
    pub blocks: BTreeMap<Block, Vec<&'r Row>>,
    /// Whether the ENI has a block at all.
    pub has_block: bool,
}

impl<'r> Idle<'r> {
    /// Of the ENI's rows, coldest first. `is_used`: of what is idle by its row alone.
    pub fn of(rows: &'r [Row], is_used: impl Fn(Ipv4Addr) -> bool) -> Self {
        let is_idle = |row: &&Row| row.state() == State::Ready && !row.primary && !is_used(row.ip);
        let all: Vec<&Row> = rows.iter().filter(is_idle).collect();
        let (of_blocks, singles): (Vec<&Row>, Vec<&Row>) = all.iter().partition(|row| row.in_block);
        let mut blocks: BTreeMap<Block, Vec<&Row>> = BTreeMap::new();
        of_blocks.into_iter().for_each(|row| blocks.entry(Block::of(row.ip)).or_default().push(row));
        blocks.retain(|_, rows| rows.len() == SIZE);
        let is_ours =
            |row: &Row| row.in_block && !matches!(row.state(), State::Free | State::Foreign | State::Reserved);
        Self { all, singles, blocks, has_block: rows.iter().any(is_ours) }
    }

    /// Everything that can go.
    pub fn whole(&self) -> Vec<Row> {
        let rows = self.singles.iter().chain(self.blocks.values().flatten());
        rows.map(|row| (*row).clone()).collect()
    }

    /// Of what can go: single rows that `goes` says, and blocks of which it says all.
    pub fn that(&self, goes: impl Fn(&Row) -> bool) -> Vec<Row> {
        let singles = self.singles.iter().filter(|row| goes(row));
        let blocks = self.blocks.values().filter(|rows| rows.iter().all(|row| goes(row))).flatten();
        singles.chain(blocks).map(|row| (*row).clone()).collect()
    }
}

/// Of a block all goes or nothing: what goes, but for what is of a block of which one of `all` does not.
pub fn unless_torn<'r>(mut goes: Vec<Row>, all: impl Iterator<Item = &'r Row>) -> Vec<Row> {
    let stays = all.filter(|row| row.in_block && goes.iter().all(|goes| goes.ip != row.ip));
    let torn: HashSet<Block> = stays.map(|row| Block::of(row.ip)).collect();
    goes.retain(|row| !row.in_block || !torn.contains(&Block::of(row.ip)));
    goes
}

impl Warmth {
    /// The idle addresses to give back, coldest first: beyond the maximum, or beyond what a burst may still need, but none
    /// that the target wants. Only cooled ones, and blocks that have cooled whole, so that an address comes to no other host
    /// before its time (I10). Beside a block no single one is kept. A `quiet` ENI keeps nothing.
    pub fn excess(&self, idle: &Idle<'_>, expected: usize, quiet: bool) -> Vec<Row> {
        let (target, max) = if quiet { (0, 0) } else { (self.target, self.max.max(expected)) };
        let is_cooled = |row: &&Row| row.has_cooled(self.cooldown);
        let (mut all, mut cooled) = (idle.all.len(), idle.all.iter().copied().filter(|row| is_cooled(row)).count());
        let mut goes: Vec<Row> = Vec::new();
        let keeps = if idle.has_block { 0 } else { max };
        for row in idle.singles.iter().copied().filter(is_cooled) {
            if all > keeps && cooled > target {
                (all, cooled) = (all - 1, cooled - 1);
                goes.push(row.clone());
            }
        }
        for rows in idle.blocks.values().filter(|rows| rows.iter().all(&is_cooled)) {
            if all >= max + SIZE && cooled >= target + SIZE {
                (all, cooled) = (all - SIZE, cooled - SIZE);
                goes.extend(rows.iter().map(|row| (*row).clone()));
            }
        }
        goes
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{row, warmth};
    use super::*;
    use crate::domain::address::Status;
    use crate::domain::id::{Boot, Kind};

    /// A c5.large of which nothing is used, in a subnet with plenty.
    fn outlook() -> Outlook {
        let (policy, possible, plenty) = (Policy::Auto, true, true);
        Outlook { policy, possible, plenty, slots: 9, left: 9, singles: 0, blocks: 0, waiting: 1 }
    }

    #[test]
    fn blocks_are_taken_where_they_are_plenty_and_where_they_pay() {
        let plenty = outlook();
        assert_eq!(plenty.fetch(1), Fetch::Blocks(1));
        assert_eq!(plenty.fetch(16), Fetch::Blocks(1));
        assert_eq!(plenty.fetch(17), Fetch::Blocks(2));
        assert_eq!(Outlook { left: 2, ..plenty }.fetch(50), Fetch::Blocks(2));
        assert_eq!(Outlook { policy: Policy::Never, ..plenty }.fetch(50), Fetch::Singles(9));
        let scarce = Outlook { plenty: false, ..plenty };
        assert_eq!(scarce.fetch(1), Fetch::Singles(1));
        assert_eq!(scarce.fetch(5), Fetch::Singles(4), "half of the slots are left for blocks");
        assert_eq!(scarce.fetch(8), Fetch::Blocks(1), "so many are worth one");
        assert_eq!(Outlook { waiting: 0, ..scarce }.fetch(8), Fetch::Singles(4), "none for warmth alone");
        assert_eq!(Outlook { singles: 4, left: 5, ..scarce }.fetch(1), Fetch::Blocks(1));
        assert_eq!(Outlook { singles: 4, left: 5, waiting: 0, ..scarce }.fetch(1), Fetch::Singles(1));
        assert_eq!(Outlook { blocks: 1, left: 8, ..scarce }.fetch(1), Fetch::Blocks(1));
        assert_eq!(Outlook { policy: Policy::Always, ..scarce }.fetch(1), Fetch::Blocks(1));
    }

    #[test]
    fn where_no_block_is_to_be_had_the_last_slot_is_for_one_who_waits() {
        let none = Outlook { possible: false, ..outlook() };
        assert_eq!(none.fetch(4), Fetch::Singles(4));
        assert_eq!(none.fetch(20), Fetch::Singles(8));
        assert_eq!(Outlook { waiting: 12, ..none }.fetch(20), Fetch::Singles(9));
        let last = Outlook { left: 1, singles: 8, ..none };
        assert_eq!((last.fetch(5), Outlook { waiting: 0, ..last }.fetch(5)), (Fetch::Singles(1), Fetch::Singles(0)));
        let small = Outlook { slots: 1, left: 1, ..outlook() };
        assert_eq!(small.fetch(5), Fetch::Blocks(1), "a t3.micro has one slot");
    }

    /// Ready rows of a block, idle for so long each.
    fn block(number: u8, idle: [u64; SIZE]) -> Vec<Row> {
        let one = |(n, idle): (u8, u64)| Row { in_block: true, ..row(number * 16 + n, Status::Ready, None, idle) };
        (0..).zip(idle).map(one).collect()
    }

    fn lasts(rows: &[Row]) -> Vec<u8> {
        rows.iter().map(|row| row.ip.octets()[3]).collect()
    }

    #[test]
    fn a_block_goes_whole_once_what_stays_is_enough_and_beside_one_no_single_stays() {
        let excess = |warmth: Warmth, rows: &[Row], expected, quiet| {
            lasts(&warmth.excess(&Idle::of(rows, |_| false), expected, quiet))
        };
        let warmth = Warmth { max: 8, ..warmth(4) };
        let first = block(1, [900; SIZE]);
        assert!(excess(warmth, &first, 0, false).is_empty(), "nothing would stay");
        assert_eq!(excess(warmth, &first, 0, true), (16..32).collect::<Vec<_>>(), "a quiet interface keeps nothing");
        let two = [first.clone(), block(2, [900; SIZE])].concat();
        assert_eq!(excess(warmth, &two, 0, false), (16..32).collect::<Vec<_>>());
        assert!(excess(warmth, &two, 17, false).is_empty(), "a burst may want them");
        let cooling = [first.clone(), block(2, [5; SIZE])].concat();
        assert!(excess(warmth, &cooling, 0, false).is_empty(), "the target wants cooled ones");
        let mut used = two.clone();
        used[3] = row(19, Status::Occupied, Some(Boot::random().unwrap().claim(1, Kind::Lease)), 900);
        used[3].in_block = true;
        assert_eq!(excess(warmth, &used, 0, false), (32..48).collect::<Vec<_>>(), "one that is in use stays whole");
        let single = [vec![row(70, Status::Ready, None, 900), row(71, Status::Ready, None, 5)], first].concat();
        assert_eq!(excess(warmth, &single, 0, false), [70], "I10: what cools stays");
    }

    #[test]
    fn what_can_go_back_is_single_or_a_whole_block() {
        let mut rows = [vec![row(70, Status::Ready, None, 900)], block(1, [900; SIZE]), block(2, [900; SIZE])].concat();
        rows.retain(|row| row.ip.octets()[3] != 40);
        let idle = Idle::of(&rows, |_| false);
        assert!(idle.has_block && idle.all.len() == 32);
        assert_eq!(lasts(&idle.whole()), [&[70][..], &(16..32).collect::<Vec<_>>()].concat());
        assert_eq!(lasts(&idle.that(|row| row.ip.octets()[3] != 20)), [70]);
        let used = Idle::of(&rows, |ip| ip.octets()[3] == 20);
        assert_eq!(lasts(&used.whole()), [70]);
    }
}
