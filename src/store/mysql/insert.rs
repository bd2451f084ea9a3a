//! New rows: only where an address has none, and never where another subnet has it.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use tokio::time::Instant;

use crate::domain::address::NewRow;
use crate::domain::block::Block;
use crate::domain::id::{EniId, SubnetId};
use crate::fail_point::point;

use super::super::{StoreError, raw};
use super::pool::{Checkout, Pool};
use super::tries::Tries;
use super::trouble::Trouble;
use super::{column, list, maybe, text};

/// Rows to a statement and a commit: 400 KB, below the smallest `max_allowed_packet` in use.
const CHUNK: usize = 4000;

pub(super) async fn insert_missing(
    pool: &Arc<Pool>,
    subnet: &SubnetId,
    rows: &[NewRow],
    until: Instant,
) -> Result<u64, StoreError> {
    // All is checked before anything is inserted: a second VPC in the table must not leave half of itself there.
    let mut present = HashSet::new();
    for chunk in rows.chunks(CHUNK) {
        present.extend(Tries::new(pool, until).run(|conn, _| there(conn, subnet, chunk)).await?);
    }
    let mut inserted = 0;
    for chunk in rows.chunks(CHUNK) {
        let mut missing: Vec<&NewRow> = chunk.iter().filter(|row| !present.contains(&row.ip)).collect();
        let mut tries = Tries::new(pool, until);
        while !missing.is_empty() {
            match tries.attempt(|conn| insert(conn, subnet, &missing)).await {
                Ok(new) => {
                    inserted += new;
                    point("init:chunk").await;
                    break;
                }
                Err(trouble) => tries.after(trouble).await?,
            }
            // Somebody was quicker, or it was us and the answer was lost: either way, not again.
            let ips = tries.run(|conn, _| there(conn, subnet, chunk)).await?;
            let before = missing.len();
            missing.retain(|row| !ips.contains(&row.ip));
            if tries.unclear() {
                inserted += u64::try_from(before - missing.len()).unwrap_or(0);
            }
        }
    }
    Ok(inserted)
}

/// Which of the addresses have a row; a plain read by primary key.
async fn there(mut conn: Checkout, subnet: &SubnetId, rows: &[NewRow]) -> Result<HashSet<Ipv4Addr>, Trouble> {
    let ips: Vec<Ipv4Addr> = rows.iter().map(|row| row.ip).collect();
    let read = format!("SELECT ip,subnet FROM allocation WHERE ip IN ({})", list(&ips));
    let found = conn.rows(&read).await?;
    conn.keep();
    let mut present = HashSet::with_capacity(found.len());
    for mut row in found {
        let (ip, theirs) = (column::<String>(&mut row, 0)?, column::<String>(&mut row, 1)?);
        if theirs != subnet.as_str() {
            return Err(Trouble::Strange(raw::other_subnet(&ip, &theirs, subnet)));
        }
        present.insert(raw::address(&ip).map_err(Trouble::Strange)?);
    }
    Ok(present)
}

/// One statement, one commit. A plain INSERT: IGNORE would hide more than a duplicate key.
async fn insert(mut conn: Checkout, subnet: &SubnetId, rows: &[&NewRow]) -> Result<u64, Trouble> {
    let subnet = text(subnet.as_str());
    let values: Vec<String> = rows
        .iter()
        .map(|row| {
            format!(
                "('{}',{},{subnet},'{}',{},{},'{}',{},{})",
                row.ip,
                Block::of(row.ip).number(),
                row.status.as_str(),
                maybe(row.iface.as_ref().map(EniId::as_str)),
                u8::from(row.primary),
                raw::LONG_AGO,
                maybe(raw::holder(row.holder.as_deref()).as_deref()),
                u8::from(row.in_block),
            )
        })
        .collect();
    let packet = format!(
        "INSERT INTO allocation (ip,net,subnet,status,iface,`primary`,ts,holder,in_block) VALUES {}",
        values.join(",")
    );
    let answers = conn.send(&packet, 1).await?;
    conn.keep();
    Ok(answers.iter().map(|answer| answer.found).sum())
}
