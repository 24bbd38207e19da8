#!/usr/bin/env bash
# The tests that need no service: pure rules, decoding, settings, formats, the rooms of the sources, the model.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PGRX_PG_CONFIG_PATH=${PGRX_PG_CONFIG_PATH:-/usr/lib/postgresql/15/bin/pg_config}
# Each test program of these crates; those of pg_ext and tests/ need PostgreSQL, Kafka and Redis.
mapfile -t programs < <(ls ledger/tests/*.rs ingester/tests/*.rs model/tests/*.rs | sed 's|.*/\(.*\)\.rs|--test=\1|')
# The whole workspace, so that cargo does not compile it again with other features.
cargo test --release --workspace --lib "${programs[@]}"
