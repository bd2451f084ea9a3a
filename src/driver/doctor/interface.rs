//! The host's interfaces: what EC2 knows of them, what the host does with them, and what EC2 lets the driver do.

use super::check::{Check, bad, ok, warning};
use crate::domain::address::{Row, State};
use crate::outside::ec2::{Action, Ec2, Ec2Error, Limits};
use crate::outside::imds::{Host, Nic};
use crate::outside::link::{Links, Parent};

/// IMDS may list an ENI for hours after it was deleted.
pub(super) async fn check_metadata(ec2: &Ec2, host: &Host, checks: &mut Vec<Check>) {
    for nic in &host.interfaces {
        if let Err(Ec2Error::NoSuchEni { .. }) = ec2.interface(&nic.eni).await {
            checks.push(warning(
                "IMDS",
                format!("lists {} ({}), which EC2 does not know: it is left out", nic.eni, nic.mac),
                "nothing, if it was deleted: a restart of the instance brings IMDS up to date; else see whether the credentials are \
                 this account's and region's",
            ));
        }
    }
    for why in &host.left_out {
        checks.push(warning("IMDS", format!("{why}; this interface is left out"), "nothing, if no network is for it"));
    }
}

/// `limits`: of the host's instance type.
pub(super) async fn check_eni(
    links: &Links,
    ec2: &Ec2,
    limits: &Result<Limits, Ec2Error>,
    nic: &Nic,
    rows: &[Row],
    checks: &mut Vec<Check>,
) {
    let interface = match ec2.interface(&nic.eni).await {
        Ok(interface) => interface,
        Err(why) => {
            return checks.push(bad(
                "EC2",
                why,
                "allow the actions of the IAM policy in docs/install.md, and see the network to EC2's endpoint",
            ));
        }
    };
    checks.push(ok("EC2", format!("knows {}", nic.eni)));
    let name = "address limit";
    let taken = interface.addresses.len() + interface.prefixes.len();
    let on_it = |row: &&Row| interface.has(row.ip);
    let idle = rows.iter().filter(|row| row.state() == State::Ready && !row.primary).filter(on_it).count();
    let blocks = interface.prefixes.len();
    checks.push(match limits {
        Ok(Limits { addresses: limit, .. }) if taken < limit + idle && blocks > 0 => {
            let of_blocks = format!("{blocks} of them by blocks; {idle} addresses are idle");
            ok(name, format!("{taken} of {limit} slots of {} are taken, {of_blocks}", nic.eni))
        }
        Ok(Limits { addresses: limit, .. }) if taken < limit + idle => {
            ok(name, format!("{taken} of {limit} addresses are on {}, {idle} of them idle", nic.eni))
        }
        Ok(Limits { addresses: limit, .. }) => warning(
            name,
            format!("all {limit} addresses of {} are in use", nic.eni),
            "for more, use a larger instance type or a second ENI",
        ),
        Err(why) => warning(name, format!("not known: {why}"), "allow ec2:DescribeInstanceTypes"),
    });

    // amazon-ec2-net-utils puts every secondary address on the interface itself; a container must not share it.
    let name = "host agent";
    let Parent { link, addresses: own } = match links.parent(&nic.mac).await {
        Ok(parent) => parent,
        Err(why) => return checks.push(bad(name, why, "bring the interface back; nothing is given meanwhile")),
    };
    let shared: Vec<_> =
        interface.addresses.iter().filter(|a| !a.primary && own.contains(&a.ip)).map(|a| a.ip.to_string()).collect();
    checks.push(if shared.is_empty() {
        ok(name, format!("none puts secondary addresses on {}", link.name))
    } else {
        let link = link.name;
        bad(
            name,
            format!("{link} itself has {}", shared.join(", ")),
            &format!(
                "stop the agent for this link for good: systemctl mask --now policy-routes@{link}.service \
                 refresh-policy-routes@{link}.timer; then take them off: for ip in {}; do ip addr del $ip dev {link}; done",
                shared.join(" ")
            ),
        )
    });
}

pub(super) async fn check_permissions(ec2: &Ec2, nic: &Nic, actions: &[Action], checks: &mut Vec<Check>) {
    for action in actions.iter().copied() {
        let name = action.as_str();
        checks.push(match ec2.permitted(action, &nic.eni, &nic.subnet).await {
            Ok(()) => ok(name, "allowed"),
            Err(Ec2Error::Denied { why, .. }) => bad(
                name,
                format!("denied: {why}").trim_end_matches([':', ' ']),
                &format!("add {name} to the IAM policy of the instance's role"),
            ),
            Err(why) => bad(name, why, "see the credentials and the network to EC2's endpoint"),
        });
    }
}
