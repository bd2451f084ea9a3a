//! Killed at any moment while containers come and go: on MariaDB two hosts that share the table, on SQLite one.
//!
//! `SOAK_KILLS` says how often, `SOAK_SEED` repeats what is told to the driver (its own timing stays its own).

use std::cell::Cell;
use std::time::Duration;

use fastrand::Rng;
use futures_util::future::join_all;
use vpc_sim::{Fault, FaultKind, Switches};

use super::agreement::{let_go, nothing_is_lost, reached};
use super::bed::{Bed, Engine, NARROW, Users};
use crate::support::host::{ASSIGN, Fleet, Kind, UNASSIGN, on_both};

on_both! {
    killed_at_random_moments
    killed_at_random_moments_with_blocks
}

/// Unless `SOAK_KILLS` says otherwise.
const KILLS: usize = 200;
/// After so many everything has to agree.
const AT_A_TIME: usize = 20;
/// Callers to a host, as many as an Engine that starts a few containers at once has.
const CALLERS: usize = 4;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().filter(|text| !text.is_empty()).map(|text| text.parse().expect("a number"))
}

async fn killed_at_random_moments(kind: Kind) {
    kill(kind, NARROW, false).await;
}

/// In a subnet of six, so that they are scarce at times.
async fn killed_at_random_moments_with_blocks(kind: Kind) {
    kill(kind, "10.77.0.0/25", true).await;
}

async fn kill(kind: Kind, cidr: &str, blocks: bool) {
    let kills = number("SOAK_KILLS").map_or(KILLS, |kills| usize::try_from(kills).unwrap());
    let seed = number("SOAK_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("{kills} kills, SOAK_SEED={seed}");
    let mut rng = Rng::with_seed(seed);
    let fleet = Fleet::with(kind, cidr, Switches::default()).await;
    let users = Users::default();
    let hosts = if kind == Kind::Mariadb { 2 } else { 1 };
    let mut beds: Vec<Bed> = (1..=hosts).map(|n| Bed::new(&fleet, n, "c5.large", &users)).collect();
    for bed in &mut beds {
        if blocks {
            bed.takes_blocks();
        }
        bed.start().await;
        assert!(bed.engine.pool().await);
    }
    let mut done = 0;
    while done < kills {
        let now = AT_A_TIME.min(kills - done);
        let over = Cell::new(false);
        let engines: Vec<Engine> = beds.iter().map(|bed| bed.engine.clone()).collect();
        let callers = engines.iter().flat_map(|engine| [engine; CALLERS]).map(|engine| call(engine, rng.fork(), &over));
        let callers = join_all(callers.collect::<Vec<_>>());
        let killing = async {
            for n in done..done + now {
                let at = rng.usize(..beds.len());
                tokio::time::sleep(Duration::from_millis(rng.u64(..250))).await;
                beds[at].host.kill();
                let lost = let_go(&beds[at]).await;
                assert_eq!(lost, None, "after kill {n}, seed {seed}: nothing live is released");
                beds[at].start().await;
            }
            over.set(true);
        };
        tokio::join!(callers, killing);
        done += now;
        fleet.vpc.forget_faults();
        let after = format!("on {kind:?} after {done} kills, seed {seed}");
        reached(&beds.iter().collect::<Vec<_>>(), &after, false).await;
    }
    nothing_is_lost(&beds.iter().collect::<Vec<_>>(), &format!("on {kind:?}, seed {seed}")).await;
}

/// Containers come and go, and an operator meddles.
async fn call(engine: &Engine, mut rng: Rng, over: &Cell<bool>) {
    while !over.get() {
        let is_alive = match rng.u8(..20) {
            // Refused or not: the interface may be full, or EC2 unclear.
            0..8 => engine.request("").await.is_some(),
            8 | 9 => engine.request(&engine.unused(rng.u8(5..50)).to_string()).await.is_some(),
            10..15 => match engine.end_one(&mut rng) {
                Some(ip) => engine.release(ip).await,
                None => true,
            },
            // Its release is lost.
            15 => engine.end_one(&mut rng).is_some(),
            16 => {
                engine.hang_up().await;
                true
            }
            17 => {
                // All at once, so that blocks go back.
                while engine.blocks && rng.u8(..32) > 0 {
                    let Some(ip) = engine.end_one(&mut rng) else { break };
                    engine.release(ip).await;
                }
                engine.tell("recycle").await.is_some()
            }
            18 => engine.reconcile().await,
            _ => {
                let (action, kind) = [
                    (ASSIGN, FaultKind::LoseReply),
                    (UNASSIGN, FaultKind::LoseReply),
                    (UNASSIGN, FaultKind::LandLate(Duration::from_millis(200))),
                ][rng.usize(..3)]
                .clone();
                engine.vpc.fail(Fault::on(action, kind));
                true
            }
        };
        // Docker's callers are not in a hurry, and a dead driver is not up again at once.
        let pause = if is_alive { rng.u64(..10) } else { 10 };
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
}
