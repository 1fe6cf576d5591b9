"""The LangGraph server from PyPI: the one that keeps everything in memory, for development."""

import json
from contextlib import contextmanager

from .. import install, paths
from ..procs import Group, free_ports
from . import python_app
from .system import LAST_WORD, TASK, Running, Surroundings, System

# What its help calls the default. Left out, it is one.
JOBS = 10


class LangGraphServer(System):
    name = "langgraph-server"
    title = "LangGraph server (in memory)"

    @staticmethod
    def install() -> None:
        install.python("langgraph-server")

    @staticmethod
    def versions() -> dict[str, str]:
        packages = ["langgraph-cli", "langgraph-api", "langgraph-runtime-inmem", "langgraph", "langchain", "langchain-openai"]
        return python_app.versions("langgraph-server", [*packages, "openai", "uvicorn"])

    @staticmethod
    @contextmanager
    def start(around: Surroundings):
        # It looks for the graph from where it is started.
        graph = python_app.app_dir("langgraph-server") / "graph.py"
        config = {"dependencies": [str(python_app.app_dir("langgraph"))], "graphs": {"agent": f"{graph}:graph"}}
        (around.home / "langgraph.json").write_text(json.dumps(config))
        env = {
            "OPENAI_BASE_URL": around.model_url,
            "LOG_LEVEL": "warning",
            # It tells nobody of what it does, and asks nobody for a newer version.
            "LANGSMITH_TRACING": "false",
            "LANGGRAPH_CLI_NO_ANALYTICS": "1",
            "LANGGRAPH_NO_VERSION_CHECK": "true",
        }
        [port] = free_ports(1)
        with Group(around.home) as group:
            command = [paths.python_of("langgraph-server").with_name("langgraph"), "dev", "--port", port]
            command += ["--no-reload", "--no-browser", "--server-log-level", "warning", "--n-jobs-per-worker", JOBS]
            pid = group.start("langgraph", command, env)
            group.ready("langgraph", f"http://127.0.0.1:{port}/ok")
            messages = [{"role": "user", "content": TASK}]
            yield Running(
                # Of no thread: it makes one for each run, and deletes it afterwards.
                url=f"http://127.0.0.1:{port}/runs/stream",
                body={"assistant_id": "agent", "input": {"messages": messages}, "stream_mode": "messages-tuple"},
                expect=[LAST_WORD],
                piece="event: messages\r\n",
                processes={"langgraph": pid},
            )
