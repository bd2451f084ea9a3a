//! What an ENI needs next, decided from its rows as pure functions.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::time::Instant;

use crate::address::{Event, NewRow, Row, State, Status};
use crate::id::EniId;
use crate::subnet::Subnet;

/// Claims older than this have no call in flight any more: every call to EC2, its retries included, ends before half of
/// it, and what AWS had taken up by then has landed.
pub const SETTLE_AGE: Duration = Duration::from_secs(60);

/// What a fleet wants an ENI to hold in reserve.
#[derive(Debug, Clone, Copy)]
pub struct Warmth {
    /// Idle, cooled addresses to hold.
    pub target: usize,
    /// Until then an idle address goes to no other container.
    pub cooldown: Duration,
}

impl Warmth {
    /// Whether a row counts as warm: grantable to anybody now. Cooling addresses never count, and those that a container
    /// had named are on their way back to the subnet.
    pub fn is_warm(&self, row: &Row) -> bool {
        row.state() == State::Ready && !row.primary && !row.is_fixed() && row.has_cooled(self.cooldown)
    }

    /// How many addresses the ENI lacks of its target.
    pub fn lacking(&self, rows: &[Row]) -> usize {
        self.target.saturating_sub(rows.iter().filter(|row| self.is_warm(row)).count())
    }

    /// Whether the subnet's last free addresses should be left to hosts that need them at once.
    pub fn leaves_to_others(&self, free: u64, subnet: &Subnet) -> bool {
        let target = u64::try_from(self.target).unwrap_or(u64::MAX);
        free < target.saturating_mul(2).max(subnet.size() / 32)
    }
}

/// How many slots of the ENI are taken, by the table's word. The primary address takes one.
pub fn used(rows: &[Row]) -> usize {
    rows.iter().filter(|row| !matches!(row.state(), State::Free | State::Reserved)).count()
}

/// How refills grow while containers start one after the other: Docker asks for one address at a time per network, so an
/// emptied pool is the only sign of a burst.
#[derive(Debug, Clone, Copy)]
pub struct Burst {
    size: usize,
    at: Instant,
}

/// After so long without a refill the next one is half as large.
const QUIET: Duration = Duration::from_secs(60);

impl Burst {
    /// No burst.
    pub fn none(now: Instant) -> Self {
        Self { size: 0, at: now }
    }

    /// The size of the refill made now: what is needed, or twice the last one if that was used up already.
    pub fn refill(&mut self, needed: usize, emptied: bool, now: Instant) -> usize {
        let halvings = now.saturating_duration_since(self.at).as_secs() / QUIET.as_secs();
        let last = self.size.checked_shr(u32::try_from(halvings).unwrap_or(u32::MAX)).unwrap_or(0);
        self.size = if emptied { needed.max(last * 2) } else { needed.max(last) };
        self.at = now;
        if emptied { self.size } else { needed }
    }
}

/// The coldest idle address that may be given up to make room for one that a container named, or that lies in the range
/// that it asked for: one that the pool would give out itself is never in its own way.
pub fn give_way(rows: &[Row], useful: impl Fn(Ipv4Addr) -> bool) -> Option<&Row> {
    rows.iter().filter(|row| row.state() == State::Ready && !row.primary && !useful(row.ip)).max_by_key(|row| row.idle)
}

/// Who said which addresses an ENI has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Witness {
    /// EC2: lags a little.
    Ec2,
    /// IMDS: lags by up to a minute, so what it does not list may be there all the same.
    Imds,
}

/// What to put right before the first address is granted after a start.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Idle rows that EC2 does not list: never granted, given up.
    pub give_up: Vec<Row>,
    /// Idle rows that IMDS does not list: not granted until EC2 has spoken.
    pub unlisted: BTreeSet<Ipv4Addr>,
    /// Rows whose meaning changes at once.
    pub events: Vec<(Row, Event)>,
    /// Addresses that no row knew.
    pub insert: Vec<NewRow>,
    /// Rows that contradict what is listed and are left as they are.
    pub contradictions: Vec<String>,
}

/// Compares an ENI's rows, and the rows of the addresses listed on it, with the list (address, whether primary).
pub fn survey(eni: &EniId, subnet: &Subnet, rows: &[Row], listed: &[(Ipv4Addr, bool)], witness: Witness) -> Survey {
    let mut survey = Survey::default();
    for row in rows.iter().filter(|row| row.iface.as_ref() == Some(eni)) {
        let is_listed = listed.iter().any(|(ip, _)| *ip == row.ip);
        match (row.state(), is_listed, witness) {
            (State::Ready, false, Witness::Ec2) => survey.give_up.push(row.clone()),
            (State::Ready, false, Witness::Imds) => {
                survey.unlisted.insert(row.ip);
            }
            (State::Lease, false, Witness::Ec2) => survey.contradictions.push(format!(
                "{} is in use by a container, but EC2 does not list it on {eni}: it may be cut off from the network",
                row.ip
            )),
            _ => {}
        }
    }
    for &(ip, primary) in listed {
        let foreign = Event::Foreign { eni: Some(eni.clone()), primary };
        match rows.iter().find(|row| row.ip == ip) {
            None if subnet.contains(ip) => survey.insert.push(NewRow {
                ip,
                status: Status::Occupied,
                iface: Some(eni.clone()),
                primary,
                holder: None,
            }),
            None => {}
            Some(row) => match row.state() {
                State::Free => survey.events.push((row.clone(), foreign)),
                State::Ready | State::Foreign if primary && !row.primary && row.iface.as_ref() == Some(eni) => {
                    survey.events.push((row.clone(), Event::MarkPrimary));
                }
                _ if row.iface.as_ref() != Some(eni) => survey.contradictions.push(format!(
                    "{ip} is on {eni}, but its row is {:?} of {}",
                    row.state(),
                    row.iface.as_ref().map_or("no interface", EniId::as_str)
                )),
                State::On | State::Off | State::Ready | State::Lease | State::Foreign | State::Reserved => {}
            },
        }
    }
    survey
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Boot, Claim, Kind, SubnetId};

    const ENI: &str = "eni-0123456789abcdef0";

    fn eni(id: &str) -> EniId {
        EniId::stored(id.into())
    }

    fn subnet() -> Subnet {
        Subnet::new(SubnetId::stored("subnet-0123456789abcdef0".into()), "10.0.0.0/24".parse().unwrap()).unwrap()
    }

    fn row(last: u8, status: Status, claim: Option<Claim>, idle: u64) -> Row {
        Row {
            ip: Ipv4Addr::new(10, 0, 0, last),
            subnet: subnet().id,
            status,
            iface: (status != Status::Free).then(|| eni(ENI)),
            primary: false,
            claim,
            holder: None,
            idle: Duration::from_secs(idle),
            claimed: None,
        }
    }

    fn warmth(target: usize) -> Warmth {
        Warmth { target, cooldown: Duration::from_secs(60) }
    }

    #[test]
    fn only_cooled_idle_addresses_that_nobody_named_are_warm() {
        let mut named = row(12, Status::Ready, None, 1000);
        named.holder = Some("fixed:web".into());
        let mut primary = row(13, Status::Ready, None, 1000);
        primary.primary = true;
        let lease = row(14, Status::Occupied, Some(Boot::random().claim(1, Kind::Lease)), 1000);
        let rows = [row(10, Status::Ready, None, 1000), row(11, Status::Ready, None, 60), named, primary, lease];
        assert_eq!(warmth(4).lacking(&rows), 3);
        assert_eq!(warmth(0).lacking(&rows), 0);
        assert_eq!(used(&rows), 5);
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
        assert_eq!(burst.refill(1, false, at(3 + 61)), 1, "a top-up takes what is lacking");
        assert_eq!(burst.refill(5, true, at(3 + 61 + 600)), 5);
    }

    #[test]
    fn the_last_free_addresses_of_a_subnet_are_left_to_those_who_need_them() {
        assert!(warmth(4).leaves_to_others(7, &subnet()));
        assert!(!warmth(4).leaves_to_others(8, &subnet()));
        let large = Subnet::new(subnet().id, "10.0.0.0/16".parse().unwrap()).unwrap();
        assert!(warmth(4).leaves_to_others(2047, &large));
    }

    #[test]
    fn a_named_address_pushes_out_the_coldest_idle_one() {
        let rows =
            [row(10, Status::Ready, None, 5), row(11, Status::Ready, None, 50), row(12, Status::Occupied, None, 500)];
        assert_eq!(give_way(&rows, |_| false).map(|row| row.ip.octets()[3]), Some(11));
        assert_eq!(give_way(&rows, |ip| ip.octets()[3] == 11).map(|row| row.ip.octets()[3]), Some(10));
        assert_eq!(give_way(&rows, |_| true), None);
    }

    #[test]
    fn idle_rows_that_are_not_listed_are_given_up_on_ec2s_word_and_held_back_on_imdss() {
        let rows = [row(10, Status::Ready, None, 1000), row(11, Status::Ready, None, 1000)];
        let listed = [(Ipv4Addr::new(10, 0, 0, 10), false)];
        let by_ec2 = survey(&eni(ENI), &subnet(), &rows, &listed, Witness::Ec2);
        assert_eq!(by_ec2.give_up, [rows[1].clone()]);
        assert!(by_ec2.unlisted.is_empty());
        let by_imds = survey(&eni(ENI), &subnet(), &rows, &listed, Witness::Imds);
        assert!(by_imds.give_up.is_empty());
        assert_eq!(by_imds.unlisted, BTreeSet::from([rows[1].ip]));
    }

    #[test]
    fn listed_addresses_that_the_table_thinks_free_or_does_not_know_are_somebodys() {
        let free = row(20, Status::Free, None, 0);
        let listed = [(free.ip, false), (Ipv4Addr::new(10, 0, 0, 21), true), (Ipv4Addr::new(10, 9, 9, 9), false)];
        let found = survey(&eni(ENI), &subnet(), std::slice::from_ref(&free), &listed, Witness::Ec2);
        assert_eq!(found.events, [(free, Event::Foreign { eni: Some(eni(ENI)), primary: false })]);
        assert_eq!(found.insert.len(), 1, "an address of another subnet is none of this table's business");
        assert!(found.insert[0].primary && found.insert[0].status == Status::Occupied);
    }

    #[test]
    fn a_primary_address_that_lost_its_mark_gets_it_back_and_is_not_grantable() {
        let ready = row(5, Status::Ready, None, 1000);
        let found = survey(&eni(ENI), &subnet(), std::slice::from_ref(&ready), &[(ready.ip, true)], Witness::Ec2);
        assert_eq!(found.events, [(ready, Event::MarkPrimary)]);
    }

    #[test]
    fn contradictions_are_told_and_left_alone() {
        let lease = row(30, Status::Occupied, Some(Boot::random().claim(1, Kind::Lease)), 0);
        let mut others = row(31, Status::Ready, None, 0);
        others.iface = Some(eni("eni-0fedcba9876543210"));
        let found = survey(&eni(ENI), &subnet(), &[lease, others.clone()], &[(others.ip, false)], Witness::Ec2);
        assert_eq!(found.contradictions.len(), 2, "{:?}", found.contradictions);
        assert!(found.events.is_empty() && found.insert.is_empty() && found.give_up.is_empty());
    }
}
