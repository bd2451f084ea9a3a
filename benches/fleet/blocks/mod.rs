//! Whole blocks: lives of interfaces and of a subnet on the driver's own decisions, in virtual time.
//!
//! First an interface that is filled through the real binary. In the rest simulated are time, containers, a table with the
//! store's rules, and an EC2 that does at once what it is asked: what an interface takes and gives back, and when, is decided by
//! the functions that decide it in the driver.

use std::time::Duration;

use ec2_ipam::domain::plan::blocks::Policy;
use fastrand::Rng;
use serde_json::json;

use super::figures::Report;
use super::plot::{self, Line};
use eni::Choice;
use lives::Life;
use table::Table;

mod eni;
mod full;
mod lives;
mod table;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const NEVER: Choice = Choice::Ours(Policy::Never);
const AUTO: Choice = Choice::Ours(Policy::Auto);
/// Where whole blocks are plenty.
const WIDE: &str = "10.0.0.0/20";

pub async fn run(report: &mut Report) {
    full::run(report).await;
    on_paper(report);
}

fn on_paper(report: &mut Report) {
    let sides = |life: fn(Choice) -> Life| [AUTO, NEVER].map(life);
    let [ours, never] = sides(churn);
    report.add(
        "blocks on paper: 3 containers that are replaced all day, 29 slots",
        format!("{} EC2 calls a day for {} starts", ours.calls(), ours.starts),
        format!("without blocks: {}; the review: 3 against 111", never.calls()),
        "a few",
        json!({ "auto": ours.calls(), "never": never.calls(), "starts": ours.starts }),
    );
    let [ours, never] = sides(jobs);
    report.add(
        "blocks on paper: 8 jobs of 60 s every twelve minutes for 8 h, 29 slots",
        format!("{} EC2 calls for {} starts", ours.calls(), ours.starts),
        format!("without blocks: {}; the review: 85 against 1,086", never.calls()),
        "a tenth",
        json!({ "auto": ours.calls(), "never": never.calls(), "starts": ours.starts }),
    );
    let [ours, never] = sides(wave);
    let share = |life: &Life| life.refused as f64 * 100.0 / life.starts as f64;
    report.add(
        "blocks on paper: a wave of 1 to 120 containers, 9 slots",
        format!("{:.0} % of {} starts refused, {} EC2 calls", share(&ours), ours.starts, ours.calls()),
        format!("without blocks: {:.0} %; the review: 0 against 66 %", share(&never)),
        "none",
        json!({ "auto_percent": share(&ours), "never_percent": share(&never), "starts": ours.starts }),
    );
    for (what, slots) in [("c5.large", 9), ("t3.medium", 5), ("t3.small", 3), ("an interface of 30", 29)] {
        let life = ramp(slots);
        report.add(
            &format!("blocks on paper: a ramp of containers on {what}, {slots} slots"),
            format!("{} of {}, in {} EC2 calls", life.running(0), slots * 16, life.calls()),
            if slots == 9 { "the review: all, in 9".into() } else { "the review: all".into() },
            "all",
            json!({ "reached": life.running(0), "slots": slots, "calls": life.calls() }),
        );
    }
    months(report);
}

fn life(slots: usize, choice: Choice) -> Life {
    let mut life = Life::new(Table::new(WIDE, 1), slots, choice, 0);
    life.host();
    life
}

/// One ends after two minutes in the mean, and the next one starts.
fn churn(choice: Choice) -> Life {
    let (mut life, mut rng) = (life(29, choice), Rng::with_seed(2));
    for n in 0..3 {
        let mut at = MINUTE * n;
        while at < HOUR * 24 {
            let lives = mean(&mut rng, MINUTE * 2);
            life.starts(at, 0, lives);
            at += lives + Duration::from_secs(1);
        }
    }
    life.runs(HOUR * 24, |_| ());
    life
}

fn jobs(choice: Choice) -> Life {
    let mut life = life(29, choice);
    for round in 0..8 * 5 {
        // As Docker asks, one after the other.
        (0..8).for_each(|n| life.starts(MINUTE * 12 * round + Duration::from_millis(300) * n, 0, MINUTE));
    }
    life.runs(HOUR * 8, |_| ());
    life
}

/// Up for two hours and down for two, with containers of ten minutes.
fn wave(choice: Choice) -> Life {
    let (mut life, mut rng) = (life(9, choice), Rng::with_seed(3));
    let wanted =
        |at: Duration| 60.5 - 59.5 * (at.as_secs_f64() / (HOUR * 4).as_secs_f64() * std::f64::consts::TAU).cos();
    let (mut at, mut ends) = (Duration::ZERO, Vec::<Duration>::new());
    while at < HOUR * 8 {
        ends.retain(|end| *end > at);
        while (ends.len() as f64) < wanted(at).floor() {
            let lives = mean(&mut rng, MINUTE * 10);
            life.starts(at, 0, lives);
            ends.push(at + lives);
        }
        at += Duration::from_secs(1);
    }
    life.runs(HOUR * 8, |_| ());
    life
}

/// One every second that stays.
fn ramp(slots: usize) -> Life {
    let mut life = life(slots, AUTO);
    (0..slots as u32 * 16).for_each(|n| life.starts(Duration::from_secs(1) * n, 0, HOUR * 24));
    life.runs(HOUR, |_| ());
    life
}

fn mean(rng: &mut Rng, mean: Duration) -> Duration {
    mean.mul_f64(-(1.0 - rng.f64()).ln())
}

/// A subnet of a month.
struct Month {
    name: &'static str,
    choice: Choice,
    foreign: usize,
    /// Blocks under an explicit reservation.
    reserved: usize,
}

/// Its whole blocks of those possible, by day; refused starts; EC2 calls.
struct Lived {
    points: Vec<(f64, f64)>,
    refused: usize,
    starts: usize,
    calls: usize,
}

impl Lived {
    /// Of the last twenty days.
    fn mean(&self) -> f64 {
        let late: Vec<f64> = self.points.iter().filter(|(day, _)| *day >= 10.0).map(|point| point.1).collect();
        late.iter().sum::<f64>() / late.len() as f64
    }
}

fn months(report: &mut Report) {
    let month = |name, choice, foreign, reserved| Month { name, choice, foreign, reserved };
    let months = [
        month("blocks", AUTO, 0, 0),
        month("EC2 chooses", Choice::Random, 0, 0),
        month("blocks, 150 foreign addresses", AUTO, 150, 0),
        month("blocks, 150 foreign, three quarters reserved", AUTO, 150, 192),
        month("single addresses that we choose", NEVER, 0, 0),
        month("EC2 chooses, 150 foreign addresses", Choice::Random, 150, 0),
    ];
    let lived: Vec<Lived> = std::thread::scope(|scope| {
        let lives: Vec<_> = months.iter().map(|month| scope.spawn(|| month.lives())).collect();
        lives.into_iter().map(|life| life.join().unwrap()).collect()
    });
    let [ours, random, ours_of_150, reserved, singles, random_of_150] = lived.as_slice() else { panic!("six lives") };
    let told = |what: &str, lived: &Lived| {
        format!("{what} {:.0} % ({} of {} starts refused)", lived.mean(), lived.refused, lived.starts)
    };
    let figures = |lived: &Lived| json!({ "percent": lived.mean(), "refused": lived.refused, "starts": lived.starts, "calls": lived.calls });
    report.add(
        "blocks on paper: 30 days of a /20 with 100 hosts, whole blocks left of those possible",
        told("ours", ours),
        format!(
            "{}; {}; the review: 49 % against 10 %",
            told("EC2's choice", random),
            told("singles that we choose", singles)
        ),
        "half, without foreign addresses",
        json!({ "ours": figures(ours), "random": figures(random), "singles": figures(singles) }),
    );
    report.add(
        "the same with 150 foreign addresses at random places",
        told("ours", ours_of_150),
        format!("{}; the review: 18 % against 4 %", told("EC2's choice", random_of_150)),
        "more than EC2's choice",
        json!({ "ours": figures(ours_of_150), "random": figures(random_of_150) }),
    );
    report.add(
        "the same with three quarters of the subnet under an explicit reservation",
        told("ours", reserved),
        "the review: 71 to 77 %, and no refusal".into(),
        "no refusal",
        figures(reserved),
    );
    let lines: Vec<Line<'_>> = months
        .iter()
        .zip(&lived)
        .take(4)
        .map(|(month, lived)| Line { name: month.name, points: lived.points.clone() })
        .collect();
    plot::lines(
        "blocks",
        "A /20 with 100 hosts for 30 days: whole blocks (simulated)",
        "days",
        "% of those possible",
        &lines,
    );
}

impl Month {
    fn lives(&self) -> Lived {
        const DAYS: u32 = 30;
        const HOSTS: usize = 100;
        let (mut life, mut rng) = (Life::new(Table::new(WIDE, 4), 9, self.choice, self.reserved), Rng::with_seed(5));
        let end = HOUR * 24 * DAYS;
        let mut foreign = life.table.anywhere(self.foreign, self.reserved);
        for _ in 0..HOSTS {
            let host = life.host();
            // Two to three containers of some hours each, more by day than by night.
            let mut at = mean(&mut rng, MINUTE * 20);
            while at < end {
                let day = (at.as_secs_f64() / (HOUR * 24).as_secs_f64() * std::f64::consts::TAU).sin();
                if rng.f64() * 2.0 < 1.0 + day {
                    let lives = mean(&mut rng, HOUR * 3);
                    life.starts(at, host, lives);
                }
                at += mean(&mut rng, MINUTE * 36);
            }
            let mut at = mean(&mut rng, HOUR * 24 * 5);
            while at < end {
                life.replaced(at, host);
                at += mean(&mut rng, HOUR * 24 * 5);
            }
        }
        (0..DAYS * 24).for_each(|hour| life.looked_at(HOUR * hour));
        let mut points = Vec::new();
        let reserved = self.reserved;
        life.runs(end, |life| {
            points.push((life.now.as_secs_f64() / (HOUR * 24).as_secs_f64(), life.table.whole_of_possible() * 100.0));
            // Each foreign one lives for three days.
            for ip in &mut foreign {
                if rng.usize(..72) == 0 {
                    life.table.give_back(*ip, life.now.as_secs() as i64);
                    *ip = life.table.anywhere(1, reserved)[0];
                }
            }
        });
        Lived { points, refused: life.refused, starts: life.starts, calls: life.calls() }
    }
}
