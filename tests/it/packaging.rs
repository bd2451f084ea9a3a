//! What is installed beside the plugin: the command line's wrapper, its man pages and completions; and what a server and its
//! clients are set up with.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use clap::Parser;
use ec2_ipam::cli::Cli;
use serde_json::{Value, json};

#[path = "../../packaging/pages.rs"]
#[allow(dead_code, reason = "its main")]
mod pages;

const WRAPPER: &str = include_str!("../../packaging/ec2-ipam.sh");

fn script(at: &Path, text: &str) {
    std::fs::create_dir_all(at.parent().unwrap()).unwrap();
    std::fs::write(at, text).unwrap();
    std::fs::set_permissions(at, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn every_command_has_a_man_page_and_every_shell_its_completions() {
    let share = tempfile::tempdir().unwrap();
    pages::write(share.path()).unwrap();
    let read =
        |file: &str| std::fs::read_to_string(share.path().join(file)).unwrap_or_else(|why| panic!("{file}: {why}"));
    for command in ec2_ipam::cli::command().get_subcommands() {
        let page = read(&format!("man/man1/ec2-ipam-{}.1", command.get_name()));
        assert!(page.contains(command.get_name()), "{page}");
    }
    assert!(read("man/man1/ec2-ipam-serve.1").contains("EC2_IPAM_COOLDOWN"));
    assert!(!read("man/man1/ec2-ipam-list.1").contains("EC2_IPAM_COOLDOWN"));
    assert!(read("man/man1/ec2-ipam.1").contains("ec2\\-ipam"));
    for file in [
        "bash-completion/completions/ec2-ipam",
        "zsh/site-functions/_ec2-ipam",
        "fish/vendor_completions.d/ec2-ipam.fish",
    ] {
        assert!(read(file).contains("recycle"), "{file}");
    }
}

/// With a stand-in for docker and for the loader: the plugin itself is tried in a real Engine elsewhere.
#[test]
fn the_wrapper_runs_the_plugins_own_binary_and_says_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let rootfs = dir.path().join("plugins/0abc/rootfs");
    let (wrapper, docker) = (dir.path().join("ec2-ipam"), dir.path().join("bin/docker"));
    script(&wrapper, WRAPPER);
    let root = dir.path().display();
    script(&docker, &format!("#!/bin/sh\ncase $1 in info) echo {root} ;; plugin) echo 0abc ;; esac\n"));
    let run = |uid: Option<u32>| {
        let mut command = Command::new(&wrapper);
        command.args(["list", "a b"]).env("PATH", format!("{root}/bin:/usr/bin:/bin"));
        if let Some(uid) = uid {
            command.uid(uid);
        }
        let done = command.output().unwrap();
        (done.status.code(), String::from_utf8(done.stdout).unwrap() + &String::from_utf8(done.stderr).unwrap())
    };
    let said = "ec2-ipam: the plugin and its socket are root's: use sudo\n";
    assert_eq!(run(Some(65534)), (Some(1), said.to_owned()));
    let said = "ec2-ipam: no plugin ec2-ipam:latest here: see docker plugin ls\n";
    assert_eq!(run(None), (Some(1), said.to_owned()));
    for (loader, libraries) in
        [("lib64/ld-linux-x86-64.so.2", "lib/x86_64-linux-gnu"), ("lib/ld-linux-aarch64.so.1", "lib/aarch64-linux-gnu")]
    {
        let _ = std::fs::remove_dir_all(&rootfs);
        script(&rootfs.join("usr/bin/ec2-ipam"), "");
        std::fs::create_dir_all(rootfs.join(libraries)).unwrap();
        script(&rootfs.join(loader), "#!/bin/sh\nprintf '%s|' \"$@\"\n");
        let rootfs = rootfs.display();
        let said = format!("--library-path|{rootfs}/{libraries}|{rootfs}/usr/bin/ec2-ipam|list|a b|");
        assert_eq!(run(None), (Some(0), said));
    }
    // Where there is no copy of the sources, it is copied out of a document.
    let document = include_str!("../../docs/operating.md");
    for line in WRAPPER.lines().filter(|line| !line.starts_with("# ")) {
        assert!(document.contains(&format!("\n{line}\n")), "{line}");
    }
}

#[test]
fn the_engine_speaks_tls_by_the_sample_and_trusts_nobody_else() {
    let sample: Value = serde_json::from_str(include_str!("../../packaging/ec2-ipam.json")).unwrap();
    // Of another scheme it would not be encrypted, and a path would be dropped.
    let at = sample["Addr"].as_str().and_then(|address| address.strip_prefix("https://")).unwrap();
    assert!(!at.contains('/') && at.ends_with(":8031"), "{at}");
    let tls = &sample["TLSConfig"];
    assert_eq!(tls["InsecureSkipVerify"], json!(false));
    // Without the authorities nothing is verified either.
    for file in ["CAFile", "CertFile", "KeyFile"] {
        assert!(tls[file].as_str().is_some_and(|path| path.starts_with("/etc/docker/ec2-ipam/")), "{tls}");
    }
    assert_eq!(tls.as_object().unwrap().len(), 4, "an Engine ignores what it does not know: {tls}");
}

#[test]
fn the_unit_of_the_server_has_settings_that_the_program_takes() {
    let unit = include_str!("../../packaging/ec2-ipam-server.service");
    let settings = unit.lines().filter_map(|line| line.strip_prefix("Environment=")?.split_once('='));
    let flags = settings.flat_map(|(name, value)| {
        let flag = name.strip_prefix("EC2_IPAM_").unwrap().to_lowercase().replace('_', "-");
        [format!("--{flag}"), value.to_owned()]
    });
    let words = ["ec2-ipam", "serve"].map(str::to_owned).into_iter().chain(flags);
    let settings = Cli::try_parse_from(words).unwrap().given.settings().unwrap();
    assert!(settings.distant);
    let listen = settings.listen;
    assert_eq!(listen.tcp.iter().map(ToString::to_string).collect::<Vec<_>>(), ["https://0.0.0.0:8031"]);
    assert!(listen.tls.is_some_and(|tls| tls.client_ca.is_some()), "whoever reaches the port is let in");
    // All else is read-only to it.
    for (directive, file) in [("StateDirectory", settings.journal.unwrap()), ("RuntimeDirectory", listen.unix)] {
        let line = format!("{directive}={}", file.parent().unwrap().file_name().unwrap().display());
        assert!(unit.lines().any(|each| each == line), "{line}");
    }
    let may = |unit: &'static str| unit.split_once("\nCapabilityBoundingSet=").unwrap().1;
    assert_eq!(may(unit), may(include_str!("../../packaging/ec2-ipam.service")), "it may do no more than the service");
    assert!(unit.lines().any(|line| line == "LimitCORE=0"));
}
