//! The host as it shows itself, and waiting for what it does not show yet.

use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use super::Ipam;
use crate::error::Error;
use crate::id::EniId;
use crate::imds::{Host, ImdsError, Nic};
use crate::late::{KEPT, in_time, persist};
use crate::link::LinkError;

impl Ipam {
    /// The host as IMDS knows it now. It has half of a request's time.
    pub async fn host(&self) -> Result<Host, Error> {
        self.host_by(Instant::now() + self.settings.request_timeout / 2).await
    }

    /// The same for a request that ends then.
    pub(crate) async fn host_by(&self, until: Instant) -> Result<Host, Error> {
        let host = self.outside.imds.host(in_time(until)).await;
        self.imds_away.note("the instance metadata service", host.as_ref().err());
        Ok(host?)
    }

    /// One ENI of the host, likewise.
    pub(crate) async fn nic(&self, eni: &EniId, until: Instant) -> Result<Nic, Error> {
        self.outside.imds.nic(eni, in_time(until)).await.map_err(|why| match why {
            ImdsError::Absent { .. } => not_here(eni),
            ImdsError::Unreachable { .. } | ImdsError::Disabled | ImdsError::Odd { .. } => Error::Imds(why),
        })
    }

    /// The one place that waits for what may pass by itself, within a request's time.
    pub(crate) async fn patiently<T, F>(&self, until: Instant, attempt: impl Fn() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let vain = &Mutex::default();
        persist(until, || {
            let outcome = attempt();
            async move { self.unless_in_vain(outcome.await, vain, until).await }
        })
        .await
    }

    /// What is absent is a mistake of whoever asks for it where nothing of this host is on its way. Answers are shared for a
    /// moment, so it has to be absent by one that is younger than that finding; `vain`: since when that is known.
    pub(super) async fn unless_in_vain<T>(
        &self,
        outcome: Result<T, Error>,
        vain: &Mutex<Option<Instant>>,
        until: Instant,
    ) -> Result<T, Error> {
        let Err(Error::Absent(why)) = outcome else { return outcome };
        let may_grow = self.may_grow(until).await;
        let mut vain = vain.lock().unwrap_or_else(PoisonError::into_inner);
        *vain = (!may_grow).then(|| vain.unwrap_or_else(Instant::now));
        if vain.is_some_and(|since| since.elapsed() > KEPT) {
            return Err(Error::Asked(why));
        }
        Err(Error::Absent(why))
    }

    /// Whether an interface may appear by itself that is not there yet: in IMDS's list, or as a link. Where nobody tells, it
    /// may.
    async fn may_grow(&self, until: Instant) -> bool {
        let Ok(host) = self.host_by(until).await else { return true };
        // The first one carries the host itself.
        for nic in host.interfaces.iter().filter(|nic| nic.device_number > 0) {
            if self.outside.links.of_mac(&nic.mac).await.is_err() {
                return true;
            }
        }
        self.may_list_more(&host, until).await
    }

    /// Whether EC2 has attached an interface that IMDS does not list yet.
    pub(super) async fn may_list_more(&self, host: &Host, until: Instant) -> bool {
        let Ok(ec2) = self.outside.ec2.now() else { return true };
        let instance = host.instance.clone();
        let asked = self.attached.get(in_time(until), async move || ec2.interfaces_of_instance(&instance).await);
        let Some(Ok(attached)) = asked.await else { return true };
        // IMDS lists no IPv4 address of those that have none.
        attached.iter().any(|eni| eni.primary().is_some() && host.interfaces.iter().all(|nic| nic.eni != eni.id))
    }
}

/// A link that is asked for by its name may be a mistake.
pub(crate) fn by_name(why: LinkError) -> Error {
    match why {
        LinkError::Missing { .. } => Error::Absent(why.to_string()),
        LinkError::Down { .. } | LinkError::Gone { .. } | LinkError::Kernel { .. } => Error::Link(why),
    }
}

pub(crate) fn not_here(eni: &EniId) -> Error {
    Error::Absent(format!(
        "{eni} is not attached to this instance, as far as IMDS knows; attach it, or create the network for another"
    ))
}
