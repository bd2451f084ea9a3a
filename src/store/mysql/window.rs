//! Blocks as KEY whole (subnet,status,net) shows them: plain reads of a few at a time, however large the subnet is.
//!
//! `net` is a hint. A row that another inserts without it, as the original and older drivers do, counts in no block until
//! somebody looks here for single addresses: he fills it in (`net`) and looks again.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::Ipv4Net;
use tokio::time::Instant;

use crate::domain::block::{Block, SIZE};
use crate::domain::id::SubnetId;
use crate::domain::subnet::Subnet;

use super::super::blocks::sample;
use super::super::{StoreError, raw};
use super::pool::{Checkout, Pool};
use super::tries::{Before, Tries};
use super::trouble::Trouble;
use super::{column, net, text};

/// Blocks with a free row that a look begins with, and as many as it goes on to where none of these is broken and has a row to be
/// had. A /20 has as many as both.
const FIRST: usize = 64;
const FURTHER: usize = 192;

/// What is to be had of the lowest blocks with a free row.
#[derive(Default)]
pub(super) struct Window {
    /// Rows of broken ones: the fullest first, in each the coldest.
    pub(super) broken: Vec<Ipv4Addr>,
    /// Those of which all sixteen are free.
    pub(super) whole: Vec<Block>,
}

/// For single addresses. `may`: which free rows of the table `f`; `reach`: so many rows at least, if there are.
pub(super) async fn look(
    conn: &mut Checkout,
    subnet: &str,
    within: Option<Ipv4Net>,
    may: &str,
    reach: usize,
) -> Result<Window, Trouble> {
    let mut found = Window::default();
    let ((mut from, to), mut most) = (span(within), FIRST);
    loop {
        let packet = format!(
            "{};SELECT w.net,w.free,f.ip FROM (SELECT net,COUNT(*) AS free FROM allocation FORCE INDEX (whole) \
             WHERE subnet={subnet} AND status='free' AND net BETWEEN {from} AND {to} GROUP BY net ORDER BY net LIMIT {most}) w \
             LEFT JOIN allocation f FORCE INDEX (whole) \
             ON w.free<{SIZE} AND f.subnet={subnet} AND f.status='free' AND f.net=w.net AND {may} \
             ORDER BY w.free,w.net,f.ts LIMIT {}",
            net::unfilled(&format!("subnet={subnet} AND status='free'")),
            reach + most
        );
        let mut answers = conn.send(&packet, 2).await?.into_iter().map(|answer| answer.rows);
        if net::fill(conn, answers.next().unwrap_or_default()).await? {
            continue;
        }
        let seen = found.add(answers.next().unwrap_or_default(), conn.pool())?;
        match seen.last() {
            // One row for each, since none has a row to be had.
            Some(last) if found.broken.is_empty() && seen.len() == most && most == FIRST => {
                (from, most) = (last + 1, FURTHER);
            }
            Some(_) | None => return Ok(found),
        }
    }
}

impl Window {
    /// Says which blocks were seen.
    fn add(&mut self, rows: Vec<mysql_async::Row>, pool: &Pool) -> Result<BTreeSet<u32>, Trouble> {
        let mut seen = BTreeSet::new();
        for mut row in rows {
            let (net, free, ip): (u32, usize, Option<String>) =
                (column(&mut row, 0)?, column(&mut row, 1)?, column(&mut row, 2)?);
            if free == SIZE && seen.insert(net) {
                self.whole.extend(Block::numbered(net));
            }
            seen.insert(net);
            self.broken.extend(ip.and_then(|ip| pool.left_out.keep([raw::address(&ip)]).pop()));
        }
        Ok(seen)
    }
}

/// From a random place on, and then from the lowest one: hosts that look at once find different ones.
pub(super) async fn whole_blocks(
    pool: &Arc<Pool>,
    subnet: &SubnetId,
    within: Option<Ipv4Net>,
    most: usize,
    until: Instant,
) -> Result<Vec<Block>, StoreError> {
    let (from, to) = span(within);
    let free = format!("FROM allocation FORCE INDEX (whole) WHERE subnet={} AND status='free'", text(subnet.as_str()));
    let find = |range: &str| format!("SELECT net {free} AND {range} GROUP BY net HAVING COUNT(*)={SIZE} LIMIT {most}");
    let packet = format!(
        "SET @place=(SELECT CAST(MIN(net)+FLOOR({}*(MAX(net)-MIN(net)+1)) AS UNSIGNED) {free} AND net BETWEEN {from} AND {to});\
         {};{}",
        fastrand::f64(),
        find(&format!("net BETWEEN @place AND {to}")),
        find(&format!("net>={from} AND net<@place"))
    );
    let attempt = async |mut conn: Checkout, _: Before| {
        let answers = conn.send(&packet, 3).await?;
        conn.keep();
        answers.into_iter().flat_map(|answer| answer.rows).map(|mut row| column::<u32>(&mut row, 0)).collect()
    };
    let nets: Vec<u32> = Tries::new(pool, until).run(attempt).await?;
    let is_inside = |block: &Block| within.is_none_or(|within| within.contains(&block.net()));
    Ok(nets.into_iter().filter_map(Block::numbered).filter(is_inside).take(most).collect())
}

pub(super) async fn plenty(pool: &Arc<Pool>, subnet: &Subnet, until: Instant) -> Result<bool, StoreError> {
    let sample = sample(subnet);
    if sample.is_empty() {
        return Ok(false);
    }
    let drawn = sample.iter().map(|block| block.number().to_string()).collect::<Vec<_>>().join(",");
    let read = format!(
        "SELECT COUNT(*) FROM (SELECT net FROM allocation FORCE INDEX (whole) WHERE subnet={} AND status='free' \
         AND net IN ({drawn}) GROUP BY net HAVING COUNT(*)={SIZE}) w",
        text(subnet.id.as_str())
    );
    let attempt = async |mut conn: Checkout, _: Before| {
        let rows = conn.rows(&read).await?;
        conn.keep();
        rows.into_iter().next().map_or(Ok(0), |mut row| column::<usize>(&mut row, 0))
    };
    let whole = Tries::new(pool, until).run(attempt).await?;
    Ok(whole * 4 >= sample.len())
}

/// The numbers of the blocks that the net has a part of.
pub(super) fn span(net: Option<Ipv4Net>) -> (u32, u32) {
    net.map_or((0, u32::MAX), |net| (Block::of(net.network()).number(), Block::of(net.broadcast()).number()))
}
