//! The plain reference: who holds which address by what was answered and what was released, and what must never happen.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnet::Ipv4Net;
use serde_json::Value;

use super::docker::Docker;

/// What was asked of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    Pool,
    Any { sub_pool: bool },
    Named(Ipv4Addr),
    Gateway,
    Release,
    Recycle,
    Init,
    Reserve(Ipv4Addr),
    Unreserve,
    Drain { undo: bool },
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A container has it now. With it: for how long its last holder had let it go, if that was short of the cool-down.
    Granted(Ipv4Addr, Option<Duration>),
    /// Granted, but nobody waited for the answer any more.
    TakenBack(Ipv4Addr),
    Refused(String),
    Done(Value),
    /// No answer within the deadline.
    Late,
}

/// A call that is not answered yet.
#[derive(Clone, Debug)]
pub struct Open {
    pub seat: usize,
    pub asked: Asked,
    /// The endpoint.
    pub name: Option<String>,
    /// Nobody waits for the answer.
    pub is_left: bool,
    /// The host was drained, by its own answer, before this was asked.
    pub is_drained: bool,
}

/// A call that was answered.
#[derive(Clone, Debug)]
pub struct Closed {
    pub id: u64,
    pub asked: Asked,
    pub outcome: Outcome,
}

/// What the reference knows of a host.
#[derive(Clone, Debug, Default)]
pub struct Seat {
    pub eni: String,
    pub primary: Option<Ipv4Addr>,
    /// Drained by its driver's answer, and not told otherwise since.
    pub is_drained: bool,
    pub docker: Docker,
}

/// All of it.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Containers that run, and their hosts.
    pub live: BTreeMap<Ipv4Addr, usize>,
    /// The endpoint that has, or last had, an address, where the Engine named it.
    pub names: BTreeMap<Ipv4Addr, String>,
    /// When the last holder of an address let it go, and on which host.
    pub let_go: BTreeMap<Ipv4Addr, (Duration, usize)>,
    /// Addresses that an operator reserved, and in whose table.
    pub reserved: BTreeSet<(Ipv4Addr, usize)>,
    /// Addresses of containers whose host has lost its state folder since it gave them.
    pub lost: BTreeSet<Ipv4Addr>,
    /// Addresses that the test took off a host's ENI behind the driver's back, until they are assigned to it again.
    pub cut: BTreeSet<(Ipv4Addr, usize)>,
    /// Addresses whose rows were set back, or do not know of what landed late, and in whose table, until they are right again.
    pub set_back: BTreeSet<(Ipv4Addr, usize)>,
    pub cidr: Option<Ipv4Net>,
    /// AWS's five.
    pub aws: BTreeSet<Ipv4Addr>,
    pub seats: Vec<Seat>,
    pub open: BTreeMap<u64, Open>,
    pub closed: Vec<Closed>,
    pub cooldown: Duration,
    /// Whether hosts know of each other's releases.
    pub is_shared: bool,
    /// Invariants that broke.
    pub broken: Vec<String>,
}

/// The ledger, the time, and the story so far.
#[derive(Clone, Default)]
pub struct Shared {
    ledger: Arc<Mutex<Ledger>>,
    now: Arc<AtomicU64>,
    story: Arc<Mutex<Vec<String>>>,
}

impl Shared {
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn now(&self) -> Duration {
        Duration::from_micros(self.now.load(Ordering::Acquire))
    }

    pub fn set_now(&self, now: Duration) {
        self.now.store(u64::try_from(now.as_micros()).unwrap(), Ordering::Release);
    }

    pub fn tell(&self, line: &str) {
        let line = format!("{:9.3} {line}", self.now().as_secs_f64());
        self.story.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    pub fn story(&self) -> Vec<String> {
        self.story.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Another sequence begins.
    pub fn clear(&self, ledger: Ledger) {
        *self.ledger() = ledger;
        self.set_now(Duration::ZERO);
        self.story.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub fn broken(&self, why: String) {
        self.tell(&format!("BROKEN {why}"));
        self.ledger().broken.push(why);
    }

    /// A host answers a call; `holder` is the ENI that has the granted address in truth. Whether somebody got the answer.
    pub fn answered(&self, id: u64, said: Result<Value, String>, holder: Option<String>) -> bool {
        let now = self.now();
        let mut ledger = self.ledger();
        let Some(open) = ledger.open.remove(&id) else {
            drop(ledger);
            self.tell(&format!("#{id} answered too late: {said:?}"));
            return false;
        };
        let outcome = match (&open.asked, said) {
            (_, Err(why)) => Outcome::Refused(why),
            (Asked::Any { .. } | Asked::Named(_), Ok(answer)) => {
                let address = answer["Address"].as_str().unwrap_or_default();
                let ip = address.split('/').next().unwrap_or_default().parse().expect("an address");
                if open.is_left {
                    Outcome::TakenBack(ip)
                } else {
                    let heat = ledger.granted(ip, &open, holder, now);
                    Outcome::Granted(ip, heat)
                }
            }
            (Asked::Reserve(ip), Ok(answer)) => {
                let owner = ledger.owner(open.seat);
                if let Some(seat) = ledger.live.get(ip).filter(|seat| ledger.owner(**seat) == owner) {
                    let why = format!("I7: {ip} was reserved while a container on h{seat} has it");
                    ledger.broken.push(why);
                }
                ledger.reserved.insert((*ip, owner));
                Outcome::Done(answer)
            }
            (Asked::Drain { undo: false }, Ok(answer)) => {
                ledger.seats[open.seat].is_drained = true;
                Outcome::Done(answer)
            }
            (_, Ok(answer)) => Outcome::Done(answer),
        };
        let has_got = !open.is_left;
        let line = format!("#{id} h{} {:?} -> {outcome:?}", open.seat, open.asked);
        ledger.closed.push(Closed { id, asked: open.asked, outcome });
        drop(ledger);
        self.tell(&line);
        has_got
    }

    /// The caller's patience is at an end.
    pub fn late(&self, id: u64) {
        let mut ledger = self.ledger();
        let Some(open) = ledger.open.remove(&id) else { return };
        ledger.closed.push(Closed { id, asked: open.asked.clone(), outcome: Outcome::Late });
        drop(ledger);
        self.tell(&format!("#{id} h{} {:?} -> no answer in time", open.seat, open.asked));
    }
}

impl Ledger {
    /// Whose table the host has.
    pub fn owner(&self, seat: usize) -> usize {
        if self.is_shared { 0 } else { seat }
    }

    pub fn is_set_back(&self, ip: Ipv4Addr) -> bool {
        self.set_back.iter().any(|(other, _)| *other == ip)
    }

    /// A container runs with this address from now on.
    fn granted(&mut self, ip: Ipv4Addr, open: &Open, holder: Option<String>, now: Duration) -> Option<Duration> {
        let seat = open.seat;
        if open.is_drained && self.seats[seat].is_drained {
            self.broken.push(format!("h{seat} is drained, and gave {ip}"));
        }
        let other = self.live.get(&ip).copied();
        if let Some(other) = other {
            // An operator took it off one host's ENI, so that another could have it where the table is not shared, or was
            // set back. Until that host's driver looks again it cannot know; its container is lost.
            let is_hidden = !self.is_shared || self.is_set_back(ip);
            let is_cut = |seat| is_hidden && self.cut.contains(&(ip, seat));
            match (is_cut(seat), is_cut(other)) {
                (true, _) => return None,
                (false, true) => self.seats[other].docker.hides(ip, now, false),
                (false, false) => self
                    .broken
                    .push(format!("I1: {ip} was given to a container on h{seat} while one on h{other} has it")),
            }
        }
        self.live.insert(ip, seat);
        self.lost.remove(&ip);
        if holder.as_ref() != Some(&self.seats[seat].eni) && !self.cut.contains(&(ip, seat)) {
            self.broken.push(format!("I2: {ip} was given on h{seat} while {holder:?} has it in truth"));
        }
        // What was taken off an ENI behind its driver's back may be the primary address of another one by now.
        let is_primary = !self.cut.contains(&(ip, seat)) && self.seats.iter().any(|seat| seat.primary == Some(ip));
        // What is reserved for a name is given to whoever asks for the address itself.
        let is_reserved = self.reserved.contains(&(ip, self.owner(seat))) && matches!(open.asked, Asked::Any { .. });
        if is_primary || self.aws.contains(&ip) || is_reserved {
            self.broken.push(format!("I7: {ip} was given on h{seat}: a primary or reserved address"));
        }
        if let Asked::Named(named) = open.asked
            && named != ip
        {
            self.broken.push(format!("{named} was asked for, and {ip} was given on h{seat}"));
        }
        self.seats[seat].docker.shows(ip, now);
        let before = match &open.name {
            Some(name) => self.names.insert(ip, name.clone()),
            None => self.names.remove(&ip),
        };
        // Its own address comes back to it at once.
        if before.is_some() && before == open.name {
            return None;
        }
        let (at, by) = *self.let_go.get(&ip)?;
        let age = now.saturating_sub(at);
        // The database counts whole seconds.
        let is_hot = age + Duration::from_secs(2) < self.cooldown && (self.is_shared || by == seat);
        (is_hot && matches!(open.asked, Asked::Any { .. })).then_some(age)
    }

    /// The container is gone, and Docker says so, or does not.
    pub fn ends(&mut self, ip: Ipv4Addr, now: Duration, is_told: bool) {
        let seat = self.live.remove(&ip).expect("it lived");
        self.seats[seat].docker.hides(ip, now, is_told);
        if is_told {
            self.let_go.insert(ip, (now, seat));
        }
    }
}
