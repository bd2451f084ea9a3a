//! One use of an address as the file has it.
//!
//! Whatever ends or is named is written over its own row, and all else is put at the end. So there is no other key: whoever asks
//! reads a page at a time, from the end.

use rusqlite::{Connection, Row, params};

use super::line::Number;
use super::uses::{Kept, Uses};
use crate::domain::history::{Ended, MOST, Use};
use crate::domain::holding::Holding;
use crate::domain::id::{Claim, EniId};

/// `begun` and `ended` are Unix milliseconds; `told`: the table has it as it is. `kept`: one row, from when on all are here.
pub(super) const SCHEMA: &str = "\
    CREATE TABLE IF NOT EXISTS history(number INTEGER PRIMARY KEY, token TEXT NOT NULL, ip TEXT NOT NULL, eni TEXT NOT NULL,\
    name TEXT, renamed TEXT, container TEXT, network TEXT, named INTEGER NOT NULL, begun INTEGER NOT NULL,\
    found INTEGER NOT NULL, ended INTEGER, how TEXT, told INTEGER NOT NULL) STRICT;\
    CREATE TABLE IF NOT EXISTS kept(since INTEGER NOT NULL) STRICT";
const COLUMNS: &str = "number,token,ip,eni,name,renamed,container,network,named,begun,found,ended,how";
/// Rows that are read, or forgotten, at once: a millisecond or two, in which no grant is written.
pub(super) const PAGE: u32 = 1000;

/// Of a file that is new.
pub(super) fn begin(connection: &Connection, since: u64) -> rusqlite::Result<usize> {
    connection.execute("INSERT INTO kept VALUES (?1)", [signed(since)])
}

/// All that is to be in memory.
pub(super) fn load(connection: &Connection, holdings: &[Holding], now: u64) -> rusqlite::Result<Uses> {
    if connection.query_row("SELECT count(*) FROM kept", [], |row| row.get::<_, u32>(0))? == 0 {
        begin(connection, now)?;
    }
    let since: i64 = connection.query_row("SELECT since FROM kept", [], |row| row.get(0))?;
    let count = "SELECT count(*), coalesce(max(number) + 1, 0) FROM history";
    let (rows, next): (u32, i64) = connection.query_row(count, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut open = connection.prepare(&format!("SELECT {COLUMNS} FROM history WHERE ended IS NULL"))?;
    let open = open.query_map([], read)?.filter_map(Result::transpose).collect::<Result<_, _>>()?;
    Ok(Uses::of_file(open, unsigned(next), Kept { since: unsigned(since), rows: rows.into() }, holdings, now))
}

/// What is not on the disk yet. Where that is too many the oldest go that are over. Says what there is then, and what went.
pub(super) fn write(connection: &Connection, uses: &Uses) -> rusqlite::Result<(Kept, Vec<Number>)> {
    let (changed, told) = uses.unwritten();
    for (number, of) in changed {
        put(connection, number, of)?;
    }
    for number in told {
        connection.prepare_cached("UPDATE history SET told = 1 WHERE number = ?1")?.execute([signed(number)])?;
    }
    let Kept { mut since, mut rows } = uses.kept;
    rows += uses.more();
    let mut gone = Vec::new();
    if rows > MOST {
        let forget = format!("{FORGET} WHERE ended IS NOT NULL ORDER BY number LIMIT ?1) RETURNING number, ended");
        let mut forget = connection.prepare_cached(&forget)?;
        let most = (rows - MOST).min(u64::from(PAGE));
        let forgotten = forget.query_map([signed(most)], |row| Ok((row.get(0)?, row.get(1)?)))?;
        for each in forgotten {
            let (number, ended) = each?;
            gone.push(unsigned(number));
            since = since.max(unsigned(ended));
        }
        rows = rows.saturating_sub(u64::try_from(gone.len()).unwrap_or_default());
        connection.prepare_cached("UPDATE kept SET since = ?1")?.execute([signed(since)])?;
    }
    Ok((Kept { since, rows }, gone))
}

const FORGET: &str = "DELETE FROM history WHERE number IN (SELECT number FROM history";

/// Takes out a page of those that were over before that time, and says which.
pub(super) fn forget(connection: &Connection, before: u64) -> rusqlite::Result<Vec<Number>> {
    // What began later cannot have been over by then, and so nothing that follows.
    let forget = format!(
        "{FORGET} WHERE ended < ?1 AND number < coalesce((SELECT number FROM history WHERE begun > ?1 ORDER BY number \
         LIMIT 1), {}) ORDER BY number LIMIT {PAGE}) RETURNING number",
        i64::MAX
    );
    let mut forget = connection.prepare_cached(&forget)?;
    forget.query_map([signed(before)], |row| row.get(0).map(unsigned))?.collect()
}

/// Those before this one, the last first.
pub(super) fn page(connection: &Connection, before: Number) -> rusqlite::Result<Vec<(Number, Use)>> {
    let sql = format!("SELECT {COLUMNS} FROM history WHERE number < ?1 ORDER BY number DESC LIMIT {PAGE}");
    let mut page = connection.prepare_cached(&sql)?;
    page.query_map([signed(before)], read)?.filter_map(Result::transpose).collect()
}

/// This one.
pub(super) fn at(connection: &Connection, number: Number) -> rusqlite::Result<Option<Use>> {
    let mut at = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM history WHERE number = ?1"))?;
    let found = at.query_map([signed(number)], read)?.filter_map(Result::transpose).next();
    Ok(found.transpose()?.map(|(_, of)| of))
}

/// The numbers of those that the table does not have, or `again` of all, but for what was over before that time.
pub(super) fn untold(connection: &Connection, since: u64, again: bool) -> rusqlite::Result<Vec<Number>> {
    let sql = "SELECT number FROM history WHERE (told = 0 OR ?1) AND (ended IS NULL OR ended >= ?2)";
    let mut untold = connection.prepare(sql)?;
    untold.query_map(params![again, signed(since)], |row| row.get(0).map(unsigned))?.collect()
}

/// The last one that the table has as it is.
pub(super) fn last_told(connection: &Connection) -> rusqlite::Result<Option<Use>> {
    let sql = format!("SELECT {COLUMNS} FROM history WHERE told = 1 ORDER BY number DESC LIMIT 1");
    let mut last = connection.prepare(&sql)?;
    let found = last.query_map([], read)?.filter_map(Result::transpose).next();
    Ok(found.transpose()?.map(|(_, of)| of))
}

fn put(connection: &Connection, number: Number, of: &Use) -> rusqlite::Result<usize> {
    let Use { token, ip, eni, instance: _, name, renamed, container, network, is_named, begun, was_found, end } = of;
    let mut put = connection
        .prepare_cached("INSERT OR REPLACE INTO history VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,0)")?;
    put.execute(params![
        signed(number),
        token.as_str(),
        ip.to_string(),
        eni.as_str(),
        name,
        renamed,
        container,
        network,
        is_named,
        signed(*begun),
        was_found,
        end.map(|(at, _)| signed(at)),
        end.map(|(_, how)| how.as_str())
    ])
}

/// None: somebody has changed its address by hand to what is none.
fn read(row: &Row<'_>) -> rusqlite::Result<Option<(Number, Use)>> {
    let Ok(ip) = row.get::<_, String>(2)?.parse() else { return Ok(None) };
    let (ended, how): (Option<i64>, Option<String>) = (row.get(11)?, row.get(12)?);
    let of = Use {
        token: Claim::stored(row.get(1)?),
        ip,
        eni: EniId::stored(row.get(3)?),
        instance: None,
        name: row.get(4)?,
        renamed: row.get(5)?,
        container: row.get(6)?,
        network: row.get(7)?,
        is_named: row.get(8)?,
        begun: unsigned(row.get(9)?),
        was_found: row.get(10)?,
        end: ended.map(|at| (unsigned(at), Ended::stored(how.as_deref().unwrap_or_default()))),
    };
    Ok(Some((unsigned(row.get(0)?), of)))
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}
