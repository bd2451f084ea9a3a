//! Blocks, grouped from all free rows of the subnet: of one host's own file that takes some milliseconds.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;
use rusqlite::{Connection, TransactionBehavior, params};

use crate::domain::address::{Change, Row};
use crate::domain::block::{Block, SIZE};
use crate::domain::subnet::Subnet;

use super::super::blocks::sample;
use super::super::{BlockClaim, raw};
use super::trouble::Trouble;
use super::{Known, read, write};

/// Those of which all rows are free, from a random one on.
pub(super) fn whole(
    file: &Connection,
    subnet: &str,
    within: Option<Ipv4Net>,
    most: usize,
) -> Result<Vec<Block>, Trouble> {
    let mut statement = file.prepare_cached("SELECT ip FROM allocation WHERE subnet = ?1 AND status = 'free'")?;
    let mut free: HashMap<Block, usize> = HashMap::new();
    for ip in statement.query_map([subnet], |row| row.get::<_, String>(0))? {
        if let Ok(ip) = ip?.parse::<Ipv4Addr>() {
            *free.entry(Block::of(ip)).or_default() += 1;
        }
    }
    let is_inside = |block: &Block| within.is_none_or(|net| net.contains(&block.net()));
    let mut whole: Vec<Block> =
        free.into_iter().filter(|(block, free)| *free == SIZE && is_inside(block)).map(|(block, _)| block).collect();
    whole.sort_unstable();
    if !whole.is_empty() {
        let first = fastrand::usize(..whole.len());
        whole.rotate_left(first);
    }
    whole.truncate(most);
    Ok(whole)
}

pub(super) fn plenty(file: &Connection, subnet: &Subnet) -> Result<bool, Trouble> {
    let sample = sample(subnet);
    let mut is_free =
        file.prepare_cached("SELECT 1 FROM allocation WHERE ip = ?1 AND subnet = ?2 AND status = 'free'")?;
    let mut whole = 0;
    for block in &sample {
        let mut is_whole = true;
        for ip in block.addresses() {
            is_whole = is_whole && is_free.exists(params![ip.to_string(), subnet.id.as_str()])?;
        }
        whole += usize::from(is_whole);
    }
    Ok(!sample.is_empty() && whole * 4 >= sample.len())
}

/// A claim with all that it needs, to be carried to another thread.
pub(super) struct Take {
    subnet: String,
    eni: String,
    claim: String,
    candidates: Vec<Block>,
    cooldown: Duration,
    count: usize,
}

impl Take {
    pub(super) fn new(wanted: &BlockClaim<'_>) -> Self {
        Self {
            subnet: wanted.subnet.as_str().to_owned(),
            eni: wanted.eni.as_str().to_owned(),
            claim: wanted.claim.as_str().to_owned(),
            candidates: wanted.candidates.to_vec(),
            cooldown: wanted.cooldown,
            count: wanted.count,
        }
    }

    pub(super) fn run(&self, file: &mut Connection, known: &Known) -> Result<Vec<Row>, Trouble> {
        let change = file.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut ips = Vec::new();
        {
            let (seconds, latest) = raw::cooling(self.cooldown, &known.clock).unzip();
            let is_free = "SELECT 1 FROM allocation WHERE ip = ?1 AND subnet = ?2 AND status = 'free' AND \"primary\" = 0 \
                           AND (?3 IS NULL OR ts <= min(unixepoch(), ?4) - ?3)";
            let mut is_free = change.prepare_cached(is_free)?;
            for block in &self.candidates {
                if ips.len() == self.count.saturating_mul(SIZE) {
                    break;
                }
                let mut is_whole = true;
                for ip in block.addresses() {
                    is_whole &= is_free.exists(params![ip.to_string(), self.subnet, seconds, latest])?;
                }
                ips.extend(block.addresses().filter(|_| is_whole));
            }
        }
        write::take(&change, &ips, &self.eni, &self.claim, true)?;
        let taken = read::rows_at(&change, known, ips)?;
        change.commit()?;
        Ok(taken)
    }
}

/// In one transaction: what a group has changed before one of its rows differed is undone.
pub(super) fn apply_together(file: &mut Connection, groups: &[Vec<Change>]) -> Result<Vec<bool>, Trouble> {
    let mut transaction = file.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut found = Vec::with_capacity(groups.len());
    for changes in groups {
        let group = transaction.savepoint()?;
        let all = write::carry_out(&group, changes)?.into_iter().all(|found| found);
        if all {
            group.commit()?;
        }
        found.push(all);
    }
    transaction.commit()?;
    Ok(found)
}
