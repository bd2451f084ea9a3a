//! Connections: HTTP/1.1 on a unix socket, each request handled to its end whether or not the caller stays.

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
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

use super::docker::Reply;
use super::{control, docker};
use crate::eni::Lease;
use crate::error::Error;
use crate::fault::point;
use crate::ipam::Ipam;

/// The Engine's requests have a few hundred bytes.
const BODY_LIMIT: usize = 64 * 1024;
/// What runs when the driver is told to stop may go on for so long; dockerd kills it after 10 s.
pub const DRAIN: Duration = Duration::from_secs(8);
/// Whatever waits says so this long before it would be cut off.
const DRAIN_REQUESTS: Duration = Duration::from_secs(7);

/// Binds the socket, mode 0600. A socket file that nobody listens on any more is replaced.
pub fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => bail!("another driver listens on {}; stop it first", path.display()),
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(_) => std::fs::remove_file(path).with_context(|| format!("cannot replace {}", path.display()))?,
    }
    let listener = UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("cannot protect {}", path.display()))?;
    Ok(listener)
}

/// Serves until told to stop, then lets what runs finish.
pub async fn serve(listener: UnixListener, ipam: Arc<Ipam>, tasks: TaskTracker, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let caller = Caller {
                    ipam: Arc::clone(&ipam),
                    tasks: tasks.clone(),
                    stop: stop.clone(),
                    unread: Arc::default(),
                };
                tasks.spawn(caller.serve(stream));
            }
            // Out of file descriptors, most likely: they come back as calls end.
            Err(why) => {
                tracing::error!("cannot accept a connection: {why}");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// One connection.
#[derive(Clone)]
struct Caller {
    ipam: Arc<Ipam>,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// The lease of the last answer, until it is known to be written.
    unread: Arc<Mutex<Option<Lease>>>,
}

impl Caller {
    async fn serve(self, stream: UnixStream) {
        let service = service_fn(|request| self.answer(request));
        // No time-out between requests: the Engine keeps idle connections and would repeat a call that met a closing one
        // without its body.
        let connection = hyper::server::conn::http1::Builder::new()
            .max_buf_size(BODY_LIMIT)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let outcome = tokio::select! {
            outcome = &mut connection => outcome,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(why) = outcome {
            tracing::debug!("a connection ended: {why}");
            let broken = std::error::Error::source(&why)
                .and_then(|source| source.downcast_ref::<std::io::Error>())
                .is_some_and(|e| e.kind() == ErrorKind::BrokenPipe);
            if let Some(lease) = self.written().filter(|_| broken) {
                lease.take_back().await;
            }
        }
    }

    fn written(&self) -> Option<Lease> {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
        // A further request on the connection: the answer before was written.
        self.written();
        let path = request.uri().path().to_owned();
        let until = Instant::now() + self.patience(&path);
        let outcome = tokio::select! {
            outcome = self.outcome(request, path, until) => outcome,
            () = async { self.stop.cancelled().await; sleep(DRAIN_REQUESTS).await } => Err((StatusCode::INTERNAL_SERVER_ERROR, Error::Stopping)),
        };
        Ok(match outcome {
            Ok(reply) => {
                let grants = reply.lease.is_some();
                *self.unread.lock().unwrap_or_else(PoisonError::into_inner) = reply.lease;
                if grants {
                    point("request:unanswered").await;
                }
                response(StatusCode::OK, &reply.json)
            }
            Err((status, why)) => {
                let why = why.to_string();
                tracing::warn!("refused: {why}");
                response(status, &json!({ "Err": why, "Error": why }))
            }
        })
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
                "{} {path} is not a call of this driver: calls are made by POST",
                request.method()
            ));
            return Err((StatusCode::METHOD_NOT_ALLOWED, why));
        }
        let body = timeout_at(until, Limited::new(request.into_body(), BODY_LIMIT).collect()).await;
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

        // Detached: a handler finishes when the caller hangs up, and then takes back what it granted (I9).
        let (answer, reply) = oneshot::channel();
        let ipam = Arc::clone(&self.ipam);
        self.tasks.spawn(async move {
            let outcome = match docker::call(&ipam, &path, &body, until).await {
                Some(outcome) => outcome.map_err(|why| (StatusCode::INTERNAL_SERVER_ERROR, why)),
                None => control::call(&ipam, &path, &body, until).await,
            };
            if let Err(Ok(Reply { lease: Some(lease), .. })) = answer.send(outcome) {
                lease.take_back().await;
            }
        });
        tokio::select! {
            outcome = reply => outcome.unwrap_or_else(|_| Err(internal(Error::Missing("the driver failed at this request; see its log".into())))),
            () = sleep_until(until) => {
                let waited = self.ipam.settings.request_timeout;
                Err(internal(Error::Late { waited, why: self.ipam.what_is_missing() }))
            }
        }
    }
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
