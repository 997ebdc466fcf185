"""Reports from the sums: the SQL that reads them and the rows that are made of it. Pure; `queries.py` runs it.

Every report is one statement, so that it sees one moment of the ledger: the sums of whole months, weeks and days, of the hours at the
edges, and less the hours that belong to another day of the reader's time zone. It reads the smallest slice that has all columns which
are grouped or filtered by. Values are always parameters; the words of SQL that vary come from this module's tables.
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
from proxy.storage.slices import DIMENSIONS, SLICES, SUMS

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
SERIES_SHARES, FIRST_TOKEN_SHARES = (0.5, 0.95), (0.95,)
WHOLE = SLICES.index(DIMENSIONS)
_BY_SIZE = sorted(range(len(SLICES)), key=lambda number: len(SLICES[number]))
_SERIES_SUMS = (
    "requests", "requests_ok", "requests_failed", "requests_interrupted", "requests_failed_over", "cost_nusd", "input_tokens",
    "output_tokens",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Question:
    """`columns` are grouped by, `filters` are column -> value, `sums` are added up; with `histograms` those are, too. `among`: only
    groups whose first column is one of these; empty: all."""

    pieces: Pieces
    columns: tuple[str, ...]
    filters: Mapping[str, str]
    sums: tuple[str, ...] = SUMS
    histograms: bool = False
    among: tuple[str, ...] = ()


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


class _Arm(NamedTuple):
    """A part of the statement: rows of one table. `added`: 1 or -1."""

    added: int
    rows: str
    group: str


def statement(question: Question) -> tuple[str, Record]:
    """SQL and its values; of each row the first column is 1 or -1, then the label's number, the groups, the sums, the histograms."""
    withs, arms, values = _arms(question)
    columns = "".join([f", t.{column}" for column in question.columns])
    texts = ", group_concat(u.durations, ''), group_concat(u.first_token_times, '')" if question.histograms else ""
    shown = f"p.label{columns}{''.join([f', sum(u.{column})' for column in question.sums])}{texts}"
    selects = [f"SELECT {arm.added}, {shown} FROM {arm.rows} GROUP BY {arm.group}" for arm in arms]  # noqa: S608
    return f"{withs} {' UNION ALL '.join(selects)}", values


def counting(question: Question, most: int) -> tuple[str, Record]:
    """SQL that says how many rows the statement goes through, `most` at most, and its values."""
    withs, arms, values = _arms(question)
    rows = " UNION ALL ".join([f"SELECT 1 FROM {arm.rows}" for arm in arms])  # noqa: S608 - this module's own words
    return f"{withs} SELECT count(*) FROM (SELECT 1 FROM ({rows}) LIMIT :most)", {**values, "most": most}  # noqa: S608


def _arms(question: Question) -> tuple[str, list[_Arm], Record]:
    """What they all share (`WITH …`), they, and the values."""
    pieces = question.pieces
    number = slice_of((*question.columns, *question.filters))
    values: Record = {f"f_{column}": value for column, value in question.filters.items()}
    if question.among:
        values["among"] = orjson.dumps(question.among).decode()
    withs, arms = [], []
    for name, added, table, unit, ranges in (
        ("months", 1, "monthly_sums", "month", pieces.months),
        ("weeks", 1, "weekly_sums", "week", pieces.weeks),
        ("days", 1, "daily_sums", "day", pieces.days),
        ("hours", 1, "hourly_sums", "hour", pieces.hours),
        ("less_hours", -1, "hourly_sums", "hour", pieces.less_hours),
    ):
        if ranges:
            withs.append(_ranges(name))
            arms.append(_arm(question, number, name, added, table, unit))
            values[name] = _json(ranges)
    if pieces.days and number == WHOLE:
        arms.append(_past_arm(question))
    return f"WITH {', '.join(withs)}", arms, values


def _json(ranges: list[Range]) -> str:
    return orjson.dumps(ranges).decode()


def _ranges(name: str) -> str:
    return (
        f"{name} (start, stop, label) AS MATERIALIZED (SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), "  # noqa: S608
        f"json_extract(value, '$[2]') FROM json_each(:{name}))"
    )


def _arm(question: Question, number: int, name: str, added: int, table: str, unit: str) -> _Arm:
    tags = " CROSS JOIN usage_tags AS t ON t.id = u.tag" if question.columns else ""
    wanted = ""
    if given := " AND ".join(_given(question)):
        wanted = f" AND u.tag IN (SELECT id FROM usage_tags WHERE slice = {number} AND {given})"  # noqa: S608
    rows = f"{name} AS p CROSS JOIN {table} AS u{tags} WHERE u.slice = {number} AND u.{unit} >= p.start AND u.{unit} < p.stop{wanted}"
    return _Arm(added, rows, _by_columns(question))


def _given(question: Question) -> list[str]:
    """What must be so of a tag."""
    given = [f"{column} = :f_{column}" for column in question.filters]
    if question.among:
        given.append(f"{question.columns[0]} IN (SELECT value FROM json_each(:among))")  # noqa: S608
    return given


def _past_arm(question: Question) -> _Arm:
    """Combinations on days that are over, each with its days together. Where all days have one label, a row for each combination is
    what SQLite makes without sorting; `merged` adds them up."""
    given = "".join([f" AND t.{each}" for each in _given(question)])
    rows = (
        "usage_tags AS t NOT INDEXED CROSS JOIN days AS p CROSS JOIN past_daily_sums AS u "
        f"ON u.tag = t.id AND u.day >= p.start AND u.day < p.stop WHERE t.slice = {WHOLE}{given}"
    )
    one_label = len({label for _, _, label in question.pieces.days}) == 1
    return _Arm(1, rows, "t.id" if one_label else _by_columns(question))


def _by_columns(question: Question) -> str:
    return ", ".join(["p.label", *[f"t.{column}" for column in question.columns]])


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


def usage_rows(
    question: Question, answers: Sequence[Answer], group_by: Sequence[str], *, limit: int | None = None, after: int = 0
) -> list[Record]:
    """Dearest first, see docs/ledger.md for what each field says. `limit`: at most so many, of those that come `after` so many."""
    cost, requests, labels = question.sums.index("cost_nusd"), question.sums.index("requests"), question.pieces.labels
    ordered = sorted(answers, key=lambda a: (-a.sums[cost], -a.sums[requests], labels[a.label] or "", a.group))
    names = [(name, None if name in TIMES else question.columns.index(COLUMNS[name])) for name in group_by]
    rows = []
    for answer in ordered[after : None if limit is None else after + limit]:
        row: Record = {}
        for name, place in names:
            row[name] = _time(name, labels[answer.label]) if place is None else answer.group[place] or None
        rows.append(_usage(row, answer))
    return rows


def empty_row(*, histograms: bool) -> Record:
    """What nothing at all comes to."""
    question = Question(Pieces(), (), {}, histograms=histograms)
    return _usage({}, _nothing(question, (0,)))


def series_rows(question: Question, answers: Sequence[Answer], group: str | None) -> list[tuple[str, Record]]:
    """(label, row) in order of time."""
    rows = []
    labels = question.pieces.labels
    for label, names, sums, durations, first_token_times in sorted(answers, key=itemgetter(0, 1)):
        requests, ok, failed, interrupted, failed_over, cost_nusd, input_tokens, output_tokens = sums
        row: Record = {} if group is None else {group: names[0] or None}
        row["requests"] = requests
        row["ok"] = ok
        row["failed"] = failed
        row["failed_over"] = failed_over
        row["input_tokens"] = input_tokens
        row["output_tokens"] = output_tokens
        row["cost_usd"] = nusd_to_usd(cost_nusd)
        row["success_rate"] = _success_rate(ok, failed, interrupted)
        if durations is not None and first_token_times is not None:
            row["p50_ms"], row["p95_ms"] = percentiles(durations[0], SERIES_SHARES, durations[1])
            (row["first_token_p95_ms"],) = percentiles(first_token_times[0], FIRST_TOKEN_SHARES, first_token_times[1])
        rows.append((labels[label] or "", row))
    return rows


def series_question(
    pieces: Pieces,
    columns: tuple[str, ...],
    filters: Mapping[str, str],
    among: Sequence[str | None] = (),
    *,
    histograms: bool,
) -> Question:
    """`among`: None is what has no name."""
    return Question(pieces, columns, filters, _SERIES_SUMS, histograms, tuple([name or "" for name in among]))


def _time(name: str, label: str | None) -> str | None:
    """A label is the finest step that was asked for; the coarser ones are its beginning."""
    return label if label is None or name == "hour" else label[:10] if name == "day" else label[:7]


def _usage(row: Record, answer: Answer) -> Record:
    """The sums are SUMS, in that order."""
    (
        requests, ok, failed, rejected, interrupted, client_gone, failed_over, duration_us, first_token_us, first_tokens,
        cache_hits, saved_nusd, rated, quality_ppm,
        attempts, attempts_ok, _, input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens,
        input_audio_tokens, output_audio_tokens, cost_nusd, at_risk_tokens, unpriced, estimated,
    ) = answer.sums  # fmt: skip
    row["requests"] = requests
    row["ok"] = ok
    row["failed"] = failed
    row["rejected"] = rejected
    row["interrupted"] = interrupted
    row["client_gone"] = client_gone
    row["failed_over"] = failed_over
    row["attempts"] = attempts
    row["attempts_ok"] = attempts_ok
    row["input_tokens"] = input_tokens
    row["cached_input_tokens"] = cached_input_tokens
    row["cache_write_tokens"] = cache_write_tokens
    row["output_tokens"] = output_tokens
    row["reasoning_tokens"] = reasoning_tokens
    row["input_audio_tokens"] = input_audio_tokens
    row["output_audio_tokens"] = output_audio_tokens
    row["at_risk_tokens"] = at_risk_tokens
    row["attempts_failed"] = attempts - attempts_ok
    row["unpriced_attempts"] = unpriced
    row["estimated_attempts"] = estimated
    row["cache_hits"] = cache_hits
    row["saved_usd"] = nusd_to_usd(saved_nusd)
    row["rated"] = rated
    row["cost_usd"] = nusd_to_usd(cost_nusd)
    row["success_rate"] = _success_rate(ok, failed, interrupted)
    row["cost_per_call_usd"] = nusd_to_usd(round(cost_nusd / requests)) if requests else None
    row["tokens_per_call"] = round((input_tokens + output_tokens) / requests, 1) if requests else None
    row["mean_duration_ms"] = round(duration_us / requests / 1000, 3) if requests else None
    row["mean_first_token_ms"] = round(first_token_us / first_tokens / 1000, 3) if first_tokens else None
    row["cache_hit_rate"] = round(cache_hits / requests, 6) if requests else None
    row["mean_quality"] = round(quality_ppm / rated / PPM, 4) if rated else None
    if answer.durations is not None and answer.first_token_times is not None:
        row["p50_ms"], row["p95_ms"], row["p99_ms"] = percentiles(answer.durations[0], SHARES, answer.durations[1])
        times, less = answer.first_token_times
        row["first_token_p50_ms"], row["first_token_p95_ms"], row["first_token_p99_ms"] = percentiles(times, SHARES, less)
    return row


def _success_rate(ok: int, failed: int, interrupted: int) -> float | None:
    """Of the requests that it was for the proxy and its providers to answer: not those refused, nor those that the caller gave up."""
    owed = ok + failed + interrupted
    return round(ok / owed, 6) if owed else None
