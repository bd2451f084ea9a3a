//! Texts from outside, as a terminal, a log and a sentence can take them.
//!
//! Names of containers and networks, what somebody typed, and what databases, EC2 and Docker say may hold anything: an escape
//! sequence that rewrites a terminal, or a line break that forges a line of a log. They are kept as they are, and made plain
//! where they are printed.

use std::borrow::Cow;

/// The text with whatever would not stand in its line written out: `\n`, `\u{1b}`.
pub fn plain(text: &str) -> Cow<'_, str> {
    if text.chars().any(is_odd) { Cow::Owned(text.chars().map(written_out).collect()) } else { Cow::Borrowed(text) }
}

fn written_out(c: char) -> String {
    if is_odd(c) { c.escape_default().to_string() } else { c.to_string() }
}

/// Control characters, line breaks of Unicode's, and what turns the direction of writing around.
pub fn is_odd(c: char) -> bool {
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || turns || matches!(c, '\u{2028}' | '\u{2029}')
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
        }
    }
}
