//! What an event or a span says beside its message.

use std::fmt::{self, Debug, Display, Formatter};

use serde_json::Value;
use tracing::field::{Field, Visit};

use crate::plain::is_odd;

/// Names and values, in the order in which they were said last; each name once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Fields(Vec<(&'static str, Value)>);

impl Fields {
    /// A later word of a name takes the place of an earlier one.
    fn set(&mut self, name: &'static str, value: Value) {
        self.0.retain(|(known, _)| *known != name);
        self.0.push((name, value));
    }

    pub(super) fn set_all(&mut self, others: &Self) {
        for (name, value) in &others.0 {
            self.set(name, value.clone());
        }
    }

    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        let at = self.0.iter().position(|(known, _)| *known == name)?;
        Some(self.0.remove(at).1)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&'static str, &Value)> {
        self.0.iter().map(|(name, value)| (*name, value))
    }
}

impl Visit for Fields {
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field.name(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field.name(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field.name(), value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field.name(), value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.set(field.name(), format!("{value:?}").into());
    }
}

/// ` eni=eni-1 endpoint="web 1"`: no value can be mistaken for another field.
impl Display for Fields {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.iter().try_for_each(|(name, value)| match value.as_str() {
            Some(text) if text.is_empty() || text.contains(needs_quotes) => write!(f, " {name}={text:?}"),
            Some(text) => write!(f, " {name}={text}"),
            None => write!(f, " {name}={value}"),
        })
    }
}

fn needs_quotes(c: char) -> bool {
    c.is_whitespace() || is_odd(c) || matches!(c, '"' | '=')
}

#[cfg(test)]
impl Fields {
    pub(super) fn of(name: &'static str, value: impl Into<Value>) -> Self {
        Self(vec![(name, value.into())])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_of_a_name_stands_and_no_value_passes_for_another_field() {
        let mut fields = Fields::of("eni", "eni-1");
        fields.set_all(&Fields::of("ip", "10.0.0.1"));
        fields.set_all(&Fields::of("eni", "eni-2"));
        for (name, text) in [("a", "web 1"), ("b", "x\" outcome=\"granted"), ("c", "y=1"), ("d", ""), ("e", "z\n")] {
            fields.set_all(&Fields::of(name, text));
        }
        fields.set_all(&Fields::of("milliseconds", 3));
        assert_eq!(
            fields.to_string(),
            r#" ip=10.0.0.1 eni=eni-2 a="web 1" b="x\" outcome=\"granted" c="y=1" d="" e="z\n" milliseconds=3"#
        );
        assert_eq!((fields.take("ip"), fields.take("ip")), (Some("10.0.0.1".into()), None));
    }
}
