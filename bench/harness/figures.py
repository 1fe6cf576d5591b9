"""What systems are compared by, and what several rounds say of a difference between two of them."""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass

# Student's t at 97.5 %, for 1, 2, 3 … degrees of freedom. Whoever has more rounds gets an interval a little too wide.
T = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131]


@dataclass(frozen=True)
class Figure:
    name: str
    of: Callable[[dict], float | None]
    more_is_better: bool = False


RUNS = Figure("runs/s", lambda row: row["runs_per_s"], more_is_better=True)
P50 = Figure("p50", lambda row: row["p50_ms"])
P99 = Figure("p99", lambda row: row["p99_ms"])
CPU = Figure("CPU a run", lambda row: row["system_cpu_ms"] + row["stores_cpu_ms"])
RSS = Figure("RSS", lambda row: row["system_rss_mib"])


@dataclass(frozen=True)
class Ratio:
    """A mean over rounds and its 95 % interval; one round has none."""

    mean: float
    low: float | None = None
    high: float | None = None

    @property
    def level(self) -> bool:
        """No difference is shown."""
        return self.mean == 1 if self.low is None else self.low <= 1 <= self.high

    def ours(self, figure: Figure) -> str:
        """Where that leaves Steadfast, if this is a peer's figure divided by its own."""
        if self.level:
            return "level"
        return "behind" if (self.mean > 1) == figure.more_is_better else "ahead"


def mean_ratio(ratios: list[float]) -> Ratio | None:
    """Of logarithms: half and double are equally far from one."""
    if not ratios:
        return None
    logs = [math.log(ratio) for ratio in ratios]
    mean = statistics.fmean(logs)
    if len(logs) == 1:
        return Ratio(ratios[0])
    half = T[min(len(logs) - 1, len(T)) - 1] * statistics.stdev(logs) / math.sqrt(len(logs))
    return Ratio(math.exp(mean), math.exp(mean - half), math.exp(mean + half))


def compared(peer: list[dict], ours: list[dict], figure: Figure) -> Ratio | None:
    """The peer's figure divided by ours within each round that has both: what slows a whole round cancels out."""
    own = {row["round"]: figure.of(row) for row in ours}
    pairs = [(figure.of(row), own.get(row["round"])) for row in peer]
    return mean_ratio([a / b for a, b in pairs if a and b])
