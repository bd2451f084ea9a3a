//! What EC2's answer to an Assign means for the rows that it was for.
//!
//! An Assign that may have taken effect is repeated: its list is explicit, EC2 refuses what another ENI holds, and its
//! answer is more certain than a describe, which lags. Until EC2 answers clearly a row stays claimed.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;

use super::settle_age;
use crate::domain::address::{Change, EC2, Event, Row};
use crate::domain::block::Block;
use crate::domain::id::{Claim, EniId};

mod blocks;

pub use blocks::{judge_blocks, needs_look};

/// Addresses that an ENI is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Free ones.
    Free {
        /// So many at most, coldest first.
        count: usize,
        /// Only in this range.
        sub_pool: Option<Ipv4Net>,
        /// Only those let go at least so long ago; zero: any.
        cooldown: Duration,
    },
    /// This one, which a container named: free, or kept for a name, as it was seen.
    Named(Row),
    /// Whole free blocks.
    Blocks {
        /// So many at most.
        count: usize,
        /// Only in this range.
        sub_pool: Option<Ipv4Net>,
        /// Only those of which each address was let go at least so long ago; zero: any.
        cooldown: Duration,
        /// None of these, which EC2 did not give a while ago.
        except: Vec<Block>,
    },
    /// Claims of an earlier life, or whose call was unclear: assigned again, which is right whichever way that call went.
    Settled(Vec<Row>),
    /// A lease that left the ENI, or all rows of a block that did and in which there are leases.
    Leased(Vec<Row>),
}

/// The rows that one Assign was for, and what its answer is judged by beside it.
#[derive(Debug, Clone)]
pub struct Batch<'a> {
    /// The ENI.
    pub eni: &'a EniId,
    /// The rows.
    pub rows: Vec<Row>,
    /// What they are assigned for; the same for all of them.
    pub standing: Standing,
    /// Addresses that this life took off the ENI so lately that a list which has them there may be one from before (I2).
    pub doubted: &'a HashSet<Ipv4Addr>,
    /// An `off` token, for those that only an Unassign settles.
    pub off: &'a Claim,
}

/// What rows are assigned for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Claimed just now, so that no earlier call for them can still land.
    Fresh,
    /// Claimed for a call whose outcome is not known, and which may still land.
    Unsettled,
    /// Leases that left the ENI. They stay leases whatever EC2 says: their containers run.
    Leased,
}

/// What EC2 said to an Assign, as far as rows depend on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// They are all on the ENI.
    Done,
    /// It did nothing, since an ENI has some already, perhaps this one: these, or any where it names none.
    InUse(Vec<Ipv4Addr>),
    /// It did nothing, since it gives some to nobody: these, or any where it names none; and its words.
    Never(Vec<Ipv4Addr>, String),
    /// It did it, but does not list these.
    Unlisted(Vec<Ipv4Addr>),
    /// It may have done it, or may yet do it.
    Unclear,
    /// It did nothing, for a reason that lies elsewhere or in the addresses.
    Refused(Fault),
}

/// Where the reason for a refusal lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// In the call, the ENI, the subnet or the credentials.
    Elsewhere,
    /// Perhaps in the addresses themselves: others are tried first next time.
    Address,
}

/// Who has an address, by a describe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The ENI.
    pub eni: EniId,
    /// Whether it is its primary address.
    pub primary: bool,
    /// For a user.
    pub name: String,
}

/// What is to be done about the answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// On the ENI now, by EC2's word (I2).
    pub on_eni: Vec<Row>,
    /// What becomes of rows that are not, and will not be.
    pub changes: Vec<Change>,
    /// To be assigned again, each part by a call of its own.
    pub again: Vec<Vec<Row>>,
    /// Addresses that cannot be had.
    pub refused: Vec<Refused>,
    /// Blocks that cannot be had now.
    pub refused_blocks: Vec<Block>,
    /// Whether EC2's error stands in the way, so that those who wait have to know.
    pub is_trouble: bool,
}

/// An address that cannot be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The address.
    pub ip: Ipv4Addr,
    /// Why not.
    pub why: Why,
}

/// Why an address cannot be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// This one has it; none: EC2 does not show who does.
    Taken(Option<String>),
    /// EC2 gives it to nobody.
    Never(String),
}

/// The addresses of which EC2 has to be asked who has them, before its answer can be judged.
pub fn in_doubt(rows: &[Row], said: &Said) -> Vec<Ipv4Addr> {
    let named = |ips: &[Ipv4Addr]| rows.iter().map(|row| row.ip).filter(|ip| ips.contains(ip)).collect::<Vec<_>>();
    match said {
        Said::InUse(ips) => {
            let suspects = named(ips);
            if suspects.is_empty() { rows.iter().map(|row| row.ip).collect() } else { suspects }
        }
        Said::Unlisted(ips) => named(ips),
        Said::Done | Said::Never(..) | Said::Unclear | Said::Refused(_) => Vec::new(),
    }
}

/// What the answer means. `holders`: who has those that were [`in_doubt`], as far as EC2 showed it.
pub fn judge(mut batch: Batch<'_>, said: &Said, holders: &HashMap<Ipv4Addr, Holder>) -> Judged {
    let rows = std::mem::take(&mut batch.rows);
    let mut judged = Judged::default();
    match said {
        Said::Done => judged.on_eni = rows,
        Said::InUse(_) => {
            let doubtful = in_doubt(&rows, said);
            let (suspects, rest) = rows.into_iter().partition(|row: &Row| doubtful.contains(&row.ip));
            judged.retry(rest);
            batch.look_up(suspects, holders, &mut judged);
        }
        Said::Never(ips, why) => {
            let (never, rest): (Vec<Row>, Vec<Row>) = rows.into_iter().partition(|row| ips.contains(&row.ip));
            if never.is_empty() {
                batch.refuse(&rest, Fault::Address, &mut judged);
                judged.is_trouble = true;
                return judged;
            }
            judged.retry(rest);
            judged.is_trouble = batch.standing == Standing::Leased;
            for row in never {
                judged.changes.extend(row.on(Event::Reserve { holder: Some(format!("{EC2}{why}")) }).ok());
                judged.refused.push(Refused { ip: row.ip, why: Why::Never(why.clone()) });
            }
        }
        Said::Unlisted(ips) => {
            // A repeated Assign may be answered with the new addresses only; then a describe has the others.
            let is_there = |row: &Row| !ips.contains(&row.ip) || batch.has(row.ip, holders);
            let (there, missing): (Vec<Row>, Vec<Row>) = rows.into_iter().partition(is_there);
            judged.on_eni = there;
            for row in missing {
                if batch.standing != Standing::Leased && is_old(&row) {
                    judged.changes.extend(row.on(Event::GiveUp { claim: batch.off.clone() }).ok());
                } else {
                    judged.is_trouble = true;
                }
            }
        }
        Said::Unclear => judged.is_trouble = true,
        Said::Refused(fault) => {
            batch.refuse(&rows, *fault, &mut judged);
            judged.is_trouble = true;
        }
    }
    judged
}

impl Judged {
    fn retry(&mut self, rows: Vec<Row>) {
        if !rows.is_empty() {
            self.again.push(rows);
        }
    }
}

impl Batch<'_> {
    /// I2: whether a describe has the address on our ENI, and is to be believed.
    fn has(&self, ip: Ipv4Addr, holders: &HashMap<Ipv4Addr, Holder>) -> bool {
        holders.get(&ip).is_some_and(|holder| holder.eni == *self.eni) && !self.doubted.contains(&ip)
    }

    /// Clearly not assigned by this call; an earlier one may still land, and then only an Unassign settles it.
    fn refuse(&self, rows: &[Row], fault: Fault, judged: &mut Judged) {
        let event = match (self.standing, fault) {
            (Standing::Fresh, Fault::Address) => Event::Refuse { address_at_fault: true },
            (Standing::Fresh, Fault::Elsewhere) => Event::Refuse { address_at_fault: false },
            (Standing::Unsettled, Fault::Address | Fault::Elsewhere) => Event::GiveUp { claim: self.off.clone() },
            (Standing::Leased, Fault::Address | Fault::Elsewhere) => return,
        };
        judged.changes.extend(rows.iter().filter_map(|row| row.on(event.clone()).ok()));
    }

    /// Addresses that EC2 says are assigned: to whom? On our ENI it was our own success.
    fn look_up(&self, suspects: Vec<Row>, holders: &HashMap<Ipv4Addr, Holder>, judged: &mut Judged) {
        let asked = suspects.len();
        let mut unknown = Vec::new();
        for row in suspects {
            match holders.get(&row.ip) {
                Some(_) if self.has(row.ip, holders) => judged.on_eni.push(row),
                Some(holder) if holder.eni != *self.eni => {
                    if self.standing != Standing::Leased {
                        let event =
                            Event::Foreign { eni: Some(holder.eni.clone()), primary: holder.primary, in_block: false };
                        judged.changes.extend(row.on(event).ok());
                    }
                    judged.refused.push(Refused { ip: row.ip, why: Why::Taken(Some(holder.name.clone())) });
                }
                Some(_) | None => unknown.push(row),
            }
        }
        // The error may name no address, so that some of these are not in use at all.
        if asked > 1 {
            let half = unknown.split_off(unknown.len() / 2);
            judged.retry(unknown);
            judged.retry(half);
            return;
        }
        // In use, but describe lags, is denied, or does not show it (another interface's prefix).
        for row in unknown {
            judged.refused.push(Refused { ip: row.ip, why: Why::Taken(None) });
            if self.standing == Standing::Fresh || is_old(&row) {
                self.refuse(&[row], Fault::Address, judged);
            }
        }
    }
}

/// No call for the claim is in flight any more.
fn is_old(row: &Row) -> bool {
    row.claimed.is_some_and(|age| age >= settle_age())
}

#[cfg(test)]
mod tests;
