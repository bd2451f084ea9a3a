//! A bound on the number of connections, since each costs memory and a file descriptor that the driver's own calls need.
//!
//! While there is room none is closed, however slow it is: the Engine keeps idle connections, and repeats a call that met a
//! closing one without its body. When there is none, newcomers wait in the listen backlog (`net.core.somaxconn`, 4096 of
//! them), and one that has been quiet for a while goes for one that has come: the eldest of those that never asked anything,
//! or of those that did, whichever are more. So neither kind keeps out, or drives out, the other. A request is asked once it
//! is whole, so half of one is as quiet as none; one that is being answered never goes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// An Engine keeps six; with their buffers so many take 32 MiB at worst.
const MOST: usize = 256;
/// Enough for an Engine and the command line, however few file descriptors there are.
const FEWEST: usize = 16;
/// Long enough to send a request after connecting, even where hundreds of containers stop at once; and so long a flood of
/// connections that say nothing keeps out the next ones, for each [`MOST`] of them.
const A_WHILE: Duration = Duration::from_secs(2);
/// How often it is looked for one that has been quiet for that long.
const LOOK: Duration = Duration::from_millis(100);

/// All connections.
pub(super) struct Connections {
    most: usize,
    room: Arc<Semaphore>,
    quiet: Mutex<Quiet>,
    /// The end of all.
    stop: CancellationToken,
}

/// The quiet ones, eldest first.
#[derive(Default)]
struct Quiet {
    last: u64,
    /// They never asked anything.
    new: BTreeMap<u64, Since>,
    /// They did.
    used: BTreeMap<u64, Since>,
}

struct Since {
    since: Instant,
    end: CancellationToken,
}

impl Connections {
    pub(super) fn new(stop: CancellationToken) -> Arc<Self> {
        let most = most();
        Arc::new(Self { most, room: Arc::new(Semaphore::new(most)), quiet: Mutex::default(), stop })
    }

    fn quiet(&self) -> MutexGuard<'_, Quiet> {
        // Nothing in a critical section of this lock can panic half-way through a change.
        self.quiet.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one that has come, made if need be.
    pub(super) async fn place(self: &Arc<Self>) -> Place {
        let room = match Arc::clone(&self.room).try_acquire_owned() {
            Ok(room) => room,
            Err(_) => self.make_room().await,
        };
        let place =
            Place { connections: Arc::clone(self), end: self.stop.child_token(), state: Mutex::default(), _room: room };
        // From now on, and not when its task begins: until then a crowd of them would look like none.
        place.waits();
        place
    }

    async fn make_room(&self) -> OwnedSemaphorePermit {
        tracing::warn!("{} connections at once, the most that there may be: further calls wait", self.most);
        loop {
            self.end_one();
            tokio::select! {
                Ok(room) = Arc::clone(&self.room).acquire_owned() => return room,
                () = sleep(LOOK) => {}
            }
        }
    }

    /// Ends one that has been quiet for a while, if there is one.
    pub(super) fn end_one(&self) {
        let mut quiet = self.quiet();
        let Quiet { new, used, .. } = &mut *quiet;
        let kind = if new.len() > used.len() { new } else { used };
        if let Some(eldest) = kind.first_entry()
            && eldest.get().since.elapsed() >= A_WHILE
        {
            eldest.remove().end.cancel();
        }
    }
}

/// One connection's place among them.
pub(super) struct Place {
    connections: Arc<Connections>,
    end: CancellationToken,
    state: Mutex<State>,
    _room: OwnedSemaphorePermit,
}

#[derive(Default)]
struct State {
    /// Its number among the quiet ones; none while a request is being answered.
    number: Option<u64>,
    has_asked: bool,
}

impl Place {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It waits for a request, or for the rest of one; from now on.
    pub(super) fn waits(&self) {
        let (mut state, mut quiet) = (self.state(), self.connections.quiet());
        quiet.forget(state.number);
        quiet.last += 1;
        let number = quiet.last;
        let kind = if state.has_asked { &mut quiet.used } else { &mut quiet.new };
        kind.insert(number, Since { since: Instant::now(), end: self.end.clone() });
        state.number = Some(number);
    }

    /// A request is being answered.
    pub(super) fn busy(&self) {
        let mut state = self.state();
        self.connections.quiet().forget(state.number.take());
        state.has_asked = true;
    }

    /// Cancelled when it has to go.
    pub(super) fn end(&self) -> CancellationToken {
        self.end.clone()
    }

    /// Until no request was being answered for this long.
    pub(super) async fn is_quiet_for(&self, span: Duration) {
        loop {
            sleep(span).await;
            if self.state().number.is_some() {
                return;
            }
        }
    }
}

impl Quiet {
    fn forget(&mut self, number: Option<u64>) {
        if let Some(number) = number {
            self.new.remove(&number);
            self.used.remove(&number);
        }
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
