//! A private MariaDB: one server for a test process, a database for each test.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::OnceLock;

use tokio::sync::{Mutex, MutexGuard};

use super::clock::Clock;
pub use super::server::Db;
use super::server::{Server, Shell, once, ports};

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
    pub server: Server,
    shell: Shell,
}

/// The server, started by the first test that needs it.
pub fn server() -> &'static Mariadb {
    static SERVER: OnceLock<Option<Mariadb>> = OnceLock::new();
    once(&SERVER, || start(&[], "", "", ""))
}

/// Another one, for tests that change what all of a server does: one test at a time, which leaves it as it was.
pub async fn alone() -> (&'static Mariadb, MutexGuard<'static, ()>) {
    static SERVER: OnceLock<Option<Mariadb>> = OnceLock::new();
    static TURN: Mutex<()> = Mutex::const_new(());
    let turn = TURN.lock().await;
    (tokio::task::spawn_blocking(|| once(&SERVER, || start(&[], "", "", "--log-bin"))).await.unwrap(), turn)
}

impl Mariadb {
    /// `stop` and `kill` end it, `start` starts it again, `keys` makes new ones for it and then the file `renewed`.
    pub fn tell(&self, word: &str) {
        self.shell.tell(word);
    }
}

// Keys for "localhost" of an authority of their own, and another authority that signed nothing.
const KEYS: &str = r#"
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj "/CN=Test CA" -keyout ca.key -out ca.pem
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj "/CN=Other CA" -keyout other.key -out other.pem
printf 'subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n' >ext
"#;
const SERVER_KEY: &str = r#"
openssl req -newkey rsa:2048 -nodes -subj "/CN=localhost" -keyout server.key -out server.csr
openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out server.pem
"#;

/// A server of a test's own, whose clock is the test's to set.
pub fn with_clock(clock: &Clock) -> &'static Mariadb {
    let environment = clock.environment().map(|(name, value)| format!("{name}={value}"));
    Box::leak(Box::new(start(&[], "", &environment.join(" "), "")))
}

/// One that asks users of its PAM plugin for their passwords as they are, as RDS asks those of AWSAuthenticationPlugin for
/// tokens, and judges what comes by `token_login.sh`: by the `keys` in its folder, a file each, and the `places`.
pub fn by_tokens() -> &'static Mariadb {
    static SERVER: OnceLock<Option<Mariadb>> = OnceLock::new();
    once(&SERVER, || {
        let own_pam = r#"mkdir pam.d keys places
printf 'auth required pam_exec.so quiet expose_authtok %s/token_login.sh\naccount required pam_permit.so\n' "$0" >pam.d/rds
mount --bind pam.d /etc/pam.d || exit 1"#;
        let options = "--plugin-load-add=auth_pam_v1 --pam-use-cleartext-plugin=ON";
        let mariadb = start(&["unshare", "--mount"], own_pam, "", options);
        let judge = mariadb.dir.join("token_login.sh");
        std::fs::write(&judge, include_str!("token_login.sh")).unwrap();
        std::fs::set_permissions(&judge, std::fs::Permissions::from_mode(0o755)).unwrap();
        mariadb
    })
}

/// Within this command, after these, and with this before and behind its own.
fn start(within: &[&str], first: &str, environment: &str, options: &str) -> Mariadb {
    let dir = tempfile::tempdir().unwrap().keep();
    let port = ports(1);
    // A time zone with DST: sessions must not depend on it.
    let script = format!(
        r#"trap : INT TERM
{first}
# A server that starts removes what others have in the same folder.
mkdir tmp && export TMPDIR="$0/tmp"
{{ {KEYS} {SERVER_KEY} }} >keys.log 2>&1
mariadb-install-db --no-defaults --auth-root-authentication-method=normal --skip-test-db --user=root --datadir="$0/data" >install.log 2>&1
start() {{
  {environment} TZ=Europe/Berlin mariadbd --no-defaults --user=root --datadir="$0/data" --socket="$0/sock" --pid-file="$0/pid" \
  --bind-address=127.0.0.1 --port={port} --max-connections=500 --innodb-buffer-pool-size=64M --innodb-log-file-size=48M \
  --ssl-ca="$0/ca.pem" --ssl-cert="$0/server.pem" --ssl-key="$0/server.key" {options} >>server.log 2>&1 </dev/null & pid=$!
}}
start
while read -r word; do
  case $word in
    stop) kill $pid; wait $pid ;;
    kill) kill -9 $pid; wait $pid ;;
    start) start ;;
    keys) {{ {SERVER_KEY} touch renewed; }} >>keys.log 2>&1 ;;
  esac
done
kill -9 $pid
wait $pid
rm -rf "$0""#
    );
    let shell = Shell::run(&[within, &["sh"]].concat(), &script, &dir);
    let server = Server { port, socket: dir.join("sock"), init: "SET time_zone='+00:00'" };
    server.make_user(&dir);
    Mariadb { dir, port, server, shell }
}

impl Db {
    /// On the one MariaDB that most tests share.
    pub async fn new() -> Self {
        Self::on(&tokio::task::spawn_blocking(server).await.unwrap().server).await
    }
}
