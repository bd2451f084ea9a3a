//! A row as a database hands it over, before anything in it is believed.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::address::{FIXED, Row, State, Status};
use crate::id::{Claim, EniId, SubnetId};

use super::Count;

/// The columns of a row, ages in whole seconds.
#[derive(Debug)]
pub(super) struct Raw {
    pub(super) ip: String,
    pub(super) subnet: String,
    pub(super) status: String,
    pub(super) iface: Option<String>,
    pub(super) primary: bool,
    pub(super) claim: Option<String>,
    pub(super) holder: Option<String>,
    pub(super) idle: u64,
    pub(super) claimed: Option<u64>,
}

impl Raw {
    /// The row, or a sentence that names it.
    pub(super) fn checked(self) -> Result<Row, String> {
        let status = Status::parse(&self.status)
            .ok_or_else(|| format!("the row of {} has the unknown status {:?}", self.ip, self.status))?;
        Ok(Row {
            ip: address(&self.ip)?,
            subnet: SubnetId::stored(self.subnet),
            status,
            iface: self.iface.map(EniId::stored),
            primary: self.primary,
            claim: self.claim.map(Claim::stored),
            holder: self.holder,
            idle: Duration::from_secs(self.idle),
            claimed: self.claimed.map(Duration::from_secs),
        })
    }
}

/// The address in the column `ip`.
pub(super) fn address(text: &str) -> Result<Ipv4Addr, String> {
    text.parse()
        .map_err(|_| format!("the table has a row whose ip {text:?} is not an IPv4 address; correct or delete it"))
}

/// One group of a census: the status, a text that ends as the claims of the group do, the ENI, the rows.
pub(super) type Group = (String, Option<String>, Option<String>, u64);

/// Rows counted by what they mean rather than by their columns.
pub(super) fn census(groups: Vec<Group>) -> Result<Vec<Count>, String> {
    let mut counts = BTreeMap::new();
    for (status, claim, iface, rows) in groups {
        let status = Status::parse(&status).ok_or_else(|| format!("the table has the unknown status {status:?}"))?;
        let state = State::of(status, claim.map(Claim::stored).as_ref());
        *counts.entry((state, iface.map(EniId::stored))).or_insert(0) += rows;
    }
    Ok(counts.into_iter().map(|((state, iface), rows)| Count { state, iface, rows }).collect())
}

/// SQL that maps `claim` to a text of the same kind; the same in both dialects.
pub(super) const CLAIM_KIND: &str = "CASE WHEN claim LIKE '%:on' THEN ':on' WHEN claim LIKE '%:off' THEN ':off' \
                                     WHEN claim LIKE '%:lease' THEN ':lease' END";

/// SQL that is true of rows whose address no container had named; the same in both dialects.
pub(super) fn not_fixed() -> String {
    format!(" AND (holder IS NULL OR holder NOT LIKE '{FIXED}%')")
}

/// A holder as long as the column takes it.
pub(super) fn holder(text: Option<&str>) -> Option<String> {
    text.map(|text| text.chars().take(255).collect())
}

/// Whole seconds that `ts` must lie back; none: any will do. Rows of a fresh table are 26 years old, so no cool-down
/// may ask for more than that.
pub(super) fn cooling(cooldown: Duration) -> Option<u64> {
    const LONGEST: u64 = 20 * 365 * 86_400;
    (!cooldown.is_zero()).then(|| crate::address::cooldown_seconds(cooldown.min(Duration::from_secs(LONGEST))))
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
