//! What passes by itself, as in the first seconds after a boot, is waited for within a request's time; what does not is
//! named in the end, and what only a person can change at once.

use std::time::Duration;

use ec2_ipam::domain::address::State;
use futures_util::future::join_all;
use serde_json::json;
use tokio::time::sleep;
use vpc_sim::{ImdsMode, Server};

use crate::support::host::{Fleet, Host, Kind, eni, eventually};

/// What is amiss for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// IMDS does not list the ENI yet.
    Omitted,
    /// IMDS lists no interface at all.
    EmptyList,
    /// An item of the ENI is empty.
    EmptyItem,
    /// IMDS hangs up.
    HangsUp,
    /// Nothing listens at its address.
    Refused,
    /// It does not answer.
    Silent,
    /// It answers 503.
    Busy,
    /// The role has no credentials yet.
    NoRole,
    /// The ENI's link has not appeared.
    NoLink,
    /// EC2 cannot be reached.
    NoEc2,
}

/// Each with what is said of it in the end.
const TROUBLES: [(Trouble, &str); 10] = [
    (Trouble::Omitted, "is not attached to this instance, as far as IMDS knows"),
    (Trouble::EmptyList, "is not attached to this instance, as far as IMDS knows"),
    (Trouble::EmptyItem, "answers network/interfaces/macs/0a:77:00:00:00:01/subnet-id with \"\""),
    (Trouble::HangsUp, "the instance metadata service does not answer"),
    (Trouble::Refused, "the instance metadata service does not answer"),
    (Trouble::Silent, "the instance metadata service does not answer"),
    (Trouble::Busy, "HTTP 503"),
    (Trouble::NoRole, "the AWS credentials do not work, there are none"),
    (Trouble::NoLink, "no interface of this host has the MAC 0a:77:00:00:00:01"),
    (Trouble::NoEc2, "EC2"),
];

/// A host whose network was made, and whose driver begins anew amid the trouble.
struct Bed {
    fleet: Fleet,
    host: Host,
    trouble: Trouble,
    /// Of an IMDS that is not there at first.
    port: u16,
}

impl Bed {
    async fn new(trouble: Trouble, request_timeout: &str) -> Self {
        let fleet = Fleet::new(Kind::Sqlite).await;
        let mut host = fleet.host(1);
        host.set(&[("EC2_IPAM_REQUEST_TIMEOUT", request_timeout), ("AWS_REGION", "eu-central-1")]);
        // Its credentials are the role's.
        host.unset("AWS_ACCESS_KEY_ID");
        host.unset("AWS_SECRET_ACCESS_KEY");
        host.start().await;
        host.pool().await;
        host.kill();
        let port = host.listener().local_addr().unwrap().port();
        let mut bed = Self { fleet, host, trouble, port };
        if trouble == Trouble::Refused {
            bed.host.set(&[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &format!("http://127.0.0.1:{port}"))]);
        }
        bed.turn(true);
        bed.host.start().await;
        bed
    }

    /// Begins it, or ends it; the server is to be kept.
    fn turn(&self, is_amiss: bool) -> Option<Server> {
        let (vpc, host) = (&self.fleet.vpc, &self.host);
        let mode = |mode| vpc.imds_mode(if is_amiss { mode } else { ImdsMode::Up });
        match self.trouble {
            Trouble::Omitted => vpc.imds_omits(&eni(1), is_amiss),
            Trouble::EmptyList => vpc.imds_blank("network/interfaces/macs", is_amiss),
            Trouble::EmptyItem => vpc.imds_blank("0a:77:00:00:00:01/subnet-id", is_amiss),
            Trouble::HangsUp => mode(ImdsMode::Down),
            Trouble::Silent => mode(ImdsMode::Hang),
            Trouble::Busy => mode(ImdsMode::Throttled),
            Trouble::NoRole => vpc.imds_role(!is_amiss),
            Trouble::NoEc2 => vpc.ec2_down(is_amiss),
            Trouble::NoLink if is_amiss => host.ip("link del eth1"),
            Trouble::NoLink => make_link(host, "eth1"),
            Trouble::Refused if is_amiss => {}
            Trouble::Refused => return Some(vpc.serve_imds(&host.instance, host.listener_at(self.port))),
        }
        None
    }

    fn pool_id(&self) -> String {
        format!("{}/10.77.0.0-24", self.host.eni)
    }

    /// Asks, and has the trouble pass a while after.
    async fn passes<T>(&self, asked: impl Future<Output = Result<T, String>>) -> (Result<T, String>, Option<Server>) {
        tokio::join!(asked, async {
            sleep(Duration::from_secs(4)).await;
            self.turn(false)
        })
    }
}

/// The link of the ENI that the host has as device 1, under this name.
fn make_link(host: &Host, name: &str) {
    host.ip(&format!("link add {name} type veth peer name far"));
    host.ip(&format!("link set {name} address 0a:77:00:00:00:01"));
    host.ip(&format!("link set {name} up"));
}

#[tokio::test]
async fn a_container_starts_once_it_has_passed() {
    join_all(TROUBLES.map(|(trouble, _)| async move {
        let bed = Bed::new(trouble, "29s").await;
        let pool = bed.pool_id();
        let (given, _server) = bed.passes(bed.host.request(&pool, "")).await;
        assert!(given.is_ok(), "{trouble:?}: {given:?}");
    }))
    .await;
}

#[tokio::test]
async fn a_network_is_made_once_it_has_passed() {
    // By the ENI's id, by its link's name, and by neither.
    let options = [json!({ "eni-id": eni(1) }), json!({ "parent": "eth1" }), json!({})];
    join_all(TROUBLES.iter().zip(options.iter().cycle()).map(|((trouble, _), options)| async move {
        let bed = Bed::new(*trouble, "29s").await;
        // Its rows are to be filled again.
        bed.host.sql("DELETE FROM allocation", "DELETE FROM allocation").await;
        let (made, _server) = bed.passes(bed.host.pool_with("", options.clone())).await;
        assert!(made.is_ok(), "{trouble:?} {options}: {made:?}");
    }))
    .await;
}

#[tokio::test]
async fn what_does_not_pass_is_named_in_the_end() {
    join_all(TROUBLES.map(|(trouble, says)| async move {
        let bed = Bed::new(trouble, "5s").await;
        let why = bed.host.request(&bed.pool_id(), "").await.unwrap_err();
        assert!(why.contains(says), "{trouble:?}: {why}");
    }))
    .await;
}

/// How often IMDS was asked for its list of interfaces.
fn looks(fleet: &Fleet) -> usize {
    fleet.vpc.imds_reads().iter().filter(|read| read.path.trim_end_matches('/').ends_with("/macs")).count()
}

/// EC2 knows that no further interface is on its way, so that waiting would not help.
#[tokio::test]
async fn what_only_a_person_can_change_is_refused_at_once() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let mut host = fleet.host(1);
    host.set(&[("EC2_IPAM_REQUEST_TIMEOUT", "29s")]);
    host.start().await;
    host.pool().await;
    // Another host's.
    let _other = fleet.host(2);
    for (options, says) in [
        (json!({ "eni-id": "eni-0123456789abcdef0" }), "not attached to this instance"),
        (json!({ "eni-id": eni(2) }), "not attached to this instance"),
        (json!({ "parent": "eth7" }), "no interface \"eth7\""),
        (json!({ "parent": "lo" }), "not an ENI"),
    ] {
        sleep(Duration::from_millis(1100)).await;
        fleet.vpc.forget_calls();
        let why = host.pool_with("", options.clone()).await.unwrap_err();
        assert!(why.contains(says), "{options}: {why}");
        assert!(looks(&fleet) < 5, "{options}: nothing that could come is waited for");
    }
    let why = host.request("eni-0123456789abcdef0/10.77.0.0-24", "").await.unwrap_err();
    assert!(why.contains("not attached to this instance"), "{why}");
    assert!(looks(&fleet) < 8);
}

#[tokio::test]
async fn a_release_is_not_lost_while_imds_leaves_the_interface_out() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let (mut host, pool) = fleet.started(1, &[]).await;
    let (a, b) = (host.lease(&pool).await, host.lease(&pool).await);
    host.kill();
    fleet.vpc.imds_omits(&eni(1), true);
    host.start().await;
    host.release(&pool, a).await;
    assert_eq!(host.row(a).await.state, State::Lease);
    fleet.vpc.imds_omits(&eni(1), false);
    // Nobody asks for an address meanwhile.
    eventually("it is released", async || host.row(a).await.state == State::Ready).await;
    assert_eq!(host.row(b).await.state, State::Lease);

    // Of what is not attached here any more the table is told nothing.
    host.kill();
    fleet.vpc.detach_eni(&eni(1));
    fleet.vpc.settle();
    host.start().await;
    host.release(&pool, b).await;
    eventually("the journal has it", async || host.log().contains(&format!("released {b}"))).await;
    assert_eq!(host.row(b).await.state, State::Lease);
}

#[tokio::test]
async fn an_interface_that_imds_shows_late_is_taken_up() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let (mut host, pool) = fleet.started(1, &[]).await;
    let ip = host.lease(&pool).await;
    host.kill();
    fleet.vpc.imds_omits(&eni(1), true);
    host.start().await;
    // More than one look.
    let before = looks(&fleet);
    eventually("it looks for what it lacks", async || looks(&fleet) >= before + 3).await;
    fleet.vpc.imds_omits(&eni(1), false);
    eventually("it is served though nobody asks", async || host.tell(&["status"]).await.contains(&eni(1))).await;
    assert_eq!(host.row(ip).await.state, State::Lease);
}

#[tokio::test]
async fn a_crowd_shares_one_look_at_imds() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let mut host = fleet.host_of(1, "m5.24xlarge");
    let other = "eni-0cccccccccccccc01";
    host.attach(other, 2, 99, "eth2");
    host.set(&[("EC2_IPAM_REQUEST_TIMEOUT", "29s")]);
    host.start().await;
    host.pool().await;
    host.kill();
    fleet.vpc.imds_latency(Duration::from_millis(300));
    host.start().await;
    fleet.vpc.forget_calls();
    let pool = format!("{other}/10.77.0.0-24");
    let given = join_all((0..49).map(|_| host.request(&pool, ""))).await;
    assert!(given.iter().all(Result::is_ok), "{given:?}");
    // The driver looks at all of the host for itself too, when it starts.
    let reads = fleet.vpc.imds_reads().len();
    assert!(reads < 150, "{reads} reads for 49 requests");
}

#[tokio::test]
async fn metadata_is_never_asked_through_a_proxy_and_ec2_is() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let mut host = fleet.host(1);
    // The simulated EC2 is the proxy too: it takes a request that names another host as one to itself.
    let proxy = host.ec2_url();
    host.set(&[("HTTP_PROXY", &proxy), ("AWS_ENDPOINT_URL_EC2", "http://ec2.example.invalid")]);
    host.start().await;
    let pool = host.pool().await;
    host.lease(&pool).await;

    // By HTTPS it is asked for a tunnel, and a password for it is told to nobody.
    let (seen, proxy) = proxy_of(&host);
    host.kill();
    host.unset("HTTP_PROXY");
    host.unset("AWS_ENDPOINT_URL_EC2");
    let url = format!("http://user:never-to-be-shown@{proxy}");
    host.set(&[("HTTPS_PROXY", &url), ("EC2_IPAM_LOG", "trace")]);
    host.start().await;
    let why = host.request(&pool, "").await.unwrap_err();
    assert!(why.contains("EC2 cannot be reached"), "{why}");
    let seen = || seen.lock().unwrap().clone();
    assert!(seen().iter().any(|head| head.starts_with("CONNECT ec2.eu-central-1.amazonaws.com:443")), "{:?}", seen());
    assert!(!seen().iter().any(|head| head.contains("/latest/")), "{:?}", seen());
    assert!(!(why + &host.log()).contains("never-to-be-shown"));

    // And not where it is excepted.
    host.kill();
    host.set(&[("NO_PROXY", "amazonaws.com")]);
    let before = seen().len();
    host.start().await;
    host.request(&pool, "").await.unwrap_err();
    assert_eq!(seen().len(), before, "{:?}", seen());
}

/// A proxy that refuses everything, and what it was asked.
fn proxy_of(host: &Host) -> (std::sync::Arc<std::sync::Mutex<Vec<String>>>, std::net::SocketAddr) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let seen = std::sync::Arc::<std::sync::Mutex<Vec<String>>>::default();
    let listener = host.listener();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let heard = seen.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 4096];
            let length = stream.read(&mut head).await.unwrap_or(0);
            heard.lock().unwrap().push(String::from_utf8_lossy(&head[..length]).into_owned());
            let _ = stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").await;
        }
    });
    (seen, address)
}
