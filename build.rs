//! Tells the version, with the commit and its day (UTC) where they are known: of this repository, or as `EC2_IPAM_COMMIT` and
//! `SOURCE_DATE_EPOCH` say. A tarball has none, and builds as well.
#![allow(clippy::print_stdout, reason = "cargo reads it")]

use std::path::Path;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let version = env!("CARGO_PKG_VERSION");
    let given = given("EC2_IPAM_COMMIT").map(|commit| (commit, given("SOURCE_DATE_EPOCH")));
    let version = match given.or_else(of_repository) {
        Some((commit, seconds)) => match seconds.and_then(|seconds| day(&seconds)) {
            Some(day) => format!("{version} ({commit} {day})"),
            None => format!("{version} ({commit})"),
        },
        None => version.to_owned(),
    };
    println!("cargo:rustc-env=EC2_IPAM_VERSION={version}");
}

fn given(name: &str) -> Option<String> {
    println!("cargo:rerun-if-env-changed={name}");
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// As YEAR-MONTH-DAY, of seconds since 1970.
fn day(seconds: &str) -> Option<String> {
    let at = UNIX_EPOCH.checked_add(Duration::from_secs(seconds.parse().ok()?))?;
    let text = humantime::format_rfc3339_seconds(at).to_string();
    Some(text.split('T').next()?.to_owned())
}

/// Its commit, and when that was made.
fn of_repository() -> Option<(String, Option<String>)> {
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
    let commit =
        git(&["-c", "log.showSignature=false", "show", "--no-patch", "--abbrev=12", "--format=%h %ct", "HEAD"])?;
    let (commit, seconds) = commit.split_once(' ')?;
    Some((commit.to_owned(), Some(seconds.to_owned())))
}

fn git(args: &[&str]) -> Option<String> {
    let done = Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(done.stdout).ok()?;
    done.status.success().then(|| text.trim().to_owned()).filter(|text| !text.is_empty())
}
