//! The simulated VPC as a program, for demonstrations: EC2 and the metadata services on fixed addresses.
//!
//! `GET /_sim/state` on an EC2 address shows each ENI's addresses and the calls so far as JSON. With `--effects` every
//! address that comes to an ENI or leaves it is a line as it takes effect, `on ENI ADDRESS` or `off ENI ADDRESS`, primary
//! addresses first: what plays the network can keep in step.

use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use vpc_sim::{EniSpec, Switches, Vpc};

/// A simulated VPC: EC2 and the instance metadata service over HTTP.
#[derive(Debug, Parser)]
struct Args {
    /// Where to serve EC2.
    #[arg(long, value_name = "ADDRESS:PORT", required = true)]
    ec2: Vec<String>,
    /// Where to serve an instance's metadata; without an id, the first instance's.
    #[arg(long, value_name = "[INSTANCE=]ADDRESS:PORT")]
    imds: Vec<String>,
    #[arg(long, value_name = "ID=CIDR", required = true)]
    subnet: Vec<String>,
    #[arg(long, value_name = "ID=TYPE")]
    instance: Vec<String>,
    #[arg(long, value_name = "ID=SUBNET,INSTANCE,DEVICE,MAC,PRIMARY")]
    eni: Vec<String>,
    /// How long each EC2 call takes.
    #[arg(long, default_value_t = 0, value_name = "MILLISECONDS")]
    latency_ms: u64,
    /// Print which addresses come and go.
    #[arg(long)]
    effects: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let vpc = Vpc::new(Switches::default());
    for subnet in &args.subnet {
        let (id, cidr) = pair(subnet)?;
        vpc.add_subnet(id, cidr);
    }
    for instance in &args.instance {
        let (id, kind) = pair(instance)?;
        vpc.add_instance(id, kind);
    }
    if args.effects {
        vpc.watch(|effect| {
            effect.off.iter().for_each(|ip| tell("off", &effect.eni, *ip));
            effect.on.iter().for_each(|ip| tell("on", &effect.eni, *ip));
        });
    }
    for eni in &args.eni {
        let spec = eni_spec(eni)?;
        if args.effects {
            tell("on", &spec.id, spec.primary);
        }
        vpc.add_eni(spec);
    }
    vpc.latency(Duration::from_millis(args.latency_ms));

    let mut servers = Vec::new();
    let mut ready = String::from("ready");
    for address in &args.ec2 {
        let server = vpc.serve_ec2(bind(address)?);
        ready += &format!(" ec2={}", server.url());
        servers.push(server);
    }
    for imds in &args.imds {
        let (instance, address) = match imds.split_once('=') {
            Some(given) => given,
            None => (pair(args.instance.first().context("--imds needs an --instance")?)?.0, imds.as_str()),
        };
        let server = vpc.serve_imds(instance, bind(address)?);
        ready += &format!(" imds[{instance}]={}", server.url());
        servers.push(server);
    }
    writeln!(std::io::stdout(), "{ready}")?;

    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(())
}

fn tell(what: &str, eni: &str, ip: Ipv4Addr) {
    // Nobody may listen any more.
    let _ = writeln!(std::io::stdout(), "{what} {eni} {ip}");
}

fn bind(address: &str) -> Result<TcpListener> {
    TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))
}

fn pair(text: &str) -> Result<(&str, &str)> {
    text.split_once('=').with_context(|| format!("'{text}' is not of the form NAME=VALUE"))
}

fn eni_spec(text: &str) -> Result<EniSpec> {
    let (id, rest) = pair(text)?;
    let fields: Vec<_> = rest.split(',').collect();
    let [subnet, instance, device, mac, primary] = fields.as_slice() else {
        bail!("'{text}' is not of the form ID=SUBNET,INSTANCE,DEVICE,MAC,PRIMARY")
    };
    let primary: Ipv4Addr = primary.parse().with_context(|| format!("'{primary}' is no address"))?;
    Ok(EniSpec::new(id, subnet, primary).on(instance, device.parse()?).mac(mac))
}
