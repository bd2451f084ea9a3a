//! A request's span: every line of its work says whose it is, and as it ends one line says what came of it.

use std::fmt::Display;
use std::time::Instant;

use tracing::Span;
use tracing::field::Empty;

use super::reply::Reply;
use crate::domain::peer::Peer;
use crate::plain::shortened;

/// Characters of a field: the caller may send anything.
const LONGEST: usize = 200;

pub(super) struct RequestSpan {
    span: Span,
    begun: Instant,
    has_ended: bool,
}

impl RequestSpan {
    pub(super) fn begin(path: &str, peer: &Peer) -> Self {
        let call = shortened(path.strip_prefix("/IpamDriver.").unwrap_or(path), LONGEST);
        let span = tracing::error_span!(
            "request",
            %call,
            peer = Empty,
            pool = Empty,
            endpoint = Empty,
            address = Empty,
            outcome = Empty,
            milliseconds = Empty
        );
        if peer.is_remote() {
            span.record("peer", tracing::field::display(peer));
        }
        Self { span, begun: Instant::now(), has_ended: false }
    }

    /// What the work is to be done in.
    pub(super) fn span(&self) -> Span {
        self.span.clone()
    }

    pub(super) fn answered(mut self, reply: &Reply) {
        self.end(if reply.lease.is_some() { "granted" } else { "answered" });
        self.span.in_scope(|| match (&reply.lease, &reply.done) {
            (Some(lease), _) => {
                tracing::info!(claim = lease.claim().map(tracing::field::display), "granted {}", lease.ip)
            }
            (None, Some(done)) => tracing::info!("{done}"),
            (None, None) => tracing::debug!("answered"),
        });
    }

    pub(super) fn refused(mut self, why: &str) {
        self.end("refused");
        self.span.in_scope(|| tracing::warn!("refused: {why}"));
    }

    fn end(&mut self, outcome: &str) {
        self.has_ended = true;
        self.span.record("outcome", outcome);
        self.span.record("milliseconds", u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX));
    }
}

impl Drop for RequestSpan {
    fn drop(&mut self) {
        if !self.has_ended {
            self.end("left");
            self.span.in_scope(|| tracing::debug!("the caller left before its answer"));
        }
    }
}

/// Tells what the request is about, for each line from now on. An empty text tells nothing.
pub(super) fn note(field: &'static str, value: &impl Display) {
    let value = value.to_string();
    if !value.is_empty() {
        Span::current().record(field, shortened(&value, LONGEST).as_ref());
    }
}
