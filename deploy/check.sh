#!/usr/bin/env bash
# Judges Dockerfile, compose file and Kubernetes manifests by the tools that read them; starts nothing.
# The tools come from PyPI (deploy/requirements.txt), promtool from `make setup`.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
tools=${CARGO_TARGET_DIR:-target}/deploy-check
die() { echo "deploy/check.sh: $*" >&2; exit 1; }

python3 -m venv "$tools"
"$tools/bin/pip" install -q --disable-pip-version-check -r deploy/requirements.txt
PATH=$tools/bin:$PATH

hadolint docker/Dockerfile
POSTGRES_PASSWORD=x INGESTER_PASSWORD=x docker-compose -f docker/compose.yaml config --quiet
# What is mounted has to be there, or an engine would make a folder of that name.
grep -oE '\.\.?/[^:]+\.(yml|yaml|json)' docker/compose.yaml | while read -r file; do
  [ -f "docker/$file" ] || die "docker/compose.yaml mounts $file, which is not there"
done
kubernetes-validate --strict deploy/kubernetes/{sluice,secret,migrate,networkpolicy}.yaml
# Nothing else of HTTP is to hold up what decides whether a pod lives, and no other pod is to reach it.
[ "$(grep -c 'httpGet: {path: /[a-z]*, port: probes}' deploy/kubernetes/sluice.yaml)" = 2 ] || die "a probe that does not ask PROBE_PORT"
! grep -q 'port: probes' deploy/kubernetes/networkpolicy.yaml || die "networkpolicy.yaml lets others in to the probes"
scripts/promtool.sh check rules deploy/prometheus/alerts.yml
scripts/promtool.sh check config --syntax-only docker/prometheus.yml

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
stale=$(grep -n 'image: sluice:' deploy/kubernetes/*.yaml | grep -v "sluice:$version$" || true)
[ -z "$stale" ] || die "not of version $version: $stale"
