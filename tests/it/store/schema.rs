//! What somebody does to the tables under a store that is open.

use std::time::Duration;

use ec2_ipam::domain::address::{Event, Status};
use ec2_ipam::domain::history::Use;
use ec2_ipam::domain::id::Kind;
use ec2_ipam::domain::roll::{HostEntry, Request};
use ec2_ipam::store::{FreeClaim, Store, StoreError};
use mysql_async::prelude::Queryable;

use super::bed::{Bed, Raw, eni, ip, new_row, on_all, on_servers, open, soon, subnet};
use crate::support::mariadb::Db;

mod everywhere {
    use super::*;
    on_all! { what_was_dropped_under_an_open_store_is_there_again }
}

on_servers! {
    without_the_right_to_change_it_a_schema_that_was_damaged_is_told_as_at_the_start
    what_no_step_can_add_is_told
    a_database_that_was_dropped_is_named_and_used_again_once_it_is_back
}

/// Damage that the driver's own steps mend.
const DAMAGE: [(&str, &str); 11] = [
    ("DROP TABLE allocation", "DROP TABLE allocation"),
    ("DROP TABLE allocation,task", "DROP TABLE allocation; DROP TABLE task"),
    ("ALTER TABLE allocation DROP COLUMN claim,DROP COLUMN claimed", "ALTER TABLE allocation DROP COLUMN claim"),
    ("ALTER TABLE allocation DROP COLUMN holder", "ALTER TABLE allocation DROP COLUMN holder"),
    ("ALTER TABLE allocation DROP KEY cold,DROP KEY mine", "DROP INDEX IF EXISTS cold; DROP INDEX IF EXISTS mine"),
    (
        "ALTER TABLE allocation DROP KEY whole,DROP COLUMN net,DROP COLUMN in_block",
        "ALTER TABLE allocation DROP COLUMN in_block",
    ),
    ("DROP TABLE task", "DROP TABLE task"),
    ("DROP TABLE host,recycle", "DROP TABLE host; DROP TABLE recycle"),
    ("DROP TABLE recycle", "ALTER TABLE recycle DROP COLUMN freed"),
    ("ALTER TABLE host DROP COLUMN told", "ALTER TABLE host DROP COLUMN told"),
    ("DROP TABLE history", "ALTER TABLE history DROP COLUMN how"),
];

/// Every call of a store, each on its own terms; the first refusal.
async fn every_call(bed: &Bed) -> Result<(), StoreError> {
    let (store, until) = (&bed.store, soon());
    let (subnet, eni, claim) = (subnet(), eni(1), bed.claim(fastrand::u64(..), Kind::On));
    let wanted = FreeClaim {
        subnet: &subnet,
        eni: &eni,
        sub_pool: None,
        cooldown: Duration::ZERO,
        except: &[],
        count: 1,
        claim: &claim,
    };
    store.insert_missing(&subnet, &[new_row(ip(10), Status::Free), new_row(ip(11), Status::Free)], until).await?;
    let row = store.row(ip(10), until).await?.expect("a row");
    if let Ok(change) = row.on(Event::Reserve { holder: None }) {
        assert_eq!(store.apply(&[change], until).await?, [true]);
    }
    store.rows_of_eni(&eni, until).await?;
    store.rows_of_subnet(&subnet, until).await?;
    store.rows_taken(&subnet, until).await?;
    store.census(&subnet, until).await?;
    store.claim_free(&wanted, until).await?;
    store.whole_blocks(&subnet, None, 64, until).await?;
    super::blocks::claim_blocks(store, &[super::blocks::block(1)], 1, &claim).await;
    assert!(store.hold_task("scan", "me", Duration::from_secs(60), until).await?);
    let of = Use::begins(bed.claim(fastrand::u64(..), Kind::Lease), ip(12), eni.clone(), Some("web"), 1);
    store.tell_uses(std::slice::from_ref(&of), until).await?;
    assert!(store.uses_of(ip(12), until).await?.contains(&of));
    let request = Request { subnet, token: "t".into() };
    store.ask(&["i-1".into()], &request, until).await?;
    let host = HostEntry { instance: "i-1".into(), enis: vec![eni], version: "1".into(), journal: None, told: None };
    assert_eq!(store.enter(&host, Duration::from_secs(60), until).await?, [request]);
    Ok(())
}

async fn what_was_dropped_under_an_open_store_is_there_again(bed: Bed) {
    every_call(&bed).await.unwrap();
    // Each call meets the damage first in its turn.
    for (mysql, sqlite) in DAMAGE {
        for first in 0..8 {
            bed.exec(mysql, sqlite).await;
            let met = match first {
                0 => bed.store.rows_of_eni(&eni(1), soon()).await.map(drop),
                1 => bed.store.census(&subnet(), soon()).await.map(drop),
                2 => bed.store.hold_task("scan", "me", Duration::from_secs(60), soon()).await.map(drop),
                3 => bed.store.hosts(soon()).await.map(drop),
                4 => bed.store.answers(&["i-1".into()], &subnet(), soon()).await.map(drop),
                5 => bed.store.insert_missing(&subnet(), &[new_row(ip(10), Status::Free)], soon()).await.map(drop),
                6 => bed.store.whole_blocks(&subnet(), None, 64, soon()).await.map(drop),
                _ => Ok(()),
            };
            met.unwrap_or_else(|why| panic!("{mysql}: {why}"));
            every_call(&bed).await.unwrap_or_else(|why| panic!("{mysql}: {why}"));
            assert!(bed.store.describe(soon()).await.unwrap().lacking.is_empty(), "{mysql}");
        }
    }
}

async fn plain_user(db: &Db) -> Store {
    let user = format!("plain_{}", db.name);
    db.exec(&format!("CREATE USER {user} IDENTIFIED BY 'p'")).await;
    db.exec(&format!("GRANT SELECT,INSERT,UPDATE ON {}.* TO {user}", db.name)).await;
    open(&format!("mysql://{user}:p@127.0.0.1:{}/{}", db.server.port, db.name)).await
}

async fn without_the_right_to_change_it_a_schema_that_was_damaged_is_told_as_at_the_start(db: Db) {
    open(&db.url()).await;
    let bed = Bed::on(plain_user(&db).await, db);
    every_call(&bed).await.unwrap();
    let Raw::MySql(db) = &bed.raw else { panic!() };
    // Nor may it delete, which only ever tidies up.
    let refused = bed.store.forget(&["i-1".into()], Duration::ZERO, soon()).await;
    assert!(matches!(refused, Err(StoreError::Refused { .. })), "{refused:?}");
    for (damage, lack) in [
        ("ALTER TABLE allocation DROP KEY mine", "key mine"),
        ("ALTER TABLE allocation DROP COLUMN claim", "column claim"),
        ("DROP TABLE task", "the table `task`"),
        ("DROP TABLE host", "the table `host`"),
        ("DROP TABLE recycle", "the table `recycle`"),
        ("ALTER TABLE host DROP COLUMN told", "column host.told"),
        ("DROP TABLE history", "the table `history`"),
        ("DROP TABLE allocation", "the table `allocation`"),
    ] {
        db.exec(damage).await;
        let StoreError::Schema { lacks, sql } = every_call(&bed).await.unwrap_err() else { panic!("{damage}") };
        assert!(lacks.contains(lack) && !sql.is_empty(), "{damage}: {lacks}");
        // The administrator does it, and nothing is started anew.
        db.exec(&sql).await;
        every_call(&bed).await.unwrap_or_else(|why| panic!("{damage}: {why}"));
    }
}

async fn what_no_step_can_add_is_told(db: Db) {
    let bed = Bed::on(open(&db.url()).await, db);
    every_call(&bed).await.unwrap();
    let Raw::MySql(db) = &bed.raw else { panic!() };
    for (damage, back, says) in [
        ("MODIFY claim varchar(10) NULL", "MODIFY claim varchar(64) NULL", "its column claim is varchar(10) NULL"),
        (
            "MODIFY claim varchar(64) NOT NULL DEFAULT ''",
            "MODIFY claim varchar(64) NULL",
            "its column claim is varchar(64) NOT NULL",
        ),
        ("CHANGE subnet vlan varchar(32) NOT NULL", "CHANGE vlan subnet varchar(32) NOT NULL", "no column subnet"),
        ("ADD note int NOT NULL", "DROP COLUMN note", "'note'"),
    ] {
        db.exec(&format!("TRUNCATE allocation; ALTER TABLE allocation {damage}")).await;
        let why = every_call(&bed).await.unwrap_err().to_string();
        assert!(why.contains(says) && why.starts_with("the database 127.0.0.1:"), "{damage}: {why}");
        db.exec(&format!("ALTER TABLE allocation {back}")).await;
        every_call(&bed).await.unwrap_or_else(|why| panic!("{back}: {why}"));
    }
    db.exec("ALTER TABLE task DROP COLUMN `until`").await;
    let why = every_call(&bed).await.unwrap_err().to_string();
    assert!(why.contains("no column task.until"), "{why}");
}

async fn a_database_that_was_dropped_is_named_and_used_again_once_it_is_back(db: Db) {
    let bed = Bed::on(open(&db.url()).await, db);
    every_call(&bed).await.unwrap();
    let Raw::MySql(db) = &bed.raw else { panic!() };
    let mut root = db.server.root(None).await;
    root.query_drop(format!("DROP DATABASE {}", db.name)).await.unwrap();
    let why = every_call(&bed).await.unwrap_err();
    assert!(matches!(&why, StoreError::Refused { why, .. } if why.contains(&db.name)), "{why}");
    root.query_drop(format!("CREATE DATABASE {}", db.name)).await.unwrap();
    every_call(&bed).await.unwrap();
}
