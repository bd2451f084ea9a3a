#!/usr/bin/env bash
# What a plugin holds, as a CycloneDX bill of materials in JSON: sbom.sh amd64|arm64 >FILE
# Its crates as cargo knows them, and what this Debian has for that architecture: where plugin/build.sh has run.
set -euo pipefail

[ $# -eq 1 ] || { echo "usage: $0 amd64|arm64" >&2; exit 2; }
arch=$1
case $arch in amd64) target=x86_64-unknown-linux-gnu ;; *) target=aarch64-unknown-linux-gnu ;; esac
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# What is linked into it, without what only builds or tests it.
cargo tree --locked --offline --target "$target" -p ec2-ipam -e normal,no-proc-macro --prefix none -f '{p}' |
    sed 's/^\([^ ]*\) v\([^ ]*\).*/\1@\2/' >"$work/crates"
# Cargo's own list has the digest of each.
awk -F'"' '/^name = /{n=$2} /^version = /{v=$2} /^checksum = /{print n "@" v "\t" $2}' Cargo.lock >"$work/digests"
dpkg-query -W -f '${Package}\t${Version}\t${Architecture}\n' "libc6:$arch" "libgcc-s1:$arch" ca-certificates >"$work/packages"

cargo metadata --locked --offline --format-version 1 --filter-platform "$target" | jq -S \
    --arg arch "$arch" --arg epoch "${SOURCE_DATE_EPOCH:-0}" --arg rust "$(rustc --version | cut -d' ' -f2)" \
    --rawfile crates "$work/crates" --rawfile digests "$work/digests" --rawfile packages "$work/packages" '
    def lines: split("\n") | map(select(. != ""));
    def purl: "pkg:cargo/\(.name)@\(.version | @uri)";
    ($crates | lines | map({(.): true}) | add) as $linked
    | ($digests | lines | map(split("\t") | {(.[0]): .[1]}) | add) as $digest
    | [.packages[] | select($linked["\(.name)@\(.version)"])] as $all
    | ($all | map({(.id): purl}) | add) as $known
    | def crate: "\(.name)@\(.version)" as $at
        | {type: "library", "bom-ref": purl, name, version, purl: purl, 
           licenses: [.license // empty | {expression: gsub(" */ *"; " OR ")}]}
        + if $digest[$at] then {hashes: [{alg: "SHA-256", content: $digest[$at]}]} else {} end;
    ($all[] | select(.source == null and .name == "ec2-ipam")) as $self
    | ($packages | lines | map(split("\t") | "pkg:deb/debian/\(.[0])@\(.[1] | @uri)?arch=\(.[2])&distro=bookworm" as $purl
        | {type: "library", "bom-ref": $purl, name: .[0], version: .[1], purl: $purl})) as $debian
    | {type: "library", "bom-ref": "pkg:generic/rust-std@\($rust)", name: "rust-std", version: $rust,
       purl: "pkg:generic/rust-std@\($rust)", licenses: [{expression: "MIT OR Apache-2.0"}]} as $std
    | {
        bomFormat: "CycloneDX", specVersion: "1.5", version: 1,
        metadata: {
            timestamp: ($epoch | tonumber | todate),
            component: ($self | crate | .type = "application" | .properties = [{name: "architecture", value: $arch}])
        },
        components: ([$all[] | select(.id != $self.id) | crate] + $debian + [$std] | sort_by(."bom-ref")),
        dependencies: ([.resolve.nodes[] | select($known[.id])
            | {ref: $known[.id], dependsOn: [.deps[] | select(any(.dep_kinds[]; .kind == null)) | $known[.pkg] // empty] | unique}
            | if .ref == ($self | purl) then .dependsOn += [$debian[], $std | ."bom-ref"] else . end] | sort_by(.ref))
    }'
