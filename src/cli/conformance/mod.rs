//! What real EC2 and IMDS answer where this driver rests on assumptions, seen on a spare ENI of a real instance.
//!
//! It runs without a driver and by the environment's or the instance role's credentials. It puts a few addresses and prefixes on
//! the ENI, and takes them off however it ends, by a signal or an error too. An answer is known if the driver is right under
//! it; the suite plays the known ways by the switches of its simulator.

mod bench;
mod facts;
mod prefixes;
mod report;
mod spare;
mod ways;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use ipnet::Ipv4Net;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep};

use crate::backoff::Backoff;
use crate::config::Settings;
use crate::domain::id::EniId;
use crate::driver::ipam;
use crate::outside::ec2::Ec2Error;
use crate::outside::imds::Imds;
use crate::plain::{PlainLines, write_json};
use bench::Bench;
use report::Report;

/// Longest time for IMDS to tell the instance.
const IDENTITY: Duration = Duration::from_secs(30);

/// A throttled call is repeated so often.
const TRIES: u32 = 8;

/// What was asked for.
#[derive(Debug, Args)]
pub struct Asked {
    /// See on a spare ENI what real EC2 and IMDS answer where the driver had to assume; docs/conformance.md says what it changes
    #[arg(long, requires = "eni")]
    pub conformance: bool,
    /// With --conformance: an attached ENI that nothing uses, without secondary addresses and prefixes
    #[arg(long, requires = "conformance", value_name = "ENI")]
    pub eni: Option<EniId>,
    /// With --conformance: a second such ENI in the same subnet, for answers about an address that another ENI has
    #[arg(long, requires = "conformance", value_name = "ENI")]
    pub other: Option<EniId>,
    /// With --conformance: a CIDR reservation of type `explicit` in that subnet, for answers about prefixes there
    #[arg(long, requires = "conformance", value_name = "CIDR")]
    pub explicit_reservation: Option<Ipv4Net>,
    /// With --conformance: one of type `prefix`
    #[arg(long, requires = "conformance", value_name = "CIDR")]
    pub prefix_reservation: Option<Ipv4Net>,
    /// With --conformance: do not fill the ENI to its address limit
    #[arg(long, requires = "conformance")]
    pub skip_limits: bool,
    /// With --conformance: how long to wait until EC2's lists and IMDS show a change
    #[arg(long, requires = "conformance", value_name = "TIME", default_value = "90s", value_parser = humantime::parse_duration)]
    pub wait: Duration,
}

/// Tries every fact and writes the report. The exit status is 0 if all was tried, the driver knows all of it, and all is
/// cleaned up.
///
/// # Errors
/// The ENI is not fit, or AWS is not reached: then nothing was changed.
pub(crate) async fn run(
    settings: &Settings,
    asked: &Asked,
    json: bool,
    out: &mut impl Write,
) -> anyhow::Result<ExitCode> {
    let imds = Imds::new();
    let host = imds.host(Instant::now() + IDENTITY).await?;
    let ec2 = ipam::connect(settings, &imds).await?.once();
    let mut bench = Box::pin(Bench::set_up(ec2, imds, host, asked)).await?;
    let mut report = Report {
        version: env!("EC2_IPAM_VERSION"),
        date: now(),
        region: bench.region().to_owned(),
        instance_type: bench.host.instance_type.clone(),
        eni: bench.eni.id.clone(),
        subnet_length: bench.subnet.cidr.prefix_len(),
        facts: Vec::new(),
        ended_early: None,
        left_behind: Vec::new(),
    };

    let mut signals = Signals::new()?;
    progress("trying each fact takes a minute or more; Ctrl-C ends it and cleans up");
    let mut interrupts = 0;
    report.ended_early = tokio::select! {
        outcome = Box::pin(facts::check(&mut bench, &mut report, asked)) => {
            outcome.err().map(|why| report::masked(&format!("{why:#}")))
        }
        which = signals.next() => {
            interrupts += u32::from(which == INTERRUPT);
            Some(which.to_owned())
        }
    };
    progress("cleaning up");
    {
        let mut cleaning = Box::pin(bench.clean_up());
        // Only a person's second Ctrl-C: a session that ends sends several other signals.
        while interrupts < 2 {
            tokio::select! {
                () = &mut cleaning => break,
                which = signals.next() => interrupts += u32::from(which == INTERRUPT),
            }
        }
    }
    report.left_behind = bench.commands();

    if json {
        write_json(out, &report)?;
    } else {
        report.print(out)?;
    }
    Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Ctrl-C.
const INTERRUPT: &str = "SIGINT";

/// A read, repeated while EC2 throttles it.
async fn patiently<T>(read: impl AsyncFn() -> Result<T, Ec2Error>) -> Result<T, Ec2Error> {
    let mut backoff = Backoff::default();
    loop {
        match Box::pin(read()).await {
            Err(Ec2Error::Throttled { .. }) if backoff.failures() < TRIES => sleep(backoff.fails()).await,
            outcome => return outcome,
        }
    }
}

/// To stderr; whether anybody reads it is no matter, for the clean-up is still to come.
fn progress(text: &str) {
    let _ = writeln!(PlainLines(std::io::stderr()), "{text}");
}

/// RFC 3339, in seconds.
#[allow(clippy::disallowed_methods, reason = "a date for people, not the age of a row")]
fn now() -> String {
    humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string()
}

/// What ends a run. SIGHUP too: a terminal that goes away must not leave addresses behind.
struct Signals([(&'static str, Signal); 3]);

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self([
            (INTERRUPT, signal(SignalKind::interrupt())?),
            ("SIGTERM", signal(SignalKind::terminate())?),
            ("SIGHUP", signal(SignalKind::hangup())?),
        ]))
    }

    async fn next(&mut self) -> &'static str {
        let [(int, interrupt), (term, terminate), (hup, hangup)] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => int,
            _ = terminate.recv() => term,
            _ = hangup.recv() => hup,
        }
    }
}
