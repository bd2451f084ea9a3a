//! Guarded changes: all of a call in one transaction, rows in order of address so that two hosts cannot deadlock.

use std::slice;
use std::sync::Arc;

use tokio::time::Instant;

use crate::domain::address::{Change, Guard, Holder, Row};
use crate::domain::id::{Claim, EniId};

use super::super::StoreError;
use super::pool::{Checkout, Pool};
use super::read;
use super::tries::Tries;
use super::trouble::Trouble;
use super::{maybe, text};

/// Keeps a packet below the smallest `max_allowed_packet` in use (1 MiB): a change takes 300 bytes, 1.5 KiB at worst.
const CHUNK: usize = 500;

pub(super) async fn apply(pool: &Arc<Pool>, changes: &[Change], until: Instant) -> Result<Vec<bool>, StoreError> {
    let mut order: Vec<(usize, &Change)> = changes.iter().enumerate().collect();
    order.sort_by_key(|(_, change)| change.ip);
    let mut found = Tries::new(pool, until).run(|conn, before| once(conn, &order, before.unclear)).await?;
    found.sort_by_key(|(index, _)| *index);
    Ok(found.into_iter().map(|(_, found)| found).collect())
}

async fn once(mut conn: Checkout, order: &[(usize, &Change)], unclear: bool) -> Result<Vec<(usize, bool)>, Trouble> {
    let mut found = Vec::with_capacity(order.len());
    if let [(index, change)] = order {
        let answers = conn.send(&sql(change), 1).await?;
        found.push((*index, answers.iter().any(|answer| answer.found > 0)));
    } else {
        conn.send("START TRANSACTION", 1).await?;
        for chunk in order.chunks(CHUNK) {
            let packet = chunk.iter().map(|(_, change)| sql(change)).collect::<Vec<_>>().join(";");
            let answers = conn.send(&packet, chunk.len()).await?;
            found.extend(chunk.iter().zip(answers).map(|((index, _), answer)| (*index, answer.found > 0)));
        }
        conn.send("COMMIT", 1).await?;
    }
    if unclear {
        happened(&mut conn, order, &mut found).await?;
    }
    conn.keep();
    Ok(found)
}

/// After a lost answer: a row that is as it was to become has become so.
async fn happened(conn: &mut Checkout, order: &[(usize, &Change)], found: &mut [(usize, bool)]) -> Result<(), Trouble> {
    for ((_, change), (_, found)) in order.iter().zip(found.iter_mut()).filter(|(_, (_, found))| !found) {
        *found = has_become(conn, slice::from_ref(change)).await?;
    }
    Ok(())
}

/// Whether all rows are as they were to become.
pub(super) async fn has_become(conn: &mut Checkout, changes: &[Change]) -> Result<bool, Trouble> {
    let rows = read::at(conn, &changes.iter().map(|change| change.ip).collect::<Vec<_>>()).await?;
    Ok(changes.iter().all(|change| rows.iter().any(|row| row.ip == change.ip && is_after(row, change))))
}

/// Whatever its ages are.
fn is_after(row: &Row, change: &Change) -> bool {
    Row { idle: row.idle, claimed: row.claimed, ..change.after(row) } == *row
}

/// By primary key: locks its own row alone.
fn sql(change: &Change) -> String {
    let set: Vec<_> = assignments(change).iter().map(|(column, value)| format!("{column}={value}")).collect();
    format!("UPDATE allocation SET {} WHERE ip='{}' AND {}", set.join(","), change.ip, guard(&change.from))
}

/// What the row must be.
pub(super) fn guard(from: &Guard) -> String {
    format!(
        "status='{}' AND iface<=>{} AND claim<=>{} AND holder<=>{} AND in_block={}",
        from.status.as_str(),
        eni(from.iface.as_ref()),
        token(from.claim.as_ref()),
        maybe(from.holder.as_deref()),
        u8::from(from.in_block),
    )
}

/// Columns, and what becomes of them: the same ones for each change.
pub(super) fn assignments(Change { to, let_go, .. }: &Change) -> [(&'static str, String); 8] {
    [
        ("status", format!("'{}'", to.status.as_str())),
        ("iface", eni(to.iface.as_ref())),
        ("claim", token(to.claim.as_ref())),
        ("claimed", if to.claim.is_some() { "NOW(3)" } else { "NULL" }.to_owned()),
        (
            "holder",
            match &to.holder {
                Holder::Keep => "holder".to_owned(),
                Holder::Clear => "NULL".to_owned(),
                Holder::Set(holder) => text(holder),
            },
        ),
        ("`primary`", to.primary.map_or_else(|| "`primary`".to_owned(), |primary| u8::from(primary).to_string())),
        ("in_block", u8::from(to.in_block).to_string()),
        ("ts", let_go.map_or_else(|| "ts".to_owned(), |age| format!("NOW() - INTERVAL {} SECOND", age.as_secs()))),
    ]
}

fn eni(eni: Option<&EniId>) -> String {
    maybe(eni.map(EniId::as_str))
}

fn token(claim: Option<&Claim>) -> String {
    maybe(claim.map(Claim::as_str))
}
