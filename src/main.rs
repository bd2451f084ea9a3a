//! The process: settings, logging, socket, driver, and an orderly end.

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use ec2_ipam::cli::{Cli, Command};
use ec2_ipam::ipam::Ipam;
use ec2_ipam::socket::server;
use ec2_ipam::{commands, telemetry};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = tokio::runtime::Builder::new_multi_thread()
        // It waits for sockets nearly all of the time, and what blocks has threads of its own. With a second worker the two
        // wake each other at each step of a request, which costs more than a step.
        .worker_threads(1)
        .enable_all()
        .build()
        .context("cannot start")
        .and_then(|runtime| runtime.block_on(run(cli)));
    outcome.unwrap_or_else(|why| {
        #[allow(clippy::print_stderr, reason = "the one place where a command's failure is told")]
        {
            eprintln!("ec2-ipam: {why:#}");
        }
        ExitCode::FAILURE
    })
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    if !matches!(cli.command, Command::Serve) {
        return commands::run(cli).await;
    }
    telemetry::start(&cli.given.log)?;
    let settings = cli.given.settings()?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // Before anything slow: dockerd gives a plugin about 12 s to listen.
    let listener = server::bind(&settings.listen)?;
    tracing::info!("ec2-ipam {} listens on {}", env!("CARGO_PKG_VERSION"), settings.listen.display());

    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let ipam = Ipam::start(settings, tasks.clone(), stop.clone())?;
    ipam.take_up();
    ipam.reconcile_always();
    ipam.scan_always();
    let serving = tokio::spawn(server::serve(listener, ipam, tasks.clone(), stop.clone()));

    let which = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    tracing::info!("{which}: finishing what runs");
    stop.cancel();
    serving.await?;
    tasks.close();
    match tokio::time::timeout(server::DRAIN, tasks.wait()).await {
        Ok(()) => tracing::info!("stopped"),
        // Nothing depends on a clean end: the next life settles what is left.
        Err(_) => tracing::warn!("stopped with work unfinished"),
    }
    Ok(ExitCode::SUCCESS)
}
