"""Where things are."""

import os
from pathlib import Path

BENCH = Path(__file__).resolve().parent.parent
REPO = BENCH.parent
PEERS = BENCH / "peers"
# On the disk of the repository, where Postgres has its data too: every system pays for the same one.
OUT = BENCH / "out"

# `guided` (deploy/guided.sh) takes the longest to build, `release` the shortest; `dist` is between them.
PROFILE = os.environ.get("STEADFAST_PROFILE", "guided")
GUIDED = REPO / "deploy/guided.sh"
STEADFAST = REPO / "target" / PROFILE / "steadfast"
MODEL = REPO / "target/release/scripted-model"
LOAD = BENCH / "target/release/load"
BARE_AGENT = BENCH / "target/release/bare-agent"
DBOS_AGENT = BENCH / "target/release/dbos-agent"
RESTATE_AGENT = BENCH / "target/release/restate-agent"
AGENTPLANE = PEERS / "agentplane"
AGENTPLANE_AGENT = AGENTPLANE / "target/release/agentplane-agent"
RESTATE_SERVER = PEERS / "restate/node_modules/.bin/restate-server"
SERVICES = REPO / "tests/services.sh"


def python_of(peer: str) -> Path:
    return PEERS / peer / ".venv/bin/python"
