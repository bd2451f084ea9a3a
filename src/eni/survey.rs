//! The first look at an ENI: rows, and what EC2 (or else IMDS) lists on it, compared before anything is granted. What
//! keeps an address from being granted wrongly takes effect at once; the rest waits for reconciling, which looks twice.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;

use tokio::time::Instant;

use super::STORE_TIME;
use super::task::{Task, Witness};
use crate::domain::address::{Row, State};
use crate::domain::on_eni::OnEni;
use crate::domain::plan::attachment::{Attachment, Word};
use crate::domain::plan::blocks::unless_torn;
use crate::domain::plan::reconcile::{Look, Mend, compare};
use crate::domain::plan::settle_age;
use crate::error::Error;
use crate::fail_point::point;
use crate::outside::ec2::{Action, Ec2, Ec2Error, Limits};

impl Task {
    /// Compares and puts right; says who was asked.
    pub(super) async fn survey(&mut self) -> Result<Witness, Error> {
        let ec2 = self.outside.ec2.now();
        let limits = async { self.limits(ec2.as_ref().ok()?).await };
        // At once: EC2 may be slow.
        let (listed, limits) = tokio::join!(self.listed(&ec2), limits);
        let (listed, witness) = listed?;
        let until = Instant::now() + STORE_TIME;
        let store = self.store()?;
        let listed_now: Vec<Ipv4Addr> = listed.all().collect();
        let rows = self.fleet.look(&self.nic.eni, &listed_now, STORE_TIME).await?;

        let found = compare(&Look {
            eni: &self.nic.eni,
            subnet: &self.subnet,
            own_enis: &[],
            rows: &rows,
            listed: Some(&listed),
            docker: None,
            here: &HashSet::new(),
            leases: &HashMap::new(),
            on_link: &[],
            adopts: false,
            recent: &HashSet::new(),
        });
        let (mut missing, mut unknown, mut changes) = (Vec::new(), Vec::new(), Vec::new());
        for finding in &found {
            match finding.mend(&self.nic.eni, |kind| self.outside.claims.next(kind)) {
                Some(Mend::GiveUp(row)) => missing.push(row),
                Some(Mend::Insert(row)) => unknown.push(row),
                Some(Mend::Change(change)) if finding.keeps_back() => changes.push(change),
                Some(Mend::Change(_) | Mend::Assign(_) | Mend::Lease(..) | Mend::Release(_)) | None => {}
            }
        }
        store.apply(&changes, until).await?;
        store.insert_missing(&self.subnet.id, &unknown, until).await?;
        point("survey:changed").await;

        // Describe lags, so that an address assigned a moment ago may be missing from a later look; what this process
        // assigned or once saw listed is not doubted again here.
        let first = self.witness != Some(Witness::Ec2);
        self.shared.memory.surveyed(&listed, if first { &missing } else { &[] });
        if self.witness.is_none() {
            self.shared.compare().await?;
            self.began(&listed, &rows);
        }
        self.shared.take_in(&rows).await;
        // IMDS's word is not enough to give anything up, and neither is the table's before Docker has said what its
        // containers have (I1): reconciling looks again.
        let is_unused = |row: &Row| !self.shared.memory.has_container(row.ip);
        let unused: Vec<Row> = missing.into_iter().filter(is_unused).collect();
        let is_here = |row: &&Row| row.iface.as_ref() == Some(&self.nic.eni);
        let unused = unless_torn(unused, rows.iter().filter(is_here));
        // Of a distant one nobody will ever say more than the table.
        let is_told = self.outside.in_use.count().is_some() || self.shared.place.is_distant;
        let is_known = is_told && !self.shared.is_in_doubt();
        if first && witness == Witness::Ec2 && is_known && !unused.is_empty() {
            let given = self.unassign(&unused).await?;
            self.note(Action::Unassign, given.trouble.as_ref());
        }
        match limits {
            Some(Ok(limits)) => self.shared.shown.has_limits(limits),
            Some(Err(why)) => tracing::warn!(
                "the address limit of {} is not known, EC2's refusals will show it: {why}",
                self.instance_type
            ),
            None => {}
        }
        Ok(witness)
    }

    /// What this life of the ENI finds.
    fn began(&self, listed: &OnEni, rows: &[Row]) {
        let is_known = |ip| rows.iter().any(|row| row.ip == ip && !matches!(row.state(), State::Free | State::Foreign));
        let found = listed.all().filter(|ip| listed.primary != Some(*ip) && !is_known(*ip));
        let found = found.collect();
        self.shared.memory.began(found);
    }

    async fn listed(&self, ec2: &Result<Ec2, Error>) -> Result<(OnEni, Witness), Error> {
        let why = match ec2 {
            Ok(ec2) => match ec2.interface(&self.nic.eni).await {
                Ok(interface) => {
                    self.is_attached(Attachment::of(interface.instance.as_deref(), &self.shared.place.instance))?;
                    self.shared.shown(&interface);
                    return Ok((interface.on_eni(), Witness::Ec2));
                }
                Err(why) => {
                    self.note(Action::DescribeInterfaces, Some(&why));
                    if matches!(why, Ec2Error::NoSuchEni { .. }) {
                        self.is_attached(Attachment::Deleted)?;
                    }
                    Error::Ec2(why)
                }
            },
            Err(why) => why.clone(),
        };
        if self.shared.place.is_distant {
            return Err(why);
        }
        match self.outside.imds.on_eni(&self.nic.mac).await {
            Ok(listed) => Ok((listed, Witness::Imds)),
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

    /// What the instance type lets it have; none where it is known already.
    async fn limits(&self, ec2: &Ec2) -> Option<Result<Limits, Ec2Error>> {
        if self.shared.shown.limits().is_some() {
            return None;
        }
        Some(ec2.limits(&self.instance_type).await)
    }
}
