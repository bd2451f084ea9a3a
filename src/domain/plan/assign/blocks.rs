//! The same for blocks.
//!
//! Nothing public tells how EC2 words its refusal of an explicit block, so a clear one is read by what it can mean at most: of
//! a claim of just now, that this block is not to be had; of any other, nothing, and the ENI itself is looked at. No filter of a
//! describe finds who has a block, so nobody else is asked for.

use std::collections::BTreeMap;

use ipnet::Ipv4Net;

use super::{Batch, Fault, Judged, Said, Standing, is_old};
use crate::domain::address::{Event, Row};
use crate::domain::block::{Block, SIZE};

/// Whether the ENI has to be looked at before the answer can be judged.
pub fn needs_look(standing: Standing, said: &Said) -> bool {
    match said {
        Said::Done | Said::Unclear => false,
        Said::Unlisted(_) => true,
        Said::InUse(_) | Said::Never(..) | Said::Refused(_) => standing != Standing::Fresh,
    }
}

/// What the answer means. `listed`: the ENI's prefixes, as EC2 shows them; none: it was not asked, or did not answer.
pub fn judge_blocks(mut batch: Batch<'_>, said: &Said, listed: Option<&[Ipv4Net]>) -> Judged {
    let rows = std::mem::take(&mut batch.rows);
    let mut judged = Judged::default();
    let fault = match said {
        Said::Done => {
            judged.on_eni = rows;
            return judged;
        }
        Said::Unclear => {
            judged.is_trouble = true;
            return judged;
        }
        Said::InUse(_) | Said::Never(..) | Said::Unlisted(_) => Fault::Address,
        Said::Refused(fault) => *fault,
    };
    let mut blocks: BTreeMap<Block, Vec<Row>> = BTreeMap::new();
    rows.into_iter().for_each(|row| blocks.entry(Block::of(row.ip)).or_default().push(row));
    if batch.standing == Standing::Fresh && !matches!(said, Said::Unlisted(_)) {
        judged.is_trouble = fault == Fault::Elsewhere;
        // One that is bad may fail them all.
        if fault == Fault::Address && blocks.len() > 1 {
            judged.again.extend(blocks.into_values());
            return judged;
        }
        for (block, rows) in blocks {
            batch.refuse(&rows, fault, &mut judged);
            judged.refused_blocks.push(block);
        }
        return judged;
    }
    for (block, rows) in blocks {
        let is_there = |net: &Ipv4Net| *net == block.net() && !batch.doubted.contains(&net.network());
        if listed.is_some_and(|listed| listed.iter().any(is_there)) {
            judged.on_eni.extend(rows);
        } else if batch.standing == Standing::Leased {
            judged.is_trouble |= fault == Fault::Elsewhere;
            judged.refused_blocks.push(block);
        } else if listed.is_some() && rows.len() == SIZE && rows.iter().all(is_old) {
            let event = Event::GiveUp { claim: batch.off.clone() };
            judged.changes.extend(rows.iter().filter_map(|row| row.on(event.clone()).ok()));
        } else {
            // It stays claimed. A start does not fail over that.
            judged.is_trouble |= fault == Fault::Elsewhere || matches!(said, Said::Unlisted(_));
        }
    }
    judged
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::super::super::tests::{ENI, eni, row};
    use super::*;
    use crate::domain::address::{State, Status};
    use crate::domain::id::{Boot, Kind};

    fn net(number: u8) -> Ipv4Net {
        Block::of(Ipv4Addr::new(10, 0, 0, number * 16)).net()
    }

    /// What becomes of the rows of blocks 1 and on, with their claims so old.
    struct Fate {
        on: usize,
        becomes: Vec<(State, bool)>,
        again: usize,
        refused: usize,
        trouble: bool,
    }

    fn fate(blocks: u8, standing: Standing, age: u64, said: &Said, listed: Option<&[Ipv4Net]>) -> Fate {
        let boot = Boot::random().unwrap();
        let one = |last| Row {
            in_block: true,
            claimed: Some(Duration::from_secs(age)),
            ..row(last, Status::Allocated, Some(boot.claim(1, Kind::On)), 900)
        };
        let rows = (16..16 + blocks * 16).map(one).collect();
        let (eni, off) = (eni(ENI), boot.claim(2, Kind::Off));
        let batch = Batch { eni: &eni, rows, standing, doubted: &HashSet::new(), off: &off };
        let judged = judge_blocks(batch, said, listed);
        let becomes = judged.changes.iter().map(|change| {
            let state = State::of(change.to.status, change.to.claim.as_ref());
            (state, change.let_go.is_some())
        });
        let mut becomes: Vec<(State, bool)> = becomes.collect();
        assert!(becomes.len().is_multiple_of(SIZE), "all or none");
        becomes.dedup();
        Fate {
            on: judged.on_eni.len(),
            becomes,
            again: judged.again.len(),
            refused: judged.refused_blocks.len(),
            trouble: judged.is_trouble,
        }
    }

    fn refusals() -> Vec<Said> {
        let ips = vec![Ipv4Addr::new(10, 0, 0, 20)];
        vec![Said::InUse(ips.clone()), Said::Never(ips, "reserved".into()), Said::Refused(Fault::Address)]
    }

    #[test]
    fn a_refusal_speaks_of_one_block_and_never_of_its_addresses() {
        for said in refusals() {
            let one = fate(1, Standing::Fresh, 0, &said, None);
            assert_eq!((one.becomes, one.refused, one.trouble), (vec![(State::Free, true)], 1, false), "{said:?}");
            let two = fate(2, Standing::Fresh, 0, &said, None);
            assert_eq!((two.becomes.len(), two.again, two.refused), (0, 2, 0), "{said:?}: each by itself");
        }
        let elsewhere = fate(2, Standing::Fresh, 0, &Said::Refused(Fault::Elsewhere), None);
        assert_eq!((elsewhere.becomes, elsewhere.trouble), (vec![(State::Free, false)], true));
        assert_eq!(fate(2, Standing::Fresh, 0, &Said::Done, None).on, 32);
    }

    #[test]
    fn an_unclear_claim_is_settled_by_what_is_on_the_interface() {
        let with = [net(1)];
        for said in refusals().into_iter().chain([Said::Refused(Fault::Elsewhere)]) {
            assert!(needs_look(Standing::Unsettled, &said) && !needs_look(Standing::Fresh, &said));
            assert_eq!(fate(1, Standing::Unsettled, 5, &said, Some(&with)).on, SIZE, "{said:?}");
            assert!(fate(1, Standing::Unsettled, 59, &said, Some(&[])).becomes.is_empty(), "it may still land");
            let old = fate(1, Standing::Unsettled, 60, &said, Some(&[]));
            assert_eq!(old.becomes, [(State::Off, false)], "{said:?}");
            assert!(fate(1, Standing::Unsettled, 60, &said, None).becomes.is_empty(), "EC2 did not show it");
        }
        assert!(!fate(1, Standing::Unsettled, 5, &Said::Refused(Fault::Address), Some(&[])).trouble, "no start fails");
        let unclear = fate(1, Standing::Unsettled, 100, &Said::Unclear, None);
        assert_eq!((unclear.becomes.len(), unclear.trouble), (0, true));
    }

    #[test]
    fn what_an_answer_does_not_list_is_looked_up() {
        let said = Said::Unlisted(vec![net(2).network()]);
        assert!(needs_look(Standing::Fresh, &said));
        let half = fate(2, Standing::Fresh, 0, &said, Some(&[net(1)]));
        assert_eq!((half.on, half.becomes.len(), half.trouble), (SIZE, 0, true), "the other one stays claimed");
        assert_eq!(fate(2, Standing::Fresh, 0, &said, Some(&[net(1), net(2)])).on, 2 * SIZE);
    }
}
