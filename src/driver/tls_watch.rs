//! What the TLS files are good for, as whoever reads them sees it: for `status`, `doctor` and the log.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use humantime::format_rfc3339_seconds;

/// Time to see that nobody renews it.
const SOON: Duration = Duration::from_secs(14 * 86_400);
const DAY: u64 = 86_400;

/// As of the last look; nothing where no address is of https.
#[derive(Default)]
pub struct TlsWatch(Mutex<(Option<TlsSeen>, Standing)>);

/// What a look has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSeen {
    /// The certificate in use, by its setting and its file.
    pub cert: String,
    /// When it ends, or one between it and its authority; none: that cannot be read.
    pub ends: Option<SystemTime>,
    /// Why what the files have now cannot be used.
    pub unusable: Option<String>,
    /// Why the key is no secret.
    pub exposed: Option<String>,
}

/// How a certificate stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Standing {
    /// It is good.
    #[default]
    Good,
    /// Not for long.
    EndsSoon,
    /// It is over.
    Ended,
}

impl TlsSeen {
    /// How the certificate stands now, in words, too.
    #[allow(clippy::disallowed_methods, reason = "the end of a certificate is a date")]
    pub fn standing(&self) -> (Standing, String) {
        self.standing_at(SystemTime::now())
    }

    fn standing_at(&self, now: SystemTime) -> (Standing, String) {
        let Some(ends) = self.ends else { return (Standing::Good, self.cert.clone()) };
        let at = format_rfc3339_seconds(ends);
        match ends.duration_since(now) {
            Err(_) => (
                Standing::Ended,
                format!("{}, which ended at {at}: no Engine that checks it comes any more", self.cert),
            ),
            Ok(left) => {
                let standing = if left < SOON { Standing::EndsSoon } else { Standing::Good };
                (standing, format!("{}, which ends in {} days, at {at}", self.cert, left.as_secs() / DAY))
            }
        }
    }
}

impl TlsWatch {
    /// What a look has shown. What is new and no good is told in the log; files that are of no use are told by who reads them.
    pub fn note(&self, seen: TlsSeen) {
        let (standing, said) = seen.standing();
        let mut known = self.lock();
        match (standing, known.1) {
            (Standing::EndsSoon, Standing::Good | Standing::Ended) => tracing::warn!("{said}"),
            (Standing::Ended, Standing::Good | Standing::EndsSoon) => tracing::error!("{said}"),
            (Standing::Good, _) | (Standing::EndsSoon, Standing::EndsSoon) | (Standing::Ended, Standing::Ended) => {}
        }
        let before = known.0.as_ref().and_then(|seen| seen.exposed.as_ref());
        if let Some(exposed) = seen.exposed.as_ref().filter(|exposed| before != Some(exposed)) {
            tracing::warn!("{exposed}");
        }
        *known = (Some(seen), standing);
    }

    /// As of the last look.
    pub fn seen(&self) -> Option<TlsSeen> {
        self.lock().0.clone()
    }

    /// What keeps clients away, or will at the next start.
    pub(crate) fn problems(&self) -> Vec<String> {
        let Some(seen) = self.seen() else { return Vec::new() };
        let ended = match seen.standing() {
            (Standing::Ended, said) => Some(said),
            (Standing::Good | Standing::EndsSoon, _) => None,
        };
        seen.unusable.into_iter().chain(ended).collect()
    }

    fn lock(&self) -> MutexGuard<'_, (Option<TlsSeen>, Standing)> {
        // Nothing in a critical section of this lock can panic half-way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_told_of_before_its_end_and_after_it() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_694_400);
        let seen = |ends| TlsSeen { cert: "X is \"c\"".into(), ends, unusable: None, exposed: None };
        let at = |ends| seen(Some(ends)).standing_at(now);
        assert_eq!(at(now + 30 * Duration::from_secs(DAY)).0, Standing::Good);
        let (standing, said) = at(now + 3 * Duration::from_secs(DAY));
        assert_eq!(
            (standing, said.as_str()),
            (Standing::EndsSoon, "X is \"c\", which ends in 3 days, at 2026-11-29T12:00:00Z")
        );
        let (standing, said) = at(now - Duration::from_secs(DAY));
        assert_eq!(standing, Standing::Ended);
        assert!(said.starts_with("X is \"c\", which ended at 2026-11-25T12:00:00Z: "), "{said}");
        assert_eq!(seen(None).standing_at(now), (Standing::Good, "X is \"c\"".into()));
    }
}
