//! The IMDS adapter over real HTTP.

use std::time::Duration;

use ec2_ipam::imds::{Imds, ImdsError};

use crate::stub::{Answer, Stub};

const PATIENCE: Duration = Duration::from_secs(20);
const MACS: &str = "/latest/meta-data/network/interfaces/macs/";

fn text(body: &str) -> Answer {
    Answer::Http(200, String::new(), body.into())
}

fn absent() -> Answer {
    Answer::Http(404, String::new(), "<html>404 - Not Found</html>".into())
}

/// eth1, eth0, one that is being detached, one with IPv6 only.
fn instance(request: &str) -> Answer {
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    if method == "PUT" {
        return Answer::Http(200, "x-aws-ec2-metadata-token-ttl-seconds: 21600\r\n".into(), "token".into());
    }
    if !request.contains("x-aws-ec2-metadata-token: token") {
        return Answer::Http(401, String::new(), String::new());
    }
    if let Some(rest) = path.strip_prefix(MACS) {
        let Some((mac, item)) = rest.split_once('/') else {
            return text("0a:00:00:00:00:01/\n0a:00:00:00:00:00/\n0a:00:00:00:00:02/\n0a:00:00:00:00:06/");
        };
        let last = mac.chars().last().unwrap();
        return match (item, last) {
            ("subnet-id", '2') | ("local-ipv4s" | "subnet-ipv4-cidr-block", '6') => absent(),
            ("interface-id", _) => text(&format!("eni-0123456789abcdef{last}")),
            ("device-number", _) => text(&last.to_string()),
            ("subnet-id", _) => text("subnet-0123456789abcdef0"),
            ("subnet-ipv4-cidr-block", _) => text("10.0.0.0/24"),
            ("local-ipv4s", _) => text(&format!("10.0.0.1{last}\n10.0.0.2{last}")),
            _ => absent(),
        };
    }
    match path {
        "/latest/meta-data/instance-id" => text("i-0123456789abcdef0"),
        "/latest/meta-data/placement/region" => text("eu-west-1"),
        "/latest/meta-data/instance-type" => text("c5.large"),
        _ => absent(),
    }
}

#[tokio::test]
async fn a_host_is_read_with_one_token_and_without_those_that_vanish() {
    let stub = Stub::start(|request, _| instance(request)).await;
    let imds = Imds::at(&stub.url).unwrap();
    let host = imds.host(PATIENCE).await.unwrap();
    assert_eq!(
        (host.instance.as_str(), host.region.as_str(), host.instance_type.as_str()),
        ("i-0123456789abcdef0", "eu-west-1", "c5.large")
    );
    let numbers: Vec<_> = host.interfaces.iter().map(|nic| (nic.device_number, nic.mac.as_str())).collect();
    assert_eq!(numbers, [(0, "0a:00:00:00:00:00"), (1, "0a:00:00:00:00:01")]);
    let nic = &host.interfaces[1];
    assert_eq!((nic.eni.as_str(), nic.cidr.to_string().as_str()), ("eni-0123456789abcdef1", "10.0.0.0/24"));
    assert_eq!(imds.addresses("0A:00:00:00:00:01").await.unwrap(), nic.addresses);
    assert_eq!(nic.addresses[0].to_string(), "10.0.0.11");
    assert_eq!(stub.requests().iter().filter(|r| r.starts_with("PUT ")).count(), 1);
    assert!(matches!(imds.addresses("0a:00:00:00:00:06").await, Err(ImdsError::Absent { .. })));
}

#[tokio::test]
async fn a_token_that_has_run_out_is_fetched_anew() {
    let stub = Stub::start(
        |request, n| {
            if n == 1 { Answer::Http(401, String::new(), String::new()) } else { instance(request) }
        },
    )
    .await;
    assert!(Imds::at(&stub.url).unwrap().host(PATIENCE).await.is_ok());
}

#[tokio::test]
async fn failures_are_told_with_their_remedy() {
    let disabled = Stub::start(|_, _| Answer::Http(403, String::new(), String::new())).await;
    let error = Imds::at(&disabled.url).unwrap().host(PATIENCE).await.unwrap_err();
    assert_eq!(error, ImdsError::Disabled);
    assert!(error.to_string().contains("modify-instance-metadata-options"), "{error}");

    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let closed = Imds::at(&format!("http://127.0.0.1:{port}")).unwrap().host(PATIENCE).await.unwrap_err();
    let hang = Stub::start(|_, _| Answer::Hang).await;
    let silent = Imds::at(&hang.url).unwrap().host(PATIENCE).await.unwrap_err();
    for error in [closed, silent] {
        assert!(matches!(error, ImdsError::Unreachable { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("is this an EC2 instance?") && text.contains("hop limit"), "{text}");
    }

    let broken = Stub::start(|request, _| {
        if request.contains("/instance-id") {
            Answer::Http(500, String::new(), String::new())
        } else {
            instance(request)
        }
    })
    .await;
    let error = Imds::at(&broken.url).unwrap().host(PATIENCE).await.unwrap_err();
    assert!(
        matches!(&error, ImdsError::Odd { path, what } if path == "instance-id" && what == "HTTP 500"),
        "{error:?}"
    );
}
