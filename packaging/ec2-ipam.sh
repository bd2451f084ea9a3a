#!/bin/sh
# The command line of the managed plugin, from where the Engine keeps it: with the loader and the libraries beside it.
# make install puts this at /usr/local/bin/ec2-ipam.
plugin=ec2-ipam:latest
[ "$(id -u)" = 0 ] || { echo "ec2-ipam: the plugin and its socket are root's: use sudo" >&2; exit 1; }
r=$(docker info -f '{{.DockerRootDir}}')/plugins/$(docker plugin inspect -f '{{.Id}}' $plugin)/rootfs
[ -x "$r/usr/bin/ec2-ipam" ] || { echo "ec2-ipam: no plugin $plugin here: see docker plugin ls" >&2; exit 1; }
exec "$(echo "$r"/lib*/ld-linux-*)" --library-path "$(echo "$r"/lib/*-linux-gnu)" "$r/usr/bin/ec2-ipam" "$@"
