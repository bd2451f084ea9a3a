#!/usr/bin/env bash
# The server as a container image for `docker load`, of what a plugin is made of: image.sh PLUGIN amd64|arm64 VERSION >TAR
# Its settings are those of the server's unit. No other image is needed to begin with, and no Engine. The same plugin gives
# the same image, byte by byte.
set -euo pipefail

[ $# -eq 3 ] || { echo "usage: $0 PLUGIN amd64|arm64 VERSION >TAR" >&2; exit 2; }
plugin=$1 arch=$2 version=$3
top=$(cd "$(dirname "$0")/.." && pwd)
epoch=${SOURCE_DATE_EPOCH:-0}
command -v jq >/dev/null || { echo "image: jq is missing; apt-get install jq" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
digest() { sha256sum "$1" | cut -d' ' -f1; }

"$top/plugin/tar.sh" "$plugin/rootfs" . >"$work/layer.tar"
jq -n --arg arch "$arch" --arg epoch "$epoch" --arg layer "$(digest "$work/layer.tar")" \
    --arg unit "$(sed -n 's/^Environment=//p' "$top/packaging/ec2-ipam-server.service")" '{
        architecture: $arch, os: "linux", created: ($epoch | tonumber | todate),
        config: {
            Env: ($unit | split("\n")), ExposedPorts: {"8031/tcp": {}},
            Entrypoint: ["/usr/bin/ec2-ipam"], Cmd: ["serve"]
        },
        rootfs: {type: "layers", diff_ids: ["sha256:\($layer)"]},
        history: [{created: ($epoch | tonumber | todate), created_by: "ec2-ipam"}]
    }' >"$work/config"
config=$(digest "$work/config").json
mv "$work/config" "$work/$config"
jq -n --arg config "$config" --arg tag "ec2-ipam-server:$version" \
    '[{Config: $config, RepoTags: [$tag], Layers: ["layer.tar"]}]' >"$work/manifest.json"
chmod 644 "$work"/*
"$top/plugin/tar.sh" "$work" manifest.json "$config" layer.tar
