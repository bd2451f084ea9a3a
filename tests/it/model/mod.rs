//! The model test: the driver's own code, several hosts of it, driven by random sequences of everything that may happen,
//! against a plain reference.
//!
//! Real are the driver from Docker's calls down, its tables (MariaDB, SQLite), sockets, interfaces and HTTP; EC2 and IMDS
//! are the strict simulator, Docker's API is the reference's. Each host is a thread in a network namespace of its own; all
//! clocks stand still until the test moves them, so that minutes pass in milliseconds. A life of the driver can be stopped
//! at any of its fail points, to be killed there or to go on much later.
//!
//! - `setup` what a sequence is drawn from; `game` time and calls; `lives` instances and drivers; `moves` and `troubles` what may happen
//! - `ledger` the reference, which judges each answer when it is given; `checks` what holds after each step; `end` what
//!   holds in the end
//! - `clock`, `host`, `state`, `docker`, `books`, `bed` what it runs on; `tally` what was done; `seeds` what once failed
//!
//! `SEED=n` plays one sequence (with `KIND=mariadb` or `sqlite` on one kind of table) and prints its story; `SOAK=n` plays
//! that many with fresh seeds.

mod bed;
mod books;
mod checks;
mod clock;
mod docker;
mod end;
mod game;
mod host;
mod ledger;
mod lives;
mod moves;
mod seeds;
mod setup;
mod state;
mod tally;
mod troubles;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use bed::Bed;
use game::{Broken, Game};
use tally::Tally;

use crate::support::host::Kind;

/// Sequences that each of the tests plays unless told otherwise.
const USUAL: u64 = 500;

/// Plays one sequence.
fn play(bed: &Bed, seed: u64, blocks: bool, tally: &mut Tally) -> Result<(), Broken> {
    let mut game = Game::new(bed, seed, blocks, tally)?;
    for _ in 0..game.setup.steps {
        game.step()?;
    }
    game.end()?;
    for call in game.vpc.calls() {
        game.tally.count(&format!("EC2 {}", call.action));
    }
    game.tally.add("virtual minutes", game.now().as_secs() / 60);
    Ok(())
}

/// Plays these seeds, one after the other, and says what was done.
fn play_all(kind: Kind, blocks: bool, seeds: impl Iterator<Item = u64>) {
    let (bed, mut tally) = (Bed::new(kind), Tally::default());
    let (start, mut slowest) = (Instant::now(), (Duration::ZERO, 0));
    let (mut failures, mut played) = (Vec::new(), 0);
    for seed in seeds {
        let began = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| play(&bed, seed, blocks, &mut tally)));
        let is_over = outcome.is_err();
        if let Err(why) = outcome.unwrap_or_else(|_| Err("it panicked".to_owned())) {
            let why = format!("{why} (SEED={seed} KIND={kind:?})");
            tell(&bed, &why);
            failures.push(why);
            // A fault that is everywhere is seen often enough.
            if is_over || failures.len() >= 10 {
                break;
            }
        }
        slowest = slowest.max((began.elapsed(), seed));
        tally.count("sequences");
        played += 1;
        if played % 100 == 0 {
            println!("{kind:?}: {played} sequences in {:?}", start.elapsed());
        }
    }
    println!("{kind:?} in {:?}, the slowest {slowest:?}:\n{tally}", start.elapsed());
    assert!(failures.is_empty(), "{} sequences failed:\n{}", failures.len(), failures.join("\n"));
}

/// The story of a sequence that failed.
fn tell(bed: &Bed, why: &str) {
    println!("{}", bed.shared.story().join("\n"));
    for owner in 0..bed.books.owners() {
        println!("table {owner}:");
        bed.books.rows(owner).iter().for_each(|row| println!("  {}", row.shown()));
    }
    println!("FAILED {why}\n");
}

/// Which seeds to play, by the environment: one, so many fresh ones, or the usual ones.
fn play_usual(kind: Kind, worker: u64) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let is_meant = std::env::var("KIND").map_or(true, |meant| format!("{kind:?}").eq_ignore_ascii_case(&meant));
    match (number("SEED"), number("SOAK")) {
        (Some(seed), _) if worker == 0 && is_meant => {
            let (bed, mut tally) = (Bed::new(kind), Tally::default());
            let outcome = play(&bed, seed, false, &mut tally);
            tell(&bed, &format!("{outcome:?}\n{tally}"));
            outcome.unwrap();
        }
        (Some(_), _) => {}
        (None, Some(sequences)) => play_all(kind, false, (0..sequences.div_ceil(4)).map(|_| fastrand::u64(..))),
        (None, None) => {
            let found = seeds::FOUND.iter().filter(|(of, ..)| *of == kind && worker == 0).map(|(_, seed, _)| *seed);
            play_all(kind, false, found.chain(worker * USUAL..(worker + 1) * USUAL));
        }
    }
}

#[test]
fn random_sequences_on_mariadb_keep_every_invariant() {
    play_usual(Kind::Mariadb, 0);
}

#[test]
fn more_random_sequences_on_mariadb_keep_every_invariant() {
    play_usual(Kind::Mariadb, 1);
}

#[test]
fn random_sequences_on_sqlite_keep_every_invariant() {
    play_usual(Kind::Sqlite, 0);
}

#[test]
fn more_random_sequences_on_sqlite_keep_every_invariant() {
    play_usual(Kind::Sqlite, 1);
}

/// With blocks: `BLOCKS=n` plays one sequence and prints its story.
fn play_with_blocks(kind: Kind) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match (number("BLOCKS"), number("SOAK")) {
        (Some(seed), _) => {
            let (bed, mut tally) = (Bed::new(kind), Tally::default());
            let outcome = play(&bed, seed, true, &mut tally);
            tell(&bed, &format!("{outcome:?}\n{tally}"));
            outcome.unwrap();
        }
        (None, Some(sequences)) => play_all(kind, true, (0..sequences.div_ceil(4)).map(|_| fastrand::u64(..))),
        (None, None) => play_all(kind, true, 0..USUAL / 5),
    }
}

#[test]
fn random_sequences_with_blocks_on_mariadb_keep_every_invariant() {
    play_with_blocks(Kind::Mariadb);
}

#[test]
fn random_sequences_with_blocks_on_sqlite_keep_every_invariant() {
    play_with_blocks(Kind::Sqlite);
}
