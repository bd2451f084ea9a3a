#!/usr/bin/env bash
# All files of a release, for both architectures: release.sh OUT
# Where plugin/build.sh runs: scripts/release.sh calls it in scripts/buildroot.sh, the Dockerfile in its container.
set -euo pipefail

[ $# -eq 1 ] || { echo "usage: $0 OUT" >&2; exit 2; }
out=$1
cd "$(dirname "$0")/.."
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
umask 022
rm -rf "$out"
mkdir -p "$out"

for arch in amd64 arm64; do
    name=ec2-ipam-$version-$arch
    plugin/build.sh $arch "$work/$name"
    plugin/tar.sh "$work" "$name" | gzip -n9 >"$out/$name.tar.gz"
    plugin/image.sh "$work/$name" $arch "$version" | gzip -n9 >"$out/ec2-ipam-server-$version-$arch.tar.gz"
    plugin/sbom.sh $arch >"$out/$name.cdx.json"
done
plugin/changes.sh "$version" >"$out/CHANGES.md"
# What it was built with: another Debian, of another day, may give other bytes.
dpkg-query -W -f '${db:Status-Abbrev}${Package}:${Architecture} ${Version}\n' '*rust*' 'cargo-web' 'gcc*' 'binutils*' 'libgcc*' 'libc6*' \
    ca-certificates | sed -n 's/^ii *//p' >"$out/BUILT-WITH"
(cd "$out" && LC_ALL=C sha256sum -- * >"$work/SHA256SUMS" && mv "$work/SHA256SUMS" . && chmod 644 ./*)
