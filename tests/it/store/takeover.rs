//! An original's table becomes ours, whoever else is at it.

use std::time::Duration;

use ec2_ipam::domain::address::{Event, State};
use ec2_ipam::domain::id::Kind;
use ec2_ipam::store::{Database, Store, StoreError};
use mysql_async::prelude::Queryable;
use tokio::time::Instant;

use super::bed::{Bed, Raw, ip, on_servers, open, soon, subnet, token};
use crate::support::galera;
use crate::support::mariadb::{Db, ORIGINAL};

const ROWS: &str = "INSERT INTO allocation (ip,subnet,status,iface,`primary`,ts) VALUES
  ('10.0.0.1','subnet-0123456789abcdef0','reserved',NULL,0,'2019-03-31 01:30:00'),
  ('10.0.0.10','subnet-0123456789abcdef0','free',NULL,0,'2019-03-31 01:30:00'),
  ('10.0.0.11','subnet-0123456789abcdef0','ready','eni-0123456789abcde01',0,'2019-10-27 00:30:00'),
  ('10.0.0.12','subnet-0123456789abcdef0','occupied','eni-0123456789abcde01',0,'2019-10-27 01:30:00'),
  ('10.0.0.13','subnet-0123456789abcdef0','allocated','eni-0123456789abcde01',0,'2019-03-31 01:30:00'),
  ('10.0.0.14','subnet-0123456789abcdef0','occupied','eni-0123456789abcde01',1,'2019-03-31 01:30:00')";

on_servers! {
    its_rows_keep_their_meaning
    eight_hosts_migrate_at_once
    a_metadata_lock_is_waited_for
    without_the_right_to_alter_a_fitting_schema_is_used_as_it_is
    more_than_we_know_does_no_harm_and_less_is_refused
    another_engine_is_advised_against
    ages_depend_on_nobodys_time_zone
}

async fn original(db: &Db) {
    db.exec(ORIGINAL).await;
    db.exec(ROWS).await;
}

async fn try_open(url: &str, until: Instant) -> Result<Store, StoreError> {
    Store::open(&url.parse::<Database>().unwrap(), until).await
}

async fn its_rows_keep_their_meaning(db: Db) {
    original(&db).await;
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

async fn eight_hosts_migrate_at_once(db: Db) {
    migrate_at_once(&vec![db.url(); 8]).await;
    db.exec("DROP TABLE allocation,task,host,recycle,history").await;
    original(&db).await;
    migrate_at_once(&vec![db.url(); 8]).await;
}

/// On the three nodes of a cluster.
#[tokio::test]
async fn nine_hosts_migrate_on_three_nodes_at_once() {
    let Some((cluster, _turn)) = galera::shared().await else { return };
    let db = cluster.db(0).await;
    let urls: Vec<_> = (0..9).map(|host| db.url_over(&cluster.ports_from(host))).collect();
    migrate_at_once(&urls).await;
    db.exec("DROP TABLE allocation,task,host,recycle,history").await;
    original(&db).await;
    migrate_at_once(&urls).await;
}

async fn migrate_at_once(urls: &[String]) {
    let opening: Vec<_> = urls
        .iter()
        .map(|url| {
            let url = url.clone();
            tokio::spawn(async move { try_open(&url, soon()).await })
        })
        .collect();
    for opened in opening {
        let store = opened.await.unwrap().unwrap();
        assert!(store.describe(soon()).await.unwrap().lacking.is_empty());
    }
}

async fn a_metadata_lock_is_waited_for(db: Db) {
    original(&db).await;
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

async fn without_the_right_to_alter_a_fitting_schema_is_used_as_it_is(db: Db) {
    original(&db).await;
    let user = format!("plain_{}", db.name);
    db.exec(&format!("CREATE USER {user} IDENTIFIED BY 'p'")).await;
    db.exec(&format!("GRANT SELECT,INSERT,UPDATE ON {}.* TO {user}", db.name)).await;
    let url = format!("mysql://{user}:p@127.0.0.1:{}/{}", db.server.port, db.name);
    let StoreError::Schema { lacks, sql } = try_open(&url, soon()).await.unwrap_err() else { panic!() };
    assert_eq!(
        lacks,
        "column claim, column claimed, column holder, key cold, key mine, the table `task`, the table `host`, the table `recycle`, column host.told, the table `history`, \
         column net, column in_block, key whole"
    );
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
        except: &[],
        count: 9,
        claim: &bed_claim,
    };
    let claimed = store.claim_free(&wanted, soon()).await.unwrap();
    assert_eq!(claimed.iter().map(|row| row.ip).collect::<Vec<_>>(), [ip(10)]);
}

async fn more_than_we_know_does_no_harm_and_less_is_refused(db: Db) {
    original(&db).await;
    db.exec("ALTER TABLE allocation ADD note text, ADD KEY theirs (ts), CONVERT TO CHARACTER SET latin1").await;
    let bed = Bed::on(open(&db.url()).await, db);
    assert_eq!(bed.claim_free(&token(Kind::On), 9, |_| ()).await, [ip(10)]);
    let Raw::MySql(db) = &bed.raw else { panic!() };
    db.exec("DROP TABLE allocation; CREATE TABLE allocation (id int PRIMARY KEY, ip varchar(40))").await;
    let error = try_open(&db.url(), soon()).await.unwrap_err().to_string();
    assert!(error.contains("is not ec2-ipam's") && error.contains("database of its own"), "{error}");
}

async fn another_engine_is_advised_against(db: Db) {
    original(&db).await;
    db.exec("ALTER TABLE allocation ENGINE=MyISAM").await;
    let lacking = open(&db.url()).await.describe(soon()).await.unwrap().lacking;
    assert!(lacking.len() == 1 && lacking[0].contains("ENGINE=InnoDB"), "{lacking:?}");
}

/// The server itself runs in a zone with DST, and repeats the hour between the first two.
async fn ages_depend_on_nobodys_time_zone(db: Db) {
    let bed = Bed::on(open(&db.url()).await, db);
    bed.free(10..=12).await;
    let Raw::MySql(db) = &bed.raw else { panic!() };
    for (last, utc) in [(10, "2019-10-27 00:30:00"), (11, "2019-10-27 01:30:00")] {
        db.exec(&format!("UPDATE allocation SET ts='{utc}',claimed='{utc}' WHERE ip='10.0.0.{last}'")).await;
    }
    db.exec("SET time_zone='+05:45'; UPDATE allocation SET ts=NOW()-INTERVAL 1000 SECOND WHERE ip='10.0.0.12'").await;
    let rows = bed.store.rows_at(&[ip(10), ip(11), ip(12)], soon()).await.unwrap();
    assert_eq!(rows[0].idle - rows[1].idle, Duration::from_secs(3600));
    assert_eq!(rows[0].claimed.unwrap() - rows[1].claimed.unwrap(), Duration::from_secs(3600));
    assert!((1000..1600).contains(&rows[2].idle.as_secs()), "let go 1000 s ago, says {:?}", rows[2].idle);
}
