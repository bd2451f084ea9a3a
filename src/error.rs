//! Why a request was refused: one sentence that says what to do, fit for the user who typed `docker run`.

use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;

use crate::domain::id::{BadName, EniId, SubnetId};
use crate::domain::subnet::BadSubnet;
use crate::outside::ec2::Ec2Error;
use crate::outside::imds::ImdsError;
use crate::outside::link::LinkError;
use crate::store::StoreError;

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the sentences say it")]
pub enum Error {
    /// The caller's own mistake, in words.
    #[error("{0}")]
    Asked(String),
    #[error(transparent)]
    Name(#[from] BadName),
    #[error(transparent)]
    Subnet(#[from] BadSubnet),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Ec2(#[from] Ec2Error),
    #[error(transparent)]
    Imds(#[from] ImdsError),
    #[error(transparent)]
    Link(#[from] LinkError),
    /// Nothing of this host is what was asked for, as far as it shows itself by now.
    #[error("{0}")]
    Absent(String),
    /// The same, and nothing that is about to show itself may be it.
    #[error("{0}")]
    NotComing(String),
    /// Of an ENI of another host, which has a driver of its own; `seen`, `gone`: seconds.
    #[error(
        "{instance} has a driver of its own, which was there {seen} s ago, so its addresses are not given here: create networks \
         with that driver, or remove it and try again {gone} s later"
    )]
    Driven { instance: String, seen: u64, gone: u64 },
    /// Something outside is not there yet, or not any more.
    #[error("{0}")]
    Missing(String),
    #[error("no answer within {:.0} s: {why}", waited.as_secs_f64())]
    Late { waited: Duration, why: String },
    #[error("subnet {subnet} has no free address{}{what_helps}", range.map(|r| format!(" in the range {r}")).unwrap_or_default())]
    NoFreeAddress { subnet: SubnetId, range: Option<Ipv4Net>, what_helps: String },
    #[error(
        "{eni} holds as many addresses as its instance type allows, and all are in use: stop containers, use a larger \
         instance type, or start the container on another host"
    )]
    EniFull { eni: EniId },
    #[error(
        "{eni} holds as many addresses as its instance type allows, and the host itself has the idle ones on {link} ({ips}): \
         take them off with `ip addr del`, and see `ec2-ipam doctor`"
    )]
    HostHasThem { eni: EniId, link: String, ips: String },
    /// Of addresses on an ENI that the table does not know.
    #[error(
        "{eni} holds as many addresses as its instance type allows, and the table does not know whose {count} of them are: {}",
        if *is_looked_at {
            "they become idle once Docker has shown that no container has them; try again in a moment"
        } else {
            "Docker is not read, or shows no network on it; see EC2_IPAM_DOCKER_SOCKET, or take them off with \
             `aws ec2 unassign-private-ip-addresses`"
        }
    )]
    Unknown { eni: EniId, count: usize, is_looked_at: bool },
    #[error("{ip} cannot be given: {why}")]
    NotGiven { ip: Ipv4Addr, why: String },
    /// So much that it is more likely poor sight.
    #[error(
        "the scan of {subnet} would free {freed} of {rows} rows and changed nothing, as their interfaces or holders are gone by \
         EC2's word: if that is so (hosts were terminated), run `ec2-ipam reconcile --force`; if other accounts share the \
         subnet, give each its own database"
    )]
    WouldFree { subnet: SubnetId, freed: usize, rows: u64 },
    #[error(
        "this host is drained, so no container starts on this network: start it on another host, or end that with \
         `ec2-ipam drain --undo` on this one"
    )]
    Drained,
    #[error("the driver is stopping; try again when it is back")]
    Stopping,
}

/// All that [`Error::reason`] says.
pub const REASONS: [&str; 13] = [
    "asked",
    "docker",
    "drained",
    "ec2",
    "eni_full",
    "imds",
    "link",
    "not_given",
    "not_there",
    "stopping",
    "store",
    "subnet_full",
    "late",
];

impl Error {
    /// Why in one word, as the metrics have it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Asked(_) | Self::Driven { .. } | Self::Name(_) | Self::Subnet(_) => "asked",
            Self::NoFreeAddress { .. } | Self::Ec2(Ec2Error::SubnetFull { .. } | Ec2Error::NoBlock { .. }) => {
                "subnet_full"
            }
            Self::EniFull { .. } | Self::HostHasThem { .. } | Self::Ec2(Ec2Error::EniFull { .. }) => "eni_full",
            Self::Unknown { .. } => "docker",
            Self::Store(_) | Self::WouldFree { .. } => "store",
            Self::Ec2(_) => "ec2",
            Self::Imds(_) => "imds",
            Self::Link(_) => "link",
            Self::Absent(_) | Self::NotComing(_) | Self::Missing(_) => "not_there",
            Self::Late { .. } => "late",
            Self::NotGiven { .. } => "not_given",
            Self::Drained => "drained",
            Self::Stopping => "stopping",
        }
    }

    /// Whether the same request may succeed a little later by itself: then it is tried again until its time is up. What
    /// only a person can change is told at once.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Missing(_) | Self::Absent(_) | Self::Link(_) => true,
            Self::Imds(why) => why.may_pass(),
            Self::Ec2(why) => why.is_transient(),
            Self::Store(why) => why.may_pass(),
            Self::Late { .. } | Self::Stopping => false,
            Self::Asked(_) | Self::Driven { .. } | Self::NotComing(_) | Self::Name(_) | Self::Subnet(_) => false,
            Self::NoFreeAddress { .. }
            | Self::EniFull { .. }
            | Self::HostHasThem { .. }
            | Self::Unknown { .. }
            | Self::NotGiven { .. }
            | Self::WouldFree { .. }
            | Self::Drained => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outside::ec2::Action;

    #[test]
    fn what_may_pass_by_itself_is_told_from_what_a_person_must_change() {
        let (ip, eni) = (Ipv4Addr::LOCALHOST, EniId::stored("eni-0123456789abcdef0".into()));
        let text = String::new;
        for passing in [
            Error::Missing(text()),
            Error::Absent(text()),
            Error::Imds(ImdsError::Unreachable { why: text() }),
            Error::Imds(ImdsError::Absent { path: text() }),
            Error::Imds(ImdsError::Odd { path: text(), what: "HTTP 503".into() }),
            Error::Link(LinkError::Gone { mac: text() }),
            Error::Link(LinkError::Down { name: text() }),
            Error::Link(LinkError::Kernel { why: text() }),
            Error::Ec2(Ec2Error::NoRegion),
            Error::Ec2(Ec2Error::NoCredentials { why: text() }),
            Error::Ec2(Ec2Error::Unreachable { action: Action::Assign, why: text() }),
            Error::Ec2(Ec2Error::Throttled { action: Action::Assign }),
        ] {
            assert!(passing.may_pass(), "{passing:?}");
        }
        for lasting in [
            Error::Asked(text()),
            Error::Stopping,
            Error::Drained,
            Error::Imds(ImdsError::Disabled),
            Error::NotGiven { ip, why: text() },
            Error::EniFull { eni: eni.clone() },
            Error::Ec2(Ec2Error::NoSuchEni { eni }),
            Error::Ec2(Ec2Error::BadCredentials { why: text() }),
            Error::Ec2(Ec2Error::Denied { action: Action::Assign, resource: text(), why: text() }),
        ] {
            assert!(!lasting.may_pass(), "{lasting:?}");
        }
    }
}
