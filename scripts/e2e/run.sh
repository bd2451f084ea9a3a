#!/usr/bin/env bash
# The driver in real Docker Engines on real ipvlan: two hosts and a VPC in virtual machines, and what users do on them.
#   run.sh quick|all [SUITE...]      a SUITE of Debian stands for its Engine: bookworm 20.10, trixie 26.1, sid 28.5
# CASES="install network ..." runs these alone; all but "original", "server" and "install" need those two.
# DOCKERD=PATH and DOCKER=PATH are another Engine and its client for the two hosts: static binaries, as in Docker's own archives.
# What lies beside that dockerd (containerd, its shim, runc) goes with it: managed plugins on Engine 29 need runc newer than 1.1.5.
# Needs build/plugin and the simulator (make plugin). Images are kept in ~/.cache/ec2-ipam/e2e. What failed leaves console
# and journals of its machines in build/e2e.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$here/../.." && pwd)
simulator=$(realpath "${SIMULATOR:-$top/target/release/vpc-sim}")
cache=${XDG_CACHE_HOME:-$HOME/.cache}/ec2-ipam/e2e
which=${1:?quick or all}
shift
case $which in
    quick) suites=("${@:-trixie}") ;;
    all) suites=("${@:-bookworm}") && [ $# -gt 0 ] || suites=(bookworm trixie sid) ;;
    *) sed -n '2,8s/^# //p' "$0" >&2; exit 2 ;;
esac
# Of several suites each would be the same Engine again.
[ -z "${DOCKERD:-}" ] || [ $# -gt 0 ] || suites=(trixie)
for program in "${DOCKERD:-}" "${DOCKER:-}"; do
    [ -z "$program" ] || [ -x "$program" ] || { echo "e2e: $program is no program; DOCKERD=PATH and DOCKER=PATH name one" >&2; exit 2; }
done
[ "$(id -u)" = 0 ] || { echo "e2e: it makes disk images of other systems, so it needs root" >&2; exit 2; }
[ -x "$top/build/plugin/rootfs/usr/bin/ec2-ipam" ] || { echo "e2e: nothing built; make plugin first" >&2; exit 2; }

# shellcheck source=scripts/e2e/bed.sh
. "$here/bed.sh"
# shellcheck source=scripts/e2e/cases.sh
. "$here/cases.sh"
trap 'exit 130' INT
trap 'exit 143' TERM
declare -n cases=cases_$which
[ -z "${CASES:-}" ] || read -ra cases <<<"$CASES"

# What the simulator has on each ENI must be the table's idle addresses and leases, by themselves or in blocks, and what Docker's
# containers have its leases; no row is under way. In the end: a call or a cool-down may be, still.
observe() {
    local h
    on vpc "curl -sf http://10.78.0.2:8000/_sim/state" |
        jq -r '.enis | to_entries[] | .key as $eni | (.value.secondaries[] | "\($eni) \(.)"), (.value.prefixes[] |
            split("[./]"; "") as $n | range(16) | "\($eni) \($n[:3] | join(".")).\(($n[3] | tonumber) + .) block")' | sort >"$bed/on-enis"
    on vpc "mariadb -N -e 'SELECT status, claim, iface, ip, IF(in_block, \" block\", \"\") FROM ipam.allocation
        WHERE iface IS NOT NULL AND NOT \`primary\`'" >"$bed/rows"
    awk '$1 == "ready" || $2 ~ /:lease$/ { print $3, $4 ($5 ? " " $5 : "") }' "$bed/rows" | sort >"$bed/held"
    awk '$2 ~ /:lease$/ { print $3, $4 }' "$bed/rows" | sort >"$bed/leases"
    awk '$1 == "allocated"' "$bed/rows" >"$bed/under-way"
    for h in h1 h2; do
        on $h 'docker network ls -q | xargs docker network inspect' | jq -r '.[] | select(.IPAM.Driver == "ec2-ipam:latest") |
            .IPAM.Options["eni-id"] as $eni | .Containers[] | "\($eni) \(.IPv4Address | sub("/.*"; ""))"'
    done | sort >"$bed/in-use"
}
agrees() {
    observe && cmp -s "$bed/on-enis" "$bed/held" && cmp -s "$bed/leases" "$bed/in-use" && [ ! -s "$bed/under-way" ]
}
agree() {
    local deadline=$((SECONDS + 240))
    until agrees; do
        if [ $SECONDS -gt $deadline ]; then
            { echo "on ENIs < and in the table >"; diff "$bed/on-enis" "$bed/held"
              echo "leased < and in use by containers >"; diff "$bed/leases" "$bed/in-use"
              echo "under way:"; cat "$bed/under-way"; } >&2
            return 1
        fi
        sleep 2
    done
}

keep_logs() { # SUITE
    mkdir -p "$top/build/e2e"
    local name
    for name in vpc h1 h2; do
        cp "$bed/$name.console" "$top/build/e2e/$1-$name.console"
        on $name journalctl --no-pager -b >"$top/build/e2e/$1-$name.journal" 2>/dev/null || true
    done
    echo "      see build/e2e/$1-*"
}

set_up() { # SUITE
    local image name
    image=$("$here/image.sh" "$1" "$cache")
    echo "== $1: three machines"
    for name in vpc h1 h2; do start $name "$image"; done
    for name in vpc h1 h2; do wait_for $name; done
    # With its own loader and libraries: a guest may be older than this machine.
    mkdir -p "$bed/sim"
    cp "$simulator" "$bed/sim/vpc-sim"
    ldd "$simulator" | grep -o '/[^ ]*' | xargs -I{} cp -L {} "$bed/sim/"
    put vpc "$bed/sim" /opt/sim
    put vpc "$here" /opt/e2e
    on vpc /opt/e2e/vpc.sh /opt/sim
    if [ -n "${DOCKERD:-}" ]; then
        local program
        mkdir -p "$bed/engine"
        install -m 755 "$DOCKERD" "$bed/engine/dockerd"
        [ -z "${DOCKER:-}" ] || install -m 755 "$DOCKER" "$bed/engine/docker"
        for program in containerd containerd-shim-runc-v2 runc docker-init docker-proxy; do
            [ ! -x "${DOCKERD%/*}/$program" ] || install -m 755 "${DOCKERD%/*}/$program" "$bed/engine/$program"
        done
        for name in h1 h2; do put $name "$bed/engine" /usr/local/bin; done
    fi
    for name in h1 h2; do
        put $name "$here" /opt/e2e
        on $name /opt/e2e/host.sh ${name#h}
    done
    engine=$(on h1 docker version -f "'{{.Server.Version}}'")
    echo "== $1: Engine $engine, kernel $(on h1 uname -r), MariaDB $(on vpc mariadb -N -e "'SELECT VERSION()'") after $SECONDS s"
}

failed=0 table=()
for suite in "${suites[@]}"; do
    set_up "$suite"
    for name in "${cases[@]}"; do
        began=$SECONDS
        # Not as a condition: that would switch -e off inside.
        set +e
        (set -e; "case_$name" >"$bed/said" 2>&1; agree >>"$bed/said" 2>&1)
        status=$?
        set -e
        verdict=ok
        if [ $status -ne 0 ]; then
            verdict=FAILED
            failed=$((failed + 1))
            sed 's/^/      /' "$bed/said"
            keep_logs "$suite"
        fi
        line=$(printf '%-6s %-8s %-20s %s (%d s)' $verdict "$engine" "$name" "$(cat "$bed/about")" $((SECONDS - began)))
        echo "$line"
        table+=("$line")
    done
    stop_all
done
echo "== after $SECONDS s"
[ ${#suites[@]} -eq 1 ] || printf '%s\n' "${table[@]}"
[ $failed -eq 0 ] || { echo "e2e: $failed cases failed" >&2; exit 1; }
