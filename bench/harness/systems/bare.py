"""The run itself with nothing kept, or with its events kept and nothing else: no peers, but what the least costs that a
service can do which makes the run's requests, and then keeps what has happened."""

from contextlib import contextmanager

from .. import install, paths
from ..procs import Group, free_ports
from .steadfast import ONE_THREAD, SLOTS
from .system import LAST_WORD, TASK, Running, Surroundings, System

# As Steadfast's worker gathers text (workers/src/delta.rs).
GATHER_MS = 8


def command(around: Surroundings, port: int, *more: object) -> list:
    limits = ["--gather-ms", GATHER_MS, "--at-once", SLOTS]
    return [paths.BARE_AGENT, "--port", port, "--model-url", around.model_url, *limits, *more]


@contextmanager
def start(around: Surroundings, keep: list, stores: dict[str, int]):
    [port] = free_ports(1)
    with Group(around.home) as group:
        pid = group.start("bare", command(around, port, *keep))
        group.ready("bare", f"http://127.0.0.1:{port}/healthz")
        yield running(port, {"bare": pid}, stores)


def running(port: int, processes: dict[str, int], stores: dict[str, int]) -> Running:
    return Running(
        url=f"http://127.0.0.1:{port}/runs",
        body={"input": TASK},
        expect=["event: completed\n", LAST_WORD],
        piece="event: text\n",
        processes=processes,
        stores=stores,
    )


class Bare(System):
    name = "bare"
    title = "Bare (axum, nothing is kept)"

    @staticmethod
    def versions() -> dict[str, str]:
        return {"axum": install.locked("axum"), "reqwest": install.locked("reqwest")}

    @staticmethod
    def start(around: Surroundings):
        return start(around, [], {})


class KeptOnSqlite(Bare):
    name = "kept-sqlite"
    title = "Bare, its events kept on SQLite"

    @staticmethod
    def versions() -> dict[str, str]:
        return Bare.versions() | {"rusqlite": install.locked("rusqlite")}

    @staticmethod
    def start(around: Surroundings):
        return start(around, ["--keep", around.home / "kept.db"], {})


class KeptOnPostgres(Bare):
    name = "kept-postgres"
    title = "Bare, its events kept on Postgres"

    @staticmethod
    def versions() -> dict[str, str]:
        return Bare.versions() | {"sqlx": install.locked("sqlx")}

    @staticmethod
    @contextmanager
    def start(around: Surroundings):
        services = around.services
        with services.database("side_by_side_kept") as url:
            with start(around, ["--keep", url], {"postgres": services.postgres_pid}) as running:
                yield running


class KeptShared(Bare):
    name = "kept-shared"
    title = "Bare, its events kept on Postgres, two processes over NATS"

    @staticmethod
    def versions() -> dict[str, str]:
        return KeptOnPostgres.versions() | {"async-nats": install.locked("async-nats")}

    @staticmethod
    @contextmanager
    def start(around: Surroundings):
        services = around.services
        with (
            services.database("side_by_side_kept") as url,
            services.commands(around.home.name) as prefix,
            Group(around.home) as group,
        ):
            [gateway, worker] = free_ports(2)
            # In capitals, as Steadfast names its stream.
            parts = ["--keep", url, "--nats", services.nats_url, "--prefix", prefix.upper()]
            pids = {}
            for role, port in [("gateway", gateway), ("worker", worker)]:
                pids[role] = group.start(role, command(around, port, "--role", role, *parts), ONE_THREAD)
                group.ready(role, f"http://127.0.0.1:{port}/healthz")
            yield running(gateway, pids, {"postgres": services.postgres_pid, "nats": services.nats_pid})
