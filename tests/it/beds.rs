//! The tests' own servers: whatever becomes of a run, nothing of it stays on the machine.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::host::eventually;
use crate::support::server::{Shell, processes, sweep};

/// Not a test by itself: a run with a bed whose script hangs, which never asks whether anybody is there.
#[test]
#[ignore = "run by another test"]
fn in_a_process() {
    let dir = tempfile::tempdir().unwrap().keep();
    let shell = Shell::run(&["sh"], "while :; do sleep 0.2; done", &dir);
    println!("holding {} {}", shell.pid(), dir.display());
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

struct Run {
    child: Child,
    keeper: i32,
    dir: PathBuf,
}

impl Run {
    fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "--nocapture", "beds::in_a_process"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let told = lines.find_map(|line| line.unwrap().split_once("holding ").map(|(_, told)| told.to_owned()));
        let told = told.expect("a bed in another process");
        let (keeper, dir) = told.split_once(' ').unwrap();
        Self { child, keeper: keeper.parse().unwrap(), dir: dir.into() }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    async fn is_gone(&self) {
        eventually("nothing of it runs", async || processes(&self.dir).is_empty()).await;
        eventually("nor are there files", async || !self.dir.exists()).await;
    }
}

#[tokio::test]
async fn what_a_stopped_run_leaves_is_ended_whatever_its_bed_was_at() {
    let mut run = Run::start();
    eventually("both shells run", async || processes(&run.dir).len() >= 2).await;
    run.kill();
    run.is_gone().await;
    // Without the one that watches, by the next run.
    let mut run = Run::start();
    eventually("both shells run", async || processes(&run.dir).len() >= 2).await;
    sweep();
    assert!(run.dir.exists() && !processes(&run.dir).is_empty(), "another run that goes on is left alone");
    run.kill();
    kill(Pid::from_raw(run.keeper), Signal::SIGKILL).unwrap();
    sweep();
    run.is_gone().await;
}
