"""DBOS from PyPI, on the Postgres of the test bed: the result, or tokens from its durable streams."""

from contextlib import contextmanager

from .. import install
from ..procs import Group
from . import python_app
from .system import LAST_WORD, TASK, Running, Surroundings, System


@contextmanager
def start(around: Surroundings, path: str, expect: list[str], piece: str | None):
    with around.services.database("side_by_side_dbos") as url, Group(around.home) as group:
        env = {"DBOS_SYSTEM_DATABASE_URL": url, "OPENAI_BASE_URL": around.model_url}
        port, pid = python_app.serve(group, "dbos", env)
        yield Running(
            url=f"http://127.0.0.1:{port}{path}",
            body={"input": TASK},
            expect=expect,
            piece=piece,
            processes={"dbos": pid},
            stores={"postgres": around.services.postgres_pid},
        )


class Dbos(System):
    name = "dbos"
    title = "DBOS (Python, Postgres)"

    @staticmethod
    def install() -> None:
        install.python("dbos")

    @staticmethod
    def versions() -> dict[str, str]:
        return python_app.versions("dbos", ["dbos", "fastapi", "uvicorn", "httpx", "psycopg", "sqlalchemy"])

    @staticmethod
    def start(around: Surroundings):
        return start(around, "/runs", ['"output"', LAST_WORD], None)


class DbosStreams(Dbos):
    name = "dbos-streams"
    title = "DBOS (Python, Postgres), durable streams"
    clients_max = 256

    @staticmethod
    def start(around: Surroundings):
        return start(around, "/runs/stream", ["event: done\n", LAST_WORD], "event: token\n")
