#!/usr/bin/env bash
# Runs promtool, which checks metrics, alert rules and their tests: the one in PATH, or the one that setup.sh fetched.
tool=$(command -v promtool) || tool=${SLUICE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sluice}/promtool
[ -x "$tool" ] || { echo "promtool is neither in PATH nor at $tool: run make setup, or install Prometheus" >&2; exit 127; }
exec "$tool" "$@"
