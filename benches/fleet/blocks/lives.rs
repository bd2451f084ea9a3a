//! Containers that come and go on interfaces, in virtual time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::eni::{Choice, Eni};
use super::table::Table;
use tokio::time::Instant;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Wake,
    Start(Duration),
    Stop(u64, Ipv4Addr),
    /// The instance is replaced by another one.
    Replace,
    /// What the caller looks at.
    Look,
}

pub struct Life {
    pub table: Table,
    enis: Vec<Host>,
    events: BinaryHeap<Reverse<(Duration, usize, Event)>>,
    start: Instant,
    slots: usize,
    choice: Choice,
    /// Blocks at the subnet's end in which nobody gets an address whom EC2 chooses it for.
    reserved: usize,
    pub now: Duration,
    pub starts: usize,
    pub refused: usize,
    calls: usize,
}

/// An instance, and which one in its place.
struct Host {
    eni: Eni,
    number: u64,
}

impl Life {
    pub fn new(table: Table, slots: usize, choice: Choice, reserved: usize) -> Self {
        let (enis, events, start, now) = (Vec::new(), BinaryHeap::new(), Instant::now(), Duration::ZERO);
        Self { table, enis, events, start, slots, choice, reserved, now, starts: 0, refused: 0, calls: 0 }
    }

    /// One more host. Its primary address is EC2's to choose.
    pub fn host(&mut self) -> usize {
        let eni = self.eni();
        self.enis.push(Host { eni, number: 0 });
        self.enis.len() - 1
    }

    fn eni(&mut self) -> Eni {
        let primary = self.table.anywhere(1, self.reserved)[0];
        Eni::new(self.slots, primary, self.choice, self.start, self.now)
    }

    fn at(&mut self, at: Duration, host: usize, event: Event) {
        self.events.push(Reverse((at, host, event)));
    }

    /// A container that lives for so long.
    pub fn starts(&mut self, at: Duration, host: usize, lives: Duration) {
        self.at(at, host, Event::Start(lives));
    }

    pub fn replaced(&mut self, at: Duration, host: usize) {
        self.at(at, host, Event::Replace);
    }

    pub fn looked_at(&mut self, at: Duration) {
        self.at(at, 0, Event::Look);
    }

    /// EC2 calls so far.
    pub fn calls(&self) -> usize {
        self.calls + self.enis.iter().map(|host| host.eni.calls).sum::<usize>()
    }

    /// Containers that run on a host.
    pub fn running(&self, host: usize) -> usize {
        self.enis[host].eni.leases().count()
    }

    /// Until the end. `look`: at each time for which that was asked.
    pub fn runs(&mut self, end: Duration, mut look: impl FnMut(&mut Self)) {
        while let Some(Reverse((at, n, event))) = self.events.pop() {
            if at > end {
                return;
            }
            self.now = at;
            match event {
                Event::Look => {
                    look(self);
                    continue;
                }
                Event::Wake if self.enis[n].eni.wake != Some(at) => continue,
                Event::Wake => self.enis[n].eni.wakes(&mut self.table, at),
                Event::Start(lives) => {
                    self.starts += 1;
                    let number = self.enis[n].number;
                    match self.enis[n].eni.starts(&mut self.table, at) {
                        Some(ip) => self.at(at + lives, n, Event::Stop(number, ip)),
                        None => self.refused += 1,
                    }
                }
                Event::Stop(number, _) if self.enis[n].number != number => continue,
                Event::Stop(_, ip) => self.enis[n].eni.stops(ip, at),
                Event::Replace => {
                    let new = self.eni();
                    let old = std::mem::replace(&mut self.enis[n].eni, new);
                    self.calls += old.calls;
                    old.ends(&mut self.table, at);
                    self.enis[n].number += 1;
                }
            }
            if let Some(wake) = self.enis[n].eni.wake {
                self.at(wake.max(at), n, Event::Wake);
            }
        }
    }
}
