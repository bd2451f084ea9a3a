#!/bin/sh
# Puts the managed plugin together: OUT/config.json and OUT/rootfs from a dynamically linked BINARY.
# The same inputs give the same tree: fixed modes and times, nothing taken from the machine but what is listed here.
set -eu

[ $# -eq 2 ] || { echo "usage: $0 BINARY OUT" >&2; exit 2; }
binary=$1 out=$2
top=$(cd "$(dirname "$0")/.." && pwd)
ca=/etc/ssl/certs/ca-certificates.crt
limit_mb=35

fail() { echo "plugin: $*" >&2; exit 1; }
[ -x "$binary" ] || fail "$binary is missing; make build first"
[ -s "$ca" ] || fail "$ca is missing; apt-get install ca-certificates"

# From 2.34 on libc itself resolves names by /etc/hosts and DNS, and does so without an nsswitch.conf. An older one
# would load libnss_*.so, which ldd does not name, and every host name would fail to resolve inside the plugin.
glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null | cut -d' ' -f2)
[ "$(printf '2.34\n%s\n' "${glibc:-0}" | sort -V | head -n 1)" = 2.34 ] ||
    fail "glibc ${glibc:-of this machine} is too old, 2.34 or newer is needed; build on Debian 12, Ubuntu 22.04 or newer"

rm -rf "$out"
rootfs=$out/rootfs
# docker plugin create wants every directory it finds here readable, whatever the umask of who builds.
umask 022
mkdir -p "$rootfs"

libraries=$(ldd "$binary") || fail "$binary is not dynamically linked"
case $libraries in *"not found"*) fail "a shared library is missing:" "$libraries" ;; esac
# Stripped: symbols are a third of the binary, and the plugin's logs need none.
install -D -s -m 755 "$binary" "$rootfs/usr/bin/ec2-ipam"
# The loader too is a path in ldd's output; the kernel's vdso has none.
echo "$libraries" | grep -o '/[^ ]*' | sort -u | while read -r library; do
    install -D -m 755 "$library" "$rootfs$library"
done
install -D -m 644 "$ca" "$rootfs$ca"
install -D -m 644 "$top/LICENSE" "$rootfs/usr/share/doc/ec2-ipam/LICENSE"
"$top/plugin/notices.sh" "$rootfs/usr/share/doc/ec2-ipam/NOTICES"
# A megabyte of text; without a name and time in it, for the same tree each time.
gzip -n9 "$rootfs/usr/share/doc/ec2-ipam/NOTICES"
chmod 644 "$rootfs/usr/share/doc/ec2-ipam/NOTICES.gz"
install -m 644 "$top/config.json" "$out/config.json"

find "$out" -exec touch -h -d "@${SOURCE_DATE_EPOCH:-0}" {} +

size_kb=$(du -sk --apparent-size "$rootfs" | cut -f1)
[ "$size_kb" -le $((limit_mb * 1024)) ] || fail "rootfs has $((size_kb / 1024)) MB, more than $limit_mb"
echo "plugin: $out, $((size_kb / 1024)) MB:"
(cd "$rootfs" && find . -type f | LC_ALL=C sort | sed 's/^\./  /')
