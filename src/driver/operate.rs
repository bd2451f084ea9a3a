//! What operators ask of the driver: filling a subnet, taking idle addresses back, keeping addresses out.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::domain::address::{AWS, EC2, Event, FIXED, Row, State};
use crate::domain::id::{EniId, Kind, SubnetId};
use crate::domain::plan::next::is_due;
use crate::driver::interfaces::Interfaces;
use crate::driver::served::Served;
use crate::eni::{Outside, Recycled};
use crate::error::Error;
use crate::fleet::fill::{self, Refreshed};
use crate::fleet::{Fleet, GiveBack, STORE_TIME};
use crate::plain::is_odd;
use crate::store::{Database, Store};

/// Does it.
pub struct Operator {
    outside: Arc<Outside>,
    interfaces: Arc<Interfaces>,
    served: Arc<Served>,
    database: Database,
}

impl Operator {
    pub(crate) fn new(
        outside: &Arc<Outside>,
        interfaces: &Arc<Interfaces>,
        served: &Arc<Served>,
        database: Database,
    ) -> Self {
        Self { outside: Arc::clone(outside), interfaces: Arc::clone(interfaces), served: Arc::clone(served), database }
    }

    /// `init`: every address of the subnet has its row afterwards.
    pub async fn init(&self, subnet: &SubnetId, until: Instant) -> Result<Refreshed, Error> {
        let store = self.outside.store(until).await?;
        let ec2 = self.outside.ec2(until).await?;
        let subnet = ec2.subnet(subnet).await?;
        fill::refresh(&store, &ec2, &subnet, until).await
    }

    /// `schema`: the statements that its tables lack.
    pub async fn schema(&self, until: Instant) -> Result<Vec<&'static str>, Error> {
        Ok(Store::lacking(&self.database, self.outside.at_most_a_request(until)).await?)
    }

    /// `recycle`: idle addresses of this host's interfaces in the subnet become free, with `all` those of every other host's
    /// too.
    pub async fn recycle(&self, subnet: &SubnetId, all: bool, until: Instant) -> Result<Recycled, Error> {
        let store = self.outside.store(until).await?;
        if all && store.is_private() {
            return Err(Error::Asked(
                "--all needs the MySQL table that the hosts share; this host's own file knows nothing of other hosts"
                    .into(),
            ));
        }
        self.outside.ec2(until).await?;
        let host = self.interfaces.host().await;
        if let (false, Err(why)) = (all, &host) {
            return Err(why.clone());
        }
        let mut own: Vec<EniId> =
            host.map(|h| h.interfaces.into_iter().map(|nic| nic.eni).collect()).unwrap_or_default();
        // IMDS may be away, or an ENI detached a moment ago: what is served here is left to its task all the same.
        own.extend(self.served.all().await.iter().map(|eni| eni.nic.eni.clone()));
        let mut by_eni: BTreeMap<EniId, Vec<Row>> = BTreeMap::new();
        for row in store.rows_taken(subnet, until).await? {
            let idle = row.state() == State::Ready && !row.primary;
            if let Some(eni) = row.iface.clone().filter(|_| idle || is_due(&row)) {
                by_eni.entry(eni).or_default().push(row);
            }
        }
        let fleet = Fleet::new(self.outside.store.clone(), self.outside.ec2.clone());
        let mut total = Recycled::default();
        let mut trouble = None;
        for (eni, rows) in by_eni {
            let outcome = if own.contains(&eni) {
                // Its own task does it, so that nothing else of that ENI is in flight.
                self.served.get(&eni, until).await?.recycle(until).await
            } else if all {
                let token = self.outside.claims.next(Kind::Off);
                let request = GiveBack { eni: &eni, rows: &rows, token, budget: STORE_TIME };
                fleet.give_back(request).await.map(|given| {
                    trouble = given.trouble.map(Error::Ec2).or(trouble.take());
                    Recycled { freed: given.freed.len(), pending: given.pending }
                })
            } else {
                continue;
            };
            match outcome {
                Ok(done) => {
                    total.freed += done.freed;
                    total.pending += done.pending;
                }
                Err(why) => trouble = Some(why),
            }
        }
        match trouble {
            Some(why) if total.freed == 0 => Err(why),
            _ => Ok(total),
        }
    }

    /// `reserve`: a free address is given to nobody, or with a name to the container of that name and to whoever asks for the
    /// address itself.
    pub async fn reserve(&self, ip: Ipv4Addr, name: Option<String>, until: Instant) -> Result<(), Error> {
        name.as_deref().map_or(Ok(()), check_name)?;
        self.change(ip, Event::Reserve { holder: name }, until).await?;
        for eni in self.served.all().await {
            eni.forget_reserved();
        }
        Ok(())
    }

    /// `unreserve`: a reserved address may be given out again. AWS's own five may not.
    pub async fn unreserve(&self, ip: Ipv4Addr, until: Instant) -> Result<(), Error> {
        self.change(ip, Event::Unreserve, until).await
    }

    /// Whether the address is one of its subnet's five. Its holder alone does not tell: anybody may be called AWS.
    async fn is_aws_reserved(&self, row: &Row, until: Instant) -> Result<bool, Error> {
        let served =
            self.served.all().await.into_iter().map(|eni| eni.subnet.clone()).find(|subnet| subnet.id == row.subnet);
        let subnet = match served {
            Some(subnet) => subnet,
            None => self.outside.ec2(until).await?.subnet(&row.subnet).await?,
        };
        Ok(subnet.is_aws_reserved(row.ip))
    }

    async fn change(&self, ip: Ipv4Addr, event: Event, until: Instant) -> Result<(), Error> {
        for _ in 0..TRIES {
            if self.changes(ip, event.clone(), until).await? {
                return Ok(());
            }
            // Its row may have been about to follow its host's journal.
            sleep(Duration::from_millis(200)).await;
        }
        Err(Error::Asked(format!("{ip} was taken at this moment; look again")))
    }

    /// Says whether the row still was what was read.
    async fn changes(&self, ip: Ipv4Addr, event: Event, until: Instant) -> Result<bool, Error> {
        let store = self.outside.store(until).await?;
        let Some(row) = store.row(ip, until).await? else {
            return Err(Error::Asked(format!(
                "the table has no row for {ip}; run `ec2-ipam init` for its subnet first"
            )));
        };
        let reserving = matches!(event, Event::Reserve { .. });
        let refused = |row: &Row| {
            let holder = row.iface.as_ref().map(|eni| format!(" of {eni}")).unwrap_or_default();
            let wanted = if reserving { "only a free address can be reserved" } else { "it is not reserved" };
            Error::Asked(format!("{ip} is {}{holder}: {wanted}", row.state()))
        };
        if !reserving && row.holder.as_deref() == Some(AWS) && self.is_aws_reserved(&row, until).await? {
            return Err(Error::Asked(format!("{ip} is reserved by AWS itself and can never be given to a container")));
        }
        // An address that a call is in flight for is nobody's to reserve.
        if reserving && row.state() != State::Free {
            return Err(refused(&row));
        }
        let change = row.on(event).map_err(|_| refused(&row))?;
        Ok(store.apply(&[change], until).await? == [true])
    }
}

/// So often a row is read and changed.
const TRIES: usize = 5;
/// With its mark it has to fit into 255 characters.
const LONGEST_NAME: usize = 240;

/// A name that says who reserved an address, and nothing else.
fn check_name(name: &str) -> Result<(), Error> {
    let wrong = if name.chars().any(is_odd) {
        "has control characters"
    } else if name.trim().is_empty() {
        "is blank"
    } else if name.chars().count() > LONGEST_NAME {
        "is longer than the table can keep (240 characters)"
    } else if name.eq_ignore_ascii_case(AWS) {
        "stands for the five addresses that AWS keeps of every subnet"
    } else if name.starts_with(EC2.trim_end()) {
        "stands for addresses that EC2 itself refuses"
    } else if name.starts_with(FIXED) {
        "begins as that of a container which named its address does"
    } else {
        return Ok(());
    };
    Err(Error::Asked(format!("the name {name:?} {wrong}: choose another")))
}
