//! A time as somebody types it.

use std::time::UNIX_EPOCH;

use crate::domain::history::millis;
use crate::driver::history::When;

/// `2h` is two hours ago; all else is a time of RFC 3339, of which the end may be left out: without an offset it is UTC.
pub(super) fn parse(text: &str) -> Result<When, String> {
    if let Ok(ago) = humantime::parse_duration(text) {
        return Ok(When::SecondsAgo(ago.as_secs()));
    }
    moment(text).map(When::Millis).ok_or_else(|| {
        "it must be a time such as 2026-11-26T08:14:05Z, 2026-11-26T09:14:05+01:00 or 2026-11-26 08:14 (UTC), or 2h for two \
         hours ago"
            .to_owned()
    })
}

fn moment(text: &str) -> Option<u64> {
    let text = text.trim();
    // Behind the date: its own hyphens are none.
    let (local, offset) = match text.get(10..).and_then(|time| time.rfind(['+', '-'])) {
        Some(at) => text.split_at_checked(10 + at)?,
        None => (text, ""),
    };
    let whole = match local.len() {
        10 => format!("{local}T00:00:00"),
        16 => format!("{local}:00"),
        _ => local.to_owned(),
    };
    let time = humantime::parse_rfc3339_weak(&whole).ok()?;
    let utc = millis(time.duration_since(UNIX_EPOCH).ok()?);
    if offset.is_empty() {
        return Some(utc);
    }
    let (ahead, clock) = offset.split_at_checked(1)?;
    let (hours, minutes) = clock.split_once(':')?;
    let number = |text: &str, most| {
        let is_two = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        is_two.then(|| text.parse::<u64>().ok()).flatten().filter(|number| *number <= most)
    };
    let span = (number(hours, 23)? * 60 + number(minutes, 59)?) * 60_000;
    if whole.ends_with('Z') {
        None
    } else if ahead == "+" {
        utc.checked_sub(span)
    } else {
        utc.checked_add(span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_typed_in_one_of_these_ways() {
        const NOON: u64 = 1_795_694_400_000;
        for (text, expected) in [
            ("2h", Some(When::SecondsAgo(7200))),
            ("1day 2h", Some(When::SecondsAgo(93_600))),
            ("0s", Some(When::SecondsAgo(0))),
            ("2026-11-26T12:00:00Z", Some(When::Millis(NOON))),
            ("2026-11-26T12:00:00.250Z", Some(When::Millis(NOON + 250))),
            ("2026-11-26 12:00:00", Some(When::Millis(NOON))),
            ("2026-11-26T12:00", Some(When::Millis(NOON))),
            ("2026-11-26", Some(When::Millis(NOON - 43_200_000))),
            ("2026-11-26T13:30:00+01:30", Some(When::Millis(NOON))),
            ("2026-11-26 07:00-05:00", Some(When::Millis(NOON))),
            ("2026-11-26T12:00:00Z+01:00", None),
            ("2026-11-26T12:00:00+0100", None),
            ("2026-11-26T12:00:00+99:00", None),
            ("2026-13-26T12:00:00Z", None),
            ("1950-01-01", None),
            ("12:00", None),
            ("yesterday", None),
            ("2", None),
            ("", None),
            ("ä026-11-26", None),
            ("2026-11-2ä+01:00", None),
        ] {
            assert_eq!(parse(text).ok(), expected, "{text:?}");
        }
    }
}
