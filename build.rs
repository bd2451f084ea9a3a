//! Tells the version, with the commit where it is known: of this repository, or as `EC2_IPAM_COMMIT` says. A tarball has
//! none, and builds as well.
#![allow(clippy::print_stdout, reason = "cargo reads it")]

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=EC2_IPAM_COMMIT");
    let version = env!("CARGO_PKG_VERSION");
    let given = std::env::var("EC2_IPAM_COMMIT").ok().filter(|commit| !commit.is_empty());
    let version = match given.or_else(of_repository) {
        Some(commit) => format!("{version} ({commit})"),
        None => version.to_owned(),
    };
    println!("cargo:rustc-env=EC2_IPAM_VERSION={version}");
}

fn of_repository() -> Option<String> {
    // A tarball may be unpacked inside somebody else's repository. Asked when this runs: another checkout may have built it.
    let here = std::env::var("CARGO_MANIFEST_DIR").ok()?;
    let top = git(&["rev-parse", "--show-toplevel"])?;
    if Path::new(&top).canonicalize().ok()? != Path::new(&here).canonicalize().ok()? {
        return None;
    }
    for file in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--git-path", file])?;
        if Path::new(&path).exists() {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}

fn git(args: &[&str]) -> Option<String> {
    let done = Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(done.stdout).ok()?;
    done.status.success().then(|| text.trim().to_owned()).filter(|text| !text.is_empty())
}
