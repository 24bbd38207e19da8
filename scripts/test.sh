#!/usr/bin/env bash
# All tests, in two halves at the same time, each beside a stack of its own: most proofs wait for something, so one
# half works while the other waits. The first half's output appears at once, the second's when both are done.
set -euo pipefail

cd "$(dirname "$0")/.."
# What the second half runs, as cargo test filters names. The first runs all that these leave out, so none is forgotten.
second=(answers:: bank:: crashes:: errors:: faults:: fence:: leases:: letters:: outages:: zombies::)
report=$(mktemp)
trap 'rm -f "$report"' EXIT
trap 'trap "" TERM INT; kill -TERM $(jobs -p) 2>/dev/null || true; wait; exit 143' TERM INT

# In the background only: the signal above is for what it becomes.
tests() { exec scripts/with-stack.sh cargo test --release --workspace --no-fail-fast -- --test-threads=1 "$@"; }

cargo test --release --workspace --no-run
tests "${second[@]}" >"$report" 2>&1 &
behind=$!
skips=()
for name in "${second[@]}"; do skips+=(--skip "$name"); done
tests "${skips[@]}" &
status=0
wait $! || status=$?
wait $behind || status=$?
cat "$report"
exit $status
