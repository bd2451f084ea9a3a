//! Every prerequisite checked, each failure with its remedy.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::config::Settings;
use crate::domain::address::{Row, State};
use crate::domain::plan;
use crate::domain::subnet::Subnet;
use crate::driver::docker_watch::DockerWatch;
use crate::driver::interfaces::Interfaces;
use crate::driver::served::{Served, is_locked};
use crate::driver::status::Picture;
use crate::eni::Outside;
use crate::error::Error;
use crate::fleet::fill;
use crate::late::in_time;
use crate::outside::ec2::{Action, Ec2, Ec2Error};
use crate::outside::engine::{Engine, EngineError};
use crate::outside::imds::{Host, Nic};
use crate::outside::link::Parent;
use crate::store::{Connections, Store};

/// As many as one host takes at most.
const CONNECTIONS: u64 = 4;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Works, but not for long or not well.
    Warning,
    /// Containers cannot start.
    Failure,
}

/// One prerequisite.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Check {
    /// Of what.
    pub name: String,
    /// The outcome.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What mends it; none where nothing needs mending.
    pub remedy: Option<String>,
}

const CORRECT: &str = "correct it: docker plugin disable -f PLUGIN, docker plugin set PLUGIN NAME=VALUE (NAME= for the default), docker plugin \
                       enable PLUGIN";

pub(crate) fn ok(name: &str, found: impl Into<String>) -> Check {
    Check { name: name.into(), verdict: Verdict::Ok, found: found.into(), remedy: None }
}

pub(crate) fn bad(name: &str, found: impl ToString, remedy: &str) -> Check {
    Check { name: name.into(), verdict: Verdict::Failure, found: found.to_string(), remedy: Some(remedy.into()) }
}

fn warning(name: &str, found: impl Into<String>, remedy: impl Into<String>) -> Check {
    Check { name: name.into(), verdict: Verdict::Warning, found: found.into(), remedy: Some(remedy.into()) }
}

/// The table's time, whatever was slow before it.
const TABLE: Duration = Duration::from_secs(20);
const DOCKER_REMEDY: &str = "see EC2_IPAM_DOCKER_SOCKET and the plugin's mount of /run: until then lost releases stay";

/// Checks them.
pub struct Doctor {
    outside: Arc<Outside>,
    interfaces: Arc<Interfaces>,
    served: Arc<Served>,
    docker: Arc<DockerWatch>,
    picture: Arc<Picture>,
    docker_socket: Option<PathBuf>,
    /// Why nothing is done.
    wrong: Option<String>,
}

impl Doctor {
    pub(crate) fn new(
        outside: &Arc<Outside>,
        interfaces: &Arc<Interfaces>,
        served: &Arc<Served>,
        docker: &Arc<DockerWatch>,
        picture: &Arc<Picture>,
        settings: &Settings,
    ) -> Self {
        let (docker_socket, wrong) = (settings.docker_socket.clone(), settings.wrong.clone());
        Self {
            outside: Arc::clone(outside),
            interfaces: Arc::clone(interfaces),
            served: Arc::clone(served),
            docker: Arc::clone(docker),
            picture: Arc::clone(picture),
            docker_socket,
            wrong,
        }
    }

    /// All checks, in the order in which things depend on each other. What cannot be checked because something before it
    /// failed is left out.
    pub async fn check(&self, until: Instant) -> Vec<Check> {
        if let Some(why) = &self.wrong {
            return vec![bad("settings", why, CORRECT)];
        }
        let until = self.outside.at_most_a_request(until);
        let mut checks = Vec::new();
        // What was so a second ago is not good enough here.
        let host = self.outside.imds.host_now(in_time(until)).await;
        checks.push(match &host {
            Ok(host) => ok("IMDS", format!("{} ({}) in {}", host.instance, host.instance_type, host.region)),
            Err(why) => bad(
                "IMDS",
                why,
                "enable the instance metadata service (IMDSv2) and run the driver in the host's network",
            ),
        });
        let ec2 = self.outside.ec2.now();
        checks.push(match &ec2 {
            Ok(ec2) => ok("region", ec2.region()),
            Err(why) => bad("region", why.to_string(), "make IMDS reachable or set AWS_REGION"),
        });
        let mut enis = Vec::new();
        if let (Ok(host), Ok(ec2)) = (&host, &ec2) {
            check_metadata(ec2, host, &mut checks).await;
        }
        if let Ok(host) = &host {
            enis = self.enis_to_check(host, &mut checks).await;
        }
        // EC2 may have taken all of it.
        let until = Instant::now() + TABLE;
        let store = self.check_database(until, &mut checks).await;
        for nic in &enis {
            self.check_lock(nic, &mut checks).await;
            if let (Ok(ec2), Ok(host)) = (&ec2, &host) {
                let rows = match &store {
                    Some(store) => store.rows_of_eni(&nic.eni, until).await.unwrap_or_default(),
                    None => Vec::new(),
                };
                self.check_eni(ec2, host, nic, &rows, &mut checks).await;
                check_permissions(ec2, nic, &mut checks).await;
            }
            if let Some(store) = &store {
                check_subnet(store, nic, until, &mut checks).await;
            }
        }
        checks.push(self.check_docker().await);
        checks.extend(
            self.docker.warnings().into_iter().map(|found| {
                warning("Docker network", found, "addresses of the VPC should be nowhere else on this host")
            }),
        );
        checks.push(self.check_agreement().await);
        checks
    }

    async fn check_agreement(&self) -> Check {
        let problems = self.picture.problems().await;
        if problems.is_empty() {
            ok("agreement", "nothing that only a person can mend")
        } else {
            bad("agreement", problems.join("; "), "do what it says; `ec2-ipam status` shows it for as long as it lasts")
        }
    }

    /// The ENIs that are served; if none is yet, the one that a network without options would get.
    async fn enis_to_check(&self, host: &Host, checks: &mut Vec<Check>) -> Vec<Nic> {
        let mut chosen = Vec::new();
        for eni in self.served.all().await {
            let options = BTreeMap::from([("eni-id".to_owned(), eni.nic.eni.to_string())]);
            chosen.push(self.interfaces.choose(host, &options).await);
        }
        if chosen.is_empty() {
            chosen.push(self.interfaces.choose(host, &BTreeMap::new()).await);
        }
        let mut enis = Vec::new();
        for outcome in chosen {
            match outcome {
                Ok((nic, link)) => {
                    checks.push(ok(
                        "interface",
                        format!("{} is {} (device {}), up", link.name, nic.eni, nic.device_number),
                    ));
                    enis.push(nic.clone());
                }
                Err(why) => checks.push(bad(
                    "interface",
                    why,
                    "attach an ENI as device 1, bring its interface up without an address, or set EC2_IPAM_PARENT",
                )),
            }
        }
        enis
    }

    async fn check_database(&self, until: Instant, checks: &mut Vec<Check>) -> Option<Arc<Store>> {
        let remedy = "see EC2_IPAM_DATABASE_URL, the server, its security group and the database user's rights";
        let described = match self.outside.store.now() {
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
            bad(
                "table",
                "lacks columns or keys",
                &format!("run as an administrator: {}", description.lacking.join("; ")),
            )
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

    /// Another driver of this host, which is asked elsewhere or not at all, may serve it.
    async fn check_lock(&self, nic: &Nic, checks: &mut Vec<Check>) {
        let is_ours = self.served.all().await.iter().any(|eni| eni.nic.eni == nic.eni);
        if !is_ours && is_locked(&nic.eni) {
            checks.push(bad(
                "interface",
                format!("{} is served by another ec2-ipam on this host", nic.eni),
                "stop one of them (`docker plugin ls`, `systemctl status ec2-ipam`)",
            ));
        }
    }

    async fn check_eni(&self, ec2: &Ec2, host: &Host, nic: &Nic, rows: &[Row], checks: &mut Vec<Check>) {
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
        let on_it = |row: &&Row| interface.addresses.iter().any(|address| address.ip == row.ip);
        let idle = rows.iter().filter(|row| row.state() == State::Ready && !row.primary).filter(on_it).count();
        checks.push(match ec2.address_limit(&host.instance_type).await {
            Ok(limit) if taken < limit + idle => {
                ok(name, format!("{taken} of {limit} addresses are on {}, {idle} of them idle", nic.eni))
            }
            Ok(limit) => warning(
                name,
                format!("all {limit} addresses of {} are in use", nic.eni),
                "for more, use a larger instance type or a second ENI",
            ),
            Err(why) => warning(name, format!("not known: {why}"), "allow ec2:DescribeInstanceTypes"),
        });

        // amazon-ec2-net-utils puts every secondary address on the interface itself; a container must not share it.
        let name = "host agent";
        let Parent { link, addresses: own } = match self.outside.links.parent(&nic.mac).await {
            Ok(parent) => parent,
            Err(why) => return checks.push(bad(name, why, "bring the interface back; nothing is given meanwhile")),
        };
        let shared: Vec<_> = interface
            .addresses
            .iter()
            .filter(|a| !a.primary && own.contains(&a.ip))
            .map(|a| a.ip.to_string())
            .collect();
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

    async fn check_docker(&self) -> Check {
        let Some(socket) = &self.docker_socket else {
            return warning(
                "Docker",
                "is not read",
                "set EC2_IPAM_DOCKER_SOCKET: addresses that containers have are then never given again, whatever the table says",
            );
        };
        match Engine::new(socket.clone()).version().await {
            // The picture has just asked for all that is read of it: a proxy in front of it may forbid some.
            Ok(version) => match self.outside.in_use.silence() {
                None => ok("Docker", format!("Engine {version} at {}", socket.display())),
                Some(silence) => bad("Docker", silence.why, DOCKER_REMEDY),
            },
            // It may be on its way up or down; anything else lasts until somebody mends it.
            Err(why @ EngineError::Silent { .. }) => warning("Docker", why.to_string(), DOCKER_REMEDY),
            Err(why) => bad("Docker", why, DOCKER_REMEDY),
        }
    }
}

/// IMDS may list an ENI for hours after it was deleted.
async fn check_metadata(ec2: &Ec2, host: &Host, checks: &mut Vec<Check>) {
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

async fn check_permissions(ec2: &Ec2, nic: &Nic, checks: &mut Vec<Check>) {
    for action in Action::ALL {
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

async fn check_subnet(store: &Store, nic: &Nic, until: Instant, checks: &mut Vec<Check>) {
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
    if let Ok(rows) = store.rows_of_eni(&nic.eni, until).await {
        let leases = rows.iter().filter(|row: &&Row| row.state() == State::Lease).count();
        checks.push(ok(
            "addresses",
            format!("{} rows of {}, {leases} in use by containers", plan::used(&rows, &[]), nic.eni),
        ));
    }
}

#[cfg(test)]
mod tests {
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
