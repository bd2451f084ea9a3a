//! Whether the address for Prometheus is listened on.

use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use super::check::{Check, ok, warning};

/// What is known of it; nothing where none is named, and before it was tried.
#[derive(Default)]
pub struct Metrics(Mutex<Option<(SocketAddr, Option<String>)>>);

impl Metrics {
    /// It is listened on.
    pub fn are_at(&self, at: SocketAddr) {
        self.note(at, None);
    }

    /// It is not, and is tried again.
    pub fn are_not_at(&self, at: SocketAddr, why: &io::Error) {
        self.note(at, Some(why.to_string()));
    }

    fn note(&self, at: SocketAddr, trouble: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((at, trouble));
    }

    pub(super) fn check(&self) -> Option<Check> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, trouble) = known.as_ref()?;
        Some(match trouble {
            None => ok("metrics", format!("at http://{at}/metrics")),
            Some(why) => warning(
                "metrics",
                format!("EC2_IPAM_METRICS is {at}, but that cannot be listened on: {why}"),
                "set it to an address of this host and a port that nobody else has; it is tried again by itself",
            ),
        })
    }
}
