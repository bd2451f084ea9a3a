//! A picture of subnets: what each address is to whoever looks, and who has it.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::address::{Row, State};
use super::block::{Block, SIZE};
use super::id::{EniId, SubnetId};
use super::roll::{KnownHost, serving};
use super::square::Square;
use super::subnet::all_of;

/// Subnets as one host sees them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Map {
    /// When it was read: seconds since 1970, by the clock of the host that looked.
    pub time: u64,
    /// That host, where it serves an ENI of its own.
    pub instance: Option<String>,
    /// The roll.
    pub hosts: Vec<Seen>,
    /// Those of the hosts, and all that a row names.
    pub enis: Vec<Eni>,
    /// In order of their ids.
    pub subnets: Vec<Drawn>,
}

/// A host of the roll.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Seen {
    pub instance: String,
    /// The driver's.
    pub version: String,
    /// Since it entered itself last.
    pub seen_seconds: u64,
}

/// An ENI, and who has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Eni {
    /// Its id.
    pub eni: EniId,
    /// The instance that has it, by the roll or by who serves it; none: neither knows.
    pub instance: Option<String>,
    /// Whether it is the host's that looks.
    pub here: bool,
}

/// One subnet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drawn {
    /// Its id.
    pub subnet: SubnetId,
    /// Its block; where no ENI in it is served, the one that its rows fill.
    pub cidr: Ipv4Net,
    /// The letter of each address in order.
    pub squares: String,
    /// How many there are of each.
    pub counts: BTreeMap<Square, u64>,
    /// Rows of the subnet outside of its block.
    pub outside: usize,
    /// The addresses that somebody has, in order.
    pub taken: Vec<Taken>,
    /// What its /28s are.
    #[serde(default)]
    pub blocks: Blocks,
}

/// The /28s of a subnet that EC2 may put on an interface whole: all but the first and the last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocks {
    /// Those that are on one, in order.
    pub held: Vec<Held>,
    /// Of the others those with sixteen free addresses,
    pub whole: usize,
    /// with some,
    pub broken: usize,
    /// and with none.
    pub full: usize,
}

/// A block that is on an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Its addresses.
    pub net: Ipv4Net,
    /// Which of [`Map::enis`] has it, counted from 0.
    pub eni: Option<usize>,
}

/// An address that somebody has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// The address.
    pub ip: Ipv4Addr,
    /// Which of [`Map::enis`] has it, counted from 0.
    pub eni: Option<usize>,
    /// The container that has it or had it last, or who reserved it.
    pub holder: Option<String>,
    /// For how long it has been so, as far as that is known.
    pub seconds: Option<u64>,
}

impl Map {
    /// Without a subnet yet. `own`: the ENIs that are served here.
    pub fn of_hosts(time: u64, own: Vec<Eni>, hosts: &[KnownHost]) -> Self {
        let instance = own.iter().find(|eni| eni.here).and_then(|eni| eni.instance.clone());
        let mut enis = own;
        let mut others: Vec<Eni> = serving(hosts)
            .into_iter()
            .filter(|(id, _)| enis.iter().all(|own| own.eni != **id))
            .map(|(id, host)| Eni { eni: id.clone(), instance: Some(host.entry.instance.clone()), here: false })
            .collect();
        others.sort_by(|a, b| (&a.instance, &a.eni).cmp(&(&b.instance, &b.eni)));
        enis.extend(others);
        let mut hosts: Vec<Seen> = hosts
            .iter()
            .map(|host| Seen {
                instance: host.entry.instance.clone(),
                version: host.entry.version.clone(),
                seen_seconds: host.seen.as_secs(),
            })
            .collect();
        hosts.sort_by(|a, b| a.instance.cmp(&b.instance));
        Self { time, instance, hosts, enis, subnets: Vec::new() }
    }

    /// Draws the rows of a subnet too; `holder`: the container that has an address, or whom it is kept for.
    pub fn draw(&mut self, subnet: SubnetId, cidr: Ipv4Net, rows: &[Row], holder: impl Fn(&Row) -> Option<String>) {
        let mut known: HashMap<EniId, usize> =
            self.enis.iter().enumerate().map(|(n, eni)| (eni.eni.clone(), n)).collect();
        let mut squares: HashMap<Ipv4Addr, Square> = HashMap::with_capacity(rows.len());
        let (mut outside, mut taken, mut held) = (0, Vec::new(), BTreeMap::new());
        for row in rows {
            if !cidr.contains(&row.ip) {
                outside += 1;
                continue;
            }
            let eni = row.iface.as_ref().map(|id| {
                *known.entry(id.clone()).or_insert_with(|| {
                    self.enis.push(Eni { eni: id.clone(), instance: None, here: false });
                    self.enis.len() - 1
                })
            });
            let is_here = eni.and_then(|n| self.enis.get(n)).is_some_and(|eni| eni.here);
            let square = Square::of(row, is_here);
            squares.insert(row.ip, square);
            if row.in_block && !matches!(row.state(), State::Free | State::Reserved) {
                held.insert(Block::of(row.ip), eni);
            }
            if square.is_taken() {
                taken.push(Taken { ip: row.ip, eni, holder: holder(row), seconds: since(row) });
            }
        }
        let mut counts = BTreeMap::new();
        let mut letter = |ip| {
            let square = squares.get(&ip).copied().unwrap_or(Square::Absent);
            *counts.entry(square).or_default() += 1;
            square.letter()
        };
        let squares: String = all_of(cidr).map(&mut letter).collect();
        let blocks = Blocks::of(cidr, &squares, &held);
        self.subnets.push(Drawn { subnet, cidr, squares, counts, outside, taken, blocks });
    }
}

impl Blocks {
    fn of(cidr: Ipv4Net, squares: &str, held: &BTreeMap<Block, Option<usize>>) -> Self {
        let held_ones = held.iter().map(|(block, eni)| Held { net: block.net(), eni: *eni }).collect();
        let mut blocks = Self { held: held_ones, ..Self::default() };
        let letters: Vec<char> = squares.chars().collect();
        let may_be_had = Block::numbers_in(cidr);
        let all = all_of(cidr).step_by(SIZE).map(Block::of).zip(letters.chunks(SIZE));
        for (_, letters) in all.filter(|(block, _)| may_be_had.contains(&block.number()) && !held.contains_key(block)) {
            match letters.iter().filter(|letter| **letter == Square::Free.letter()).count() {
                SIZE => blocks.whole += 1,
                0 => blocks.full += 1,
                _ => blocks.broken += 1,
            }
        }
        blocks
    }
}

/// For how long a row has been what it is: idle ones since they were let go, others since they were claimed.
fn since(row: &Row) -> Option<u64> {
    let since = match row.state() {
        State::Ready => row.let_go(),
        State::On | State::Off | State::Lease => row.claimed,
        State::Free | State::Foreign | State::Reserved => None,
    };
    since.map(|since| since.as_secs())
}

/// The block that rows fill, where nobody says which one their subnet has: the smallest that AWS allows (/16 to /28) and that
/// has them all. What fits in no /16 is not one subnet's: then it is the /16 that has most of them.
pub fn block_of(rows: &[Row]) -> Option<Ipv4Net> {
    let mut sixteens: BTreeMap<u32, (usize, u32, u32)> = BTreeMap::new();
    for ip in rows.iter().map(|row| u32::from(row.ip)) {
        let (count, first, last) = sixteens.entry(ip >> 16).or_insert((0, ip, ip));
        (*count, *first, *last) = (*count + 1, ip.min(*first), ip.max(*last));
    }
    let (_, first, last) = sixteens.into_values().max_by_key(|(count, ..)| *count)?;
    let common = u8::try_from((first ^ last).leading_zeros()).unwrap_or(32);
    Ipv4Net::new(first.into(), common.clamp(16, 28)).ok().map(|net| net.trunc())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::address::Status;
    use crate::domain::id::{Boot, Kind};
    use crate::domain::roll::HostEntry;

    fn eni(n: u8) -> EniId {
        EniId::stored(format!("eni-0aaaaaaaaaaaaaa{n:02x}"))
    }

    fn row(ip: &str, status: Status, iface: Option<u8>, kind: Option<Kind>) -> Row {
        Row {
            ip: ip.parse().unwrap(),
            subnet: SubnetId::stored("subnet-0123456789abcdef0".into()),
            status,
            iface: iface.map(eni),
            primary: false,
            in_block: false,
            claim: kind.map(|kind| Boot::random().unwrap().claim(1, kind)),
            holder: None,
            idle: Duration::from_secs(100),
            claimed: kind.map(|_| Duration::from_secs(7)),
        }
    }

    fn held(row: Row, holder: &str) -> Row {
        Row { holder: Some(holder.to_owned()), ..row }
    }

    #[test]
    fn a_subnet_is_drawn_with_whoever_has_its_addresses() {
        let own = Eni { eni: eni(1), instance: Some("i-a".into()), here: true };
        let host = |name: &str, enis: &[u8], seen| KnownHost {
            entry: HostEntry {
                instance: name.into(),
                enis: enis.iter().map(|n| eni(*n)).collect(),
                version: "1".into(),
                journal: None,
                told: None,
            },
            seen: Duration::from_secs(seen),
        };
        // An interface that moved stands with the host that was seen with it last.
        let hosts = [host("i-c", &[2], 4000), host("i-b", &[2], 10), host("i-a", &[1], 20)];
        let mut map = Map::of_hosts(1000, vec![own.clone()], &hosts);
        let rows = [
            held(row("10.0.0.0", Status::Reserved, None, None), "AWS"),
            row("10.0.0.4", Status::Free, None, None),
            held(row("10.0.0.5", Status::Occupied, Some(1), Some(Kind::Lease)), "web"),
            row("10.0.0.6", Status::Ready, Some(2), None),
            Row { idle: Duration::from_secs(u32::MAX.into()), ..row("10.0.0.7", Status::Ready, Some(1), None) },
            row("10.0.0.9", Status::Occupied, Some(3), None),
            row("10.9.9.9", Status::Ready, Some(4), None),
        ];
        let subnet = SubnetId::stored("subnet-0123456789abcdef0".into());
        map.draw(subnet, "10.0.0.0/28".parse().unwrap(), &rows, |row| row.holder.clone());
        assert_eq!(map.instance.as_deref(), Some("i-a"));
        assert_eq!(map.hosts.iter().map(|host| host.instance.as_str()).collect::<Vec<_>>(), ["i-a", "i-b", "i-c"]);
        let other = |n, instance: Option<&str>| Eni { eni: eni(n), instance: instance.map(str::to_owned), here: false };
        assert_eq!(map.enis, [own, other(2, Some("i-b")), other(3, None)]);
        let drawn = &map.subnets[0];
        assert_eq!(drawn.squares, "A???.LiI?x??????");
        assert_eq!(drawn.counts.values().sum::<u64>(), 16);
        assert_eq!((drawn.counts[&Square::Free], drawn.counts[&Square::Absent], drawn.outside), (1, 10, 1));
        let taken: Vec<_> = drawn
            .taken
            .iter()
            .map(|taken| (taken.ip.octets()[3], taken.eni, taken.holder.as_deref(), taken.seconds))
            .collect();
        assert_eq!(drawn.blocks, Blocks::default(), "a /28 is no block");
        assert_eq!(
            taken,
            [
                (0, None, Some("AWS"), None),
                (5, Some(0), Some("web"), Some(7)),
                (6, Some(1), None, Some(100)),
                (7, Some(0), None, None),
                (9, Some(2), None, None)
            ]
        );
    }

    #[test]
    fn a_28_is_an_interfaces_or_whole_or_broken_or_full() {
        let mut rows: Vec<Row> =
            all_of("10.0.0.0/25".parse().unwrap()).map(|ip| row(&ip.to_string(), Status::Free, None, None)).collect();
        for row in &mut rows[16..32] {
            *row = Row { in_block: true, ..self::row(&row.ip.to_string(), Status::Ready, Some(7), None) };
        }
        rows[20] = Row { in_block: true, ..row("10.0.0.20", Status::Occupied, Some(7), Some(Kind::Lease)) };
        for row in &mut rows[32..48] {
            *row = self::row(&row.ip.to_string(), Status::Occupied, Some(8), None);
        }
        rows[50] = row("10.0.0.50", Status::Reserved, None, None);
        // Whoever had it last had it in a block: what is free is free.
        rows[70].in_block = true;
        let mut map = Map::of_hosts(1000, Vec::new(), &[]);
        map.draw(rows[0].subnet.clone(), "10.0.0.0/25".parse().unwrap(), &rows, |_| None);
        let held = vec![Held { net: "10.0.0.16/28".parse().unwrap(), eni: Some(0) }];
        assert_eq!(map.subnets[0].blocks, Blocks { held, whole: 3, broken: 1, full: 1 });
        assert_eq!(map.enis[0].eni, eni(7));
    }

    #[test]
    fn the_block_is_the_smallest_that_has_the_rows() {
        for (ips, block) in [
            (&[][..], None),
            (&["10.0.0.9"], Some("10.0.0.0/28")),
            (&["10.0.0.0", "10.0.0.255"], Some("10.0.0.0/24")),
            (&["10.0.0.15", "10.0.0.16"], Some("10.0.0.0/27")),
            (&["10.77.0.0", "10.77.255.255"], Some("10.77.0.0/16")),
            (&["10.77.0.5", "10.77.0.6", "10.78.0.5"], Some("10.77.0.0/28")),
            (&["0.0.0.0", "255.255.255.255", "255.255.255.0"], Some("255.255.255.0/24")),
        ] {
            let rows: Vec<Row> = ips.iter().map(|ip| row(ip, Status::Free, None, None)).collect();
            assert_eq!(block_of(&rows).map(|block| block.to_string()).as_deref(), block, "{ips:?}");
        }
    }
}
