//! The fleet engine: what happens between the table and EC2, behind a few verbs.
//!
//! - [`acquire`](Fleet::acquire): free -> claimed, commit, Assign, and what became of it;
//! - [`give_back`](Fleet::give_back): idle -> given up, commit, Unassign, free;
//! - [`post`](Fleet::post): what the journal says of addresses, for the table to follow;
//! - [`look`](Fleet::look): what the table says of an ENI.
//!
//! A committed row precedes each change in EC2 (I3), and what is said to be on the ENI is so by EC2's own word (I2). Requests
//! and answers are values: a request bears its own tokens and says how long it may take, not until when, and an answer tells
//! what is settled from what is not. So it makes no difference to who asks where this is done: here it is in the process.
//!
//! For each ENI one caller asks, one thing at a time, and has seen that the ENI is attached to its instance. A distant ENI may
//! have one in each of several servers; one of them gives back (`sender`).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::error::Error;
use crate::late::Late;
use crate::outside::ec2::Ec2;
use crate::store::Store;

mod acquire;
pub mod fill;
mod give_back;
mod read;
mod said;
mod sender;

pub use acquire::{Acquire, Acquired};
use give_back::Unlisted;
pub use give_back::{GiveBack, GivenBack};
pub use read::Posted;
pub use sender::Sender;
use sender::driverless_age;

/// The bound of one attempt at the table where nobody waits for it.
pub const STORE_TIME: Duration = Duration::from_secs(20);

/// The engine, at work in this process.
#[derive(Clone)]
pub struct Fleet {
    store: Late<Arc<Store>>,
    ec2: Late<Ec2>,
    /// Of an ENI that other servers may serve too.
    sender: Option<Sender>,
    unlisted: Arc<Unlisted>,
}

impl Fleet {
    /// On the table and EC2, once they are there.
    pub fn new(store: Late<Arc<Store>>, ec2: Late<Ec2>, sender: Option<Sender>) -> Self {
        Self { store, ec2, sender, unlisted: Arc::default() }
    }

    /// Whether this process gives back for the ENI, and settles what others have left.
    ///
    /// # Errors
    /// The store's.
    pub async fn sends(&self, budget: Duration) -> Result<bool, Error> {
        match &self.sender {
            Some(sender) => sender.is_this(&*self.store.now()?, by(budget)).await,
            None => Ok(true),
        }
    }

    /// That an ENI of another host may be served: its host has no driver of its own.
    ///
    /// # Errors
    /// The store's, or [`Error::Asked`]: it has one.
    pub async fn is_driverless(&self, budget: Duration) -> Result<(), Error> {
        match &self.sender {
            Some(sender) => sender.is_driverless(driverless_age(), &*self.store.now()?, by(budget)).await,
            None => Ok(()),
        }
    }

    /// Before an Unassign.
    async fn may_unassign(&self, budget: Duration) -> Result<(), Error> {
        match &self.sender {
            Some(sender) => sender.may_unassign(&*self.store.now()?, by(budget)).await,
            None => Ok(()),
        }
    }
}

/// When an access to the table has to be over.
fn by(budget: Duration) -> Instant {
    Instant::now() + budget
}
