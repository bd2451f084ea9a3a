#!/bin/sh
# On an EC2 host: makes the ipvlan network of one of its network interfaces.
#   mknet.sh [PARENT] [NETWORK] [further options of docker network create]
# PARENT is by default EC2_IPAM_PARENT, else the interface with device number 1; NETWORK is by default "ec2".
# IPAM_DRIVER and NETWORK_DRIVER name other drivers. Safe to repeat: a network that fits is left as it is.
# SERVER=https://HOST:PORT is for a host without the driver, whose Engine asks that server; it has to be led there first.
set -eu

server=${SERVER:-} server=${server%/}
# A managed plugin has a tag in its name, any other driver has none.
tag=:latest; [ -z "$server" ] || tag=''
driver=${IPAM_DRIVER:-ec2-ipam$tag}
network_driver=${NETWORK_DRIVER:-ipvlan}
imds=${AWS_EC2_METADATA_SERVICE_ENDPOINT:-http://169.254.169.254}
imds=${imds%/}

fail() { echo "mknet: $*" >&2; exit 1; }
case ${1:-} in -h | --help) sed -n '2,6s/^# //p' "$0"; exit ;; esac
command -v curl >/dev/null || fail "curl is missing; install it"
docker version >/dev/null || fail "no Docker Engine answers"

# Where the Engine finds a driver that is no managed plugin: the first of these. Tests have other folders.
leading() {
    for folder in ${PLUGIN_FILES:-/run/docker/plugins /etc/docker/plugins /usr/lib/docker/plugins}; do
        for kind in sock spec json; do
            for file in "$folder/$driver.$kind" "$folder/$driver/$driver.$kind"; do
                [ ! -e "$file" ] || { echo "$file"; return; }
            done
        done
    done
}
if [ -n "$server" ]; then
    at=/etc/docker/plugins/$driver
    case $server in
        *://*/*) fail "SERVER=$server has a path, which the Engine would drop" ;;
        https://?*) todo="copy packaging/ec2-ipam.json to $at.json, with $server as its Addr, and the files that it names" ;;
        http://?*) todo="write $server to $at.spec" ;;
        *) fail "SERVER=$server is no address such as https://ipam.example.internal:8031" ;;
    esac
    ! docker plugin inspect "$driver" >/dev/null 2>&1 ||
        fail "the plugin $driver hides the server from the Engine, enabled or not: docker plugin rm $driver"
    file=$(leading)
    [ -n "$file" ] || fail "nothing here leads the Engine to $server: $todo"
    case $file in
        *.sock) found="a driver on this host" ;;
        # The only word of a .spec, the Addr of a .json. tcp is the Engine's other name for http.
        *) found=$(tr -d '[:space:]' <"$file" | sed 's/.*"[Aa]ddr":"\([^"]*\)".*/\1/; s|^tcp://|http://|; s|/$||') ;;
    esac
    [ "$found" = "$server" ] || fail "$file leads the Engine to $found, not to $server: remove it, $todo.
Then restart dockerd, which remembers where it was led"
fi

token=$(curl -sf -m 5 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$imds/latest/api/token") ||
    fail "the instance metadata service at $imds does not answer: is this an EC2 instance with IMDSv2 enabled?"
meta() { curl -sf -m 5 -H "X-aws-ec2-metadata-token: $token" "$imds/latest/meta-data/$1"; }
nic() { meta "network/interfaces/macs/$1"; }
mac_of() { cat "/sys/class/net/$1/address"; }

parent=${1:-${EC2_IPAM_PARENT:-}}
network=${2:-ec2}
if [ $# -ge 2 ]; then shift 2; else shift $#; fi

if [ -z "$parent" ]; then
    for path in /sys/class/net/*; do
        [ "$(nic "$(cat "$path/address")/device-number" 2>/dev/null)" = 1 ] && parent=${path##*/}
    done
    [ -n "$parent" ] || fail "no interface here has device number 1; attach a second ENI, or name one: $0 PARENT"
fi
[ -e "/sys/class/net/$parent" ] || fail "there is no interface $parent here; ip link shows those that are"
# Bit 0 is IFF_UP. operstate would not do: it is "unknown" on drivers without carrier detection.
[ $(($(cat "/sys/class/net/$parent/flags") & 1)) = 1 ] || fail "$parent is down: ip link set $parent up"

mac=$(mac_of "$parent")
eni=$(nic "$mac/interface-id") || fail "$parent ($mac) is no ENI of this instance; EC2 knows: $(nic '' | tr -d / | tr '\n' ' ')"
cidr=$(nic "$mac/subnet-ipv4-cidr-block") || fail "EC2 tells no IPv4 subnet of $parent ($eni)"

if [ -n "$server" ]; then
    instance=$(meta instance-id) || fail "EC2 does not tell this instance's id"
    # As one that was typed: passed on, and compared.
    set -- --ipam-opt "instance-id=$instance" "$@"
fi

settings() { printf 'driver %s\nIPAM driver %s\nsubnet %s\neni-id %s\nparent %s\n' "$@"; }
wanted=$(settings "$network_driver" "$driver" "$cidr" "$eni" "$parent")
seen='driver {{.Driver}}
IPAM driver {{.IPAM.Driver}}
subnet {{range .IPAM.Config}}{{.Subnet}}{{end}}
eni-id {{index .IPAM.Options "eni-id"}}
parent {{index .Options "parent"}}'
range='' unseen=''
# What a network that is there tells of a further option.
also() { # LINE TEMPLATE
    wanted="$wanted
$1" seen="$seen
$2"
}
option() { # NAME VALUE
    case $1 in
        ip-range) range=$2 ;;
        gateway) also "gateway $2" 'gateway {{range .IPAM.Config}}{{.Gateway}}{{end}}' ;;
        internal) also "internal $2" 'internal {{.Internal}}' ;;
        attachable) also "attachable $2" 'attachable {{.Attachable}}' ;;
        ipv6) also "ipv6 $2" 'ipv6 {{.EnableIPv6}}' ;;
        o | opt) also "-o ${2%%=*} ${2#*=}" "-o ${2%%=*} {{index .Options \"${2%%=*}\"}}" ;;
        ipam-opt) also "ipam-opt ${2%%=*} ${2#*=}" "ipam-opt ${2%%=*} {{index .IPAM.Options \"${2%%=*}\"}}" ;;
        label) also "label ${2%%=*} ${2#*=}" "label ${2%%=*} {{index .Labels \"${2%%=*}\"}}" ;;
        *) unseen="$unseen --$1 $2" ;;
    esac
}
name=''
for word in "$@"; do
    if [ -n "$name" ]; then option "$name" "$word"; name=''; continue; fi
    case $word in
        --internal | --attachable | --ipv6) option "${word#--}" true ;;
        --*=*) word=${word#--}; option "${word%%=*}" "${word#*=}" ;;
        --*) name=${word#--} ;;
        -o?*) option o "${word#-o}" ;;
        -o) name=o ;;
        *) unseen="$unseen $word" ;;
    esac
done
also "ip-range ${range:-none}" 'ip-range {{range .IPAM.Config}}{{.IPRange}}{{end}}'

if docker network inspect "$network" >/dev/null 2>&1; then
    # Engines have several words for nothing.
    found=$(docker network inspect -f "$seen" "$network" | sed 's/ $//; s/ <no value>$//; s/ invalid \(Prefix\|IP\)$//; s/^ip-range$/& none/')
    if [ "$found" = "$wanted" ]; then
        echo "mknet: network $network is there already: $eni, $cidr on $parent"
        [ -z "$unseen" ] || echo "mknet: not compared, since a network that is there does not tell:$unseen" >&2
        exit
    fi
    echo "mknet: network $network is there already, but differs (docker network rm $network, then again):" >&2
    # Lines of both differ in their values only, one setting each.
    echo "$wanted" | while IFS= read -r line; do
        echo "$found" | grep -qxF -- "$line" ||
            echo "  wanted $line, found $(echo "$found" | grep -- "^${line% *}\( \|$\)" || echo none)" >&2
    done
    exit 1
fi

docker network create -d "$network_driver" --ipam-driver "$driver" --ipam-opt "eni-id=$eni" --subnet "$cidr" \
    -o "parent=$parent" "$@" "$network" >/dev/null
echo "mknet: network $network made: $eni, $cidr on $parent"
