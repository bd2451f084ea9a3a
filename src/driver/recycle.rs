//! `recycle`: idle addresses back to their subnet, those of this host or of every host that the table knows.
//!
//! A host gives up only its own addresses, each interface's by its own task. The others are asked through the table, and what
//! a host that does not answer has stays where it is. Only an interface that EC2 does not know any more can have no container:
//! its rows become free.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use crate::domain::address::{Change, Event, Row, State};
use crate::domain::id::{EniId, Kind, SubnetId};
use crate::domain::plan::next::is_due;
use crate::domain::roll::{Answer, KnownHost, Request, answer_age, is_a_drivers, whom};
use crate::driver::interfaces::Interfaces;
use crate::driver::served::Served;
use crate::eni::{Eni, Outside, Recycled};
use crate::error::Error;
use crate::late::LAST_WORD;
use crate::outside::ec2::Ec2Error;
use crate::store::Store;

/// What came of it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// In all.
    #[serde(flatten)]
    pub total: Recycled,
    /// By host, and by interface where no host answers for it: where all were asked.
    #[serde(default)]
    pub parts: Vec<Part>,
}

/// One host's part of it, or one interface's.
#[derive(Debug, Serialize, Deserialize)]
pub struct Part {
    /// Its id.
    pub of: String,
    /// What came of it there.
    pub came: Came,
}

/// What came of asking.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Came {
    /// The host has done it.
    Done(Recycled),
    /// Something was in the host's way.
    Failed(String),
    /// The host has not answered.
    Silent {
        /// Its driver's version.
        version: String,
        /// How long ago it was seen.
        seen_seconds: u64,
    },
    /// The interface is served by no host that the table knows.
    Unserved,
    /// The interface is no more: so many rows are free again.
    Gone(usize),
}

impl Came {
    /// Whether nothing idle was left behind.
    pub fn is_done(&self) -> bool {
        match self {
            Self::Done(_) | Self::Gone(_) => true,
            Self::Failed(_) | Self::Silent { .. } | Self::Unserved => false,
        }
    }
}

impl Report {
    fn add(&mut self, of: &str, came: Came) {
        match &came {
            Came::Done(done) => self.total = self.total + *done,
            Came::Gone(freed) => self.total.freed += freed,
            Came::Failed(_) | Came::Silent { .. } | Came::Unserved => {}
        }
        self.parts.push(Part { of: of.to_owned(), came });
    }
}

/// Does it.
pub struct Recycler {
    outside: Arc<Outside>,
    interfaces: Arc<Interfaces>,
    served: Arc<Served>,
}

/// How often it is seen who has answered.
const POLL: Duration = Duration::from_secs(1);

impl Recycler {
    pub(crate) fn new(outside: &Arc<Outside>, interfaces: &Arc<Interfaces>, served: &Arc<Served>) -> Self {
        Self { outside: Arc::clone(outside), interfaces: Arc::clone(interfaces), served: Arc::clone(served) }
    }

    /// Idle addresses of this host's interfaces in the subnet become free.
    ///
    /// # Errors
    /// What was in the way, if none became free.
    pub async fn own(&self, subnet: &SubnetId, until: Instant) -> Result<Report, Error> {
        let store = self.outside.store(until).await?;
        self.outside.ec2(until).await?;
        self.interfaces.host().await?;
        let own = self.own_enis().await;
        let rows = store.rows_taken(subnet, until).await?;
        Ok(Report { total: self.give_back(subnet, &rows, &own, until).await?, parts: Vec::new() })
    }

    /// The same, and every other host is asked for its own.
    ///
    /// # Errors
    /// The table is this host's alone, or cannot be reached. What was asked stands then.
    pub async fn all(&self, subnet: &SubnetId, until: Instant) -> Result<Report, Error> {
        let store = self.outside.store(until).await?;
        if store.is_private() {
            return Err(Error::Asked(
                "--all needs the MySQL table that the hosts share; this host's own file knows nothing of other hosts"
                    .into(),
            ));
        }
        let mut report = Report::default();
        let own = self.own_enis().await;
        let mut rows = store.rows_taken(subnet, until).await?;
        for eni in self.gone(subnet, &rows, &own, until).await {
            report.add(eni.as_str(), Came::Gone(free(&store, &rows, &eni, until).await?));
            rows.retain(|row| row.iface.as_ref() != Some(&eni));
        }
        let hosts = store.hosts(until).await?;
        let is_own = |row: &Row| row.iface.as_ref().is_some_and(|eni| own.contains(eni));
        let (mine, others): (Vec<Row>, Vec<Row>) = rows.into_iter().partition(is_own);
        let whom = whom(&others, &hosts);
        for eni in &whom.strays {
            report.add(eni.as_str(), Came::Unserved);
        }
        let asked: Vec<String> = whom.hosts.keys().map(|host| (*host).to_owned()).collect();
        let request = Request { subnet: subnet.clone(), token: self.outside.claims.next(Kind::Off).to_string() };
        store.ask(&asked, &request, until).await?;
        let end = (Instant::now() + answer_age()).min(until - LAST_WORD);
        if !own.is_empty() {
            let here = self.interfaces.host().await.map_or_else(|_| "this host".to_owned(), |host| host.instance);
            let done = self.give_back(subnet, &mine, &own, until).await;
            report.add(&here, done.map_or_else(|why| Came::Failed(why.to_string()), Came::Done));
        }
        let answers = answers(&store, &asked, subnet, end, until).await?;
        for (instance, host) in whom.hosts {
            report.add(instance, came(host, answers.get(instance)));
        }
        Ok(report)
    }

    /// IMDS may be away, or an ENI detached a moment ago: what is served here is left to its task all the same.
    async fn own_enis(&self) -> BTreeSet<EniId> {
        let listed = self.interfaces.host().await.map(|host| host.interfaces).unwrap_or_default();
        let served = self.served.sent_for().await;
        listed.into_iter().map(|nic| nic.eni).chain(served.iter().map(|eni| eni.nic.eni.clone())).collect()
    }

    /// What is idle of this host's interfaces. Of those that are served their journal knows that first.
    async fn give_back(
        &self,
        subnet: &SubnetId,
        rows: &[Row],
        own: &BTreeSet<EniId>,
        until: Instant,
    ) -> Result<Recycled, Error> {
        let mut enis = self.served.sent_for().await;
        enis.retain(|eni| eni.subnet.id == *subnet && eni.lost().is_none());
        let is_idle = |row: &&Row| row.state() == State::Ready && !row.primary || is_due(row);
        let with_idle: BTreeSet<&EniId> = rows.iter().filter(is_idle).filter_map(|row| row.iface.as_ref()).collect();
        for id in with_idle.into_iter().filter(|id| own.contains(id)) {
            if enis.iter().all(|eni| eni.nic.eni != *id) {
                enis.push(self.served.get(id, until).await?);
            }
        }
        recycle(&enis, until).await
    }

    /// The interfaces of these rows that EC2 does not know, by its answer to their very ids. Those of a stopped instance are
    /// there. Where EC2 shows no interface that is known here, the credentials are another account's: that says nothing.
    async fn gone(&self, subnet: &SubnetId, rows: &[Row], own: &BTreeSet<EniId>, until: Instant) -> Vec<EniId> {
        let seek = async {
            let ec2 = self.outside.ec2(until).await?;
            let listed = ec2.interfaces_of_subnet(subnet).await?;
            let is_listed = |eni: &EniId| listed.iter().any(|interface| interface.id == *eni);
            let mut gone = Vec::new();
            if !rows.iter().filter_map(|row| row.iface.as_ref()).chain(own).any(is_listed) {
                return Ok(gone);
            }
            let theirs: BTreeSet<&EniId> =
                rows.iter().filter(|row| is_a_drivers(row)).filter_map(|row| row.iface.as_ref()).collect();
            for eni in theirs.into_iter().filter(|eni| !own.contains(eni) && !is_listed(eni)) {
                if let Err(Ec2Error::NoSuchEni { .. }) = ec2.interface(eni).await {
                    gone.push(eni.clone());
                }
            }
            Ok::<_, Error>(gone)
        };
        seek.await.unwrap_or_else(|why| {
            tracing::warn!(%subnet, "which interfaces are no more is not known: {why}");
            Vec::new()
        })
    }
}

/// The idle addresses of these interfaces, each by its own task, so that nothing else of it is in flight.
///
/// # Errors
/// What was in the way, if none became free.
pub(crate) async fn recycle(enis: &[Arc<Eni>], until: Instant) -> Result<Recycled, Error> {
    let (mut total, mut trouble) = (Recycled::default(), None);
    for eni in enis {
        match eni.recycle(until).await {
            Ok(done) => total = total + done,
            Err(why) => trouble = Some(why),
        }
    }
    match trouble {
        Some(why) if total.freed == 0 => Err(why),
        _ => Ok(total),
    }
}

/// The rows of an interface that is no more.
async fn free(store: &Store, rows: &[Row], eni: &EniId, until: Instant) -> Result<usize, Error> {
    let of_it = rows.iter().filter(|row| row.iface.as_ref() == Some(eni));
    let changes: Vec<Change> = of_it.filter_map(|row| row.on(Event::EniGone).ok()).collect();
    let done = store.apply(&changes, until).await?;
    let freed = done.into_iter().filter(|done| *done).count();
    tracing::warn!(%eni, "EC2 does not know {eni} any more: {freed} of its rows are free");
    Ok(freed)
}

/// What the hosts answer until the end of their time.
async fn answers(
    store: &Store,
    asked: &[String],
    subnet: &SubnetId,
    end: Instant,
    until: Instant,
) -> Result<HashMap<String, Answer>, Error> {
    loop {
        let answers = store.answers(asked, subnet, until).await?;
        if answers.len() == asked.len() || Instant::now() >= end {
            return Ok(answers);
        }
        sleep(POLL).await;
    }
}

fn came(host: &KnownHost, answer: Option<&Answer>) -> Came {
    match answer {
        None => Came::Silent { version: host.entry.version.clone(), seen_seconds: host.seen.as_secs() },
        Some(Answer { trouble: Some(why), .. }) => Came::Failed(why.clone()),
        Some(Answer { freed, pending, trouble: None }) => {
            let count = |count: &u32| usize::try_from(*count).unwrap_or(usize::MAX);
            Came::Done(Recycled { freed: count(freed), pending: count(pending) })
        }
    }
}
