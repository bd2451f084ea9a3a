//! Logs: one line an event, standard output for information and warnings, standard error for errors, since dockerd maps
//! a plugin's streams to its own levels. dockerd stamps the lines, so they carry no time of their own.

use anyhow::Context;
use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::writer::MakeWriterExt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Starts logging at the level of `EC2_IPAM_LOG`; empty means `info`.
pub fn start(levels: &str) -> anyhow::Result<()> {
    let levels = if levels.is_empty() { "info" } else { levels };
    let wrong =
        || format!("EC2_IPAM_LOG is {levels:?}, but must be error, warn, info, debug, trace, or module=level,…");
    let filter = match levels.parse::<Level>() {
        // A level alone is meant for the driver: the AWS SDK says hundreds of lines for each call.
        Ok(level) => Targets::new().with_default(Level::WARN).with_target("ec2_ipam", level),
        Err(_) => levels.parse().with_context(wrong)?,
    };
    let streams = std::io::stderr.with_max_level(Level::ERROR).or_else(std::io::stdout);
    let lines =
        tracing_subscriber::fmt::layer().with_writer(streams).with_ansi(false).without_time().with_target(false);
    tracing_subscriber::registry().with(filter).with(lines).try_init().context("logging was started before")
}
