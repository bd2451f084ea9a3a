//! Docker's calls: paths and answers as the Engine has them.
//!
//! Source: moby/moby, `libnetwork/ipams/remote/remote.go`, v20.10 to v29. A refusal is HTTP 500 with `Err`, which the Engine
//! reads where the status is not 200, and `Error`, which it reads where it is.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time::Instant;

use super::reply::Reply;
use super::span::note;
use super::wire::{self, ReleaseAddress, ReleasePool, RequestAddress, RequestPool};
use crate::counts::CALLS;
use crate::domain::peer::Peer;
use crate::driver::ipam::Ipam;
use crate::driver::pool::PoolRequest;
use crate::error::Error;

/// Both names must be the same: an Engine from 27 on then takes a pool that overlaps a route of the host, as an ENI's own
/// subnet always does (`remote.go`, `RequestPool`).
const ADDRESS_SPACE: &str = "ec2-ipam";
const GATEWAY: &str = "com.docker.network.gateway";
const ENDPOINT_NAME: &str = "com.docker.network.endpoint.name";

/// A call as it came.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// Who asks.
    pub peer: &'a Peer,
    /// What for.
    pub path: &'a str,
    /// With what.
    pub body: &'a [u8],
    /// When its answer is of no use any more.
    pub until: Instant,
}

/// Answers a call of Docker; none if the path is not one of them.
pub async fn call(ipam: &Arc<Ipam>, call: Call<'_>) -> Option<Result<Reply, Error>> {
    let Call { peer, path, body, until } = call;
    Some(match path {
        "/Plugin.Activate" => Ok(json!({ "Implements": ["IpamDriver"] }).into()),
        // With a MAC ipvlan refuses the endpoint; an error during a replay panics dockerd before 29.0.
        "/IpamDriver.GetCapabilities" => {
            Ok(json!({ "RequiresMACAddress": false, "RequiresRequestReplay": false }).into())
        }
        "/IpamDriver.GetDefaultAddressSpaces" => {
            if peer.is_here() {
                ipam.pools.address_spaces_asked();
            }
            let spaces = json!({
                "LocalDefaultAddressSpace": ADDRESS_SPACE,
                "GlobalDefaultAddressSpace": ADDRESS_SPACE,
            });
            Ok(spaces.into())
        }
        "/IpamDriver.RequestPool" => request_pool(ipam, body, peer, until).await,
        "/IpamDriver.ReleasePool" => release_pool(ipam, body, peer),
        "/IpamDriver.RequestAddress" => request_address(ipam, body, peer, until).await,
        "/IpamDriver.ReleaseAddress" => release_address(ipam, body, peer).await,
        _ => return None,
    })
}

/// The name of a call whose refusal keeps a container from its address, as the metrics have it.
pub(super) fn refused_call(path: &str) -> Option<&'static str> {
    CALLS.into_iter().find(|call| path.strip_prefix("/IpamDriver.") == Some(call))
}

async fn request_pool(ipam: &Arc<Ipam>, body: &[u8], peer: &Peer, until: Instant) -> Result<Reply, Error> {
    let asked: RequestPool = parse(body)?;
    note("pool", &asked.pool);
    let request = PoolRequest {
        pool: asked.pool,
        sub_pool: asked.sub_pool,
        options: asked.options.unwrap_or_default(),
        v6: asked.v6,
    };
    let pool = ipam.pools.request(&request, peer, until).await?;
    note("pool", &pool.id);
    let json = json!({
        "PoolID": pool.id.to_string(),
        "Pool": pool.subnet.cidr.to_string(),
        // From 29 on the Engine asks for no gateway on an ipvlan network, and without one there is no default route.
        "Data": { GATEWAY: pool.subnet.gateway_cidr() },
    });
    Ok(Reply { done: Some(format!("Docker uses pool {}", pool.id)), ..json.into() })
}

/// A pool is the subnet, and Docker releases it while a twin lives, before its last address, or never.
fn release_pool(ipam: &Ipam, body: &[u8], peer: &Peer) -> Result<Reply, Error> {
    let asked: ReleasePool = parse(body)?;
    note("pool", &asked.pool_id);
    // What another host's Engine does says nothing of this host's networks.
    if peer.is_here() {
        ipam.pools.release(&asked.pool_id);
    }
    let done = if peer.is_here() {
        format!("Docker let go of pool {:?}", asked.pool_id)
    } else {
        // Whoever it is: nothing depends on it.
        format!("{peer} says that it uses pool {:?} no more; nothing is kept here of that", asked.pool_id)
    };
    Ok(Reply { done: Some(done), ..json!({}).into() })
}

async fn request_address(ipam: &Arc<Ipam>, body: &[u8], peer: &Peer, until: Instant) -> Result<Reply, Error> {
    let asked: RequestAddress = parse(body)?;
    note("pool", &asked.pool_id);
    note("address", &asked.address);
    let mut options = asked.options.unwrap_or_default();
    let holder = options.remove(ENDPOINT_NAME);
    if let Some(name) = &holder {
        note("endpoint", name);
    }
    let pool = asked.pool_id.parse()?;
    if options.get("RequestAddressType").is_some_and(|kind| kind == GATEWAY) {
        let gateway = ipam.pools.gateway(&pool, &asked.address, peer, until).await?;
        note("address", &gateway);
        return Ok(json!({ "Address": gateway, "Data": {} }).into());
    }
    let (address, lease) = ipam.addresses.request(&pool, &asked.address, holder, peer, until).await?;
    note("address", &lease.ip);
    Ok(Reply { lease: Some(lease), ..json!({ "Address": address, "Data": {} }).into() })
}

async fn release_address(ipam: &Arc<Ipam>, body: &[u8], peer: &Peer) -> Result<Reply, Error> {
    let asked: ReleaseAddress = parse(body)?;
    note("pool", &asked.pool_id);
    note("address", &asked.address);
    ipam.addresses.release(&asked.pool_id, &asked.address, peer).await?;
    Ok(json!({}).into())
}

/// A body of a call that has one.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    wire::parse(body).map_err(Error::Asked)
}
