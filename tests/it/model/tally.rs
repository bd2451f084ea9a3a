//! What was done, counted, so that a green run can be seen to have done something.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// Points of the driver, how often work came to each, and how often it was halted there.
#[derive(Clone, Default)]
pub struct Points(Arc<Mutex<BTreeMap<&'static str, (u64, u64)>>>);

impl Points {
    pub fn reached(&self, name: &'static str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default().0 += 1;
    }

    pub fn halted(&self, name: &'static str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default().1 += 1;
    }
}

/// The totals.
#[derive(Clone, Default)]
pub struct Tally {
    counts: BTreeMap<String, u64>,
    pub points: Points,
}

impl Tally {
    pub fn count(&mut self, what: &str) {
        self.add(what, 1);
    }

    pub fn add(&mut self, what: &str, n: u64) {
        *self.counts.entry(what.to_owned()).or_default() += n;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, n) in &self.counts {
            writeln!(f, "  {what}: {n}")?;
        }
        for (name, (reached, halted)) in self.points.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            writeln!(f, "  at {name}: {reached}, halted {halted}")?;
        }
        Ok(())
    }
}
