#!/bin/sh
# The licences of what the plugin holds, each text once: notices.sh TARGET FILE, for cargo's target such as
# aarch64-unknown-linux-gnu.
# What the binary is made of, as cargo knows it, with the texts in the crates themselves (in cargo's registry, so no network
# is asked); and of this machine's packages what lies beside it: glibc, libgcc, the certificates.
set -eu

[ $# -eq 2 ] || { echo "usage: $0 TARGET FILE" >&2; exit 2; }
target=$1 file=$2
top=$(cd "$(dirname "$0")/.." && pwd)
cargo=${CARGO_HOME:-${HOME:-/root}/.cargo}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

warn() { echo "plugin: $*: the plugin lacks its notice" >&2; }

(cd "$top" && cargo tree --locked --offline --target "$target" -p ec2-ipam -e normal --prefix none -f '{p}|{l}') >"$work/tree"
sed 's/ (proc-macro)|/|/; s/ (\*)$//; /^ec2-ipam /d' "$work/tree" | LC_ALL=C sort -u >"$work/crates"
while IFS='|' read -r crate licence; do
    found=''
    for text in "$cargo/registry/src"/*/"${crate%% v*}-${crate##* v}"/*; do
        case ${text##*/} in
            LICEN[CS]E* | COPYING* | COPYRIGHT* | NOTICE* | UNLICENSE*)
                if [ -f "$text" ]; then echo "$crate ($licence)|$text" && found=1; fi ;;
        esac
    done
    # Some come without a text; they say which one it is.
    [ -n "$found" ] || echo "  $crate: $licence" >>"$work/bare"
done <"$work/crates" >"$work/texts"

# rustup has the library's own; Debian says what is in its package.
rust=$(rustc --print sysroot)/share/doc/rust/COPYRIGHT-library.html
packaged=/usr/share/doc/libstd-rust-web-dev/copyright
if [ ! -f "$rust" ] && [ -f $packaged ]; then
    echo "Rust's standard library, as packaged|$packaged" >>"$work/texts"
elif [ -f "$rust" ]; then
    sed 's/<[^>]*>//g; s/&lt;/</g; s/&gt;/>/g; s/&quot;/"/g; s/&amp;/\&/g; /^ *$/d' "$rust" >"$work/rust"
    echo "Rust's standard library|$work/rust" >>"$work/texts"
else
    warn "$rust is missing"
fi
for package in libc6 libgcc-s1 ca-certificates; do
    text=/usr/share/doc/$package/copyright
    if [ -f "$text" ]; then echo "$package, as packaged|$text" >>"$work/texts"; else warn "$text is missing"; fi
done

{
    echo "ec2-ipam is licensed under Apache-2.0 (LICENSE). This plugin also holds what follows, each under its own licence."
    [ ! -s "$work/bare" ] || { printf '\nWithout a text of their own:\n\n'; cat "$work/bare"; }
    # By digest: the order is the same on each machine.
    cut -d'|' -f2 "$work/texts" | xargs -d '\n' sha256sum | cut -c 1-64 | paste -d'|' - "$work/texts" | LC_ALL=C sort | awk -F'|' '
        function end() { if (path != "") { print "---\n"; while ((getline line < path) > 0) print line; close(path) } }
        $1 != digest { end(); digest = $1; path = $3; print "\n================================================================================" }
        { print $2 }
        END { end() }'
} >"$file"
