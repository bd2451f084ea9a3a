//! Uses of addresses, as hosts tell them.
//!
//! A row is its lease's, and each telling writes all that is known: again after a lost answer is the same. Only what cannot be
//! known later is not written over: when it began.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::history::{Ended, Use, is_part_of_an_id};
use crate::domain::id::{Claim, EniId};

use super::super::{MOST_USES, PAGE, StoreError, raw};
use super::pool::{Checkout, Pool};
use super::tries::{Before, Tries};
use super::{column, maybe, text};

type Result<T> = std::result::Result<T, StoreError>;

const COLUMNS: &str = "token,ip,eni,instance,name,renamed,container,network,named,begun,found,ended,how";
/// Rows to a statement and a commit: 1.5 KiB each at worst, below the smallest `max_allowed_packet` in use (1 MiB).
const CHUNK: usize = 200;
/// `ended`, now.
const NOW: &str = "CAST(UNIX_TIMESTAMP(NOW(3))*1000 AS SIGNED)";

/// In order of their key, so that two servers that tell of one ENI cannot deadlock.
pub(super) async fn tell(pool: &Arc<Pool>, uses: &[Use], until: Instant) -> Result<()> {
    let mut order: Vec<&Use> = uses.iter().collect();
    order.sort_by_key(|of| of.token.as_str());
    for chunk in order.chunks(CHUNK) {
        let values: Vec<String> = chunk.iter().map(|of| values(of)).collect();
        let put = format!(
            "INSERT INTO history ({COLUMNS},told) VALUES {} ON DUPLICATE KEY UPDATE name=VALUES(name),\
             renamed=VALUES(renamed),container=VALUES(container),network=VALUES(network),ended=VALUES(ended),\
             how=VALUES(how),told=NOW()",
            values.join(",")
        );
        let attempt = async |mut conn: Checkout, _: Before| {
            conn.send(&put, 1).await?;
            conn.keep();
            Ok(())
        };
        Tries::new(pool, until).run(attempt).await?;
    }
    Ok(())
}

fn values(of: &Use) -> String {
    let ended = of
        .end
        .map_or_else(|| "NULL,NULL".to_owned(), |(at, how)| format!("{},{}", raw::millis(at), text(how.as_str())));
    format!(
        "({},'{}',{},{},{},{},{},{},{},{},{},{ended},NOW())",
        text(of.token.as_str()),
        of.ip,
        text(of.eni.as_str()),
        maybe(of.instance.as_deref()),
        maybe(of.name.as_deref()),
        maybe(of.renamed.as_deref()),
        maybe(of.container.as_deref()),
        maybe(of.network.as_deref()),
        u8::from(of.is_named),
        raw::millis(of.begun),
        u8::from(of.was_found),
    )
}

/// The last ones of an address, by KEY of.
pub(super) async fn of(pool: &Arc<Pool>, ip: Ipv4Addr, until: Instant) -> Result<Vec<Use>> {
    matching(pool, &format!("ip='{ip}' ORDER BY begun DESC LIMIT {MOST_USES}"), until).await
}

/// The last ones of a container, by one key for each of its names. A name compares as equal in other letters too.
pub(super) async fn of_container(pool: &Arc<Pool>, container: &str, until: Instant) -> Result<Vec<Use>> {
    let named = text(container);
    let by_id = if is_part_of_an_id(container) {
        format!(" UNION SELECT {COLUMNS} FROM history WHERE container LIKE '{container}%'")
    } else {
        String::new()
    };
    let which = format!(
        "name={named} UNION SELECT {COLUMNS} FROM history WHERE renamed={named}{by_id} ORDER BY begun DESC LIMIT {MOST_USES}"
    );
    let mut found = matching(pool, &which, until).await?;
    found.retain(|it| it.is_of(container));
    Ok(found)
}

/// This one.
pub(super) async fn at(pool: &Arc<Pool>, token: &Claim, until: Instant) -> Result<Option<Use>> {
    Ok(matching(pool, &format!("token={}", text(token.as_str())), until).await?.pop())
}

/// Since when some is kept, in Unix milliseconds, by KEY over.
pub(super) async fn since(pool: &Arc<Pool>, until: Instant) -> Result<Option<u64>> {
    let attempt = async |mut conn: Checkout, _: Before| {
        let rows = conn.rows("SELECT CAST(UNIX_TIMESTAMP(MIN(told))*1000 AS SIGNED) FROM history").await?;
        conn.keep();
        let since = rows.into_iter().next().map(|mut row| column::<Option<i64>>(&mut row, 0)).transpose()?;
        Ok(since.flatten().and_then(|since| u64::try_from(since).ok()))
    };
    Tries::new(pool, until).run(attempt).await
}

/// A page of those that are not over, and of which nothing was told for so long: by KEY open, which goes on with the token.
pub(super) async fn open(pool: &Arc<Pool>, after: &str, quiet: Duration, until: Instant) -> Result<Vec<Use>> {
    let which = format!(
        "ended IS NULL AND token>{} AND told<NOW()-INTERVAL {} SECOND ORDER BY token LIMIT {PAGE}",
        text(after),
        quiet.as_secs()
    );
    matching(pool, &which, until).await
}

/// Ends them, unless their host has told anything of them meanwhile.
pub(super) async fn close(pool: &Arc<Pool>, tokens: &[Claim], quiet: Duration, until: Instant) -> Result<u64> {
    let tokens: Vec<String> = tokens.iter().map(|token| text(token.as_str())).collect();
    let close = format!(
        "UPDATE history SET ended={NOW},how={},told=NOW() WHERE token IN ({}) AND ended IS NULL \
         AND told<NOW()-INTERVAL {} SECOND",
        text(Ended::Gone.as_str()),
        tokens.join(","),
        quiet.as_secs()
    );
    count(pool, &close, until).await
}

/// A few of those that were over for so long, by KEY open; and, whatever the clock of their host says, of those that were told for
/// so long that they are, by KEY over.
pub(super) async fn forget(pool: &Arc<Pool>, kept: Duration, until: Instant) -> Result<u64> {
    let kept = kept.as_secs();
    let over = format!("DELETE FROM history WHERE ended<{NOW}-{kept}*1000 ORDER BY ended LIMIT {PAGE}");
    let told = format!(
        "DELETE FROM history WHERE told<NOW()-INTERVAL {kept} SECOND AND ended IS NOT NULL ORDER BY told LIMIT {PAGE}"
    );
    Ok(count(pool, &over, until).await? + count(pool, &told, until).await?)
}

async fn count(pool: &Arc<Pool>, statement: &str, until: Instant) -> Result<u64> {
    let attempt = async |mut conn: Checkout, _: Before| {
        let answers = conn.send(statement, 1).await?;
        conn.keep();
        Ok(answers.iter().map(|answer| answer.found).sum())
    };
    Tries::new(pool, until).run(attempt).await
}

async fn matching(pool: &Arc<Pool>, which: &str, until: Instant) -> Result<Vec<Use>> {
    let read = format!("SELECT {COLUMNS} FROM history WHERE {which}");
    let attempt = async |mut conn: Checkout, _: Before| {
        let rows = conn.rows(&read).await?.into_iter();
        conn.keep();
        let read = |mut row: mysql_async::Row| {
            let Ok(ip) = raw::address(&column::<String>(&mut row, 1)?) else { return Ok(None) };
            let (ended, how): (Option<i64>, Option<String>) = (column(&mut row, 11)?, column(&mut row, 12)?);
            Ok(Some(Use {
                token: Claim::stored(column(&mut row, 0)?),
                ip,
                eni: EniId::stored(column(&mut row, 2)?),
                instance: column(&mut row, 3)?,
                name: column(&mut row, 4)?,
                renamed: column(&mut row, 5)?,
                container: column(&mut row, 6)?,
                network: column(&mut row, 7)?,
                is_named: column(&mut row, 8)?,
                begun: raw::moment(column(&mut row, 9)?),
                was_found: column(&mut row, 10)?,
                end: ended.map(|at| (raw::moment(at), Ended::stored(how.as_deref().unwrap_or_default()))),
            }))
        };
        rows.filter_map(|row| read(row).transpose()).collect()
    };
    Tries::new(pool, until).run(attempt).await
}
