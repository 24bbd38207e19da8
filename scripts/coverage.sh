#!/usr/bin/env bash
# Which lines the tests reach: a figure for each crate, and every line in target/coverage/html. UNIT=1 runs only the
# tests that need no service; otherwise all run, and ingester and extension report their own coverage.
#
# cargo-llvm-cov and Rust's llvm-tools are fetched where they are missing. The instrumented build is separate from the
# release; for a complete run its extension is installed, and target/release's is installed again at the end.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
top=$PWD
coverage=$top/target/coverage
rustup component list --installed 2>/dev/null | grep -q '^llvm-tools' || rustup component add llvm-tools
command -v cargo-llvm-cov >/dev/null || cargo install cargo-llvm-cov --locked

# Backends run as PostgreSQL's system user, which can write here.
profiles=$(mktemp -d /tmp/sluice-profiles-XXXXXX)
chmod 1777 "$profiles"
put_back() {
  rm -rf "$profiles"
  [ -n "${UNIT:-}" ] || env -u RUSTFLAGS -u RUSTC_WRAPPER -u CARGO_TARGET_DIR -u LLVM_PROFILE_FILE scripts/install-extension.sh
}
trap put_back EXIT

export CARGO_TARGET_DIR=$coverage/build
mkdir -p "$CARGO_TARGET_DIR"
# shellcheck source=/dev/null
source <(cargo llvm-cov show-env --sh)
find "$CARGO_TARGET_DIR" -maxdepth 1 -name '*.profraw' -delete
export LLVM_PROFILE_FILE=$profiles/sluice-%p-%8m.profraw
export PGRX_PG_CONFIG_PATH=${PGRX_PG_CONFIG_PATH:-/usr/lib/postgresql/15/bin/pg_config}

status=0
if [ -n "${UNIT:-}" ]; then
  scripts/unit.sh || status=$?
else
  scripts/install-extension.sh
  # Those two call make, which would install an extension that counts nothing in place of this one.
  SLUICE_BIN=$CARGO_TARGET_DIR/release/sluice scripts/test.sh \
    --skip docs::the_readmes_first_look_works --skip docs::the_readmes_installation_works || status=$?
fi

# A test that clears its process's environment has the figures in the folder where it ran.
find "$profiles" tests pg_ext ingester -name '*.profraw' -exec mv -t "$CARGO_TARGET_DIR" {} +
# Tests, and code that only tests run, are left out of the figures.
ignored='(^|/)(tests|bench|faults|model)/'
cargo llvm-cov report --release --html --output-dir "$coverage" --ignore-filename-regex "$ignored" >/dev/null
cargo llvm-cov report --release --json --summary-only --ignore-filename-regex "$ignored" --output-path "$coverage/summary.json"
echo "crate      lines  reached"
for crate in ledger pg_ext ingester; do
  # One JSON object for each file, with its name before its figures.
  tr '{' '\n' <"$coverage/summary.json" | awk -v crate="$top/$crate/" -v name="$crate" '
    /"filename":/ { match($0, /"filename":"[^"]*"/); file = substr($0, RSTART + 12, RLENGTH - 13) }
    /^"count":.*"covered":/ && before ~ /"lines":$/ && index(file, crate) == 1 {
      split($0, part, /[:,}]/); lines += part[2]; reached += part[4]
    }
    { before = $0 }
    END { printf "%-9s %6d  %6.1f %%\n", name, lines, lines ? 100 * reached / lines : 0 }'
done
echo "each line: $coverage/html/index.html"
exit $status
