//! Claims of single addresses: taking free rows that no other host has its hand on.
//!
//! A plain read of a few blocks on KEY whole (subnet,status,net) finds free rows of broken ones, fullest first (`window`). An
//! UPDATE joined to a locking read of the first of these by primary key takes them, and skips those that others have locked. Of many
//! hosts that found the same one has them: for the others more are named than are wanted, and they pass by one another. The rows
//! that carry the token now are read in the same packet.
//!
//! Where the window shows nothing to be had, the locking read goes along KEY cold (subnet,status,ts), on which it stops after
//! the rows that it takes and locks no others; on any other key it locks whatever it sorts. Rows of which nobody has written the
//! block are found so at the latest.

use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::Ipv4Net;
use tokio::time::Instant;

use crate::domain::address::Row;
use crate::domain::block::SIZE;

use super::super::clock::AHEAD;
use super::super::{FreeClaim, StoreError, raw};
use super::pool::{Checkout, Pool};
use super::token::Token;
use super::tries::{Before, Tries};
use super::trouble::{By, Trouble};
use super::window::{self, Window};
use super::{column, cooled, list, text};

/// So many times more rows are drawn from than are wanted, once others were in the way.
const DRAW: usize = 8;

struct Take {
    token: Token,
    /// The subnet, as SQL.
    subnet: String,
    /// How long a row must have cooled, and which rows are left alone: conditions on `ts` and `ip`.
    cooled: Option<(i64, i64)>,
    except: String,
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
    let take = Take {
        token: Token::new(wanted.eni, wanted.claim),
        subnet: text(wanted.subnet.as_str()),
        cooled: raw::cooling(wanted.cooldown, &pool.clock),
        except: list(wanted.except),
        count: wanted.count,
        sub_pool: wanted.sub_pool,
    };
    Tries::new(pool, until).run(|conn, before| take.once(conn, before)).await
}

impl Take {
    /// One attempt. All rows locked by others is a conflict, not an empty answer.
    async fn once(&self, mut conn: Checkout, before: Before) -> Result<Vec<Row>, Trouble> {
        let mut taken = self.token.taken(&mut conn, before).await?;
        if taken.is_empty() {
            taken = self.by_blocks(&mut conn, before).await?;
        }
        if taken.is_empty() {
            taken = self.anything(&mut conn, before).await?;
        }
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

    /// From broken blocks, and from whole ones what these do not have.
    async fn by_blocks(&self, conn: &mut Checkout, before: Before) -> Result<Vec<Row>, Trouble> {
        let Window { broken, whole } = self.window(conn).await?;
        let mut taken = Vec::new();
        self.of(conn, before, &broken, self.count, &mut taken).await?;
        if broken.len() < self.draw() {
            let lacking = self.count.saturating_sub(taken.len());
            let mut ips: Vec<_> = whole.iter().flat_map(|block| block.addresses()).collect();
            ips.retain(|ip| self.is_inside(*ip));
            self.of(conn, before, &ips, lacking.next_multiple_of(SIZE), &mut taken).await?;
        }
        Ok(taken)
    }

    /// Of the first ones of these as far as they are to be had, and where others are at them, of as many as are drawn from.
    async fn of(
        &self,
        conn: &mut Checkout,
        before: Before,
        ips: &[Ipv4Addr],
        first: usize,
        taken: &mut Vec<Row>,
    ) -> Result<(), Trouble> {
        let draw = ips.len().min(self.draw());
        let first = if before.contended { draw } else { first.min(draw) };
        for ips in [ips.get(..first), ips.get(..draw).filter(|_| first < draw)].into_iter().flatten() {
            let lacking = self.count.saturating_sub(taken.len());
            if lacking > 0 && !ips.is_empty() {
                *taken = self.token.take(conn, &[self.update(&self.by_key(ips), lacking)]).await?;
            }
        }
        Ok(())
    }

    async fn window(&self, conn: &mut Checkout) -> Result<Window, Trouble> {
        let mut window = window::look(conn, &self.subnet, self.sub_pool, &self.may("f."), self.draw()).await?;
        window.broken.retain(|ip| self.is_inside(*ip));
        Ok(window)
    }

    /// Wherever it lies.
    async fn anything(&self, conn: &mut Checkout, before: Before) -> Result<Vec<Row>, Trouble> {
        let rows = if self.sub_pool.is_some() || before.contended {
            let chosen = self.choose(conn).await?;
            if chosen.is_empty() {
                return Ok(Vec::new());
            }
            self.by_key(&chosen)
        } else {
            format!("FORCE INDEX (cold) WHERE {} ORDER BY ts", self.eligible())
        };
        self.token.take(conn, &[self.update(&rows, self.count)]).await
    }

    /// STRAIGHT_JOIN: a plan that began with `a` would lock all of it.
    fn update(&self, rows: &str, count: usize) -> String {
        format!(
            "UPDATE (SELECT ip FROM allocation {rows} LIMIT {count} FOR UPDATE SKIP LOCKED) s \
             STRAIGHT_JOIN allocation a ON a.ip=s.ip SET {}=0",
            self.token.becomes
        )
    }

    fn by_key(&self, ips: &[Ipv4Addr]) -> String {
        format!("FORCE INDEX (PRIMARY) WHERE ip IN ({}) AND {}", list(ips), self.eligible())
    }

    /// Which rows may be taken.
    fn eligible(&self) -> String {
        format!("subnet={} AND status='free' AND {}", self.subnet, self.may(""))
    }

    /// Which free ones of the subnet, in the table that `of` names.
    fn may(&self, of: &str) -> String {
        let cooled = cooled(of, self.cooled);
        let except =
            if self.except.is_empty() { String::new() } else { format!(" AND {of}ip NOT IN ({})", self.except) };
        format!("{of}`primary`=0{cooled}{except}")
    }

    fn is_inside(&self, ip: Ipv4Addr) -> bool {
        self.sub_pool.is_none_or(|net| net.contains(&ip))
    }

    fn draw(&self) -> usize {
        self.count.saturating_mul(DRAW).max(64)
    }

    /// Whether a plain read, which nobody's lock hides anything from, finds no row either.
    async fn none(&self, conn: &mut Checkout) -> Result<bool, Trouble> {
        if self.sub_pool.is_some() {
            return Ok(self.choose(conn).await?.is_empty());
        }
        let one = format!("SELECT 1 FROM allocation FORCE INDEX (cold) WHERE {} LIMIT 1", self.eligible());
        Ok(conn.rows(&one).await?.is_empty())
    }

    /// The rows to lock by key: a draw from the coldest ones. In a sub-pool they are chosen here, since `ip` sorts as text.
    async fn choose(&self, conn: &mut Checkout) -> Result<Vec<Ipv4Addr>, Trouble> {
        let (eligible, draw) = (self.eligible(), self.draw());
        let read = match self.sub_pool.map(|net| window::span(Some(net))) {
            Some((from, to)) => {
                let inside = format!("(net BETWEEN {from} AND {to} OR net IS NULL)");
                format!("SELECT ip FROM allocation FORCE INDEX (whole) WHERE {eligible} AND {inside} ORDER BY ts")
            }
            None => format!("SELECT ip FROM allocation FORCE INDEX (cold) WHERE {eligible} ORDER BY ts LIMIT {draw}"),
        };
        let rows = conn.rows(&read).await?;
        let mut ips = addresses(rows, conn.pool())?;
        ips.retain(|ip| self.is_inside(*ip));
        ips.truncate(self.draw());
        fastrand::shuffle(&mut ips);
        ips.truncate(self.count);
        Ok(ips)
    }
}

/// Of a read of `ip` alone.
pub(super) fn addresses(rows: Vec<mysql_async::Row>, pool: &Pool) -> Result<Vec<Ipv4Addr>, Trouble> {
    let ips = rows.into_iter().map(|mut row| column::<String>(&mut row, 0)).collect::<Result<Vec<_>, _>>()?;
    Ok(pool.left_out.keep(ips.iter().map(|ip| raw::address(ip))))
}
