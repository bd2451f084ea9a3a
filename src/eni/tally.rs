//! What an ENI's addresses are, counted from memory alone: nobody is asked, however often it is wanted.

use std::sync::Mutex;

use super::{Eni, Shared, locked};
use crate::domain::address::{Row, State};
use crate::domain::holding::Held;
use crate::domain::plan::used;

/// Its addresses by what they are to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Idle, and given to whoever asks.
    pub warm: usize,
    /// Idle, and kept from others for a while yet, or for the container that had named it.
    pub cooling: usize,
    /// A container's.
    pub lease: usize,
    /// Being given back.
    pub leaving: usize,
    /// Claimed: EC2 may be about to put it on the ENI.
    pub claimed: usize,
    /// In use by something that is not ours; the primary address is one.
    pub foreign: usize,
    /// Idle by the table alone, while the journal knows too little.
    pub doubted: usize,
    /// What counts towards the limit of the instance type: each address, and each prefix as one. None before rows were read.
    pub slots: Option<usize>,
}

/// As its rows were when they were last read.
#[derive(Default)]
pub(super) struct LastRows(Mutex<Tally>);

impl Shared {
    /// Its rows were read.
    pub(super) fn were_read(&self, rows: &[Row]) {
        let mut tally = Tally { slots: Some(used(rows, &self.shown.prefixes())), ..Tally::default() };
        for row in rows {
            match row.state() {
                State::Ready if self.outside.warmth.is_warm(row) => tally.warm += 1,
                State::Ready => tally.cooling += 1,
                State::Lease => tally.lease += 1,
                State::Off => tally.leaving += 1,
                State::On => tally.claimed += 1,
                State::Foreign => tally.foreign += 1,
                State::Free | State::Reserved => {}
            }
        }
        *locked(&self.last_rows.0) = tally;
    }
}

impl Eni {
    /// Its addresses, counted. What the journal has of them is as of now, all else as of the last look at the rows, some
    /// seconds ago.
    pub fn tally(&self) -> Tally {
        let rows = *locked(&self.shared.last_rows.0);
        if self.is_distant() {
            return rows;
        }
        let mut tally = Tally { warm: 0, cooling: 0, lease: 0, leaving: 0, ..rows };
        let (journal, warmth) = (self.shared.journal(), self.shared.outside.warmth);
        let now = journal.now();
        for holding in journal.of(&self.nic.eni) {
            match holding.held {
                Held::Lease(_) => tally.lease += 1,
                Held::Leaving(_) => tally.leaving += 1,
                Held::Idle if holding.doubted => tally.doubted += 1,
                Held::Idle if warmth.is_warm(&holding.row(&now)) => tally.warm += 1,
                Held::Idle => tally.cooling += 1,
            }
        }
        tally
    }
}
