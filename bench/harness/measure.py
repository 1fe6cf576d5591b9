"""One measurement: one system, freshly started, under one number of clients."""

import json
import os
import subprocess
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from . import paths
from .procs import Failed, Group, free_ports, trees
from .systems.system import Running


@contextmanager
def model(home: Path):
    """The scripted model: its URL up to and with /v1, and its process."""
    [port] = free_ports(1)
    with Group(home) as group:
        pid = group.start("model", [paths.MODEL, "--port", port])
        group.ready("model", f"http://127.0.0.1:{port}/v1/models")
        yield f"http://127.0.0.1:{port}/v1", pid


def quiet_disk(still: float = 0.5, at_most: float = 15) -> None:
    """Waits until the disk has had nothing to write or to discard for `still` seconds: a file system that discards blocks
    does so some time after the files are gone, and the turn before would be measured in this one."""
    os.sync()
    end, written, since = time.monotonic() + at_most, disk_writes(), time.monotonic()
    while time.monotonic() < min(since + still, end):
        time.sleep(0.05)
        if written != (now := disk_writes()):
            written, since = now, time.monotonic()


def disk_writes() -> list[list[str]]:
    """Writes and discards of each device so far, and what is under way: https://docs.kernel.org/admin-guide/iostats.html."""
    devices = [line.split()[2:] for line in Path("/proc/diskstats").read_text().splitlines()]
    return [[device[0], *device[5:8], *device[9:10], *device[12:15]] for device in devices]


def under_load(system: Running, clients: int, seconds: float, warm_up: float, model_url: str, model_pid: int) -> dict:
    command = [str(paths.LOAD), "--url", system.url, "--body", json.dumps(system.body), "--clients", str(clients)]
    command += ["--seconds", str(seconds), "--warm-up", str(warm_up)]
    for part in system.expect:
        command += ["--expect", part]
    if system.piece:
        command += ["--piece", system.piece]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as load:
        try:
            roots = system.processes | system.stores | {"model": model_pid, "load": load.pid}
            expect(load, "measuring")
            before, calls_before = trees(roots), model_calls(model_url)
            expect(load, "measured")
            after, calls_after = trees(roots), model_calls(model_url)
            told = load.stdout.readline()
            if not told:
                raise Failed(f"the load generator failed: {load.stderr.read().strip()}")
        finally:
            load.terminate()
    result = json.loads(told)
    runs = result["completed"]
    if not runs:
        raise Failed(f"no run came to a good end within the window; errors: {result['error_kinds']}")
    if system.piece and not result["pieces_per_run"]:
        raise Failed("nothing was streamed")
    cpu = {name: (after[name][0] - before[name][0]) * 1000 / runs for name in roots}
    return result | {
        "cpu_ms_per_run": cpu,
        "rss_mib": {name: after[name][1] for name in roots},
        "system_cpu_ms": sum(cpu[name] for name in system.processes),
        "stores_cpu_ms": sum(cpu[name] for name in system.stores),
        "system_rss_mib": sum(after[name][1] for name in system.processes),
        # Two, unless somebody skips or repeats calls; runs under way at both ends of the window make it a little off.
        "model_calls_per_run": (calls_after - calls_before) / runs,
    }


def expect(load: subprocess.Popen, word: str) -> None:
    line = load.stdout.readline().strip()
    if line != word:
        raise Failed(f"the load generator failed before it was {word}: {load.stderr.read().strip()}")


def model_calls(model_url: str) -> int:
    with urllib.request.urlopen(model_url.removesuffix("/v1") + "/stats", timeout=10) as answer:
        return json.load(answer)["requests"]
