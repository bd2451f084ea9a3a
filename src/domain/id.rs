//! Names of things: AWS ids, the driver's boot and claim tokens, and the PoolID that Docker keeps for us.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::random::{self, NoRandomness};

/// A text that is not the name it should be. The sentence is fit for a user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadName(String);

macro_rules! aws_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The id as it stands in the table. Rows are not ours alone, so nothing is demanded of it.
            pub fn stored(text: String) -> Self {
                Self(text)
            }

            /// The id as AWS writes it.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = BadName;

            fn from_str(text: &str) -> Result<Self, BadName> {
                let digits = text.strip_prefix($prefix).unwrap_or_default();
                // 8 digits in old accounts, 17 since 2016; the column holds 32 characters.
                let fits = (8..=27).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
                if fits {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(BadName(format!("{text:?} is not an id of the form {}0123456789abcdef0", $prefix)))
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

aws_id!(
    /// An elastic network interface, `eni-…`.
    EniId,
    "eni-"
);
aws_id!(
    /// An instance, `i-…`.
    InstanceId,
    "i-"
);
aws_id!(
    /// A subnet of a VPC, `subnet-…`.
    SubnetId,
    "subnet-"
);

/// One life of one driver process: 16 random hex digits. Claims carry it, so that those of an earlier life are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot(String);

impl Boot {
    /// A new life, unlike any other of any host.
    ///
    /// # Errors
    /// The operating system has no randomness.
    pub fn random() -> Result<Self, NoRandomness> {
        Ok(Self(format!("{:016x}", random::number()?)))
    }

    /// The token of the claim with this number.
    pub fn claim(&self, number: u64, kind: Kind) -> Claim {
        Claim(format!("{}:{number}:{}", self.0, kind.as_str()))
    }
}

impl fmt::Display for Boot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a claim is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An Assign may be in flight.
    On,
    /// An Unassign may be in flight.
    Off,
    /// A container uses the address.
    Lease,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
            Self::Lease => "lease",
        }
    }
}

/// The token of a row that somebody holds: `boot:number:kind`, at most 64 characters, never used twice.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Claim(String);

impl Claim {
    /// The token as it stands in the table.
    pub fn stored(text: String) -> Self {
        Self(text)
    }

    /// The token as it stands in the table.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What the claim is for; none if the text is not ours.
    pub fn kind(&self) -> Option<Kind> {
        let (_, kind) = self.0.rsplit_once(':')?;
        [Kind::On, Kind::Off, Kind::Lease].into_iter().find(|k| k.as_str() == kind)
    }

    /// Whether this life of this driver made it.
    pub fn is_of(&self, boot: &Boot) -> bool {
        self.0.split(':').next() == Some(boot.0.as_str())
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What Docker keeps of a pool and sends with every later call: `ENI/CIDR` or `ENI/CIDR/SUBPOOL`.
///
/// It must tell everything, since the driver may restart at any time and Docker never repeats RequestPool. The
/// original's PoolIDs are a bare ENI id; they are understood too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolId {
    /// The interface whose addresses the pool gives.
    pub eni: EniId,
    /// The subnet's CIDR; none in a PoolID of the original.
    pub cidr: Option<Ipv4Net>,
    /// `--ip-range`: limits what is chosen automatically.
    pub sub_pool: Option<Ipv4Net>,
}

impl fmt::Display for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.eni)?;
        for net in self.cidr.iter().chain(self.sub_pool.iter()) {
            write!(f, "/{}-{}", net.network(), net.prefix_len())?;
        }
        Ok(())
    }
}

impl FromStr for PoolId {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let unknown = || {
            BadName(format!(
                "the PoolID {text:?} is not one of this driver's: was the network created with another IPAM driver? \
                 Remove the network and create it again"
            ))
        };
        let mut parts = text.split('/');
        let eni = parts.next().unwrap_or_default().parse().map_err(|_| unknown())?;
        let mut net = || {
            parts.next().map(|part| {
                let (base, len) = part.split_once('-').ok_or_else(unknown)?;
                let base: Ipv4Addr = base.parse().map_err(|_| unknown())?;
                Ipv4Net::new(base, len.parse().map_err(|_| unknown())?).map_err(|_| unknown())
            })
        };
        let cidr = net().transpose()?;
        let sub_pool = net().transpose()?;
        let id = Self { eni, cidr, sub_pool };
        // To the letter as it was told to Docker, which only keeps it.
        if id.to_string() == text { Ok(id) } else { Err(unknown()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aws_ids_are_checked() {
        assert!("eni-0123456789abcdef0".parse::<EniId>().is_ok());
        assert!("eni-1a2b3c4d".parse::<EniId>().is_ok());
        for bad in ["", "eni-", "eni-xyz", "subnet-0123456789abcdef0", "eni-0123456789abcdef0'; --", "eni-1a2b3c4"] {
            assert!(bad.parse::<EniId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_claim_tells_its_boot_and_its_kind() {
        let (mine, other) = (Boot::random().unwrap(), Boot::random().unwrap());
        for kind in [Kind::On, Kind::Off, Kind::Lease] {
            let claim = mine.claim(u64::MAX, kind);
            assert_eq!(claim.kind(), Some(kind));
            assert!(claim.is_of(&mine) && !claim.is_of(&other));
            assert!(claim.as_str().len() <= 64);
        }
        assert_eq!(Claim::stored("somebody else's".into()).kind(), None);
    }

    #[test]
    fn a_pool_id_survives_the_round_trip() {
        for text in [
            "eni-0123456789abcdef0",
            "eni-0123456789abcdef0/10.0.0.0-24",
            "eni-0123456789abcdef0/10.0.0.0-24/10.0.0.128-25",
        ] {
            assert_eq!(text.parse::<PoolId>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "pool",
            "eni-0123456789abcdef0/",
            "eni-0123456789abcdef0/10.0.0.1-24",
            "eni-0123456789abcdef0/10.0.0.0-33",
            "eni-0123456789abcdef0/10.0.0.0-+24",
            "eni-0123456789abcdef0/10.0.0.0-024",
            "eni-0123456789abcdef0/10.0.0.0-24/10.0.0.128-25/x",
            "LocalDefault/10.0.0.0/24",
        ] {
            assert!(bad.parse::<PoolId>().unwrap_err().to_string().contains("not one of this driver's"), "{bad}");
        }
    }
}
