//! A private MySQL, which Debian has in its unstable suite only: the server's files in a folder of their own, entered
//! by chroot. They are kept beside other caches, outside the checkout, and fetched again when they are not there.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use super::server::{Alone, Db, Server, Shared, Shell, Turn, needs, once, ports};

struct Mysql {
    server: Server,
    _shell: Shell,
}

static TURN: Turn = Turn::const_new(());

/// A database on the server, which the first test that needs it starts; none where it cannot be had.
pub async fn shared() -> Option<(Db, Shared)> {
    let turn = TURN.read().await;
    Some((db().await?, turn))
}

/// The same for a test that changes what all of the server does.
pub async fn alone() -> Option<(Db, Alone)> {
    let turn = TURN.write().await;
    Some((db().await?, turn))
}

async fn db() -> Option<Db> {
    static SERVER: OnceLock<Option<Option<Mysql>>> = OnceLock::new();
    let server = tokio::task::spawn_blocking(|| once(&SERVER, start).as_ref()).await.unwrap()?;
    Some(Db::on(&server.server).await)
}

fn cache() -> PathBuf {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    cache.unwrap_or_else(std::env::temp_dir).join("ec2-ipam")
}

// One process fetches while others wait. What is half there has another name.
const FETCH: &str = r#"
mkdir -p "$CACHE" && exec 9>"$CACHE/mysql.lock" && flock -w 900 9 || exit 1
tree=$(ls -d "$CACHE"/mysql-[0-9]*/ 2>/dev/null | tail -n 1)
if [ -z "$tree" ]; then
  new=$CACHE/mysql-new; rm -rf "$new"
  timeout 900 mmdebstrap --variant=extract --include=mysql-server-core,mysql-client-core --aptopt='Acquire::Check-Valid-Until "false"' sid "$new"
  for link in bin lib lib64 sbin; do [ -e "$new/$link" ] || ln -s usr/$link "$new/$link"; done
  echo 'root:x:0:0::/:/bin/sh' >"$new/etc/passwd"
  mkdir -p "$new/proc" "$new/data"
  version=$(chroot "$new" mysqld --no-defaults --version | sed -n 's/.* Ver \([0-9.]*\).*/\1/p')
  [ -n "$version" ] && mv "$new" "$CACHE/mysql-$version"
  tree=$CACHE/mysql-$version
fi
exec 9>&-
"#;

fn start() -> Option<Mysql> {
    let root = nix::unistd::geteuid().is_root();
    let mmdebstrap = Command::new("mmdebstrap").arg("--version").output().is_ok();
    if !needs(root, "root, for a chroot with MySQL,") || !needs(mmdebstrap, "mmdebstrap, which fetches MySQL,") {
        return None;
    }
    let dir = tempfile::tempdir().unwrap().keep();
    let port = ports(1);
    // Mounts and processes end with this shell. The machine is not to fail, so no write waits for the disk. The time zone has DST, spelled out since the chroot knows no names.
    let script = format!(
        r#"trap : INT TERM
CACHE='{cache}'
{{ set -x; {FETCH}
mkdir -p data/tmp
mount --bind /dev "$tree/dev" && mount -t proc proc "$tree/proc" && mount --bind data "$tree/data" || exit 1
chroot "$tree" mysqld --no-defaults --user=root --initialize-insecure --secure-file-priv=NULL --datadir=/data/db; }} >install.log 2>&1
TZ='CET-1CEST,M3.5.0,M10.5.0/3' chroot "$tree" mysqld --no-defaults --user=root --secure-file-priv=NULL --datadir=/data/db \
  --tmpdir=/data/tmp --socket=/data/sock --pid-file=/data/pid --mysqlx=OFF --bind-address=127.0.0.1 --port={port} \
  --max-connections=500 --innodb-flush-method=nosync --innodb-flush-log-at-trx-commit=2 --sync-binlog=0 >server.log 2>&1 </dev/null & pid=$!
read -r _
kill -9 $pid
wait $pid
rm -rf "$0""#,
        cache = cache().display()
    );
    let shell = Shell::run(&["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh"], &script, &dir);
    let server = Server { port, socket: dir.join("data/sock"), init: "SET time_zone='+00:00'" };
    let began = std::time::Instant::now();
    server.make_user(&dir);
    println!("MySQL was up after {:?}", began.elapsed());
    Some(Mysql { server, _shell: shell })
}
