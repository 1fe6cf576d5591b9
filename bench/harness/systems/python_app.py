"""What the Python peers have in common: an app served by uvicorn from an environment of its own."""

from pathlib import Path

from .. import install, paths
from ..procs import Group, free_ports

# One for each core of a machine with two; more only compete with the load.
WORKERS = 2


def versions(peer: str, packages: list[str]) -> dict[str, str]:
    python = paths.python_of(peer)
    frozen = install.answer([python, "-m", "pip", "list", "--format", "freeze"]).splitlines()
    installed = dict(line.lower().split("==", 1) for line in frozen if "==" in line)
    return {"python": install.answer([python, "--version"])} | {name: installed[name] for name in packages}


def serve(group: Group, peer: str, env: dict[str, str], workers: int = WORKERS) -> tuple[int, int]:
    """The port and the process."""
    [port] = free_ports(1)
    command = [paths.python_of(peer), "-m", "uvicorn", "app:app", "--app-dir", app_dir(peer), "--port", port]
    command += ["--workers", workers, "--no-access-log"]
    pid = group.start(peer, command, env)
    group.logged(peer, "Application startup complete", workers)
    group.ready(peer, f"http://127.0.0.1:{port}/healthz")
    return port, pid


def app_dir(peer: str) -> Path:
    return paths.PEERS / peer
