#!/usr/bin/env bash
# A private PostgreSQL, Kafka and Redis in one folder, on free ports of 127.0.0.1.
#
#   scripts/stack.sh DIR up [--env FILE] [--no-migrate] [--tls]
#   scripts/stack.sh DIR down | status
#   scripts/stack.sh DIR postgres-stop [fast|immediate] | postgres-start
#   scripts/stack.sh DIR kafka-stop | kafka-kill | kafka-start
#   scripts/stack.sh DIR redis-stop | redis-start
#
# `up` writes FILE (default DIR/env), one NAME=value a line: DATABASE_URL, ADMIN_DATABASE_URL, KAFKA_BROKERS, REDIS_URL;
# of a migrated stack also OPERATOR_DATABASE_URL and ADMIN_TOKEN, which the page needs.
# With --tls all three use TLS, and FILE has everything that a client needs. Only PostgreSQL's superuser and one port of
# Kafka, KAFKA_PORT in DIR/settings, also work without TLS, so that tests can prepare data. DIR/tls has the certificates:
# ca.crt signed those of the servers, which are for localhost, and client.crt; stranger.crt is another CA, which signed none.
# A migrated stack is for people: Kafka creates a topic when a record is sent to it. Tests create their own.
# A service that is stopped and started again keeps its port and its data; `down` removes DIR.
# SLUICE_POSTGRES_PRELOAD names a library that postgres-start preloads into PostgreSQL (tests of clocks and disks).
# SLUICE_LIBDIR names a folder whose sluice.so PostgreSQL loads before the installed one (tests of patched builds).
# PG_CONFIG selects another PostgreSQL than Debian's 15.
# shellcheck disable=SC1090,SC2153 # DIR/settings is written by remember()
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/kafka-home.sh"

say() { echo "stack: $*" >&2; }
die() { say "$*"; exit 1; }
usage() { sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2; exit 2; }

[ $# -ge 2 ] || usage
dir=$(realpath -m -- "$1")
command=$2
shift 2

pg_bin=$("${PG_CONFIG:-/usr/lib/postgresql/15/bin/pg_config}" --bindir 2>/dev/null) \
  || die "PostgreSQL 15 is not installed: run make setup"
# A caller's PGHOST, PGPORT and the like would connect psql to another server.
# shellcheck disable=SC2086
unset ${!PG@}

# --- the files of a stack in DIR ---

settings=$dir/settings # ports and passwords, for restarts
pg_home=$dir/pg        # owned by the user that runs PostgreSQL: data, log, socket
kafka_dir=$dir/kafka
redis_dir=$dir/redis
tls_dir=$dir/tls
start_timeout_s=90

remember() { # NAME VALUE; the last line of a name counts, and appending is safe while two jobs do it
  echo "$1=$2" >>"$settings"
  printf -v "$1" %s "$2"
}

random_password() { od -An -N16 -tx1 /dev/urandom | tr -d ' \n'; }

# PostgreSQL refuses to run as root, so root runs it as Debian's user postgres.
as_postgres() {
  if [ "$(id -u)" = 0 ]; then
    setpriv --reuid=postgres --regid=postgres --init-groups -- "$@"
  else
    "$@"
  fi
}

# Ports below the kernel's range for outgoing connections, so that none of those takes the port of a service that restarts.
free_port() {
  local port
  for _ in {1..200}; do
    port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
    if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
      echo "$port"
      return
    fi
  done
  die "no free port found between 20000 and 31999"
}

answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# --- processes: recorded by pid, and signalled only if the pid still belongs to the recorded service ---

pid_of() { # SERVICE; prints nothing when it does not run
  local pid
  pid=$(head -n 1 "$dir/$1.pid" 2>/dev/null) || return 0
  # A pid may have been reused: every service of ours has DIR in its command line, a zombie has no command line.
  if tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF -- "$dir/"; then echo "$pid"; fi
}

wait_until() { # SECONDS CONDITION…; polls
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    [ $SECONDS -lt $deadline ] || return 1
    sleep 0.05
  done
}

gone() { [ -z "$(pid_of "$1")" ]; }
running() { ! gone "$1"; }

stop_service() { # SERVICE SIGNAL
  local pid
  pid=$(pid_of "$1")
  [ -n "$pid" ] || return 0
  kill -s "$2" "$pid" 2>/dev/null || true
  wait_until 20 gone "$1" || { kill -s KILL "$pid" 2>/dev/null || true; wait_until 10 gone "$1"; }
}

# Starts a daemon that outlives this script, detached from the caller's terminal, and records its pid.
# Services do not get the variable that marks processes for with-stack.sh to clean up: `down` stops them in order.
launch() { # SERVICE LOG COMMAND…
  local service=$1 log=$2
  shift 2
  env -u SLUICE_STACK_DIR setsid -- "$@" </dev/null >>"$log" 2>&1 &
  echo $! >"$dir/$service.pid"
  # The command line that pid_of looks for appears with the last exec of this chain.
  wait_until 5 running "$service" || true
}

failed() { # SERVICE LOG
  if grep -qi "address already in use" "$2" 2>/dev/null; then
    say "$1 did not start: another program has taken its port"
  else
    say "$1 did not start; the end of $2:"
    tail -n 15 "$2" >&2 || true
  fi
  return 1
}

# --- TLS ---

tls() { [ "${TLS:-no}" = yes ]; }

certificate() { # NAME SUBJECT EXTENSION [OPTION…]
  local name=$1 subject=$2 extension=$3
  shift 3
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -days 2 -subj "/CN=$subject" -addext "$extension" \
    -keyout "$tls_dir/$name.key" -out "$tls_dir/$name.crt" "$@" 2>>"$dir/openssl.log" || { failed openssl "$dir/openssl.log"; return 1; }
}

tls_create() {
  local ours=(-CA "$tls_dir/ca.crt" -CAkey "$tls_dir/ca.key" -addext basicConstraints=CA:FALSE)
  (umask 077 && mkdir "$tls_dir")
  certificate ca 'Sluice CA' keyUsage=keyCertSign
  certificate stranger 'Another CA' keyUsage=keyCertSign
  certificate server localhost subjectAltName=DNS:localhost "${ours[@]}"
  certificate client sluice_certified extendedKeyUsage=clientAuth "${ours[@]}"
  # In the format that Kafka needs.
  cat "$tls_dir/server.key" "$tls_dir/server.crt" >"$tls_dir/server.pem"
}

# --- PostgreSQL ---

postgres_create() {
  local owner=$USER_OF_POSTGRES
  mkdir "$pg_home"
  (umask 077 && echo "$ADMIN_PASSWORD" >"$pg_home/password")
  chown "$owner" "$pg_home" "$pg_home/password"
  as_postgres "$pg_bin/initdb" -D "$pg_home/data" -U postgres --pwfile="$pg_home/password" --no-sync \
    --encoding=UTF8 --locale=C.UTF-8 --auth=scram-sha-256 >"$dir/initdb.log" 2>&1 || { failed initdb "$dir/initdb.log"; return 1; }
  rm "$pg_home/password"
  as_postgres sh -c 'cat >>"$1"' sh "$pg_home/data/postgresql.conf" <<CONF
listen_addresses = '127.0.0.1'
unix_socket_directories = '$pg_home'
max_connections = 200
max_prepared_transactions = 10
shared_buffers = 256MB
max_wal_size = 4GB
fsync = on
synchronous_commit = on
recovery_init_sync_method = syncfs
log_line_prefix = '%m [%p] %q%u@%d %a '
include_if_exists = 'sluice.conf'
CONF
  if tls; then postgres_tls; fi
}

postgres_tls() {
  local name
  for name in ca.crt server.crt server.key; do
    cp "$tls_dir/$name" "$pg_home/$name"
    chown "$USER_OF_POSTGRES" "$pg_home/$name"
    chmod 600 "$pg_home/$name"
  done
  as_postgres sh -c 'cat >>"$1"' sh "$pg_home/data/postgresql.conf" <<CONF
ssl = on
ssl_ca_file = '$pg_home/ca.crt'
ssl_cert_file = '$pg_home/server.crt'
ssl_key_file = '$pg_home/server.key'
CONF
  as_postgres sh -c 'cat >"$1"' sh "$pg_home/data/pg_hba.conf" <<CONF
hostssl all sluice_certified 127.0.0.1/32 cert
host all postgres 127.0.0.1/32 scram-sha-256
hostssl all all 127.0.0.1/32 scram-sha-256
CONF
}

postgres_settings() {
  echo "port = $PG_PORT"
  if [ -e "$("$pg_bin/pg_config" --pkglibdir)/pg_stat_statements.so" ]; then
    echo "shared_preload_libraries = 'pg_stat_statements'"
  fi
  if [ -n "${SLUICE_LIBDIR:-}" ]; then
    echo "dynamic_library_path = '$(realpath "$SLUICE_LIBDIR"):\$libdir'"
  fi
}

postgres_start() {
  [ -z "$(pid_of postgres)" ] || return 0
  local log=$pg_home/log preload=()
  if [ -n "${SLUICE_POSTGRES_PRELOAD:-}" ]; then preload=("LD_PRELOAD=$SLUICE_POSTGRES_PRELOAD"); fi
  # With RUST_BACKTRACE in the server's environment pgrx would put a backtrace into the DETAIL of every error.
  # After an immediate stop the last backends may keep the shared memory for a moment.
  local deadline=$((SECONDS + 15)) seen
  while :; do
    seen=$(stat -c %s "$log" 2>/dev/null || echo 0)
    if as_postgres env -u SLUICE_STACK_DIR -u RUST_BACKTRACE "${preload[@]}" "$pg_bin/pg_ctl" start -s -w -t $start_timeout_s -D "$pg_home/data" -l "$log" \
      >"$dir/pg_ctl.log" 2>&1; then
      head -n 1 "$pg_home/data/postmaster.pid" >"$dir/postgres.pid"
      return 0
    fi
    tail -c "+$((seen + 1))" "$log" 2>/dev/null | grep -q 'shared memory block' && [ $SECONDS -lt $deadline ] || break
    sleep 0.1
  done
  failed PostgreSQL "$log"
}

postgres_start_on_free_port() {
  for _ in {1..5}; do
    remember PG_PORT "$(free_port)"
    postgres_settings | as_postgres sh -c 'cat >"$1"' sh "$pg_home/data/sluice.conf"
    postgres_start && return
    grep -q 'Address already in use' "$pg_home/log" || return 1
    as_postgres rm -f "$pg_home/log"
  done
  return 1
}

postgres_stop() { # [fast|immediate]
  case ${1:-fast} in
    fast) stop_service postgres INT ;;
    immediate) stop_service postgres QUIT ;;
    *) usage ;;
  esac
}

sql() { # statements on stdin
  PGPASSWORD=$ADMIN_PASSWORD "$pg_bin/psql" -h 127.0.0.1 -p "$PG_PORT" -U postgres -d "${1:-sluice}" -X -q -v ON_ERROR_STOP=1 >/dev/null
}

# --- Kafka: one node, broker and controller at once ---

kafka_java=(java -Dlog4j2.configurationFile="$here/kafka/log4j2.properties" -cp "$kafka_home/*")

kafka_settings() {
  local listeners=PLAINTEXT://127.0.0.1:$KAFKA_PORT advertised=PLAINTEXT://127.0.0.1:$KAFKA_PORT
  if tls; then
    listeners+=,SSL://127.0.0.1:$KAFKA_SSL_PORT,SASL_SSL://127.0.0.1:$KAFKA_SASL_PORT
    advertised+=,SSL://localhost:$KAFKA_SSL_PORT,SASL_SSL://localhost:$KAFKA_SASL_PORT
    kafka_tls
  fi
  cat <<CONF
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$KAFKA_CONTROLLER_PORT
listeners=$listeners,CONTROLLER://127.0.0.1:$KAFKA_CONTROLLER_PORT
advertised.listeners=$advertised
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT
log.dirs=$kafka_dir/data
auto.create.topics.enable=$([ "$MIGRATE" = yes ] && echo true || echo false)
num.partitions=8
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
group.initial.rebalance.delay.ms=0
# With the default each commit of a group's offsets would wait 5 ms for others.
group.coordinator.append.linger.ms=0
# Retention and compaction work within seconds, so that tests can wait for them.
log.initial.task.delay.ms=1000
log.retention.check.interval.ms=1000
log.segment.delete.delay.ms=1000
log.cleaner.backoff.ms=1000
log.cleaner.dedupe.buffer.size=16777216
# A killed broker can register again only after its former session has expired.
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=3000
CONF
}

kafka_tls() {
  local modules=org.apache.kafka.common.security
  cat <<CONF
ssl.keystore.type=PEM
ssl.keystore.location=$tls_dir/server.pem
ssl.truststore.type=PEM
ssl.truststore.location=$tls_dir/ca.crt
listener.name.ssl.ssl.client.auth=required
listener.name.sasl_ssl.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.sasl_ssl.plain.sasl.jaas.config=$modules.plain.PlainLoginModule required user_sluice="$KAFKA_PASSWORD";
listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config=$modules.scram.ScramLoginModule required;
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=$modules.scram.ScramLoginModule required;
CONF
}

kafka_create() {
  local mechanism logins=()
  if tls; then
    for mechanism in SCRAM-SHA-256 SCRAM-SHA-512; do logins+=(--add-scram "$mechanism=[name=sluice,password=$KAFKA_PASSWORD]"); done
  fi
  mkdir -p "$kafka_dir"
  (umask 077 && kafka_settings >"$kafka_dir/server.properties")
  # The cluster's id is the base64 of "sluice-stack-dev".
  "${kafka_java[@]}" kafka.tools.StorageTool format -t c2x1aWNlLXN0YWNrLWRldg -c "$kafka_dir/server.properties" "${logins[@]}" \
    >"$kafka_dir/format.log" 2>&1 || failed "Kafka's StorageTool" "$kafka_dir/format.log"
}

kafka_ready() { # BYTES of log to skip
  gone kafka && return 0 # it died: the caller sees that at once instead of at the time-out
  answers "$KAFKA_PORT" && tail -c "+$(($1 + 1))" "$kafka_dir/log" | grep -q 'Kafka Server started'
}

kafka_start() {
  [ -z "$(pid_of kafka)" ] || return 0
  local log=$kafka_dir/log skip
  skip=$(stat -c %s "$log" 2>/dev/null || echo 0)
  # The options of Kafka's own start script.
  launch kafka "$log" "${kafka_java[@]}" -Xms1g -Xmx1g -XX:+UseG1GC -XX:MaxGCPauseMillis=20 -XX:InitiatingHeapOccupancyPercent=35 -XX:+ExplicitGCInvokesConcurrent -XX:MaxInlineLevel=15 -XX:+ExitOnOutOfMemoryError kafka.Kafka "$kafka_dir/server.properties"
  if ! wait_until $start_timeout_s kafka_ready "$skip" || gone kafka; then
    failed Kafka "$log"
  fi
}

kafka_start_on_free_port() {
  for _ in {1..5}; do
    kafka_start && return
    grep -qi 'address already in use' "$kafka_dir/log" || return 1
    rm -f "$kafka_dir/log"
    kafka_choose_ports
    kafka_settings >"$kafka_dir/server.properties"
  done
  return 1
}

kafka_choose_ports() {
  remember KAFKA_PORT "$(free_port)"
  remember KAFKA_CONTROLLER_PORT "$(free_port)"
  if tls; then
    remember KAFKA_SSL_PORT "$(free_port)"
    remember KAFKA_SASL_PORT "$(free_port)"
  fi
}

# --- Redis: a hint store, so nothing is persisted ---

redis_ready() {
  local way=()
  if tls; then way=(-h localhost --tls --cacert "$tls_dir/ca.crt" --cert "$tls_dir/client.crt" --key "$tls_dir/client.key"); fi
  gone redis || [ "$(REDISCLI_AUTH=${REDIS_PASSWORD:-} redis-cli "${way[@]}" -p "$REDIS_PORT" ping 2>/dev/null)" = PONG ]
}

redis_port() {
  if tls; then
    (umask 077 && echo "requirepass $REDIS_PASSWORD" >"$redis_dir/password.conf")
    printf '%s\n' 'port 0' "tls-port $REDIS_PORT" "tls-ca-cert-file $tls_dir/ca.crt" "tls-cert-file $tls_dir/server.crt" \
      "tls-key-file $tls_dir/server.key" 'tls-auth-clients yes' "include $redis_dir/password.conf"
  else
    echo "port $REDIS_PORT"
  fi
}

redis_start() {
  [ -z "$(pid_of redis)" ] || return 0
  mkdir -p "$redis_dir"
  # The template keeps DIR in the command line, where pid_of looks for it.
  redis_port >"$redis_dir/port.conf"
  printf '%s\n' 'bind 127.0.0.1' "include $redis_dir/port.conf" "dir $redis_dir" 'save ""' 'appendonly no' \
    'proc-title-template "{title} {listen-addr} {config-file}"' >"$redis_dir/redis.conf"
  launch redis "$redis_dir/log" redis-server "$redis_dir/redis.conf"
  if ! wait_until $start_timeout_s redis_ready || gone redis; then
    failed Redis "$redis_dir/log"
  fi
}

redis_start_on_free_port() {
  for _ in {1..5}; do
    remember REDIS_PORT "$(free_port)"
    redis_start && return
    grep -qi 'address already in use' "$redis_dir/log" || return 1
    rm -f "$redis_dir/log"
  done
  return 1
}

# --- the stack as a whole ---

check_before_up() {
  [ ! -e "$settings" ] || die "$dir holds a stack already: scripts/stack.sh $dir down"
  [ -z "$(ls -A "$dir" 2>/dev/null)" ] || die "$dir is not empty: name a new folder"
  ls "$kafka_home"/kafka_*.jar >/dev/null 2>&1 || die "Kafka is not in $kafka_home: run make setup"
  for program in java redis-server redis-cli openssl; do
    command -v $program >/dev/null || die "$program is not installed: run make setup"
  done
  # PostgreSQL's socket path has at most 107 bytes.
  [ ${#dir} -le 80 ] || die "the path $dir is too long for a socket: use a shorter one"
  mkdir -p "$dir"
  chmod 755 "$dir"
  as_postgres test -x "$dir" || die "the user postgres cannot enter $dir: use a folder under /tmp"
  if [ -n "${SLUICE_LIBDIR:-}" ]; then
    as_postgres test -r "$SLUICE_LIBDIR/sluice.so" || die "the user postgres cannot read $SLUICE_LIBDIR/sluice.so"
  fi
  [ "$(df -Pk "$dir" | awk 'NR == 2 {print $4}')" -ge 1048576 ] || die "less than 1 GB is free for $dir: make room"
}

create_database() {
  sql postgres <<SQL
CREATE DATABASE sluice;
CREATE ROLE sluice_ingester LOGIN PASSWORD '$INGESTER_PASSWORD';
SQL
}

tls_env() {
  cat <<ENV
DATABASE_URL=postgres://sluice_ingester:$INGESTER_PASSWORD@localhost:$PG_PORT/sluice
ADMIN_DATABASE_URL=postgres://postgres:$ADMIN_PASSWORD@localhost:$PG_PORT/sluice
DB_SSLMODE=verify-full
DB_SSLROOTCERT=$tls_dir/ca.crt
KAFKA_BROKERS=localhost:$KAFKA_SASL_PORT
KAFKA_SECURITY_PROTOCOL=SASL_SSL
KAFKA_SSL_CA_LOCATION=$tls_dir/ca.crt
KAFKA_SASL_MECHANISM=SCRAM-SHA-512
KAFKA_SASL_USERNAME=sluice
KAFKA_SASL_PASSWORD=$KAFKA_PASSWORD
REDIS_URL=rediss://:$REDIS_PASSWORD@localhost:$REDIS_PORT
REDIS_CA=$tls_dir/ca.crt
REDIS_CERT=$tls_dir/client.crt
REDIS_KEY=$tls_dir/client.key
ENV
}

write_env() { # FILE
  mkdir -p "$(dirname "$1")"
  if tls; then
    (umask 077 && tls_env >"$1.new")
    mv "$1.new" "$1"
    return
  fi
  (
    umask 077
    cat >"$1.new" <<ENV
DATABASE_URL=postgres://sluice_ingester:$INGESTER_PASSWORD@127.0.0.1:$PG_PORT/sluice
ADMIN_DATABASE_URL=postgres://postgres:$ADMIN_PASSWORD@127.0.0.1:$PG_PORT/sluice
KAFKA_BROKERS=127.0.0.1:$KAFKA_PORT
REDIS_URL=redis://127.0.0.1:$REDIS_PORT
ENV
    if [ "$MIGRATE" = yes ]; then
      # With an operator's login and a token the page works at once.
      cat >>"$1.new" <<ENV
OPERATOR_DATABASE_URL=postgres://sluice_operator:$OPERATOR_PASSWORD@127.0.0.1:$PG_PORT/sluice
ADMIN_TOKEN=$ADMIN_TOKEN
ENV
    fi
  )
  mv "$1.new" "$1"
}

migrate() {
  ADMIN_DATABASE_URL=postgres://postgres:$ADMIN_PASSWORD@127.0.0.1:$PG_PORT/sluice \
    "$here/../target/release/sluice" migrate >&2 || die "sluice migrate failed, see above"
  sql <<SQL
GRANT sluice_writer TO sluice_ingester;
CREATE ROLE sluice_operator LOGIN PASSWORD '$OPERATOR_PASSWORD';
GRANT sluice_admin TO sluice_operator;
SQL
}

up() {
  local env_file=$dir/env migrate=yes with_tls=no
  while [ $# -gt 0 ]; do
    case $1 in
      --env) env_file=$(realpath -m -- "${2:?}"); shift 2 ;;
      --no-migrate) migrate=no; shift ;;
      --tls) with_tls=yes; shift ;;
      *) usage ;;
    esac
  done
  check_before_up
  (umask 077 && : >"$settings")
  trap down EXIT # an incomplete stack is removed
  trap "exit 130" INT
  trap "exit 143" TERM
  cd "$dir" # the user postgres may not enter the caller's folder
  remember USER_OF_POSTGRES "$(if [ "$(id -u)" = 0 ]; then echo postgres; else id -un; fi)"
  remember ADMIN_PASSWORD "$(random_password)"
  remember INGESTER_PASSWORD "$(random_password)"
  remember OPERATOR_PASSWORD "$(random_password)"
  remember ADMIN_TOKEN "$(random_password)"
  remember KAFKA_PASSWORD "$(random_password)"
  remember REDIS_PASSWORD "$(random_password)"
  remember TLS "$with_tls"
  remember MIGRATE "$migrate"
  if tls; then tls_create; fi
  kafka_choose_ports

  # Kafka's two JVM starts take longest, so PostgreSQL and Redis start in parallel.
  (kafka_create && kafka_start_on_free_port) &
  local kafka_job=$!
  postgres_create
  postgres_start_on_free_port
  create_database
  redis_start_on_free_port
  wait "$kafka_job"
  . "$settings" # the job above may have moved Kafka to another port
  if [ $migrate = yes ]; then migrate; fi
  write_env "$env_file"
  trap - EXIT
}

down() {
  local inner
  # A test may have started a stack of its own inside DIR.
  for inner in "$dir"/*/settings; do [ ! -e "$inner" ] || "$here/stack.sh" "${inner%/*}" down; done
  trap - EXIT
  trap "" INT TERM # a second signal does not interrupt the clean-up
  # shellcheck disable=SC2046
  kill $(jobs -p) 2>/dev/null || true
  stop_service kafka TERM
  stop_service redis TERM
  postgres_stop fast
  cd /
  # A job of an interrupted `up` may still write for a moment.
  wait_until 10 rm -rf -- "$dir" 2>/dev/null || die "cannot remove $dir"
}

status() {
  local service pid all=0
  for service in postgres kafka redis; do
    pid=$(pid_of $service)
    if [ -n "$pid" ]; then echo "$service runs (pid $pid)"; else echo "$service is down"; all=1; fi
  done
  return $all
}

if [ "$command" = up ]; then
  up "$@"
  exit
fi
[ -e "$settings" ] || die "no stack in $dir"
. "$settings"
cd "$dir"
case $command in
  down) down ;;
  status) status ;;
  postgres-stop) postgres_stop "$@" ;;
  postgres-start) postgres_start ;;
  kafka-stop) stop_service kafka TERM ;;
  kafka-kill) stop_service kafka KILL ;;
  kafka-start) kafka_start ;;
  redis-stop) stop_service redis TERM ;;
  redis-start) redis_start ;;
  *) usage ;;
esac
