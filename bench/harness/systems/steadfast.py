"""Steadfast, embedded and distributed."""

from contextlib import contextmanager

from .. import install, paths
from ..procs import Group, free_ports
from .system import LAST_WORD, TASK, Running, Surroundings, System

# All for one tenant: fairness between tenants is not what is measured. More than keep two cores busy with a model that
# answers at once, as a run that waits in its tenant's line is written once more; yet more would cost more memory.
SLOTS = 256
# Three roles and their servers share two cores: more threads than one each would only take turns.
ONE_THREAD = {"TOKIO_WORKER_THREADS": "1"}
AGENT = """instructions = "You look things up."
tools = ["lookup"]
"""


def configure(around: Surroundings) -> dict[str, str]:
    agents = around.home / "agents"
    agents.mkdir()
    (agents / "bench.toml").write_text(AGENT)
    (around.home / "steadfast.toml").write_text(f"[worker]\nruns_per_tenant_max = {SLOTS}\n")
    return {
        "STEADFAST_AGENTS": str(agents),
        "STEADFAST_SLOTS": str(SLOTS),
        "STEADFAST_LOG": "warn",
        "STEADFAST_MODEL": "scripted-server",
        "OPENAI_BASE_URL": around.model_url,
    }


def running(port: int, processes: dict[str, int], stores: dict[str, int]) -> Running:
    return Running(
        url=f"http://127.0.0.1:{port}/v1/runs",
        body={"input": TASK, "agent": "bench", "stream": True},
        expect=["\nevent: run.completed\n", LAST_WORD],
        piece="event: agent.message.delta\n",
        processes=processes,
        stores=stores,
    )


class Steadfast(System):
    @staticmethod
    def versions() -> dict[str, str]:
        return {
            "steadfast": f"{install.answer([paths.STEADFAST, '--version'])} (profile {paths.PROFILE})",
            "rustc": install.answer(["rustc", "--version"]),
        }


class Embedded(Steadfast):
    name = "embedded"
    title = "Steadfast embedded (SQLite)"

    @staticmethod
    @contextmanager
    def start(around: Surroundings):
        env = configure(around)
        [port] = free_ports(1)
        with Group(around.home) as group:
            command = [paths.STEADFAST, "dev", "--port", port, "--data-dir", around.home / "data"]
            pid = group.start("steadfast", command, env)
            group.ready("steadfast", f"http://127.0.0.1:{port}/readyz")
            yield running(port, {"steadfast": pid}, {})


class Distributed(Steadfast):
    name = "distributed"
    title = "Steadfast distributed (Postgres, NATS)"

    @staticmethod
    @contextmanager
    def start(around: Surroundings):
        services = around.services
        with (
            services.database("side_by_side_steadfast") as url,
            services.commands(around.home.name) as prefix,
            Group(around.home) as group,
        ):
            env = configure(around)
            env |= {"DATABASE_URL": url, "NATS_URL": services.nats_url, "STEADFAST_NATS_PREFIX": prefix}
            env |= ONE_THREAD
            group.run("migrate", [paths.STEADFAST, "migrate"], env)
            ports = dict(zip(["gateway", "worker", "projector"], free_ports(3)))
            pids = {}
            for role, port in ports.items():
                pids[role] = group.start(role, [paths.STEADFAST, role, "--port", port], env)
            for role, port in ports.items():
                group.ready(role, f"http://127.0.0.1:{port}/readyz")
            yield running(ports["gateway"], pids, {"postgres": services.postgres_pid, "nats": services.nats_pid})
