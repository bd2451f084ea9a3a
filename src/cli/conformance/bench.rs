//! The spare ENIs of a run: whether they are spare, what the run put on them, and taking it off again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::time::{Instant, sleep};

use super::{Asked, progress};
use crate::backoff::Backoff;
use crate::domain::id::EniId;
use crate::domain::plan::settle_age;
use crate::domain::subnet::Subnet;
use crate::driver::served::lock;
use crate::outside::ec2::{Answer, AssignCall, Ec2, Ec2Error, Interface};
use crate::outside::imds::{Host, Imds};

/// Before each change: at the 5 a second that EC2 grants an account for long, its burst is left to the fleet.
const PACE: Duration = Duration::from_millis(200);
/// Between two looks at EC2's list and IMDS.
const LOOK: Duration = Duration::from_millis(500);
/// A throttled call is repeated so often.
const TRIES: u32 = 8;
/// Free addresses that the facts need, but for the limit.
pub(super) const NEEDED: usize = 5;

/// An ENI that nothing uses.
pub(super) struct Spare {
    pub(super) id: EniId,
    pub(super) mac: String,
    pub(super) primary: Ipv4Addr,
    /// No driver of this host takes it up meanwhile.
    _lock: UnixListener,
}

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
    pub(super) wait: Duration,
    /// EC2's last word of throttling.
    pub(super) throttled: Option<Answer>,
    /// What may be on an ENI because of this run, and since when no Assign of it can land any more; none: one without an
    /// answer may. Until then no answer to an Unassign is final.
    held: BTreeMap<(EniId, Ipv4Addr), Option<Instant>>,
    /// Secondary addresses by EC2's list, while cleaning up.
    listed: BTreeMap<EniId, Vec<Ipv4Addr>>,
}

impl Bench {
    /// Looks whether the ENIs are spare, and for free addresses. Changes nothing. Errors say what to do.
    pub(super) async fn set_up(ec2: Ec2, imds: Imds, host: Host, asked: &Asked) -> anyhow::Result<Self> {
        let id = asked.eni.as_ref().context("--conformance needs --eni")?;
        let (eni, found) = Spare::take(&ec2, &host, id).await?;
        let other = match &asked.other {
            Some(id) => Some(Spare::take(&ec2, &host, id).await?),
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
        let is_neighbour = |other: &&Interface| other.id != eni.id && other.instance.as_ref() == Some(&host.instance);
        let neighbour = all.iter().find(is_neighbour).and_then(Interface::primary);
        let (other, wait) = (other.map(|(other, _)| other), asked.wait);
        let (throttled, held, listed) = (None, BTreeMap::new(), BTreeMap::new());
        Ok(Self { ec2, imds, host, subnet, eni, other, neighbour, free, wait, throttled, held, listed })
    }

    /// Assign, noted before it is sent.
    pub(super) async fn assign(&mut self, eni: &EniId, asked: AssignCall<'_>) -> Answer {
        let given = asked.private_ip_addresses;
        let primaries: Vec<_> = self.spares().map(|spare| spare.primary).collect();
        let is_ours = |ip: &Ipv4Addr| !primaries.contains(ip);
        let before = self.held.clone();
        let key = |ip: Ipv4Addr| (eni.clone(), ip);
        self.held.extend(given.iter().copied().filter(is_ours).map(|ip| (key(ip), None)));
        let answer = self.send(async |ec2| ec2.answer_to_assign(eni, asked).await).await;
        if answer.read.as_ref().is_err_and(Ec2Error::is_unclear) {
            return answer;
        }
        let now = Some(Instant::now());
        for ip in given.iter().copied().filter(is_ours) {
            match before.get(&key(ip)) {
                Some(earlier) => self.held.insert(key(ip), *earlier),
                // Of a refused list EC2 may have assigned the rest.
                None if answer.read.is_ok() || given.len() > 1 && self.free.contains(&ip) => {
                    self.held.insert(key(ip), now)
                }
                None => self.held.remove(&key(ip)),
            };
        }
        // EC2 may list all that the ENI has; only of a number are these the new ones' names.
        if asked.secondary_private_ip_address_count.is_some() {
            self.held.extend(answer.listed.iter().copied().filter(is_ours).map(|ip| (key(ip), now)));
        }
        answer
    }

    /// Assign of what EC2 should refuse. What it takes all the same is taken off at once, lest it count in what follows.
    pub(super) async fn assign_in_vain(&mut self, asked: AssignCall<'_>) -> Answer {
        let eni = self.eni.id.clone();
        let before: BTreeSet<_> = self.held_on(&eni).collect();
        let answer = self.assign(&eni, asked).await;
        let taken: Vec<_> = self.held_on(&eni).filter(|ip| !before.contains(ip)).collect();
        if answer.read.is_ok() && !taken.is_empty() {
            self.unassign(&eni, &taken).await;
        }
        answer
    }

    fn held_on(&self, eni: &EniId) -> impl Iterator<Item = Ipv4Addr> {
        self.held.keys().filter(move |(of, _)| of == eni).map(|(_, ip)| *ip)
    }

    /// Unassign, and what its answer says of what the run put there.
    pub(super) async fn unassign(&mut self, eni: &EniId, ips: &[Ipv4Addr]) -> Answer {
        let answer = self.send(async |ec2| ec2.answer_to_unassign(eni, ips).await).await;
        let now = Instant::now();
        let is_not_there = matches!(answer.read, Err(Ec2Error::NotAssigned { .. } | Ec2Error::Primary { .. }));
        let is_no_eni = matches!(answer.read, Err(Ec2Error::NoSuchEni { .. }));
        let was_never_there = is_no_eni || is_not_there && ips.len() == 1;
        self.held.retain(|(of, ip), landed| {
            let is_final = landed.is_some_and(|landed| landed <= now);
            !(of == eni && ips.contains(ip) && is_final && (answer.read.is_ok() || was_never_there))
        });
        answer
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
        patiently(async || self.ec2.address_limit(&self.host.instance_type).await).await
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

    /// Looks at EC2's list and IMDS's until both show the address, or show it no more, or the wait is over.
    pub(super) async fn lags(&self, ip: Ipv4Addr, on: bool) -> Lags {
        let start = Instant::now();
        let mut lags = Lags { ec2: None, imds: None };
        loop {
            // A list that goes back to what it was has not caught up.
            let now = start.elapsed();
            if let Ok(interface) = Box::pin(self.ec2.interface(&self.eni.id)).await {
                lags.ec2 = (interface.has(ip) == on).then(|| lags.ec2.unwrap_or(now));
            }
            let now = start.elapsed();
            if let Ok(ips) = Box::pin(self.imds.addresses(&self.eni.mac)).await {
                lags.imds = (ips.contains(&ip) == on).then(|| lags.imds.unwrap_or(now));
            }
            if (lags.ec2.is_some() && lags.imds.is_some()) || start.elapsed() >= self.wait {
                return lags;
            }
            sleep(LOOK).await;
        }
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
            Ok(interface) => Some(interface.addresses.iter().filter(|a| !a.primary).map(|a| a.ip).collect::<Vec<_>>()),
            Err(Ec2Error::NoSuchEni { .. }) => {
                self.held.retain(|(of, _), _| of != eni);
                Some(Vec::new())
            }
            Err(why) => {
                progress(&format!("cleaning up: {why}"));
                None
            }
        };
        let held: Vec<Ipv4Addr> = self.held_on(eni).collect();
        let is_listed = |ip: &Ipv4Addr| listed.as_ref().is_some_and(|listed| listed.contains(ip));
        // One that is not there fails the whole call, so only what surely is there goes together.
        let (mut together, mut singly): (Vec<Ipv4Addr>, Vec<Ipv4Addr>) = held.into_iter().partition(is_listed);
        if !together.is_empty() && self.unassign(eni, &together).await.read.is_err() {
            singly.append(&mut together);
        }
        for ip in singly {
            self.unassign(eni, &[ip]).await;
        }
        if let Some(listed) = listed {
            self.listed.insert(eni.clone(), listed);
        }
    }

    /// What is, or may be, left on the ENIs.
    pub(super) fn left(&self) -> BTreeMap<EniId, Vec<Ipv4Addr>> {
        let mut left = self.listed.clone();
        for (eni, ip) in self.held.keys() {
            let ips = left.entry(eni.clone()).or_default();
            if !ips.contains(ip) {
                ips.push(*ip);
            }
        }
        left.retain(|_, ips| !ips.is_empty());
        left
    }

    /// Commands that take off what is left.
    pub(super) fn commands(&self) -> Vec<String> {
        self.left().iter().map(|(eni, ips)| command(self.region(), eni, ips)).collect()
    }
}

impl Spare {
    /// The ENI, if nothing uses it.
    async fn take(ec2: &Ec2, host: &Host, id: &EniId) -> anyhow::Result<(Self, Interface)> {
        let Some(nic) = host.interfaces.iter().find(|nic| nic.eni == *id) else {
            bail!("{id} is not attached to this instance, as far as IMDS knows: attach it, or name one that is");
        };
        if nic.device_number == 0 {
            bail!("{id} is the interface that this instance was started with (device 0): name a spare one");
        }
        let lock = lock(id).with_context(|| {
            format!("a driver on this host serves {id}, or it was named twice: name an interface that no network uses")
        })?;
        let interface = patiently(async || ec2.interface(id).await).await?;
        if interface.instance.as_ref() != Some(&host.instance) {
            bail!("EC2 says that {id} is not attached to this instance, and IMDS that it is: try again in a minute");
        }
        if let [prefix, ..] = interface.prefixes.as_slice() {
            bail!("{id} has the prefix {prefix}: name an interface without prefixes and secondary addresses");
        }
        let primary = interface.primary().with_context(|| format!("{id} has no IPv4 address: name one that has"))?;
        let secondary: Vec<_> = interface.addresses.iter().filter(|a| !a.primary).map(|a| a.ip).collect();
        if !secondary.is_empty() {
            bail!(
                "{id} has secondary addresses: name an interface without; if an earlier run was killed, take them off by: {}",
                command(ec2.region(), id, &secondary)
            );
        }
        if nic.addresses != [primary] {
            bail!("IMDS still shows secondary addresses on {id}, which EC2 says are gone: try again in a minute");
        }
        Ok((Self { id: id.clone(), mac: nic.mac.clone(), primary, _lock: lock }, interface))
    }
}

/// A read, repeated while EC2 throttles it.
async fn patiently<T>(read: impl AsyncFn() -> Result<T, Ec2Error>) -> Result<T, Ec2Error> {
    let mut backoff = Backoff::default();
    loop {
        match Box::pin(read()).await {
            Err(Ec2Error::Throttled { .. }) if backoff.failures() < TRIES => sleep(backoff.fails()).await,
            outcome => return outcome,
        }
    }
}

/// One call for each address: EC2 refuses a list of which one is not there.
fn command(region: &str, eni: &EniId, ips: &[Ipv4Addr]) -> String {
    let call = format!("aws ec2 unassign-private-ip-addresses --region {region} --network-interface-id {eni}");
    match ips {
        [ip] => format!("{call} --private-ip-addresses {ip}"),
        ips => {
            let ips: Vec<String> = ips.iter().map(Ipv4Addr::to_string).collect();
            format!("for ip in {}; do {call} --private-ip-addresses $ip; done", ips.join(" "))
        }
    }
}
