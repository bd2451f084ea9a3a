#!/bin/sh
# Looks at a plugin that was put together, and runs nothing of it: check.sh FOLDER [ARCH]
# With ARCH it is one that is shipped: it must be for that architecture, and its binary must run on the oldest host as well.
set -eu

[ $# -eq 1 ] || [ $# -eq 2 ] || { echo "usage: $0 FOLDER [amd64|arm64]" >&2; exit 2; }
plugin=$1 arch=${2:-}
rootfs=$plugin/rootfs binary=$1/rootfs/usr/bin/ec2-ipam
limit_mb=40
# From 2.34 on glibc itself resolves names by /etc/hosts and DNS, and does so without an nsswitch.conf. An older one would
# load libnss_*.so, which nothing names, and every host name would fail to resolve inside the plugin. The binary of a
# release needs no newer one either, so that it runs without the plugin on Ubuntu 22.04, Amazon Linux 2023 and RHEL 9.
floor=2.34
export LC_ALL=C

fail() { echo "plugin: $*" >&2; exit 1; }
newest() { sed -n 's/.*Name: GLIBC_\(2[0-9.]*\).*/\1/p' | sort -V | tail -n 1; }
defined() { readelf -V "$1" | sed -n '/\.gnu\.version_d/,/\.gnu\.version_r/p' | newest; }
asked() { readelf -V "$1" | sed -n '/\.gnu\.version_r/,$p' | newest; }
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

for file in "$plugin/config.json" "$binary"; do [ -s "$file" ] || fail "$file is missing"; done
other=$(find "$plugin" ! \( -type d -perm 755 \) ! \( -type f \( -perm 755 -o -perm 644 \) \))
[ -z "$other" ] || fail "neither folders of mode 755 nor files of mode 755 or 644:" "$other"

libc=$(defined "$(find "$rootfs" -name libc.so.6)")
at_least "${libc:-0}" $floor || fail "its glibc is ${libc:-none}, $floor or newer is needed; build on Debian 12, Ubuntu 22.04 or newer"
machine=$(readelf -h "$binary" | sed -n 's/^ *Machine: *//p')
find "$rootfs" -type f -perm 755 | while read -r file; do
    of=$(readelf -h "$file" 2>/dev/null | sed -n 's/^ *Machine: *//p')
    [ "$of" = "$machine" ] || fail "$file is for ${of:-no machine}, ec2-ipam for $machine"
    asked=$(asked "$file")
    at_least "$libc" "${asked:-0}" || fail "$file asks for glibc $asked, and the plugin has $libc"
done

size_mb=$(($(du -sk --apparent-size "$rootfs" | cut -f1) / 1024))
[ "$size_mb" -le $limit_mb ] || fail "rootfs has $size_mb MB, more than $limit_mb"

case $arch:$machine in
    :* | amd64:*X86-64 | arm64:AArch64) ;;
    *) fail "$plugin is for $machine, not for $arch" ;;
esac
asked=$(asked "$binary")
[ -z "$arch" ] || at_least $floor "$asked" || fail "$binary asks for glibc $asked, and hosts may have $floor"
echo "plugin: $machine, $size_mb MB, glibc $libc of its own; without the plugin the binary needs $asked"
