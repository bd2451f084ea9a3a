//! A page of figures that are read as somebody asks.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::registry::{Registry, Unit};
use tokio::time::Instant;

use crate::metrics::{Gauges, Labels};

/// What is shown once.
pub(super) struct Page(pub(super) Registry);

impl Page {
    /// One figure.
    pub(super) fn one(&mut self, name: &str, help: &str, value: f64) {
        self.many::<0>(name, help, [([], value)]);
    }

    /// Whether something is so.
    pub(super) fn truth(&mut self, name: &str, help: &str, value: bool) {
        self.one(name, help, f64::from(value));
    }

    /// A time span.
    pub(super) fn seconds(&mut self, name: &str, help: &str, value: f64) {
        self.0.register_with_unit(name, help, Unit::Seconds, gauges::<0>([([], value)]));
    }

    /// A moment.
    pub(super) fn time(&mut self, name: &str, help: &str, at: Instant) {
        self.seconds(name, help, unix(at));
    }

    /// One figure for each of these.
    pub(super) fn many<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels<N>, f64)>,
    ) {
        self.0.register(name, help, gauges(values));
    }

    /// Moments likewise.
    pub(super) fn times<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels<N>, Instant)>,
    ) {
        let values = values.into_iter().map(|(labels, at)| (labels, unix(at)));
        self.0.register_with_unit(name, help, Unit::Seconds, gauges(values));
    }
}

fn gauges<const N: usize>(values: impl IntoIterator<Item = (Labels<N>, f64)>) -> Gauges<N> {
    let gauges = Gauges::default();
    for (labels, value) in values {
        gauges.get_or_create(&labels).set(value);
    }
    gauges
}

/// A number of things: of addresses there are no more than that.
pub(super) fn count(things: impl TryInto<u32>) -> f64 {
    things.try_into().map_or(f64::INFINITY, f64::from)
}

/// Since 1970.
#[allow(clippy::disallowed_methods, reason = "a date for people, not the age of a row")]
fn unix(at: Instant) -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(at.elapsed()).as_secs_f64()
}
