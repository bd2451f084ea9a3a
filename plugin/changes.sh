#!/bin/sh
# What the changelog says of a version: changes.sh VERSION
set -eu

[ $# -eq 1 ] || { echo "usage: $0 VERSION" >&2; exit 2; }
changes=$(awk -v version="$1" '
    /^## / { on = $2 == version && $3 == "-" && $4 ~ /^[0-9]+-[0-9]+-[0-9]+$/; next }
    on' "$(dirname "$0")/../CHANGELOG.md")
[ -n "$changes" ] || { echo "release: CHANGELOG.md has no section \"## $1 - YEAR-MONTH-DAY\"" >&2; exit 1; }
echo "$changes" | sed '/./,$!d'
