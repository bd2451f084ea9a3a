//! Addresses and blocks on an ENI and off it.

use std::net::Ipv4Addr;
use std::time::Duration;

use aws_sdk_ec2::config::retry::RetryConfig;
use aws_sdk_ec2::config::timeout::TimeoutConfig;
use aws_sdk_ec2::operation::assign_private_ip_addresses::AssignPrivateIpAddressesOutput;
use futures_util::future::select;
use tokio::time::{Instant, timeout};

use super::connect::CONNECT;
use super::error::Subject;
use super::{ATTEMPTS, Action, CALL, Ec2, Ec2Error, LOST};
use crate::domain::block::Block;
use crate::domain::id::EniId;

/// A change that was throttled is attempted again only with so much time left.
const WORTH: Duration = Duration::from_secs(8);
/// The pause before a second attempt is random between nothing and this, and doubles. The bucket refills 5 a second for
/// the whole fleet, so a shorter one would only meet the same empty bucket.
const PAUSE: Duration = Duration::from_secs(1);

/// What a change names. EC2 takes no mix of the two in one call.
enum Named {
    Addresses(Vec<String>),
    Prefixes(Vec<String>),
}

impl Named {
    fn addresses(ips: &[Ipv4Addr]) -> Self {
        Self::Addresses(ips.iter().map(Ipv4Addr::to_string).collect())
    }

    fn blocks(blocks: &[Block]) -> Self {
        Self::Prefixes(blocks.iter().map(Block::to_string).collect())
    }

    /// Each has a parameter of its own.
    fn parameters(&self) -> (Option<Vec<String>>, Option<Vec<String>>) {
        match self {
            Self::Addresses(ips) => (Some(ips.clone()), None),
            Self::Prefixes(prefixes) => (None, Some(prefixes.clone())),
        }
    }
}

impl Ec2 {
    /// Puts these addresses on the ENI, all or none. Never moves one from another ENI.
    ///
    /// Errors: `InUse`, `EniFull`, `SubnetFull`, `OutsideSubnet`, `AwsReserved`, and those of every call. An answer that
    /// does not list all of them is `Unlisted`.
    pub async fn assign(&self, eni: &EniId, ips: &[Ipv4Addr]) -> Result<(), Ec2Error> {
        if ips.is_empty() {
            return Ok(());
        }
        let answer = self.put_on(eni, &Named::addresses(ips)).await?;
        let listed = answer.assigned_private_ip_addresses().iter().filter_map(|entry| entry.private_ip_address());
        let listed: Vec<Ipv4Addr> = listed.filter_map(|ip| ip.parse().ok()).collect();
        lists_all(ips.iter().copied().filter(|ip| !listed.contains(ip)).collect())
    }

    /// Puts these blocks on the ENI, all or none.
    ///
    /// Errors: as [`Self::assign`]; which code and words EC2 has for a block that it does not give is not known for certain, so
    /// that any clear refusal may speak of one. `Unlisted` names the first addresses of those that the answer lacks.
    pub async fn assign_blocks(&self, eni: &EniId, blocks: &[Block]) -> Result<(), Ec2Error> {
        let answer = self.put_on(eni, &Named::blocks(blocks)).await?;
        let listed = answer.assigned_ipv4_prefixes().iter().filter_map(|entry| entry.ipv4_prefix());
        let listed: Vec<Block> = listed.filter_map(|net| Block::exactly(net.parse().ok()?)).collect();
        let missing = blocks.iter().filter(|block| !listed.contains(block));
        lists_all(missing.map(|block| block.net().network()).collect())
    }

    /// Takes these addresses off the ENI, all or none.
    ///
    /// Errors: `NotAssigned` if any one of them is not on the ENI, `Primary`, and those of every call. The SDK does not
    /// read the body of a success, so any HTTP 200 is one.
    pub async fn unassign(&self, eni: &EniId, ips: &[Ipv4Addr]) -> Result<(), Ec2Error> {
        if ips.is_empty() {
            return Ok(());
        }
        self.take_off(eni, &Named::addresses(ips)).await
    }

    /// Takes these blocks off the ENI, all or none.
    ///
    /// Errors: as [`Self::unassign`], but no code is known for certain that says of a block that it is not on the ENI.
    pub async fn unassign_blocks(&self, eni: &EniId, blocks: &[Block]) -> Result<(), Ec2Error> {
        self.take_off(eni, &Named::blocks(blocks)).await
    }

    async fn put_on(&self, eni: &EniId, named: &Named) -> Result<AssignPrivateIpAddressesOutput, Ec2Error> {
        let subject = &self.about(Action::Assign, Some(eni), None);
        let send = |until| async move {
            let (ips, prefixes) = named.parameters();
            let call = self.client.assign_private_ip_addresses().network_interface_id(eni.as_str());
            let call = call.set_private_ip_addresses(ips).set_ipv4_prefixes(prefixes).customize();
            call.config_override(one_attempt(until)).send().await.map_err(|error| subject.explain(&error))
        };
        change(subject, |until| twice(move || Box::pin(send(until)))).await
    }

    async fn take_off(&self, eni: &EniId, named: &Named) -> Result<(), Ec2Error> {
        let subject = &self.about(Action::Unassign, Some(eni), None);
        change(subject, |until| {
            let (ips, prefixes) = named.parameters();
            let call = self.client.unassign_private_ip_addresses().network_interface_id(eni.as_str());
            let call = call.set_private_ip_addresses(ips).set_ipv4_prefixes(prefixes).customize();
            let sent = call.config_override(one_attempt(until)).send();
            Box::pin(async { sent.await.map_err(|error| subject.explain(&error)) })
        })
        .await?;
        Ok(())
    }
}

/// `missing`: what the answer lacks.
fn lists_all(missing: Vec<Ipv4Addr>) -> Result<(), Ec2Error> {
    if missing.is_empty() { Ok(()) } else { Err(Ec2Error::Unlisted { addresses: missing }) }
}

/// A change's own settings: one attempt, until then.
fn one_attempt(until: Instant) -> aws_sdk_ec2::config::Builder {
    let time = until.saturating_duration_since(Instant::now());
    let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT);
    let timeouts = timeouts.operation_attempt_timeout(time).operation_timeout(time).build();
    aws_sdk_ec2::config::Config::builder().retry_config(RetryConfig::disabled()).timeout_config(timeouts)
}

/// One attempt, or a second one beside it once the answer to the first may be lost: whichever succeeds. What either left
/// unclear is unclear, since it may still land.
async fn twice<T, F>(attempt: impl Fn() -> F) -> Result<T, Ec2Error>
where
    F: Future<Output = Result<T, Ec2Error>> + Unpin,
{
    let mut first = attempt();
    if let Ok(outcome) = timeout(LOST, &mut first).await {
        return outcome;
    }
    let (outcome, other) = select(first, attempt()).await.factor_first();
    match outcome {
        Ok(answer) => Ok(answer),
        Err(why) => other.await.map_err(|other| if why.is_unclear() { why } else { other }),
    }
}

/// One change, repeated only while EC2 throttles it: then EC2 says that it did nothing. Each attempt is told when the call
/// has to be over.
async fn change<T, F>(subject: &Subject, attempt: impl Fn(Instant) -> F) -> Result<T, Ec2Error>
where
    F: Future<Output = Result<T, Ec2Error>>,
{
    let until = Instant::now() + CALL;
    for n in 0..ATTEMPTS {
        let error = match attempt(until).await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let pause = throttle_pause(n);
        let is_last = n + 1 == ATTEMPTS || Instant::now() + pause + WORTH > until;
        if is_last || !matches!(error, Ec2Error::Throttled { .. }) {
            return Err(error);
        }
        tokio::time::sleep(pause).await;
    }
    Err(Ec2Error::Throttled { action: subject.action })
}

/// How long a change waits after its attempt `n`, counted from 0, was throttled.
pub fn throttle_pause(n: u32) -> Duration {
    PAUSE.saturating_mul(1 << n.min(ATTEMPTS)).mul_f64(fastrand::f64())
}
