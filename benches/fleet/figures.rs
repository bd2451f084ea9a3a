//! What was measured, and how it is told.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Durations, in milliseconds.
#[derive(Clone, Debug, Default)]
pub struct Times(Vec<f64>);

impl Times {
    pub fn push(&mut self, time: Duration) {
        self.0.push(time.as_secs_f64() * 1e3);
    }

    pub fn extend(&mut self, times: impl IntoIterator<Item = Duration>) {
        times.into_iter().for_each(|time| self.push(time));
    }

    pub fn join(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub fn all(&self) -> &[f64] {
        &self.0
    }

    /// The value that this part of all does not exceed.
    pub fn at(&self, part: f64) -> f64 {
        quantile(&self.0, part)
    }

    pub fn median(&self) -> f64 {
        self.at(0.5)
    }

    pub fn text(&self) -> String {
        format!("p50 {}, p99 {}", ms(self.median()), ms(self.at(0.99)))
    }

    pub fn json(&self) -> Value {
        json!({ "count": self.0.len(), "min_ms": self.at(0.0), "p50_ms": self.median(), "p99_ms": self.at(0.99), "max_ms": self.at(1.0) })
    }
}

pub fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1).expect("something was measured");
    sorted[(part * last as f64).round() as usize]
}

pub fn ms(value: f64) -> String {
    if value < 10.0 { format!("{value:.3} ms") } else { format!("{value:.0} ms") }
}

/// How long it took, and what it brought.
pub async fn timed<T>(work: impl Future<Output = T>) -> (Duration, T) {
    let began = Instant::now();
    let done = work.await;
    (began.elapsed(), done)
}

/// A line of the table.
struct Entry {
    what: String,
    measured: String,
    beside: String,
    goal: &'static str,
    figures: Value,
}

/// The table, and the same as JSON.
pub struct Report {
    entries: Vec<Entry>,
    began: Instant,
}

impl Report {
    pub fn new() -> Self {
        Self { entries: Vec::new(), began: Instant::now() }
    }

    /// `beside`: what it is compared with, measured in the same run unless it says otherwise. `goal`: to reach.
    pub fn add(&mut self, what: &str, measured: String, beside: String, goal: &'static str, figures: Value) {
        eprintln!("{what}: {measured} | {beside} | {goal}");
        self.entries.push(Entry { what: what.to_owned(), measured, beside, goal, figures });
    }

    /// Prints the table and writes the JSON.
    pub fn write(&self) {
        let heads = ["what", "measured", "beside", "to reach"].map(str::to_owned);
        let rows: Vec<[String; 4]> = std::iter::once(heads)
            .chain(
                self.entries.iter().map(|e| [e.what.clone(), e.measured.clone(), e.beside.clone(), e.goal.to_owned()]),
            )
            .collect();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths = [width(0), width(1), width(2)];
        println!();
        for [what, measured, beside, goal] in &rows {
            let [a, b, c] = widths;
            println!("{what:a$}  {measured:b$}  {beside:c$}  {goal}");
        }
        let entries: Vec<Value> = self
            .entries
            .iter()
            .map(|e| json!({ "what": e.what, "measured": e.measured, "beside": e.beside, "goal": e.goal, "figures": e.figures }))
            .collect();
        let seconds = self.began.elapsed().as_secs();
        let all = json!({ "version": env!("CARGO_PKG_VERSION"), "machine": machine(), "seconds": seconds, "entries": entries });
        let file = folder().join("bench.json");
        std::fs::write(&file, format!("{all:#}\n")).unwrap();
        println!("\n{}; {seconds} s; figures and plots: {}", machine(), folder().display());
    }
}

/// Where files go.
pub fn folder() -> PathBuf {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/build/bench"));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let field =
        |name: &str| cpuinfo.lines().find(|line| line.starts_with(name)).and_then(|line| line.split(": ").nth(1));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "{cores} cores, {}, Linux {}",
        field("model name").unwrap_or("processor unknown"),
        read("/proc/sys/kernel/osrelease").trim()
    )
}
