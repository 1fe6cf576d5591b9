#!/usr/bin/env bash
# The path tests that need a real model: starts the one of tests/real-model.sh on a free port, runs them, stops it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

tests/services.sh start
eval "$(tests/services.sh env)"
cargo test --package steadfast-tests --test it --no-run # a build may take minutes: the model need not wait for it

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
tests/real-model.sh "$port" &
model=$!
trap 'kill $model 2>/dev/null; wait $model 2>/dev/null || true' EXIT

export STEADFAST_REAL_MODEL_URL="http://127.0.0.1:$port/v1"
echo "test-real-model: waiting for $STEADFAST_REAL_MODEL_URL"
for _ in $(seq 600); do
  kill -0 $model 2>/dev/null || { echo 'test-real-model: the model did not start' >&2; exit 1; }
  if curl -sf -o /dev/null "$STEADFAST_REAL_MODEL_URL/models"; then
    # One after the other: both use all the processors there are.
    cargo test --package steadfast-tests --test it -- --ignored --test-threads 1 --nocapture real_model
    exit
  fi
  sleep 0.5
done
echo 'test-real-model: the model did not answer within 5 minutes' >&2
exit 1
