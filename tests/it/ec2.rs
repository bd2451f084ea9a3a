//! The EC2 adapter over real HTTP: what is sent, how answers and failures are read, what is repeated.

use std::net::Ipv4Addr;

use ec2_ipam::domain::id::{EniId, SubnetId};
use ec2_ipam::outside::ec2::{Action, Ec2, Ec2Error, Limits, StaticKeys};

use crate::stub::{Answer, Stub};

pub(crate) fn eni() -> EniId {
    "eni-0123456789abcdef0".parse().unwrap()
}

fn subnet() -> SubnetId {
    "subnet-0123456789abcdef0".parse().unwrap()
}

pub(crate) fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, last)
}

fn ok(operation: &str, body: &str) -> Answer {
    let xml = format!(
        "<{operation}Response xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>r</requestId>{body}</{operation}Response>"
    );
    Answer::Http(200, String::new(), xml)
}

fn error(status: u16, code: &str, message: &str) -> Answer {
    let xml = format!(
        "<?xml version=\"1.0\"?><Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors><RequestID>r</RequestID></Response>"
    );
    Answer::Http(status, String::new(), xml)
}

async fn connect(url: &str) -> Ec2 {
    let keys = StaticKeys { access_key_id: "AKIAX".into(), secret_access_key: "hunter2".into() };
    Ec2::connect_to(url.into(), "eu-west-1".into(), keys).await
}

pub(crate) fn assigned(ips: &[Ipv4Addr]) -> Answer {
    let items: String =
        ips.iter().map(|ip| format!("<item><privateIpAddress>{ip}</privateIpAddress></item>")).collect();
    ok(
        "AssignPrivateIpAddresses",
        &format!("<assignedPrivateIpAddressesSet>{items}</assignedPrivateIpAddressesSet><return>true</return>"),
    )
}

fn interface(id: &str, ips: &[&str], more: &str) -> String {
    let items: String = ips
        .iter()
        .enumerate()
        .map(|(n, ip)| format!("<item><privateIpAddress>{ip}</privateIpAddress><primary>{}</primary></item>", n == 0))
        .collect();
    format!(
        "<item><networkInterfaceId>{id}</networkInterfaceId><subnetId>{}</subnetId><macAddress>0A:1B:00:00:00:01</macAddress>\
         <privateIpAddressesSet>{items}</privateIpAddressesSet>{more}</item>",
        subnet()
    )
}

fn described(items: &str, token: &str) -> Answer {
    ok("DescribeNetworkInterfaces", &format!("<networkInterfaceSet>{items}</networkInterfaceSet>{token}"))
}

#[tokio::test]
async fn assign_lists_the_addresses_and_never_moves_one() {
    let stub = Stub::start(|_, _| assigned(&[ip(5), ip(6)])).await;
    let ec2 = connect(&stub.url).await;
    assert_eq!(ec2.region(), "eu-west-1");
    ec2.assign(&eni(), &[ip(5), ip(6)]).await.unwrap();
    ec2.assign(&eni(), &[]).await.unwrap();
    let requests = stub.requests();
    assert_eq!(requests.len(), 1);
    assert!(requests[0].ends_with(
        "Action=AssignPrivateIpAddresses&Version=2016-11-15&NetworkInterfaceId=eni-0123456789abcdef0&PrivateIpAddress.1=10.0.0.5&PrivateIpAddress.2=10.0.0.6"
    ), "{}", requests[0]);
}

#[tokio::test]
async fn an_answer_that_lists_fewer_is_unclear() {
    let stub = Stub::start(|_, _| assigned(&[ip(5)])).await;
    let error = connect(&stub.url).await.assign(&eni(), &[ip(5), ip(6)]).await.unwrap_err();
    assert!(error.is_unclear() && error.to_string().contains("does not list 10.0.0.6"), "{error}");
}

#[tokio::test]
async fn refusals_come_over_the_wire_with_their_addresses() {
    let stub = Stub::start(|request, _| {
        if request.contains("Action=Unassign") {
            error(400, "InvalidParameterValue", "Some of the specified addresses are not assigned to interface eni-0")
        } else {
            error(400, "InvalidParameterValue", "[10.0.0.5, 10.0.0.6] assigned, but move is not allowed.")
        }
    })
    .await;
    let ec2 = connect(&stub.url).await;
    assert_eq!(
        ec2.assign(&eni(), &[ip(5), ip(6), ip(7)]).await,
        Err(Ec2Error::InUse { addresses: vec![ip(5), ip(6)] })
    );
    assert_eq!(ec2.unassign(&eni(), &[ip(5)]).await, Err(Ec2Error::NotAssigned { eni: eni() }));
    assert_eq!(stub.requests().len(), 2);
}

#[tokio::test]
async fn a_change_is_repeated_after_throttling_only() {
    let stub = Stub::start(|_, n| {
        if n < 2 { error(503, "RequestLimitExceeded", "Request limit exceeded.") } else { assigned(&[ip(5)]) }
    })
    .await;
    connect(&stub.url).await.assign(&eni(), &[ip(5)]).await.unwrap();
    assert_eq!(stub.requests().len(), 3);

    let stub = Stub::start(|_, _| error(503, "RequestLimitExceeded", "Request limit exceeded.")).await;
    let throttled = connect(&stub.url).await.unassign(&eni(), &[ip(5)]).await;
    assert_eq!(throttled, Err(Ec2Error::Throttled { action: Action::Unassign }));
    assert_eq!(stub.requests().len(), 3);
}

#[tokio::test]
async fn what_may_have_been_done_is_unclear_and_sent_once() {
    for answer in [
        || error(500, "InternalError", "An internal error has occurred"),
        || error(503, "Unavailable", "try later"),
        || Answer::Drop,
        || Answer::Http(502, String::new(), "bad gateway".into()),
    ] {
        let stub = Stub::start(move |_, _| answer()).await;
        let ec2 = connect(&stub.url).await;
        for outcome in [ec2.assign(&eni(), &[ip(5)]).await, ec2.unassign(&eni(), &[ip(5)]).await] {
            let error = outcome.unwrap_err();
            assert!(error.is_unclear(), "{error:?}");
        }
        assert_eq!(stub.requests().len(), 2);
    }
}

#[tokio::test]
async fn an_assign_that_something_else_answers_is_unclear() {
    let stub = Stub::start(|_, _| Answer::Http(200, String::new(), "<html>not EC2</html>".into())).await;
    let error = connect(&stub.url).await.assign(&eni(), &[ip(5)]).await.unwrap_err();
    assert!(error.is_unclear(), "{error:?}");
    assert_eq!(stub.requests().len(), 1);
}

#[tokio::test]
async fn an_attempt_without_an_answer_ends_unclear() {
    let stub = Stub::start(|_, _| Answer::Hang).await;
    let ec2 = connect(&stub.url).await;
    let (assign, unassign) =
        (async { ec2.assign(&eni(), &[ip(5)]).await }, async { ec2.unassign(&eni(), &[ip(6)]).await });
    let (assigned, unassigned) = tokio::join!(assign, unassign);
    for error in [assigned.unwrap_err(), unassigned.unwrap_err()] {
        assert!(error.is_unclear(), "{error:?}");
    }
    let sent = |of: &str| stub.requests().iter().filter(|request| request.contains(of)).count();
    assert_eq!(
        (sent("Action=AssignPrivate"), sent("Action=UnassignPrivate")),
        (2, 1),
        "one is asked beside a lost one"
    );
}

/// An answer that is lost costs the containers that wait for it no more than a while.
#[tokio::test]
async fn an_assign_is_asked_for_beside_one_whose_answer_does_not_come() {
    let after = async |second: fn() -> Answer| {
        let stub = Stub::start(move |_, n| if n == 0 { Answer::Hang } else { second() }).await;
        connect(&stub.url).await.assign(&eni(), &[ip(5)]).await
    };
    let full = || error(400, "PrivateIpAddressLimitExceeded", "");
    let (assigned, refused) = tokio::join!(after(|| assigned(&[ip(5)])), after(full));
    assert_eq!(assigned, Ok(()));
    let refused = refused.unwrap_err();
    assert!(refused.is_unclear(), "the first may still land: {refused:?}");
}

#[tokio::test]
async fn no_connection_means_not_sent() {
    // Bound, then closed: nothing listens there.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = connect(&format!("http://127.0.0.1:{port}")).await.assign(&eni(), &[ip(5)]).await.unwrap_err();
    assert!(matches!(error, Ec2Error::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains("refused") && !error.is_unclear(), "{error}");
    // A name that cannot exist (RFC 6761).
    let error = connect("http://ec2.invalid").await.unassign(&eni(), &[ip(5)]).await.unwrap_err();
    assert!(matches!(error, Ec2Error::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn an_interface_is_read_with_its_prefixes() {
    let more = "<description>ELB app/web</description><attachment><instanceId>i-0123</instanceId><status>attached</status></attachment>\
                <ipv4PrefixSet><item><ipv4Prefix>10.0.0.16/28</ipv4Prefix></item></ipv4PrefixSet>";
    let stub = Stub::start(move |_, n| match n {
        0 => error(500, "InternalError", "a read is repeated"),
        1 => described(&interface("eni-0123456789abcdef0", &["10.0.0.4", "10.0.0.5"], more), ""),
        _ => error(400, "InvalidNetworkInterfaceID.NotFound", "The networkInterface ID 'eni-0' does not exist"),
    })
    .await;
    let ec2 = connect(&stub.url).await;
    let found = ec2.interface(&eni()).await.unwrap();
    assert_eq!(
        (found.primary(), found.mac.as_str(), found.instance.as_deref()),
        (Some(ip(4)), "0a:1b:00:00:00:01", Some("i-0123"))
    );
    assert!(found.has(ip(5)) && found.has(ip(16)) && found.has(ip(31)) && !found.has(ip(32)) && !found.has(ip(6)));
    assert_eq!(found.held().count(), 18);
    assert_eq!(found.holder(), "eni-0123456789abcdef0 of instance i-0123");
    assert_eq!(ec2.interface(&eni()).await, Err(Ec2Error::NoSuchEni { eni: eni() }));
}

#[tokio::test]
async fn every_page_of_a_subnet_is_read() {
    let stub = Stub::start(|request, _| {
        if request.contains("NextToken=second") {
            described(
                &interface("eni-0123456789abcdef2", &["10.0.0.9"], "<description>RDSNetworkInterface</description>"),
                "",
            )
        } else {
            described(&interface("eni-0123456789abcdef1", &["10.0.0.8"], ""), "<nextToken>second</nextToken>")
        }
    })
    .await;
    let found = connect(&stub.url).await.interfaces_of_subnet(&subnet()).await.unwrap();
    assert_eq!(
        found.iter().map(|i| i.holder()).collect::<Vec<_>>(),
        ["eni-0123456789abcdef1", "eni-0123456789abcdef2 (RDSNetworkInterface)"]
    );
    let requests = stub.requests();
    assert!(
        requests[0].contains("Filter.1.Name=subnet-id&Filter.1.Value.1=subnet-0123456789abcdef0"),
        "{}",
        requests[0]
    );
    assert!(requests.len() == 2 && requests[0].contains("MaxResults=500"), "{}", requests[0]);
}

#[tokio::test]
async fn holders_are_asked_for_in_calls_of_200_and_told_once() {
    let stub = Stub::start(|_, _| described(&interface("eni-0123456789abcdef1", &["10.0.0.8"], ""), "")).await;
    let many: Vec<Ipv4Addr> =
        (0..450_u16).map(|n| Ipv4Addr::from([10, 0, n.to_be_bytes()[0], n.to_be_bytes()[1]])).collect();
    let found = connect(&stub.url).await.holders(&subnet(), &many).await.unwrap();
    assert_eq!(found.len(), 1);
    let sizes: Vec<usize> = stub.requests().iter().map(|r| r.matches("Filter.1.Value.").count()).collect();
    assert_eq!(sizes, [200, 200, 50]);
    assert!(stub.requests()[0].contains("Filter.1.Name=addresses.private-ip-address"));
}

#[tokio::test]
async fn subnet_and_limit_are_read() {
    let stub = Stub::start(|request, _| {
        if request.contains("Action=DescribeSubnets") {
            ok("DescribeSubnets", "<subnetSet><item><subnetId>subnet-0123456789abcdef0</subnetId><cidrBlock>10.0.0.0/24</cidrBlock><availableIpAddressCount>231</availableIpAddressCount></item></subnetSet>")
        } else {
            let (name, platform) = [("c9.huge", "<hypervisor>nitro</hypervisor>"), ("c9.metal", "<bareMetal>true</bareMetal>"), ("m4.large", "<hypervisor>xen</hypervisor><bareMetal>false</bareMetal>")]
                .into_iter().find(|(name, _)| request.contains(&format!("InstanceType.1={name}"))).unwrap();
            ok("DescribeInstanceTypes", &format!("<instanceTypeSet><item><instanceType>{name}</instanceType>{platform}<networkInfo><ipv4AddressesPerInterface>30</ipv4AddressesPerInterface></networkInfo></item></instanceTypeSet>"))
        }
    })
    .await;
    let ec2 = connect(&stub.url).await;
    assert_eq!(ec2.subnet(&subnet()).await.unwrap().gateway_cidr(), "10.0.0.1/24");
    assert_eq!(ec2.available_addresses(&subnet()).await, Ok(231));
    for (name, blocks) in [("c9.huge", true), ("c9.metal", true), ("m4.large", false)] {
        assert_eq!(ec2.limits(name).await, Ok(Limits { addresses: 30, blocks }), "{name}");
    }
}

#[tokio::test]
async fn permissions_are_asked_without_effect() {
    for allowed in [true, false] {
        let stub = Stub::start(move |request, _| {
            if !allowed {
                error(403, "UnauthorizedOperation", "You are not authorized to perform this operation.")
            } else if request.contains("DryRun=true") {
                error(412, "DryRunOperation", "Request would have succeeded, but DryRun flag is set.")
            } else if request.contains("Action=AssignPrivateIpAddresses") {
                error(
                    400,
                    "InvalidParameterValue",
                    "Address [127.0.0.1] does not fall within the subnet's address range",
                )
            } else {
                error(
                    400,
                    "InvalidParameterValue",
                    "Some of the specified addresses are not assigned to interface eni-0",
                )
            }
        })
        .await;
        let ec2 = connect(&stub.url).await;
        for action in Action::ALL {
            let outcome = ec2.permitted(action, &eni(), &subnet()).await;
            let is_denied = matches!(outcome, Err(Ec2Error::Denied { .. }));
            assert_eq!((outcome.is_ok(), is_denied), (allowed, !allowed), "{action}: {outcome:?}");
        }
        for request in stub.requests() {
            assert!(request.contains("DryRun=true") || request.contains("PrivateIpAddress.1=127.0.0.1"), "{request}");
        }
    }
}
