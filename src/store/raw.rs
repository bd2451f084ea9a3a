//! A row as a database hands it over, before anything in it is believed; rows that cannot be are left out.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::domain::address::{Row, State, Status, cooldown_seconds};
use crate::domain::id::{Claim, EniId, SubnetId};
use crate::domain::told::Told;

use super::Count;
use super::clock::{Clock, Stamp};

/// The columns of a row, and the database's clock when it was read.
#[derive(Debug)]
pub(super) struct Raw {
    pub(super) ip: String,
    pub(super) subnet: String,
    pub(super) status: String,
    pub(super) iface: Option<String>,
    pub(super) primary: bool,
    pub(super) in_block: bool,
    pub(super) claim: Option<String>,
    pub(super) holder: Option<String>,
    /// Unix seconds; the zero of old tables is as long ago as can be.
    pub(super) ts: i64,
    /// Unix milliseconds.
    pub(super) claimed: Option<i64>,
    /// Unix milliseconds.
    pub(super) now: i64,
}

impl Raw {
    /// The row, or a sentence that names it. A time that no clock can have written is taken as now.
    pub(super) fn checked(self, clock: &Clock) -> Result<Row, String> {
        let status = Status::parse(&self.status).ok_or_else(|| {
            format!("the row of {} has the unknown status {:?}; correct or delete it", self.ip, self.status)
        })?;
        Ok(Row {
            ip: address(&self.ip)?,
            subnet: SubnetId::stored(self.subnet),
            status,
            iface: self.iface.map(EniId::stored),
            primary: self.primary,
            in_block: self.in_block,
            holder: self.holder,
            idle: match self.ts {
                0 => Duration::from_millis(u64::try_from(self.now).unwrap_or(0)),
                // Whole seconds, as the cool-down counts them.
                ts => age(clock.age(self.now / 1000 * 1000, ts.saturating_mul(1000))),
            },
            claimed: match (&self.claim, self.claimed) {
                (_, Some(claimed)) => Some(age(clock.age(self.now, claimed))),
                (Some(_), None) => Some(Duration::ZERO),
                (None, None) => None,
            },
            claim: self.claim.map(Claim::stored),
        })
    }

    /// Whether a time in it is to be written anew, lest it be taken as now for ever.
    pub(super) fn is_out_of_time(&self, clock: &Clock) -> bool {
        let wrong = |then: i64| clock.age(self.now, then) == Stamp::Impossible;
        self.ts != 0 && wrong(self.ts.saturating_mul(1000)) || self.claim.is_some() && self.claimed.is_none_or(wrong)
    }
}

fn age(stamp: Stamp) -> Duration {
    match stamp {
        Stamp::Ago(age) => Duration::from_secs(age.as_secs()),
        Stamp::Impossible => Duration::ZERO,
    }
}

/// Rows that could not be read, and so are left out: one must not stand in the way of all others.
#[derive(Debug, Default)]
pub(super) struct LeftOut {
    seen: Mutex<HashMap<String, Instant>>,
}

/// Each ENI's rows are read about once a minute: what was not seen for so long was mended.
const MENDED: Duration = Duration::from_secs(180);

impl LeftOut {
    /// Those that could be read; the others are named in the log, once.
    pub(super) fn keep<T>(&self, read: impl IntoIterator<Item = Result<T, String>>) -> Vec<T> {
        read.into_iter().filter_map(|row| row.map_err(|why| self.note(why)).ok()).collect()
    }

    /// A sentence for each of late.
    pub(super) fn told(&self) -> Vec<String> {
        let mut told: Vec<String> = self.seen().keys().cloned().collect();
        told.sort();
        told
    }

    fn note(&self, why: String) {
        if self.seen().insert(why.clone(), Instant::now()).is_none() {
            tracing::error!("left out: {why}");
        }
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.retain(|_, at| at.elapsed() < MENDED);
        seen
    }
}

/// The address in the column `ip`.
pub(super) fn address(text: &str) -> Result<Ipv4Addr, String> {
    // A column compares as equal what ends in spaces.
    text.trim_end()
        .parse()
        .map_err(|_| format!("the table has a row whose ip {text:?} is not an IPv4 address; correct or delete it"))
}

/// One group of a census: the status, a text that ends as the claims of the group do, the ENI, the rows.
pub(super) type Group = (String, Option<String>, Option<String>, u64);

/// Rows counted by what they mean rather than by their columns.
pub(super) fn census(groups: Vec<Group>, left_out: &LeftOut) -> Vec<Count> {
    let mut counts = BTreeMap::new();
    let known = groups.into_iter().map(|(status, claim, iface, rows)| match Status::parse(&status) {
        Some(status) => Ok((status, claim, iface, rows)),
        None => Err(format!("{rows} rows have the unknown status {status:?}; correct or delete them")),
    });
    for (status, claim, iface, rows) in left_out.keep(known) {
        let state = State::of(status, claim.map(Claim::stored).as_ref());
        *counts.entry((state, iface.map(EniId::stored))).or_insert(0) += rows;
    }
    counts.into_iter().map(|((state, iface), rows)| Count { state, iface, rows }).collect()
}

/// SQL that maps `claim` to a text of the same kind; the same in both dialects.
pub(super) const CLAIM_KIND: &str = "CASE WHEN claim LIKE '%:on' THEN ':on' WHEN claim LIKE '%:off' THEN ':off' \
                                     WHEN claim LIKE '%:lease' THEN ':lease' END";

/// SQL that leaves out the free rows of a subnet; the same in both dialects. On KEY cold each status is a range of its own: the
/// free rows in between are not read.
pub(super) const TAKEN: &str = " AND status IN ('ready','allocated','occupied','reserved')";

/// SQL that leaves out all but the reserved rows of a subnet; the same in both dialects.
pub(super) const RESERVED: &str = " AND status='reserved'";

/// A holder as long as the column takes it.
pub(super) fn holder(text: Option<&str>) -> Option<String> {
    text.map(|text| text.chars().take(255).collect())
}

/// Whole seconds that `ts` must lie back, and the latest time (Unix seconds) that it must do so from; none: any will do. Rows
/// of a fresh table are 26 years old, so no cool-down may ask for more than that.
pub(super) fn cooling(cooldown: Duration, clock: &Clock) -> Option<(i64, i64)> {
    const LONGEST: u64 = 20 * 365 * 86_400;
    let cooldown = cooldown.min(Duration::from_secs(LONGEST));
    if cooldown.is_zero() {
        return None;
    }
    let seconds = cooldown_seconds(cooldown).saturating_add(clock.ahead(cooldown));
    Some((i64::try_from(seconds).unwrap_or(i64::MAX), clock.latest().unwrap_or(i64::from(i32::MAX))))
}

/// Whole seconds that a task is held for, no less than `span`; at most a year, since `until` ends in 2038.
pub(super) fn lease_seconds(span: Duration) -> u64 {
    const LONGEST: u64 = 365 * 86_400;
    span.as_secs().saturating_add(u64::from(span.subsec_nanos() > 0)).min(LONGEST)
}

/// When rows that nobody let go count as let go: they neither cool nor look hot.
pub(super) const LONG_AGO: &str = "2000-01-01 00:00:00";

/// Why an address cannot be inserted for a subnet.
pub(super) fn other_subnet(ip: &str, theirs: &str, ours: &SubnetId) -> String {
    format!(
        "{ip} stands in its table under {theirs}, and now {ours} has it too: one database serves one VPC, so give this one its own"
    )
}

/// Unix milliseconds as a column of signed ones takes them,
pub(super) fn millis(at: u64) -> i64 {
    i64::try_from(at).unwrap_or(i64::MAX)
}

/// and back.
pub(super) fn moment(at: i64) -> u64 {
    u64::try_from(at).unwrap_or_default()
}

/// Characters of the columns `host.version` and `recycle.trouble`.
pub(super) const VERSION: usize = 64;
pub(super) const TROUBLE: usize = 255;

/// As much of a text as a column keeps.
pub(super) fn at_most(text: &str, characters: usize) -> String {
    text.chars().take(characters).collect()
}

/// The column `host.told`.
pub(super) fn told(told: Option<&Told>) -> Option<String> {
    serde_json::to_string(told?).ok()
}

/// The word in it, if it is that of the driver which entered the host last.
pub(super) fn told_of(text: Option<&str>, version: &str) -> Option<Told> {
    let told: Told = serde_json::from_str(text?).ok()?;
    (at_most(&told.version, VERSION) == version).then_some(told)
}

/// The column `host.enis`.
pub(super) fn enis(enis: &[EniId]) -> String {
    enis.iter().map(EniId::as_str).collect::<Vec<_>>().join(",")
}

/// The interfaces in it.
pub(super) fn enis_of(text: &str) -> Vec<EniId> {
    text.split(',').filter(|eni| !eni.is_empty()).map(|eni| EniId::stored(eni.to_owned())).collect()
}
