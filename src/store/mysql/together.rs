//! Guarded changes that happen all or not at all, such as those of a block's sixteen rows: one statement for each group, which
//! counts the rows that are what their changes expect, by primary key, and changes them if it has counted all.

use std::net::Ipv4Addr;
use std::sync::Arc;

use tokio::time::Instant;

use crate::domain::address::Change;

use super::super::StoreError;
use super::change::{assignments, guard, has_become};
use super::list;
use super::pool::{Checkout, Pool};
use super::tries::{Before, Tries};
use super::trouble::Trouble;

/// Groups of sixteen to a packet: one takes 20 KB, 60 KB at worst.
const CHUNK: usize = 8;

pub(super) async fn apply_together(
    pool: &Arc<Pool>,
    groups: &[Vec<Change>],
    until: Instant,
) -> Result<Vec<bool>, StoreError> {
    Tries::new(pool, until).run(|conn, before| once(conn, groups, before)).await
}

/// Each statement is a transaction of its own. So after any failure those before it may have taken effect.
async fn once(mut conn: Checkout, groups: &[Vec<Change>], before: Before) -> Result<Vec<bool>, Trouble> {
    let mut found = Vec::with_capacity(groups.len());
    for chunk in groups.chunks(CHUNK) {
        let packet = chunk.iter().map(|changes| sql(changes)).collect::<Vec<_>>().join(";");
        let answers = conn.send(&packet, chunk.len()).await?;
        found.extend(answers.into_iter().map(|answer| answer.found > 0));
    }
    if before.unclear || before.contended {
        for (changes, found) in groups.iter().zip(&mut found).filter(|(_, found)| !**found) {
            *found = has_become(&mut conn, changes).await?;
        }
    }
    conn.keep();
    Ok(found)
}

fn sql(changes: &[Change]) -> String {
    let ips = list(&changes.iter().map(|change| change.ip).collect::<Vec<Ipv4Addr>>());
    let guards: Vec<_> =
        changes.iter().map(|change| format!("ip='{}' AND {}", change.ip, guard(&change.from))).collect();
    let rows: Vec<_> = changes.iter().map(assignments).collect();
    let values = |column: usize| rows.iter().filter_map(move |row| row.get(column));
    let set = |column: usize| {
        let (name, first) = values(column).next()?;
        if values(column).all(|(_, value)| value == first) {
            return Some(format!("a.{name}={first}"));
        }
        let cases = changes
            .iter()
            .zip(values(column))
            .map(|(change, (_, value))| format!(" WHEN '{}' THEN {value}", change.ip));
        Some(format!("a.{name}=CASE a.ip{} END", cases.collect::<String>()))
    };
    let set: Vec<_> = (0..).map_while(set).collect();
    format!(
        "UPDATE (SELECT COUNT(*) AS fit FROM allocation FORCE INDEX (PRIMARY) WHERE ip IN ({ips}) AND ({}) HAVING fit={} \
         FOR UPDATE) s STRAIGHT_JOIN allocation a FORCE INDEX (PRIMARY) ON a.ip IN ({ips}) SET {}",
        guards.join(" OR "),
        changes.len(),
        set.join(",")
    )
}
