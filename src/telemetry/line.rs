//! A line of the log, as text or as JSON.

use std::io::Write;

use anyhow::bail;
use serde::ser::{Serialize, SerializeMap, Serializer};
use tracing::Level;

use super::fields::Fields;
use crate::plain::{escaped, plain};

/// How lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Reads `EC2_IPAM_LOG_FORMAT`; empty means `text`.
///
/// # Errors
/// It is neither.
pub fn format(text: &str) -> anyhow::Result<Format> {
    match text.to_ascii_lowercase().as_str() {
        "" | "text" => Ok(Format::Text),
        "json" => Ok(Format::Json),
        _ => bail!("EC2_IPAM_LOG_FORMAT is {text:?}, but must be text or json"),
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) level: Level,
    pub(super) message: String,
    pub(super) fields: Fields,
    /// How often it came, if that is to be told.
    pub(super) times: String,
}

impl Line {
    /// A log that cannot be written is no reason to stop.
    pub(super) fn write(&self, format: Format) {
        let mut text = match format {
            Format::Text => self.text(),
            Format::Json => self.json(),
        };
        text.push('\n');
        let _ = if self.level == Level::ERROR {
            std::io::stderr().lock().write_all(text.as_bytes())
        } else {
            std::io::stdout().lock().write_all(text.as_bytes())
        };
    }

    /// Whatever it quotes, it is one line.
    pub(super) fn text(&self) -> String {
        let Self { level, message, fields, times } = self;
        plain(&format!("{:>5} {message}{fields}{times}", level.as_str())).into_owned()
    }

    fn json(&self) -> String {
        // Texts and numbers alone: there is nothing that could not be written so.
        escaped(&serde_json::to_string(self).unwrap_or_default())
    }
}

impl Serialize for Line {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(None)?;
        object.serialize_entry("level", self.level.as_str())?;
        object.serialize_entry("message", &format!("{}{}", self.message, self.times))?;
        for (name, value) in self.fields.iter().filter(|(name, _)| !matches!(*name, "level" | "message")) {
            object.serialize_entry(name, value)?;
        }
        object.end()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn in_both_formats_an_event_is_one_line() {
        for odd in ["web", "a\nERROR forged", "\",\"level\":\"ERROR", "\u{1b}[2J\u{9b}\u{2028}\u{202e}\u{7f}", "\\n"] {
            let line = Line {
                level: Level::INFO,
                message: format!("granted to {odd}"),
                fields: Fields::of("endpoint", odd),
                times: " (twice)".to_owned(),
            };
            let expected = json!({ "level": "INFO", "message": format!("granted to {odd} (twice)"), "endpoint": odd });
            assert_eq!(serde_json::from_str::<Value>(&line.json()).unwrap(), expected);
            for text in [line.text(), line.json()] {
                assert_eq!(plain(&text), text);
            }
        }
    }

    #[test]
    fn a_format_is_one_of_two_words() {
        for (text, expected) in [("", Format::Text), ("TEXT", Format::Text), ("json", Format::Json)] {
            assert_eq!(format(text).unwrap(), expected);
        }
        for wrong in ["xml", "json,text", " json"] {
            let why = format(wrong).unwrap_err().to_string();
            assert_eq!(why, format!("EC2_IPAM_LOG_FORMAT is {wrong:?}, but must be text or json"));
        }
    }
}
