//! Killed at every named point, on every way that leads there.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::Semaphore;
use vpc_sim::{Fault, FaultKind, OwnAddress, PrefixSwitches, Switches};

use super::agreement::{let_go, nothing_is_lost, reached};
use super::bed::{Bed, NARROW, WIDE, until_none};
use super::ways::Way;
use crate::support::host::{Kind, eventually, on_both};

on_both! {
    killed_once_at_every_point
    killed_twice_at_every_point
    killed_at_every_point_with_a_reply_lost
    killed_at_every_point_with_a_late_effect
    killed_at_every_point_and_the_table_forgets_that_life
    killed_once_at_every_point_with_blocks
}

async fn killed_once_at_every_point(kind: Kind) {
    at_every_point(kind, Manner::Once).await;
}

/// The second time in the life that settles what the first one left.
async fn killed_twice_at_every_point(kind: Kind) {
    at_every_point(kind, Manner::Twice).await;
}

async fn killed_at_every_point_with_a_reply_lost(kind: Kind) {
    at_every_point(kind, Manner::ReplyLost).await;
}

async fn killed_at_every_point_with_a_late_effect(kind: Kind) {
    at_every_point(kind, Manner::LateEffect).await;
}

async fn killed_at_every_point_and_the_table_forgets_that_life(kind: Kind) {
    at_every_point(kind, Manner::Forgotten).await;
}

/// A table in a file is never away.
#[tokio::test]
async fn killed_at_every_point_and_started_without_the_table() {
    at_every_point(Kind::Mariadb, Manner::TableAway).await;
}

async fn killed_once_at_every_point_with_blocks(kind: Kind) {
    with_blocks_at_every_point(kind, Manner::Once).await;
}

/// What EC2 does to a block does not depend on where the table is.
#[tokio::test]
async fn killed_twice_at_every_point_with_blocks() {
    with_blocks_at_every_point(Kind::Sqlite, Manner::Twice).await;
}

#[tokio::test]
async fn killed_at_every_point_with_a_reply_of_a_block_lost() {
    with_blocks_at_every_point(Kind::Mariadb, Manner::ReplyLost).await;
}

#[tokio::test]
async fn killed_at_every_point_with_a_reply_of_a_block_lost_and_its_repeat_refused() {
    with_blocks_at_every_point(Kind::Mariadb, Manner::RepeatRefused).await;
}

#[tokio::test]
async fn killed_at_every_point_with_a_late_effect_of_a_block() {
    with_blocks_at_every_point(Kind::Sqlite, Manner::LateEffect).await;
}

#[tokio::test]
async fn killed_at_every_point_with_blocks_and_the_table_forgets_that_life() {
    with_blocks_at_every_point(Kind::Mariadb, Manner::Forgotten).await;
}

#[tokio::test]
async fn killed_at_every_point_with_blocks_and_started_without_the_table() {
    with_blocks_at_every_point(Kind::Mariadb, Manner::TableAway).await;
}

/// A point that is in no way's list would be a step boundary that nobody was killed at.
#[test]
fn every_point_of_the_source_is_on_a_way() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let all = points_in(&source);
    for (kind, other) in [(Kind::Mariadb, "store/sqlite"), (Kind::Sqlite, "store/mysql")] {
        let (here, elsewhere) = (points_of(kind), points_in(&source.join(other)));
        // A server is killed there by the tests of distant interfaces.
        let is_meant = |point: &&String| !elsewhere.contains(*point) && !point.starts_with("distant:");
        let missing: BTreeSet<_> = all.difference(&here).filter(is_meant).collect();
        assert!(missing.is_empty(), "{kind:?}: in the source and on no way: {missing:?}");
        let gone: BTreeSet<_> = here.difference(&all).collect();
        assert!(gone.is_empty(), "{kind:?}: on a way and not in the source: {gone:?}");
    }
}

fn points_of(kind: Kind) -> BTreeSet<String> {
    let points = Way::ALL.into_iter().flat_map(|way| way.points(kind));
    points.map(|point| point.split('#').next().unwrap().to_owned()).collect()
}

fn points_in(path: &Path) -> BTreeSet<String> {
    if path.is_dir() {
        return path.read_dir().unwrap().flat_map(|entry| points_in(&entry.unwrap().path())).collect();
    }
    let text = std::fs::read_to_string(path).unwrap();
    text.split("point(\"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Once,
    Twice,
    /// The call of EC2 nearest to the point takes effect, and its answer is lost.
    ReplyLost,
    /// The same, and EC2 refuses a prefix that is on the interface already.
    RepeatRefused,
    /// It takes effect after its connection broke.
    LateEffect,
    /// The database fails over, and what it has lost is all that this life committed.
    Forgotten,
    /// The next life begins while the database does not answer.
    TableAway,
}

impl Manner {
    fn is_for(self, way: Way) -> bool {
        match self {
            Self::Once | Self::Twice => true,
            Self::ReplyLost | Self::RepeatRefused => way.ec2_call().is_some(),
            // There the repeat puts the block on and it is given back, all before the first Assign lands: to the next life that is
            // a block of which nobody knows, and wants a look more.
            Self::LateEffect => way.ec2_call().is_some() && way != Way::Turns,
            // It is the table itself that those make.
            Self::Forgotten | Self::TableAway => !way.makes_table(),
        }
    }
}

struct Case {
    way: Way,
    point: &'static str,
    manner: Manner,
    blocks: bool,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let with = if self.blocks { ", with blocks" } else { "" };
        write!(f, "after a kill at {} ({:?}, {:?}{with})", self.point, self.way, self.manner)
    }
}

/// So many at once, over all tests: they wait most of the time.
static TURNS: Semaphore = Semaphore::const_new(12);

async fn at_every_point(kind: Kind, manner: Manner) {
    at_points_of(Way::ALL.into_iter(), kind, manner, false).await;
}

async fn with_blocks_at_every_point(kind: Kind, manner: Manner) {
    at_points_of(Way::with_blocks(), kind, manner, true).await;
}

async fn at_points_of(ways: impl Iterator<Item = Way>, kind: Kind, manner: Manner, blocks: bool) {
    let ways = ways.filter(|way| manner.is_for(*way));
    let cases = ways.flat_map(|way| way.points(kind).iter().map(move |point| Case { way, point, manner, blocks }));
    let outcomes = join_all(cases.map(|case| async move {
        let _turn = TURNS.acquire().await.unwrap();
        let label = case.to_string();
        // A thread for each, lest one's EC2 and metadata service wait for another's table.
        let run = move || {
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(case.run(kind))
        };
        tokio::task::spawn_blocking(run).await.err().map(|_| label)
    }))
    .await;
    let count = outcomes.len();
    let failures: Vec<String> = outcomes.into_iter().flatten().collect();
    assert!(failures.is_empty(), "{kind:?}: {} of {count} failed, see above:\n{}", failures.len(), failures.join("\n"));
    assert!(count > 20, "{count} cases");
}

impl Case {
    /// More than one chunk of rows where that matters: a chunk has 4000 in MariaDB, 4096 in SQLite.
    fn cidr(&self) -> &'static str {
        match self.way {
            Way::Init => "10.77.0.0/19",
            Way::Turns => NARROW,
            _ if self.blocks => WIDE,
            _ => NARROW,
        }
    }

    async fn run(&self, kind: Kind) {
        let after = format!("on {kind:?} {self}");
        let own = if self.manner == Manner::RepeatRefused { OwnAddress::Refused } else { OwnAddress::default() };
        let switches =
            Switches { prefixes: PrefixSwitches { own, ..PrefixSwitches::default() }, ..Switches::default() };
        let mut bed = Bed::alone(kind, self.cidr(), self.way.instance_type(), switches).await;
        if self.blocks {
            bed.takes_blocks();
        }
        self.way.prepare(&mut bed).await;
        let unclear = match self.manner {
            Manner::Once | Manner::Twice | Manner::Forgotten | Manner::TableAway => None,
            Manner::ReplyLost | Manner::RepeatRefused => Some(FaultKind::LoseReply),
            // Before the settle age is over, as all that EC2 has taken up.
            Manner::LateEffect => Some(FaultKind::LandLate(Duration::from_millis(300))),
        };
        if let (Some(fault), Some((action, skip))) = (unclear, self.way.ec2_call()) {
            bed.host.vpc.fail(Fault::on(action, fault).skip(skip));
        }
        let engine = bed.engine.clone();
        let lives = if self.manner == Manner::Twice { 2 } else { 1 };
        for n in 1..=lives {
            self.way.meanwhile(&bed).await;
            // What an earlier life passed, the next one need not pass so often.
            let point = if n == 1 { self.point } else { self.point.split('#').next().unwrap() };
            if self.manner == Manner::Forgotten {
                bed.host.table().remember().await;
            }
            bed.life_until(point, n, &after, self.way.act(&engine)).await;
            if self.manner == Manner::Forgotten {
                bed.host.table().recall().await;
                bed.has_forgotten = true;
            }
            assert_eq!(let_go(&bed).await, None, "{after}: nothing live is released");
            self.way.thereupon(&bed).await;
        }
        if self.manner == Manner::TableAway {
            bed.host.proxy.as_ref().unwrap().away(true);
        }
        let looks = |bed: &Bed| bed.host.log().matches("serving eni-").count();
        let before = looks(&bed);
        bed.start().await;
        self.way.afterwards(&bed, &after).await;
        if self.manner == Manner::TableAway {
            // Whoever is given something has it alone; whoever is refused asks again.
            let _ = bed.engine.request("").await;
            if let Some(ip) = bed.engine.held().first() {
                bed.engine.release(*ip).await;
            }
            bed.host.proxy.as_ref().unwrap().away(false);
            eventually(&format!("{after}: the first look"), async || looks(&bed) > before).await;
        }
        if self.way.makes_table() {
            // Whatever broke off is simply done again.
            assert!(bed.engine.pool().await);
            until_none(&after, async || {
                let status = bed.engine.tell("init").await;
                (status != Some(200)).then(|| format!("init is answered by {status:?}"))
            })
            .await;
        }
        // Once: nobody asks, and what is left is settled all the same.
        if self.manner != Manner::Once {
            bed.engine.ask_at_once(&after).await;
        }
        reached(&[&bed], &after, self.way.scans()).await;
        nothing_is_lost(&[&bed], &after).await;
    }
}
