"""What was measured, in tables (Markdown, so that they can be pasted)."""

OURS = ["distributed", "embedded"]


def total_cpu(row: dict) -> float:
    return row["system_cpu_ms"] + row["stores_cpu_ms"]


def number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(headings: list[str], rows: list[list[str]]) -> str:
    widths = [max(len(cells[i]) for cells in [headings, *rows]) for i in range(len(headings))]
    def line(cells):
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths)) + " |"
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([line(headings), rule, *map(line, rows)])


def measured(rows: list[dict]) -> str:
    headings = ["C", "system", "runs/s", "p50 ms", "p99 ms", "CPU ms a run: system", "its stores", "RSS MiB", "errors"]
    cells = []
    for row in rows:
        stores = number(row["stores_cpu_ms"]) if row["has_stores"] else "–"
        cells.append(
            [str(row["clients"]), row["title"], *map(number, [row["runs_per_s"], row["p50_ms"], row["p99_ms"]])]
            + [number(row["system_cpu_ms"]), stores, f"{row['system_rss_mib']:.0f}", str(row["errors"])]
        )
    return table(headings, cells)


def ratios(rows: list[dict]) -> str:
    """Each peer's figure divided by Steadfast's at the same number of clients: distributed / embedded."""
    ours = {(row["system"], row["clients"]): row for row in rows if row["system"] in OURS}
    figures = [
        ("runs/s", lambda row: row["runs_per_s"]),
        ("p50", lambda row: row["p50_ms"]),
        ("p99", lambda row: row["p99_ms"]),
        ("CPU a run", total_cpu),
        ("RSS", lambda row: row["system_rss_mib"]),
    ]
    cells = []
    for row in rows:
        if row["system"] in OURS:
            continue
        against = [ours.get((name, row["clients"])) for name in OURS]
        both = [" / ".join(ratio(of(row), other and of(other)) for other in against) for _, of in figures]
        cells.append([str(row["clients"]), row["title"], *both])
    return table(["C", "peer ÷ Steadfast (distributed / embedded)", *(name for name, _ in figures)], cells)


def ratio(peer: float | None, ours: float | None) -> str:
    return f"{number(peer / ours)}×" if peer is not None and ours else "–"
