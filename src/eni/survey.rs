//! The first look at an ENI: rows, and what EC2 (or else IMDS) lists on it, compared before anything is granted. What
//! keeps an address from being granted wrongly takes effect at once; the rest waits for reconciling, which looks twice.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;

use tokio::time::Instant;

use super::STORE_TIME;
use super::task::Task;
use crate::address::{Event, Row, State};
use crate::ec2::{Action, Ec2, Ec2Error};
use crate::error::Error;
use crate::fault::point;
use crate::id::Claim;
use crate::plan::attachment::{Attachment, Word};
use crate::plan::reconcile::{Finding, Look, What, compare};
use crate::plan::settle_age;

/// Who said which addresses an ENI has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Witness {
    /// EC2: lags a little.
    Ec2,
    /// IMDS: lags by up to a minute, so what it does not list may be there all the same.
    Imds,
}

impl Task {
    /// Compares and puts right; says who was asked.
    pub(super) async fn survey(&mut self) -> Result<Witness, Error> {
        let ec2 = self.outside.ec2.now();
        let limit = async { self.limit(ec2.as_ref().ok()?).await };
        // At once: EC2 may be slow.
        let (listed, limit) = tokio::join!(self.listed(&ec2), limit);
        let (listed, witness) = listed?;
        let until = Instant::now() + STORE_TIME;
        let store = &self.outside.store;
        let mut rows = store.rows_of_eni(&self.nic.eni, until).await?;
        let others: Vec<Ipv4Addr> =
            listed.iter().map(|(ip, _)| *ip).filter(|ip| rows.iter().all(|row| row.ip != *ip)).collect();
        rows.extend(store.rows_at(&others, until).await?);

        let found = compare(&Look {
            eni: &self.nic.eni,
            subnet: &self.subnet,
            own_enis: &[],
            rows: &rows,
            listed: Some(&listed),
            docker: None,
            leases: &HashMap::new(),
            on_link: &[],
            prefixes: &[],
            recent: &HashSet::new(),
        });
        let missing: Vec<Row> = found
            .iter()
            .filter(|finding| finding.what == What::Missing)
            .filter_map(|finding| finding.row.clone())
            .collect();
        let kept_back = |finding: &Finding| match finding.what {
            What::Unknown { primary } => Some(Event::Foreign { eni: Some(self.nic.eni.clone()), primary }),
            What::Unmarked => Some(Event::MarkPrimary),
            What::Missing
            | What::CutOff
            | What::Forgotten { .. }
            | What::Lost { .. }
            | What::Gone
            | What::Unused
            | What::Ended
            | What::Conflict
            | What::Contradiction => None,
        };
        let changes: Vec<_> = found.iter().filter_map(|f| f.row.as_ref()?.on(kept_back(f)?).ok()).collect();
        let unknown: Vec<_> = found.iter().filter_map(|finding| finding.missing_row(&self.nic.eni)).collect();
        store.apply(&changes, until).await?;
        store.insert_missing(&self.subnet.id, &unknown, until).await?;
        point("survey:changed").await;

        // Describe lags, so that an address assigned a moment ago may be missing from a later look; what this process
        // assigned or once saw listed is not doubted again here.
        let first = self.witness != Some(Witness::Ec2);
        {
            let mut memory = self.shared.memory();
            let believed: Vec<Ipv4Addr> = listed.iter().map(|(ip, _)| *ip).filter(|ip| memory.believes(*ip)).collect();
            memory.listed.extend(believed);
            if first {
                memory.listed.retain(|ip| missing.iter().all(|row| row.ip != *ip));
            }
            if self.witness.is_none() {
                let leases = rows.iter().filter(|row| row.state() == State::Lease);
                let leases = leases.filter(|row| row.iface.as_ref() == Some(&self.nic.eni));
                let leases = leases.filter_map(|row| Some((row.ip, row.claim.clone()?)));
                // What is of an earlier life, and Docker has released in this one, is over.
                let is_over = |ip, claim: &Claim| {
                    !claim.is_of(self.outside.claims.boot()) && self.outside.in_use.last_release(ip).is_some()
                };
                memory.leases.extend(leases.filter(|(ip, claim)| !is_over(*ip, claim)));
                memory.found = listed
                    .iter()
                    .filter(|(ip, primary)| !primary && memory.prefixes.iter().all(|prefix| !prefix.contains(ip)))
                    .map(|(ip, _)| *ip)
                    .filter(|ip| {
                        rows.iter().all(|row| row.ip != *ip || matches!(row.state(), State::Free | State::Foreign))
                    })
                    .collect();
            }
        }
        if let Ok(ec2) = ec2 {
            // IMDS's word is not enough to give anything up, and neither is the table's before Docker has said what its
            // containers have (I1): reconciling looks again.
            let in_use = &self.outside.in_use;
            let unused: Vec<Row> = missing.into_iter().filter(|row| !in_use.contains(row.ip)).collect();
            if first && witness == Witness::Ec2 && in_use.count().is_some() && !unused.is_empty() {
                let (_, trouble) = self.unassign(&ec2, &unused).await?;
                self.note(Action::Unassign, trouble.as_ref());
            }
        }
        match limit {
            Some(Ok(limit)) => self.shared.memory().limit = Some(limit),
            Some(Err(why)) => tracing::warn!(
                "the address limit of {} is not known, EC2's refusals will show it: {why}",
                self.instance_type
            ),
            None => {}
        }
        Ok(witness)
    }

    async fn listed(&self, ec2: &Result<Ec2, String>) -> Result<(Vec<(Ipv4Addr, bool)>, Witness), Error> {
        let why = match ec2 {
            Ok(ec2) => match ec2.interface(&self.nic.eni).await {
                Ok(interface) => {
                    self.is_attached(Attachment::of(interface.instance.as_deref(), &self.shared.place.instance))?;
                    self.shared.shown(&interface);
                    self.shared.memory().prefixes.clone_from(&interface.prefixes);
                    return Ok((interface.listed(), Witness::Ec2));
                }
                Err(why) => {
                    self.note(Action::DescribeInterfaces, Some(&why));
                    if matches!(why, Ec2Error::NoSuchEni { .. }) {
                        self.is_attached(Attachment::Deleted)?;
                    }
                    Error::Ec2(why)
                }
            },
            Err(why) => Error::Missing(why.clone()),
        };
        match self.outside.imds.addresses(&self.nic.mac).await {
            // The first line is the primary address.
            Ok(ips) => Ok((ips.into_iter().enumerate().map(|(n, ip)| (ip, n == 0)).collect(), Witness::Imds)),
            // Where IMDS may answer soon it is waited for, whatever EC2 says.
            Err(late) => Err(if why.may_pass() { why } else { late.into() }),
        }
    }

    /// An ENI may have been attached so short a while ago that EC2 does not show it yet; one that was here already has left.
    fn is_attached(&self, ec2: Attachment) -> Result<(), Error> {
        if ec2 == Attachment::Here {
            return Ok(());
        }
        let word = Word { imds: None, ec2: Some(ec2) };
        if self.surveyed.borrow().is_ok() || self.shared.place.began.elapsed() >= settle_age() {
            self.shared.place.judge(&word);
        }
        Err(self.shared.place.refusal(&word))
    }

    /// The address limit; none where it is known already.
    async fn limit(&self, ec2: &Ec2) -> Option<Result<usize, Ec2Error>> {
        if self.shared.memory().limit.is_some() {
            return None;
        }
        Some(ec2.address_limit(&self.instance_type).await)
    }
}
