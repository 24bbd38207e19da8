#!/usr/bin/env bash
# Removes one safeguard at a time from a copy of the extension and expects the tests to notice: make mutants
#
#   tests/mutants/run.sh [NAME…]     only these mutants
#
# PostgreSQL loads each patched library from a folder of its own (SLUICE_LIBDIR), the installed one is never touched.
# The unpatched copy goes first: what fails on it too would notice nothing. Exit status 1 when a mutant survives.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$repository"
say() { echo "mutants: $*" >&2; }
die() { say "$*"; exit 1; }

# NAME ~ FILE ~ what perl does to it ~ the tests that must notice
mutants() {
  cat <<'LIST'
fence-check    ~ pg_ext/src/fence.rs ~ s/p\.fencing_token = \$3 AND p\.lease_id = \$4 AND p\.commit_offset = \$5/p.commit_offset = \$5/ ~ fence:: zombies::a_leader
offset-check   ~ pg_ext/src/fence.rs ~ s/ AND p\.commit_offset = \$5// ~ fence:: crashes::a_lost_answer
identity-known ~ pg_ext/src/identities.rs ~ s/at\.ok\(\)\.map\(\|at\| known\[at\]\.1\)/at.ok().and(None::<PayloadHash>)/ ~ conformance::cases
identity-batch ~ pg_ext/src/identities.rs ~ s/self\.0\[record\]\.expect\(/self.0[record].map(|_| Claim::New).expect(/ ~ conformance::cases
fold-order     ~ pg_ext/src/apply.rs ~ s/(for \(index, record\) in staged\.records\.iter\(\)\.enumerate\(\))( \{\s+let \(event, places\))/$1.rev()$2/ ~ conformance::cases
key-order      ~ pg_ext/src/accounts.rs ~ s/(wanted\.sort_unstable_by_key)/let arrival = wanted.clone();\n$1/ and s/(let mut table = Balances::open\(\);)/$1\nfor (key, _) in &arrival { table.lock(key); }/ ~ bank::
staged-count   ~ pg_ext/src/apply.rs ~ s/if checksum != call\.checksum/if false/ and s/(staging::read\(bytes, call\.row_count\.max\(0\) as usize\))\s+\.unwrap_or_else\([^;]*;/$1.unwrap_or_default();/ ~ fence::an_emptied
history-chain  ~ pg_ext/src/accounts.rs ~ s/self\.changed\[slot\]\.or\((self\.rows\[slot\]\.and_then\(\|row\| row\.last_change\))\)/$1/ ~ conformance::any_cutting
durable-commit ~ pg_ext/src/fence.rs ~ s/if !session::commits_durably\(\)/if false/ ~ fence::a_commit_that_does_not_wait
LIST
}

# The list with its columns trimmed.
columns() { mutants | sed 's/ *~ /~/g'; }

work=$(mktemp -d /tmp/sluice-mutants-XXXXXX)
chmod 755 "$work" # the user postgres loads the library from here
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# A target folder of its own: a patched library must never lie where install-extension looks.
export CARGO_TARGET_DIR=$repository/target/mutants
export PGRX_PG_CONFIG_PATH=${PGRX_PG_CONFIG_PATH:-/usr/lib/postgresql/15/bin/pg_config}

copy_sources() {
  rm -rf "$work/sources"
  mkdir "$work/sources"
  git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$work/sources" 2>/dev/null || true
}

build() { # into $work/lib
  (cd "$work/sources" && cargo build --release --quiet -p sluice_pg) || return 1
  mkdir -p "$work/lib"
  install -m 644 "$CARGO_TARGET_DIR/release/libsluice_pg.so" "$work/lib/sluice.so"
}

run_tests() { # LOG FILTER…; the tests' own status
  local log=$1
  shift
  SLUICE_LIBDIR=$work/lib scripts/with-stack.sh "$proofs" --test-threads=1 "$@" </dev/null >"$log" 2>&1
}

wanted() { # NAME; all of them unless some were named
  [ ${#chosen[@]} -eq 0 ] || [[ " ${chosen[*]} " == *" $1 "* ]]
}

chosen=("$@")
logs=$repository/target/mutants/logs
mkdir -p "$logs"

say "building the tests"
proofs=$(CARGO_TARGET_DIR=$repository/target cargo test --release --workspace --test proofs --no-run --message-format=json 2>/dev/null |
  sed -n 's/.*"executable":"\([^"]*\/proofs-[^"]*\)".*/\1/p' | tail -n 1)
[ -x "$proofs" ] || die "the tests do not build: cargo test -p proofs --no-run"

all_filters=()
while IFS='~' read -r name _ _ filters; do
  if wanted "$name"; then read -ra list <<<"$filters"; all_filters+=("${list[@]}"); fi
done < <(columns)
[ ${#all_filters[@]} -gt 0 ] || die "no mutant of that name: ${chosen[*]}"

say "unpatched: the tests must pass"
copy_sources
build || die "the unpatched sources do not build"
run_tests "$logs/unpatched.log" "${all_filters[@]}" || { tail -n 40 "$logs/unpatched.log" >&2; die "the tests fail without any mutant"; }

printf '%-16s %-10s %s\n' mutant outcome 'noticed by'
status=0
while IFS='~' read -r name file edit filters; do
  wanted "$name" || continue
  copy_sources
  if ! perl -0pi -e "($edit) or die qq(does not apply\n)" "$work/sources/$file" 2>"$logs/$name.log" || ! build 2>"$logs/$name.log"; then
    printf '%-16s %-10s %s\n' "$name" 'NO MUTANT' "does not fit $file any more: mend its line in $0"
    status=1
    continue
  fi
  read -ra list <<<"$filters"
  if run_tests "$logs/$name.log" "${list[@]}"; then
    printf '%-16s %-10s %s\n' "$name" SURVIVED "see $logs/$name.log"
    status=1
  else
    noticed=$(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$logs/$name.log" | paste -sd ' ')
    [ -n "$noticed" ] || { tail -n 40 "$logs/$name.log" >&2; die "mutant $name: the tests did not run"; }
    printf '%-16s %-10s %s\n' "$name" caught "$noticed"
  fi
done < <(columns)
exit $status
