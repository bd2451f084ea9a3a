//! Claimed addresses to the ENI, and what becomes of those that do not get there.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use tokio::time::Instant;

use super::STORE_TIME;
use super::task::{SETTLE_PAUSE, Task, Then};
use crate::address::Row;
use crate::ec2::{Ec2, Ec2Error};
use crate::error::Error;
use crate::fault::point;
use crate::fleet::said;
use crate::id::Kind;
use crate::plan::assign::{Batch, Holder, Said, Standing, Why, in_doubt, judge};

/// Rows that EC2 has on the ENI now, and what stood in the way of the others.
#[derive(Default)]
pub(super) struct Assigned {
    pub(super) on_eni: Vec<Row>,
    pub(super) trouble: Option<Ec2Error>,
}

impl Task {
    /// Claims of an earlier life, or whose call was unclear: assigned again, which is right whichever way that call went.
    pub(super) async fn settle(&mut self, ec2: &Ec2, unsettled: Vec<Row>) -> Result<Then, Error> {
        let asked = unsettled.len();
        let assigned = self.assign(ec2, unsettled, Standing::Unsettled).await?;
        if !assigned.trouble.as_ref().is_some_and(Ec2Error::is_transient) {
            // EC2 works: what is left over all the same must not keep other addresses from those who wait.
            self.settle_at = Instant::now() + SETTLE_PAUSE;
        }
        self.outcome(assigned, asked).await
    }

    /// Assigns claimed rows. What cannot be had is told in the log.
    pub(super) async fn assign(&mut self, ec2: &Ec2, claimed: Vec<Row>, standing: Standing) -> Result<Assigned, Error> {
        let mut outcome = Assigned::default();
        let mut changes = Vec::new();
        let mut batches = vec![claimed];
        let off = self.outside.claims.next(Kind::Off);
        while let Some(rows) = batches.pop() {
            let ips: Vec<Ipv4Addr> = rows.iter().map(|row| row.ip).collect();
            self.shared.memory.doubt(&ips);
            let answer = ec2.assign(&self.nic.eni, &ips).await;
            point("assign:answered").await;
            let said = said::to_assign(&answer);
            let doubtful = in_doubt(&rows, &said);
            let holders = self.holders(ec2, &doubtful).await;
            self.scan_wanted |= matches!(said, Said::InUse(_));
            let doubted = doubtful.into_iter().filter(|ip| self.shared.memory.was_taken_off_lately(*ip)).collect();
            let batch = Batch { eni: &self.nic.eni, rows, standing, doubted: &doubted, off: &off };
            let judged = judge(batch, &said, &holders);
            for refused in &judged.refused {
                let ip = refused.ip;
                match &refused.why {
                    Why::Taken(Some(holder)) => tracing::warn!(%ip, "{ip} is in use by {holder}"),
                    Why::Taken(None) => tracing::debug!(%ip, "{ip} is in use, and nobody shows by whom"),
                    Why::Never(why) => tracing::error!(%ip, "{ip} is reserved from now on: {why}"),
                }
            }
            outcome.on_eni.extend(judged.on_eni);
            changes.extend(judged.changes);
            batches.extend(judged.again);
            if let Err(why) = answer {
                tracing::debug!(eni = %self.nic.eni, "assigning {ips:?}: {why}");
                if judged.is_trouble {
                    outcome.trouble = Some(why);
                }
            }
        }
        self.store.apply(&changes, Instant::now() + STORE_TIME).await?;
        point("assign:recorded").await;
        Ok(outcome)
    }

    /// Who has them, as far as EC2 shows it.
    async fn holders(&self, ec2: &Ec2, ips: &[Ipv4Addr]) -> HashMap<Ipv4Addr, Holder> {
        let interfaces = ec2.holders(&self.subnet.id, ips).await.unwrap_or_else(|why| {
            tracing::warn!(eni = %self.nic.eni, "who has {ips:?}? {why}");
            Vec::new()
        });
        let holder = |ip: Ipv4Addr| {
            let interface = interfaces.iter().find(|interface| interface.has(ip))?;
            let primary = interface.primary() == Some(ip);
            Some((ip, Holder { eni: interface.id.clone(), primary, name: interface.holder() }))
        };
        ips.iter().filter_map(|ip| holder(*ip)).collect()
    }
}
