//! One address as the file has it.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, Row, params};

use crate::domain::holding::{Held, Holding, Moment};
use crate::domain::id::{Claim, EniId, SubnetId};

/// `sum`: of the rest. What a disk has garbled is not to be taken for somebody's address.
pub(super) const SCHEMA: &str = "\
    CREATE TABLE IF NOT EXISTS holding(ip TEXT PRIMARY KEY, eni TEXT NOT NULL, subnet TEXT NOT NULL, state TEXT NOT NULL,\
    token TEXT, holder TEXT, boot TEXT NOT NULL, since_boot INTEGER NOT NULL, wall INTEGER NOT NULL, posted INTEGER NOT NULL,\
    doubted INTEGER NOT NULL, sum INTEGER NOT NULL) STRICT, WITHOUT ROWID";

pub(super) fn put(connection: &Connection, holding: &Holding) -> rusqlite::Result<usize> {
    let Holding { ip, eni, subnet, held, holder, let_go, posted, doubted } = holding;
    let mut put =
        connection.prepare_cached("INSERT OR REPLACE INTO holding VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12)")?;
    put.execute(params![
        ip.to_string(),
        eni.as_str(),
        subnet.as_str(),
        word(held),
        held.token().map(Claim::as_str),
        holder,
        &*let_go.boot,
        millis(let_go.since_boot),
        millis(let_go.wall),
        posted,
        doubted,
        sum(holding)
    ])
}

pub(super) fn strike(connection: &Connection, ip: Ipv4Addr) -> rusqlite::Result<usize> {
    connection.prepare_cached("DELETE FROM holding WHERE ip = ?1")?.execute([ip.to_string()])
}

/// All of them.
pub(super) fn all(connection: &Connection, now: &Moment) -> Result<Vec<Holding>, String> {
    let mut all = connection.prepare("SELECT * FROM holding").map_err(told)?;
    let all = all.query_map([], |row| Ok(holding(row))).map_err(told)?;
    let all = all.map(|row| row.map_err(told).and_then(|holding| holding));
    all.map(|holding| holding.map(|holding| ran_on(holding, now))).collect()
}

fn holding(row: &Row<'_>) -> Result<Holding, String> {
    let text = |at| row.get::<_, String>(at).map_err(told);
    let token = row.get::<_, Option<String>>(4).map_err(told)?.map(Claim::stored);
    let held = match (text(3)?.as_str(), token) {
        ("idle", None) => Held::Idle,
        ("lease", Some(token)) => Held::Lease(token),
        ("leaving", Some(token)) => Held::Leaving(token),
        (state, token) => return Err(format!("an address is {state:?} by {token:?}")),
    };
    let span = |at| {
        row.get::<_, i64>(at).map_err(told).and_then(|n| u64::try_from(n).map(Duration::from_millis).map_err(told))
    };
    let holding = Holding {
        ip: text(0)?.parse().map_err(|_| "an address is none".to_owned())?,
        eni: EniId::stored(text(1)?),
        subnet: SubnetId::stored(text(2)?),
        held,
        holder: row.get(5).map_err(told)?,
        let_go: Moment { boot: text(6)?.into(), since_boot: span(7)?, wall: span(8)? },
        posted: row.get(9).map_err(told)?,
        doubted: row.get(10).map_err(told)?,
    };
    let is_whole = row.get::<_, i64>(11).map_err(told)? == sum(&holding);
    if is_whole { Ok(holding) } else { Err(format!("what it says of {} is garbled", holding.ip)) }
}

/// A clock that was set since: from now on it runs.
fn ran_on(mut holding: Holding, now: &Moment) -> Holding {
    let let_go = &mut holding.let_go;
    let is_ahead = if let_go.boot == now.boot { let_go.since_boot > now.since_boot } else { let_go.wall > now.wall };
    if is_ahead {
        *let_go = now.clone();
    } else if let_go.boot == now.boot {
        let_go.boot = Arc::clone(&now.boot);
    }
    holding
}

/// FNV-1a of what it says: the same in every version of the driver.
fn sum(holding: &Holding) -> i64 {
    let Holding { ip, eni, subnet, held, holder, let_go, posted, doubted } = holding;
    let token = held.token().map_or("", Claim::as_str);
    let (named, holder) = (holder.is_some(), holder.as_deref().unwrap_or_default());
    let Moment { boot, since_boot, wall } = let_go;
    let (held, since_boot, wall) = (word(held), millis(*since_boot), millis(*wall));
    let text =
        format!("{ip} {eni} {subnet} {held} {token} {named} {holder} {boot} {since_boot} {wall} {posted} {doubted}");
    let step = |sum: u64, byte: u8| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, step).cast_signed()
}

fn word(held: &Held) -> &'static str {
    match held {
        Held::Idle => "idle",
        Held::Lease(_) => "lease",
        Held::Leaving(_) => "leaving",
    }
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

fn told(why: impl std::fmt::Display) -> String {
    why.to_string()
}
