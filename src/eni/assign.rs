//! Claimed addresses to the ENI: Assign, and what each of EC2's answers means for the rows.
//!
//! An Assign that may have taken effect is repeated: its list is explicit, EC2 refuses what another ENI holds, and its
//! answer is more certain than a describe, which lags. Until EC2 answers clearly the row stays claimed.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::time::Instant;

use super::STORE_TIME;
use super::task::{SETTLE_PAUSE, Task};
use crate::address::{Change, EC2, Event, Row};
use crate::ec2::{Ec2, Ec2Error};
use crate::error::Error;
use crate::fault::point;
use crate::id::Kind;
use crate::plan::settle_age;

/// Rows that EC2 has on the ENI now, and what stood in the way of the others.
#[derive(Default)]
pub(super) struct Assigned {
    pub(super) on_eni: Vec<Row>,
    pub(super) trouble: Option<Ec2Error>,
}

impl Task {
    /// Claims of an earlier life, or whose call was unclear: assigned again, which is right whichever way that call went.
    pub(super) async fn settle(&mut self, ec2: &Ec2, unsettled: Vec<Row>) -> Result<Option<Duration>, Error> {
        let asked = unsettled.len();
        let assigned = self.assign(ec2, unsettled, false).await?;
        if !assigned.trouble.as_ref().is_some_and(Ec2Error::is_transient) {
            // EC2 works: what is left over all the same must not keep other addresses from those who wait.
            self.settle_at = Instant::now() + SETTLE_PAUSE;
        }
        self.outcome(assigned, asked).await
    }

    /// Assigns claimed rows. `fresh`: claimed just now, so that no earlier call for them can still land.
    pub(super) async fn assign(&mut self, ec2: &Ec2, claimed: Vec<Row>, fresh: bool) -> Result<Assigned, Error> {
        let mut outcome = Assigned::default();
        let mut changes = Vec::new();
        let mut batches = vec![claimed];
        while let Some(batch) = batches.pop() {
            let ips: Vec<Ipv4Addr> = batch.iter().map(|row| row.ip).collect();
            self.shared.memory().touch(ips.iter().copied());
            let assigned = ec2.assign(&self.nic.eni, &ips).await;
            point("assign:answered").await;
            let Err(why) = assigned else {
                outcome.on_eni.extend(batch);
                continue;
            };
            tracing::debug!(eni = %self.nic.eni, "assigning {ips:?}: {why}");
            match &why {
                Ec2Error::InUse { addresses } => {
                    let named = |row: &Row| addresses.contains(&row.ip);
                    let (suspects, rest): (Vec<Row>, Vec<Row>) =
                        if batch.iter().any(named) { batch.into_iter().partition(named) } else { (batch, Vec::new()) };
                    if !rest.is_empty() {
                        batches.push(rest);
                    }
                    if let Some(mut rest) = self.look_up(ec2, suspects, fresh, &mut outcome, &mut changes).await {
                        let half = rest.split_off(rest.len() / 2);
                        batches.extend([rest, half].into_iter().filter(|batch| !batch.is_empty()));
                    }
                }
                Ec2Error::AwsReserved { addresses } | Ec2Error::OutsideSubnet { addresses } => {
                    let named = |row: &Row| addresses.contains(&row.ip);
                    if batch.iter().any(named) {
                        let (refused, rest): (Vec<Row>, Vec<Row>) = batch.into_iter().partition(named);
                        for row in refused {
                            tracing::error!(ip = %row.ip, "{} is reserved from now on: {why}", row.ip);
                            changes.extend(row.on(Event::Reserve { holder: Some(format!("{EC2}{why}")) }).ok());
                        }
                        if !rest.is_empty() {
                            batches.push(rest);
                        }
                    } else {
                        self.refuse(batch, fresh, true, &mut changes);
                        outcome.trouble = Some(why);
                    }
                }
                Ec2Error::Unlisted { addresses } => {
                    // A repeated Assign may be answered with the new addresses only; then a describe has the others.
                    let (unlisted, listed): (Vec<Row>, Vec<Row>) =
                        batch.into_iter().partition(|row| addresses.contains(&row.ip));
                    outcome.on_eni.extend(listed);
                    let interface = ec2.interface(&self.nic.eni).await.ok();
                    let is_there = |row: &Row| {
                        interface.as_ref().is_some_and(|i| i.has(row.ip)) && self.shared.memory().believes(row.ip)
                    };
                    let (there, missing): (Vec<Row>, Vec<Row>) = unlisted.into_iter().partition(is_there);
                    outcome.on_eni.extend(there);
                    let (old, young): (Vec<Row>, Vec<Row>) =
                        missing.into_iter().partition(|row| row.claimed.is_some_and(|age| age >= settle_age()));
                    self.refuse(old, false, false, &mut changes);
                    if !young.is_empty() {
                        outcome.trouble = Some(why);
                    }
                }
                Ec2Error::Unclear { .. } => outcome.trouble = Some(why),
                Ec2Error::Refused { .. } | Ec2Error::Malformed { .. } => {
                    self.refuse(batch, fresh, true, &mut changes);
                    outcome.trouble = Some(why);
                }
                Ec2Error::EniFull { .. }
                | Ec2Error::SubnetFull { .. }
                | Ec2Error::NoSuchEni { .. }
                | Ec2Error::NoSuchSubnet { .. }
                | Ec2Error::NotAssigned { .. }
                | Ec2Error::Primary { .. }
                | Ec2Error::Throttled { .. }
                | Ec2Error::Denied { .. }
                | Ec2Error::NotOwner { .. }
                | Ec2Error::BadCredentials { .. }
                | Ec2Error::NoCredentials { .. }
                | Ec2Error::NoRegion
                | Ec2Error::Unreachable { .. } => {
                    self.refuse(batch, fresh, false, &mut changes);
                    outcome.trouble = Some(why);
                }
            }
        }
        self.outside.store.apply(&changes, Instant::now() + STORE_TIME).await?;
        point("assign:recorded").await;
        Ok(outcome)
    }

    /// Clearly not assigned by this call; an earlier one may still land, and then only an Unassign settles it.
    fn refuse(&self, rows: Vec<Row>, fresh: bool, address_at_fault: bool, changes: &mut Vec<Change>) {
        let claim = self.outside.claims.next(Kind::Off);
        for row in rows {
            let event = if fresh { Event::Refuse { address_at_fault } } else { Event::GiveUp { claim: claim.clone() } };
            changes.extend(row.on(event).ok());
        }
    }

    /// Addresses that EC2 says are assigned: to whom? On our ENI it was our own success.
    async fn look_up(
        &mut self,
        ec2: &Ec2,
        suspects: Vec<Row>,
        fresh: bool,
        outcome: &mut Assigned,
        changes: &mut Vec<Change>,
    ) -> Option<Vec<Row>> {
        self.scan_wanted = true;
        let ips: Vec<Ipv4Addr> = suspects.iter().map(|row| row.ip).collect();
        let holders = ec2.holders(&self.subnet.id, &ips).await.unwrap_or_else(|why| {
            tracing::warn!(eni = %self.nic.eni, "who has {ips:?}? {why}");
            Vec::new()
        });
        let asked = suspects.len();
        let mut unknown = Vec::new();
        for row in suspects {
            match holders.iter().find(|interface| interface.has(row.ip)) {
                Some(interface) if interface.id == self.nic.eni => {
                    if self.shared.memory().believes(row.ip) {
                        outcome.on_eni.push(row);
                    } else {
                        unknown.push(row);
                    }
                }
                Some(interface) => {
                    let primary = interface.primary() == Some(row.ip);
                    tracing::warn!(ip = %row.ip, "{} is in use by {}", row.ip, interface.holder());
                    let event = Event::Foreign { eni: Some(interface.id.clone()), primary };
                    changes.extend(row.on(event).ok());
                }
                None => unknown.push(row),
            }
        }
        // The error may name no address, so that some of these are not in use at all.
        if asked > 1 && !unknown.is_empty() {
            return Some(unknown);
        }
        // In use, but describe lags, is denied, or does not show it (another interface's prefix).
        for row in unknown {
            if fresh || row.claimed.is_some_and(|age| age >= settle_age()) {
                self.refuse(vec![row], fresh, true, changes);
            }
        }
        None
    }
}
