//! The fleet engine: what happens between the table and EC2, behind a few verbs.
//!
//! - [`acquire`](Fleet::acquire): free -> claimed, commit, Assign, and what became of it;
//! - [`give_back`](Fleet::give_back): idle -> given up, commit, Unassign, free;
//! - [`post`](Fleet::post): what the journal says of addresses, for the table to follow;
//! - [`look`](Fleet::look) and [`census`](Fleet::census): what the table says of an ENI, and of a subnet.
//!
//! A committed row precedes each change in EC2 (I3), and what is said to be on the ENI is so by EC2's own word (I2). Requests
//! and answers are values: a request bears its own tokens and says how long it may take, not until when, and an answer tells
//! what is settled from what is not. So it makes no difference to who asks where this is done: here it is in the process.
//!
//! For each ENI one caller asks, one thing at a time, and has seen that the ENI is attached to its instance.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::late::Late;
use crate::outside::ec2::Ec2;
use crate::store::Store;

mod acquire;
pub mod fill;
mod give_back;
mod read;
mod said;

pub use acquire::{Acquire, Acquired};
pub use give_back::{GiveBack, GivenBack};
pub use read::Posted;

/// The bound of one attempt at the table where nobody waits for it.
pub const STORE_TIME: Duration = Duration::from_secs(20);

/// The engine, at work in this process.
#[derive(Clone)]
pub struct Fleet {
    store: Late<Arc<Store>>,
    ec2: Late<Ec2>,
}

impl Fleet {
    /// On the table and EC2, once they are there.
    pub fn new(store: Late<Arc<Store>>, ec2: Late<Ec2>) -> Self {
        Self { store, ec2 }
    }
}

/// When an access to the table has to be over.
fn by(budget: Duration) -> Instant {
    Instant::now() + budget
}
