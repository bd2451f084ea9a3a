//! Guarded changes: all of a call in one transaction, rows in order of address so that two hosts cannot deadlock.

use std::sync::Arc;

use tokio::time::Instant;

use crate::domain::address::{Change, Holder, Row};
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
        *found = read::at(conn, &[change.ip]).await?.iter().any(|row| is_after(row, change));
    }
    Ok(())
}

/// Whatever its ages are.
fn is_after(row: &Row, change: &Change) -> bool {
    Row { idle: row.idle, claimed: row.claimed, ..change.after(row) } == *row
}

/// By primary key: locks its own row alone.
fn sql(change: &Change) -> String {
    let Change { ip, from, to, let_go } = change;
    let claimed = if to.claim.is_some() { "NOW(3)" } else { "NULL" };
    let holder = match &to.holder {
        Holder::Keep => String::new(),
        Holder::Clear => ",holder=NULL".to_owned(),
        Holder::Set(holder) => format!(",holder={}", text(holder)),
    };
    let primary = to.primary.map_or_else(String::new, |primary| format!(",`primary`={}", u8::from(primary)));
    let ts = let_go.map_or_else(|| "ts".to_owned(), |age| format!("NOW() - INTERVAL {} SECOND", age.as_secs()));
    format!(
        "UPDATE allocation SET status='{}',iface={},claim={},claimed={claimed}{holder}{primary},ts={ts} \
         WHERE ip='{ip}' AND status='{}' AND iface<=>{} AND claim<=>{} AND holder<=>{}",
        to.status.as_str(),
        eni(to.iface.as_ref()),
        token(to.claim.as_ref()),
        from.status.as_str(),
        eni(from.iface.as_ref()),
        token(from.claim.as_ref()),
        maybe(from.holder.as_deref()),
    )
}

fn eni(eni: Option<&EniId>) -> String {
    maybe(eni.map(EniId::as_str))
}

fn token(claim: Option<&Claim>) -> String {
    maybe(claim.map(Claim::as_str))
}
