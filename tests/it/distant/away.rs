//! What a distant host's Engine is told while the table is away, and what is lost with the server.

use super::*;

/// Docker does nothing about either answer: but this one it writes into its log.
#[tokio::test]
async fn a_release_that_is_not_in_the_table_is_not_answered_as_done() {
    let (_fleet, mut server, host, pool) = on_the_network().await;
    assert!(server.stop().await.success());
    server.set(&[("EC2_IPAM_REQUEST_TIMEOUT", "5s")]);
    server.start().await;
    let id =
        call_from(&server, "10.77.0.5", "RequestPool", &pool).await.unwrap()["PoolID"].as_str().unwrap().to_owned();
    let mut given = Vec::new();
    for _ in 0..2 {
        let any = json!({ "PoolID": id, "Address": "", "Options": null });
        let answer = call_from(&server, "10.77.0.5", "RequestAddress", &any).await.unwrap();
        given.push(answer["Address"].as_str().unwrap().split('/').next().unwrap().to_owned());
    }
    let release = async |ip: &str| {
        call_from(&server, "10.77.0.5", "ReleaseAddress", &json!({ "PoolID": id, "Address": ip })).await
    };
    let proxy = server.proxy.as_ref().unwrap();
    proxy.away(true);
    let why = release(&given[0]).await.unwrap_err();
    assert!(why.contains(&format!("{} is not let go of yet", given[0])), "{why}");
    // It goes on by itself.
    proxy.away(false);
    eventually("it is done", async || server.log().contains(&format!("released {} ", given[0]))).await;
    assert_eq!(state(&server, given[0].parse().unwrap()).await.0, State::Ready);
    // The end says what was not done.
    proxy.away(true);
    release(&given[1]).await.unwrap_err();
    server.stop().await;
    let log = server.log();
    let lost = format!("WARN this release is lost, as it is not in the table: {} of {}", given[1], host.eni);
    assert!(log.contains(&lost), "{log}");
    assert!(!log.contains(&format!("lost, as it is not in the table: {} of", given[0])), "{log}");
}
