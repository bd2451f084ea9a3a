//! ENIs of other hosts: what EC2 lets the driver see of them, and leases that nobody may have any more.

use std::time::Duration;

use super::Doctor;
use super::by_then;
use super::check::{Check, ok, warning};
use super::interface::check_permissions;
use crate::outside::ec2::{Action, Ec2};
use crate::outside::imds::Host;

/// What is asked before anything is given.
const LOOKS: [Action; 4] =
    [Action::DescribeInterfaces, Action::DescribeSubnets, Action::DescribeInstanceTypes, Action::DescribeInstances];

/// A container seldom lives so long.
const OLD: Duration = Duration::from_secs(7 * 86_400);

impl Doctor {
    /// `is_alone`: this host has no ENI of its own that is served, so nothing was checked by one.
    pub(super) async fn check_distant(
        &self,
        ec2: Option<&Ec2>,
        host: Option<&Host>,
        is_alone: bool,
        checks: &mut Vec<Check>,
    ) {
        let mut served = self.served.all().await;
        served.retain(|eni| eni.is_distant());
        checks.push(ok("other hosts", format!("{} of their interfaces are served", served.len())));
        checks.extend(served.iter().map(|eni| {
            let (id, instance) = (&eni.nic.eni, eni.instance());
            ok("interface", format!("{id} of {instance}: its link and its Docker are not seen from here"))
        }));
        let of_host = || host?.interfaces.first();
        match (ec2, served.first(), of_host()) {
            (Some(ec2), Some(eni), _) => {
                if is_alone {
                    check_permissions(ec2, &eni.nic, &Action::ALL, checks).await;
                }
                check_permissions(ec2, &eni.nic, &[Action::DescribeInstances], checks).await;
            }
            // In which subnets it may change something is seen with the first of them.
            (Some(ec2), None, Some(nic)) if is_alone => check_permissions(ec2, nic, &LOOKS, checks).await,
            (Some(ec2), None, Some(nic)) => check_permissions(ec2, nic, &[Action::DescribeInstances], checks).await,
            (None, _, _) | (_, None, None) => {}
        }
        let Ok(leases) = self.leases.older_than(OLD, by_then()).await else { return };
        let of_others = |eni: &str| served.iter().any(|served| served.nic.eni.as_str() == eni);
        let old = leases.iter().filter(|lease| of_others(&lease.eni)).count();
        if old > 0 {
            checks.push(warning(
                "leases",
                format!("{old} of other hosts' are older than a week: their Engines may have failed to say that they are over"),
                "see `ec2-ipam leases --older-than 7d`, look on those hosts, and `ec2-ipam release` what no container has",
            ));
        }
    }
}
