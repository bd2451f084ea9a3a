//! Every prerequisite checked, each failure with its remedy.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::Settings;
use crate::domain::subnet::Subnet;
use crate::driver::docker_watch::DockerWatch;
use crate::driver::history::rfc3339;
use crate::driver::interfaces::Interfaces;
use crate::driver::leases::Leases;
use crate::driver::served::{Served, is_locked};
use crate::driver::status::Picture;
use crate::eni::Outside;
use crate::late::in_time;
use crate::outside::ec2::Action;
use crate::outside::engine::EngineError;
use crate::outside::imds::{Host, Nic};
use crate::store::Database;

mod blocks;
mod check;
mod distant;
mod interface;
mod login;
mod metrics;
mod table;
mod tls;

pub use blocks::RESERVE;
use blocks::check_blocks;
use check::warning;
pub use check::{Check, Verdict};
pub(crate) use check::{bad, ok};
use interface::{check_eni, check_metadata, check_permissions};
use login::check_login;
use metrics::Metrics;
use table::{check_database, check_subnet};
use tls::check_tls;

const CORRECT: &str = "correct it: docker plugin disable -f PLUGIN, docker plugin set PLUGIN NAME=VALUE (NAME= for the default), docker plugin \
                       enable PLUGIN";

/// The table follows within so long where all is well.
const LATE: Duration = Duration::from_secs(10);

/// The table's time for an answer, whatever was slow before it: EC2 may take minutes of an operator's.
fn by_then() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

const DOCKER_REMEDY: &str = "see EC2_IPAM_DOCKER_SOCKET and the plugin's mount of /run: until then lost releases stay";

/// Checks them.
pub struct Doctor {
    outside: Arc<Outside>,
    interfaces: Arc<Interfaces>,
    served: Arc<Served>,
    docker: Arc<DockerWatch>,
    picture: Arc<Picture>,
    leases: Arc<Leases>,
    /// The journal's file; none: this process serves nobody.
    journal: Option<PathBuf>,
    /// Where the table is.
    database: Database,
    /// Whether ENIs of other hosts are served.
    serves_distant: bool,
    /// Where figures are shown over TCP.
    pub metrics: Metrics,
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
        leases: &Arc<Leases>,
        settings: &Settings,
    ) -> Self {
        Self {
            outside: Arc::clone(outside),
            interfaces: Arc::clone(interfaces),
            served: Arc::clone(served),
            docker: Arc::clone(docker),
            picture: Arc::clone(picture),
            leases: Arc::clone(leases),
            journal: settings.journal.clone(),
            database: settings.database.clone(),
            serves_distant: settings.distant,
            metrics: Metrics::default(),
            wrong: settings.wrong.clone(),
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
        checks.extend(check_login(&self.database, by_then()).await);
        let store = check_database(self.outside.store.now(), by_then(), &mut checks).await;
        let limits = match (&ec2, &host) {
            (Ok(ec2), Ok(host)) if !enis.is_empty() => Some(ec2.limits(&host.instance_type).await),
            _ => None,
        };
        for nic in &enis {
            self.check_lock(nic, &mut checks).await;
            if let (Ok(ec2), Some(limits)) = (&ec2, &limits) {
                let rows = match &store {
                    Some(store) => self.served.rows(store, &nic.eni, by_then()).await.unwrap_or_default(),
                    None => Vec::new(),
                };
                check_eni(&self.outside.links, ec2, limits, nic, &rows, &mut checks).await;
                check_permissions(ec2, nic, &Action::ALL, &mut checks).await;
            }
            if let Some(store) = &store {
                let rows = self.served.rows(store, &nic.eni, by_then()).await;
                check_subnet(store, nic, rows, by_then(), &mut checks).await;
            }
            if let (Ok(host), Some(Ok(limits)), Ok(subnet)) =
                (&host, &limits, Subnet::new(nic.subnet.clone(), nic.cidr))
            {
                let blocks = match &store {
                    Some(store) => store.blocks(&subnet, by_then()).await.ok(),
                    None => None,
                };
                checks.extend(check_blocks(self.outside.blocks, &host.instance_type, *limits, &subnet, blocks));
            }
        }
        checks.extend(self.check_journal().await);
        checks.extend(self.check_history());
        if self.serves_distant {
            self.check_distant(ec2.as_ref().ok(), host.as_ref().ok(), enis.is_empty(), &mut checks).await;
        }
        checks.extend(check_tls(self.picture.tls.seen()));
        checks.push(self.check_docker(host.ok().as_ref()).await);
        checks.extend(
            self.docker.warnings().into_iter().map(|found| {
                warning("Docker network", found, "addresses of the VPC should be nowhere else on this host")
            }),
        );
        checks.extend(self.metrics.check());
        if self.outside.drain.is_on() {
            checks.push(warning(
                "drain",
                "this host is drained: no container starts on it, and nothing idle is kept",
                "if that is over: ec2-ipam drain --undo",
            ));
        }
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
        for eni in self.served.all().await.into_iter().filter(|eni| !eni.is_distant()) {
            let options = BTreeMap::from([("eni-id".to_owned(), eni.nic.eni.to_string())]);
            chosen.push(self.interfaces.choose(host, &options).await);
        }
        // A server need not have one of its own.
        if chosen.is_empty() && !self.serves_distant {
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

    /// None where this process serves nobody.
    async fn check_journal(&self) -> Option<Check> {
        let journal = &self.outside.journal;
        let path = self.journal.as_ref()?.display();
        Some(match journal.state().why() {
            None => match self.warning_of_journal().await {
                Some((found, remedy)) => warning("journal", found, remedy),
                None => ok("journal", format!("{path} takes writes")),
            },
            Some(why) => bad(
                "journal",
                format!("{path}: {why}, so that each start and stop of a container waits for the database"),
                "see that its disk has room and its folder can be written: a new one is then begun by itself",
            ),
        })
    }

    /// What is not as it should be though it takes writes, and what helps.
    async fn warning_of_journal(&self) -> Option<(String, &'static str)> {
        let journal = &self.outside.journal;
        if let Some(aside) = journal.put_aside() {
            let remedy = "see the log for what became of it; that file is not needed any more, and this is said until the driver starts anew";
            return Some((format!("a file was put aside as {aside}"), remedy));
        }
        let served = self.served.all().await;
        let waits =
            served.iter().filter_map(|eni| journal.unposted_since(&eni.nic.eni)).map(|since| since.elapsed()).max()?;
        let is_late = waits > LATE && self.outside.store.now().is_ok();
        is_late.then(|| {
            (format!("the table has not been told for {} s", waits.as_secs()), "see what the log says of the database")
        })
    }

    /// None where this process serves nobody.
    fn check_history(&self) -> Option<Check> {
        self.journal.as_ref()?;
        let own = self.outside.journal.kept();
        let own = format!("{} uses of addresses in the journal, since {}", own.rows, rfc3339(own.since));
        Some(match (self.outside.untold.kept, self.outside.untold.trouble()) {
            (_, Some(why)) => warning(
                "history",
                format!("{own}; in the table it is not tidied up: {why}"),
                "let the database user delete: GRANT DELETE ON the table history of that database",
            ),
            (Some(kept), None) => {
                ok("history", format!("{own}; in the table for {}", humantime::format_duration(kept)))
            }
            (None, None) => ok("history", own),
        })
    }

    async fn check_docker(&self, host: Option<&Host>) -> Check {
        let Some(engine) = self.docker.engine() else {
            if self.serves_distant {
                return ok("Docker", "is not read: what other hosts' containers have the table alone tells");
            }
            return warning(
                "Docker",
                "is not read",
                "set EC2_IPAM_DOCKER_SOCKET: addresses that containers have are then never given again, whatever the table says",
            );
        };
        let version = match engine.version().await {
            Ok(version) => version,
            // It may be on its way up or down; anything else lasts until somebody mends it.
            Err(why @ EngineError::Silent { .. }) => return warning("Docker", why.to_string(), DOCKER_REMEDY),
            Err(why) => return bad("Docker", why, DOCKER_REMEDY),
        };
        // All that is read of it: a proxy in front of it may forbid some.
        self.docker.look(host).await;
        match self.outside.in_use.silence() {
            None => ok("Docker", format!("Engine {version} at {}", engine.socket().display())),
            Some(silence) => bad("Docker", silence.why, DOCKER_REMEDY),
        }
    }
}
