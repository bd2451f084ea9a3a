//! Calls to EC2: addresses on and off an ENI, and what the subnet's ENIs hold.
//!
//! Each function is one operation of EC2 and decides nothing. Changes are made by explicit list and are never repeated by
//! themselves unless EC2 said that it did not execute them (throttling): a lost reply comes back as
//! [`Ec2Error::Unclear`], for the caller to look (EC2 has no idempotency token for them). Only an Assign, which containers
//! wait for, is sent a second time while the answer to the first is still waited for: its list is explicit, so that two do
//! what one does. Reads are repeated by the SDK.
//! EC2 is eventually consistent: a read may lag behind a change in both directions.

mod answer;
mod calls;
mod change;
mod connect;
mod credentials;
mod error;
mod interface;
mod words;

use std::net::Ipv4Addr;
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_sdk_ec2::Client;
use aws_sdk_ec2::config::http::HttpResponse;
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ec2::types::{Filter, InstanceType, InstanceTypeHypervisor};
use prometheus_client::registry::Registry;
use serde::Serialize;
use tokio::time::Instant;

use crate::domain::id::{EniId, SubnetId};
use crate::domain::subnet::Subnet;
pub use answer::{Answer, AssignCall, UnassignCall};
use calls::Calls;
pub use change::throttle_pause;
pub use connect::StaticKeys;
use credentials::Source;
pub use error::Ec2Error;
use error::Subject;
pub use interface::{Address, Interface};
use words::partition;

/// Longest time for one call with its retries. Claims count as stale after 60 s; a call must be over before half of that.
///
/// A change's attempt has what is left of it: while EC2 is slow, one that is waited for gets its answer, and several that
/// are cut off get none. An Assign of 49 addresses usually answers within about 2 s.
const CALL: Duration = Duration::from_secs(25);
/// An answer that has not come by then may be lost as well as slow. Two attempts of a read fit into a call.
const LOST: Duration = Duration::from_secs(12);
/// Attempts in all while EC2 throttles.
pub const ATTEMPTS: u32 = 3;
/// Filter values of one Describe call (EC2, "Filter": at most 200).
const FILTER_VALUES: usize = 200;
/// Interfaces of one page (EC2 allows 5 to 1000). Half of it keeps an answer near 1 MB.
const PAGE: i32 = 500;

/// An EC2 action that the driver uses, by IAM's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// `ec2:AssignPrivateIpAddresses`
    Assign,
    /// `ec2:UnassignPrivateIpAddresses`
    Unassign,
    /// `ec2:DescribeNetworkInterfaces`
    DescribeInterfaces,
    /// `ec2:DescribeSubnets`
    DescribeSubnets,
    /// `ec2:DescribeInstanceTypes`
    DescribeInstanceTypes,
    /// `ec2:DescribeInstances`
    DescribeInstances,
}

impl Action {
    /// All that a driver uses for its own host; what serves distant ENIs uses `DescribeInstances` too.
    pub const ALL: [Self; 5] =
        [Self::Assign, Self::Unassign, Self::DescribeInterfaces, Self::DescribeSubnets, Self::DescribeInstanceTypes];

    /// EC2's name of it.
    pub fn name(self) -> &'static str {
        self.as_str().trim_start_matches("ec2:")
    }

    /// IAM's name of it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Assign => "ec2:AssignPrivateIpAddresses",
            Self::Unassign => "ec2:UnassignPrivateIpAddresses",
            Self::DescribeInterfaces => "ec2:DescribeNetworkInterfaces",
            Self::DescribeSubnets => "ec2:DescribeSubnets",
            Self::DescribeInstanceTypes => "ec2:DescribeInstanceTypes",
            Self::DescribeInstances => "ec2:DescribeInstances",
        }
    }
}

impl std::fmt::Display for Action {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Action {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// What an instance type lets each of its ENIs have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// IPv4 addresses, the primary included; a block counts as one.
    pub addresses: usize,
    /// Whether blocks are among them: on Nitro and bare metal (AWS, "Prefix delegation"; no field says it, and the VPC CNI tells
    /// by the same two).
    pub blocks: bool,
}

/// EC2 in one region. Cheap to clone: the connections and the credentials are shared.
#[derive(Debug, Clone)]
pub struct Ec2 {
    client: Client,
    region: String,
    calls: Calls,
    credentials: Source,
}

impl Ec2 {
    fn about(&self, action: Action, eni: Option<&EniId>, subnet: Option<&SubnetId>) -> Subject {
        Subject { action, eni: eni.cloned(), subnet: subnet.cloned(), partition: partition(&self.region) }
    }

    /// Whether EC2 answered the last attempt of a call, whatever it said; none: nothing was sent yet.
    pub fn is_up(&self) -> Option<bool> {
        self.calls.is_up()
    }

    /// When it last did what it was asked.
    pub fn last_success(&self) -> Option<Instant> {
        self.calls.last_success()
    }

    /// Shows what was sent.
    pub fn register(&self, registry: &mut Registry) {
        self.calls.register(registry);
    }

    /// The region that is spoken to.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// The credentials that are spoken with, for what else is signed with them.
    ///
    /// Errors: `NoCredentials`, `BadCredentials`.
    pub async fn credentials(&self) -> Result<Credentials, Ec2Error> {
        self.credentials.get().await
    }

    /// The ENI as EC2 sees it. Asked by parameter, which fails with `NoSuchEni` when it is gone (a filter would not).
    pub async fn interface(&self, eni: &EniId) -> Result<Interface, Ec2Error> {
        let subject = self.about(Action::DescribeInterfaces, Some(eni), None);
        let call = self.client.describe_network_interfaces().network_interface_ids(eni.as_str());
        let answer = Box::pin(call.send()).await.map_err(|error| subject.explain(&error))?;
        let found = answer.network_interfaces().first().ok_or(Ec2Error::NoSuchEni { eni: eni.clone() })?;
        Interface::read(found).map_err(|why| subject.unclear(why))
    }

    /// Every ENI of the subnet, all pages; the time limit is per page. An unknown subnet has none.
    pub async fn interfaces_of_subnet(&self, subnet: &SubnetId) -> Result<Vec<Interface>, Ec2Error> {
        self.interfaces(subnet, Vec::new()).await
    }

    /// The ENIs of the subnet that have any of these addresses, each once. Addresses inside an ENI's /28 prefix are not
    /// found so: EC2 filters by single addresses.
    pub async fn holders(&self, subnet: &SubnetId, ips: &[Ipv4Addr]) -> Result<Vec<Interface>, Ec2Error> {
        let mut found: Vec<Interface> = Vec::new();
        for some in ips.chunks(FILTER_VALUES) {
            let by_address = Filter::builder()
                .name("addresses.private-ip-address")
                .set_values(Some(some.iter().map(Ipv4Addr::to_string).collect()))
                .build();
            for interface in self.interfaces(subnet, vec![by_address]).await? {
                if !found.iter().any(|other| other.id == interface.id) {
                    found.push(interface);
                }
            }
        }
        Ok(found)
    }

    /// Every ENI that is attached to the instance, or about to be.
    pub async fn interfaces_of_instance(&self, instance: &str) -> Result<Vec<Interface>, Ec2Error> {
        self.interfaces_of_instances(&[instance.to_owned()]).await
    }

    /// Those of these instances, whatever their subnets; EC2 takes up to 200 at once.
    pub async fn interfaces_of_instances(&self, instances: &[String]) -> Result<Vec<Interface>, Ec2Error> {
        let attached = Filter::builder().name("attachment.instance-id").set_values(Some(instances.to_vec())).build();
        self.filtered(&self.about(Action::DescribeInterfaces, None, None), vec![attached]).await
    }

    async fn interfaces(&self, subnet: &SubnetId, mut filters: Vec<Filter>) -> Result<Vec<Interface>, Ec2Error> {
        filters.push(Filter::builder().name("subnet-id").values(subnet.as_str()).build());
        self.filtered(&self.about(Action::DescribeInterfaces, None, Some(subnet)), filters).await
    }

    async fn filtered(&self, subject: &Subject, filters: Vec<Filter>) -> Result<Vec<Interface>, Ec2Error> {
        let call = self.client.describe_network_interfaces().set_filters(Some(filters));
        let mut pages = call.into_paginator().page_size(PAGE).send();
        let mut all = Vec::new();
        while let Some(page) = Box::pin(pages.next()).await {
            let page = page.map_err(|error| subject.explain(&error))?;
            for found in page.network_interfaces() {
                all.push(Interface::read(found).map_err(|why| subject.unclear(why))?);
            }
        }
        Ok(all)
    }

    /// The subnet and its IPv4 block. Errors: `NoSuchSubnet`, and those of every call.
    pub async fn subnet(&self, id: &SubnetId) -> Result<Subnet, Ec2Error> {
        let subject = self.about(Action::DescribeSubnets, None, Some(id));
        let call = self.client.describe_subnets().subnet_ids(id.as_str());
        let answer = Box::pin(call.send()).await.map_err(|error| subject.explain(&error))?;
        let found = answer.subnets().first().ok_or(Ec2Error::NoSuchSubnet { subnet: id.clone() })?;
        let block = found.cidr_block().unwrap_or_default();
        let cidr = block.parse().map_err(|_| subject.unclear(format!("{id} has no IPv4 block but {block:?}")))?;
        Subnet::new(id.clone(), cidr).map_err(|error| subject.unclear(error.to_string()))
    }

    /// How many of its addresses are available, as EC2 counts them; a /28 prefix takes sixteen.
    pub async fn available_addresses(&self, id: &SubnetId) -> Result<i32, Ec2Error> {
        let subject = self.about(Action::DescribeSubnets, None, Some(id));
        let call = self.client.describe_subnets().subnet_ids(id.as_str());
        let answer = Box::pin(call.send()).await.map_err(|error| subject.explain(&error))?;
        let available = answer.subnets().first().and_then(|found| found.available_ip_address_count());
        available.ok_or_else(|| subject.unclear(format!("its answer does not count the available addresses of {id}")))
    }

    /// An instance's type, such as `c5.large`.
    pub async fn instance_type(&self, instance: &str) -> Result<String, Ec2Error> {
        let subject = self.about(Action::DescribeInstances, None, None);
        let call = self.client.describe_instances().instance_ids(instance);
        let answer = Box::pin(call.send()).await.map_err(|error| subject.explain(&error))?;
        let found = answer.reservations().iter().flat_map(|reservation| reservation.instances()).next();
        let kind = found.and_then(|found| found.instance_type()).map(|kind| kind.as_str().to_owned());
        kind.ok_or_else(|| subject.unclear(format!("its answer gives no type of {instance}")))
    }

    /// What each ENI of this instance type may have.
    pub async fn limits(&self, instance_type: &str) -> Result<Limits, Ec2Error> {
        let subject = self.about(Action::DescribeInstanceTypes, None, None);
        let call = self.client.describe_instance_types().instance_types(InstanceType::from(instance_type));
        let answer = Box::pin(call.send()).await.map_err(|error| subject.explain(&error))?;
        let found = answer.instance_types().first();
        let found = found.ok_or_else(|| subject.unclear(format!("its answer does not know {instance_type}")))?;
        let addresses = found
            .network_info()
            .and_then(|network| network.ipv4_addresses_per_interface())
            .and_then(|limit| usize::try_from(limit).ok())
            .filter(|limit| *limit > 0)
            .ok_or_else(|| subject.unclear(format!("its answer gives no address limit for {instance_type}")))?;
        let is_nitro = found.hypervisor() == Some(&InstanceTypeHypervisor::Nitro);
        Ok(Limits { addresses, blocks: is_nitro || found.bare_metal() == Some(true) })
    }

    /// Whether IAM allows the action; nothing is changed.
    ///
    /// Describe calls are asked with DryRun. Assign and Unassign have no DryRun (EC2 API reference), so they are asked for
    /// 127.0.0.1, which no subnet can have (VPC guide, "VPC CIDR blocks"): a refusal because of the address comes after
    /// the permission.
    ///
    /// Errors: `Denied` if it does not, any other if that cannot be told.
    pub async fn permitted(&self, action: Action, eni: &EniId, subnet: &SubnetId) -> Result<(), Ec2Error> {
        let subject = self.about(action, Some(eni), Some(subnet));
        let ec2 = &self.client;
        let nowhere = [Ipv4Addr::LOCALHOST];
        let outcome = match action {
            Action::Assign => self.assign(eni, &nowhere).await,
            Action::Unassign => self.unassign(eni, &nowhere).await,
            Action::DescribeInterfaces => {
                let call = ec2.describe_network_interfaces().network_interface_ids(eni.as_str());
                dry(&subject, Box::pin(call.dry_run(true).send())).await
            }
            Action::DescribeSubnets => {
                let call = ec2.describe_subnets().subnet_ids(subnet.as_str());
                dry(&subject, Box::pin(call.dry_run(true).send())).await
            }
            Action::DescribeInstanceTypes => {
                let call = ec2.describe_instance_types().instance_types(InstanceType::T3Micro);
                dry(&subject, Box::pin(call.dry_run(true).send())).await
            }
            Action::DescribeInstances => dry(&subject, Box::pin(ec2.describe_instances().dry_run(true).send())).await,
        };
        match outcome {
            Err(error) if error.is_past_permission() => Ok(()),
            outcome => outcome,
        }
    }
}

/// The outcome of a dry run: EC2 says yes with the error `DryRunOperation` (HTTP 412).
async fn dry<T, E>(
    subject: &Subject,
    call: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
) -> Result<(), Ec2Error>
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    match call.await {
        Err(error) if error.code() == Some("DryRunOperation") => Ok(()),
        Err(error) => Err(subject.explain(&error)),
        Ok(_) => Err(subject.unclear("it answered a dry run as if it had been meant".into())),
    }
}
