//! Threads whose clocks stand still until they are told the time.
//!
//! Sockets, files and the database work as ever; only timers wait. A blocking task that never ends keeps tokio from moving
//! a paused clock by itself.

use std::cell::Cell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant as Real};

use ec2_ipam::fail_point;
use futures_util::FutureExt;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// What others see of such a thread.
#[derive(Default)]
pub struct Pulse {
    parked: AtomicBool,
    wakes: AtomicU64,
    /// The time that it was last told, in microseconds.
    told: AtomicU64,
    /// Nothing runs there.
    pub gone: AtomicBool,
    /// It stands still in the midst of its work, as a process does after SIGSTOP.
    pub halted: AtomicBool,
    /// How often it has come to stand still.
    pub halts: AtomicU64,
    /// For how long it has stood still in all, in microseconds.
    stood: AtomicU64,
    /// The kernel's word on the thread, and the calls to the store that it waits for.
    thread: OnceLock<(File, Arc<AtomicUsize>)>,
}

impl Pulse {
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    pub fn is_halted(&self) -> bool {
        self.halted.load(Ordering::Acquire)
    }

    /// The calling thread is meant from now on.
    pub fn is_here(&self) {
        let stat = File::open("/proc/thread-self/stat").unwrap();
        assert!(self.thread.set((stat, fail_point::underway_on_this_thread())).is_ok());
    }

    /// Whether the kernel has it run, or has it wait for a processor: then it has something to do, though it may not have
    /// come to know of it.
    fn is_runnable(&self) -> bool {
        let Some((stat, _)) = self.thread.get() else { return false };
        let mut text = [0; 128];
        let n = stat.read_at(&mut text, 0).unwrap();
        let text = String::from_utf8_lossy(&text[..n]);
        text.rsplit_once(')').is_none_or(|(_, rest)| !rest.starts_with(" S"))
    }

    fn is_underway(&self) -> bool {
        self.thread.get().is_some_and(|(_, underway)| underway.load(Ordering::Acquire) > 0) && !self.is_halted()
    }

    fn rests(&self) -> bool {
        self.parked.load(Ordering::Acquire) || self.is_gone() || self.is_halted()
    }

    /// Whether it has taken note of this time, or cannot.
    pub fn has_been_told(&self, time: Duration) -> bool {
        u128::from(self.told.load(Ordering::Acquire)) >= time.as_micros() || self.is_gone() || self.is_halted()
    }

    /// It goes on, and it is this late by now.
    pub fn goes_on(&self, time: Duration) {
        let time = u64::try_from(time.as_micros()).unwrap();
        self.stood.fetch_add(time.saturating_sub(self.told.swap(time, Ordering::AcqRel)), Ordering::AcqRel);
    }

    /// For how long it has stood still in all.
    pub fn has_stood(&self) -> Duration {
        Duration::from_micros(self.stood.load(Ordering::Acquire))
    }

    pub fn note(&self, time: Duration) {
        self.told.store(u64::try_from(time.as_micros()).unwrap(), Ordering::Release);
    }

    /// A runtime that shows here when it has nothing to do.
    pub fn runtime(self: &Arc<Self>) -> Runtime {
        let (parks, wakes) = (Arc::clone(self), Arc::clone(self));
        Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .on_thread_park(move || parks.parked.store(true, Ordering::Release))
            .on_thread_unpark(move || {
                wakes.parked.store(false, Ordering::Release);
                wakes.wakes.fetch_add(1, Ordering::AcqRel);
            })
            .build()
            .unwrap()
    }
}

/// While it lives, the clock of the runtime that it was made in stands still.
pub struct Still(#[allow(dead_code, reason = "its end ends the blocking task")] std::sync::mpsc::Sender<()>);

impl Still {
    pub fn here() -> Self {
        let (sender, receiver) = std::sync::mpsc::channel();
        tokio::task::spawn_blocking(move || receiver.recv().is_err());
        Self(sender)
    }
}

/// The time of a sequence as one runtime's clock shows it.
#[derive(Clone, Copy)]
pub struct Clock {
    born: Instant,
    at: Duration,
}

impl Clock {
    /// Of the current runtime, where it is `at` now.
    pub fn here(at: Duration) -> Self {
        Self { born: Instant::now(), at }
    }

    /// Moves the runtime's clock on, never back.
    pub fn advance_to(&self, time: Duration) {
        let ahead = time.saturating_sub(self.at + self.born.elapsed());
        if !ahead.is_zero() {
            let _ = tokio::time::advance(ahead).now_or_never();
        }
    }
}

/// A database that runs beside other tests answers within so much real time, mostly.
const STORE: Duration = Duration::from_millis(20);

/// Waits until all of them have rested for so long in real time: what they asked of each other has been answered, and
/// only time can bring more.
pub fn quiet(pulses: &[&Pulse], window: Duration) {
    let look = || pulses.iter().map(|pulse| pulse.wakes.load(Ordering::Acquire)).collect::<Vec<_>>();
    let (start, mut seen, mut since) = (Real::now(), look(), Real::now());
    loop {
        std::thread::sleep(Duration::from_micros(20));
        let now = look();
        if now != seen || !pulses.iter().all(|pulse| pulse.rests()) {
            (seen, since) = (now, Real::now());
        } else if since.elapsed() >= window {
            // A call to the store may also wait for its next attempt, which only time can bring.
            let is_done = start.elapsed() >= STORE || !pulses.iter().any(|pulse| pulse.is_underway());
            if is_done && !pulses.iter().any(|pulse| pulse.is_runnable()) && look() == seen {
                return;
            }
        }
        if start.elapsed() > Duration::from_secs(60) {
            let states: Vec<_> = pulses
                .iter()
                .map(|p| (p.rests(), p.is_runnable(), p.is_underway(), p.wakes.load(Ordering::Acquire)))
                .collect();
            panic!("a host never comes to rest (parked, runnable, at the store, woken): {states:?}");
        }
    }
}

/// Waits in real time for what cannot fail to come.
pub fn soon(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Real::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(60), "never: {what}");
        std::thread::sleep(Duration::from_micros(20));
    }
}

/// The thread of the simulator and of the Docker sockets.
pub struct Stage {
    pub pulse: Arc<Pulse>,
    pub handle: Handle,
    times: mpsc::UnboundedSender<Duration>,
    /// Since it was made: its clock runs on from one sequence to the next.
    now: Cell<Duration>,
}

impl Stage {
    pub fn new() -> Self {
        let pulse = Arc::<Pulse>::default();
        let (times, mut told) = mpsc::unbounded_channel();
        let (sender, handle) = std::sync::mpsc::channel();
        let mine = Arc::clone(&pulse);
        std::thread::spawn(move || {
            mine.is_here();
            let runtime = mine.runtime();
            sender.send(runtime.handle().clone()).unwrap();
            runtime.block_on(async {
                let (_still, clock) = (Still::here(), Clock::here(Duration::ZERO));
                while let Some(time) = told.recv().await {
                    clock.advance_to(time);
                    mine.note(time);
                }
            });
            mine.gone.store(true, Ordering::Release);
        });
        Self { pulse, handle: handle.recv().unwrap(), times, now: Cell::default() }
    }

    /// So much time passes there.
    pub fn pass(&self, step: Duration) {
        let now = self.now.get() + step;
        self.now.set(now);
        self.times.send(now).unwrap();
        soon("the simulator knows the time", || self.pulse.has_been_told(now));
    }
}
