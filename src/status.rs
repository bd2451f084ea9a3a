//! What the driver is doing now, as `status` shows it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::address::State;
use crate::error::Error;
use crate::id::SubnetId;
use crate::ipam::Ipam;

/// The answer of `GET /v1/status`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Status {
    /// The driver's version.
    pub version: String,
    /// The token of this life, as claims carry it.
    pub boot: String,
    /// The table: what it is, or why it cannot be reached.
    pub store: Result<StoreStatus, String>,
    /// Whether EC2's client is set up; why not.
    pub ec2: Result<String, String>,
    /// How many of the VPC's addresses Docker's containers had when it was last asked; none while it has not answered.
    pub docker: Option<usize>,
    /// How long ago rows, EC2 and Docker were last compared, all of them readable.
    pub reconciled_seconds: Option<u64>,
    /// What does not agree and only a person can mend.
    pub problems: Vec<String>,
    /// How many such things there were since the start.
    pub conflicts: u64,
    /// The ENIs served.
    pub enis: Vec<EniStatus>,
    /// Rows by state, of each subnet in which an ENI is served.
    pub subnets: BTreeMap<String, BTreeMap<State, u64>>,
}

/// The table.
#[derive(Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct StoreStatus {
    pub kind: String,
    pub at: String,
    pub version: String,
}

/// One ENI.
#[derive(Debug, Serialize, Deserialize)]
pub struct EniStatus {
    /// Its id.
    pub eni: String,
    /// Its subnet.
    pub subnet: String,
    /// The subnet's CIDR.
    pub cidr: String,
    /// The parent interface.
    pub link: String,
    /// Whether that is up; none when it cannot be seen.
    pub up: Option<bool>,
    /// Its rows by state.
    pub addresses: BTreeMap<State, u64>,
    /// Of the idle ones, those that have cooled.
    pub warm: usize,
    /// How many addresses the instance type allows it, the primary included.
    pub limit: Option<usize>,
    /// Requests that wait for EC2.
    pub waiting: usize,
    /// Why nothing is granted yet, until rows and EC2 were compared once.
    pub not_ready: Option<String>,
    /// What EC2 or the table said last, if it was a refusal.
    pub last_error: Option<String>,
}

/// A row as `list` shows it.
#[derive(Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "columns")]
pub struct Listed {
    pub ip: Ipv4Addr,
    pub subnet: String,
    pub state: State,
    pub iface: Option<String>,
    pub primary: bool,
    /// The container that uses it, or used it last; or who reserved it.
    pub holder: Option<String>,
    /// Whether that container had named it (`--ip`).
    pub named: bool,
    /// Since it was let go; none for an address that was never in use.
    pub idle_seconds: Option<u64>,
}

/// Fresh rows carry a time long past.
const NEVER: u64 = 10 * 365 * 86_400;
/// A picture is not worth a long wait.
const PATIENCE: Duration = Duration::from_secs(3);

impl Ipam {
    /// The picture now.
    pub async fn status(&self) -> Status {
        let until = Instant::now() + PATIENCE;
        let store = self.store.now();
        let described = match &store {
            Ok(store) => store.describe(until).await.map_err(|e| e.to_string()),
            Err(why) => Err(why.clone()),
        };
        let reconciled = self.reconciler.outcome();
        let mut problems: Vec<String> = self.settings.wrong.iter().cloned().collect();
        problems.extend(reconciled.problems.into_values());
        problems.extend(self.scanner.problems());
        problems.extend(described.iter().flat_map(|d| &d.left_out).map(|row| format!("left out: {row}")));
        let mut status = Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            boot: self.claims.boot().to_string(),
            store: described.map(|d| StoreStatus { kind: d.kind.to_owned(), at: d.at, version: d.version }),
            ec2: self.ec2.now().map(|ec2| ec2.region().to_owned()),
            docker: self.in_use.count(),
            reconciled_seconds: reconciled.whole.map(|at| at.elapsed().as_secs()),
            problems,
            conflicts: reconciled.conflicts,
            enis: Vec::new(),
            subnets: BTreeMap::new(),
        };
        for eni in self.served().await {
            let rows = match &store {
                Ok(store) => store.rows_of_eni(&eni.nic.eni, until).await.unwrap_or_default(),
                Err(_) => Vec::new(),
            };
            let mut addresses = BTreeMap::new();
            for row in &rows {
                *addresses.entry(row.state()).or_default() += 1;
            }
            let subnet = eni.subnet.id.to_string();
            if let Ok(store) = &store {
                let mut counts = BTreeMap::new();
                for count in store.census(&eni.subnet.id, until).await.unwrap_or_default() {
                    *counts.entry(count.state).or_default() += count.rows;
                }
                status.subnets.insert(subnet.clone(), counts);
            }
            status.enis.push(EniStatus {
                eni: eni.nic.eni.to_string(),
                subnet,
                cidr: eni.subnet.cidr.to_string(),
                link: eni.link.name.clone(),
                up: self.links.by_mac(&eni.nic.mac).await.ok().flatten().map(|link| link.up),
                warm: rows.iter().filter(|row| self.settings.warmth.is_warm(row)).count(),
                addresses,
                limit: eni.limit(),
                waiting: eni.waiting(),
                not_ready: eni.not_ready(),
                last_error: eni.last_error(),
            });
        }
        status
    }

    /// The rows of a subnet, or of each subnet in which an ENI is served, with or without the free ones.
    pub async fn list(&self, subnet: Option<SubnetId>, free_too: bool, until: Instant) -> Result<Vec<Listed>, Error> {
        let store = self.store(until).await?;
        let subnets = match subnet {
            Some(subnet) => vec![subnet],
            None => {
                let mut served: Vec<_> = self.served().await.iter().map(|eni| eni.subnet.id.clone()).collect();
                served.sort();
                served.dedup();
                served
            }
        };
        let mut listed = Vec::new();
        for subnet in subnets {
            let rows = if free_too {
                store.rows_of_subnet(&subnet, until).await?
            } else {
                store.rows_taken(&subnet, until).await?
            };
            listed.extend(rows.into_iter().map(|row| Listed {
                ip: row.ip,
                state: row.state(),
                subnet: row.subnet.to_string(),
                iface: row.iface.as_ref().map(ToString::to_string),
                primary: row.primary,
                holder: row.endpoint().map(ToOwned::to_owned),
                named: row.is_fixed(),
                idle_seconds: Some(row.idle.as_secs()).filter(|idle| *idle < NEVER),
            }));
        }
        Ok(listed)
    }
}
