//! What people read of a server.

use super::*;

#[tokio::test]
async fn a_fresh_server_has_its_rights_looked_at() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let mut server = fleet.host(1);
    server.set(&SERVER);
    server.set(&[("EC2_IPAM_DOCKER_SOCKET", "none")]);
    server.start().await;
    let (_, doctor) = server.ask(&["doctor"]).await;
    let rights = ["NetworkInterfaces", "Subnets", "InstanceTypes", "Instances"];
    for right in rights {
        assert!(doctor.contains(&format!("ok    ec2:Describe{right}: allowed")), "{doctor}");
    }
    assert!(!doctor.contains("PrivateIpAddresses"), "which subnets it may serve nobody knows yet: {doctor}");
    for right in rights {
        fleet.vpc.deny(&format!("Describe{right}"), true);
    }
    let (is_well, doctor) = server.ask(&["doctor"]).await;
    assert!(!is_well, "{doctor}");
    for right in rights {
        assert!(doctor.contains(&format!("FAIL  ec2:Describe{right}: denied")), "{doctor}");
    }
    let status = server.tell(&["status"]).await;
    assert!(status.contains("is not read, as EC2_IPAM_DOCKER_SOCKET says"), "{status}");
    assert!(!status.contains("create a network\n"), "{status}");
}

/// A lease of a host that has a driver: what is to be done about it is done there.
#[tokio::test]
async fn a_lease_of_another_driver_is_let_go_there() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (server, mut host, _) = bed(&fleet).await;
    host.set(&SERVER[1..]);
    host.start().await;
    let held = host.lease(&host.pool().await).await;
    eventually("it is in the table", async || state(&server, held).await.0 == State::Lease).await;
    eventually("the server sees the driver", async || pool_of(&server, &host).await.is_err()).await;
    let (done, text) = server.ask(&["release", &held.to_string(), "--yes"]).await;
    let said = format!("{held} is on {} of {}, which has a driver of its own: run this there", host.eni, host.instance);
    assert!(!done && text.contains(&said), "{text}");
    // Where no driver runs.
    assert!(host.stop().await.success());
    let (done, text) = host.run(&["release", &held.to_string(), "--yes"]).await;
    assert!(!done && !text.contains("on the table itself"), "{text}");
    assert!(text.contains("a driver alone may do that"), "{text}");
}

/// A pool of somebody else's interface.
#[tokio::test]
async fn a_stranger_lets_go_of_no_pool() {
    let (_fleet, server, _, pool) = on_the_network().await;
    let id = call_from(&server, "10.77.0.5", "RequestPool", &pool).await.unwrap()["PoolID"].clone();
    call_from(&server, "10.77.0.99", "ReleasePool", &json!({ "PoolID": id })).await.unwrap();
    assert!(!server.log().contains("Docker let go of pool"), "{}", server.log());
}
