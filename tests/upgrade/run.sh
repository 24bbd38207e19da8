#!/usr/bin/env bash
# Upgrades a database of the previous version under load, with its ingester as it was then: make upgrade
#
# The previous version is built from this repository's history: the last commit before the workspace's version was raised.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$repository"
say() { echo "upgrade: $*" >&2; }
die() { say "$*"; exit 1; }

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml)
raised=$(git log -n 1 --format=%H -S"version = \"$version\"" -- Cargo.toml)
[ -n "$raised" ] || die "no commit of the history raises the version to $version: fetch the whole history"
previous=$(git rev-parse "$raised^")

work=$(mktemp -d /tmp/sluice-upgrade-XXXXXX)
chmod 755 "$work" # the user postgres loads the library from here
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say "building $(git log -n 1 --format='%h of %cs' "$previous")"
# Folders of its own: what is installed and tested elsewhere lies in target/release.
built=$repository/target/upgrade
rm -rf "$built/sources"
mkdir -p "$built/sources" "$work/lib"
git archive "$previous" | tar -x -C "$built/sources"
export PGRX_PG_CONFIG_PATH=${PGRX_PG_CONFIG_PATH:-/usr/lib/postgresql/15/bin/pg_config}
(cd "$built/sources" && CARGO_TARGET_DIR=$built cargo build --release --quiet --workspace)
install -m 755 "$built/release/sluice" "$work/sluice"
install -m 644 "$built/release/libsluice_pg.so" "$work/lib/sluice.so"

say "building the tests"
proofs=$(cargo test --release --workspace --test proofs --no-run --message-format=json 2>/dev/null |
  sed -n 's/.*"executable":"\([^"]*\/proofs-[^"]*\)".*/\1/p' | tail -n 1)
[ -x "$proofs" ] || die "the tests do not build: cargo test --workspace --test proofs --no-run"

SLUICE_PREVIOUS=$work SLUICE_LIBDIR=$work/lib scripts/with-stack.sh "$proofs" --ignored --test-threads=1 upgrade::
