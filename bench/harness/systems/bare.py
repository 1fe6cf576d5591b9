"""The run itself with nothing kept: no peer, but what the HTTP of a run costs."""

from contextlib import contextmanager

from .. import install, paths
from ..procs import Group, free_ports
from .steadfast import SLOTS
from .system import LAST_WORD, TASK, Running, Surroundings, System

# As Steadfast's worker gathers text (workers/src/delta.rs).
GATHER_MS = 8


class Bare(System):
    name = "bare"
    title = "Bare (axum, nothing is kept)"

    @staticmethod
    def versions() -> dict[str, str]:
        return {"axum": install.locked("axum"), "reqwest": install.locked("reqwest")}

    @staticmethod
    @contextmanager
    def start(around: Surroundings):
        [port] = free_ports(1)
        with Group(around.home) as group:
            command = [paths.BARE_AGENT, "--port", port, "--model-url", around.model_url]
            command += ["--gather-ms", GATHER_MS, "--at-once", SLOTS]
            pid = group.start("bare", command)
            group.ready("bare", f"http://127.0.0.1:{port}/healthz")
            yield Running(
                url=f"http://127.0.0.1:{port}/runs",
                body={"input": TASK},
                expect=["event: completed\n", LAST_WORD],
                piece="event: text\n",
                processes={"bare": pid},
            )
