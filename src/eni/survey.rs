//! The first look at an ENI: rows, and what EC2 (or else IMDS) lists on it, compared before anything is granted.

use std::net::Ipv4Addr;

use tokio::time::Instant;

use super::task::Task;
use super::{STORE_TIME, unassign};
use crate::address::State;
use crate::ec2::Ec2;
use crate::error::Error;
use crate::plan::{self, Witness};

impl Task {
    /// Compares and puts right; says who was asked.
    pub(super) async fn survey(&mut self) -> Result<Witness, Error> {
        let ec2 = self.outside.ec2.now();
        let (listed, witness) = self.listed(&ec2).await?;
        let until = Instant::now() + STORE_TIME;
        let store = &self.outside.store;
        let mut rows = store.rows_of_eni(&self.nic.eni, until).await?;
        let others: Vec<Ipv4Addr> =
            listed.iter().map(|(ip, _)| *ip).filter(|ip| rows.iter().all(|row| row.ip != *ip)).collect();
        rows.extend(store.rows_at(&others, until).await?);

        let found = plan::survey(&self.nic.eni, &self.subnet, &rows, &listed, witness);
        for contradiction in &found.contradictions {
            tracing::error!(eni = %self.nic.eni, "{contradiction}");
        }
        let changes: Vec<_> = found.events.into_iter().filter_map(|(row, event)| row.on(event).ok()).collect();
        store.apply(&changes, until).await?;
        store.insert_missing(&self.subnet.id, &found.insert, until).await?;

        // Describe lags, so that an address assigned a moment ago may be missing from a later look; what this process
        // assigned or once saw listed is not doubted again here.
        let first = self.witness != Some(Witness::Ec2);
        {
            let mut memory = self.shared.memory();
            if first {
                memory.unlisted = found.unlisted;
                memory.unlisted.extend(found.give_up.iter().map(|row| row.ip));
            }
            if self.witness.is_none() {
                let leases = rows.iter().filter(|row| row.state() == State::Lease);
                let leases = leases.filter(|row| row.iface.as_ref() == Some(&self.nic.eni));
                memory.leases.extend(leases.filter_map(|row| Some((row.ip, row.claim.clone()?))));
            }
        }
        if let Ok(ec2) = ec2 {
            if first && !found.give_up.is_empty() {
                let (_, trouble) = unassign::give_up(&self.outside, &ec2, &self.nic.eni, &found.give_up).await?;
                self.note(trouble.as_ref());
            }
            self.learn_limit(&ec2).await;
        }
        Ok(witness)
    }

    async fn listed(&mut self, ec2: &Result<Ec2, String>) -> Result<(Vec<(Ipv4Addr, bool)>, Witness), Error> {
        let why = match ec2 {
            Ok(ec2) => match ec2.interface(&self.nic.eni).await {
                Ok(interface) => {
                    let listed = interface.addresses.iter().map(|a| (a.ip, a.primary)).collect();
                    return Ok((listed, Witness::Ec2));
                }
                Err(why) => {
                    self.note(Some(&why));
                    Error::Ec2(why)
                }
            },
            Err(why) => Error::Missing(why.clone()),
        };
        match self.outside.imds.addresses(&self.nic.mac).await {
            // The first line is the primary address.
            Ok(ips) => Ok((ips.into_iter().enumerate().map(|(n, ip)| (ip, n == 0)).collect(), Witness::Imds)),
            Err(_) => Err(why),
        }
    }

    async fn learn_limit(&self, ec2: &Ec2) {
        if self.shared.memory().limit.is_some() {
            return;
        }
        match ec2.address_limit(&self.instance_type).await {
            Ok(limit) => self.shared.memory().limit = Some(limit),
            Err(why) => tracing::warn!(
                "the address limit of {} is not known, EC2's refusals will show it: {why}",
                self.instance_type
            ),
        }
    }
}
