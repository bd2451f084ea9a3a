#!/bin/sh
# Builds build/release once more, from a clone in another folder and from nothing, and compares each byte: release-check.sh
set -eu

cd "$(dirname "$0")/.."
[ -d build/release ] || { echo "release: nothing to compare with; make release first" >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
git clone --quiet . "$work/again"
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$work/again/Cargo.toml")
CARGO_TARGET_DIR=$work/target "$work/again/scripts/release.sh" "$version"
diff -r build/release "$work/again/build/release" || { echo "release: the two builds differ" >&2; exit 1; }
echo "release: both builds are the same, byte by byte"
