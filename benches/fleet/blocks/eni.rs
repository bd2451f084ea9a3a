//! One interface in virtual time: the driver's own decisions on what it has, and EC2 that does at once what it is asked.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::time::Duration;

use ec2_ipam::domain::address::{Row, State, Status};
use ec2_ipam::domain::block::{Block, Unit};
use ec2_ipam::domain::id::{Boot, Claim, Kind};
use ec2_ipam::domain::plan::blocks::{Fetch, Outlook, Policy};
use ec2_ipam::domain::plan::next::{Because, Need, Next, Refill, Times, View, Wish, next};
use ec2_ipam::domain::plan::{Burst, Warmth, drain_age, settle_age, used};
use tokio::time::Instant;

use super::table::Table;

/// As an interface's task paces itself.
const TOP_UP_DELAY: Duration = Duration::from_secs(1);
const BACK_OFF: Duration = Duration::from_secs(120);
pub const WARMTH: Warmth = Warmth { target: 4, max: 8, cooldown: Duration::from_secs(60) };

/// Who chooses the addresses.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    Ours(Policy),
    /// EC2, which is told a count.
    Random,
}

pub struct Eni {
    view: View,
    /// When each was let go.
    let_go: HashMap<Ipv4Addr, i64>,
    choice: Choice,
    slots: usize,
    lease: Claim,
    start: Instant,
    none_whole_until: Duration,
    changed: Duration,
    /// It is looked at then; none: nothing changes before a container comes or goes.
    pub wake: Option<Duration>,
    /// What EC2 was asked.
    pub calls: usize,
}

impl Eni {
    /// With so many slots beside the primary address's.
    pub fn new(slots: usize, primary: Ipv4Addr, choice: Choice, start: Instant, now: Duration) -> Self {
        let at = start + now;
        let times = Times {
            look_at: None,
            fill_at: None,
            settle_at: at,
            give_up_at: at,
            warm_at: at,
            top_up_at: None,
            trim_at: at + settle_age(),
            last_call: at,
        };
        let view = View {
            rows: Vec::new(),
            queue: Vec::new(),
            unposted: false,
            in_use: Default::default(),
            held: Default::default(),
            leaving: Default::default(),
            may_give: Some(Default::default()),
            sub_pool: Some(None),
            recalled: BTreeSet::new(),
            capacity: slots,
            elsewhere: false,
            warmth: WARMTH,
            drain: None,
            burst: Burst::none(at),
            scan: false,
            repair: false,
            recycle: false,
            times,
        };
        let lease = Boot::random().unwrap().claim(1, Kind::Lease);
        let (let_go, none_whole_until) = (HashMap::new(), Duration::ZERO);
        let mut eni =
            Self { view, let_go, choice, slots, lease, start, none_whole_until, changed: now, wake: None, calls: 0 };
        eni.view.rows.push(Row { primary: true, ..eni.row(primary, Status::Occupied, false) });
        eni
    }

    fn row(&self, ip: Ipv4Addr, status: Status, in_block: bool) -> Row {
        Row {
            ip,
            subnet: "subnet-0aaaaaaaaaaaaaaa1".parse().unwrap(),
            status,
            iface: Some("eni-0aaaaaaaaaaaaaaa1".parse().unwrap()),
            primary: false,
            in_block,
            claim: None,
            holder: None,
            idle: Duration::ZERO,
            claimed: None,
        }
    }

    /// A container starts; none: it is told that there is no address.
    pub fn starts(&mut self, table: &mut Table, now: Duration) -> Option<Ipv4Addr> {
        self.was_called(now);
        self.age(now);
        let mut given = self.grant(|row, warmth| warmth.is_warm(row));
        if given.is_some() {
            self.top_up_soon(now);
            return given;
        }
        for cooldown in [WARMTH.cooldown, Duration::ZERO] {
            self.view.queue = vec![Wish { ip: None, sub_pool: None, cooldown }];
            given = self.work(table, now);
            // What cools here is better than nothing.
            given = given.or_else(|| self.grant(|row, _| row.state() == State::Ready && !row.primary));
            if given.is_some() {
                break;
            }
        }
        self.top_up_soon(now);
        given
    }

    /// One stops.
    pub fn stops(&mut self, ip: Ipv4Addr, now: Duration) {
        self.was_called(now);
        self.let_go.insert(ip, now.as_secs() as i64);
        let row = self.view.rows.iter_mut().find(|row| row.ip == ip).unwrap();
        (row.status, row.claim) = (Status::Ready, None);
        self.top_up_soon(now);
    }

    /// Its time has come.
    pub fn wakes(&mut self, table: &mut Table, now: Duration) {
        self.work(table, now);
    }

    /// Its instance is no more.
    pub fn ends(self, table: &mut Table, now: Duration) {
        self.view.rows.iter().for_each(|row| table.give_back(row.ip, now.as_secs() as i64));
    }

    pub fn leases(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.view.rows.iter().filter(|row| row.state() == State::Lease).map(|row| row.ip)
    }

    fn was_called(&mut self, now: Duration) {
        self.changed = now;
        self.view.times.last_call = self.start + now;
    }

    fn top_up_soon(&mut self, now: Duration) {
        let at = *self.view.times.top_up_at.get_or_insert(self.start + now + TOP_UP_DELAY) - self.start;
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }

    fn age(&mut self, now: Duration) {
        for row in &mut self.view.rows {
            let let_go = self.let_go.get(&row.ip).copied().unwrap_or(-1_000_000_000);
            row.idle = Duration::from_secs((now.as_secs() as i64 - let_go) as u64);
        }
        self.view.capacity = (self.slots + 1).saturating_sub(used(&self.view.rows, &[]));
    }

    /// From the fullest block, the coldest first; single ones last.
    fn grant(&mut self, may_be: impl Fn(&Row, &Warmth) -> bool) -> Option<Ipv4Addr> {
        let mut idle: HashMap<Block, usize> = HashMap::new();
        for row in self.view.rows.iter().filter(|row| row.in_block && row.state() == State::Ready) {
            *idle.entry(Block::of(row.ip)).or_default() += 1;
        }
        let fullest = |row: &Row| if row.in_block { idle[&Block::of(row.ip)] } else { usize::MAX };
        let given = self.view.rows.iter_mut().filter(|row| may_be(row, &WARMTH));
        let given = given.min_by_key(|row| (fullest(row), Reverse(row.idle), row.ip))?;
        (given.status, given.claim) = (Status::Occupied, Some(self.lease.clone()));
        Some(given.ip)
    }

    /// Steps until there is nothing to do; says what whoever waits got.
    fn work(&mut self, table: &mut Table, now: Duration) -> Option<Ipv4Addr> {
        let (at, mut given) = (self.start + now, None);
        loop {
            self.age(now);
            match next(&self.view, at) {
                Next::Serve(_) => {
                    self.view.queue.clear();
                    given = self.grant(|row, warmth| warmth.is_warm(row));
                }
                Next::Acquire(Need::More(refill)) => self.refill(table, refill, now),
                Next::GiveBack(rows, because) => {
                    if because == Because::Excess {
                        self.view.times.trim_at = at + settle_age();
                    }
                    self.give_back(table, &rows, now);
                }
                Next::Full => {
                    self.was_asked_for(at);
                    self.view.queue.clear();
                    self.view.times.warm_at = at + BACK_OFF;
                }
                Next::Rest(rest) => {
                    self.view.times.top_up_at.take_if(|due| *due <= at);
                    if at >= self.view.times.trim_at {
                        self.view.times.trim_at = at + settle_age();
                    }
                    // What has been so for so long stays so: nothing cools, and no burst is expected any more.
                    let is_used = self.view.rows.iter().any(|row| row.state() == State::Lease);
                    let long = if is_used { settle_age() * 7 } else { drain_age() + settle_age() * 2 };
                    let is_settled = now >= self.changed + long && self.view.times.top_up_at.is_none();
                    self.wake = (!is_settled).then_some(now + rest);
                    return given;
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn was_asked_for(&mut self, at: Instant) {
        if self.view.queue.is_empty() {
            self.view.times.top_up_at.take_if(|due| *due <= at);
        }
    }

    /// One Assign.
    fn refill(&mut self, table: &mut Table, wanted: Refill, now: Duration) {
        let Refill { cooldown, waiting, lacking, capacity, .. } = wanted;
        let at = self.start + now;
        self.was_asked_for(at);
        self.changed = now;
        let policy = match self.choice {
            Choice::Ours(policy) => policy,
            Choice::Random => Policy::Never,
        };
        let possible = policy != Policy::Never && self.none_whole_until <= now;
        let ours = self.view.rows.iter().filter(|row| !row.primary).map(Row::unit).collect::<BTreeSet<_>>();
        let blocks = ours.iter().filter(|unit| matches!(unit, Unit::Block(_))).count();
        let plenty = possible && table.plenty();
        let singles = ours.len() - blocks;
        let outlook = Outlook { policy, possible, plenty, slots: self.slots, left: capacity, singles, blocks, waiting };
        let mut size = waiting;
        if let Some(lacking) = lacking
            && table.free() as u64 >= WARMTH.leaves(&table.subnet)
        {
            size = self.view.burst.refill(waiting + lacking, waiting > 0, at);
        }
        let count = match outlook.fetch(size) {
            Fetch::Singles(count) => count,
            Fetch::Blocks(count) => {
                let blocks = table.claim_blocks(count, now, cooldown);
                if !blocks.is_empty() {
                    self.calls += 1;
                    blocks.iter().flat_map(|block| block.addresses()).for_each(|ip| self.comes(ip, true));
                    return;
                }
                self.none_whole_until = now + BACK_OFF;
                Outlook { possible: false, ..outlook }.singles(size)
            }
        };
        let singles = match self.choice {
            Choice::Random => table.anywhere(count, 0),
            Choice::Ours(_) => table.claim_singles(count, now, cooldown),
        };
        if singles.is_empty() {
            self.view.queue.clear();
            self.view.times.warm_at = at + BACK_OFF;
            return;
        }
        self.calls += 1;
        singles.into_iter().for_each(|ip| self.comes(ip, false));
    }

    fn comes(&mut self, ip: Ipv4Addr, in_block: bool) {
        self.view.rows.push(self.row(ip, Status::Ready, in_block));
        self.view.may_give.as_mut().unwrap().insert(ip);
    }

    /// One Unassign of single addresses, one of blocks.
    fn give_back(&mut self, table: &mut Table, rows: &[Row], now: Duration) {
        self.changed = now;
        for in_block in [false, true] {
            self.calls += usize::from(rows.iter().any(|row| row.in_block == in_block));
        }
        for row in rows {
            let let_go = self.let_go.remove(&row.ip).unwrap_or(-1_000_000_000);
            table.give_back(row.ip, let_go);
            self.view.may_give.as_mut().unwrap().remove(&row.ip);
        }
        self.view.rows.retain(|row| rows.iter().all(|gone| gone.ip != row.ip));
    }
}
