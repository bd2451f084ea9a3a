//! Docker's API, read only, over the host's Docker socket.
//!
//! Never called while a call of Docker's to the driver is being answered: dockerd may hold the lock that its own API needs.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyperlocal::{UnixClientExt, UnixConnector, Uri};
use serde::Deserialize;
use serde::de::DeserializeOwned;

mod snapshot;

pub use snapshot::{Network, Snapshot};

/// Longest time for one read.
const READ: Duration = Duration::from_secs(5);
/// Largest answer taken, in bytes. A container is about 2 KiB in a listing, so this is far above any one host's.
const ANSWER: usize = 16 << 20;

/// Why Docker did not tell. Each sentence is fit for a user and says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// No such file.
    #[error("there is no Docker socket {}: set EC2_IPAM_DOCKER_SOCKET to where dockerd listens", at.display())]
    NoSocket {
        /// The socket.
        at: PathBuf,
    },
    /// The driver's user may not open it.
    #[error("the driver may not open the Docker socket {}: run it as root or in the group docker", at.display())]
    Denied {
        /// The socket.
        at: PathBuf,
    },
    /// Nothing listens, or it does not answer.
    #[error("Docker does not answer on {} ({why}): is dockerd running?", at.display())]
    Silent {
        /// The socket.
        at: PathBuf,
        /// What happened.
        why: String,
    },
    /// It answers with something else.
    #[error("Docker answers {path} on {} with {what}: is it Docker's socket?", at.display())]
    Odd {
        /// The socket.
        at: PathBuf,
        /// What was asked for.
        path: String,
        /// The answer.
        what: String,
    },
}

/// The Docker Engine of this host.
#[derive(Debug, Clone)]
pub struct Engine {
    socket: PathBuf,
    client: Client<UnixConnector, Empty<Bytes>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Version {
    version: String,
}

impl Engine {
    /// Docker behind this socket. Opens nothing.
    pub fn new(socket: PathBuf) -> Self {
        Self { socket, client: Client::unix() }
    }

    /// Its socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its version, such as `29.0.1`.
    pub async fn version(&self) -> Result<String, EngineError> {
        Ok(self.get::<Version>("/version").await?.version)
    }

    /// One GET, read whole. The path has no version, so each Engine answers in its own newest one.
    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, EngineError> {
        self.get_if_there(path).await?.ok_or_else(|| self.odd(path, "HTTP 404".to_owned()))
    }

    /// The same; none if there is no such thing (404).
    async fn get_if_there<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, EngineError> {
        let read = tokio::time::timeout(READ, self.read(path)).await;
        let body = read.unwrap_or_else(|_| Err(self.silent(format!("no answer within {} s", READ.as_secs()))))?;
        let parse = |body: Bytes| serde_json::from_slice(&body);
        body.map(parse).transpose().map_err(|error| self.odd(path, format!("unreadable JSON ({error})")))
    }

    async fn read(&self, path: &str) -> Result<Option<Bytes>, EngineError> {
        let uri: hyper::Uri = Uri::new(&self.socket, path).into();
        let request = Request::get(uri).body(Empty::new()).map_err(|error| self.silent(error.to_string()))?;
        let answer = self.client.request(request).await.map_err(|error| self.explain(&error))?;
        let status = answer.status();
        if status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        if !status.is_success() {
            return Err(self.odd(path, format!("HTTP {}", status.as_u16())));
        }
        let body = Limited::new(answer.into_body(), ANSWER).collect().await;
        Ok(Some(body.map_err(|error| self.odd(path, format!("a broken body ({error})")))?.to_bytes()))
    }

    fn explain(&self, error: &(dyn Error + 'static)) -> EngineError {
        let causes = || std::iter::successors(Some(error), |&e| e.source());
        let kind = causes().find_map(|e| e.downcast_ref::<io::Error>()).map(io::Error::kind);
        let at = self.socket.clone();
        if kind == Some(io::ErrorKind::NotFound) {
            EngineError::NoSocket { at }
        } else if kind == Some(io::ErrorKind::PermissionDenied) {
            EngineError::Denied { at }
        } else {
            self.silent(causes().last().map(ToString::to_string).unwrap_or_default())
        }
    }

    fn silent(&self, why: String) -> EngineError {
        EngineError::Silent { at: self.socket.clone(), why }
    }

    fn odd(&self, path: &str, what: String) -> EngineError {
        EngineError::Odd { at: self.socket.clone(), path: path.to_owned(), what }
    }
}
