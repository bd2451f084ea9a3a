//! Which addresses Docker has in use, by its own last word.
//!
//! A grant never gives one of these, whatever journal and table say: the journal may be lost, or the rows may be the
//! original's, which called addresses of running containers ready. It is read in the background, since asking Docker from
//! inside one of its calls deadlocks it.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::id::EniId;

/// Docker's last word, corrected by what it released since.
#[derive(Debug, Default)]
pub struct InUse {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// When the last answer was asked for.
    asked: Option<Instant>,
    addresses: HashSet<Ipv4Addr>,
    names: HashMap<Ipv4Addr, String>,
    released: HashMap<Ipv4Addr, Instant>,
    /// Releases that are not done yet.
    underway: HashMap<Ipv4Addr, u32>,
    /// How many releases may be remembered before those that matter no more are dropped.
    room: usize,
    silence: Option<Silence>,
    /// ENIs of which Docker let go of a pool, and made none since.
    without_pool: HashSet<EniId>,
}

/// Docker does not answer.
#[derive(Debug, Clone)]
pub struct Silence {
    /// Since it was first asked in vain.
    pub since: Instant,
    /// What came of the last time.
    pub why: String,
}

/// Docker releases an address a moment before its containers stop showing it.
const AFTERGLOW: Duration = Duration::from_secs(10);
/// A release is remembered for longer than any read of rows takes that it may have come during.
const MEMORY: Duration = Duration::from_secs(60);

impl InUse {
    fn known(&self) -> MutexGuard<'_, Known> {
        // Nothing in a critical section of this lock can panic half-way through a change.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The addresses of every container and the names that go with them, as Docker listed them when asked at `asked`. What
    /// is older than another answer counts for nothing. Gives back the silence that this ends.
    pub fn listed(
        &self,
        addresses: HashSet<Ipv4Addr>,
        names: HashMap<Ipv4Addr, String>,
        asked: Instant,
    ) -> Option<Silence> {
        let mut known = self.known();
        if known.asked.is_some_and(|newer| newer > asked) {
            return None;
        }
        known.asked = Some(asked);
        let glows = |ip: &Ipv4Addr| known.released.get(ip).is_some_and(|released| *released + AFTERGLOW > asked);
        known.addresses = addresses.into_iter().filter(|ip| !glows(ip)).collect();
        known.names = names;
        known.silence.take()
    }

    /// Docker was asked in vain at `asked`. Whether a silence begins with it.
    pub fn silent(&self, why: String, asked: Instant) -> bool {
        let mut known = self.known();
        if known.asked.is_some_and(|answered| answered > asked) {
            return false;
        }
        let since = known.silence.as_ref().map(|silence| silence.since);
        known.silence = Some(Silence { since: since.unwrap_or(asked), why });
        since.is_none()
    }

    /// Whether, and since when, it does not answer.
    pub fn silence(&self) -> Option<Silence> {
        self.known().silence.clone()
    }

    /// The container that has this address, as Docker names it.
    pub fn name(&self, ip: Ipv4Addr) -> Option<String> {
        let known = self.known();
        known.names.get(&ip).filter(|_| known.addresses.contains(&ip)).cloned()
    }

    /// Docker releases this one. To be said as soon as it does, whatever the release has to wait for.
    pub fn released(&self, ip: Ipv4Addr) {
        let mut known = self.known();
        known.addresses.remove(&ip);
        // Not at each release: they may come by the thousand.
        if known.released.len() >= known.room {
            known.released.retain(|_, released| released.elapsed() < MEMORY);
            known.room = known.released.len() * 2 + 64;
        }
        known.released.insert(ip, Instant::now());
    }

    /// Docker lets go of a pool of this ENI.
    pub fn pool_released(&self, eni: EniId) {
        self.known().without_pool.insert(eni);
    }

    /// A network of this ENI is made.
    pub fn pool_requested(&self, eni: &EniId) {
        self.known().without_pool.remove(eni);
    }

    /// Whether Docker has let go of a pool of this ENI in this life, and made none since.
    pub fn has_released_pool(&self, eni: &EniId) -> bool {
        self.known().without_pool.contains(eni)
    }

    /// The release of this one is not done yet for as long as what is given back lives.
    pub fn releasing(self: &Arc<Self>, ip: Ipv4Addr) -> Releasing {
        *self.known().underway.entry(ip).or_default() += 1;
        Releasing { ip, of: Arc::clone(self) }
    }

    /// Whether a release of it is not done yet.
    pub fn is_releasing(&self, ip: Ipv4Addr) -> bool {
        self.known().underway.contains_key(&ip)
    }

    /// When Docker released it last, as far as that is remembered: rows that were read before say otherwise, and are wrong.
    pub fn last_release(&self, ip: Ipv4Addr) -> Option<Instant> {
        self.known().released.get(&ip).copied()
    }

    /// Whether a container has it.
    pub fn contains(&self, ip: Ipv4Addr) -> bool {
        self.known().addresses.contains(&ip)
    }

    /// All of them; none while Docker has not answered.
    pub fn addresses(&self) -> Vec<Ipv4Addr> {
        self.known().addresses.iter().copied().collect()
    }

    /// Whether Docker is read, though it may not have answered yet: dockerd starts its plugins before it does.
    pub fn is_read(&self) -> bool {
        let known = self.known();
        known.asked.is_some() || known.silence.is_some()
    }

    /// How many they are, and when Docker was asked; none while it has not answered.
    pub fn count(&self) -> Option<(usize, Instant)> {
        let known = self.known();
        Some((known.addresses.len(), known.asked?))
    }
}

/// A release that is not done yet.
#[derive(Debug)]
pub struct Releasing {
    ip: Ipv4Addr,
    of: Arc<InUse>,
}

impl Drop for Releasing {
    fn drop(&mut self) {
        let mut known = self.of.known();
        if let Some(count) = known.underway.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                known.underway.remove(&self.ip);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_released_address_is_not_in_use_though_docker_still_shows_it_for_a_moment() {
        let (in_use, start) = (InUse::default(), Instant::now());
        let ip = Ipv4Addr::new(10, 0, 0, 9);
        let listed = |asked| in_use.listed(HashSet::from([ip]), HashMap::from([(ip, "web".to_owned())]), asked);
        listed(start);
        assert!(in_use.contains(ip));
        in_use.released(ip);
        assert!(!in_use.contains(ip));
        listed(Instant::now() + AFTERGLOW / 2);
        assert!(!in_use.contains(ip));
        listed(Instant::now() + AFTERGLOW * 2);
        assert!(in_use.contains(ip), "it was given to another container");
        assert_eq!(in_use.name(ip).as_deref(), Some("web"));
        assert!(in_use.last_release(ip).is_some(), "what Docker lists does not undo the release");
        in_use.released(ip);
        assert_eq!(in_use.name(ip), None, "it may be the next container's");
    }

    #[tokio::test]
    async fn a_silence_begins_once_lasts_and_ends_with_an_answer_that_is_newer() {
        let (in_use, start) = (InUse::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(in_use.silent("refused".into(), at(0)));
        assert!(!in_use.silent("late".into(), at(5)));
        let silence = in_use.silence().unwrap();
        assert_eq!((silence.since, silence.why.as_str()), (at(0), "late"));
        assert_eq!(in_use.listed(HashSet::new(), HashMap::new(), at(9)).unwrap().since, at(0));
        assert!(in_use.silence().is_none() && in_use.count() == Some((0, at(9))));
        // A look that began before, and ends after it.
        assert!(!in_use.silent("cut off".into(), at(8)));
        let ip = Ipv4Addr::new(10, 0, 0, 9);
        assert!(in_use.listed(HashSet::from([ip]), HashMap::new(), at(8)).is_none());
        assert!(!in_use.contains(ip));
        assert!(in_use.silence().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn releases_are_remembered_for_longer_than_a_read_takes_and_not_for_ever() {
        let in_use = InUse::default();
        let all = |n: u32| Ipv4Addr::from(0x0a00_0000 + n);
        (0..1000).for_each(|n| in_use.released(all(n)));
        tokio::time::advance(MEMORY - Duration::from_secs(1)).await;
        (1000..1100).for_each(|n| in_use.released(all(n)));
        assert!((0..1100).all(|n| in_use.last_release(all(n)).is_some()));
        tokio::time::advance(Duration::from_secs(2)).await;
        (1100..4000).for_each(|n| in_use.released(all(n)));
        assert!((0..1000).all(|n| in_use.last_release(all(n)).is_none()) && in_use.last_release(all(1000)).is_some());
    }
}
