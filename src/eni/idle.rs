//! The idle addresses of an ENI as its rows were last read, so that a grant need not search the table for one.
//!
//! It only proposes: the row itself decides, and where it has changed since the table is searched.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::Mutex;

use tokio::time::Instant;

use super::locked;
use crate::domain::address::{Row, State, cooldown_seconds};
use crate::store::Choice;

/// The idle rows, as last read.
#[derive(Debug, Default)]
pub(super) struct Idle(Mutex<Read>);

#[derive(Debug, Default)]
struct Read {
    /// Coldest first.
    rows: VecDeque<Row>,
    /// None: nothing was read yet.
    at: Option<Instant>,
    /// Addresses that were let go. What a read that began before one of them shows is not all.
    let_go: u64,
    is_whole: bool,
}

impl Idle {
    /// The count to give to [`Self::was_read`], taken before the rows are read.
    pub(super) fn let_go(&self) -> u64 {
        locked(&self.0).let_go
    }

    /// The ENI's rows.
    pub(super) fn was_read(&self, rows: &[Row], let_go: u64) {
        let mut idle: Vec<Row> =
            rows.iter().filter(|row| row.state() == State::Ready && !row.primary).cloned().collect();
        // Of those that were let go in the same second none comes first by its number.
        fastrand::shuffle(&mut idle);
        idle.sort_by_key(|row| Reverse(row.idle));
        let mut known = locked(&self.0);
        known.rows = idle.into();
        known.at = Some(Instant::now());
        known.is_whole = known.let_go == let_go;
    }

    /// An address became idle. To be said once its row says so.
    pub(super) fn was_let_go(&self) {
        let mut known = locked(&self.0);
        known.let_go += 1;
        known.is_whole = false;
    }

    /// Whether one of them may be what this endpoint had last.
    pub(super) fn may_be_of(&self, holder: &str) -> bool {
        let known = locked(&self.0);
        !known.is_whole || known.rows.iter().any(|row| is_of(row, holder))
    }

    /// Takes the coldest that a choice allows, and that is `fit`: nobody else is to be proposed it.
    pub(super) fn propose(
        &self,
        choice: Choice,
        holder: Option<&str>,
        fit: impl Fn(Ipv4Addr) -> bool,
    ) -> Option<Ipv4Addr> {
        let mut known = locked(&self.0);
        let since = known.at?.elapsed();
        let allowed = |row: &Row| match choice {
            Choice::Cooled(cooldown) => !row.is_fixed() && (row.idle + since).as_secs() >= cooldown_seconds(cooldown),
            Choice::Returning => holder.is_some_and(|name| is_of(row, name)),
            // The last resort, where only the coldest one will do.
            Choice::Any => false,
        };
        let fits = |row: &Row| allowed(row) && fit(row.ip);
        let kept = known.rows.iter().position(|row| row.kept_for().is_some() && fits(row));
        let at = kept.or_else(|| known.rows.iter().position(fits))?;
        known.rows.remove(at).map(|row| row.ip)
    }
}

/// Whether it is kept for this endpoint, or what that had last.
fn is_of(row: &Row, holder: &str) -> bool {
    row.kept_for() == Some(holder) || row.holder.as_deref() == Some(holder)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::address::{FIXED, Status};
    use crate::domain::id::{EniId, SubnetId};

    const COOLED: Choice = Choice::Cooled(Duration::from_secs(60));

    fn row(last: u8, idle: u64, holder: Option<&str>) -> Row {
        Row {
            ip: Ipv4Addr::new(10, 0, 0, last),
            subnet: SubnetId::stored("subnet-0123456789abcdef0".into()),
            status: Status::Ready,
            iface: Some(EniId::stored("eni-0123456789abcdef0".into())),
            primary: false,
            claim: None,
            holder: holder.map(str::to_owned),
            idle: Duration::from_secs(idle),
            claimed: None,
        }
    }

    fn idle(rows: &[Row]) -> Idle {
        let idle = Idle::default();
        idle.was_read(rows, idle.let_go());
        idle
    }

    fn proposed(idle: &Idle, choice: Choice, holder: Option<&str>) -> Option<u8> {
        idle.propose(choice, holder, |_| true).map(|ip| ip.octets()[3])
    }

    #[test]
    fn the_coldest_that_a_choice_allows_is_proposed_once() {
        let fixed = format!("{FIXED}db");
        let mut primary = row(9, 9000, None);
        primary.primary = true;
        let lease = Row { status: Status::Occupied, ..row(8, 9000, None) };
        let rows = [
            primary,
            lease,
            row(10, 900, Some(&fixed)),
            row(11, 800, Some("web")),
            row(12, 700, None),
            row(13, 5, None),
        ];
        let known = idle(&rows);
        assert_eq!(
            known.propose(COOLED, None, |ip| ip.octets()[3] != 11),
            Some(rows[4].ip),
            "what is not fit is passed over"
        );
        assert_eq!(proposed(&known, COOLED, None), Some(11));
        assert_eq!(proposed(&known, COOLED, None), None, "named, cooling, or proposed before");
        assert_eq!(proposed(&known, Choice::Any, None), None, "the last resort searches the table");
        assert_eq!(proposed(&idle(&rows), Choice::Returning, Some("web")), Some(11));
        assert_eq!(proposed(&idle(&rows), Choice::Returning, None), None);
    }

    #[test]
    fn whose_an_address_was_is_not_known_between_its_release_and_the_next_read() {
        let known = Idle::default();
        assert!(known.may_be_of("web"), "nothing was read");
        known.was_read(&[row(10, 5, Some("db"))], known.let_go());
        assert!(!known.may_be_of("web") && known.may_be_of("db"));
        let begun = known.let_go();
        known.was_let_go();
        known.was_read(&[], begun);
        assert!(known.may_be_of("web"), "a read that began before does not show it");
        known.was_read(&[], known.let_go());
        assert!(!known.may_be_of("web"));
    }
}
