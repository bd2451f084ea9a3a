//! The table: its server or file, and the rows of a subnet.

use std::sync::Arc;

use tokio::time::Instant;

use super::check::{Check, bad, ok, warning};
use crate::domain::address::{Row, State};
use crate::domain::subnet::Subnet;
use crate::error::Error;
use crate::fleet::fill;
use crate::outside::imds::Nic;
use crate::store::{Connections, Store, StoreError};

/// As many as one host takes at most.
const CONNECTIONS: u64 = 4;

pub(super) async fn check_database(
    store: Result<Arc<Store>, Error>,
    until: Instant,
    checks: &mut Vec<Check>,
) -> Option<Arc<Store>> {
    let remedy = "see EC2_IPAM_DATABASE_URL, how its user logs in (the check login above), the server, its security group and the user's \
                  rights";
    let described = match store {
        Ok(store) => store.describe(until).await.map(|d| (store, d)).map_err(Error::from),
        Err(why) => Err(why),
    };
    let (store, description) = match described {
        Ok(both) => both,
        Err(why) => {
            checks.push(bad("database", why.to_string(), remedy));
            return None;
        }
    };
    checks.push(ok("database", format!("{} {} at {}", description.kind, description.version, description.at)));
    checks.push(if description.lacking.is_empty() {
        ok("table", "has every column and key")
    } else {
        bad("table", "lacks columns or keys", &format!("run as an administrator: {}", description.lacking.join("; ")))
    });
    if !description.left_out.is_empty() {
        let found = format!("left out: {}", description.left_out.join("; "));
        checks.push(bad("rows", found, "correct or delete them; all others are used meanwhile"));
    }
    match description.binlog_format.as_deref() {
        Some("STATEMENT") => checks.push(bad(
            "binary log",
            "is written as STATEMENT",
            "SET GLOBAL binlog_format = 'ROW', and in the server's configuration: claims that skip locked rows cannot be \
             replicated as statements",
        )),
        format => checks.push(ok("binary log", format.unwrap_or("none"))),
    }
    checks.extend(description.connections.map(check_connections));
    Some(store)
}

/// A host without a connection waits for one of another host's, for as long as a request may take.
fn check_connections(found: Connections) -> Check {
    let Connections { limit, now, most } = found;
    let text = format!("{now} of the server's {limit} are in use, {most} at most since it started");
    if now + CONNECTIONS > limit || most >= limit {
        let remedy = "raise max_connections: one for each host of the fleet, and more for bursts (docs/capacity.md)";
        warning("connections", text, remedy)
    } else {
        ok("connections", text)
    }
}

/// `rows`: the ENI's.
pub(super) async fn check_subnet(
    store: &Store,
    nic: &Nic,
    rows: Result<Vec<Row>, StoreError>,
    until: Instant,
    checks: &mut Vec<Check>,
) {
    let name = "subnet";
    let remedy = format!("run `ec2-ipam init {}`; creating a network does it too", nic.subnet);
    let subnet = match Subnet::new(nic.subnet.clone(), nic.cidr) {
        Ok(subnet) => subnet,
        Err(why) => return checks.push(bad(name, why, "use a subnet between /16 and /28")),
    };
    checks.push(match fill::is_complete(store, &subnet, until).await {
        Ok(true) => ok(name, format!("{} {} is in the table", subnet.id, subnet.cidr)),
        Ok(false) => warning(name, format!("{} {} is not wholly in the table", subnet.id, subnet.cidr), remedy),
        Err(why) => bad(name, why, &remedy),
    });
    if let Ok(rows) = rows {
        let leases = rows.iter().filter(|row: &&Row| row.state() == State::Lease).count();
        checks.push(ok("addresses", format!("{} rows of {}, {leases} in use by containers", rows.len(), nic.eni)));
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::Verdict;
    use super::*;

    #[test]
    fn a_server_without_connections_to_spare_is_warned_of() {
        for (limit, now, most, verdict) in [
            (151, 20, 30, Verdict::Ok),
            (24, 20, 23, Verdict::Ok),
            (24, 21, 21, Verdict::Warning),
            (24, 2, 24, Verdict::Warning),
            (24, 2, 25, Verdict::Warning),
        ] {
            assert_eq!(
                check_connections(Connections { limit, now, most }).verdict,
                verdict,
                "{now} of {limit}, {most}"
            );
        }
    }
}
