//! Plain reads.

use std::cmp::Reverse;
use std::net::Ipv4Addr;

use rusqlite::{Connection, Params};

use crate::address::Row;
use crate::id::{EniId, SubnetId};

use super::super::Count;
use super::super::raw::{self, Raw};
use super::trouble::Trouble;

const ROWS: &str = "SELECT ip, subnet, status, iface, \"primary\", claim, holder, \
    max(unixepoch() - ts, 0), max(CAST(unixepoch('subsec') * 1000 AS INTEGER) - claimed, 0) / 1000 FROM allocation WHERE ";

pub(super) fn version(file: &Connection) -> Result<String, Trouble> {
    Ok(file.query_row("SELECT sqlite_version()", [], |row| row.get(0))?)
}

pub(super) fn rows_at(file: &Connection, mut ips: Vec<Ipv4Addr>) -> Result<Vec<Row>, Trouble> {
    ips.sort_unstable();
    ips.dedup();
    let mut rows = Vec::with_capacity(ips.len());
    for ip in ips {
        rows.extend(matching(file, "ip = ?1", [ip.to_string()])?);
    }
    Ok(rows)
}

pub(super) fn rows_of_eni(file: &Connection, eni: &EniId) -> Result<Vec<Row>, Trouble> {
    let mut rows = matching(file, "iface = ?1", [eni.as_str()])?;
    rows.sort_unstable_by_key(|row| (Reverse(row.idle), row.ip));
    Ok(rows)
}

pub(super) fn rows_of_subnet(file: &Connection, subnet: &SubnetId, free_too: bool) -> Result<Vec<Row>, Trouble> {
    let taken = if free_too { "" } else { " AND status IN ('ready','allocated','occupied','reserved')" };
    let mut rows = matching(file, &format!("subnet = ?1{taken}"), [subnet.as_str()])?;
    rows.sort_unstable_by_key(|row| row.ip);
    Ok(rows)
}

pub(super) fn census(file: &Connection, subnet: &SubnetId) -> Result<Vec<Count>, Trouble> {
    let kind = raw::CLAIM_KIND;
    let read = format!(
        "SELECT status, {kind} AS kind, iface, count(*) FROM allocation WHERE subnet = ?1 GROUP BY status, kind, iface"
    );
    let mut statement = file.prepare_cached(&read)?;
    let groups = statement.query_map([subnet.as_str()], |row| {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?, u64::from(row.get::<_, u32>(3)?)))
    })?;
    raw::census(groups.collect::<Result<_, _>>()?).map_err(Trouble::Broken)
}

fn matching(file: &Connection, which: &str, values: impl Params) -> Result<Vec<Row>, Trouble> {
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
            idle: row.get::<_, u32>(7)?.into(),
            claimed: row.get::<_, Option<u32>>(8)?.map(u64::from),
        })
    })?;
    rows.map(|row| row?.checked().map_err(Trouble::Broken)).collect()
}
