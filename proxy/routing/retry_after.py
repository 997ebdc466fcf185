"""How long an upstream asks us to wait, in every form in which upstreams say it.

Looked at in this order, and the first that is there decides:

    retry-after-ms, x-ms-retry-after-ms                 milliseconds
    retry-after                                         seconds, or an HTTP date (RFC 9110, 10.2.3) less the upstream's own `date`
    body_delay                                          Google's RetryInfo.retryDelay: "48s" (google.rpc, error_details.proto);
                                                        OpenRouter's reset in the body, in milliseconds since 1970
    anthropic-ratelimit-*-reset                         RFC 3339
    x-ratelimit-reset, x-ratelimit-reset-*              Go duration ("6m0s", "20ms"); a number: ms epoch, s epoch or seconds

A reset counts only where the `remaining` that belongs to it is 0; of several, the latest. What cannot be read is one second:
somebody wanted us to wait. Nothing here raises, and no answer is negative or not finite.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import isfinite

from proxy.core.ports import HeaderList

GARBAGE_S = 1.0
MIN_COOLDOWN_S = 0.25
MAX_COOLDOWN_S = 300.0
DEFAULT_COOLDOWN_S = 1.0
MAX_SENSIBLE_S = 86_400.0  # quotas of a day exist; a longer wait is a mistake, and is counted as one

_EPOCH_MS = 1e12
_EPOCH_S = 1e9
_MAX_TEXT = 64  # no form is longer; what is longer is garbage and is not worth a regular expression

_UNIT_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h|d)")
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]{1,3})?|\.[0-9]+")
_LIMIT_PREFIXES = (b"x-ratelimit-re", b"anthropic-ratelimit-")


def retry_after_s(headers: HeaderList, *, wall: float, body_delay: str | None = None) -> float | None:
    """Seconds to wait, unclamped; None when nothing is said. Header names are lower-case, `wall` is the epoch time now."""
    fields = {name: value.decode("latin-1") for name, value in headers}
    then = _date(fields.get(b"date"), wall)
    for name in (b"retry-after-ms", b"x-ms-retry-after-ms"):
        if name in fields:
            wait_ms = _number(fields[name])
            return GARBAGE_S if wait_ms is None else wait_ms / 1000
    if b"retry-after" in fields:
        return _wait(fields[b"retry-after"], then, epochs=False)
    if body_delay is not None:
        return _wait(body_delay, then, epochs=True)
    return _exhausted(fields, then)


def is_nonsense(headers: HeaderList) -> bool:
    """Whether a `retry-after` of any spelling cannot be read, or asks for more than a day. Header names are lower-case."""
    for name, value in headers:
        if name in (b"retry-after", b"retry-after-ms", b"x-ms-retry-after-ms"):
            text = value.decode("latin-1")
            number = _number(text)
            if number is None:
                return name != b"retry-after" or (_duration(text) is None and _moment(text) is None)
            return number / (1 if name == b"retry-after" else 1000) > MAX_SENSIBLE_S
    return False


def exhausted_reset_s(headers: HeaderList, *, wall: float) -> float | None:
    """Seconds until a limit that this answer says is used up (`remaining: 0`) is full again; None when none is, which is told
    fast."""
    for name, value in headers:
        if value == b"0" and name.startswith(_LIMIT_PREFIXES):
            break
    else:
        return None
    fields = {name: value.decode("latin-1") for name, value in headers}
    return _exhausted(fields, _date(fields.get(b"date"), wall))


def reset_in_s(text: str, then: float) -> float:
    """Seconds until a reset, in any of the forms above. `then`: when the upstream wrote it."""
    return _wait(text, then, epochs=True)


def written_at(date: str | None, wall: float) -> float:
    """The time at the upstream when it answered: its `date` header, or ours."""
    return _date(date, wall)


def clamp_cooldown(wait_s: float | None) -> float:
    """A wait as the cooldown takes it: within [0.25, 300] seconds, one second where nothing was said."""
    if wait_s is None or wait_s != wait_s:
        return DEFAULT_COOLDOWN_S
    return min(max(wait_s, MIN_COOLDOWN_S), MAX_COOLDOWN_S)


def _exhausted(fields: dict[bytes, str], then: float) -> float | None:
    """The latest reset of a used-up limit. Anthropic's limits come before the others'."""
    for resets in (_anthropic_resets(fields), _common_resets(fields)):
        if resets:
            return max([_wait(text, then, epochs=True) for text in resets])
    return None


def _anthropic_resets(fields: dict[bytes, str]) -> list[str]:
    return [
        text
        for name, text in fields.items()
        if name.startswith(b"anthropic-ratelimit-")
        and name.endswith(b"-reset")
        and _is_zero(fields.get(name[:-5] + b"remaining"))
    ]


def _common_resets(fields: dict[bytes, str]) -> list[str]:
    return [
        text
        for name, text in fields.items()
        if name.startswith(b"x-ratelimit-reset") and _is_zero(fields.get(b"x-ratelimit-remaining" + name[17:]))
    ]


def _is_zero(text: str | None) -> bool:
    return text is not None and _number(text) == 0


def _wait(text: str, then: float, *, epochs: bool) -> float:
    """One value in whatever form. `then` is the time at the upstream when it wrote this."""
    number = _number(text)
    if number is not None:
        if epochs and number > _EPOCH_MS:
            return max(0.0, number / 1000 - then)
        if epochs and number > _EPOCH_S:
            return max(0.0, number - then)
        return number
    duration = _duration(text)
    if duration is not None:
        return duration
    moment = _moment(text)
    return GARBAGE_S if moment is None else max(0.0, moment - then)


def _number(text: str) -> float | None:
    text = text.strip()
    if len(text) > _MAX_TEXT or not _NUMBER.fullmatch(text):
        return None
    number = float(text)
    return number if isfinite(number) else None


def _duration(text: str) -> float | None:
    text = text.strip()
    if not text or len(text) > _MAX_TEXT:
        return None
    total_s = 0.0
    position = 0
    while position < len(text):
        part = _DURATION_PART.match(text, position)
        if part is None:
            return None
        total_s += float(part[1]) * _UNIT_S[part[2]]
        position = part.end()
    return total_s if isfinite(total_s) else None


def _moment(text: str) -> float | None:
    """An RFC 3339 time or an HTTP date, as epoch seconds."""
    text = text.strip()
    if len(text) > _MAX_TEXT:
        return None
    for parse in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            moment = parse(text)
            return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, TypeError, IndexError, OverflowError):
            continue
    return None


def _date(text: str | None, wall: float) -> float:
    moment = _moment(text) if text is not None else None
    return wall if moment is None else moment
