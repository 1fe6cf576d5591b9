"""Processes: started, waited for, stopped, and what they cost."""

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

READY_SECONDS_MAX = 60
STOP_SECONDS_MAX = 15
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Failed(Exception):
    """What is wrong, in words for the person who started the bench."""


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


@contextmanager
def as_batch(roots: list[int]):
    """Puts processes with all their threads and descendants into the scheduling class SCHED_BATCH, which what they start
    inherits, and back at the end: whoever wakes up does not push aside who is running (sched(7)). On few cores full of
    processes that wake each other for each message, pushing aside is most of what there is to schedule, and each time the
    caches are somebody else's."""
    schedule(roots, os.SCHED_BATCH)
    try:
        yield
    finally:
        schedule(roots, os.SCHED_OTHER)


def schedule(roots: list[int], policy: int) -> None:
    """Until nobody is found who is not in that class: threads start others meanwhile."""
    changed = True
    while changed:
        changed = False
        children = children_of(_stats())
        for pid in (pid for root in roots for pid in family(root, children)):
            for thread in threads(pid):
                try:
                    if os.sched_getscheduler(thread) != policy:
                        os.sched_setscheduler(thread, policy, os.sched_param(0))
                        changed = True
                except ProcessLookupError:
                    pass  # it has ended meanwhile
                except PermissionError as why:
                    raise Failed(f"the scheduling class of process {pid} cannot be set (CAP_SYS_NICE?): {why}") from why


def threads(pid: int) -> list[int]:
    try:
        return [int(thread) for thread in os.listdir(f"/proc/{pid}/task")]
    except FileNotFoundError:
        return []


class Group:
    """The processes of one system, each with a log below `home`; all end with the `with` block."""

    def __init__(self, home: Path):
        self.home = home
        self.started: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> "Group":
        return self

    def __exit__(self, *_exc) -> None:
        for process in reversed(self.started.values()):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
        end = time.monotonic() + STOP_SECONDS_MAX
        for process in self.started.values():
            try:
                process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                pass
            try:
                os.killpg(process.pid, signal.SIGKILL)  # and what it left behind
            except ProcessLookupError:
                pass
            process.wait()

    def start(self, name: str, command: list, env: dict[str, str] | None = None) -> int:
        with open(self.home / f"{name}.log", "wb") as log:
            process = subprocess.Popen(
                [str(part) for part in command],
                cwd=self.home,  # nobody's configuration lies here but what the bench puts here
                env={**os.environ, **(env or {})},
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self.started[name] = process
        return process.pid

    def run(self, name: str, command: list, env: dict[str, str] | None = None) -> None:
        """A command that comes to its end by itself."""
        self.start(name, command, env)
        process = self.started.pop(name)
        if process.wait():
            raise Failed(f"{name} exited with {process.returncode}:\n{self.end_of_log(name)}")

    def ready(self, name: str, url: str) -> None:
        end = time.monotonic() + READY_SECONDS_MAX
        while time.monotonic() < end:
            if self.started[name].poll() is not None:
                break
            try:
                with urllib.request.urlopen(url, timeout=2):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        raise Failed(f"{name} is not ready ({url} does not answer 200):\n{self.end_of_log(name)}")

    def logged(self, name: str, text: str, times: int) -> None:
        """Waits until its log has said so, so often."""
        end = time.monotonic() + READY_SECONDS_MAX
        while time.monotonic() < end and self.started[name].poll() is None:
            if (self.home / f"{name}.log").read_text(errors="replace").count(text) >= times:
                return
            time.sleep(0.1)
        raise Failed(f"{name} has not said {text!r} {times} times:\n{self.end_of_log(name)}")

    def end_of_log(self, name: str, lines: int = 15) -> str:
        return "\n".join((self.home / f"{name}.log").read_text(errors="replace").splitlines()[-lines:])


def _stats() -> dict[int, tuple[int, int, int]]:
    """Of every process: parent, ticks of CPU (its own, and of children that ended), resident pages."""
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat") as file:
                # The name is in parentheses and may hold anything.
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue  # ended meanwhile
        found[int(entry)] = (int(fields[1]), sum(map(int, fields[11:15])), int(fields[21]))
    return found


def trees(roots: dict[str, int]) -> dict[str, tuple[float, float]]:
    """CPU seconds so far and resident MiB of each process with all its descendants."""
    stats = _stats()
    children = children_of(stats)
    costs = {}
    for name, root in roots.items():
        if root not in stats:
            raise Failed(f"{name} (pid {root}) has ended in the middle of a measurement")
        of_all = [stats[pid] for pid in family(root, children)]
        ticks, pages = (sum(stat[column] for stat in of_all) for column in (1, 2))
        costs[name] = (ticks / TICKS_PER_SECOND, pages * PAGE_BYTES / 2**20)
    return costs


def children_of(stats: dict[int, tuple[int, int, int]]) -> dict[int, list[int]]:
    children: dict[int, list[int]] = {}
    for pid, (parent, _, _) in stats.items():
        children.setdefault(parent, []).append(pid)
    return children


def family(root: int, children: dict[int, list[int]]) -> list[int]:
    """The process and all its descendants."""
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found
