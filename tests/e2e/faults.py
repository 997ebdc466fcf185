"""What each fault of an upstream must lead to: one table, run whole and streamed, alone and with another target behind it.

`docs/failover.md` shows it; `test_faults.py` holds the proxy and the page to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Kind = Literal["whole", "stream"]
Heard = Literal["ok", "fail", "rate", "auth", "quota", "config", "neutral"]
# what the attempt leaves in the ledger: nothing, the prompt at risk, an estimate of what was relayed, the provider's figure, our count
Billed = Literal["free", "risk", "estimated", "provider", "counted"]
Transport = Literal["native", "httpx"]

LATCHES: Mapping[str, str] = {"auth": "bad key", "quota": "no quota or credit left", "config": "model not found"}
# only a limit that is to be overrun is short: whatever must come before it has all the time that a loaded machine may need
SHORT = {"first_token": "300ms", "between_tokens": "300ms"}
SILENT = {"between_tokens": "300ms"}
WHOLE: tuple[Kind, ...] = ("whole",)
STREAM: tuple[Kind, ...] = ("stream",)
BOTH: tuple[Kind, ...] = ("whole", "stream")


@dataclass(frozen=True)
class Fault:
    """`outcome`: the attempt's, `ok` or the error class. `status`, `code`: the caller's answer when there is no other target.

    `broken`: it comes after content, so that the caller gets a 200 which ends with an error event. `next`: another target is tried.
    `cooldown_s`: the least and the most that the target rests; the caller's `retry-after` is within the same bounds, rounded up.
    `events`: oddities that are counted besides, once an attempt. `at`: where the provider is, if not the fake upstream.
    """

    script: str
    says: str
    outcome: str
    status: int = 502
    code: str | None = "upstream_unavailable"
    heard: Heard = "fail"
    billed: Billed = "risk"
    kinds: tuple[Kind, ...] = BOTH
    broken: bool = False
    next: bool = True
    cooldown_s: tuple[float, float] | None = None
    events: tuple[str, ...] = ()
    timeouts: Mapping[str, str] = field(default_factory=dict)
    at: str | None = None
    text: str = "Hello from upstream"
    httpx: Mapping[str, Any] = field(default_factory=dict)  # what is different over the other transport

    def over(self, transport: Transport) -> Fault:
        return replace(self, **self.httpx) if transport == "httpx" else self


def _good(script: str, says: str, **more: Any) -> Fault:
    return Fault(
        script, says, **{"outcome": "ok", "status": 200, "code": None, "heard": "ok", "billed": "provider", "next": False, **more}
    )


def _break(script: str, says: str, outcome: str = "stream_interrupted", **more: Any) -> Fault:
    fields = {"status": 200, "code": "stream_interrupted", "billed": "estimated", "kinds": STREAM, "broken": True, "next": False}
    return Fault(script, says, outcome, **{**fields, **more})


def _time(script: str, says: str, outcome: str, **more: Any) -> Fault:
    return Fault(script, says, outcome, **{"status": 504, "code": "upstream_timeout", "timeouts": SHORT, **more})


def _limit(script: str, says: str, least_s: float, most_s: float | None = None, **more: Any) -> Fault:
    fields = {"status": 429, "code": "rate_limit_exceeded", "heard": "rate", "billed": "free"}
    return Fault(script, says, "rate_limited", **{**fields, "cooldown_s": (least_s, most_s or least_s), **more})


def _latch(script: str, says: str, outcome: str, heard: Heard, status: int, code: str, event: str) -> Fault:
    return Fault(script, says, outcome, status, code, heard, "free", events=(event,))


def _callers(script: str, says: str, status: int, code: str, outcome: str = "4xx", **more: Any) -> Fault:
    return Fault(script, says, outcome, status, code, **{"heard": "neutral", "billed": "free", "next": False, **more})


def _server(script: str, says: str, **more: Any) -> Fault:
    return Fault(script, says, "5xx", **{"billed": "free", **more})


FAULTS: tuple[Fault, ...] = (
    # no connection
    Fault("refused", "connection refused", "connect", billed="free", at="refused"),
    Fault("unknown_host", "the host name does not resolve", "dns", billed="free", at="unknown_host"),
    _time(
        "dropped",
        "nobody answers the connection's SYN",
        "connect_timeout",
        billed="free",
        at="dropped",
        timeouts={"connect": "300ms"},
    ),
    Fault("not_tls", "TLS fails", "tls", code="upstream_tls", billed="free", at="not_tls"),
    # a connection that broke
    Fault("reset_before_headers", "reset before the headers", "reset"),
    Fault("closed_before_headers", "closed before the headers", "reset"),
    Fault("reset_after_headers", "reset after the headers", "reset_body"),
    Fault("reset_before_content", "reset before the first content", "reset_stream", kinds=STREAM),
    _break("reset_after_content", "reset after content"),
    Fault("short_body", "fewer bytes than announced", "truncated", kinds=WHOLE),
    Fault("short_chunked_body", "chunked body without its end", "truncated", kinds=WHOLE),
    Fault("cut_before_content", "closed inside the stream before content", "truncated", kinds=STREAM),
    _break("cut_after_content", "closed inside the stream after content", "truncated"),
    Fault("ends_before_content", "stream ends without any content", "truncated", kinds=STREAM),
    _break("ends_after_content", "stream ends without finish reason and `[DONE]`", "truncated"),
    _good("missing_done", "finish reason, but no `[DONE]`", kinds=STREAM, events=("missing_done",)),
    # time
    _time("stall_before_head", "no headers in time", "ttfb_timeout"),
    _time("stall_after_head", "headers, then silence", "ttfb_timeout"),
    _time("pings_only", "comments, but no content", "ttfb_timeout", kinds=STREAM),
    _break("stall_after_content", "silence after content", "idle_timeout", timeouts=SILENT),
    _break("drip", "a byte at a time after content", "idle_timeout", timeouts=SILENT, kinds=STREAM),
    _break("endless", "content without end", "total_timeout", timeouts={"total": "5s"}),
    # limits
    _limit("limit_seconds", "429, `Retry-After: 7`", 7),
    _limit("limit_fraction", "429, `Retry-After: 2.5`", 2.5),
    _limit("limit_date", "429, `Retry-After` as a date, by a clock an hour behind", 20),
    _limit("limit_ms", "429, `retry-after-ms` beside `Retry-After`", 1.5),
    _limit("limit_azure_ms", "429, `x-ms-retry-after-ms`", 1.5),
    _limit("limit_reset_go", "429, `x-ratelimit-reset-requests: 1m6s`", 66),
    _limit("limit_reset_go_ms", "429, `x-ratelimit-reset-tokens: 2500ms`", 2.5),
    _limit("limit_reset_epoch", "429, reset as seconds since 1970", 36, 41),
    _limit("limit_reset_epoch_ms", "429, reset as milliseconds since 1970", 36, 41),
    _limit("limit_reset_rfc3339", "429, `anthropic-ratelimit-requests-reset`", 36, 41),
    _limit("limit_reset_not_spent", "429, a reset of a limit that is not used up", 1),
    _limit("limit_google", "429, Google's `retryDelay`", 33),
    _limit("limit_absurd", "429, a wait of thirty years", 300, events=("bad_retry_after",)),
    _limit("limit_negative", "429, a negative wait", 0.25, 1, events=("bad_retry_after",)),
    _limit("limit_nan", "429, `Retry-After: NaN`", 1, events=("bad_retry_after",)),
    _limit("limit_unsaid", "429 without a word about how long", 1),
    _latch("no_quota", "429 for lack of quota", "insufficient_quota", "quota", 429, "insufficient_quota", "auth_latched"),
    _latch("payment_required", "402", "insufficient_quota", "quota", 429, "insufficient_quota", "auth_latched"),
    Fault("overloaded_529", "529", "overloaded", 503, "overloaded", billed="free"),
    Fault("overloaded_503", "503", "overloaded", 503, "overloaded", billed="free"),
    Fault("overloaded_503_wait", "503 with `Retry-After: 9`", "overloaded", 503, "overloaded", "rate", "free", cooldown_s=(9, 9)),
    # what the provider says is wrong
    _server("status_500", "500"),
    _server("status_502", "502"),
    _server("html_502", "502 with a page of HTML"),
    _server("status_504", "504"),
    _server("status_520", "520"),
    _server("status_524", "524"),
    Fault("status_408", "408", "4xx_retryable", billed="free"),
    Fault("status_409", "409", "4xx_retryable", heard="neutral", billed="free"),
    Fault("status_425", "425", "4xx_retryable", billed="free"),
    _callers("status_400", "400", 400, "invalid_value"),
    _callers("status_405", "405", 405, "odd_request"),
    _callers("status_410", "410", 410, "invalid_request"),
    _callers("status_413", "413", 413, "odd_request"),
    _callers("status_415", "415", 415, "odd_request"),
    _callers("status_422", "422", 422, "odd_request"),
    _callers("context_length", "400, longer than the context", 400, "context_length_exceeded", "context_length"),
    _callers("content_policy", "400, content policy", 400, "content_policy", "policy"),
    _latch("status_401", "401", "auth", "auth", 502, "provider_auth", "auth_latched"),
    _latch("key_echoed", "401 that repeats our key", "auth", "auth", 502, "provider_auth", "auth_latched"),
    _latch("status_403", "403", "auth", "auth", 502, "provider_auth", "auth_latched"),
    _latch("status_404", "404", "config_error", "config", 502, "model_unavailable", "config_error"),
    Fault("redirect", "redirect to 169.254.169.254", "redirect", billed="free", events=("redirect",)),
    # errors dressed as answers
    _server("masked_error", "200 with a server error in it"),
    _limit("masked_limit", "200 with a rate limit in it", 1),
    _latch("masked_auth", "200 with a 401 in it", "auth", "auth", 502, "provider_auth", "auth_latched"),
    Fault("error_event_first", "error event before content", "overloaded", 503, "overloaded", billed="free", kinds=STREAM),
    _break("error_event_after_content", "error event after content"),
    # answers that are none
    Fault("empty_body", "200 without a body", "empty"),
    Fault("empty_stream", "a stream without events", "empty", kinds=STREAM),
    Fault("only_done", "a stream of `[DONE]` alone", "empty", kinds=STREAM),
    Fault("no_choices", "`choices: []`", "empty"),
    Fault("null_body", "a body of `null`", "empty", kinds=WHOLE),
    Fault("bad_json", "invalid JSON", "malformed"),
    Fault("html_200", "200 with a page of HTML", "bad_ctype"),
    Fault("gzip_unasked", "compressed without being asked", "too_large"),
    Fault("giant_event_first", "an event over 1 MiB before content", "too_large", kinds=STREAM),
    _break("giant_event_after_content", "an event over 1 MiB after content", "too_large"),
    Fault("giant_body", "a body over 32 MiB", "too_large", kinds=WHOLE),
    Fault(
        "interim_flood",
        "2,000 interim answers",
        "malformed",
        billed="free",
        timeouts={"first_token": "5s"},
        httpx={"outcome": "ttfb_timeout", "status": 504, "code": "upstream_timeout", "billed": "risk"},
    ),
    Fault("giant_head", "headers over 64 KiB", "malformed", billed="free"),
    Fault("not_http", "bytes that are not HTTP", "malformed", billed="free"),
    _break("malformed_events", "four events that cannot be read", "malformed_event", events=("malformed_event",)),
    # oddities that are answers all the same
    _good("one_malformed_event", "one event that cannot be read", kinds=STREAM, events=("malformed_event",)),
    _good("bad_utf8", "bytes that are not UTF-8", events=("bad_utf8",)),
    _good("lone_surrogate", "half a surrogate pair", events=("bad_utf8",)),
    _good("split_utf8", "a character cut in two between reads", kinds=STREAM, text="Hello fromé€🎉 upstream"),
    _good("json_to_stream", "plain JSON to a streamed request", kinds=STREAM),
    _good("empty_text", "a finish reason and no text", text=""),
    _good("close_delimited", "HTTP/1.0, ended by the close"),
    _good("no_usage", "no usage", billed="counted"),
    _good("absurd_usage", "absurd usage", billed="counted", events=("usage_suspect",)),
    _good("negative_usage", "negative usage", billed="counted", kinds=WHOLE),
)


# the rows of docs/failures.md that a fault of the table proves
ROWS: Mapping[str, tuple[str, ...]] = {
    "1": ("refused",),
    "2": ("unknown_host",),
    "3": ("dropped",),
    "4": ("not_tls",),
    "6": ("reset_before_headers", "closed_before_headers"),
    "7": ("reset_after_headers",),
    "8": ("reset_before_content",),
    "9": ("reset_after_content",),
    "10": ("short_body", "short_chunked_body", "cut_before_content", "cut_after_content"),
    "11": ("ends_before_content", "ends_after_content"),
    "11b": ("missing_done",),
    "12": ("stall_before_head", "stall_after_head"),
    "13": ("stall_after_content",),
    "14": ("drip", "endless"),
    "15": ("pings_only",),
    "16": ("limit_seconds", "limit_fraction"),
    "17": ("limit_date",),
    "18": ("limit_ms", "limit_azure_ms"),
    "19": (
        "limit_reset_go",
        "limit_reset_go_ms",
        "limit_reset_epoch",
        "limit_reset_epoch_ms",
        "limit_reset_rfc3339",
        "limit_reset_not_spent",
        "limit_google",
    ),
    "20": ("limit_absurd", "limit_negative", "limit_nan", "limit_unsaid"),
    "21": ("no_quota", "payment_required"),
    "22": ("overloaded_529", "overloaded_503", "overloaded_503_wait"),
    "23": ("status_500", "status_502", "status_504", "status_520", "status_524"),
    "24": ("html_502",),
    "25": ("status_400", "status_422", "context_length"),
    "25b": ("status_405", "status_410", "status_413", "status_415"),
    "26": ("content_policy",),
    "27": ("status_401", "status_403"),
    "28": ("key_echoed",),
    "29": ("status_404",),
    "30": ("status_408", "status_409", "status_425"),
    "31": ("masked_error", "masked_limit", "masked_auth"),
    "32": ("error_event_first",),
    "33": ("error_event_after_content",),
    "34": ("empty_body", "empty_stream", "only_done", "no_choices", "null_body"),
    "35": ("empty_text",),
    "36": ("bad_json",),
    "37": ("one_malformed_event", "malformed_events"),
    "38": ("bad_utf8", "lone_surrogate", "split_utf8"),
    "39": ("giant_event_first", "giant_event_after_content", "giant_body"),
    "40": ("gzip_unasked",),
    "41": ("html_200", "json_to_stream"),
    "42": ("close_delimited",),
    "43": ("interim_flood", "giant_head", "not_http"),
    "44": ("redirect",),
    "45": ("no_usage", "absurd_usage", "negative_usage"),
}


_HEARS = {
    "ok": "ok",
    "fail": "a fault",
    "neutral": "nothing",
    "rate": "cools",
    **{name: f"latched: {why}" for name, why in LATCHES.items()},
}
_BILLED = {"free": "free", "risk": "at risk", "estimated": "estimated", "provider": "as told", "counted": "counted"}


def documented(fault: Fault) -> str:
    """A fault's row in `docs/failover.md`."""
    if fault.outcome == "ok":
        seen = "the answer"
    elif fault.broken:
        seen = f"200, then an error event `{fault.code}`, no `[DONE]`"
    else:
        seen = f"{fault.status} `{fault.code}`"
    heard = _HEARS[fault.heard]
    if fault.cooldown_s is not None:
        least_s, most_s = fault.cooldown_s
        heard += f" {most_s:g} s" if least_s == most_s else f" up to {most_s:g} s"
    counted = ", ".join(f"`{event}`" for event in fault.events) or "–"
    kinds = " and ".join(fault.kinds) if len(fault.kinds) == 1 else "both"
    following = "tried" if fault.next else "–"
    return (
        f"| {fault.says} | {kinds} | {seen} | {following} | `{fault.outcome}` | {_BILLED[fault.billed]} | {heard} | {counted} |"
    )
