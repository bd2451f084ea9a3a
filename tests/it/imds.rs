//! The IMDS adapter over real HTTP.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ec2_ipam::outside::imds::{Imds, ImdsError};

use aws_sdk_ec2::config::ProvideCredentials;
use futures_util::future::join_all;
use tokio::time::Instant;

use crate::stub::{Answer, Stub};

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

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
    let host = imds.host(soon()).await.unwrap();
    assert_eq!(
        (host.instance.as_str(), host.region.as_str(), host.instance_type.as_str()),
        ("i-0123456789abcdef0", "eu-west-1", "c5.large")
    );
    let numbers: Vec<_> = host.interfaces.iter().map(|nic| (nic.device_number, nic.mac.as_str())).collect();
    assert_eq!(numbers, [(0, "0a:00:00:00:00:00"), (1, "0a:00:00:00:00:01")]);
    let nic = &host.interfaces[1];
    assert_eq!((nic.eni.as_str(), nic.cidr.to_string().as_str()), ("eni-0123456789abcdef1", "10.0.0.0/24"));
    assert_eq!(imds.addresses("0A:00:00:00:00:01").await.unwrap(), nic.addresses);
    assert_eq!(imds.nic(&nic.eni, soon()).await.as_ref(), Ok(nic));
    let absent = imds.nic(&"eni-0123456789abcdef9".parse().unwrap(), soon()).await;
    assert!(matches!(absent, Err(ImdsError::Absent { .. })));
    assert_eq!(nic.addresses[0].to_string(), "10.0.0.11");
    assert_eq!(stub.requests().iter().filter(|r| r.starts_with("PUT ")).count(), 1);
    assert!(matches!(imds.addresses("0a:00:00:00:00:06").await, Err(ImdsError::Absent { .. })));
}

/// An item of one interface that is empty or nonsense keeps no other interface from being served.
#[tokio::test]
async fn an_interface_with_odd_items_is_left_out_unless_it_is_asked_for() {
    let items = ["interface-id", "device-number", "subnet-id", "subnet-ipv4-cidr-block", "local-ipv4s"];
    for (item, body) in items.iter().flat_map(|item| [(*item, ""), (*item, "<html>")]) {
        let path = format!("{MACS}0a:00:00:00:00:00/{item} ");
        let stub = Stub::start(move |request, _| if request.contains(&path) { text(body) } else { instance(request) });
        let imds = Imds::at(&stub.await.url).unwrap();
        let host = imds.host(soon()).await.unwrap();
        let numbers: Vec<_> = host.interfaces.iter().map(|nic| nic.device_number).collect();
        if (item, body) == ("local-ipv4s", "") {
            assert_eq!((numbers.as_slice(), host.left_out.len()), ([0, 1].as_slice(), 0), "an ENI without addresses");
            continue;
        }
        assert_eq!((numbers.as_slice(), host.left_out.len()), ([1].as_slice(), 1), "{item} {body:?}");
        let asked = imds.nic(&"eni-0123456789abcdef0".parse().unwrap(), soon()).await;
        assert!(asked.is_err_and(|why| why.to_string().contains(item)), "{item} {body:?}");
        assert!(imds.nic(&"eni-0123456789abcdef1".parse().unwrap(), soon()).await.is_ok());
    }
}

#[tokio::test]
async fn many_who_want_the_same_share_one_read() {
    let stub = Stub::start(|request, _| instance(request)).await;
    let imds = Imds::at(&stub.url).unwrap();
    let eni = "eni-0123456789abcdef1".parse().unwrap();
    let nics = join_all((0..50).map(|_| imds.nic(&eni, soon()))).await;
    assert!(nics.iter().all(Result::is_ok));
    let seen = stub.requests();
    let about = |mac: &str| seen.iter().filter(|request| request.contains(mac)).count();
    // A token, the instance's three items, the list, then what is wanted of it. It comes first.
    assert_eq!((seen.len(), about("/0a:00:00:00:00:01/"), about("/0a:00:00:00:00:00/")), (11, 6, 0), "{seen:?}");
    // Once for all who ask for all.
    let hosts = join_all((0..50).map(|_| imds.host(soon()))).await;
    assert!(hosts.iter().all(|host| host.as_ref().unwrap().interfaces.len() == 2));
    assert_eq!(stub.requests()[seen.len()..].iter().filter(|request| request.contains("/macs/ ")).count(), 1);
    // A failure is shared as well.
    let silent = Stub::start(|_, _| Answer::Http(500, String::new(), String::new())).await;
    let imds = Imds::at(&silent.url).unwrap();
    assert!(join_all((0..50).map(|_| imds.host(soon()))).await.iter().all(Result::is_err));
    assert!(silent.requests().len() < 10, "{}", silent.requests().len());
}

#[tokio::test]
async fn an_answer_that_is_busy_now_and_then_is_asked_for_again() {
    let stub = Stub::start(|request, n| match n % 3 {
        0 => Answer::Http(503, String::new(), String::new()),
        1 if n % 2 == 0 => Answer::Http(429, String::new(), String::new()),
        _ => instance(request),
    })
    .await;
    assert_eq!(Imds::at(&stub.url).unwrap().host(soon()).await.unwrap().interfaces.len(), 2);
}

/// Those of a role are renewed though the token of their first fetching is dead by then, and kept while IMDS is away.
#[tokio::test]
async fn the_roles_credentials_are_fetched_with_a_token_of_now() {
    let away = Arc::new(AtomicUsize::new(0));
    let state = away.clone();
    let stub = Stub::start(move |request, _| {
        let now = state.load(Ordering::Relaxed);
        let role = |body: &str| Answer::Http(200, String::new(), body.into());
        if now == 9 {
            return Answer::Http(503, String::new(), String::new());
        } else if request.starts_with("PUT ") {
            return role(&format!("token{now}"));
        } else if !request.contains(&format!("x-aws-ec2-metadata-token: token{now}\r\n")) {
            return Answer::Http(401, String::new(), String::new());
        } else if request.contains("/iam/security-credentials/driver ") {
            return match now {
                3 => role(r#"{"Code":"AssumeRoleUnauthorizedAccess","Message":"no trust"}"#),
                4 => role("not JSON with hunter2"),
                _ => role(&format!(r#"{{"Code":"Success","AccessKeyId":"ASIA{now}","SecretAccessKey":"s","Token":"t","Expiration":"2199-01-01T00:00:00Z"}}"#)),
            };
        }
        if now == 2 { absent() } else { role("driver") }
    })
    .await;
    let imds = Imds::at(&stub.url).unwrap();
    let role = imds.role();
    for now in [0, 1] {
        away.store(now, Ordering::Relaxed);
        let given = role.provide_credentials().await.unwrap();
        assert_eq!((given.access_key_id(), given.session_token()), (format!("ASIA{now}").as_str(), Some("t")));
        assert!(given.expiry().is_some());
    }
    away.store(9, Ordering::Relaxed);
    assert_eq!(role.provide_credentials().await.unwrap().access_key_id(), "ASIA1", "the last ones");
    for (now, says) in [(2, "CredentialsNotLoaded"), (3, "no trust"), (4, "are not JSON"), (9, "HTTP 503")] {
        away.store(now, Ordering::Relaxed);
        let why = format!("{:?}", imds.role().provide_credentials().await.unwrap_err());
        assert!(why.contains(says) && !why.contains("hunter2"), "{now}: {why}");
    }
}

#[tokio::test]
async fn a_token_that_has_run_out_is_fetched_anew() {
    let stub = Stub::start(
        |request, n| {
            if n == 1 { Answer::Http(401, String::new(), String::new()) } else { instance(request) }
        },
    )
    .await;
    assert!(Imds::at(&stub.url).unwrap().host(soon()).await.is_ok());
}

/// After hibernation, or a restart of the service, IMDS knows no token that it gave before.
#[tokio::test]
async fn a_token_that_imds_has_forgotten_is_replaced_once() {
    let tokens = Arc::new(AtomicUsize::new(0));
    let given = tokens.clone();
    let stub = Stub::start(move |request, _| {
        if request.starts_with("PUT ") {
            let token = format!("token{}", given.fetch_add(1, Ordering::Relaxed) + 1);
            return Answer::Http(200, "x-aws-ec2-metadata-token-ttl-seconds: 21600\r\n".into(), token);
        }
        let valid = format!("x-aws-ec2-metadata-token: token{}\r\n", given.load(Ordering::Relaxed).max(2));
        if !request.contains(&valid) {
            return Answer::Http(401, String::new(), String::new());
        }
        instance(&request.replace(&valid, "x-aws-ec2-metadata-token: token\r\n"))
    })
    .await;
    let imds = Imds::at(&stub.url).unwrap();
    assert_eq!(imds.addresses("0a:00:00:00:00:01").await.unwrap().len(), 2);
    assert_eq!(tokens.load(Ordering::Relaxed), 2, "the first was dead");
    assert_eq!(stub.requests().len(), 4, "PUT, GET, PUT, GET");
    assert_eq!(imds.addresses("0a:00:00:00:00:01").await.unwrap().len(), 2);
    assert_eq!(stub.requests().len(), 5, "the new one is kept");
}

#[tokio::test]
async fn failures_are_told_with_their_remedy() {
    let disabled = Stub::start(|_, _| Answer::Http(403, String::new(), String::new())).await;
    let error = Imds::at(&disabled.url).unwrap().host(soon()).await.unwrap_err();
    assert_eq!(error, ImdsError::Disabled);
    assert!(error.to_string().contains("modify-instance-metadata-options"), "{error}");

    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let closed = Imds::at(&format!("http://127.0.0.1:{port}")).unwrap().host(soon()).await.unwrap_err();
    let hang = Stub::start(|_, _| Answer::Hang).await;
    let silent = Imds::at(&hang.url).unwrap().host(soon()).await.unwrap_err();
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
    let error = Imds::at(&broken.url).unwrap().host(soon()).await.unwrap_err();
    assert!(
        matches!(&error, ImdsError::Odd { path, what } if path == "instance-id" && what == "HTTP 500"),
        "{error:?}"
    );
}

/// What is kept for life is not taken from an odd answer, and a line that is no MAC is no interface.
#[tokio::test]
async fn an_odd_answer_is_not_believed_for_life() {
    for item in ["instance-id", "placement/region"] {
        let path = format!("/latest/meta-data/{item} ");
        let answers = move |request: &str, n: usize| {
            if request.contains(&path) && n < 4 { text("<html>busy</html>") } else { instance(request) }
        };
        let stub = Stub::start(answers).await;
        let imds = Imds::at(&stub.url).unwrap();
        let why = imds.host(soon()).await.unwrap_err();
        assert!(why.may_pass() && why.to_string().contains(item), "{why}");
        let host = loop {
            if let Ok(host) = imds.host_now(soon()).await {
                break host;
            }
        };
        assert_eq!((host.instance.as_str(), host.region.as_str()), ("i-0123456789abcdef0", "eu-west-1"));
    }
    let listing = format!("{MACS} ");
    let odd = move |request: &str, _| {
        if request.contains(&listing) {
            text("0a:00:00:00:00:01/\n<br> busy\n0a:00:00:00:00:00/")
        } else {
            instance(request)
        }
    };
    let stub = Stub::start(odd).await;
    assert_eq!(Imds::at(&stub.url).unwrap().host(soon()).await.unwrap().interfaces.len(), 2);
}
