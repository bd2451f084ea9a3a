//! Which addresses Docker has in use, by its own last word.
//!
//! A grant never gives one of these, whatever the table says: the database may have lost a commit, or the rows may be the
//! original's, which called addresses of running containers ready. It is read in the background, since asking Docker from
//! inside one of its calls deadlocks it.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Docker's last word, corrected by what it released since.
#[derive(Debug, Default)]
pub struct InUse {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    has_answered: bool,
    addresses: HashSet<Ipv4Addr>,
    released: HashMap<Ipv4Addr, Instant>,
}

/// Docker releases an address a moment before its containers stop showing it.
const AFTERGLOW: Duration = Duration::from_secs(10);

impl InUse {
    fn known(&self) -> MutexGuard<'_, Known> {
        // Nothing in a critical section of this lock can panic half-way through a change.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The addresses of every container, as Docker listed them when asked at `asked`.
    pub fn listed(&self, addresses: HashSet<Ipv4Addr>, asked: Instant) {
        let mut known = self.known();
        known.has_answered = true;
        known.released.retain(|_, released| *released + AFTERGLOW > asked);
        known.addresses = addresses.into_iter().filter(|ip| !known.released.contains_key(ip)).collect();
    }

    /// Docker released this one.
    pub fn released(&self, ip: Ipv4Addr) {
        let mut known = self.known();
        known.addresses.remove(&ip);
        // Long before that it matters no more; Docker may not be read at all.
        known.released.retain(|_, released| released.elapsed() < AFTERGLOW * 2);
        known.released.insert(ip, Instant::now());
    }

    /// Whether a container has it.
    pub fn contains(&self, ip: Ipv4Addr) -> bool {
        self.known().addresses.contains(&ip)
    }

    /// All of them; none while Docker has not answered.
    pub fn addresses(&self) -> Vec<Ipv4Addr> {
        self.known().addresses.iter().copied().collect()
    }

    /// How many they are, once Docker has answered.
    pub fn count(&self) -> Option<usize> {
        let known = self.known();
        known.has_answered.then_some(known.addresses.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_released_address_is_not_in_use_though_docker_still_shows_it_for_a_moment() {
        let (in_use, start) = (InUse::default(), Instant::now());
        let ip = Ipv4Addr::new(10, 0, 0, 9);
        in_use.listed(HashSet::from([ip]), start);
        assert!(in_use.contains(ip));
        in_use.released(ip);
        assert!(!in_use.contains(ip));
        in_use.listed(HashSet::from([ip]), Instant::now() + AFTERGLOW / 2);
        assert!(!in_use.contains(ip));
        in_use.listed(HashSet::from([ip]), Instant::now() + AFTERGLOW * 2);
        assert!(in_use.contains(ip), "it was given to another container");
    }
}
