#!/usr/bin/env bash
# Builds Sluice and installs the extension into the PostgreSQL of PG_CONFIG (default: Debian's 15), by sudo where needed.
# Files that are already installed, byte for byte, are not touched; every other file is replaced atomically,
# because a running PostgreSQL may load it at any moment.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
pg_config=${PG_CONFIG:-/usr/lib/postgresql/15/bin/pg_config}
say() { echo "install-extension: $*" >&2; }
die() { say "$*"; exit 1; }

[ -x "$pg_config" ] || die "$pg_config is missing: run make setup, or set PG_CONFIG"
major=$("$pg_config" --version | sed 's/^PostgreSQL \([0-9]*\).*/\1/')
lib_dir=$("$pg_config" --pkglibdir)
extension_dir=$("$pg_config" --sharedir)/extension
target=${CARGO_TARGET_DIR:-target}

# The whole workspace, as everywhere: a smaller selection of packages would give dependencies another set of features,
# and cargo would compile them again, PostgreSQL's bindings and librdkafka included.
if [ "$major" = 15 ]; then selection=(--workspace); else selection=(-p sluice_pg --no-default-features --features "pg$major"); fi
PGRX_PG_CONFIG_PATH=$pg_config cargo build --release "${selection[@]}"

as_installer() { if [ -w "$lib_dir" ] && [ -w "$extension_dir" ]; then "$@"; else sudo "$@"; fi; }

install_file() { # FROM TO
  if cmp -s "$1" "$2"; then return; fi
  { as_installer install -m 644 "$1" "$2.new" && as_installer mv "$2.new" "$2"; } || die "cannot write $2: run as root or with sudo"
  say "installed $2"
}

# The library first: an install script that names a function needs it.
install_file "$target/release/libsluice_pg.so" "$lib_dir/sluice.so"
for script in pg_ext/sql/sluice--*.sql; do
  install_file "$script" "$extension_dir/${script##*/}"
done
install_file pg_ext/sluice.control "$extension_dir/sluice.control"
