//! Texts from outside, as a terminal, a log and a sentence can take them.
//!
//! Names of containers and networks, what somebody typed, and what databases, EC2 and Docker say may hold anything: an escape
//! sequence that rewrites a terminal, or a line break that forges a line of a log. They are kept as they are, and made plain
//! where they are printed.

use std::borrow::Cow;
use std::fmt::Arguments;
use std::io::{self, Write};

use serde::Serialize;

/// The text with whatever would not stand in its line written out: `\n`, `\u{1b}`.
pub fn plain(text: &str) -> Cow<'_, str> {
    if text.chars().any(is_odd) { Cow::Owned(text.chars().map(written_out).collect()) } else { Cow::Borrowed(text) }
}

/// Its first so many characters, with a sign that there were more.
pub fn shortened(text: &str, longest: usize) -> Cow<'_, str> {
    if text.chars().nth(longest).is_none() {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().take(longest).chain(['…']).collect())
}

fn written_out(c: char) -> String {
    if is_odd(c) { c.escape_default().to_string() } else { c.to_string() }
}

/// Control characters, line breaks of Unicode's, and what turns the direction of writing around.
pub fn is_odd(c: char) -> bool {
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || turns || matches!(c, '\u{2028}' | '\u{2029}')
}

/// Lines for a terminal: whatever is written at once is one line, and plain.
pub struct PlainLines<W>(pub W);

impl<W: Write> Write for PlainLines<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }

    /// `writeln!` comes here with all of its line.
    fn write_fmt(&mut self, line: Arguments<'_>) -> io::Result<()> {
        let line = line.to_string();
        let (text, end) = line.strip_suffix('\n').map_or((line.as_str(), ""), |text| (text, "\n"));
        self.0.write_all(plain(text).as_bytes())?;
        self.0.write_all(end.as_bytes())
    }
}

/// JSON as serde_json writes a line of it, with JSON's own escapes for what is odd but no ASCII.
pub fn escaped(json: &str) -> String {
    json.chars().map(|c| if is_odd(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() }).collect()
}

/// JSON for people.
///
/// # Errors
/// Of the writer.
pub fn write_json(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_string_pretty(value)?.lines().try_for_each(|line| writeln!(out, "{}", escaped(line)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leaves_its_line() {
        for (text, expected) in [
            ("web-1 (größe) 日本 \\n", "web-1 (größe) 日本 \\n"),
            ("a\nERROR forged", "a\\nERROR forged"),
            ("a\r\tb", "a\\r\\tb"),
            ("\u{1b}[2J\u{7f}\u{9b}31m", "\\u{1b}[2J\\u{7f}\\u{9b}31m"),
            ("a\u{2028}b\u{202e}c\u{2066}", "a\\u{2028}b\\u{202e}c\\u{2066}"),
            ("", ""),
        ] {
            assert_eq!(plain(text), expected);
            let mut out = PlainLines(Vec::new());
            writeln!(&mut &mut out, "{text} has\t{}", 1).unwrap();
            assert_eq!(String::from_utf8(out.0).unwrap(), format!("{expected} has\\t1\n"));
            let mut out = PlainLines(Vec::new());
            write_json(&mut out, &[text]).unwrap();
            assert_eq!(serde_json::from_slice::<Vec<String>>(&out.0).unwrap(), [text]);
            assert_eq!(String::from_utf8(out.0).unwrap().chars().filter(|c| is_odd(*c)).collect::<String>(), "\n\n\n");
        }
    }
}
