"""Reports from the sums: the SQL that reads them and the rows that are made of it. Pure; `queries.py` runs it.

Every report is one statement, so that it sees one moment of the ledger: the sums of whole days, of the hours at the edges, and less the
hours that belong to another day of the reader's time zone. It reads the smallest slice that has all columns which are grouped or
filtered by. Values are always parameters; the words of SQL that vary come from this module's tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import add, itemgetter, sub
from typing import Any, NamedTuple

import orjson

from proxy.core.money import nusd_to_usd
from proxy.storage.extras import PPM
from proxy.storage.histogram import percentiles
from proxy.storage.hours import Pieces, Range
from proxy.storage.sums import DIMENSIONS, SLICES, SUMS

Record = dict[str, Any]
Histogram = tuple[str, str]  # what counts, and what of it does not

COLUMNS = {
    "provider": "provider", "model": "upstream_model", "chain": "chain", "client": "client", "department": "department",
    "agent": "agent", "task": "task", "key": "key",
}  # fmt: skip
"""A group or filter -> its column."""
TIMES = ("hour", "day", "month")
GROUPS = (*COLUMNS, "month", "day", "hour")
FILTERS = ("provider", "model", "chain", "client", "department", "agent", "task", "key")
SHARES = (0.5, 0.95, 0.99)
WHOLE = SLICES.index(DIMENSIONS)
_BY_SIZE = sorted(range(len(SLICES)), key=lambda number: len(SLICES[number]))
_SERIES_SUMS = (
    "requests", "requests_ok", "requests_failed", "requests_interrupted", "requests_failed_over", "cost_nusd", "input_tokens",
    "output_tokens",
)  # fmt: skip
_SAME_NAMES = (
    "attempts", "attempts_ok", "input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens",
    "input_audio_tokens", "output_audio_tokens", "at_risk_tokens",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Question:
    """`columns` are grouped by, `filters` are column -> value, `sums` are added up; with `histograms` those are, too."""

    pieces: Pieces
    columns: tuple[str, ...]
    filters: Mapping[str, str]
    sums: tuple[str, ...] = SUMS
    histograms: bool = False


class Answer(NamedTuple):
    """What one group came to."""

    label: int
    group: tuple[str, ...]
    sums: list[int]
    durations: Histogram | None
    first_token_times: Histogram | None


def column_filters(filters: Mapping[str, str | None]) -> dict[str, str]:
    """By the names of the API; None is no filter. Raises KeyError for one that is none."""
    return {COLUMNS[name]: value for name, value in filters.items() if value is not None}


def slice_of(columns: Sequence[str]) -> int:
    """The smallest that has them all."""
    return next(number for number in _BY_SIZE if set(columns) <= set(SLICES[number]))


def statement(question: Question) -> tuple[str, Record]:
    """SQL and its values; of each row the first column is 1 or -1, then the label's number, the groups, the sums, the histograms."""
    pieces = question.pieces
    number = slice_of((*question.columns, *question.filters))
    values: Record = {f"f_{column}": value for column, value in question.filters.items()}
    withs, arms = [], []
    for name, sign, table, unit, ranges in (
        ("days", 1, "daily_sums", "day", pieces.days),
        ("hours", 1, "hourly_sums", "hour", pieces.hours),
        ("less_hours", -1, "hourly_sums", "hour", pieces.less_hours),
    ):
        if ranges:
            withs.append(_ranges(name))
            arms.append(_arm(question, number, name, sign, table, unit))
            values[name] = _json(ranges)
    if pieces.days and number == WHOLE:
        arms.append(_past_arm(question))
    return f"WITH {', '.join(withs)} {' UNION ALL '.join(arms)}", values


def _json(ranges: list[Range]) -> str:
    return orjson.dumps(ranges).decode()


def _ranges(name: str) -> str:
    return (
        f"{name} (start, stop, label) AS MATERIALIZED (SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), "  # noqa: S608
        f"json_extract(value, '$[2]') FROM json_each(:{name}))"
    )


def _arm(question: Question, number: int, name: str, sign: int, table: str, unit: str) -> str:
    columns = "".join([f", t.{column}" for column in question.columns])
    tags = " CROSS JOIN usage_tags AS t ON t.id = u.tag" if question.columns else ""
    wanted = ""
    if question.filters:
        given = " AND ".join([f"{column} = :f_{column}" for column in question.filters])
        wanted = f" AND u.tag IN (SELECT id FROM usage_tags WHERE slice = {number} AND {given})"  # noqa: S608
    return (
        f"SELECT {sign}, p.label{columns}{_added_up(question)} FROM {name} AS p CROSS JOIN {table} AS u{tags} "  # noqa: S608
        f"WHERE u.slice = {number} AND u.{unit} >= p.start AND u.{unit} < p.stop{wanted} GROUP BY p.label{columns}"
    )


def _past_arm(question: Question) -> str:
    """Combinations on days that are over, each with its days together. Where all days have one label, a row for each combination is
    what SQLite makes without sorting; `merged` adds them up."""
    columns = "".join([f", t.{column}" for column in question.columns])
    given = "".join([f" AND t.{column} = :f_{column}" for column in question.filters])
    group = "t.id" if len(question.pieces.days) == 1 else f"p.label{columns}"
    return (
        f"SELECT 1, p.label{columns}{_added_up(question)} FROM usage_tags AS t NOT INDEXED CROSS JOIN days AS p "  # noqa: S608
        "CROSS JOIN past_daily_sums AS u ON u.tag = t.id AND u.day >= p.start AND u.day < p.stop "
        f"WHERE t.slice = {WHOLE}{given} GROUP BY {group}"
    )


def _added_up(question: Question) -> str:
    texts = ", group_concat(u.durations, ''), group_concat(u.first_token_times, '')" if question.histograms else ""
    return "".join([f", sum(u.{column})" for column in question.sums]) + texts


def merged(question: Question, rows: Sequence[Sequence[Any]]) -> list[Answer]:
    """One for each label and group; those that came to nothing are left out."""
    found: dict[tuple[Any, ...], Answer] = {}
    first_sum = 2 + len(question.columns)
    last_sum = first_sum + len(question.sums)
    for row in rows:
        sign, key, sums = row[0], tuple(row[1:first_sum]), list(row[first_sum:last_sum])
        durations, times = _texts(sign, row[-2], row[-1]) if question.histograms else (None, None)
        before = found.get(key)
        if before is not None or sign < 0:
            before = before or _nothing(question, key)
            sums = list(map(add if sign > 0 else sub, before.sums, sums))
            durations, times = _joined(before.durations, durations), _joined(before.first_token_times, times)
        found[key] = Answer(key[0], key[1:], sums, durations, times)
    return [answer for answer in found.values() if any(answer.sums)]


def _nothing(question: Question, key: tuple[Any, ...]) -> Answer:
    nothing = ("", "") if question.histograms else None
    return Answer(key[0], key[1:], [0] * len(question.sums), nothing, nothing)


def _texts(sign: int, durations: str, times: str) -> tuple[Histogram, Histogram]:
    return ((durations, ""), (times, "")) if sign > 0 else (("", durations), ("", times))


def _joined(one: Histogram | None, other: Histogram | None) -> Histogram | None:
    return None if one is None or other is None else (one[0] + other[0], one[1] + other[1])


def usage_rows(question: Question, answers: Sequence[Answer], group_by: Sequence[str]) -> list[Record]:
    """Dearest first, see docs/ledger.md for what each field says."""
    cost, requests = question.sums.index("cost_nusd"), question.sums.index("requests")
    ordered = sorted(answers, key=lambda a: (-a.sums[cost], -a.sums[requests], question.pieces.labels[a.label] or "", a.group))
    return [{**_groups(question, answer, group_by), **_usage(question, answer)} for answer in ordered]


def empty_row(*, histograms: bool) -> Record:
    """What nothing at all comes to."""
    question = Question(Pieces(), (), {}, histograms=histograms)
    return _usage(question, _nothing(question, (0,)))


def series_rows(question: Question, answers: Sequence[Answer], group: str | None) -> list[tuple[str, Record]]:
    """(label, row) in order of time."""
    rows = []
    labels = question.pieces.labels
    for answer in sorted(answers, key=itemgetter(0, 1)):
        requests, ok, failed, interrupted, failed_over, cost_nusd, input_tokens, output_tokens = answer.sums
        row: Record = {} if group is None else {group: answer.group[0] or None}
        row["requests"] = requests
        row["ok"] = ok
        row["failed"] = failed
        row["failed_over"] = failed_over
        row["cost_usd"] = nusd_to_usd(cost_nusd)
        row["input_tokens"] = input_tokens
        row["output_tokens"] = output_tokens
        row["success_rate"] = _success_rate(ok, failed, interrupted)
        if question.histograms:
            row.update(_percentiles(answer))
        rows.append((labels[answer.label] or "", row))
    return rows


def series_question(pieces: Pieces, columns: tuple[str, ...], filters: Mapping[str, str], *, histograms: bool) -> Question:
    return Question(pieces, columns, filters, _SERIES_SUMS, histograms)


def _groups(question: Question, answer: Answer, group_by: Sequence[str]) -> Record:
    named = dict(zip(question.columns, answer.group, strict=True))
    label = question.pieces.labels[answer.label]
    return {name: _time(name, label) if name in TIMES else named[COLUMNS[name]] or None for name in group_by}


def _time(name: str, label: str | None) -> str | None:
    """A label is the finest step that was asked for; the coarser ones are its beginning."""
    return label if label is None or name == "hour" else label[:10] if name == "day" else label[:7]


def _usage(question: Question, answer: Answer) -> Record:
    sums = dict(zip(question.sums, answer.sums, strict=True))
    requests, first_tokens = sums["requests"], sums["first_tokens"]
    record: Record = {
        "requests": requests,
        "ok": sums["requests_ok"],
        "failed": sums["requests_failed"],
        "rejected": sums["requests_rejected"],
        "interrupted": sums["requests_interrupted"],
        "client_gone": sums["requests_client_gone"],
        "failed_over": sums["requests_failed_over"],
        **{name: sums[name] for name in _SAME_NAMES},
        "attempts_failed": sums["attempts"] - sums["attempts_ok"],
        "unpriced_attempts": sums["unpriced"],
        "estimated_attempts": sums["estimated"],
        "cache_hits": sums["cache_hits"],
        "saved_usd": nusd_to_usd(sums["saved_nusd"]),
        "rated": sums["rated"],
        "cost_usd": nusd_to_usd(sums["cost_nusd"]),
        "success_rate": _success_rate(sums["requests_ok"], sums["requests_failed"], sums["requests_interrupted"]),
        "cost_per_call_usd": nusd_to_usd(round(sums["cost_nusd"] / requests)) if requests else None,
        "tokens_per_call": round((sums["input_tokens"] + sums["output_tokens"]) / requests, 1) if requests else None,
        "mean_duration_ms": round(sums["duration_us"] / requests / 1000, 3) if requests else None,
        "mean_first_token_ms": round(sums["first_token_us"] / first_tokens / 1000, 3) if first_tokens else None,
        "cache_hit_rate": round(sums["cache_hits"] / requests, 6) if requests else None,
        "mean_quality": round(sums["quality_ppm"] / sums["rated"] / PPM, 4) if sums["rated"] else None,
    }
    record.update(_percentiles(answer))
    return record


def _success_rate(ok: int, failed: int, interrupted: int) -> float | None:
    """Of the requests that it was for the proxy and its providers to answer: not those refused, nor those that the caller gave up."""
    owed = ok + failed + interrupted
    return round(ok / owed, 6) if owed else None


def _percentiles(answer: Answer) -> Record:
    if answer.durations is None or answer.first_token_times is None:
        return {}
    (durations, less), (times, less_times) = answer.durations, answer.first_token_times
    p50, p95, p99 = percentiles(durations, SHARES, less)
    first_p50, first_p95, first_p99 = percentiles(times, SHARES, less_times)
    return {
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "first_token_p50_ms": first_p50,
        "first_token_p95_ms": first_p95,
        "first_token_p99_ms": first_p99,
    }
