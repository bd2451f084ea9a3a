//! `EC2_IPAM_LOG`: which lines are written.

use anyhow::bail;
use tracing::Level;
use tracing_subscriber::filter::{LevelFilter, Targets};

/// The driver's modules: a filter that names none of them is a mistake.
const MODULES: &str = include_str!("../lib.rs");
pub(super) const OURS: &str = "ec2_ipam";

/// Reads `EC2_IPAM_LOG`; empty means `info`. A level alone is meant for the driver, since the AWS SDK says hundreds of lines
/// for each call; whoever wants those names its modules.
///
/// # Errors
/// A word that is no level, a module that is none of ours, or nothing of the driver's left: a typing error must not silence
/// the driver.
pub fn levels(text: &str) -> anyhow::Result<Targets> {
    // What the SDK warns of region and credentials (700 bytes at each try) the driver says itself, in a sentence.
    let others = Targets::new().with_default(Level::WARN).with_target("aws_config", Level::ERROR);
    let mut targets = others.with_target(OURS, Level::INFO);
    let mut is_ours = text.is_empty();
    let wrong = |why: String| {
        anyhow::anyhow!(
            "EC2_IPAM_LOG is {text:?}, but must be error, warn, info, debug or trace, or levels by module, such as \
             warn,ec2_ipam::eni=debug: {why}"
        )
    };
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (target, level) = match part.split_once('=') {
            Some((target, word)) => (target.trim(), level(word.trim())),
            None if part.starts_with(OURS) => (part, Some(LevelFilter::TRACE)),
            None => (OURS, level(part).filter(|level| *level != LevelFilter::OFF)),
        };
        let Some(level) = level else { bail!(wrong(format!("{part:?} has no such level"))) };
        if target == OURS || target.strip_prefix("ec2_ipam::").is_some_and(is_module) {
            is_ours = true;
        } else if target.is_empty() || target.starts_with(OURS) || !target.chars().all(is_of_a_path) {
            bail!(wrong(format!("the driver has no module {target:?}")));
        }
        targets = targets.with_target(target, level);
    }
    let mut all = modules().map(|module| format!("{OURS}::{module}"));
    if !is_ours || !all.any(|target| targets.would_enable(&target, &Level::ERROR)) {
        bail!(wrong("it shows nothing of the driver, not even errors".into()));
    }
    Ok(targets)
}

fn level(word: &str) -> Option<LevelFilter> {
    match word.to_ascii_lowercase().as_str() {
        "error" => Some(LevelFilter::ERROR),
        "warn" | "warning" => Some(LevelFilter::WARN),
        "info" => Some(LevelFilter::INFO),
        "debug" => Some(LevelFilter::DEBUG),
        "trace" => Some(LevelFilter::TRACE),
        "off" => Some(LevelFilter::OFF),
        _ => None,
    }
}

fn modules() -> impl Iterator<Item = &'static str> {
    MODULES.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
}

fn is_module(path: &str) -> bool {
    path.chars().all(is_of_a_path) && modules().any(|module| path.split("::").next() == Some(module))
}

fn is_of_a_path(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == ':'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_the_drivers() {
        for (text, ours, eni, sdk) in [
            ("", Level::INFO, Level::INFO, Level::WARN),
            ("warning", Level::WARN, Level::WARN, Level::WARN),
            ("WARN", Level::WARN, Level::WARN, Level::WARN),
            ("Debug", Level::DEBUG, Level::DEBUG, Level::WARN),
            ("warn,ec2_ipam::eni=debug", Level::WARN, Level::DEBUG, Level::WARN),
            ("ec2_ipam::eni=trace", Level::INFO, Level::TRACE, Level::WARN),
            ("ec2_ipam::eni", Level::INFO, Level::TRACE, Level::WARN),
            (" info , ec2_ipam::eni::task = warning ,", Level::INFO, Level::INFO, Level::WARN),
            ("error,aws_smithy_runtime=debug", Level::ERROR, Level::ERROR, Level::DEBUG),
            ("ec2_ipam::eni=off", Level::INFO, Level::ERROR, Level::WARN),
        ] {
            let targets = levels(text).unwrap();
            let most = |target| {
                let all = [Level::TRACE, Level::DEBUG, Level::INFO, Level::WARN, Level::ERROR];
                all.into_iter().find(|level| targets.would_enable(target, level)).unwrap_or(Level::ERROR)
            };
            let found =
                (most("ec2_ipam::driver::scan"), most("ec2_ipam::eni::grant"), most("aws_smithy_runtime::client"));
            assert_eq!(found, (ours, eni, sdk), "{text:?}");
        }
        assert!(!levels("info").unwrap().would_enable("aws_config::imds::region", &Level::WARN));
    }

    #[test]
    fn what_would_silence_the_driver_is_refused() {
        for text in [
            "verbose",
            "info debug",
            "warn;debug",
            "off",
            "3",
            "infos",
            "ec2_ipam=loud",
            "ec2_ipam=",
            "=info",
            "ec2_ipam=off",
            "info,ec2_ipam=off",
            "hyper=debug",
            "ec2-ipam=debug",
            "ec2_ipam::enis=debug",
            "ec2_ipamx",
            "ec2_ipam:eni",
            "info,",
        ] {
            match levels(text) {
                // A comma too many says nothing else.
                Ok(_) => assert_eq!(text, "info,"),
                Err(why) => {
                    let why = why.to_string();
                    assert!(
                        why.starts_with(&format!("EC2_IPAM_LOG is {text:?}, but must be error, warn, info")),
                        "{why}"
                    );
                }
            }
        }
    }
}
