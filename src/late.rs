//! Something outside that may not answer yet: reached in the background, waited for within a deadline.

use std::fmt::Display;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::error::Error;
use crate::supervise::supervised;

/// A thing that is there, or the reason why it is not yet.
#[derive(Debug, Clone)]
pub struct Late<T> {
    state: watch::Receiver<Result<T, Error>>,
}

/// Back-off between attempts: doubles from the first to the last, with full jitter so that a fleet does not come back as one.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LAST_PAUSE: Duration = Duration::from_secs(5);

impl<T: Clone + Send + Sync + 'static> Late<T> {
    /// Tries until it succeeds or the driver stops.
    pub fn reach<E, F>(
        what: &'static str,
        tasks: &TaskTracker,
        stop: CancellationToken,
        attempt: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self
    where
        E: Into<Error> + Send,
        F: Future<Output = Result<T, E>> + Send,
    {
        let (sender, state) = watch::channel(Err(Error::Missing(format!("{what} has not answered yet"))));
        let reaching = async move {
            let trying = async {
                let mut failures = 0;
                loop {
                    match attempt().await {
                        Ok(thing) => {
                            let _ = sender.send_replace(Ok(thing));
                            return;
                        }
                        Err(why) => {
                            let why: Error = why.into();
                            if sender.send_replace(Err(why.clone())).err().as_ref() != Some(&why) {
                                tracing::warn!("{why}");
                            }
                        }
                    }
                    sleep(pause(failures)).await;
                    failures += 1;
                }
            };
            stop.run_until_cancelled(trying).await;
        };
        tasks.spawn(supervised(what, reaching));
        Self { state }
    }

    /// A thing that will not come, and why.
    pub fn never(why: String) -> Self {
        Self { state: watch::channel(Err(Error::Missing(why))).1 }
    }

    /// The thing, waited for until then.
    ///
    /// # Errors
    /// The last attempt's reason: at once if only a person can change that, though it is tried again all the same.
    pub async fn get(&self, until: Instant) -> Result<T, Error> {
        let mut state = self.state.clone();
        let is_settled = |state: &Result<T, Error>| state.as_ref().map_or_else(|why| !why.may_pass(), |_| true);
        let _ = timeout_at(until, state.wait_for(is_settled)).await;
        self.state.borrow().clone()
    }

    /// The thing if it is there now, else why not.
    pub fn now(&self) -> Result<T, String> {
        self.state.borrow().clone().map_err(|why| why.to_string())
    }
}

/// Tells once that something outside has stopped to answer, and once that it answers again.
#[derive(Debug, Default)]
pub struct Away(Mutex<Option<Instant>>);

impl Away {
    /// What came of asking it: why it does not answer, if it does not.
    pub fn note(&self, what: &str, why: Option<impl Display>) {
        let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match (*since, why) {
            (None, Some(why)) => {
                *since = Some(Instant::now());
                tracing::warn!("{why}");
            }
            (Some(then), None) => {
                *since = None;
                tracing::info!("{what} answers again, after {} s", then.elapsed().as_secs());
            }
            (None, None) | (Some(_), Some(_)) => {}
        }
    }
}

/// How long to wait after so many failures in a row: full jitter over a doubling span.
pub fn pause(failures: u32) -> Duration {
    let span = FIRST_PAUSE.saturating_mul(1 << failures.min(10)).min(LAST_PAUSE);
    span.mul_f64(fastrand::f64()).max(FIRST_PAUSE / 4)
}
