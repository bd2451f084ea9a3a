//! ENIs of other hosts: what EC2 lets the driver see of them, and leases that nobody may have any more.

use std::time::Duration;

use super::Doctor;
use super::by_then;
use super::check::{Check, bad, ok, warning};
use super::interface::check_permissions;
use crate::outside::ec2::{Action, Ec2, Ec2Error};

/// A container seldom lives so long.
const OLD: Duration = Duration::from_secs(7 * 86_400);

impl Doctor {
    /// `is_alone`: this host has no ENI of its own that is served, so nothing was checked by one.
    pub(super) async fn check_distant(&self, ec2: Option<&Ec2>, is_alone: bool, checks: &mut Vec<Check>) {
        let mut served = self.served.all().await;
        served.retain(|eni| eni.is_distant());
        checks.push(ok("other hosts", format!("{} of their interfaces are served", served.len())));
        if let (Some(ec2), Some(eni)) = (ec2, served.first()) {
            if is_alone {
                check_permissions(ec2, &eni.nic, checks).await;
            }
            let (action, name) = (Action::DescribeInstances, Action::DescribeInstances.as_str());
            checks.push(match ec2.permitted(action, &eni.nic.eni, &eni.nic.subnet).await {
                Ok(()) => ok(name, "allowed"),
                Err(Ec2Error::Denied { .. }) => {
                    bad(name, "denied", &format!("add {name} to the IAM policy of the server's role"))
                }
                Err(why) => bad(name, why, "see the credentials and the network to EC2's endpoint"),
            });
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
