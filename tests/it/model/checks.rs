//! What must hold after each step.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use ec2_ipam::domain::address::State;
use vpc_sim::INSTANCE_TYPES;

use super::books::Entry;
use super::game::{Broken, Game};
use super::ledger::{Asked, Outcome};
use super::setup::eni;

/// What a request could have been given, as things stood when it was made.
pub struct Picture {
    rows: Vec<Entry>,
    /// Slots of the ENI that are taken, the primary address's not counted.
    slots: usize,
}

/// Within so long the table follows, and what it has lost is told again, found twice and put right.
const POSTED: Duration = Duration::from_secs(240);
/// Trouble so long ago is over for whoever asks now.
const AFTERMATH: Duration = Duration::from_secs(200);

impl Game<'_> {
    /// Nothing that the reference and the hosts have said so far may have broken an invariant.
    pub fn check(&mut self) -> Result<(), Broken> {
        self.calm();
        self.remember();
        let mut wrong = self.look();
        if !wrong.is_empty() {
            // Rows and truth were read one after the other: what is really wrong stays so.
            self.calm();
            let again = self.look();
            wrong.retain(|why| again.contains(why));
        }
        wrong.extend(self.lags_behind());
        let mut ledger = self.bed.shared.ledger();
        if let Some(why) = ledger.broken.pop().or(wrong.pop()) {
            return Err(why);
        }
        Ok(())
    }

    /// I12: a container that the table does not know, though for long nothing has kept its host from telling it.
    fn lags_behind(&mut self) -> Option<Broken> {
        let live: Vec<(Ipv4Addr, usize)> = {
            let ledger = self.bed.shared.ledger();
            ledger.live.iter().map(|(ip, seat)| (*ip, *seat)).filter(|(ip, _)| !ledger.is_set_back(*ip)).collect()
        };
        self.behind.retain(|one, _| live.contains(one));
        let enis: BTreeMap<usize, String> = self.existing().into_iter().collect();
        let now = self.now();
        for (ip, seat) in live {
            let Some(eni) = enis.get(&seat) else { continue };
            let row = self.bed.books.row(seat, ip);
            let is_told = |row: &Entry| row.is_of(eni) && row.state() == State::Lease || self.names_taker(row, eni);
            if row.as_ref().is_some_and(is_told) {
                self.behind.remove(&(ip, seat));
            } else if !self.is_up(seat) || !self.wrong.is_empty() || self.is_known_to_docker_alone(ip, seat) {
                self.behind.insert((ip, seat), now);
            } else if now - *self.behind.entry((ip, seat)).or_insert(now) > POSTED {
                let row = row.as_ref().map(Entry::shown);
                return Some(format!("I1, I8, I12: a container on h{seat} has {ip}, and its row is {row:?}"));
            }
        }
        None
    }

    /// Its host gave the address, and lost its journal before it told the table.
    fn is_known_to_docker_alone(&self, ip: Ipv4Addr, seat: usize) -> bool {
        let ledger = self.bed.shared.ledger();
        ledger.lost.contains(&ip) && !ledger.seats[seat].docker.has_told(ip)
    }

    /// Notes the rows' versions.
    fn remember(&mut self) {
        for owner in 0..self.versions.len() {
            for row in self.bed.books.rows(owner) {
                let versions = self.versions[owner].entry(row.ip).or_default();
                if versions.back() != Some(&row) {
                    versions.push_back(row);
                    if versions.len() > 3 {
                        versions.pop_front();
                    }
                }
            }
        }
    }

    fn rows_by_ip(&self, seat: usize) -> BTreeMap<Ipv4Addr, Entry> {
        self.bed.books.rows(seat).into_iter().map(|row| (row.ip, row)).collect()
    }

    pub fn existing(&self) -> Vec<(usize, String)> {
        let there = (0..self.players.len()).filter(|seat| self.players[*seat].exists);
        there.map(|seat| (seat, eni(seat, self.players[seat].generation))).collect()
    }

    /// What is wrong now.
    fn look(&mut self) -> Vec<Broken> {
        let mut wrong = Vec::new();
        let (live, cut) = {
            let ledger = self.bed.shared.ledger();
            (ledger.live.clone(), ledger.cut.clone())
        };
        let mut set_back = self.bed.shared.ledger().set_back.clone();
        set_back.retain(|(ip, owner)| !self.is_right(*ip, *owner));
        let is_set_back = |ip: &Ipv4Addr| set_back.iter().any(|(other, _)| other == ip);
        for (seat, eni) in self.existing() {
            let truth = self.truth(&eni);
            let rows = self.rows_by_ip(seat);
            for ip in truth.iter().filter(|ip| !is_set_back(ip)) {
                let is_known = rows
                    .get(ip)
                    .is_some_and(|row| row.is_of(&eni) && !matches!(row.state(), State::Free | State::Reserved));
                if !is_known {
                    let row = rows.get(ip).map(Entry::shown);
                    wrong.push(format!("I3: {ip} is on {eni}, and its row is {row:?}"));
                }
            }
            for (ip, _) in live.iter().filter(|(ip, on)| **on == seat && !is_set_back(ip)) {
                if !truth.contains(ip) && !cut.contains(&(*ip, seat)) {
                    wrong.push(format!("I2: a container on h{seat} has {ip}, and {eni} has it no more"));
                }
            }
        }
        let mut ledger = self.bed.shared.ledger();
        ledger.set_back.retain(|one| set_back.contains(one));
        // A container may have come or gone while this was looked at.
        wrong.retain(|_| ledger.live == live);
        wrong
    }

    /// Whether the row says who took the address after it was cut off from its container on this ENI: then only a person can put
    /// that right.
    fn names_taker(&self, row: &Entry, eni: &str) -> bool {
        self.vpc.holder(row.ip).is_some_and(|holder| holder != eni && row.is_of(&holder))
    }

    /// Whether a row that was set back agrees with EC2 and the reference again.
    fn is_right(&self, ip: Ipv4Addr, owner: usize) -> bool {
        let Some(row) = self.bed.books.row(owner, ip) else { return true };
        let mut ours = self.existing();
        ours.retain(|(seat, _)| self.bed.books.is_shared() || *seat == owner);
        let is_named = |eni: &str| row.is_of(eni) && !matches!(row.state(), State::Free | State::Reserved);
        let live = self.bed.shared.ledger().live.get(&ip).copied();
        let holder = self.vpc.holder(ip);
        if let Some((_, eni)) = ours.iter().find(|(seat, _)| Some(*seat) == live) {
            return is_named(eni) && row.state() == State::Lease || self.names_taker(&row, eni);
        }
        match ours.iter().find(|(_, eni)| Some(eni) == holder.as_ref()) {
            Some((_, eni)) => is_named(eni),
            None => ours.iter().all(|(_, eni)| !row.is_of(eni)),
        }
    }

    /// How many addresses the host's ENI may have, the primary included.
    pub fn limit(&self, seat: usize) -> usize {
        INSTANCE_TYPES.iter().find(|(kind, ..)| *kind == self.setup.hosts[seat]).map_or(0, |(.., n)| *n)
    }

    /// How things stand for a request of this host, if nothing else goes on and nothing has gone wrong for long.
    pub fn picture(&self, seat: usize) -> Option<Picture> {
        let is_well = self.wrong.is_empty() && self.trouble_at.is_none_or(|at| self.now() - at > AFTERMATH);
        {
            let ledger = self.bed.shared.ledger();
            if !is_well || !ledger.open.is_empty() || !ledger.cut.is_empty() || !ledger.set_back.is_empty() {
                return None;
            }
        }
        let all_up = (0..self.players.len()).all(|seat| !self.players[seat].exists || self.is_up(seat));
        all_up.then(|| Picture {
            rows: self.bed.books.rows(seat),
            slots: self.slots(&eni(seat, self.players[seat].generation)),
        })
    }

    /// Whether a request was answered as well as could be (I10), by what was and is still there to be had.
    pub fn judge(&mut self, seat: usize, asked: &Asked, outcome: &Outcome, before: &Picture) -> Result<(), Broken> {
        let Asked::Any { sub_pool } = asked else { return Ok(()) };
        let why = match outcome {
            Outcome::Granted(ip, Some(age)) => format!("I10: h{seat} gave {ip} after {age:?}"),
            Outcome::Refused(why) if why.starts_with("this host is drained") => {
                let is_so = self.bed.hosts[seat].state.is_drained();
                return if is_so { Ok(()) } else { Err(format!("h{seat} is not drained, and refused ({why})")) };
            }
            Outcome::Refused(why) => format!("h{seat} refused ({why})"),
            _ => return Ok(()),
        };
        let Some(after) = self.picture(seat) else { return Ok(()) };
        let name = eni(seat, self.players[seat].generation);
        let range = if *sub_pool { self.setup.sub_pool() } else { self.setup.cidr };
        let limit = self.limit(seat);
        let cooled = |row: &Entry| {
            let needed = if self.setup.cooldown.is_zero() { Duration::ZERO } else { self.setup.cooldown + AFTERMATH };
            self.bed.books.idle(row) >= needed && range.contains(&row.ip)
        };
        let used = |rows: &[Entry]| {
            let taken =
                rows.iter().filter(|row| row.is_of(&name) && !matches!(row.state(), State::Free | State::Reserved));
            taken.map(Entry::unit).collect::<BTreeSet<_>>().len()
        };
        let is_warm = |row: &Entry| {
            let stays = row.in_block || !row.is_fixed();
            row.is_of(&name) && row.state() == State::Ready && stays && cooled(row)
        };
        let has_room = |picture: &Picture| picture.slots + 1 < limit && used(&picture.rows) < limit;
        let is_free = |row: &Entry| row.state() == State::Free && cooled(row) && self.vpc.holder(row.ip).is_none();
        let mut better: Vec<Ipv4Addr> = Vec::new();
        for row in before.rows.iter().filter(|row| after.rows.contains(row)) {
            let is_shown = {
                let ledger = self.bed.shared.ledger();
                ledger.live.contains_key(&row.ip) || ledger.seats[seat].docker.lingers(row.ip)
            };
            if !is_shown && (is_warm(row) || has_room(before) && has_room(&after) && is_free(row)) {
                better.push(row.ip);
            }
        }
        if better.is_empty() { Ok(()) } else { Err(format!("{why}, but could have given {better:?}")) }
    }
}
