//! An IMDSv2 session: a token, and reads with it.
//!
//! Not the SDK's client: that one keeps a token which IMDS has forgotten until it runs out by itself, asks through
//! `HTTP_PROXY`, and warns at each failure.

use std::error::Error;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::header::HeaderValue;
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use super::ImdsError;

/// Longest time for an exchange, its connection included. IMDS is one link-local hop away and answers within
/// milliseconds, and a packet lost to the hop limit never comes: the rest is for a host whose processors are all busy.
const WAIT: Duration = Duration::from_secs(3);
/// Attempts in all while it is busy (5xx, 429) or hangs up. No answer at all is not tried again here.
const ATTEMPTS: u32 = 4;
/// The pause before a second attempt is random between nothing and this, and grows.
const PAUSE: Duration = Duration::from_millis(150);
/// A connection is kept for the next read for so long.
const IDLE: Duration = Duration::from_secs(5);
/// The longest that IMDS allows, in seconds. A token that has run out is answered like one that is forgotten.
const TTL: HeaderValue = HeaderValue::from_static("21600");

/// What both requests are made of: the token's own header, and the one that asks for a token.
const WITH_TOKEN: &str = "x-aws-ec2-metadata-token";
const FOR_TOKEN: &str = "x-aws-ec2-metadata-token-ttl-seconds";

/// One endpoint, and the token that it gave.
pub(super) struct Session {
    http: Client<HttpConnector, Empty<Bytes>>,
    endpoint: String,
    token: Mutex<Option<HeaderValue>>,
}

impl Session {
    /// Sends nothing.
    pub(super) fn new(endpoint: &str) -> Self {
        // Straight to it: link-local metadata never go through a proxy.
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(WAIT));
        connector.set_nodelay(true);
        let http = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(1)
            .build(connector);
        Self { http, endpoint: endpoint.trim_end_matches('/').to_owned(), token: Mutex::default() }
    }

    /// The text at `/latest/meta-data/{path}`.
    pub(super) async fn get(&self, path: &str) -> Result<String, ImdsError> {
        let whole = format!("/latest/meta-data/{path}");
        let token = self.token(None).await?;
        let mut answer = self.exchange(Method::GET, &whole, WITH_TOKEN, &token).await?;
        if answer.0 == StatusCode::UNAUTHORIZED {
            // It has run out, or IMDS has forgotten it: after hibernation, or a restart of the service.
            let token = self.token(Some(&token)).await?;
            answer = self.exchange(Method::GET, &whole, WITH_TOKEN, &token).await?;
        }
        match answer {
            (StatusCode::OK, text) => Ok(text),
            (status, _) => Err(refused(path, status)),
        }
    }

    /// The token, fetched if there is none but this dead one.
    async fn token(&self, dead: Option<&HeaderValue>) -> Result<HeaderValue, ImdsError> {
        let mut known = self.token.lock().await;
        if let Some(token) = known.as_ref().filter(|token| Some(*token) != dead) {
            return Ok(token.clone());
        }
        let path = "the request for a token";
        let (status, text) = self.exchange(Method::PUT, "/latest/api/token", FOR_TOKEN, &TTL).await?;
        if status != StatusCode::OK {
            return Err(refused(path, status));
        }
        let token = HeaderValue::from_str(text.trim()).ok().filter(|token| !token.is_empty());
        let mut token =
            token.ok_or_else(|| ImdsError::Odd { path: path.to_owned(), what: "something else".to_owned() })?;
        token.set_sensitive(true);
        *known = Some(token.clone());
        Ok(token)
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        name: &'static str,
        value: &HeaderValue,
    ) -> Result<(StatusCode, String), ImdsError> {
        let mut attempt = 1;
        loop {
            let outcome = timeout(WAIT, self.send(&method, path, name, value)).await;
            let is_brief = match &outcome {
                Ok(Ok((status, _))) => *status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error(),
                Ok(Err(_)) => true,
                Err(_) => false,
            };
            if !is_brief || attempt == ATTEMPTS {
                let outcome = outcome.unwrap_or_else(|_| Err(format!("no answer within {WAIT:?}")));
                return outcome.map_err(|why| ImdsError::Unreachable { why });
            }
            sleep(PAUSE.saturating_mul(attempt).mul_f64(fastrand::f64())).await;
            attempt += 1;
        }
    }

    async fn send(
        &self,
        method: &Method,
        path: &str,
        name: &'static str,
        value: &HeaderValue,
    ) -> Result<(StatusCode, String), String> {
        let uri: Uri = format!("{}{path}", self.endpoint).parse().map_err(|_| not_a_uri(&self.endpoint))?;
        let request = Request::builder().method(method).uri(uri).header(name, value).body(Empty::new());
        let answer = self.http.request(request.map_err(|e| e.to_string())?).await.map_err(|e| innermost(&e))?;
        let status = answer.status();
        let body = answer.into_body().collect().await.map_err(|e| innermost(&e))?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }
}

pub(super) fn not_a_uri(endpoint: &str) -> String {
    format!("{endpoint} is not a URI")
}

fn refused(path: &str, status: StatusCode) -> ImdsError {
    match status {
        StatusCode::FORBIDDEN => ImdsError::Disabled,
        StatusCode::NOT_FOUND => ImdsError::Absent { path: path.to_owned() },
        status => ImdsError::Odd { path: path.to_owned(), what: format!("HTTP {}", status.as_u16()) },
    }
}

/// What the last cause says: the outer ones say no more than "client error".
fn innermost(error: &(dyn Error + 'static)) -> String {
    std::iter::successors(Some(error), |&e| e.source()).last().unwrap_or(error).to_string()
}
