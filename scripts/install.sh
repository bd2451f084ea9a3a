#!/bin/sh
# Installs a plugin in this machine's Docker Engine, or brings an installed one up to it: install.sh [FOLDER]
# FOLDER is build/plugin (make install), or what the archive of a release has.
# An installed plugin keeps its identity, settings and state: removing it would delete its SQLite file. So only its files
# are exchanged, as `docker plugin upgrade` does.
set -eu

name=${PLUGIN_NAME:-ec2-ipam:latest}
top=$(cd "$(dirname "$0")/.." && pwd)
plugin=${1:-$top/build/plugin}
prefix=${PREFIX:-/usr/local}
next=${name%:*}:next

fail() { echo "install: $*" >&2; exit 1; }
[ -x "$plugin/rootfs/usr/bin/ec2-ipam" ] || fail "$plugin has no plugin; make plugin first"
docker version >/dev/null || fail "no Docker Engine answers; start it, or set DOCKER_HOST"
# The Engine would take a plugin of another architecture, and say only that its socket is not there. ELF has the machine in
# two bytes, the lower one first.
case $(od -An -tx1 -j 18 -N 2 "$plugin/rootfs/usr/bin/ec2-ipam") in
    *3e*00) is=amd64 ;;
    *b7*00) is=arm64 ;;
    *) is= ;;
esac
engine=$(docker version -f '{{.Server.Arch}}')
[ "${is:-$engine}" = "$engine" ] || fail "the plugin in $plugin is for $is, and this Engine's machine is $engine"
# The Engine refuses to create a second plugin of the very same content ("content sha256:...: already exists"), and
# builds are reproducible: a time of its own sets this one apart from what is installed, or pushed next.
touch "$plugin/rootfs/usr"

enable_it() {
    docker plugin enable "$name" >/dev/null || fail "$name does not start; the Engine's log says why (journalctl -u docker)"
    echo "install: $name is enabled. Networks name it --ipam-driver $name"
    command_line
}

# The plugin's command line, man pages and completions, for whoever may write there.
command_line() {
    command=$prefix/bin/ec2-ipam
    if [ "$(id -u)" != 0 ] && [ ! -w "$prefix/bin" ]; then
        echo "install: as root it would put the command line at $command"
        return
    fi
    # A plain service has its binary there.
    if [ -e "$command" ] && [ "$(head -c 2 "$command" | tr -d '\0')" != '#!' ]; then
        echo "install: $command is not a script; left as it is"
        return
    fi
    mkdir -p "$prefix/bin" "$prefix/share"
    sed "s|^plugin=.*|plugin=$name|" "$top/packaging/ec2-ipam.sh" >"$command.next"
    chmod 755 "$command.next"
    mv -f "$command.next" "$command"
    [ ! -d "$top/build/share" ] || cp -R "$top/build/share/." "$prefix/share/"
    echo "install: $command asks it; man ec2-ipam tells more"
}

if ! docker plugin inspect "$name" >/dev/null 2>&1; then
    docker plugin create "$name" "$plugin" >/dev/null
    enable_it
    exit
fi

root=$(docker info -f '{{.DockerRootDir}}')
installed=$root/plugins/$(docker plugin inspect -f '{{.Id}}' "$name")/rootfs
[ -d "$installed" ] || fail "$installed is not here: run this as root on the Engine's own machine"

manifest() {
    docker plugin inspect -f '{{with .Config}}{{json .Entrypoint}}{{json .Env}}{{json .Interface}}{{json .Linux}}{{json .Mounts}}{{json .Network}}{{.PropagatedMount}}{{end}}' "$1"
}
docker plugin rm -f "$next" >/dev/null 2>&1 || true
docker plugin create "$next" "$plugin" >/dev/null
trap 'docker plugin rm -f "$next" >/dev/null' EXIT
[ "$(manifest "$name")" = "$(manifest "$next")" ] || fail "config.json is another than that of the installed $name.
Push the plugin to a registry and run docker plugin upgrade, or note its settings (docker plugin inspect), remove the
networks that use it, docker plugin rm $name (this deletes a SQLite table of addresses) and make install again."

if [ "$(docker plugin inspect -f '{{.Enabled}}' "$name")" = true ]; then
    # shellcheck disable=SC2046 # network ids have no spaces
    users=$(docker network inspect -f '{{.IPAM.Driver}} {{.Name}}' $(docker network ls -q) | sed -n "s|^$name ||p" | tr '\n' ' ')
    if [ -n "$users" ] && [ "${FORCE:-}" != 1 ]; then
        fail "in use by the network(s) $users
Running containers keep their addresses while the plugin is exchanged, but starts and stops fail for those seconds.
Go on with: make install FORCE=1"
    fi
    docker plugin disable -f "$name" >/dev/null
fi
(cd "$plugin/rootfs" && find . -type f -print) | while read -r file; do
    # A new inode each: the old ones may still be mapped.
    install -D -m "$(stat -c %a "$plugin/rootfs/$file")" "$plugin/rootfs/$file" "$installed/$file.next"
    mv -f "$installed/$file.next" "$installed/$file"
done
enable_it
