//! Which lines are written, and which are counted.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use tracing::Level;

use super::line::Line;

/// What repeats within it is counted.
const MINUTE: Duration = Duration::from_secs(60);
/// So many different lines of one place stand for themselves, as many as a crowded host has addresses in use or so; those
/// beyond are counted as one.
const KINDS: usize = 200;

/// The lines of the last minute, by the place that writes them and by what they say.
pub(super) struct Repeats<P> {
    places: HashMap<P, HashMap<String, Kind>>,
}

struct Kind {
    /// The last one of its kind.
    line: Line,
    /// One was written then.
    since: Instant,
    /// So many came since.
    unwritten: u64,
    total: u64,
}

impl<P> Default for Repeats<P> {
    fn default() -> Self {
        Self { places: HashMap::new() }
    }
}

impl<P: Hash + Eq> Repeats<P> {
    /// The line, if it is to be written now: the first of its kind.
    pub(super) fn comes(&mut self, place: P, kind: String, line: Line, now: Instant) -> Option<Line> {
        let kinds = self.places.entry(place).or_default();
        let kind = if kinds.len() < KINDS || kinds.contains_key(&kind) { kind } else { String::new() };
        if let Some(kind) = kinds.get_mut(&kind) {
            kind.unwritten += 1;
            kind.total += 1;
            kind.line = line;
            return None;
        }
        kinds.insert(kind, Kind { line: line.clone(), since: now, unwritten: 0, total: 1 });
        Some(line)
    }

    /// What is to be written of those whose minute is over: how often they came, or that they come no more.
    pub(super) fn over(&mut self, now: Instant) -> Vec<Line> {
        let mut told = Vec::new();
        for kinds in self.places.values_mut() {
            kinds.retain(|_, kind| {
                if now.duration_since(kind.since) < MINUTE {
                    return true;
                }
                told.extend(kind.told());
                kind.since = now;
                std::mem::take(&mut kind.unwritten) > 0
            });
        }
        self.places.retain(|_, kinds| !kinds.is_empty());
        told
    }

    /// The same of all, as the process ends.
    pub(super) fn end(&mut self) -> Vec<Line> {
        let kinds = std::mem::take(&mut self.places).into_values().flat_map(HashMap::into_values);
        kinds.filter(|kind| kind.unwritten > 0).filter_map(|kind| kind.told()).collect()
    }
}

impl Kind {
    fn told(&self) -> Option<Line> {
        let line = self.line.clone();
        match (self.unwritten, self.total) {
            (0, 1) => None,
            (0, total) => Some(Line {
                level: Level::INFO,
                message: format!("no more: {}", line.message),
                times: format!(" ({} in all)", times(total)),
                ..line
            }),
            (n, _) => Some(Line { times: format!(" ({} in the last minute)", times(n)), ..line }),
        }
    }
}

/// `once`, `1,204 times`.
fn times(n: u64) -> String {
    if n == 1 {
        return "once".to_owned();
    }
    let digits = n.to_string();
    let grouped = digits.char_indices().flat_map(|(at, digit)| {
        let comma = (at > 0 && (digits.len() - at).is_multiple_of(3)).then_some(',');
        comma.into_iter().chain([digit])
    });
    format!("{} times", grouped.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::super::fields::Fields;
    use super::*;

    fn line(text: &str) -> Line {
        Line { level: Level::WARN, message: text.to_owned(), fields: Fields::default(), times: String::new() }
    }

    fn texts(lines: Vec<Line>) -> Vec<String> {
        lines.iter().map(|line| line.text().split_off(" WARN ".len())).collect()
    }

    #[test]
    fn a_condition_is_told_as_it_begins_each_minute_and_as_it_ends() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(repeats.comes(1, "full".into(), line("full ip=10.0.0.1"), at(0)), Some(line("full ip=10.0.0.1")));
        for n in 0..1204 {
            assert_eq!(repeats.comes(1, "full".into(), line("full ip=10.0.0.2"), at(n % 60)), None);
        }
        assert_eq!(repeats.comes(2, "full".into(), line("elsewhere"), at(30)), Some(line("elsewhere")));
        assert!(repeats.over(at(59)).is_empty());
        assert_eq!(texts(repeats.over(at(60))), ["full ip=10.0.0.2 (1,204 times in the last minute)"]);
        assert!(repeats.comes(1, "full".into(), line("full"), at(70)).is_none());
        assert_eq!(texts(repeats.over(at(120))), ["full (once in the last minute)"]);
        let told: Vec<String> = repeats.over(at(180)).iter().map(Line::text).collect();
        assert_eq!(told, [" INFO no more: full (1,206 times in all)"]);
        assert!(repeats.over(at(999)).is_empty());
        assert!(repeats.comes(1, "full".into(), line("full"), at(999)).is_some(), "it begins anew");
    }

    #[test]
    fn however_many_kinds_there_are_their_number_is_bounded() {
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        let written = (0..7000).filter_map(|n| repeats.comes(1, format!("{n}"), line("refused"), now)).count();
        assert_eq!(written, KINDS + 1);
        assert_eq!(texts(repeats.end()), [format!("refused ({} in the last minute)", times(7000 - 1 - KINDS as u64))]);
        assert!(repeats.end().is_empty());
        assert_eq!(
            [1, 2, 999, 1000, 1_234_567].map(times),
            ["once", "2 times", "999 times", "1,000 times", "1,234,567 times"]
        );
    }
}
