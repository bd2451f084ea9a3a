//! A small HTTP/1 server on a listener that the caller has made, maybe in another network namespace.

use std::future::Future;
use std::io;
use std::net::SocketAddr;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::HeaderMap;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::task::{JoinHandle, JoinSet};

/// A request, read to its end.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Asked {
    /// A header's text, empty if it is absent.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// What becomes of it.
#[derive(Debug)]
pub(crate) enum Reply {
    /// An answer: status, further header, body.
    Answer(u16, Vec<(&'static str, String)>, String),
    /// The connection is closed without one.
    HangUp,
}

/// A running server. Dropping it closes the listener and its connections; calls under way still take effect.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Server {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves on the current runtime. Each request is answered in a task of its own: a client that hangs up does not
/// undo what it has asked for.
pub(crate) fn serve<F, A>(listener: std::net::TcpListener, answer: F) -> Server
where
    F: Fn(Asked) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Reply> + Send + 'static,
{
    listener.set_nonblocking(true).expect("a listener can be non-blocking");
    let address = listener.local_addr().expect("a listener has an address");
    let listener = tokio::net::TcpListener::from_std(listener).expect("within a tokio runtime");
    let task = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                break;
            };
            while connections.try_join_next().is_some() {}
            let answer = answer.clone();
            connections.spawn(async move {
                let service = service_fn(move |request| exchange(request, answer.clone()));
                // Ends with an error for every deliberate hang-up.
                let _ =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    Server { address, task }
}

async fn exchange<F, A>(request: Request<Incoming>, answer: F) -> io::Result<Response<Full<Bytes>>>
where
    F: Fn(Asked) -> A,
    A: Future<Output = Reply> + Send + 'static,
{
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let path = parts.uri.path().to_owned();
    let asked = Asked { method: parts.method, path, headers: parts.headers, body };
    match tokio::spawn(answer(asked)).await.map_err(io::Error::other)? {
        Reply::HangUp => Err(io::Error::other("hung up on purpose")),
        Reply::Answer(status, headers, body) => {
            let mut response = Response::builder().status(status);
            for (name, value) in headers {
                response = response.header(name, value);
            }
            response.body(Full::new(Bytes::from(body))).map_err(io::Error::other)
        }
    }
}
