//! What goes wrong on purpose: scripted faults and token buckets.

use std::time::Duration;

use tokio::time::Instant;

use crate::errors::ApiError;
use crate::switches::Switches;

/// How a call goes wrong.
#[derive(Clone, Debug)]
pub enum FaultKind {
    /// Takes effect; the connection is closed without an answer.
    LoseReply,
    /// The connection is closed at once; the effect lands this much later.
    LandLate(Duration),
    /// No effect; the connection stays silent for this long and is then closed.
    Hang(Duration),
    /// `RequestLimitExceeded` (503).
    Throttle,
    /// `UnauthorizedOperation` (403).
    Deny,
    /// `InternalError` (500).
    InternalError,
    /// `Unavailable` (503).
    Unavailable,
    /// `AuthFailure` (401).
    BadCredentials,
    /// `RequestExpired` (400).
    Expired,
    /// Any other refusal.
    Error {
        /// HTTP status.
        status: u16,
        /// Code.
        code: &'static str,
        /// Text.
        message: &'static str,
    },
}

impl FaultKind {
    /// The refusal that this fault is, if it is one.
    pub(crate) fn refusal(&self, action: &str, switches: &Switches) -> Option<ApiError> {
        Some(match self {
            Self::LoseReply | Self::LandLate(_) | Self::Hang(_) => return None,
            Self::Throttle => ApiError::throttled(action, switches),
            Self::Deny => ApiError::unauthorized(action),
            Self::InternalError => ApiError::internal(),
            Self::Unavailable => ApiError::unavailable(),
            Self::BadCredentials => ApiError::auth_failure(),
            Self::Expired => ApiError::expired(),
            Self::Error { status, code, message } => ApiError::new(*status, *code, *message),
        })
    }
}

/// A fault in the queue, for the next matching call.
#[derive(Clone, Debug)]
pub struct Fault {
    action: &'static str,
    eni: Option<String>,
    kind: FaultKind,
    skip: u32,
    times: u32,
}

impl Fault {
    /// Once, for the next call of `action`.
    pub fn on(action: &'static str, kind: FaultKind) -> Self {
        Self { action, eni: None, kind, skip: 0, times: 1 }
    }

    /// For calls about this ENI only.
    pub fn eni(self, eni: &str) -> Self {
        Self { eni: Some(eni.to_owned()), ..self }
    }

    /// For so many calls; `u32::MAX` for all.
    pub fn times(self, times: u32) -> Self {
        Self { times, ..self }
    }

    /// Lets so many matching calls pass first.
    pub fn skip(self, skip: u32) -> Self {
        Self { skip, ..self }
    }

    fn matches(&self, action: &str, eni: Option<&str>) -> bool {
        self.action == action && (self.eni.is_none() || self.eni.as_deref() == eni)
    }
}

/// The fault for this call: the first in the queue that matches and skips it not. It is used up by this.
pub(crate) fn next_fault(queue: &mut Vec<Fault>, action: &str, eni: Option<&str>) -> Option<FaultKind> {
    let fault = queue.iter_mut().find(|fault| fault.matches(action, eni))?;
    if fault.skip > 0 {
        fault.skip -= 1;
        return None;
    }
    fault.times = fault.times.saturating_sub(u32::from(fault.times != u32::MAX));
    let kind = fault.kind.clone();
    queue.retain(|fault| fault.times > 0);
    Some(kind)
}

/// Which calls share a token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CallClass {
    /// Assign and Unassign.
    Mutating,
    /// Describe with ids, filters or pages.
    Describing,
    /// Describe without any of these. Without a bucket of its own it draws from that of `Describing`.
    Sweeping,
}

/// AWS's request throttling; one token a call.
#[derive(Clone, Copy, Debug)]
pub struct TokenBucket {
    capacity: f64,
    refill_per_second: f64,
    tokens: f64,
    filled: Instant,
}

impl TokenBucket {
    /// A full bucket.
    pub fn new(capacity: u32, refill_per_second: f64) -> Self {
        let capacity = f64::from(capacity);
        Self { capacity, refill_per_second, tokens: capacity, filled: Instant::now() }
    }

    /// Takes a token if there is one.
    pub(crate) fn take(&mut self) -> bool {
        let now = Instant::now();
        let gained = now.duration_since(self.filled).as_secs_f64() * self.refill_per_second;
        self.tokens = (self.tokens + gained).min(self.capacity);
        self.filled = now;
        let is_granted = self.tokens >= 1.0;
        if is_granted {
            self.tokens -= 1.0;
        }
        is_granted
    }
}
