//! The end of a sequence: whatever went wrong, all comes to agree, and by itself.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use ec2_ipam::domain::address::State;
use ec2_ipam::domain::block::Block;

use super::docker::Mode;
use super::game::{Broken, Game};
use super::ledger::Ledger;

/// Until then rounds of reconciling have put everything right that one host sees: what was left unclear is two looks away,
/// an address that turns up on an ENI another two.
const RECONCILED: u64 = 480;
/// Until then the subnet was scanned four times, by whichever host is left to do it once a dead one's turn is over: a row of
/// what is no more becomes free, and then what has the address by now is seen.
const SCANNED: u64 = 1_200;

impl Game<'_> {
    /// Nothing goes wrong any more; time passes; then table, EC2 and Docker agree.
    pub fn end(&mut self) -> Result<(), Broken> {
        self.bed.shared.tell("the end: nothing goes wrong any more");
        self.vpc.forget_faults();
        self.put_right();
        for seat in 0..self.players.len() {
            self.bed.shared.ledger().seats[seat].docker.mode = Mode::Up;
            if let Some(life) = &self.players[seat].life {
                life.arm(0);
            }
            self.players[seat].fate = None;
            if self.players[seat].exists && !self.is_up(seat) {
                self.bring(seat);
            }
        }
        self.wait(Duration::from_secs(330), |game| game.bed.shared.ledger().open.is_empty());
        if let Some((id, open)) = self.bed.shared.ledger().open.first_key_value() {
            return Err(format!("I9: #{id} {:?} was never answered", open.asked));
        }
        for seat in 0..self.players.len() {
            if self.is_up(seat) && self.bed.hosts[seat].state.is_drained() && self.rng.bool() {
                self.drain_host(seat, true);
            }
        }
        self.greet();
        self.check()?;
        let start = self.now().as_secs();
        let (mut before, mut then) = ((None, None), 0);
        // A host's own table knows little of others, and what it knows of them is old; now and then it is waited for.
        let is_thorough = self.bed.books.is_shared() || self.rng.u8(0..8) == 0;
        loop {
            self.pass(if self.now().as_secs() - start < RECONCILED { 45 } else { 150 });
            self.check()?;
            let passed = self.now().as_secs() - start;
            // What is just being done may be seen half done, once.
            let found = (self.disagreement(), self.leftover().filter(|_| is_thorough));
            let lasting = |now: &Option<Broken>, before: &Option<Broken>| now.clone().filter(|_| now == before);
            match (lasting(&found.0, &before.0), lasting(&found.1, &before.1)) {
                // Seen so twice since: what turns up last, as a scan frees it, has its two looks yet.
                (Some(why), _) if then > RECONCILED => return Err(format!("I6: {why}")),
                (_, Some(why)) if then > SCANNED => return Err(format!("I6: {why}")),
                _ if found == (None, None) => return Ok(()),
                _ => (before, then) = (found, passed),
            }
        }
    }

    /// A container starts on each host and ends, so that no driver is left that nobody has asked anything yet.
    fn greet(&mut self) {
        for (seat, _) in self.existing() {
            if self.players[seat].pools.is_empty() {
                let _ = self.make_pools(seat);
            }
            if self.is_up(seat) && !self.players[seat].pools.is_empty() {
                self.come_and_go(seat);
            }
        }
    }

    /// What a host's own driver has not put right.
    fn disagreement(&self) -> Option<Broken> {
        for (seat, eni) in self.existing() {
            let truth = self.truth(&eni);
            let rows = self.bed.books.rows(seat);
            let slots = self.slots(&eni);
            // Before the ledger is locked: what comes on or goes off in the VPC is entered there, with the VPC locked.
            let others: HashSet<Ipv4Addr> = rows
                .iter()
                .map(|row| row.ip)
                .filter(|ip| self.vpc.holder(*ip).is_some_and(|holder| holder != eni))
                .collect();
            let ledger = self.bed.shared.ledger();
            let is_whole =
                |ledger: &Ledger, ip| !Block::of(ip).addresses().any(|ip| ledger.live.get(&ip) == Some(&seat));
            let judged = |ip: &Ipv4Addr| !ledger.is_set_back(*ip);
            for row in rows.iter().filter(|row| row.is_of(&eni) && !row.primary && judged(&row.ip)) {
                let lives = ledger.live.get(&row.ip) == Some(&seat);
                // Somebody took a container's address after it was cut off: only a person can put that right.
                // The same where others have the last slots of the ENI by now.
                let is_full =
                    slots + 1 >= self.limit(seat) && truth.iter().all(|ip| ledger.live.get(ip) == Some(&seat));
                let is_others = |ip: &Ipv4Addr| others.contains(ip);
                let is_torn = row.in_block && Block::of(row.ip).addresses().any(|ip| is_others(&ip));
                let is_lost = lives && (is_full || is_others(&row.ip) || is_torn);
                let is_there = truth.contains(&row.ip) || is_lost;
                match row.state() {
                    State::On | State::Off => return Some(format!("a claim is not settled: {}", row.shown())),
                    State::Lease if !lives => return Some(format!("no container has the lease {}", row.shown())),
                    // Its block has a container.
                    State::Ready if row.in_block && !is_whole(&ledger, row.ip) && !lives => {}
                    State::Ready if ledger.seats[seat].is_drained => {
                        return Some(format!("h{seat} is drained, and keeps the idle {}", row.shown()));
                    }
                    State::Ready if lives => return Some(format!("a container has the idle {}", row.shown())),
                    State::Lease | State::Ready if !is_there => {
                        return Some(format!("{} is not on the ENI, which has {truth:?}", row.shown()));
                    }
                    State::Foreign => return Some(format!("nobody has {}", row.shown())),
                    _ => {}
                }
            }
            let known = |ip| rows.iter().any(|row| row.ip == ip && row.is_of(&eni));
            if let Some(ip) = truth.iter().find(|ip| judged(ip) && !known(**ip)) {
                return Some(format!("{ip} is on {eni}, and no row says so"));
            }
            let is_ours = |ip: &Ipv4Addr| judged(ip) && !others.contains(ip);
            let lost = ledger.live.iter().find(|(ip, on)| **on == seat && is_ours(ip) && !known(**ip));
            if let Some((ip, _)) = lost {
                return Some(format!("a container on h{seat} has {ip}, and no row says so"));
            }
        }
        None
    }

    /// What only a scan of the subnet puts right.
    fn leftover(&self) -> Option<Broken> {
        // What the database lost may wait for a scan, if it names a host that is no more.
        let set_back = self.bed.shared.ledger().set_back.clone();
        for (ip, owner) in set_back {
            let row = self.bed.books.row(owner, ip);
            // An Assign landed so late that the address was reserved again by then: what an operator keeps, a person takes off.
            if row.as_ref().is_none_or(|row| row.state() != State::Reserved) {
                return Some(format!("{ip} is still not right in table {owner}: {row:?}"));
            }
        }
        let mut there: Vec<String> = self.existing().into_iter().map(|(_, eni)| eni).collect();
        there.extend(self.foreign.iter().cloned());
        for (seat, _) in self.existing() {
            for row in self.bed.books.rows(seat) {
                if let Some(eni) = row.iface.as_ref().filter(|eni| !there.contains(eni)) {
                    return Some(format!("{eni} is no more, but has {}", row.shown()));
                }
                let holder = self.vpc.holder(row.ip);
                if row.state() == State::Free && holder.is_some() {
                    return Some(format!("{holder:?} has the free {}", row.shown()));
                }
                if row.state() == State::Foreign && holder != row.iface {
                    return Some(format!("{holder:?} has {}", row.shown()));
                }
            }
        }
        None
    }
}
