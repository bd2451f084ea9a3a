//! Each call that changes the table, made under whatever fault, and what must be true of it afterwards.

use ec2_ipam::domain::address::{Change, Event, NewRow, Row, State, Status};
use ec2_ipam::domain::id::{Claim, Kind};
use ec2_ipam::store::{BlockClaim, FreeClaim, Store, StoreError};
use std::time::Duration;
use tokio::time::{Instant, sleep};

use super::bed::{Bed, eni, ip, new_row, soon, subnet, told};
use super::blocks::{block, claim_blocks, of};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Claim,
    Blocks,
    Change,
    Changes,
    Together,
    Insert,
    Hold,
}

/// What a call is given: made before the fault, from rows as they were.
pub struct Given {
    call: Call,
    claim: Claim,
    changes: Vec<Change>,
    groups: Vec<Vec<Change>>,
}

impl Call {
    pub const ALL: [Self; 7] =
        [Self::Claim, Self::Blocks, Self::Change, Self::Changes, Self::Together, Self::Insert, Self::Hold];

    /// What stands in the packet that makes it happen.
    pub fn mark(self) -> &'static str {
        match self {
            Self::Claim => "SKIP LOCKED",
            Self::Blocks => "HAVING free=16 FOR UPDATE SKIP LOCKED",
            Self::Change => "UPDATE allocation",
            Self::Changes => "COMMIT",
            Self::Together => "HAVING fit=16 FOR UPDATE",
            Self::Insert => "INSERT INTO allocation",
            Self::Hold => "INSERT INTO task",
        }
    }

    /// Its rows, which no other call uses; and a warm connection.
    pub async fn given(self, bed: &Bed) -> Given {
        let (mut changes, mut groups) = (Vec::new(), Vec::new());
        let (number, kind) = match self {
            Self::Claim => (100, Kind::On),
            Self::Blocks => (104, Kind::On),
            Self::Together => (105, Kind::Off),
            Self::Change => (101, Kind::Lease),
            Self::Changes => (102, Kind::Lease),
            Self::Insert | Self::Hold => (103, Kind::Lease),
        };
        let claim = bed.claim(number, kind);
        let lease = |row: Row| row.on(told(Some(claim.clone()), row.idle)).unwrap();
        match self {
            Self::Claim => bed.free(10..=19).await,
            Self::Blocks => {
                bed.free(64..=111).await;
                assert!(bed.event(70, Event::Reserve { holder: None }).await);
            }
            Self::Change => {
                bed.warm(2, &[40], 100).await;
                changes.push(lease(bed.row(40).await));
            }
            Self::Changes => {
                bed.warm(3, &[50, 51, 52], 100).await;
                for last in [52, 50, 51] {
                    changes.push(lease(bed.row(last).await));
                }
                // Somebody moves one of them.
                assert!(bed.event(51, Event::GiveUp { claim: bed.claim(7, Kind::Off) }).await);
            }
            Self::Together => {
                bed.free(128..=159).await;
                for n in [8, 9] {
                    let rows = claim_blocks(&bed.store, &[block(n)], 1, &bed.claim(n.into(), Kind::On)).await;
                    groups
                        .push(rows.iter().map(|row| row.on(Event::GiveUp { claim: claim.clone() }).unwrap()).collect());
                }
                assert!(bed.event(150, told(None, Duration::ZERO)).await);
            }
            Self::Insert | Self::Hold => {
                bed.store.describe(soon()).await.unwrap();
            }
        }
        Given { call: self, claim, changes, groups }
    }
}

fn inserted() -> Vec<NewRow> {
    (200..=220).map(|last| new_row(ip(last), Status::Reserved)).collect()
}

impl Given {
    /// Makes the call. What it says must be the truth.
    pub async fn make(&self, store: &Store, until: Instant) -> Result<(), StoreError> {
        let (call, subnet, eni) = (self.call, subnet(), eni(1));
        match call {
            Call::Claim => {
                let (sub_pool, cooldown, claim) = (None, Duration::ZERO, &self.claim);
                let wanted = FreeClaim { subnet: &subnet, eni: &eni, sub_pool, cooldown, except: &[], count: 3, claim };
                let rows = store.claim_free(&wanted, until).await?;
                let mut ips: Vec<_> = rows.iter().map(|row| row.ip).collect();
                let all = ips.len();
                ips.sort_unstable();
                ips.dedup();
                assert_eq!((ips.len(), all), (3, 3), "I1: a claim of three says {ips:?}");
            }
            Call::Blocks => {
                let (candidates, claim) = (&[5, 4, 6].map(block), &self.claim);
                let wanted =
                    BlockClaim { subnet: &subnet, eni: &eni, candidates, cooldown: Duration::ZERO, count: 1, claim };
                let mut taken = store.claim_blocks(&wanted, until).await?;
                // What others have locked is passed by, and may be all.
                while taken.is_empty() && Instant::now() < until {
                    sleep(Duration::from_millis(20)).await;
                    taken = store.claim_blocks(&wanted, until).await?;
                }
                assert_eq!(of(&taken), [block(5)], "I1: a claim of one block");
            }
            Call::Together => {
                let found = store.apply_together(&self.groups, until).await?;
                assert_eq!(found, [true, false], "I5: a group that happened, and one that may not");
            }
            Call::Change => assert_eq!(store.apply(&self.changes, until).await?, [true], "I5: a change that happened"),
            Call::Changes => {
                let found = store.apply(&self.changes, until).await?;
                assert_eq!(found, [true, true, false], "I5: changes that happened, and one that may not");
            }
            Call::Insert => {
                assert_eq!(store.insert_missing(&subnet, &inserted(), until).await?, 21, "rows inserted and counted");
            }
            Call::Hold => {
                assert!(store.hold_task("scan", "me", Duration::from_secs(600), until).await?, "a free task");
            }
        }
        Ok(())
    }

    /// Whether the table says that it happened, wholly and once; else it did not happen at all.
    pub async fn happened(&self, store: &Store) -> bool {
        let rows = store.rows_of_subnet(&subnet(), soon()).await.unwrap();
        let ours: Vec<_> = rows.iter().filter(|row| row.claim.as_ref() == Some(&self.claim)).collect();
        let (found, wanted) = match self.call {
            Call::Claim => (ours.iter().filter(|row| row.state() == State::On).count(), 3),
            Call::Blocks => (ours.iter().filter(|row| row.state() == State::On && row.in_block).count(), 16),
            Call::Together => (ours.iter().filter(|row| row.state() == State::Off).count(), 16),
            Call::Change => (ours.iter().filter(|row| row.state() == State::Lease).count(), 1),
            Call::Changes => (ours.iter().filter(|row| row.state() == State::Lease && row.ip != ip(51)).count(), 2),
            Call::Insert => (rows.iter().filter(|row| row.ip >= ip(200)).count(), 21),
            Call::Hold => {
                let free = store.hold_task("scan", "another", Duration::ZERO, soon()).await.unwrap();
                (usize::from(!free), 1)
            }
        };
        assert!(found == 0 || found == wanted, "I1, I5: {:?} happened to {found} rows of {wanted}", self.call);
        if !matches!(self.call, Call::Insert | Call::Hold) {
            assert_eq!(ours.len(), found, "I5: rows that carry the token and are not what it says");
        }
        found == wanted
    }
}

/// One sentence, fit for a user: that is what a call ends with at its deadline.
pub fn assert_sentence(error: &StoreError) {
    let text = error.to_string();
    assert!(matches!(error, StoreError::Unreachable { .. } | StoreError::ReadOnly { .. }), "{text}");
    assert!(text.starts_with("the database 127.0.0.1:"), "{text}");
    for unfit in ["\n", ". ", "p@ss", "p%40", "UPDATE", "SELECT", "os error", "mysql://"] {
        assert!(!text.contains(unfit), "{unfit:?} in: {text}");
    }
}
