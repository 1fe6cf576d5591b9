#!/usr/bin/env bash
# Measures a release build: gateway, worker and projector as three processes on Postgres and NATS, a new database, and a
# model that answers at once. What is measured is Steadfast's own cost; all of it, the load included, shares this machine.
set -euo pipefail

usage() {
  cat <<TEXT
usage: tests/bench.sh [LEVELS [SECONDS]]

LEVELS are numbers of clients, such as 1,16,64 (the default); each is measured for SECONDS (10). Every run is two model
calls, one tool call in between, and an answer of 32 streamed words. Ends with \`steadfast check\` on what was written.
TEXT
}

case ${1:-} in -h | --help) usage && exit ;; esac
levels=${1:-1,16,64} seconds=${2:-10}

cd "$(dirname "${BASH_SOURCE[0]}")/.."
repo=$PWD
steadfast="$repo/target/release/steadfast"
say() { printf 'bench: %s\n' "$*"; }

say 'building in release mode'
cargo build --release --quiet --package steadfast-cli --package steadfast-tests --bins
tests/services.sh start >/dev/null
eval "$(tests/services.sh env)"

home=$(mktemp -d)
name="bench_$$"
server=${DATABASE_URL%/*}
psql=("$STEADFAST_PG_BIN/psql" -qAtX "$server/postgres")
started=()

finish() {
  if [ ${#started[@]} -gt 0 ]; then
    kill "${started[@]}" 2>/dev/null || true
    wait "${started[@]}" 2>/dev/null || true
  fi
  "${psql[@]}" -c "drop database if exists $name with (force)" || true
  rm -rf "$home"
}
trap finish EXIT

free_ports() {
  python3 -c 'import socket, sys
sockets = [socket.socket() for _ in range(int(sys.argv[1]))]
for s in sockets: s.bind(("127.0.0.1", 0))
print(*(s.getsockname()[1] for s in sockets))' "$1"
}
start() { # name, command …; its log is kept while the bench runs
  local log="$home/$1.log"
  shift
  "$@" >"$log" 2>&1 &
  started+=($!)
}
ready() { # name, URL
  local try
  for try in $(seq 100); do
    if curl -sf -o /dev/null "$2"; then return; fi
    sleep 0.1
  done
  say "$1 is not ready:" && tail -5 "$home/$1.log" && exit 1
}

read -r model_port gateway_port worker_port projector_port < <(free_ports 4)
mkdir "$home/agents"
cat >"$home/agents/bench.toml" <<'TOML'
instructions = "You look things up."
tools = ["lookup"]
TOML

"${psql[@]}" -c "create database $name"
export DATABASE_URL="$server/$name" STEADFAST_NATS_PREFIX=$name STEADFAST_AGENTS="$home/agents" STEADFAST_LOG=warn
export OPENAI_BASE_URL="http://127.0.0.1:$model_port/v1" STEADFAST_MODEL=scripted-server
cd "$home" # no steadfast.toml of anybody's
"$steadfast" migrate >/dev/null

start model "$repo/target/release/scripted-model" --port "$model_port"
start gateway "$steadfast" gateway --port "$gateway_port"
start worker "$steadfast" worker --port "$worker_port"
start projector "$steadfast" projector --port "$projector_port"
ready model "http://127.0.0.1:$model_port/v1/models"
ready gateway "http://127.0.0.1:$gateway_port/readyz"
ready worker "http://127.0.0.1:$worker_port/readyz"
ready projector "http://127.0.0.1:$projector_port/readyz"

run_dir=$("$repo/tests/services.sh" status | sed -n 's/^services: data and logs: //p')
pids="gateway=${started[1]},worker=${started[2]},projector=${started[3]},model=${started[0]}"
pids+=",postgres=$(head -1 "$run_dir/data/postmaster.pid"),nats=$(cat "$run_dir/nats.pid")"

say "$(nproc) cores; every run: two model calls, one tool call, 32 streamed words"
"$steadfast" bench --url "http://127.0.0.1:$gateway_port" --agent bench --task 'look something up' \
  --c "$levels" --seconds "$seconds" --pids "$pids"

say 'checking what was written'
kill "${started[1]}" "${started[2]}" && wait "${started[1]}" "${started[2]}" || true
"$steadfast" check --settled | head -2
