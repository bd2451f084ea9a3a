# shellcheck shell=bash
# shellcheck disable=SC2016,SC2034,SC2154,SC2317 # guests expand; run.sh has and uses the rest
# What users do, on two hosts: to be sourced by run.sh. Each case_NAME says what holds (about) and runs with -e; after it rows,
# the simulator and Docker must agree. They build on each other, in this order.

cases_first=(install network reach route named)
cases_quick=("${cases_first[@]}" blocks)
cases_all=(original server "${cases_first[@]}" black_hole restart live_restore upgrade parent_down reboot boot_parent_down boot_without_parent boot_without_database host_agent \
    two_enis l3 imds database swarm blocks)

about() { echo "$*" >"$bed/about"; }
plugin=ec2-ipam:latest
registry=10.78.0.2:5000/e2e

# The address of a container; its state is looked up by name, which is unique on its host.
ip_of() { on "$1" docker inspect -f "'{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}'" "$2"; }
# run HOST NAME [OPTION...]: a container that serves a page with its name, on the network "ec2" unless told otherwise.
run() {
    local host=$1 name=$2
    shift 2
    [[ " $* " = *" --network "* ]] || set -- --network ec2 "$@"
    on "$host" docker run -d --name "$name" "$@" busybox \
        "sh -c 'mkdir -p /www; echo $name >/www/index.html; exec httpd -f -h /www'" >/dev/null
}
pings() { on "$1" docker exec "$2" ping -q -c 2 -W 5 "$3" >/dev/null; } # HOST CONTAINER ADDRESS
# busybox 1.35 crashes with a time-out of its own.
page() { on "$1" docker exec "$2" timeout 20 wget -O - "http://$3/"; } # HOST CONTAINER ADDRESS
fail() { echo "      $*" >&2; return 1; }
same() { [ "$1" = "$2" ] || fail "expected '$2', found '$1'"; }
# refused HOST WORDS COMMAND...: fails, and says these words.
refused() {
    local host=$1 words=$2 said
    shift 2
    if said=$(on "$host" "$@" 2>&1); then fail "$* was not refused: $said"; return 1; fi
    grep -qF -- "$words" <<<"$said" || fail "expected '$words' of: $said"
}
# eventually SECONDS COMMAND...
eventually() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $deadline ] || { fail "never: $*"; return 1; }
        sleep 1
    done
}
is_running() { [ "$(on "$1" docker inspect -f "'{{.State.Running}}'" "$2")" = true ]; }
remove() { on "$1" docker rm -f "${@:2}" >/dev/null; }
mknet() { on "$1" /opt/scripts/mknet.sh "${@:2}"; }

server() { on vpc chroot /opt/server /usr/bin/ec2-ipam --socket /run/server.sock "$@"; }
start_server() {
    on vpc systemd-run -q -G --unit server -E AWS_ENDPOINT_URL_EC2=http://10.78.0.2:8000 -E AWS_REGION=eu-central-1 \
        -E AWS_ACCESS_KEY_ID=AKIAE2E -E AWS_SECRET_ACCESS_KEY=e2e -E EC2_IPAM_DATABASE_URL=mysql://ipam:e2e-secret@10.78.0.2:3306/ipam \
        -E EC2_IPAM_DISTANT=true -E EC2_IPAM_LISTEN_PLAIN=true -E EC2_IPAM_TLS_CERT=/tls/server.pem -E EC2_IPAM_TLS_KEY=/tls/server.key \
        -E EC2_IPAM_TLS_CLIENT_CA=/tls/ca.pem -E EC2_IPAM_COOLDOWN=10s -E EC2_IPAM_DOCKER_SOCKET=none \
        -E "'EC2_IPAM_LISTEN=unix:///run/server.sock http://10.78.0.2:8031 https://10.78.0.2:8032'" \
        chroot /opt/server /usr/bin/ec2-ipam serve
    eventually 60 server list
}
# issue NAME SUBJECT_ALT_NAME: by an authority of the run
issue() {
    local new='req -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1'
    # shellcheck disable=SC2086 # words
    [ -e "$bed/tls/ca.pem" ] || { mkdir -p "$bed/tls"; openssl $new -x509 -days 2 -subj /CN=e2e -keyout "$bed/ca.key" \
        -out "$bed/tls/ca.pem" 2>&1; }
    # shellcheck disable=SC2086
    openssl $new -subj "/CN=$1" -keyout "$bed/tls/$1.key" -out "$bed/$1.csr" 2>&1
    openssl x509 -req -in "$bed/$1.csr" -CA "$bed/tls/ca.pem" -CAkey "$bed/ca.key" -CAcreateserial -days 2 \
        -extfile <(echo "subjectAltName=$2") -out "$bed/tls/$1.pem" 2>&1
}

# The original ec2-ipam, as far as an Engine sees it: a pool is called by its interface alone, and Options say nothing.
original() {
    into vpc 'cat >/opt/original && chmod 755 /opt/original' <<'END'
#!/bin/bash
body='' length=0
while read -r line && line=${line%$'\r'} && [ -n "$line" ]; do
    case $line in
        POST*) read -r _ path _ <<<"$line" ;;
        Content-Length:*) length=${line##* } ;;
    esac
done
[ "$length" = 0 ] || body=$(head -c "$length")
case $path:$body in
    */Plugin.Activate:*) say='{"Implements":["IpamDriver"]}' ;;
    *.GetDefaultAddressSpaces:*) say='{"LocalDefaultAddressSpace":"ec2","GlobalDefaultAddressSpace":"ec2"}' ;;
    *.RequestPool:*) say='{"PoolID":"eni-0e2e0000000000011","Pool":"10.77.0.0/24","Data":{}}' ;;
    *.RequestAddress:*gateway*) say='{"Address":"10.77.0.1/24","Data":{}}' ;;
    *.RequestAddress:*) say='{"Address":"10.77.0.66/24","Data":{}}' ;;
    *) say='{}' ;;
esac
printf 'HTTP/1.1 200 OK\r\nContent-Length: %s\r\nConnection: close\r\n\r\n%s' ${#say} "$say"
END
    on vpc "curl -sf --aws-sigv4 aws:amz:eu-central-1:ec2 --user AKIAE2E:e2e \
        -d 'Action=AssignPrivateIpAddresses&Version=2016-11-15&NetworkInterfaceId=eni-0e2e0000000000011&PrivateIpAddress.1=10.77.0.66' \
        http://10.78.0.2:8000/ >/dev/null"
    on vpc systemd-run -q -G --unit original busybox nc -ll -p 8031 -e /opt/original
}
# Its files on the machine, to be put there once.
server_files() {
    issue server IP:10.78.0.2
    issue client DNS:i-0e2e0000000000002
    put vpc "$top/build/plugin/rootfs" /opt/server
    put vpc "$bed/tls" /opt/server/tls
    # What has no file lasting beside it in a plugin.
    on vpc mkdir -p /opt/server/run /opt/server/var/lib/ec2-ipam /opt/server/tmp
}

case_original() {
    about "a network of the original, without --subnet and by its PoolID: the server in its place goes on with it, and with its containers"
    on h1 mkdir -p /etc/docker/plugins
    into h1 'cat >/etc/docker/plugins/ec2-ipam.json' <<<'{ "Name": "ec2-ipam", "Addr": "http://10.78.0.2:8031" }'
    original
    on h1 docker network create -d ipvlan --ipam-driver ec2-ipam --ipam-opt eni-id=eni-0e2e0000000000011 \
        --ipam-opt instance-id=i-0e2e0000000000001 -o parent=eth1 old >/dev/null
    run h1 o1 --network old
    same "$(ip_of h1 o1)" 10.77.0.66
    on vpc systemctl stop original
    server_files
    start_server
    server init subnet-0e2e0000000000077
    server list | grep -q '^10.77.0.66 .*foreign'
    run h1 o2 --network old
    pings h1 o2 10.77.0.66
    pings h1 o2 10.77.0.1
    on h1 docker restart -t 1 o2 >/dev/null
    pings h1 o1 "$(ip_of h1 o2)"
    # Of what still runs a slow containerd may keep the task, and start it no more.
    on h1 docker stop -t 1 o1 o2 >/dev/null
    on h1 systemctl restart docker
    on h1 docker start o2 >/dev/null
    pings h1 o2 10.77.0.1
    remove h1 o1
    is_idle() { server list | grep -q '^10.77.0.66 .*ready'; }
    eventually 60 is_idle
    remove h1 o2
    on h1 docker network rm old >/dev/null
    eventually 60 none_leased
    on vpc systemctl stop server
    on h1 'rm -r /etc/docker/plugins; systemctl restart docker'
}

case_server() {
    about 'Engines without a driver by one server, over http and https; what is not theirs is refused; what it missed is let go by hand'
    local h ip s1 s2 create=(docker network create -d ipvlan --ipam-driver ec2-ipam --subnet 10.77.0.0/24 -o parent=eth1)
    server_files
    start_server
    for h in h1 h2; do put $h "$top/scripts" /opt/scripts; on $h mkdir -p /etc/docker/plugins; done
    into h1 'cat >/etc/docker/plugins/ec2-ipam.json' <<<'{ "Name": "ec2-ipam", "Addr": "http://10.78.0.2:8031" }'
    put h2 "$bed/tls" /etc/docker/ec2-ipam
    jq '.Addr = "https://10.78.0.2:8032" | .TLSConfig.CertFile = "/etc/docker/ec2-ipam/client.pem" |
        .TLSConfig.KeyFile = "/etc/docker/ec2-ipam/client.key"' "$top/packaging/ec2-ipam.json" |
        into h2 'cat >/etc/docker/plugins/ec2-ipam.json'
    on h1 SERVER=http://10.78.0.2:8031 /opt/scripts/mknet.sh eth1 served
    on h2 SERVER=https://10.78.0.2:8032 /opt/scripts/mknet.sh eth1 served
    on h2 SERVER=https://10.78.0.2:8032 /opt/scripts/mknet.sh eth1 served | grep -q 'there already'
    run h1 s1 --network served
    run h2 s2 --network served --restart always
    s1=$(ip_of h1 s1) s2=$(ip_of h2 s2)
    [[ $s1 = 10.77.0.* && $s2 = 10.77.0.* && $s1 != "$s2" ]] || fail "$s1 and $s2"
    pings h1 s1 "$s2"
    same "$(page h2 s2 "$s1")" s1
    on h2 docker restart -t 1 s2 >/dev/null
    pings h1 s1 "$(ip_of h2 s2)"
    server status | grep -q i-0e2e0000000000001
    # Another host's interface, and one that comes without a subnet.
    refused h2 'is not the primary address' "${create[@]}" --ipam-opt eni-id=eni-0e2e0000000000011 theirs
    refused h1 'is not what eni-0e2e0000000000011 is attached to' "${create[@]}" \
        --ipam-opt eni-id=eni-0e2e0000000000011 --ipam-opt instance-id=i-0e2e0000000000002 wrong
    # By a certificate that names no host of these, and by none.
    on h2 'cd /etc/docker/ec2-ipam && mv client.pem right.pem && mv client.key right.key && cp server.pem client.pem && cp server.key client.key && systemctl restart docker'
    refused h2 'names server' docker run --rm --network served busybox true
    on h2 'cd /etc/docker/ec2-ipam && mv right.pem client.pem && mv right.key client.key && systemctl restart docker'
    eventually 60 is_running h2 s2
    pings h1 s1 "$(ip_of h2 s2)"
    # Killed in the middle of a call, which it has not read yet: the Engine comes to an end with it, and goes on.
    on vpc systemctl kill -s STOP server
    on h1 docker run --rm --network served busybox true >"$bed/killed" 2>&1 &
    local killed=$!
    sleep 5
    on vpc systemctl kill -s KILL server
    eventually 20 gone
    start_server
    wait $killed || cat "$bed/killed"
    on h1 docker run --rm --network served busybox true
    # While it is away nothing starts, and what stops stays a lease.
    on vpc systemctl stop server
    s1=$(ip_of h1 s1) s2=$(ip_of h2 s2)
    remove h1 s1
    refused h1 10.78.0.2:8031 docker run --rm --network served busybox true
    # As a host that boots: its Engine comes up all the same, if late.
    on h2 systemctl restart docker
    eventually 120 on h2 docker version
    start_server
    for ip in "$s1" "$s2"; do
        server leases | grep -qF "$ip "
        server release "$ip" --yes
    done
    on h2 docker start s2 >/dev/null
    run h1 s1 --network served
    pings h2 s2 "$(ip_of h1 s1)"
    remove h1 s1
    remove h2 s2
    for h in h1 h2; do on $h 'docker network rm served >/dev/null; rm -r /etc/docker/plugins; systemctl restart docker'; done
    eventually 60 none_leased
    on vpc systemctl stop server
}
gone() { ! on vpc systemctl -q is-active server; }
none_leased() { [ "$(on vpc "mariadb -N -e \"SELECT COUNT(*) FROM ipam.allocation WHERE claim LIKE '%:lease'\"")" = 0 ]; }

case_install() {
    about 'pushed to a registry, installed on both hosts under its alias, with settings'
    on vpc "echo '{ \"insecure-registries\": [\"10.78.0.2:5000\"] }' >/etc/docker/daemon.json && systemctl start docker"
    put vpc "$top/build/plugin" /opt/project/build/plugin
    into vpc 'cat >/opt/project/Makefile' <"$top/Makefile"
    on vpc make -s -o plugin -C /opt/project push REGISTRY=$registry TAG=1
    local h
    for h in h1 h2; do
        put $h "$top/scripts" /opt/scripts
        on $h docker plugin install --grant-all-permissions --alias $plugin $registry/ec2-ipam:1 \
            'EC2_IPAM_DATABASE_URL=mysql://ipam:e2e-secret@10.78.0.2:3306/ipam' AWS_ENDPOINT_URL_EC2=http://10.78.0.2:8000 \
            EC2_IPAM_COOLDOWN=10s
        same "$(on $h docker plugin inspect -f "'{{.Enabled}}'" $plugin)" true
    done
}

case_network() {
    about 'mknet.sh makes the network of eth1 and may be repeated; doctor finds nothing wrong'
    local h
    for h in h1 h2; do
        mknet $h eth1 ec2
        mknet $h eth1 ec2 | grep -q 'there already'
        on $h ec2-ipam doctor >"$bed/doctor.$h" || { cat "$bed/doctor.$h"; fail "doctor on $h"; }
    done
}

case_reach() {
    about 'containers on both hosts ping each other and fetch pages by VPC address'
    run h1 a1
    run h1 a2
    run h2 b1
    local a1 a2 b1
    a1=$(ip_of h1 a1) a2=$(ip_of h1 a2) b1=$(ip_of h2 b1)
    same "$(printf '%s\n' "$a1" "$a2" "$b1" | sort -u | grep -c '^10\.77\.0\.')" 3
    pings h1 a1 "$a2"
    pings h1 a1 "$b1"
    pings h2 b1 "$a2"
    same "$(page h1 a2 "$b1")" b1
    same "$(page h2 b1 "$a1")" a1
}

case_route() {
    about "the gateway is the VPC's router, in Docker's words and in the container's routes"
    local h c
    for h in 'h1 a1' 'h2 b1'; do
        read -r h c <<<"$h"
        same "$(on "$h" docker inspect -f "'{{range .NetworkSettings.Networks}}{{.Gateway}}{{end}}'" "$c")" 10.77.0.1
        same "$(on "$h" docker exec "$c" ip route | grep ^default | xargs)" 'default via 10.77.0.1 dev eth0'
        pings "$h" "$c" 10.77.0.1
        # The other host, through the router.
        pings "$h" "$c" 10.78.0.11
    done
}

case_named() {
    about '--ip is given, refused on the other host while it is used, and moves there after the cool-down'
    run h1 fixed --ip 10.77.0.200
    same "$(ip_of h1 fixed)" 10.77.0.200
    pings h2 b1 10.77.0.200
    refused h2 '10.77.0.200 cannot be given' docker run --rm --network ec2 --ip 10.77.0.200 busybox true
    remove h1 fixed
    moved() { on h2 docker rm -f fixed >/dev/null 2>&1; run h2 fixed --ip 10.77.0.200 2>/dev/null; }
    eventually 120 moved
    pings h1 a1 10.77.0.200
    remove h2 fixed
}

case_black_hole() {
    about 'an address that was never assigned reaches nobody, as in a VPC'
    run h1 thief --cap-add NET_ADMIN
    on h1 docker exec thief ip addr add 10.77.0.231/24 dev eth0
    pings h1 thief 10.77.0.1
    if on h1 docker exec thief ping -q -c 2 -W 2 -I 10.77.0.231 10.77.0.1 >/dev/null; then
        fail '10.77.0.231 is not on the ENI and reaches the router'
    fi
    if pings h2 b1 10.77.0.231; then fail '10.77.0.231 is not on the ENI and is reached'; fi
    remove h1 thief
}

case_restart() {
    about 'restart, stop and start, restart policies: the container is reached each time'
    on h1 docker restart -t 1 a1 >/dev/null
    pings h2 b1 "$(ip_of h1 a1)"
    on h1 docker stop -t 1 a1 >/dev/null
    on h1 docker start a1 >/dev/null
    pings h2 b1 "$(ip_of h1 a1)"
    run h1 always --restart always
    local pid
    pid=$(on h1 docker inspect -f "'{{.State.Pid}}'" always)
    on h1 kill -9 "$pid"
    back() { is_running h1 always && [ "$(on h1 docker inspect -f "'{{.State.Pid}}'" always)" != "$pid" ]; }
    eventually 60 back
    pings h2 b1 "$(ip_of h1 always)"
    on h1 docker run -d --name loop --network ec2 --restart on-failure:3 busybox false >/dev/null
    ended() { [ "$(on h1 docker inspect -f "'{{.RestartCount}} {{.State.Running}} {{.State.Restarting}}'" loop)" = '3 false false' ]; }
    eventually 120 ended
    remove h1 loop
}

case_live_restore() {
    about 'with live-restore dockerd restarts and containers live on with their addresses'
    local before after
    on h1 "jq '.[\"live-restore\"]=true' /etc/docker/daemon.json >/tmp/d && cp /tmp/d /etc/docker/daemon.json && systemctl reload docker"
    same "$(on h1 docker info -f "'{{.LiveRestoreEnabled}}'")" true
    before=$(on h1 docker inspect -f "'{{.State.Pid}} {{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}'" a1 a2 always)
    on h1 systemctl restart docker
    after=$(on h1 docker inspect -f "'{{.State.Pid}} {{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}'" a1 a2 always)
    same "$after" "$before"
    pings h2 b1 "$(ip_of h1 a1)"
    run h1 after
    pings h2 b1 "$(ip_of h1 after)"
    remove h1 after
    on h1 "jq 'del(.[\"live-restore\"])' /etc/docker/daemon.json >/tmp/d && cp /tmp/d /etc/docker/daemon.json && systemctl reload docker"
}

case_upgrade() {
    about 'docker plugin upgrade to the next build, with containers running before and after'
    # The next build: the Engine takes no two plugins of the same content.
    on vpc 'touch /opt/project/build/plugin/rootfs/usr && make -s -o plugin -C /opt/project push REGISTRY='$registry' TAG=2'
    local a1
    a1=$(ip_of h1 a1)
    on h1 docker plugin disable -f $plugin
    pings h2 b1 "$a1"
    on h1 docker plugin upgrade --grant-all-permissions --skip-remote-check $plugin $registry/ec2-ipam:2 >/dev/null
    on h1 docker plugin enable $plugin
    same "$(on h1 docker plugin inspect -f "'{{.PluginReference}}'" $plugin)" $registry/ec2-ipam:2
    same "$(ip_of h1 a1)" "$a1"
    pings h2 b1 "$a1"
    run h1 upgraded
    pings h2 b1 "$(ip_of h1 upgraded)"
    remove h1 upgraded
}

case_parent_down() {
    about 'a parent that is down or missing is refused for a network, with the command that mends it; a container waits for it'
    # It would bring them up again at once (always-up).
    on h1 systemctl stop systemd-networkd.socket systemd-networkd
    on h1 ip link set eth2 down
    refused h1 'ip link set eth2 up' docker network create -d ipvlan --ipam-driver $plugin --ipam-opt parent=eth2 \
        --subnet 10.79.0.0/24 -o parent=eth2 t
    on h1 ip link set eth2 up
    refused h1 'there is no interface "eth9"' docker network create -d ipvlan --ipam-driver $plugin --ipam-opt parent=eth9 \
        --subnet 10.77.0.0/24 -o parent=eth9 t
    on h1 ip link set eth1 down
    run h1 early
    if pings h1 early 10.77.0.1; then fail 'it is reached though its parent is down'; fi
    on h1 ip link set eth1 up
    pings h1 early "$(ip_of h2 b1)"
    pings h2 b1 "$(ip_of h1 a1)"
    remove h1 early
    on h1 systemctl start systemd-networkd
}

case_reboot() {
    about 'a host reboots; what has to restart is back and is reached'
    reboot_of h1
    eventually 180 is_running h1 always
    pings h2 b1 "$(ip_of h1 always)"
    on h1 docker start a1 a2 >/dev/null
    pings h1 a1 "$(ip_of h2 b1)"
}

case_boot_without_parent() {
    about 'a host boots without its parent interface: what the documents say helps'
    # Its driver lets go of the device before dockerd starts.
    on h1 'd=$(basename "$(readlink -f /sys/class/net/eth1/device)")
printf "[Unit]\nDefaultDependencies=no\nBefore=docker.service systemd-networkd.service\nAfter=systemd-udev-settle.service\nWants=systemd-udev-settle.service\n[Service]\nType=oneshot\nExecStart=/bin/sh -c \"echo $d >/sys/bus/virtio/drivers/virtio_net/unbind\"\n[Install]\nWantedBy=multi-user.target\n" \
    >/etc/systemd/system/without-eth1.service && systemctl -q enable without-eth1'
    reboot_of h1
    eventually 180 on h1 docker version
    if on h1 test -e /sys/class/net/eth1; then fail 'eth1 is there all the same'; fi
    if is_running h1 always; then fail 'it runs without its parent'; fi
    on h1 'systemctl -q disable without-eth1
        for d in /sys/bus/virtio/devices/*; do [ "$(cat $d/device)" != 0x0001 ] || [ -e $d/driver ] || basename $d >/sys/bus/virtio/drivers/virtio_net/bind; done
        udevadm settle; networkctl reload; ip link set eth1 up; systemctl restart docker'
    eventually 120 is_running h1 always
    on h1 docker start a1 a2 >/dev/null
    pings h2 b1 "$(ip_of h1 always)"
}

case_boot_parent_down() {
    about 'a host boots and nobody brings its parent up: what the documents say helps'
    on h1 mv /etc/systemd/network/10-eth1.network /opt/
    reboot_of h1
    eventually 180 on h1 docker version
    on h1 'mv /opt/10-eth1.network /etc/systemd/network/ && networkctl reload && ip link set eth1 up'
    eventually 60 is_running h1 always
    on h1 docker start a1 a2 >/dev/null
    pings h2 b1 "$(ip_of h1 always)"
}

# As a machine that is off: nobody answers, not even with a refusal.
database_off() {
    on vpc "systemctl stop mariadb; nft 'add table inet off; add chain inet off in { type filter hook input priority 0; };
        add rule inet off in tcp dport 3306 drop'"
}
database_on() { on vpc 'nft delete table inet off; systemctl start mariadb'; }
is_posted() { on "$1" ec2-ipam status --json | jq -e '.journal | .unposted == 0 and .in_doubt == 0 and .error == null'; } # HOST

case_boot_without_database() {
    about 'a host boots while the database is off: all that has to restart is up and reached; then all agree'
    local n said all=(keep1 keep2 keep3 keep4 keep5 keep6 keep7 keep8)
    remove h1 a1 a2
    # Where this case runs without the one that makes it.
    on h2 docker inspect b1 >/dev/null 2>&1 || run h2 b1
    for n in {1..8}; do run h1 "keep$n" --restart always; done
    eventually 60 is_posted h1
    database_off
    reboot_of h1
    for n in "${all[@]}"; do eventually 180 is_running h1 "$n"; done
    same "$(for n in "${all[@]}"; do ip_of h1 "$n"; done | sort -u | wc -l)" 8
    for n in "${all[@]}"; do pings h2 b1 "$(ip_of h1 "$n")"; done
    # Its exit status says that the database is away.
    said=$(on h1 ec2-ipam status) && fail 'status finds nothing wrong'
    grep -qF 'not in the table yet' <<<"$said" || fail "status does not tell what is not posted: $said"
    # And after that: a stop and a start.
    remove h1 keep7
    run h1 keep7 --restart always
    pings h2 b1 "$(ip_of h1 keep7)"
    database_on
    eventually 60 is_posted h1
    remove h1 keep{1..8}
    run h1 a1
    run h1 a2
}

case_host_agent() {
    about "an agent put addresses of the ENI on the link itself: doctor says so and they are given to nobody"
    local idle ip
    # Not all of them: on a full interface nothing would be left to give.
    on h1 ec2-ipam recycle subnet-0e2e0000000000077 >/dev/null
    run h1 agent
    remove h1 agent
    # Of this host: the list is the fleet's.
    idle=$(on h1 "ec2-ipam list --json" |
        jq -r '.. | objects | select(.state? == "ready" and .iface == "eni-0e2e0000000000011") | .ip' | head -n 3)
    [ -n "$idle" ] || fail 'nothing is idle'
    for ip in $idle; do on h1 ip addr add "$ip/32" dev eth1; done
    if on h1 ec2-ipam doctor >"$bed/doctor"; then fail "doctor finds nothing wrong"; fi
    grep -q 'FAIL  host agent' "$bed/doctor" || fail "$(cat "$bed/doctor")"
    run h1 agent
    if grep -qxF "$(ip_of h1 agent)" <<<"$idle"; then fail 'the host has its address'; fi
    pings h2 b1 "$(ip_of h1 agent)"
    on h1 ip addr flush dev eth1
    remove h1 agent
    on h1 ec2-ipam doctor >/dev/null
}

case_two_enis() {
    about 'a second network on a second ENI: both are reached, and their traffic is apart'
    local t1 t2 before after
    mknet h1 eth2 tenant
    mknet h2 eth2 tenant
    run h1 t1 --network tenant
    run h2 t2 --network tenant
    t1=$(ip_of h1 t1) t2=$(ip_of h2 t2)
    [[ $t1 = 10.79.0.* && $t2 = 10.79.0.* ]] || fail "$t1 and $t2"
    frames() { on vpc cat /sys/class/net/h1e1/statistics/rx_packets; }
    before=$(frames)
    same "$(page h1 t1 "$t2")" t2
    on h1 docker exec t1 ping -q -c 20 -i 0.2 "$t2" >/dev/null
    after=$(frames)
    [ $((after - before)) -lt 10 ] || fail "$((after - before)) frames of the tenant left by eth1"
    # From one to the other on the same host: by the VPC's router, and so by its rules.
    before=$(frames)
    on h1 docker exec t1 ping -q -c 20 -i 0.2 "$(ip_of h1 a1)" >/dev/null
    after=$(frames)
    [ $((after - before)) -ge 20 ] || fail "only $((after - before)) frames of the answers left by eth1"
    remove h1 t1
    remove h2 t2
    on h1 docker network rm tenant >/dev/null
    on h2 docker network rm tenant >/dev/null
}

case_l3() {
    about 'ipvlan in L3 mode, with the routes that it wants on the host'
    local h n=1 l1 l2
    for h in h1 h2; do
        mknet $h eth2 l3 -o ipvlan_mode=l3
        # In this mode the host routes for its containers: by the ENI that has their addresses.
        on $h "ip addr add 10.79.0.1$n/32 dev eth2 && ip route add default via 10.79.0.1 dev eth2 onlink table 79 src 10.79.0.1$n &&
            ip rule add from 10.79.0.0/24 lookup 79"
        run $h l$n --network l3
        n=$((n + 1))
    done
    l1=$(ip_of h1 l1) l2=$(ip_of h2 l2)
    pings h1 l1 "$l2"
    same "$(page h2 l2 "$l1")" l1
    pings h1 l1 "$(ip_of h2 b1)"
    for h in h1 h2; do
        remove $h l${h#h}
        on $h "docker network rm l3 >/dev/null; ip rule del from 10.79.0.0/24; ip route flush table 79; ip addr flush dev eth2"
    done
}

case_imds() {
    about "a container reaches the metadata service, until the filter of docs/tenancy.md is set; the host goes on reaching it"
    # It wants a token, and says so.
    asks() { [[ $(on h1 'docker exec a1 timeout 5 wget -O - http://169.254.169.254/ 2>&1') = *'HTTP/1.1 401'* ]]; }
    asks || fail 'no answer before the filter'
    on h1 "nft add table netdev imds &&
        nft add chain netdev imds out '{ type filter hook egress device \"eth1\" priority 0; }' &&
        nft add rule netdev imds out ip daddr 169.254.169.254 drop"
    if asks; then fail 'an answer in spite of the nft filter'; fi
    on h1 'curl -sf -m 10 -X PUT -H "X-aws-ec2-metadata-token-ttl-seconds: 60" http://169.254.169.254/latest/api/token >/dev/null'
    on h1 nft delete table netdev imds
    asks || fail 'no answer after the filter'
    on h1 'tc qdisc add dev eth1 clsact && tc filter add dev eth1 egress protocol ip flower dst_ip 169.254.169.254 action drop'
    if asks; then fail 'an answer in spite of the tc filter'; fi
    on h1 tc qdisc del dev eth1 clsact
}

case_database() {
    about 'the database restarts under load: starts succeed or say why, and nothing is lost'
    local n load
    on h2 'for n in 1 2 3 4 5 6; do docker run --rm --network ec2 busybox true || echo refused; done' >"$bed/load" 2>&1 &
    load=$!
    sleep 3
    on vpc systemctl restart mariadb
    wait $load || true
    n=$(grep -c refused "$bed/load" || true)
    # Each gets what is idle, or waits for the database within its time.
    [ "$n" = 0 ] || fail "$n of 6 starts failed: $(cat "$bed/load")"
    remove h1 a2
    run h1 a2
    pings h2 b1 "$(ip_of h1 a2)"
}

case_swarm() {
    about 'a Swarm service over config-only and config-from networks'
    local h token enis=(eni-0e2e0000000000011 eni-0e2e0000000000021)
    remove h1 a1 a2 always
    remove h2 b1
    for h in h1 h2; do on $h docker network rm ec2 >/dev/null; done
    on h1 docker swarm init --advertise-addr 10.78.0.11 >/dev/null
    token=$(on h1 docker swarm join-token -q worker)
    on h2 docker swarm join --token "$token" 10.78.0.11:2377 >/dev/null
    for h in 1 2; do
        on h$h docker network create --config-only --ipam-driver $plugin --ipam-opt eni-id="${enis[h - 1]}" --subnet 10.77.0.0/24 \
            -o parent=eth1 ec2-here >/dev/null
    done
    on h1 docker network create -d ipvlan --scope swarm --config-from ec2-here --attachable ec2-swarm >/dev/null
    on h1 docker service create -q -d --name web --no-resolve-image --replicas 4 --network ec2-swarm busybox sleep 100000 >/dev/null
    replicas() { [ "$(on h1 docker service ls -f name=web --format "'{{.Replicas}}'")" = 4/4 ]; }
    eventually 180 replicas
    local one
    one=$(on h2 docker ps -q -f name=web | head -n 1)
    pings h2 "$one" 10.77.0.1
    pings h2 "$one" "$(ip_of h1 "$(on h1 docker ps -q -f name=web | head -n 1)")"
    on h1 docker service rm web >/dev/null
    nothing() { [ -z "$(on h1 docker ps -q -f name=web)$(on h2 docker ps -q -f name=web)" ]; }
    eventually 60 nothing
    on h2 docker swarm leave
    on h1 docker swarm leave -f
}

# Of a host's interface in the other subnet, as the simulator has it: its slots that are taken beside the primary address's, and
# its blocks.
wide_eni() { echo "eni-0e2e00000000000${1#h}2"; } # HOST
slots() { on vpc curl -sf http://10.78.0.2:8000/_sim/state | jq ".enis[\"$(wide_eni "$1")\"] | .secondaries + .prefixes | length"; } # HOST
prefixes() { on vpc curl -sf http://10.78.0.2:8000/_sim/state | jq -r ".enis[\"$(wide_eni "$1")\"].prefixes[]"; } # HOST
has_blocks() { [ "$(prefixes "$1" | wc -l)" = "$2" ]; } # HOST NUMBER
# What the command line lists of it: STATE, and the BLOCK if there is one.
listed() { on "$1" ec2-ipam list --json | jq -r ".. | objects | select(.iface? == \"$(wide_eni "$1")\" and .block?) | \"\(.ip) \(.state) \(.block)\""; }

case_blocks() {
    about 'with EC2_IPAM_BLOCKS=auto forty containers run on an interface of ten slots, and each is reached; their blocks go back'
    local h all idle block
    for h in h1 h2; do
        on $h "docker plugin disable -f $plugin && docker plugin set $plugin EC2_IPAM_BLOCKS=auto && docker plugin enable $plugin" >/dev/null
        mknet $h eth2 wide
    done
    run h2 other --network wide
    run h2 second --network wide
    # A few at a time, as Compose has it.
    on h1 'seq -f w%g 40 | xargs -P 4 -I{} docker run -d --name {} --network wide busybox sleep 100000 >/dev/null'
    all=$(on h1 'docker ps -q -f name=^w | xargs docker inspect -f "{{.State.Running}} {{.NetworkSettings.Networks.wide.IPAddress}}"')
    all=$(sed -n 's/^true //p' <<<"$all" | sort -u)
    same "$(grep -c '^10\.79\.0\.' <<<"$all")" 40
    # Each of them from the other host; and from some of them that host, the router, and what is beyond it.
    same "$(on h2 docker exec other sh -c "'for ip in $(xargs <<<"$all"); do ping -q -c 1 -W 10 \$ip >/dev/null || echo \$ip; done'")" ''
    for h in w1 w20 w40; do pings h1 $h "$(ip_of h2 second)"; done
    same "$(page h1 w40 "$(ip_of h2 other)")" other
    pings h1 w40 10.79.0.1
    pings h1 w40 10.78.0.12
    # By blocks, within the slots, and told so.
    [ "$(slots h1)" -le 9 ] || fail "$(slots h1) slots"
    [ "$(prefixes h1 | wc -l)" -ge 3 ] || fail "$(prefixes h1)"
    has_blocks h2 1
    for h in h1 h2; do
        same "$(listed $h | cut -d ' ' -f 3 | sort -u)" "$(prefixes $h | sort)"
        same "$(listed $h | wc -l)" $((16 * $(prefixes $h | wc -l)))
        on $h ec2-ipam status >"$bed/status"
        grep -qF "; $(($(slots $h) + 1)) of 10 slots are taken" "$bed/status" || fail "$(cat "$bed/status")"
    done
    # An idle address of a block is its host's alone, also for those who name it. It is asked to give the block back.
    idle=$(listed h2 | sed -n 's/ ready .*//p' | head -n 1)
    block=$(prefixes h2)
    refused h1 "$idle cannot be given" docker run --rm --network wide --ip "$idle" busybox true
    run h2 named --network wide --ip "$idle"
    pings h1 w1 "$idle"
    # One that has a container stays whole, and the others go back.
    remove h1 w{2..40}
    given_back() { on "$1" ec2-ipam recycle subnet-0e2e0000000000079 >/dev/null && has_blocks "$1" "$2"; }
    eventually 120 given_back h1 1
    pings h2 other "$(ip_of h1 w1)"
    remove h1 w1
    eventually 120 given_back h1 0
    # The one that was asked for goes by itself.
    remove h2 other second named
    gave_up() { ! prefixes h2 | grep -qxF "$block"; }
    eventually 240 gave_up
}
