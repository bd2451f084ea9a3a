//! Named places at which a test stops the driver, as a crash, a pause or a kill at that step would.
//!
//! Without the feature `fail-points`, which nothing shipped has, they are nothing. With it a thread's hook decides, or
//! the environment of the process: `EC2_IPAM_STOP_AT=refill:claimed` stops at that point for good, `refill:claimed#3` at
//! its third time, and the log says so. `EC2_IPAM_PANIC_AT=scan` has that work in the background panic as it begins.

#[cfg(not(feature = "fail-points"))]
#[allow(clippy::unused_async, reason = "with fail points it may wait for ever")]
pub(crate) async fn point(_name: &'static str) {}

#[cfg(not(feature = "fail-points"))]
pub(crate) fn panic_at(_what: &'static str) {}

/// The store is waited for, while it lives: a test whose clocks stand still does not move them meanwhile.
#[cfg(not(feature = "fail-points"))]
pub(crate) struct Underway;

#[cfg(not(feature = "fail-points"))]
impl Underway {
    pub(crate) fn here() -> Self {
        Self
    }
}

#[cfg(feature = "fail-points")]
pub(crate) use armed::{Underway, panic_at, point};
#[cfg(feature = "fail-points")]
pub use armed::{on_this_thread, settle_age, underway_on_this_thread};

#[cfg(feature = "fail-points")]
mod armed {
    use std::cell::RefCell;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, OnceLock};
    use std::time::Duration;

    type Hook = Box<dyn FnMut(&'static str) -> bool>;

    thread_local! {
        static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
        static UNDERWAY: Arc<AtomicUsize> = Arc::default();
    }

    /// One of the calls that [`underway_on_this_thread`] counts.
    pub(crate) struct Underway(Arc<AtomicUsize>);

    impl Underway {
        pub(crate) fn here() -> Self {
            let count = underway_on_this_thread();
            count.fetch_add(1, Ordering::AcqRel);
            Self(count)
        }
    }

    impl Drop for Underway {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// How many calls to the store work on this thread waits for, to be looked at from others.
    pub fn underway_on_this_thread() -> Arc<AtomicUsize> {
        UNDERWAY.with(Arc::clone)
    }

    /// Asks `hook` at every point that work on this thread comes to: `true` stops that work there for good.
    pub fn on_this_thread(hook: impl FnMut(&'static str) -> bool + 'static) {
        HOOK.with(|slot| *slot.borrow_mut() = Some(Box::new(hook)));
    }

    /// How old a claim must be to be settled, if the environment says so (`EC2_IPAM_SETTLE_AGE=2s`): a test of a process
    /// need not wait for minutes.
    pub fn settle_age() -> Option<Duration> {
        static AGE: OnceLock<Option<Duration>> = OnceLock::new();
        *AGE.get_or_init(|| humantime::parse_duration(&std::env::var("EC2_IPAM_SETTLE_AGE").ok()?).ok())
    }

    pub(crate) async fn point(name: &'static str) {
        let stops = HOOK.with(|slot| slot.borrow_mut().as_mut().map(|hook| hook(name)));
        if stops.unwrap_or_else(|| is_told(name)) {
            // It stands alone, as tests look for it.
            tracing::error!(parent: None, "stopped at {name}");
            std::future::pending::<()>().await;
        }
    }

    #[allow(clippy::panic, reason = "it is what a test asks for")]
    pub(crate) fn panic_at(what: &'static str) {
        static TOLD: OnceLock<Option<String>> = OnceLock::new();
        if TOLD.get_or_init(|| std::env::var("EC2_IPAM_PANIC_AT").ok()).as_deref() == Some(what) {
            panic!("as told");
        }
    }

    fn is_told(name: &'static str) -> bool {
        static TOLD: OnceLock<Option<(String, AtomicUsize)>> = OnceLock::new();
        let told = TOLD.get_or_init(|| {
            let text = std::env::var("EC2_IPAM_STOP_AT").ok()?;
            let (name, times) = text.split_once('#').unwrap_or((&text, "1"));
            Some((name.to_owned(), AtomicUsize::new(times.parse().ok()?)))
        });
        let Some((_, left)) = told.as_ref().filter(|(told, _)| told == name) else { return false };
        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)) == Ok(1)
    }
}
