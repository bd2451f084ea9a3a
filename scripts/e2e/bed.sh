# shellcheck shell=bash
# The bed of the end-to-end tests, to be sourced: three virtual machines under QEMU's software emulation, "vpc", "h1" and
# "h2". They are joined by datagram sockets in a folder of the run, and reached by ssh over a link of their own that leads
# nowhere else. Nothing needs KVM, a bridge, or a network outside the machine.
#
#   start NAME IMAGE    on NAME COMMAND...    put NAME SOURCE DIRECTORY    wait_for NAME    stop_all

bed=$(mktemp -d "${TMPDIR:-/var/tmp}/ec2-ipam-e2e.XXXXXX")
trap 'stop_all; rm -rf "$bed"' EXIT
declare -A qemu_pid ssh_port ssh_key

# Links of each host, beside the one for ssh: eth0 of the host itself, and two interfaces for containers.
links() { # NAME: "LINK LOCAL REMOTE MAC" for each network device, in the guest's order
    local h e
    for h in 1 2; do
        for e in 0 1 2; do
            case $1 in
                vpc) echo "h${h}e$e vpc-h${h}e$e h${h}e$e 02:e2:ff:00:0$h:0$e" ;;
                h"$h") echo "h${h}e$e h${h}e$e vpc-h${h}e$e 02:e2:00:00:0$h:0$e" ;;
            esac
        done
    done
}

start() { # NAME IMAGE_DIRECTORY
    local name=$1 image=$2 link local_end remote_end mac port
    local -a devices=()
    while read -r link local_end remote_end mac; do
        devices+=(-netdev "dgram,id=$link,local.type=unix,local.path=$bed/$local_end,remote.type=unix,remote.path=$bed/$remote_end"
            -device "virtio-net-pci,netdev=$link,mac=$mac,romfile=")
    done < <(links "$name")
    ssh_key[$name]=$image/key
    # A port that is free now may be taken a moment later; then another one.
    for _ in 1 2 3 4 5; do
        port=$((20000 + RANDOM % 12000))
        # -cx16: without it QEMU 7.2 crashes the guest's kernel.
        setsid qemu-system-x86_64 -accel tcg,thread=multi -cpu qemu64,-cx16 -smp 2 -m 2048 -display none -vga none \
            -serial "file:$bed/$name.console" -kernel "$image/vmlinuz" -initrd "$image/initrd" \
            -append "console=ttyS0 root=/dev/vda rw panic=-1 quiet net.ifnames=0 mitigations=off" \
            -snapshot -drive "file=$image/disk,if=virtio,format=raw,cache=unsafe" "${devices[@]}" \
            -netdev "user,id=ctl,restrict=on,hostfwd=tcp:127.0.0.1:$port-:22" \
            -device virtio-net-pci,netdev=ctl,mac=02:cc:00:00:00:01,romfile= >"$bed/$name.qemu" 2>&1 </dev/null &
        qemu_pid[$name]=$!
        ssh_port[$name]=$port
        sleep 1
        kill -0 "${qemu_pid[$name]}" 2>/dev/null && return
    done
    cat "$bed/$name.qemu" >&2
    return 1
}

on() { # NAME COMMAND...: on a machine, without standard input
    local name=$1
    shift
    into "$name" "$@" </dev/null
}

into() { # NAME COMMAND...: on a machine, with standard input
    local name=$1
    shift
    ssh -q -i "${ssh_key[$name]}" -p "${ssh_port[$name]}" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o BatchMode=yes \
        -o ConnectTimeout=10 -o ServerAliveInterval=20 -o ServerAliveCountMax=6 \
        -o ControlMaster=auto -o "ControlPath=$bed/$name.ssh" -o ControlPersist=600 root@127.0.0.1 "$@"
}

put() { # NAME SOURCE DIRECTORY: what SOURCE, a directory, holds
    tar -C "$2" -cf - . | into "$1" "mkdir -p '$3' && tar -C '$3' -xf -"
}

wait_for() { # NAME: until it can be reached; one that hangs is no bed
    local deadline=$((SECONDS + 400))
    until on "$1" true 2>/dev/null; do
        kill -0 "${qemu_pid[$1]}" 2>/dev/null || { echo "e2e: the machine $1 is gone" >&2; return 1; }
        [ $SECONDS -lt $deadline ] || { echo "e2e: the machine $1 does not come up" >&2; return 1; }
        sleep 1
    done
}

reboot_of() { # NAME
    local before
    before=$(on "$1" cat /proc/sys/kernel/random/boot_id)
    on "$1" systemctl reboot || true
    ssh -q -o "ControlPath=$bed/$1.ssh" -O exit root@127.0.0.1 2>/dev/null || true
    for _ in {1..60}; do
        wait_for "$1" || return 1
        [ "$(on "$1" cat /proc/sys/kernel/random/boot_id)" = "$before" ] || return 0
        sleep 2
    done
    return 1
}

stop_all() {
    local name
    for name in "${!qemu_pid[@]}"; do
        ssh -q -o "ControlPath=$bed/$name.ssh" -O exit root@127.0.0.1 2>/dev/null || true
        kill -9 "${qemu_pid[$name]}" 2>/dev/null || true
        wait "${qemu_pid[$name]}" 2>/dev/null || true
    done
    qemu_pid=()
}
