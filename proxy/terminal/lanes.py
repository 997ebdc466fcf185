"""A simulation's timeline in a terminal, drawn from its JSON: a lane for each target, and the rows in figures.

1 openai/gpt-5    ███████▆▂··▃███████    how much of an interval's requests it served
  circuit         ───────~xxxx~──────    what its circuit, its cooldowns and its latches did
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from proxy.core.redact import one_line
from proxy.terminal.marks import cell, duration, money, share, sparkline
from proxy.terminal.tables import table

LANE_CELLS = 60
MAX_ROWS = 60
MAX_CHANGES = 40
LEGEND = "x open, ~ opened or half open meanwhile, L latched, c cooling down"
_BLOCKS = "▁▂▃▄▅▆▇█"
_STYLES = {"x": "red", "~": "yellow", "L": "red", "c": "yellow"}
_NOT_OK = ("failed", "rejected", "client_gone", "interrupted")

Data = Mapping[str, Any]


def timeline(data: Data) -> Iterator[RenderableType]:
    """What `tollbridge simulate` prints. `data`: as with --json."""
    targets = _targets(data)
    yield lanes(data, targets)
    if data["changes"]:
        yield Text(f"  {LEGEND}", style="dim")
    rows = data["intervals"]
    if len(rows) <= MAX_ROWS:
        yield _figures(rows, targets)
    else:
        yield Text(f"  {len(rows)} intervals: --json has their figures, a longer interval: makes fewer", style="dim")
    if data["changes"]:
        yield _changes(data)
    totals = data["totals"]
    if totals["failovers"]:
        shown = table("failovers", "from", "to", "reason", "count", numbers=("count",))
        for each in totals["failovers"]:
            shown.add_row(*map(cell, (each["from"], each["to"], each["reason"], each["count"])))
        yield shown
    if totals["codes"]:
        shown = table("what callers were told", "code", "count", numbers=("count",))
        for code, count in totals["codes"].items():
            shown.add_row(cell(code), cell(count))
        yield shown
    if data["budgets"]:
        shown = table("budgets", "of", "name", "spent", "limit", numbers=("spent", "limit"))
        for each in data["budgets"]:
            shown.add_row(cell(each["scope"]), cell(each["name"]), money(each["spent_usd"]), money(each["limit_usd"]))
        yield shown
    yield _sum(data)


def lanes(data: Data, targets: Sequence[str]) -> Table:
    """At most LANE_CELLS cells, each for one interval or for several."""
    groups = _groups(data["intervals"])
    ends = [group[-1]["to_s"] for group in groups]
    made = table(None, "", clock(0.0) + clock(data["length_s"]).rjust(max(0, len(groups) - len(clock(0.0)))), "served", "")
    made.columns[2].justify = made.columns[3].justify = "right"
    made.columns[1].no_wrap = True
    asked = [sum(row["requests"] for row in group) for group in groups]
    total = sum(asked)
    made.add_row(Text("requests", style="dim"), Text(sparkline(asked, LANE_CELLS), style="cyan"), cell(total), Text(""))
    for number, target in enumerate(targets, 1):
        served = [sum(row["served"].get(target, 0) for row in group) for group in groups]
        count = sum(served)
        lane = Text(_shares(served, asked), style="green")
        made.add_row(f"{number} {one_line(target)}", lane, cell(count), Text(share(count / total) if total else ""))
        states = _states(data["changes"], target, ends)
        if states.strip("─"):
            made.add_row(Text("  circuit", style="dim"), _coloured(states), Text(""), Text(""))
    bad = [sum(row["outcomes"].get(name, 0) for row in group for name in _NOT_OK) for group in groups]
    if any(bad):
        lane = Text(_shares(bad, asked), style="red")
        made.add_row(Text("not answered", style="red"), lane, cell(sum(bad)), Text(share(sum(bad) / total)))
    return made


def clock(seconds: float, *, tenths: bool = False) -> str:
    """`2:05`, `1:02:05`, `2:05.3`."""
    minutes, rest = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    text = f"{rest:04.1f}" if tenths or rest % 1 else f"{rest:02.0f}"
    return f"{hours}:{minutes:02d}:{text}" if hours else f"{minutes}:{text}"


def _figures(rows: Sequence[Data], targets: Sequence[str]) -> Table:
    wide = ("requests", "answered", "failovers", "first token", "answer", "cost")
    made = table(None, "from", *wide[:2], "by", "upstream errors", *wide[2:], numbers=("from", *wide))
    numbers = {target: number for number, target in enumerate(targets, 1)}
    for row in rows:
        ok = row["outcomes"].get("ok", 0)
        by = ", ".join(f"{numbers[name]}: {share(count / ok)}" for name, count in row["served"].items())
        errors: dict[str, int] = {}
        for each in row["errors"]:
            name = f"{each['provider']} {each['error_class']}"
            errors[name] = errors.get(name, 0) + each["count"]
        made.add_row(
            clock(row["from_s"]),
            cell(row["requests"]),
            Text(share(ok / row["requests"]) if row["requests"] else "", style="" if ok == row["requests"] else "red"),
            cell(by),
            cell(", ".join(f"{count} × {name}" for name, count in errors.items())),
            cell(sum(each["count"] for each in row["failovers"]) or None),
            cell(_two(row["first_token_ms"])),
            cell(_two(row["duration_ms"])),
            money(row["cost_usd"]),
        )
    return made


def _changes(data: Data) -> Table:
    changes = data["changes"]
    left_out = len(changes) - MAX_CHANGES + data["changes_left_out"]
    made = table("circuits, cooldowns, latches", "at", "target", "", "", numbers=("at",))
    for change in changes[:MAX_CHANGES]:
        made.add_row(clock(change["at_s"], tenths=True), *map(cell, (change["target"], change["what"], change["to"])))
    if left_out > 0:
        made.add_row("", cell(f"and {left_out:,} more: --json has them"), "", "")
    return made


def _sum(data: Data) -> Text:
    totals = data["totals"]
    outcomes = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in totals["outcomes"].items())
    failovers = sum(each["count"] for each in totals["failovers"])
    parts = [
        f"{totals['requests']:,} requests: {outcomes or 'none'}",
        f"{sum(data['calls'].values()):,} upstream calls, {failovers:,} failovers",
    ]
    parts += [f"{totals[name]:,} {name}" for name in ("hedged", "continued") if totals[name]]
    text = Text("; ".join([*parts, "cost "]), style="bold")
    text.append_text(money(totals["cost_usd"]))
    if totals["unpriced"] and totals["cost_usd"] is not None:
        text.append(f" and {totals['unpriced']:,} requests without a known price")
    if data["faults"]:
        text.append(f"\nfaults of the proxy's own: {dict(data['faults'])}", style="red")
    return text


def _targets(data: Data) -> list[str]:
    """Whoever served, the busiest first, then whoever was only tried or changed."""
    names = dict.fromkeys(data["totals"]["served"])
    names |= dict.fromkeys([each["from"] for each in data["totals"]["failovers"]])
    names |= dict.fromkeys([each["target"] for each in data["changes"]])
    return list(names)


def _groups(rows: Sequence[Data]) -> list[Sequence[Data]]:
    cells = min(len(rows), LANE_CELLS)
    cuts = [len(rows) * n // cells for n in range(cells + 1)]
    return [rows[begin:end] for begin, end in pairwise(cuts)]


def _shares(parts: Sequence[int], of: Sequence[int]) -> str:
    """A cell for each: how much of the whole it is; a dot for nothing."""
    return "".join(
        "·" if not part or not whole else _BLOCKS[min(len(_BLOCKS) - 1, int(part / whole * len(_BLOCKS)))]
        for part, whole in zip(parts, of, strict=True)
    )


def _states(changes: Sequence[Data], target: str, ends: Sequence[float]) -> str:
    """A mark for each interval, by what lasts longest."""
    own = [change for change in changes if change["target"] == target]
    marks, state, begin = [], "closed", 0.0
    for end in ends:
        here = [change for change in own if begin <= change["at_s"] < end]
        circuit = [change["to"] for change in here if change["what"] == "circuit"]
        state = circuit[-1] if circuit else state
        if any(change["what"] == "latched" for change in here):
            marks.append("L")
        elif state == "open":
            marks.append("x")
        elif circuit or state == "half_open":
            marks.append("~")
        elif any(change["what"] == "cooling" for change in here):
            marks.append("c")
        else:
            marks.append("─")
        begin = end
    return "".join(marks)


def _coloured(marks: str) -> Text:
    return Text.assemble(*[(mark, _STYLES.get(mark, "dim")) for mark in marks])


def _two(times: Data) -> str | None:
    return None if times["p50"] is None else f"{duration(times['p50'])} / {duration(times['p95'])}"
