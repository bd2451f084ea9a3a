//! A sequence under way: the hosts, the flow of time, and what is asked of whom.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use ec2_ipam::domain::address::State;
use ec2_ipam::domain::subnet::all_of;
use serde_json::Value;
use vpc_sim::{Effect, Server, Vpc};

use super::bed::Bed;
use super::books::Entry;
use super::clock::{Pulse, quiet, soon};
use super::host::Running;
use super::ledger::{Asked, Closed, Ledger, Open, Outcome, Seat};
use super::setup::{SUBNET, Setup, seat_of};
use super::tally::Tally;

/// A sequence that broke an invariant: which one.
pub type Broken = String;

/// What is to become of a host that stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Crash,
    Pause,
}

/// One host of the sequence.
pub struct Player {
    pub life: Option<Running>,
    /// Which instance has this place by now.
    pub generation: usize,
    /// The instance is there.
    pub exists: bool,
    /// Pools, the one with `--ip-range` second.
    pub pools: Vec<String>,
    /// What happens when it halts, and since when it does.
    pub fate: Option<Fate>,
    pub halted: Option<Duration>,
    /// When it is to go on, or to live again.
    pub back_at: Option<Duration>,
    /// Docker must have listed its containers more often than this before it starts another.
    pub listed: Option<usize>,
}

pub struct Game<'b> {
    pub bed: &'b Bed,
    pub rng: fastrand::Rng,
    pub setup: Setup,
    pub vpc: Vpc,
    pub players: Vec<Player>,
    pub tally: &'b mut Tally,
    pub last_call: u64,
    /// Calls that have been answered, and what the reference still wants to know of them.
    pub answers: BTreeMap<u64, Closed>,
    /// Versions of each table's rows, youngest last.
    pub versions: Vec<BTreeMap<Ipv4Addr, VecDeque<Entry>>>,
    /// When something last went wrong on purpose.
    pub trouble_at: Option<Duration>,
    pub foreign: Vec<String>,
    pub seed: u64,
    pub lives: u64,
    /// Time that the tables have not been aged by yet.
    unaged: Duration,
    pub servers: Vec<Option<[Server; 2]>>,
    /// What is wrong until it is put right: EC2 down, an action denied, lag.
    pub wrong: BTreeSet<&'static str>,
    /// Containers of which the table has not heard, and since when it might have.
    pub behind: BTreeMap<(Ipv4Addr, usize), Duration>,
}

/// Real time without any sign of work after which only time can bring more.
pub const WINDOW: Duration = Duration::from_micros(150);

impl<'b> Game<'b> {
    /// All hosts run and have their networks.
    pub fn new(bed: &'b Bed, seed: u64, blocks: bool, tally: &'b mut Tally) -> Result<Self, Broken> {
        // The hosts of each sequence are new machines.
        bed.hosts.iter().for_each(|host| host.state.clear());
        let mut rng = fastrand::Rng::with_seed(seed);
        fastrand::seed(seed);
        let setup = Setup::draw(&mut rng, blocks);
        bed.books.clear();
        let vpc = Vpc::new(setup.switch.1.clone());
        vpc.add_subnet(SUBNET, &setup.cidr.to_string());
        let seats = setup.hosts.len();
        let ledger = Ledger {
            seats: vec![Seat::default(); seats],
            aws: setup.aws(),
            cidr: Some(setup.cidr),
            cooldown: setup.cooldown,
            is_shared: bed.books.is_shared(),
            ..Ledger::default()
        };
        bed.shared.clear(ledger);
        bed.shared.tell(&format!("{:?} seed {seed} {setup:?}", bed.kind));
        let player = || Player {
            life: None,
            generation: 0,
            exists: false,
            pools: Vec::new(),
            fate: None,
            halted: None,
            back_at: None,
            listed: None,
        };
        let mut game = Self {
            bed,
            rng,
            players: (0..seats).map(|_| player()).collect(),
            versions: vec![BTreeMap::new(); bed.books.owners()],
            vpc,
            setup,
            tally,
            last_call: 0,
            answers: BTreeMap::new(),
            trouble_at: None,
            behind: BTreeMap::new(),
            foreign: Vec::new(),
            seed,
            lives: 0,
            unaged: Duration::ZERO,
            servers: (0..seats).map(|_| None).collect(),
            wrong: BTreeSet::new(),
        };
        game.watch();
        for seat in 0..seats {
            game.launch(seat);
        }
        game.vpc.settle();
        for seat in 0..seats {
            game.revive(seat);
        }
        for seat in 0..seats {
            game.make_pools(seat)?;
        }
        Ok(game)
    }

    pub fn is_up(&self, seat: usize) -> bool {
        let player = &self.players[seat];
        let has_listed = || self.bed.shared.ledger().seats[seat].docker.listings;
        player.exists
            && player.life.is_some()
            && player.halted.is_none()
            && !self.bed.hosts[seat].pulse.is_gone()
            && player.listed.is_none_or(|listed| has_listed() > listed)
    }

    /// Asks a host that is up.
    pub fn call(&mut self, seat: usize, asked: Asked, path: &str, body: &Value) -> u64 {
        let name = body["Options"]["com.docker.network.endpoint.name"].as_str().map(str::to_owned);
        self.last_call += 1;
        let id = self.last_call;
        self.bed.shared.tell(&format!("#{id} h{seat} {asked:?}?"));
        {
            let mut ledger = self.bed.shared.ledger();
            let is_drained = ledger.seats[seat].is_drained;
            ledger.open.insert(id, Open { seat, asked, name, is_left: false, is_drained });
        }
        self.players[seat].life.as_ref().expect("it runs").call(id, path, body);
        id
    }

    /// The addresses that are on an ENI in truth, those of its prefixes too, the primary not.
    pub fn truth(&self, eni: &str) -> BTreeSet<Ipv4Addr> {
        let of_prefixes = self.vpc.prefixes(eni).into_iter().flat_map(all_of);
        self.vpc.addresses(eni).into_iter().chain(of_prefixes).collect()
    }

    /// The slots that it has taken in truth, the primary address's not.
    pub fn slots(&self, eni: &str) -> usize {
        self.vpc.addresses(eni).len() + self.vpc.prefixes(eni).len()
    }

    /// Every call to the ENIs must find the claim that allows it (I3), whenever it lands.
    fn watch(&mut self) {
        let (books, shared) = (Arc::clone(&self.bed.books), self.bed.shared.clone());
        self.vpc.watch(move |Effect { eni, on, off, is_late }| {
            let Some(seat) = seat_of(eni) else { return };
            shared.tell(&format!("      EC2: {eni} +{on:?} -{off:?}"));
            for ip in on.iter().chain(off) {
                let row = books.row(seat, *ip);
                let claim =
                    row.as_ref().and_then(|row| row.claim.as_deref()).and_then(|claim| claim.rsplit(':').next());
                // The idle ones of a block come back with those that containers have.
                let is_idle = row.as_ref().is_some_and(|row| row.in_block && row.state() == State::Ready);
                let is_claimed = if on.contains(ip) {
                    is_idle || matches!(claim, Some("on" | "lease"))
                } else {
                    claim == Some("off")
                };
                let is_allowed = is_claimed && row.as_ref().is_some_and(|row| row.is_of(eni));
                let mut ledger = shared.ledger();
                if on.contains(ip) {
                    ledger.cut.remove(&(*ip, seat));
                }
                // An Assign may land when a later one has been confirmed, and the address given up since: it was claimed when
                // it was sent, harms nobody, and the next looks have to find it.
                if !is_allowed && *is_late && on.contains(ip) {
                    let owner = ledger.owner(seat);
                    ledger.set_back.insert((*ip, owner));
                }
                if !is_allowed && !ledger.is_set_back(*ip) {
                    let what = if on.contains(ip) { "came on" } else { "went off" };
                    let row = row.map(|row| row.shown());
                    ledger.broken.push(format!("I3: {ip} {what} {eni} while its row was {row:?}"));
                }
            }
        });
    }

    /// What the hosts have answered since.
    pub fn drain(&mut self) {
        let closed = std::mem::take(&mut self.bed.shared.ledger().closed);
        for closed in closed {
            let kind = match &closed.asked {
                Asked::Any { .. } => "request",
                Asked::Named(_) => "request by address",
                Asked::Pool => "pool",
                Asked::Gateway => "gateway",
                Asked::Release => "release",
                Asked::Recycle => "recycle",
                Asked::Init => "init",
                Asked::Reserve(_) => "reserve",
                Asked::Unreserve => "unreserve",
                Asked::Drain { undo: false } => "drain",
                Asked::Drain { undo: true } => "drain, undone",
            };
            let came = match &closed.outcome {
                Outcome::Granted(_, None) => "granted",
                Outcome::Granted(_, Some(_)) => "granted before it had cooled",
                Outcome::TakenBack(_) => "taken back",
                Outcome::Refused(_) => "refused",
                Outcome::Done(_) => "done",
                Outcome::Late => "cut off at its deadline",
            };
            self.tally.count(&format!("{kind} {came}"));
            self.answers.insert(closed.id, closed);
        }
    }

    pub fn pulses(&self) -> Vec<&Pulse> {
        let hosts = self.bed.hosts.iter().map(|host| &*host.pulse);
        hosts.chain([&*self.bed.stage.pulse]).collect()
    }

    /// All that can happen without time has happened.
    pub fn calm(&mut self) {
        quiet(&self.pulses(), WINDOW);
        for seat in 0..self.players.len() {
            let pulse = &self.bed.hosts[seat].pulse;
            if self.players[seat].life.is_some() && self.players[seat].halted.is_none() {
                if pulse.is_halted() {
                    self.halted(seat);
                } else if pulse.is_gone() {
                    // An orderly stop has come to its end.
                    self.kill(seat);
                    self.players[seat].back_at = Some(self.now());
                }
            }
        }
        self.drain();
    }

    /// A host has come to the point where it was to halt.
    fn halted(&mut self, seat: usize) {
        let now = self.now();
        if self.players[seat].fate == Some(Fate::Pause) {
            self.players[seat].halted = Some(now);
            self.players[seat].back_at = Some(now + Duration::from_secs([1, 5, 40, 70, 130, 300][self.rng.usize(..6)]));
            self.tally.count("pauses");
        } else {
            self.kill(seat);
            self.players[seat].back_at = Some(now + Duration::from_secs([0, 0, 1, 20, 70, 200][self.rng.usize(..6)]));
            self.tally.count("crashes");
        }
    }

    pub fn now(&self) -> Duration {
        self.bed.shared.now()
    }

    /// So much time passes for everybody.
    pub fn flow(&mut self, step: Duration) {
        let now = self.now() + step;
        self.bed.shared.set_now(now);
        self.unaged += step;
        if self.unaged >= Duration::from_secs(2) {
            if !self.bed.books.age(self.unaged.as_secs()) {
                // So do other hosts wait for it, but not for so long.
                for seat in
                    (0..self.players.len()).filter(|seat| self.players[*seat].halted.is_some()).collect::<Vec<_>>()
                {
                    self.bring(seat);
                }
                self.calm();
                assert!(self.bed.books.age(self.unaged.as_secs()), "rows stay locked");
            }
            self.unaged -= Duration::from_secs(self.unaged.as_secs());
        }
        self.bed.stage.pass(step);
        for player in &self.players {
            if let Some(life) = player.life.as_ref().filter(|_| player.halted.is_none()) {
                life.tell(now);
            }
        }
        soon("the hosts know the time", || self.bed.hosts.iter().all(|host| host.pulse.has_been_told(now)));
        self.calm();
        self.bring_back();
    }

    /// Hosts whose time has come go on, or live again.
    fn bring_back(&mut self) {
        let now = self.now();
        for seat in 0..self.players.len() {
            if self.players[seat].back_at.is_some_and(|at| at <= now) && self.players[seat].exists {
                self.bring(seat);
            }
        }
    }

    pub fn bring(&mut self, seat: usize) {
        let now = self.now();
        match (&self.players[seat].life, self.players[seat].halted) {
            (Some(life), Some(since)) => {
                if now - since > Duration::from_secs(30) {
                    // Docker has given up meanwhile.
                    let mut ledger = self.bed.shared.ledger();
                    ledger.open.values_mut().filter(|open| open.seat == seat).for_each(|open| open.is_left = true);
                }
                self.bed.shared.tell(&format!("h{seat} goes on"));
                life.resume(now);
                let player = &mut self.players[seat];
                (player.fate, player.halted, player.back_at) = (None, None, None);
            }
            (None, _) => self.revive(seat),
            (Some(_), None) => self.players[seat].back_at = None,
        }
    }

    /// Lets time flow, in ever larger steps, until it holds or so much time has passed.
    pub fn wait(&mut self, most: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let start = self.now();
        loop {
            self.calm();
            if done(self) {
                return true;
            }
            let waited = self.now() - start;
            if waited >= most {
                return false;
            }
            let step = match waited.as_millis() {
                0..300 => 20,
                300..2_000 => 100,
                2_000..10_000 => 250,
                _ => 500,
            };
            self.flow(Duration::from_millis(step).min(most - waited));
        }
    }

    /// So much time passes, in steps that are no longer than what the driver may oversleep: little while somebody waits.
    pub fn pass(&mut self, seconds: u64) {
        let end = self.now() + Duration::from_secs(seconds);
        let mut step = 1;
        while self.now() < end {
            self.flow(Duration::from_secs(step).min(end - self.now()));
            let is_waited_for = !self.bed.shared.ledger().open.is_empty();
            step = if is_waited_for { 1 } else { (step * 2).min(20) };
        }
    }

    /// Waits for a call's answer, or for the end of whom it was asked of.
    pub fn outcome(&mut self, id: u64) -> Option<Outcome> {
        let patience = self.setup.timeout + Duration::from_secs(12);
        self.wait(patience, |game| {
            game.answers.contains_key(&id) || !game.bed.shared.ledger().open.contains_key(&id) || {
                let seat = game.bed.shared.ledger().open.get(&id).map(|open| open.seat);
                seat.is_some_and(|seat| game.players[seat].halted.is_some())
            }
        });
        self.drain();
        self.answers.remove(&id).map(|closed| closed.outcome)
    }
}

impl Drop for Game<'_> {
    fn drop(&mut self) {
        for seat in 0..self.players.len() {
            if let Some(life) = self.players[seat].life.take() {
                life.kill();
            }
        }
        // What lands late is nobody's business any more.
        self.vpc.watch(|_| ());
    }
}
