//! The metadata service: the SDK's own client and credentials provider, then the rules of its tokens.

use std::net::SocketAddr;
use std::time::Duration;

use aws_config::imds::client::Client;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_sdk_ec2::config::ProvideCredentials;
use tokio::time::sleep;
use vpc_sim::{ImdsMode, ROLE, Server, VPC_ID, access_key_of};

use super::{Bed, HOST, OURS, ip, listener, raw};

const TTL: &str = "X-aws-ec2-metadata-token-ttl-seconds";
const TOKEN: &str = "X-aws-ec2-metadata-token";
const MACS: &str = "/latest/meta-data/network/interfaces/macs/";

struct Metadata {
    bed: Bed,
    server: Server,
    imds: Client,
}

impl Metadata {
    fn new() -> Self {
        let bed = Bed::new();
        let server = bed.vpc.serve_imds(HOST, listener());
        let imds = Client::builder().endpoint(server.url()).unwrap().max_attempts(1).build();
        Self { bed, server, imds }
    }

    async fn get(&self, path: &str) -> String {
        String::from(self.imds.get(path).await.unwrap_or_else(|error| panic!("{path}: {error:?}")))
    }

    async fn ours(&self, item: &str) -> String {
        self.get(&format!("{MACS}02:77:0a:4d:00:0a/{item}")).await
    }

    fn address(&self) -> SocketAddr {
        self.server.address()
    }

    async fn token(&self, ttl: &str) -> String {
        raw(self.address(), "PUT", "/latest/api/token", &[(TTL, ttl)], "").await.unwrap().1
    }

    async fn status(&self, headers: &[(&str, &str)], path: &str) -> u16 {
        raw(self.address(), "GET", path, headers, "").await.unwrap().0
    }
}

#[tokio::test]
async fn shows_what_an_auto_scaling_group_wants_once_there_is_one() {
    let it = Metadata::new();
    let path = "/latest/meta-data/autoscaling/target-lifecycle-state";
    assert!(it.imds.get(path).await.is_err());
    for wanted in ["InService", "Terminated"] {
        it.bed.vpc.lifecycle(HOST, wanted);
        assert_eq!(it.get(path).await, wanted);
    }
}

#[tokio::test]
async fn shows_the_instance_and_its_interfaces() {
    let it = Metadata::new();
    it.bed.assign(&[50, 51]).await.unwrap();
    it.bed.vpc.add_prefix(OURS, "10.77.0.128/28");
    assert_eq!(it.get("/latest/meta-data/instance-id").await, HOST);
    assert_eq!(it.get("/latest/meta-data/instance-type").await, "c5.large");
    assert_eq!(it.get("/latest/meta-data/mac").await, "02:77:0a:4d:00:09");
    assert_eq!(it.get("/latest/meta-data/placement/region").await, "eu-central-1");
    assert_eq!(it.get("/latest/meta-data/placement/availability-zone").await, "eu-central-1a");
    assert_eq!(it.get(MACS).await, "02:77:0a:4d:00:09/\n02:77:0a:4d:00:0a/");
    for (item, text) in [
        ("interface-id", OURS),
        ("device-number", "1"),
        ("subnet-id", "subnet-0aaaaaaa"),
        ("subnet-ipv4-cidr-block", "10.77.0.0/24"),
        ("local-ipv4s", "10.77.0.10\n10.77.0.50\n10.77.0.51"),
        ("vpc-id", VPC_ID),
        ("vpc-ipv4-cidr-block", "10.77.0.0/16"),
        ("vpc-ipv4-cidr-blocks", "10.77.0.0/16"),
        ("ipv4-prefix", "10.77.0.128/28"),
        ("owner-id", "123456789012"),
    ] {
        assert_eq!(it.ours(item).await, text, "{item}");
    }
    assert!(it.ours("security-group-ids").await.starts_with("sg-"));
    assert!(it.ours("").await.lines().any(|line| line == "local-ipv4s"));
    let document = it.get("/latest/dynamic/instance-identity/document").await;
    let document: serde_json::Value = serde_json::from_str(&document).unwrap();
    assert_eq!((&document["instanceId"], &document["region"]), (&HOST.into(), &"eu-central-1".into()));
    assert!(it.get("/latest/meta-data/").await.contains("network/"));
    assert!(it.imds.get("/latest/meta-data/ipv6").await.is_err());
}

#[tokio::test]
async fn hands_out_the_credentials_of_the_role() {
    let it = Metadata::new();
    assert!(it.get("/latest/meta-data/iam/info").await.contains("\"Success\""));
    assert_eq!(it.get("/latest/meta-data/iam/security-credentials/").await, ROLE);
    let provider = ImdsCredentialsProvider::builder().imds_client(it.imds.clone()).build();
    let credentials = provider.provide_credentials().await.unwrap();
    assert_eq!(credentials.access_key_id(), access_key_of(HOST));
    assert!(credentials.session_token().is_some() && credentials.expiry().is_some());
    it.bed.vpc.imds_role(false);
    let provider = ImdsCredentialsProvider::builder().imds_client(it.imds.clone()).build();
    assert!(provider.provide_credentials().await.is_err());
}

#[tokio::test]
async fn wants_a_token_of_this_instance_and_of_today() {
    let it = Metadata::new();
    let path = "/latest/meta-data/instance-id";
    assert_eq!(it.status(&[], path).await, 401);
    assert_eq!(it.status(&[(TOKEN, "x")], path).await, 401);
    for (ttl, status) in [("0", 400), ("21601", 400), ("x", 400), ("1", 200), ("21600", 200)] {
        assert_eq!(raw(it.address(), "PUT", "/latest/api/token", &[(TTL, ttl)], "").await.unwrap().0, status, "{ttl}");
    }
    assert_eq!(raw(it.address(), "PUT", "/latest/api/token", &[], "").await.unwrap().0, 400);
    assert_eq!(raw(it.address(), "PUT", "/2021-03-23/api/token", &[(TTL, "60")], "").await.unwrap().0, 403);
    assert_eq!(raw(it.address(), "POST", path, &[], "").await.unwrap().0, 405);

    let token = it.token("60").await;
    assert_eq!(it.status(&[(TOKEN, &token)], path).await, 200);
    assert_eq!(it.status(&[(TOKEN, &token)], "/latest/meta-data/nothing").await, 404);
    assert_eq!(it.status(&[(TOKEN, &token), ("X-Forwarded-For", "10.0.0.1")], path).await, 403);
    let forwarded = [(TTL, "60"), ("X-Forwarded-For", "10.0.0.1")];
    assert_eq!(raw(it.address(), "PUT", "/latest/api/token", &forwarded, "").await.unwrap().0, 403);
    let neighbour = it.bed.vpc.serve_imds("i-0bbbbbbb", listener());
    assert_eq!(raw(neighbour.address(), "GET", path, &[(TOKEN, &token)], "").await.unwrap().0, 401);

    let short = it.token("1").await;
    assert_eq!(it.status(&[(TOKEN, &short)], path).await, 200);
    sleep(Duration::from_millis(1100)).await;
    assert_eq!(it.status(&[(TOKEN, &short)], path).await, 401);
    it.bed.vpc.imds_forget_tokens();
    assert_eq!(it.status(&[(TOKEN, &token)], path).await, 401);
}

#[tokio::test]
async fn lags_behind_what_came_and_longer_behind_what_went() {
    let it = Metadata::new();
    it.bed.vpc.imds_lag(Duration::from_millis(200), Duration::from_millis(600));
    it.bed.assign(&[50]).await.unwrap();
    assert_eq!(it.ours("local-ipv4s").await, "10.77.0.10");
    sleep(Duration::from_millis(250)).await;
    assert_eq!(it.ours("local-ipv4s").await, "10.77.0.10\n10.77.0.50");
    // No prefix is no such item.
    let path = format!("{MACS}02:77:0a:4d:00:0a/ipv4-prefix");
    assert!(it.imds.get(&path).await.is_err());
    it.bed.vpc.add_prefix(OURS, "10.77.0.128/28");
    assert!(it.imds.get(&path).await.is_err());
    sleep(Duration::from_millis(250)).await;
    assert_eq!(it.get(&path).await, "10.77.0.128/28");
    it.bed.vpc.remove_prefix(OURS, "10.77.0.128/28");
    it.bed.unassign(&[50]).await.unwrap();
    it.bed.vpc.detach_eni(OURS);
    sleep(Duration::from_millis(250)).await;
    assert_eq!(it.ours("local-ipv4s").await, "10.77.0.10\n10.77.0.50");
    assert_eq!(it.get(&path).await, "10.77.0.128/28");
    sleep(Duration::from_millis(400)).await;
    assert!(it.imds.get(&path).await.is_err());
    assert_eq!(it.get(MACS).await, "02:77:0a:4d:00:09/");
    assert!(it.bed.vpc.addresses(OURS).is_empty() && it.bed.vpc.primary(OURS) == ip(10));
}

#[tokio::test]
async fn goes_wrong_in_each_way() {
    let it = Metadata::new();
    let put = || raw(it.address(), "PUT", "/latest/api/token", &[(TTL, "60")], "");
    let status = |answer: Option<(u16, String)>| answer.map(|(status, _)| status);
    it.bed.vpc.imds_down(true);
    assert_eq!(status(put().await), None);
    it.bed.vpc.imds_down(false);
    assert_eq!(status(put().await), Some(200));
    it.bed.vpc.imds_mode(ImdsMode::Disabled);
    assert_eq!(status(put().await), Some(403));
    it.bed.vpc.imds_mode_of(HOST, ImdsMode::Throttled);
    assert_eq!(status(put().await), Some(503));
    it.bed.vpc.imds_mode(ImdsMode::Hang);
    assert!(tokio::time::timeout(Duration::from_millis(100), put()).await.is_err());
    it.bed.vpc.imds_mode(ImdsMode::Up);
    it.bed.vpc.imds_absent("local-ipv4s", true);
    assert!(it.imds.get(format!("{MACS}02:77:0a:4d:00:0a/local-ipv4s")).await.is_err());
    it.bed.vpc.imds_absent("local-ipv4s", false);
    assert_eq!(it.ours("local-ipv4s").await, "10.77.0.10");
    let reads = it.bed.vpc.imds_reads();
    assert!(reads.iter().any(|read| read.status == 404 && read.instance == HOST && read.path.ends_with("local-ipv4s")));
}
