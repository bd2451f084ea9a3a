//! Whole blocks claimed beside single addresses: what one costs, and what many hosts at once do to the last ones.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use ec2_ipam::domain::block::{Block, SIZE};
use ec2_ipam::domain::id::{Boot, Kind};
use ec2_ipam::store::{BlockClaim, FreeClaim, Store};
use futures_util::future::join_all;
use serde_json::json;

use super::{Table, eni, open, soon, subnet};
use crate::figures::{Report, Times, ms, timed};
use crate::support::mariadb::Db;
use crate::support::mysql;

const ROWS: u32 = 65_536;
/// Blocks that are looked for at once, as the driver does.
const WINDOW: usize = 64;
/// Blocks that are whole, in a subnet that has as good as none.
const LAST: usize = 183;
const HOSTS: usize = 32;

pub(super) async fn run(report: &mut Report) {
    side_by_side(report, "MariaDB", Db::new().await).await;
    last_ones(report, "MariaDB", Db::new().await).await;
    if let Some((db, _turn)) = mysql::shared().await {
        side_by_side(report, "MySQL", db).await;
    }
    if let Some((db, _turn)) = mysql::shared().await {
        last_ones(report, "MySQL", db).await;
    }
}

async fn claim(store: &Store, n: usize, candidates: &[Block], boot: &Boot, number: u64) -> Option<Block> {
    let (subnet, eni, claim) = (subnet(), eni(n), boot.claim(number, Kind::On));
    let wanted = BlockClaim {
        subnet: &subnet,
        eni: &eni,
        candidates,
        cooldown: Duration::from_secs(60),
        count: 1,
        claim: &claim,
    };
    let rows = store.claim_blocks(&wanted, soon()).await.unwrap();
    let blocks: BTreeSet<Block> = rows.iter().map(|row| Block::of(row.ip)).collect();
    assert_eq!(rows.len(), blocks.len() * SIZE, "all sixteen or none");
    blocks.first().copied()
}

/// In turn, in one run.
async fn side_by_side(report: &mut Report, server: &str, db: Db) {
    let (table, store) = Table::on(db, ROWS).await;
    let (boot, subnet, eni) = (Boot::random().unwrap(), subnet(), eni(1));
    let [mut find, mut block, mut sixteen, mut five] = std::array::from_fn(|_| Times::default());
    for round in 0..200_u64 {
        let (time, found) = timed(store.whole_blocks(&subnet, None, WINDOW, soon())).await;
        let found = found.unwrap();
        let (claimed, taken) = timed(claim(&store, 1, &found, &boot, round)).await;
        assert!(taken.is_some());
        let mut times = vec![time, claimed];
        for (kind, count) in [(1, 16), (2, 5)] {
            let token = boot.claim(1000 * kind + round, Kind::On);
            let wanted = FreeClaim {
                subnet: &subnet,
                eni: &eni,
                sub_pool: None,
                cooldown: Duration::from_secs(60),
                except: &[],
                count,
                claim: &token,
            };
            let (time, rows) = timed(store.claim_free(&wanted, soon())).await;
            assert_eq!(rows.unwrap().len(), count);
            times.push(time);
        }
        if round >= 20 {
            [&mut find, &mut block, &mut sixteen, &mut five]
                .into_iter()
                .zip(times)
                .for_each(|(all, time)| all.push(time));
        }
        if round % 20 == 19 {
            table.give_back().await;
        }
    }
    report.add(
        &format!("a block found and claimed, of a /16 ({server})"),
        format!("found {}; sixteen rows claimed {}", find.text(), block.text()),
        format!("16 single addresses, found and claimed: {}; 5: {}", sixteen.text(), five.text()),
        "no more than 16 singles",
        json!({ "find": find.json(), "block": block.json(), "sixteen": sixteen.json(), "five": five.json() }),
    );
}

/// Many hosts at once until none is whole: each tries what it has found before it looks again.
async fn last_ones(report: &mut Report, server: &str, db: Db) {
    let (table, first) = Table::on(db, ROWS).await;
    drop(first);
    let step = ROWS as usize / SIZE / LAST;
    let is_whole = format!("(net-{0}) MOD {step}=0 AND net-{0}<{step}*{LAST}", 0x0a00_0000 / 16);
    table
        .db
        .exec(&format!(
            "UPDATE allocation SET status='reserved',ts=ts WHERE INET_ATON(ip) MOD 16=5 AND NOT ({is_whole})"
        ))
        .await;
    let stores = join_all((0..HOSTS).map(|_| open(&table.db))).await;
    let (times, taken) = (Mutex::new(Times::default()), Mutex::new(Vec::<Block>::new()));
    let began = Instant::now();
    join_all(stores.iter().enumerate().map(async |(n, store)| {
        let (boot, mut known) = (Boot::random().unwrap(), Vec::<Block>::new());
        for number in 0.. {
            let begun = Instant::now();
            let mine = loop {
                if known.is_empty() {
                    known = store.whole_blocks(&subnet(), None, WINDOW, soon()).await.unwrap();
                }
                if known.is_empty() {
                    return;
                }
                let mine = claim(store, n, &known, &boot, number).await;
                let tried = mine.and_then(|mine| known.iter().position(|block| *block == mine));
                known.drain(..tried.map_or(known.len(), |at| at + 1));
                if let Some(mine) = mine {
                    break mine;
                }
            };
            times.lock().unwrap().push(begun.elapsed());
            taken.lock().unwrap().push(mine);
        }
    }))
    .await;
    let (took, times, taken) = (began.elapsed(), times.into_inner().unwrap(), taken.into_inner().unwrap());
    let different: BTreeSet<Block> = taken.iter().copied().collect();
    report.add(
        &format!("{HOSTS} hosts at once take the last {LAST} whole blocks of a /16 ({server})"),
        format!(
            "{} taken, {} twice, in {:.1} s; a block p50 {}, p95 {}",
            taken.len(),
            taken.len() - different.len(),
            took.as_secs_f64(),
            ms(times.median()),
            ms(times.at(0.95))
        ),
        "the review: p95 300 ms (MariaDB), 270 ms (MySQL)".into(),
        "all, none twice",
        json!({ "taken": taken.len(), "different": different.len(), "seconds": took.as_secs_f64(), "times": times.json(), "p95_ms": times.at(0.95) }),
    );
}
