//! Which of an ENI's idle addresses is given.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use super::Wanted;
use super::book::{Book, is_marked};
use crate::domain::address::{FIXED, KEPT};
use crate::domain::block::{Block, SIZE};
use crate::domain::holding::{Held, Holding, Moment};

/// Which of an ENI's idle addresses may be given; the coldest of them is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice<'a> {
    /// Those let go at least so long ago, that no container had named, and that are in no block that is asked back.
    Cooled(Duration),
    /// The one that is kept for this endpoint, or that it had last, cooled or not.
    Returning(&'a str),
    /// Any but those that are kept for somebody; those that a container had named come last.
    Any,
    /// This one.
    This(Ipv4Addr),
}

impl Book {
    /// The coldest that a choice allows; of those that are as cold none comes first by its number.
    pub(super) fn choose(
        &self,
        wanted: &Wanted<'_>,
        now: &Moment,
        may_give: impl Fn(Ipv4Addr) -> bool,
    ) -> Option<Ipv4Addr> {
        wanted.choices.iter().find_map(|choice| self.coldest(*choice, wanted, now, &may_give))
    }

    fn coldest(
        &self,
        choice: Choice<'_>,
        wanted: &Wanted<'_>,
        now: &Moment,
        may_give: impl Fn(Ipv4Addr) -> bool,
    ) -> Option<Ipv4Addr> {
        let in_range = |ip| wanted.sub_pool.is_none_or(|range| range.contains(&ip));
        let idle = self.all().filter(|holding| holding.eni == *wanted.eni && holding.held == Held::Idle);
        let open = idle.filter(|holding| !holding.doubted && in_range(holding.ip));
        let fit = open.filter(|holding| allows(choice, holding, wanted, now) && may_give(holding.ip));
        // Of those that one endpoint may have: what is kept for it. Otherwise what a container had named comes last.
        let rank = |holding: &Holding| match choice {
            Choice::Returning(_) => !is_marked(holding, KEPT),
            Choice::Cooled(_) | Choice::Any | Choice::This(_) => {
                is_named(holding, wanted.blocks) || wanted.recalled.contains(&Block::of(holding.ip))
            }
        };
        let leases = self.leases_of_blocks(wanted);
        let emptiness = |ip| leases.get(&Block::of(ip)).map_or(usize::MAX, |leases| SIZE - leases);
        let key = |holding: &&Holding| {
            (rank(holding), emptiness(holding.ip), u64::MAX - age(holding, now), fastrand::u64(..))
        };
        fit.min_by_key(key).map(|holding| holding.ip)
    }

    /// How many addresses of each of the ENI's blocks containers have.
    fn leases_of_blocks(&self, wanted: &Wanted<'_>) -> BTreeMap<Block, usize> {
        let mut leases: BTreeMap<Block, usize> = wanted.blocks.iter().map(|block| (*block, 0)).collect();
        if !leases.is_empty() {
            let leased = self.all().filter(|holding| matches!(holding.held, Held::Lease(_)));
            for holding in leased.filter(|holding| holding.eni == *wanted.eni) {
                leases.entry(Block::of(holding.ip)).and_modify(|leases| *leases += 1);
            }
        }
        leases
    }
}

fn allows(choice: Choice<'_>, holding: &Holding, wanted: &Wanted<'_>, now: &Moment) -> bool {
    let is_recalled = || wanted.recalled.contains(&Block::of(holding.ip));
    match choice {
        Choice::Cooled(cooldown) => {
            !is_named(holding, wanted.blocks) && !is_recalled() && holding.let_go.age(now) >= cooldown
        }
        Choice::Returning(name) => holding.holder.as_deref() == Some(name) || holding.kept_for() == Some(name),
        Choice::Any => !is_marked(holding, KEPT),
        Choice::This(ip) => holding.ip == ip,
    }
}

/// Whether it is on its way back to the subnet for the container that had named it. One of a block stays with the block, and is
/// anybody's once it has cooled.
fn is_named(holding: &Holding, blocks: &BTreeSet<Block>) -> bool {
    is_marked(holding, FIXED) && (is_marked(holding, KEPT) || !blocks.contains(&Block::of(holding.ip)))
}

fn age(holding: &Holding, now: &Moment) -> u64 {
    holding.let_go.age(now).as_secs()
}

#[cfg(test)]
mod tests {
    use super::super::book::tests::{eni, idle, ip, now, token};
    use super::*;
    use crate::domain::id::EniId;

    const MINUTE: Duration = Duration::from_secs(60);

    fn chosen(book: &Book, choice: Choice<'_>, may_give: impl Fn(u8) -> bool) -> Option<u8> {
        chosen_with(book, &[], choice, may_give)
    }

    /// `blocks`: the last numbers of their first addresses.
    fn chosen_with(book: &Book, blocks: &[u8], choice: Choice<'_>, may_give: impl Fn(u8) -> bool) -> Option<u8> {
        chosen_beside(book, blocks, &[], choice, may_give)
    }

    /// `recalled`: of the blocks.
    fn chosen_beside(
        book: &Book,
        blocks: &[u8],
        recalled: &[u8],
        choice: Choice<'_>,
        may_give: impl Fn(u8) -> bool,
    ) -> Option<u8> {
        let (eni, token) = (eni(), token());
        let those = |lasts: &[u8]| lasts.iter().map(|last| Block::of(ip(*last))).collect();
        let (choices, blocks, recalled) = (&[choice], &those(blocks), &those(recalled));
        let wanted = Wanted { eni: &eni, sub_pool: None, choices, blocks, recalled, token: &token, holder: None };
        book.choose(&wanted, &now(), |ip| may_give(ip.octets()[3])).map(|ip| ip.octets()[3])
    }

    #[test]
    fn the_coldest_that_a_choice_allows_and_that_may_be_given_is_chosen() {
        let book = Book::new(vec![
            idle(10, 900, Some("fixed:db")),
            idle(11, 800, Some("web")),
            idle(12, 700, None),
            idle(13, 5, None),
            idle(14, 950, Some("fixed:reserved:mail")),
            Holding { doubted: true, ..idle(15, 9000, None) },
            Holding { held: Held::Lease(token()), ..idle(16, 9000, None) },
            Holding { held: Held::Leaving(token()), ..idle(17, 9000, None) },
            Holding { eni: EniId::stored("eni-0123456789abcdef1".into()), ..idle(18, 9000, None) },
        ]);
        let any = |_| true;
        assert_eq!(chosen(&book, Choice::Cooled(MINUTE), any), Some(11));
        assert_eq!(chosen(&book, Choice::Cooled(MINUTE), |last| last != 11), Some(12));
        assert_eq!(chosen(&book, Choice::Cooled(MINUTE), |last| last > 12), None, "I10: it cools, or is somebody's");
        assert_eq!(chosen(&book, Choice::Returning("web"), any), Some(11));
        assert_eq!(chosen(&book, Choice::Returning("mail"), any), Some(14));
        assert_eq!(chosen(&book, Choice::Returning("db"), any), None, "it named its address");
        assert_eq!(chosen(&book, Choice::Any, |last| last != 11 && last != 12), Some(13));
        assert_eq!(
            chosen(&book, Choice::Any, |last| [10, 14].contains(&last)),
            Some(10),
            "I7: it is kept for somebody"
        );
        assert_eq!(chosen(&book, Choice::This(ip(10)), any), Some(10));
        for last in [15, 16, 17, 18] {
            assert_eq!(chosen(&book, Choice::This(ip(last)), any), None, "{last}");
        }
    }

    #[test]
    fn the_fullest_block_gives_first_and_single_addresses_last() {
        let lease = |last| Holding { held: Held::Lease(token()), ..idle(last, 0, None) };
        let mut holdings = vec![idle(5, 9000, None), idle(16, 9000, None), idle(17, 900, None), lease(18)];
        holdings.extend([idle(32, 100, None), idle(33, 800, Some("fixed:db")), lease(34), lease(35)]);
        let book = Book::new(holdings);
        let (cooled, blocks, any) = (Choice::Cooled(MINUTE), [16, 32], |_| true);
        assert_eq!(
            chosen_with(&book, &blocks, cooled, any),
            Some(33),
            "the coldest there; a block keeps what was named"
        );
        assert_eq!(chosen_with(&book, &blocks, cooled, |last| last != 33), Some(32));
        assert_eq!(chosen_with(&book, &blocks, cooled, |last| last < 32), Some(16));
        assert_eq!(chosen_with(&book, &blocks, cooled, |last| last == 5), Some(5));
        let without = |choice, may_give: fn(u8) -> bool| chosen_beside(&book, &blocks, &[32], choice, may_give);
        assert_eq!(without(cooled, |_| true), Some(16), "the other one is asked back");
        assert_eq!(without(cooled, |last| last >= 32), None);
        assert_eq!(without(Choice::Any, |last| last >= 32), Some(33), "before a container has none");
        assert_eq!(without(Choice::Any, |_| true), Some(16));
    }

    #[test]
    fn of_those_that_are_as_cold_none_comes_first_by_its_number() {
        let book = Book::new((1..=50).map(|last| idle(last, 900, None)).collect());
        let firsts: std::collections::HashSet<_> = (0..50).map(|_| chosen(&book, Choice::Any, |_| true)).collect();
        assert!(firsts.len() > 10, "{firsts:?}");
    }
}
