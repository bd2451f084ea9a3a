//! A subnet's rows compared with all of its interfaces: what nobody's own driver would mend.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::Ipv4Addr;

use super::ledger::Sight;
use crate::domain::address::{Event, Row, State};
use crate::domain::block::{Block, Unit};
use crate::domain::id::EniId;

/// What EC2 says of the subnet: who has each address that is assigned.
pub type Assigned = HashMap<Ipv4Addr, Holder>;

/// Who has an address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Holder {
    /// The ENI.
    pub eni: EniId,
    /// Whether it is that one's primary address.
    pub primary: bool,
    /// Whether it is one of a prefix of that one.
    pub in_block: bool,
}

impl Holder {
    /// The row is to say so.
    pub fn event(&self) -> Event {
        Event::Foreign { eni: Some(self.eni.clone()), primary: self.primary, in_block: self.in_block }
    }
}

/// A row that does not agree, and the event that mends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The row.
    pub row: Row,
    /// What it is.
    pub what: What,
}

/// The kinds of findings.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum What {
    /// Its ENI is no more: free.
    Dead,
    /// What had it does not have it any more: free.
    Gone,
    /// In use by something that its row does not name: occupied.
    Foreign {
        /// Who has it.
        holder: Holder,
    },
    /// A row of another host's ENI in a table of this host alone: occupied, or free if EC2 has it nowhere.
    Alien {
        /// Who has it.
        holder: Option<Holder>,
    },
    /// A primary address without the mark.
    Unmarked,
}

/// All that [`What::kind`] says beside what reconciling finds too.
pub const KINDS: [&str; 3] = ["dead", "foreign", "alien"];

impl What {
    /// Its kind in one word, as the metrics have it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Dead => "dead",
            Self::Gone => "gone",
            Self::Foreign { .. } => "foreign",
            Self::Alien { .. } => "alien",
            Self::Unmarked => "unmarked",
        }
    }
}

/// The ENIs that rows name and EC2 did not list: each has to be asked about by its id.
pub fn unseen<'r>(rows: &'r [Row], seen: &BTreeSet<EniId>) -> BTreeSet<&'r EniId> {
    rows.iter().filter_map(|row| row.iface.as_ref()).filter(|eni| !seen.contains(*eni)).collect()
}

/// Everything that does not agree among free rows, rows that nothing of ours claims, and rows of ENIs that EC2 does not know
/// any more (`dead`). Rows of a living ENI belong to its own driver; in a table that other hosts do not see, those of their ENIs
/// (`alien`) have none. `rows` are those that are not free and those of
/// addresses in use.
pub fn compare(rows: &[Row], assigned: &Assigned, dead: &BTreeSet<EniId>, alien: &BTreeSet<EniId>) -> Vec<Finding> {
    let is_of = |enis: &BTreeSet<EniId>, row: &Row| row.iface.as_ref().is_some_and(|eni| enis.contains(eni));
    let what = |row: &Row| {
        let holder = assigned.get(&row.ip);
        let foreign = holder.map(|holder| What::Foreign { holder: holder.clone() });
        match row.state() {
            State::Reserved => None,
            _ if is_of(dead, row) => Some(What::Dead),
            State::Free => foreign,
            State::Foreign => match holder {
                None => Some(What::Gone),
                Some(holder) if row.iface.as_ref() != Some(&holder.eni) => foreign,
                Some(holder) => (holder.primary && !row.primary).then_some(What::Unmarked),
            },
            State::On | State::Off | State::Ready | State::Lease if is_of(alien, row) => {
                Some(What::Alien { holder: holder.cloned() })
            }
            State::Ready => {
                let is_primary = |holder: &Holder| holder.primary && row.iface.as_ref() == Some(&holder.eni);
                (holder.is_some_and(is_primary) && !row.primary).then_some(What::Unmarked)
            }
            State::On | State::Off | State::Lease => None,
        }
    };
    rows.iter().filter_map(|row| Some(Finding { row: row.clone(), what: what(row)? })).collect()
}

/// How much these findings free, as the limit counts it: rows, but an ENI that EC2 does not know any more once, whatever it had.
pub fn freed(findings: &[Finding]) -> usize {
    let (dead, rows): (Vec<&Finding>, Vec<&Finding>) =
        findings.iter().filter(|finding| finding.frees()).partition(|finding| finding.what == What::Dead);
    dead.iter().map(|finding| &finding.row.iface).collect::<BTreeSet<_>>().len() + rows.len()
}

/// How many rows one scan may free: more than that is poor sight (another account's view, a shared subnet).
pub fn limit(subnet_rows: u64) -> usize {
    usize::try_from(subnet_rows / 10).unwrap_or(usize::MAX).max(16)
}

impl Finding {
    /// Whether the row becomes free.
    pub fn frees(&self) -> bool {
        matches!(self.what, What::Gone | What::Dead | What::Alien { holder: None })
    }

    /// What mends it.
    pub fn event(&self) -> Event {
        match &self.what {
            What::Dead => Event::EniGone,
            What::Gone => Event::Gone,
            What::Alien { holder: None } => Event::EniGone,
            What::Foreign { holder } | What::Alien { holder: Some(holder) } => holder.event(),
            What::Unmarked => Event::MarkPrimary,
        }
    }

    /// What makes it the same finding at the next scan.
    pub fn sight(&self) -> Sight<What> {
        Sight { ip: self.row.ip, what: self.what.clone(), row: Some(self.row.guard()) }
    }
}

/// One sentence: what was found, and what mends it.
impl Finding {
    /// What it is found of.
    pub fn unit(&self) -> Unit {
        match &self.what {
            What::Foreign { holder } | What::Alien { holder: Some(holder) } if holder.in_block => {
                Unit::Block(Block::of(self.row.ip))
            }
            What::Dead | What::Gone | What::Foreign { .. } | What::Alien { .. } | What::Unmarked => self.row.unit(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ip = self.row.ip;
        let eni = self.row.iface.as_ref().map_or("nobody that is known", EniId::as_str);
        match &self.what {
            What::Dead => write!(f, "{ip} was on {eni}, which EC2 does not know any more: to be freed"),
            What::Gone => write!(f, "{ip} was in use by {eni} and is not any more: to be freed"),
            What::Alien { holder: None } => write!(f, "{ip} was on {eni}, which is another host's: to be freed"),
            What::Alien { .. } => write!(f, "{ip} is on {eni}, which is another host's: to be kept from others"),
            What::Unmarked => write!(f, "{ip} is the primary address of {eni}: its row is to be marked so"),
            What::Foreign { holder } => write!(f, "{ip} is in use by {}: to be kept from others", holder.eni),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::address::Status;
    use crate::domain::id::{Boot, Claim, Kind, SubnetId};

    fn eni(n: u8) -> EniId {
        EniId::stored(format!("eni-0123456789abcde{n:02x}"))
    }

    fn row(last: u8, status: Status, iface: Option<u8>, kind: Option<Kind>) -> Row {
        Row {
            ip: Ipv4Addr::new(10, 0, 0, last),
            subnet: SubnetId::stored("subnet-0123456789abcdef0".into()),
            status,
            iface: iface.map(eni),
            primary: false,
            in_block: false,
            claim: kind.map(|kind: Kind| -> Claim { Boot::random().unwrap().claim(1, kind) }),
            holder: None,
            idle: Duration::from_secs(1000),
            claimed: None,
        }
    }

    fn on(n: u8) -> Holder {
        Holder { eni: eni(n), primary: false, in_block: false }
    }

    fn finds(rows: &[Row], assigned: &[(u8, u8, bool)], dead: &[u8]) -> Vec<(u8, What)> {
        finds_alien(rows, assigned, dead, &[])
    }

    fn finds_alien(rows: &[Row], assigned: &[(u8, u8, bool)], dead: &[u8], alien: &[u8]) -> Vec<(u8, What)> {
        let holder = |(last, n, primary): &(u8, u8, bool)| {
            (Ipv4Addr::new(10, 0, 0, *last), Holder { primary: *primary, ..on(*n) })
        };
        let assigned: Assigned = assigned.iter().map(holder).collect();
        let enis = |enis: &[u8]| enis.iter().map(|n| eni(*n)).collect();
        let found = compare(rows, &assigned, &enis(dead), &enis(alien));
        found.into_iter().map(|finding| (finding.row.ip.octets()[3], finding.what)).collect()
    }

    fn every_state(iface: u8) -> Vec<Row> {
        vec![
            row(10, Status::Allocated, Some(iface), Some(Kind::On)),
            row(11, Status::Allocated, Some(iface), Some(Kind::Off)),
            row(12, Status::Ready, Some(iface), None),
            row(13, Status::Occupied, Some(iface), Some(Kind::Lease)),
        ]
    }

    #[test]
    fn rows_of_a_living_eni_are_its_own_drivers() {
        assert_eq!(finds(&every_state(1), &[], &[]), [], "whatever is listed");
        let elsewhere = [(10, 2, false), (11, 2, false), (12, 2, false), (13, 2, false)];
        assert_eq!(finds(&every_state(1), &elsewhere, &[]), []);
    }

    #[test]
    fn all_rows_of_an_eni_that_is_no_more_become_free() {
        let mut rows = every_state(1);
        rows.push(row(14, Status::Occupied, Some(1), None));
        rows.push(row(15, Status::Occupied, Some(2), None));
        rows.push(row(16, Status::Reserved, None, None));
        let freed = finds(&rows, &[(15, 2, true)], &[1]);
        assert_eq!(freed.len(), 6, "{freed:?}");
        assert_eq!(freed.iter().filter(|(_, what)| *what == What::Dead).count(), 5);
        assert_eq!(freed.last(), Some(&(15, What::Unmarked)));
    }

    #[test]
    fn rows_of_another_hosts_eni_are_foreign_or_free_in_a_private_table() {
        let rows = every_state(1);
        let free = |last| (last, What::Alien { holder: None });
        let foreign = |last| (last, What::Alien { holder: Some(on(1)) });
        let assigned = [(10, 1, false), (12, 1, false), (13, 1, false)];
        assert_eq!(finds_alien(&rows, &assigned, &[], &[1]), [foreign(10), free(11), foreign(12), foreign(13)]);
        let changes = rows.iter().map(|row| Finding { row: row.clone(), what: free(0).1 });
        assert!(changes.into_iter().all(|finding| finding.row.on(finding.event()).is_ok()));
        assert_eq!(finds_alien(&rows, &assigned, &[], &[2]), [], "rows of this host's ENI");
    }

    #[test]
    fn what_others_took_is_kept_back_and_what_they_let_go_is_free() {
        let rows = [
            row(20, Status::Free, None, None),
            row(21, Status::Occupied, Some(1), None),
            row(22, Status::Occupied, None, None),
            row(23, Status::Occupied, None, None),
            row(24, Status::Occupied, Some(1), None),
        ];
        let foreign = |n| What::Foreign { holder: on(n) };
        assert_eq!(
            finds(&rows, &[(20, 3, false), (23, 3, false), (24, 1, false)], &[]),
            [(20, foreign(3)), (21, What::Gone), (22, What::Gone), (23, foreign(3))]
        );
    }

    #[test]
    fn a_scan_frees_sixteen_rows_or_a_tenth() {
        assert_eq!((limit(16), limit(256), limit(65_536)), (16, 25, 6553));
        // A dead host with nine blocks in a /24.
        let rows = |what: &What| -> Vec<Finding> {
            let of_blocks = |last| Row { in_block: true, ..row(last, Status::Ready, Some(1), None) };
            (16..160).map(|last| Finding { row: of_blocks(last), what: what.clone() }).collect()
        };
        assert_eq!(freed(&rows(&What::Dead)), 1);
        assert_eq!(freed(&rows(&What::Gone)), 144);
        assert_eq!(freed(&rows(&What::Unmarked)), 0);
    }

    #[test]
    fn enis_that_were_not_listed_are_asked_about() {
        let rows = [row(20, Status::Ready, Some(1), None), row(21, Status::Ready, Some(2), None)];
        assert_eq!(unseen(&rows, &BTreeSet::from([eni(1)])), BTreeSet::from([&eni(2)]));
    }
}
