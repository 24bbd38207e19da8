#!/usr/bin/env bash
# Judges Dockerfile, compose file, Kubernetes manifests and Helm chart by the tools that read them; starts nothing.
# The tools come from PyPI (deploy/requirements.txt), Helm from the Go proxy, promtool from `make setup`.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
tools=${CARGO_TARGET_DIR:-target}/deploy-check
HELM=v3.19.5
die() { echo "deploy/check.sh: $*" >&2; exit 1; }

python3 -m venv "$tools"
"$tools/bin/pip" install -q --disable-pip-version-check -r deploy/requirements.txt
PATH=$tools/bin:$PATH

hadolint docker/Dockerfile
POSTGRES_PASSWORD=x INGESTER_PASSWORD=x OPERATOR_PASSWORD=x ADMIN_TOKEN=x docker-compose -f docker/compose.yaml config --quiet
# What is mounted has to be there, or an engine would make a folder of that name.
grep -oE '\.\.?/[^:]+\.(yml|yaml|json)' docker/compose.yaml | while read -r file; do
  [ -f "docker/$file" ] || die "docker/compose.yaml mounts $file, which is not there"
done
kubernetes-validate --strict deploy/kubernetes/{sluice,secret,migrate,networkpolicy}.yaml

# Go comes from PyPI as well: a distribution's may be too old for Helm.
helm=$tools/helm-$HELM
if [ ! -x "$helm" ]; then
  GOBIN=$(realpath "$tools") GOTOOLCHAIN=local go install "helm.sh/helm/v3/cmd/helm@$HELM"
  mv "$tools/helm" "$helm"
fi
chart=deploy/helm/sluice
"$helm" lint --strict --quiet "$chart"
# As it is installed without a word, and with everything that can be switched on.
everything=(--set serviceMonitor.enabled=true,ca.configMap=company-ca,settings.DB_SSLMODE=verify-full
  --set secret.files.ADMIN_TOKEN_FILE=admin-token,secret.files.OPERATOR_DATABASE_URL_FILE=operator-database-url
  --set secret.files.REDIS_URL_FILE=redis-url,migrate.args[0]=--also,migrate.args[1]=/own)
"$helm" template sluice "$chart" >"$tools/chart.yaml"
"$helm" template bank "$chart" --namespace bank "${everything[@]}" >"$tools/chart-everything.yaml"
# No schema of Kubernetes' own has a ServiceMonitor.
sed '/^# Source: .*servicemonitor.yaml$/,/^---$/d' "$tools/chart-everything.yaml" >"$tools/chart-known.yaml"
kubernetes-validate --strict "$tools/chart.yaml" "$tools/chart-known.yaml"
for part in "kind: ServiceMonitor" "kind: PodDisruptionBudget" "kind: NetworkPolicy" "kind: Job" \
  "KAFKA_SSL_CA_LOCATION, value: /etc/sluice/ca/ca.crt" "REDIS_CA, value: /etc/sluice/ca/ca.crt" \
  "ADMIN_TOKEN_FILE, value: \"/run/secrets/sluice/admin-token\"" 'args: ["migrate","--also","/own"]' "name: bank-sluice"; do
  grep -qF -- "$part" "$tools/chart-everything.yaml" || die "the chart does not render: $part"
done
! "$helm" template sluice "$chart" --set replcas=3 >/dev/null 2>&1 || die "the chart takes a misspelt value"
[ "$(grep -c 'httpGet: {path: /[a-z]*, port: probes}' "$tools/chart.yaml")" = 2 ] || die "a probe of the chart that does not ask PROBE_PORT"
# Nothing else of HTTP is to hold up what decides whether a pod lives, and no other pod is to reach it.
[ "$(grep -c 'httpGet: {path: /[a-z]*, port: probes}' deploy/kubernetes/sluice.yaml)" = 2 ] || die "a probe that does not ask PROBE_PORT"
! grep -q 'port: probes' deploy/kubernetes/networkpolicy.yaml || die "networkpolicy.yaml lets others in to the probes"
scripts/promtool.sh check rules deploy/prometheus/alerts.yml
scripts/promtool.sh check config --syntax-only docker/prometheus.yml

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
stale=$(grep -n 'image: sluice:' deploy/kubernetes/*.yaml | grep -v "sluice:$version$" || true)
stale+=$(grep -nE '^(version|appVersion):' "$chart/Chart.yaml" | grep -v ": $version$" || true)
[ -z "$stale" ] || die "not of version $version: $stale"
