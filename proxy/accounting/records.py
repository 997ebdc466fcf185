"""What the journal holds: four kinds of record, each one JSON array in one frame. No prompt, no answer, no key.

`B` before every dispatch, `P` now and then while a stream runs, `E` when an attempt has ended, `R` for a request that ended
without its last attempt's `E` carrying it (rejected, or no target could be tried). A request's story is spread over them:
its first `B` carries `request` (who asks for what), its last `E` carries `end` (what came of it). An attempt's id is
`<request id>-<n>`, n from 1. Times are milliseconds, wall for `time_ms`, durations else; money is integer nano-dollars.
Unknown is None.

A record is journalled by position, which takes a fifth of the time that names take: its letter, then its fields in the order of
the dataclass, `request` and `end` as arrays of theirs or null. So the order is the format: a new field goes to the end, readers
ignore what follows the fields that they know, and anything else is another magic in `journal.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from operator import itemgetter
from typing import Any, Literal

Fields = Sequence[Any]


@dataclass(slots=True)
class RequestOpen:
    """Who asks for what. `model` is what the client sent, `chain` what it meant (None when it meant nothing)."""

    id: str
    time_ms: int
    client: str | None
    department: str | None
    agent: str | None
    task: str | None
    task_id: str | None
    model: str
    chain: str | None
    stream: bool
    config: str


@dataclass(slots=True)
class RequestEnd:
    """What came of it. `outcome`: ok, failed, rejected, interrupted, client_gone. `trace` is the decision trace:
    a list with, for each target of the plan, `{"target", "kept": true}` or `{"target", "skipped": reason}`, see docs/failover.md.
    `dropped`: parameters removed for the answering target.
    """

    outcome: str
    http_status: int | None
    attempts: int
    duration_ms: float
    first_token_ms: float | None
    overhead_ms: float | None
    finish_reason: str | None
    error_code: str | None
    trace: list[dict[str, Any]]
    dropped: list[str]


@dataclass(slots=True)
class Begin:
    attempt_id: str
    request_id: str
    n: int
    time_ms: int
    provider: str
    upstream_model: str
    credential: str
    at_risk_tokens: int  # the estimate of the prompt: what is kept as at risk when the outcome stays unknown
    request: RequestOpen | None  # with n = 1 only
    t: Literal["B"] = "B"


@dataclass(slots=True)
class Progress:
    attempt_id: str
    output_tokens: int  # estimated so far
    t: Literal["P"] = "P"


@dataclass(slots=True)
class End:
    """`outcome`: ok, failed, client_gone. `at_risk_tokens` > 0: sent, and nobody knows whether it is billed."""

    attempt_id: str
    request_id: str
    n: int
    time_ms: int  # of the attempt's begin, so that an E alone makes a whole row
    provider: str
    upstream_model: str
    credential: str
    outcome: str
    http_status: int | None
    error_class: str | None
    category: str | None  # transient or permanent, None when ok
    error: str | None
    first_token_ms: float | None
    duration_ms: float | None  # None when interrupted
    input_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    input_audio_tokens: int
    output_audio_tokens: int
    usage_source: str | None  # None when nothing was consumed
    cost_nusd: int | None  # None: no price is known. 0: free
    price_source: str | None  # which price table said so
    at_risk_tokens: int
    finish_reason: str | None
    end: RequestEnd | None  # with the last attempt only
    t: Literal["E"] = "E"


@dataclass(slots=True)
class Rejected:
    """A request that ended with no attempt."""

    request: RequestOpen
    end: RequestEnd
    t: Literal["R"] = "R"


Record = Begin | Progress | End | Rejected


def _layout(of: type) -> tuple[str, ...]:
    names = [field.name for field in fields(of)]
    return ("t", *names[:-1]) if names[-1] == "t" else tuple(names)


LAYOUT: dict[type, tuple[str, ...]] = {of: _layout(of) for of in (RequestOpen, RequestEnd, Begin, Progress, End, Rejected)}
_BY_LETTER: dict[Any, tuple[str, ...]] = {"B": LAYOUT[Begin], "P": LAYOUT[Progress], "E": LAYOUT[End], "R": LAYOUT[Rejected]}
_PARTS = {"request": LAYOUT[RequestOpen], "end": LAYOUT[RequestEnd]}


def positional(record: Record) -> tuple[Any, ...]:
    """The array that is journalled: `LAYOUT` spelt out, which is three times as fast as `attrgetter`."""
    if isinstance(record, End):
        return _end(record)
    if isinstance(record, Begin):
        return _begin(record)
    if isinstance(record, Progress):
        return ("P", record.attempt_id, record.output_tokens)
    return ("R", _request_open(record.request), _request_end(record.end))


def _request_open(r: RequestOpen) -> tuple[Any, ...]:
    return (
        r.id, r.time_ms, r.client, r.department, r.agent, r.task, r.task_id, r.model, r.chain, r.stream, r.config,
    )  # fmt: skip


def _request_end(r: RequestEnd) -> tuple[Any, ...]:
    return (
        r.outcome, r.http_status, r.attempts, r.duration_ms, r.first_token_ms, r.overhead_ms, r.finish_reason, r.error_code,
        r.trace, r.dropped,
    )  # fmt: skip


def _begin(r: Begin) -> tuple[Any, ...]:
    return (
        r.t, r.attempt_id, r.request_id, r.n, r.time_ms, r.provider, r.upstream_model, r.credential, r.at_risk_tokens,
        None if r.request is None else _request_open(r.request),
    )  # fmt: skip


def _end(r: End) -> tuple[Any, ...]:
    return (
        r.t, r.attempt_id, r.request_id, r.n, r.time_ms, r.provider, r.upstream_model, r.credential, r.outcome, r.http_status,
        r.error_class, r.category, r.error, r.first_token_ms, r.duration_ms, r.input_tokens, r.cached_input_tokens,
        r.cache_write_tokens, r.output_tokens, r.reasoning_tokens, r.input_audio_tokens, r.output_audio_tokens, r.usage_source,
        r.cost_nusd, r.price_source, r.at_risk_tokens, r.finish_reason,
        None if r.end is None else _request_end(r.end),
    )  # fmt: skip


def pick(of: type, *names: str) -> Callable[[Fields], Any]:
    """Takes the named fields out of an array of that kind: a tuple, or the one value."""
    return itemgetter(*(LAYOUT[of].index(name) for name in names))


def named(record: Fields) -> dict[str, Any]:
    """An array with its names again. Raises KeyError for a letter that this release does not know."""
    return {
        name: dict(zip(_PARTS[name], value, strict=False)) if name in _PARTS and value is not None else value
        for name, value in zip(_BY_LETTER[record[0]], record, strict=False)
    }
