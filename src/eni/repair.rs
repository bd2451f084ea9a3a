//! What is found wrong, put right: what reconciling saw twice, by guarded changes of rows and by EC2 where an address is not
//! where it should be, and leases by what this life itself knows of them.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use tokio::time::Instant;

use super::STORE_TIME;
use super::task::Task;
use crate::domain::address::{Change, NewRow, Row, State};
use crate::domain::block::{Block, Unit, by_unit, told_once};
use crate::domain::holding::{Held, Holding};
use crate::domain::id::Claim;
use crate::domain::plan;
use crate::domain::plan::assign::{Wanted, Why};
use crate::domain::plan::reconcile::{Finding, Mend, What};
use crate::error::Error;
use crate::fail_point::point;
use crate::journal::End;
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
        let mut changes: Vec<(Finding, Change)> = Vec::new();
        for (unit, finding) in
            told_once(findings.iter().map(|finding| (finding.unit(), finding.ip, finding.to_string())))
        {
            tracing::warn!(eni = %self.nic.eni, ip = %unit, "{finding}");
        }
        for finding in findings {
            match finding.mend(&self.nic.eni, |kind| self.outside.claims.next(kind)) {
                Some(Mend::Insert(row)) => unknown.push(row),
                Some(Mend::GiveUp(row)) => missing.push(row),
                Some(Mend::Assign(row)) => cut_off.push(row),
                // What containers have is the journal's to say, and the table follows.
                Some(Mend::Lease(row, claim)) => {
                    let stands = self.stands_again(&row, claim).await;
                    repaired.done.extend(stands.then_some(finding.ip));
                }
                Some(Mend::Release(claim)) => {
                    let has_ended = self.shared.ends(finding.ip, &claim, End::Found).await;
                    repaired.done.extend(has_ended.then_some(finding.ip));
                }
                Some(Mend::Change(change)) => {
                    // Docker may have let go of it since.
                    let is_over = matches!(&finding.what, What::Lost { claim } if !self.has_container(finding.ip, claim.as_ref()));
                    if !is_over {
                        changes.push((finding, change));
                    }
                }
                None => {}
            }
        }
        let until = Instant::now() + STORE_TIME;
        if changes.iter().any(|(finding, _)| matches!(finding.what, What::Lost { .. })) {
            let rows = self.rows().await?;
            if self.capacity(&rows) == 0 {
                self.makes_room().await?;
            }
        }
        self.store()?.insert_missing(&self.subnet.id, &unknown, until).await?;
        point("reconcile:inserted").await;
        repaired.done.extend(unknown.iter().map(|row| row.ip));
        let changes = together(changes);
        let wanted: Vec<Vec<Change>> =
            changes.iter().map(|group| group.iter().map(|(_, change)| change.clone()).collect()).collect();
        let done = self.store()?.apply_together(&wanted, until).await?;
        point("reconcile:changed").await;
        for (finding, _) in changes.iter().zip(done).filter(|(_, done)| *done).flat_map(|(group, _)| group) {
            repaired.done.push(finding.ip);
            self.remember(finding);
        }
        self.with_their_blocks(&mut missing, &mut cut_off).await?;
        if !missing.is_empty() {
            repaired.done.extend(missing.iter().map(|row| row.ip));
            self.give_up(&missing).await?;
        }
        if !cut_off.is_empty() {
            self.assign_again(cut_off, &mut repaired).await?;
        }
        Ok(repaired)
    }

    /// A block that left the ENI is assigned again if a container has one of its addresses, else all of it is given up.
    async fn with_their_blocks(&self, missing: &mut Vec<Row>, cut_off: &mut Vec<Row>) -> Result<(), Error> {
        let blocks: BTreeSet<Block> =
            missing.iter().chain(&*cut_off).filter(|row| row.in_block).map(|row| Block::of(row.ip)).collect();
        missing.retain(|row| !row.in_block);
        cut_off.retain(|row| !row.in_block);
        if blocks.is_empty() {
            return Ok(());
        }
        let rows = self.rows().await?;
        for block in blocks {
            let all = rows.iter().filter(|row| row.in_block && block.contains(row.ip));
            // A call for it may be under way.
            let (on, other): (Vec<&Row>, Vec<&Row>) = all
                .filter(|row| row.state() != State::Foreign)
                .partition(|row| matches!(row.state(), State::Ready | State::Lease));
            if !other.is_empty() {
                continue;
            }
            let is_used = on.iter().any(|row| self.shared.memory.has_container(row.ip));
            let all = on.into_iter().cloned();
            if is_used { cut_off.extend(all) } else { missing.extend(all) }
        }
        Ok(())
    }

    /// A container has it, and its row does not say so. Docker may have let go of it since.
    async fn stands_again(&self, row: &Row, claim: Claim) -> bool {
        let (ip, journal) = (row.ip, self.shared.journal());
        if self.shared.lease(ip).is_some() {
            journal.to_be_posted(ip);
        } else if self.outside.in_use.contains(ip) {
            let lease = Held::Lease(claim);
            let let_go = journal.now().before(row.idle);
            let (eni, subnet) = (self.nic.eni.clone(), row.subnet.clone());
            // The row may name who had it before: Docker says who has it. For whom an operator keeps it, it stays kept.
            let shown = self.outside.in_use.name(ip);
            let stays = row.kept_for().is_some() || row.endpoint() == shown.as_deref();
            let holder = if stays { row.holder.clone() } else { shown };
            let holding = Holding { ip, eni, subnet, held: lease, holder, let_go, posted: false, doubted: false };
            // One that is being given back never comes back.
            if self.shared.holding(ip).is_some_and(|holding| matches!(holding.held, Held::Leaving(_))) {
                return false;
            }
            let recorded = journal.enter(vec![holding], &[]).await;
            self.shared.follow(recorded).await;
        } else {
            return false;
        }
        tracing::error!(eni = %self.nic.eni, %ip, "the database lost the lease of {ip}; it is put right");
        true
    }

    /// Whether the container that a finding is about has it still; without a lease only Docker knows of it.
    fn has_container(&self, ip: Ipv4Addr, claim: Option<&Claim>) -> bool {
        match claim {
            Some(claim) => self.shared.lease(ip).as_ref() == Some(claim),
            None => self.outside.in_use.contains(ip),
        }
    }

    /// The next step settles what was claimed, as an Assign proves that it is on the ENI.
    fn remember(&mut self, finding: &Finding) {
        if matches!(finding.what, What::Unused { .. } | What::Lost { .. }) {
            self.pace.settle_now(Instant::now());
        }
    }

    /// Leases that left the ENI.
    async fn assign_again(&mut self, cut_off: Vec<Row>, repaired: &mut Repaired) -> Result<(), Error> {
        for (unit, rows) in by_unit(cut_off, Row::unit) {
            let mut acquired = self.acquire(Wanted::Leased(rows.clone())).await?;
            // An idle address must not keep a container's own off the ENI.
            if matches!(acquired.trouble, Some(Ec2Error::EniFull { .. })) && self.makes_room().await? {
                acquired = self.acquire(Wanted::Leased(rows.clone())).await?;
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
                tracing::warn!(eni = %self.nic.eni, "{unit} is not assigned again yet: {why}");
            }
            let leases = || rows.iter().filter(|row| row.state() == State::Lease);
            repaired.hopeless.extend(acquired.refused_blocks.iter().flat_map(|_| leases()).map(|row| {
                let why = format!(
                    "{} is in use by a container of this host ({}), but its block {unit} left {} and EC2 does not give it back: \
                     stop the container, and see what took the block's addresses",
                    row.ip,
                    row.endpoint().unwrap_or("docker ps shows its network"),
                    self.nic.eni
                );
                (row.ip, why)
            }));
            let Some(row) = rows.first().filter(|row| !row.in_block) else { continue };
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
        let rows = self.rows().await?;
        let has_container = |row: &Row| self.shared.memory.has_container(row.ip);
        let Some(idle) = plan::give_way(&rows, has_container) else { return Ok(false) };
        Ok(!self.unassign(&idle).await?.freed.is_empty())
    }
}

/// What goes all or none: a prefix is adopted whole, anything else by itself.
fn together(changes: Vec<(Finding, Change)>) -> Vec<Vec<(Finding, Change)>> {
    let unit = |(finding, _): &(Finding, Change)| {
        if matches!(finding.what, What::Unused { .. }) { finding.unit() } else { Unit::Single(finding.ip) }
    };
    by_unit(changes, unit).into_values().collect()
}
