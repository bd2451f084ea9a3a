//! Connections: accepted, bounded, and served until the driver is told to stop.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::caller::Caller;
use super::connections::{Connections, Peers, Place};
use super::limits::{Limits, MOST_OF_PEER};
use super::listen::{Accepted, Listener, Listeners};
use super::scrapes;
use super::tls::{self, Tls};
use crate::domain::peer::Peer;
use crate::driver::ipam::Ipam;
use crate::supervise::supervised;

/// What runs when the driver is told to stop may go on for so long; dockerd kills it after 10 s.
pub const DRAIN: Duration = Duration::from_secs(8);

/// What every connection is served with.
struct Server {
    ipam: Arc<Ipam>,
    tasks: TaskTracker,
    stop: CancellationToken,
    peers: Peers,
}

/// Serves until told to stop, then lets what runs finish.
pub async fn serve(listeners: Listeners, ipam: Arc<Ipam>, tasks: TaskTracker, stop: CancellationToken) {
    let Listeners { all, tls, metrics, .. } = listeners;
    if let Some(tls) = tls {
        let (stop, picture) = (stop.clone(), Arc::clone(&ipam.picture));
        let following = async move { stop.run_until_cancelled(tls.follow_files(&picture.tls)).await };
        tasks.spawn(supervised("reading the TLS files", following));
    }
    let limits = Limits::of_process(all.iter().any(Listener::is_tcp), metrics.is_some());
    if let Some(at) = metrics {
        let scrapes = scrapes::serve(at, limits.metrics, Arc::clone(&ipam), tasks.clone(), stop.clone());
        tasks.spawn(supervised("metrics", scrapes));
    }
    let local = Connections::new("connections".to_owned(), limits.local, stop.clone());
    let remote = Connections::new("connections over TCP".to_owned(), limits.remote, stop.clone());
    let peers = Peers::new(MOST_OF_PEER, stop.clone());
    let server = Arc::new(Server { ipam, tasks, stop, peers });
    join_all(all.into_iter().map(|listener| {
        let connections = if listener.is_tcp() { &remote } else { &local };
        Arc::clone(&server).accept(listener, Arc::clone(connections))
    }))
    .await;
}

impl Server {
    async fn accept(self: Arc<Self>, listener: Listener, connections: Arc<Connections>) {
        loop {
            let accepted = tokio::select! {
                () = self.stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok(accepted) => {
                    let place = tokio::select! {
                        () = self.stop.cancelled() => return,
                        place = connections.place() => place,
                    };
                    // What a connection does before its first request, a handshake or waiting, holds up no other one.
                    self.tasks.spawn(Arc::clone(&self).serve_one(accepted, place));
                }
                // It was gone before it was taken.
                Err(why) if matches!(why.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset) => {}
                // Out of file descriptors, most likely: one comes back with each connection that goes.
                Err(why) => {
                    tracing::error!("cannot accept a connection: {why}");
                    connections.end_one();
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn serve_one(self: Arc<Self>, accepted: Accepted, place: Place) {
        match accepted {
            Accepted::Local(stream) => {
                let caller = self.caller(place, Peer::Local);
                let stream = caller.hears(stream);
                caller.serve(stream).await;
            }
            Accepted::Remote { stream, address, tls } => self.serve_remote(stream, address, tls, place).await,
        }
    }

    async fn serve_remote(&self, stream: TcpStream, address: IpAddr, tls: Option<Arc<Tls>>, mut place: Place) {
        let end = place.end();
        // Further ones of a peer that has many wait here.
        let peer = self.peers.of(address);
        if end.run_until_cancelled(place.join(&peer)).await.is_none() {
            return;
        }
        // A connection without one has ended.
        let own = stream.local_addr().map_or(Ipv4Addr::UNSPECIFIED.into(), |own| own.ip().to_canonical());
        let mut caller = self.caller(place, Peer::at(address, own));
        let stream = caller.hears(stream);
        let Some(tls) = tls else { return caller.serve(stream).await };
        match end.run_until_cancelled(tls.handshake(stream)).await {
            Some(Ok((stream, names))) => {
                let shown = names.as_deref().unwrap_or_default();
                tracing::debug!("{address} speaks TLS; the names in its certificate: {shown:?}");
                caller.is_called(names);
                caller.serve(stream).await;
            }
            // As those leave who only look whether somebody listens: a load balancer, each few seconds.
            Some(Err(why)) if matches!(why.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
                tracing::debug!("{address} left in the TLS handshake");
            }
            Some(Err(why)) => tracing::info!("no TLS with {address}: {}", tls::said(&why)),
            None => {}
        }
    }

    fn caller(&self, place: Place, peer: Peer) -> Caller {
        Caller::new(Arc::clone(&self.ipam), self.tasks.clone(), self.stop.clone(), place, peer)
    }
}
