//! What a sequence is played with: drawn from its seed.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use ec2_ipam::config::{Listen, Settings};
use ec2_ipam::domain::plan::Warmth;
use ec2_ipam::domain::plan::blocks::Policy;
use ipnet::Ipv4Net;
use vpc_sim::Switches;

use super::bed::{Bed, SEATS};

/// The subnet of every `eth1`.
pub const SUBNET: &str = "subnet-0aaaaaaaaaaaaaaa1";

/// What may happen in a sequence beside requests, releases and time. Few at once in most of them, so that each is seen by
/// itself and with each other one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// Single calls to EC2 go wrong.
    Calls,
    /// Describes and IMDS lag.
    Lag,
    /// EC2 is away, denies or throttles for a while.
    Outage,
    /// The driver is killed, at a point or anywhere.
    Crash,
    /// The driver stands still for a while, at a point or anywhere.
    Pause,
    /// Somebody else takes addresses in EC2.
    Foreign,
    /// An operator takes addresses off in EC2's console.
    Console,
    /// An instance is terminated, and maybe replaced.
    Termination,
    /// An operator uses the driver's commands.
    Operator,
    /// The database loses the last commit of a row.
    SetBack,
    /// A container vanishes, and Docker releases nothing.
    Vanish,
    /// Docker's API fails.
    Docker,
    /// A host's state folder is lost, brought back from a copy, or takes no writes.
    State,
    /// An operator drains a host, or has it as it was.
    Drain,
}

const ALL: [Trouble; 12] = [
    Trouble::Calls,
    Trouble::Lag,
    Trouble::Outage,
    Trouble::Crash,
    Trouble::Pause,
    Trouble::Foreign,
    Trouble::Console,
    Trouble::Termination,
    Trouble::Operator,
    Trouble::SetBack,
    Trouble::Vanish,
    Trouble::Docker,
];

#[derive(Clone, Debug)]
pub struct Setup {
    pub cidr: Ipv4Net,
    /// Instance types, one for each host.
    pub hosts: Vec<&'static str>,
    pub target: usize,
    pub warm_max: usize,
    pub cooldown: Duration,
    pub timeout: Duration,
    pub blocks: Policy,
    pub switch: (&'static str, Switches),
    pub troubles: BTreeSet<Trouble>,
    /// Whether each host has a network with `--ip-range` too.
    pub sub_pools: bool,
    pub steps: usize,
}

impl Setup {
    /// `blocks`: in a subnet that has some.
    pub fn draw(rng: &mut fastrand::Rng, blocks: bool) -> Self {
        let length = if rng.u8(0..3) == 0 { 27 } else { 28 } - if blocks { 2 } else { 0 };
        let cidr = Ipv4Net::new(Ipv4Addr::new(10, 77, 0, 0), length).unwrap();
        let types = ["t3.small", "t3.small", "c5.large"];
        let hosts = (0..rng.usize(2..=SEATS)).map(|_| types[rng.usize(..types.len())]).collect();
        let target = rng.usize(0..=3);
        let mut switches = if blocks { Switches::of_prefixes() } else { Switches::all() };
        let switch = switches.swap_remove(if rng.bool() { 0 } else { rng.usize(..switches.len()) });
        let often = [0.0, 0.15, 0.3, 0.6][rng.usize(..4)];
        let mut setup = Self {
            cidr,
            hosts,
            target,
            warm_max: rng.usize(target..=4),
            cooldown: Duration::from_secs(if rng.bool() { 0 } else { 60 }),
            timeout: Duration::from_secs(if rng.u8(0..4) == 0 { 6 } else { 20 }),
            blocks: match blocks {
                true if rng.u8(0..4) == 0 => Policy::Always,
                true => Policy::Auto,
                false => Policy::Never,
            },
            switch,
            troubles: ALL.into_iter().filter(|_| rng.f64() < often).collect(),
            sub_pools: rng.u8(0..5) == 0,
            steps: rng.usize(12..=45),
        };
        // A generator of its own, so that the seeds that found something draw what they drew.
        if rng.clone().f64() < often {
            setup.troubles.insert(Trouble::State);
        }
        let mut other = rng.clone();
        other.f64();
        if other.f64() < often {
            setup.troubles.insert(Trouble::Drain);
        }
        setup
    }

    /// The upper half of the subnet.
    pub fn sub_pool(&self) -> Ipv4Net {
        self.cidr.subnets(self.cidr.prefix_len() + 1).unwrap().nth(1).unwrap()
    }

    pub fn nth(&self, n: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.cidr.network()) + n)
    }

    pub fn size(&self) -> u32 {
        1 << (32 - u32::from(self.cidr.prefix_len()))
    }

    /// AWS's five.
    pub fn aws(&self) -> BTreeSet<Ipv4Addr> {
        [0, 1, 2, 3, self.size() - 1].map(|n| self.nth(n)).into()
    }

    pub fn settings(&self, bed: &Bed, seat: usize) -> Settings {
        Settings {
            log: ec2_ipam::telemetry::levels("").unwrap(),
            log_format: ec2_ipam::telemetry::Format::Text,
            wrong: None,
            database: bed.books.url(seat).parse().unwrap(),
            journal: Some(bed.hosts[seat].state.journal()),
            parent: None,
            listen: Listen { unix: "/nowhere".into(), tcp: Vec::new(), tls: None, metrics: None },
            blocks: self.blocks,
            warmth: Warmth { target: self.target, max: self.warm_max, cooldown: self.cooldown },
            request_timeout: self.timeout,
            reconcile_interval: Duration::from_secs(60),
            // Shorter than usual: the end of a sequence waits for several.
            scan_interval: Duration::from_secs(120),
            docker_socket: Some(bed.hosts[seat].docker.clone()),
            history: None,
            distant: false,
            region: None,
            keys: None,
        }
    }
}

/// The ENI of a host; a host that was replaced has another one.
pub fn eni(seat: usize, generation: usize) -> String {
    format!("eni-0aaaaaaaaaaaa{seat:02x}{generation:02x}")
}

pub fn instance(seat: usize, generation: usize) -> String {
    format!("i-0aaaaaaaaaaaa{seat:02x}{generation:02x}")
}

/// Which host an ENI is, or was, of.
pub fn seat_of(eni: &str) -> Option<usize> {
    let digits = eni.strip_prefix("eni-0aaaaaaaaaaaa")?;
    usize::from_str_radix(digits.get(..2)?, 16).ok()
}
