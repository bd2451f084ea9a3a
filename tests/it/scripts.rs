//! The scripts around the driver, with stand-ins for the programs that they call.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

/// A program of this name that does so.
pub(crate) fn stand_in(dir: &Path, name: &str, script: &str) {
    let path = dir.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// A command in the checkout, with the stand-ins before all else.
pub(crate) fn run(dir: &Path, command: &[&str], settings: &[(&str, &str)]) -> (bool, String) {
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

/// Of an instance whose interface is the loopback, which is up everywhere.
const IMDS: &str = r#"case "$*" in
    *api/token) echo token ;;
    *meta-data/instance-id) echo i-0a1b2c3d4e5f60718 ;;
    *interface-id) echo eni-0a1b2c3d4e5f60718 ;;
    *ipv4-cidr-block) echo 10.0.1.0/24 ;;
    *) exit 22 ;;
esac"#;

#[test]
fn what_a_target_lacks_is_said_before_the_build() {
    let dir = tempfile::tempdir().unwrap();
    stand_in(dir.path(), "cargo", r#"echo "$*" >>"$SEEN"; exit 1"#);
    stand_in(dir.path(), "docker", "exit 1");
    for (target, says) in [
        ("push", "make push REGISTRY="),
        ("install", "No Docker Engine answers"),
        ("image", "No Docker Engine answers"),
        ("release", "make release VERSION=1.2.3"),
        ("ARCH=sparc", "ARCH is amd64 or arm64, not sparc"),
    ] {
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
    stand_in(dir.path(), "curl", IMDS);
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

#[test]
fn mknet_makes_the_network_of_a_server_only_where_the_engine_is_led_to_it() {
    const SAMPLE: &str = include_str!("../../packaging/ec2-ipam.json");
    const SERVER: &str = "https://ipam.example.internal:8031";
    const PLAIN: &str = "http://10.0.1.9:8031";
    let dir = tempfile::tempdir().unwrap();
    stand_in(dir.path(), "curl", IMDS);
    stand_in(
        dir.path(),
        "docker",
        r#"case "$*" in
            "plugin inspect "*) [ -n "$PLUGIN" ] ;;
            "network create "*) echo "$*" >"$SEEN" ;;
            "network inspect -f "*) echo "$4" | sed -e 's/{{.Driver}}/ipvlan/; s/{{.IPAM.Driver}}/ec2-ipam/' \
                -e 's|{{range .IPAM.Config}}{{.Subnet}}{{end}}|10.0.1.0/24|; s/{{range .IPAM.Config}}{{.IPRange}}{{end}}//' \
                -e 's/{{index .IPAM.Options "eni-id"}}/eni-0a1b2c3d4e5f60718/; s/{{index .Options "parent"}}/lo/' \
                -e 's/{{index .IPAM.Options "instance-id"}}/'"$INSTANCE"'/' ;;
            "network inspect "*) [ -e "$SEEN" ] ;;
        esac"#,
    );
    let (seen, files) = (dir.path().join("seen"), dir.path().join("files"));
    let mknet = |server: &str, instance: &str, plugin: &str| {
        let files = files.to_str().unwrap();
        let settings = [("SERVER", server), ("INSTANCE", instance), ("PLUGIN", plugin), ("PLUGIN_FILES", files)];
        run(dir.path(), &["scripts/mknet.sh", "lo", "ec2"], &settings)
    };
    let without_tls = SAMPLE.replace("https:", "tcp:");
    for (file, text, server, refused) in [
        ("ec2-ipam.json", SAMPLE, SERVER, None),
        ("ec2-ipam/ec2-ipam.json", SAMPLE, "https://ipam.example.internal:8031/", None),
        ("ec2-ipam.spec", "http://10.0.1.9:8031\n", PLAIN, None),
        ("ec2-ipam.spec", "tcp://10.0.1.9:8031", PLAIN, None),
        ("other.json", SAMPLE, SERVER, Some("copy packaging/ec2-ipam.json to /etc/docker/plugins/ec2-ipam.json")),
        ("other.json", SAMPLE, PLAIN, Some("write http://10.0.1.9:8031 to /etc/docker/plugins/ec2-ipam.spec")),
        ("ec2-ipam.json", SAMPLE, PLAIN, Some("to https://ipam.example.internal:8031, not to http://10.0.1.9:8031")),
        ("ec2-ipam.json", without_tls.as_str(), SERVER, Some("to http://ipam.example.internal:8031, not to https://")),
        ("ec2-ipam.sock", "", SERVER, Some("to a driver on this host, not to https://")),
        ("ec2-ipam.json", SAMPLE, "https://ipam.example.internal:8031/ipam", Some("has a path")),
        ("ec2-ipam.json", SAMPLE, "ipam.example.internal:8031", Some("is no address such as https://")),
    ] {
        for old in [&seen, &files] {
            let _ = std::fs::remove_file(old).or_else(|_| std::fs::remove_dir_all(old));
        }
        let at = files.join(file);
        std::fs::create_dir_all(at.parent().unwrap()).unwrap();
        std::fs::write(at, text).unwrap();
        let (done, text) = mknet(server, "", "");
        if let Some(why) = refused {
            assert!(!done && text.contains(why) && !seen.exists(), "{file} {server}: {text}");
            continue;
        }
        assert!(done, "{file} {server}: {text}");
        assert_eq!(
            std::fs::read_to_string(&seen).unwrap(),
            "network create -d ipvlan --ipam-driver ec2-ipam --ipam-opt eni-id=eni-0a1b2c3d4e5f60718 --subnet 10.0.1.0/24 \
             -o parent=lo --ipam-opt instance-id=i-0a1b2c3d4e5f60718 ec2\n"
        );
        for (instance, plugin, says) in [
            ("i-0a1b2c3d4e5f60718", "", Ok("is there already")),
            (
                "i-0fffffffffffffff1",
                "",
                Err("instance-id i-0a1b2c3d4e5f60718, found ipam-opt instance-id i-0fffffffffffffff1"),
            ),
            ("i-0a1b2c3d4e5f60718", "there", Err("docker plugin rm ec2-ipam")),
        ] {
            let (done, text) = mknet(server, instance, plugin);
            let (expected, words) = says.map_or_else(|words| (false, words), |words| (true, words));
            assert!(done == expected && text.contains(words), "{file} {instance}: {text}");
        }
    }
}
