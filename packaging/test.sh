#!/usr/bin/env bash
# Installs the packages that `make package` built, uses them beside a private stack, and removes them. As root, on Debian 12.
# Afterwards the extension stands again as `make install-extension` had it.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
say() { echo "test-package: $*"; }
die() { say "$*" >&2; exit 1; }

unit=/lib/systemd/system/sluice.service
settings=/etc/sluice/sluice.env
of_unit() { sed -n "s/^$1=//p" $unit; }
installed() { dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q ' \(installed\|config-files\)$'; }
until_true() { # SECONDS COMMAND…
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    [ $SECONDS -lt $deadline ] || return 1
    sleep 0.1
  done
}

# What systemd does for the unit, as far as it goes without systemd: user, settings, no privileges, a bare environment.
# To be called in a subshell, which it replaces.
as_service() { # COMMAND…; ExecStart of the unit where none is named
  local values
  # shellcheck disable=SC2046 # its words
  [ $# -gt 0 ] || set -- $(of_unit ExecStart)
  mapfile -t values < <(grep -Ev '^(#|$)' "$(of_unit EnvironmentFile)")
  exec setpriv --reuid "$(of_unit User)" --regid "$(of_unit Group)" --clear-groups --no-new-privs --bounding-set=-all \
    env -i ${SLUICE_STACK_DIR:+"SLUICE_STACK_DIR=$SLUICE_STACK_DIR"} "${values[@]}" "$@"
}

in_database() { psql "$ADMIN_DATABASE_URL" -XAtq -v ON_ERROR_STOP=1 -c "$1"; }

check_installed() {
  id sluice >/dev/null || die "there is no user sluice"
  [ "$(stat -c '%a %U:%G' $settings)" = "640 root:sluice" ] || die "$settings is $(stat -c '%a %U:%G' $settings)"
  ! compgen -G '/etc/systemd/system/*.wants/sluice.service' >/dev/null || die "the service is enabled before it is configured"
  man -w sluice-run >/dev/null || die "no manual"
  # A setting that is missing is one line, and a status that systemd does not restart on.
  local said status=0
  said=$(as_service 2>&1) || status=$?
  [ "$status" = "$(of_unit RestartPreventExitStatus)" ] && [[ $said = *DATABASE_URL* ]] || die "unconfigured: status $status, $said"
  systemd-analyze verify $unit
  systemd-analyze security --offline=yes --threshold=15 --no-pager $unit | tail -n 1
}

# The rest runs inside with-stack.sh, on its empty database.
use() {
  in_database 'DROP ROLE sluice_ingester'
  in_database 'DROP ROLE IF EXISTS sluice_operator'
  POSTGRES_USER=postgres POSTGRES_DB=$ADMIN_DATABASE_URL INGESTER_PASSWORD=secret OPERATOR_PASSWORD=secret docker/create-login.sh >/dev/null
  sluice migrate >/dev/null

  cat >>$settings <<SETTINGS
DATABASE_URL=postgres://sluice_ingester:secret@${DATABASE_URL#*@}
KAFKA_BROKERS=$KAFKA_BROKERS
REDIS_URL=$REDIS_URL
PORT=0
SETTINGS
  # An upgrade leaves the settings as they are.
  cp -p $settings "$SLUICE_STACK_DIR/settings.before"
  dpkg -i target/package/*.deb >/dev/null
  cmp $settings "$SLUICE_STACK_DIR/settings.before" || die "an upgrade changed $settings"

  local log=$SLUICE_STACK_DIR/service.log port
  target/release/produce balance.changed <<EVENTS
{"eventId":"1","eventType":"balance.changed","data":{"accountId":42,"changes":[{"currencyCode":"USD","availableDelta":"12.50"}]}}
{"eventId":"2","eventType":"balance.changed","data":{"accountId":42,"changes":[{"currencyCode":"USD","availableDelta":"-20"}]}}
EVENTS
  local said
  said=$(as_service sluice check) || die "sluice check: $said"
  as_service 2>"$log" &
  local service=$!
  has_verdicts() { [ "$(in_database "SELECT string_agg(verdict, ' ' ORDER BY kafka_offset) FROM ledger.event_verdicts")" = "APPLIED REJECTED" ]; }
  until_true 30 has_verdicts || die "no verdicts; the log: $(tail -n 5 "$log")"
  say "the service has committed two verdicts"
  port=$(sed -n 's/.*"address":"127.0.0.1:\([0-9]*\)".*/\1/p' "$log" | head -n 1)
  DB_WRITER_SERVICE_PORT=$port docker/healthcheck.sh || die "the health check fails"
  kill -TERM $service
  wait $service || die "status $? after SIGTERM"
  ! DB_WRITER_SERVICE_PORT=$port docker/healthcheck.sh || die "the health check passes without a service"
}

if [ "${1:-}" = use ]; then use; exit; fi

[ "$(id -u)" = 0 ] || die "installing packages takes root"
for package in sluice postgresql-15-sluice; do
  ! installed $package || die "$package is installed here: this test would remove it"
done
[ ! -e /etc/sluice ] && ! id sluice >/dev/null 2>&1 || die "/etc/sluice or the user sluice is here already: this test would remove it"
debs=(target/package/sluice_*.deb target/package/postgresql-15-sluice_*.deb)
[ -e "${debs[1]}" ] || die "no packages: run make package"

restore() {
  dpkg --purge sluice postgresql-15-sluice >/dev/null 2>&1 || true
  scripts/install-extension.sh
}
trap restore EXIT

if command -v lintian >/dev/null; then lintian --allow-root --fail-on error,warning "${debs[@]}"; fi
dpkg -i "${debs[@]}" >/dev/null
files=$(dpkg -L sluice postgresql-15-sluice | while read -r file; do [ -d "$file" ] || echo "$file"; done)
check_installed
scripts/with-stack.sh packaging/test.sh use

dpkg --remove sluice postgresql-15-sluice >/dev/null
[ -e $settings ] || die "removing took the settings away, which is for purging"
dpkg --purge sluice >/dev/null
left=$(for file in $files /etc/sluice; do [ ! -e "$file" ] || echo "$file"; done)
[ -z "$left" ] || die "left behind: $left"
! id sluice >/dev/null 2>&1 || die "the user sluice is left behind"
say "installed, used, removed: ${debs[*]##*/}"
