#!/usr/bin/env bash
# Installs what this machine lacks for Sluice's build, tests and demo: Debian packages, Apache Kafka's jars from Maven, promtool,
# axe-core from npm.
# Starts no service and creates no database cluster. If nothing is missing it prints nothing and takes a moment.
#
#   scripts/setup.sh [--package|--peers|--samples]
#
# --package: the packages for building Debian packages, without those for tests and the demo;
# --peers: also what `make bench-peers` compares Sluice with: Kafka Connect with Debezium's JDBC sink;
# --samples: also the clients of the samples in Node.js and Go, which take minutes to build.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/kafka-home.sh"

say() { echo "setup: $*" >&2; }
die() { say "$*"; exit 1; }

# --- requirements: one test each, and the package that provides it ---

have() { command -v "$1" >/dev/null; }
have_file() { compgen -G "$1" >/dev/null; }
kafka_is_here() { have_file "$kafka_home/kafka_*.jar"; }
kafka_tools_are_here() { have_file "$kafka_tools_home/kafka-tools-*.jar"; }
connect_is_here() { have_file "$connect_home/connect-runtime-*.jar"; }
python_is_here() { have_file "$python_home/lib/python3*/site-packages/confluent_kafka/__init__.py"; }
node_is_here() { [ -d "$node_home/node_modules" ]; }
jars_are_here() { kafka_is_here && kafka_tools_are_here && { [ $peers = no ] || connect_is_here; }; }
axe_is_here() { [ -e "$axe_home/axe.min.js" ]; }
# Kafka 4 needs Java 17; the version is in quotes on the first line: openjdk version "17.0.15"
java_fits() {
  local version
  version=$(java -version 2>&1 | sed -n "s/.*version \"\([0-9]*\).*/\1/p") && [ "${version:-0}" -ge 17 ]
}

# A sample is run from its source.
java_compiles() { java --list-modules 2>/dev/null | grep -q '^jdk\.compiler'; }

missing_packages() {
  have_file /usr/lib/postgresql/15/bin/postgres || echo postgresql-15
  have_file /usr/include/postgresql/15/server/postgres.h || echo postgresql-server-dev-15
  { have cc && have c++; } || echo build-essential
  have cmake || echo cmake
  have pkg-config || echo pkg-config
  # pgrx reads PostgreSQL's headers through libclang.
  have_file '/usr/lib/llvm-*/lib/libclang*.so' || echo libclang-dev
  have_file /usr/include/openssl/ssl.h || echo libssl-dev
  have_file /usr/include/zlib.h || echo zlib1g-dev
  # librdkafka's build includes curl's header even where curl is switched off.
  have_file '/usr/include/*curl/curl.h' || have_file '/usr/include/*/curl/curl.h' || echo libcurl4-openssl-dev
  if [ $package = yes ]; then
    have dh || echo debhelper
    return
  fi
  have redis-server || echo redis-server
  # A pooler, for the test that Sluice detects it.
  have_file /usr/sbin/pgbouncer || echo pgbouncer
  # The page is tested in a real browser, which renders no text without a font.
  { have chromium && have chromedriver; } || printf '%s\n' chromium chromium-driver
  have_file '/usr/share/fonts/truetype/*/*.ttf' || echo fonts-dejavu-core
  have openssl || echo openssl
  # For the scenario in which clocks jump.
  have_file '/usr/lib/*/faketime/libfaketime.so.1' || echo libfaketime
  # The documentation sends records with it.
  have kcat || echo kcat
  { java_fits && java_compiles; } || echo openjdk-17-jdk-headless
  python_is_here || python3 -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
  if [ $samples_too = yes ]; then
    have node || echo nodejs
    have npm || echo npm
    # Or the build would fetch them from elsewhere.
    have_file /usr/include/node/node.h || echo libnode-dev
    have go || echo golang-go
  fi
  jars_are_here || have mvn || echo maven
  axe_is_here || have npm || echo npm
}

check_rust() {
  local wanted found
  wanted=$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' "$here/../Cargo.toml")
  have cargo || die "cargo is not in PATH: install Rust $wanted or newer (rustup)"
  found=$(rustc --version 2>/dev/null | cut -d ' ' -f 2) || true
  [ -n "$found" ] || die "rustc does not run: install Rust $wanted or newer (rustup default stable)"
  [ "$(printf '%s\n' "$wanted" "$found" | sort -V | head -n 1)" = "$wanted" ] \
    || die "Rust $found is too old: Sluice needs $wanted or newer (rustup update)"
}

# Approximately what a first build and a run of the tests need.
check_disk() {
  local free_kb
  free_kb=$(df -Pk "$here" | awk 'NR == 2 {print $4}')
  [ "$free_kb" -ge $((4 * 1024 * 1024)) ] || die "only $((free_kb / 1024)) MB are free in $(realpath "$here/.."): make room for 4 GB"
}

# --- Debian packages ---

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

# Debian starts the services that it installs. Ours run from a private folder on ports of their own,
# so while packages are installed this policy forbids starts, and no cluster is created.
policy=/usr/sbin/policy-rc.d
no_cluster=/etc/postgresql-common/createcluster.d/sluice-setup.conf
policy_is_ours=no

forbid_starts() {
  as_root mkdir -p "${no_cluster%/*}"
  echo 'create_main_cluster = false' | as_root tee "$no_cluster" >/dev/null
  if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' | as_root tee $policy >/dev/null
    as_root chmod 755 $policy
    policy_is_ours=yes
  fi
}

allow_starts() {
  as_root rm -f "$no_cluster"
  if [ $policy_is_ours = yes ]; then as_root rm -f $policy; fi
}

apt() { as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=120 "$@" >>"$log" 2>&1; }

install_packages() {
  local log
  have apt-get || die "these are missing and there is no apt-get to install them: $*"
  [ "$(id -u)" = 0 ] || have sudo || die "not root and no sudo: have an administrator run: apt-get install $*"
  [ "$(id -u)" = 0 ] || sudo -v || die "sudo refuses: have an administrator run: apt-get install $*"
  say "installing $*"
  log=$(mktemp)
  trap 'allow_starts' EXIT
  forbid_starts
  apt update || say "apt-get update failed, trying with the package lists at hand"
  apt install --no-upgrade --no-install-recommends "$@" \
    || die "apt-get install failed: $(grep '^E:' "$log" | tail -n 1) (whole log: $log)"
  for service in redis-server pgbouncer; do
    case " $* " in
      *" $service "*) if [ -d /run/systemd/system ]; then as_root systemctl -q disable $service; fi ;;
    esac
  done
  allow_starts
  trap - EXIT
  rm -f "$log"
}

# --- jars from Maven ---

fetch() { # WHAT POM FOLDER
  local what=$1 pom=$2 home=$3 log jars
  mkdir -p "$java_cache" 2>/dev/null || die "cannot create $java_cache: set SLUICE_CACHE to a folder that can be written"
  # Moved into place only when complete, so an interrupted download is never mistaken for a complete one.
  jars=$(mktemp -d "$java_cache/fetching-XXXXXX")
  log=$(mktemp)
  # shellcheck disable=SC2064
  trap "rm -rf '$jars'" EXIT
  say "fetching $what into $home"
  mvn -B -q -Dstyle.color=never -f "$pom" org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
    -DincludeScope=runtime -DoutputDirectory="$jars" >"$log" 2>&1 \
    || die "Maven could not fetch $what: $(grep -m 1 ERROR "$log" | sed 's/ -> \[Help.*//; s/.*\(.\{200\}\)$/…\1/') (whole log: $log)"
  chmod 755 "$jars"
  mv -T "$jars" "$home" 2>/dev/null || [ -d "$home" ] || die "cannot move the jars to $home"
  rm -rf "$jars" "$log"
  trap - EXIT
}

# --- promtool ---

# Tests run only this program of the package: the rest, including a service, is left out.
# Without it only that test fails, so a machine that cannot get it is no reason to stop.
fetch_promtool() {
  local cache folder log
  cache=$(dirname "$kafka_home")
  mkdir -p "$cache"
  folder=$(mktemp -d "$cache/fetching-XXXXXX")
  log=$folder/log
  # shellcheck disable=SC2064
  trap "rm -rf '$folder'" EXIT
  say "fetching promtool into $cache"
  if { (cd "$folder" && apt-get -q download prometheus) || { apt update && (cd "$folder" && apt-get -q download prometheus); }; } >>"$log" 2>&1 \
    && dpkg-deb --fsys-tarfile "$folder"/prometheus_*.deb | tar -x -C "$folder" ./usr/bin/promtool; then
    mv -T "$folder/usr/bin/promtool" "$cache/promtool"
  else
    say "promtool could not be fetched, its test will fail: $(grep '^E:' "$log" | tail -n 1)"
  fi
  rm -rf "$folder"
  trap - EXIT
}

# --- axe-core ---

# The one file that the tests of the page run in the browser; its lock file says which, to the byte.
fetch_axe() {
  local folder log
  mkdir -p "$java_cache"
  folder=$(mktemp -d "$java_cache/fetching-XXXXXX")
  log=$(mktemp)
  # shellcheck disable=SC2064
  trap "rm -rf '$folder'" EXIT
  say "fetching axe-core into $axe_home"
  cp "$here"/axe/package.json "$here"/axe/package-lock.json "$folder"
  (cd "$folder" && npm ci --ignore-scripts --no-audit --no-fund) >"$log" 2>&1 \
    || die "npm could not fetch axe-core: $(grep -m 1 ERR "$log") (whole log: $log)"
  mv -T "$folder/node_modules/axe-core" "$axe_home" 2>/dev/null || axe_is_here || die "cannot move axe-core to $axe_home"
  rm -rf "$folder" "$log"
  trap - EXIT
}

# --- clients of the samples ---

fetch_python_client() {
  say "installing the Python sample's client from PyPI into $python_home"
  mkdir -p "$java_cache"
  # In its place from the beginning, for a venv cannot be moved.
  { python3 -m venv "$python_home" \
    && "$python_home/bin/pip" install -q --disable-pip-version-check -r "$samples/python/requirements.txt"; } >&2 \
    || { rm -rf "$python_home"; say "it could not be installed, its test will fail"; }
}

# Built from its source: what npm would download otherwise is not in its registry.
fetch_node_client() {
  local folder log
  folder=$(mktemp -d "$java_cache/fetching-XXXXXX")
  log=$(mktemp)
  say "building the Node.js sample's client in $node_home: this takes minutes"
  cp "$samples/node/package.json" "$folder"
  CKJS_LINKING=dynamic npm_config_nodedir=/usr npm_config_build_from_source=@confluentinc/kafka-javascript \
    npm install --prefix "$folder" --no-audit --no-fund >"$log" 2>&1 \
    || { rm -rf "$folder"; die "npm could not build it: $(grep -m 1 -i 'error' "$log") (whole log: $log)"; }
  mv -T "$folder" "$node_home"
  rm -f "$log"
}

package=no peers=no samples_too=no
case ${1:-} in
  "") ;;
  --package) package=yes ;;
  --peers) peers=yes ;;
  --samples) samples_too=yes ;;
  *) die "usage: scripts/setup.sh [--package|--peers|--samples]" ;;
esac

check_rust
mapfile -t missing < <(missing_packages)
if [ ${#missing[@]} -gt 0 ] || ! [ -e "$here/../target/release/sluice" ]; then check_disk; fi
if [ ${#missing[@]} -gt 0 ]; then
  install_packages "${missing[@]}"
  mapfile -t missing < <(missing_packages)
  [ ${#missing[@]} = 0 ] || die "still missing after the installation, or an older one comes first in PATH: ${missing[*]}"
fi
[ $package = yes ] || kafka_is_here || fetch "Apache Kafka $kafka_version" "$kafka_pom" "$kafka_home"
# Only one test needs the console producer, so a machine that cannot get it is no reason to stop.
[ $package = yes ] || kafka_tools_are_here || (fetch "Kafka's console producer" "$kafka_tools_pom" "$kafka_tools_home") \
  || say "Kafka's console producer could not be fetched, its test will fail"
[ $package = yes ] || axe_is_here || fetch_axe
[ $peers = no ] || connect_is_here || fetch "Kafka Connect and Debezium's JDBC sink" "$connect_pom" "$connect_home"
[ $package = yes ] || "$here/promtool.sh" --version >/dev/null 2>&1 || fetch_promtool
[ $package = yes ] || python_is_here || fetch_python_client
[ $samples_too = no ] || node_is_here || fetch_node_client
