#!/usr/bin/env bash
# All tests, in two halves at the same time, each with a stack of its own: most tests wait for something, so one
# half works while the other waits. The first half's output appears at once, the second's when both are done.
#
#   scripts/test.sh [ARGUMENT…]      further arguments of the test programs, such as --skip NAME
set -euo pipefail

cd "$(dirname "$0")/.."
# The tests of the second half, as filters of cargo test. The first half runs all others, so none is left out.
second=(answers:: bank:: crashes:: errors:: faults:: fence:: leases:: letters:: outages:: zombies::)
report=$(mktemp)
trap 'rm -f "$report"' EXIT
trap 'trap "" TERM INT; kill -TERM $(jobs -p) 2>/dev/null || true; wait; exit 143' TERM INT

# In the background only: the signal above is for what it becomes.
tests() { exec scripts/with-stack.sh cargo test --release --workspace --no-fail-fast -- --test-threads=1 "$@"; }
more=("$@")

cargo test --release --workspace --no-run
tests "${second[@]}" "${more[@]}" >"$report" 2>&1 &
behind=$!
skips=()
for name in "${second[@]}"; do skips+=(--skip "$name"); done
tests "${skips[@]}" "${more[@]}" &
status=0
wait $! || status=$?
wait $behind || status=$?
cat "$report"
exit $status
