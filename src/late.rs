//! Something outside that may not answer yet: reached in the background, waited for within a deadline, and asked again for as
//! long as that may help.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backoff::Backoff;
use crate::error::Error;
use crate::supervise::supervised;

/// A thing that is there, or the reason why it is not yet.
#[derive(Debug, Clone)]
pub struct Late<T> {
    state: watch::Receiver<Result<T, Error>>,
}

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
                let mut backoff = Backoff::default();
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
                    sleep(backoff.fails()).await;
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
    ///
    /// # Errors
    /// The last attempt's reason.
    pub fn now(&self) -> Result<T, Error> {
        self.state.borrow().clone()
    }
}

/// A request stops waiting so long before its deadline, to look for a last resort and to say what was missing.
pub const LAST_WORD: Duration = Duration::from_millis(1500);

/// When something that a request waits for is to be given up, with the time left to say so: at most so long before its
/// deadline, or half of what is left.
pub fn in_time(until: Instant) -> Instant {
    let left = until.saturating_duration_since(Instant::now());
    until - LAST_WORD.min(left / 2)
}

/// Tries until it succeeds, until only a person can help, or until the request has just the time left to say what was
/// missing.
///
/// # Errors
/// The last attempt's.
pub async fn persist<T, F>(until: Instant, attempt: impl Fn() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let end = until - LAST_WORD;
    let mut backoff = Backoff::default();
    loop {
        let why = match attempt().await {
            Ok(done) => return Ok(done),
            Err(why) => why,
        };
        let now = Instant::now();
        if !why.may_pass() || now >= end {
            return Err(why);
        }
        tracing::debug!("it is tried again, since it may pass: {why}");
        sleep_until((now + backoff.fails()).min(end)).await;
    }
}
