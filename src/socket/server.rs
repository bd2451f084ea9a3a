//! Connections: HTTP/1.1 on a unix socket, each request handled to its end whether or not the caller stays.

use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connections::{Connections, Place};
use super::docker::Reply;
use super::line::Line;
use super::{control, docker};
use crate::eni::Lease;
use crate::error::Error;
use crate::fault::{panic_at, point};
use crate::ipam::Ipam;
use crate::plain::plain;

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
/// What runs when the driver is told to stop may go on for so long; dockerd kills it after 10 s.
pub const DRAIN: Duration = Duration::from_secs(8);
/// Whatever waits says so this long before it would be cut off.
const DRAIN_REQUESTS: Duration = Duration::from_secs(7);
/// So long after its end half a request, or an answer that nobody reads, is not waited for any more.
const LINGER: Duration = Duration::from_millis(100);

/// Binds the socket, mode 0600. A socket that nobody listens on any more is replaced, and nothing else that is there.
pub fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => bail!("another driver listens on {}; stop it first", path.display()),
        Err(why) => match std::fs::symlink_metadata(path) {
            // Refused: a socket of those that connect, whose listener is gone.
            Ok(there) if there.file_type().is_socket() && why.kind() == ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).with_context(|| format!("cannot replace {}", path.display()))?;
            }
            Ok(_) => bail!(
                "{} is there, and is no socket of a driver that ended: remove it, or set EC2_IPAM_LISTEN to another path",
                path.display()
            ),
            Err(_) => {}
        },
    }
    let listener = UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("cannot protect {}", path.display()))?;
    Ok(listener)
}

/// Serves until told to stop, then lets what runs finish.
pub async fn serve(listener: UnixListener, ipam: Arc<Ipam>, tasks: TaskTracker, stop: CancellationToken) {
    let connections = Connections::new(stop.clone());
    let mut is_failing = false;
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                is_failing = false;
                let place = tokio::select! {
                    () = stop.cancelled() => return,
                    place = connections.place() => place,
                };
                let caller = Caller {
                    ipam: Arc::clone(&ipam),
                    tasks: tasks.clone(),
                    stop: stop.clone(),
                    place,
                    unread: Mutex::default(),
                };
                tasks.spawn(caller.serve(stream));
            }
            // Out of file descriptors, most likely: one comes back with each connection that goes.
            Err(why) => {
                if !std::mem::replace(&mut is_failing, true) {
                    tracing::error!("cannot accept a connection: {why}");
                }
                connections.end_one();
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// One connection.
struct Caller {
    ipam: Arc<Ipam>,
    tasks: TaskTracker,
    stop: CancellationToken,
    place: Place,
    /// The lease of the last answer, until it is known to be read. As this is dropped it is taken back.
    unread: Mutex<Option<Lease>>,
}

impl Caller {
    async fn serve(self, stream: UnixStream) {
        let left = Arc::new(AtomicBool::new(false));
        let end = self.place.end();
        let line = Line { stream, left: Arc::clone(&left), end: end.clone() };
        let service = service_fn(|request| self.answer(request));
        // No time-out between requests: the Engine keeps idle connections and would repeat a call that met a closing one
        // without its body. Half-closed ones are answered: at its end a connection is one.
        let connection = hyper::server::conn::http1::Builder::new()
            .half_close(true)
            .max_buf_size(BUFFER_LIMIT)
            .serve_connection(TokioIo::new(line), service);
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
        if !left.load(Ordering::Relaxed) {
            self.was_read();
        }
    }

    fn unread(&self) -> MutexGuard<'_, Option<Lease>> {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last answer reached its caller.
    fn was_read(&self) {
        if let Some(lease) = self.unread().take() {
            lease.keep();
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
        self.place.waits();
        // A further request on the connection: the answer before was read.
        self.was_read();
        let path = request.uri().path().to_owned();
        let until = Instant::now() + self.patience(&path);
        let outcome = tokio::select! {
            outcome = self.outcome(request, path, until) => outcome,
            () = async { self.stop.cancelled().await; sleep(DRAIN_REQUESTS).await } => Err((StatusCode::INTERNAL_SERVER_ERROR, Error::Stopping)),
        };
        let response = match outcome {
            Ok(reply) => {
                let grants = reply.lease.is_some();
                *self.unread() = reply.lease;
                if grants {
                    point("request:unanswered").await;
                }
                response(StatusCode::OK, &reply.json)
            }
            Err((status, why)) => {
                let why = shortened(plain(&why.to_string()).into_owned());
                tracing::warn!("refused: {why}");
                response(status, &json!({ "Err": why, "Error": why }))
            }
        };
        self.place.waits();
        Ok(response)
    }

    fn patience(&self, path: &str) -> Duration {
        if path.starts_with(control::PREFIX) { control::PATIENCE } else { self.ipam.settings.request_timeout }
    }

    async fn outcome(
        &self,
        request: Request<Incoming>,
        path: String,
        until: Instant,
    ) -> Result<Reply, (StatusCode, Error)> {
        let internal = |why| (StatusCode::INTERNAL_SERVER_ERROR, why);
        if request.method() != Method::POST && !(request.method() == Method::GET && path.starts_with(control::PREFIX)) {
            let why = Error::Asked(format!(
                "{} {path:?} is not a call of this driver: calls are made by POST",
                request.method()
            ));
            return Err((StatusCode::METHOD_NOT_ALLOWED, why));
        }
        let in_time = self.ipam.outside.at_most_a_request(until);
        let body = timeout_at(in_time, Limited::new(request.into_body(), BODY_LIMIT).collect()).await;
        let body = match body {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(_)) => {
                return Err((
                    StatusCode::PAYLOAD_TOO_LARGE,
                    Error::Asked("the request is larger than 64 KiB, or was cut off".into()),
                ));
            }
            Err(_) => {
                return Err((StatusCode::REQUEST_TIMEOUT, Error::Asked("the request did not arrive whole".into())));
            }
        };
        self.place.busy();

        if let Some(why) = self.ipam.settings.wrong.as_ref().filter(|_| !ALWAYS.contains(&path.as_str())) {
            return Err(internal(Error::Asked(why.clone())));
        }

        let patience = self.patience(&path);
        // Detached: a handler finishes though the caller hangs up. What it granted is then taken back as the reply is dropped
        // (I9).
        let (answer, reply) = oneshot::channel();
        let ipam = Arc::clone(&self.ipam);
        // Not supervised: a panic is this caller's refusal, and nobody else's.
        self.tasks.spawn(async move {
            panic_at("a request");
            let outcome = match docker::call(&ipam, &path, &body, until).await {
                Some(outcome) => outcome.map_err(|why| (StatusCode::INTERNAL_SERVER_ERROR, why)),
                None => control::call(&ipam, &path, &body, until).await,
            };
            let _ = answer.send(outcome);
        });
        tokio::select! {
            outcome = reply => outcome.unwrap_or_else(|_| Err(internal(Error::Missing("the driver failed at this request; see its log".into())))),
            () = sleep_until(until) => {
                Err(internal(Error::Late { waited: patience, why: self.ipam.outside.what_is_missing() }))
            }
        }
    }
}

/// A sentence that a terminal and a log can take.
fn shortened(mut why: String) -> String {
    if let Some((end, _)) = why.char_indices().nth(LONGEST) {
        why.truncate(end);
        why.push('…');
    }
    why
}

fn response(status: StatusCode, json: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(json.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert(
        hyper::header::CONTENT_TYPE,
        hyper::header::HeaderValue::from_static("application/vnd.docker.plugins.v1.2+json"),
    );
    response
}
