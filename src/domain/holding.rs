//! What the journal says of an address that the table gives to an ENI of this host, and how the table follows it.
//!
//! Whose an address is, the table knows; what it is to this host (idle since when, or whose of its containers), the journal
//! knows first. So a row that is not as the journal has it is behind, and is told, unless it is not this ENI's any more.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use super::address::{Change, Event, FIXED, KEPT, Row, State, Status};
use super::id::{Claim, EniId, SubnetId};

/// One address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// The address.
    pub ip: Ipv4Addr,
    /// The ENI that the table gives it to.
    pub eni: EniId,
    /// Its subnet.
    pub subnet: SubnetId,
    /// What it is to this host.
    pub held: Held,
    /// The endpoint that has it, or had it last; marked as in the table ([`Row::is_fixed`], [`Row::kept_for`]).
    pub holder: Option<String>,
    /// When it was last let go.
    pub let_go: Moment,
    /// The table says the same.
    pub posted: bool,
    /// It came from the table alone, when the journal was new or older: nobody knows yet whether a container has it.
    pub doubted: bool,
}

/// What an address is to this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// On the ENI, and no container has it.
    Idle,
    /// A container has it, by this token.
    Lease(Claim),
    /// It is given back, by this token. It never becomes idle or a lease again.
    Leaving(Claim),
}

impl Held {
    /// The token, if it has one.
    pub fn token(&self) -> Option<&Claim> {
        match self {
            Self::Idle => None,
            Self::Lease(token) | Self::Leaving(token) => Some(token),
        }
    }
}

/// A moment, by two clocks: within one boot of the machine the one that nobody sets, across boots the one on the wall.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    /// Which boot of the machine it was in.
    pub boot: Arc<str>,
    /// Since that boot, times of suspension included.
    pub since_boot: Duration,
    /// Since 1970, by the wall clock.
    pub wall: Duration,
}

impl Moment {
    /// How long ago it was. What lies ahead was just now: a clock was set since.
    pub fn age(&self, now: &Self) -> Duration {
        if self.boot == now.boot {
            now.since_boot.saturating_sub(self.since_boot)
        } else {
            now.wall.saturating_sub(self.wall)
        }
    }

    /// The moment so long before.
    pub fn before(&self, age: Duration) -> Self {
        let (since_boot, wall) = (self.since_boot.checked_sub(age), self.wall.saturating_sub(age));
        match since_boot {
            Some(since_boot) => Self { boot: Arc::clone(&self.boot), since_boot, wall },
            // Before this boot.
            None => Self { boot: "".into(), since_boot: Duration::ZERO, wall },
        }
    }
}

/// How a row follows the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Follow {
    /// It says the same.
    Same,
    /// By this change.
    Change(Change),
    /// It is not this ENI's, or is being given back: the journal does not force it.
    Differs,
}

impl Holding {
    /// A row's, as it comes from the table.
    pub fn of_row(row: &Row, eni: &EniId, now: &Moment) -> Option<Self> {
        let held = match row.state() {
            State::Ready if !row.primary => Held::Idle,
            State::Lease => Held::Lease(row.claim.clone()?),
            State::Ready | State::Free | State::On | State::Off | State::Foreign | State::Reserved => return None,
        };
        (row.iface.as_ref() == Some(eni)).then(|| Self {
            ip: row.ip,
            eni: eni.clone(),
            subnet: row.subnet.clone(),
            held,
            holder: row.holder.clone(),
            let_go: now.before(row.idle),
            posted: true,
            doubted: false,
        })
    }

    /// The endpoint that an operator keeps it for.
    pub fn kept_for(&self) -> Option<&str> {
        self.holder.as_deref()?.strip_prefix(KEPT)
    }

    /// The row that the table is to have.
    pub fn row(&self, now: &Moment) -> Row {
        let (status, claim) = match &self.held {
            Held::Idle => (Status::Ready, None),
            Held::Lease(token) => (Status::Occupied, Some(token.clone())),
            Held::Leaving(token) => (Status::Allocated, Some(token.clone())),
        };
        Row {
            ip: self.ip,
            subnet: self.subnet.clone(),
            status,
            iface: Some(self.eni.clone()),
            primary: false,
            in_block: false,
            holder: self.holder.clone(),
            idle: self.let_go.age(now),
            claimed: claim.as_ref().map(|_| Duration::ZERO),
            claim,
        }
    }

    /// The same where this row is, which knows best whether it is one of a block's. What an operator has let go there is nobody's in particular from then on.
    pub fn row_in_place_of(&self, row: &Row, now: &Moment) -> Row {
        let mut wanted = Row { in_block: row.in_block, ..self.row(now) };
        if let (Some(name), None) = (wanted.kept_for(), row.kept_for()) {
            wanted.holder = Some(format!("{FIXED}{name}"));
        }
        wanted
    }

    /// What makes a row say what this does. The times that a row keeps are those of its database's clock, in whole seconds.
    pub fn follow(&self, row: Option<&Row>, now: &Moment) -> Follow {
        let Some(row) = row.filter(|row| row.iface.as_ref() == Some(&self.eni)) else { return Follow::Differs };
        let wanted = self.row_in_place_of(row, now);
        let is_colder = row.idle >= wanted.idle + SAME;
        if row.status == wanted.status && row.claim == wanted.claim && row.holder == wanted.holder && !is_colder {
            return Follow::Same;
        }
        if let Held::Leaving(_) = &self.held {
            return Follow::Differs;
        }
        let (lease, holder, idle) = (wanted.claim, wanted.holder, wanted.idle);
        let event = Event::Follow { lease, holder, idle };
        // Whole seconds each time would add up.
        let is_as_old = row.idle.abs_diff(idle) < SAME;
        row.on(event).map_or(Follow::Differs, |change| {
            Follow::Change(Change { let_go: change.let_go.filter(|_| !is_as_old), ..change })
        })
    }
}

/// Ages that differ by less are the same: databases count whole seconds.
const SAME: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::{Boot, Kind};

    fn at(boot: &str, since_boot: u64, wall: u64) -> Moment {
        Moment { boot: boot.into(), since_boot: Duration::from_secs(since_boot), wall: Duration::from_secs(wall) }
    }

    #[test]
    fn an_age_is_told_by_the_clock_that_nobody_sets_and_across_boots_by_the_wall() {
        let age = |then: Moment, now: Moment| then.age(&now).as_secs();
        assert_eq!(age(at("a", 100, 9000), at("a", 160, 10)), 60, "the wall clock was set back by hours");
        assert_eq!(age(at("a", 100, 1000), at("b", 5, 1300)), 300);
        assert_eq!(age(at("a", 100, 9000), at("b", 5, 1300)), 0, "what lies ahead was just now");
        let now = at("a", 100, 5000);
        assert_eq!(now.before(Duration::from_secs(60)).age(&now).as_secs(), 60);
        assert_eq!(now.before(Duration::from_secs(600)).age(&now).as_secs(), 600, "before this boot");
    }

    fn row(status: Status, claim: Option<Claim>) -> Row {
        Row {
            ip: Ipv4Addr::new(10, 0, 0, 9),
            subnet: SubnetId::stored("subnet-0123456789abcdef0".into()),
            status,
            iface: Some(EniId::stored("eni-0123456789abcdef0".into())),
            primary: false,
            in_block: false,
            claim,
            holder: None,
            idle: Duration::from_secs(100),
            claimed: None,
        }
    }

    #[test]
    fn a_row_follows_as_long_as_it_is_this_interfaces_and_nobody_elses_business() {
        let boot = Boot::random().unwrap();
        let (mine, older) = (boot.claim(1, Kind::Lease), boot.claim(2, Kind::Lease));
        let now = at("a", 1000, 1000);
        let holding = |held: Held| Holding {
            ip: Ipv4Addr::new(10, 0, 0, 9),
            eni: EniId::stored("eni-0123456789abcdef0".into()),
            subnet: SubnetId::stored("subnet-0123456789abcdef0".into()),
            held,
            holder: None,
            let_go: now.before(Duration::from_secs(101)),
            posted: false,
            doubted: false,
        };
        let (idle, lease) = (holding(Held::Idle), holding(Held::Lease(mine.clone())));
        let becomes = |holding: &Holding, row: &Row| match holding.follow(Some(row), &now) {
            Follow::Same => "same",
            Follow::Change(change) => {
                let after = change.after(row);
                assert_eq!((after.status, after.claim), (holding.row(&now).status, holding.held.token().cloned()));
                // As the row has it, if that is as long ago.
                let idle = if row.idle.as_secs() == 100 { 100 } else { 101 };
                assert_eq!(after.idle.as_secs(), idle);
                "change"
            }
            Follow::Differs => "differs",
        };
        let on = row(Status::Allocated, Some(boot.claim(3, Kind::On)));
        let off = row(Status::Allocated, Some(boot.claim(4, Kind::Off)));
        let ready = row(Status::Ready, None);
        let (leased, before) = (row(Status::Occupied, Some(mine)), row(Status::Occupied, Some(older)));
        let foreign = row(Status::Occupied, None);
        assert_eq!(
            [&ready, &leased, &before, &on, &off, &foreign].map(|row| becomes(&idle, row)),
            ["same", "change", "change", "change", "change", "differs"]
        );
        assert_eq!(
            [&ready, &leased, &before, &on, &off, &foreign].map(|row| becomes(&lease, row)),
            ["change", "same", "change", "change", "change", "change"]
        );
        let cooled = Row { idle: Duration::from_secs(900), ..ready.clone() };
        assert_eq!(becomes(&idle, &cooled), "change", "it was let go since");
        let theirs = Row { iface: Some(EniId::stored("eni-0123456789abcdef1".into())), ..ready.clone() };
        let primary = Row { primary: true, ..ready.clone() };
        let free = Row { iface: None, ..row(Status::Free, None) };
        for other in [&theirs, &primary, &free, &Row { status: Status::Reserved, ..free.clone() }] {
            assert_eq!(becomes(&lease, other), "differs");
        }
        assert_eq!(lease.follow(None, &now), Follow::Differs);
        assert_eq!(
            becomes(&holding(Held::Leaving(boot.claim(5, Kind::Off))), &ready),
            "differs",
            "it is not told by this way"
        );
    }
}
