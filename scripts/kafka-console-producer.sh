#!/usr/bin/env bash
# Kafka's own console producer, from the jars that scripts/setup.sh fetches: each line of stdin is a record.
#
#   scripts/kafka-console-producer.sh --bootstrap-server HOST:PORT --topic TOPIC
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/kafka-home.sh"
ls "$kafka_home"/kafka_*.jar "$kafka_tools_home"/kafka-tools-*.jar >/dev/null 2>&1 \
  || { echo "Kafka's tools are not in $kafka_tools_home: run make setup" >&2; exit 1; }
exec java -Dlog4j2.configurationFile="$here/kafka/log4j2.properties" -cp "$kafka_home/*:$kafka_tools_home/*" \
  org.apache.kafka.tools.ConsoleProducer "$@"
