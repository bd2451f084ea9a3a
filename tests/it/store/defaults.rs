//! A server's own defaults change nothing of what the store does; what it cannot set for itself is said.

use std::time::Duration;

use ec2_ipam::domain::address::{Event, Status};
use ec2_ipam::domain::id::Kind;
use ec2_ipam::store::{Store, StoreError};
use tokio::time::Instant;

use super::bed::{Bed, eni, new_row, subnet, told};
use crate::support::server::{Db, Server};
use crate::support::{mariadb, mysql};

/// Every variable that changes what some statement of ours does, or whether it is done at all, and a value that does.
const BOTH: [(&str, &str); 24] = [
    ("sql_safe_updates", "1"),
    ("sql_select_limit", "5"),
    ("sql_select_limit", "0"),
    ("max_join_size", "100"),
    ("sql_mode", "'ANSI_QUOTES,NO_BACKSLASH_ESCAPES,PIPES_AS_CONCAT,NO_UNSIGNED_SUBTRACTION'"),
    ("sql_mode", "''"),
    ("autocommit", "0"),
    ("completion_type", "'CHAIN'"),
    ("completion_type", "'RELEASE'"),
    ("transaction_isolation", "'SERIALIZABLE'"),
    ("transaction_read_only", "1"),
    ("time_zone", "'+05:30'"),
    ("group_concat_max_len", "4"),
    ("max_sort_length", "64"),
    ("sql_auto_is_null", "1"),
    ("foreign_key_checks", "0"),
    ("unique_checks", "0"),
    ("lock_wait_timeout", "1"),
    ("innodb_lock_wait_timeout", "1"),
    ("wait_timeout", "1"),
    ("explicit_defaults_for_timestamp", "0"),
    ("character_set_server", "latin1"),
    ("collation_server", "utf8mb4_bin"),
    ("optimizer_switch", "'index_merge=off,derived_merge=off,materialization=off'"),
];

const MARIADB: [(&str, &str); 8] = [
    ("max_statement_time", "0.0001"),
    ("idle_transaction_timeout", "1"),
    ("idle_write_transaction_timeout", "1"),
    ("query_cache_type", "1"),
    ("in_predicate_conversion_threshold", "2"),
    ("old_mode", "'IGNORE_INDEX_ONLY_FOR_JOIN'"),
    ("alter_algorithm", "'INSTANT'"),
    ("binlog_format", "'MIXED'"),
];

const MYSQL: [(&str, &str); 3] = [
    ("max_execution_time", "1"),
    ("sql_require_primary_key", "1"),
    ("default_collation_for_utf8mb4", "utf8mb4_general_ci"),
];

const ADDRESSES: u32 = 1019;

/// Everything that the driver asks of its table, as the user whom docs/install.md makes.
async fn works(db: Db, url: String) -> Result<(), StoreError> {
    let until = Instant::now() + Duration::from_secs(30);
    let store = Store::open(&url.parse().unwrap(), until).await?;
    let bed = Bed::on(store, db);
    let store = &bed.store;
    let rows: Vec<_> = (0..ADDRESSES).map(|n| new_row((0x0a00_0000 + n).into(), Status::Free)).collect();
    assert_eq!(store.insert_missing(&subnet(), &rows, until).await?, u64::from(ADDRESSES));
    let ips: Vec<_> = rows.iter().map(|row| row.ip).collect();
    assert_eq!(store.rows_at(&ips, until).await?.len(), ips.len());
    let (claim, eni, subnet) = (bed.claim(1, Kind::On), eni(1), subnet());
    let wanted = ec2_ipam::store::FreeClaim {
        subnet: &subnet,
        eni: &eni,
        sub_pool: None,
        cooldown: Duration::from_secs(60),
        except: &[],
        count: 20,
        claim: &claim,
    };
    assert_eq!(store.claim_free(&wanted, until).await?.len(), 20);
    let mut changes = Vec::new();
    for row in store.rows_of_eni(&eni, until).await? {
        assert!(row.claimed.is_some_and(|age| age < Duration::from_secs(60)), "{row:?}");
        changes.push(row.on(told(None, row.idle)).unwrap());
    }
    assert_eq!(store.apply(&changes, until).await?, [true; 20]);
    // Twice, since a session may be another one after a COMMIT.
    for _ in 0..2 {
        let holder = Some(r#"it's a \ "web""#.to_owned());
        let row = store.rows_of_eni(&eni, until).await?.into_iter().find(|row| row.claim.is_none()).unwrap();
        let idle = Duration::from_secs(10);
        let lease = Event::Follow { lease: Some(bed.claim(2, Kind::Lease)), holder: holder.clone(), idle };
        assert_eq!(store.apply(&[row.on(lease).unwrap()], until).await?, [true]);
        let row = store.row(row.ip, until).await?.unwrap();
        assert_eq!(row.holder, holder);
        assert_eq!(store.apply(&[row.on(told(None, idle)).unwrap()], until).await?, [true]);
        let age = store.row(row.ip, until).await?.unwrap().idle;
        assert!(age < Duration::from_secs(60), "let go {age:?} ago");
    }
    assert!(store.hold_task("scan", "me", Duration::from_secs(600), until).await?);
    assert!(!store.hold_task("scan", "another", Duration::from_secs(600), until).await?);
    assert_eq!(store.census(&subnet, until).await?.iter().map(|count| count.rows).sum::<u64>(), u64::from(ADDRESSES));
    assert_eq!(store.rows_of_subnet(&subnet, until).await?.len(), ips.len());
    assert_eq!(store.describe(until).await?.lacking, Vec::<String>::new());
    // Idle longer than some time-outs.
    if bed.store.row(ips[0], until).await?.is_none() {
        panic!("a row is gone");
    }
    Ok(())
}

/// All of them are tried, so that a failure names every variable that leaks.
async fn each(server: &'static Server, defaults: &[(&str, &str)]) -> Vec<String> {
    let mut leaks = Vec::new();
    for (name, value) in defaults {
        let db = Db::on(server).await;
        let url = db.url_of_plain_user().await;
        let before: String = server.ask(&format!("SELECT CAST(@@GLOBAL.{name} AS CHAR)")).await;
        server.set(&format!("SET GLOBAL {name}={value}")).await;
        let worked = tokio::spawn(works(db, url)).await;
        let before = if before.parse::<f64>().is_ok() { before } else { format!("'{before}'") };
        server.set(&format!("SET GLOBAL {name}={before}")).await;
        match worked {
            Ok(Ok(())) => {}
            Ok(Err(why)) => leaks.push(format!("{name}={value}: {why}")),
            Err(panic) => leaks.push(format!("{name}={value}: {panic}")),
        }
    }
    leaks
}

#[tokio::test]
async fn a_servers_defaults_change_nothing_on_mariadb() {
    let (server, _turn) = mariadb::alone().await;
    // Names of MySQL's that MariaDB has learnt later.
    let old_names = |(name, value)| match name {
        "transaction_isolation" => ("tx_isolation", value),
        "transaction_read_only" => ("tx_read_only", value),
        name => (name, value),
    };
    let defaults: Vec<_> = BOTH.into_iter().chain(MARIADB).map(old_names).collect();
    let leaks = each(&server.server, &defaults).await;
    assert!(leaks.is_empty(), "{leaks:#?}");
}

#[tokio::test]
async fn a_servers_defaults_change_nothing_on_mysql() {
    let Some((db, _turn)) = mysql::alone().await else { return };
    let defaults: Vec<_> = BOTH.into_iter().chain(MYSQL).collect();
    let leaks = each(db.server, &defaults).await;
    assert!(leaks.is_empty(), "{leaks:#?}");
}

#[tokio::test]
async fn what_a_session_cannot_set_for_itself_is_said() {
    let (server, _turn) = mariadb::alone().await;
    let server = &server.server;
    for (name, bad, usual, says) in [
        ("binlog_format", "'STATEMENT'", "'MIXED'", "its binlog_format is STATEMENT"),
        ("max_allowed_packet", "65536", "16777216", "its max_allowed_packet is 65536"),
    ] {
        let db = Db::on(server).await;
        let url = db.url_of_plain_user().await;
        server.set(&format!("SET GLOBAL {name}={bad}")).await;
        let refused = works(db, url).await;
        server.set(&format!("SET GLOBAL {name}={usual}")).await;
        let refused = refused.unwrap_err();
        assert!(matches!(&refused, StoreError::Refused { why, .. } if why.starts_with(says)), "{refused}");
        assert!(refused.to_string().contains(&format!("SET GLOBAL {name}=")), "{refused}");
    }
    // Who may set it, does.
    server.set("SET GLOBAL binlog_format='STATEMENT'").await;
    let db = Db::on(server).await;
    let store = Store::open(&db.url().parse().unwrap(), super::bed::soon()).await;
    let bed = store.map(|store| Bed::on(store, db));
    let claimed = match &bed {
        Ok(bed) => {
            bed.free(10..=12).await;
            bed.claim_free(&bed.claim(1, Kind::On), 2, |_| ()).await.len()
        }
        Err(_) => 0,
    };
    server.set("SET GLOBAL binlog_format='MIXED'").await;
    bed.unwrap();
    assert_eq!(claimed, 2);
}
