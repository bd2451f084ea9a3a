//! Which Rust the dependencies want. Their licences and versions are deny.toml's subject.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

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
