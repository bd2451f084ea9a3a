//! Who had an address when: this host's journal and the table asked together.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};

use crate::domain::history::{Use, merged, millis};
use crate::driver::served::Served;
use crate::eni::Outside;
use crate::error::Error;

mod answer;
mod standing;
mod tell;

pub(crate) use answer::rfc3339;
use answer::{Known, Scope};
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
        let time = |when: When| {
            let at = match when {
                When::SecondsAgo(seconds) => now.saturating_sub(seconds.saturating_mul(1000)),
                When::Millis(at) => at,
            };
            if at > now { Err(Error::Asked(in_the_future(at, now))) } else { Ok(at) }
        };
        let at = asked.at.map_or(Ok(now), time)?;
        let begin = asked.since.map(time).transpose()?;
        let patience = || self.outside.at_most_a_request(until).min(Instant::now() + PATIENCE);
        let table_until = patience();
        let table = self.table(&subject, table_until).await;
        let standing = match subject {
            Subject::Address(ip) => self.standing(ip, table_until).await,
            Subject::Container(_) => self.standing_of_containers().await,
        };
        // The last: what is not in doubt any more by now is in it.
        let journal = self.journal(&subject, patience()).await;
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
        let is_unheard = table.is_err() && self.outside.untold.kept.is_some();
        let (of_table, since_table) = say("table", table.map_err(|why| why.to_string()));
        uses = merged(uses, of_table);
        // Of the fleet nothing is known from before the table had it, whatever this host knows of itself.
        let of_fleet = since_table.filter(|since| *since <= at);
        let scope = match of_fleet {
            Some(_) => Scope::Fleet,
            None if is_unheard => Scope::Unheard,
            None => Scope::Host,
        };
        let since = of_fleet.or_else(|| since.into_iter().chain(since_table).min());
        let known = Known { uses: &uses, since, at, now, scope, standing };
        let (answer, then) = match &subject {
            Subject::Address(ip) => known.of_address(*ip),
            Subject::Container(name) => known.of_container(name),
        };
        // What is left out is known all the same.
        let is_shown = |it: &&Use| begin.is_none_or(|begin| it.end.is_none_or(|(end, _)| end >= begin));
        Ok(Past {
            at: rfc3339(at),
            answer,
            then: then.into_iter().map(Told::from).collect(),
            uses: uses.iter().filter(is_shown).map(Told::from).collect(),
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
        let told = store.uses_since(until).await?;
        // What lasts is kept for longer than what was over at that time.
        let oldest = self.outside.untold.kept.map(|kept| millis(self.outside.journal.now().wall.saturating_sub(kept)));
        Ok(Word { uses, since: told.map(|since| since.max(oldest.unwrap_or_default())) })
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

fn in_the_future(at: u64, now: u64) -> String {
    format!(
        "{} is in the future: now it is {}. A time without an offset is UTC; local time is written with its own, such as +02:00",
        rfc3339(at),
        rfc3339(now)
    )
}
