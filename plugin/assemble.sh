#!/bin/sh
# Puts the managed plugin together: OUT/config.json and OUT/rootfs from a dynamically linked BINARY, with the libraries
# that this machine has for the BINARY's architecture, its own or another one. Nothing of another one is run.
# The same inputs give the same tree: fixed modes and times, nothing taken from the machine but what is listed here.
set -eu

[ $# -eq 2 ] || { echo "usage: $0 BINARY OUT" >&2; exit 2; }
binary=$1 out=$2
top=$(cd "$(dirname "$0")/.." && pwd)
ca=/etc/ssl/certs/ca-certificates.crt
export LC_ALL=C

fail() { echo "plugin: $*" >&2; exit 1; }
[ -x "$binary" ] || fail "$binary is missing; make build first"
[ -s "$ca" ] || fail "$ca is missing; apt-get install ca-certificates"
command -v readelf >/dev/null || fail "readelf is missing; apt-get install binutils"

machine() { readelf -h "$1" 2>/dev/null | sed -n 's/^ *Machine: *//p'; }
machine=$(machine "$binary")
case $machine in
    *X86-64) triple=x86_64-linux-gnu ;;
    AArch64) triple=aarch64-linux-gnu ;;
    *) fail "$binary is for ${machine:-no machine}, not for amd64 or arm64" ;;
esac
strip=$triple-strip
command -v "$strip" >/dev/null || [ "$(uname -m)" != "${triple%%-*}" ] || strip="strip"
command -v "$strip" >/dev/null || fail "$strip is missing; apt-get install binutils-$(echo "${triple%%-*}" | tr _ -)-linux-gnu"

rm -rf "$out"
rootfs=$out/rootfs
# docker plugin create wants every directory it finds here readable, whatever the umask of who builds.
umask 022
mkdir -p "$rootfs"

# Stripped: symbols are a third of the binary, and the plugin's logs need none.
install -D -s --strip-program="$strip" -m 755 "$binary" "$rootfs/usr/bin/ec2-ipam"

# What an ELF file names is looked for where the loader does; what that names in its turn, too. The loader itself is named
# by its path in the binary, and by its name in the libraries.
needed() { readelf -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'; }
with() { # PATH...: the first that is of this machine
    for path; do
        if [ "$(machine "$path")" != "$machine" ]; then continue; fi
        [ ! -e "$rootfs$path" ] || return 0
        install -D -m 755 "$path" "$rootfs$path"
        # shellcheck disable=SC2046 # names of libraries have no spaces
        with_libraries $(needed "$path")
        return
    done
    fail "${1##*/} for $machine is missing; on Debian libc6 or libgcc-s1 of that architecture has it"
}
with_libraries() { # NAME...
    for name; do
        [ "$name" = "${loader##*/}" ] ||
            with "/lib/$triple/$name" "/usr/lib/$triple/$name" "/lib64/$name" "/usr/lib64/$name" "/lib/$name" "/usr/lib/$name"
    done
}
loader=$(readelf -l "$binary" | sed -n 's/.*program interpreter: \(.*\)\]/\1/p')
[ -n "$loader" ] || fail "$binary is not dynamically linked"
with "$loader"
# shellcheck disable=SC2046
with_libraries $(needed "$binary")

install -D -m 644 "$ca" "$rootfs$ca"
install -D -m 644 "$top/LICENSE" "$rootfs/usr/share/doc/ec2-ipam/LICENSE"
"$top/plugin/notices.sh" "${triple%%-*}-unknown-linux-gnu" "$rootfs/usr/share/doc/ec2-ipam/NOTICES"
# A megabyte of text; without a name and time in it, for the same tree each time.
gzip -n9 "$rootfs/usr/share/doc/ec2-ipam/NOTICES"
chmod 644 "$rootfs/usr/share/doc/ec2-ipam/NOTICES.gz"
install -m 644 "$top/config.json" "$out/config.json"

find "$out" -exec touch -h -d "@${SOURCE_DATE_EPOCH:-0}" {} +
"$top/plugin/check.sh" "$out"
size_kb=$(du -sk --apparent-size "$rootfs" | cut -f1)
echo "plugin: $out, $((size_kb / 1024)) MB:"
(cd "$rootfs" && find . -type f | sort | sed 's/^\./  /')
