//! The process: settings, logging, socket, driver, and an orderly end.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::FromArgMatches;
use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use ec2_ipam::cli::{self, commands};
use ec2_ipam::cli::{Cli, Command};
use ec2_ipam::config::Settings;
use ec2_ipam::driver::ipam::Ipam;
use ec2_ipam::plain::plain;
use ec2_ipam::random;
use ec2_ipam::socket::listen::Listeners;
use ec2_ipam::socket::server;
use ec2_ipam::supervise::supervised;
use ec2_ipam::telemetry::{self, Log};

fn main() -> ExitCode {
    random::seed_this_thread();
    if let Err(why) = leave_no_core() {
        let _ =
            writeln!(std::io::stderr(), "ec2-ipam: a crash may leave a core file with the database's password: {why}");
    }
    let cli = match parsed(std::env::args_os()) {
        Ok(cli) => cli,
        Err(why) => return told(why),
    };
    let outcome = tokio::runtime::Builder::new_multi_thread()
        // It waits for sockets nearly all of the time, and what blocks has threads of its own. With a second worker the two
        // wake each other at each step of a request, which costs more than a step.
        .worker_threads(1)
        .on_thread_start(random::seed_this_thread)
        .enable_all()
        .build()
        .context("cannot start")
        .and_then(|runtime| runtime.block_on(run(cli)));
    outcome.unwrap_or_else(|why| {
        // The one place where a failure is told before there is a log; that nobody reads it is no second one.
        let _ = writeln!(std::io::stderr(), "ec2-ipam: {}", plain(&format!("{why:#}")));
        ExitCode::FAILURE
    })
}

fn parsed<A: Into<OsString> + Clone>(words: impl Iterator<Item = A>) -> Result<Cli, clap::Error> {
    Cli::from_arg_matches(&cli::command().try_get_matches_from(words)?)
}

/// Help, or what is wrong with the command.
fn told(why: clap::Error) -> ExitCode {
    if !why.use_stderr() {
        // Where nobody reads the help there is nobody to tell so.
        let _ = why.print();
        return ExitCode::SUCCESS;
    }
    // It quotes what was typed, between line breaks of its own.
    let typed = std::env::args_os().map(|arg| plain(&arg.to_string_lossy()).into_owned());
    let _ = parsed(typed).err().unwrap_or(why).print();
    ExitCode::from(2)
}

/// An abort is an end like any other (a fault in a task makes one), and the memory holds the database URL. The limit alone does
/// not keep it from a core_pattern that is a program.
fn leave_no_core() -> nix::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    set_dumpable(false)
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let Command::Serve { plugin } = cli.command else { return commands::run(cli).await };
    let settings = if plugin { cli.given.settings_of_plugin()? } else { cli.given.settings()? };
    let log = telemetry::start(settings.log.clone(), settings.log_format)?;
    Ok(match serve(settings, plugin, &log).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            log.fails(&why);
            ExitCode::FAILURE
        }
    })
}

async fn serve(mut settings: Settings, plugin: bool, log: &Log) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // Before anything slow: dockerd gives a plugin about 12 s to listen.
    let mut listeners = Listeners::open(&settings.listen.unix)?;
    match listeners.open_tcp(&settings.listen) {
        // As with any other setting: a plugin says so to whoever asks it.
        Err(why) if plugin => settings.wrong = settings.wrong.or(Some(format!("{why:#}"))),
        outcome => outcome?,
    }
    tracing::info!("ec2-ipam {} listens on {listeners}", env!("EC2_IPAM_VERSION"));

    let wrong = settings.wrong.clone();
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let ipam = Ipam::start(settings, tasks.clone(), stop.clone())?;
    if let Some(why) = wrong {
        tracing::error!("nothing is served: {why}");
    } else {
        ipam.work_by_itself();
    }
    let addresses = Arc::clone(&ipam.addresses);
    let serving = tokio::spawn(supervised("serving", server::serve(listeners, ipam, tasks.clone(), stop.clone())));

    let which = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
        never = supervised("the log", log.sum_up_always()) => match never {},
    };
    tracing::info!("{which}: finishing what runs");
    stop.cancel();
    serving.await?;
    tasks.close();
    let drained = tokio::time::timeout(server::DRAIN, tasks.wait()).await;
    log.end();
    match drained {
        Ok(()) => tracing::info!("stopped"),
        // Nothing depends on a clean end: the next life settles what is left.
        Err(_) => {
            for (eni, ip) in addresses.unreleased() {
                tracing::warn!("this release is lost, as it is not in the table: {ip} of {eni}");
            }
            tracing::warn!("stopped with work unfinished");
        }
    }
    Ok(())
}
