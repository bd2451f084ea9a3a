//! The scripts around the driver, with stand-ins for the programs that they call.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

/// A program of this name that does so.
fn stand_in(dir: &Path, name: &str, script: &str) {
    let path = dir.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// A command in the checkout, with the stand-ins before all else.
fn run(dir: &Path, command: &[&str], settings: &[(&str, &str)]) -> (bool, String) {
    let path = format!("{}:{}", dir.display(), std::env::var("PATH").unwrap());
    let Output { status, stdout, stderr } = Command::new(command[0])
        .args(&command[1..])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("PATH", path)
        .env("SEEN", dir.join("seen"))
        .env_remove("REGISTRY")
        .envs(settings.iter().copied())
        .output()
        .unwrap();
    (status.success(), String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap())
}

#[test]
fn what_a_target_lacks_is_said_before_the_build() {
    let dir = tempfile::tempdir().unwrap();
    stand_in(dir.path(), "cargo", r#"echo "$*" >>"$SEEN"; exit 1"#);
    stand_in(dir.path(), "docker", "exit 1");
    for (target, says) in [("push", "make push REGISTRY="), ("install", "No Docker Engine answers")] {
        let (done, text) = run(dir.path(), &["make", target], &[]);
        assert!(!done && text.contains(says), "make {target}: {text}");
        assert!(!dir.path().join("seen").exists(), "make {target} began to build: {text}");
    }
    // With all that it needs it does.
    run(dir.path(), &["make", "push", "REGISTRY=registry.example.com/team"], &[]);
    assert!(dir.path().join("seen").exists());
}

#[test]
fn mknet_says_how_a_network_that_is_there_differs_from_what_was_asked() {
    let dir = tempfile::tempdir().unwrap();
    // The parent is the loopback, which is up everywhere.
    stand_in(
        dir.path(),
        "curl",
        r#"case "$*" in
            *api/token) echo token ;;
            *interface-id) echo eni-0a1b2c3d4e5f60718 ;;
            *ipv4-cidr-block) echo 10.0.1.0/24 ;;
            *) exit 22 ;;
        esac"#,
    );
    // It fills in the template as the Engine does.
    stand_in(
        dir.path(),
        "docker",
        r#"case "$*" in
            "network inspect -f "*) echo "$4" | sed -e 's/{{.Driver}}/ipvlan/; s/{{.IPAM.Driver}}/ec2-ipam:latest/; s/{{.Internal}}/false/' \
                -e 's|{{range .IPAM.Config}}{{.Subnet}}{{end}}|10.0.1.0/24|; s|{{range .IPAM.Config}}{{.IPRange}}{{end}}|'"$RANGE"'|' \
                -e 's/{{index .IPAM.Options "eni-id"}}/eni-0a1b2c3d4e5f60718/; s/{{index .Options "parent"}}/lo/' \
                -e 's/{{index .Options "ipvlan_mode"}}/l3/; s/{{[^}]*}}/<no value>/' ;;
        esac"#,
    );
    let range = "10.0.1.128/25";
    for (there, asked, says) in [
        (range, &["--ip-range", range][..], Ok("is there already")),
        (range, &["--ip-range=10.0.1.128/25", "-o", "ipvlan_mode=l3"], Ok("is there already")),
        ("", &[], Ok("is there already")),
        ("invalid Prefix", &[], Ok("is there already")),
        (
            "",
            &["--aux-address", "x=10.0.1.9"],
            Ok("not compared, since a network that is there does not tell: --aux-address x=10.0.1.9"),
        ),
        ("", &["--ip-range", range], Err("wanted ip-range 10.0.1.128/25, found ip-range none")),
        ("invalid Prefix", &["--ip-range", range], Err("wanted ip-range 10.0.1.128/25, found ip-range none")),
        (range, &[], Err("wanted ip-range none, found ip-range 10.0.1.128/25")),
        (range, &["--ip-range", "10.0.1.0/25"], Err("wanted ip-range 10.0.1.0/25, found ip-range 10.0.1.128/25")),
        ("", &["-o", "ipvlan_mode=l2"], Err("wanted -o ipvlan_mode l2, found -o ipvlan_mode l3")),
        ("", &["--internal"], Err("wanted internal true, found internal false")),
        ("", &["--label", "team=blue"], Err("wanted label team blue, found label team")),
    ] {
        let mut command = vec!["scripts/mknet.sh", "lo", "ec2"];
        command.extend(asked);
        let (done, text) = run(dir.path(), &command, &[("RANGE", there)]);
        let (expected, words) = says.map_or_else(|words| (false, words), |words| (true, words));
        assert!(done == expected && text.contains(words), "{there:?} {asked:?}: {text}");
        assert_eq!(text.matches("wanted").count(), usize::from(!expected), "{there:?} {asked:?}: {text}");
    }
}
