//! One connection: HTTP/1.1, each request handled to its end whether or not the caller stays.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::connections::Place;
use super::docker::Call;
use super::reply::{Refusal, Reply};
use super::span::RequestSpan;
use super::stream::CallerStream;
use super::unread::Unread;
use super::{control, docker, scrapes};
use crate::domain::peer::Peer;
use crate::driver::ipam::Ipam;
use crate::error::Error;
use crate::fail_point::{panic_at, point};
use crate::plain::{plain, shortened};

/// The Engine's requests have a few hundred bytes.
const BODY_LIMIT: usize = 64 * 1024;
/// A head, and what was read of the body with it.
const BUFFER_LIMIT: usize = 64 * 1024;
/// Answered with wrong settings too. Without the first three the Engine would not take the driver, and nobody would see what
/// is wrong with them.
const ALWAYS: [&str; 5] = [
    "/Plugin.Activate",
    "/IpamDriver.GetCapabilities",
    "/IpamDriver.GetDefaultAddressSpaces",
    "/v1/status",
    "/v1/doctor",
];
/// Characters of a refusal: what it quotes may be as long as a body.
const LONGEST: usize = 1000;
/// Characters of a body in the log.
const LONGEST_BODY: usize = 2000;
/// Whatever waits when the driver is told to stop says so this long before it would be cut off.
const DRAIN_REQUESTS: Duration = Duration::from_secs(7);
/// So long after its end half a request, or an answer that nobody reads, is not waited for any more.
const LINGER: Duration = Duration::from_millis(100);

/// One connection.
pub(super) struct Caller {
    ipam: Arc<Ipam>,
    tasks: TaskTracker,
    stop: CancellationToken,
    place: Place,
    peer: Arc<Peer>,
    unread: Arc<Unread>,
}

impl Caller {
    pub(super) fn new(ipam: Arc<Ipam>, tasks: TaskTracker, stop: CancellationToken, place: Place, peer: Peer) -> Self {
        let unread = Arc::new(Unread::of(&peer));
        Self { ipam, tasks, stop, place, peer: Arc::new(peer), unread }
    }

    /// Its stream as it comes.
    pub(super) fn hears<S>(&self, stream: S) -> CallerStream<S> {
        CallerStream { stream, unread: Arc::clone(&self.unread), end: self.place.end() }
    }

    /// So its certificate says.
    pub(super) fn is_called(&mut self, names: Option<Vec<String>>) {
        if let Peer::Remote { address, is_here, .. } = *self.peer {
            self.peer = Arc::new(Peer::Remote { address, is_here, names });
        }
    }

    /// Serves the stream, or what TLS makes of it.
    pub(super) async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let end = self.place.end();
        let service = service_fn(|request| self.answer(request));
        // No time-out between requests: the Engine keeps idle connections and would repeat a call that met a closing one
        // without its body. Half-closed ones are answered: at its end a connection is one.
        let connection = hyper::server::conn::http1::Builder::new()
            .half_close(true)
            .max_buf_size(BUFFER_LIMIT)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        // What was sent before its end is answered, if it is whole.
        let outcome = tokio::select! {
            biased;
            outcome = &mut connection => outcome,
            () = end.cancelled() => tokio::select! {
                biased;
                outcome = &mut connection => outcome,
                () = self.place.is_quiet_for(LINGER) => Ok(()),
            },
        };
        if let Err(why) = outcome {
            tracing::debug!("a connection ended: {why}");
        }
        self.unread.ended();
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        self.place.waits();
        // A further request on the connection: the answer before was read.
        self.unread.was_read();
        if !self.peer.is_remote()
            && let Some(scrape) = scrapes::answer(&self.ipam, &request).await
        {
            self.place.waits();
            return Ok(scrape);
        }
        let path = request.uri().path().to_owned();
        let request_span = RequestSpan::begin(&path, &self.peer);
        let span = request_span.span();
        let response = self.respond(request, &path, request_span).instrument(span).await;
        self.place.waits();
        Ok(response)
    }

    async fn respond(&self, request: Request<Incoming>, path: &str, span: RequestSpan) -> Response<Full<Bytes>> {
        let (begun, counts) = (Instant::now(), &self.ipam.outside.counts);
        let outcome = tokio::select! {
            outcome = self.outcome(request, path) => outcome,
            () = async { self.stop.cancelled().await; sleep(DRAIN_REQUESTS).await } => Err(Error::Stopping.into()),
        };
        let (status, json) = match outcome {
            Ok(reply) => {
                span.answered(&reply);
                if let Some(lease) = &reply.lease {
                    counts.granted(lease.how, begun.elapsed());
                }
                let grants = reply.lease.is_some();
                self.unread.answered(reply.lease);
                if grants {
                    point("request:unanswered").await;
                }
                (StatusCode::OK, reply.json)
            }
            Err(Refusal { status, why }) => {
                if let Some(call) = docker::refused_call(path) {
                    counts.refused(call, why.reason());
                }
                let why = plain(&why.to_string()).into_owned();
                let why = shortened(&why, LONGEST);
                span.refused(&why);
                (status, json!({ "Err": why, "Error": why }))
            }
        };
        let body = json.to_string();
        if !is_own(path) {
            tracing::debug!("the answer is {}", shown(body.as_bytes()));
        }
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        let kind = HeaderValue::from_static("application/vnd.docker.plugins.v1.2+json");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    }

    async fn outcome(&self, request: Request<Incoming>, path: &str) -> Result<Reply, Refusal> {
        if is_own(path) && self.peer.is_remote() {
            let why =
                format!("{path:?} is not answered over TCP: the command line's calls are for the driver's own socket");
            return Err(Refusal::asked(StatusCode::NOT_FOUND, why));
        }
        let patience = if is_own(path) { control::PATIENCE } else { self.ipam.settings.request_timeout };
        let until = Instant::now() + patience;
        let method = request.method();
        if method != Method::POST && !(method == Method::GET && is_own(path)) {
            let why = format!("{method} {path:?} is not a call of this driver: calls are made by POST");
            return Err(Refusal::asked(StatusCode::METHOD_NOT_ALLOWED, why));
        }
        let in_time = self.ipam.outside.at_most_a_request(until);
        let body = match timeout_at(in_time, Limited::new(request.into_body(), BODY_LIMIT).collect()).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(_)) => {
                let why = "the request is larger than 64 KiB, or was cut off";
                return Err(Refusal::asked(StatusCode::PAYLOAD_TOO_LARGE, why));
            }
            Err(_) => return Err(Refusal::asked(StatusCode::REQUEST_TIMEOUT, "the request did not arrive whole")),
        };
        self.place.busy();
        if !is_own(path) {
            tracing::debug!("Docker sends {}", shown(&body));
        }
        if let Some(why) = self.ipam.settings.wrong.as_ref().filter(|_| !ALWAYS.contains(&path)) {
            return Err(Error::Asked(why.clone()).into());
        }

        // Detached: a handler finishes though the caller hangs up. What it granted is then taken back as the reply is dropped
        // (I9).
        let (answer, reply) = oneshot::channel();
        let (ipam, peer, path) = (Arc::clone(&self.ipam), Arc::clone(&self.peer), path.to_owned());
        let work = async move {
            panic_at("a request");
            let call = Call { peer: &peer, path: &path, body: &body, until };
            let outcome = match docker::call(&ipam, call).await {
                Some(outcome) => outcome.map_err(Refusal::from),
                None => control::call(&ipam, &path, &body, until).await,
            };
            let _ = answer.send(outcome);
        };
        // Not supervised: a panic is this caller's refusal, and nobody else's.
        self.tasks.spawn(work.in_current_span());
        tokio::select! {
            outcome = reply => {
                outcome.unwrap_or_else(|_| Err(Error::Missing("the driver failed at this request; see its log".into()).into()))
            }
            () = sleep_until(until) => Err(Error::Late { waited: patience, why: self.ipam.outside.what_is_missing() }.into()),
        }
    }
}

/// Whether it is one of the command line's calls.
fn is_own(path: &str) -> bool {
    path.starts_with(control::PREFIX)
}

fn shown(body: &[u8]) -> String {
    match body.trim_ascii() {
        [] => "no body".to_owned(),
        body => shortened(&String::from_utf8_lossy(body), LONGEST_BODY).into_owned(),
    }
}
