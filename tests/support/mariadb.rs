//! A private MariaDB: one server for a test process, a database for each test.
//!
//! A shell stands between: it waits for the end of its input, which comes when this process is gone however it ended,
//! then ends the server that it started, by pid, and removes its files.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};

use super::secrets;

/// Every character that a URL, JSON or a quoted text has a use for, and a word that stands nowhere else.
pub const PASSWORD: &str = r#"p@ss:w/r?d%#"\Kq7vZ2xTr9Wm"#;

/// The table as the original ec2-ipam makes it, word for word.
pub const ORIGINAL: &str = "CREATE TABLE `allocation` (
  `ip` varchar(32) NOT NULL, `subnet` varchar(32) NOT NULL,
  `status` enum('free','ready','allocated','occupied','reserved') NOT NULL DEFAULT 'free',
  `iface` varchar(32) DEFAULT NULL, `primary` tinyint(1) NOT NULL,
  `ts` timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
  PRIMARY KEY (`ip`), KEY `free` (`subnet`,`status`) USING BTREE
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4";

pub struct Mariadb {
    pub dir: PathBuf,
    pub port: u16,
    _shell: Child,
}

/// The server, started by the first test that needs it.
pub fn server() -> &'static Mariadb {
    static SERVER: OnceLock<Mariadb> = OnceLock::new();
    SERVER.get_or_init(start)
}

// Keys for "localhost" of an authority of their own, and another authority that signed nothing.
const KEYS: &str = r#"
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj "/CN=Test CA" -keyout ca.key -out ca.pem
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj "/CN=Other CA" -keyout other.key -out other.pem
openssl req -newkey rsa:2048 -nodes -subj "/CN=localhost" -keyout server.key -out server.csr
printf 'subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n' >ext
openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out server.pem
"#;

fn start() -> Mariadb {
    let dir = tempfile::tempdir().unwrap().keep();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    // A time zone with DST: sessions must not depend on it.
    let script = format!(
        r#"trap : INT TERM
cd "$0" && {{ {KEYS} }} >keys.log 2>&1
mariadb-install-db --no-defaults --auth-root-authentication-method=normal --skip-test-db --user=root --datadir="$0/data" >install.log 2>&1
TZ=Europe/Berlin mariadbd --no-defaults --user=root --datadir="$0/data" --socket="$0/sock" --pid-file="$0/pid" \
  --bind-address=127.0.0.1 --port={port} --max-connections=500 --innodb-buffer-pool-size=64M --innodb-log-file-size=48M \
  --ssl-ca="$0/ca.pem" --ssl-cert="$0/server.pem" --ssl-key="$0/server.key" >server.log 2>&1 </dev/null & pid=$!
read -r _
kill -9 $pid
wait $pid
rm -rf "$0""#
    );
    let shell = Command::new("sh")
        .arg("-c")
        .arg(script)
        .arg(&dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let server = Mariadb { dir, port, _shell: shell };
    for attempt in 0.. {
        let ping = Command::new("mariadb")
            .args(["--no-defaults", "-uroot", "-e"])
            .arg(format!(
                "CREATE USER IF NOT EXISTS ipam@'%' IDENTIFIED BY '{}'; GRANT ALL ON *.* TO ipam@'%'",
                PASSWORD.replace('\\', r"\\")
            ))
            .arg(format!("--socket={}/sock", server.dir.display()))
            .stderr(Stdio::null())
            .status()
            .unwrap();
        if ping.success() {
            break;
        }
        assert!(attempt < 400, "no MariaDB: see {}", server.dir.display());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    server
}

/// A fresh database.
pub struct Db {
    pub name: String,
}

impl Db {
    pub async fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let server = tokio::task::spawn_blocking(server).await.unwrap();
        let name = format!("t{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let opts = OptsBuilder::default().socket(Some(format!("{}/sock", server.dir.display()))).user(Some("root"));
        let mut root = Conn::new(opts).await.unwrap();
        root.query_drop(format!("CREATE DATABASE {name}")).await.unwrap();
        root.disconnect().await.unwrap();
        Self { name }
    }

    pub fn url(&self) -> String {
        self.url_at(server().port)
    }

    /// Through a proxy on this port.
    pub fn url_at(&self, port: u16) -> String {
        format!("mysql://ipam:{}@127.0.0.1:{port}/{}", secrets::percent(PASSWORD), self.name)
    }

    /// A session of our own, beside the store's: root's, in UTC.
    pub async fn session(&self) -> Conn {
        let opts = OptsBuilder::default()
            .socket(Some(format!("{}/sock", server().dir.display())))
            .user(Some("root"))
            .init(vec!["SET time_zone='+00:00'"])
            .db_name(Some(self.name.clone()));
        Conn::new(opts).await.unwrap()
    }

    pub async fn exec(&self, sql: &str) {
        let mut conn = self.session().await;
        conn.query_drop(sql).await.unwrap();
        conn.disconnect().await.unwrap();
    }
}
