//! What the driver is doing now, as `status` shows it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};

use crate::config::Settings;
use crate::domain::address::State;
use crate::driver::docker_watch::DockerWatch;
use crate::driver::history::rfc3339;
use crate::driver::interfaces::Interfaces;
use crate::driver::reconcile::Reconciler;
use crate::driver::scan::Scanner;
use crate::driver::served::Served;
use crate::driver::tls_watch::TlsWatch;
use crate::eni::Outside;
use crate::error::Error;
use crate::store::Database;

/// The answer of `GET /v1/status`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Status {
    /// The driver's version.
    pub version: String,
    /// The token of this life, as claims carry it.
    pub boot: String,
    /// The table.
    pub store: StoreStatus,
    /// The journal.
    pub journal: JournalStatus,
    /// EC2.
    pub ec2: Ec2Status,
    /// Docker's API; none where `EC2_IPAM_DOCKER_SOCKET` says not to read it.
    pub docker: Option<DockerStatus>,
    /// How long ago rows, EC2 and Docker were last compared, all of them readable.
    pub reconciled_seconds: Option<u64>,
    /// Whether this host is drained: containers get no address.
    #[serde(default)]
    pub drained: bool,
    /// For how long, where that is known.
    #[serde(default)]
    pub drained_seconds: Option<u64>,
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
pub struct StoreStatus {
    /// `mysql` or `sqlite`.
    pub kind: String,
    /// Where: hosts and database, or the file.
    pub at: String,
    /// The server's own version text; none while it does not answer.
    pub version: Option<String>,
    /// Why it cannot be used; none while it can.
    pub error: Option<String>,
}

/// The journal.
#[derive(Debug, Serialize, Deserialize)]
pub struct JournalStatus {
    /// Its file.
    pub path: String,
    /// Why it takes no writes, so that the table is asked instead; none while it does.
    pub error: Option<String>,
    /// As what a file was last put aside in this life, and why; none where none was.
    pub put_aside: Option<String>,
    /// Addresses of which the table does not say yet what the journal says.
    pub unposted: usize,
    /// For how long the first of them has waited.
    pub unposted_seconds: Option<u64>,
    /// Addresses of which nobody knows yet whether a container has them.
    pub in_doubt: usize,
    /// Uses of addresses, of which it is known who had them when.
    #[serde(default)]
    pub history: u64,
    /// From when on it has them all: `2026-11-26T08:14:05.250Z`.
    #[serde(default)]
    pub history_since: String,
}

/// EC2.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ec2Status {
    /// The region spoken to; none while that is not known.
    pub region: Option<String>,
    /// Why not.
    pub error: Option<String>,
}

/// Docker's API.
#[derive(Debug, Serialize, Deserialize)]
pub struct DockerStatus {
    /// How many of the VPC's addresses containers had by its last answer; none while it has not answered.
    pub addresses: Option<usize>,
    /// How old that answer is.
    pub age_seconds: Option<u64>,
    /// Why it does not answer now; none while it does.
    pub error: Option<String>,
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
    /// The instance that has it, where that is another host than this; none otherwise.
    #[serde(default)]
    pub host: Option<String>,
    /// The parent interface; `no link` when it cannot be seen.
    pub link: String,
    /// Whether that is up; none likewise.
    pub up: Option<bool>,
    /// Its rows by state.
    pub addresses: BTreeMap<State, u64>,
    /// Of the idle ones, those that have cooled.
    pub warm: usize,
    /// How many addresses the instance type allows it, the primary included; a block counts as one,
    pub limit: Option<usize>,
    /// and how many it has so counted, as of the last look.
    #[serde(default)]
    pub slots: Option<usize>,
    /// How many of those are blocks of its own,
    #[serde(default)]
    pub blocks: usize,
    /// and how many single addresses beside the primary one.
    #[serde(default)]
    pub singles: usize,
    /// Requests that wait for EC2.
    pub waiting: usize,
    /// Why nothing is granted yet, until rows and EC2 were compared once.
    pub not_ready: Option<String>,
    /// What EC2 or the table said last, if it was a refusal, until what it is about goes right again.
    pub last_error: Option<String>,
}

/// A picture is not worth a long wait.
const PATIENCE: Duration = Duration::from_secs(3);

impl Status {
    /// Whether nothing wants a person: no PROBLEM, and the table answers.
    pub fn is_well(&self) -> bool {
        self.problems.is_empty() && self.store.error.is_none()
    }
}

/// What the driver shows of itself, from all that it is made of.
pub struct Picture {
    outside: Arc<Outside>,
    interfaces: Arc<Interfaces>,
    served: Arc<Served>,
    docker: Arc<DockerWatch>,
    reconciler: Arc<Reconciler>,
    scanner: Arc<Scanner>,
    /// The files of https.
    pub tls: TlsWatch,
    database: Database,
    /// Why nothing is done.
    wrong: Option<String>,
}

impl Picture {
    pub(crate) fn new(
        outside: &Arc<Outside>,
        interfaces: &Arc<Interfaces>,
        served: &Arc<Served>,
        docker: &Arc<DockerWatch>,
        reconciler: &Arc<Reconciler>,
        scanner: &Arc<Scanner>,
        settings: &Settings,
    ) -> Self {
        let (database, wrong) = (settings.database.clone(), settings.wrong.clone());
        Self {
            outside: Arc::clone(outside),
            interfaces: Arc::clone(interfaces),
            served: Arc::clone(served),
            docker: Arc::clone(docker),
            reconciler: Arc::clone(reconciler),
            scanner: Arc::clone(scanner),
            tls: TlsWatch::default(),
            database,
            wrong,
        }
    }

    /// What only a person can put right, as far as it is known now.
    pub(crate) async fn problems(&self) -> Vec<String> {
        let of_rows = self.reconciler.problems().into_values().chain(self.scanner.problems());
        let denied =
            self.served.all().await.into_iter().filter_map(|eni| Some(format!("{}: {}", eni.nic.eni, eni.denied()?)));
        let journal = self.outside.journal.state().why().filter(|_| self.outside.journal.is_somewhere());
        let journal = journal
            .map(|why| format!("the journal takes no writes, so that each start and stop waits for the table: {why}"));
        let tls = self.tls.problems();
        self.wrong
            .iter()
            .cloned()
            .chain(journal)
            .chain(tls)
            .chain(of_rows)
            .chain(self.served.lost().await)
            .chain(denied)
            .collect()
    }

    /// The picture now.
    pub async fn status(&self) -> Status {
        let until = Instant::now() + PATIENCE;
        let store = self.outside.store.now();
        // Whoever asks wants to know how it is now, not how it was at the last round.
        let look = async {
            let host = self.interfaces.host().await.ok();
            self.docker.look(host.as_ref()).await
        };
        let ((described, left_out), _) = tokio::join!(self.describe_store(until), timeout_at(until, look));
        // Docker may have taken all of it.
        let until = Instant::now() + PATIENCE;
        let ec2 = self.outside.ec2.now();
        let reconciled = self.reconciler.outcome();
        let mut problems = self.problems().await;
        problems.extend(left_out.iter().map(|row| format!("left out: {row}")));
        let kept = self.outside.journal.kept();
        let mut status = Status {
            version: env!("EC2_IPAM_VERSION").to_owned(),
            boot: self.outside.claims.boot().to_string(),
            store: described,
            journal: JournalStatus {
                path: self.outside.journal.path().display().to_string(),
                error: self.outside.journal.state().why(),
                put_aside: self.outside.journal.put_aside(),
                unposted: 0,
                unposted_seconds: None,
                in_doubt: 0,
                history: kept.rows,
                history_since: rfc3339(kept.since),
            },
            ec2: Ec2Status {
                region: ec2.as_ref().ok().map(|ec2| ec2.region().to_owned()),
                error: ec2.as_ref().err().map(ToString::to_string),
            },
            docker: self.docker.is_asked().then(|| self.docker_status()),
            reconciled_seconds: reconciled.whole.map(|at| at.elapsed().as_secs()),
            drained: self.outside.drain.is_on(),
            drained_seconds: self.outside.drain.lasts().map(|lasts| lasts.as_secs()),
            problems,
            conflicts: reconciled.conflicts,
            enis: Vec::new(),
            subnets: BTreeMap::new(),
        };
        for eni in self.served.all().await {
            let journal = &self.outside.journal;
            let holdings = journal.of(&eni.nic.eni);
            let read = match &store {
                Ok(store) => self.served.rows(store, &eni.nic.eni, until).await.ok(),
                Err(_) => None,
            };
            let rows = read.unwrap_or_else(|| holdings.iter().map(|holding| holding.row(&journal.now())).collect());
            status.journal.in_doubt += holdings.iter().filter(|holding| holding.doubted).count();
            status.journal.unposted += journal.unposted(&eni.nic.eni).len();
            let waits = journal.unposted_since(&eni.nic.eni).map(|since| since.elapsed().as_secs());
            status.journal.unposted_seconds = status.journal.unposted_seconds.max(waits);
            let mut addresses = BTreeMap::new();
            for row in &rows {
                *addresses.entry(row.state()).or_default() += 1;
            }
            let host = eni.is_distant().then(|| eni.instance().to_owned());
            let link = match host {
                Some(_) => None,
                None => self.outside.links.of_mac(&eni.nic.mac).await.ok(),
            };
            let subnet = eni.subnet.id.to_string();
            // Of a table that does not answer nothing is known, which is not the same as no rows.
            if let Ok(store) = &store
                && let Ok(census) = store.census_lately(&eni.subnet.id, until).await
            {
                let mut counts = BTreeMap::new();
                for count in census {
                    *counts.entry(count.state).or_default() += count.rows;
                }
                status.subnets.insert(subnet.clone(), counts);
            }
            status.enis.push(EniStatus {
                eni: eni.nic.eni.to_string(),
                subnet,
                cidr: eni.subnet.cidr.to_string(),
                host,
                up: link.as_ref().map(|link| link.up),
                link: link.map_or_else(|| "no link".to_owned(), |link| link.name),
                warm: rows.iter().filter(|row| self.outside.warmth.is_warm(row)).count(),
                addresses,
                limit: eni.limit(),
                slots: eni.tally().slots,
                blocks: eni.blocks(),
                singles: rows.iter().filter(|row| !row.primary && !row.in_block).count(),
                waiting: eni.waiting(),
                not_ready: eni.not_ready(),
                last_error: eni.last_error(),
            });
        }
        status
    }

    /// The table, and its rows that cannot be read.
    async fn describe_store(&self, until: Instant) -> (StoreStatus, Vec<String>) {
        let (kind, at) = match &self.database {
            Database::MySql(server) => ("mysql", server.to_string()),
            Database::Sqlite(file) => ("sqlite", file.display().to_string()),
        };
        let described = match self.outside.store.now() {
            Ok(store) => store.describe(until).await.map_err(Error::from),
            Err(why) => Err(why),
        };
        let kind = kind.to_owned();
        match described {
            Ok(found) => {
                (StoreStatus { kind, at: found.at, version: Some(found.version), error: None }, found.left_out)
            }
            Err(why) => (StoreStatus { kind, at, version: None, error: Some(why.to_string()) }, Vec::new()),
        }
    }

    fn docker_status(&self) -> DockerStatus {
        let count = self.outside.in_use.count();
        DockerStatus {
            addresses: count.map(|(addresses, _)| addresses),
            age_seconds: count.map(|(_, asked)| asked.elapsed().as_secs()),
            error: self.outside.in_use.silence().map(|silence| silence.why),
        }
    }
}
