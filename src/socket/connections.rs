//! A bound on the number of connections: on the driver's own socket, over TCP, and of each peer over TCP.
//!
//! While there is room none is closed, however slow it is: the Engine keeps idle connections, and repeats a call that met a
//! closing one without its body. When there is none, newcomers wait in the listen backlog (`net.core.somaxconn`, 4096 of
//! them), and one that has been quiet for a while goes for one that has come: the eldest of those that never asked anything,
//! or of those that did, whichever are more. So neither kind keeps out, or drives out, the other. A request is asked once it
//! is whole, so half of one is as quiet as none; one that is being answered never goes.
//!
//! Of one peer over TCP no more than so many are served at once. Its further ones wait, and count among all. Where there is no
//! room none but these go: a peer with thousands costs nobody else one.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// Long enough to send a request after connecting, even where hundreds of containers stop at once; and so long a flood of
/// connections that say nothing keeps out the next ones, for each so many of them as there may be.
const A_WHILE: Duration = Duration::from_secs(2);
/// How often it is looked for one that has been quiet for that long.
const LOOK: Duration = Duration::from_millis(100);

/// All connections of a kind.
pub(super) struct Connections {
    /// As the log calls them.
    kind: String,
    most: usize,
    room: Arc<Semaphore>,
    /// Of those that wait for room the first, which makes it.
    turn: tokio::sync::Mutex<()>,
    quiet: Mutex<Quiet>,
    /// The end of all.
    stop: CancellationToken,
}

/// The quiet ones, eldest first.
#[derive(Default)]
struct Quiet {
    last: u64,
    /// They wait for others of their peer to go.
    over: BTreeMap<u64, Since>,
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
    pub(super) fn new(kind: String, most: usize, stop: CancellationToken) -> Arc<Self> {
        let room = Arc::new(Semaphore::new(most));
        Arc::new(Self { kind, most, room, turn: tokio::sync::Mutex::default(), quiet: Mutex::default(), stop })
    }

    fn quiet(&self) -> MutexGuard<'_, Quiet> {
        // Nothing in a critical section of this lock can panic half-way through a change.
        self.quiet.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one that has come, made if need be.
    pub(super) async fn place(self: &Arc<Self>) -> Place {
        let end = self.stop.child_token();
        let seat = self.seat(&end).await;
        Place { end, seats: vec![seat] }
    }

    async fn seat(self: &Arc<Self>, end: &CancellationToken) -> Seat {
        match self.free_seat(end) {
            Some(seat) => seat,
            None => self.seat_in(self.make_room().await, end),
        }
    }

    fn free_seat(self: &Arc<Self>, end: &CancellationToken) -> Option<Seat> {
        let room = Arc::clone(&self.room).try_acquire_owned().ok()?;
        Some(self.seat_in(room, end))
    }

    fn seat_in(self: &Arc<Self>, room: OwnedSemaphorePermit, end: &CancellationToken) -> Seat {
        let seat = Seat { connections: Arc::clone(self), end: end.clone(), state: Mutex::default(), _room: room };
        // From now on, and not when its task begins: until then a crowd of them would look like none.
        seat.waits();
        seat
    }

    async fn make_room(&self) -> OwnedSemaphorePermit {
        tracing::warn!("{} {} at once, the most that there may be: further calls wait", self.most, self.kind);
        // In the order in which they came, and one goes for one.
        let _turn = self.turn.lock().await;
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
        let Quiet { over, new, used, .. } = &mut *quiet;
        let kind = match (over.is_empty(), new.len() > used.len()) {
            (false, _) => over,
            (true, true) => new,
            (true, false) => used,
        };
        if let Some(eldest) = kind.first_entry()
            && eldest.get().since.elapsed() >= A_WHILE
        {
            eldest.remove().end.cancel();
        }
    }
}

/// One connection's place: among all, and among those of its peer.
pub(super) struct Place {
    end: CancellationToken,
    seats: Vec<Seat>,
}

impl Place {
    /// A place among those of its peer too, once there is one.
    pub(super) async fn join(&mut self, peer: &Arc<Connections>) {
        let seat = match peer.free_seat(&self.end) {
            Some(seat) => seat,
            None => {
                self.seats.iter().for_each(|seat| seat.is_now(Kind::Over));
                let seat = peer.seat(&self.end).await;
                self.seats.iter().for_each(|seat| seat.is_now(Kind::New));
                seat
            }
        };
        self.seats.push(seat);
    }

    /// It waits for a request, or for the rest of one; from now on.
    pub(super) fn waits(&self) {
        self.seats.iter().for_each(Seat::waits);
    }

    /// A request is being answered.
    pub(super) fn busy(&self) {
        self.seats.iter().for_each(Seat::busy);
    }

    /// Cancelled when it has to go.
    pub(super) fn end(&self) -> CancellationToken {
        self.end.clone()
    }

    /// Until no request was being answered for this long.
    pub(super) async fn is_quiet_for(&self, span: Duration) {
        loop {
            sleep(span).await;
            if self.seats.iter().all(Seat::is_quiet) {
                return;
            }
        }
    }
}

/// A place among connections of one kind.
struct Seat {
    connections: Arc<Connections>,
    end: CancellationToken,
    state: Mutex<State>,
    _room: OwnedSemaphorePermit,
}

#[derive(Default)]
struct State {
    /// Its number among the quiet ones; none while a request is being answered.
    number: Option<u64>,
    kind: Kind,
}

#[derive(Clone, Copy, Default)]
enum Kind {
    Over,
    #[default]
    New,
    Used,
}

impl Seat {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waits(&self) {
        let (mut state, mut quiet) = (self.state(), self.connections.quiet());
        quiet.forget(state.number);
        quiet.last += 1;
        let number = quiet.last;
        let kind = match state.kind {
            Kind::Over => &mut quiet.over,
            Kind::New => &mut quiet.new,
            Kind::Used => &mut quiet.used,
        };
        kind.insert(number, Since { since: Instant::now(), end: self.end.clone() });
        state.number = Some(number);
    }

    fn busy(&self) {
        let mut state = self.state();
        self.connections.quiet().forget(state.number.take());
        state.kind = Kind::Used;
    }

    fn is_now(&self, kind: Kind) {
        self.state().kind = kind;
        self.waits();
    }

    fn is_quiet(&self) -> bool {
        self.state().number.is_some()
    }
}

impl Quiet {
    fn forget(&mut self, number: Option<u64>) {
        if let Some(number) = number {
            self.over.remove(&number);
            self.new.remove(&number);
            self.used.remove(&number);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.busy();
    }
}

/// The connections of each peer over TCP.
pub(super) struct Peers {
    most: usize,
    peers: Mutex<HashMap<IpAddr, Weak<Connections>>>,
    stop: CancellationToken,
}

impl Peers {
    /// So many of each.
    pub(super) fn new(most: usize, stop: CancellationToken) -> Self {
        Self { most, peers: Mutex::default(), stop }
    }

    /// Those of this one.
    pub(super) fn of(&self, peer: IpAddr) -> Arc<Connections> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(there) = peers.get(&peer).and_then(Weak::upgrade) {
            return there;
        }
        // No more than there are connections, and looked through only where a peer's first one comes.
        peers.retain(|_, connections| connections.strong_count() > 0);
        let new = Connections::new(format!("connections from {peer}"), self.most, self.stop.clone());
        peers.insert(peer, Arc::downgrade(&new));
        new
    }
}
