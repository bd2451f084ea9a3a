//! Claims: taking free rows that no other host has its hand on.
//!
//! An UPDATE joined to a locking read of the coldest rows that skips locked ones; the rows that carry the token now are read
//! in the same packet. On KEY cold (subnet,status,ts) the locking read stops after the rows it takes and locks no others; on
//! any other key it locks whatever it sorts. Where rows have to be chosen one by one (a sub-pool: `ip` sorts as text) or
//! others were in the way, they are chosen by a plain read and locked by primary key.
//!
//! The token also tells whether a packet whose answer was lost took effect, so it is looked up before anything else. A
//! packet that was given up may not have come to its end yet (a Galera cluster that loses a node holds commits back for
//! seconds): as long as the server has it in hand there is nothing to look up, and a second one would take twice.

use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::Ipv4Net;
use tokio::time::Instant;

use crate::domain::address::Row;

use super::super::clock::AHEAD;
use super::super::{FreeClaim, StoreError, raw};
use super::pool::{Answer, Checkout, Pool};
use super::read::{self, ROWS};
use super::tries::{Before, Tries};
use super::trouble::{By, Trouble};
use super::{column, list, text};

/// So many times more of the coldest rows are drawn from than are wanted, so that hosts choose different ones.
const DRAW: usize = 8;

struct Take {
    token: String,
    /// The subnet, as SQL.
    subnet: String,
    /// Which rows may be taken.
    eligible: String,
    /// What becomes of them; the table is `a`.
    becomes: String,
    /// Which rows carry the token.
    carries: String,
    count: usize,
    sub_pool: Option<Ipv4Net>,
}

pub(super) async fn claim_free(
    pool: &Arc<Pool>,
    wanted: &FreeClaim<'_>,
    until: Instant,
) -> Result<Vec<Row>, StoreError> {
    if wanted.count == 0 {
        return Ok(Vec::new());
    }
    let (eni, claim) = (text(wanted.eni.as_str()), text(wanted.claim.as_str()));
    let subnet = text(wanted.subnet.as_str());
    let cooled = raw::cooling(wanted.cooldown, &pool.clock).map_or_else(String::new, |(seconds, latest)| {
        format!(" AND ts<=LEAST(NOW(),FROM_UNIXTIME({latest}))-INTERVAL {seconds} SECOND")
    });
    let except =
        if wanted.except.is_empty() { String::new() } else { format!(" AND ip NOT IN ({})", list(wanted.except)) };
    let take = Take {
        token: wanted.claim.to_string(),
        eligible: format!("subnet={subnet} AND status='free' AND `primary`=0{cooled}{except}"),
        becomes: format!("a.status='allocated',a.iface={eni},a.claim={claim},a.claimed=NOW(3),a.holder=NULL,a.ts=a.ts"),
        carries: format!("iface={eni} AND status='allocated' AND claim={claim}"),
        count: wanted.count,
        sub_pool: wanted.sub_pool,
        subnet,
    };
    Tries::new(pool, until).run(|conn, before| take.once(conn, before)).await
}

impl Take {
    /// One attempt. All rows locked by others is a conflict, not an empty answer.
    async fn once(&self, mut conn: Checkout, before: Before) -> Result<Vec<Row>, Trouble> {
        let Self { becomes, eligible, carries, .. } = self;
        let look = format!("{ROWS} FORCE INDEX (mine) WHERE {carries}");
        if before.unclear {
            if self.in_hand(&mut conn).await? {
                conn.keep();
                return Err(Trouble::Conflict(By::Calls));
            }
            let taken = read::rows(conn.rows(&look).await?, conn.pool())?;
            if !taken.is_empty() {
                conn.keep();
                return Ok(taken);
            }
        }
        let rows = if self.sub_pool.is_some() || before.contended {
            let chosen = self.choose(&mut conn).await?;
            if chosen.is_empty() {
                conn.keep();
                return Ok(Vec::new());
            }
            format!("FORCE INDEX (PRIMARY) WHERE ip IN ({}) AND {eligible}", list(&chosen))
        } else {
            format!("FORCE INDEX (cold) WHERE {eligible} ORDER BY ts")
        };
        // STRAIGHT_JOIN: a plan that began with `a` would lock all of it.
        let packet = format!(
            "UPDATE (SELECT ip FROM allocation {rows} LIMIT {} FOR UPDATE SKIP LOCKED) s \
             STRAIGHT_JOIN allocation a ON a.ip=s.ip SET {becomes};{look}",
            self.count
        );
        let taken = match conn.send(&packet, 2).await?.pop() {
            // All that it took is left out: on to others.
            Some(Answer { rows, .. }) if !rows.is_empty() => match read::rows(rows, conn.pool())? {
                none if none.is_empty() => return Err(Trouble::Conflict(By::Rows)),
                taken => taken,
            },
            Some(_) | None => Vec::new(),
        };
        if taken.is_empty() {
            if !self.none(&mut conn).await? {
                return Err(Trouble::Conflict(By::Rows));
            }
            // Nobody reads free rows: without this they would cool until a clock that was set back has caught up.
            let wrong = format!("subnet={} AND status='free' AND ts>NOW()+INTERVAL {AHEAD} SECOND", self.subnet);
            conn.send(&format!("UPDATE allocation FORCE INDEX (cold) SET ts=NOW() WHERE {wrong}"), 1).await?;
        }
        conn.keep();
        Ok(taken)
    }

    /// Whether the server is still at a packet of an earlier attempt. A user without privileges sees its own.
    async fn in_hand(&self, conn: &mut Checkout) -> Result<bool, Trouble> {
        const INFO: usize = 7;
        let token = self.token.as_bytes();
        let mut found = false;
        for mut row in conn.rows("SHOW FULL PROCESSLIST").await? {
            let info: Option<Vec<u8>> = column(&mut row, INFO)?;
            found |= info.is_some_and(|info| info.windows(token.len()).any(|part| part == token));
        }
        Ok(found)
    }

    /// Whether a plain read, which nobody's lock hides anything from, finds no row either.
    async fn none(&self, conn: &mut Checkout) -> Result<bool, Trouble> {
        if self.sub_pool.is_some() {
            return Ok(self.choose(conn).await?.is_empty());
        }
        let one = format!("SELECT 1 FROM allocation FORCE INDEX (cold) WHERE {} LIMIT 1", self.eligible);
        Ok(conn.rows(&one).await?.is_empty())
    }

    /// The rows to lock by key: a draw from the coldest ones.
    async fn choose(&self, conn: &mut Checkout) -> Result<Vec<Ipv4Addr>, Trouble> {
        let draw = self.count.saturating_mul(DRAW).max(64);
        let limit = if self.sub_pool.is_some() { String::new() } else { format!(" LIMIT {draw}") };
        let eligible = &self.eligible;
        let read = format!("SELECT ip FROM allocation FORCE INDEX (cold) WHERE {eligible} ORDER BY ts{limit}");
        let rows = conn.rows(&read).await?;
        let mut ips = addresses(rows, conn.pool())?;
        ips.retain(|ip| self.sub_pool.is_none_or(|net| net.contains(ip)));
        ips.truncate(draw);
        fastrand::shuffle(&mut ips);
        ips.truncate(self.count);
        Ok(ips)
    }
}

fn addresses(rows: Vec<mysql_async::Row>, pool: &Pool) -> Result<Vec<Ipv4Addr>, Trouble> {
    let ips = rows.into_iter().map(|mut row| column::<String>(&mut row, 0)).collect::<Result<Vec<_>, _>>()?;
    Ok(pool.left_out.keep(ips.iter().map(|ip| raw::address(ip))))
}
