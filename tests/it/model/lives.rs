//! Instances come and go, drivers live and die, and Docker makes its networks.

use std::time::Duration;

use serde_json::json;
use vpc_sim::EniSpec;

use super::clock::quiet;
use super::docker::Mode;
use super::game::{Broken, Game, WINDOW};
use super::host::{Setting, mac};
use super::ledger::{Asked, Outcome, Seat};
use super::setup::{SUBNET, eni, instance};

impl Game<'_> {
    /// A new instance takes this place.
    pub fn launch(&mut self, seat: usize) {
        let generation = self.players[seat].generation;
        let (id, eni_id) = (instance(seat, generation), eni(seat, generation));
        let primary = (4..self.setup.size() - 1).map(|n| self.setup.nth(n)).find(|ip| self.vpc.holder(*ip).is_none());
        let primary = primary.expect("a free address");
        self.vpc.add_instance(&id, self.setup.hosts[seat]);
        self.vpc.add_eni(EniSpec::new(&eni_id, SUBNET, primary).on(&id, 1).mac(&mac(seat)));
        {
            let mut ledger = self.bed.shared.ledger();
            ledger.seats[seat] = Seat { eni: eni_id.clone(), primary: Some(primary), ..Seat::default() };
            ledger.cut.retain(|(_, of)| *of != seat);
        }
        self.bed.shared.tell(&format!("h{seat} is {eni_id} with {primary}"));
        let player = &mut self.players[seat];
        player.exists = true;
        player.pools.clear();
        // Those of the instance before must not take the new one's connections.
        drop(self.servers[seat].take());
        quiet(&self.pulses(), WINDOW);
        let _runtime = self.bed.stage.handle.enter();
        let (ec2, imds) = &self.bed.doors[seat];
        let servers =
            [self.vpc.serve_ec2(ec2.try_clone().unwrap()), self.vpc.serve_imds(&id, imds.try_clone().unwrap())];
        self.servers[seat] = Some(servers);
    }

    /// RequestPool, as `docker network create` makes it.
    pub fn make_pools(&mut self, seat: usize) -> Result<(), Broken> {
        let sub_pools = if self.setup.sub_pools {
            vec![String::new(), self.setup.sub_pool().to_string()]
        } else {
            vec![String::new()]
        };
        for sub_pool in sub_pools {
            let body = json!({
                "AddressSpace": "ec2-ipam", "Pool": self.setup.cidr, "SubPool": sub_pool, "Options": {}, "V6": false,
            });
            let call = self.call(seat, Asked::Pool, "/IpamDriver.RequestPool", &body);
            self.wait(Duration::from_secs(40), |game| game.answers.contains_key(&call));
            match self.answers.remove(&call).map(|closed| closed.outcome) {
                Some(Outcome::Done(answer)) => {
                    self.players[seat].pools.push(answer["PoolID"].as_str().unwrap_or_default().to_owned());
                }
                other if self.trouble_at.is_none() => return Err(format!("no pool on h{seat}: {other:?}")),
                _ => {}
            }
        }
        Ok(())
    }

    /// A life of the driver begins.
    pub fn revive(&mut self, seat: usize) {
        self.lives += 1;
        let (ec2, imds) = &self.bed.doors[seat];
        let url = |door: &std::net::TcpListener| format!("http://{}", door.local_addr().unwrap());
        let setting = Setting {
            settings: self.setup.settings(self.bed, seat),
            ec2: url(ec2),
            imds: url(imds),
            shared: self.bed.shared.clone(),
            vpc: self.vpc.clone(),
            points: self.tally.points.clone(),
            // A boot id must never come again.
            seed: self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (self.lives << 8) ^ u64::try_from(seat).unwrap(),
        };
        self.bed.shared.tell(&format!("h{seat} starts"));
        self.tally.count("lives");
        // Where the database has lost a lease and the driver its memory, only Docker knows of it: a host that starts
        // containers has a Docker that answers.
        let listed = {
            let mut ledger = self.bed.shared.ledger();
            let is_lost = ledger.live.iter().any(|(ip, on)| *on == seat && ledger.is_set_back(*ip));
            let docker = &mut ledger.seats[seat].docker;
            docker.meets_another();
            if is_lost {
                docker.mode = Mode::Up;
                docker.shows_all();
            }
            is_lost.then_some(docker.listings)
        };
        let player = &mut self.players[seat];
        player.life = Some(self.bed.hosts[seat].start(seat, setting));
        (player.fate, player.halted, player.back_at, player.listed) = (None, None, None, listed);
    }

    /// The driver is gone, and its open calls with it.
    pub fn kill(&mut self, seat: usize) {
        if let Some(life) = self.players[seat].life.take() {
            life.kill();
        }
        let player = &mut self.players[seat];
        (player.fate, player.halted, player.back_at) = (None, None, None);
        self.drain();
        self.bed.shared.ledger().open.retain(|_, open| open.seat != seat);
        self.bed.shared.tell(&format!("h{seat} is killed"));
    }
}
