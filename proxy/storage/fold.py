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
    """What some records come to. `unreadable` counts records that are not what this release writes."""

    begins: dict[str, tuple[RecordDict, str]] = field(default_factory=dict)  # attempt id -> its B and the writer
    progress: dict[str, int] = field(default_factory=dict)  # attempt id -> output tokens
    ends: dict[str, RecordDict] = field(default_factory=dict)  # attempt id -> its E
    opens: dict[str, RecordDict] = field(default_factory=dict)  # request id -> RequestOpen
    latest: dict[str, tuple[RecordDict, str]] = field(default_factory=dict)  # request id -> its last B and the writer
    closes: dict[str, tuple[RecordDict, RecordDict | None]] = field(default_factory=dict)  # request id -> RequestEnd, last E
    unreadable: int = 0

    def add(self, records: list[RecordDict], writer: str) -> None:
        for record in records:
            try:
                self._add(record, writer)
            except (KeyError, TypeError, AttributeError):
                self.unreadable += 1

    def _add(self, record: RecordDict, writer: str) -> None:
        kind = record["t"]
        if kind == "E":
            _attempt_values(record)
            request_id = record["request_id"]
            self.ends.setdefault(record["attempt_id"], record)
            end = record["end"]
            if end is not None:
                _end_values(end)
                self.closes.setdefault(request_id, (end, record))
        elif kind == "B":
            _begin_values(record)
            request_id = record["request_id"]
            opened = record["request"]
            if opened is not None:
                _open_values(opened)
                self.opens.setdefault(request_id, opened)
            begun = (record, writer)
            self.begins.setdefault(record["attempt_id"], begun)
            self.latest[request_id] = begun
        elif kind == "P":
            attempt_id = record["attempt_id"]
            self.progress[attempt_id] = max(self.progress.get(attempt_id, 0), record["output_tokens"])
        elif kind == "R":
            opened, end = record["request"], record["end"]
            _open_values(opened)
            _end_values(end)
            self.opens.setdefault(opened["id"], opened)
            self.closes.setdefault(opened["id"], (end, None))
        else:
            self.unreadable += 1

    def ended_requests(self) -> list[Row]:
        """OPEN_COLUMNS, provider, upstream_model, END_COLUMNS, trace, dropped."""
        rows = []
        for request_id, (end, last) in self.closes.items():
            opened = self.opens.get(request_id)
            if last is None and request_id in self.latest:
                last = self.latest[request_id][0]
            who = _NOBODY if last is None else (last["provider"], last["upstream_model"])
            head = _open_values(opened) if opened is not None else _unknown_open(request_id, last)
            rows.append(head + who + _end_values(end) + (_json(end.get("trace")), _json(end.get("dropped"))))
        return rows

    def running_requests(self) -> list[Row]:
        """OPEN_COLUMNS, provider, upstream_model, attempts, writer; of requests that do not end in this batch."""
        rows = []
        for request_id, (begin, writer) in self.latest.items():
            if request_id not in self.closes:
                opened = self.opens.get(request_id)
                head = _open_values(opened) if opened is not None else _unknown_open(request_id, begin)
                rows.append((*head, begin["provider"], begin["upstream_model"], begin["n"], writer))
        return rows

    def ended_attempts(self) -> list[Row]:
        """ATTEMPT_COLUMNS."""
        return [_attempt_values(end) for end in self.ends.values()]

    def running_attempts(self) -> list[Row]:
        """request_id, n, time_ms, provider, upstream_model, credential, at_risk_tokens, writer."""
        return [(*_begin_values(begin), writer) for key, (begin, writer) in self.begins.items() if key not in self.ends]

    def running_progress(self) -> list[Row]:
        """output_tokens, request_id, n."""
        rows = []
        for attempt_id, tokens in self.progress.items():
            if attempt_id not in self.ends:
                request_id, _, n = attempt_id.rpartition("-")
                rows.append((tokens, request_id, int(n)))
        return rows


_NOBODY: Row = (None, None)


def _unknown_open(request_id: str, record: RecordDict | None) -> Row:
    """The head of a request whose first begin was lost: nothing but the id and a time."""
    return (request_id, record["time_ms"] if record is not None else 0, *(None,) * 9)


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


def interrupted_request(attempts: int) -> RecordDict:
    return {**dict.fromkeys(END_COLUMNS), "outcome": "interrupted", "attempts": attempts}
