//! A database server of the test process's own, and fresh databases on it.
//!
//! A shell stands between: it waits for the end of its input, which comes when this process is gone however it ended,
//! then ends the server that it started, by pid, and removes its files. A second one watches over it: whatever the first one
//! is at, it ends soon after. Where both were killed, the next run ends what they left.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, Once, OnceLock};
use std::time::{Duration, Instant};

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
    keeper: Child,
    input: Mutex<ChildStdin>,
}

/// It hands on what it is told, and after that gives the other one some seconds for an orderly end.
const KEEPER: &str = r#"
dir=$1 record=$2
shift 2
trap : HUP INT TERM
mkfifo orders
"$@" <orders & inner=$!
cat >orders
(sleep 20; kill -9 $inner) & timer=$!
while kill -0 $inner; do wait $inner; done
kill -9 $timer
[ ! -s pid ] || kill -9 "$(cat pid)"
rm -rf --one-file-system "$dir" "$record"
"#;

impl Shell {
    /// `$0` of the script is the folder, its working directory too.
    pub fn run(with: &[&str], script: &str, dir: &Path) -> Self {
        let record = record(dir);
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .args([dir, record.as_path()])
            .args(with)
            .args(["-c", script])
            .arg(dir)
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let input = Mutex::new(keeper.stdin.take().unwrap());
        Self { keeper, input }
    }

    pub fn tell(&self, line: &str) {
        writeln!(self.input.lock().unwrap(), "{line}").unwrap();
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.keeper.id()
    }
}

/// A file for each bed: the process that it is for, when that began, and its folder.
fn records() -> PathBuf {
    std::env::temp_dir().join("ec2-ipam-beds")
}

/// Notes that a folder is this process's, for the next run, after ending what earlier ones left.
pub fn record(dir: &Path) -> PathBuf {
    static SWEPT: Once = Once::new();
    SWEPT.call_once(sweep);
    let record = records().join(dir.file_name().unwrap());
    let me = std::process::id().to_string();
    std::fs::create_dir_all(records()).unwrap();
    std::fs::write(&record, format!("{me} {} {}", began(&me).unwrap(), dir.display())).unwrap();
    record
}

/// When a process began, in ticks since the machine did: an id alone may be another's by now.
fn began(pid: &str) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19).map(ToOwned::to_owned)
}

/// The processes of a folder: those that have it in their command line.
pub fn processes(dir: &Path) -> Vec<i32> {
    let names = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let is_its = |pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(dir.to_str().unwrap())
    };
    names.filter_map(|name| name.parse().ok()).filter(is_its).collect()
}

/// Ends what a run left of which every process was killed.
pub fn sweep() {
    for record in std::fs::read_dir(records()).into_iter().flatten().flatten() {
        let text = std::fs::read_to_string(record.path()).unwrap_or_default();
        let [pid, at, dir] = text.splitn(3, ' ').collect::<Vec<_>>()[..] else { continue };
        if began(pid).as_deref() == Some(at) || Path::new(dir).parent() != Some(std::env::temp_dir().as_path()) {
            continue;
        }
        for pid in processes(Path::new(dir)) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
        let _ = std::fs::remove_dir_all(dir);
        let _ = std::fs::remove_file(record.path());
    }
}

/// The one bed of a kind, which the first test starts. One that did not come up is not tried again by every other test.
pub fn once<T>(bed: &'static OnceLock<Option<T>>, start: fn() -> T) -> &'static T {
    let bed = bed.get_or_init(|| std::panic::catch_unwind(start).ok());
    bed.as_ref().expect("it did not come up; the test that began it says why")
}

/// Generous: a slow machine is not a failure.
const PATIENCE: Duration = Duration::from_secs(300);

/// The ends of what was logged in a bed's folder.
fn logs(dir: &Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|kind| kind == "log") {
            let log = String::from_utf8_lossy(&std::fs::read(&path).unwrap_or_default()).into_owned();
            let lines: Vec<&str> = log.lines().collect();
            text += &format!("\n{}:\n{}", path.display(), lines[lines.len().saturating_sub(15)..].join("\n"));
        }
    }
    text
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
        let end = Instant::now() + PATIENCE;
        loop {
            let answer = Command::new("timeout")
                .args(["--kill-after=5", "20", "mariadb", "--no-defaults", "-uroot", "-N", "-e", sql])
                .arg(format!("--socket={}", self.socket.display()))
                .output()
                .unwrap();
            if answer.status.success() && String::from_utf8_lossy(&answer.stdout).contains(value) {
                return;
            }
            assert!(Instant::now() < end, "no database server after {PATIENCE:?}: {}", logs(dir));
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
        run(self.root(None).await, sql).await;
    }

    /// One value, as root is told it.
    pub async fn ask(&self, sql: &str) -> String {
        let mut root = self.root(None).await;
        let value: Option<String> = root.query_first(sql).await.unwrap().unwrap();
        root.disconnect().await.unwrap();
        value.unwrap_or_default()
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
        server.set(&format!("CREATE DATABASE {name}")).await;
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

    /// As the user of docs/install.md, with the rights to this database that the driver needs and no other.
    pub async fn url_of_plain_user(&self) -> String {
        let Self { name, server } = self;
        self.exec(&format!("CREATE USER IF NOT EXISTS plain_{name} IDENTIFIED BY 'p'")).await;
        let rights = "SELECT, INSERT, UPDATE, CREATE, ALTER, INDEX";
        self.exec(&format!("GRANT {rights} ON {name}.* TO plain_{name}")).await;
        format!("mysql://plain_{name}:p@127.0.0.1:{}/{name}", server.port)
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
        run(self.session().await, sql).await;
    }

    /// Does something more before others see what the statement does.
    pub async fn exec_and(&self, sql: &str, more: impl FnOnce()) {
        let mut session = self.session().await;
        loop {
            session.query_drop("START TRANSACTION").await.unwrap();
            if is_done(session.query_drop(sql).await) {
                break;
            }
        }
        more();
        session.query_drop("COMMIT").await.unwrap();
        session.disconnect().await.unwrap();
    }
}

/// Does a statement again that was in another one's way.
async fn run(mut session: Conn, sql: &str) {
    while !is_done(session.query_drop(sql).await) {}
    session.disconnect().await.unwrap();
}

/// Not if Galera ended it for what another node had committed before: a deadlock to one of its rows, an interruption to one
/// that changes a table and had not begun yet.
fn is_done(outcome: mysql_async::Result<()>) -> bool {
    match outcome {
        Err(mysql_async::Error::Server(why)) if matches!(why.code, 1213 | 1317) => false,
        outcome => {
            outcome.unwrap();
            true
        }
    }
}
