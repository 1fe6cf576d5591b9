"""Restate: its server from npm, the workload as a service with its Rust SDK."""

import json
import urllib.error
import urllib.request
from contextlib import contextmanager

from .. import install, paths
from ..procs import Failed, Group, free_ports
from .system import LAST_WORD, TASK, Running, Surroundings, System


class Restate(System):
    name = "restate"
    title = "Restate (Rust SDK, TCP_NODELAY)"

    @staticmethod
    def install() -> None:
        install.restate()

    @staticmethod
    def versions() -> dict[str, str]:
        server = install.answer([paths.RESTATE_SERVER, "--version"])
        return {"restate-server": server, "restate-sdk": install.locked("restate-sdk")}

    @staticmethod
    @contextmanager
    def start(around: Surroundings):
        node, ingress, admin, service = free_ports(4)
        # Its defaults are those of `--production` (which only stops it from making a cluster of its own).
        env = {
            "RESTATE_BIND_IP": "127.0.0.1",
            "RESTATE_BIND_PORT": str(node),
            "RESTATE_INGRESS__BIND_PORT": str(ingress),
            "RESTATE_ADMIN__BIND_PORT": str(admin),
            "RESTATE_LISTEN_MODE": "tcp",
            "RESTATE_LOG_FILTER": "warn",
            "RESTATE_DISABLE_TELEMETRY": "true",
        }
        with Group(around.home) as group:
            agent = [paths.RESTATE_AGENT, "--port", service, "--model-url", around.model_url]
            pids = {"service": group.start("service", agent)}
            server = [paths.RESTATE_SERVER, "--base-dir", around.home / "data", "--no-logo"]
            pids["server"] = group.start("server", server, env)
            group.ready("server", f"http://127.0.0.1:{admin}/health")
            group.ready("server", f"http://127.0.0.1:{ingress}/restate/health")
            register(f"http://127.0.0.1:{admin}/deployments", f"http://127.0.0.1:{service}")
            yield Running(
                url=f"http://127.0.0.1:{ingress}/Agent/run",
                body=TASK,
                expect=[LAST_WORD],
                piece=None,
                processes=pids,
            )


def register(deployments: str, service: str) -> None:
    body = json.dumps({"uri": service}).encode()
    request = urllib.request.Request(deployments, body, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30):
            pass
    except urllib.error.URLError as refused:
        raise Failed(f"Restate does not take the service: {refused}") from refused
