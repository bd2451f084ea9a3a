//! A database server of the test process's own, and fresh databases on it.
//!
//! A shell stands between: it waits for the end of its input, which comes when this process is gone however it ended,
//! then ends the server that it started, by pid, and removes its files.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::mariadb::PASSWORD;
use super::secrets;

/// Whether a test can run that needs this. In CI what is missing is a failure: a run that skips proves nothing.
pub fn needs(there: bool, what: &str) -> bool {
    let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
    assert!(there || !ci, "{what} is missing; scripts/setup.sh test installs it");
    if !there {
        println!("skipped: {what} is missing");
    }
    there
}

/// So many ports in a row, below those that the kernel gives to clients: a server that comes back finds its own free.
pub fn ports(count: u16) -> u16 {
    loop {
        let first = 20_000 + fastrand::u16(..12_000);
        let free = |port| std::net::TcpListener::bind(("127.0.0.1", port)).ok();
        if (first..first + count).map(free).collect::<Option<Vec<_>>>().is_some() {
            return first;
        }
    }
}

/// The shell that has the servers. What it is told, a line each, is up to its script.
pub struct Shell {
    _child: Child,
    input: Mutex<ChildStdin>,
}

impl Shell {
    /// `$0` of the script is the folder, its working directory too.
    pub fn run(with: &[&str], script: &str, dir: &Path) -> Self {
        let (program, arguments) = with.split_first().unwrap();
        let mut child = Command::new(program)
            .args(arguments)
            .args(["-c", script])
            .arg(dir)
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let input = Mutex::new(child.stdin.take().unwrap());
        Self { _child: child, input }
    }

    pub fn tell(&self, line: &str) {
        writeln!(self.input.lock().unwrap(), "{line}").unwrap();
    }
}

/// A server that answers, with our user on it.
pub struct Server {
    pub port: u16,
    pub socket: PathBuf,
    /// What sessions beside the store's are told first.
    pub init: &'static str,
}

impl Server {
    /// Waits until the server answers this with one value.
    pub fn wait(&self, sql: &str, value: &str, dir: &Path) {
        for attempt in 0.. {
            let answer = Command::new("mariadb")
                .args(["--no-defaults", "-uroot", "-N", "-e", sql])
                .arg(format!("--socket={}", self.socket.display()))
                .output()
                .unwrap();
            if answer.status.success() && String::from_utf8_lossy(&answer.stdout).contains(value) {
                return;
            }
            assert!(attempt < 2400, "no database server: see {}", dir.display());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn make_user(&self, dir: &Path) {
        self.wait(
            &format!(
                "CREATE USER IF NOT EXISTS ipam@'%' IDENTIFIED BY '{}'; GRANT ALL ON *.* TO ipam@'%'; SELECT 'made'",
                PASSWORD.replace('\\', r"\\")
            ),
            "made",
            dir,
        );
    }

    /// How many connections our user has to a database of this server.
    pub async fn visitors(&self, database: &str) -> u64 {
        let mut root = self.root(None).await;
        let count =
            format!("SELECT COUNT(*) FROM information_schema.processlist WHERE db='{database}' AND user<>'root'");
        let visitors = root.query_first(count).await.unwrap().unwrap();
        root.disconnect().await.unwrap();
        visitors
    }

    /// One statement of root's that is about all of the server.
    pub async fn set(&self, sql: &str) {
        let mut root = self.root(None).await;
        root.query_drop(sql).await.unwrap();
        root.disconnect().await.unwrap();
    }

    /// Root's session, in UTC.
    pub async fn root(&self, database: Option<&str>) -> Conn {
        let opts = OptsBuilder::default()
            .socket(Some(self.socket.display().to_string()))
            .user(Some("root"))
            .init(vec![self.init])
            .db_name(database);
        Conn::new(opts).await.unwrap()
    }
}

/// A bed that most tests share, each with a database of its own, and that some must have for themselves.
pub type Turn = RwLock<()>;
pub type Shared = RwLockReadGuard<'static, ()>;
pub type Alone = RwLockWriteGuard<'static, ()>;

/// A fresh database.
pub struct Db {
    pub name: String,
    pub server: &'static Server,
}

impl Db {
    pub async fn on(server: &'static Server) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("t{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut root = server.root(None).await;
        root.query_drop(format!("CREATE DATABASE {name}")).await.unwrap();
        root.disconnect().await.unwrap();
        Self { name, server }
    }

    pub fn url(&self) -> String {
        self.url_at(self.server.port)
    }

    /// Through the server's local socket, which every network namespace reaches.
    pub fn url_here(&self) -> String {
        let socket = self.server.socket.display();
        format!("mysql://ipam:{}@localhost/{}?socket={socket}", secrets::percent(PASSWORD), self.name)
    }

    /// Through a proxy on this port.
    pub fn url_at(&self, port: u16) -> String {
        self.url_over(&[port])
    }

    /// Over several, in this order.
    pub fn url_over(&self, ports: &[u16]) -> String {
        let hosts: Vec<_> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        format!("mysql://ipam:{}@{}/{}", secrets::percent(PASSWORD), hosts.join(","), self.name)
    }

    /// A session of our own, beside the store's: root's, in UTC.
    pub async fn session(&self) -> Conn {
        self.server.root(Some(&self.name)).await
    }

    pub async fn exec(&self, sql: &str) {
        let mut conn = self.session().await;
        conn.query_drop(sql).await.unwrap();
        conn.disconnect().await.unwrap();
    }
}
