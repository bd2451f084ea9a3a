//! The VPC simulator against the real clients: the AWS SDK over HTTP, and raw requests where the SDK is too polite.
#![allow(missing_docs, reason = "a test binary has no outside")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test ends at the first surprise")]

use std::fmt::Debug;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use aws_sdk_ec2::config::retry::RetryConfig;
use aws_sdk_ec2::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ec2::operation::assign_private_ip_addresses::{
    AssignPrivateIpAddressesError, AssignPrivateIpAddressesOutput,
};
use aws_sdk_ec2::operation::unassign_private_ip_addresses::{
    UnassignPrivateIpAddressesError, UnassignPrivateIpAddressesOutput,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use vpc_sim::{EniSpec, REGION, Server, Switches, Vpc};

mod describe;
mod faults;
mod imds;
mod prefixes;
mod rules;
mod switches;
mod wire;

const SUBNET: &str = "subnet-0aaaaaaa";
const HOST: &str = "i-0aaaaaaa";
const OURS: &str = "eni-0aaaaaa1";
const OTHER: &str = "eni-0bbbbbb1";

/// A /24 with two c5.large hosts, each with a second ENI: .10 and .20 are their primary addresses.
struct Bed {
    vpc: Vpc,
    server: Server,
    ec2: aws_sdk_ec2::Client,
}

impl Bed {
    fn new() -> Self {
        Self::with(Switches::default())
    }

    fn with(switches: Switches) -> Self {
        let vpc = Vpc::new(switches);
        vpc.add_subnet(SUBNET, "10.77.0.0/24");
        vpc.add_instance(HOST, "c5.large");
        vpc.add_instance("i-0bbbbbbb", "c5.large");
        vpc.add_eni(EniSpec::new("eni-0aaaaaa0", SUBNET, ip(9)).on(HOST, 0));
        vpc.add_eni(EniSpec::new(OURS, SUBNET, ip(10)).on(HOST, 1));
        vpc.add_eni(EniSpec::new(OTHER, SUBNET, ip(20)).on("i-0bbbbbbb", 1));
        let server = vpc.serve_ec2(listener());
        let ec2 = client(&server, REGION);
        Self { vpc, server, ec2 }
    }

    async fn assign(
        &self,
        last: &[u8],
    ) -> Result<AssignPrivateIpAddressesOutput, SdkError<AssignPrivateIpAddressesError>> {
        let list = Some(last.iter().map(|last| ip(*last).to_string()).collect());
        self.ec2.assign_private_ip_addresses().network_interface_id(OURS).set_private_ip_addresses(list).send().await
    }

    async fn unassign(
        &self,
        last: &[u8],
    ) -> Result<UnassignPrivateIpAddressesOutput, SdkError<UnassignPrivateIpAddressesError>> {
        let list = Some(last.iter().map(|last| ip(*last).to_string()).collect());
        self.ec2.unassign_private_ip_addresses().network_interface_id(OURS).set_private_ip_addresses(list).send().await
    }

    /// The last numbers of our ENI's secondary addresses, as they truly are.
    fn truth(&self) -> Vec<u8> {
        self.vpc.addresses(OURS).iter().map(|ip| ip.octets()[3]).collect()
    }

    /// The same as a Describe shows them.
    async fn shown(&self) -> Vec<u8> {
        let found = self.ec2.describe_network_interfaces().network_interface_ids(OURS).send().await.unwrap();
        let listed = found.network_interfaces()[0].private_ip_addresses().iter();
        let secondaries = listed.filter(|address| address.primary() == Some(false));
        let mut last: Vec<u8> =
            secondaries.map(|a| a.private_ip_address().unwrap().parse::<Ipv4Addr>().unwrap().octets()[3]).collect();
        last.sort_unstable();
        last
    }
}

fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, last)
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

/// A client that does not retry.
fn client(server: &Server, region: &'static str) -> aws_sdk_ec2::Client {
    let config = aws_sdk_ec2::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(region))
        .credentials_provider(Credentials::new("AKIATEST", "secret", None, None, "test"))
        .endpoint_url(server.url())
        .retry_config(RetryConfig::disabled())
        .build();
    aws_sdk_ec2::Client::from_conf(config)
}

/// HTTP status, code and text of a refusal.
fn refusal<T: Debug, E: ProvideErrorMetadata + Debug>(result: Result<T, SdkError<E>>) -> (u16, String, String) {
    let error = result.unwrap_err();
    let status = error.raw_response().unwrap_or_else(|| panic!("no answer: {error:?}")).status().as_u16();
    (status, error.code().unwrap().to_owned(), error.message().unwrap().to_owned())
}

fn assert_refused<T: Debug, E: ProvideErrorMetadata + Debug>(
    result: Result<T, SdkError<E>>,
    status: u16,
    code: &str,
    message: &str,
) {
    assert_eq!(refusal(result), (status, code.to_owned(), message.to_owned()));
}

/// Whether the call failed without any answer.
fn is_unanswered<T: Debug, E: Debug>(result: &Result<T, SdkError<E>>) -> bool {
    matches!(result, Err(SdkError::DispatchFailure(_) | SdkError::ResponseError(_) | SdkError::TimeoutError(_)))
}

/// One raw request; status and body, or nothing if the connection was closed.
async fn raw(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut request =
        format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    stream.write_all(format!("{request}\r\n{body}").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}
