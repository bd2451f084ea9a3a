//! Errors that proxies invent and servers send on their way down: none of them is the last word.

use std::time::Duration;

use ec2_ipam::store::{Store, StoreError};
use futures_util::future::join_all;
use tokio::time::Instant;

use super::bed::{Bed, open, soon};
use super::calls::Call;
use crate::support::mariadb::{Db, server};
use crate::support::proxy::Proxy;

/// RDS Proxy, ProxySQL, MaxScale, any of them or a server going down, a commit of which nobody knows, a code of tomorrow.
const CODES: [u16; 12] = [9501, 9001, 9006, 1815, 2013, 2002, 2006, 1105, 1180, 1030, 1077, 65_000];

#[tokio::test]
async fn what_is_not_known_to_be_final_is_waited_for() {
    join_all(CODES.map(async |code| {
        let db = Db::new().await;
        let way = Proxy::to(server().port).await;
        let url = db.url_at(way.port);
        let bed = Bed::on(open(&url).await, db);
        let given = Call::Claim.given(&bed).await;
        way.errs(code);
        let back = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            way.errs(0);
        };
        let (made, ()) = tokio::join!(given.make(&bed.store, soon()), back);
        assert_eq!(made, Ok(()), "{code}");
        assert!(given.happened(&bed.store).await, "{code}");
        // At the deadline the sentence has the code, for whoever looks it up.
        way.errs(code);
        let error = Store::open(&url.parse().unwrap(), Instant::now() + Duration::from_secs(1)).await.unwrap_err();
        let StoreError::Failed { why, .. } = &error else { panic!("{code}: {error}") };
        assert_eq!(why, &format!("No server behind this proxy (error {code})"));
    }))
    .await;
}

#[tokio::test]
async fn the_next_host_is_asked_meanwhile() {
    join_all(CODES.map(async |code| {
        let db = Db::new().await;
        let ways = [Proxy::to(server().port).await, Proxy::to(server().port).await];
        let url = db.url_over(&[ways[0].port, ways[1].port]);
        let bed = Bed::on(open(&url).await, db);
        let given = Call::Claim.given(&bed).await;
        ways[0].errs(code);
        assert_eq!(given.make(&bed.store, soon()).await, Ok(()), "{code}");
        assert!(given.happened(&bed.store).await, "{code}");
        assert!(ways[1].connections() > 0);
        // From the start, too.
        Store::open(&url.parse().unwrap(), soon()).await.unwrap();
    }))
    .await;
}
