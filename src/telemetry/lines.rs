//! Events as lines, each with the fields of the spans that it happens in.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tracing::callsite::Identifier;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::{LookupSpan, Scope};

use super::fields::Fields;
use super::levels::OURS;
use super::line::{Format, Line};
use super::repeats::Repeats;

/// Writes each event, unless one of its kind was written less than a minute ago.
#[derive(Clone)]
pub(super) struct Lines {
    repeats: Arc<Mutex<Repeats<Identifier>>>,
    format: Format,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        // Those of others say nothing that a line of ours needs.
        if let Some(span) = context.span(id).filter(|span| span.metadata().target().starts_with(OURS)) {
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        for span in context.event_scope(event).into_iter().flat_map(Scope::from_root) {
            if let Some(of_span) = span.extensions().get::<Fields>() {
                fields.set_all(of_span);
            }
        }
        let mut own = Fields::default();
        event.record(&mut own);
        let message = own.take("message").as_ref().and_then(|message| message.as_str()).unwrap_or_default().to_owned();
        fields.set_all(&own);
        let level = *event.metadata().level();
        let line = Line { level, message, fields, times: String::new() };
        // Who asks for more than information wants every line.
        if level > Level::INFO {
            return line.write(self.format);
        }
        // Written outside of the lock: a reader of the log that is slow must not hold up those who only count.
        let written = self.repeats().comes(event.metadata().callsite(), kind(&line), line, Instant::now());
        written.iter().for_each(|line| line.write(self.format));
    }
}

/// Events of one place are of one kind if they say the same of the same thing. `ip`, the time that a request took and other
/// fields only tell of the one that is written. A claim is never used twice, so that each grant stands for itself.
fn kind(line: &Line) -> String {
    let about = line.fields.iter().filter(|(name, _)| matches!(*name, "eni" | "subnet" | "claim"));
    about.fold(line.message.clone(), |kind, (_, value)| format!("{kind} {value}"))
}

impl Lines {
    pub(super) fn new(format: Format) -> Self {
        Self { repeats: Arc::default(), format }
    }

    fn repeats(&self) -> MutexGuard<'_, Repeats<Identifier>> {
        self.repeats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn sum_up(&self) {
        let told = self.repeats().over(Instant::now());
        told.iter().for_each(|line| line.write(self.format));
    }

    pub(super) fn end(&self) {
        let told = self.repeats().end();
        told.iter().for_each(|line| line.write(self.format));
    }

    pub(super) fn fails(&self, why: &anyhow::Error) {
        let (level, message) = (Level::ERROR, format!("{why:#}"));
        Line { level, message, fields: Fields::default(), times: String::new() }.write(self.format);
    }
}
