//! What goes wrong on purpose.

use std::net::Ipv4Addr;
use std::time::Duration;

use ec2_ipam::domain::address::State;
use ec2_ipam::domain::subnet::all_of;
use ipnet::Ipv4Net;
use serde_json::json;
use vpc_sim::{CallClass, Fault, FaultKind, TokenBucket};

use super::docker::Mode;
use super::game::{Broken, Fate, Game};
use super::ledger::{Asked, Outcome};
use super::setup::{Trouble, eni};
use crate::support::host::{ASSIGN, UNASSIGN};

const DESCRIBE: &str = "DescribeNetworkInterfaces";

impl Game<'_> {
    pub fn trouble(&mut self, trouble: Trouble) -> Result<(), Broken> {
        self.tally.count(&format!("trouble {trouble:?}"));
        self.trouble_at = Some(self.now());
        match trouble {
            Trouble::Calls => self.fail_calls(),
            Trouble::Lag => self.lag(),
            Trouble::Outage => self.outage(),
            Trouble::Crash => return self.strike(Fate::Crash),
            Trouble::Pause => return self.strike(Fate::Pause),
            Trouble::Foreign => self.foreign(),
            Trouble::Console => self.console(),
            Trouble::Termination => self.terminate(),
            Trouble::Operator => return self.operate(),
            Trouble::SetBack => self.set_back(),
            Trouble::Vanish => self.vanish(),
            Trouble::Docker => self.docker(),
            Trouble::State => self.state(),
            Trouble::Drain => self.drain_one(),
        }
        Ok(())
    }

    fn fail_calls(&mut self) {
        let action = [ASSIGN, ASSIGN, ASSIGN, UNASSIGN, UNASSIGN, DESCRIBE][self.rng.usize(..6)];
        let late = Duration::from_millis(self.rng.u64(100..30_000));
        let kind = match self.rng.u8(0..10) {
            0..=2 => FaultKind::LoseReply,
            3..=5 => FaultKind::LandLate(late),
            6 => FaultKind::Hang(Duration::from_secs(30)),
            7 => FaultKind::Throttle,
            8 => FaultKind::InternalError,
            _ => FaultKind::Unavailable,
        };
        let fault = Fault::on(action, kind).times(self.rng.u32(1..=3)).skip(self.rng.u32(0..=1));
        self.bed.shared.tell(&format!("EC2 will fail: {fault:?}"));
        self.vpc.fail(fault);
    }

    fn lag(&mut self) {
        let describes = Duration::from_secs([0, 2, 20][self.rng.usize(..3)]);
        let (gains, losses) = [(0, 0), (5, 5), (10, 60)][self.rng.usize(..3)];
        self.bed.shared.tell(&format!("describes lag {describes:?}, IMDS {gains} and {losses} s"));
        self.vpc.describe_lag(describes);
        self.vpc.imds_lag(Duration::from_secs(gains), Duration::from_secs(losses));
        self.wrong.insert("lag");
    }

    fn outage(&mut self) {
        if !self.wrong.is_empty() && self.rng.bool() {
            return self.put_right();
        }
        match self.rng.u8(0..5) {
            0 => {
                self.wrong.insert("EC2 down");
                self.vpc.ec2_down(true);
            }
            1 => {
                let action = [ASSIGN, UNASSIGN, DESCRIBE][self.rng.usize(..3)];
                self.wrong.insert(action);
                self.vpc.deny(action, true);
            }
            2 => {
                self.wrong.insert("throttled");
                self.vpc.throttle(CallClass::Mutating, Some(TokenBucket::new(1, 0.2)));
            }
            3 => {
                self.wrong.insert("IMDS down");
                self.vpc.imds_down(true);
            }
            _ => {
                self.wrong.insert("slow");
                self.vpc.latency(Duration::from_millis(self.rng.u64(10..4_000)));
            }
        }
        self.bed.shared.tell(&format!("wrong: {:?}", self.wrong));
    }

    /// EC2 and IMDS are well again.
    pub fn put_right(&mut self) {
        self.wrong.clear();
        self.vpc.ec2_down(false);
        for action in [ASSIGN, UNASSIGN, DESCRIBE] {
            self.vpc.deny(action, false);
        }
        self.vpc.throttle(CallClass::Mutating, None);
        self.vpc.imds_down(false);
        self.vpc.latency(Duration::ZERO);
        self.vpc.describe_lag(Duration::ZERO);
        self.vpc.imds_lag(Duration::ZERO, Duration::ZERO);
        self.bed.shared.tell("EC2 and IMDS are well");
    }

    /// RDS and the like take free addresses, and let them go.
    fn foreign(&mut self) {
        if self.foreign.len() > 1 && self.rng.bool() || self.foreign.len() > 3 {
            let eni = self.foreign.swap_remove(self.rng.usize(..self.foreign.len()));
            self.bed.shared.tell(&format!("{eni} goes"));
            self.vpc.remove_eni(&eni);
            return;
        }
        let ip = self.setup.nth(self.rng.u32(4..self.setup.size() - 1));
        if self.vpc.holder(ip).is_none() {
            self.last_call += 1;
            let eni = format!("eni-0dddddddddddd{:04x}", self.last_call);
            self.bed.shared.tell(&format!("{eni} takes {ip}"));
            self.vpc.take(&eni, ip);
            self.foreign.push(eni);
        }
    }

    fn console(&mut self) {
        let mut all: Vec<(usize, String, Ipv4Addr)> = Vec::new();
        for seat in (0..self.players.len()).filter(|seat| self.players[*seat].exists) {
            let eni = eni(seat, self.players[seat].generation);
            all.extend(self.vpc.addresses(&eni).into_iter().map(|ip| (seat, eni.clone(), ip)));
        }
        let mut blocks: Vec<(usize, String, Ipv4Net)> = Vec::new();
        for (seat, eni) in self.existing() {
            blocks.extend(self.vpc.prefixes(&eni).into_iter().map(|block| (seat, eni.clone(), block)));
        }
        if let Some((seat, eni, block)) = self.rng.choice(&blocks) {
            self.bed.shared.ledger().cut.extend(all_of(*block).map(|ip| (ip, *seat)));
            self.bed.shared.tell(&format!("an operator takes {block} off {eni}"));
            self.vpc.remove_prefix(eni, &block.to_string());
        } else if let Some((seat, eni, ip)) = self.rng.choice(&all) {
            self.bed.shared.ledger().cut.insert((*ip, *seat));
            self.bed.shared.tell(&format!("an operator takes {ip} off {eni}"));
            self.vpc.remove_address(eni, *ip);
        }
    }

    fn terminate(&mut self) {
        let there: Vec<usize> = (0..self.players.len()).filter(|seat| self.players[*seat].exists).collect();
        let gone: Vec<usize> = (0..self.players.len()).filter(|seat| !self.players[*seat].exists).collect();
        if let Some(seat) = self.rng.choice(&gone).copied()
            && self.vpc_has_room()
        {
            self.launch(seat);
            self.revive(seat);
            return;
        }
        let Some(seat) = self.rng.choice(&there).copied().filter(|_| there.len() > 1) else { return };
        self.kill(seat);
        {
            let mut ledger = self.bed.shared.ledger();
            ledger.live.retain(|_, on| *on != seat);
            ledger.cut.retain(|(_, of)| *of != seat);
            ledger.seats[seat].primary = None;
        }
        let player = &mut self.players[seat];
        self.vpc.remove_eni(&eni(seat, player.generation));
        self.bed.shared.tell(&format!("h{seat} is terminated"));
        player.exists = false;
        player.generation += 1;
        // A host's own file goes with it.
        if !self.bed.books.is_shared() {
            self.bed.books.forget(seat);
            self.versions[seat].clear();
            let mut ledger = self.bed.shared.ledger();
            ledger.reserved.retain(|(_, owner)| *owner != seat);
            ledger.set_back.retain(|(_, owner)| *owner != seat);
        }
    }

    fn vpc_has_room(&self) -> bool {
        (4..self.setup.size() - 1).any(|n| self.vpc.holder(self.setup.nth(n)).is_none())
    }

    /// The database fails over and has lost the last commits of a row. Not while a call of ours may still need them.
    fn set_back(&mut self) {
        self.calm();
        if !self.bed.shared.ledger().open.is_empty() {
            return;
        }
        let owner = self.rng.usize(..self.versions.len());
        let rows =
            if owner < self.players.len() && self.players[owner].exists { self.bed.books.rows(owner) } else { return };
        let candidates: Vec<_> = rows
            .iter()
            .filter_map(|row| {
                let versions = self.versions[owner].get(&row.ip)?;
                let [.., older, last] = versions.iter().collect::<Vec<_>>()[..] else { return None };
                let is_apt = last == row
                    && !matches!(row.state(), State::On | State::Off)
                    && older.state() != State::Off
                    && !older.primary
                    // The sixteen rows of a block are claimed and freed by one commit.
                    && older.in_block == row.in_block;
                (is_apt && !self.is_told_by_the_table_alone(row.ip)).then(|| (row.clone(), older.clone()))
            })
            .collect();
        let Some((row, older)) = self.rng.choice(&candidates).cloned() else { return };
        {
            let mut ledger = self.bed.shared.ledger();
            ledger.set_back.insert((row.ip, owner));
            ledger.reserved.remove(&(row.ip, owner));
        }
        self.bed.shared.tell(&format!("the database lost {} and has {}", row.shown(), older.shown()));
        self.bed.books.set_back(owner, &older);
    }

    /// Whether a driver that lives knows of the container only if it has read its row already: an earlier life gave the
    /// address, and Docker has not shown it since.
    fn is_told_by_the_table_alone(&self, ip: Ipv4Addr) -> bool {
        let ledger = self.bed.shared.ledger();
        let seat = ledger.live.get(&ip).copied();
        seat.is_some_and(|seat| self.players[seat].life.is_some() && !ledger.seats[seat].docker.has_told(ip))
    }

    /// Docker forgot a container, or its driver was away when it ended: nobody releases the address.
    fn vanish(&mut self) {
        let live: Vec<Ipv4Addr> = self.bed.shared.ledger().live.keys().copied().collect();
        if let Some(ip) = self.rng.choice(&live) {
            let now = self.now();
            self.bed.shared.ledger().ends(*ip, now, false);
            self.bed.shared.tell(&format!("the container of {ip} vanishes"));
        }
    }

    fn docker(&mut self) {
        let seat = self.rng.usize(..self.players.len());
        let mode = [Mode::Up, Mode::Failing, Mode::Hanging][self.rng.usize(..3)];
        self.bed.shared.ledger().seats[seat].docker.mode = mode;
        self.bed.shared.tell(&format!("Docker of h{seat}: {mode:?}"));
    }

    /// An operator drains a host, or has it as it was.
    fn drain_one(&mut self) {
        let Some(seat) = self.somebody() else { return };
        let undo = self.rng.u8(0..3) == 0;
        self.drain_host(seat, undo);
    }

    /// Whether it was answered.
    pub fn drain_host(&mut self, seat: usize, undo: bool) -> bool {
        if undo {
            // Whatever becomes of the call, it may be over from now on.
            self.bed.shared.ledger().seats[seat].is_drained = false;
        }
        let order = if undo { "end" } else { "begin" };
        let id = self.call(seat, Asked::Drain { undo }, "/v1/drain", &json!({ "order": order }));
        matches!(self.outcome(id), Some(Outcome::Done(_)))
    }

    /// What a host keeps in its state folder becomes another, while its driver is away.
    fn state(&mut self) {
        let Some(seat) = self.somebody() else { return };
        self.calm();
        self.kill(seat);
        let what = self.bed.hosts[seat].state.meddle(&mut self.rng);
        {
            let mut ledger = self.bed.shared.ledger();
            // The word that it is drained lies there too.
            ledger.seats[seat].is_drained &= self.bed.hosts[seat].state.is_drained();
            let lost: Vec<Ipv4Addr> = ledger.live.iter().filter(|(_, on)| **on == seat).map(|(ip, _)| *ip).collect();
            ledger.lost.extend(lost);
        }
        self.bed.shared.tell(&format!("the state folder of h{seat} {what}"));
        self.tally.count(&format!("state folder {what}"));
        self.players[seat].back_at = Some(self.now() + Duration::from_secs([0, 1, 20, 70, 200][self.rng.usize(..5)]));
    }
}
