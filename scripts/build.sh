#!/usr/bin/env bash
# cargo build, which says how far it is: on a terminal cargo itself does, elsewhere a line every half minute.
set -euo pipefail
target=${CARGO_TARGET_DIR:-target}
[ -e "$target/release/ec2-ipam" ] ||
    echo "build: the first one takes about eleven minutes on two cores, most of them for EC2's client (aws-sdk-ec2)" >&2
[ ! -t 2 ] || exec cargo build "$@"

# cargo writes its bar again and again over the same line; of those one is enough now and then.
last=$SECONDS
CARGO_TERM_PROGRESS_WHEN=always CARGO_TERM_PROGRESS_WIDTH=90 cargo build "$@" 2>&1 |
    while IFS= read -r -d $'\r' piece || [ -n "$piece" ]; do
        while IFS= read -r line; do
            line=${line//$'\e[K'/}
            case $line in
                *Building*\[*\]*)
                    [ $((SECONDS - last)) -ge 30 ] || continue
                    last=$SECONDS ;;
                *[![:space:]]*) ;;
                *) continue ;;
            esac
            printf '%s\n' "$line" >&2
        done <<<"$piece"
    done
