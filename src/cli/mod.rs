//! The command line.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Arg, ArgGroup, ColorChoice, CommandFactory, Parser, Subcommand};

use crate::cli::conformance::Asked;
use crate::config::Given;
use crate::driver::history::When;

/// The heading of the settings in the help.
pub(crate) const SETTINGS: &str = "Settings";
const ELSEWHERE: &str = "`ec2-ipam serve --help` lists the settings; every command takes them.";

/// Docker IPAM driver for ipvlan networks on EC2: containers get secondary private addresses of their host's ENI.
///
/// Every command but `serve` asks the driver that runs on this host. Where none runs, it works on the MySQL table itself.
#[derive(Debug, Parser)]
#[command(version = env!("EC2_IPAM_VERSION"), max_term_width = 120)]
pub struct Cli {
    #[command(subcommand)]
    #[allow(missing_docs, reason = "clap would show it")]
    pub command: Command,
    /// The driver's socket; by default the service's, or else the plugin's under /run/docker/plugins
    #[arg(long, global = true)]
    pub socket: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it")]
    pub given: Given,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the driver until SIGTERM
    Serve {
        /// As a managed plugin: start in spite of a wrong setting, and answer every call with what is wrong
        #[arg(long)]
        plugin: bool,
    },
    /// Fill the table with a subnet's addresses, or refresh it; repeatable
    Init {
        /// The subnet's id
        subnet: String,
    },
    /// Print the SQL that the database lacks, for an administrator to run where the driver's user may not
    Schema {
        /// All of it, for an empty database; asks nobody
        #[arg(long)]
        all: bool,
    },
    /// Give idle addresses back to the subnet
    Recycle {
        /// The subnet's id
        subnet: String,
        /// Ask every other host for its own too; the exit status is 1 if one did not do it
        #[arg(long)]
        all: bool,
    },
    /// Compare rows, EC2 and Docker now, and mend what was seen twice, a minute apart
    Reconcile {
        /// Only print what does not agree and what would mend it
        #[arg(long)]
        dry_run: bool,
        /// Let a scan free more than a tenth of a subnet's rows, whichever host does the scans
        #[arg(long, conflicts_with = "dry_run")]
        force: bool,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what the driver is doing; the exit status is 1 while a PROBLEM stands or the table cannot be reached
    Status {
        /// As JSON, see docs/status.md
        #[arg(long)]
        json: bool,
        /// Print nothing: for scripts that want the exit status
        #[arg(long, short, conflicts_with = "json")]
        quiet: bool,
    },
    /// Show the addresses of a subnet and who has them
    List {
        /// The subnet's id; by default those in which the driver serves an ENI, or else all
        subnet: Option<String>,
        /// Free addresses too
        #[arg(long)]
        free: bool,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Draw a subnet: a square an address, with a legend, and the interfaces that have them
    Map {
        /// The subnet's id; by default those in which the driver serves an ENI, or else all
        subnet: Option<String>,
        /// Every address of a large subnet too, and every interface
        #[arg(long, conflicts_with_all = ["html", "json"])]
        full: bool,
        /// Whether to use colours
        #[arg(long, value_name = "WHEN", default_value = "auto", hide_default_value = true)]
        color: ColorChoice,
        /// Write a page for a browser to this file instead, of all subnets if none is named; - is standard output
        #[arg(long, value_name = "FILE", conflicts_with = "json")]
        html: Option<PathBuf>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show leases, eldest first: who has each address, and since when
    Leases {
        /// Only those that were given at least so long ago, such as 7d
        #[arg(long, default_value = "0s", hide_default_value = true, value_parser = humantime::parse_duration)]
        older_than: Duration,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show the hosts of the fleet that the table knows: versions, interfaces, addresses, when each was seen, what is wrong
    Hosts {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Refuse starts of containers on this host and give back what is idle, until it is undone; survives restarts
    Drain {
        /// Containers may start again
        #[arg(long, conflicts_with = "wait")]
        undo: bool,
        /// Wait until nothing idle is left, for so many seconds at most; the exit status is 1 if something is
        #[arg(long, value_name = "SECONDS", num_args = 0..=1)]
        wait: Option<Option<u64>>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show who had an address when, or what a container had; times are UTC
    #[command(group = ArgGroup::new("of").required(true).args(["ip", "container"]))]
    History {
        /// The address
        ip: Option<Ipv4Addr>,
        /// A container's name to the letter, or the first digits of its id
        #[arg(long, value_parser = NonEmptyStringValueParser::new())]
        container: Option<String>,
        /// Who had it then: 2026-11-26T08:14:05Z, the same with +01:00, 2026-11-26 08:14 in UTC, or 2h for two hours ago
        #[arg(long, value_name = "TIME", value_parser = when::parse)]
        at: Option<When>,
        /// Only what was not over by then
        #[arg(long, value_name = "TIME", value_parser = when::parse)]
        since: Option<When>,
        /// As JSON, see docs/status.md
        #[arg(long)]
        json: bool,
    },
    /// Let go of an address whose container is gone, as its Engine should have told; asks first
    Release {
        /// The address
        ip: Ipv4Addr,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Check every prerequisite; the exit status is 1 if one fails
    Doctor {
        /// As JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        #[allow(missing_docs, reason = "clap would show it")]
        asked: Asked,
    },
    /// Keep a free address from being given out, or for a container
    Reserve {
        /// The address
        ip: Ipv4Addr,
        /// Whom it is kept for: the container of this name gets it, and whoever asks for the address itself
        name: Option<String>,
    },
    /// Let a reserved address be given out again
    Unreserve {
        /// The address
        ip: Ipv4Addr,
    },
}

impl Command {
    /// Whether it changes rows, or what is on an ENI.
    pub fn changes(&self) -> bool {
        match self {
            Self::Serve { .. }
            | Self::Schema { .. }
            | Self::Status { .. }
            | Self::List { .. }
            | Self::Map { .. }
            | Self::Leases { .. }
            | Self::Hosts { .. }
            | Self::History { .. }
            | Self::Doctor { .. } => false,
            Self::Reconcile { dry_run, .. } => !dry_run,
            Self::Init { .. }
            | Self::Recycle { .. }
            | Self::Drain { .. }
            | Self::Release { .. }
            | Self::Reserve { .. }
            | Self::Unreserve { .. } => true,
        }
    }
}

/// The command line as clap knows it. Each command takes the settings, but the help of `serve` alone lists them: they are
/// the driver's.
pub fn command() -> clap::Command {
    let hide = |arg: Arg| if arg.get_help_heading() == Some(SETTINGS) { arg.hide(true) } else { arg };
    let shown = Cli::command();
    let settings: Vec<Arg> =
        shown.get_arguments().filter(|arg| arg.get_help_heading() == Some(SETTINGS)).cloned().collect();
    let mut settings = Some(settings);
    let of_command = |command: clap::Command| match settings.take_if(|_| command.get_name() == "serve") {
        Some(settings) => command.args(settings),
        None => command.after_help(ELSEWHERE),
    };
    shown.mut_args(hide).mut_subcommands(of_command).after_help(ELSEWHERE)
}
pub mod commands;
pub mod conformance;
mod when;
