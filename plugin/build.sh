#!/bin/sh
# Builds the plugin for one architecture, its own or the other: build.sh amd64|arm64 OUT
# For a Debian with the packages that scripts/buildroot.sh names: there, or in the container of the Dockerfile. Crates are
# fetched before.
set -eu

[ $# -eq 2 ] || { echo "usage: $0 amd64|arm64 OUT" >&2; exit 2; }
top=$(cd "$(dirname "$0")/.." && pwd)
case $1 in
    amd64) machine=x86_64 ;;
    arm64) machine=aarch64 ;;
    *) echo "plugin: $1 is neither amd64 nor arm64" >&2; exit 2 ;;
esac
target=$machine-unknown-linux-gnu
upper=$(echo $target | tr a-z- A-Z_)
export "CARGO_TARGET_${upper}_LINKER=$machine-linux-gnu-gcc"

cd "$top"
scripts/build.sh --release --locked --offline --target $target --bin ec2-ipam
plugin/assemble.sh "${CARGO_TARGET_DIR:-target}/$target/release/ec2-ipam" "$2"
plugin/check.sh "$2" "$1"
