//! How often a client over the network may have EC2 asked of interfaces that turn out not to be its own.
//!
//! EC2's Describe calls are counted for the whole account: what one client spends, all hosts of the fleet lack.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::peer::Peer;

/// At once: more than an instance has ENIs, so that a mistake in each network is told as what it is.
const BURST: u32 = 20;
/// And then one more each.
const REFILL: Duration = Duration::from_secs(6);
/// So many clients are remembered; each that asked for nothing for two minutes is forgotten.
const MOST: usize = 10_000;

/// Who has asked how often: a client's questions are over one after the other, and this says when all of them are.
#[derive(Default)]
pub(super) struct Strangers(Mutex<HashMap<IpAddr, Instant>>);

impl Strangers {
    /// Whether EC2 may be asked for it. A local process may ask for anything.
    pub(super) fn may_ask(&self, peer: &Peer) -> bool {
        let Peer::Remote { address, .. } = peer else { return true };
        self.may_ask_at(*address, Instant::now())
    }

    fn may_ask_at(&self, address: IpAddr, now: Instant) -> bool {
        let mut asked = self.lock();
        let over = asked.get(&address).copied().filter(|over| *over > now).unwrap_or(now) + REFILL;
        if over > now + REFILL * BURST {
            return false;
        }
        if asked.len() >= MOST {
            asked.retain(|_, over| *over > now);
        }
        // So many at once are no fleet, and each has what it asks for.
        if asked.len() < MOST || asked.contains_key(&address) {
            asked.insert(address, over);
        }
        true
    }

    /// It was its own, or EC2 did not say.
    pub(super) fn was_none(&self, peer: &Peer) {
        let Peer::Remote { address, .. } = peer else { return };
        if let Some(over) = self.lock().get_mut(address) {
            *over = over.checked_sub(REFILL).unwrap_or(*over);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Instant>> {
        // Nothing in a critical section of this lock can panic half-way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_spends_a_few_at_once_and_then_one_after_the_other() {
        let strangers = Strangers::default();
        let (one, other): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let began = Instant::now();
        let many = |address, at, tries: u32| (0..tries).filter(|_| strangers.may_ask_at(address, at)).count();
        assert_eq!(many(one, began, 100), 20);
        assert_eq!(many(other, began, 1), 1, "each has its own");
        assert_eq!(many(one, began + REFILL, 100), 1);
        assert_eq!(many(one, began + REFILL * 11, 100), 10);
        assert_eq!(many(one, began + REFILL * 1000, 100), 20);
        assert!(!strangers.may_ask_at(one, began + REFILL * 1000));
        strangers.was_none(&Peer::Remote { address: one, is_here: false, names: None });
        assert!(strangers.may_ask_at(one, began + REFILL * 1000));
        assert!(strangers.may_ask(&Peer::Local));
    }
}
