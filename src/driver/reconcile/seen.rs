//! What one round has read of one ENI.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use crate::domain::address::{Row, State};
use crate::domain::id::EniId;
use crate::domain::on_eni::OnEni;
use crate::domain::plan::reconcile::{Finding, Look, compare};
use crate::eni::{Eni, Known};

/// All that a look at one ENI has read.
pub(super) struct Seen {
    pub(super) rows: Vec<Row>,
    pub(super) listed: Option<OnEni>,
    pub(super) docker: Option<HashSet<Ipv4Addr>>,
    pub(super) here: HashSet<Ipv4Addr>,
    pub(super) known: Known,
    pub(super) own_enis: Vec<EniId>,
    pub(super) on_link: Vec<Ipv4Addr>,
}

impl Seen {
    pub(super) fn compare(&self, eni: &Eni) -> Vec<Finding> {
        compare(&Look {
            eni: &eni.nic.eni,
            subnet: &eni.subnet,
            own_enis: &self.own_enis,
            rows: &self.rows,
            listed: self.listed.as_ref(),
            docker: self.docker.as_ref(),
            here: &self.here,
            leases: &self.known.leases,
            on_link: &self.on_link,
            adopts: eni.adopts(),
            recent: &self.known.recent,
        })
    }

    /// Leases whose containers this Docker cannot know.
    pub(super) fn unjudged(&self, eni: &Eni) -> Option<String> {
        let is_lease = |row: &&Row| row.state() == State::Lease && row.iface.as_ref() == Some(&eni.nic.eni);
        let leases = self.rows.iter().filter(is_lease).count();
        (self.docker.is_none() && leases > 0).then(|| {
            format!(
                "{leases} addresses of {} are leased, but Docker shows no network on it: create its network again, and those \
                 without a container are released; or correct EC2_IPAM_DOCKER_SOCKET if its containers are another Engine's",
                eni.nic.eni
            )
        })
    }
}
