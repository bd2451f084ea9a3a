//! What happens next: requests and releases, operators, and time.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::json;

use super::game::{Broken, Fate, Game};
use super::ledger::{Asked, Outcome};
use super::setup::{SUBNET, Trouble};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Move {
    Request,
    Named,
    Leave,
    Release,
    BadRelease,
    Gateway,
    Restart,
    Time,
    Trouble(Trouble),
}

impl Game<'_> {
    /// One step of the sequence, and a look at everything after it.
    pub fn step(&mut self) -> Result<(), Broken> {
        let mut moves = vec![
            (26, Move::Request),
            (8, Move::Named),
            (4, Move::Leave),
            (22, Move::Release),
            (4, Move::BadRelease),
            (1, Move::Gateway),
            (2, Move::Restart),
            (8, Move::Time),
        ];
        moves.extend(self.setup.troubles.iter().map(|trouble| (9, Move::Trouble(*trouble))));
        let total: u32 = moves.iter().map(|(weight, _)| weight).sum();
        let mut at = self.rng.u32(..total);
        let chosen = moves.into_iter().find(|(weight, _)| {
            let is_it = at < *weight;
            at = at.saturating_sub(*weight);
            is_it
        });
        let Some((_, chosen)) = chosen else { return Ok(()) };
        self.tally.count("steps");
        self.make(chosen)?;
        self.check()
    }

    fn make(&mut self, chosen: Move) -> Result<(), Broken> {
        if let Move::Trouble(trouble) = chosen {
            return self.trouble(trouble);
        }
        if chosen == Move::Time {
            let seconds = [1, 5, 61, 61, 130, 605][self.rng.usize(..6)];
            self.bed.shared.tell(&format!("{seconds} s pass"));
            self.pass(seconds);
            return Ok(());
        }
        let Some(seat) = self.somebody() else {
            self.flow(Duration::from_secs(1));
            return Ok(());
        };
        match chosen {
            Move::Request => self.request(seat, None),
            Move::Named => {
                let ip = self.setup.nth(self.rng.u32(..self.setup.size()));
                self.request(seat, Some(ip))
            }
            Move::Leave => {
                self.leave(seat);
                Ok(())
            }
            Move::Release => {
                self.release(seat);
                Ok(())
            }
            Move::BadRelease => {
                self.release_what_is_not_there(seat);
                Ok(())
            }
            Move::Gateway => self.gateway(seat),
            Move::Restart => {
                self.restart(seat);
                Ok(())
            }
            Move::Time | Move::Trouble(_) => Ok(()),
        }
    }

    /// A host that is up and has its network.
    pub fn somebody(&mut self) -> Option<usize> {
        let up: Vec<usize> = (0..self.players.len()).filter(|seat| self.is_up(*seat)).collect();
        let seat = *self.rng.choice(&up)?;
        if self.players[seat].pools.is_empty() {
            let _ = self.make_pools(seat);
            return Some(seat).filter(|seat| self.is_up(*seat) && !self.players[*seat].pools.is_empty());
        }
        Some(seat)
    }

    /// RequestAddress; its number, and what it asks for.
    fn ask(&mut self, seat: usize, address: Option<Ipv4Addr>) -> (u64, Asked) {
        let at = self.rng.usize(..self.players[seat].pools.len());
        let pool = self.players[seat].pools[at].clone();
        let asked = address.map_or(Asked::Any { sub_pool: at > 0 }, Asked::Named);
        let text = address.map(|ip| ip.to_string()).unwrap_or_default();
        // Few names, so that containers come back.
        let name = format!("h{seat}c{}", self.rng.u8(0..6));
        let is_free = {
            let ledger = self.bed.shared.ledger();
            let mut used = ledger
                .live
                .keys()
                .filter_map(|ip| ledger.names.get(ip))
                .chain(ledger.open.values().filter_map(|open| open.name.as_ref()));
            used.all(|other| *other != name)
        };
        let options = if is_free { json!({ "com.docker.network.endpoint.name": name }) } else { json!(null) };
        let body = json!({ "PoolID": pool, "Address": text, "Options": options });
        (self.call(seat, asked.clone(), "/IpamDriver.RequestAddress", &body), asked)
    }

    fn request(&mut self, seat: usize, address: Option<Ipv4Addr>) -> Result<(), Broken> {
        let before = self.picture(seat);
        let (id, asked) = self.ask(seat, address);
        if self.rng.u8(0..4) == 0 {
            let pause = Duration::from_millis(self.rng.u64(0..300));
            self.flow(pause);
            return Ok(());
        }
        match (self.outcome(id), before) {
            (Some(outcome), Some(before)) => self.judge(seat, &asked, &outcome, &before),
            _ => Ok(()),
        }
    }

    /// A container that ends as soon as it has started.
    pub fn come_and_go(&mut self, seat: usize) {
        let (id, _) = self.ask(seat, None);
        if let Some(Outcome::Granted(ip, _)) = self.outcome(id) {
            let now = self.now();
            self.bed.shared.ledger().ends(ip, now, true);
            let id = self.tell_release(seat, ip);
            self.outcome(id);
        }
    }

    /// Whoever asked has gone before the answer comes.
    fn leave(&mut self, seat: usize) {
        let (id, _) = self.ask(seat, None);
        for _ in 0..self.rng.u8(0..3) {
            self.flow(Duration::from_millis(20));
        }
        if let Some(open) = self.bed.shared.ledger().open.get_mut(&id) {
            open.is_left = true;
        }
        self.bed.shared.tell(&format!("#{id} nobody waits for it any more"));
        self.outcome(id);
    }

    fn release(&mut self, seat: usize) {
        let mine: Vec<Ipv4Addr> = {
            let ledger = self.bed.shared.ledger();
            ledger.live.iter().filter(|(_, on)| **on == seat).map(|(ip, _)| *ip).collect()
        };
        let Some(ip) = self.rng.choice(&mine).copied() else { return };
        let now = self.now();
        self.bed.shared.ledger().ends(ip, now, true);
        let id = self.tell_release(seat, ip);
        if self.rng.u8(0..8) == 0 {
            self.tell_release(seat, ip);
        }
        if self.rng.u8(0..4) > 0 {
            self.outcome(id);
        }
    }

    fn tell_release(&mut self, seat: usize, ip: Ipv4Addr) -> u64 {
        let pool = self.players[seat].pools[0].clone();
        self.bed.shared.tell(&format!("release {ip}"));
        self.call(seat, Asked::Release, "/IpamDriver.ReleaseAddress", &json!({ "PoolID": pool, "Address": ip }))
    }

    /// Unknown, released before, the gateway, another host's, a reserved one: it must change nothing (I8).
    fn release_what_is_not_there(&mut self, seat: usize) {
        let ip = self.setup.nth(self.rng.u32(..self.setup.size()));
        {
            let ledger = self.bed.shared.ledger();
            // What this host has, or may be about to have, would really be released.
            if ledger.live.get(&ip) == Some(&seat) || ledger.open.values().any(|open| open.seat == seat) {
                return;
            }
        }
        let id = self.tell_release(seat, ip);
        self.outcome(id);
    }

    fn gateway(&mut self, seat: usize) -> Result<(), Broken> {
        let (pool, router) = (self.players[seat].pools[0].clone(), self.setup.nth(1));
        let options = json!({ "RequestAddressType": "com.docker.network.gateway" });
        let body = json!({ "PoolID": pool, "Address": "", "Options": options });
        let id = self.call(seat, Asked::Gateway, "/IpamDriver.RequestAddress", &body);
        match self.outcome(id) {
            Some(Outcome::Done(answer))
                if answer["Address"] != format!("{router}/{}", self.setup.cidr.prefix_len()) =>
            {
                Err(format!("the gateway is {answer}"))
            }
            _ => Ok(()),
        }
    }

    fn restart(&mut self, seat: usize) {
        self.bed.shared.tell(&format!("h{seat} is told to stop"));
        self.tally.count("restarts");
        if let Some(life) = &self.players[seat].life {
            life.stop();
        }
        // What is killed or stands still in the midst of it is looked after as ever.
        self.wait(Duration::from_secs(10), |game| {
            game.players[seat].life.is_none() || game.players[seat].halted.is_some()
        });
        if self.players[seat].life.is_none() && self.players[seat].exists {
            self.bring(seat);
        }
    }

    /// Where it stands, at its n-th point from now, or at once.
    pub fn strike(&mut self, fate: Fate) -> Result<(), Broken> {
        let Some(seat) = self.somebody() else { return Ok(()) };
        self.players[seat].fate = Some(fate);
        let points = i64::from(self.rng.u8(1..=8));
        let Some(life) = &self.players[seat].life else { return Ok(()) };
        if self.rng.u8(0..4) > 0 {
            life.arm(points);
            return if self.rng.bool() { self.request(seat, None) } else { Ok(()) };
        }
        self.ask(seat, None);
        for _ in 0..self.rng.u8(0..3) {
            self.flow(Duration::from_millis(20));
        }
        // Not in the midst of a transaction: its locks would stand in everybody's way in real time.
        self.calm();
        if let Some(life) = self.players[seat].life.as_ref().filter(|_| self.players[seat].halted.is_none()) {
            life.halt();
        }
        self.calm();
        Ok(())
    }

    /// The driver's own commands.
    pub fn operate(&mut self) -> Result<(), Broken> {
        let Some(seat) = self.somebody() else { return Ok(()) };
        let ip = self.setup.nth(self.rng.u32(..self.setup.size()));
        let of_subnet = |all: bool| json!({ "subnet": SUBNET, "all": all });
        let (asked, path, body) = match self.rng.u8(0..8) {
            0..=1 => (Asked::Recycle, "/v1/recycle", of_subnet(false)),
            2..=3 => (Asked::Recycle, "/v1/recycle", of_subnet(true)),
            4 => (Asked::Init, "/v1/init", of_subnet(false)),
            5..=6 => (Asked::Reserve(ip), "/v1/reserve", json!({ "ip": ip, "name": "model" })),
            _ => (Asked::Unreserve, "/v1/unreserve", json!({ "ip": ip })),
        };
        let owner = self.bed.shared.ledger().owner(seat);
        // By the table alone, which may just have lost a lease that only its host, or Docker, still knows.
        let is_lost = {
            let ledger = self.bed.shared.ledger();
            ledger.live.keys().any(|ip| ledger.is_set_back(*ip))
        };
        if is_lost && asked == Asked::Recycle {
            return Ok(());
        }
        let was_reserved = asked == Asked::Unreserve && self.bed.shared.ledger().reserved.remove(&(ip, owner));
        let id = self.call(seat, asked, path, &body);
        if self.rng.u8(0..4) > 0 {
            let outcome = self.outcome(id);
            if was_reserved && matches!(outcome, Some(Outcome::Refused(_))) {
                self.bed.shared.ledger().reserved.insert((ip, owner));
            }
        }
        Ok(())
    }
}
