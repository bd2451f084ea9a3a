//! What a host does before its auto-scaling group terminates it, as far as it can be seen without AWS.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::support::host::{Fleet, Kind, eventually};

/// The driver and its metadata service are there; Docker and the AWS command line have stand-ins.
#[tokio::test]
async fn the_hook_of_an_auto_scaling_group_drains_stops_and_tells_the_group() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let settings = [("EC2_IPAM_COOLDOWN", "0s"), ("EC2_IPAM_WARM_TARGET", "2")];
    let (host, pool) = fleet.started(1, &settings).await;
    let lease = host.lease(&pool).await;
    let bin = host.dir.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let seen = host.dir.path().join("seen");
    let (socket, driver) = (host.socket(), env!("CARGO_BIN_EXE_ec2-ipam"));
    let stand_ins = [
        ("ec2-ipam", format!("echo \"ec2-ipam $*\" >>$SEEN; exec {driver} --socket {} \"$@\"", socket.display())),
        ("docker", r#"echo "docker $*" >>$SEEN; case $1 in ps) echo 0123; echo 4567 ;; esac"#.to_owned()),
        ("aws", r#"echo "aws $*" >>$SEEN"#.to_owned()),
    ];
    for (name, script) in stand_ins {
        let path = bin.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/ec2-ipam-lifecycle.sh");
    let run = format!(
        "PATH={}:$PATH SEEN={} IMDS={} GROUP=fleet HOOK=drain EVERY=0.1 WAIT=30 exec {script}",
        bin.display(),
        seen.display(),
        host.imds_url()
    );
    let args = ["-c", run.as_str()];
    let read = || std::fs::read_to_string(&seen).unwrap_or_default();
    let group = async {
        for wanted in ["", "InService", "Terminated"] {
            assert_eq!(read(), "", "not yet");
            if !wanted.is_empty() {
                fleet.vpc.lifecycle(&host.instance, wanted);
            }
            let asked = fleet.vpc.imds_reads().len();
            eventually("it has looked", async || fleet.vpc.imds_reads().len() > asked + 6 || !read().is_empty()).await;
        }
        eventually("it stops the containers", async || read().contains("docker stop")).await;
        host.release(&pool, lease).await;
    };
    let (said, ()) = tokio::join!(host.program("sh", &args), group);
    assert!(said.contains("no container has an address\nnothing idle is left on its interfaces\n"), "{said}");
    assert!(host.assigned().is_empty());
    let expected = format!(
        "ec2-ipam drain\ndocker ps -q\ndocker stop -t 30 0123 4567\nec2-ipam drain --wait 30\naws autoscaling \
         complete-lifecycle-action --lifecycle-action-result CONTINUE --auto-scaling-group-name fleet --lifecycle-hook-name \
         drain --instance-id {} --region {}\n",
        host.instance,
        vpc_sim::REGION
    );
    assert_eq!(read(), expected);
}

/// Before anything is stopped for a hook that could not be told.
#[test]
fn a_hook_without_its_group_is_noticed_at_once() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/ec2-ipam-lifecycle.sh");
    // Nobody answers there.
    let settings = [("HOOK", "drain"), ("IMDS", "http://127.0.0.1:1"), ("EVERY", "0.1")];
    let done = Command::new("timeout").args(["5", script]).envs(settings).env_remove("GROUP").output().unwrap();
    let said = String::from_utf8(done.stderr).unwrap();
    assert_eq!(
        (done.status.code(), said.as_str()),
        (Some(1), "HOOK is drain, but GROUP, whose hook it is, is not set\n")
    );
}
