#!/usr/bin/env bash
# ec2-ipam on one machine without AWS (make demo): a simulated VPC, the managed plugin in a Docker Engine, an ipvlan
# network, three containers with addresses of the VPC. Every step is checked; whatever was made is taken away again.
#   demo.sh PLUGIN_DIRECTORY SIMULATOR
#   demo.sh down                            takes away what KEEP=1 left standing; the next demo does so too
set -euo pipefail

PATH=$PATH:/usr/sbin:/sbin
scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
kept=/var/tmp/ec2-ipam-demo.kept

name='ec2-ipam-demo'
parent=ec2ipam-demo0
mac=02:ec:20:00:00:01
eni='eni-0de30000000000001'
subnet='subnet-0de30000000000001'
cidr=10.77.0.0/24 router=10.77.0.1 primary=10.77.0.10 fixed=10.77.0.200
containers=("$name-1" "$name-2" "$name-3")

bold='' plain=''
[ ! -t 1 ] || { bold=$'\e[1m' plain=$'\e[0m'; }
step() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }
say() { printf '   %s\n' "$*"; }
fail() { printf '\ndemo: FAILED: %s\n' "$*" >&2; exit 1; }
# Runs a command with its output set off from ours.
show() { printf '   $ %s\n' "$*"; "$@" 2>&1 | sed 's/^/     /'; }

[ "$(id -u)" = 0 ] || fail "it makes interfaces and runs containers, so it needs root"
[ $# -gt 0 ] || { sed -n '2,5s/^# //p' "$0" >&2; exit 2; }

# Also run at the start: an earlier demo may have been killed.
remove_objects() {
    if [ -n "${DOCKER_HOST:-}" ] && docker version >/dev/null 2>&1; then
        docker rm -f "${containers[@]}"
        docker network rm "$name"
        docker plugin rm -f "$name:latest"
        docker rmi -f "$name"
    fi
    ip link del "$parent"
    ip netns del "$name"
} >/dev/null 2>&1
stop() { # PID, by SIGTERM; what does not listen to it within 20 s is killed
    kill "$1" 2>/dev/null || return 0
    for _ in {1..100}; do kill -0 "$1" 2>/dev/null || return 0; sleep 0.2; done
    kill -9 "$1"
}
clean_up() {
    status=$?
    trap - EXIT
    trap '' INT TERM
    set +e
    if [ $status -ne 0 ]; then
        # The Engine's log has the driver's lines, by plugin id; containerd's chatter is left out.
        { [ -f "$tmp/simulator.log" ] && tail -n 5 "$tmp/simulator.log"
          [ -f "$tmp/engine.log" ] && grep -E ' plugin=|level=(error|fatal)' "$tmp/engine.log" | tail -n 20 | cut -c 1-400; } >&2
    fi
    step "Taking everything away"
    remove_objects
    if [ -n "$engine_pid" ]; then
        stop "$engine_pid"
        # The Engine may leave a plugin's state directory mounted, and rm must not run into it.
        awk -v tmp="$tmp/" 'index($2, tmp) == 1 { print $2 }' /proc/self/mounts | sort -r | xargs -r umount
        rmdir --ignore-fail-on-non-empty /run/docker/plugins /run/docker 2>/dev/null
    fi
    [ -n "$simulator_pid" ] && stop "$simulator_pid"
    rm -rf --one-file-system "$tmp"
    [ $status -eq 0 ] && echo && echo "demo: all went well"
    exit $status
}
# The processes that KEEP=1 left, unless their ids are others' by now.
is_ours() { [ -n "$1" ] && tr '\0' ' ' <"/proc/$1/cmdline" 2>/dev/null | grep -qF -e vpc-sim -e "$tmp/"; }
take_down() {
    # shellcheck source=/dev/null
    . "$kept"
    rm -f "$kept"
    is_ours "$simulator_pid" || simulator_pid=''
    is_ours "$engine_pid" || engine_pid=''
    (exit 0)
    clean_up
}
if [ "$1" = down ]; then
    [ -e "$kept" ] || { echo "demo: nothing is left standing"; exit; }
    take_down
fi
[ ! -e "$kept" ] || (take_down) || true

plugin_dir=$(cd "$1" && pwd)
simulator=$(realpath "$2")
cli=$plugin_dir/rootfs/usr/bin/ec2-ipam
tmp=$(mktemp -d /var/tmp/ec2-ipam-demo.XXXXXX)
simulator_pid='' engine_pid=''
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

step "A simulated VPC: one subnet, one instance, one network interface"
# Both in sessions of their own: a ctrl-C at the terminal is for this script, which still needs them to clean up.
setsid "$simulator" --ec2 127.0.0.1:0 --imds 127.0.0.1:0 --subnet "$subnet=$cidr" --instance i-0de30000000000001=c5.large \
    --eni "$eni=$subnet,i-0de30000000000001,1,$mac,$primary" >"$tmp/simulator.log" 2>&1 &
simulator_pid=$!
for _ in {1..50}; do sleep 0.1; grep -q ^ready "$tmp/simulator.log" && break; done
ec2=$(sed -n 's/^ready.* ec2=\([^ ]*\).*/\1/p' "$tmp/simulator.log")
imds=$(sed -n 's/^ready.* imds[^=]*=\([^ ]*\).*/\1/p' "$tmp/simulator.log")
[[ -n $ec2 && -n $imds ]] || fail "the simulator does not come up"
say "EC2 at $ec2, instance metadata at $imds"

step "A Docker Engine"
socket=${DOCKER_HOST:-unix:///var/run/docker.sock}
case $socket in unix://*) ;; *) fail "DOCKER_HOST=$socket is not on this machine" ;; esac
export DOCKER_HOST=$socket
if docker version >/dev/null 2>&1; then
    say "this machine's own, at $socket"
else
    command -v dockerd >/dev/null || fail "no Engine answers at $socket and there is no dockerd; scripts/setup.sh demo installs one"
    export DOCKER_HOST=unix://$tmp/docker.sock
    # No bridge and no firewall rules: the demo needs neither, and what this machine has stays as it is.
    setsid dockerd --data-root "$tmp/engine" --exec-root "$tmp/run" --pidfile "$tmp/engine.pid" -H "$DOCKER_HOST" \
        --containerd-namespace "$name" --containerd-plugins-namespace "$name-plugins" \
        --bridge none --iptables=false --ip-forward=false --userland-proxy=false >"$tmp/engine.log" 2>&1 &
    engine_pid=$!
    for _ in {1..150}; do
        docker version >/dev/null 2>&1 && break
        kill -0 "$engine_pid" 2>/dev/null || fail "dockerd ended at once"
        sleep 0.2
    done
    say "a temporary one, started for the demo"
fi
say "version $(docker version -f '{{.Server.Version}}')" || fail "the Engine does not answer"
socket=$(realpath "${DOCKER_HOST#unix://}")
remove_objects || true

step "The parent interface $parent, with the MAC address that EC2 knows"
# A veth pair whose other end stands for the VPC: the subnet's router, in a network namespace.
ip netns add "$name" || fail "cannot make a network namespace; is this a container without privileges?"
ip link add "$parent" address "$mac" type veth peer name vpc netns "$name" || fail "cannot make a veth pair"
ip -n "$name" addr add "$router/${cidr#*/}" dev vpc
ip -n "$name" link set vpc up
ip link set "$parent" up
network_driver=ipvlan
if ip link add link "$parent" name "$parent-p" type ipvlan mode l2 2>/dev/null; then
    ip link del "$parent-p"
    say "$(ip -br link show "$parent")"
else
    network_driver=macvlan
    say "This kernel has no ipvlan, so the network will be macvlan: the driver gets the same calls, but the containers"
    say "have MAC addresses of their own, which a real VPC would not let through."
fi

step "The managed plugin $name:latest"
# A time of its own sets it apart: the Engine takes no two plugins of the very same content.
cp -a "$plugin_dir" "$tmp/plugin"
touch "$tmp/plugin/rootfs/usr"
docker plugin create "$name:latest" "$tmp/plugin" >/dev/null || fail "the Engine does not take $plugin_dir"
# Region and credentials come from the instance's metadata, as on a real host with a role.
docker plugin set "$name:latest" "run.source=$(dirname "$socket")" "EC2_IPAM_DOCKER_SOCKET=/host/run/$(basename "$socket")" \
    "AWS_ENDPOINT_URL_EC2=$ec2" "AWS_EC2_METADATA_SERVICE_ENDPOINT=$imds" || fail "the plugin's settings are refused"
docker plugin enable "$name:latest" >/dev/null || fail "the plugin does not start"
plugin_id=$(docker plugin inspect -f '{{.Id}}' "$name:latest")
# Named, since this machine may run a driver of its own as well.
export EC2_IPAM_LISTEN=unix:///run/docker/plugins/$plugin_id/ec2-ipam.sock
[ -S "${EC2_IPAM_LISTEN#unix://}" ] || fail "the plugin's socket ${EC2_IPAM_LISTEN#unix://} is not there"
show docker plugin ls

step "A network of that interface's subnet"
IPAM_DRIVER=$name:latest NETWORK_DRIVER=$network_driver AWS_EC2_METADATA_SERVICE_ENDPOINT=$imds \
    "$scripts/mknet.sh" "$parent" "$name" | sed 's/^/   /' || fail "the network cannot be made"

step "Three containers, the third with --ip $fixed"
mkdir -p "$tmp/image/bin"
cp "$(command -v busybox)" "$tmp/image/bin/busybox"
for applet in sh sleep ping ip; do ln -s busybox "$tmp/image/bin/$applet"; done
tar -C "$tmp/image" -c . | docker import - "$name" >/dev/null || fail "docker import"
ips=()
for i in 0 1 2; do
    options=()
    [ $i -lt 2 ] || options=(--ip "$fixed")
    docker run -d --init=false --name "${containers[i]}" --network "$name" "${options[@]}" "$name" sleep 600 \
        2>&1 >/dev/null | { grep -v 'IPv4 forwarding is disabled' >&2 || true; } ||
        fail "${containers[i]} does not start"
    ips+=("$(docker inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' "${containers[i]}")")
    [[ ${ips[i]} = 10.77.0.* ]] || fail "${containers[i]} got the address '${ips[i]}', not one of $cidr"
    say "${containers[i]}: ${ips[i]}"
done
[ "${ips[2]}" = "$fixed" ] || fail "--ip $fixed was answered with ${ips[2]}"
[ "$(printf '%s\n' "${ips[@]}" | sort -u | wc -l)" = 3 ] || fail "two containers have the same address"

step "Each pings the others and the subnet's router"
for i in 0 1 2; do
    for to in "${ips[@]}" "$router"; do
        [ "$to" != "${ips[i]}" ] || continue
        docker exec "${containers[i]}" ping -q -c 1 -W 5 "$to" >/dev/null || fail "${containers[i]} does not reach $to"
        say "${ips[i]} -> $to"
    done
done

step "What Docker knows"
# shellcheck disable=SC2016 # a template of Docker's
docker network inspect -f '   {{.Driver}} on {{index .Options "parent"}}, {{range .IPAM.Config}}{{.Subnet}}{{end}} by {{.IPAM.Driver}}
{{- range .Containers}}
   {{.Name}}: {{.IPv4Address}}{{end}}' "$name"

step "What the driver knows"
show "$cli" status || fail "ec2-ipam status"
show "$cli" list || fail "ec2-ipam list"
rows=$("$cli" list)
for ip in "${ips[@]}"; do grep -qwF -- "$ip" <<<"$rows" || fail "ec2-ipam list does not show $ip"; done

step "What EC2 knows of $eni"
state=$(curl -sf -m 5 "$ec2/_sim/state") || fail "the simulator does not answer"
say "secondary addresses: $(tr -d '\n' <<<"$state" | sed 's/.*"secondaries": *\[\([^]]*\)\].*/\1/' | tr -s '" ,' ' ')"
say "calls so far:$(tr -d '\n"' <<<"$state" | sed 's/.*calls: *{\([^}]*\)}.*/\1/' | tr -s ' ')"
for ip in "${ips[@]}"; do grep -qF "\"$ip\"" <<<"$state" || fail "$ip is not on $eni"; done

if [ "${KEEP:-}" = 1 ]; then
    for variable in tmp simulator_pid engine_pid DOCKER_HOST; do printf '%s=%q\n' "$variable" "${!variable}"; done >"$kept"
    echo "export DOCKER_HOST" >>"$kept"
    trap - EXIT
    step "It stays standing"
    say "export DOCKER_HOST=$DOCKER_HOST"
    say "docker run --rm --network $name $name ip addr"
    say "$cli --socket ${EC2_IPAM_LISTEN#unix://} status"
    say "$scripts/demo.sh down                 takes all of it away"
fi
