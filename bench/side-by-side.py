#!/usr/bin/env python3
"""Steadfast beside its peers: the same workload, the same model, the same load, in one sitting. See README.md."""

import argparse
import json
import os
import platform
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from harness import install, measure, paths, report, services
from harness.procs import Failed, as_batch
from harness.systems import ALL, measured_with, turns
from harness.systems.system import Surroundings


def say(words: str) -> None:
    print(f"side by side: {words}", file=sys.stderr, flush=True)


def numbers(text: str) -> list[int]:
    return list(dict.fromkeys(int(part) for part in text.split(",")))


def arguments() -> argparse.Namespace:
    names = [system.name for system in ALL]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--c", type=numbers, default=[1, 16, 64, 256, 1024], help="numbers of clients (1,16,64,256,1024)")
    parser.add_argument("--seconds", type=float, default=6, help="that count, at each level (6)")
    parser.add_argument("--warm-up", type=float, default=2, help="seconds before (2)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each system at each level (3)")
    parser.add_argument("--systems", default=",".join(names), help=f"some of {','.join(names)}")
    parser.add_argument("--json", type=Path, help="where the figures are written (out/DATE.json)")
    parser.add_argument("--prepare", action="store_true", help="only install and build")
    args = parser.parse_args()
    chosen = args.systems.split(",")
    if unknown := set(chosen) - set(names):
        parser.error(f"no such system: {', '.join(sorted(unknown))}")
    if args.rounds < 1:
        parser.error("at least one round")
    args.systems = [system for system in ALL if system.name in chosen]
    return args


def prepare(systems: list) -> tuple[list, dict[str, str]]:
    """The systems that are here, and why the others are not."""
    install.build()
    here, absent = [], {}
    for system in systems:
        try:
            system.install()
            here.append(system)
        except Failed as why:
            say(f"{system.title} is left out: {why}")
            absent[system.name] = str(why)
    return here, absent


def measure_all(args: argparse.Namespace, systems: list, found: services.Services):
    """All rounds of a level before the next level; a turn that failed has `failed` instead of figures."""
    homes = tempfile.TemporaryDirectory(prefix="run-", dir=paths.OUT)
    home = Path(homes.name)
    with homes, measure.model(home) as (model_url, model_pid):
        for clients in args.c:
            measured = measured_with(clients, systems)
            for system in systems:
                if system not in measured:
                    say(f"{system.title} is not measured at C = {clients}: it is up to {system.clients_max}")
            if not measured:
                continue
            for number in range(1, args.rounds + 1):
                for system in turns(measured, number):
                    named = {"system": system.name, "title": system.title, "clients": clients, "round": number}
                    own = home / f"{system.name}-{clients}-{number}-{os.getpid()}"
                    own.mkdir()
                    measure.quiet_disk()
                    around = Surroundings(home=own, model_url=model_url, services=found)
                    try:
                        # Started anew each time, with empty stores.
                        with system.start(around) as running:
                            row = measure.under_load(running, clients, args.seconds, args.warm_up, model_url, model_pid)
                            row |= {"has_stores": bool(running.stores)}
                    except Failed as why:
                        row = {"failed": str(why)}
                    shutil.rmtree(own)
                    say(f"{report.where(named)}: {in_short(row)}")
                    yield named | row


def in_short(row: dict) -> str:
    if "failed" in row:
        return f"failed: {row['failed']}"
    return f"{row['runs_per_s']:.1f} runs/s, {row['errors']} errors, {row['errors_before']} in the warm-up"


def machine() -> dict:
    named = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    cpu = named.group(1) if named else platform.machine()
    return {"cores": os.cpu_count(), "cpu": cpu, "kernel": platform.release()}


def main() -> int:
    # Told to end, it ends what it started: the exception unwinds every `with`.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    args = arguments()
    paths.OUT.mkdir(exist_ok=True)
    systems, absent = prepare(args.systems)
    if args.prepare:
        return 1 if absent else 0
    found = services.start()
    sitting = {
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine(),
        "settings": {"seconds": args.seconds, "warm_up": args.warm_up, "rounds": args.rounds, "scheduling": "SCHED_BATCH"},
        "steadfast": install.built(),
        "versions": {system.name: system.versions() for system in systems} | {"services": found.versions},
        "absent": absent,
    }
    rows, failed = [], []
    path = args.json or paths.OUT / time.strftime("%Y-%m-%d-%H%M%S.json", time.gmtime())
    # Everybody: what is started from here inherits it.
    with as_batch([os.getpid(), found.postgres_pid, found.nats_pid]):
        for turn in measure_all(args, systems, found):
            (failed if "failed" in turn else rows).append(turn)
            # Whole after each turn: a sitting that is cut short has been of some use.
            path.write_text(json.dumps(sitting | {"failed": failed, "rows": rows}, indent=1) + "\n")
    # Rounds differ in their order; what is read does not.
    names = [system.name for system in ALL]
    print(report.whole(sorted(rows, key=lambda row: (args.c.index(row["clients"]), names.index(row["system"])))))
    problems = report.problems(rows, failed, absent)
    for problem in problems:
        print(f"\n{problem}")
    say(f"written to {path}")
    return 1 if problems else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as why:
        sys.exit(f"side by side: {why}")
