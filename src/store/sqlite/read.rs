//! Plain reads.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::Ipv4Addr;

use rusqlite::{Connection, Params, params};

use crate::domain::address::Row;
use crate::domain::block::{Block, SIZE};
use crate::domain::id::{EniId, SubnetId};
use crate::domain::subnet::Subnet;

use super::super::Count;
use super::super::clock::{AHEAD, EARLIEST};
use super::super::raw::{self, Raw, TAKEN};
use super::Known;
use super::trouble::Trouble;

const ROWS: &str = "SELECT ip, subnet, status, iface, \"primary\", claim, holder, \
    ts, claimed, CAST(unixepoch('subsec') * 1000 AS INTEGER), in_block FROM allocation WHERE ";

pub(super) fn version(file: &Connection) -> Result<String, Trouble> {
    Ok(file.query_row("SELECT sqlite_version()", [], |row| row.get(0))?)
}

pub(super) fn rows_at(file: &Connection, known: &Known, mut ips: Vec<Ipv4Addr>) -> Result<Vec<Row>, Trouble> {
    ips.sort_unstable();
    ips.dedup();
    let mut rows = Vec::with_capacity(ips.len());
    for ip in ips {
        rows.extend(matching(file, known, "ip = ?1", [ip.to_string()])?);
    }
    Ok(rows)
}

pub(super) fn rows_of_eni(file: &Connection, known: &Known, eni: &EniId) -> Result<Vec<Row>, Trouble> {
    let mut rows = matching(file, known, "iface = ?1", [eni.as_str()])?;
    rows.sort_unstable_by_key(|row| (Reverse(row.idle), row.ip));
    Ok(rows)
}

pub(super) fn rows_of_subnet(
    file: &Connection,
    known: &Known,
    subnet: &SubnetId,
    statuses: &str,
) -> Result<Vec<Row>, Trouble> {
    let mut rows = matching(file, known, &format!("subnet = ?1{statuses}"), [subnet.as_str()])?;
    rows.sort_unstable_by_key(|row| row.ip);
    Ok(rows)
}

pub(super) fn subnets(file: &Connection) -> Result<Vec<SubnetId>, Trouble> {
    let mut statement = file.prepare_cached("SELECT DISTINCT subnet FROM allocation ORDER BY subnet")?;
    let subnets = statement.query_map([], |row| row.get::<_, String>(0))?;
    Ok(subnets.map(|subnet| subnet.map(SubnetId::stored)).collect::<Result<_, _>>()?)
}

pub(super) fn census(file: &Connection, known: &Known, subnet: &SubnetId) -> Result<Vec<Count>, Trouble> {
    let kind = raw::CLAIM_KIND;
    let read = format!(
        "SELECT status, {kind} AS kind, iface, count(*) FROM allocation WHERE subnet = ?1 GROUP BY status, kind, iface"
    );
    let mut statement = file.prepare_cached(&read)?;
    let groups = statement.query_map([subnet.as_str()], |row| {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?, u64::from(row.get::<_, u32>(3)?)))
    })?;
    Ok(raw::census(groups.collect::<Result<_, _>>()?, &known.left_out))
}

pub(super) fn has_free(file: &Connection, subnet: &SubnetId, least: u64) -> Result<bool, Trouble> {
    let read = "SELECT count(*) FROM (SELECT 1 FROM allocation WHERE subnet = ?1 AND status = 'free' LIMIT ?2)";
    let least = i64::try_from(least).unwrap_or(i64::MAX);
    let free: i64 = file.prepare_cached(read)?.query_row(params![subnet.as_str(), least], |row| row.get(0))?;
    Ok(free >= least)
}

/// Into how many of a subnet's blocks taken addresses fall, and how many of those have no free one.
pub(super) fn blocks_taken(file: &Connection, subnet: &Subnet) -> Result<(u64, u64), Trouble> {
    let read = format!("SELECT ip FROM allocation WHERE subnet = ?1{TAKEN}");
    let mut statement = file.prepare_cached(&read)?;
    let ips = statement.query_map([subnet.id.as_str()], |row| row.get::<_, String>(0))?;
    let mut taken: HashMap<Block, usize> = HashMap::new();
    for ip in ips {
        if let Some(block) = ip?.parse().ok().map(Block::of).filter(|block| block.may_be_in(subnet)) {
            *taken.entry(block).or_default() += 1;
        }
    }
    let full = taken.values().filter(|taken| **taken == SIZE).count();
    Ok((taken.len() as u64, full as u64))
}

fn matching(file: &Connection, known: &Known, which: &str, values: impl Params) -> Result<Vec<Row>, Trouble> {
    let mut statement = file.prepare_cached(&format!("{ROWS}{which}"))?;
    let rows = statement.query_map(values, |row| {
        Ok(Raw {
            ip: row.get(0)?,
            subnet: row.get(1)?,
            status: row.get(2)?,
            iface: row.get(3)?,
            primary: row.get(4)?,
            claim: row.get(5)?,
            holder: row.get(6)?,
            ts: row.get(7)?,
            claimed: row.get(8)?,
            now: row.get(9)?,
            in_block: row.get(10)?,
        })
    })?;
    let rows = rows.collect::<Result<Vec<_>, _>>()?;
    let Known { clock, left_out } = known;
    if let Some(row) = rows.first() {
        clock.says(row.now);
    }
    for row in rows.iter().filter(|row| row.is_out_of_time(clock)) {
        in_time(file, &row.ip)?;
    }
    Ok(left_out.keep(rows.into_iter().map(|row| row.checked(clock))))
}

/// Times that no clock can have written become now, once: from then on they age.
fn in_time(file: &Connection, ip: &str) -> Result<(), Trouble> {
    const NOW: &str = "CAST(unixepoch('subsec') * 1000 AS INTEGER)";
    let update = format!(
        "UPDATE allocation SET ts = CASE WHEN ts = 0 OR ts BETWEEN {EARLIEST} AND unixepoch() + {AHEAD} THEN ts \
         ELSE unixepoch() END, claimed = CASE WHEN claim IS NULL OR claimed BETWEEN {EARLIEST}000 AND {NOW} + {AHEAD}000 \
         THEN claimed ELSE {NOW} END WHERE ip = ?1"
    );
    file.prepare_cached(&update)?.execute([ip])?;
    Ok(())
}
