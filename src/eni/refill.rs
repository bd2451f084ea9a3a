//! More addresses for the ENI: which, and how many.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::time::Instant;

use super::STORE_TIME;
use super::task::{Task, WARM_BACK_OFF};
use crate::address::{Event, Row, State};
use crate::ec2::Ec2;
use crate::error::Error;
use crate::fault::point;
use crate::fill;
use crate::id::Kind;
use crate::link::Parent;
use crate::plan;
use crate::plan::assign::Standing;
use crate::store::FreeClaim;

/// The bound of filling a subnet; a /16 has 65,536 rows.
const FILL_TIME: Duration = Duration::from_secs(60);
/// A full ENI on which addresses may become idle is looked at again so soon.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

impl Task {
    /// A free address that a container named. A full ENI gives up its coldest idle one for it.
    pub(super) async fn fetch_named(&mut self, ec2: &Ec2, rows: &[Row]) -> Result<Option<Duration>, Error> {
        let Some(ip) = self.queue.front().and_then(|order| order.ip) else {
            return Ok(None);
        };
        let until = Instant::now() + STORE_TIME;
        let row = self.store.row(ip, until).await?;
        let claim = self.outside.claims.next(Kind::On);
        if row.is_none() {
            if self.fill(ec2, false).await? {
                return Ok(None);
            }
            let why = format!("the table has no row for it; run `ec2-ipam init {}`", self.subnet.id);
            self.answer_front(Error::NotGiven { ip, why });
            return Ok(None);
        }
        let change = row.and_then(|row| row.on(Event::Claim { eni: self.nic.eni.clone(), claim }).ok());
        // Room is made only for an address that can be had.
        if change.is_some() && self.capacity(rows) == 0 {
            match plan::give_way(rows, |row| self.shared.memory.has_container(row.ip)) {
                Some(idle) => return self.give_up(ec2, std::slice::from_ref(idle)).await,
                None => match self.full(rows).await {
                    Ok(rest) => return Ok(Some(rest)),
                    Err(why) => {
                        self.answer_front(why);
                        return Ok(None);
                    }
                },
            }
        }
        let claimed = match change {
            Some(change) => self.store.apply(&[change], until).await? == [true],
            None => false,
        };
        if !claimed {
            self.answer_front(Error::NotGiven { ip, why: "another request for it was quicker; try again".into() });
            return Ok(None);
        }
        point("named:claimed").await;
        let claimed = self.store.rows_at(&[ip], until).await?;
        let assigned = self.assign(ec2, claimed, Standing::Fresh).await?;
        self.outcome(assigned, 1).await
    }

    /// One Assign for all who wait and for what the warm target lacks.
    pub(super) async fn refill(&mut self, ec2: &Ec2, rows: &[Row], now: Instant) -> Result<Option<Duration>, Error> {
        let first = self.queue.iter().find(|order| order.ip.is_none());
        let Some(sub_pool) = first.map(|order| order.sub_pool).or(self.shared.memory.sub_pool()) else {
            return Ok(None);
        };
        let cooldown = first.map_or(self.outside.warmth.cooldown, |order| order.cooldown);
        let waiting = self.queue.iter().filter(|order| order.ip.is_none() && order.sub_pool == sub_pool).count();
        let until = now + STORE_TIME;

        let capacity = self.capacity(rows);
        if capacity == 0 {
            let in_range = |ip| sub_pool.is_none_or(|range| range.contains(&ip));
            // What is kept for somebody is of no use to anybody else.
            let useful =
                |row: &Row| row.kept_for().is_none() && in_range(row.ip) || self.shared.memory.has_container(row.ip);
            match plan::give_way(rows, useful) {
                Some(idle) if waiting > 0 => return self.give_up(ec2, std::slice::from_ref(idle)).await,
                _ => {
                    match self.full(rows).await {
                        Ok(rest) => return Ok(Some(rest)),
                        Err(why) => self.answer_any(&why),
                    }
                    self.warm_retry_at = now + WARM_BACK_OFF;
                    return Ok(None);
                }
            }
        }
        let mut size = waiting;
        let warmth = self.outside.warmth;
        // While EC2 leaves claims unclear nothing is claimed in reserve: each attempt would take more of the subnet.
        let is_clear = rows.iter().all(|row| row.state() != State::On);
        if warmth.target > 0 && now >= self.warm_retry_at && is_clear {
            let census = self.store.census_lately(&self.subnet.id, until).await?;
            let free = census.iter().filter(|count| count.state == State::Free).map(|count| count.rows).sum();
            if !warmth.leaves_to_others(free, &self.subnet) {
                size = self.burst.refill(waiting + warmth.lacking(rows), waiting > 0, now);
            }
        }
        let claim = self.outside.claims.next(Kind::On);
        let wanted = FreeClaim {
            subnet: &self.subnet.id,
            eni: &self.nic.eni,
            sub_pool,
            cooldown,
            count: size.min(capacity),
            claim: &claim,
        };
        let ips = self.store.claim_free(&wanted, until).await?;
        if ips.is_empty() {
            // No rows is not none free: the table may be new, or a restored backup.
            if self.fill(ec2, false).await? {
                return Ok(None);
            }
            let (subnet, what_helps) = (self.subnet.id.clone(), self.what_helps(rows));
            self.answer_any(&Error::NoFreeAddress { subnet, range: sub_pool, what_helps });
            self.warm_retry_at = now + WARM_BACK_OFF;
            return Ok(None);
        }
        point("refill:claimed").await;
        let claimed = self.store.rows_at(&ips, until).await?;
        let asked = claimed.len();
        let assigned = self.assign(ec2, claimed, Standing::Fresh).await?;
        self.outcome(assigned, asked).await
    }

    /// What to do where no address of the subnet is free.
    fn what_helps(&self, rows: &[Row]) -> String {
        let (eni, subnet) = (&self.nic.eni, &self.subnet.id);
        let unknown = self.unknown(rows);
        if unknown > 0 && self.outside.in_use.count().is_some() {
            return format!(
                ": {unknown} addresses of {eni} that the table did not know are still being looked at; those that no container \
                 has are given out in about a minute"
            );
        }
        if self.store.is_private() {
            return format!(
                ": stop containers, run `ec2-ipam recycle {subnet}` on hosts that hold idle ones, or use a larger subnet"
            );
        }
        format!(
            ": stop containers, run `ec2-ipam recycle {subnet} --all` to take idle addresses back from other hosts, or use a \
             larger subnet"
        )
    }

    /// Addresses on the ENI of which neither the table, nor Docker, nor the link says whose they are.
    fn unknown(&self, rows: &[Row]) -> usize {
        let is_known = |ip: Ipv4Addr| self.shared.memory.says_whose(ip) || self.shared.shown.in_prefix(ip);
        rows.iter().filter(|row| row.state() == State::Foreign && !row.primary && !is_known(row.ip)).count()
    }

    /// Fills the subnet if it lacks rows: Docker does not ask again for the pool of a network that is there, whatever became of
    /// the table. Says whether rows came. `closely`: every row is counted.
    pub(super) async fn fill(&self, ec2: &Ec2, closely: bool) -> Result<bool, Error> {
        let until = Instant::now() + FILL_TIME;
        let store = &self.store;
        let is_filled = if closely {
            fill::is_complete(store, &self.subnet, until).await?
        } else {
            fill::was_filled(store, &self.subnet, until).await?
        };
        if is_filled {
            return Ok(false);
        }
        Ok(fill::refresh(store, ec2, &self.subnet, until).await?.inserted > 0)
    }

    /// The ENI is full: how long to wait, or the refusal.
    async fn full(&self, rows: &[Row]) -> Result<Duration, Error> {
        let why = self.why_full(rows).await;
        if !matches!(why, Error::Unknown { is_looked_at: true, .. }) {
            return Err(why);
        }
        // For those who wait until their time is up.
        self.shared.trouble.pauses(why.to_string());
        Ok(LOOK_AGAIN)
    }

    /// A full ENI has idle addresses all the same where a host agent has put them on the link itself (I7), and where the table
    /// is new.
    async fn why_full(&self, rows: &[Row]) -> Error {
        let eni = self.nic.eni.clone();
        let Parent { link, addresses: own } = match self.outside.links.parent(&self.nic.mac).await {
            Ok(parent) => parent,
            Err(why) => return why.into(),
        };
        let idle: Vec<String> = rows
            .iter()
            .filter(|row| row.state() == State::Ready && own.contains(&row.ip))
            .map(|row| row.ip.to_string())
            .collect();
        if idle.is_empty() {
            let count = self.unknown(rows);
            if count == 0 {
                return Error::EniFull { eni };
            }
            let is_looked_at = self.outside.in_use.count().is_some() && self.shared.is_settling();
            return Error::Unknown { eni, count, is_looked_at };
        }
        Error::HostHasThem { eni, link: link.name, ips: idle.join(", ") }
    }

    /// How many more addresses the ENI can take.
    pub(super) fn capacity(&self, rows: &[Row]) -> usize {
        let shown = &self.shared.shown;
        let by_limit = shown.limit().unwrap_or(plan::ENI_LIMIT).saturating_sub(plan::used(rows, &shown.prefixes()));
        match self.room {
            Some((room, until)) if Instant::now() < until => by_limit.min(room),
            _ => by_limit,
        }
    }
}
