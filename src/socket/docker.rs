//! Docker's calls: paths and answers as the Engine has them.
//!
//! Source: moby/moby, `libnetwork/ipams/remote/remote.go`, v20.10 to v29. A refusal is HTTP 500 with `Err`, which the Engine
//! reads where the status is not 200, and `Error`, which it reads where it is.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::wire::{self, ReleaseAddress, ReleasePool, RequestAddress, RequestPool};
use crate::eni::Lease;
use crate::error::Error;
use crate::ipam::Ipam;
use crate::pool::PoolRequest;

/// An answer, and the lease that it carries.
#[derive(Default)]
pub struct Reply {
    /// The JSON.
    pub json: Value,
    /// To be taken back if Docker does not get the answer.
    pub lease: Option<Lease>,
}

/// Both names must be the same: an Engine from 27 on then takes a pool that overlaps a route of the host, as an ENI's own
/// subnet always does (`remote.go`, `RequestPool`).
const ADDRESS_SPACE: &str = "ec2-ipam";
const GATEWAY: &str = "com.docker.network.gateway";
const ENDPOINT_NAME: &str = "com.docker.network.endpoint.name";

/// Answers a call of Docker; none if the path is not one of them.
pub async fn call(ipam: &Arc<Ipam>, path: &str, body: &[u8], until: Instant) -> Option<Result<Reply, Error>> {
    let plain = |json| Some(Ok(Reply { json, lease: None }));
    match path {
        "/Plugin.Activate" => plain(json!({ "Implements": ["IpamDriver"] })),
        // With a MAC ipvlan refuses the endpoint; an error during a replay panics dockerd before 29.0.
        "/IpamDriver.GetCapabilities" => plain(json!({ "RequiresMACAddress": false, "RequiresRequestReplay": false })),
        "/IpamDriver.GetDefaultAddressSpaces" => {
            ipam.pools.address_spaces_asked();
            plain(json!({
                "LocalDefaultAddressSpace": ADDRESS_SPACE,
                "GlobalDefaultAddressSpace": ADDRESS_SPACE,
            }))
        }
        "/IpamDriver.RequestPool" => Some(request_pool(ipam, body, until).await),
        "/IpamDriver.RequestAddress" => Some(request_address(ipam, body, until).await),
        "/IpamDriver.ReleaseAddress" => Some(release_address(ipam, body).await),
        // A pool is the subnet, and Docker releases it while a twin lives, before its last address, or never.
        "/IpamDriver.ReleasePool" => Some(parse::<ReleasePool>(body).map(|pool| {
            tracing::info!("Docker let go of pool {:?}", pool.pool_id);
            Reply { json: json!({}), lease: None }
        })),
        _ => None,
    }
}

async fn request_pool(ipam: &Arc<Ipam>, body: &[u8], until: Instant) -> Result<Reply, Error> {
    let asked: RequestPool = parse(body)?;
    let request = PoolRequest {
        pool: asked.pool,
        sub_pool: asked.sub_pool,
        options: asked.options.unwrap_or_default(),
        v6: asked.v6,
    };
    let pool = ipam.pools.request(&request, until).await?;
    tracing::info!("Docker uses pool {}", pool.id);
    let json = json!({
        "PoolID": pool.id.to_string(),
        "Pool": pool.subnet.cidr.to_string(),
        // From 29 on the Engine asks for no gateway on an ipvlan network, and without one there is no default route.
        "Data": { GATEWAY: pool.subnet.gateway_cidr() },
    });
    Ok(Reply { json, lease: None })
}

async fn request_address(ipam: &Arc<Ipam>, body: &[u8], until: Instant) -> Result<Reply, Error> {
    let asked: RequestAddress = parse(body)?;
    let pool = asked.pool_id.parse()?;
    let mut options = asked.options.unwrap_or_default();
    if options.get("RequestAddressType").is_some_and(|kind| kind == GATEWAY) {
        let gateway = ipam.pools.gateway(&pool, &asked.address, until).await?;
        return Ok(Reply { json: json!({ "Address": gateway, "Data": {} }), lease: None });
    }
    let holder = options.remove(ENDPOINT_NAME);
    let (address, lease) = ipam.addresses.request(&pool, &asked.address, holder, until).await?;
    Ok(Reply { json: json!({ "Address": address, "Data": {} }), lease: Some(lease) })
}

async fn release_address(ipam: &Arc<Ipam>, body: &[u8]) -> Result<Reply, Error> {
    let asked: ReleaseAddress = parse(body)?;
    ipam.addresses.release(&asked.pool_id, &asked.address).await;
    Ok(Reply { json: json!({}), lease: None })
}

/// A body of a call that has one.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    wire::parse(body).map_err(Error::Asked)
}
