//! What several facts ask and are answered.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::report::{Way, way};
use crate::domain::plan::settle_age;
use crate::outside::ec2::{Answer, AssignCall, Ec2Error};

pub(super) const VALUE: &str = "InvalidParameterValue";
pub(super) const IN_USE: &str = "[A] assigned, but move is not allowed";
pub(super) const OUTSIDE: &str = "Address [A] does not fall within the subnet's address range";
pub(super) const NOT_THERE: &str = "Some of the specified addresses are not assigned to interface ENI";
pub(super) const MORE: &str = "accepted, lists what else the ENI has, too";

/// Assign of these.
pub(super) fn list(private_ip_addresses: &[Ipv4Addr]) -> AssignCall<'_> {
    AssignCall { private_ip_addresses, ..AssignCall::default() }
}

pub(super) fn is_in_use(answer: &Answer) -> bool {
    matches!(answer.read, Err(Ec2Error::InUse { .. }))
}

pub(super) fn is_not_there(answer: &Answer) -> bool {
    matches!(answer.read, Err(Ec2Error::NotAssigned { .. }))
}

/// Two looks that are so far apart do not err together: reconciling rests on that.
pub(super) fn soon(lag: Option<Duration>) -> Way {
    way(format!("within {} s", settle_age().as_secs()), lag.is_some_and(|lag| lag < settle_age()))
}
