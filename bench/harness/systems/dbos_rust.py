"""DBOS for Rust from crates.io, on the Postgres of the test bed."""

from contextlib import contextmanager

from .. import install, paths
from ..procs import Group, free_ports
from .system import LAST_WORD, TASK, Running, Surroundings, System


class DbosRust(System):
    name = "dbos-rust"
    title = "DBOS (Rust, Postgres)"

    @staticmethod
    def versions() -> dict[str, str]:
        return {"dbos (crates.io)": install.locked("dbos")}

    @staticmethod
    @contextmanager
    def start(around: Surroundings):
        [port] = free_ports(1)
        with around.services.database("side_by_side_dbos_rust") as url, Group(around.home) as group:
            command = [paths.DBOS_AGENT, "--port", port, "--model-url", around.model_url]
            pid = group.start("dbos", command, {"DBOS_DATABASE_URL": url})
            group.ready("dbos", f"http://127.0.0.1:{port}/healthz")
            yield Running(
                url=f"http://127.0.0.1:{port}/runs",
                body={"input": TASK},
                expect=['"output"', LAST_WORD],
                piece=None,
                processes={"dbos": pid},
                stores={"postgres": around.services.postgres_pid},
            )
