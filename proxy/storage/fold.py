"""From journal records to what the tables are told: begins, progress and ends of one batch put together before any SQL.

Pure. Within a batch an attempt's end hides its begin and progress, a request's end its running state; what a batch does not hold
(the begin of a long stream) is already in the tables, and `ledger.py` puts the two together. Records stay the arrays that they are
in the journal, known by position.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from proxy.accounting.records import (
    LAYOUT,
    Alerted,
    Begin,
    Checked,
    End,
    Fields,
    Progress,
    QuotaReset,
    Rejected,
    RequestEnd,
    RequestOpen,
    positional,
)

_BEGIN_SIZE, _PROGRESS_SIZE = len(LAYOUT[Begin]), len(LAYOUT[Progress]) - 1  # without what it cost so far
_END_SIZE, _REJECTED_SIZE = len(LAYOUT[End]), len(LAYOUT[Rejected])
_CHECKED_SIZE, _ALERTED_SIZE, _RESET_SIZE = len(LAYOUT[Checked]), len(LAYOUT[Alerted]), len(LAYOUT[QuotaReset])
_ALERT_ACTIONS = frozenset(("raised", "resolved", "acknowledged"))
FROM_PROGRESS = "progress"  # who says what an interrupted attempt costs: it was priced while it ran
_ATTEMPT_ID, _REQUEST_ID = 1, 2  # of a Begin and of an End
_REQUEST, _CLOSE = LAYOUT[Begin].index("request"), LAYOUT[End].index("end")
# IndexError for a shorter one; what came later than these may be missing
_LAST_OF_OPEN, _LAST_OF_CLOSE = LAYOUT[RequestOpen].index("config"), LAYOUT[RequestEnd].index("dropped")


@dataclass(slots=True)
class Batch:
    """What some records come to. `unreadable` counts records that are not what this release writes."""

    begins: dict[str, tuple[Fields, str]] = field(default_factory=dict)  # attempt id -> Begin, its writer
    progress: dict[str, tuple[int, int | None]] = field(default_factory=dict)  # attempt id -> output tokens, cost so far
    ends: dict[str, Fields] = field(default_factory=dict)  # attempt id -> End
    opens: dict[str, Fields] = field(default_factory=dict)  # request id -> RequestOpen
    latest: dict[str, str] = field(default_factory=dict)  # request id -> the attempt that was begun last
    closes: dict[str, tuple[Fields, Fields | None]] = field(default_factory=dict)  # request id -> RequestEnd, its End
    checks: list[Fields] = field(default_factory=list)  # Checked
    alerts: list[Fields] = field(default_factory=list)  # Alerted
    resets: list[Fields] = field(default_factory=list)  # QuotaReset
    unreadable: int = 0

    def add(self, records: list[Fields], writer: str) -> None:
        """One loop and no calls of its own: it runs twice for every request."""
        begins, ends, opens, latest, closes = self.begins, self.ends, self.opens, self.latest, self.closes
        for record in records:
            try:
                kind, size = record[0], len(record)
                if kind == "E" and size >= _END_SIZE:
                    if (close := record[_CLOSE]) is not None:
                        close[_LAST_OF_CLOSE]
                        closes.setdefault(record[_REQUEST_ID], (close, record))
                    ends.setdefault(record[_ATTEMPT_ID], record)
                elif kind == "B" and size >= _BEGIN_SIZE:
                    attempt_id, request_id = record[_ATTEMPT_ID], record[_REQUEST_ID]
                    if (opened := record[_REQUEST]) is not None:
                        opened[_LAST_OF_OPEN]
                        opens.setdefault(request_id, opened)
                    begins.setdefault(attempt_id, (record, writer))
                    latest[request_id] = attempt_id
                else:
                    self._add_rare(record, kind, size)
            except (IndexError, KeyError, TypeError):
                self.unreadable += 1

    def _add_rare(self, record: Fields, kind: str, size: int) -> None:
        if kind == "P" and size >= _PROGRESS_SIZE:
            _, attempt_id, tokens, *more = record
            known = self.progress.get(attempt_id)
            if known is None or tokens > known[0]:
                self.progress[attempt_id] = tokens, more[0] if more else None
        elif kind == "R" and size >= _REJECTED_SIZE:
            _, opened, close, *_ = record
            opened[_LAST_OF_OPEN], close[_LAST_OF_CLOSE]
            self.opens.setdefault(opened[0], opened)
            self.closes.setdefault(opened[0], (close, None))
        elif kind == "H" and size >= _CHECKED_SIZE:
            self.checks.append(record)
        elif kind == "A" and size >= _ALERTED_SIZE and record[3] in _ALERT_ACTIONS:
            self.alerts.append(record)
        elif kind == "Q" and size >= _RESET_SIZE:
            self.resets.append(record)
        else:
            self.unreadable += 1

    def interrupt(self, request_id: str, attempts: int) -> None:
        """The end of a request whose process died."""
        self.closes[request_id] = (("interrupted", None, attempts, None, None, None, None, None, [], []), None)

    def running_attempts(self) -> list[tuple[Fields, str]]:
        """Begins whose ends are not in the batch, with their writers."""
        if self.begins.keys() <= self.ends.keys():
            return []
        return [begun for attempt_id, begun in self.begins.items() if attempt_id not in self.ends]

    def running_requests(self) -> list[tuple[Fields, str]]:
        """The last Begin of every request that does not end in this batch, with its writer."""
        if self.latest.keys() <= self.closes.keys():
            return []
        return [self.begins[attempt_id] for request_id, attempt_id in self.latest.items() if request_id not in self.closes]

    def running_progress(self) -> list[tuple[int, int | None, str, int]]:
        """output_tokens, cost_nusd, request_id, n."""
        rows = []
        for attempt_id, so_far in self.progress.items():
            if attempt_id not in self.ends:
                request_id, _, n = attempt_id.rpartition("-")
                rows.append((*so_far, request_id, int(n)))
        return rows


def interrupted_attempt(row: dict[str, Any]) -> Fields:
    """The End of an attempt whose process died: what had been relayed is estimated, what was only sent stays at risk.

    `row` has the attempt's columns as they were while it ran.
    """
    relayed = row["output_tokens"] > 0
    cost_nusd = row["cost_nusd"] if relayed else None
    return positional(
        End(
            attempt_id=f"{row['request_id']}-{row['n']}",
            request_id=row["request_id"],
            n=row["n"],
            time_ms=row["time_ms"],
            provider=row["provider"],
            upstream_model=row["upstream_model"],
            credential=row["credential"],
            outcome="interrupted",
            http_status=None,
            error_class="interrupted",
            category="transient",
            error="the proxy was killed",
            first_token_ms=None,
            duration_ms=None,
            input_tokens=row["at_risk_tokens"] if relayed else 0,
            cached_input_tokens=0,
            cache_write_tokens=0,
            output_tokens=row["output_tokens"],
            reasoning_tokens=0,
            input_audio_tokens=0,
            output_audio_tokens=0,
            usage_source="estimated" if relayed else None,
            cost_nusd=cost_nusd,
            price_source=None if cost_nusd is None else FROM_PROGRESS,
            at_risk_tokens=0 if relayed else row["at_risk_tokens"],
            finish_reason=None,
            end=None,
        )
    )
