//! `GET /metrics`: on the driver's own socket, and on an address for Prometheus where one is named. Nothing else is answered there.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connections::{Connections, Peers, Place};
use super::limits::MOST_OF_PEER;
use super::listen::tcp;
use crate::backoff::Backoff;
use crate::driver::format::Format;
use crate::driver::ipam::Ipam;

const PATH: &str = "/metrics";

/// Answers scrapes there until told to stop, `most` connections at once. An address that cannot be had yet keeps nothing else from
/// working.
pub(super) async fn serve(at: SocketAddr, most: usize, ipam: Arc<Ipam>, tasks: TaskTracker, stop: CancellationToken) {
    let mut backoff = Backoff::default();
    let listener = loop {
        match tcp(at) {
            Ok(listener) => break listener,
            Err(why) => {
                ipam.doctor.metrics.are_not_at(at, &why);
                if backoff.failures() == 0 {
                    tracing::error!(
                        "EC2_IPAM_METRICS is {at}, but that cannot be listened on, and is tried again: {why}; the figures are \
                         on the driver's own socket meanwhile"
                    );
                }
                if stop.run_until_cancelled(sleep(backoff.fails())).await.is_none() {
                    return;
                }
            }
        }
    };
    ipam.doctor.metrics.are_at(at);
    tracing::info!("metrics are at http://{at}{PATH}");
    stop.run_until_cancelled(accept(listener, most, ipam, tasks, stop.clone())).await;
}

async fn accept(listener: TcpListener, most: usize, ipam: Arc<Ipam>, tasks: TaskTracker, stop: CancellationToken) {
    let connections = Connections::new("connections for metrics".to_owned(), most, stop.clone());
    let peers = Peers::new(MOST_OF_PEER, stop);
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let place = connections.place().await;
                let peer = peers.of(peer.ip().to_canonical());
                tasks.spawn(serve_one(stream, place, peer, Arc::clone(&ipam)));
            }
            Err(why) => {
                tracing::debug!("cannot accept a connection for metrics: {why}");
                connections.end_one();
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve_one(stream: TcpStream, mut place: Place, peer: Arc<Connections>, ipam: Arc<Ipam>) {
    let end = place.end();
    // Further ones of a peer that has many wait here.
    if end.run_until_cancelled(place.join(&peer)).await.is_none() {
        return;
    }
    let (place, ipam) = (&place, &ipam);
    let service = service_fn(|request: Request<Incoming>| async move {
        place.busy();
        let response = match answer(ipam, &request).await {
            Some(response) => response,
            None => told(StatusCode::NOT_FOUND, format!("only {PATH} is answered here\n")),
        };
        place.waits();
        Ok::<_, Infallible>(response)
    });
    let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    if let Some(Err(why)) = end.run_until_cancelled(connection).await {
        tracing::debug!("a connection for metrics ended: {why}");
    }
}

/// The answer to a scrape; none if it is another call.
pub(super) async fn answer(ipam: &Ipam, request: &Request<Incoming>) -> Option<Response<Full<Bytes>>> {
    if request.uri().path() != PATH {
        return None;
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refusal = told(StatusCode::METHOD_NOT_ALLOWED, format!("{PATH} is read by GET\n"));
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Some(refusal);
    }
    let format = Format::wanted(request.headers().get_all(ACCEPT).iter().filter_map(|accept| accept.to_str().ok()));
    let Ok(shown) = ipam.exposition.show(format).await else {
        return Some(told(StatusCode::INTERNAL_SERVER_ERROR, "the figures cannot be written\n".to_owned()));
    };
    let mut response = told(StatusCode::OK, shown);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    Some(response)
}

fn told(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
