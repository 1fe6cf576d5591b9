"""What was measured, in tables (Markdown, so that they can be pasted)."""

import statistics

from .figures import CPU, P50, P99, RSS, RUNS, Ratio, compared

OURS = ["distributed", "embedded"]
PEERS = [
    "restate", "temporal", "dbos-rust", "agentplane", "agentplane-redb", "dbos", "dbos-streams", "langgraph", "langgraph-server"
]


def whole(rows: list[dict]) -> str:
    """`rows` in the order in which they are to be shown."""
    systems = titles(rows)
    several = rounds(rows) > 1
    parts = [f"Medians of {rounds(rows)} rounds:" if several else "One round:", measured(rows)]
    if systems.keys() - set(OURS):
        how = ", the mean of the rounds and its 95 % interval; ≈: it holds 1, no difference is shown" if several else ""
        for ours in (name for name in OURS if name in systems):
            parts += [f"Peer ÷ {systems[ours]}{how}:", ratios(rows, ours)]
    if systems.keys() & set(OURS) and systems.keys() & set(PEERS):
        parts += [f"Where Steadfast is not {'shown ' if several else ''}ahead, by C:", not_ahead(rows)]
    return "\n\n".join(parts)


def measured(rows: list[dict]) -> str:
    headings = ["C", "system", "runs/s", "p50 ms", "p99 ms", "CPU ms a run: system", "its stores", "RSS MiB"]
    cells = []
    for (clients, _), turns in grouped(rows).items():
        def median(name: str) -> float | None:
            known = [row[name] for row in turns if row[name] is not None]
            return statistics.median(known) if known else None
        stores = number(median("stores_cpu_ms")) if turns[0]["has_stores"] else "–"
        errors = sum(row["errors"] + row["errors_before"] for row in turns)
        cells.append(
            [f"{clients:,}", turns[0]["title"], *(number(median(name)) for name in ["runs_per_s", "p50_ms", "p99_ms"])]
            + [number(median("system_cpu_ms")), stores, f"{median('system_rss_mib'):.0f}", str(errors), str(len(turns))]
        )
    return table([*headings, "errors", "rounds"], cells)


def ratios(rows: list[dict], ours: str) -> str:
    """Each peer's figures, and Bare's, divided by those of one of our modes at the same number of clients."""
    turns = grouped(rows)
    figures = [RUNS, P50, P99, CPU, RSS]
    cells = []
    for (clients, system), theirs in turns.items():
        if system not in OURS:
            own = turns.get((clients, ours), [])
            found = [shown(compared(theirs, own, figure)) for figure in figures]
            cells.append([f"{clients:,}", theirs[0]["title"], *found])
    return table(["C", "peer", *(figure.name for figure in figures)], cells)


def not_ahead(rows: list[dict]) -> str:
    """For each of our modes and each peer, the numbers of clients at which we are level or behind."""
    turns = grouped(rows)
    named = titles(rows)
    figures = [RUNS, CPU, P50, P99]
    cells = []
    for ours in (name for name in OURS if name in named):
        for peer in (name for name in PEERS if name in named):
            row = [named[ours], named[peer]]
            for figure in figures:
                found = []
                for clients in dict.fromkeys(clients for clients, _ in turns):
                    ratio = compared(turns.get((clients, peer), []), turns.get((clients, ours), []), figure)
                    if ratio is None:
                        found.append(f"{clients:,} not measured")
                    elif ratio.low is None and rounds(rows) > 1:
                        found.append(f"{clients:,} one round only")
                    elif ratio.ours(figure) != "ahead":
                        found.append(f"{clients:,} {ratio.ours(figure)}")
                row.append(", ".join(found) or "none")
            cells.append(row)
    return table(["Steadfast", "beside", *(figure.name for figure in figures)], cells)


def problems(rows: list[dict], failed: list[dict], absent: dict[str, str]) -> list[str]:
    """All that makes this less than a whole sitting without errors."""
    found = [f"{name} is missing: {why}" for name, why in absent.items()]
    for turn in failed:
        # The ends of logs that follow were said when it failed, and are in the JSON.
        found.append(f"{where(turn)}: no figures: {turn['failed'].splitlines()[0]}")
    for row in rows:
        if row["errors"] or row["errors_before"]:
            kinds = "; ".join(f"{often} × {kind}" for kind, often in row["error_kinds"].items())
            found.append(f"{where(row)}: {row['errors']} errors, and {row['errors_before']} in the warm-up: {kinds}")
    return found


def where(turn: dict) -> str:
    return f"{turn['title']}, C = {turn['clients']:,}, round {turn['round']}"


def grouped(rows: list[dict]) -> dict[tuple[int, str], list[dict]]:
    """The rounds of each level and system."""
    found: dict[tuple[int, str], list[dict]] = {}
    for row in rows:
        found.setdefault((row["clients"], row["system"]), []).append(row)
    return found


def rounds(rows: list[dict]) -> int:
    return max((row["round"] for row in rows), default=0)


def titles(rows: list[dict]) -> dict[str, str]:
    return {row["system"]: row["title"] for row in rows}


def shown(ratio: Ratio | None) -> str:
    if ratio is None:
        return "–"
    if ratio.low is None:
        return f"{number(ratio.mean)}×"
    return f"{'≈ ' if ratio.level else ''}{number(ratio.mean)}× ({number(ratio.low)}–{number(ratio.high)})"


def number(value: float | None) -> str:
    if value is None:
        return "–"
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 0.1 else 3
    return f"{value:,.{digits}f}"


def table(headings: list[str], rows: list[list[str]]) -> str:
    widths = [max(len(cells[i]) for cells in [headings, *rows]) for i in range(len(headings))]
    def line(cells):
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths)) + " |"
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([line(headings), rule, *map(line, rows)])
