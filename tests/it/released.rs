//! What is made for users: a plugin that was put together, its archives, and what a release refuses.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::scripts::{run, stand_in};

const TOP: &str = env!("CARGO_MANIFEST_DIR");
/// Where an ELF file says which machine it is for, and what it says for arm64.
const MACHINE: usize = 18;
const ARM64: u8 = 183;

fn arch() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

fn other_arch() -> &'static str {
    if cfg!(target_arch = "aarch64") { "amd64" } else { "arm64" }
}

/// What a program that must succeed prints.
fn told(command: &mut Command) -> Vec<u8> {
    let done = command.output().unwrap();
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    done.stdout
}

fn script(name: &str) -> Command {
    Command::new(Path::new(TOP).join(name))
}

#[test]
fn a_plugin_is_checked_before_it_is_shipped() {
    let dir = tempfile::tempdir().unwrap();
    let plugin = dir.path().join("plugin");
    // Any program of this machine will do: ours is above the limit where it is built in haste.
    told(script("plugin/assemble.sh").arg("/usr/bin/env").arg(&plugin));
    let check = |arch: &[&str]| {
        let done = script("plugin/check.sh").arg(&plugin).args(arch).output().unwrap();
        (done.status.success(), String::from_utf8(done.stderr).unwrap())
    };
    assert_eq!(check(&[]), (true, String::new()));
    let (done, text) = check(&[other_arch()]);
    assert!(!done && text.contains(&format!(", not for {}", other_arch())), "{text}");

    // A library of another machine, as a sysroot that is mixed up has it.
    let libraries = std::fs::read_dir(plugin.join("rootfs/lib")).unwrap().map(|entry| entry.unwrap().path());
    let libc = libraries.map(|folder| folder.join("libc.so.6")).find(|file| file.exists()).unwrap();
    let whole = std::fs::read(&libc).unwrap();
    let mut mixed = whole.clone();
    mixed[MACHINE] = if arch() == "arm64" { 62 } else { ARM64 };
    std::fs::write(&libc, mixed).unwrap();
    let (done, text) = check(&[]);
    assert!(!done && text.contains("libc.so.6 is for "), "{text}");
    std::fs::write(&libc, whole).unwrap();

    for mode in [0o600, 0o4755] {
        std::fs::set_permissions(&libc, std::fs::Permissions::from_mode(mode)).unwrap();
        let (done, text) = check(&[]);
        assert!(!done && text.contains("neither folders of mode 755 nor files"), "{mode:o}: {text}");
    }
    std::fs::set_permissions(&libc, std::fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(check(&[]), (true, String::new()));
}

#[test]
fn archives_depend_on_nothing_but_what_is_in_them() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let names = ["rootfs/usr/bin/ec2-ipam", "rootfs/b", "config.json"];
    for (dir, names) in [(&one, names), (&other, ["config.json", "rootfs/usr/bin/ec2-ipam", "rootfs/b"])] {
        for name in names {
            let file = dir.path().join("plugin").join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, name).unwrap();
        }
    }
    let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(3600);
    std::fs::File::open(other.path().join("plugin/config.json")).unwrap().set_modified(long_ago).unwrap();
    nix::unistd::chown(&other.path().join("plugin/rootfs/b"), Some(65534.into()), None).unwrap();
    let archive = |dir: &tempfile::TempDir| told(script("plugin/tar.sh").arg(dir.path()).arg("plugin"));
    assert!(archive(&one) == archive(&other));
    let image = |dir: &tempfile::TempDir, arch| {
        told(script("plugin/image.sh").arg(dir.path().join("plugin")).args([arch, "1.2.3"]))
    };
    assert!(image(&one, "arm64") == image(&other, "arm64"));
    assert!(image(&one, "arm64") != image(&one, "amd64"));
}

#[test]
fn the_image_of_the_server_has_the_settings_of_its_unit() {
    let dir = tempfile::tempdir().unwrap();
    let rootfs = dir.path().join("plugin/rootfs");
    std::fs::create_dir_all(rootfs.join("usr/bin")).unwrap();
    let tar = told(script("plugin/image.sh").arg(dir.path().join("plugin")).args(["arm64", "1.2.3"]));
    std::fs::write(dir.path().join("image.tar"), tar).unwrap();
    told(Command::new("tar").arg("-C").arg(dir.path()).arg("-xf").arg(dir.path().join("image.tar")));
    let read =
        |name: &str| -> Value { serde_json::from_slice(&std::fs::read(dir.path().join(name)).unwrap()).unwrap() };
    let manifest = read("manifest.json");
    assert_eq!(manifest[0]["RepoTags"], json!(["ec2-ipam-server:1.2.3"]));
    let image = read(manifest[0]["Config"].as_str().unwrap());
    assert_eq!((&image["architecture"], &image["os"]), (&json!("arm64"), &json!("linux")));
    let unit = include_str!("../../packaging/ec2-ipam-server.service");
    let settings: Vec<&str> = unit.lines().filter_map(|line| line.strip_prefix("Environment=")).collect();
    assert_eq!(image["config"]["Env"], json!(settings));
    assert_eq!(image["config"]["Entrypoint"], json!(["/usr/bin/ec2-ipam"]));
    assert_eq!(image["config"]["Cmd"], json!(["serve"]));
}

#[test]
fn a_plugin_of_another_architecture_is_not_installed() {
    let dir = tempfile::tempdir().unwrap();
    stand_in(dir.path(), "docker", r#"case "$*" in "version -f"*) echo "$ENGINE" ;; plugin*) exit 1 ;; esac"#);
    let plugin = dir.path().join("plugin");
    let binary = plugin.join("rootfs/usr/bin");
    std::fs::create_dir_all(&binary).unwrap();
    std::fs::copy(env!("CARGO_BIN_EXE_ec2-ipam"), binary.join("ec2-ipam")).unwrap();
    let command = ["scripts/install.sh", plugin.to_str().unwrap()];
    let (done, text) = run(dir.path(), &command, &[("ENGINE", other_arch())]);
    let says = format!("is for {}, and this Engine's machine is {}\n", arch(), other_arch());
    assert!(!done && text.ends_with(&says), "{text}");
    let (_, text) = run(dir.path(), &command, &[("ENGINE", arch())]);
    assert!(!text.contains("this Engine's machine"), "{text}");
}

/// A repository with the scripts of a release, and stand-ins for what builds it.
fn repository(dir: &Path) {
    for folder in ["scripts", "plugin"] {
        std::fs::create_dir_all(dir.join(folder)).unwrap();
    }
    for file in ["scripts/release.sh", "plugin/changes.sh"] {
        std::fs::copy(Path::new(TOP).join(file), dir.join(file)).unwrap();
    }
    stand_in(&dir.join("scripts"), "setup.sh", "");
    let build = r#"mkdir -p build/release && cd build/release && cat "$PAYLOAD" | gzip -n >x.tar.gz && sha256sum x.tar.gz >SHA256SUMS"#;
    stand_in(&dir.join("scripts"), "buildroot.sh", build);
    std::fs::write(dir.join(".gitignore"), "/build\n").unwrap();
    std::fs::write(dir.join("Cargo.toml"), "[package]\nversion = \"1.2.3\"\n").unwrap();
    let changes =
        "# Changelog\n\n## Unreleased\n\n## 1.2.3 - 2026-12-01\n\nThis one.\n\n## 1.2.2 - 2026-11-30\n\nThat one.\n";
    std::fs::write(dir.join("CHANGELOG.md"), changes).unwrap();
    git(dir, &["init", "-q"]);
    commit(dir);
}

fn git(dir: &Path, args: &[&str]) {
    let name = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"];
    told(Command::new("git").arg("-C").arg(dir).args(name).args(args));
}

fn commit(dir: &Path) {
    git(dir, &["add", "-A"]);
    git(dir, &["commit", "-q", "--allow-empty", "-m", "one more"]);
}

#[test]
fn only_what_is_committed_and_called_so_is_released() {
    let dir = tempfile::tempdir().unwrap();
    let (at, payload) = (dir.path().join("checkout"), dir.path().join("payload"));
    repository(&at);
    std::fs::write(&payload, "a binary").unwrap();
    let release = |version: &str| {
        let mut command = Command::new(at.join("scripts/release.sh"));
        let done = command.arg(version).env("PAYLOAD", &payload).output().unwrap();
        let text = String::from_utf8(done.stdout).unwrap() + &String::from_utf8(done.stderr).unwrap();
        (done.status.success(), text)
    };
    let refused = |version: &str, why: &str| {
        let (done, text) = release(version);
        assert!(!done && text.contains(why), "{version}: {text}");
    };
    let (done, text) = release("1.2.3");
    assert!(done && text.contains("the commit has no tag v1.2.3 yet"), "{text}");
    for version in ["1.2.2", "v1.2.3", "1.2", "", "1.2.3 "] {
        refused(version, "Cargo.toml has version 1.2.3, not");
    }
    git(&at, &["tag", "v1.2.3"]);
    let (done, text) = release("1.2.3");
    assert!(done && !text.contains("tag"), "{text}");

    std::fs::write(at.join("new"), "").unwrap();
    refused("1.2.3", "not everything is committed:\n?? new");
    commit(&at);
    refused("1.2.3", "the tag v1.2.3 is another commit");
    git(&at, &["tag", "-d", "v1.2.3"]);

    std::fs::write(&payload, at.join("src/main.rs").to_str().unwrap()).unwrap();
    refused("1.2.3", "x.tar.gz has paths of this machine in it");
    std::fs::write(at.join("CHANGELOG.md"), "# Changelog\n\n## Unreleased\n\n## 1.2.3\n\nNo day.\n").unwrap();
    refused("1.2.3", "CHANGELOG.md has no section \"## 1.2.3 - YEAR-MONTH-DAY\"");
}

#[test]
fn the_changes_of_a_version_are_its_section_alone() {
    let dir = tempfile::tempdir().unwrap();
    repository(dir.path());
    let changes = |version: &str| Command::new(dir.path().join("plugin/changes.sh")).arg(version).output().unwrap();
    assert_eq!(changes("1.2.3").stdout, b"This one.\n");
    assert_eq!(changes("1.2.2").stdout, b"That one.\n");
    assert!(!changes("1.2").status.success());
    // A dot is a dot.
    assert!(!changes("1x2.3").status.success());
}
