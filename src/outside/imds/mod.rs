//! The instance metadata service: which instance this is, its ENIs, and its role's credentials.
//!
//! IMDSv2 only; `AWS_EC2_METADATA_SERVICE_ENDPOINT` is honoured. `local-ipv4s` lags an Assign by seconds and an Unassign by
//! up to a minute or, rarely, until reboot: never the only word on "free" or "gone". IMDS throttles, so that all who want
//! the same at once share one read.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::Ipv4Net;
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout_at};

use crate::domain::id::{EniId, SubnetId};
use crate::domain::on_eni::OnEni;
use crate::once::Shared;

mod role;
mod session;

pub use role::Role;
use session::Session;

/// Where IMDS is, unless `AWS_EC2_METADATA_SERVICE_ENDPOINT` or `AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE=IPv6` says otherwise.
const ENDPOINT: &str = "http://169.254.169.254";
const ENDPOINT_V6: &str = "http://[fd00:ec2::254]";

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
    /// Why others are left out: their items are not as they should be.
    pub left_out: Vec<ImdsError>,
}

impl Host {
    /// The reason why an ENI is not among the interfaces: it may be one of those left out.
    pub fn lacks<E: From<ImdsError>>(&self, otherwise: E) -> E {
        self.left_out.first().map_or(otherwise, |why| why.clone().into())
    }
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

impl ImdsError {
    /// Whether the same read may succeed a little later. Only what is switched off stays so until somebody switches it on:
    /// in an instance's first seconds the rest is not there, not whole, or busy.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Absent { .. } | Self::Odd { .. } => true,
            Self::Disabled => false,
        }
    }
}

/// What does not change for as long as the instance runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Its id, `i-...`.
    pub id: String,
    /// Its region, such as `eu-west-1`.
    pub region: String,
    /// Its type, such as `c5.large`.
    pub instance_type: String,
}

/// The metadata service. Cheap to clone; the token and what is being read are shared.
#[derive(Clone)]
pub struct Imds(Arc<Inner>);

struct Inner {
    session: Session,
    instance: OnceCell<Instance>,
    host: Shared<Host, ImdsError>,
    nics: Mutex<HashMap<EniId, Shared<Nic, ImdsError>>>,
}

impl std::fmt::Debug for Imds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Imds")
    }
}

impl Default for Imds {
    fn default() -> Self {
        Self::new()
    }
}

impl Imds {
    /// Where `AWS_EC2_METADATA_SERVICE_ENDPOINT` says, else at `169.254.169.254`. Sends nothing.
    pub fn new() -> Self {
        let given = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
        let by_mode = || match given("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE") {
            Some(mode) if mode.eq_ignore_ascii_case("IPv6") => ENDPOINT_V6,
            _ => ENDPOINT,
        };
        Self::on(&given("AWS_EC2_METADATA_SERVICE_ENDPOINT").unwrap_or_else(|| by_mode().to_owned()))
    }

    /// At this endpoint, such as `http://127.0.0.1:1338`. Errors: the endpoint is not a URI.
    pub fn at(endpoint: &str) -> Result<Self, ImdsError> {
        match endpoint.parse::<hyper::Uri>() {
            Ok(_) => Ok(Self::on(endpoint)),
            Err(_) => Err(ImdsError::Unreachable { why: session::not_a_uri(endpoint) }),
        }
    }

    fn on(endpoint: &str) -> Self {
        Self(Arc::new(Inner {
            session: Session::new(endpoint),
            instance: OnceCell::new(),
            host: Shared::default(),
            nics: Mutex::default(),
        }))
    }

    /// The instance and its ENIs. A MAC whose items vanish between two reads is that of an ENI already detached and is
    /// left out (amazon-vpc-cni-k8s #1008), and so is an IPv6-only ENI. About 80 reads on the largest instances.
    pub async fn host(&self, until: Instant) -> Result<Host, ImdsError> {
        let imds = self.clone();
        in_time(self.0.host.get(until, async move || imds.read_host().await).await)
    }

    /// The same, read now and for this one alone.
    pub async fn host_now(&self, until: Instant) -> Result<Host, ImdsError> {
        in_time(timeout_at(until, Box::pin(self.read_host())).await.ok())
    }

    /// One ENI, and nothing of the others but their ids. Errors: `Absent` if it is not listed.
    pub async fn nic(&self, eni: &EniId, until: Instant) -> Result<Nic, ImdsError> {
        let shared = {
            let mut nics = self.0.nics.lock().unwrap_or_else(PoisonError::into_inner);
            nics.entry(eni.clone()).or_default().clone()
        };
        let (imds, eni) = (self.clone(), eni.clone());
        in_time(shared.get(until, async move || imds.read_nic(&eni).await).await)
    }

    /// The instance's region, such as `eu-west-1`.
    pub async fn region(&self) -> Result<String, ImdsError> {
        self.word("placement/region").await
    }

    /// The credentials of the instance's role.
    pub fn role(&self) -> Role {
        Role::new(self.clone())
    }

    /// The instance, read once.
    pub async fn instance(&self) -> Result<Instance, ImdsError> {
        let read = async || {
            Ok(Instance {
                id: self.word("instance-id").await?,
                region: self.region().await?,
                instance_type: self.get("instance-type").await?,
            })
        };
        Ok(self.0.instance.get_or_try_init(read).await?.clone())
    }

    async fn read_host(&self) -> Result<Host, ImdsError> {
        let Instance { id: instance, region, instance_type } = self.instance().await?;
        let (mut interfaces, mut left_out) = (Vec::new(), Vec::new());
        // One after the other: IMDS limits how many connections an instance may hold.
        for mac in self.macs().await? {
            match self.nic_at(&mac).await {
                Ok(nic) => interfaces.push(nic),
                Err(ImdsError::Absent { .. }) => {}
                // It keeps no other one from being served.
                Err(why @ ImdsError::Odd { .. }) => left_out.push(why),
                Err(why @ (ImdsError::Unreachable { .. } | ImdsError::Disabled)) => return Err(why),
            }
        }
        interfaces.sort_by_key(|nic| nic.device_number);
        Ok(Host { instance, region, instance_type, interfaces, left_out })
    }

    async fn read_nic(&self, eni: &EniId) -> Result<Nic, ImdsError> {
        // Whoever serves it asks for the instance next.
        self.instance().await?;
        let mut error = ImdsError::Absent { path: format!("interface {eni}") };
        for mac in self.macs().await? {
            match self.item::<EniId>(&mac, "interface-id").await {
                Ok(id) if id == *eni => return self.nic_at(&mac).await,
                Ok(_) | Err(ImdsError::Absent { .. }) => {}
                // It may be the one.
                Err(why @ ImdsError::Odd { .. }) => error = why,
                Err(why @ (ImdsError::Unreachable { .. } | ImdsError::Disabled)) => return Err(why),
            }
        }
        Err(error)
    }

    async fn macs(&self) -> Result<Vec<String>, ImdsError> {
        let listing = self.get("network/interfaces/macs/").await?;
        let macs = listing.lines().map(|entry| entry.trim().trim_end_matches('/').to_ascii_lowercase());
        // What is no MAC, as in an odd answer, is no interface.
        Ok(macs
            .filter(|mac| mac.split(':').count() == 6 && mac.chars().all(|c| c == ':' || c.is_ascii_hexdigit()))
            .collect())
    }

    async fn nic_at(&self, mac: &str) -> Result<Nic, ImdsError> {
        Ok(Nic {
            eni: self.item(mac, "interface-id").await?,
            mac: mac.to_owned(),
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

    /// Its prefixes. IMDS has no such item where there are none.
    pub async fn prefixes(&self, mac: &str) -> Result<Vec<Ipv4Net>, ImdsError> {
        let path = of_mac(mac, "ipv4-prefix");
        match self.get(&path).await {
            Ok(text) => text.split_whitespace().map(|prefix| parsed(&path, prefix)).collect(),
            Err(ImdsError::Absent { .. }) => Ok(Vec::new()),
            Err(why) => Err(why),
        }
    }

    /// What is on it, as EC2 is asked for it too.
    pub async fn on_eni(&self, mac: &str) -> Result<OnEni, ImdsError> {
        let (addresses, prefixes) = tokio::try_join!(self.addresses(mac), self.prefixes(mac))?;
        let mut addresses = addresses.into_iter();
        Ok(OnEni { primary: addresses.next(), secondary: addresses.collect(), prefixes })
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

    /// A name of AWS's: what is kept for life is looked at closely.
    async fn word(&self, path: &str) -> Result<String, ImdsError> {
        let text = self.get(path).await?.trim().to_owned();
        let is_fit = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if text.is_empty() || !text.chars().all(is_fit) {
            return Err(ImdsError::Odd { path: path.to_owned(), what: format!("{text:?}") });
        }
        Ok(text)
    }

    async fn get(&self, path: &str) -> Result<String, ImdsError> {
        self.0.session.get(path).await
    }
}

fn in_time<T>(told: Option<Result<T, ImdsError>>) -> Result<T, ImdsError> {
    told.unwrap_or_else(|| Err(ImdsError::Unreachable { why: "it has not told all in time".to_owned() }))
}

fn of_mac(mac: &str, name: &str) -> String {
    format!("network/interfaces/macs/{}/{name}", mac.to_ascii_lowercase())
}

fn parsed<T: FromStr>(path: &str, text: &str) -> Result<T, ImdsError> {
    text.parse().map_err(|_| ImdsError::Odd { path: path.to_owned(), what: format!("{text:?}") })
}
