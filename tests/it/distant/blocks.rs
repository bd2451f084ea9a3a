//! Whole blocks on an interface of a host that has no driver.

use ec2_ipam::domain::block::Block;
use vpc_sim::Switches;

use super::*;

/// Three slots, so three blocks, whichever server is asked and whichever took them; what is left when one server is dead
/// goes back whole.
#[tokio::test]
async fn servers_fill_an_interface_with_blocks_and_give_them_back() {
    let fleet = Fleet::with(Kind::Mariadb, "10.77.0.0/20", Switches::default()).await;
    let (mut one, mut other, host) = (fleet.host(1), fleet.host(3), fleet.host_of(2, "t3.small"));
    for server in [&mut one, &mut other] {
        server.set(&SERVER);
        server.set(&[("EC2_IPAM_BLOCKS", "auto"), ("EC2_IPAM_RECONCILE_INTERVAL", "1s")]);
        server.start().await;
    }
    let pool = pool_of(&one, &host).await.unwrap();
    assert_eq!(pool_of(&other, &host).await.as_ref(), Ok(&pool));

    let asked = (0..48).map(|n| if n % 2 == 0 { one.request(&pool, "") } else { other.request(&pool, "") });
    let leases: Vec<Ipv4Addr> = join_all(asked).await.into_iter().map(|answer| answer.unwrap()).collect();
    assert_eq!(leases.iter().collect::<BTreeSet<_>>().len(), 48, "I1: {leases:?}");
    assert_eq!(fleet.vpc.prefixes(&host.eni).len(), 3);
    for server in [&one, &other] {
        let refused = server.request(&pool, "").await.unwrap_err();
        assert!(refused.contains("as many addresses as its instance type allows"), "{refused}");
    }

    one.kill();
    let (kept, rest) = leases.split_first().unwrap();
    for ip in rest {
        other.release(&pool, *ip).await;
    }
    let_lapse(&other, &host).await;
    eventually("all blocks but one go back", async || fleet.vpc.prefixes(&host.eni).len() == 1).await;
    assert!(fleet.vpc.prefixes(&host.eni).iter().all(|net| net.contains(kept)), "I2: a container has an address of it");
    eventually("the rows of the others are free", async || {
        let rows =
            other.rows_now().await.into_iter().filter(|row| row.iface.as_ref() == Some(&host.eni) && !row.primary);
        rows.map(|row| Block::of(row.ip)).collect::<BTreeSet<_>>() == [Block::of(*kept)].into()
    })
    .await;
}
