//! What is on an ENI, for a round.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use tokio::time::Instant;

use super::Watched;
use crate::address::{Row, State};
use crate::ec2::Ec2Error;
use crate::eni::Eni;
use crate::ipam::Ipam;
use crate::plan::attachment::Attachment;
use crate::plan::reconcile::is_blind;
use crate::subnet::all_of;

/// While IMDS agrees with the rows EC2 itself is asked every so many intervals only: a thousand hosts that describe their
/// ENI each minute would use up the account's whole rate.
const CALM: u32 = 10;

impl Ipam {
    /// What is on the ENI, and what EC2 has it attached to; none: nobody said.
    pub(super) async fn listed(
        &self,
        eni: &Eni,
        rows: &[Row],
        watched: &mut Watched,
        thorough: bool,
    ) -> (Option<Vec<(Ipv4Addr, bool)>>, Option<Attachment>) {
        let long = self.settings.reconcile_interval * CALM;
        let is_calm = !thorough
            && watched.rounds >= 2
            && watched.asked.is_some_and(|asked| asked.elapsed() < long)
            && !watched.ledger.waits(|sight| is_blind(sight, false, true));
        if is_calm && let Ok(ips) = self.outside.imds.addresses(&eni.nic.mac).await {
            let is_there = |row: &&Row| matches!(row.state(), State::Ready | State::Lease | State::Foreign);
            // IMDS lists prefixes apart.
            let prefixes = eni.known().prefixes;
            let is_single = |ip: &Ipv4Addr| prefixes.iter().all(|prefix| !prefix.contains(ip));
            let expected: BTreeSet<Ipv4Addr> =
                rows.iter().filter(is_there).map(|row| row.ip).filter(is_single).collect();
            if ips.iter().copied().collect::<BTreeSet<_>>() == expected {
                let of_prefixes = prefixes.into_iter().flat_map(all_of).map(|ip| (ip, false));
                return (
                    Some(ips.into_iter().enumerate().map(|(n, ip)| (ip, n == 0)).chain(of_prefixes).collect()),
                    None,
                );
            }
        }
        let Ok(ec2) = self.outside.ec2.now() else { return (None, None) };
        match ec2.interface(&eni.nic.eni).await {
            Ok(interface) => {
                watched.asked = Some(Instant::now());
                eni.shown(&interface);
                (Some(interface.listed()), Some(Attachment::of(interface.instance.as_deref(), eni.instance())))
            }
            Err(Ec2Error::NoSuchEni { .. }) => (None, Some(Attachment::Deleted)),
            Err(why) => {
                tracing::warn!(eni = %eni.nic.eni, "what is on {} is not known: {why}", eni.nic.eni);
                (None, None)
            }
        }
    }
}
