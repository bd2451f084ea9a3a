//! A VPC subnet and the arithmetic of its addresses.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::Serialize;

use crate::domain::id::SubnetId;

/// A subnet as EC2 knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Subnet {
    /// Its id.
    pub id: SubnetId,
    /// Its IPv4 block. AWS allows /16 to /28.
    pub cidr: Ipv4Net,
}

/// A block that AWS gives to no subnet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("subnet {id} has the block {cidr}, but a subnet of a VPC has between /16 and /28")]
pub struct BadSubnet {
    id: SubnetId,
    cidr: Ipv4Net,
}

impl Subnet {
    /// A subnet of a size that AWS has; this bounds the rows of the table too.
    pub fn new(id: SubnetId, cidr: Ipv4Net) -> Result<Self, BadSubnet> {
        if (16..=28).contains(&cidr.prefix_len()) {
            Ok(Self { id, cidr: cidr.trunc() })
        } else {
            Err(BadSubnet { id, cidr })
        }
    }

    /// The VPC router.
    pub fn gateway(&self) -> Ipv4Addr {
        router(self.cidr)
    }

    /// The gateway with the subnet's mask, as Docker wants it in `Data`.
    pub fn gateway_cidr(&self) -> String {
        self.with_mask(self.gateway())
    }

    /// `address/length`: what Docker programs into the container. ipvlan L2 needs the subnet's own length.
    pub fn with_mask(&self, ip: Ipv4Addr) -> String {
        format!("{ip}/{}", self.cidr.prefix_len())
    }

    /// AWS's five: network, router, DNS, future use and the last address (AWS, "Subnet CIDR blocks").
    pub fn aws_reserved(&self) -> [Ipv4Addr; 5] {
        [self.nth(0), self.nth(1), self.nth(2), self.nth(3), self.cidr.broadcast()]
    }

    /// Whether AWS keeps this address for itself.
    pub fn is_aws_reserved(&self, ip: Ipv4Addr) -> bool {
        self.aws_reserved().contains(&ip)
    }

    /// Whether the address lies inside, AWS's five included.
    pub fn contains(&self, ip: Ipv4Addr) -> bool {
        self.cidr.contains(&ip)
    }

    /// How many addresses it has, AWS's five included.
    pub fn size(&self) -> u64 {
        1 << (32 - u32::from(self.cidr.prefix_len()))
    }

    /// Every address in order, AWS's five included.
    pub fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> + use<> {
        all_of(self.cidr)
    }

    fn nth(&self, n: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.cidr.network()).saturating_add(n))
    }
}

/// Every address of a block in order. Not `hosts()`: that leaves out the first and the last one.
pub fn all_of(block: Ipv4Net) -> impl Iterator<Item = Ipv4Addr> + use<> {
    (u32::from(block.network())..=u32::from(block.broadcast())).map(Ipv4Addr::from)
}

/// The VPC router of a subnet with this block: base + 1 (AWS, "Subnet CIDR blocks").
pub fn router(cidr: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(cidr.network()).saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(cidr: &str) -> Result<Subnet, BadSubnet> {
        Subnet::new("subnet-0123456789abcdef0".parse().unwrap(), cidr.parse().unwrap())
    }

    #[test]
    fn aws_keeps_the_first_four_and_the_last() {
        let s = subnet("10.77.1.0/24").unwrap();
        let reserved: Vec<_> = s.addresses().filter(|ip| s.is_aws_reserved(*ip)).map(|ip| ip.octets()[3]).collect();
        assert_eq!(reserved, [0, 1, 2, 3, 255]);
        assert_eq!(s.gateway_cidr(), "10.77.1.1/24");
        assert_eq!(s.size(), 256);
        assert_eq!(s.addresses().count(), 256);
    }

    #[test]
    fn blocks_that_no_subnet_has_are_refused() {
        assert!(subnet("10.0.0.0/15").unwrap_err().to_string().contains("between /16 and /28"));
        assert!(subnet("10.0.0.0/29").is_err());
        assert_eq!(subnet("10.0.0.0/16").unwrap().size(), 65_536);
        assert_eq!(subnet("255.255.0.0/16").unwrap().addresses().last().unwrap().to_string(), "255.255.255.255");
    }
}
