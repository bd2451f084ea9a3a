//! A real Docker Engine of a test's own, in network, mount and process namespaces of its own.
//!
//! A shell stands between: it is the first process of the namespaces and waits for the end of its input, which comes when
//! this process is gone however it ended. With it the kernel ends every process in there, dockerd, containers and plugins
//! alike, and then nothing holds the mounts and interfaces any more. What is left, cgroups and files, a second shell removes.
//!
//! `/run` is empty and private: dockerd looks for plugins there whatever it is told, and for a containerd to share.
#![allow(clippy::print_stderr, reason = "what stands in for what, and the log of a failure")]

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::server::record;

/// Generous: a slow machine is not a failure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
/// The image: busybox, and two scripts.
pub(crate) const IMAGE: &str = "box";
const NAME: &str = "ec2-ipam-test-";

const KEEPER: &str = r#"
dir=$0 group=$1 inside=$2 record=$3
trap '' HUP INT TERM
unshare --net --mount --pid --fork --propagation private bash -c "$inside"
find /sys/fs/cgroup -depth -type d \( -path "*/$group" -o -path "*/$group/*" \) -exec rmdir {} + 2>/dev/null
for plugin in "$dir"/data/plugins/*; do
    find /sys/fs/cgroup -depth -type d -name "${plugin##*/}" -exec rmdir {} + 2>/dev/null
done
rm -rf --one-file-system "$dir" "$record"
"#;

// It says its process id as the outside knows it, then reads until the end.
const INSIDE: &str = r#"
set -e
read -r pid _ </proc/self/stat
mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
ip link set lo up
ip netns add vpc
echo "$pid"
read -r _ || true
"#;

/// An Engine, running or not.
pub(crate) struct Engine {
    pub(crate) dir: PathBuf,
    /// Options of dockerd beside the usual ones.
    options: &'static str,
    group: String,
    keeper: Child,
    input: Option<ChildStdin>,
    first: i32,
    dockerd: Mutex<Option<Child>>,
    /// Whatever a command of Docker's or of ours has printed.
    heard: Mutex<String>,
}

impl Engine {
    /// Makes the namespaces and starts dockerd in them.
    pub(crate) fn start() -> Self {
        Self::start_with("")
    }

    /// The same with further options of dockerd.
    pub(crate) fn start_with(options: &'static str) -> Self {
        prerequisites();
        let dir = tempfile::Builder::new().prefix(NAME).tempdir().unwrap().keep();
        let group = dir.file_name().unwrap().to_str().unwrap().to_owned();
        let record = record(&dir);
        let mut keeper = Command::new("bash")
            .env("PATH", path())
            .args(["-c", KEEPER])
            .arg(&dir)
            .args([&group, INSIDE])
            .arg(record)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut first = String::new();
        BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut first).unwrap();
        let engine = Self {
            dir,
            options,
            group,
            input: keeper.stdin.take(),
            keeper,
            first: first.trim().parse().expect("no namespaces; is this a container without privileges?"),
            dockerd: Mutex::default(),
            heard: Mutex::default(),
        };
        engine.up();
        engine.import();
        engine
    }

    /// Starts dockerd and waits until it answers.
    pub(crate) fn up(&self) {
        let dir = self.dir.display();
        // No bridge and no firewall rules: macvlan and ipvlan need neither.
        let line = format!(
            "rm -f {dir}/pid; exec dockerd --data-root {dir}/data --exec-root {dir}/exec --pidfile {dir}/pid \
             -H unix:///run/docker.sock -H unix://{dir}/docker.sock --cgroup-parent /{} \
             --bridge none --iptables=false --ip-forward=false --userland-proxy=false {}",
            self.group, self.options
        );
        let log = File::options().create(true).append(true).open(self.dir.join("dockerd.log")).unwrap();
        let mut dockerd = self
            .within()
            .args(["sh", "-c", &line])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        until("dockerd answers", || {
            assert!(dockerd.try_wait().unwrap().is_none(), "dockerd ended:\n{}", self.log());
            self.docker("version").map(|_| ())
        });
        *self.dockerd.lock().unwrap() = Some(dockerd);
    }

    /// Ends dockerd by TERM or KILL, and with TERM everything that it runs.
    pub(crate) fn down(&self, signal: Signal) {
        self.signal_dockerd(signal);
        let mut dockerd = self.dockerd.lock().unwrap().take().unwrap();
        until("dockerd ends", || match dockerd.try_wait().unwrap() {
            Some(_) => Ok(()),
            None => Err("it runs".into()),
        });
    }

    /// Makes dockerd hang.
    pub(crate) fn hang(&self) {
        self.signal_dockerd(Signal::SIGSTOP);
    }

    /// Lets a dockerd that hangs go on.
    pub(crate) fn go_on(&self) {
        self.signal_dockerd(Signal::SIGCONT);
        self.wake();
    }

    /// nsenter stops itself when its child is stopped, and would not see it end.
    fn wake(&self) {
        if let Ok(dockerd) = self.dockerd.lock()
            && let Some(nsenter) = dockerd.as_ref().and_then(|child| i32::try_from(child.id()).ok())
        {
            let _ = kill(Pid::from_raw(nsenter), Signal::SIGCONT);
        }
    }

    fn signal_dockerd(&self, signal: Signal) {
        self.signal(&std::fs::read_to_string(self.dir.join("pid")).unwrap(), signal);
    }

    /// Signals a process of the namespaces by its id in there, such as a container's as `docker inspect` shows it.
    pub(crate) fn signal(&self, pid: &str, signal: Signal) {
        let kill = format!("kill -{} {}", signal as i32, pid.trim());
        run(self.within().args(["sh", "-c", &kill])).unwrap();
    }

    /// Runs a command of the Docker CLI, given as its words; its output without the line's end, or its error.
    pub(crate) fn docker(&self, words: &str) -> Result<String, String> {
        let mut command = Command::new("timeout");
        command
            .args(["--kill-after=5", "180", "docker", "-H"])
            .arg(format!("unix://{}/docker.sock", self.dir.display()))
            .args(words.split_whitespace())
            .env("DOCKER_CONFIG", &self.dir);
        self.run(&mut command)
    }

    /// Runs a command of our own binary, in the namespaces.
    pub(crate) fn cli(&self, words: &str) -> Result<String, String> {
        self.run(self.within().arg(env!("CARGO_BIN_EXE_ec2-ipam")).args(words.split_whitespace()))
    }

    fn run(&self, command: &mut Command) -> Result<String, String> {
        let said = run(command);
        let (Ok(text) | Err(text)) = &said;
        self.heard.lock().unwrap().push_str(text);
        said
    }

    /// All that was logged, by dockerd and the plugin, and all that commands have printed.
    pub(crate) fn told(&self) -> String {
        std::fs::read_to_string(self.dir.join("dockerd.log")).unwrap() + &self.heard.lock().unwrap()
    }

    /// Runs `ip` in the namespaces.
    pub(crate) fn ip(&self, words: &str) -> Result<String, String> {
        run(self.within().arg("ip").args(words.split_whitespace()))
    }

    /// A parent interface with this MAC and address; its other end is the subnet's router, in a namespace further out.
    pub(crate) fn parent(&self, name: &str, mac: &str, address: &str, router: &str) {
        for words in [
            format!("link add {name} address {mac} type veth peer name {name} netns vpc"),
            format!("addr add {address} dev {name}"),
            format!("-n vpc addr add {router} dev {name}"),
            format!("-n vpc link set {name} up"),
            format!("link set {name} up"),
        ] {
            self.ip(&words).unwrap();
        }
    }

    /// ipvlan, or macvlan where the kernel has no ipvlan: the driver gets the same calls.
    pub(crate) fn network_driver(&self, parent: &str) -> &'static str {
        if self.ip(&format!("link add link {parent} name probe type ipvlan mode l2")).is_ok() {
            self.ip("link del probe").unwrap();
            return "ipvlan";
        }
        eprintln!("this kernel has no ipvlan: macvlan stands in for it");
        "macvlan"
    }

    /// A listener on the loopback of the Engine's network namespace, for a server outside of it.
    pub(crate) fn listener(&self) -> TcpListener {
        let namespace = File::open(format!("/proc/{}/ns/net", self.first)).unwrap();
        // A namespace is a thread's own.
        let bound = std::thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()
        });
        bound.join().unwrap()
    }

    /// The process of the managed plugin, as the outside knows it: the only one of ours in the Engine's network.
    pub(crate) fn plugin(&self) -> Option<i32> {
        let network = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net"));
        let ours = network(&self.first.to_string()).ok()?;
        let names = std::fs::read_dir("/proc").unwrap().flatten();
        names
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|pid| {
                std::fs::read(format!("/proc/{pid}/cmdline"))
                    .is_ok_and(|c| c.starts_with(b"/usr/bin/ec2-ipam\0serve\0"))
            })
            .find(|pid| network(pid).is_ok_and(|of| of == ours))?
            .parse()
            .ok()
    }

    /// Kills the plugin's process, and waits for the next one, which dockerd starts.
    pub(crate) fn kill_plugin(&self) {
        let old = self.plugin().expect("the plugin runs");
        kill(Pid::from_raw(old), Signal::SIGKILL).unwrap();
        until("dockerd starts the plugin anew", || match self.plugin() {
            Some(new) if new != old => Ok(()),
            found => Err(format!("{found:?}")),
        });
    }

    /// Every line of the plugin's log, through all lives of dockerd and of the plugin.
    pub(crate) fn plugin_log(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.dir.join("dockerd.log")).unwrap_or_default();
        log.lines().filter(|line| line.contains(" plugin=")).map(ToOwned::to_owned).collect()
    }

    /// The last lines of dockerd's log, the plugin's among them, without containerd's chatter.
    pub(crate) fn log(&self) -> String {
        let log = std::fs::read_to_string(self.dir.join("dockerd.log")).unwrap_or_default();
        let lines: Vec<&str> = log
            .lines()
            .filter(|line| [" plugin=", "level=error", "level=fatal"].iter().any(|word| line.contains(word)))
            .collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    fn within(&self) -> Command {
        let mut command = Command::new("nsenter");
        command
            .env("PATH", path())
            .args(["--net", "--mount", "--pid", "--target"])
            .arg(self.first.to_string())
            .arg("--");
        command
    }

    fn import(&self) {
        let root = self.dir.join("image");
        let bin = root.join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::copy(which("busybox").unwrap(), bin.join("busybox")).unwrap();
        for applet in ["sh", "sleep", "ping", "ip"] {
            std::os::unix::fs::symlink("busybox", bin.join(applet)).unwrap();
        }
        for (name, script) in [
            // Without a handler the first process of a container is deaf to TERM, and every stop takes ten seconds.
            ("idle", "trap 'exit 0' TERM\nsleep 100000 &\nwait\n"),
            ("crash", "exit 3\n"),
        ] {
            let path = bin.join(name);
            std::fs::write(&path, format!("#!/bin/sh\n{script}")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let tar = self.dir.join("image.tar");
        run(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg(".")).unwrap();
        self.docker(&format!("import {} {IMAGE}", tar.display())).unwrap();
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the Engine's log:\n{}", self.log());
        }
        self.wake();
        drop(self.input.take());
        let mut ended = ends(&mut self.keeper);
        if let Ok(mut dockerd) = self.dockerd.lock()
            && let Some(mut dockerd) = dockerd.take()
        {
            ended &= ends(&mut dockerd);
        }
        if !ended {
            eprintln!("not ended within {PATIENCE:?}: the processes of {}", self.dir.display());
        }
    }
}

/// Whether it ended within a while.
fn ends(child: &mut Child) -> bool {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if child.try_wait().is_ok_and(|status| status.is_some()) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    false
}

/// Asks until it is so; what it last said is the failure.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(why) => assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}\n{why}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What a command printed, or what it had to say against it.
pub(crate) fn run(command: &mut Command) -> Result<String, String> {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(format!("{} {} ({})", text(&output.stdout), text(&output.stderr), output.status))
    }
}

fn prerequisites() {
    assert!(nix::unistd::geteuid().is_root(), "dockerd and its namespaces need root");
    for (program, package) in [
        ("dockerd", "docker.io"),
        ("docker", "docker.io, or docker-cli from Debian 13 on"),
        ("containerd", "containerd"),
        ("runc", "runc"),
        ("ip", "iproute2"),
        ("nsenter", "util-linux"),
        ("iptables", "iptables"),
        ("busybox", "busybox-static"),
    ] {
        assert!(which(program).is_some(), "{program} is missing: apt-get install {package}");
    }
    let dynamic = Command::new("ldd").arg(which("busybox").unwrap()).output().unwrap();
    assert!(
        !dynamic.status.success(),
        "busybox needs libraries that an image would lack: apt-get install busybox-static"
    );
}

fn path() -> String {
    std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin"
}

fn which(program: &str) -> Option<PathBuf> {
    path().split(':').map(|folder| Path::new(folder).join(program)).find(|file| file.is_file())
}
