"""The test bed's private Postgres and NATS."""

import json
import re
import socket
import subprocess
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .paths import SERVICES
from .procs import Failed


@dataclass
class Services:
    postgres_url: str  # without a database
    nats_url: str
    psql: str
    postgres_pid: int
    nats_pid: int
    versions: dict[str, str]

    def sql(self, statement: str) -> str:
        command = [self.psql, "-qAtX", "-v", "ON_ERROR_STOP=1", f"{self.postgres_url}/postgres", "-c", statement]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise Failed(f"Postgres refused `{statement}`: {done.stderr.strip()}")
        return done.stdout.strip()

    @contextmanager
    def database(self, name: str):
        """A new database; what was written before is on the disk, so nobody pays for another's checkpoint."""
        self.sql(f"drop database if exists {name} with (force)")
        self.sql(f"create database {name}")
        self.sql("checkpoint")
        try:
            yield f"{self.postgres_url}/{name}"
        finally:
            self.sql(f"drop database if exists {name} with (force)")

    @contextmanager
    def commands(self, turn: str):
        """A turn's own prefix in NATS, as what another has left belongs to another database. The stream of its commands is
        deleted afterwards: each sets some of JetStream's storage aside, until none is left."""
        prefix = turn.replace("-", "_")
        try:
            yield prefix
        finally:
            self.delete_stream(f"{prefix.upper()}_COMMANDS")

    def delete_stream(self, name: str) -> None:
        host, port = self.nats_url.removeprefix("nats://").split(":")
        inbox = f"_INBOX.{uuid.uuid4().hex}"
        try:
            with socket.create_connection((host, int(port)), timeout=10) as connection:
                lines = connection.makefile("rwb")
                lines.write(f"CONNECT {{}}\r\nSUB {inbox} 1\r\nPUB $JS.API.STREAM.DELETE.{name} {inbox} 0\r\n\r\n".encode())
                lines.flush()
                while not (line := lines.readline()).startswith(b"MSG "):
                    if not line or line.startswith(b"-ERR"):
                        raise Failed(f"NATS was asked to delete the stream {name} and said {line!r}")
                answer = json.loads(lines.readline())
        except OSError as why:
            raise Failed(f"NATS does not answer at {self.nats_url}: {why}") from why
        # 404: there was none.
        if not answer.get("success") and answer.get("error", {}).get("code") != 404:
            raise Failed(f"NATS did not delete the stream {name}: {answer}")


def start() -> Services:
    ask("start")
    env = dict(re.findall(r"^export (\w+)=(.*)$", ask("env"), re.MULTILINE))
    run_dir = Path(re.search(r"data and logs: (.*)", ask("status")).group(1))
    nats = env["STEADFAST_NATS_SERVER"]
    services = Services(
        postgres_url=env["DATABASE_URL"].rpartition("/")[0],
        nats_url=env["NATS_URL"],
        psql=f"{env['STEADFAST_PG_BIN']}/psql",
        postgres_pid=int((run_dir / "data/postmaster.pid").read_text().split()[0]),
        nats_pid=int((run_dir / "nats.pid").read_text()),
        versions={},
    )
    services.versions = {
        "postgres": services.sql("show server_version"),
        "nats-server": subprocess.run([nats, "--version"], capture_output=True, text=True).stdout.strip(),
    }
    return services


def ask(command: str) -> str:
    done = subprocess.run([SERVICES, command], capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"tests/services.sh {command} failed: {done.stderr.strip()}")
    return done.stdout
