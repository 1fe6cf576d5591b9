"""LangGraph from PyPI with its Postgres checkpointer, behind FastAPI."""

from contextlib import contextmanager

from .. import install, paths
from ..procs import Group
from . import python_app
from .system import LAST_WORD, TASK, Running, Surroundings, System


class LangGraph(System):
    name = "langgraph"
    title = "LangGraph (FastAPI, Postgres)"

    @staticmethod
    def install() -> None:
        install.python("langgraph")

    @staticmethod
    def versions() -> dict[str, str]:
        packages = ["langgraph", "langchain", "langchain-openai", "langgraph-checkpoint-postgres", "openai", "fastapi"]
        return python_app.versions("langgraph", [*packages, "uvicorn", "psycopg"])

    @staticmethod
    @contextmanager
    def start(around: Surroundings):
        with around.services.database("side_by_side_langgraph") as url, Group(around.home) as group:
            env = {
                "DATABASE_URL": url,
                "OPENAI_BASE_URL": around.model_url,
                # As the checkpointer's own notes ask for.
                "LANGGRAPH_STRICT_MSGPACK": "true",
                "LANGSMITH_TRACING": "false",
            }
            group.run("tables", [paths.python_of("langgraph"), python_app.app_dir("langgraph") / "app.py"], env)
            port, pid = python_app.serve(group, "langgraph", env)
            yield Running(
                url=f"http://127.0.0.1:{port}/runs",
                body={"input": TASK},
                expect=["event: done\n", LAST_WORD],
                piece="event: token\n",
                processes={"langgraph": pid},
                stores={"postgres": around.services.postgres_pid},
            )
