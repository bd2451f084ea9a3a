//! What figures for Prometheus are made of.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

/// Labels by their names. None holds what grows without bound, such as an address or a container.
pub type Labels<const N: usize> = [(&'static str, String); N];
/// A counter for each value of its labels.
pub type Counters<const N: usize> = Family<Labels<N>, Counter>;
/// A histogram likewise.
pub type Histograms<const N: usize> = Family<Labels<N>, Histogram, fn() -> Histogram>;
/// A figure likewise, of the moment.
pub type Gauges<const N: usize> = Family<Labels<N>, Gauge<f64, AtomicU64>>;

/// One label.
pub fn one(name: &'static str, value: &str) -> Labels<1> {
    [(name, value.to_owned())]
}

/// Two of them.
pub fn two(name: &'static str, value: &str, other: &'static str, other_value: &str) -> Labels<2> {
    [(name, value.to_owned()), (other, other_value.to_owned())]
}
