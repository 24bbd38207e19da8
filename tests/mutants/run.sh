#!/usr/bin/env bash
# Removes one safeguard at a time from a copy of the sources and expects the tests to notice: make mutants
#
#   tests/mutants/run.sh [NAME…]     only these mutants of tests/mutants/list
#
# A patched library or binary is used where it is built (SLUICE_LIBDIR, SLUICE_BIN), the installed ones are never touched.
# The unpatched copy goes first: a test that fails on it too would notice nothing. Exit status 1 when a mutant survives.
# Each mutant builds the crate that it changes, and runs the tests that its line names.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$repository"
say() { echo "mutants: $*" >&2; }
die() { say "$*"; exit 1; }

# A target folder of its own: a patched library must never lie where install-extension looks.
work=$repository/target/mutants
export CARGO_TARGET_DIR=$work
export PGRX_PG_CONFIG_PATH=${PGRX_PG_CONFIG_PATH:-/usr/lib/postgresql/15/bin/pg_config}
sources=$work/sources
logs=$work/logs
mkdir -p "$sources" "$logs"
lib=$(mktemp -d /tmp/sluice-mutants-XXXXXX)
chmod 755 "$lib" # the user postgres loads the library from here
trap 'rm -rf "$lib"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# The list with its columns trimmed, of the mutants that are wanted.
chosen=("$@")
columns() {
  grep -v '^ *\(#\|$\)' tests/mutants/list | sed 's/ *~ /~/g' | while IFS= read -r line; do
    [ ${#chosen[@]} -gt 0 ] && [[ " ${chosen[*]} " != *" ${line%%~*} "* ]] || echo "$line"
  done
}

# The copy becomes what the repository has. What differs gets a new time, for that is what cargo goes by.
copy_sources() {
  local listed file
  listed=$(git ls-files --cached --others --exclude-standard)
  while IFS= read -r file; do
    if [ -f "$file" ] && ! cmp -s "$file" "$sources/$file"; then
      mkdir -p "$sources/$(dirname "$file")"
      cp "$file" "$sources/$file"
    fi
  done <<<"$listed"
  (cd "$sources" && find . -type f) | sed 's/^\.\///' | grep -vxFf <(echo "$listed") | (cd "$sources" && xargs -r -d '\n' rm) || true
}

# A function in SQL becomes a last migration, as the extension's script or a migration defines it.
function_as_migration() { # FUNCTION
  local scripts
  scripts=$(printf '%s\n' "$sources"/pg_ext/sql/*.sql | grep -v -- '--.*--'; printf '%s\n' "$sources"/migrations/*.sql | sort -V)
  # shellcheck disable=SC2086
  cat $scripts | perl -0ne '
    my $last = "";
    $last = $1 while /(CREATE (?:OR REPLACE )?FUNCTION \Q'"$1"'\E\(.*?\$\$;)/gs;
    $last =~ s/^CREATE FUNCTION/CREATE OR REPLACE FUNCTION/;
    print "$last\n" if $last;' >"$sources/migrations/V999__mutant.sql"
  [ -s "$sources/migrations/V999__mutant.sql" ]
}

build() { # FILE; what a change of it is in
  local what
  case $1 in
    pg_ext/*) what="lib" ;;
    ledger/*) what="lib bin" ;;
    *) what="bin" ;;
  esac
  # The whole workspace in both cases: another selection would give dependencies other features, and cargo would build them
  # anew. What is built over and over is neither optimised nor built from nothing: that takes longer than the tests.
  local quick=(--config profile.release.incremental=true) crate
  for crate in sluice_pg sluice ledger; do
    quick+=(--config "profile.release.package.$crate.opt-level=0" --config "profile.release.package.$crate.debug=false")
  done
  if [[ $what == *lib* ]]; then
    (cd "$sources" && cargo build --release --quiet "${quick[@]}" --workspace --lib) || return 1
    install -m 644 "$work/release/libsluice_pg.so" "$lib/sluice.so"
  fi
  if [[ $what == *bin* ]]; then
    (cd "$sources" && cargo build --release --quiet "${quick[@]}" --workspace --bin sluice) || return 1
  fi
}

# What the tests are run with: the patched half beside the other one as `make build` has made it.
patched() { # FILE
  case $1 in pg_ext/* | ledger/*) echo "SLUICE_LIBDIR=$lib" ;; esac
  case $1 in pg_ext/*) ;; *) echo "SLUICE_BIN=$work/release/sluice" ;; esac
}

run_tests() { # LOG FILE PROGRAM FILTER…; the tests' own status
  local log=$1 file=$2 program=$3
  shift 3
  local with
  readarray -t with < <(patched "$file")
  env "${with[@]}" scripts/with-stack.sh "${programs[$program]}" --test-threads=1 "$@" </dev/null >"$log" 2>&1
}

[ -n "$(columns)" ] || die "no mutant of that name: $*"

# What `make build` has compiled of others' crates need not be compiled again.
if [ ! -d "$work/release" ] && [ -d target/release/deps ]; then
  mkdir "$work/release"
  find target/release/{.fingerprint,build} target/release/deps/*.{rlib,rmeta,so,d} -type f -print0 |
    tar --create --format=posix --null --files-from=- | tar --extract --directory "$work" --strip-components=1
fi

say "building the tests"
declare -A programs
needed=$(columns | sed 's/.*~//; s/ .*//' | sort -u)
while IFS=' ' read -r name path; do programs[$name]=$path; done < <(
  # shellcheck disable=SC2046
  CARGO_TARGET_DIR=$repository/target cargo test --release --workspace $(printf -- '--test %s ' $needed) --no-run --message-format=json 2>/dev/null |
    sed -n 's/.*"kind":\["test"\].*"name":"\([^"]*\)".*"executable":"\([^"]*\)".*/\1 \2/p')
while IFS='~' read -r name _ _ tests; do
  program=${tests%% *}
  [ -x "${programs[$program]:-}" ] || die "mutant $name: no test program $program (does it build?)"
done < <(columns)

say "unpatched: the tests must pass"
copy_sources
build ledger/ || die "the unpatched sources do not build"
while read -r program; do
  readarray -t filters < <(columns | sed -n "s/.*~$program //p" | tr ' ' '\n' | sort -u)
  run_tests "$logs/unpatched-$program.log" ledger/ "$program" "${filters[@]}" ||
    { tail -n 40 "$logs/unpatched-$program.log" >&2; die "tests of $program fail without any mutant"; }
done <<<"$needed"

printf '%-20s %-10s %s\n' mutant outcome 'noticed by'
status=0
while IFS='~' read -r name file edit tests; do
  copy_sources
  if [[ $file == sql:* ]]; then
    function_as_migration "${file#sql:}" || true
    file=migrations/V999__mutant.sql
  fi
  if ! perl -0pi -e "($edit) or die qq(does not apply\n)" "$sources/$file" 2>"$logs/$name.log" || ! build "$file" 2>"$logs/$name.log"; then
    printf '%-20s %-10s %s\n' "$name" 'NO MUTANT' "does not fit $file any more: mend its line in tests/mutants/list"
    status=1
    continue
  fi
  read -ra list <<<"$tests"
  if run_tests "$logs/$name.log" "$file" "${list[@]}"; then
    printf '%-20s %-10s %s\n' "$name" SURVIVED "see $logs/$name.log"
    status=1
  else
    noticed=$(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p; s/^test result: FAILED.*/&/p' "$logs/$name.log" | grep -v 'test result' | paste -sd ' ')
    # Where nothing was migrated nothing was tested.
    if [ -z "$noticed" ] || grep -q '^sluice migrate failed' "$logs/$name.log"; then
      tail -n 40 "$logs/$name.log" >&2
      die "mutant $name: the tests did not run (make install-extension, if the installed one is older than the sources)"
    fi
    printf '%-20s %-10s %s\n' "$name" caught "$noticed"
  fi
done < <(columns)
copy_sources
exit $status
