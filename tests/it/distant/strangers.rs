//! Who is no host of the fleet: what he may have the server ask EC2.

use super::*;

const DESCRIBE: &str = "DescribeNetworkInterfaces";

fn named(eni: &str) -> serde_json::Value {
    json!({ "AddressSpace": "ec2-ipam", "Pool": "10.77.0.0/24", "SubPool": "", "V6": false, "Options": { "eni-id": eni } })
}

/// Every answer, of so many random interfaces.
async fn ask_for_unknown(server: &Host, from: &str, many: usize) -> Vec<String> {
    let mut all = Vec::new();
    for n in 0..many {
        let pool = named(&format!("eni-0bbbbbbbbbbb{n:05x}"));
        all.push(call_from(server, from, "RequestPool", &pool).await.unwrap_err());
    }
    all
}

#[tokio::test]
async fn what_nobody_has_is_asked_of_ec2_a_few_times_at_most() {
    let (fleet, server, host, pool) = on_the_network().await;
    fleet.vpc.forget_calls();
    let refused = ask_for_unknown(&server, "10.77.0.6", 100).await;
    assert!(refused[0].contains("does not exist") || refused[0].contains("not know"), "{}", refused[0]);
    assert!(
        refused[99].contains("10.77.0.6 has asked for too many interfaces that are not its own"),
        "{}",
        refused[99]
    );
    assert!((10..=25).contains(&fleet.vpc.count(DESCRIBE)), "{}", fleet.vpc.count(DESCRIBE));
    // A release is no way around it.
    fleet.vpc.forget_calls();
    for n in 0..20 {
        let of = json!({ "PoolID": format!("eni-0ccccccccccc{n:05x}"), "Address": "10.77.0.60" });
        call_from(&server, "10.77.0.6", "ReleaseAddress", &of).await.unwrap();
    }
    assert!(fleet.vpc.count(DESCRIBE) <= 2, "{}", fleet.vpc.count(DESCRIBE));
    // Others go on, and so does he with what is his.
    let third = fleet.host(3);
    for from in ["10.77.0.5", "10.78.0.5"] {
        call_from(&server, from, "RequestPool", &pool).await.unwrap();
    }
    drop((host, third));
}

/// The same question again has the answer that was there.
#[tokio::test]
async fn what_ec2_does_not_know_is_remembered_for_a_while() {
    let (fleet, server, host, pool) = on_the_network().await;
    let third = fleet.host(3);
    fleet.vpc.detach_eni(&third.eni);
    fleet.vpc.settle();
    fleet.vpc.forget_calls();
    for _ in 0..10 {
        for eni in ["eni-0bbbbbbbbbbbbbbb1", third.eni.as_str()] {
            call_from(&server, "10.77.0.6", "RequestPool", &named(eni)).await.unwrap_err();
        }
    }
    let asked = fleet.vpc.calls().into_iter().filter(|call| call.action == DESCRIBE && call.eni.is_some()).count();
    assert_eq!(asked, 2);
    // Those who ask at once ask once.
    fleet.vpc.forget_calls();
    fleet.vpc.latency(Duration::from_millis(200));
    let at_once = join_all((0..10).map(|_| call_from(&server, "10.77.0.5", "RequestPool", &pool))).await;
    assert!(at_once.iter().all(Result::is_ok), "{at_once:?}");
    assert!(fleet.vpc.count("DescribeInstanceTypes") <= 1, "{:?}", fleet.vpc.calls());
    drop(host);
}

/// A certificate that is no host's is nobody's here.
#[tokio::test]
async fn a_certificate_that_names_no_instance_has_nothing_asked() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let (mut server, host) = (fleet.host(1), fleet.host(2));
    let files = tempfile::tempdir().unwrap();
    let ca = with_certificates(&mut server, &files).await;
    fleet.vpc.forget_calls();
    let client = ca.issue("client", "/CN=bob", "DNS:bob.example,DNS:i-0aaaaaaaaaaaaaa02.example");
    for eni in [host.eni.as_str(), "eni-0bbbbbbbbbbbbbbb1"] {
        let stream = server.connect_tcp("10.77.0.5", "127.0.0.1:8031").await;
        let mut wire = server.wire(ca.connect(stream, Some(&client)).await.unwrap());
        wire.send(&request("/IpamDriver.RequestPool", &format!("{}\n", named(eni)))).await;
        let why = wire.answer().await.expect("an answer").outcome().unwrap_err();
        let said = "the certificate of 10.77.0.5 names bob.example, i-0aaaaaaaaaaaaaa02.example, bob and no instance";
        assert!(why.contains(said), "{why}");
    }
    // The server looks for interfaces of its own meanwhile.
    let of_others = |eni: &str| eni == host.eni || eni.starts_with("eni-0b");
    let asked: Vec<_> =
        fleet.vpc.calls().into_iter().filter(|call| call.eni.as_deref().is_some_and(of_others)).collect();
    assert!(asked.is_empty(), "{asked:?}");
}
