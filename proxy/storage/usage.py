"""Reports from the sums: the SQL that reads them and the rows that are made of it. Pure; `queries.py` runs it.

Every report is one statement, so that it sees one moment of the ledger: the sums of whole months, weeks and days, of the hours at the
edges, and less the hours that belong to another day of the reader's time zone; and what there was at that moment to choose these from
(`hours.Span`), for whoever asks to see whether it was chosen rightly. It reads the smallest slice that has all columns which are
grouped or filtered by. Values are always parameters; the words of SQL that vary come from this module's tables.

What is dear is not a row that SQLite passes by but one that it puts in order, or that Python makes something of. So nothing is grouped
where each row is a group already, and where groups are not made of several parts only those are handed over that are asked for.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import add, itemgetter, sub
from typing import Any, NamedTuple

import orjson

from proxy.core.money import nusd_to_usd
from proxy.storage.extras import PPM
from proxy.storage.histogram import percentiles, shorten
from proxy.storage.hours import Pieces, Range, Span
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
    groups whose first column is one of these; empty: all. `most`: only so many of the dearest are needed; None: all. `until_day`: days
    before it are over, None: not known of any."""

    pieces: Pieces
    columns: tuple[str, ...]
    filters: Mapping[str, str]
    sums: tuple[str, ...] = SUMS
    histograms: bool = False
    among: tuple[str, ...] = ()
    most: int | None = None
    until_day: int | None = None

    @property
    def slice(self) -> int:
        return slice_of((*self.columns, *self.filters))

    @property
    def is_apart(self) -> bool:
        """Whether all that there is of a group comes from the same ranges, so that nothing is put together afterwards."""
        found = self.pieces
        if found.less_hours or (found.days and self.slice == WHOLE):
            return False
        together = [ranges for ranges in (found.months, found.weeks, found.days, found.hours) if ranges]
        labels = [{label for _, _, label in ranges} for ranges in together] if len(together) > 1 else []
        return sum(map(len, labels)) == len(set().union(*labels))

    @property
    def parts(self) -> tuple[Pieces, Pieces]:
        """Of days that are over, and the rest. All is the rest where nothing is put together."""
        if self.until_day is None or self.is_apart:
            return Pieces(self.pieces.labels), self.pieces
        return self.pieces.parted(self.until_day)

    @property
    def settled(self) -> tuple[Any, ...] | None:
        """What it asks of days that are over; None: nothing."""
        over, _ = self.parts
        ranges = (over.months, over.weeks, over.days, over.hours, over.less_hours)
        if not any(ranges):
            return None
        return (self.columns, *self.filters.items(), self.sums, self.histograms, self.among, *map(tuple, ranges))


class Answer(NamedTuple):
    """What one group came to."""

    label: int
    group: tuple[str, ...]
    sums: Sequence[int]
    durations: Histogram | None
    first_token_times: Histogram | None


def column_filters(filters: Mapping[str, str | None]) -> dict[str, str]:
    """By the names of the API; None is no filter. Raises KeyError for one that is none."""
    return {COLUMNS[name]: value for name, value in filters.items() if value is not None}


def slice_of(columns: Sequence[str]) -> int:
    """The smallest that has them all."""
    return next(number for number in _BY_SIZE if set(columns) <= set(SLICES[number]))


class _Arm(NamedTuple):
    """A part of the statement: rows of one table. `added`: 1 or -1; of days that are over 2 or -2. `group` None: each row is a group of its
    own. `beside`: a table that it needs."""

    added: int
    rows: str
    group: str | None
    beside: str | None = None


def statement(question: Question, *, settled: bool = False) -> tuple[str, Record]:
    """SQL and its values; of each row the first column is 1 or -1 (what comes off), 2 or -2 of days that are over, then the label's
    number, the groups, the sums, the histograms. `settled`: it is known what came of these days."""
    withs, arms, values = _arms(question, settled=settled)
    order = ""
    if question.most is not None and question.is_apart:
        first_sum = 3 + len(question.columns)
        dearest = [f"{first_sum + question.sums.index(name)} DESC" for name in ("cost_nusd", "requests")]
        order = f" ORDER BY {', '.join([*dearest, *map(str, range(2, first_sum))])} LIMIT :most"
        values["most"] = question.most
    selects = [_select(question, arm) for arm in arms]
    if order:
        selects = [f"SELECT * FROM ({select}{order})" for select in selects]  # noqa: S608 - this module's own words
    return f"{withs} {' UNION ALL '.join(selects)}" if selects else "", values


def _select(question: Question, arm: _Arm) -> str:
    columns = [f"t.{column}" for column in question.columns]
    sums = [f"u.{column}" for column in question.sums]
    texts = ["u.durations", "u.first_token_times"] if question.histograms else []
    group = ""
    if arm.group is not None:
        sums = [f"sum({column})" for column in sums]
        texts = [f"group_concat({column}, '')" for column in texts]
        group = f" GROUP BY {arm.group}"
    return f"SELECT {arm.added}, {', '.join(['p.label', *columns, *sums, *texts])} FROM {arm.rows}{group}"  # noqa: S608


def with_span(question: Question, *, settled: bool = False) -> tuple[str, Record]:
    """As `statement`; the last row is 0 and what there is of the slice at that moment, see `span_of`."""
    sql, values = statement(question, settled=settled)
    nulls = ", NULL" * (len(question.columns) + len(question.sums) + 2 * question.histograms)
    return f"{sql}{' UNION ALL' if sql else ''} SELECT 0, {_SPAN}{nulls}", {**values, "slice": question.slice}


def span_of(row: sqlite3.Row) -> Span:
    return Span(*orjson.loads(row[1]))


_SPAN = (
    "json_array((SELECT min(day) FROM daily_sums WHERE slice = 1), (SELECT max(hour) FROM hourly_sums WHERE slice = 1), "
    "(SELECT from_day FROM summed_days WHERE slice = :slice), (SELECT until_day FROM summed_days WHERE slice = :slice), "
    "(SELECT value FROM marks WHERE name = 'past_changes'))"
)


def is_surely_few(question: Question, tags: int, most: int) -> bool:
    """Whether that many tags of its slice cannot come to more rows than `most`."""
    found = question.pieces
    every = (found.months, found.weeks, found.days, found.hours, found.less_hours)
    return tags * sum(stop - start for ranges in every for start, stop, _ in ranges) <= most


def counting_tags(question: Question, most: int) -> tuple[str, Record]:
    """SQL that says how many tags its slice has, `most` at most, and its values."""
    return _TAGS, {"slice": question.slice, "most": most}


_TAGS = "SELECT count(*) FROM (SELECT 1 FROM usage_tags WHERE slice = :slice LIMIT :most)"


def counting(question: Question, most: int) -> tuple[str, Record]:
    """SQL that says how many rows the statement goes through, `most` at most, and its values."""
    withs, arms, values = _arms(question)
    rows = " UNION ALL ".join([f"SELECT 1 FROM {arm.rows}" for arm in arms])  # noqa: S608 - this module's own words
    return f"{withs} SELECT count(*) FROM (SELECT 1 FROM ({rows}) LIMIT :most)", {**values, "most": most}  # noqa: S608


def _arms(question: Question, *, settled: bool = False) -> tuple[str, list[_Arm], Record]:
    """What they all share (`WITH …`), they, and the values."""
    number = question.slice
    values: Record = {f"f_{column}": value for column, value in question.filters.items()}
    if question.among:
        values["among"] = orjson.dumps(question.among).decode()
    withs: list[str] = []
    arms: list[_Arm] = []
    over, rest = question.parts
    for pieces, prefix, added in ((over, "past_", 2), (rest, "", 1)):
        if settled and pieces is over:
            continue
        for name, sign, table, unit, ranges in (
            ("months", added, "monthly_sums", "month", pieces.months),
            ("weeks", added, "weekly_sums", "week", pieces.weeks),
            ("days", added, "daily_sums", "day", pieces.days),
            ("hours", added, "hourly_sums", "hour", pieces.hours),
            ("less_hours", -added, "hourly_sums", "hour", pieces.less_hours),
        ):
            if ranges:
                withs.append(_ranges(prefix + name))
                alone = _are_alone(ranges) and set(SLICES[number]) == set(question.columns)
                arms.append(_arm(question, number, prefix + name, sign, table, unit, alone=alone))
                values[prefix + name] = _json(ranges)
        if pieces.days and number == WHOLE:
            arms.append(_past_arm(question, f"{prefix}days", added, pieces.days))
    withs += dict.fromkeys([arm.beside for arm in arms if arm.beside is not None])
    return f"WITH {', '.join(withs)}" if withs else "", arms, values


def _json(ranges: list[Range]) -> str:
    return orjson.dumps(ranges).decode()


def _ranges(name: str) -> str:
    return (
        f"{name} (start, stop, label) AS MATERIALIZED (SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), "  # noqa: S608
        f"json_extract(value, '$[2]') FROM json_each(:{name}))"
    )


def _are_alone(ranges: list[Range]) -> bool:
    """Whether each is of one unit and has a label to itself."""
    return all(stop - start == 1 for start, stop, _ in ranges) and len({label for _, _, label in ranges}) == len(ranges)


def _arm(question: Question, number: int, name: str, added: int, table: str, unit: str, *, alone: bool) -> _Arm:
    given = " AND ".join([f"t.{each}" for each in _given(question)])
    if alone and given:  # few tags, so each is looked up by itself
        wanted = f"SELECT * FROM usage_tags AS t WHERE t.slice = {number} AND {given}"  # noqa: S608 - this module's own words
        rows = f"{name} AS p CROSS JOIN wanted AS t CROSS JOIN {table} AS u ON u.slice = {number} AND u.{unit} = p.start AND u.tag = t.id"
        return _Arm(added, rows, None, f"wanted AS MATERIALIZED ({wanted})")
    tags = " CROSS JOIN usage_tags AS t ON t.id = u.tag" if question.columns else ""
    wanted = f" AND u.tag IN (SELECT id FROM usage_tags AS t WHERE t.slice = {number} AND {given})" if given else ""  # noqa: S608
    rows = f"{name} AS p CROSS JOIN {table} AS u{tags} WHERE u.slice = {number} AND u.{unit} >= p.start AND u.{unit} < p.stop{wanted}"
    return _Arm(added, rows, None if alone else _by_columns(question))


def _given(question: Question) -> list[str]:
    """What must be so of a tag."""
    given = [f"{column} = :f_{column}" for column in question.filters]
    if question.among:
        given.append(f"{question.columns[0]} IN (SELECT value FROM json_each(:among))")  # noqa: S608
    return given


def _past_arm(question: Question, name: str, added: int, days: list[Range]) -> _Arm:
    """Combinations on days that are over, each with its days together. Where all days have one label, a row for each combination is
    what SQLite makes without sorting; `merged` adds them up."""
    given = "".join([f" AND t.{each}" for each in _given(question)])
    rows = (
        f"usage_tags AS t NOT INDEXED CROSS JOIN {name} AS p CROSS JOIN past_daily_sums AS u "
        f"ON u.tag = t.id AND u.day >= p.start AND u.day < p.stop WHERE t.slice = {WHOLE}{given}"
    )
    one_label = len({label for _, _, label in days}) == 1
    return _Arm(added, rows, "t.id" if one_label else _by_columns(question))


def _by_columns(question: Question) -> str:
    return ", ".join(["p.label", *[f"t.{column}" for column in question.columns]])


def merged(
    question: Question, rows: Sequence[sqlite3.Row], settled: Mapping[tuple[Any, ...], Answer] | None = None
) -> list[Answer]:
    """One for each label and group; those that came to nothing are left out. `settled`: what came of the days that are over."""
    if question.is_apart:
        first_sum = 2 + len(question.columns)
        last_sum = first_sum + len(question.sums)
        if question.histograms:
            every = [Answer(row[1], row[2:first_sum], row[first_sum:last_sum], (row[-2], ""), (row[-1], "")) for row in rows]
        else:
            every = [Answer(row[1], row[2:first_sum], row[first_sum:last_sum], None, None) for row in rows]
    else:
        every = list(_together(question, rows, settled or {}).values())
    return [answer for answer in every if any(answer.sums)]


def settled(question: Question, rows: Iterable[sqlite3.Row]) -> dict[tuple[Any, ...], Answer]:
    """By the label's number and the group, ready for being added to."""
    found = _together(question, [row for row in rows if abs(row[0]) == 2], {})
    return {
        key: answer._replace(durations=_short(answer.durations), first_token_times=_short(answer.first_token_times))
        for key, answer in found.items()
    }


def _short(histogram: Histogram | None) -> Histogram | None:
    return None if histogram is None else (shorten(*histogram), "")


def _together(
    question: Question, rows: Sequence[sqlite3.Row], known: Mapping[tuple[Any, ...], Answer]
) -> dict[tuple[Any, ...], Answer]:
    found = dict(known)
    first_sum = 2 + len(question.columns)
    last_sum = first_sum + len(question.sums)
    for row in rows:
        sign, key, sums = row[0], row[1:first_sum], row[first_sum:last_sum]
        durations, times = _texts(sign, row[-2], row[-1]) if question.histograms else (None, None)
        before = found.get(key)
        if before is not None or sign < 0:
            before = before or _nothing(question, key)
            sums = tuple(map(add if sign > 0 else sub, before.sums, sums))
            durations, times = _joined(before.durations, durations), _joined(before.first_token_times, times)
        found[key] = Answer(key[0], key[1:], sums, durations, times)
    return found


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
    return [
        _usage({name: _time(name, labels[a.label]) if place is None else a.group[place] or None for name, place in names}, a)
        for a in ordered[after : None if limit is None else after + limit]
    ]


def empty_row(*, histograms: bool) -> Record:
    """What nothing at all comes to."""
    question = Question(Pieces(), (), {}, histograms=histograms)
    return _usage({}, _nothing(question, (0,)))


def series_rows(question: Question, answers: Sequence[Answer], group: str | None, times: Sequence[str]) -> list[Record]:
    """In order of time. `times`: what is told of each label."""
    rows = []
    for label, names, sums, durations, first_token_times in sorted(answers, key=itemgetter(0, 1)):
        requests, ok, failed, interrupted, failed_over, cost_nusd, input_tokens, output_tokens = sums
        row: Record = {"time": times[label]} if group is None else {"time": times[label], group: names[0] or None}
        row |= {
            "requests": requests,
            "ok": ok,
            "failed": failed,
            "failed_over": failed_over,
            "input_tokens": input_tokens,
            "output_tokens": output_tokens,
            "cost_usd": nusd_to_usd(cost_nusd),
            "success_rate": _success_rate(ok, failed, interrupted),
        }
        if durations is not None and first_token_times is not None:
            row["p50_ms"], row["p95_ms"] = percentiles(durations[0], SERIES_SHARES, durations[1])
            (row["first_token_p95_ms"],) = percentiles(first_token_times[0], FIRST_TOKEN_SHARES, first_token_times[1])
        rows.append(row)
    return rows


def series_question(
    pieces: Pieces,
    columns: tuple[str, ...],
    filters: Mapping[str, str],
    among: Sequence[str | None] = (),
    *,
    histograms: bool,
    until_day: int | None = None,
) -> Question:
    """`among`: None is what has no name."""
    wished = tuple([name or "" for name in among])
    return Question(pieces, columns, filters, _SERIES_SUMS, histograms, wished, until_day=until_day)


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
    row |= {
        "requests": requests,
        "ok": ok,
        "failed": failed,
        "rejected": rejected,
        "interrupted": interrupted,
        "client_gone": client_gone,
        "failed_over": failed_over,
        "attempts": attempts,
        "attempts_ok": attempts_ok,
        "input_tokens": input_tokens,
        "cached_input_tokens": cached_input_tokens,
        "cache_write_tokens": cache_write_tokens,
        "output_tokens": output_tokens,
        "reasoning_tokens": reasoning_tokens,
        "input_audio_tokens": input_audio_tokens,
        "output_audio_tokens": output_audio_tokens,
        "at_risk_tokens": at_risk_tokens,
        "attempts_failed": attempts - attempts_ok,
        "unpriced_attempts": unpriced,
        "estimated_attempts": estimated,
        "cache_hits": cache_hits,
        "saved_usd": nusd_to_usd(saved_nusd),
        "rated": rated,
        "cost_usd": nusd_to_usd(cost_nusd),
        "success_rate": _success_rate(ok, failed, interrupted),
        "error_rate": _error_rate(ok, failed, interrupted),
        "cost_per_call_usd": nusd_to_usd(round(cost_nusd / requests)) if requests else None,
        "tokens_per_call": round((input_tokens + output_tokens) / requests, 1) if requests else None,
        "mean_duration_ms": round(duration_us / requests / 1000, 3) if requests else None,
        "mean_first_token_ms": round(first_token_us / first_tokens / 1000, 3) if first_tokens else None,
        "cache_hit_rate": round(cache_hits / requests, 6) if requests else None,
        "mean_quality": round(quality_ppm / rated / PPM, 4) if rated else None,
    }
    if answer.durations is not None and answer.first_token_times is not None:
        row["p50_ms"], row["p95_ms"], row["p99_ms"] = percentiles(answer.durations[0], SHARES, answer.durations[1])
        times, less = answer.first_token_times
        row["first_token_p50_ms"], row["first_token_p95_ms"], row["first_token_p99_ms"] = percentiles(times, SHARES, less)
    return row


def _success_rate(ok: int, failed: int, interrupted: int) -> float | None:
    """Of the requests that it was for the proxy and its providers to answer: not those refused, nor those that the caller gave up."""
    owed = ok + failed + interrupted
    return round(ok / owed, 6) if owed else None


def _error_rate(ok: int, failed: int, interrupted: int) -> float | None:
    """The rest of the same requests."""
    return _success_rate(failed + interrupted, ok, 0)
