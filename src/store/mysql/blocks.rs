//! Claims of whole blocks: all sixteen rows or none, by one statement each.
//!
//! It counts the free ones among sixteen exact keys, locked and those that others have locked left out, and takes them if it has
//! counted sixteen. So what the caller saw may be old, and `net` wrong: a candidate that is not whole any more changes nothing,
//! and the next one is tried.

use std::net::Ipv4Addr;
use std::sync::Arc;

use tokio::time::Instant;

use crate::domain::address::Row;
use crate::domain::block::{Block, SIZE};

use super::super::{BlockClaim, StoreError, raw};
use super::pool::{Checkout, Pool};
use super::token::Token;
use super::tries::{Before, Tries};
use super::{cooled, list, text};

pub(super) async fn claim_blocks(
    pool: &Arc<Pool>,
    wanted: &BlockClaim<'_>,
    until: Instant,
) -> Result<Vec<Row>, StoreError> {
    let (token, subnet) = (Token::new(wanted.eni, wanted.claim), text(wanted.subnet.as_str()));
    let cooled = cooled("", raw::cooling(wanted.cooldown, &pool.clock));
    let statement = |block: &Block| {
        let ips = list(&block.addresses().collect::<Vec<Ipv4Addr>>());
        format!(
            "UPDATE (SELECT COUNT(*) AS free FROM allocation FORCE INDEX (PRIMARY) WHERE ip IN ({ips}) AND subnet={subnet} \
             AND status='free' AND `primary`=0{cooled} HAVING free={SIZE} FOR UPDATE SKIP LOCKED) s \
             STRAIGHT_JOIN allocation a FORCE INDEX (PRIMARY) ON a.ip IN ({ips}) SET {}=1",
            token.becomes
        )
    };
    let attempt = async |mut conn: Checkout, before: Before| {
        let mut taken = token.taken(&mut conn, before).await?;
        let mut candidates = wanted.candidates;
        while let lacking @ 1.. = wanted.count.saturating_sub(taken.len() / SIZE)
            && let Some((next, rest)) = candidates.split_at_checked(lacking.min(candidates.len()))
            && !next.is_empty()
        {
            candidates = rest;
            let statements: Vec<_> = next.iter().map(&statement).collect();
            taken = token.take(&mut conn, &statements).await?;
        }
        conn.keep();
        Ok(taken)
    };
    Tries::new(pool, until).run(attempt).await
}
