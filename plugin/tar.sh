#!/bin/sh
# An archive that is the same, byte by byte, for the same files: tar.sh FOLDER FILE... >TAR
# Root's, in order of name, all of one time.
set -eu

[ $# -ge 2 ] || { echo "usage: $0 FOLDER FILE... >TAR" >&2; exit 2; }
folder=$1; shift
LC_ALL=C tar --directory="$folder" --create --format=gnu --sort=name --owner=0 --group=0 --numeric-owner \
    --mtime="@${SOURCE_DATE_EPOCH:-0}" "$@"
