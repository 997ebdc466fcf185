"""From journal records to what the tables are told: begins, progress and ends of one batch put together before any SQL.

Pure. Within a batch an attempt's end hides its begin and progress, a request's end its running state; what a batch does not hold
(the begin of a long stream) is already in the tables, and `ledger.py` puts the two together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import orjson

RecordDict = dict[str, Any]
Row = tuple[Any, ...]

OPEN_COLUMNS = ("id", "time_ms", "client", "department", "agent", "task", "task_id", "model", "chain", "stream", "config")
END_COLUMNS = (
    "outcome",
    "http_status",
    "attempts",
    "duration_ms",
    "first_token_ms",
    "overhead_ms",
    "finish_reason",
    "error_code",
)
ATTEMPT_COLUMNS = (
    "request_id",
    "n",
    "time_ms",
    "provider",
    "upstream_model",
    "credential",
    "outcome",
    "http_status",
    "error_class",
    "category",
    "error",
    "first_token_ms",
    "duration_ms",
    "input_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
    "input_audio_tokens",
    "output_audio_tokens",
    "usage_source",
    "cost_nusd",
    "price_source",
    "at_risk_tokens",
    "finish_reason",
)
_open_values = itemgetter(*OPEN_COLUMNS)
_end_values = itemgetter(*END_COLUMNS)
_attempt_values = itemgetter(*ATTEMPT_COLUMNS)
_begin_values = itemgetter("request_id", "n", "time_ms", "provider", "upstream_model", "credential", "at_risk_tokens")


@dataclass(slots=True)
class Batch:
    """What some records come to, as rows. `unreadable` counts records that are not what this release writes."""

    begins: dict[str, Row] = field(
        default_factory=dict
    )  # attempt id -> request_id, n, time_ms, provider, model, credential, at risk, writer
    progress: dict[str, int] = field(default_factory=dict)  # attempt id -> output tokens
    ends: dict[str, Row] = field(default_factory=dict)  # attempt id -> ATTEMPT_COLUMNS
    opens: dict[str, Row] = field(default_factory=dict)  # request id -> OPEN_COLUMNS
    latest: dict[str, str] = field(default_factory=dict)  # request id -> the attempt that was begun last
    closes: dict[str, tuple[Row, Row | None]] = field(
        default_factory=dict
    )  # request id -> END_COLUMNS, trace, dropped; its last end
    unreadable: int = 0

    def add(self, records: list[RecordDict], writer: str) -> None:
        for record in records:
            try:
                self._add(record, writer)
            except (KeyError, TypeError, AttributeError):
                self.unreadable += 1

    def interrupt(self, request_id: str, attempts: int) -> None:
        """The end of a request whose process died."""
        self.closes[request_id] = (("interrupted", None, attempts, None, None, None, None, None, None, None), None)

    def _add(self, record: RecordDict, writer: str) -> None:
        kind = record["t"]
        if kind == "E":
            row = _attempt_values(record)
            end = record["end"]
            if end is not None:
                self.closes.setdefault(row[0], (_close(end), row))
            self.ends.setdefault(record["attempt_id"], row)
        elif kind == "B":
            row = (*_begin_values(record), writer)
            opened = record["request"]
            if opened is not None:
                self.opens.setdefault(row[0], _open_values(opened))
            attempt_id = record["attempt_id"]
            self.begins.setdefault(attempt_id, row)
            self.latest[row[0]] = attempt_id
        elif kind == "P":
            attempt_id = record["attempt_id"]
            self.progress[attempt_id] = max(self.progress.get(attempt_id, 0), record["output_tokens"])
        elif kind == "R":
            row, close = _open_values(record["request"]), _close(record["end"])
            self.opens.setdefault(row[0], row)
            self.closes.setdefault(row[0], (close, None))
        else:
            self.unreadable += 1

    def ended_requests(self) -> list[Row]:
        """OPEN_COLUMNS, provider, upstream_model, END_COLUMNS, trace, dropped."""
        rows = []
        for request_id, (close, last) in self.closes.items():
            if last is None and request_id in self.latest:
                last = self.begins[self.latest[request_id]]
            opened = self.opens.get(request_id) or _unknown_open(request_id, last)
            rows.append(opened + ((None, None) if last is None else last[3:5]) + close)
        return rows

    def running_requests(self) -> list[Row]:
        """OPEN_COLUMNS, provider, upstream_model, attempts, writer; of requests that do not end in this batch."""
        rows = []
        for request_id, attempt_id in self.latest.items():
            if request_id not in self.closes:
                begin = self.begins[attempt_id]
                _, n, _, provider, upstream_model, *_, writer = begin
                opened = self.opens.get(request_id) or _unknown_open(request_id, begin)
                rows.append((*opened, provider, upstream_model, n, writer))
        return rows

    def ended_attempts(self) -> list[Row]:
        """ATTEMPT_COLUMNS."""
        return list(self.ends.values())

    def running_attempts(self) -> list[Row]:
        """request_id, n, time_ms, provider, upstream_model, credential, at_risk_tokens, writer."""
        return [row for attempt_id, row in self.begins.items() if attempt_id not in self.ends]

    def running_progress(self) -> list[Row]:
        """output_tokens, request_id, n."""
        rows = []
        for attempt_id, tokens in self.progress.items():
            if attempt_id not in self.ends:
                request_id, _, n = attempt_id.rpartition("-")
                rows.append((tokens, request_id, int(n)))
        return rows


def _close(end: RecordDict) -> Row:
    return (*_end_values(end), _json(end["trace"]), _json(end["dropped"]))


def _unknown_open(request_id: str, attempt: Row | None) -> Row:
    """The head of a request whose first begin was lost: nothing but the id and a time."""
    return (request_id, attempt[2] if attempt is not None else 0, *(None,) * 9)


def _json(value: Any) -> str | None:
    return orjson.dumps(value).decode() if value else None


def interrupted_attempt(row: RecordDict) -> RecordDict:
    """The end of an attempt whose process died: what had been relayed is estimated, what was only sent stays at risk.

    `row` has the attempt's columns as they were while it ran. Priced later, if at all: the cost is unknown.
    """
    relayed = row["output_tokens"] > 0
    return {
        **dict.fromkeys(ATTEMPT_COLUMNS),
        "t": "E",
        "attempt_id": f"{row['request_id']}-{row['n']}",
        "request_id": row["request_id"],
        "n": row["n"],
        "time_ms": row["time_ms"],
        "provider": row["provider"],
        "upstream_model": row["upstream_model"],
        "credential": row["credential"],
        "outcome": "interrupted",
        "error_class": "interrupted",
        "category": "transient",
        "error": "the proxy was killed",
        "input_tokens": row["at_risk_tokens"] if relayed else 0,
        "cached_input_tokens": 0,
        "cache_write_tokens": 0,
        "output_tokens": row["output_tokens"],
        "reasoning_tokens": 0,
        "input_audio_tokens": 0,
        "output_audio_tokens": 0,
        "usage_source": "estimated" if relayed else None,
        "at_risk_tokens": 0 if relayed else row["at_risk_tokens"],
        "end": None,
    }
