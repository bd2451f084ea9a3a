//! What an administrator does to a database in a year, under a driver that goes on working. None of it is a fault: what ends
//! by itself costs no call, and what does not is named.

use std::time::Duration;

use ec2_ipam::store::{Store, StoreError};
use futures_util::future::join_all;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};
use tokio::time::{Instant, sleep};

use super::bed::{Bed, Raw, ip, open, soon};
use super::calls::Call;
use crate::support::mariadb::{self, Mariadb};
use crate::support::server::Db;

/// Longer than a statement of ours waits for a lock.
const WHILE: Duration = Duration::from_secs(5);

/// What happens, and how it ends.
enum Event {
    /// At once.
    Now(&'static str),
    /// In a session that then rests, and the statements that end it.
    Held(&'static [&'static str], &'static str),
    /// By other means.
    Done(fn(&'static Mariadb, Db) -> futures_util::future::BoxFuture<'static, ()>),
}
use Event::{Done, Held, Now};

/// `{db}` is the database's name.
fn year() -> Vec<(&'static str, Event)> {
    vec![
        // Backups.
        ("a backup under a global read lock", Held(&["FLUSH TABLES WITH READ LOCK"], "UNLOCK TABLES")),
        ("a backup's last stage", Held(&["BACKUP STAGE START", "BACKUP STAGE BLOCK_COMMIT"], "BACKUP STAGE END")),
        (
            "a dump of one state",
            Held(&["START TRANSACTION WITH CONSISTENT SNAPSHOT", "SELECT * FROM {db}.allocation"], "COMMIT"),
        ),
        ("a dump under table locks", Held(&["LOCK TABLES {db}.allocation READ, {db}.task READ"], "UNLOCK TABLES")),
        ("a restore's table lock", Held(&["LOCK TABLES {db}.allocation WRITE, {db}.task WRITE"], "UNLOCK TABLES")),
        // Locks that somebody forgot.
        (
            "a transaction that has all rows",
            Held(&["START TRANSACTION", "SELECT * FROM {db}.allocation FOR UPDATE"], "COMMIT"),
        ),
        (
            "a transaction that has changed a row",
            Held(&["START TRANSACTION", "UPDATE {db}.allocation SET holder='x' WHERE ip='10.0.0.40'"], "ROLLBACK"),
        ),
        ("an ALTER behind a reader", Done(|server, db| Box::pin(alter_behind_a_reader(server, db)))),
        // Tables.
        ("a column more", Now("ALTER TABLE {db}.allocation ADD COLUMN note TEXT")),
        ("an index more", Now("ALTER TABLE {db}.allocation ADD KEY theirs (ts)")),
        ("a table rebuilt", Now("ALTER TABLE {db}.allocation ENGINE=InnoDB")),
        ("a table copied", Now("ALTER TABLE {db}.allocation FORCE, ALGORITHM=COPY")),
        ("another collation", Now("ALTER TABLE {db}.allocation CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")),
        ("another character set", Now("ALTER TABLE {db}.allocation CONVERT TO CHARACTER SET latin1")),
        ("another default of the database", Now("ALTER DATABASE {db} CHARACTER SET latin1 COLLATE latin1_german1_ci")),
        ("statistics", Now("ANALYZE TABLE {db}.allocation PERSISTENT FOR ALL")),
        ("an optimized table", Now("OPTIMIZE TABLE {db}.allocation")),
        ("a checked table", Now("CHECK TABLE {db}.allocation")),
        // Housekeeping.
        ("tables closed", Now("FLUSH TABLES")),
        ("privileges read again", Now("FLUSH PRIVILEGES")),
        ("logs rotated", Now("FLUSH LOGS")),
        ("hosts forgiven", Now("FLUSH HOSTS")),
        ("certificates read again", Now("FLUSH SSL")),
        ("rights taken that are needed no more", Now("REVOKE CREATE, ALTER, INDEX ON {db}.* FROM plain_{db}")),
        // Settings, for sessions to come.
        ("another SQL mode", Now("SET GLOBAL sql_mode='ANSI,TRADITIONAL'")),
        ("another time zone", Now("SET GLOBAL time_zone='-03:00'")),
        ("another character set of the server", Now("SET GLOBAL character_set_server='latin1'")),
        ("another isolation", Now("SET GLOBAL tx_isolation='SERIALIZABLE'")),
        ("another log format", Now("SET GLOBAL binlog_format='MIXED'")),
        ("short time-outs", Now("SET GLOBAL wait_timeout=1, GLOBAL lock_wait_timeout=1, GLOBAL max_statement_time=1")),
        // Connections and servers.
        ("connections killed", Done(|server, db| Box::pin(killed(server, db, "KILL")))),
        ("statements killed", Done(|server, db| Box::pin(killed(server, db, "KILL QUERY")))),
        ("no connection left", Done(|server, db| Box::pin(full(server, db)))),
        ("a server that takes no writes for a while", Done(|server, db| Box::pin(read_only(server, db)))),
        ("a restart", Done(|server, _| Box::pin(restart(server, "stop")))),
        ("a crash", Done(|server, _| Box::pin(restart(server, "kill")))),
    ]
}

async fn alter_behind_a_reader(_: &'static Mariadb, db: Db) {
    let (mut reader, mut other) = (db.session().await, db.session().await);
    reader.query_drop("START TRANSACTION").await.unwrap();
    reader.query_drop("SELECT * FROM allocation").await.unwrap();
    let ending = async {
        sleep(WHILE).await;
        reader.query_drop("COMMIT").await.unwrap();
    };
    let (altered, ()) = tokio::join!(other.query_drop("ALTER TABLE allocation ADD COLUMN note TEXT"), ending);
    altered.unwrap();
}

/// Each of the store's own, for a while.
async fn killed(server: &'static Mariadb, db: Db, how: &str) {
    let mut root = server.server.root(None).await;
    let read = format!("SELECT id FROM information_schema.processlist WHERE user='plain_{}'", db.name);
    for _ in 0..20 {
        for id in root.query::<u64, _>(&read).await.unwrap() {
            // It may be gone by itself.
            let _ = root.query_drop(format!("{how} {id}")).await;
        }
        sleep(Duration::from_millis(50)).await;
    }
}

async fn full(server: &'static Mariadb, db: Db) {
    let mut root = server.server.root(None).await;
    root.query_drop("SET GLOBAL max_connections=10").await.unwrap();
    let read = format!("SELECT id FROM information_schema.processlist WHERE user='plain_{}'", db.name);
    let mut others: Vec<Conn> = Vec::new();
    let end = Instant::now() + WHILE;
    while Instant::now() < end {
        for id in root.query::<u64, _>(&read).await.unwrap() {
            let _ = root.query_drop(format!("KILL {id}")).await;
        }
        let options =
            OptsBuilder::default().socket(Some(server.server.socket.display().to_string())).user(Some("root"));
        others.extend(Conn::new(options).await);
        sleep(Duration::from_millis(20)).await;
    }
    root.query_drop("SET GLOBAL max_connections=500").await.unwrap();
}

async fn read_only(server: &'static Mariadb, _: Db) {
    server.server.set("SET GLOBAL read_only=ON").await;
    sleep(WHILE).await;
    server.server.set("SET GLOBAL read_only=OFF").await;
}

async fn restart(server: &'static Mariadb, how: &'static str) {
    server.tell(how);
    sleep(Duration::from_secs(1)).await;
    server.tell("start");
    tokio::task::spawn_blocking(|| server.server.wait("SELECT 'up'", "up", &server.dir)).await.unwrap();
}

impl Event {
    async fn happen(&self, server: &'static Mariadb, db: Db) {
        match self {
            Now(sql) => db.exec(&sql.replace("{db}", &db.name)).await,
            Held(begin, end) => {
                let mut session = db.session().await;
                for sql in *begin {
                    session.query_drop(sql.replace("{db}", &db.name)).await.unwrap();
                }
                sleep(WHILE).await;
                session.query_drop(*end).await.unwrap();
                session.disconnect().await.unwrap();
            }
            Done(what) => what(server, db).await,
        }
    }
}

/// Settings as they were, for the next event.
const USUAL: &str = "SET GLOBAL sql_mode=DEFAULT, GLOBAL time_zone=SYSTEM, GLOBAL character_set_server=DEFAULT, \
    GLOBAL tx_isolation=DEFAULT, GLOBAL wait_timeout=DEFAULT, GLOBAL lock_wait_timeout=DEFAULT, \
    GLOBAL max_statement_time=DEFAULT, GLOBAL binlog_format=DEFAULT";

#[tokio::test]
async fn what_passes_costs_no_call() {
    let (server, _turn) = mariadb::alone().await;
    for (name, event) in year() {
        let db = Db::on(&server.server).await;
        let beside = Db { name: db.name.clone(), server: db.server };
        let bed = Bed::on(open(&db.url_of_plain_user().await).await, db);
        let mut given = Vec::new();
        for call in Call::ALL {
            given.push(call.given(&bed).await);
        }
        let calls = async {
            // The event is first, and lasts beyond the calls' first attempts.
            sleep(Duration::from_millis(300)).await;
            join_all(given.iter().map(|given| given.make(&bed.store, soon()))).await
        };
        let (made, ()) = tokio::join!(calls, event.happen(server, beside));
        for (call, made) in Call::ALL.iter().zip(made) {
            assert_eq!(made, Ok(()), "{call:?} during {name}");
        }
        for given in &given {
            assert!(given.happened(&bed.store).await, "{name}");
        }
        // Whoever comes after it, too.
        assert_eq!(bed.store.row(ip(10), soon()).await.unwrap().unwrap().ip, ip(10), "after {name}");
        server.server.set(USUAL).await;
    }
}

/// What a call is told that had less time than it lasted.
#[tokio::test]
async fn what_lasts_is_named() {
    let (server, _turn) = mariadb::alone().await;
    const TABLE: &str = "is locked as a whole";
    const ROWS: &str = "other sessions hold the rows";
    for (begin, end, call, says) in [
        ("FLUSH TABLES WITH READ LOCK", "UNLOCK TABLES", Call::Claim, TABLE),
        ("FLUSH TABLES WITH READ LOCK", "UNLOCK TABLES", Call::Insert, TABLE),
        ("LOCK TABLES allocation READ, task READ", "UNLOCK TABLES", Call::Changes, TABLE),
        ("LOCK TABLES allocation WRITE, task WRITE", "UNLOCK TABLES", Call::Change, TABLE),
        ("BEGIN; SELECT * FROM allocation FOR UPDATE", "COMMIT", Call::Change, ROWS),
        ("BEGIN; SELECT * FROM allocation FOR UPDATE", "COMMIT", Call::Claim, ROWS),
        ("SET GLOBAL read_only=ON", "SET GLOBAL read_only=OFF", Call::Change, "is read-only"),
    ] {
        let db = Db::on(&server.server).await;
        let mut session = db.session().await;
        let bed = Bed::on(open(&db.url_of_plain_user().await).await, db);
        let given = call.given(&bed).await;
        session.query_drop(begin).await.unwrap();
        let made = given.make(&bed.store, Instant::now() + Duration::from_secs(7)).await;
        session.query_drop(end).await.unwrap();
        let sentence = made.unwrap_err().to_string();
        assert!(sentence.contains(says), "{call:?} during {begin}: {sentence}");
        assert!(!sentence.contains("busy with other hosts"), "{sentence}");
    }
}

#[tokio::test]
async fn a_new_password_ends_no_session_and_is_named_to_new_ones() {
    let (server, _turn) = mariadb::alone().await;
    let db = Db::on(&server.server).await;
    let url = db.url_of_plain_user().await;
    let bed = Bed::on(open(&url).await, db);
    bed.free(10..=12).await;
    let Raw::MySql(db) = &bed.raw else { panic!() };
    let new_url = url.replace(":p@", ":another@");
    for (sql, url, says) in [
        (format!("ALTER USER plain_{} IDENTIFIED BY 'another'", db.name), &url, "Access denied"),
        (format!("ALTER USER plain_{} ACCOUNT LOCK", db.name), &new_url, "account is locked"),
    ] {
        db.exec(&sql).await;
        assert!(bed.store.row(ip(10), soon()).await.unwrap().is_some(), "a session goes on");
        let error = Store::open(&url.parse().unwrap(), soon()).await.unwrap_err();
        assert!(matches!(&error, StoreError::Refused { why, .. } if why.contains(says)), "{error}");
        assert!(!error.to_string().contains("another"), "{error}");
    }
}

#[tokio::test]
async fn a_new_certificate_of_the_same_authority_is_taken() {
    let (server, _turn) = mariadb::alone().await;
    let db = Db::on(&server.server).await;
    let url = format!("{}?ssl-ca={}/ca.pem", db.url().replace("127.0.0.1", "localhost"), server.dir.display());
    let bed = Bed::on(open(&url).await, db);
    bed.free(10..=12).await;
    server.tell("keys");
    let Raw::MySql(db) = &bed.raw else { panic!() };
    crate::support::host::eventually("a new certificate", async || server.dir.join("renewed").exists()).await;
    db.exec("FLUSH SSL").await;
    assert!(bed.store.row(ip(10), soon()).await.unwrap().is_some(), "a session goes on");
    open(&url).await.row(ip(10), soon()).await.unwrap();
}
