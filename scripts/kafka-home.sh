# shellcheck shell=bash disable=SC2034
# Sourced by setup.sh, which fills these folders, and by stack.sh, connect.sh and sample.sh, which run what is in them.
java_cache=${SLUICE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sluice}
kafka_pom=$(dirname "${BASH_SOURCE[0]}")/kafka/pom.xml
kafka_tools_pom=$(dirname "${BASH_SOURCE[0]}")/kafka-tools/pom.xml
connect_pom=$(dirname "${BASH_SOURCE[0]}")/connect/pom.xml
pom_version() { sed -n "s|.*<$2.version>\(.*\)</$2.version>.*|\1|p" "$1"; }
kafka_version=$(pom_version "$kafka_pom" kafka)
kafka_home=$java_cache/kafka-$kafka_version
kafka_tools_home=$java_cache/kafka-tools-$kafka_version
samples=$(dirname "${BASH_SOURCE[0]}")/../samples
requirement() { sed -n "s/^$2==//p" "$samples/$1"; }
python_home=$java_cache/samples-python-$(requirement python/requirements.txt confluent-kafka)
node_home=$java_cache/samples-node-$(sed -n 's|.*"@confluentinc/kafka-javascript": "\(.*\)".*|\1|p' "$samples/node/package.json")
connect_home=$java_cache/connect-$(pom_version "$connect_pom" connect)-debezium-$(pom_version "$connect_pom" debezium)
axe_home=$java_cache/axe-core-$(sed -n 's/.*"axe-core": "\(.*\)".*/\1/p' "$(dirname "${BASH_SOURCE[0]}")/axe/package.json")
