#!/usr/bin/env bash
# Builds ingester and extension with fault points, separately from the release: target/faults/release/sluice and
# target/faults/lib/sluice.so. Tests name both by path; neither is ever installed.
#
# Dependencies have the same features in both builds, so what target/release has compiled of them is reused as hard
# links: only the crates of the workspace are compiled again.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
target=${CARGO_TARGET_DIR:-target}
faults=$target/faults
export PGRX_PG_CONFIG_PATH=${PGRX_PG_CONFIG_PATH:-/usr/lib/postgresql/15/bin/pg_config}

take_over_dependencies() {
  rm -rf "$faults/release"
  mkdir -p "$faults/release"
  cp -al "$target"/release/{build,deps,.fingerprint} "$faults/release/" 2>/dev/null ||
    cp -a "$target"/release/{build,deps,.fingerprint} "$faults/release/"
  # This build must never write into a file of target/release.
  local crate
  for crate in $(sed -n 's/^name = "\(.*\)"$/\1/p' ./*/Cargo.toml); do
    rm -rf "$faults/release/.fingerprint/$crate"-* "$faults/release/build/$crate"-* \
      "$faults/release/deps/$crate"-* "$faults/release/deps/lib$crate"[-.]*
  done
  cp Cargo.lock "$faults/Cargo.lock"
}

cmp -s Cargo.lock "$faults/Cargo.lock" || take_over_dependencies

CARGO_TARGET_DIR=$faults cargo build --release --workspace --lib --bin sluice --features sluice/fault-points,sluice_pg/fault-points

# PostgreSQL's system user loads it from a folder that it can enter.
mkdir -p "$faults/lib"
install -m 644 "$faults/release/libsluice_pg.so" "$faults/lib/sluice.so.new"
mv "$faults/lib/sluice.so.new" "$faults/lib/sluice.so"
