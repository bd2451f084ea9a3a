//! Decisions, as pure functions of values: what an ENI does next ([`next`]); what a look at EC2 and Docker calls for
//! ([`reconcile`], [`scan`]), when to believe it ([`ledger`]), and whose an ENI is ([`attachment`]).

use std::collections::BTreeSet;
use std::time::Duration;

use ipnet::Ipv4Net;
use tokio::time::Instant;

use crate::domain::address::{Row, State};
use crate::domain::block::Block;
use crate::domain::subnet::Subnet;
use blocks::Idle;

pub mod assign;
pub mod attachment;
pub mod blocks;
pub mod ledger;
pub mod next;
pub mod reconcile;
pub mod scan;

/// Claims older than this have no call in flight any more: every call to EC2, its retries included, ends before half of
/// it, and what AWS had taken up by then has landed. EC2's lists lag by less, too, so two looks that are so far apart do
/// not err together.
pub fn settle_age() -> Duration {
    const AGE: Duration = Duration::from_secs(60);
    #[cfg(feature = "fail-points")]
    return crate::fail_point::settle_age().unwrap_or(AGE);
    #[cfg(not(feature = "fail-points"))]
    AGE
}

/// Between two looks that follow each other at once; long enough for Docker to show a container that it is starting.
pub fn brief_age() -> Duration {
    settle_age() / 6
}

/// An ENI without a lease and without a call for so long keeps nothing in reserve.
pub fn drain_age() -> Duration {
    settle_age() * 10
}

/// What a fleet wants an ENI to hold in reserve.
#[derive(Debug, Clone, Copy)]
pub struct Warmth {
    /// Idle, cooled addresses to hold.
    pub target: usize,
    /// Idle addresses, cooled or not, to keep at most.
    pub max: usize,
    /// Until then an idle address goes to no other container.
    pub cooldown: Duration,
}

impl Warmth {
    /// Whether a row counts as warm: grantable to anybody now. Cooling addresses never count, and those that a container
    /// had named are on their way back to the subnet, unless a block keeps them here.
    pub fn is_warm(&self, row: &Row) -> bool {
        let is_leaving = row.is_fixed() && !row.in_block;
        row.state() == State::Ready && !row.primary && !is_leaving && row.has_cooled(self.cooldown)
    }

    /// How many addresses the ENI lacks of its target.
    pub fn lacking<'r>(&self, rows: impl IntoIterator<Item = &'r Row>) -> usize {
        self.target.saturating_sub(rows.into_iter().filter(|row| self.is_warm(row)).count())
    }

    /// How many addresses of a subnet are free at least where some are fetched in reserve: its last ones are left to hosts that
    /// need them at once.
    pub fn leaves(&self, subnet: &Subnet) -> u64 {
        let target = u64::try_from(self.target).unwrap_or(u64::MAX);
        target.saturating_mul(2).max(subnet.size() / 32)
    }
}

/// No instance type has more addresses on an ENI, the primary included.
pub const ENI_LIMIT: usize = 50;

/// How many slots of the ENI are taken, by the table's word and by EC2's, which shows these prefixes on it: each single
/// address takes one, the primary one too, and each block.
pub fn used(rows: &[Row], prefixes: &[Ipv4Net]) -> usize {
    let taken: Vec<&Row> = rows.iter().filter(|row| !matches!(row.state(), State::Free | State::Reserved)).collect();
    let mut blocks: BTreeSet<Block> = prefixes.iter().map(|prefix| Block::of(prefix.network())).collect();
    blocks.extend(taken.iter().filter(|row| row.in_block).map(|row| Block::of(row.ip)));
    taken.iter().filter(|row| !blocks.contains(&Block::of(row.ip))).count() + blocks.len()
}

/// How refills grow while containers start one after the other: Docker asks for one address at a time per network, so an
/// emptied pool is the only sign of a burst.
#[derive(Debug, Clone, Copy)]
pub struct Burst {
    size: usize,
    at: Instant,
}

impl Burst {
    /// No burst.
    pub fn none(now: Instant) -> Self {
        Self { size: 0, at: now }
    }

    /// How many the next refill may want: the last one's size, halved by every minute since ([`settle_age`]).
    pub fn expected(&self, now: Instant) -> usize {
        let halvings = now.saturating_duration_since(self.at).as_secs() / settle_age().as_secs().max(1);
        self.size.checked_shr(u32::try_from(halvings).unwrap_or(u32::MAX)).unwrap_or(0)
    }

    /// The size of the refill made now: what is needed, or twice the last one if that was used up already.
    pub fn refill(&mut self, needed: usize, emptied: bool, now: Instant) -> usize {
        let last = self.expected(now);
        // While EC2 throttles it is asked again and again, and nothing but the limit ends the doubling.
        self.size = if emptied { needed.max(last * 2) } else { needed.max(last) }.min(ENI_LIMIT);
        self.at = now;
        if emptied { self.size } else { needed }
    }
}

/// The idle address that may be given up to make room for one that a container named, or that lies in the range that it
/// asked for: the coldest, one that a container had named last, since that may want it back; where no single one is idle, a
/// block. One that the pool would give out itself is never in its own way.
pub fn give_way(rows: &[Row], useful: impl Fn(&Row) -> bool) -> Option<Vec<Row>> {
    let idle = Idle::of(rows, |_| false);
    let single = idle.singles.iter().filter(|row| !useful(row)).max_by_key(|row| (!row.is_fixed(), row.idle));
    let block = || idle.blocks.values().find(|rows| !rows.iter().any(|row| useful(row)));
    let rows = single.map(std::slice::from_ref).or_else(|| block().map(Vec::as_slice))?;
    Some(rows.iter().map(|row| (*row).clone()).collect())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::domain::address::Status;
    use crate::domain::id::{Boot, Claim, EniId, Kind, SubnetId};

    pub(super) const ENI: &str = "eni-0123456789abcdef0";

    pub(super) fn eni(id: &str) -> EniId {
        EniId::stored(id.into())
    }

    pub(super) fn subnet() -> Subnet {
        Subnet::new(SubnetId::stored("subnet-0123456789abcdef0".into()), "10.0.0.0/24".parse().unwrap()).unwrap()
    }

    pub(super) fn row(last: u8, status: Status, claim: Option<Claim>, idle: u64) -> Row {
        Row {
            ip: Ipv4Addr::new(10, 0, 0, last),
            subnet: subnet().id,
            status,
            iface: (status != Status::Free).then(|| eni(ENI)),
            primary: false,
            in_block: false,
            claim,
            holder: None,
            idle: Duration::from_secs(idle),
            claimed: None,
        }
    }

    pub(super) fn warmth(target: usize) -> Warmth {
        Warmth { target, max: 8, cooldown: Duration::from_secs(60) }
    }

    #[test]
    fn only_cooled_idle_addresses_that_nobody_named_are_warm() {
        let mut named = row(12, Status::Ready, None, 1000);
        named.holder = Some("fixed:web".into());
        let mut primary = row(13, Status::Ready, None, 1000);
        primary.primary = true;
        let lease = row(14, Status::Occupied, Some(Boot::random().unwrap().claim(1, Kind::Lease)), 1000);
        let rows = [row(10, Status::Ready, None, 1000), row(11, Status::Ready, None, 60), named, primary, lease];
        assert_eq!(warmth(4).lacking(&rows), 3);
        assert_eq!(warmth(0).lacking(&rows), 0);
        assert_eq!(used(&rows, &[]), 5);
        assert_eq!(used(&rows, &["10.0.0.0/28".parse().unwrap()]), 1, "a prefix takes one slot");
        let of_block = |last| Row { in_block: true, ..row(last, Status::Ready, None, 1000) };
        let two = [rows.as_slice(), &[of_block(33), of_block(34)]].concat();
        assert_eq!(used(&two, &[]), 6, "and so does a block that only the table knows");
    }

    #[test]
    fn a_burst_doubles_refills_and_quiet_minutes_halve_them() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut burst = Burst::none(start);
        // As Docker asks: one waits, the target of 4 lacks 4.
        let sizes: Vec<usize> = (0..4).map(|n| burst.refill(5, true, at(n))).collect();
        assert_eq!(sizes, [5, 10, 20, 40]);
        assert_eq!(burst.refill(5, true, at(3 + 60)), 40, "halved once, doubled once");
        let throttled: Vec<usize> = (0..100).map(|_| burst.refill(5, true, at(3 + 60))).collect();
        assert!(throttled.iter().all(|size| *size == ENI_LIMIT), "{throttled:?}");
        let mut burst = Burst { size: 40, at: at(3 + 60) };
        assert_eq!(burst.refill(1, false, at(3 + 61)), 1, "a top-up takes what is lacking");
        assert_eq!(burst.refill(5, true, at(3 + 61 + 600)), 5);
    }

    #[test]
    fn what_is_beyond_the_maximum_goes_coldest_first_and_never_what_cools_or_what_the_target_wants() {
        let excess = |warmth: Warmth, idle: &[u64], expected, quiet| {
            let rows: Vec<Row> =
                idle.iter().zip(10..).map(|(idle, last)| row(last, Status::Ready, None, *idle)).collect();
            let idle = blocks::Idle::of(&rows, |_| false);
            warmth.excess(&idle, expected, quiet).iter().map(|row| row.ip.octets()[3]).collect::<Vec<_>>()
        };
        let warmth = Warmth { max: 3, ..warmth(2) };
        assert_eq!(excess(warmth, &[900, 800, 700, 600, 500], 0, false), [10, 11]);
        assert!(excess(warmth, &[900, 800, 700], 0, false).is_empty());
        assert_eq!(excess(warmth, &[900, 800, 700, 5, 5, 5], 0, false), [10], "the target is kept");
        assert!(excess(warmth, &[5, 5, 5, 5, 5], 0, false).is_empty(), "I10: what cools stays");
        assert!(excess(warmth, &[900, 800, 700, 600, 500], 5, false).is_empty(), "a burst may want them");
        assert_eq!(excess(warmth, &[900, 800, 5], 5, true), [10, 11], "a quiet interface keeps nothing");
    }

    #[test]
    fn what_a_burst_may_want_is_halved_by_every_quiet_minute() {
        let start = Instant::now();
        let mut burst = Burst::none(start);
        burst.refill(12, true, start);
        let after = |minutes: u64| burst.expected(start + Duration::from_secs(60 * minutes));
        assert_eq!([after(0), after(1), after(2), after(3), after(90)], [12, 6, 3, 1, 0]);
    }

    #[test]
    fn the_last_free_addresses_of_a_subnet_are_left_to_those_who_need_them() {
        assert_eq!(warmth(4).leaves(&subnet()), 8);
        let large = Subnet::new(subnet().id, "10.0.0.0/16".parse().unwrap()).unwrap();
        assert_eq!(warmth(4).leaves(&large), 2048);
    }

    #[test]
    fn a_named_address_pushes_out_the_coldest_idle_one() {
        let way = |rows: &[Row], useful: &dyn Fn(&Row) -> bool| {
            give_way(rows, useful).map(|rows| rows.iter().map(|row| row.ip.octets()[3]).collect::<Vec<_>>())
        };
        let rows =
            [row(10, Status::Ready, None, 5), row(11, Status::Ready, None, 50), row(12, Status::Occupied, None, 500)];
        assert_eq!(way(&rows, &|_| false), Some(vec![11]));
        assert_eq!(way(&rows, &|row| row.ip.octets()[3] == 11), Some(vec![10]));
        assert_eq!(way(&rows, &|_| true), None);
        let mut named = row(13, Status::Ready, None, 500);
        named.holder = Some("fixed:".into());
        assert_eq!(way(&[named.clone(), rows[0].clone()], &|_| false), Some(vec![10]));
        assert_eq!(way(&[named], &|_| false), Some(vec![13]));
        let block: Vec<Row> =
            (16..32).map(|last| Row { in_block: true, ..row(last, Status::Ready, None, 900) }).collect();
        assert_eq!(way(&[&block, &rows[..]].concat(), &|_| false), Some(vec![11]), "a single one first");
        assert_eq!(way(&block, &|_| false), Some((16..32).collect()));
        assert_eq!(way(&block, &|row| row.ip.octets()[3] == 20), None);
        assert_eq!(way(&block[1..], &|_| false), None, "one of it is in use");
    }
}
