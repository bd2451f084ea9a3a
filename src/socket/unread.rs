//! The lease of a connection's last answer, until it is certain that its caller has it.
//!
//! A unix socket tells: whoever left before it had read its answer is seen to, and the lease is taken back (I9). Over TCP
//! nothing tells: a peer that has read everything and resets the connection looks like one that has not, and what is taken
//! back from it is in use. So there a lease stays once a byte of its answer was sent, whatever the socket says later.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::domain::peer::Peer;
use crate::eni::Lease;

/// The lease. As this is dropped it is taken back.
pub(super) struct Unread {
    lease: Mutex<Option<Lease>>,
    is_remote: bool,
    /// The caller left before it had read all that it was sent. Of a unix socket only.
    has_left: AtomicBool,
}

impl Unread {
    pub(super) fn of(peer: &Peer) -> Self {
        Self { lease: Mutex::default(), is_remote: peer.is_remote(), has_left: AtomicBool::new(false) }
    }

    fn lease(&self) -> MutexGuard<'_, Option<Lease>> {
        self.lease.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An answer is about to be sent.
    pub(super) fn answered(&self, lease: Option<Lease>) {
        *self.lease() = lease;
    }

    /// The last answer reached its caller, for certain.
    pub(super) fn was_read(&self) {
        if let Some(lease) = self.lease().take() {
            lease.keep();
        }
    }

    /// Bytes were sent.
    pub(super) fn sent(&self) {
        if self.is_remote {
            self.was_read();
        }
    }

    /// A unix socket tells: a write to one that was closed is a broken pipe, and one that was closed with bytes unread is
    /// reset, not at its end (Linux, `net/unix/af_unix.c`, `unix_release_sock`).
    pub(super) fn failed(&self, why: ErrorKind) {
        if matches!(why, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) {
            self.has_left.store(true, Ordering::Relaxed);
        }
    }

    /// The connection is over.
    pub(super) fn ended(&self) {
        if !self.is_remote && !self.has_left.load(Ordering::Relaxed) {
            self.was_read();
        }
    }
}
