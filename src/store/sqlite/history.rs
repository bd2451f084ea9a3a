//! Uses of addresses, in a file of one host: as on a server, and kept for longer than its journal keeps them.

use std::net::Ipv4Addr;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Params, Row, TransactionBehavior, params};

use crate::domain::history::{Ended, Use};
use crate::domain::id::{Claim, EniId};

use super::super::{MOST_USES, PAGE, raw};
use super::trouble::Trouble;
use super::write::NOW;

const COLUMNS: &str = "token, ip, eni, instance, name, renamed, container, network, named, begun, found, ended, how";

pub(super) fn tell(file: &mut Connection, uses: &[Use]) -> Result<(), Trouble> {
    let change = file.transaction_with_behavior(TransactionBehavior::Immediate)?;
    {
        let put = format!(
            "INSERT INTO history ({COLUMNS}, told) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, unixepoch()) \
             ON CONFLICT (token) DO UPDATE SET name = ?5, renamed = ?6, container = ?7, network = ?8, ended = ?12, how = ?13, \
             told = unixepoch()"
        );
        let mut put = change.prepare_cached(&put)?;
        for of in uses {
            put.execute(params![
                of.token.as_str(),
                of.ip.to_string(),
                of.eni.as_str(),
                of.instance,
                of.name,
                of.renamed,
                of.container,
                of.network,
                of.is_named,
                raw::millis(of.begun),
                of.was_found,
                of.end.map(|(at, _)| raw::millis(at)),
                of.end.map(|(_, how)| how.as_str())
            ])?;
        }
    }
    Ok(change.commit()?)
}

pub(super) fn of(file: &Connection, ip: Ipv4Addr) -> Result<Vec<Use>, Trouble> {
    matching(file, &format!("ip = ?1 ORDER BY begun DESC LIMIT {MOST_USES}"), [ip.to_string()])
}

/// All rows are looked at: they are one host's.
pub(super) fn of_container(file: &Connection, container: &str) -> Result<Vec<Use>, Trouble> {
    let mut found = matching(
        file,
        &format!(
            "name = ?1 OR renamed = ?1 OR substr(container, 1, length(?1)) = ?1 ORDER BY begun DESC LIMIT {MOST_USES}"
        ),
        [container],
    )?;
    found.retain(|it| it.is_of(container));
    Ok(found)
}

pub(super) fn at(file: &Connection, token: &str) -> Result<Option<Use>, Trouble> {
    Ok(matching(file, "token = ?1", [token])?.pop())
}

pub(super) fn since(file: &Connection) -> Result<Option<u64>, Trouble> {
    let since = file.query_row("SELECT min(told) * 1000 FROM history", [], |row| row.get::<_, Option<i64>>(0));
    Ok(since.optional()?.flatten().map(raw::moment))
}

pub(super) fn open(file: &Connection, after: &str, quiet: Duration) -> Result<Vec<Use>, Trouble> {
    let which = format!("ended IS NULL AND token > ?1 AND told < unixepoch() - ?2 ORDER BY token LIMIT {PAGE}");
    matching(file, &which, params![after, seconds(quiet)])
}

pub(super) fn close(file: &mut Connection, tokens: &[String], quiet: Duration) -> Result<u64, Trouble> {
    let change = file.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut closed = 0;
    {
        let close = format!(
            "UPDATE history SET ended = {NOW}, how = ?1, told = unixepoch() WHERE token = ?2 AND ended IS NULL \
             AND told < unixepoch() - ?3"
        );
        let mut close = change.prepare_cached(&close)?;
        for token in tokens {
            closed += count(close.execute(params![Ended::Gone.as_str(), token, seconds(quiet)])?);
        }
    }
    change.commit()?;
    Ok(closed)
}

pub(super) fn forget(file: &Connection, kept: Duration) -> Result<u64, Trouble> {
    let forget = format!(
        "DELETE FROM history WHERE token IN (SELECT token FROM history WHERE ended IS NOT NULL \
         AND (told < unixepoch() - ?1 OR ended < {NOW} - ?1 * 1000) LIMIT {PAGE})"
    );
    Ok(count(file.execute(&forget, [seconds(kept)])?))
}

fn count(rows: usize) -> u64 {
    u64::try_from(rows).unwrap_or(u64::MAX)
}

fn seconds(span: Duration) -> i64 {
    i64::try_from(span.as_secs()).unwrap_or(i64::MAX / 2)
}

fn matching(file: &Connection, which: &str, values: impl Params) -> Result<Vec<Use>, Trouble> {
    let mut read = file.prepare_cached(&format!("SELECT {COLUMNS} FROM history WHERE {which}"))?;
    let uses = read.query_map(values, of_row)?.filter_map(Result::transpose);
    Ok(uses.collect::<Result<_, _>>()?)
}

/// None: somebody has changed its address by hand to what is none.
fn of_row(row: &Row<'_>) -> rusqlite::Result<Option<Use>> {
    let Ok(ip) = raw::address(&row.get::<_, String>(1)?) else { return Ok(None) };
    let (ended, how): (Option<i64>, Option<String>) = (row.get(11)?, row.get(12)?);
    Ok(Some(Use {
        token: Claim::stored(row.get(0)?),
        ip,
        eni: EniId::stored(row.get(2)?),
        instance: row.get(3)?,
        name: row.get(4)?,
        renamed: row.get(5)?,
        container: row.get(6)?,
        network: row.get(7)?,
        is_named: row.get(8)?,
        begun: raw::moment(row.get(9)?),
        was_found: row.get(10)?,
        end: ended.map(|at| (raw::moment(at), Ended::stored(how.as_deref().unwrap_or_default()))),
    }))
}
