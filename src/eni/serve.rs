//! Addresses to those who wait.

use tokio::time::Instant;
use tracing::Instrument;

use super::STORE_TIME;
use super::task::Task;
use crate::domain::address::Row;
use crate::domain::holding::{Held, Holding};
use crate::domain::id::Kind;
use crate::error::Error;
use crate::fail_point::point;
use crate::journal::{Choice, Given, Wanted};

impl Task {
    /// What EC2 has put on the ENI: to those who wait, the rest is idle. The journal has it before anybody is answered; the
    /// table follows.
    pub(super) async fn confirm(&mut self, rows: Vec<Row>) -> Result<(), Error> {
        let parent = self.shared.parent().await.ok();
        let now = self.shared.journal().now();
        let (mut entered, mut granted, mut given) = (Vec::new(), Vec::new(), Vec::new());
        self.shared.memory.has_blocks_of(&rows);
        for row in &rows {
            self.shared.memory.put_on(&[row.ip]);
            // A lease that the table lost and that was claimed again, or one that left the ENI: it stands.
            if self.shared.holding(row.ip).is_some() {
                self.shared.journal().to_be_posted(row.ip);
                continue;
            }
            let is_old = row.claim.as_ref().is_none_or(|claim| !claim.is_of(self.outside.claims.boot()));
            let doubted = is_old && self.shared.is_in_doubt();
            let may_give = !doubted && self.shared.memory.may_give(row.ip, parent.as_ref()).is_ok();
            let order = if may_give { self.queue.next_for(row) } else { None };
            let mut holding = Holding {
                ip: row.ip,
                eni: self.nic.eni.clone(),
                subnet: row.subnet.clone(),
                held: Held::Idle,
                holder: row.holder.clone(),
                let_go: now.before(row.idle),
                posted: false,
                doubted,
            };
            if let Some(order) = order {
                let token = self.outside.claims.next(Kind::Lease);
                holding.held = Held::Lease(token.clone());
                if row.kept_for().is_none() {
                    holding.holder = order.holder();
                }
                given.push(Given { ip: row.ip, holder: order.holder() });
                let lease = order.span().in_scope(|| self.shared.granted(row.ip, token));
                granted.push((lease, order));
            } else if self.outside.in_use.contains(row.ip) {
                // A container has it of which only Docker knew.
                holding.held = Held::Lease(self.outside.claims.next(Kind::Lease));
            }
            entered.push(holding);
        }
        if self.shared.place.is_distant {
            let said = self.shared.confirm_by_table(&rows, &entered).await?;
            let is_said = |ip| entered.iter().zip(&said).any(|(holding, said)| holding.ip == ip && *said);
            // Another server was quicker: he waits for the next one.
            let (kept, lost): (Vec<_>, Vec<_>) = granted.into_iter().partition(|(lease, _)| is_said(lease.ip));
            for (lease, order) in lost.into_iter().rev() {
                lease.keep();
                self.queue.put_back(order);
            }
            granted = kept;
        } else if !entered.is_empty() {
            let recorded = self.shared.journal().enter(entered, &given).await;
            self.shared.follow(recorded).await;
        }
        point("serve:leased").await;
        for (lease, order) in granted {
            let span = order.span();
            let _in_span = span.enter();
            order.answer(Ok(lease));
        }
        Ok(())
    }

    /// Idle addresses to those who wait for any.
    pub(super) async fn serve(&mut self, rows: Vec<Row>) -> Result<(), Error> {
        let parent = self.shared.parent().await?;
        for row in rows {
            let Some(order) = self.queue.next_for(&row) else { continue };
            let token = self.outside.claims.next(Kind::Lease);
            let holder = order.holder();
            let choices = &[Choice::This(row.ip)];
            let (eni, holder) = (&self.nic.eni, holder.as_deref());
            let (blocks, recalled) = (&self.shared.memory.blocks(), &self.shared.memory.recalled());
            let wanted = Wanted { eni, sub_pool: None, choices, blocks, recalled, token: &token, holder };
            let may_give = |ip| self.shared.memory.may_give(ip, Some(&parent)).is_ok();
            if self.shared.place.is_distant {
                let until = Instant::now() + STORE_TIME;
                let given = self.shared.give_by_table(&wanted, may_give, until).instrument(order.span()).await?;
                match given {
                    Some(lease) => order.answer(Ok(lease)),
                    None => self.queue.put_back(order),
                }
                continue;
            }
            let Some((ip, recorded)) = self.shared.journal().give(&wanted, may_give).await else {
                self.queue.put_back(order);
                continue;
            };
            let span = order.span();
            let lease = span.in_scope(|| self.shared.granted(ip, token.clone()));
            self.shared.follow(recorded).await;
            let _in_span = span.enter();
            order.answer(Ok(lease));
        }
        Ok(())
    }

    /// The rows of the ENI: what is decided on is never older than what was answered.
    pub(super) async fn rows(&self) -> Result<Vec<Row>, Error> {
        let behind = self.shared.behind();
        let mut rows = self.fleet.look(&self.nic.eni, &[], STORE_TIME).await?;
        self.shared.as_journal_has(&mut rows, &behind);
        Ok(rows)
    }
}
