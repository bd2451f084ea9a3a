#!/bin/sh
# Installs what a target lacks on Debian and Ubuntu: setup.sh build|test|demo|e2e|cross|arm64. Elsewhere, or without root, says what
# to install. Daemons of the machine are left alone, and none is started by what is installed here.
set -eu

target=${1:-build}
case $target in build | test | demo | e2e | cross | arm64) ;; *) echo "usage: $0 build|test|demo|e2e|cross|arm64" >&2; exit 2 ;; esac
top=$(cd "$(dirname "$0")/.." && pwd)
PATH=$PATH:/usr/sbin:/sbin

# Without the prerequisites a test run in CI would pass by skipping, so it fails; a person may know better.
missing() {
    printf '%s\n' "setup: $*" >&2
    [ "${CI:-}" = true ] || [ "$target" != test ] && exit 1
    exit 0
}

want=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$top/Cargo.toml")
have=$(cd "$top" && cargo --version 2>/dev/null | cut -d' ' -f2) || true
[ "$(printf '%s\n' "$want" "${have:-0}" | sort -V | head -n 1)" = "$want" ] || missing "\
Rust $want or newer is needed, this is ${have:-none}. Get it from https://rustup.rs (then: rustup update stable)"

packages=
need() { # PACKAGE: what follows must succeed, else the package is lacking
    package=$1; shift
    "$@" >/dev/null 2>&1 || packages="$packages $package"
}
# The package makes the user that a cluster's nodes run as; mariadb-server-core has the program alone.
mariadb_and_user() { command -v mariadbd && id mysql; }
browser() { command -v chromium || command -v chromium-browser || command -v google-chrome; }
static_busybox() { command -v busybox && ! ldd "$(command -v busybox)"; }

need gcc command -v cc
need libc6-dev test -e /usr/include/stdlib.h
need ca-certificates test -s /etc/ssl/certs/ca-certificates.crt
if [ "$target" = test ] || [ "$target" = demo ]; then
    need docker.io command -v dockerd
    need docker-cli command -v docker
    need iptables command -v iptables
    need iproute2 command -v ip
    need busybox-static static_busybox
    need curl command -v curl
fi
if [ "$target" = test ]; then
    need mariadb-server mariadb_and_user
    need galera-4 test -e /usr/lib/galera/libgalera_smm.so
    need rsync command -v rsync
    need openssl command -v openssl
    need prometheus command -v promtool
    need chromium browser
    need shellcheck command -v shellcheck
fi
if [ "$target" != build ] && [ "$target" != demo ]; then
    need mmdebstrap command -v mmdebstrap
    need debian-archive-keyring test -e /usr/share/keyrings/debian-archive-keyring.gpg
fi
[ "$target" != arm64 ] || need qemu-user command -v qemu-aarch64
[ "$target" != test ] || need jq command -v jq
if [ "$target" = e2e ]; then
    need qemu-system-x86 command -v qemu-system-x86_64
    need e2fsprogs command -v mkfs.ext4
    need openssh-client command -v ssh
    need jq command -v jq
    need openssl command -v openssl
fi
# Built without its optimisations, as it works for a second only.
tools() {
    [ "$target" = test ] || return 0
    tools=${XDG_CACHE_HOME:-$HOME/.cache}/ec2-ipam/tools
    if cargo deny --version >/dev/null 2>&1 || [ -x "$tools/bin/cargo-deny" ]; then return 0; fi
    echo "setup: installing cargo-deny in $tools"
    CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off CARGO_TARGET_DIR=$tools/target \
        cargo install --quiet --locked --root "$tools" --version 0.20.2 cargo-deny || missing "cargo install cargo-deny fails"
    rm -rf "$tools/target"
}
[ -n "$packages" ] || { tools; exit 0; }

command -v apt-get >/dev/null || missing "lacking here (by their Debian names):$packages"
[ "$(id -u)" = 0 ] || missing "as root: apt-get install$packages"

echo "setup: installing$packages"
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    # Debian starts a daemon with its package unless this says no. Tests and demo start their own, in their own place.
    trap 'rm -f $policy' EXIT
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod +x $policy
fi
# The links by which units start at boot.
enabled() { find /etc/systemd/system -path '*.wants/*' -type l 2>/dev/null | sort; }
before=$(enabled)
export DEBIAN_FRONTEND=noninteractive
apt-get -qq -o DPkg::Lock::Timeout=300 update
# Debian 12 and older have the client inside docker.io.
apt-cache show docker-cli >/dev/null 2>&1 || packages=$(echo "$packages" | sed 's/ docker-cli//')
# shellcheck disable=SC2086 # a list
apt-get -qq -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 install -y --no-install-recommends $packages ||
    missing "apt-get could not install$packages"
# Only the programs are wanted: the machine shall have no further daemons after its next boot.
enabled | grep -vxF -e "$before" | xargs -r rm -f
for service in mariadb docker rsync prometheus; do
    case $packages in *" $service"*) update-rc.d "$service" disable >/dev/null 2>&1 || true ;; esac
done
tools
