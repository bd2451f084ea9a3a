//! Logs: one line an event, standard output for information and warnings, standard error for errors, since dockerd maps
//! a plugin's streams to its own levels. dockerd and systemd stamp the lines, so they carry no time of their own.
//!
//! Spans tell whose work a line is of: a request's (`socket::request`), or a round's in the background, with `round` as its
//! name. They have the level of errors, so that each line that is written carries their fields.
//!
//! What repeats is written once a minute at most, with its number: while something outside is away, or under load, a log of
//! thousands of lines hides what matters, and wears the disk. One place sees to it, for every line of ours and of others.

mod fields;
mod levels;
mod line;
mod lines;
mod repeats;

use std::time::Duration;

use anyhow::Context;
use tokio::time::sleep;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

pub use levels::levels;
pub use line::{Format, format};
use lines::Lines;

/// How often it is looked whether a minute is over.
const LOOK: Duration = Duration::from_secs(5);

/// The log, once it was started.
pub struct Log(Lines);

/// Starts logging. A panic is an error's line like any other.
///
/// # Errors
/// It was started before.
pub fn start(levels: Targets, format: Format) -> anyhow::Result<Log> {
    let lines = Lines::new(format);
    tracing_subscriber::registry().with(levels).with(lines.clone()).try_init().context("logging was started before")?;
    std::panic::set_hook(Box::new(|panic| {
        let at = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!("panicked at {at}: {}", panic.payload_as_str().unwrap_or("no reason given"));
    }));
    Ok(Log(lines))
}

impl Log {
    /// Tells what repeats, minute by minute, for as long as it is polled.
    pub async fn sum_up_always(&self) -> std::convert::Infallible {
        loop {
            sleep(LOOK).await;
            self.0.sum_up();
        }
    }

    /// Tells what is left to be told, as the process ends.
    pub fn end(&self) {
        self.0.end();
    }

    /// Tells why the process ends, whatever levels are written.
    pub fn fails(&self, why: &anyhow::Error) {
        self.0.fails(why);
    }
}
