//! What is built in: under which licences, from where, each once, and with which Rust.

use std::collections::{BTreeMap, BTreeSet};
use std::iter::Peekable;
use std::process::Command;

use serde_json::Value;

/// All of them let the plugin be given away with a notice, which plugin/notices.sh writes.
const LICENCES: [&str; 7] = ["Apache-2.0", "BSD-3-Clause", "CDLA-Permissive-2.0", "ISC", "MIT", "Unicode-3.0", "Zlib"];

/// Never, and why.
const BANNED: [(&str, &str); 2] = [
    ("native-tls", "rustls is the one TLS stack"),
    ("openssl-sys", "rustls is the one TLS stack, and the plugin holds no library of its own"),
];

/// In two versions, and because of whom.
const TWICE: [(&str, &str); 8] = [
    ("base64", "mysql_common is a version behind hyper-util"),
    ("block-buffer", "of digest"),
    ("cpufeatures", "of sha2"),
    ("crypto-common", "of digest"),
    ("digest", "of sha2"),
    ("getrandom", "ring and mysql_common each keep an older one"),
    ("sha2", "mysql_common is a version behind the SDK"),
    ("syn", "some macros have not come to version 3 yet"),
];

#[test]
fn every_dependency_is_one_that_may_be_shipped() {
    let packages = packages();
    for package in &packages {
        let name = text(package, "name");
        let licence = text(package, "license");
        assert!(permits(licence), "{name} is under {licence}");
        let source = package["source"].as_str();
        let is_ours = source.is_none();
        assert!(
            is_ours || source == Some("registry+https://github.com/rust-lang/crates.io-index"),
            "{name}: {source:?}"
        );
        let banned = BANNED.iter().find(|(banned, _)| *banned == name);
        assert!(banned.is_none(), "{banned:?}");
    }
    // What no dependency needs any more is struck off.
    for licence in LICENCES {
        assert!(
            packages.iter().any(|package| text(package, "license").contains(licence)),
            "nothing is under {licence}"
        );
    }
}

#[test]
fn every_dependency_is_there_once_except_where_it_is_said_why() {
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let packages = packages();
    for package in &packages {
        versions.entry(text(package, "name")).or_default().insert(text(package, "version"));
    }
    let twice = versions.iter().filter(|(_, versions)| versions.len() > 1).map(|(name, _)| *name);
    let expected = TWICE.iter().map(|(name, _)| *name);
    assert_eq!(twice.collect::<Vec<_>>(), expected.collect::<Vec<_>>(), "{versions:?}");
}

/// Which methods of the standard library are newer, clippy knows (`incompatible_msrv`).
#[test]
fn no_dependency_wants_a_newer_rust_than_we_say() {
    let ours = rust(env!("CARGO_PKG_RUST_VERSION"));
    for package in packages() {
        let Some(wanted) = package["rust_version"].as_str() else { continue };
        assert!(rust(wanted) <= ours, "{} wants Rust {wanted}", text(&package, "name"));
    }
}

/// What is built on this kind of machine, with the tests' own.
fn packages() -> Vec<Value> {
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let done = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--format-version=1", "--filter-platform", &platform])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let mut metadata: Value = serde_json::from_slice(&done.stdout).unwrap();
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let built: BTreeSet<String> = nodes.iter().map(|node| text(node, "id").to_owned()).collect();
    let Value::Array(packages) = metadata["packages"].take() else { panic!("{metadata}") };
    packages.into_iter().filter(|package| built.contains(text(package, "id"))).collect()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("no {key}: {value}"))
}

fn rust(version: &str) -> Vec<u32> {
    version.split('.').map(|number| number.parse().unwrap()).collect()
}

/// Whether `expression`, in SPDX's words or the older ones with a slash, leaves us a choice of ours.
fn permits(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    let may = any(&mut words);
    may && words.next().is_none()
}

fn any<'a>(words: &mut Peekable<impl Iterator<Item = &'a str>>) -> bool {
    let mut may = all(words);
    while words.next_if_eq(&"OR").is_some() {
        may |= all(words);
    }
    may
}

fn all<'a>(words: &mut Peekable<impl Iterator<Item = &'a str>>) -> bool {
    let mut may = one(words);
    while words.next_if_eq(&"AND").is_some() {
        may &= one(words);
    }
    may
}

fn one<'a>(words: &mut Peekable<impl Iterator<Item = &'a str>>) -> bool {
    let word = words.next();
    if word == Some("(") {
        let may = any(words);
        return words.next() == Some(")") && may;
    }
    // An exception lets more be done, not less.
    if words.next_if_eq(&"WITH").is_some() {
        words.next();
    }
    word.is_some_and(|word| LICENCES.contains(&word))
}

#[test]
fn a_licence_is_read_as_spdx_says() {
    for good in ["MIT", "MIT/GPL-3.0", "GPL-3.0 OR (ISC AND Zlib)", "Apache-2.0 WITH LLVM-exception AND MIT"] {
        assert!(permits(good), "{good}");
    }
    for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT OR ISC) AND GPL-3.0", "MIT ISC", "(MIT"] {
        assert!(!permits(bad), "{bad}");
    }
}
