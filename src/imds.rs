//! The instance metadata service: which instance this is, and its ENIs.
//!
//! IMDSv2 only, through the SDK's client; `AWS_EC2_METADATA_SERVICE_ENDPOINT` is honoured. `local-ipv4s` lags an Assign by
//! seconds and an Unassign by up to a minute or, rarely, until reboot: never the only word on "free" or "gone".

use std::error::Error;
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::time::Duration;

use aws_config::imds::Client;
use aws_config::imds::client::error::{ImdsError as SdkImdsError, TokenError};
use aws_sdk_ec2::error::SdkError;
use ipnet::Ipv4Net;

use crate::id::{EniId, SubnetId};

/// Longest time for a connection, and for an answer on it. IMDS is one link-local hop away and answers within
/// milliseconds, and a packet lost to the hop limit never comes: the rest is for a host whose processors are all busy.
const WAIT: Duration = Duration::from_secs(2);
/// Longest time for one read with its token and retries: a host without IMDS is told within it.
const READ: Duration = Duration::from_secs(8);
/// Attempts in all on 5xx and on a token that has run out (401). No answer at all is not retried.
const ATTEMPTS: u32 = 2;

/// Why IMDS did not tell. Each sentence is fit for a user and says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImdsError {
    /// Nothing answers.
    #[error(
        "the instance metadata service does not answer ({why}): is this an EC2 instance? In a bridged container raise its \
         hop limit to 2 or use the host's network"
    )]
    Unreachable {
        /// What happened.
        why: String,
    },
    /// It answers 403: switched off, or a firewall's word.
    #[error(
        "the instance metadata service is switched off (HTTP 403): enable it with `aws ec2 modify-instance-metadata-options --http-endpoint enabled`"
    )]
    Disabled,
    /// It has no such item.
    #[error(
        "the instance metadata service has no {path}: is AWS_EC2_METADATA_SERVICE_ENDPOINT that of an EC2 instance?"
    )]
    Absent {
        /// Below `/latest/meta-data/`.
        path: String,
    },
    /// Any other answer.
    #[error(
        "the instance metadata service answers {path} with {what}: try again, and see whether AWS_EC2_METADATA_SERVICE_ENDPOINT is right"
    )]
    Odd {
        /// Below `/latest/meta-data/`.
        path: String,
        /// The answer.
        what: String,
    },
}

/// This instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Its id, `i-...`.
    pub instance: String,
    /// Its region, such as `eu-west-1`.
    pub region: String,
    /// Its type, such as `c5.large`.
    pub instance_type: String,
    /// Its ENIs with IPv4, by device number.
    pub interfaces: Vec<Nic>,
}

/// An ENI of this instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    /// Its id.
    pub eni: EniId,
    /// Lowercase, `0a:1b:...`.
    pub mac: String,
    /// 0 for the one that the instance was started with. Counts anew on each network card.
    pub device_number: u32,
    /// Its subnet.
    pub subnet: SubnetId,
    /// The subnet's IPv4 block.
    pub cidr: Ipv4Net,
    /// Its private addresses (`local-ipv4s`); the first is the primary one.
    pub addresses: Vec<Ipv4Addr>,
}

/// The metadata service. Cheap to clone; the token is shared.
#[derive(Debug, Clone)]
pub struct Imds {
    client: Client,
}

impl Default for Imds {
    fn default() -> Self {
        Self::new()
    }
}

impl Imds {
    /// Where `AWS_EC2_METADATA_SERVICE_ENDPOINT` says, else at `169.254.169.254`. Sends nothing.
    pub fn new() -> Self {
        Self { client: builder().build() }
    }

    /// At this endpoint, such as `http://127.0.0.1:1338`. Errors: the endpoint is not a URI.
    pub fn at(endpoint: &str) -> Result<Self, ImdsError> {
        let builder = builder()
            .endpoint(endpoint)
            .map_err(|_| ImdsError::Unreachable { why: format!("{endpoint} is not a URI") })?;
        Ok(Self { client: builder.build() })
    }

    /// The instance and its ENIs. A MAC whose items vanish between two reads is that of an ENI already detached and is
    /// left out (amazon-vpc-cni-k8s #1008), and so is an IPv6-only ENI. About 80 reads on the largest instances.
    pub async fn host(&self, within: Duration) -> Result<Host, ImdsError> {
        let read = tokio::time::timeout(within, Box::pin(self.read_host())).await;
        read.unwrap_or_else(|_| Err(ImdsError::Unreachable { why: format!("not done within {within:?}") }))
    }

    async fn read_host(&self) -> Result<Host, ImdsError> {
        let instance = self.get("instance-id").await?;
        let region = self.get("placement/region").await?;
        let instance_type = self.get("instance-type").await?;
        let mut interfaces = Vec::new();
        // One after the other: IMDS limits how many connections an instance may hold.
        for entry in self.get("network/interfaces/macs/").await?.lines() {
            let mac = entry.trim().trim_end_matches('/');
            match self.nic(mac).await {
                Ok(nic) => interfaces.push(nic),
                Err(ImdsError::Absent { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        interfaces.sort_by_key(|nic| nic.device_number);
        Ok(Host { instance, region, instance_type, interfaces })
    }

    async fn nic(&self, mac: &str) -> Result<Nic, ImdsError> {
        Ok(Nic {
            eni: self.item(mac, "interface-id").await?,
            mac: mac.to_ascii_lowercase(),
            device_number: self.item(mac, "device-number").await?,
            subnet: self.item(mac, "subnet-id").await?,
            cidr: self.item(mac, "subnet-ipv4-cidr-block").await?,
            addresses: self.addresses(mac).await?,
        })
    }

    /// `local-ipv4s` of the ENI with this MAC, as a link or IMDS writes it; the first is the primary address.
    ///
    /// Errors: `Absent` if it has none or is gone.
    pub async fn addresses(&self, mac: &str) -> Result<Vec<Ipv4Addr>, ImdsError> {
        let path = of_mac(mac, "local-ipv4s");
        let text = self.get(&path).await?;
        text.split_whitespace().map(|ip| parsed(&path, ip)).collect()
    }

    /// Whether it lists this ENI, which has this MAC; none: it does not tell.
    pub async fn lists(&self, mac: &str, eni: &EniId) -> Option<bool> {
        match self.item::<EniId>(mac, "interface-id").await {
            Ok(listed) => Some(listed == *eni),
            Err(ImdsError::Absent { .. }) => Some(false),
            Err(_) => None,
        }
    }

    async fn item<T: FromStr>(&self, mac: &str, name: &str) -> Result<T, ImdsError> {
        let path = of_mac(mac, name);
        parsed(&path, self.get(&path).await?.trim())
    }

    async fn get(&self, path: &str) -> Result<String, ImdsError> {
        match Box::pin(self.client.get(format!("/latest/meta-data/{path}"))).await {
            Ok(text) => Ok(text.into()),
            Err(error) => Err(explain(path, &error)),
        }
    }
}

fn builder() -> aws_config::imds::client::Builder {
    Client::builder()
        .max_attempts(ATTEMPTS)
        .connect_timeout(WAIT)
        .read_timeout(WAIT)
        .operation_attempt_timeout(READ)
        .operation_timeout(READ)
}

fn of_mac(mac: &str, name: &str) -> String {
    format!("network/interfaces/macs/{}/{name}", mac.to_ascii_lowercase())
}

fn parsed<T: FromStr>(path: &str, text: &str) -> Result<T, ImdsError> {
    text.parse().map_err(|_| ImdsError::Odd { path: path.to_owned(), what: format!("{text:?}") })
}

fn explain(path: &str, error: &SdkImdsError) -> ImdsError {
    let status = if let SdkImdsError::ErrorResponse(answer) = error {
        Some(answer.response().status().as_u16())
    } else {
        // The token's own answer hides in the cause.
        let token = causes(error).find_map(|e| e.downcast_ref::<SdkError<TokenError>>());
        token.and_then(SdkError::raw_response).map(|answer| answer.status().as_u16())
    };
    match status {
        Some(403) => ImdsError::Disabled,
        Some(404) => ImdsError::Absent { path: path.to_owned() },
        Some(status) => ImdsError::Odd { path: path.to_owned(), what: format!("HTTP {status}") },
        None => ImdsError::Unreachable { why: causes(error).last().unwrap_or(error).to_string() },
    }
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&e| e.source())
}
