//! Who asks.

use std::fmt;
use std::net::IpAddr;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// A process of this host, on the driver's own socket, which is root's.
    Local,
    /// A client over TCP.
    Remote {
        /// As the connection has it. No header says otherwise.
        address: IpAddr,
        /// Whether it is of this host: nobody else's packets come from an address of the host's own.
        is_here: bool,
        /// What its certificate, which was checked, says that it is: DNS names and URIs of the subject's alternative names,
        /// then its common names. None without a certificate.
        names: Option<Vec<String>>,
    },
}

impl Peer {
    /// Over TCP without a certificate. `own`: the address of this host that it came to.
    pub fn at(address: IpAddr, own: IpAddr) -> Self {
        Self::Remote { address, is_here: address.is_loopback() || address == own, names: None }
    }

    /// Whether it is of this host.
    pub fn is_here(&self) -> bool {
        match self {
            Self::Local => true,
            Self::Remote { is_here, .. } => *is_here,
        }
    }

    /// Whether it comes over TCP.
    pub fn is_remote(&self) -> bool {
        match self {
            Self::Local => false,
            Self::Remote { .. } => true,
        }
    }
}

/// As a log has it.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("local"),
            Self::Remote { address, .. } => address.fmt(f),
        }
    }
}
