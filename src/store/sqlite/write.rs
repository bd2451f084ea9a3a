//! Claims, guarded changes and new rows: each in a transaction that takes the file's write lock at once.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, named_params, params};

use crate::domain::address::{Change, Holder, NewRow, Row};
use crate::domain::block::{Block, SIZE};
use crate::domain::id::{Claim, EniId, SubnetId};

use super::super::clock::AHEAD;
use super::super::{FreeClaim, raw};
use super::trouble::Trouble;
use super::{Known, read};

/// `claimed`, in Unix milliseconds.
pub(super) const NOW: &str = "CAST(unixepoch('subsec') * 1000 AS INTEGER)";

/// The free rows of a subnet, and which of them may be taken: let go at least `?2` seconds ago, none: at any time, by a clock that
/// shows no more than `?3`.
const FREE: &str = "SELECT ip, \"primary\" = 0 AND (?2 IS NULL OR ts <= min(unixepoch(), ?3) - ?2) FROM allocation \
                    WHERE subnet = ?1 AND status = 'free'";

/// A claim with all that it needs, to be carried to another thread.
pub(super) struct Take {
    subnet: String,
    eni: String,
    claim: String,
    sub_pool: Option<Ipv4Net>,
    cooldown: Duration,
    except: Vec<Ipv4Addr>,
    count: usize,
}

impl Take {
    pub(super) fn new(wanted: &FreeClaim<'_>) -> Self {
        Self {
            subnet: wanted.subnet.as_str().to_owned(),
            eni: wanted.eni.as_str().to_owned(),
            claim: wanted.claim.as_str().to_owned(),
            sub_pool: wanted.sub_pool,
            cooldown: wanted.cooldown,
            except: wanted.except.to_vec(),
            count: wanted.count,
        }
    }

    pub(super) fn run(&self, file: &mut Connection, known: &Known) -> Result<Vec<Row>, Trouble> {
        let change = file.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let free = {
            let (seconds, latest) = raw::cooling(self.cooldown, &known.clock).unzip();
            let mut read = change.prepare_cached(FREE)?;
            let rows = read.query_map(params![self.subnet, seconds, latest], |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, bool>(1)?))
            })?;
            let rows = rows.collect::<Result<Vec<_>, _>>()?;
            known.left_out.keep(rows.iter().map(|(ip, may)| Ok((raw::address(ip)?, *may))))
        };
        if !free.iter().any(|(_, may)| *may) {
            // Nobody reads free rows: without this they would cool until a clock that was set back has caught up.
            let wrong = format!("subnet = ?1 AND status = 'free' AND ts > unixepoch() + {AHEAD}");
            change.execute(&format!("UPDATE allocation SET ts = unixepoch() WHERE {wrong}"), [&self.subnet])?;
        }
        let ips = self.choose(&free);
        take(&change, &ips, &self.eni, &self.claim, false)?;
        let taken = read::rows_at(&change, known, ips)?;
        change.commit()?;
        Ok(taken)
    }

    /// From broken blocks, and from whole ones, one after the other, what these do not have.
    fn choose(&self, free: &[(Ipv4Addr, bool)]) -> Vec<Ipv4Addr> {
        let mut blocks: HashMap<Block, Vec<(Ipv4Addr, bool)>> = HashMap::new();
        for &(ip, may) in free {
            blocks.entry(Block::of(ip)).or_default().push((ip, may));
        }
        let is_eligible = |(ip, may): &(Ipv4Addr, bool)| {
            *may && self.sub_pool.is_none_or(|net| net.contains(ip)) && !self.except.contains(ip)
        };
        let (mut whole, broken): (Vec<_>, Vec<_>) = blocks.into_values().partition(|rows| rows.len() == SIZE);
        let mut ips: Vec<_> = broken.into_iter().flatten().filter(is_eligible).collect();
        fastrand::shuffle(&mut ips);
        fastrand::shuffle(&mut whole);
        ips.extend(whole.into_iter().flatten().filter(is_eligible));
        ips.truncate(self.count);
        ips.into_iter().map(|(ip, _)| ip).collect()
    }
}

/// Takes these rows, in a transaction that has seen that they may be taken.
pub(super) fn take(
    change: &Connection,
    ips: &[Ipv4Addr],
    eni: &str,
    claim: &str,
    in_block: bool,
) -> Result<(), Trouble> {
    let update = format!(
        "UPDATE allocation SET status = 'allocated', iface = ?2, claim = ?3, claimed = {NOW}, holder = NULL, in_block = ?4 \
         WHERE ip = ?1"
    );
    let mut update = change.prepare_cached(&update)?;
    for ip in ips {
        update.execute(params![ip.to_string(), eni, claim, in_block])?;
    }
    Ok(())
}

pub(super) fn apply(file: &mut Connection, changes: &[Change]) -> Result<Vec<bool>, Trouble> {
    let transaction = file.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found = carry_out(&transaction, changes)?;
    transaction.commit()?;
    Ok(found)
}

/// Each on its own terms.
pub(super) fn carry_out(transaction: &Connection, changes: &[Change]) -> Result<Vec<bool>, Trouble> {
    let update = format!(
        "UPDATE allocation SET status = :status, iface = :iface, claim = :claim, \
         claimed = CASE WHEN :claim IS NULL THEN NULL ELSE {NOW} END, \
         holder = CASE WHEN :keep THEN holder ELSE :holder END, \"primary\" = coalesce(:primary, \"primary\"), \
         in_block = :in_block, ts = coalesce(unixepoch() - :let_go, ts) \
         WHERE ip = :ip AND status = :was AND iface IS :was_iface AND claim IS :was_claim AND holder IS :was_holder \
         AND in_block = :was_in_block"
    );
    let mut update = transaction.prepare_cached(&update)?;
    let one = |Change { ip, from, to, let_go }: &Change| {
        let (keep, holder) = match &to.holder {
            Holder::Keep => (true, None),
            Holder::Clear => (false, None),
            Holder::Set(text) => (false, Some(text)),
        };
        let let_go = let_go.map(|age| i64::try_from(age.as_secs()).unwrap_or(i64::MAX / 2));
        let rows = update.execute(named_params! {
            ":ip": ip.to_string(), ":let_go": let_go, ":keep": keep, ":holder": holder, ":primary": to.primary,
            ":status": to.status.as_str(), ":iface": to.iface.as_ref().map(EniId::as_str),
            ":claim": to.claim.as_ref().map(Claim::as_str),
            ":was": from.status.as_str(), ":was_iface": from.iface.as_ref().map(EniId::as_str),
            ":was_claim": from.claim.as_ref().map(Claim::as_str), ":was_holder": from.holder,
            ":in_block": to.in_block, ":was_in_block": from.in_block,
        })?;
        Ok(rows > 0)
    };
    Ok(changes.iter().map(one).collect::<Result<_, rusqlite::Error>>()?)
}

/// Rows to a commit.
pub(super) const CHUNK: usize = 4096;

/// Refuses addresses that another subnet's rows have.
pub(super) fn not_elsewhere(file: &Connection, subnet: &SubnetId, ips: &[Ipv4Addr]) -> Result<(), Trouble> {
    let mut there = file.prepare_cached("SELECT subnet FROM allocation WHERE ip = ?1 AND subnet <> ?2")?;
    for ip in ips.iter().map(Ipv4Addr::to_string) {
        let theirs: Option<String> = there.query_row(params![ip, subnet.as_str()], |row| row.get(0)).optional()?;
        if let Some(theirs) = theirs {
            return Err(Trouble::Broken(raw::other_subnet(&ip, &theirs, subnet)));
        }
    }
    Ok(())
}

/// One commit.
pub(super) fn insert_missing(file: &mut Connection, subnet: &SubnetId, rows: &[NewRow]) -> Result<u64, Trouble> {
    let change = file.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut inserted: u64 = 0;
    {
        let insert = "INSERT INTO allocation (ip, subnet, status, iface, \"primary\", ts, holder, in_block) \
                      VALUES (?1, ?2, ?3, ?4, ?5, unixepoch(?6), ?7, ?8) ON CONFLICT (ip) DO NOTHING";
        let mut insert = change.prepare_cached(insert)?;
        for row in rows {
            let iface = row.iface.as_ref().map(EniId::as_str);
            let holder = raw::holder(row.holder.as_deref());
            let (ip, status) = (row.ip.to_string(), row.status.as_str());
            let (primary, in_block) = (row.primary, row.in_block);
            let new = insert.execute(params![
                ip,
                subnet.as_str(),
                status,
                iface,
                primary,
                raw::LONG_AGO,
                holder,
                in_block
            ])?;
            inserted += u64::from(new > 0);
        }
    }
    change.commit()?;
    Ok(inserted)
}

pub(super) fn hold_task(file: &Connection, name: &str, holder: &str, span: Duration) -> Result<bool, Trouble> {
    let hold = format!(
        "INSERT INTO task (name, holder, until) VALUES (?1, ?2, unixepoch() + {}) \
         ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until \
         WHERE task.holder = excluded.holder OR task.holder IS NULL OR task.until IS NULL OR task.until < unixepoch()",
        raw::lease_seconds(span)
    );
    Ok(file.execute(&hold, params![name, holder])? > 0)
}

pub(super) fn tasks_over(file: &Connection, prefix: &str, within: Duration) -> Result<Vec<String>, Trouble> {
    let mut read = file.prepare_cached(
        "SELECT name FROM task WHERE name LIKE ?1 || '%' AND until BETWEEN unixepoch() - ?2 AND unixepoch()",
    )?;
    let within = i64::try_from(within.as_secs()).unwrap_or(i64::MAX / 2);
    let names = read.query_map(params![prefix, within], |row| row.get(0))?;
    Ok(names.collect::<Result<_, _>>()?)
}

/// Who was named there, and is replaced.
pub(super) fn spoke(file: &Connection, name: &str) -> Result<Option<String>, Trouble> {
    let look = file.query_row("SELECT holder FROM task WHERE name = ?1", [name], |row| row.get(0));
    Ok(look.optional()?.flatten())
}

pub(super) fn speaks(file: &Connection, name: &str, mark: &str) -> Result<(), Trouble> {
    let put = "INSERT INTO task (name, holder) VALUES (?1, ?2) ON CONFLICT(name) DO UPDATE SET holder = ?2";
    file.execute(put, [name, mark])?;
    Ok(())
}
