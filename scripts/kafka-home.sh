# shellcheck shell=bash disable=SC2034
# Sourced by setup.sh, which fills this folder, and by stack.sh, which runs Kafka from it.
kafka_pom=$(dirname "${BASH_SOURCE[0]}")/kafka/pom.xml
kafka_version=$(sed -n 's|.*<kafka.version>\(.*\)</kafka.version>.*|\1|p' "$kafka_pom")
kafka_home=${SLUICE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sluice}/kafka-$kafka_version
