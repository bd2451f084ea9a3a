//! Many sessions at once for blocks and for single addresses: to the last one, none twice, and nobody hears of the others.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ec2_ipam::domain::address::{NewRow, Status};
use ec2_ipam::domain::block::{Block, SIZE};
use ec2_ipam::domain::id::Kind;
use ec2_ipam::store::{FreeClaim, Store};

use super::bed::{Bed, eni, new_row, on_all, soon, subnet, token};
use super::blocks::{claim_blocks, of};
use super::contention::Held;

on_all! {
    sessions_of_blocks_and_of_singles_take_each_address_once_and_leave_none
    the_last_three_whole_blocks_of_many_go_to_three
}

const SESSIONS: usize = 32;

fn rows(count: u32, status: impl Fn(u32) -> Status) -> Vec<NewRow> {
    (0..count).map(|n| new_row((0x0a00_0000 + n).into(), status(n))).collect()
}

fn told(what: &str, begun: Instant, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |part: usize| times.get(times.len().saturating_sub(1) * part / 100).copied().unwrap_or_default();
    println!(
        "{what}: {} claims in {:.1?}, p50 {:.1?}, p95 {:.1?}, most {:.1?}",
        times.len(),
        begun.elapsed(),
        at(50),
        at(95),
        at(100)
    );
}

/// As a host goes about it: what it has found is tried before it looks again.
async fn blocks_to_the_last(store: &Store, held: &Held, times: &mut Vec<Duration>) {
    let mut known = Vec::new();
    loop {
        if known.is_empty() {
            known = store.whole_blocks(&subnet(), None, 64, soon()).await.unwrap();
        }
        if known.is_empty() {
            return;
        }
        let (begun, claim) = (Instant::now(), token(Kind::On));
        let taken = claim_blocks(store, &known, 1, &claim).await;
        times.push(begun.elapsed());
        let mine = of(&taken);
        assert!(mine.len() <= 1, "I1: asked for one, got {mine:?}");
        taken.iter().for_each(|row| held.take(row.ip, &claim));
        let tried =
            mine.first().and_then(|mine| known.iter().position(|block| block == mine)).map_or(known.len(), |at| at + 1);
        known.drain(..tried);
    }
}

async fn singles_to_the_last(store: &Store, held: &Held, times: &mut Vec<Duration>) {
    let (subnet, eni) = (subnet(), eni(2));
    loop {
        let (begun, claim) = (Instant::now(), token(Kind::On));
        let count = fastrand::usize(1..=5);
        let wanted = FreeClaim {
            subnet: &subnet,
            eni: &eni,
            sub_pool: None,
            cooldown: Duration::ZERO,
            except: &[],
            count,
            claim: &claim,
        };
        let taken = store.claim_free(&wanted, soon()).await.unwrap();
        times.push(begun.elapsed());
        assert!(taken.len() <= count, "I1: asked for {count}, got {taken:?}");
        taken.iter().for_each(|row| held.take(row.ip, &claim));
        if taken.is_empty() {
            return;
        }
    }
}

async fn sessions_of_blocks_and_of_singles_take_each_address_once_and_leave_none(bed: Bed) {
    let all = rows(4096, |n| if n % 16 < n / 256 { Status::Occupied } else { Status::Free });
    let free = all.iter().filter(|row| row.status == Status::Free).count();
    bed.store.insert_missing(&subnet(), &all, soon()).await.unwrap();
    let held = Arc::new(Held::default());
    let begun = Instant::now();
    let sessions: Vec<_> = bed
        .hosts(SESSIONS)
        .await
        .into_iter()
        .enumerate()
        .map(|(n, store)| {
            let held = Arc::clone(&held);
            tokio::spawn(async move {
                let mut times = Vec::new();
                match n % 2 {
                    0 => blocks_to_the_last(&store, &held, &mut times).await,
                    _ => singles_to_the_last(&store, &held, &mut times).await,
                }
                (n % 2, times)
            })
        })
        .collect();
    let mut times = [Vec::new(), Vec::new()];
    for session in sessions {
        let (kind, more) = session.await.unwrap();
        times[kind].extend(more);
    }
    let [blocks, singles] = times;
    told("blocks", begun, blocks);
    told("singles", begun, singles);
    assert_eq!(held.all().len(), free, "each free address once, and none is left");
    let rows = bed.store.rows_taken(&subnet(), soon()).await.unwrap();
    for row in rows.iter().filter(|row| row.iface.is_some()) {
        assert_eq!(held.all().get(&row.ip), row.claim.as_ref(), "what callers were told is what the table says");
        assert_eq!(row.in_block, row.iface == Some(eni(1)), "{row:?}");
    }
    assert_eq!(rows.iter().filter(|row| row.iface.is_some()).count(), free);
}

/// In a /16 on a server; all others are broken, by the same one of sixteen.
async fn the_last_three_whole_blocks_of_many_go_to_three(bed: Bed) {
    let whole = [700, 1900, 3100].map(|net| 0x0a00_0000 + net * 16);
    let is_whole = |n: u32| whole.iter().any(|first| (0x0a00_0000 + n) / 16 == first / 16);
    let all = rows(65_536, |n| if n % 16 == 7 && !is_whole(n) { Status::Occupied } else { Status::Free });
    bed.store.insert_missing(&subnet(), &all, soon()).await.unwrap();
    let begun = Instant::now();
    let expected: Vec<_> = whole.iter().map(|first| Block::of((*first).into())).collect();
    let sessions: Vec<_> = bed
        .hosts(SESSIONS)
        .await
        .into_iter()
        .map(|store| {
            tokio::spawn(async move {
                let begun = Instant::now();
                let known = store.whole_blocks(&subnet(), None, 64, soon()).await.unwrap();
                let looked = begun.elapsed();
                let taken = claim_blocks(&store, &known, 1, &token(Kind::On)).await;
                (of(&taken), looked, begun.elapsed() - looked)
            })
        })
        .collect();
    let (mut taken, mut looks, mut claims) = (Vec::new(), Vec::new(), Vec::new());
    for session in sessions {
        let (blocks, looked, claimed) = session.await.unwrap();
        taken.extend(blocks);
        looks.push(looked);
        claims.push(claimed);
    }
    told("looks at a /16 with three whole blocks", begun, looks);
    told("claims of the last three", begun, claims);
    taken.sort_unstable();
    assert_eq!(taken, expected);
    assert!(bed.store.whole_blocks(&subnet(), None, 64, soon()).await.unwrap().is_empty());
    assert_eq!(bed.store.rows_of_eni(&eni(1), soon()).await.unwrap().len(), 3 * SIZE);
}
