//! What the table says of an address as it is now, and whether this host knows by now what its containers have.

use std::net::Ipv4Addr;

use tokio::time::Instant;

use super::History;
use crate::domain::address::{AWS, EC2, Row, State};
use crate::domain::id::EniId;
use crate::domain::roll::serving;

/// What keeps history from being all that there is to say.
pub(super) enum Standing {
    /// Nobody knows yet whether a container of this host has it; by its name the one that Docker shows with it.
    Doubted(Option<String>),
    /// It is on another host's ENI, by the table.
    Elsewhere(Elsewhere),
    /// No container can have it: what it is.
    NoContainers(String),
}

pub(super) struct Elsewhere {
    pub(super) row: Row,
    pub(super) eni: EniId,
    pub(super) instance: Option<String>,
    /// This process serves it, as its host has no driver.
    pub(super) is_served_here: bool,
    /// The table is told of uses by this process.
    pub(super) is_told: bool,
}

impl History {
    /// Of an address; none where there is nothing of it to say.
    pub(super) async fn standing(&self, ip: Ipv4Addr, until: Instant) -> Option<Standing> {
        let read = match self.outside.store.now() {
            Ok(store) => store.row(ip, until).await.ok().map(|row| (store, row)),
            Err(_) => None,
        };
        let shown = || self.outside.in_use.name(ip);
        let served = self.served.all().await;
        let row = read.as_ref().and_then(|(_, row)| row.as_ref());
        if served.iter().any(|eni| eni.may_have(ip, row)) {
            return Some(Standing::Doubted(shown()));
        }
        let Some((store, row)) = read else {
            return self.is_without_word().await.then(|| Standing::Doubted(shown()));
        };
        let Some(row) = row else {
            let what = "is none of the table's addresses, and no container's of its hosts";
            return Some(Standing::NoContainers(what.to_owned()));
        };
        let Some(eni) = row.iface.clone() else { return of_no_containers(&row) };
        let of = served.iter().find(|own| own.nic.eni == eni);
        if row.primary || of.is_some_and(|own| !own.is_distant()) {
            return of_no_containers(&row);
        }
        let distant = of.map(|own| own.instance().to_owned());
        let is_served_here = distant.is_some();
        let instance = match distant {
            Some(instance) => Some(instance),
            None => {
                let hosts = store.hosts(until).await.unwrap_or_default();
                serving(&hosts).get(&eni).map(|host| host.entry.instance.clone())
            }
        };
        let opened = self.outside.journal.opened();
        if self.outside.journal.is_somewhere() && instance.is_some() && instance == opened.instance {
            // This host's, and not served yet.
            let holding = self.outside.journal.holding(&eni, ip);
            let is_doubted = holding.map_or(opened.is_new(), |holding| holding.doubted);
            return is_doubted.then(|| Standing::Doubted(shown()));
        }
        if instance.is_none() && row.state() == State::Foreign {
            return of_no_containers(&row);
        }
        let is_told = self.outside.untold.kept.is_some();
        Some(Standing::Elsewhere(Elsewhere { row, eni, instance, is_served_here, is_told }))
    }

    /// Of a container: whether this host may have it without knowing.
    pub(super) async fn standing_of_containers(&self) -> Option<Standing> {
        let is_doubted = self.served.all().await.iter().any(|eni| !eni.is_distant() && eni.is_in_doubt());
        (is_doubted || self.is_without_word().await).then_some(Standing::Doubted(None))
    }

    /// A journal that is new, to which the table has not said yet what this host has.
    async fn is_without_word(&self) -> bool {
        let journal = &self.outside.journal;
        if !journal.is_somewhere() || !journal.opened().is_new() {
            return false;
        }
        let served = self.served.all().await;
        let mut own = served.iter().filter(|eni| !eni.is_distant()).peekable();
        if own.peek().is_none() { self.outside.store.now().is_err() } else { own.any(|eni| !eni.is_compared()) }
    }
}

/// What a row is that no container has.
pub(super) fn of_no_containers(row: &Row) -> Option<Standing> {
    let on = row.iface.as_ref().map(|eni| format!(" {eni}"));
    let what = match row.state() {
        _ if row.primary => {
            format!("is the primary address of{}, and no container's", on.as_deref().unwrap_or(" an ENI"))
        }
        State::Reserved if row.holder.as_deref() == Some(AWS) => "is kept back by AWS, and no container's".to_owned(),
        State::Reserved if row.holder.as_deref().is_some_and(|by| by.starts_with(EC2)) => {
            "is nobody's to have, as EC2 said, and no container's".to_owned()
        }
        State::Foreign => {
            let on = on.map(|eni| format!(" on{eni}")).unwrap_or_default();
            format!("is in use{on} by something that is no container of this table's hosts")
        }
        State::Free | State::On | State::Off | State::Ready | State::Lease | State::Reserved => return None,
    };
    Some(Standing::NoContainers(what))
}

impl Elsewhere {
    pub(super) fn hint(&self, ip: Ipv4Addr) -> String {
        let Self { row, eni, instance, is_served_here, is_told } = self;
        let host = instance.as_deref().map_or_else(|| "its host".to_owned(), |instance| format!("its host {instance}"));
        let holder = row.endpoint().map(|name| format!(" ({name})")).unwrap_or_default();
        let is = match row.state() {
            State::Lease => format!("in use by a container{holder} of"),
            State::Ready | State::On | State::Off => "idle on".to_owned(),
            State::Foreign | State::Free | State::Reserved => "on".to_owned(),
        };
        let helps = match (is_served_here, is_told) {
            (true, true) => format!("{host} has no driver, and the table was not told of it"),
            (true, false) => format!("{host} has no driver, so have the servers tell the table (EC2_IPAM_HISTORY=30d)"),
            (false, true) => {
                format!("ask {host} (`ec2-ipam history {ip}`), and see that EC2_IPAM_HISTORY is set there too")
            }
            (false, false) => {
                format!("ask {host} (`ec2-ipam history {ip}`), or have all hosts tell the table (EC2_IPAM_HISTORY=30d)")
            }
        };
        format!("  by the table {ip} is {is} {eni}: {helps}")
    }
}
