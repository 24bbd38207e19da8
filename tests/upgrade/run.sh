#!/usr/bin/env bash
# Upgrades a database of version 0.6.0 under load, with its ingester as it was then: make upgrade
#
# That version is built from this repository's history.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$repository"
say() { echo "upgrade: $*" >&2; }
die() { say "$*"; exit 1; }

work=$(mktemp -d /tmp/sluice-upgrade-XXXXXX)
chmod 755 "$work" # the user postgres loads the library from here
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Folders of its own: what is installed and tested elsewhere lies in target/release.
built=$repository/target/upgrade
rm -rf "$built/sources"
mkdir -p "$work/lib"
say "building $(tests/upgrade/sources.sh "$built/sources")"
# What `make build` has compiled of others' crates need not be compiled again.
if [ ! -d "$built/release" ] && [ -d target/release/deps ]; then
  mkdir "$built/release"
  find target/release/{.fingerprint,build} target/release/deps/*.{rlib,rmeta,so,d} -type f -print0 |
    tar --create --format=posix --null --files-from=- | tar --extract --directory "$built" --strip-components=1
fi
export PGRX_PG_CONFIG_PATH=${PGRX_PG_CONFIG_PATH:-/usr/lib/postgresql/15/bin/pg_config}
(cd "$built/sources" && CARGO_TARGET_DIR=$built cargo build --release --quiet --workspace)
install -m 755 "$built/release/sluice" "$work/sluice"
install -m 644 "$built/release/libsluice_pg.so" "$work/sluice.so"
# The test creates its database with this library and then puts that of 0.6.0 in its place.
install -m 644 target/release/libsluice_pg.so "$work/lib/sluice.so"

say "building the tests"
proofs=$(cargo test --release --workspace --test proofs --no-run --message-format=json 2>/dev/null |
  sed -n 's/.*"executable":"\([^"]*\/proofs-[^"]*\)".*/\1/p' | tail -n 1)
[ -x "$proofs" ] || die "the tests do not build: cargo test --workspace --test proofs --no-run"

SLUICE_PREVIOUS=$work SLUICE_LIBDIR=$work/lib scripts/with-stack.sh "$proofs" --ignored --test-threads=1 upgrade::
