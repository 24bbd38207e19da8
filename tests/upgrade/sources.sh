#!/usr/bin/env bash
# Writes the sources of version 0.6.0, from this repository's history, into a folder: tests/upgrade/sources.sh DIR [PATH…]
# It is the state from which the bridge leads: the last commit before the workspace's version was raised from it.
set -euo pipefail
into=$(realpath -m -- "$1")
shift
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

raised=$(git log -n 1 --format=%H -G'^version = "0\.6\.0"$' -- Cargo.toml)
[ -n "$raised" ] || { echo "no commit of the history raises the version from 0.6.0: fetch the whole history" >&2; exit 1; }
mkdir -p "$into"
git archive "$raised^" "$@" | tar -x -C "$into"
git log -n 1 --format='%h of %cs' "$raised^"
