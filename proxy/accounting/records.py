"""What the journal holds: four kinds of record, each one JSON object in one frame. No prompt, no answer, no key.

`B` before every dispatch, `P` now and then while a stream runs, `E` when an attempt has ended, `R` for a request that ended
without its last attempt's `E` carrying it (rejected, or no target could be tried). A request's story is spread over them:
its first `B` carries `request` (who asks for what), its last `E` carries `end` (what came of it). An attempt's id is
`<request id>-<n>`, n from 1. Times are milliseconds, wall for `time_ms`, durations else; money is integer nano-dollars.
Unknown is None. orjson writes these dataclasses as they stand; the field names are the format.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


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
    duration_ms: float
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
