//! The column `net` of rows that have none yet: of an older table, or inserted by the original or an older driver beside us.
//!
//! In committed chunks, each by primary key, passing by what others have locked: nobody waits for it, and nobody is waited for.
//! Several hosts may be at it at once, and what one leaves the next fills in. `ts` stays.

use std::sync::Arc;

use tokio::time::Instant;

use super::super::StoreError;
use super::pool::{Checkout, Pool};
use super::tries::{Before, Tries};
use super::trouble::Trouble;
use super::{column, text};

/// Rows to a chunk.
const CHUNK: usize = 1000;

/// Those of a table that was taken over, as far as `until` allows. What is left is filled in by who looks for single addresses.
pub(super) async fn fill_all(pool: &Arc<Pool>, until: Instant) -> Result<(), StoreError> {
    // KEY whole has each pair once at its front.
    let unfilled = format!(
        "SELECT a.ip FROM (SELECT DISTINCT subnet,status FROM allocation FORCE INDEX (whole)) s \
         STRAIGHT_JOIN allocation a FORCE INDEX (whole) ON a.subnet=s.subnet AND a.status=s.status AND a.net IS NULL \
         WHERE IS_IPV4(a.ip) LIMIT {CHUNK}"
    );
    let attempt = async |mut conn: Checkout, _: Before| {
        let rows = conn.rows(&unfilled).await?;
        let filled = fill(&mut conn, rows).await?;
        conn.keep();
        Ok(filled)
    };
    let mut tries = Tries::new(pool, until);
    while tries.run(attempt).await? {}
    Ok(())
}

/// Reads some of these rows that have none. An `ip` that is no address keeps none.
pub(super) fn unfilled(which: &str) -> String {
    format!("SELECT ip FROM allocation FORCE INDEX (whole) WHERE {which} AND net IS NULL AND IS_IPV4(ip) LIMIT {CHUNK}")
}

/// Fills in these that were read as having none; says whether any was.
pub(super) async fn fill(conn: &mut Checkout, unfilled: Vec<mysql_async::Row>) -> Result<bool, Trouble> {
    if unfilled.is_empty() {
        return Ok(false);
    }
    let ips = unfilled.into_iter().map(|mut row| Ok(text(&column::<String>(&mut row, 0)?)));
    let ips = ips.collect::<Result<Vec<_>, Trouble>>()?.join(",");
    // LIMIT: without it MySQL makes one of the two reads, and waits.
    let fill = format!(
        "UPDATE (SELECT ip FROM allocation FORCE INDEX (PRIMARY) WHERE ip IN ({ips}) AND net IS NULL AND IS_IPV4(ip) \
         LIMIT {CHUNK} FOR UPDATE SKIP LOCKED) s STRAIGHT_JOIN allocation a ON a.ip=s.ip SET a.net=INET_ATON(a.ip) DIV 16,a.ts=a.ts"
    );
    Ok(conn.send(&fill, 1).await?.iter().any(|answer| answer.found > 0))
}
