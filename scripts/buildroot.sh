#!/bin/sh
# A folder with Debian 12, in which both architectures are built with Debian's own compilers, whatever this machine has:
#   buildroot.sh COMMAND...   runs it there, in /src, which is the checkout; what it builds is kept in TARGET/buildroot
#   buildroot.sh packages     prints what such a Debian needs, for the Dockerfile
# It is made once, from Debian's mirror. Paths in there are the same on each machine, so what is built is, too. A command
# there has no network: crates are fetched here, before. Needs root, for chroot.
set -eu

suite=bookworm
amd64=x86-64 arm64=aarch64
native=$(dpkg --print-architecture 2>/dev/null || echo amd64)
case $native in
    amd64) other=arm64 machine=$arm64 ;;
    arm64) other=amd64 machine=$amd64 ;;
    *) echo "buildroot: this machine is $native, neither amd64 nor arm64" >&2; exit 1 ;;
esac
# The compiler is the one that Debian keeps recent for browsers. libc6 and libgcc-s1 are what goes into the plugin.
packages="rustc-web cargo-web gcc libc6-dev jq ca-certificates libc6 libgcc-s1 \
gcc-$machine-linux-gnu libstd-rust-web-dev:$other libc6-dev:$other libc6:$other libgcc-s1:$other"
[ "${1:-}" != packages ] || { echo "$packages"; exit; }

fail() { echo "buildroot: $*" >&2; exit 1; }
[ $# -gt 0 ] || { echo "usage: $0 COMMAND... | packages" >&2; exit 2; }
[ "$(id -u)" = 0 ] || fail "root is needed, for chroot; without root the Dockerfile does the same"
top=$(cd "$(dirname "$0")/.." && pwd)
cargo=${CARGO_HOME:-$HOME/.cargo}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/ec2-ipam
# A changed recipe gives a new folder.
root=$cache/buildroot-$(sha256sum "$0" | cut -c 1-12)
target=$(cd "$top" && mkdir -p "${CARGO_TARGET_DIR:-target}/buildroot" && cd "${CARGO_TARGET_DIR:-target}/buildroot" && pwd)

mkdir -p "$cache"
exec 9>"$cache/buildroot.lock"
flock 9
if [ ! -d "$root" ]; then
    echo "buildroot: making $root, once; some 300 MB are fetched" >&2
    rm -rf --one-file-system "$cache"/buildroot-*
    mmdebstrap --quiet --mode=root --variant=apt --architectures="$native,$other" \
        --include="$(echo "$packages" | tr ' ' ,)" --aptopt='APT::Install-Recommends "false"' \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        $suite "$root.new" \
        "deb http://deb.debian.org/debian $suite main" "deb http://deb.debian.org/debian-security $suite-security main" >&2
    mkdir -p "$root.new/src" "$root.new/target" "$root.new/cargo/registry"
    mv "$root.new" "$root"
fi
flock -u 9

(cd "$top" && cargo fetch --quiet --locked --target x86_64-unknown-linux-gnu --target aarch64-unknown-linux-gnu)
# What the binary tells of itself: in there is no git.
if commit=$(git -C "$top" -c log.showSignature=false show --no-patch --abbrev=12 --format='%h %ct' HEAD 2>/dev/null); then
    : "${EC2_IPAM_COMMIT:=${commit% *}}" "${SOURCE_DATE_EPOCH:=${commit#* }}"
fi
export EC2_IPAM_COMMIT SOURCE_DATE_EPOCH
# Mounts end with the command.
# shellcheck disable=SC2016 # for the shell inside
exec unshare --mount sh -euc '
    top=$1 cargo=$2 target=$3 root=$4; shift 4
    mount --bind "$top" "$root/src"
    mount --bind "$cargo/registry" "$root/cargo/registry"
    mount --bind "$target" "$root/target"
    mount -t proc proc "$root/proc"
    mount --bind /dev "$root/dev"
    exec chroot "$root" env -i PATH=/usr/bin:/bin HOME=/cargo CARGO_HOME=/cargo CARGO_TARGET_DIR=/target \
        EC2_IPAM_COMMIT="${EC2_IPAM_COMMIT:-}" SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-}" \
        sh -c "cd /src && exec \"\$@\"" sh "$@"
' sh "$top" "$cargo" "$target" "$root" "$@"
