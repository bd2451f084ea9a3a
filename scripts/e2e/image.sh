#!/bin/sh
# A Debian with a Docker Engine as the disk of a virtual machine: image.sh SUITE DIRECTORY
# Makes DIRECTORY/SUITE-RECIPE/{disk,vmlinuz,initrd,key}, unless it is there: RECIPE is a digest of this file, so that a
# changed recipe gives a new image, and the old one goes. Prints that directory. Needs root and Debian's package mirror.
set -eu

suite=$1 cache=$2
recipe=$(sha256sum "$0" | cut -c 1-12)
image=$cache/$suite-$recipe
[ -e "$image/disk" ] && { echo "$image"; exit; }

# The same for all machines of the bed: hosts, and the one that plays the VPC.
packages=linux-image-cloud-amd64,initramfs-tools,systemd-sysv,udev,dbus,openssh-server,iproute2,iputils-ping,iptables,nftables,\
curl,jq,make,procps,busybox-static,ca-certificates,docker.io,docker-registry,mariadb-server
case $suite in
    # The client is inside docker.io, and that Engine loads an AppArmor profile wherever the kernel has AppArmor.
    bookworm) packages=$packages,apparmor ;;
    *) packages=$packages,docker-cli ;;
esac

mkdir -p "$cache"
work=$(mktemp -d "$cache/$suite.XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT
root=$work/root
echo "e2e: building the image of $suite" >&2
# A suite that is no release may be mirrored with a Release file past its date.
mmdebstrap --quiet --mode=root --variant=minbase --include="$packages" --aptopt='Acquire::Check-Valid-Until "false"' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    "$suite" "$root" >&2
cp -L "$root/vmlinuz" "$work/vmlinuz"
cp -L "$root/initrd.img" "$work/initrd"

# ssh is the way in, by a link of its own that leads nowhere else.
ssh-keygen -q -t ed25519 -N '' -C e2e -f "$work/key"
install -m 600 "$work/key.pub" "$root/etc/ssh/authorized_keys"
printf 'UsePAM no\nUseDNS no\nAuthorizedKeysFile /etc/ssh/authorized_keys\n' >"$root/etc/ssh/sshd_config.d/e2e.conf"
printf '[Match]\nMACAddress=02:cc:00:00:00:01\n[Link]\nName=ctl\n' >"$root/etc/systemd/network/10-ctl.link"
printf '[Match]\nName=ctl\n[Network]\nAddress=10.0.2.15/24\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n' >"$root/etc/systemd/network/10-ctl.network"
echo '/dev/vda / ext4 defaults 0 0' >"$root/etc/fstab"
echo 'nameserver 10.78.0.2' >"$root/etc/resolv.conf"

# What each machine needs is started by the bed.
chroot "$root" systemctl --quiet enable systemd-networkd ssh
chroot "$root" systemctl --quiet disable docker docker.socket docker-registry mariadb
# What nobody needs here, and what only an update would: a boot under emulation takes long enough.
chroot "$root" systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer \
    e2scrub_reap.service systemd-timesyncd.service systemd-logind.service systemd-pstore.service serial-getty@ttyS0.service \
    getty@tty1.service modprobe@drm.service modprobe@efi_pstore.service modprobe@fuse.service
touch "$root/etc/.updated" "$root/var/.updated"

truncate -s 4G "$work/disk"
mkfs.ext4 -q -d "$root" "$work/disk"
rm -rf --one-file-system "$root"
rm -rf "$cache/$suite"-*
mv "$work" "$image"
trap - EXIT
chmod 755 "$image"
echo "$image"
