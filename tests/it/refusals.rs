//! What only a person can mend is refused at once, and tried again until somebody has mended it; what is refused for want of
//! addresses says what is true.

use ec2_ipam::domain::address::State;
use serde_json::json;
use vpc_sim::Switches;

use crate::support::host::{Fleet, Host, Kind, eventually, ip};
use crate::support::mariadb::{Db, server};

/// More requests one after the other than could each be waited for.
const REQUESTS: usize = 12;

/// Each of them is refused with this in its sentence, in the time of one that waits.
async fn is_refused_at_once(host: &Host, says: &str) {
    let mut refused = 0;
    eventually("each is refused at once", async || {
        let why = host.pool_with("", json!({})).await.unwrap_err();
        // Before the first attempt has its answer nothing is known.
        assert!(refused == 0 || why.contains(says), "{why}");
        assert!(why.len() < 400 && !why.contains("CREATE"), "one short sentence: {why}");
        refused += usize::from(why.contains(says));
        refused >= REQUESTS
    })
    .await;
}

async fn is_served_again(host: &Host) {
    eventually("it is tried again by itself", async || host.pool_with("", json!({})).await.is_ok()).await;
}

/// A host whose user has this password, and no rights.
async fn bed(fleet: &Fleet, n: u8, password: &str, options: &str) -> (Host, String) {
    let (mut host, db) = (fleet.host(n), fleet.db.as_ref().unwrap());
    let user = format!("{}_{n}", db.name);
    db.exec(&format!("CREATE USER {user} IDENTIFIED BY '{password}'")).await;
    let url = format!("mysql://{user}:right@127.0.0.1:{}/{}{options}", host.proxy.as_ref().unwrap().port, db.name);
    host.set(&[("EC2_IPAM_DATABASE_URL", &url), ("EC2_IPAM_REQUEST_TIMEOUT", "20s")]);
    (host, user)
}

async fn all_rights(db: &Db, user: &str) {
    db.exec(&format!("GRANT ALL ON {}.* TO {user}", db.name)).await;
}

#[tokio::test]
async fn a_wrong_password_is_refused_at_once_until_it_is_right() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (mut host, user) = bed(&fleet, 1, "wrong", "").await;
    let db = fleet.db.as_ref().unwrap();
    all_rights(db, &user).await;
    host.start().await;
    is_refused_at_once(&host, "Access denied").await;
    db.exec(&format!("ALTER USER {user} IDENTIFIED BY 'right'")).await;
    is_served_again(&host).await;
    // Under a driver that had its database: what waits for the ENI's task is refused too.
    let pool = host.pool().await;
    host.lease(&pool).await;
    db.exec(&format!("ALTER USER {user} IDENTIFIED BY 'wrong'")).await;
    host.proxy.as_ref().unwrap().cut();
    let mut refused = 0;
    eventually("each is refused at once", async || {
        let why = host.request(&pool, "").await.unwrap_err();
        assert!(why.contains("Access denied"), "{why}");
        refused += 1;
        refused >= REQUESTS
    })
    .await;
    db.exec(&format!("ALTER USER {user} IDENTIFIED BY 'right'")).await;
    eventually("it is served again", async || host.request(&pool, "").await.is_ok()).await;
}

#[tokio::test]
async fn what_the_schema_lacks_is_a_short_sentence_and_a_command_prints_the_rest() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (mut host, user) = bed(&fleet, 1, "right", "").await;
    let db = fleet.db.as_ref().unwrap();
    db.exec(&format!("GRANT SELECT,INSERT,UPDATE ON {}.* TO {user}", db.name)).await;
    host.start().await;
    is_refused_at_once(&host, "have an administrator run what `ec2-ipam schema` prints").await;
    let sql = host.tell(&["schema"]).await;
    assert!(sql.contains("CREATE TABLE") && sql.lines().all(|line| line.ends_with(';')), "{sql}");
    assert_eq!(host.run(&["schema", "--all"]).await, (true, sql.clone()));
    db.exec(&sql).await;
    is_served_again(&host).await;
    assert_eq!(host.tell(&["schema"]).await, "-- the database lacks nothing\n");
}

#[tokio::test]
async fn a_missing_database_and_authority_are_named_at_once() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let db = fleet.db.as_ref().unwrap();
    let file = tempfile::tempdir().unwrap().keep().join("ca.pem");
    let (mut host, user) = bed(&fleet, 1, "right", &format!("_new?ssl-name=localhost&ssl-ca={}", file.display())).await;
    db.exec(&format!("GRANT ALL ON {}_new.* TO {user}", db.name)).await;
    host.start().await;
    is_refused_at_once(&host, &format!("{} of ssl-ca cannot be read", file.display())).await;
    std::fs::copy(server().dir.join("ca.pem"), &file).unwrap();
    let unknown = format!("Unknown database '{}_new'", db.name);
    eventually("the file is read", async || {
        host.pool_with("", json!({})).await.is_err_and(|why| why.contains(&unknown))
    })
    .await;
    is_refused_at_once(&host, &unknown).await;
    db.exec(&format!("CREATE DATABASE {}_new", db.name)).await;
    is_served_again(&host).await;
    db.exec(&format!("DROP DATABASE {}_new", db.name)).await;
    std::fs::remove_dir_all(file.parent().unwrap()).unwrap();
}

#[tokio::test]
async fn a_file_that_was_moved_away_is_made_anew_and_filled() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let (host, pool) = fleet.started(1, &[]).await;
    let first = host.lease(&pool).await;
    host.rows().await;
    let state = host.dir.path().join("state");
    std::fs::rename(&state, host.dir.path().join("away")).unwrap();
    let second = host.lease(&pool).await;
    assert_ne!(second, first, "I1: a container has it");
    assert_eq!(host.rows().await.len(), 256, "No rows is not none free");
    assert_eq!(host.row(second).await.state, State::Lease);
    let away = rusqlite::Connection::open(host.dir.path().join("away/ipam.db")).unwrap();
    let leases = "SELECT count(*) FROM allocation WHERE claim LIKE '%:lease'";
    assert_eq!(away.query_row(leases, [], |row| row.get::<_, u32>(0)).unwrap(), 1, "what was moved is whole");
}

#[tokio::test]
async fn a_table_that_is_emptied_is_filled_again() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (host, pool) = fleet.started(1, &[]).await;
    let first = host.lease(&pool).await;
    fleet.db.as_ref().unwrap().exec("DROP TABLE allocation, task").await;
    assert_ne!(host.lease(&pool).await, first, "I1: a container has it");
    assert_eq!(host.count_rows().await, 256);
}

#[tokio::test]
async fn addresses_that_are_still_looked_at_are_not_called_taken() {
    let fleet = Fleet::with(Kind::Sqlite, "10.77.0.0/28", Switches::default()).await;
    let mut host = fleet.host_of(1, "c5.4xlarge");
    let docker = host.docker();
    docker.runs(&[]);
    for last in 5..=14 {
        fleet.vpc.add_address(&host.eni, ip(last));
    }
    fleet.vpc.settle();
    host.start().await;
    let pool = host.pool().await;
    if let Err(why) = host.request(&pool, "").await {
        assert!(why.contains("still being looked at") && !why.contains("--all"), "{why}");
    }
}
