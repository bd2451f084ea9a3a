//! What a run has: its spare ENIs, what of the subnet is free, what it put on the ENIs, and taking that off again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, bail};
use ipnet::Ipv4Net;
use tokio::time::{Instant, sleep};

use super::spare::{Spare, beside_primary, by_kind, commands};
use super::{Asked, TRIES, patiently, progress};
use crate::backoff::Backoff;
use crate::domain::id::EniId;
use crate::domain::plan::settle_age;
use crate::domain::subnet::Subnet;
use crate::outside::ec2::{Answer, AssignCall, Ec2, Ec2Error, Interface, UnassignCall};
use crate::outside::imds::{Host, Imds, ImdsError};

/// Before each change: at the 5 a second that EC2 grants an account for long, its burst is left to the fleet.
const PACE: Duration = Duration::from_millis(200);
/// Between two looks at EC2's list and IMDS.
const LOOK: Duration = Duration::from_millis(500);
/// Free addresses that the facts need, but for the limit.
pub(super) const NEEDED: usize = 5;
/// Free addresses that a run leaves to others.
pub(super) const SPARED: usize = 16;

/// After how long a change showed; none: not while it was waited for.
pub(super) struct Lags {
    pub(super) ec2: Option<Duration>,
    pub(super) imds: Option<Duration>,
}

/// What the facts are tried on.
pub(super) struct Bench {
    ec2: Ec2,
    pub(super) imds: Imds,
    pub(super) host: Host,
    pub(super) subnet: Subnet,
    pub(super) eni: Spare,
    /// For addresses that another ENI has.
    pub(super) other: Option<Spare>,
    /// Primary address of another ENI of this instance in the same subnet.
    pub(super) neighbour: Option<Ipv4Addr>,
    /// Free addresses of the subnet in random order, [`NEEDED`] at least.
    pub(super) free: Vec<Ipv4Addr>,
    /// Whole free /28s that are at no end of the subnet, in random order.
    pub(super) blocks: Vec<Ipv4Net>,
    pub(super) wait: Duration,
    /// EC2's last word of throttling.
    pub(super) throttled: Option<Answer>,
    /// EC2's code for a prefix that is not there, once it is known.
    pub(super) no_prefix: Option<String>,
    /// What may be on an ENI because of this run, and since when no Assign of it can land any more; none: one without an
    /// answer may. Until then no answer to an Unassign is final. Single addresses are /32.
    held: BTreeMap<(EniId, Ipv4Net), Option<Instant>>,
    /// Secondary addresses and prefixes by EC2's list, while cleaning up.
    listed: BTreeMap<EniId, Vec<Ipv4Net>>,
}

impl Bench {
    /// Looks whether the ENIs are spare, and for free addresses. Changes nothing. Errors say what to do.
    pub(super) async fn set_up(ec2: Ec2, imds: Imds, host: Host, asked: &Asked) -> anyhow::Result<Self> {
        let id = asked.eni.as_ref().context("--conformance needs --eni")?;
        let (eni, found) = Spare::take(&ec2, &imds, &host, id).await?;
        let other = match &asked.other {
            Some(id) => Some(Spare::take(&ec2, &imds, &host, id).await?),
            None => None,
        };
        if let Some((other, place)) = &other
            && place.subnet != found.subnet
        {
            bail!("{} is not in the subnet of {}: name an ENI that is", other.id, eni.id);
        }
        let nic = host.interfaces.iter().find(|nic| nic.eni == eni.id).context("it was there just now")?;
        let subnet = Subnet::new(nic.subnet.clone(), nic.cidr)?;
        let all = patiently(async || ec2.interfaces_of_subnet(&subnet.id).await).await?;
        let mut free: Vec<_> = subnet
            .addresses()
            .filter(|ip| !subnet.is_aws_reserved(*ip) && !all.iter().any(|interface| interface.has(*ip)))
            .collect();
        fastrand::shuffle(&mut free);
        if free.len() < NEEDED {
            bail!("the subnet has {} free addresses, and {NEEDED} are needed: use another", free.len());
        }
        let sorted: BTreeSet<_> = free.iter().copied().collect();
        let is_whole = |block: &Ipv4Net| sorted.range(block.network()..=block.broadcast()).count() == 16;
        let mut blocks: Vec<_> = subnet.cidr.subnets(28)?.filter(is_whole).collect();
        fastrand::shuffle(&mut blocks);
        let is_neighbour = |other: &&Interface| other.id != eni.id && other.instance.as_ref() == Some(&host.instance);
        let neighbour = all.iter().find(is_neighbour).and_then(Interface::primary);
        let (other, wait) = (other.map(|(other, _)| other), asked.wait);
        let (throttled, no_prefix, held, listed) = (None, None, BTreeMap::new(), BTreeMap::new());
        Ok(Self {
            ec2,
            imds,
            host,
            subnet,
            eni,
            other,
            neighbour,
            free,
            blocks,
            wait,
            throttled,
            no_prefix,
            held,
            listed,
        })
    }

    /// Assign, noted before it is sent.
    pub(super) async fn assign(&mut self, eni: &EniId, asked: AssignCall<'_>) -> Answer {
        let given = nets(asked.private_ip_addresses, asked.ipv4_prefixes);
        let primaries: Vec<Ipv4Net> = self.spares().map(|spare| spare.primary.into()).collect();
        let is_ours = |net: &Ipv4Net| !primaries.contains(net);
        let before = self.held.clone();
        let key = |net: Ipv4Net| (eni.clone(), net);
        self.held.extend(given.iter().copied().filter(is_ours).map(|net| (key(net), None)));
        let answer = self.send(async |ec2| ec2.answer_to_assign(eni, asked).await).await;
        if answer.read.as_ref().is_err_and(Ec2Error::is_unclear) {
            return answer;
        }
        let now = Some(Instant::now());
        for net in given.iter().copied().filter(is_ours) {
            match before.get(&key(net)) {
                Some(earlier) => self.held.insert(key(net), *earlier),
                // Of a refused list EC2 may have assigned the rest.
                None if answer.read.is_ok() || given.len() > 1 && self.is_free(net) => self.held.insert(key(net), now),
                None => self.held.remove(&key(net)),
            };
        }
        // EC2 may list all that the ENI has; only of a number are these the new ones' names.
        if asked.secondary_private_ip_address_count.is_some() {
            let new = answer.listed.iter().map(|ip| Ipv4Net::from(*ip)).filter(is_ours);
            self.held.extend(new.map(|net| (key(net), now)));
        }
        answer
    }

    /// Assign of what EC2 should refuse. What it takes all the same is taken off at once, lest it count in what follows.
    pub(super) async fn assign_in_vain(&mut self, asked: AssignCall<'_>) -> Answer {
        let eni = self.eni.id.clone();
        let before: BTreeSet<_> = self.held_on(&eni).collect();
        let answer = self.assign(&eni, asked).await;
        let taken: Vec<_> = self.held_on(&eni).filter(|net| !before.contains(net)).collect();
        if answer.read.is_ok() {
            self.unassign_nets(&eni, &taken).await;
        }
        answer
    }

    fn is_free(&self, net: Ipv4Net) -> bool {
        self.blocks.contains(&net) || net.prefix_len() == 32 && self.free.contains(&net.addr())
    }

    fn held_on(&self, eni: &EniId) -> impl Iterator<Item = Ipv4Net> {
        self.held.keys().filter(move |(of, _)| of == eni).map(|(_, net)| *net)
    }

    /// Unassign of addresses.
    pub(super) async fn unassign(&mut self, eni: &EniId, ips: &[Ipv4Addr]) -> Answer {
        self.unassign_call(eni, UnassignCall { private_ip_addresses: ips, ..UnassignCall::default() }).await
    }

    /// Unassign of prefixes.
    pub(super) async fn unassign_prefixes(&mut self, eni: &EniId, prefixes: &[Ipv4Net]) -> Answer {
        self.unassign_call(eni, UnassignCall { ipv4_prefixes: prefixes, ..UnassignCall::default() }).await
    }

    /// One call for each kind there is; whether none was refused.
    async fn unassign_nets(&mut self, eni: &EniId, nets: &[Ipv4Net]) -> bool {
        let (singles, prefixes) = by_kind(nets);
        let singles_off = singles.is_empty() || self.unassign(eni, &singles).await.read.is_ok();
        let prefixes_off = prefixes.is_empty() || self.unassign_prefixes(eni, &prefixes).await.read.is_ok();
        singles_off && prefixes_off
    }

    /// Unassign, and what its answer says of what the run put there.
    pub(super) async fn unassign_call(&mut self, eni: &EniId, asked: UnassignCall<'_>) -> Answer {
        let answer = self.send(async |ec2| ec2.answer_to_unassign(eni, asked).await).await;
        let now = Instant::now();
        let given = nets(asked.private_ip_addresses, asked.ipv4_prefixes);
        let is_prefix_gone = asked.private_ip_addresses.is_empty() && self.says_no_prefix(&answer);
        let is_not_there = matches!(answer.read, Err(Ec2Error::NotAssigned { .. } | Ec2Error::Primary { .. }));
        let is_no_eni = matches!(answer.read, Err(Ec2Error::NoSuchEni { .. }));
        let was_never_there = is_no_eni || (is_not_there || is_prefix_gone) && given.len() == 1;
        self.held.retain(|(of, net), landed| {
            let is_final = landed.is_some_and(|landed| landed <= now);
            !(of == eni && given.contains(net) && is_final && (answer.read.is_ok() || was_never_there))
        });
        answer
    }

    /// Whether it is the refusal to take off a prefix that is not there, in whatever words.
    pub(super) fn says_no_prefix(&self, answer: &Answer) -> bool {
        self.no_prefix.is_some() && answer.code == self.no_prefix
    }

    /// DescribeNetworkInterfaces of one ENI.
    pub(super) async fn describe(&mut self, eni: &EniId, dry_run: bool) -> Answer {
        self.send(async |ec2| ec2.answer_to_describe(eni, dry_run).await).await
    }

    fn spares(&self) -> impl Iterator<Item = &Spare> {
        std::iter::once(&self.eni).chain(&self.other)
    }

    /// The region that is spoken to.
    pub(super) fn region(&self) -> &str {
        self.ec2.region()
    }

    /// How many addresses DescribeInstanceTypes gives the ENI, its primary one included.
    pub(super) async fn limit(&self) -> Result<usize, Ec2Error> {
        patiently(async || self.ec2.limits(&self.host.instance_type).await).await.map(|limits| limits.addresses)
    }

    /// Whether the ENIs of this instance type may have prefixes.
    pub(super) async fn takes_prefixes(&self) -> Result<bool, Ec2Error> {
        patiently(async || self.ec2.limits(&self.host.instance_type).await).await.map(|limits| limits.blocks)
    }

    /// How many addresses of the subnet are available, as EC2 counts.
    pub(super) async fn available(&self) -> Result<i32, Ec2Error> {
        patiently(async || self.ec2.available_addresses(&self.subnet.id).await).await
    }

    async fn send(&mut self, call: impl AsyncFn(&Ec2) -> Answer) -> Answer {
        sleep(PACE).await;
        let mut backoff = Backoff::default();
        loop {
            let answer = Box::pin(call(&self.ec2)).await;
            let is_throttled = matches!(answer.read, Err(Ec2Error::Throttled { .. }));
            if is_throttled {
                self.throttled = Some(answer.clone());
            }
            if !is_throttled || backoff.failures() == TRIES {
                return answer;
            }
            progress("EC2 throttles; waiting");
            sleep(backoff.fails()).await;
        }
    }

    /// Looks at EC2's list and IMDS's until both show the address or prefix, or show it no more, or the wait is over.
    pub(super) async fn lags(&self, what: impl Into<Ipv4Net>, on: bool) -> Lags {
        let what = what.into();
        let start = Instant::now();
        let mut lags = Lags { ec2: None, imds: None };
        loop {
            // A list that goes back to what it was has not caught up.
            let now = start.elapsed();
            if let Ok(interface) = Box::pin(self.ec2.interface(&self.eni.id)).await {
                lags.ec2 = (beside_primary(&interface).contains(&what) == on).then(|| lags.ec2.unwrap_or(now));
            }
            let now = start.elapsed();
            if let Ok(shown) = Box::pin(self.shown()).await {
                lags.imds = (shown.contains(&what) == on).then(|| lags.imds.unwrap_or(now));
            }
            if (lags.ec2.is_some() && lags.imds.is_some()) || start.elapsed() >= self.wait {
                return lags;
            }
            sleep(LOOK).await;
        }
    }

    /// What IMDS shows.
    async fn shown(&self) -> Result<Vec<Ipv4Net>, ImdsError> {
        let prefixes = self.imds.prefixes(&self.eni.mac).await?;
        Ok(nets(&self.imds.addresses(&self.eni.mac).await?, &prefixes))
    }

    /// Takes off what the run may have put on the ENIs, until EC2 lists nothing beside their primary addresses.
    pub(super) async fn clean_up(&mut self) {
        // Half of it for a lost call to land, half for EC2 and its list to come round.
        let until = Instant::now() + settle_age() * 2;
        let lands_until = Instant::now() + settle_age();
        self.held.values_mut().for_each(|landed| *landed = landed.or(Some(lands_until)));
        let enis: Vec<EniId> = self.spares().map(|spare| spare.id.clone()).collect();
        loop {
            for eni in &enis {
                self.take_off(eni).await;
            }
            if self.left().is_empty() || Instant::now() >= until {
                return;
            }
            sleep(LOOK).await;
        }
    }

    async fn take_off(&mut self, eni: &EniId) {
        let listed = match Box::pin(self.ec2.interface(eni)).await {
            Ok(interface) => Some(beside_primary(&interface)),
            Err(Ec2Error::NoSuchEni { .. }) => {
                self.held.retain(|(of, _), _| of != eni);
                Some(Vec::new())
            }
            Err(why) => {
                progress(&format!("cleaning up: {why}"));
                None
            }
        };
        let held: Vec<Ipv4Net> = self.held_on(eni).collect();
        let is_listed = |net: &Ipv4Net| listed.as_ref().is_some_and(|listed| listed.contains(net));
        // One that is not there fails the whole call, so only what surely is there goes together.
        let (mut together, mut singly): (Vec<Ipv4Net>, Vec<Ipv4Net>) = held.into_iter().partition(is_listed);
        if !self.unassign_nets(eni, &together).await {
            singly.append(&mut together);
        }
        for net in singly {
            self.unassign_nets(eni, &[net]).await;
        }
        if let Some(listed) = listed {
            self.listed.insert(eni.clone(), listed);
        }
    }

    /// What is, or may be, left on the ENIs.
    pub(super) fn left(&self) -> BTreeMap<EniId, Vec<Ipv4Net>> {
        let mut left = self.listed.clone();
        for (eni, net) in self.held.keys() {
            let nets = left.entry(eni.clone()).or_default();
            if !nets.contains(net) {
                nets.push(*net);
            }
        }
        left.retain(|_, nets| !nets.is_empty());
        left
    }

    /// Commands that take off what is left.
    pub(super) fn commands(&self) -> Vec<String> {
        self.left().iter().flat_map(|(eni, nets)| commands(self.region(), eni, nets)).collect()
    }
}

/// Single addresses as /32, and the /28s that prefixes lie in.
fn nets(singles: &[Ipv4Addr], prefixes: &[Ipv4Net]) -> Vec<Ipv4Net> {
    singles.iter().map(|ip| Ipv4Net::from(*ip)).chain(prefixes.iter().map(Ipv4Net::trunc)).collect()
}
