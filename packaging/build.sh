#!/usr/bin/env bash
# Builds the Debian packages of the ingester and the extension: target/package/*.deb.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
cargo build --release --workspace

out=$target/package
stage=$out/sluice
rm -rf "$out"
mkdir -p "$stage"
cp -r packaging/debian "$stage"

# Nothing of the builder's own environment may get into the texts.
sluice=$stage/usr/bin/sluice
install -D -m 755 "$target/release/sluice" "$sluice"
tell() { env -i "$sluice" "$@"; }
tell man "$stage/man"
completions() { mkdir -p "$stage/${2%/*}" && tell completions "$1" >"$stage/$2"; }
completions bash usr/share/bash-completion/completions/sluice
completions zsh usr/share/zsh/vendor-completions/_sluice
completions fish usr/share/fish/vendor_completions.d/sluice.fish

# Every setting as a comment, with its default, from lines of `sluice run --help` like
#   Records of a batch at most [env: BATCH_SIZE=] [default: 2000]
# The superuser's address is no business of the service.
mkdir -p "$stage/etc/sluice"
{
  cat packaging/sluice.env
  tell run --help | sed -nE '
    /\[env: ADMIN_/d
    s/^ +(.*) \[env: ([A-Z_]+)=?\]( \[default: ("")?([^]]*)\])?(.*)$/\n# \1\6\n#\2=\5/p'
} >"$stage/etc/sluice/sluice.env"

extension=$stage/usr/share/postgresql/15/extension
install -D -m 644 "$target/release/libsluice_pg.so" "$stage/usr/lib/postgresql/15/lib/sluice.so"
mkdir -p "$extension"
install -m 644 pg_ext/sluice.control pg_ext/sql/sluice--*.sql "$extension"

version=$(tell version | cut -d ' ' -f 2)
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH
cat >"$stage/debian/changelog" <<CHANGES
sluice ($version) unstable; urgency=medium

  * CHANGELOG.md tells what is new.

 -- Sluice maintainers <maintainers@sluice.invalid>  $(date -R -u -d "@$SOURCE_DATE_EPOCH")
CHANGES

(cd "$stage" && debian/rules binary >"$out/log" 2>&1) || { tail -n 20 "$out/log" >&2; exit 1; }
ls "$out"/*.deb
