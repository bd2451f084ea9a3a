//! Addresses for an ENI: claimed, assigned, and what cannot be had recorded.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::slice;
use std::time::Duration;

use super::{Fleet, by, said};
use crate::domain::address::{Event, Row};
use crate::domain::block::{Block, Unit, by_unit};
use crate::domain::id::{Claim, EniId, SubnetId};
use crate::domain::plan::assign::{
    Batch, Holder, Judged, Refused, Standing, Wanted, Why, in_doubt, judge, judge_blocks, needs_look,
};
use crate::domain::subnet::Subnet;
use crate::error::Error;
use crate::fail_point::point;
use crate::outside::ec2::{Ec2, Ec2Error};
use crate::store::{BlockClaim, FreeClaim};

/// Whole blocks that are looked for: so many that hosts which look at once find others.
const WINDOW: usize = 64;

/// Addresses that an ENI wants.
#[derive(Debug, Clone)]
pub struct Acquire<'a> {
    /// The ENI.
    pub eni: &'a EniId,
    /// Its subnet.
    pub subnet: &'a Subnet,
    /// Which.
    pub wanted: Wanted,
    /// An `on` token, for what this claims.
    pub on: Claim,
    /// An `off` token, for earlier claims that only an Unassign settles.
    pub off: Claim,
    /// Addresses that the caller took off the ENI so lately that a list which has them there may be one from before (I2).
    pub doubted: HashSet<Ipv4Addr>,
    /// Addresses of which an earlier Unassign of this host may still land: they are not claimed, whatever the table says.
    pub leaving: &'a [Ipv4Addr],
    /// How long each access to the table may take. EC2's calls have a bound of their own.
    pub budget: Duration,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Acquired {
    /// What EC2 was asked for. Empty: none was free, or the named one was not any more.
    pub asked: Vec<Unit>,
    /// On the ENI now, by EC2's word. Their rows keep their claims until they are posted.
    pub on_eni: Vec<Row>,
    /// Addresses that cannot be had.
    pub refused: Vec<Refused>,
    /// Blocks that cannot be had now.
    pub refused_blocks: Vec<Block>,
    /// What stood in the way of the others. Those that may be on the ENI all the same stay claimed, to be settled.
    pub trouble: Option<Ec2Error>,
}

impl Fleet {
    /// Claims what is wanted, and has EC2 put it on the ENI.
    ///
    /// # Errors
    /// The store's, or that EC2 cannot be asked yet. What EC2 says against it is part of the answer.
    pub async fn acquire(&self, request: Acquire<'_>) -> Result<Acquired, Error> {
        let ec2 = self.ec2.now()?;
        let (rows, standing) = self.claim(&request).await?;
        if rows.is_empty() {
            return Ok(Acquired::default());
        }
        let mut acquired = Acquired { asked: units(&rows), ..Acquired::default() };
        let mut changes = Vec::new();
        let mut batches = batches(rows, standing);
        while let Some(rows) = batches.pop() {
            let batch = Batch { eni: request.eni, rows, standing, doubted: &request.doubted, off: &request.off };
            let asked = units(&batch.rows);
            let (judged, why) = assign(&ec2, request.subnet, batch).await;
            acquired.on_eni.extend(judged.on_eni);
            acquired.refused.extend(judged.refused);
            acquired.refused_blocks.extend(judged.refused_blocks);
            changes.extend(judged.changes);
            batches.extend(judged.again);
            if let Some(why) = why {
                let asked: Vec<String> = asked.iter().map(Unit::to_string).collect();
                tracing::debug!(eni = %request.eni, "assigning {}: {why}", asked.join(", "));
                if judged.is_trouble {
                    acquired.trouble = Some(why);
                }
            }
        }
        for Refused { ip, why } in &acquired.refused {
            match why {
                Why::Taken(Some(holder)) => tracing::warn!(%ip, "{ip} is in use by {holder}"),
                Why::Taken(None) => tracing::debug!(%ip, "{ip} is in use, and EC2 does not show by whom"),
                Why::Never(why) => tracing::error!(%ip, "{ip} is reserved from now on: {why}"),
            }
        }
        self.store.now()?.apply(&changes, by(request.budget)).await?;
        point("assign:recorded").await;
        Ok(acquired)
    }

    /// The rows that the Assign is for, by what the table says now (I3).
    async fn claim(&self, request: &Acquire<'_>) -> Result<(Vec<Row>, Standing), Error> {
        let Acquire { eni, subnet, on, leaving, .. } = request;
        let until = by(request.budget);
        Ok(match &request.wanted {
            Wanted::Free { count, sub_pool, cooldown } => {
                let (sub_pool, cooldown, count) = (*sub_pool, *cooldown, *count);
                let subnet = &subnet.id;
                let wanted = FreeClaim { subnet, eni, sub_pool, cooldown, except: leaving, count, claim: on };
                (claimed(self.store.now()?.claim_free(&wanted, until).await?).await, Standing::Fresh)
            }
            Wanted::Blocks { count, sub_pool, cooldown, except } => {
                let (sub_pool, cooldown, count) = (*sub_pool, *cooldown, *count);
                let store = self.store.now()?;
                let mut candidates = store.whole_blocks(&subnet.id, sub_pool, WINDOW, until).await?;
                let is_leaving = |block: &Block| leaving.iter().any(|ip| block.contains(*ip));
                candidates.retain(|block| block.may_be_in(subnet) && !except.contains(block) && !is_leaving(block));
                let wanted =
                    BlockClaim { subnet: &subnet.id, eni, candidates: &candidates, cooldown, count, claim: on };
                (claimed(store.claim_blocks(&wanted, until).await?).await, Standing::Fresh)
            }
            Wanted::Named(row) => {
                let event = Event::Claim { eni: (*eni).clone(), claim: on.clone(), in_block: false };
                let Ok(change) = row.on(event) else { return Ok((Vec::new(), Standing::Fresh)) };
                if self.store.now()?.apply(slice::from_ref(&change), until).await? != [true] {
                    return Ok((Vec::new(), Standing::Fresh));
                }
                point("named:claimed").await;
                (vec![change.after(row)], Standing::Fresh)
            }
            // Their claims are committed already.
            Wanted::Settled(rows) => (rows.clone(), Standing::Unsettled),
            Wanted::Leased(rows) => {
                // They stay leases, which is the claim that this call needs.
                let ips: Vec<Ipv4Addr> = rows.iter().map(|row| row.ip).collect();
                let mut now = self.store.now()?.rows_at(&ips, until).await?;
                now.retain(|now| rows.iter().any(|row| row.ip == now.ip && row.guard() == now.guard()));
                (now, Standing::Leased)
            }
        })
    }
}

/// For a refill, if there were any.
async fn claimed(rows: Vec<Row>) -> Vec<Row> {
    if !rows.is_empty() {
        point("refill:claimed").await;
    }
    rows
}

/// What takes a slot each.
fn units(rows: &[Row]) -> Vec<Unit> {
    by_unit(rows, |row| row.unit()).into_keys().collect()
}

/// What goes into one call each: single addresses together, blocks together as long as none of them may be on the ENI already.
fn batches(rows: Vec<Row>, standing: Standing) -> Vec<Vec<Row>> {
    let (of_blocks, singles): (Vec<Row>, Vec<Row>) = rows.into_iter().partition(|row| row.in_block);
    let mut batches = vec![singles];
    match standing {
        Standing::Fresh => batches.push(of_blocks),
        Standing::Unsettled | Standing::Leased => batches.extend(by_unit(of_blocks, Row::unit).into_values()),
    }
    batches.retain(|rows| !rows.is_empty());
    batches
}

/// One call, and what its answer means.
async fn assign(ec2: &Ec2, subnet: &Subnet, batch: Batch<'_>) -> (Judged, Option<Ec2Error>) {
    let (eni, rows) = (batch.eni, &batch.rows);
    let asked = units(rows);
    let blocks: Vec<Block> = asked
        .iter()
        .filter_map(|unit| match unit {
            Unit::Block(block) => Some(*block),
            Unit::Single(_) => None,
        })
        .collect();
    if blocks.is_empty() {
        let ips: Vec<Ipv4Addr> = rows.iter().map(|row| row.ip).collect();
        let answer = ec2.assign(eni, &ips).await;
        point("assign:answered").await;
        let said = said::to_assign(&answer);
        let holders = holders(ec2, &subnet.id, &in_doubt(rows, &said)).await;
        return (judge(batch, &said, &holders), answer.err());
    }
    let answer = ec2.assign_blocks(eni, &blocks).await;
    point("assign:answered").await;
    let said = said::to_assign_of_blocks(&answer);
    let listed = if needs_look(batch.standing, &said) { ec2.interface(eni).await.ok() } else { None };
    let listed = listed.as_ref().map(|interface| interface.prefixes.as_slice());
    (judge_blocks(batch, &said, listed), answer.err())
}

/// Who has them, as far as EC2 shows it.
async fn holders(ec2: &Ec2, subnet: &SubnetId, ips: &[Ipv4Addr]) -> HashMap<Ipv4Addr, Holder> {
    let interfaces = ec2.holders(subnet, ips).await.unwrap_or_else(|why| {
        tracing::warn!(%subnet, "who has {ips:?}? {why}");
        Vec::new()
    });
    let holder = |ip: Ipv4Addr| {
        let interface = interfaces.iter().find(|interface| interface.has(ip))?;
        let primary = interface.primary() == Some(ip);
        Some((ip, Holder { eni: interface.id.clone(), primary, name: interface.holder() }))
    };
    ips.iter().filter_map(|ip| holder(*ip)).collect()
}
