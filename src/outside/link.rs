//! The host's network interfaces, read over rtnetlink. Nothing is changed here.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex as Plain, MutexGuard, PoisonError};

use futures_util::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::{Error, Handle};
use tokio::sync::Mutex;

use crate::supervise::supervised;

/// `ENODEV` of Linux: no such interface.
const ENODEV: i32 = 19;
/// Longest interface name in bytes (`IFNAMSIZ` - 1). The kernel answers longer ones with other errors than ENODEV.
const NAME: usize = 15;

/// Why a link is not fit or not told. Each sentence is fit for a user and says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// There is none of this name.
    #[error("there is no interface {name:?}; the interfaces are: {}", names.join(", "))]
    Missing {
        /// The name asked for.
        name: String,
        /// All others.
        names: Vec<String>,
    },
    /// It is there, and down.
    #[error("the interface {name} is down: run `ip link set {name} up`")]
    Down {
        /// Its name.
        name: String,
    },
    /// None belongs to the ENI.
    #[error(
        "no interface of this host has the MAC {mac}: is the ENI attached, and its interface in the host's network namespace?"
    )]
    Gone {
        /// The ENI's MAC.
        mac: String,
    },
    /// The kernel does not answer as it should.
    #[error(
        "the kernel does not tell the network interfaces ({why}): does the driver run in the host's network namespace?"
    )]
    Kernel {
        /// What happened.
        why: String,
    },
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number of it.
    pub index: u32,
    /// Such as `eth1`.
    pub name: String,
    /// Lowercase, `0a:1b:...`; empty if it has none.
    pub mac: String,
    /// Set up by an administrator (`IFF_UP`).
    pub up: bool,
    /// Connected (`IFF_LOWER_UP`).
    pub has_carrier: bool,
}

impl Link {
    /// The link if it can carry containers. Errors: `Down`.
    pub fn usable(self) -> Result<Self, LinkError> {
        if self.up { Ok(self) } else { Err(LinkError::Down { name: self.name }) }
    }
}

/// The link of an ENI, and the IPv4 addresses that the host itself has on it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the types say it")]
pub struct Parent {
    pub link: Link,
    pub addresses: Vec<Ipv4Addr>,
}

impl Parent {
    /// On another host: nothing is known of it.
    pub fn unseen() -> Self {
        let link = Link { index: 0, name: String::new(), mac: String::new(), up: true, has_carrier: true };
        Self { link, addresses: Vec::new() }
    }
}

/// The kernel's interfaces in the network namespace of the thread that made this.
#[derive(Debug, Clone)]
pub struct Links {
    handle: Handle,
    /// The kernel runs one dump at a time on a socket, and refuses a second one with EBUSY.
    dump: Arc<Mutex<()>>,
    /// Where the link of each MAC was last: a place to look first, and no more.
    last: Arc<Plain<HashMap<String, u32>>>,
}

impl Links {
    /// Opens a netlink socket and starts its task on the current tokio runtime (it panics outside one). The task ends
    /// with the last clone.
    pub fn new() -> Result<Self, LinkError> {
        // Strict checking makes the kernel filter address dumps; Linux has it since 4.20. Before, this side filters.
        let opened = rtnetlink::new_connection_with_strict_check().or_else(|_| rtnetlink::new_connection());
        let (connection, handle, _) = opened.map_err(|error| LinkError::Kernel { why: error.to_string() })?;
        tokio::spawn(supervised("netlink", connection));
        Ok(Self { handle, dump: Arc::default(), last: Arc::default() })
    }

    /// The link with this name.
    pub async fn by_name(&self, name: &str) -> Result<Option<Link>, LinkError> {
        if name.is_empty() || name.len() > NAME {
            return Ok(None);
        }
        let answer = self.handle.link().get().match_name(name).execute().try_next().await;
        Ok(found(answer)?.as_ref().map(read))
    }

    /// The link with this name if it can carry containers. Errors: `Missing`, `Down`.
    pub async fn usable(&self, name: &str) -> Result<Link, LinkError> {
        match self.by_name(name).await? {
            Some(link) => link.usable(),
            None => {
                let names = self.dump().await?.iter().map(|message| read(message).name).collect();
                Err(LinkError::Missing { name: name.to_owned(), names })
            }
        }
    }

    /// The link of the network card with this MAC, in either case of letters.
    ///
    /// Several links share a MAC where some stand on others. The lowest is meant: one that the kernel's driver made
    /// (no kind) comes before a veth or dummy, that before what stands on links (bridge, bond, team, vrf), and that
    /// before what is made on one link (ipvlan, macvlan, vlan, ...); among equals the lowest index, the oldest.
    /// `IFLA_LINK` alone does not tell, for a veth has it too: it is its peer's index.
    pub async fn by_mac(&self, mac: &str) -> Result<Option<Link>, LinkError> {
        Ok(lowest(&self.dump().await?, mac))
    }

    /// The MACs of all links, lowercase.
    pub async fn macs(&self) -> Result<HashSet<String>, LinkError> {
        Ok(self.dump().await?.iter().map(|message| read(message).mac).collect())
    }

    /// The link of the ENI with this MAC. Errors: `Gone`, `Kernel`.
    pub async fn of_mac(&self, mac: &str) -> Result<Link, LinkError> {
        self.by_mac(mac).await?.ok_or_else(|| LinkError::Gone { mac: mac.to_owned() })
    }

    /// The same and what the host has on it, now: a link may be made again with another index and name. Errors: `Gone`,
    /// `Kernel`.
    ///
    /// Each grant asks this, and a dump of all links costs milliseconds where there are a hundred.
    pub async fn parent(&self, mac: &str) -> Result<Parent, LinkError> {
        loop {
            let known = self.last().get(mac).copied();
            let index = match known {
                Some(index) => index,
                None => self.of_mac(mac).await?.index,
            };
            let addresses = self.addresses(index).await?;
            // Asked last: no index is given twice, so what is there now was there for its addresses.
            match self.by_index(index).await? {
                Some(message) if read(&message).mac.eq_ignore_ascii_case(mac) => {
                    // What stands on other links may give way to one of them.
                    if layer(&message) <= 1 {
                        self.last().insert(mac.to_owned(), index);
                    }
                    return Ok(Parent { link: read(&message), addresses });
                }
                _ => drop(self.last().remove(mac)),
            }
        }
    }

    fn last(&self) -> MutexGuard<'_, HashMap<String, u32>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn by_index(&self, index: u32) -> Result<Option<LinkMessage>, LinkError> {
        found(self.handle.link().get().match_index(index).execute().try_next().await)
    }

    /// The IPv4 addresses of this link; none if there is no such link.
    pub async fn addresses(&self, index: u32) -> Result<Vec<Ipv4Addr>, LinkError> {
        let mut get = self.handle.address().get().set_link_index_filter(index);
        get.message_mut().header.family = AddressFamily::Inet;
        get.message_mut().header.index = index;
        let _one = self.dump.lock().await;
        match get.execute().try_collect::<Vec<_>>().await {
            Ok(messages) => Ok(messages.iter().filter_map(local).collect()),
            Err(Error::NetlinkError(error)) if error.code.is_some_and(|code| code.get() == -ENODEV) => Ok(Vec::new()),
            Err(error) => Err(kernel(&error)),
        }
    }

    /// Every IPv4 address of this network namespace with its link's name, loopback included.
    pub async fn all_addresses(&self) -> Result<Vec<(String, Ipv4Addr)>, LinkError> {
        let links: Vec<Link> = self.dump().await?.iter().map(read).collect();
        let mut get = self.handle.address().get();
        get.message_mut().header.family = AddressFamily::Inet;
        let _one = self.dump.lock().await;
        let messages: Vec<_> = get.execute().try_collect().await.map_err(|error| kernel(&error))?;
        let named = messages.iter().filter_map(|message| {
            let link = links.iter().find(|link| link.index == message.header.index)?;
            Some((link.name.clone(), local(message)?))
        });
        Ok(named.collect())
    }

    async fn dump(&self) -> Result<Vec<LinkMessage>, LinkError> {
        // Statistics are most of a dump, and not read.
        let get = self.handle.link().get().set_filter_mask(AddressFamily::Unspec, vec![LinkExtentMask::SkipStats]);
        let _one = self.dump.lock().await;
        get.execute().try_collect().await.map_err(|error| kernel(&error))
    }
}

/// Of the links with this MAC the one nearest to the network card.
fn lowest(links: &[LinkMessage], mac: &str) -> Option<Link> {
    let same = links.iter().filter(|message| read(message).mac.eq_ignore_ascii_case(mac));
    same.min_by_key(|message| (layer(message), message.header.index)).map(read)
}

/// How far above the network card a link is.
fn layer(message: &LinkMessage) -> u8 {
    let infos = message
        .attributes
        .iter()
        .filter_map(|attribute| if let LinkAttribute::LinkInfo(infos) = attribute { Some(infos) } else { None });
    let kind = infos.flatten().find_map(|info| if let LinkInfo::Kind(kind) = info { Some(kind) } else { None });
    let Some(kind) = kind else { return 0 };
    let on_one_link =
        [InfoKind::IpVlan, InfoKind::IpVtap, InfoKind::MacVlan, InfoKind::MacVtap, InfoKind::Vlan, InfoKind::MacSec];
    let on_links = [InfoKind::Bridge, InfoKind::Bond, InfoKind::Vrf, InfoKind::Other("team".into())];
    if on_one_link.contains(kind) {
        3
    } else if on_links.contains(kind) {
        2
    } else {
        1
    }
}

fn read(message: &LinkMessage) -> Link {
    let (mut name, mut mac) = (String::new(), String::new());
    for attribute in &message.attributes {
        if let LinkAttribute::IfName(text) = attribute {
            name.clone_from(text);
        } else if let LinkAttribute::Address(bytes) = attribute {
            mac = bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":");
        }
    }
    let flags = message.header.flags;
    let (up, has_carrier) = (flags.contains(LinkFlags::Up), flags.contains(LinkFlags::LowerUp));
    Link { index: message.header.index, name, mac, up, has_carrier }
}

/// The link's own address: on a point-to-point link `IFA_ADDRESS` is the peer's, `IFA_LOCAL` always one's own.
fn local(message: &AddressMessage) -> Option<Ipv4Addr> {
    message
        .attributes
        .iter()
        .find_map(|attribute| if let AddressAttribute::Local(IpAddr::V4(ip)) = attribute { Some(*ip) } else { None })
}

/// The answer about one link.
fn found(answer: Result<Option<LinkMessage>, Error>) -> Result<Option<LinkMessage>, LinkError> {
    match answer {
        Err(Error::NetlinkError(error)) if error.code.is_some_and(|code| code.get() == -ENODEV) => Ok(None),
        answer => answer.map_err(|error| kernel(&error)),
    }
}

fn kernel(error: &Error) -> LinkError {
    LinkError::Kernel { why: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, kind: Option<InfoKind>) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::IfName(format!("if{index}")));
        message.attributes.push(LinkAttribute::Address(vec![0x0a, 0x1b, 0, 0, 0, 1]));
        if let Some(kind) = kind {
            message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]));
        }
        message
    }

    #[test]
    fn the_lowest_link_of_a_mac_is_chosen_whatever_the_order() {
        let kinds = [None, Some(InfoKind::Veth), Some(InfoKind::Bond), Some(InfoKind::IpVlan)];
        // From the card upwards; each is the answer when those below it are not there, although its index is the highest.
        let mut links: Vec<_> = kinds.into_iter().zip([9, 8, 7, 6]).map(|(kind, index)| link(index, kind)).collect();
        for expected in ["if9", "if8", "if7", "if6"] {
            assert_eq!(lowest(&links, "0A:1B:00:00:00:01").unwrap().name, expected);
            links.remove(0);
        }
        let twins = [link(4, Some(InfoKind::Vlan)), link(3, Some(InfoKind::MacVlan))];
        assert_eq!(lowest(&twins, "0a:1b:00:00:00:01").unwrap().name, "if3");
        assert_eq!(lowest(&twins, "0a:1b:00:00:00:02"), None);
    }
}
