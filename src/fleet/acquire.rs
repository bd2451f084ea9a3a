//! Addresses for an ENI: claimed, assigned, and what cannot be had recorded.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::slice;
use std::time::Duration;

use super::{Fleet, by, said};
use crate::domain::address::{Event, Row};
use crate::domain::id::{Claim, EniId, SubnetId};
use crate::domain::plan::assign::{Batch, Holder, Refused, Standing, Wanted, Why, in_doubt, judge};
use crate::error::Error;
use crate::fail_point::point;
use crate::outside::ec2::{Ec2, Ec2Error};
use crate::store::FreeClaim;

/// Addresses that an ENI wants.
#[derive(Debug, Clone)]
pub struct Acquire<'a> {
    /// The ENI.
    pub eni: &'a EniId,
    /// Its subnet.
    pub subnet: &'a SubnetId,
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
    pub asked: Vec<Ipv4Addr>,
    /// On the ENI now, by EC2's word. Their rows keep their claims until they are posted.
    pub on_eni: Vec<Row>,
    /// Addresses that cannot be had.
    pub refused: Vec<Refused>,
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
        let mut acquired = Acquired { asked: rows.iter().map(|row| row.ip).collect(), ..Acquired::default() };
        let mut changes = Vec::new();
        let mut batches = vec![rows];
        while let Some(rows) = batches.pop() {
            let ips: Vec<Ipv4Addr> = rows.iter().map(|row| row.ip).collect();
            let answer = ec2.assign(request.eni, &ips).await;
            point("assign:answered").await;
            let said = said::to_assign(&answer);
            let holders = holders(&ec2, request.subnet, &in_doubt(&rows, &said)).await;
            let batch = Batch { eni: request.eni, rows, standing, doubted: &request.doubted, off: &request.off };
            let judged = judge(batch, &said, &holders);
            acquired.on_eni.extend(judged.on_eni);
            acquired.refused.extend(judged.refused);
            changes.extend(judged.changes);
            batches.extend(judged.again);
            if let Err(why) = answer {
                tracing::debug!(eni = %request.eni, "assigning {ips:?}: {why}");
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
                let wanted = FreeClaim { subnet, eni, sub_pool, cooldown, except: leaving, count, claim: on };
                let claimed = self.store.now()?.claim_free(&wanted, until).await?;
                if !claimed.is_empty() {
                    point("refill:claimed").await;
                }
                (claimed, Standing::Fresh)
            }
            Wanted::Named(row) => {
                let event = Event::Claim { eni: (*eni).clone(), claim: on.clone() };
                let Ok(change) = row.on(event) else { return Ok((Vec::new(), Standing::Fresh)) };
                if self.store.now()?.apply(slice::from_ref(&change), until).await? != [true] {
                    return Ok((Vec::new(), Standing::Fresh));
                }
                point("named:claimed").await;
                (vec![change.after(row)], Standing::Fresh)
            }
            // Their claims are committed already.
            Wanted::Settled(rows) => (rows.clone(), Standing::Unsettled),
            Wanted::Leased(row) => {
                // Its row stays a lease, which is the claim that this call needs.
                let now = self.store.now()?.row(row.ip, until).await?;
                (now.into_iter().filter(|now| now.guard() == row.guard()).collect(), Standing::Leased)
            }
        })
    }
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
