//! A subnet's rows, filled from what EC2 says of its interfaces, and refreshed.
//!
//! Only missing rows are inserted, and only free rows change, so that it harms nothing that is in use, however often it is
//! done, by however many hosts at once, and wherever it broke off.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::domain::address::{AWS, Change, Event, NewRow, Row, State, Status};
use crate::domain::plan::scan::{Assigned, Holder};
use crate::domain::subnet::Subnet;
use crate::error::Error;
use crate::fail_point::point;
use crate::outside::ec2::{Ec2, Interface};
use crate::store::Store;

/// What a refresh did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refreshed {
    /// Rows that were missing.
    pub inserted: u64,
    /// Free rows that are now occupied by their interface, reserved, or marked as a primary address.
    pub changed: usize,
    /// Addresses that EC2 says are assigned.
    pub assigned: usize,
}

/// Whether every address of the subnet has its row, and AWS's five are kept back.
pub async fn is_complete(store: &Store, subnet: &Subnet, until: Instant) -> Result<bool, Error> {
    let rows: u64 = store.census(&subnet.id, until).await?.iter().map(|count| count.rows).sum();
    let five = store.rows_at(&subnet.aws_reserved(), until).await?;
    Ok(rows >= subnet.size() && five.len() == 5 && five.iter().all(|row| row.state() != State::Free))
}

/// Whether the subnet was filled once, to its end: the last of AWS's five is its last row. Cheap, and knows nothing of rows
/// that somebody deleted since.
pub async fn was_filled(store: &Store, subnet: &Subnet, until: Instant) -> Result<bool, Error> {
    Ok(store.rows_at(&subnet.aws_reserved(), until).await?.len() == 5)
}

/// Fills or refreshes the subnet's rows from what EC2 says of its interfaces, all pages.
pub async fn refresh(store: &Store, ec2: &Ec2, subnet: &Subnet, until: Instant) -> Result<Refreshed, Error> {
    let assigned = assigned(&ec2.interfaces_of_subnet(&subnet.id).await?, subnet);
    let rows: u64 = store.census(&subnet.id, until).await?.iter().map(|count| count.rows).sum();
    let inserted = if rows < subnet.size() {
        store.insert_missing(&subnet.id, &fresh_rows(subnet, &assigned), until).await?
    } else {
        0
    };
    point("init:inserted").await;
    let mut changed = 0;
    let known: Vec<Ipv4Addr> = assigned.keys().copied().chain(subnet.aws_reserved()).collect();
    for some in known.chunks(500) {
        let rows = store.rows_at(some, until).await?;
        let changes: Vec<Change> = rows.iter().filter_map(|row| change(row, subnet, &assigned)).collect();
        changed += store.apply(&changes, until).await?.into_iter().filter(|done| *done).count();
        point("init:changed").await;
    }
    let refreshed = Refreshed { inserted, changed, assigned: assigned.len() };
    tracing::info!(subnet = %subnet.id, "{} in {}: {inserted} rows added, {changed} changed, {} addresses in use", subnet.id, subnet.cidr, assigned.len());
    Ok(refreshed)
}

/// Whose each address is, and whether it is a primary one. A prefix counts as its 16 addresses.
pub(crate) fn assigned(interfaces: &[Interface], subnet: &Subnet) -> Assigned {
    let mut assigned = HashMap::new();
    for interface in interfaces {
        for ip in interface.held().filter(|ip| subnet.contains(*ip)) {
            let (primary, in_block) = (interface.primary() == Some(ip), interface.in_prefix(ip));
            assigned.insert(ip, Holder { eni: interface.id.clone(), primary, in_block });
        }
    }
    assigned
}

/// A row for every address.
fn fresh_rows(subnet: &Subnet, assigned: &Assigned) -> Vec<NewRow> {
    let fresh = |ip| {
        let holder = assigned.get(&ip);
        let aws = subnet.is_aws_reserved(ip);
        let status = match (aws, holder) {
            (true, _) => Status::Reserved,
            (false, Some(_)) => Status::Occupied,
            (false, None) => Status::Free,
        };
        let iface = holder.map(|holder| holder.eni.clone());
        let (primary, in_block) = holder.map_or((false, false), |holder| (holder.primary, holder.in_block));
        NewRow { ip, status, iface, primary, holder: aws.then(|| AWS.to_owned()), in_block }
    };
    subnet.addresses().map(fresh).collect()
}

/// What becomes of a row that nobody holds, or that lost its mark.
fn change(row: &Row, subnet: &Subnet, assigned: &Assigned) -> Option<Change> {
    let event = match (row.state(), assigned.get(&row.ip)) {
        (State::Free, _) if subnet.is_aws_reserved(row.ip) => Event::Reserve { holder: Some(AWS.to_owned()) },
        (State::Free, Some(holder)) => holder.event(),
        (State::Foreign | State::Ready, Some(holder))
            if holder.primary && !row.primary && row.iface.as_ref() == Some(&holder.eni) =>
        {
            Event::MarkPrimary
        }
        _ => return None,
    };
    row.on(event).ok()
}
