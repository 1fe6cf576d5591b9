"""The run itself with nothing kept: no peer, but what the HTTP of a run costs."""

from contextlib import contextmanager

from .. import install, paths
from ..procs import Group, free_ports
from .system import LAST_WORD, TASK, Running, Surroundings, System


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
            pid = group.start("bare", [paths.BARE_AGENT, "--port", port, "--model-url", around.model_url])
            group.ready("bare", f"http://127.0.0.1:{port}/healthz")
            yield Running(
                url=f"http://127.0.0.1:{port}/runs",
                body={"input": TASK},
                expect=["event: completed\n", LAST_WORD],
                piece="event: text\n",
                processes={"bare": pid},
            )
