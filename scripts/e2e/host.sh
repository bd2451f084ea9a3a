#!/bin/sh
# A host of the VPC, from its inside: host.sh NUMBER. Its interfaces as docs/install.md has them: eth0 for itself, eth1 and eth2
# up and without an address.
set -eu
hostnamectl hostname "h$1" 2>/dev/null || hostname "h$1"
cat >/etc/systemd/network/10-eth0.network <<END
[Match]
Name=eth0
[Network]
Address=10.78.0.1$1/24
Gateway=10.78.0.1
LinkLocalAddressing=no
IPv6AcceptRA=no
END
for parent in eth1 eth2; do
    cat >/etc/systemd/network/10-$parent.network <<END
[Match]
Name=$parent
[Link]
RequiredForOnline=no
ActivationPolicy=always-up
[Network]
DHCP=no
LinkLocalAddressing=no
IPv6AcceptRA=no
END
done
networkctl reload
mkdir -p /etc/docker
echo '{ "insecure-registries": ["10.78.0.2:5000"] }' >/etc/docker/daemon.json
# Another Engine than Debian's, if the bed has put one here. What it starts is found in /usr/local/bin first; it itself is not,
# for units name their program by its full path.
unit() { # UNIT COMMAND
    mkdir -p "/etc/systemd/system/$1.d"
    printf '[Service]\nExecStart=\nExecStart=%s\n' "$2" >"/etc/systemd/system/$1.d/e2e.conf"
}
if [ -x /usr/local/bin/dockerd ]; then
    unit docker.service '/usr/local/bin/dockerd -H fd:// --containerd=/run/containerd/containerd.sock'
    if [ -x /usr/local/bin/containerd ]; then unit containerd.service /usr/local/bin/containerd; fi
    systemctl daemon-reload
    if [ -x /usr/local/bin/containerd ]; then systemctl restart containerd; fi
fi
systemctl -q enable docker
systemctl start docker

# The image of the containers.
mkdir -p /tmp/image/bin
cp /bin/busybox /tmp/image/bin/busybox
for applet in sh sleep ping ip httpd timeout wget cat mkdir echo grep nc true false; do ln -s busybox /tmp/image/bin/$applet; done
tar -C /tmp/image -c . | docker import - busybox >/dev/null

# As docs/install.md has it.
cat >/usr/local/bin/ec2-ipam <<'END'
#!/bin/sh
r=$(docker info -f '{{.DockerRootDir}}')/plugins/$(docker plugin inspect -f '{{.Id}}' ec2-ipam:latest)/rootfs
exec "$(echo "$r"/lib*/ld-linux-*)" --library-path "$(echo "$r"/lib/*-linux-gnu)" "$r/usr/bin/ec2-ipam" "$@"
END
chmod 755 /usr/local/bin/ec2-ipam
