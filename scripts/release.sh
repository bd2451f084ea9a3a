#!/bin/sh
# All files of a release, in build/release: release.sh VERSION. docs/releasing.md says what becomes of them.
# Only what is committed and called so is released.
set -eu

[ $# -eq 1 ] || { echo "usage: $0 VERSION" >&2; exit 2; }
version=$1 tag=v$1
cd "$(dirname "$0")/.."
out=build/release

fail() { echo "release: $*" >&2; exit 1; }
has=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
[ "$version" = "$has" ] || fail "Cargo.toml has version $has, not $version"
plugin/changes.sh "$version" >/dev/null
dirty=$(git status --porcelain) || fail "this is no git repository, so nothing says which commit it is"
[ -z "$dirty" ] || fail "not everything is committed:
$dirty"
head=$(git rev-parse HEAD)
tagged=$(git rev-parse --verify --quiet "refs/tags/$tag^{commit}") || tagged=
[ "${tagged:-$head}" = "$head" ] || fail "the tag $tag is another commit, $tagged; this one is $head"

scripts/setup.sh cross
scripts/buildroot.sh plugin/release.sh $out

# Nothing says on which machine, or in whose folder, it was built.
for archive in "$out"/*.tar.gz; do
    ! gzip -dc "$archive" | grep -aqF -e "$PWD" -e "${CARGO_HOME:-$HOME/.cargo}/" || fail "$archive has paths of this machine in it"
done
(cd $out && sha256sum --quiet -c SHA256SUMS && ls -l)
[ -n "$tagged" ] || echo "release: the commit has no tag $tag yet: git tag -s $tag -m 'ec2-ipam $version'"
