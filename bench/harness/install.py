"""What the bench needs: built here, or fetched by name from the package registries."""

import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

from . import paths
from .procs import Failed

OUTPUT_LINES_SHOWN = 8


def build() -> None:
    """Steadfast, the scripted model, the load generator, and the peers that are written in Rust."""
    plain = ["cargo", "build", "--profile", paths.PROFILE, "-p", "steadfast-cli", "--bin", "steadfast"]
    run("Steadfast", [paths.GUIDED] if paths.PROFILE == "guided" else plain, paths.REPO)
    model = ["cargo", "build", "--release", "-p", "steadfast-tests", "--bin", "scripted-model"]
    run("the scripted model", model, paths.REPO)
    # All at once: packages built one by one share their crates with other features, and are built again and again.
    run("the load generator and the peers in Rust", ["cargo", "build", "--release", "--locked"], paths.BENCH)


def built() -> dict:
    """Which Steadfast that was."""
    commit = answer(["git", "rev-parse", "HEAD"], paths.REPO)
    changed = answer(["git", "status", "--porcelain"], paths.REPO)
    digest = hashlib.sha256(paths.STEADFAST.read_bytes()).hexdigest()
    # Without a repository there is neither.
    return {"commit": commit or None, "dirty": bool(changed) if commit else None, "binary_sha256": digest}


def locked(package: str, workspace: Path = paths.BENCH) -> str:
    """The version of a crate that was built."""
    found = re.search(rf'name = "{package}"\nversion = "([^"]+)"', (workspace / "Cargo.lock").read_text())
    return found.group(1) if found else "unknown"


def agentplane() -> None:
    run("agentplane", ["cargo", "build", "--release", "--locked"], paths.AGENTPLANE)


def restate() -> None:
    if not paths.RESTATE_SERVER.exists():
        # The server's binary lies in a package of its own: no script needs to run.
        run("the Restate server", ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], paths.PEERS / "restate")


def python(peer: str) -> None:
    """A virtual environment with what requirements.txt names, made anew when that file has changed."""
    requirements = paths.PEERS / peer / "requirements.txt"
    venv = paths.PEERS / peer / ".venv"
    stamp = venv / "installed"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return
    shutil.rmtree(venv, ignore_errors=True)
    run(f"an environment for {peer}", [sys.executable, "-m", "venv", venv], paths.BENCH)
    run(peer, [paths.python_of(peer), "-m", "pip", "install", "--quiet", "-r", requirements], paths.BENCH)
    stamp.write_text(digest)


def run(what: str, command: list, cwd: Path) -> None:
    command = [str(part) for part in command]
    print(f"side by side: {what}: {' '.join(command)}", file=sys.stderr, flush=True)
    try:
        done = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    except FileNotFoundError as missing:
        raise Failed(f"{what} cannot be had: {missing.filename} is not installed") from missing
    if done.returncode:
        said = "\n".join(done.stdout.splitlines()[-OUTPUT_LINES_SHOWN:])
        raise Failed(f"{what} cannot be had: `{' '.join(command)}` exited with {done.returncode}:\n{said}")


def answer(command: list, cwd: Path = paths.BENCH) -> str:
    """What a program says of itself, such as its version."""
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    return done.stdout.strip()
