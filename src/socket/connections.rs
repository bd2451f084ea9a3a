//! A bound on the number of connections, since each costs memory and a file descriptor that the driver's own calls need.
//!
//! It is their number that is bounded and not their age: the Engine keeps idle connections, and repeats a call that met a
//! closing one without its body. So while there is room none is closed, however slow it is. When there is none, a quiet one
//! goes for one that has come: the eldest of those that never asked anything, or of those that did, whichever are more. So
//! neither kind keeps out, or drives out, the other. One whose request is being answered never goes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// An Engine keeps six; with their buffers so many take 32 MiB at worst.
const MOST: usize = 256;
/// Enough for an Engine and the command line, however few file descriptors there are.
const FEWEST: usize = 16;

/// All connections.
pub(super) struct Connections {
    room: Arc<Semaphore>,
    quiet: Mutex<Quiet>,
    /// One more is quiet.
    quieted: Notify,
}

/// The quiet ones, eldest first.
#[derive(Default)]
struct Quiet {
    last: u64,
    /// They never asked anything.
    new: BTreeMap<u64, CancellationToken>,
    /// They did.
    used: BTreeMap<u64, CancellationToken>,
}

impl Connections {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { room: Arc::new(Semaphore::new(most())), quiet: Mutex::default(), quieted: Notify::new() })
    }

    fn quiet(&self) -> MutexGuard<'_, Quiet> {
        // Nothing in a critical section of this lock can panic half-way through a change.
        self.quiet.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one that has come, made if need be.
    pub(super) async fn place(self: &Arc<Self>) -> Place {
        let room = loop {
            let mut quieted = std::pin::pin!(self.quieted.notified());
            quieted.as_mut().enable();
            if let Ok(room) = Arc::clone(&self.room).try_acquire_owned() {
                break room;
            }
            self.end_one();
            tokio::select! {
                Ok(room) = Arc::clone(&self.room).acquire_owned() => break room,
                () = quieted => {}
            }
        };
        let place = Place {
            connections: Arc::clone(self),
            end: CancellationToken::new(),
            since: Mutex::default(),
            _room: room,
        };
        // From now on, and not when its task begins: until then a crowd of them would look like none.
        place.quiet(false);
        place
    }

    /// Ends a quiet connection. A single one may have come a moment ago: others will soon be quiet too.
    pub(super) fn end_one(&self) {
        let mut quiet = self.quiet();
        let (new, used) = (quiet.new.len(), quiet.used.len());
        let eldest = match new + used {
            0 | 1 => None,
            _ if new > used => quiet.new.pop_first(),
            _ => quiet.used.pop_first(),
        };
        drop(quiet);
        if let Some((_, end)) = eldest {
            end.cancel();
        }
    }
}

/// One connection's place among them.
pub(super) struct Place {
    connections: Arc<Connections>,
    end: CancellationToken,
    /// Its number among the quiet ones; none while a request is being answered.
    since: Mutex<Option<u64>>,
    _room: OwnedSemaphorePermit,
}

impl Place {
    fn since(&self) -> MutexGuard<'_, Option<u64>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It waits for a request, and has had one or not.
    pub(super) fn quiet(&self, has_asked: bool) {
        let mut quiet = self.connections.quiet();
        quiet.last += 1;
        let since = quiet.last;
        let kind = if has_asked { &mut quiet.used } else { &mut quiet.new };
        kind.insert(since, self.end.clone());
        drop(quiet);
        *self.since() = Some(since);
        self.connections.quieted.notify_waiters();
    }

    /// A request is being answered.
    pub(super) fn busy(&self) {
        if let Some(since) = self.since().take() {
            let mut quiet = self.connections.quiet();
            quiet.new.remove(&since);
            quiet.used.remove(&since);
        }
    }

    pub(super) fn is_busy(&self) -> bool {
        self.since().is_none()
    }

    /// Until it has to go.
    pub(super) async fn ended(&self) {
        self.end.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.busy();
    }
}

/// Half of the file descriptors are left to the driver's own calls.
fn most() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next());
    files.and_then(|files| files.parse::<usize>().ok()).map_or(MOST, |files| (files / 2).clamp(FEWEST, MOST))
}
