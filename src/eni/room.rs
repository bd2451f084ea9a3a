//! How many more addresses an ENI takes, and what is told where it takes none.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::time::Instant;

use super::Shared;
use crate::domain::address::{Row, State};
use crate::domain::plan::next::REST;
use crate::domain::plan::{ENI_LIMIT, used};
use crate::error::Error;
use crate::outside::link::Parent;

/// What EC2's refusals have shown of it.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// So many more at most, and until when that is believed.
    at_most: Option<(usize, Instant)>,
}

/// A full ENI on which addresses may become idle is looked at again so soon.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

impl Room {
    /// EC2 found the ENI full for so many: something is on it that the table did not know, or its limit is not known.
    pub(super) fn lacks(&mut self, asked: usize, now: Instant) {
        self.at_most = Some((asked / 2, now + REST));
    }

    /// An address went off the ENI.
    pub(super) fn was_made(&mut self) {
        self.at_most = None;
    }

    /// How many more it takes, if by the table it takes this many.
    pub(super) fn left(&self, by_table: usize, now: Instant) -> usize {
        self.at_most.filter(|(_, until)| now < *until).map_or(by_table, |(at_most, _)| by_table.min(at_most))
    }
}

impl Shared {
    /// How many more addresses the ENI takes by its rows, beside what EC2 has shown of it.
    pub(super) fn room(&self, rows: &[Row]) -> usize {
        self.limit().saturating_sub(used(rows, &self.shown.prefixes()))
    }

    /// How many addresses the ENI takes in all, the primary and each block as one.
    pub(super) fn limit(&self) -> usize {
        self.shown.limits().map_or(ENI_LIMIT, |limits| limits.addresses)
    }

    /// The ENI is full: how long to wait, or the refusal.
    pub(super) async fn full(&self, rows: &[Row]) -> Result<Duration, Error> {
        let why = self.why_full(rows).await;
        if !matches!(why, Error::Unknown { is_looked_at: true, .. }) {
            return Err(why);
        }
        // For those who wait until their time is up.
        self.trouble.pauses(why.to_string());
        Ok(LOOK_AGAIN)
    }

    /// A full ENI has idle addresses all the same where a host agent has put them on the link itself (I7), and where the table
    /// is new.
    async fn why_full(&self, rows: &[Row]) -> Error {
        let eni = self.place.nic.eni.clone();
        let Parent { link, addresses: own } = match self.parent().await {
            Ok(parent) => parent,
            Err(why) => return why.into(),
        };
        let idle: Vec<String> = rows
            .iter()
            .filter(|row| row.state() == State::Ready && own.contains(&row.ip))
            .map(|row| row.ip.to_string())
            .collect();
        if idle.is_empty() {
            let count = self.unknown(rows);
            if count == 0 {
                return Error::EniFull { eni };
            }
            return Error::Unknown { eni, count, is_looked_at: self.is_looked_at() };
        }
        Error::HostHasThem { eni, link: link.name, ips: idle.join(", ") }
    }

    /// Addresses on the ENI of which neither the table, nor Docker, nor the link says whose they are.
    pub(super) fn unknown(&self, rows: &[Row]) -> usize {
        let is_known = |ip: Ipv4Addr| self.memory.says_whose(ip) || self.shown.in_prefix(ip);
        rows.iter().filter(|row| row.state() == State::Foreign && !row.primary && !is_known(row.ip)).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_refusal_showed_is_believed_for_a_while_and_until_room_was_made() {
        let now = Instant::now();
        let mut room = Room::default();
        assert_eq!(room.left(8, now), 8);
        room.lacks(5, now);
        assert_eq!((room.left(8, now), room.left(1, now)), (2, 1));
        assert_eq!(room.left(8, now + REST), 8);
        room.was_made();
        assert_eq!(room.left(8, now), 8);
        room.lacks(1, now);
        assert_eq!(room.left(8, now), 0);
    }
}
