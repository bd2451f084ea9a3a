//! The driver's own calls, for its command line. Paths begin with `/v1/`; errors have the shape of Docker's.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::task::block_in_place;
use tokio::time::Instant;

use super::docker::parse;
use super::reply::{Refusal, Reply};
use crate::domain::id::SubnetId;
use crate::driver::drain::Order;
use crate::driver::found::Manner;
use crate::driver::history::ToKnow;
use crate::driver::hosts::ListedHost;
use crate::driver::ipam::Ipam;
use crate::error::Error;

/// What tells them from Docker's.
pub const PREFIX: &str = "/v1/";
/// Filling a large subnet, or unassigning hundreds of addresses, takes a while.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// A subnet to fill.
#[derive(Debug, Serialize, Deserialize)]
pub struct OfSubnet {
    /// Its id.
    pub subnet: String,
}

/// A subnet whose idle addresses are wanted back.
#[derive(Debug, Serialize, Deserialize)]
pub struct ToRecycle {
    /// Its id.
    pub subnet: String,
    /// Every other host is asked for its own.
    #[serde(default)]
    pub all: bool,
}

/// A subnet to list.
#[derive(Debug, Serialize, Deserialize)]
pub struct ToList {
    /// Its id; empty: whichever there are.
    pub subnet: String,
    /// Free addresses too.
    #[serde(default)]
    pub free: bool,
}

/// Subnets to draw.
#[derive(Debug, Serialize, Deserialize)]
pub struct ToMap {
    /// One, by its id; empty: those in which an ENI is served here, or, where none is, all.
    pub subnet: String,
    /// All of the table, if none is named.
    #[serde(default)]
    pub all: bool,
}

/// An address to reserve or to let go.
#[derive(Debug, Serialize, Deserialize)]
pub struct OfAddress {
    /// The address.
    pub ip: Ipv4Addr,
    /// What for.
    #[serde(default)]
    pub name: Option<String>,
}

/// Whether this host is to be drained.
#[derive(Debug, Serialize, Deserialize)]
pub struct ToDrain {
    /// Or not any more, or whether it is to be looked at alone.
    pub order: Order,
}

/// Leases to show.
#[derive(Debug, Serialize, Deserialize)]
pub struct ToLease {
    /// Only those that were given at least so long ago.
    pub older_seconds: u64,
}

/// Answers a call of the command line.
pub async fn call(ipam: &Arc<Ipam>, path: &str, body: &[u8], until: Instant) -> Result<Reply, Refusal> {
    let outcome = match path {
        "/v1/status" => Ok(json!(ipam.picture.status().await)),
        "/v1/doctor" => Ok(json!(ipam.doctor.check(until).await)),
        "/v1/schema" => ipam.operator.schema(until).await.map(|lacking| json!(lacking)),
        "/v1/init" => init(ipam, body, until).await,
        "/v1/recycle" => recycle(ipam, body, until).await,
        "/v1/reconcile" => reconcile(ipam, body).await,
        "/v1/list" => list(ipam, body, until).await,
        "/v1/map" => map(ipam, body, until).await,
        "/v1/leases" => leases(ipam, body, until).await,
        "/v1/hosts" => hosts(ipam, until).await,
        "/v1/drain" => drain(ipam, body, until).await,
        "/v1/history" => history(ipam, body, until).await,
        "/v1/release" => release(ipam, body, until).await,
        "/v1/reserve" | "/v1/unreserve" => reserve(ipam, body, path == "/v1/reserve", until).await,
        _ => {
            return Err(Refusal::asked(StatusCode::NOT_FOUND, format!("{path:?} is not a call of this driver")));
        }
    };
    Ok(outcome?.into())
}

async fn init(ipam: &Arc<Ipam>, body: &[u8], until: Instant) -> Result<Value, Error> {
    let asked: OfSubnet = parse(body)?;
    Ok(json!(ipam.operator.init(&asked.subnet.parse()?, until).await?))
}

async fn recycle(ipam: &Arc<Ipam>, body: &[u8], until: Instant) -> Result<Value, Error> {
    let asked: ToRecycle = parse(body)?;
    let subnet = asked.subnet.parse()?;
    let report = if asked.all {
        Box::pin(ipam.recycler.all(&subnet, until)).await?
    } else {
        ipam.recycler.own(&subnet, until).await?
    };
    Ok(json!(report))
}

async fn reconcile(ipam: &Arc<Ipam>, body: &[u8]) -> Result<Value, Error> {
    let manner: Manner = parse(body)?;
    let mut found = ipam.reconciler.reconcile(manner).await?;
    found.extend(ipam.scanner.scan(manner).await?);
    Ok(json!(found))
}

async fn list(ipam: &Arc<Ipam>, body: &[u8], until: Instant) -> Result<Value, Error> {
    let asked: ToList = parse(body)?;
    Ok(json!(ipam.lister.list(named(asked.subnet)?, asked.free, until).await?))
}

async fn map(ipam: &Arc<Ipam>, body: &[u8], until: Instant) -> Result<Value, Error> {
    let asked: ToMap = parse(body)?;
    let map = ipam.mapper.map(named(asked.subnet)?, asked.all, until).await?;
    // A large subnet's takes its time, and grants are answered beside it (I4).
    Ok(block_in_place(|| json!(map)))
}

/// The subnet, if one was named.
fn named(subnet: String) -> Result<Option<SubnetId>, Error> {
    Ok(Some(subnet).filter(|id| !id.is_empty()).map(|id| id.parse()).transpose()?)
}

async fn leases(ipam: &Arc<Ipam>, body: &[u8], until: Instant) -> Result<Value, Error> {
    let asked: ToLease = parse(body)?;
    Ok(json!(ipam.leases.older_than(Duration::from_secs(asked.older_seconds), until).await?))
}

async fn hosts(ipam: &Arc<Ipam>, until: Instant) -> Result<Value, Error> {
    let hosts = ipam.roll.hosts(until).await?.into_iter();
    Ok(json!(hosts.map(ListedHost::from).collect::<Vec<_>>()))
}

async fn drain(ipam: &Arc<Ipam>, body: &[u8], until: Instant) -> Result<Value, Error> {
    let asked: ToDrain = parse(body)?;
    Ok(json!(ipam.drainer.obey(asked.order, until).await?))
}

async fn history(ipam: &Arc<Ipam>, body: &[u8], until: Instant) -> Result<Value, Error> {
    let asked: ToKnow = parse(body)?;
    Ok(json!(ipam.history.ask(&asked, until).await?))
}

async fn release(ipam: &Arc<Ipam>, body: &[u8], until: Instant) -> Result<Value, Error> {
    let asked: OfAddress = parse(body)?;
    ipam.leases.release(asked.ip, until).await?;
    Ok(json!({}))
}

async fn reserve(ipam: &Arc<Ipam>, body: &[u8], reserve: bool, until: Instant) -> Result<Value, Error> {
    let asked: OfAddress = parse(body)?;
    if reserve {
        ipam.operator.reserve(asked.ip, asked.name, until).await?;
    } else {
        ipam.operator.unreserve(asked.ip, until).await?;
    }
    Ok(json!({}))
}
