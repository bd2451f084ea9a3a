//! Plain reads: they lock nothing and wait for nobody.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::address::{Row, State};
use crate::domain::block::Block;
use crate::domain::id::{EniId, SubnetId};
use crate::domain::subnet::Subnet;

use super::super::clock::{AHEAD, EARLIEST};
use super::super::raw::{self, Raw, TAKEN};
use super::super::{Count, StoreError};
use super::pool::{Checkout, Pool};
use super::tries::{Before, Tries};
use super::trouble::Trouble;
use super::{column, list, text};

/// A statement that begins so is read by [`rows`].
pub(super) const ROWS: &str = "SELECT ip,subnet,status,iface,`primary`,claim,holder,CAST(UNIX_TIMESTAMP(ts) AS SIGNED),\
    CAST(UNIX_TIMESTAMP(claimed)*1000 AS SIGNED),CAST(UNIX_TIMESTAMP(NOW(3))*1000 AS SIGNED),in_block FROM allocation";

/// Addresses to a statement.
const CHUNK: usize = 1000;

pub(super) async fn rows_at(pool: &Arc<Pool>, ips: &[Ipv4Addr], until: Instant) -> Result<Vec<Row>, StoreError> {
    let mut ips = ips.to_vec();
    ips.sort_unstable();
    ips.dedup();
    let mut rows = Vec::with_capacity(ips.len());
    for chunk in ips.chunks(CHUNK) {
        rows.extend(matching(pool, &by_address(chunk), until).await?);
    }
    rows.sort_unstable_by_key(|row| row.ip);
    Ok(rows)
}

pub(super) async fn rows_of_eni(pool: &Arc<Pool>, eni: &EniId, until: Instant) -> Result<Vec<Row>, StoreError> {
    let mut rows = matching(pool, &format!("iface={}", text(eni.as_str())), until).await?;
    rows.sort_unstable_by_key(|row| (Reverse(row.idle), row.ip));
    Ok(rows)
}

pub(super) async fn rows_of_subnet(
    pool: &Arc<Pool>,
    subnet: &SubnetId,
    statuses: &str,
    until: Instant,
) -> Result<Vec<Row>, StoreError> {
    let mut rows = matching(pool, &format!("subnet={}{statuses}", text(subnet.as_str())), until).await?;
    rows.sort_unstable_by_key(|row| row.ip);
    Ok(rows)
}

/// KEY cold begins with the subnet: one look for each of them.
pub(super) async fn subnets(pool: &Arc<Pool>, until: Instant) -> Result<Vec<SubnetId>, StoreError> {
    let attempt = async |mut conn: Checkout, _: Before| {
        let rows = conn.rows("SELECT DISTINCT subnet FROM allocation ORDER BY subnet").await?;
        conn.keep();
        rows.into_iter().map(|mut row| column::<String>(&mut row, 0)).collect::<Result<Vec<_>, _>>()
    };
    let subnets = Tries::new(pool, until).run(attempt).await?;
    Ok(subnets.into_iter().map(SubnetId::stored).collect())
}

/// How long a count of all rows of a subnet is believed.
const COUNTED: Duration = Duration::from_secs(600);

pub(super) async fn census(pool: &Arc<Pool>, subnet: &SubnetId, until: Instant) -> Result<Vec<Count>, StoreError> {
    // From KEY cold alone, which the other statuses are not counted from: their rows are read.
    let free = format!(
        "SELECT 'free',NULL,NULL,COUNT(*) FROM allocation WHERE subnet={} AND status='free'",
        text(subnet.as_str())
    );
    let mut counts = counted(pool, &format!("{};{free}", taken(subnet)), 2, until).await?;
    pool.totals().insert(subnet.clone(), (Instant::now(), counts.iter().map(|count| count.rows).sum()));
    counts.retain(|count| count.rows > 0);
    Ok(counts)
}

pub(super) async fn census_lately(
    pool: &Arc<Pool>,
    subnet: &SubnetId,
    until: Instant,
) -> Result<Vec<Count>, StoreError> {
    let known = pool.totals().get(subnet).copied().filter(|(at, rows)| at.elapsed() < COUNTED && *rows > 0);
    let Some((_, total)) = known else { return census(pool, subnet, until).await };
    let mut counts = counted(pool, &taken(subnet), 1, until).await?;
    let taken: u64 = counts.iter().map(|count| count.rows).sum();
    let free = Count { state: State::Free, iface: None, rows: total.saturating_sub(taken) };
    counts.extend((free.rows > 0).then_some(free));
    Ok(counts)
}

fn taken(subnet: &SubnetId) -> String {
    let (kind, subnet) = (raw::CLAIM_KIND, text(subnet.as_str()));
    format!(
        "SELECT status,{kind} AS kind,iface,COUNT(*) FROM allocation WHERE subnet={subnet}{TAKEN} GROUP BY status,kind,iface"
    )
}

/// From KEY cold alone, which is left once it has shown as many.
pub(super) async fn has_free(
    pool: &Arc<Pool>,
    subnet: &SubnetId,
    least: u64,
    until: Instant,
) -> Result<bool, StoreError> {
    let read = format!(
        "SELECT COUNT(*) FROM (SELECT 1 FROM allocation FORCE INDEX (cold) WHERE subnet={} AND status='free' LIMIT {least}) free",
        text(subnet.as_str())
    );
    let attempt = async |mut conn: Checkout, _: Before| {
        let rows = conn.rows(&read).await?;
        conn.keep();
        rows.into_iter().next().map_or(Ok(0), |mut row| column::<u64>(&mut row, 0))
    };
    Ok(Tries::new(pool, until).run(attempt).await? >= least)
}

/// Interfaces to a statement that leaves these out.
const EDGES: usize = 500;

/// Along KEY mine, between the known ones: none of their rows is read, but all of the others', up to the first that tells.
pub(super) async fn has_strangers(
    pool: &Arc<Pool>,
    subnet: &SubnetId,
    known: &BTreeSet<EniId>,
    until: Instant,
) -> Result<bool, StoreError> {
    let edges: Vec<String> = known.iter().map(|eni| text(eni.as_str())).collect();
    let from = std::iter::once("''").chain(edges.iter().map(String::as_str));
    let to = edges.iter().map(|eni| format!(" AND iface<{eni}")).chain([String::new()]);
    let between: Vec<String> = from.zip(to).map(|(from, to)| format!("iface>{from}{to}")).collect();
    let reads = between.chunks(EDGES).map(|between| {
        format!(
            "SELECT iface FROM allocation FORCE INDEX (mine) WHERE ({}) AND status IN ('ready','occupied') AND subnet={} \
             AND claim IS NULL GROUP BY iface,status HAVING status='ready' OR COUNT(*)>1 LIMIT 1",
            between.join(" OR "),
            text(subnet.as_str())
        )
    });
    for read in reads {
        let attempt = async |mut conn: Checkout, _: Before| {
            let rows = conn.rows(&read).await?;
            conn.keep();
            Ok(!rows.is_empty())
        };
        if Tries::new(pool, until).run(attempt).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Into how many of a subnet's blocks taken addresses fall, and how many of those have no free one.
pub(super) async fn blocks_taken(pool: &Arc<Pool>, subnet: &Subnet, until: Instant) -> Result<(u64, u64), StoreError> {
    let Range { start, end } = Block::numbers_in(subnet.cidr);
    // From KEY cold and the primary key alone: no row is read.
    let read = format!(
        "SELECT COUNT(*),COALESCE(CAST(SUM(taken=16) AS UNSIGNED),0) FROM (SELECT COUNT(*) AS taken FROM allocation \
         WHERE subnet={}{TAKEN} AND INET_ATON(ip) DIV 16>={start} AND INET_ATON(ip) DIV 16<{end} GROUP BY INET_ATON(ip) DIV 16) AS block",
        text(subnet.id.as_str())
    );
    let attempt = async |mut conn: Checkout, _: Before| {
        let rows = conn.rows(&read).await?;
        conn.keep();
        let counts = rows.into_iter().next().map(|mut row| Ok((column(&mut row, 0)?, column(&mut row, 1)?)));
        counts.transpose().map(Option::unwrap_or_default)
    };
    Tries::new(pool, until).run(attempt).await
}

async fn counted(pool: &Arc<Pool>, packet: &str, statements: usize, until: Instant) -> Result<Vec<Count>, StoreError> {
    let groups = Tries::new(pool, until).run(|conn, _| groups(conn, packet, statements)).await?;
    Ok(raw::census(groups, &pool.left_out))
}

async fn groups(mut conn: Checkout, packet: &str, statements: usize) -> Result<Vec<raw::Group>, Trouble> {
    let answers = conn.send(packet, statements).await?;
    conn.keep();
    answers
        .into_iter()
        .flat_map(|answer| answer.rows)
        .map(|mut row| Ok((column(&mut row, 0)?, column(&mut row, 1)?, column(&mut row, 2)?, column(&mut row, 3)?)))
        .collect()
}

async fn matching(pool: &Arc<Pool>, which: &str, until: Instant) -> Result<Vec<Row>, StoreError> {
    let attempt = async |mut conn: Checkout, _: Before| {
        let rows = read(&mut conn, which).await?;
        conn.keep();
        Ok(rows)
    };
    Tries::new(pool, until).run(attempt).await
}

/// On a connection that is at hand.
pub(super) async fn at(conn: &mut Checkout, ips: &[Ipv4Addr]) -> Result<Vec<Row>, Trouble> {
    read(conn, &by_address(ips)).await
}

fn by_address(ips: &[Ipv4Addr]) -> String {
    format!("ip IN ({})", list(ips))
}

async fn read(conn: &mut Checkout, which: &str) -> Result<Vec<Row>, Trouble> {
    let rows = heard(conn.rows(&format!("{ROWS} WHERE {which}")).await?, conn.pool())?;
    let pool = Arc::clone(conn.pool());
    let wrong: Vec<String> =
        rows.iter().filter(|row| row.is_out_of_time(&pool.clock)).map(|row| text(&row.ip)).collect();
    for wrong in wrong.chunks(CHUNK) {
        conn.send(&format!("{} WHERE ip IN ({})", in_time(), wrong.join(",")), 1).await?;
    }
    Ok(believed(rows, &pool))
}

/// What a statement that begins with [`ROWS`] answered. Times that no clock can have written are left as they are: the next
/// plain read puts them right.
pub(super) fn rows(answer: Vec<mysql_async::Row>, pool: &Pool) -> Result<Vec<Row>, Trouble> {
    Ok(believed(heard(answer, pool)?, pool))
}

fn heard(answer: Vec<mysql_async::Row>, pool: &Pool) -> Result<Vec<Raw>, Trouble> {
    let rows = answer.into_iter().map(raw_row).collect::<Result<Vec<_>, _>>()?;
    if let Some(row) = rows.first() {
        pool.clock.says(row.now);
    }
    Ok(rows)
}

fn believed(rows: Vec<Raw>, pool: &Pool) -> Vec<Row> {
    pool.left_out.keep(rows.into_iter().map(|row| row.checked(&pool.clock)))
}

/// Times that no clock can have written become now, once: from then on they age.
fn in_time() -> String {
    format!(
        "UPDATE allocation SET ts=IF(ts>NOW()+INTERVAL {AHEAD} SECOND OR UNIX_TIMESTAMP(ts) BETWEEN 1 AND {EARLIEST},NOW(),ts),\
         claimed=IF(claim IS NULL OR claimed BETWEEN FROM_UNIXTIME({EARLIEST}) AND NOW(3)+INTERVAL {AHEAD} SECOND,claimed,NOW(3))"
    )
}

fn raw_row(mut row: mysql_async::Row) -> Result<Raw, Trouble> {
    let row = &mut row;
    Ok(Raw {
        ip: column(row, 0)?,
        subnet: column(row, 1)?,
        status: column(row, 2)?,
        iface: column(row, 3)?,
        primary: column::<i64>(row, 4)? != 0,
        claim: column(row, 5)?,
        holder: column(row, 6)?,
        ts: column(row, 7)?,
        claimed: column(row, 8)?,
        now: column(row, 9)?,
        in_block: column::<i64>(row, 10)? != 0,
    })
}
