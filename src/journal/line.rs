//! What the thread that writes is told: lines of holdings, and what is known of uses beside.

use std::net::Ipv4Addr;
use std::time::Instant;

use crate::domain::history::{Ended, Shown, Use};
use crate::domain::holding::Holding;

/// What is written.
pub(super) enum Line {
    Put(Holding),
    /// A lease that is given now, to whom the request names.
    Give(Holding, Option<String>),
    /// A lease that is over.
    End(Holding, Ended),
    Strike(Ipv4Addr),
    /// The instance that the journal belongs to.
    Belongs(String),
    /// This file is another instance's: it is put aside.
    Anew,
    /// What Docker shows of containers, when it was asked.
    Shown(Vec<Shown>, Instant),
    /// The table has these uses.
    Told(Vec<Untold>),
}

/// Which one, in the order in which they began here.
pub(super) type Number = u64;

/// A use as the table is to have it, and what to give back once it has.
#[derive(Debug, Clone)]
pub struct Untold {
    pub(super) number: Number,
    /// How many changes there had been.
    pub(super) change: u64,
    /// The use.
    pub of: Use,
}

impl Untold {
    pub(super) fn new(number: Number, change: u64, of: Use) -> Self {
        Self { number, change, of }
    }
}
