//! How full subnets are, for Prometheus. Only the table knows, and nobody waits for it: what a scrape finds due is read beside it,
//! for the next one, and not at all where nobody scrapes.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::page::{Page, count};
use crate::domain::address::State;
use crate::domain::block::SIZE;
use crate::domain::id::SubnetId;
use crate::domain::subnet::Subnet;
use crate::eni::Outside;
use crate::error::Error;
use crate::fleet::STORE_TIME;
use crate::fleet::fill::was_filled;
use crate::metrics::{one, two};
use crate::store::{Blocks, Count};
use crate::supervise::supervised;

/// Those of the ENIs that are served.
pub(super) struct Subnets {
    outside: Arc<Outside>,
    last: Arc<Mutex<Last>>,
}

#[derive(Default)]
struct Last {
    read: HashMap<SubnetId, Read>,
    /// When one may be read again, or is being read now.
    again: HashMap<SubnetId, Instant>,
}

/// A subnet, as it was read.
struct Read {
    at: Instant,
    states: BTreeMap<State, u64>,
    blocks: Blocks,
}

const STATES: [State; 7] =
    [State::Free, State::On, State::Off, State::Ready, State::Lease, State::Foreign, State::Reserved];
/// A subnet is read at most so often,
const OFTEN: Duration = Duration::from_secs(60);
/// and as long as somebody scrapes no more seldom than so;
const SELDOM: Duration = Duration::from_secs(600);
/// one that is not filled yet, again after so long;
const SOON: Duration = Duration::from_secs(5);
/// in between, after so many times as long as it took: the more there is to read the more seldom. A thousand hosts take a tenth
/// of one processor of their database.
const REST: u32 = 10_000;

impl Subnets {
    pub(super) fn new(outside: &Arc<Outside>) -> Self {
        Self { outside: Arc::clone(outside), last: Arc::default() }
    }

    /// Shows them as they were last read, and has read again what is due.
    pub(super) fn show<'s>(&self, page: &mut Page, subnets: impl Iterator<Item = &'s Subnet>) {
        let subnets: BTreeMap<&SubnetId, &Subnet> = subnets.map(|subnet| (&subnet.id, subnet)).collect();
        let (mut addresses, mut blocks, mut times) = (Vec::new(), Vec::new(), Vec::new());
        {
            let last = locked(&self.last);
            for (id, subnet) in &subnets {
                let Some(Read { at, states, blocks: Blocks { whole, broken, full } }) = last.read.get(*id) else {
                    continue;
                };
                addresses.extend(STATES.map(|state| {
                    (
                        two("subnet", id.as_str(), "state", &state.to_string()),
                        count(states.get(&state).copied().unwrap_or(0)),
                    )
                }));
                let ends = (subnet.size() / SIZE as u64).min(2);
                let of = [("whole", *whole), ("broken", *broken), ("full", *full), ("unusable", ends)];
                blocks.extend(of.map(|(state, number)| (two("subnet", id.as_str(), "state", state), count(number))));
                times.push((one("subnet", id.as_str()), *at));
            }
        }
        page.many("subnet_addresses", "Addresses of a subnet in the table, by state", addresses);
        let help = "Blocks of sixteen addresses in a subnet: all free (whole), some (broken), none (full), the two at its ends (unusable)";
        page.many("subnet_blocks", help, blocks);
        page.times("subnet_read_timestamp", "When these figures of a subnet were read in the table", times);
        for subnet in subnets.into_values() {
            self.read_if_due(subnet);
        }
    }

    fn read_if_due(&self, subnet: &Subnet) {
        let id = &subnet.id;
        let now = Instant::now();
        {
            let mut last = locked(&self.last);
            if last.again.get(id).is_some_and(|again| now < *again) {
                return;
            }
            // One at a time, and no sooner where it is in vain.
            last.again.insert(id.clone(), now + OFTEN);
        }
        let (outside, last, subnet) = (Arc::clone(&self.outside), Arc::clone(&self.last), subnet.clone());
        let reading = async move {
            let id = subnet.id.clone();
            match read(&outside, &subnet).await {
                Ok(None) => {
                    tracing::debug!("how full {id} is is not told: it is being filled");
                    locked(&last).again.insert(id, now + SOON);
                }
                Ok(Some(read)) => {
                    let mut last = locked(&last);
                    last.again.insert(id.clone(), now + (now.elapsed() * REST).clamp(OFTEN, SELDOM));
                    last.read.insert(id, read);
                }
                Err(why) => tracing::debug!("how full {id} is was not read: {why}"),
            }
        };
        self.outside.tasks.spawn(supervised("reading how full a subnet is", reading));
    }
}

/// None: it is not filled yet, so that what has no row would look as if it were taken.
async fn read(outside: &Outside, subnet: &Subnet) -> Result<Option<Read>, Error> {
    let id = &subnet.id;
    let store = outside.store.now()?;
    let _turn = store.background_turn().await;
    let until = Instant::now() + STORE_TIME;
    let mut counts = store.census_lately(id, until).await?;
    if rows(&counts) < subnet.size() {
        if !was_filled(&store, subnet, until).await? {
            return Ok(None);
        }
        // They may have been counted minutes ago, before it was.
        counts = store.census(id, until).await?;
    }
    let mut states = BTreeMap::new();
    for count in counts {
        *states.entry(count.state).or_default() += count.rows;
    }
    Ok(Some(Read { at: Instant::now(), states, blocks: store.blocks(subnet, until).await? }))
}

fn rows(counts: &[Count]) -> u64 {
    counts.iter().map(|count| count.rows).sum()
}

fn locked(last: &Mutex<Last>) -> MutexGuard<'_, Last> {
    last.lock().unwrap_or_else(PoisonError::into_inner)
}
