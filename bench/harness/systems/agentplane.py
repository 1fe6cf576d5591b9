"""agentplane from crates.io, on the Postgres of the test bed or with its embedded store."""

from contextlib import contextmanager

from .. import install, paths
from ..procs import Group, free_ports
from .system import LAST_WORD, TASK, Running, Surroundings, System


@contextmanager
def start(around: Surroundings, store: object, stores: dict[str, int]):
    [port] = free_ports(1)
    with Group(around.home) as group:
        command = [paths.AGENTPLANE_AGENT, "--port", port, "--model-url", around.model_url, "--store", store]
        pid = group.start("agentplane", command)
        group.ready("agentplane", f"http://127.0.0.1:{port}/healthz")
        yield Running(
            url=f"http://127.0.0.1:{port}/runs",
            body={"input": TASK},
            expect=["event: done\n", LAST_WORD],
            piece="event: token\n",
            processes={"agentplane": pid},
            stores=stores,
        )


class Agentplane(System):
    name = "agentplane"
    title = "agentplane (Rust, Postgres)"

    @staticmethod
    def install() -> None:
        install.agentplane()

    @staticmethod
    def versions() -> dict[str, str]:
        return {"agentplane (crates.io)": install.locked("agentplane", paths.AGENTPLANE)}

    @staticmethod
    @contextmanager
    def start(around: Surroundings):
        services = around.services
        with services.database("side_by_side_agentplane") as url:
            with start(around, url, {"postgres": services.postgres_pid}) as running:
                yield running


class AgentplaneOnRedb(Agentplane):
    name = "agentplane-redb"
    title = "agentplane (Rust, redb)"

    @staticmethod
    def versions() -> dict[str, str]:
        return Agentplane.versions() | {"redb": install.locked("redb", paths.AGENTPLANE)}

    @staticmethod
    def start(around: Surroundings):
        return start(around, around.home / "agentplane.redb", {})
