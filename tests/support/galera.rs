//! A private Galera cluster: three nodes of MariaDB on this machine, each of which takes writes.
//!
//! Tests that harm a node have the cluster for themselves, all others share it.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::server::{Alone, Db, Server, Shared, Shell, Turn, needs, once, ports};

const PROVIDER: &str = "/usr/lib/galera/libgalera_smm.so";
const STATE: &str = "SHOW STATUS LIKE 'wsrep_local_state_comment'";

pub struct Galera {
    pub nodes: [Server; 3],
    dir: PathBuf,
    shell: Shell,
}

static TURN: Turn = Turn::const_new(());

/// The cluster for one of many tests, started by the first one; none where it cannot be had.
pub async fn shared() -> Option<(&'static Galera, Shared)> {
    let turn = TURN.read().await;
    Some((cluster().await?, turn))
}

/// The cluster for one test alone, which may harm its nodes and must mend them.
pub async fn alone() -> Option<(&'static Galera, Alone)> {
    let turn = TURN.write().await;
    Some((cluster().await?, turn))
}

async fn cluster() -> Option<&'static Galera> {
    static CLUSTER: OnceLock<Option<Option<Galera>>> = OnceLock::new();
    tokio::task::spawn_blocking(|| once(&CLUSTER, start).as_ref()).await.unwrap()
}

fn start() -> Option<Galera> {
    let root = nix::unistd::geteuid().is_root();
    // The server's package makes it; mariadb-server-core alone does not.
    let user = nix::unistd::User::from_name("mysql").is_ok_and(|user| user.is_some());
    if !needs(root, "root, for a Galera cluster,")
        || !needs(Path::new(PROVIDER).exists(), "galera-4")
        || !needs(user, "the user mysql (adduser --system --group mysql), which nodes of a cluster run as,")
    {
        return None;
    }
    let dir = tempfile::tempdir().unwrap().keep();
    // Of each kind three: SQL, the group's own, incremental and whole state transfers.
    let first = ports(12);
    let [group, ist, sst] = [3, 6, 9].map(|offset| first + offset - 1);
    // The rsync that brings a node its state refuses to run as root. All processes end with this shell. Nodes are ended
    // hard but their machine is not, so it need not be the disk that a commit waits for.
    let script = format!(
        r#"trap : INT TERM
mkdir tmp tmp1 tmp2 tmp3 && chmod 755 "$0" && chown mysql "$0" tmp*
# A server that starts removes what others have in the same folder.
export TMPDIR="$0/tmp"
mariadb-install-db --no-defaults --auth-root-authentication-method=normal --skip-test-db --user=mysql --datadir="$0/1" >install.log 2>&1
cp -a 1 2; cp -a 1 3
start() {{
  n=$1; shift
  TZ=Europe/Berlin mariadbd --no-defaults --user=mysql --datadir="$0/$n" --tmpdir="$0/tmp$n" --socket="$0/sock$n" --pid-file="$0/pid$n" \
    --bind-address=127.0.0.1 --port=$(({first} + n - 1)) --max-connections=500 \
    --innodb-buffer-pool-size=64M --innodb-log-file-size=48M --innodb-flush-method=nosync --innodb-flush-log-at-trx-commit=2 \
    --wsrep-on=ON --wsrep-provider={PROVIDER} --wsrep-node-address=127.0.0.1 --wsrep-node-name=n$n \
    --wsrep-cluster-address=gcomm://127.0.0.1:$(({group} + 1)),127.0.0.1:$(({group} + 2)),127.0.0.1:$(({group} + 3)) \
    --wsrep-provider-options="gmcast.listen_addr=tcp://127.0.0.1:$(({group} + n));base_port=$(({group} + n));ist.recv_addr=127.0.0.1:$(({ist} + n));gcache.size=32M" \
    --wsrep-sst-method=rsync --wsrep-sst-receive-address=127.0.0.1:$(({sst} + n)) \
    --binlog-format=ROW --innodb-autoinc-lock-mode=2 "$@" >>server$n.log 2>&1 </dev/null &
  eval pid$n=$!
}}
start 1 --wsrep-new-cluster
n=0
until timeout 20 mariadb --no-defaults -uroot --socket="$0/sock1" -Ne "{STATE}" 2>&1 | grep -q Synced; do
  n=$((n + 1)); [ $n -lt 1200 ] && kill -0 $pid1 || break
  sleep 0.1
done
start 2; start 3
while read -r verb n; do
  case $verb in
    kill) eval "kill -9 \$pid$n; wait \$pid$n" ;;
    start) start "$n" ;;
  esac
done
kill -9 $pid1 $pid2 $pid3
wait
rm -rf "$0""#
    );
    let shell =
        Shell::run(&["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh"], &script, &dir);
    let nodes = [1, 2, 3].map(|n| Server {
        port: first + n - 1,
        socket: dir.join(format!("sock{n}")),
        init: "SET time_zone='+00:00',wsrep_sync_wait=7",
    });
    let began = std::time::Instant::now();
    let galera = Galera { nodes, dir, shell };
    for node in &galera.nodes {
        node.wait(STATE, "Synced", &galera.dir);
    }
    galera.nodes[0].make_user(&galera.dir);
    for node in &galera.nodes {
        node.wait("SELECT user FROM mysql.user", "ipam", &galera.dir);
    }
    println!("Galera was up after {:?}", began.elapsed());
    Some(galera)
}

impl Galera {
    pub fn ports(&self) -> [u16; 3] {
        [0, 1, 2].map(|n| self.nodes[n].port)
    }

    /// The ports, this node's first.
    pub fn ports_from(&self, node: usize) -> [u16; 3] {
        let mut ports = self.ports();
        ports.rotate_left(node % 3);
        ports
    }

    /// A fresh database that all nodes know, with sessions beside the store's on this one.
    pub async fn db(&'static self, node: usize) -> Db {
        let db = Db::on(&self.nodes[node % 3]).await;
        for node in &self.nodes {
            // Waits for what the others have committed.
            node.set("SELECT 1").await;
        }
        db
    }

    /// As a power cut does.
    pub fn kill(&self, node: usize) {
        self.shell.tell(&format!("kill {}", node + 1));
    }

    pub fn start(&self, node: usize) {
        self.shell.tell(&format!("start {}", node + 1));
    }

    /// Waits until a node is whole again and all are there.
    pub async fn whole(&'static self, node: usize) {
        tokio::task::spawn_blocking(move || {
            self.nodes[node].wait(STATE, "Synced", &self.dir);
            self.nodes[node].wait("SHOW STATUS LIKE 'wsrep_cluster_size'", "3", &self.dir);
        })
        .await
        .unwrap();
    }
}
