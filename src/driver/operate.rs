//! What operators ask of the driver: filling a subnet, keeping addresses out, and what the table lacks.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use crate::domain::address::{AWS, EC2, Event, FIXED, Row, State};
use crate::domain::id::SubnetId;
use crate::domain::plan::blocks::Policy;
use crate::driver::served::Served;
use crate::eni::Outside;
use crate::error::Error;
use crate::fleet::fill::{self, Refreshed};
use crate::plain::is_odd;
use crate::store::{Blocks, Database, Store};

/// What came of `init`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Filled {
    /// The rows,
    #[serde(flatten)]
    pub rows: Refreshed,
    /// and the subnet's blocks, where ENIs take any.
    #[serde(default)]
    pub blocks: Option<Blocks>,
}

/// Does it.
pub struct Operator {
    outside: Arc<Outside>,
    served: Arc<Served>,
    database: Database,
}

impl Operator {
    pub(crate) fn new(outside: &Arc<Outside>, served: &Arc<Served>, database: Database) -> Self {
        Self { outside: Arc::clone(outside), served: Arc::clone(served), database }
    }

    /// `init`: every address of the subnet has its row afterwards.
    pub async fn init(&self, subnet: &SubnetId, until: Instant) -> Result<Filled, Error> {
        let store = self.outside.store(until).await?;
        let ec2 = self.outside.ec2(until).await?;
        let subnet = ec2.subnet(subnet).await?;
        let rows = fill::refresh(&store, &ec2, &subnet, until).await?;
        let blocks = match self.outside.blocks {
            Policy::Never => None,
            Policy::Auto | Policy::Always => Some(store.blocks(&subnet, until).await?),
        };
        Ok(Filled { rows, blocks })
    }

    /// `schema`: the statements that its tables lack.
    pub async fn schema(&self, until: Instant) -> Result<Vec<&'static str>, Error> {
        Ok(Store::lacking(&self.database, self.outside.at_most_a_request(until)).await?)
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
