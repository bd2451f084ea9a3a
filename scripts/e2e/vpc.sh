#!/bin/bash
# The machine that plays the VPC, from its inside: what AWS's network does, EC2 and the metadata service (the simulator), a
# database and a registry. vpc.sh DIRECTORY, which holds the simulator with its libraries.
#
# As in a VPC nothing is broadcast between interfaces: every link is routed, ARP is answered for whatever is reachable, and
# an address is reachable by the link whose ENI has it, as the simulator says at that moment. Frames from any other source
# address are dropped (strict reverse path), so that an address that was never assigned is a black hole in both directions.
set -euo pipefail
sim=$1

# Subnets: 10.78.0.0/24 of the hosts themselves, 10.77.0.0/24 and 10.79.0.0/24 of containers. Each has its router at +1.
services=10.78.0.2
ip link set lo up
for ip in 10.77.0.1 10.78.0.1 10.79.0.1 $services 169.254.169.254; do ip addr add "$ip/32" dev lo; done
sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.all.rp_filter=1
arguments=(--ec2 "$services:8000" --effects --subnet 'subnet-0e2e0000000000078=10.78.0.0/24'
    --subnet 'subnet-0e2e0000000000077=10.77.0.0/24' --subnet 'subnet-0e2e0000000000079=10.79.0.0/24')
for h in 1 2; do
    instance=i-0e2e000000000000$h
    arguments+=(--instance "$instance=c5.large" --imds "$instance=169.254.169.254:800$h")
    for e in 0 1 2; do
        link=h${h}e$e
        for path in /sys/class/net/*; do
            [ "$(cat "$path/address")" != 02:e2:ff:00:0$h:0$e ] || ip link set "${path##*/}" name $link
        done
        sysctl -qw net.ipv4.conf.$link.proxy_arp=1 net.ipv4.conf.$link.rp_filter=1 net.ipv4.neigh.$link.proxy_delay=0 \
            net.ipv6.conf.$link.disable_ipv6=1
        ip link set $link up
        case $e in 0) subnet=78 ;; 1) subnet=77 ;; 2) subnet=79 ;; esac
        arguments+=(--eni "eni-0e2e00000000000$h$e=subnet-0e2e00000000000$subnet,$instance,$e,02:e2:00:00:0$h:0$e,10.$subnet.0.1$h")
    done
done
# The metadata service answers each instance, whichever of its interfaces asks.
nft -f - <<'END'
table ip imds {
    chain by_instance {
        type nat hook prerouting priority dstnat
        iifname "h1e*" ip daddr 169.254.169.254 tcp dport 80 dnat to 169.254.169.254:8001
        iifname "h2e*" ip daddr 169.254.169.254 tcp dport 80 dnat to 169.254.169.254:8002
    }
}
END
# "on ENI ADDRESS" and "off ENI ADDRESS", as they take effect, become routes; ENIs are named by host and interface.
cat >/run/routes.sed <<'END'
s/^on eni-.*\(.\)\(.\) \(.*\)$/route replace \3\/32 dev h\1e\2\nneigh replace \3 dev h\1e\2 lladdr 02:e2:00:00:0\1:0\2 nud permanent/p
s/^off eni-.*\(.\)\(.\) \(.*\)$/route del \3\/32 dev h\1e\2\nneigh del \3 dev h\1e\2/p
END
systemd-run -q --unit vpc bash -c '"$@" | tee /dev/stderr | sed -u -n -f /run/routes.sed | ip -force -batch -' vpc \
    "$sim"/ld-linux* --library-path "$sim" "$sim/vpc-sim" "${arguments[@]}"

cat >/etc/mysql/mariadb.conf.d/99-e2e.cnf <<END
[mariadbd]
bind-address = $services
skip-name-resolve
END
systemctl start --no-block mariadb
cat >/etc/docker/registry/config.yml <<END
version: 0.1
storage: { filesystem: { rootdirectory: /var/lib/docker-registry } }
http: { addr: "$services:5000" }
END
systemctl start --no-block docker-registry
until mariadb -e 'SELECT 1' >/dev/null 2>&1; do sleep 1; done
mariadb -e "CREATE DATABASE ipam; CREATE USER ipam IDENTIFIED BY 'e2e-secret'; GRANT SELECT, INSERT, UPDATE, CREATE, ALTER, INDEX ON ipam.* TO ipam"
until curl -sf -o /dev/null $services:5000/v2/ && curl -sf -o /dev/null $services:8000/_sim/state; do sleep 1; done
