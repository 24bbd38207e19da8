#!/usr/bin/env bash
# Runs Kafka Connect standalone with Debezium's JDBC sink: scripts/connect.sh WORKER.properties SINK.properties
# CONNECT_JAVA_OPTIONS are Java's own, such as -Xmx1g.
set -euo pipefail

[ $# -eq 2 ] || { sed -n '2,3s/^# \{0,1\}//p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
. "$here/kafka-home.sh"
[ -d "$connect_home" ] || { echo "connect: $connect_home is missing: run make bench-peers" >&2; exit 1; }
# shellcheck disable=SC2086
exec java -Dlog4j2.configurationFile="$here/kafka/log4j2.properties" ${CONNECT_JAVA_OPTIONS:-} \
  -cp "$connect_home/*" org.apache.kafka.connect.cli.ConnectStandalone "$@"
