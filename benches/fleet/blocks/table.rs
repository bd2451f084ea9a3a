//! A subnet's rows in memory, taken and given back by the rules of the store.

use std::net::Ipv4Addr;
use std::time::Duration;

use ec2_ipam::domain::address::cooldown_seconds;
use ec2_ipam::domain::block::{Block, SIZE};
use ec2_ipam::domain::subnet::Subnet;
use fastrand::Rng;

/// Blocks with a free row that are looked at for single addresses, and as many as are where these are all whole.
const FIRST: usize = 64;
const FURTHER: usize = 256;

/// When it was let go, in seconds; none: it is taken.
type Cell = Option<i64>;
const LONG_AGO: i64 = -1_000_000_000;

pub struct Table {
    pub subnet: Subnet,
    base: u32,
    cells: Vec<Cell>,
    /// Free rows of each block.
    free: Vec<usize>,
    pub rng: Rng,
}

impl Table {
    pub fn new(cidr: &str, seed: u64) -> Self {
        let subnet = Subnet::new("subnet-0aaaaaaaaaaaaaaa1".parse().unwrap(), cidr.parse().unwrap()).unwrap();
        let size = usize::try_from(subnet.size()).unwrap();
        let base = u32::from(subnet.cidr.network());
        let (cells, free) = (vec![Some(LONG_AGO); size], vec![SIZE; size / SIZE]);
        let mut table = Self { base, cells, free, rng: Rng::with_seed(seed), subnet };
        for ip in table.subnet.aws_reserved() {
            table.take(ip);
        }
        table
    }

    fn at(&self, ip: Ipv4Addr) -> usize {
        (u32::from(ip) - self.base) as usize
    }

    fn ip(&self, at: usize) -> Ipv4Addr {
        Ipv4Addr::from(self.base + at as u32)
    }

    fn take(&mut self, ip: Ipv4Addr) {
        let at = self.at(ip);
        assert!(self.cells[at].take().is_some(), "I1: {ip} is taken twice");
        self.free[at / SIZE] -= 1;
    }

    pub fn give_back(&mut self, ip: Ipv4Addr, let_go: i64) {
        let at = self.at(ip);
        assert!(self.cells[at].replace(let_go).is_none());
        self.free[at / SIZE] += 1;
    }

    pub fn free(&self) -> usize {
        self.free.iter().sum()
    }

    pub fn whole(&self) -> usize {
        self.free.iter().filter(|free| **free == SIZE).count()
    }

    /// Of the whole blocks that as many free rows would make up at most, the part that there is.
    pub fn whole_of_possible(&self) -> f64 {
        self.whole() as f64 / (self.free() / SIZE) as f64
    }

    /// As far as a sample of 64 tells.
    pub fn plenty(&mut self) -> bool {
        let usable = self.free.len() - 2;
        let sample = usable.min(64);
        let drawn = (0..sample).map(|n| 1 + self.rng.usize(n * usable / sample..(n + 1) * usable / sample));
        drawn.filter(|block| self.free[*block] == SIZE).count() * 4 >= sample
    }

    fn is_cooled(&self, at: usize, now: Duration, cooldown: Duration) -> bool {
        self.cells[at].is_some_and(|let_go| now.as_secs() as i64 - let_go >= cooldown_seconds(cooldown) as i64)
    }

    /// The first whole ones from a random place on that have cooled.
    pub fn claim_blocks(&mut self, count: usize, now: Duration, cooldown: Duration) -> Vec<Block> {
        let place = self.rng.usize(..self.free.len());
        let all = (place..self.free.len()).chain(0..place).filter(|block| self.free[*block] == SIZE).take(FIRST);
        let cooled = all.filter(|block| (0..SIZE).all(|n| self.is_cooled(block * SIZE + n, now, cooldown)));
        let taken: Vec<Block> = cooled.take(count).map(|block| Block::of(self.ip(block * SIZE))).collect();
        taken.iter().flat_map(|block| block.addresses()).for_each(|ip| self.take(ip));
        taken
    }

    /// From broken blocks near the lowest, the fullest first and in each the coldest; then from whole ones.
    pub fn claim_singles(&mut self, count: usize, now: Duration, cooldown: Duration) -> Vec<Ipv4Addr> {
        let seen: Vec<usize> = (0..self.free.len()).filter(|block| self.free[*block] > 0).take(FURTHER).collect();
        let rows = |blocks: &[usize], is_whole: bool| -> Vec<usize> {
            let blocks = blocks.iter().filter(|block| (self.free[**block] == SIZE) == is_whole);
            blocks
                .flat_map(|block| block * SIZE..(block + 1) * SIZE)
                .filter(|at| self.is_cooled(*at, now, cooldown))
                .collect()
        };
        let mut broken = rows(&seen[..seen.len().min(FIRST)], false);
        if broken.is_empty() {
            broken = rows(&seen, false);
        }
        broken.sort_by_key(|at| (self.free[at / SIZE], at / SIZE, self.cells[*at]));
        broken.extend(rows(&seen, true));
        broken.truncate(count);
        let taken: Vec<Ipv4Addr> = broken.into_iter().map(|at| self.ip(at)).collect();
        taken.iter().for_each(|ip| self.take(*ip));
        taken
    }

    /// As EC2 chooses where it is told a count: anywhere, but not in what is reserved explicitly, the last so many blocks.
    pub fn anywhere(&mut self, count: usize, reserved: usize) -> Vec<Ipv4Addr> {
        let open = self.cells.len() - reserved * SIZE;
        let mut free: Vec<usize> = (0..open).filter(|at| self.cells[*at].is_some()).collect();
        self.rng.shuffle(&mut free);
        free.truncate(count);
        let taken: Vec<Ipv4Addr> = free.into_iter().map(|at| self.ip(at)).collect();
        taken.iter().for_each(|ip| self.take(*ip));
        taken
    }
}
