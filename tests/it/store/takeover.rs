//! An original's table becomes ours, whoever else is at it.

use std::time::Duration;

use ec2_ipam::address::{Event, State};
use ec2_ipam::id::Kind;
use ec2_ipam::store::{Database, Store, StoreError};
use mysql_async::prelude::Queryable;
use tokio::time::Instant;

use super::bed::{Bed, ip, open, soon, subnet, token};
use crate::support::mariadb::{Db, ORIGINAL};

const ROWS: &str = "INSERT INTO allocation (ip,subnet,status,iface,`primary`,ts) VALUES
  ('10.0.0.1','subnet-0123456789abcdef0','reserved',NULL,0,'2019-03-31 01:30:00'),
  ('10.0.0.10','subnet-0123456789abcdef0','free',NULL,0,'2019-03-31 01:30:00'),
  ('10.0.0.11','subnet-0123456789abcdef0','ready','eni-0123456789abcde01',0,'2019-10-27 00:30:00'),
  ('10.0.0.12','subnet-0123456789abcdef0','occupied','eni-0123456789abcde01',0,'2019-10-27 01:30:00'),
  ('10.0.0.13','subnet-0123456789abcdef0','allocated','eni-0123456789abcde01',0,'2019-03-31 01:30:00'),
  ('10.0.0.14','subnet-0123456789abcdef0','occupied','eni-0123456789abcde01',1,'2019-03-31 01:30:00')";

async fn original() -> Db {
    let db = Db::new().await;
    db.exec(ORIGINAL).await;
    db.exec(ROWS).await;
    db
}

async fn try_open(url: &str, until: Instant) -> Result<Store, StoreError> {
    Store::open(&url.parse::<Database>().unwrap(), until).await
}

#[tokio::test]
async fn its_rows_keep_their_meaning() {
    let db = original().await;
    let store = open(&db.url()).await;
    // Twice is once.
    open(&db.url()).await;
    let rows = store.rows_of_subnet(&subnet(), soon()).await.unwrap();
    let states: Vec<_> = rows.iter().map(|row| row.state()).collect();
    assert_eq!(states, [State::Reserved, State::Free, State::Ready, State::Foreign, State::Off, State::Foreign]);
    assert!(rows[5].primary && rows.iter().all(|row| row.claim.is_none() && row.holder.is_none()));
    // The server's own zone repeats the hour between these two.
    assert_eq!(rows[2].idle - rows[3].idle, Duration::from_secs(3600));
    // The original lost a primary's mark; EC2 knew better.
    let mark = rows[3].on(Event::MarkPrimary).unwrap();
    assert_eq!(store.apply(&[mark], soon()).await.unwrap(), [true]);
    let after = store.row(ip(12), soon()).await.unwrap().unwrap();
    assert!(after.primary && after.idle >= rows[3].idle);
    // The original goes on.
    db.exec("UPDATE allocation SET status='ready',iface='eni-0123456789abcde02' WHERE ip='10.0.0.10'").await;
}

#[tokio::test]
async fn eight_hosts_migrate_at_once() {
    for db in [original().await, Db::new().await] {
        let opening: Vec<_> = (0..8)
            .map(|_| {
                let url = db.url();
                tokio::spawn(async move { try_open(&url, soon()).await })
            })
            .collect();
        for opened in opening {
            let store = opened.await.unwrap().unwrap();
            assert!(store.describe(soon()).await.unwrap().lacking.is_empty());
        }
    }
}

#[tokio::test]
async fn a_metadata_lock_is_waited_for() {
    let db = original().await;
    let mut reader = db.session().await;
    reader.query_drop("START TRANSACTION").await.unwrap();
    reader.query_drop("SELECT * FROM allocation").await.unwrap();
    let error = try_open(&db.url(), Instant::now() + Duration::from_millis(1500)).await.unwrap_err();
    assert!(matches!(error, StoreError::Busy { .. } | StoreError::Unreachable { .. }), "{error}");
    let url = db.url();
    let opening = tokio::spawn(async move { try_open(&url, soon()).await });
    tokio::time::sleep(Duration::from_millis(1500)).await;
    reader.query_drop("COMMIT").await.unwrap();
    opening.await.unwrap().unwrap();
}

#[tokio::test]
async fn without_the_right_to_alter_a_fitting_schema_is_used_as_it_is() {
    let db = original().await;
    let user = format!("plain_{}", db.name);
    db.exec(&format!("CREATE USER {user} IDENTIFIED BY 'p'")).await;
    db.exec(&format!("GRANT SELECT,INSERT,UPDATE ON {}.* TO {user}", db.name)).await;
    let url = format!("mysql://{user}:p@127.0.0.1:{}/{}", crate::support::mariadb::server().port, db.name);
    let StoreError::Schema { lacks, sql } = try_open(&url, soon()).await.unwrap_err() else { panic!() };
    assert_eq!(lacks, "column claim, column claimed, column holder, key cold, key mine, the table `task`");
    let mut administrator = db.session().await;
    administrator.query_drop(sql).await.unwrap();
    administrator.disconnect().await.unwrap();
    let bed_claim = token(Kind::On);
    let store = open(&url).await;
    let eni = super::bed::eni(1);
    let wanted = ec2_ipam::store::FreeClaim {
        subnet: &subnet(),
        eni: &eni,
        sub_pool: None,
        cooldown: Duration::ZERO,
        count: 9,
        claim: &bed_claim,
    };
    assert_eq!(store.claim_free(&wanted, soon()).await.unwrap(), [ip(10)]);
}

#[tokio::test]
async fn more_than_we_know_does_no_harm_and_less_is_refused() {
    let db = original().await;
    db.exec("ALTER TABLE allocation ADD note text, ADD KEY theirs (ts), CONVERT TO CHARACTER SET latin1").await;
    let bed = Bed::on(open(&db.url()).await, db);
    assert_eq!(bed.claim_free(&token(Kind::On), 9, |_| ()).await, [ip(10)]);
    let db = Db::new().await;
    db.exec("CREATE TABLE allocation (id int PRIMARY KEY, ip varchar(40))").await;
    let error = try_open(&db.url(), soon()).await.unwrap_err().to_string();
    assert!(error.contains("is not ec2-ipam's") && error.contains("database of its own"), "{error}");
}

#[tokio::test]
async fn another_engine_is_advised_against() {
    let db = original().await;
    db.exec("ALTER TABLE allocation ENGINE=MyISAM").await;
    let lacking = open(&db.url()).await.describe(soon()).await.unwrap().lacking;
    assert!(lacking.len() == 1 && lacking[0].contains("ENGINE=InnoDB"), "{lacking:?}");
}
