"""What the bench wants to know of a system."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from ..services import Services

TASK = "look something up"
# The scripted model's answer ends with this word; whoever does not pass it on has lost the answer.
LAST_WORD = "done."


@dataclass
class Surroundings:
    """What every system is started with."""

    home: Path  # an empty directory
    model_url: str
    services: Services


@dataclass
class Running:
    """A system that is ready for tasks."""

    url: str
    body: object
    # Parts of every good answer.
    expect: list[str]
    # What begins each piece of a streamed answer.
    piece: str | None
    # Name and root process: the system itself, and the servers it keeps its state in.
    processes: dict[str, int]
    stores: dict[str, int] = field(default_factory=dict)


class System:
    name: str
    title: str
    # With more it is not measured: the load generator waits no longer than 90 s for an answer.
    clients_max: int | None = None

    @staticmethod
    def install() -> None:
        """Brings what is missing; `Failed` says why the system cannot be had."""

    @staticmethod
    def versions() -> dict[str, str]:
        raise NotImplementedError

    @staticmethod
    def start(around: Surroundings) -> AbstractContextManager[Running]:
        raise NotImplementedError
