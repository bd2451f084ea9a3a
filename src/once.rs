//! Something outside, asked once for all who want the same; that it is away, and that it is back, is told once.

use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Mutex as AsyncMutex;
use tokio::time::{Instant, timeout_at};

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
