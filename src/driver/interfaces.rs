//! The host's interfaces as they show themselves, and waiting for those that do not yet.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use crate::domain::id::EniId;
use crate::eni::Outside;
use crate::error::Error;
use crate::late::{in_time, persist};
use crate::once::{Away, KEPT, Shared};
use crate::outside::ec2::{Ec2Error, Interface};
use crate::outside::imds::{Host, ImdsError, Nic};
use crate::outside::link::{Link, LinkError};

/// What IMDS, the kernel and EC2 say of them.
pub struct Interfaces {
    outside: Arc<Outside>,
    /// The parent interface of networks that name none.
    parent: Option<String>,
    away: Away,
    /// The ENIs that EC2 has attached to this instance.
    attached: Shared<Vec<Interface>, Ec2Error>,
}

impl Interfaces {
    pub(crate) fn new(outside: &Arc<Outside>, parent: Option<String>) -> Self {
        Self { outside: Arc::clone(outside), parent, away: Away::default(), attached: Shared::default() }
    }

    /// The host as IMDS knows it now. It has half of a request's time.
    pub async fn host(&self) -> Result<Host, Error> {
        self.host_by(Instant::now() + self.outside.request_timeout / 2).await
    }

    /// The same for a request that ends then.
    pub(crate) async fn host_by(&self, until: Instant) -> Result<Host, Error> {
        let host = self.outside.imds.host(in_time(until)).await;
        self.away.note("the instance metadata service", host.as_ref().err());
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
    pub(crate) async fn unless_in_vain<T>(
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
            return Err(Error::NotComing(why));
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
    pub(crate) async fn may_list_more(&self, host: &Host, until: Instant) -> bool {
        let Ok(ec2) = self.outside.ec2.now() else { return true };
        let instance = host.instance.clone();
        let asked = self.attached.get(in_time(until), async move || ec2.interfaces_of_instance(&instance).await);
        let Some(Ok(attached)) = asked.await else { return true };
        // IMDS lists no IPv4 address of those that have none.
        attached.iter().any(|eni| eni.primary().is_some() && host.interfaces.iter().all(|nic| nic.eni != eni.id))
    }

    /// IMDS lists what is gone for hours.
    pub(crate) async fn is_back(&self, nic: &Nic, host: &Host) -> bool {
        let Ok(ec2) = self.outside.ec2.now() else { return false };
        ec2.interface(&nic.eni).await.is_ok_and(|interface| interface.instance.as_ref() == Some(&host.instance))
    }

    /// The ENI that a network is for, and its interface: option `eni-id`, else option `parent`, else the setting, else the
    /// one ENI with device number 1.
    pub async fn choose<'h>(
        &self,
        host: &'h Host,
        options: &BTreeMap<String, String>,
    ) -> Result<(&'h Nic, Link), Error> {
        if let Some(instance) = options.get("instance-id").filter(|id| **id != host.instance) {
            return Err(Error::Asked(format!(
                "--ipam-opt instance-id={instance:?} is not this host, which is {}",
                host.instance
            )));
        }
        let by_id = match options.get("eni-id") {
            Some(id) => {
                let id: EniId = id.parse()?;
                Some(host.interfaces.iter().find(|nic| nic.eni == id).ok_or_else(|| host.lacks(not_here(&id)))?)
            }
            None => None,
        };
        let setting = self.parent.as_ref().filter(|_| by_id.is_none());
        let by_parent = match options.get("parent").or(setting) {
            Some(name) => {
                let link = self.outside.links.usable(name).await.map_err(by_name)?;
                Some(host.interfaces.iter().find(|nic| nic.mac == link.mac).ok_or_else(|| {
                    host.lacks(Error::Absent(format!(
                        "{name} ({}) is not an ENI of this instance as IMDS lists them",
                        link.mac
                    )))
                })?)
            }
            None => None,
        };
        let nic = match (by_id, by_parent) {
            (Some(a), Some(b)) if a.eni != b.eni => {
                return Err(Error::Asked(format!(
                    "--ipam-opt eni-id={} and parent name different interfaces; drop one",
                    a.eni
                )));
            }
            (Some(nic), _) | (None, Some(nic)) => nic,
            (None, None) => {
                let mut second: Vec<&Nic> = host.interfaces.iter().filter(|nic| nic.device_number == 1).collect();
                if second.len() > 1 {
                    // IMDS may list for hours what was deleted; that has no link.
                    let links = self.outside.links.macs().await?;
                    second.retain(|nic| links.contains(&nic.mac));
                }
                match second.as_slice() {
                    [nic] => *nic,
                    _ => {
                        let all: Vec<_> = host.interfaces.iter().map(|nic| nic.eni.as_str()).collect();
                        return Err(host.lacks(Error::Absent(format!(
                            "which interface? No single one has device number 1; pass --ipam-opt eni-id=… (this host has {})",
                            all.join(", ")
                        ))));
                    }
                }
            }
        };
        // What is attached to an interface that is down has no network.
        Ok((nic, self.outside.links.of_mac(&nic.mac).await?.usable()?))
    }
}

/// A link that is asked for by its name may be a mistake.
fn by_name(why: LinkError) -> Error {
    match why {
        LinkError::Missing { .. } => Error::Absent(why.to_string()),
        LinkError::Down { .. } | LinkError::Gone { .. } | LinkError::Kernel { .. } => Error::Link(why),
    }
}

fn not_here(eni: &EniId) -> Error {
    Error::Absent(format!(
        "{eni} is not attached to this instance, as far as IMDS knows; attach it, or create the network for another"
    ))
}
