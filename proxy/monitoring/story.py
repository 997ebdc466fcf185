"""A request in plain words: what was asked, why its targets stood in the order that they did, what was tried and what came of it.

Told from what the ledger keeps of it and nothing else, or, of a request that was not sent, from the plan that `engine/foreseen.py` makes.
Each line is a sentence or two. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from proxy.routing.rederive import is_kept, rederive

Record = Mapping[str, Any]

_THEN = {
    "next": "the next target was asked",
    "retry": "the same target was asked again",
    "again": "that was the last, and after a pause one was tried once more",
    "continue": "the next target went on with what had been told",
    "wait": "the other attempt went on alone",
    "stop": "that ended it",
    "race": "both went on, and the first with content would win",
    "lost": "its answer was not needed any more",
    "answer": "it was given",
    "earlier": "the earlier one was better and was given",
}
_WISHES = {
    "prefer": "by {} first",
    "exclude": "without {}",
    "require": "only with {}",
    "max_cost_usd": "for at most ${}",
    "max_latency_s": "with first content within {} s",
    "priority": "with {} priority",
}
_ENDED = {
    "ok": "It was answered",
    "failed": "It failed",
    "rejected": "It was refused",
    "interrupted": "It was cut off, for the proxy stopped or died",
    "client_gone": "Its caller left",
    "running": "It runs still",
}
_PARTS = ("capability", "cost", "performance", "availability")
_SOURCES = {"recent": "as lately measured", "declared": "as configured", "mean": "on average"}


def plan_told(plan: Record) -> list[str]:
    """Of what `foresee` says."""
    lines = [_would_go(plan)]
    lines += _asked_told(plan["asked"], plan["input_tokens"], plan["output_tokens"])
    lines += targets_told(plan["trace"], plan["asked"], plan["targets"])
    lines += _options_told(plan["options"])
    if plan["refused"] is not None:
        lines.append(f"It would be refused: {plan['refused']}.")
    elif not plan["order"]:
        wait_s = plan["wait_s"]
        when = "none ever may, as the configuration stands" if wait_s is None else f"the first may be in {_ms(wait_s * 1000)}"
        lines.append(f"No target may be tried at this moment: {when}.")
    return lines


def _would_go(plan: Record) -> str:
    order = plan["order"]
    where = f"goes to {order[0]}" if order else "goes nowhere"
    behind = f", behind it {_listed(order[1:])}" if len(order) > 1 else ""
    by = f"Chain {plan['chain']}, strategy {plan['strategy']}, configuration {plan['config']}."
    return f"A request for {plan['model']} {where}{behind}. ({by})"


def story_told(row: Record) -> list[str]:
    """Of a request as the ledger has it in full."""
    lines = [_opening(row)]
    lines += _asked_told(row["asked"], None, None)
    lines += targets_told(row["trace"], row["asked"], ())
    lines += _attempts_told(row)
    lines += _cache_told(row)
    lines.append(_ending(row))
    return lines


# -- what was asked


def _opening(row: Record) -> str:
    who = row["client"] or "A caller without a name"
    tags = [f"{name} {row[name]}" for name in ("department", "agent", "task") if row[name]]
    how = "as a stream" if row["stream"] else "whole"
    chain = "which is no chain" if row["chain"] is None else f"chain {row['chain']}"
    told = f" ({', '.join(tags)})" if tags else ""
    return (
        f"{_moment(row['time'])}: {who}{told} asked for {row['model']}, {chain}, answered {how}. (Configuration {row['config']}.)"
    )


def _asked_told(asked: Record | None, input_tokens: int | None, output_tokens: int | None) -> list[str]:
    asked = asked or {}
    lines = []
    tokens, output = asked.get("tokens", input_tokens), asked.get("output", output_tokens)
    if tokens is not None or output is not None:
        lines.append(f"Reckoned with about {_number(tokens or 0)} tokens in and {_number(output or 0)} out.")
    if asked.get("needs"):
        lines.append(f"It needs {_listed(asked['needs'])}.")
    wishes = asked.get("wishes") or {}
    wished = [_WISHES[name].format(_words(value)) for name, value in wishes.items() if name in _WISHES]
    if wished:
        lines.append(f"It wishes to be answered {_listed(wished)}.")
    return lines


# -- the plan


def targets_told(trace: Sequence[Record], asked: Record | None, known: Sequence[Record]) -> list[str]:
    """A line for each target: in the order to try them, then those that were left out. `known`: what `foresee` knows of them besides."""
    plan = [entry for entry in trace if "attempt" not in entry]
    kept = [entry for entry in plan if is_kept(entry)]
    left_out = [entry for entry in plan if entry.get("skipped") is not None and not is_late(entry, plan)]
    order = {name: number for number, name in enumerate(rederive(asked, plan))}
    kept.sort(key=lambda entry: order.get(entry["target"], len(order)))
    besides = {one["target"]: one for one in known}
    lines = [f"  {n}. {entry['target']}{_why(entry, besides.get(entry['target']))}" for n, entry in enumerate(kept, 1)]
    return lines + [f"  - {entry['target']}: left out, {entry['skipped']}" for entry in left_out]


def _why(entry: Record, known: Record | None) -> str:
    by = entry.get("by")
    said = []
    if entry.get("preferred"):
        said.append("preferred by the request")
    if by is not None:
        said += _by_told(by)
    elif known is not None:
        said += _expected(known)
    if entry.get("last_resort"):
        said.append("its circuit is open, and nothing else is left")
    elif entry.get("last"):
        said.append(f"behind the others: {entry['last']}")
    if entry.get("keys_set_aside"):
        said.append(f"without the keys that are set aside: {_listed(entry['keys_set_aside'])}")
    return f": {'; '.join(said)}" if said else ""


def _by_told(by: Record) -> list[str]:
    said = []
    match by["strategy"]:
        case "score":
            parts = ", ".join(f"{name} {by[name]:g}" for name in _PARTS)
            said.append(f"{by['total']:g} of 100 ({parts})")
        case "weighted" | "sticky":
            said.append(f"weight {by['weight']:g}, drew {'never' if by['after'] is None else format(by['after'], '.3g')}")
        case "least_busy":
            limit = "" if by["limit"] is None else f" of {by['limit']}"
            said.append(f"{by['in_flight']}{limit} in flight")
        case "fastest":
            told = (
                "nobody knows how fast" if by["expected_ms"] is None else f"whole answer expected after {_ms(by['expected_ms'])}"
            )
            said.append(told + (", tried to find out" if by.get("explored") else ""))
        case "round_robin":
            said.append("in its turn")
        case _:
            pass
    return said + _expected(by)


def _expected(by: Record) -> list[str]:
    said = []
    if "expected_cost_usd" in by:
        cost = by["expected_cost_usd"]
        said.append("no price known" if cost is None else f"expected to cost ${cost}")
    if by.get("first_token_ms") is not None:
        source = _SOURCES.get(by.get("source") or by.get("first_token_from") or "", "")
        said.append(f"first content after {_ms(by['first_token_ms'])}" + (f" {source}" if source else ""))
    return said


def _options_told(options: Record) -> list[str]:
    lines = []
    if options["cache_ttl_s"] is not None:
        lines.append(f"It may be answered from the cache, where answers are kept for {_ms(options['cache_ttl_s'] * 1000)}.")
    if options["hedged"]:
        lines.append("Where the first takes longer than usual, the next is asked as well.")
    if options["quality_min"] is not None:
        lines.append(
            f"An answer that measures below {options['quality_min']:g} has the next target asked, and the better one is given."
        )
    if options["on_break"] == "continue":
        lines.append("If the stream breaks, the next target goes on with it.")
    return lines


# -- what was tried


def _attempts_told(row: Record) -> list[str]:
    notes: dict[Any, list[Record]] = {}
    lines = []
    for entry in row["trace"]:
        if "attempt" in entry:
            notes.setdefault(entry["attempt"], []).append(entry)
        elif "skipped" in entry and is_late(entry, row["trace"]):
            lines.append(f"{entry['target']} was passed over when its turn came: {entry['skipped']}.")
    return lines + [_attempt_told(attempt, notes.get(attempt["n"], []), row) for attempt in row["attempt_list"]]


def is_late(entry: Record, trace: Sequence[Record]) -> bool:
    """Whether a target that the plan had kept was passed over later."""
    return any(is_kept(other) and other["target"] == entry["target"] for other in trace)


def _attempt_told(attempt: Record, notes: Sequence[Record], row: Record) -> str:
    target = f"{attempt['provider']}/{attempt['upstream_model']}"
    begun = f"Attempt {attempt['n']}, {target}"
    raced = next((note for note in notes if note.get("hedge")), None)
    if raced is not None:
        begun += f", asked as well when the first had said nothing for {_ms(raced['after_ms'])},"
    if attempt["n"] in row["continued"]:
        begun += ", broke off,"
    what = _came_of(attempt)
    after = [_note_told(note) for note in notes if not note.get("hedge")]
    return f"{begun} {what}{'; ' if after else ''}{'; '.join(after)}."


def _came_of(attempt: Record) -> str:
    took = "" if attempt["duration_ms"] is None else f" after {_ms(attempt['duration_ms'])}"
    first = "" if attempt["first_token_ms"] is None else f" (first content after {_ms(attempt['first_token_ms'])})"
    used = ""
    if attempt["usage_source"] is not None:
        cost = "at an unknown price" if attempt["cost_usd"] is None else f"for ${attempt['cost_usd']}"
        used = f": {_number(attempt['input_tokens'])} tokens in, {_number(attempt['output_tokens'])} out, {cost}"
    elif attempt["at_risk_tokens"]:
        used = f": {_number(attempt['at_risk_tokens'])} tokens sent, and nobody knows whether they are billed"
    match attempt["outcome"]:
        case "ok":
            return f"answered{took}{first}{used}"
        case "running":
            return "runs still"
        case "client_gone":
            return f"was ended{took}, for the caller had left{used}"
        case outcome:
            status = "" if attempt["http_status"] is None else f", HTTP {attempt['http_status']}"
            message = f" ({attempt['error']})" if attempt["error"] else ""
            failed = "was cut off" if outcome == "interrupted" else "failed"
            return f"{failed}{took}{first}: {attempt['error_class'] or 'for an unknown reason'}{status}{message}{used.replace(':', ';', 1)}"


def _note_told(note: Record) -> str:
    if note.get("error") == "hedged_out":
        return "the other attempt had answered first"
    then = _THEN.get(note.get("then", ""), str(note.get("then")))
    if note.get("not_continued"):
        then += f", and nobody went on with it: {note['not_continued']}"
    if "quality" in note:
        parts = note.get("parts") or {}
        told = ", ".join(
            f"{name} {value:g}" for name, value in parts.items() if isinstance(value, int | float) and name != "total"
        )
        told = "; ".join(filter(None, (told, ", ".join(parts.get("reasons") or ()))))
        return f"it measured {note['quality']:g}{f' ({told})' if told else ''}, and {then}"
    return then


def _cache_told(row: Record) -> list[str]:
    if row["cache"] != "hit":
        return [f"The cache was told to {row['cache']}."] if row["cache"] == "refresh" else []
    cached = row["cached"] or {}
    saved = "nobody knows what that saved" if row["saved_usd"] is None else f"that saved ${row['saved_usd']}"
    of = f" to request {cached['of']}" if cached.get("of") else ""
    return [f"It was answered from the cache, with what {row['provider']}/{row['upstream_model']} had answered{of}; {saved}."]


def _ending(row: Record) -> str:
    if row["outcome"] == "running":
        return "It runs still."
    told = _ENDED.get(row["outcome"], f"It ended as {row['outcome']}")
    if row["outcome"] == "ok" and row["answered"] is not None:
        told += f" by {row['provider']}/{row['upstream_model']}"
    if row["error_code"]:
        told += f" with {row['error_code']}"
    if row["http_status"] is not None:
        told += f", HTTP {row['http_status']}"
    if row["duration_ms"] is not None:
        told += f", after {_ms(row['duration_ms'])}"
    if row["overhead_ms"] is not None:
        told += f", of which the proxy itself took {_ms(row['overhead_ms'])}"
    cost = "Nobody knows what it cost" if row["cost_usd"] is None else f"It cost ${row['cost_usd']}"
    quality = "" if row["quality"] is None else f" Its quality measured {row['quality']:g}."
    dropped = f" Parameters that were dropped: {_listed(row['dropped'])}." if row["dropped"] else ""
    return f"{told}. {cost}.{quality}{dropped}"


# -- words


def _ms(ms: float) -> str:
    if ms < 10:
        return f"{ms:.1f} ms"
    if ms < 1000:
        return f"{ms:.0f} ms"
    seconds = ms / 1000
    return f"{seconds:.3g} s" if seconds < 1000 else f"{seconds:,.0f} s"


def _number(value: int) -> str:
    return f"{value:,}"


def _moment(time: str) -> str:
    return datetime.fromisoformat(time).strftime("%Y-%m-%d %H:%M:%S UTC")


def _words(value: Any) -> str:
    return _listed(value) if isinstance(value, list) else f"{value}"


def _listed(words: Sequence[Any]) -> str:
    told = [str(word) for word in words]
    return told[0] if len(told) == 1 else f"{', '.join(told[:-1])} and {told[-1]}" if told else "nothing"
