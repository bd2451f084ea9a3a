//! What is found wrong, put right: what reconciling saw twice, by guarded changes of rows and by EC2 where an address is not
//! where it should be, and leases by what this life itself knows of them.

use std::net::Ipv4Addr;

use tokio::time::Instant;

use super::STORE_TIME;
use super::task::Task;
use crate::domain::address::{Change, NewRow, Row};
use crate::domain::id::Kind;
use crate::domain::plan;
use crate::domain::plan::assign::{Wanted, Why};
use crate::domain::plan::reconcile::{Finding, Mend, What};
use crate::error::Error;
use crate::fail_point::point;
use crate::outside::ec2::{Action, Ec2Error};

/// What came of a repair.
#[derive(Debug, Default)]
pub struct Repaired {
    /// Findings that are put right, or on their way.
    pub done: Vec<Ipv4Addr>,
    /// Addresses that cannot be put right, and why.
    pub hopeless: Vec<(Ipv4Addr, String)>,
}

impl Task {
    /// Puts right what can be. What has changed since it was found is left as it is now (I5).
    pub(super) async fn repair(&mut self, mut findings: Vec<Finding>) -> Result<Repaired, Error> {
        // An ENI that has left has its new host's containers, which this host's Docker does not show.
        if findings.iter().any(Finding::gives_up)
            && let Err(why) = self.shared.place.may_give_up().await
        {
            tracing::debug!(eni = %self.nic.eni, "{why}");
            self.shared.place.check()?;
            findings.retain(|finding| !finding.gives_up());
        }
        let mut repaired = Repaired::default();
        let mut missing: Vec<Row> = Vec::new();
        let mut cut_off: Vec<Row> = Vec::new();
        let mut unknown: Vec<NewRow> = Vec::new();
        let mut forgotten: Vec<(Finding, Change)> = Vec::new();
        let mut changes: Vec<(Finding, Change)> = Vec::new();
        for finding in findings {
            tracing::warn!(eni = %self.nic.eni, ip = %finding.ip, "{finding}");
            match finding.mend(&self.nic.eni, |kind| self.outside.claims.next(kind)) {
                Some(Mend::Insert(row)) => unknown.push(row),
                Some(Mend::GiveUp(row)) => missing.push(row),
                Some(Mend::Assign(row)) => cut_off.push(row),
                Some(Mend::Change(change)) if self.prepares(&finding, &change) => {
                    let is_forgotten = matches!(finding.what, What::Forgotten { .. });
                    if is_forgotten { &mut forgotten } else { &mut changes }.push((finding, change));
                }
                Some(Mend::Change(_)) | None => {}
            }
        }
        let until = Instant::now() + STORE_TIME;
        if changes.iter().any(|(finding, _)| matches!(finding.what, What::Lost { .. })) {
            let rows = self.fleet.look(&self.nic.eni, &[], STORE_TIME).await?;
            if self.capacity(&rows) == 0 {
                self.makes_room().await?;
            }
        }
        self.store.insert_missing(&self.subnet.id, &unknown, until).await?;
        point("reconcile:inserted").await;
        repaired.done.extend(unknown.iter().map(|row| row.ip));
        let wanted: Vec<Change> = changes.iter().map(|(_, change)| change.clone()).collect();
        let done = self.store.apply(&wanted, until).await?;
        point("reconcile:changed").await;
        for ((finding, _), done) in changes.iter().zip(done) {
            if done {
                repaired.done.push(finding.ip);
                self.remember(finding);
            } else if finding.what == (What::Lost { claim: None }) {
                // Somebody else has its row by now.
                self.shared.memory.released(finding.ip);
            }
        }
        let wanted: Vec<Change> = forgotten.iter().map(|(_, change)| change.clone()).collect();
        let done = self.shared.stand_again(&wanted, until).await;
        for (at, (finding, change)) in forgotten.iter().enumerate() {
            if done.as_ref().is_ok_and(|done| done.get(at) == Some(&true)) {
                repaired.done.push(change.ip);
            } else if let (What::Forgotten { claim: None }, Some(claim)) = (&finding.what, &change.to.claim) {
                self.shared.memory.let_go(change.ip, claim);
            }
        }
        done?;
        if !missing.is_empty() {
            repaired.done.extend(missing.iter().map(|row| row.ip));
            self.give_up(&missing).await?;
        }
        if !cut_off.is_empty() {
            self.assign_again(cut_off, &mut repaired).await?;
        }
        Ok(repaired)
    }

    /// What this life knows follows before the row changes, so that a release in between is not lost. Says whether the change
    /// is still called for: Docker may have let go of the address since.
    fn prepares(&self, finding: &Finding, change: &Change) -> bool {
        let memory = &self.shared.memory;
        match (&finding.what, &change.to.claim) {
            (What::Forgotten { claim: None }, Some(claim)) => memory.found_in_use(finding.ip, claim),
            (What::Forgotten { claim: Some(claim) } | What::Lost { claim: Some(claim) }, _) => {
                memory.has_lease(finding.ip, claim)
            }
            // Only Docker knows of it: its row becomes a lease once EC2 has put it on.
            (What::Lost { claim: None }, _) => memory.found_in_use(finding.ip, &self.outside.claims.next(Kind::Lease)),
            (What::Ended, _) => {
                finding.row.iter().flat_map(|row| &row.claim).for_each(|claim| memory.let_go(finding.ip, claim));
                true
            }
            _ => true,
        }
    }

    /// What a change means for what this life knows: the next step settles what was claimed, as an Assign proves that it is
    /// on the ENI.
    fn remember(&mut self, finding: &Finding) {
        if finding.what == What::Unused {
            self.shared.memory.released(finding.ip);
        }
        if matches!(finding.what, What::Unused | What::Lost { .. }) {
            self.pace.settle_now(Instant::now());
        }
    }

    /// Leases that left the ENI.
    async fn assign_again(&mut self, cut_off: Vec<Row>, repaired: &mut Repaired) -> Result<(), Error> {
        for row in cut_off {
            let mut acquired = self.acquire(Wanted::Leased(row.clone())).await?;
            // An idle address must not keep a container's own off the ENI.
            if matches!(acquired.trouble, Some(Ec2Error::EniFull { .. })) && self.makes_room().await? {
                acquired = self.acquire(Wanted::Leased(row.clone())).await?;
            }
            point("reconcile:assigned").await;
            if !acquired.asked.is_empty() {
                self.note(Action::Assign, acquired.trouble.as_ref());
            }
            let on_eni: Vec<Ipv4Addr> = acquired.on_eni.iter().map(|row| row.ip).collect();
            self.shared.memory.put_on(&on_eni);
            repaired.done.extend(on_eni);
            if let Some(why) = &acquired.trouble {
                // Found again by the next look.
                tracing::warn!(eni = %self.nic.eni, ip = %row.ip, "{} is not assigned again yet: {why}", row.ip);
            }
            let taken = acquired.refused.into_iter().filter_map(|refused| match refused.why {
                Why::Taken(holder) => Some(holder.unwrap_or_else(|| "another interface".into())),
                Why::Never(_) => None,
            });
            repaired.hopeless.extend(taken.map(|holder| {
                let why = format!(
                    "{} is in use by a container of this host, but {holder} has it by now: stop the container ({}), and see \
                     what took its address",
                    row.ip,
                    row.endpoint().unwrap_or("docker ps shows its network")
                );
                (row.ip, why)
            }));
        }
        Ok(())
    }

    /// Gives up the coldest idle address, if there is one.
    async fn makes_room(&mut self) -> Result<bool, Error> {
        let rows = self.fleet.look(&self.nic.eni, &[], STORE_TIME).await?;
        let has_container = |row: &Row| self.shared.memory.has_container(row.ip);
        let Some(idle) = plan::give_way(&rows, has_container).cloned() else { return Ok(false) };
        Ok(self.unassign(std::slice::from_ref(&idle)).await?.freed > 0)
    }
}
