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
from harness.procs import Failed
from harness.systems import ALL
from harness.systems.system import Surroundings


def say(words: str) -> None:
    print(f"side by side: {words}", file=sys.stderr, flush=True)


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def arguments() -> argparse.Namespace:
    names = [system.name for system in ALL]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--c", type=numbers, default=[1, 16, 64, 256, 1024], help="numbers of clients (1,16,64,256,1024)")
    parser.add_argument("--seconds", type=float, default=6, help="that count, at each level (6)")
    parser.add_argument("--warm-up", type=float, default=2, help="seconds before (2)")
    parser.add_argument("--systems", default=",".join(names), help=f"some of {','.join(names)}")
    parser.add_argument("--json", type=Path, help="where the figures are written (out/DATE.json)")
    parser.add_argument("--prepare", action="store_true", help="only install and build")
    args = parser.parse_args()
    chosen = args.systems.split(",")
    if unknown := set(chosen) - set(names):
        parser.error(f"no such system: {', '.join(sorted(unknown))}")
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


def measure_all(args: argparse.Namespace, systems: list, found: services.Services, absent: dict[str, str]):
    """Each level for every system, before the next level; each time the system is started anew, with empty stores."""
    home = Path(tempfile.mkdtemp(prefix="run-", dir=paths.OUT))
    with measure.model(home) as (model_url, model_pid):
        for clients in args.c:
            for system in systems:
                if system.name in absent:
                    continue
                own = home / f"{system.name}-{clients}-{os.getpid()}"
                own.mkdir()
                around = Surroundings(home=own, model_url=model_url, services=found)
                try:
                    with system.start(around) as running:
                        row = measure.under_load(running, clients, args.seconds, args.warm_up, model_url, model_pid)
                except Failed as why:
                    say(f"C = {clients}: {system.title} failed, and is left out from here on: {why}")
                    absent[system.name] = f"failed at C = {clients}: {why}"
                    continue
                shutil.rmtree(own)
                say(f"C = {clients}: {system.title}: {row['runs_per_s']:.1f} runs/s, {row['errors']} errors")
                named = {"system": system.name, "title": system.title, "has_stores": bool(running.stores)}
                yield named | row
    shutil.rmtree(home)


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
    versions = {system.name: system.versions() for system in systems} | {"services": found.versions}
    sitting = {
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine(),
        "settings": {"seconds": args.seconds, "warm_up": args.warm_up},
        "versions": versions,
    }
    rows = []
    path = args.json or paths.OUT / time.strftime("%Y-%m-%d-%H%M%S.json", time.gmtime())
    for row in measure_all(args, systems, found, absent):
        rows.append(row)
        # Whole after each row: a sitting that is cut short has been of some use.
        path.write_text(json.dumps(sitting | {"absent": absent, "rows": rows}, indent=1) + "\n")
    print(report.measured(rows))
    print()
    print(report.ratios(rows))
    for name, why in absent.items():
        print(f"\n{name} is missing: {why}")
    say(f"written to {path}")
    return 0 if not absent and all(row["completed"] and not row["errors"] for row in rows) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as why:
        sys.exit(f"side by side: {why}")
