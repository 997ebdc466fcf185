"""What the journal holds: seven kinds of record, each one JSON array in one frame. No prompt, no answer, no key.

`B` before every dispatch, `P` now and then while a stream runs, `E` when an attempt has ended, `R` for a request that ended
without its last attempt's `E` carrying it (rejected, or no target could be tried). A request's story is spread over them:
its first `B` carries `request` (who asks for what), its last `E` carries `end` (what came of it). An attempt's id is
`<request id>-<n>`, n from 1. Besides requests, the ledger keeps what was told of the proxy itself: `H` for a provider's health
when it was checked, `A` for an alert's life, `Q` for quotas that
the operator lets begin anew. Times are milliseconds, wall for `time_ms`, durations else; money is integer nano-dollars.
Unknown is None.

A record is journalled by position, which takes a fifth of the time that names take: its letter, then its fields in the order of
the class, `request` and `end` as arrays of theirs or null. So the order is the format: a new field goes to the end, readers
ignore what follows the fields that they know, and anything else is another magic in `journal.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, Literal, NamedTuple

Fields = Sequence[Any]


class RequestOpen(NamedTuple):
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


class RequestEnd(NamedTuple):
    """What came of it. `outcome`: ok, failed, rejected, interrupted, client_gone. `trace` is the decision trace:
    a list with, for each target of the plan, `{"target", "kept": true}` or `{"target", "skipped": reason}`, see docs/failover.md.
    `dropped`: parameters removed for the answering target. `extra` is None for nearly all; its keys are those of EXTRA, and a record
    of an earlier release ends before it.
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
    extra: dict[str, Any] | None = None


EXTRA = ("asked", "answered", "cache", "quality", "continued", "hedged")
"""What a `RequestEnd.extra` may hold, each only where there is something to say:

asked      what the choice was made from, besides chain and state: `{"needs": [sorted], "wishes": {}, "tokens": estimated input,
           "output": expected output, "seed": …}`
answered   number of the attempt that answered, where that is not the one that ended last
cache      `{"state": "hit", "provider", "model", "of": id of the request that was answered first, "saved_nusd", "input_tokens",
           "output_tokens"}`: an answer that nobody was asked for again. `saved_nusd` None: no price was known
quality    0..1, of the answer that was given
continued  numbers of the attempts that went on with what another had begun
hedged     True: a second target was asked before the first had answered
"""


class Begin(NamedTuple):
    attempt_id: str
    request_id: str
    n: int
    time_ms: int
    provider: str
    upstream_model: str
    credential: str
    at_risk_tokens: int  # the estimate of the prompt: what is kept as at risk when the outcome stays unknown
    request: RequestOpen | None  # with n = 1 only

    @property
    def t(self) -> Literal["B"]:
        return "B"


class Progress(NamedTuple):
    attempt_id: str
    output_tokens: int  # estimated so far
    cost_nusd: int | None = None  # of that and of the estimated prompt; a record of an earlier release ends before it

    @property
    def t(self) -> Literal["P"]:
        return "P"


class End(NamedTuple):
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

    @property
    def t(self) -> Literal["E"]:
        return "E"


class Checked(NamedTuple):
    """What came of asking how a provider is. `state`: healthy, degraded, down, unknown; as it was told from then on."""

    time_ms: int
    provider: str
    state: str
    reason: str | None
    response_ms: float | None  # None: no answer
    models: int | None
    key_valid: bool | None  # None: it cannot be told

    @property
    def t(self) -> Literal["H"]:
        return "H"


class Alerted(NamedTuple):
    """A step in the life of an alert. `action`: raised, resolved or acknowledged; what follows `severity` is said when it is raised, or
    raised again with another severity, which takes its place."""

    id: str
    time_ms: int
    action: str
    kind: str | None = None
    subject: str | None = None  # what it is about: a provider, a budget
    severity: str | None = None
    message: str | None = None
    value: float | None = None
    threshold: float | None = None

    @property
    def t(self) -> Literal["A"]:
        return "A"


class QuotaReset(NamedTuple):
    """The operator says that a provider's quotas begin anew. `credential` None: for all of its keys."""

    time_ms: int
    provider: str
    credential: str | None

    @property
    def t(self) -> Literal["Q"]:
        return "Q"


class Rejected(NamedTuple):
    """A request that ended with no attempt."""

    request: RequestOpen
    end: RequestEnd

    @property
    def t(self) -> Literal["R"]:
        return "R"


Record = Begin | Progress | End | Rejected | Checked | Alerted | QuotaReset


LAYOUT: dict[type, tuple[str, ...]] = {
    RequestOpen: RequestOpen._fields,
    RequestEnd: RequestEnd._fields,
    Begin: ("t", *Begin._fields),
    Progress: ("t", *Progress._fields),
    End: ("t", *End._fields),
    Rejected: ("t", *Rejected._fields),
    Checked: ("t", *Checked._fields),
    Alerted: ("t", *Alerted._fields),
    QuotaReset: ("t", *QuotaReset._fields),
}
_BY_LETTER: dict[Any, tuple[str, ...]] = {
    "B": LAYOUT[Begin], "P": LAYOUT[Progress], "E": LAYOUT[End], "R": LAYOUT[Rejected],
    "H": LAYOUT[Checked], "A": LAYOUT[Alerted], "Q": LAYOUT[QuotaReset],
}  # fmt: skip
_PARTS = {"request": LAYOUT[RequestOpen], "end": LAYOUT[RequestEnd]}


def positional(record: Record) -> tuple[Any, ...]:
    """The array that is journalled, made of plain tuples: orjson writes no subclass of them."""
    return _POSITIONAL[type(record)](record)


_POSITIONAL: dict[type, Callable[[Any], tuple[Any, ...]]] = {
    Begin: lambda r: ("B", *r[:-1], None if r.request is None else tuple(r.request)),
    Progress: lambda r: ("P", *r),
    End: lambda r: ("E", *r[:-1], None if r.end is None else tuple(r.end)),
    Rejected: lambda r: ("R", tuple(r.request), tuple(r.end)),
    Checked: lambda r: ("H", *r),
    Alerted: lambda r: ("A", *r),
    QuotaReset: lambda r: ("Q", *r),
}


def pick(of: type, *names: str) -> Callable[[Fields], Any]:
    """Takes the named fields out of an array of that kind: a tuple, or the one value."""
    return itemgetter(*(LAYOUT[of].index(name) for name in names))


def span(of: type, first: str, last: str) -> slice:
    """Where the fields from one to another are in an array of that kind."""
    return slice(LAYOUT[of].index(first), LAYOUT[of].index(last) + 1)


def named(record: Fields) -> dict[str, Any]:
    """An array with its names again. Raises KeyError for a letter that this release does not know."""
    return {
        name: dict(zip(_PARTS[name], value, strict=False)) if name in _PARTS and value is not None else value
        for name, value in zip(_BY_LETTER[record[0]], record, strict=False)
    }
