//! Granting: a warm address at once, else what the ENI's task can get.

use std::net::Ipv4Addr;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ipnet::Ipv4Net;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::queue::{Order, Want};
use super::{Eni, Lease, Shared, WhyNot};
use crate::counts::How;
use crate::domain::address::{FIXED, Row, State};
use crate::domain::block::Block;
use crate::domain::holding::Held;
use crate::domain::id::{EniId, Kind};
use crate::domain::plan::next::Wish;
use crate::error::Error;
use crate::fail_point::point;
use crate::journal::{Choice, Wanted};
use crate::late::LAST_WORD;
use crate::outside::link::Parent;

/// How long a request for a named address waits for that address's own release.
const RELEASE_IN_FLIGHT: Duration = Duration::from_secs(5);
/// For so long at least whoever wants any address waits for a table that is away,
const PATIENCE: Duration = Duration::from_secs(3);
/// which is what one is that does not answer in this time.
const ANSWER: Duration = Duration::from_secs(1);
/// How often it looks.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

impl Eni {
    /// Any address: the coldest cooled warm one, else what the task gets from EC2, else the coldest that still cools.
    pub async fn lease_any(
        &self,
        sub_pool: Option<Ipv4Net>,
        holder: Option<String>,
        until: Instant,
    ) -> Result<Lease, Error> {
        self.shared.memory.asked_in(sub_pool);
        self.shared.is_open()?;
        self.survey_done(until).await?;
        let cooldown = self.shared.outside.warmth.cooldown;
        let name = holder.as_deref();
        if let Some(name) = name
            && let Some(lease) = self.lease_kept(name, until).await?
        {
            return Ok(lease);
        }
        // A container that comes back gets the address it had, though it cools for others.
        let choices: Vec<Choice<'_>> =
            name.map(Choice::Returning).into_iter().chain([Choice::Cooled(cooldown)]).collect();
        if let Some(lease) = self.grant(&choices, sub_pool, name, until).await? {
            let _ = self.wants.send(Want::TopUp);
            return Ok(lease);
        }
        let mut ordered = pin!(self.order(None, sub_pool, cooldown, holder.clone(), until - LAST_WORD));
        let why = loop {
            match timeout(PATIENCE, &mut ordered).await {
                Ok(Ok(lease)) => return Ok(lease.got(How::Cold)),
                Ok(Err(why)) => break why,
                Err(_) => {}
            }
            // Nothing is to be had while the table is away, and what cools here is better than nothing.
            if let Err(why) = self.ask_table().await
                && let Some(lease) = self.grant_cooling(sub_pool, name, &why, until).await?
            {
                return Ok(lease);
            }
        };
        if let Some(lease) = self.grant_cooling(sub_pool, name, &why, until).await? {
            return Ok(lease);
        }
        if matches!(why, Error::NoFreeAddress { .. }) && !cooldown.is_zero() {
            let lease = self.order(None, sub_pool, Duration::ZERO, holder, until - LAST_WORD / 2).await?;
            tracing::warn!(eni = %self.nic.eni, ip = %lease.ip, "granted an address before its cool-down is over: {why}");
            return Ok(lease.got(How::Cooling));
        }
        Err(why)
    }

    /// I10: before its cool-down is over an address is given only where failing is all that is left.
    async fn grant_cooling(
        &self,
        sub_pool: Option<Ipv4Net>,
        name: Option<&str>,
        why: &Error,
        until: Instant,
    ) -> Result<Option<Lease>, Error> {
        let lease = self.grant(&[Choice::Any], sub_pool, name, until).await?.map(|lease| lease.got(How::Cooling));
        if let Some(lease) = &lease {
            tracing::warn!(eni = %self.nic.eni, ip = %lease.ip, "granted an address before its cool-down is over: {why}");
        }
        Ok(lease)
    }

    /// Whether the table answers.
    async fn ask_table(&self) -> Result<(), Error> {
        let primary = self.nic.addresses.first().copied().unwrap_or(Ipv4Addr::UNSPECIFIED);
        self.shared.outside.store.now()?.row(primary, Instant::now() + ANSWER).await?;
        Ok(())
    }

    /// The address that the container named, exempt from cool-down and sub-pool.
    pub async fn lease_this(&self, ip: Ipv4Addr, holder: Option<String>, until: Instant) -> Result<Lease, Error> {
        self.shared.memory.asked();
        self.shared.is_open()?;
        self.survey_done(until).await?;
        let holder = Some(format!("{FIXED}{}", holder.unwrap_or_default()));
        let patience = (until - LAST_WORD).min(Instant::now() + RELEASE_IN_FLIGHT);
        loop {
            // Asking again and again meanwhile would keep its own release waiting.
            if self.shared.outside.in_use.is_releasing(ip) && Instant::now() < until - LAST_WORD {
                sleep(LOOK_AGAIN).await;
                continue;
            }
            // What this host has is the journal's to say.
            if let Some(holding) = self.shared.holding(ip) {
                let is_open = matches!(holding.held, Held::Idle) && !holding.doubted;
                if is_open && let Some(lease) = self.grant_this(ip, holder.as_deref(), until).await? {
                    return Ok(lease);
                }
                // Its own release, or an Unassign, may be in flight: Docker deletes an endpoint before it releases the
                // address, so another container may name it in between.
                let end = if holding.doubted { until - LAST_WORD } else { patience };
                if Instant::now() >= end {
                    let row = holding.row(&self.shared.journal().now());
                    return Err(self.not_given(ip, row.state(), Some(&row)));
                }
            } else {
                let row = self.shared.outside.store(until).await?.row(ip, until).await?;
                let mine = row.as_ref().is_some_and(|row| row.iface.as_ref() == Some(&self.nic.eni));
                // Whoever names an address may have it though it is reserved for a name.
                let is_open = |row: &Row| row.state() == State::Reserved && row.kept_for().is_some();
                match row.as_ref().map(|row| if is_open(row) { State::Free } else { row.state() }) {
                    // Without a row: the table may be new, and is filled then.
                    Some(State::Free) | None => {
                        match self.order(Some(ip), None, Duration::ZERO, holder.clone(), until - LAST_WORD).await {
                            // Another request was quicker: look again.
                            Err(Error::NotGiven { .. }) if Instant::now() < patience => {}
                            outcome => return outcome.map(|lease| lease.got(How::Cold)),
                        }
                    }
                    Some(State::Ready) if mine && self.is_distant() && Instant::now() < patience => {
                        if let Some(lease) = self.grant_this(ip, holder.as_deref(), until).await? {
                            return Ok(lease);
                        }
                    }
                    // Of this ENI, and about to be the journal's.
                    Some(State::Ready | State::Lease | State::Off | State::On) if Instant::now() < patience => {}
                    Some(State::Foreign) if mine && self.is_looked_at(ip) && Instant::now() < until - LAST_WORD => {}
                    Some(state) => {
                        self.recall(row.as_ref(), until).await;
                        return Err(self.not_given(ip, state, row.as_ref()));
                    }
                }
            }
            sleep(LOOK_AGAIN.mul_f64(0.5 + fastrand::f64())).await;
        }
    }

    /// An idle address that was named; none if it was given to somebody else at this moment.
    async fn grant_this(&self, ip: Ipv4Addr, holder: Option<&str>, until: Instant) -> Result<Option<Lease>, Error> {
        let parent = self.link_now().await?;
        if let Err(why) = self.shared.memory.may_give(ip, Some(&parent)) {
            return Err(self.withheld(ip, &why, &parent));
        }
        let lease = self.grant(&[Choice::This(ip)], None, holder, until).await?;
        if lease.is_some() {
            point("request:granted-named").await;
            let _ = self.wants.send(Want::Look);
        }
        Ok(lease)
    }

    /// Whether the table did not know it when this life of the ENI began, and it may turn out to be idle.
    fn is_looked_at(&self, ip: Ipv4Addr) -> bool {
        let Shared { outside, memory, .. } = &*self.shared;
        self.shared.is_looked_at() && memory.was_found(ip) && !outside.in_use.contains(ip)
    }

    /// Asks for the block of an idle address that another host has.
    async fn recall(&self, row: Option<&Row>, until: Instant) {
        let Some(row) = row.filter(|row| self.is_idle_in_anothers_block(row)) else { return };
        let (block, store) = (Block::of(row.ip), &self.shared.outside.store);
        let asked = async { Ok::<_, Error>(store.now()?.recall(block, self.nic.eni.as_str(), until).await?) };
        if let Err(why) = asked.await {
            tracing::warn!(eni = %self.nic.eni, ip = %row.ip, "{block} could not be asked for: {why}");
        }
    }

    fn is_idle_in_anothers_block(&self, row: &Row) -> bool {
        let is_idle = matches!(row.state(), State::Ready | State::On | State::Off);
        is_idle && row.in_block && row.iface.as_ref() != Some(&self.nic.eni)
    }

    fn not_given(&self, ip: Ipv4Addr, state: State, row: Option<&Row>) -> Error {
        let named = row.and_then(Row::endpoint).map(|name| format!(" ({name})")).unwrap_or_default();
        let eni = row.and_then(|row| row.iface.as_ref()).map_or("another interface", EniId::as_str);
        let why = if let Some(row) = row.filter(|row| self.is_idle_in_anothers_block(row)) {
            let block = Block::of(row.ip);
            format!(
                "it is one of the block {block} of {eni}, which was asked for it now and gives all sixteen back once no container \
                 there has any of them: choose another, or reserve addresses that are to move between hosts while they are free"
            )
        } else {
            self.not_given_alone(ip, state, row, eni, &named)
        };
        Error::NotGiven { ip, why }
    }

    fn not_given_alone(&self, ip: Ipv4Addr, state: State, row: Option<&Row>, eni: &str, named: &str) -> String {
        match state {
            State::Reserved if self.subnet.is_aws_reserved(ip) => {
                "AWS reserves the first four addresses and the last one of every subnet".to_owned()
            }
            State::Reserved => format!("it is reserved for nobody; `ec2-ipam unreserve {ip}` lets it go"),
            State::Lease => format!("a container{named} on {eni} has it"),
            State::Foreign if row.is_some_and(|row| row.primary) => {
                format!(
                    "it is the primary address of {eni}; if it was given as --aux-address, drop that: it is already excluded"
                )
            }
            State::Foreign => format!(
                "{eni} has it, and not for a container of this driver; if it was given as --aux-address, drop that: it is \
                 already excluded"
            ),
            State::Ready | State::On | State::Off => format!(
                "{eni} holds it idle; it returns to the subnet with `ec2-ipam recycle {}` on that host, or soon by itself if \
                 a container there had named it",
                self.subnet.id
            ),
            State::Free => "other requests for it were quicker; try again".to_owned(),
        }
    }

    /// idle -> lease.
    async fn grant(
        &self,
        choices: &[Choice<'_>],
        sub_pool: Option<Ipv4Net>,
        holder: Option<&str>,
        until: Instant,
    ) -> Result<Option<Lease>, Error> {
        self.shared.may_serve().await?;
        let parent = self.link_now().await;
        let token = self.shared.outside.claims.next(Kind::Lease);
        let (blocks, recalled) = (&self.shared.memory.blocks(), &self.shared.memory.recalled());
        let wanted = Wanted { eni: &self.nic.eni, sub_pool, choices, blocks, recalled, token: &token, holder };
        let may_give = |ip| self.shared.memory.may_give(ip, parent.as_ref().ok()).is_ok();
        if self.shared.place.is_distant {
            return self.shared.give_by_table(&wanted, may_give, until).await;
        }
        let Some((ip, recorded)) = self.shared.journal().give(&wanted, may_give).await else {
            return parent.map(|_| None);
        };
        // From here on it is taken back if Docker does not get it.
        let lease = self.shared.granted(ip, token.clone());
        timeout_at(until, self.shared.follow(recorded))
            .await
            .map_err(|_| Error::Missing(self.shared.outside.what_is_missing()))?;
        point("request:granted").await;
        Ok(Some(lease))
    }

    /// The same, remembered.
    async fn link_now(&self) -> Result<Parent, Error> {
        let parent = self.shared.parent().await?;
        self.shared.memory.host_has(&parent.addresses);
        Ok(parent)
    }

    /// The refusal of an address that its row has idle here, to whoever named it.
    fn withheld(&self, ip: Ipv4Addr, why: &WhyNot, parent: &Parent) -> Error {
        let link = &parent.link.name;
        let why = match why {
            WhyNot::NoLink => format!("what the host itself has on {link} is not known; try again"),
            WhyNot::OnLink => format!(
                "the host itself has it on {link}; take it off with `ip addr del {ip}/32 dev {link}`, and see `ec2-ipam doctor`"
            ),
            WhyNot::InUse => "Docker shows that a container of this host has it".into(),
            WhyNot::NotListed => format!("EC2 has not confirmed yet that it is on {}; try again", self.nic.eni),
            WhyNot::Drained => return Error::Drained,
        };
        Error::NotGiven { ip, why }
    }

    /// Leaves it to the task, and waits for its answer.
    async fn order(
        &self,
        ip: Option<Ipv4Addr>,
        sub_pool: Option<Ipv4Net>,
        cooldown: Duration,
        holder: Option<String>,
        until: Instant,
    ) -> Result<Lease, Error> {
        let (order, lease) = Order::new(Wish { ip, sub_pool, cooldown }, holder);
        let asked = Instant::now();
        let _waiting = Waiting::begin(&self.shared.waiting);
        self.wants.send(Want::Order(order)).map_err(|_| self.closed())?;
        match timeout_at(until, lease).await {
            Ok(outcome) => outcome.map_err(|_| self.closed())?,
            Err(_) => {
                let why = self.last_error().unwrap_or_else(|| self.shared.outside.what_is_missing());
                Err(Error::Late { waited: asked.elapsed(), why })
            }
        }
    }
}

/// One of those who wait, until he has his answer or waits no more.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
