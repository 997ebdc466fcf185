"""Records as the engine writes them, and a data directory to put them into."""

import time
import zlib
from pathlib import Path
from typing import Any

from proxy.accounting.journal import HEAD, MAGIC, Journal
from proxy.accounting.records import Alerted, Begin, Checked, End, Progress, QuotaReset, Record, Rejected, RequestEnd, RequestOpen

NOW_MS = 1_800_000_000_000  # a whole hour
TRACE = [{"target": "groq/llama", "skipped": "no key: set GROQ_API_KEY"}, {"target": "openai/gpt-4o", "kept": True}]


class RealClock:
    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()


class Wall:
    """A wall clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = NOW_MS / 1000

    def __call__(self) -> float:
        return self.now


def request_id(number: int, time_ms: int = NOW_MS) -> str:
    """A ULID: Crockford's base 32 of the time and a number."""
    value = time_ms << 80 | number
    return "".join(["0123456789ABCDEFGHJKMNPQRSTVWXYZ"[value >> shift & 31] for shift in range(125, -1, -5)])


def opened(number: int, time_ms: int = NOW_MS, **changes: Any) -> RequestOpen:
    fields: dict[str, Any] = {
        "id": request_id(number, time_ms),
        "time_ms": time_ms,
        "client": "search-agent",
        "department": "research",
        "agent": "search",
        "task": "summary",
        "task_id": None,
        "model": "smart",
        "chain": "smart",
        "stream": False,
        "config": "abcdef012345",
    }
    return RequestOpen(**{**fields, **changes})


def closed(outcome: str = "ok", attempts: int = 1, **changes: Any) -> RequestEnd:
    fields: dict[str, Any] = {
        "outcome": outcome,
        "http_status": 200 if outcome == "ok" else 502,
        "attempts": attempts,
        "duration_ms": 812.5,
        "first_token_ms": 101.25,
        "overhead_ms": 0.2,
        "finish_reason": "stop" if outcome == "ok" else None,
        "error_code": None if outcome == "ok" else "upstream_unavailable",
        "trace": TRACE,
        "dropped": [],
    }
    return RequestEnd(**{**fields, **changes})


def begin(request: RequestOpen, n: int = 1, provider: str = "openai", at_risk_tokens: int = 100) -> Begin:
    first = request if n == 1 else None
    return Begin(f"{request.id}-{n}", request.id, n, request.time_ms + n, provider, "gpt-4o", "cafe0123", at_risk_tokens, first)


def progress(request: RequestOpen, tokens: int, n: int = 1, cost_nusd: int | None = None) -> Progress:
    return Progress(f"{request.id}-{n}", tokens, cost_nusd)


def end(request: RequestOpen, n: int = 1, provider: str = "openai", outcome: str = "ok", **changes: Any) -> End:
    ok = outcome == "ok"
    fields: dict[str, Any] = {
        "attempt_id": f"{request.id}-{n}",
        "request_id": request.id,
        "n": n,
        "time_ms": request.time_ms + n,
        "provider": provider,
        "upstream_model": "gpt-4o",
        "credential": "cafe0123",
        "outcome": outcome,
        "http_status": 200 if ok else None,
        "error_class": None if ok else "connect",
        "category": None if ok else "transient",
        "error": None if ok else "connection refused",
        "first_token_ms": 101.25 if ok else None,
        "duration_ms": 700.5,
        "input_tokens": 100 if ok else 0,
        "cached_input_tokens": 20 if ok else 0,
        "cache_write_tokens": 0,
        "output_tokens": 50 if ok else 0,
        "reasoning_tokens": 10 if ok else 0,
        "input_audio_tokens": 0,
        "output_audio_tokens": 0,
        "usage_source": "provider" if ok else None,
        "cost_nusd": 1_250_000 if ok else 0,
        "price_source": "test" if ok else None,
        "at_risk_tokens": 0,
        "finish_reason": "stop" if ok else None,
        "end": closed() if ok else None,
    }
    return End(**{**fields, **changes})


def completion(number: int, time_ms: int = NOW_MS, **changes: Any) -> list[Record]:
    request = opened(number, time_ms, **changes)
    return [begin(request), end(request)]


def failover(number: int, time_ms: int = NOW_MS, **changes: Any) -> list[Record]:
    request = opened(number, time_ms, **changes)
    return [
        begin(request, provider="groq"),
        end(request, provider="groq", outcome="failed"),
        begin(request, 2),
        end(request, 2, end=closed(attempts=2)),
    ]


def rejected(number: int, time_ms: int = NOW_MS, **changes: Any) -> Rejected:
    return Rejected(
        opened(number, time_ms, **changes), closed("rejected", 0, http_status=429, error_code="budget_exceeded", trace=[])
    )


def checked(provider: str, time_ms: int = NOW_MS, *, state: str = "healthy", **changes: Any) -> Checked:
    fields: dict[str, Any] = {"reason": None, "response_ms": 41.5, "models": 12, "key_valid": True}
    return Checked(time_ms, provider, state, **{**fields, **changes})


def raised(alert_id: str, time_ms: int = NOW_MS, **changes: Any) -> Alerted:
    fields: dict[str, Any] = {
        "kind": "budget",
        "subject": "client search-agent",
        "severity": "warning",
        "message": "80 % is spent",
        "value": 0.8,
        "threshold": 0.8,
    }
    return Alerted(alert_id, time_ms, "raised", **{**fields, **changes})


def resolved(alert_id: str, time_ms: int = NOW_MS) -> Alerted:
    return Alerted(alert_id, time_ms, "resolved")


def acknowledged(alert_id: str, time_ms: int = NOW_MS) -> Alerted:
    return Alerted(alert_id, time_ms, "acknowledged")


def quota_reset(provider: str, credential: str | None = None, time_ms: int = NOW_MS) -> QuotaReset:
    return QuotaReset(time_ms, provider, credential)


def open_journal(data_dir: Path, boot_id: str = "BOOT1", **options: Any) -> Journal:
    return Journal(data_dir / "journal", boot_id=boot_id, clock=RealClock(), **options)


def write(data_dir: Path, records: list[Record], boot_id: str = "BOOT1", **options: Any) -> None:
    """As a process that then dies."""
    journal = open_journal(data_dir, boot_id, **options)
    for record in records:
        journal.append(record)
    journal.close()


def write_raw(data_dir: Path, payloads: list[bytes], boot_id: str) -> None:
    """Whole frames with anything in them, as another release may have written."""
    path = data_dir / "journal" / f"{boot_id}.1.000001.seg"
    path.write_bytes(
        b"".join([HEAD.pack(MAGIC, len(payload), zlib.crc32(payload, len(payload))) + payload for payload in payloads])
    )
