#!/usr/bin/env bash
# Runs a command with a private stack of its own: scripts/with-stack.sh COMMAND…
#
# The command finds DATABASE_URL, ADMIN_DATABASE_URL, KAFKA_BROKERS, REDIS_URL and SLUICE_STACK_DIR (for scripts/stack.sh)
# in its environment; the database `sluice` is empty and not migrated. The exit status is the command's.
# However this script ends, it removes the stack and every process of the command. KEEP=1 leaves them running.
set -euo pipefail

[ $# -ge 1 ] || { sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
dir=$(mktemp -d /tmp/sluice-XXXXXX)

# A killed cargo leaves its test running, a killed test its ingesters: a variable in their environment identifies them.
leftovers() { grep -slzFx "SLUICE_STACK_DIR=$dir" /proc/[0-9]*/environ | cut -d / -f 3 || true; }

end_leftovers() {
  local pids signal
  for signal in TERM KILL; do
    local deadline=$((SECONDS + 6))
    while pids=$(leftovers) && [ -n "$pids" ] && [ $SECONDS -lt $deadline ]; do
      # A process stopped by SIGSTOP receives TERM only after CONT. Children started since get the signal in the next round.
      # shellcheck disable=SC2086
      { kill -s $signal $pids; kill -s CONT $pids; } 2>/dev/null || true
      sleep 0.1
    done
  done
}

clean_up() {
  local status=$?
  trap - EXIT
  trap '' INT TERM HUP
  unset SLUICE_STACK_DIR # or our own helpers would look like leftovers
  if [ "${KEEP:-}" = 1 ] && [ -e "$dir/env" ]; then
    {
      echo "KEEP=1: PostgreSQL, Kafka and Redis keep running in $dir"
      echo "  set -a; . $dir/env; set +a     # then: psql \"\$ADMIN_DATABASE_URL\""
      echo "  $here/stack.sh $dir status"
      echo "  $here/stack.sh $dir down       # stops them and removes their data"
    } >&2
  else
    end_leftovers
    if [ -e "$dir/settings" ]; then "$here/stack.sh" "$dir" down; else rm -rf "$dir"; fi
  fi
  exit $status
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

"$here/stack.sh" "$dir" up --no-migrate
set -a
# shellcheck source=/dev/null
. "$dir/env"
set +a
export SLUICE_STACK_DIR=$dir

# In the background with our own stdin: the shell runs a trap only between commands, but at once during `wait`.
# The subshell restores Ctrl-C, which the shell disables for background commands.
(trap - INT QUIT; exec "$@") <&0 &
wait $!
