//! Events as lines.

use std::fmt::{Debug, Write as _};
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::repeats::{Line, Repeats};
use crate::plain::plain;

/// Writes each event, unless one of its kind was written less than a minute ago.
#[derive(Clone, Default)]
pub(super) struct Lines(Arc<Mutex<Repeats<Identifier>>>);

/// An event's parts.
#[derive(Default)]
struct Parts {
    message: String,
    fields: String,
    /// Events of one place are of one kind if they say the same of the same thing. `ip` and other fields only tell of the
    /// one that is written. A claim is never used twice, so that each grant stands for itself.
    about: String,
}

impl Visit for Parts {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let name = field.name();
        // Writing to a text cannot fail.
        let _ = match name {
            "message" => write!(self.message, "{value:?}"),
            "eni" | "subnet" | "claim" => write!(self.about, " {value:?}"),
            _ => Ok(()),
        };
        if name != "message" {
            let _ = write!(self.fields, " {name}={value:?}");
        }
    }
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut parts = Parts::default();
        event.record(&mut parts);
        let level = *event.metadata().level();
        let line = Line { level, text: format!("{}{}", parts.message, parts.fields) };
        // Who asks for more than information wants every line.
        if level > Level::INFO {
            return write_line(&line);
        }
        let (place, kind) = (event.metadata().callsite(), parts.message + &parts.about);
        // Written outside of the lock: a reader of the log that is slow must not hold up those who only count.
        let written = self.repeats().comes(place, kind, line, Instant::now());
        written.iter().for_each(write_line);
    }
}

impl Lines {
    fn repeats(&self) -> MutexGuard<'_, Repeats<Identifier>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn sum_up(&self) {
        let told = self.repeats().over(Instant::now());
        told.iter().for_each(write_line);
    }

    pub(super) fn end(&self) {
        let told = self.repeats().end();
        told.iter().for_each(write_line);
    }
}

/// Whatever an event quotes, it is one line. A log that cannot be written is no reason to stop.
fn write_line(line: &Line) {
    let text = format!("{:>5} {}\n", line.level.as_str(), plain(&line.text));
    let _ = if line.level == Level::ERROR {
        std::io::stderr().lock().write_all(text.as_bytes())
    } else {
        std::io::stdout().lock().write_all(text.as_bytes())
    };
}
