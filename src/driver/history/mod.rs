//! Who had an address when: this host's journal and the table asked together.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};

use crate::domain::history::{Use, millis};
use crate::domain::id::Claim;
use crate::domain::roll::serving;
use crate::driver::served::Served;
use crate::eni::Outside;
use crate::error::Error;

mod answer;
mod tell;

pub(crate) use answer::rfc3339;
use answer::{Elsewhere, Known};
pub(crate) use tell::Teller;

/// What is asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ToKnow {
    /// Of this address,
    pub ip: Option<Ipv4Addr>,
    /// or of this container: its name, or the beginning of its id.
    pub container: Option<String>,
    /// At this time; none: now.
    pub at: Option<When>,
    /// Only what was not over by then.
    pub since: Option<When>,
}

/// A time as somebody says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// So many seconds before now.
    SecondsAgo(u64),
    /// Unix milliseconds.
    Millis(u64),
}

/// What is known. Times are those of the hosts' clocks, in UTC.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Past {
    /// The time that the answer is about: `2026-11-26T08:14:05.250Z`.
    pub at: String,
    /// The answer, a sentence each.
    pub answer: Vec<String>,
    /// Who had the address then, or what the container had.
    pub then: Vec<Told>,
    /// All that is known, the last first.
    pub uses: Vec<Told>,
    /// By whose word.
    pub sources: Vec<Source>,
}

/// A use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "docs/status.md says it")]
pub struct Told {
    pub ip: Ipv4Addr,
    pub name: Option<String>,
    pub renamed: Option<String>,
    pub container: Option<String>,
    pub network: Option<String>,
    pub named: bool,
    pub eni: String,
    pub instance: Option<String>,
    pub from: String,
    /// It was found with it then, and had it before.
    pub found: bool,
    pub to: Option<String>,
    pub ended: Option<String>,
    /// It ends before it begins: a clock was set in between.
    pub clock_was_set: bool,
}

/// Whoever knows something of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// `journal` or `table`.
    pub of: String,
    /// From when on it is whole; none: it has nothing.
    pub since: Option<String>,
    /// Why it does not say anything.
    pub error: Option<String>,
}

impl From<&Use> for Told {
    fn from(it: &Use) -> Self {
        Self {
            ip: it.ip,
            name: it.name.clone(),
            renamed: it.renamed.clone(),
            container: it.container.clone(),
            network: it.network.clone(),
            named: it.is_named,
            eni: it.eni.to_string(),
            instance: it.instance.clone(),
            from: rfc3339(it.begun),
            found: it.was_found,
            to: it.end.map(|(end, _)| rfc3339(end)),
            ended: it.end.map(|(_, how)| how.as_str().to_owned()),
            clock_was_set: it.end.is_some_and(|(end, _)| end < it.begun),
        }
    }
}

/// Answers.
pub struct History {
    outside: Arc<Outside>,
    served: Arc<Served>,
}

/// The table's time: what this host knows by itself is not to wait long for it.
const PATIENCE: Duration = Duration::from_secs(5);

impl History {
    pub(crate) fn new(outside: &Arc<Outside>, served: &Arc<Served>) -> Self {
        Self { outside: Arc::clone(outside), served: Arc::clone(served) }
    }

    /// What is known of an address, or of a container.
    ///
    /// # Errors
    /// Neither is named, or both; or this process has neither a journal nor the table.
    pub async fn ask(&self, asked: &ToKnow, until: Instant) -> Result<Past, Error> {
        let subject = match (asked.ip, asked.container.as_deref()) {
            (Some(ip), None) => Subject::Address(ip),
            (None, Some(name)) if !name.is_empty() => Subject::Container(name.to_owned()),
            _ => return Err(Error::Asked("name an address, or a container by --container: one of the two".into())),
        };
        let now = millis(self.outside.journal.now().wall);
        let time = |when: When| match when {
            When::SecondsAgo(seconds) => now.saturating_sub(seconds.saturating_mul(1000)),
            When::Millis(at) => at,
        };
        let at = asked.at.map_or(now, time);
        let until = self.outside.at_most_a_request(until).min(Instant::now() + PATIENCE);
        let (journal, table) = tokio::join!(self.journal(&subject, until), self.table(&subject, until));
        let mut sources = Vec::new();
        let mut say = |of: &str, word: Result<Word, String>| {
            let (uses, since, error) = match word {
                Ok(Word { uses, since }) => (uses, since, None),
                Err(why) => (Vec::new(), None, Some(why)),
            };
            sources.push(Source { of: of.to_owned(), since: since.map(rfc3339), error });
            (uses, since)
        };
        let (mut uses, mut since) = (Vec::new(), None);
        match journal {
            Some(word) => (uses, since) = say("journal", word),
            // Nobody else is to be asked.
            None => drop(table.as_ref().map_err(Error::clone)?),
        }
        let (of_table, since_table) = say("table", table.map_err(|why| why.to_string()));
        uses = merged(uses, of_table);
        since = since.into_iter().chain(since_table).min();
        if let Some(since) = asked.since.map(time) {
            uses.retain(|it| it.end.is_none_or(|(end, _)| end >= since));
        }
        let elsewhere = match subject {
            Subject::Address(ip) => self.elsewhere(ip, until).await,
            Subject::Container(_) => None,
        };
        let is_of_the_fleet = since_table.is_some_and(|since| since <= at);
        let known = Known { uses: &uses, since, at, now, is_of_the_fleet, elsewhere };
        let (answer, then) = match &subject {
            Subject::Address(ip) => known.of_address(*ip),
            Subject::Container(name) => known.of_container(name),
        };
        Ok(Past {
            at: rfc3339(at),
            answer,
            then: then.into_iter().map(Told::from).collect(),
            uses: uses.iter().map(Told::from).collect(),
            sources,
        })
    }

    /// None where this process has no journal.
    async fn journal(&self, subject: &Subject, until: Instant) -> Option<Result<Word, String>> {
        let journal = &self.outside.journal;
        if !journal.is_somewhere() {
            return None;
        }
        let wanted = subject.clone();
        let instance = journal.opened().instance;
        let uses = timeout_at(until, journal.uses(move |it| wanted.is_of(it))).await;
        let uses = uses.unwrap_or_else(|_| Err("its disk does not answer".to_owned()));
        let of_here = |it| Use { instance: instance.clone(), ..it };
        let since = Some(journal.kept().since);
        Some(uses.map(|uses| Word { uses: uses.into_iter().map(of_here).collect(), since }))
    }

    async fn table(&self, subject: &Subject, until: Instant) -> Result<Word, Error> {
        let store = self.outside.store.get(until).await?;
        let uses = match subject {
            Subject::Address(ip) => store.uses_of(*ip, until).await?,
            Subject::Container(name) => store.uses_of_container(name, until).await?,
        };
        Ok(Word { uses, since: store.uses_since(until).await? })
    }

    /// Whose the address is now, by the table, where that is another host's.
    async fn elsewhere(&self, ip: Ipv4Addr, until: Instant) -> Option<Elsewhere> {
        let store = self.outside.store.now().ok()?;
        let row = store.row(ip, until).await.ok()??;
        let eni = row.iface.clone()?;
        let served = self.served.all().await;
        if served.iter().any(|own| own.nic.eni == eni && !own.is_distant()) {
            return None;
        }
        let distant = served.iter().find(|own| own.nic.eni == eni).map(|own| own.instance().to_owned());
        let is_served_here = distant.is_some();
        let instance = match distant {
            Some(instance) => Some(instance),
            None => {
                let hosts = store.hosts(until).await.unwrap_or_default();
                serving(&hosts).get(&eni).map(|host| host.entry.instance.clone())
            }
        };
        Some(Elsewhere { row, eni, instance, is_served_here })
    }
}

/// What one of them says.
struct Word {
    uses: Vec<Use>,
    since: Option<u64>,
}

#[derive(Clone)]
enum Subject {
    Address(Ipv4Addr),
    Container(String),
}

impl Subject {
    fn is_of(&self, it: &Use) -> bool {
        match self {
            Self::Address(ip) => it.ip == *ip,
            Self::Container(name) => it.is_of(name),
        }
    }
}

/// What the journal says of a lease outweighs what the table was told of it. The last first: those of one host as they came,
/// whatever its clock did.
fn merged(journal: Vec<Use>, table: Vec<Use>) -> Vec<Use> {
    let known: HashSet<&Claim> = journal.iter().map(|it| &it.token).collect();
    let others: Vec<Use> = table.into_iter().filter(|it| !known.contains(&it.token)).collect();
    let mut all = journal;
    if !others.is_empty() {
        all.extend(others);
        all.sort_by_key(|it| Reverse(it.begun));
    }
    all
}
