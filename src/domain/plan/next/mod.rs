//! What an ENI does next: the most urgent thing that its rows, those who wait and the time call for. The ENI's task sees
//! to it, and asks again.

use std::collections::{BTreeSet, HashSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;
use tokio::time::Instant;

use super::blocks::{Idle, unless_torn};
use super::{Burst, Warmth, drain_age, give_way, settle_age};
use crate::domain::address::{Row, State};
use crate::domain::block::Block;

/// Nothing to do: look at the rows again after so long.
pub const REST: Duration = Duration::from_secs(60);

/// The same while another server is at it.
const SOON: Duration = Duration::from_millis(200);

/// All that the decision depends on.
#[derive(Debug, Clone)]
pub struct View {
    /// The ENI's rows.
    pub rows: Vec<Row>,
    /// The containers' requests that wait, oldest first.
    pub queue: Vec<Wish>,
    /// Whether the table does not say yet what the journal says.
    pub unposted: bool,
    /// What containers have, by the journal and by Docker's last word, or may have: it is not idle, whatever the table says.
    pub in_use: HashSet<Ipv4Addr>,
    /// What the journal knows: of these nothing is given back because their rows say so,
    pub held: HashSet<Ipv4Addr>,
    /// but for these, which leave.
    pub leaving: HashSet<Ipv4Addr>,
    /// The addresses that may be given now if they are warm (I1, I2, I7); none where the host's own are not known.
    pub may_give: Option<HashSet<Ipv4Addr>>,
    /// The sub-pool of the last request; none until a network has asked.
    pub sub_pool: Option<Option<Ipv4Net>>,
    /// Blocks that another host has asked back.
    pub recalled: BTreeSet<Block>,
    /// How many more addresses the ENI takes.
    pub capacity: usize,
    /// Whether another server may be about to put addresses on the ENI, or has done so and this one has not seen it yet.
    pub elsewhere: bool,
    /// What to hold in reserve.
    pub warmth: Warmth,
    /// The host is drained: whatever has been idle for so long goes, and nothing is fetched.
    pub drain: Option<Duration>,
    /// How refills grew lately.
    pub burst: Burst,
    /// Whether the table may know too little of the subnet.
    pub scan: bool,
    /// Whether reconciling has found something.
    pub repair: bool,
    /// Whether an operator wants the idle addresses back in the subnet.
    pub recycle: bool,
    /// What is planned.
    pub times: Times,
}

/// When something is to be done, or may be done again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// EC2 is asked what is on the ENI, as IMDS has answered for it; none: EC2 itself has.
    pub look_at: Option<Instant>,
    /// It is seen whether the subnet has all its rows; none: it was.
    pub fill_at: Option<Instant>,
    /// Claims that could not be settled are tried again from then on.
    pub settle_at: Instant,
    /// Whose the ENI is was not sure: nothing is given up until then.
    pub give_up_at: Instant,
    /// Nothing is asked of EC2 for warmth alone until then.
    pub warm_at: Instant,
    /// A container came or went: what is lacking is fetched then, or what a drained host has idle goes.
    pub top_up_at: Option<Instant>,
    /// What is idle beyond need is given up, not one by one, so that many go with one Unassign.
    pub trim_at: Instant,
    /// A container asked for an address, or released one.
    pub last_call: Instant,
}

/// A container's request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// This address; none: any.
    pub ip: Option<Ipv4Addr>,
    /// The range that any address is to be in.
    pub sub_pool: Option<Ipv4Net>,
    /// For how long an address must have been idle.
    pub cooldown: Duration,
}

impl Wish {
    /// Whether this address will do.
    pub fn fits(&self, ip: Ipv4Addr) -> bool {
        self.ip.map_or_else(|| is_in(self.sub_pool, ip), |named| named == ip)
    }
}

/// The most urgent thing. What the fleet engine does has the name of its verb.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// See what is on the ENI.
    Look,
    /// Ask EC2 who has what in the subnet.
    Scan,
    /// See that the subnet has all its rows.
    Fill,
    /// Addresses for the ENI.
    Acquire(Need),
    /// These go back to the subnet.
    GiveBack(Vec<Row>, Because),
    /// The table is to say what the journal says.
    Post,
    /// Put right what reconciling found.
    Repair,
    /// I7: somebody waits, and the host's own addresses are not known.
    AskLink,
    /// Those who wait get of these.
    Serve(Vec<Row>),
    /// More are wanted, and the ENI takes none.
    Full,
    /// Nothing for so long, unless somebody comes.
    Rest(Duration),
}

/// Addresses that are needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// Those of these claims, whose Assign has an unknown outcome.
    Settled(Vec<Row>),
    /// The one that the first in the queue has named.
    Named {
        /// The address.
        ip: Ipv4Addr,
        /// Where it finds room.
        slot: Slot,
    },
    /// More, whichever.
    More(Refill),
}

/// Why addresses go back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Because {
    /// They were given back before, and what became of it is not known.
    LeftOff,
    /// Their slots are wanted.
    Room,
    /// A container that named its address may come back on another host, or has.
    Named,
    /// They are beyond need.
    Excess,
    /// An operator wants it.
    Recycled,
    /// The host is drained.
    Drained,
}

/// Room on the ENI for one more address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Slot {
    /// There is.
    Open,
    /// Once what is idle there is given up: an address, or a block.
    Taken(Vec<Row>),
    /// There is none.
    Full,
}

/// What is to be had with one Assign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refill {
    /// The range that they are to be in.
    pub sub_pool: Option<Ipv4Net>,
    /// For how long they must have been nobody's.
    pub cooldown: Duration,
    /// For those who wait.
    pub waiting: usize,
    /// How many the warm target lacks; none: nothing is fetched in reserve now.
    pub lacking: Option<usize>,
    /// More the ENI does not take.
    pub capacity: usize,
}

/// Whether a row that was left off is old enough to be tried again.
pub fn is_due(row: &Row) -> bool {
    row.state() == State::Off && row.claimed.is_none_or(|age| age >= settle_age())
}

/// What comes first.
pub fn next(view: &View, now: Instant) -> Next {
    view.post()
        .or_else(|| view.look(now))
        .or_else(|| view.settle(now))
        .or_else(|| view.give_up_again(now))
        .or_else(|| view.obey())
        .or_else(|| view.serve())
        .or_else(|| view.fetch(now))
        .or_else(|| view.top_up(now))
        .or_else(|| view.give_back(now))
        .unwrap_or_else(|| Next::Rest(view.rest(now)))
}

impl View {
    /// Before anything is claimed or given up.
    fn post(&self) -> Option<Next> {
        self.unposted.then_some(Next::Post)
    }

    fn look(&self, now: Instant) -> Option<Next> {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if is_due(self.times.look_at) {
            return Some(Next::Look);
        }
        if self.scan {
            return Some(Next::Scan);
        }
        is_due(self.times.fill_at).then_some(Next::Fill)
    }

    fn settle(&self, now: Instant) -> Option<Next> {
        // Nobody is told that the ENI is full while some of its slots are only claimed.
        let in_the_way = !self.queue.is_empty() && self.capacity == 0;
        let unsettled: Vec<Row> =
            self.in_state(State::On).filter(|row| !self.leaving.contains(&row.ip)).cloned().collect();
        (!unsettled.is_empty() && (now >= self.times.settle_at || in_the_way))
            .then_some(Next::Acquire(Need::Settled(unsettled)))
    }

    fn give_up_again(&self, now: Instant) -> Option<Next> {
        // The journal's word, and not the table's: one that came back from the dead would take an address from its container.
        let is_left = |row: &&Row| match row.state() {
            State::Off => is_due(row) && (!self.held.contains(&row.ip) || self.leaving.contains(&row.ip)),
            State::Ready | State::On | State::Lease => self.leaving.contains(&row.ip),
            State::Free | State::Foreign | State::Reserved => false,
        };
        let due = self.rows.iter().filter(is_left).cloned().collect();
        let due = unless_torn(due, self.rows.iter().filter(|row| row.state() != State::Foreign));
        (!due.is_empty() && self.may_give_up(now)).then_some(Next::GiveBack(due, Because::LeftOff))
    }

    fn obey(&self) -> Option<Next> {
        if self.repair {
            return Some(Next::Repair);
        }
        self.recycle.then(|| Next::GiveBack(self.idle().whole(), Because::Recycled))
    }

    fn serve(&self) -> Option<Next> {
        if self.queue.is_empty() {
            return None;
        }
        // Nothing is given, and nothing is fetched to be given.
        let Some(may_give) = &self.may_give else { return Some(Next::AskLink) };
        let idle = self.idle().all.into_iter();
        let warm: Vec<Row> = idle.filter(|row| self.is_warm(row) && may_give.contains(&row.ip)).cloned().collect();
        let is_wanted = |row: &Row| self.queue.iter().any(|wish| wish.ip.is_none() && wish.fits(row.ip));
        warm.iter().any(is_wanted).then_some(Next::Serve(warm))
    }

    fn fetch(&self, now: Instant) -> Option<Next> {
        // Those who wait there are told so, whatever else is to be done.
        let first = self.queue.first().filter(|_| self.drain.is_none())?;
        let Some(ip) = first.ip else {
            return Some(self.refill(first.sub_pool, first.cooldown, now));
        };
        let idle = || give_way(&self.rows, |row| self.in_use.contains(&row.ip) || self.leaving.contains(&row.ip));
        let slot = match self.capacity {
            0 => idle().map_or(Slot::Full, Slot::Taken),
            _ => Slot::Open,
        };
        if slot == Slot::Full && self.elsewhere {
            return Some(Next::Rest(SOON));
        }
        Some(Next::Acquire(Need::Named { ip, slot }))
    }

    fn top_up(&self, now: Instant) -> Option<Next> {
        let is_due = self.times.top_up_at.is_some_and(|at| at <= now) && now >= self.times.warm_at;
        let is_wanted = is_due && self.drain.is_none() && self.lacking() > 0;
        let sub_pool = self.sub_pool.filter(|_| is_wanted)?;
        Some(self.refill(sub_pool, self.warmth.cooldown, now))
    }

    /// One Assign for all who wait and for what the warm target lacks.
    fn refill(&self, sub_pool: Option<Ipv4Net>, cooldown: Duration, now: Instant) -> Next {
        let waiting = self.queue.iter().filter(|wish| wish.ip.is_none() && wish.sub_pool == sub_pool).count();
        if self.capacity == 0 {
            // What is kept for somebody is of no use to anybody else.
            let useful = |row: &Row| {
                row.kept_for().is_none() && is_in(sub_pool, row.ip) && !self.is_recalled(row)
                    || self.in_use.contains(&row.ip)
                    || self.leaving.contains(&row.ip)
            };
            return match give_way(&self.rows, useful) {
                // Nobody is told that the ENI is full while some of its slots are only claimed.
                _ if self.elsewhere && waiting > 0 => Next::Rest(SOON),
                Some(idle) if waiting > 0 => Next::GiveBack(idle, Because::Room),
                _ => Next::Full,
            };
        }
        // While EC2 leaves claims unclear nothing is claimed in reserve: each attempt would take more of the subnet.
        let is_clear = self.in_state(State::On).next().is_none();
        let in_reserve = self.warmth.target > 0 && now >= self.times.warm_at && is_clear;
        let lacking = in_reserve.then(|| self.lacking());
        Next::Acquire(Need::More(Refill { sub_pool, cooldown, waiting, lacking, capacity: self.capacity }))
    }

    fn give_back(&self, now: Instant) -> Option<Next> {
        if !self.may_give_up(now) {
            return None;
        }
        let idle = self.idle();
        if let Some(least) = self.drain {
            let is_gathering = self.times.top_up_at.is_some_and(|at| now < at);
            let goes = idle.that(|row| row.has_cooled(least) && !is_gathering);
            return (!goes.is_empty()).then_some(Next::GiveBack(goes, Because::Drained));
        }
        let is_named = |row: &&&Row| row.is_fixed() && row.has_cooled(self.warmth.cooldown);
        let mut named: Vec<Row> = idle.singles.iter().filter(is_named).map(|row| (*row).clone()).collect();
        let has_cooled = |rows: &[&Row]| rows.iter().all(|row| row.has_cooled(self.warmth.cooldown));
        let recalled = idle.blocks.iter().filter(|(block, rows)| self.recalled.contains(block) && has_cooled(rows));
        named.extend(recalled.flat_map(|(_, rows)| rows).map(|row| (*row).clone()));
        if !named.is_empty() {
            return Some(Next::GiveBack(named, Because::Named));
        }
        if now < self.times.trim_at {
            return None;
        }
        let is_used = self.in_state(State::Lease).next().is_some();
        let is_quiet = !is_used && now.duration_since(self.times.last_call) >= drain_age();
        let excess = self.warmth.excess(&idle, self.burst.expected(now), is_quiet);
        (!excess.is_empty()).then_some(Next::GiveBack(excess, Because::Excess))
    }

    /// Until the next thing that time alone brings. What is due already, and was not called for, it does not bring.
    fn rest(&self, now: Instant) -> Duration {
        let until = |at: Instant| at.saturating_duration_since(now);
        let goes_cooled = self
            .in_state(State::Ready)
            .filter(|row| row.is_fixed() && !row.in_block || self.is_recalled(row) || self.drain.is_some());
        let cooled = goes_cooled.map(|row| {
            // A second more than the rule asks for, as the database counts whole ones.
            (self.drain.unwrap_or(self.warmth.cooldown) + Duration::from_secs(2)).saturating_sub(row.idle)
        });
        let settled = self.in_state(State::Off);
        let settled = settled.map(|row| settle_age().saturating_sub(row.claimed.unwrap_or_default()));
        let trimmed = Some(self.times.trim_at.max(self.times.give_up_at)).filter(|at| now < *at);
        let given_up = cooled.chain(settled).map(|rest| rest.max(until(self.times.give_up_at)));
        let unsettled = self.in_state(State::On).map(|_| until(self.times.settle_at));
        let Times { fill_at, look_at, top_up_at, .. } = self.times;
        let planned =
            [fill_at, look_at, top_up_at, trimmed.or(Some(now + settle_age()))].into_iter().flatten().map(until);
        let ahead = given_up.chain(unsettled).chain(planned).filter(|rest| !rest.is_zero());
        ahead.min().unwrap_or(REST).clamp(Duration::from_millis(10), REST)
    }

    fn in_state(&self, state: State) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(move |row| row.state() == state)
    }

    fn idle(&self) -> Idle<'_> {
        Idle::of(&self.rows, |ip| self.in_use.contains(&ip) || self.leaving.contains(&ip))
    }

    /// Of a block that is asked back nothing is given while there is anything else.
    fn is_warm(&self, row: &Row) -> bool {
        self.warmth.is_warm(row) && !self.is_recalled(row)
    }

    fn is_recalled(&self, row: &Row) -> bool {
        row.in_block && self.recalled.contains(&Block::of(row.ip))
    }

    fn lacking(&self) -> usize {
        self.warmth.lacking(self.rows.iter().filter(|row| !self.is_recalled(row)))
    }

    fn may_give_up(&self, now: Instant) -> bool {
        now >= self.times.give_up_at
    }
}

fn is_in(range: Option<Ipv4Net>, ip: Ipv4Addr) -> bool {
    range.is_none_or(|range| range.contains(&ip))
}

#[cfg(test)]
mod tests;
