//! Something outside that may not answer yet: reached in the background, waited for within a deadline, asked again for as
//! long as that may help, and asked once for all who want the same.

use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex as AsyncMutex, watch};
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

/// An answer is given to whoever asks for the same within so long,
pub const KEPT: Duration = Duration::from_secs(1);
/// and a failure of the last seconds is what one is told whose time is up.
const LAST: Duration = Duration::from_secs(10);

/// A question to the outside that all who have it at the same time ask once. Clones are the same one.
#[derive(Debug)]
pub struct Shared<T, E>(Arc<Known<T, E>>);

#[derive(Debug)]
struct Known<T, E> {
    asking: AsyncMutex<()>,
    answer: Mutex<Option<(Instant, Result<T, E>)>>,
}

impl<T, E> Default for Shared<T, E> {
    fn default() -> Self {
        Self(Arc::new(Known { asking: AsyncMutex::default(), answer: Mutex::default() }))
    }
}

impl<T, E> Clone for Shared<T, E> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Clone + Send + 'static, E: Clone + Send + 'static> Shared<T, E> {
    /// The answer that came within the last second, else a new one; none if none comes until then. It is asked for to the
    /// end, though nobody may wait for it any more: others will.
    pub async fn get<F>(&self, until: Instant, ask: impl FnOnce() -> F + Send + 'static) -> Option<Result<T, E>>
    where
        F: Future<Output = Result<T, E>> + Send,
    {
        let known = self.clone();
        let asking = tokio::spawn(async move {
            let _one = known.0.asking.lock().await;
            if let Some(answer) = known.answer(KEPT) {
                return answer;
            }
            let answer = ask().await;
            *known.lock() = Some((Instant::now(), answer.clone()));
            answer
        });
        match timeout_at(until, asking).await {
            Ok(Ok(answer)) => Some(answer),
            _ => self.answer(LAST).filter(Result::is_err),
        }
    }

    fn answer(&self, within: Duration) -> Option<Result<T, E>> {
        self.lock().as_ref().filter(|(at, _)| at.elapsed() < within).map(|(_, answer)| answer.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Instant, Result<T, E>)>> {
        self.0.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
