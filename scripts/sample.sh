#!/usr/bin/env bash
# Runs a sample of samples/ with the client that scripts/setup.sh has installed for it:
#
#   scripts/sample.sh java|python|rust|node|go ACCOUNT…
#
# KAFKA_BROKERS says where Kafka is, BALANCE_TOPIC and RESULTS_TOPIC which topics are used.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/kafka-home.sh"
language=${1:?java, python, rust, node or go}
shift
cd "$samples/$language"
case $language in
  # As Maven would, but with the jars of the broker, which has the same client.
  java) exec java -Dlog4j2.configurationFile="$here/kafka/log4j2.properties" -cp "$kafka_home/*" Publish.java "$@" ;;
  python) exec "$python_home/bin/python" publish.py "$@" ;;
  rust) exec "${CARGO_TARGET_DIR:-$here/../target}/release/publish" "$@" ;;
  node) NODE_PATH=$node_home/node_modules exec node publish.js "$@" ;;
  go) exec go run . "$@" ;;
  *) echo "sample.sh: no sample in $language" >&2; exit 2 ;;
esac
