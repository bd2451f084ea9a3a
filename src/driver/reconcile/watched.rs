//! One ENI over the rounds.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::time::Instant;

use super::ROUND;
use super::networks::is_on;
use super::outcome::Problems;
use super::seen::Seen;
use crate::domain::address::{Row, State};
use crate::domain::on_eni::OnEni;
use crate::domain::plan::attachment::Attachment;
use crate::domain::plan::ledger::{Ledger, Sight};
use crate::domain::plan::reconcile::{Finding, What, is_blind};
use crate::driver::found::Found;
use crate::eni::in_use::InUse;
use crate::eni::{Eni, Outside};
use crate::outside::ec2::Ec2Error;
use crate::outside::engine::Snapshot;

/// One ENI over the rounds.
#[derive(Default)]
pub(super) struct Watched {
    ledger: Ledger<What>,
    /// When EC2 was last asked what is on it.
    asked: Option<Instant>,
    rounds: u32,
    /// Docker has shown a network on it: this is the Engine whose containers have its addresses.
    is_dockers: bool,
    pub(super) problems: Problems,
}

impl Watched {
    /// What is on the ENI, and what EC2 has it attached to; none: nobody said. `calm`: for how long EC2 need not be asked while
    /// IMDS agrees with the rows.
    pub(super) async fn listed(
        &mut self,
        outside: &Outside,
        eni: &Eni,
        rows: &[Row],
        calm: Duration,
    ) -> (Option<OnEni>, Option<Attachment>) {
        let is_calm =
            self.rounds >= 2 && self.was_asked_within(calm) && !self.ledger.waits(|sight| is_blind(sight, false, true));
        if is_calm && eni.is_distant() {
            return (None, None);
        }
        if is_calm && let Ok(listed) = outside.imds.on_eni(&eni.nic.mac).await {
            let is_there = |row: &&Row| matches!(row.state(), State::Ready | State::Lease | State::Foreign);
            let expected: BTreeSet<Ipv4Addr> = rows.iter().filter(is_there).map(|row| row.ip).collect();
            if listed.all().collect::<BTreeSet<_>>() == expected {
                return (Some(listed), None);
            }
        }
        let Ok(ec2) = outside.ec2.now() else { return (None, None) };
        match ec2.interface(&eni.nic.eni).await {
            Ok(interface) => {
                self.asked = Some(Instant::now());
                eni.shown(&interface);
                (Some(interface.on_eni()), Some(Attachment::of(interface.instance.as_deref(), eni.instance())))
            }
            Err(Ec2Error::NoSuchEni { .. }) => (None, Some(Attachment::Deleted)),
            Err(why) => {
                tracing::warn!(eni = %eni.nic.eni, "what is on {} is not known: {why}", eni.nic.eni);
                (None, None)
            }
        }
    }

    /// Whether EC2 has said what is on it within this time.
    pub(super) fn was_asked_within(&self, span: Duration) -> bool {
        self.asked.is_some_and(|asked| asked.elapsed() < span)
    }

    /// Another round is about to judge it.
    pub(super) fn begin_round(&mut self) {
        self.rounds = self.rounds.saturating_add(1);
    }

    /// Whether this Engine's word on the ENI's addresses is worth anything: another one on the same host, or behind the socket
    /// by now, shows none of them in use, and would have every lease released. A network that is removed takes its pool along.
    pub(super) fn is_shown_by(&mut self, docker: &Snapshot, eni: &Eni, in_use: &InUse) -> bool {
        let is_shown = docker.networks.iter().any(|network| is_on(network, eni));
        self.is_dockers |= is_shown;
        is_shown || self.is_dockers && in_use.has_released_pool(&eni.nic.eni)
    }

    pub(super) fn told(&self, eni: &Eni, finding: &Finding, now: Instant) -> Found {
        let seen_seconds = self.ledger.age(&finding.sight(), now).map(|age| age.as_secs());
        Found { of: eni.nic.eni.to_string(), ip: finding.ip, found: finding.to_string(), seen_seconds, repaired: false }
    }

    /// Has what was seen twice put right, and takes down the rest.
    pub(super) async fn settle(
        &mut self,
        outside: &Outside,
        eni: &Eni,
        findings: Vec<Finding>,
        look: &Seen,
        now: Instant,
    ) -> Vec<Found> {
        let told: Vec<(Ipv4Addr, Found)> =
            findings.iter().map(|finding| (finding.ip, self.told(eni, finding, now))).collect();
        let (listed, docker) = (look.listed.is_some(), look.docker.is_some());
        let is_blind = |sight: &Sight<What>| is_blind(sight, listed, docker) || look.known.recent.contains(&sight.ip);
        self.ledger.note(findings.iter().map(Finding::sight), is_blind, now);
        let is_due = |finding: &Finding| {
            let sight = finding.sight();
            let is_second = self.ledger.age(&sight, now).is_some_and(|age| !age.is_zero());
            self.ledger.is_due(&sight, now) || is_second && eni.is_due_early(finding)
        };
        let due = findings.into_iter().filter(is_due);
        let (hopeless, due): (Vec<Finding>, Vec<Finding>) = due.partition(Finding::is_for_a_person);
        // What a look was blind to is not over.
        let before = std::mem::take(&mut self.problems);
        let mut is_blind = !listed || !docker;
        self.problems.extend(hopeless.iter().map(|finding| (finding.ip.to_string(), finding.to_string())));
        let mut done = Vec::new();
        if !due.is_empty() {
            let kinds: Vec<(Ipv4Addr, &str)> = due.iter().map(|finding| (finding.ip, finding.what.kind())).collect();
            match eni.repair(due, Instant::now() + ROUND).await {
                Ok(repaired) => {
                    done = repaired.done;
                    let is_done = |(ip, _): &&(Ipv4Addr, &str)| done.contains(ip);
                    kinds.iter().filter(is_done).for_each(|(_, kind)| outside.counts.mended(kind));
                    self.problems.extend(repaired.hopeless.into_iter().map(|(ip, why)| (ip.to_string(), why)));
                }
                Err(why) => {
                    tracing::warn!(eni = %eni.nic.eni, "not put right yet: {why}");
                    is_blind = true;
                }
            }
        }
        if is_blind {
            for (about, why) in before {
                self.problems.entry(about).or_insert(why);
            }
        }
        told.into_iter().map(|(ip, found)| Found { repaired: done.contains(&ip), ..found }).collect()
    }
}
