//! The two clocks that a moment is told by.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

use crate::domain::holding::Moment;

/// The kernel's, which no container has of its own.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

pub(super) struct Clock {
    boot: Arc<str>,
}

impl Clock {
    pub(super) fn new() -> Self {
        // Without it no moment is of the same boot as another, and the wall clock tells.
        let boot = std::fs::read_to_string(BOOT).unwrap_or_else(|_| format!("unknown {:x}", fastrand::u64(..)));
        Self { boot: boot.trim().into() }
    }

    pub(super) fn now(&self) -> Moment {
        let since_boot = since_boot();
        let wall = wall();
        // As they are written.
        let whole = |time: Duration| Duration::new(time.as_secs(), time.subsec_millis() * 1_000_000);
        Moment { boot: Arc::clone(&self.boot), since_boot: whole(since_boot), wall: whole(wall) }
    }
}

/// Since 1970.
#[allow(clippy::disallowed_methods, reason = "across boots this host has no other clock")]
pub(super) fn wall() -> Duration {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    #[cfg(feature = "fail-points")]
    let wall = wall + ahead();
    wall
}

/// There is no machine without.
#[cfg(not(feature = "fail-points"))]
fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

/// A test's own time passes when the test says so.
#[cfg(feature = "fail-points")]
fn since_boot() -> Duration {
    use std::sync::OnceLock;

    use tokio::time::Instant;

    static FIRST: OnceLock<(Instant, Duration)> = OnceLock::new();
    let boot = || clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default();
    let (first, since_boot) = FIRST.get_or_init(|| (Instant::now(), boot()));
    *since_boot + first.elapsed() + ahead()
}

/// So many seconds further, as the file that EC2_IPAM_AHEAD names says.
#[cfg(feature = "fail-points")]
fn ahead() -> Duration {
    let told = std::env::var_os("EC2_IPAM_AHEAD").and_then(|file| std::fs::read_to_string(file).ok());
    Duration::from_secs(told.and_then(|seconds| seconds.parse().ok()).unwrap_or_default())
}
