"""What the fake upstream does with a request, by the model's name: every way to answer badly, and a few to answer well."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
import zlib
from collections.abc import Callable
from email.utils import formatdate
from functools import cache
from typing import Any

from proxy.torture.upstream import (
    DONE,
    JSON,
    PAUSE_S,
    READ_S,
    SSE,
    STOLEN,
    TEXT,
    Call,
    Script,
    chunk_of,
    completion,
    delta,
    event,
    finish,
    rendered_head,
    role,
    usage,
)

SCRIPTS: dict[str, Script] = {}
SSE_WHOLE = {"content-type": "text/event-stream"}  # with a length


def script(function: Script) -> Script:
    SCRIPTS[function.__name__] = function
    return function


@script
async def ok(call: Call) -> None:
    if call.stream:
        await call.content()
        await call.rest()
    else:
        await call.json(200, completion())


@script
async def reset_before_headers(call: Call) -> None:
    call.reset()


@script
async def closed_before_headers(call: Call) -> None:
    call.close()


@script
async def reset_after_headers(call: Call) -> None:
    await call.head(200, SSE if call.stream else {**JSON, "content-length": "400"})
    await asyncio.sleep(READ_S)
    call.reset()


@script
async def reset_before_content(call: Call) -> None:
    await call.begin_stream()
    await call.event(role())
    await asyncio.sleep(READ_S)
    call.reset()


@script
async def reset_after_content(call: Call) -> None:
    await call.content()
    await asyncio.sleep(READ_S)
    call.reset()


@script
async def cut_after_content(call: Call) -> None:
    """Closed in good order, but in the middle of the chunked framing."""
    await call.content()
    call.close()


@script
async def cut_before_content(call: Call) -> None:
    await call.begin_stream()
    await call.event(role())
    call.close()


@script
async def short_body(call: Call) -> None:
    body = json.dumps(completion()).encode()
    await call.head(200, {**JSON, "content-length": str(len(body))})
    await call.send(body[:40])
    call.close()


@script
async def short_chunked_body(call: Call) -> None:
    await call.head(200, {**JSON, "transfer-encoding": "chunked"})
    await call.chunk(json.dumps(completion()).encode()[:40])
    call.close()


@script
async def ends_before_content(call: Call) -> None:
    """The framing is whole, the answer is not."""
    await call.begin_stream()
    await call.event(role())
    await call.end_stream()


@script
async def ends_after_content(call: Call) -> None:
    await call.content()
    await call.end_stream()


@script
async def done_after_content(call: Call) -> None:
    """An end mark without a finish reason."""
    await call.content()
    await call.chunk(DONE)
    await call.end_stream()


@script
async def missing_done(call: Call) -> None:
    await call.content(3)
    await call.event(finish())
    await call.event(usage())
    await call.end_stream()


# time


@script
async def stall_before_head(call: Call) -> None:
    await call.silence()


@script
async def stall_after_head(call: Call) -> None:
    await call.head(200, SSE if call.stream else {**JSON, "content-length": "400"})
    await call.silence()


@script
async def pings_only(call: Call) -> None:
    await call.begin_stream()
    while True:
        await call.chunk(b": still here\n\n")
        await asyncio.sleep(PAUSE_S)


@script
async def stall_after_content(call: Call) -> None:
    await call.content()
    await call.silence()


@script
async def drip(call: Call) -> None:
    """A byte at a time, and never a whole event."""
    if call.stream:
        await call.content()
    else:
        await call.head(200, {**JSON, "transfer-encoding": "chunked"})
    while True:
        await call.chunk(b" ")
        await asyncio.sleep(PAUSE_S)


@script
async def endless(call: Call) -> None:
    await call.content()
    while True:
        await call.event(delta("and so on "))
        await asyncio.sleep(PAUSE_S)


@script
async def flood(call: Call) -> None:
    """More than anybody reads, as quickly as it is taken."""
    await call.content()
    piece = event(delta("x" * 16_000))
    for _ in range(4_000):
        await call.chunk(piece)
    await call.silence()


# limits


def _limited(name: str, status: int, headers: Callable[[], dict[str, str]], **fields: Any) -> None:
    async def refuse(call: Call) -> None:
        await call.error(
            status, headers(), **{"message": "Rate limit reached", "type": "requests", "code": "rate_limit_exceeded", **fields}
        )

    SCRIPTS[name] = refuse


def _ago(seconds: float) -> str:
    return formatdate(time.time() + seconds, usegmt=True)


def _rfc3339(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))


_limited("limit_seconds", 429, lambda: {"retry-after": "7"})
_limited("limit_fraction", 429, lambda: {"retry-after": "2.5"})
# the upstream's clock is an hour behind: its own date is what counts
_limited("limit_date", 429, lambda: {"date": _ago(-3600), "retry-after": _ago(-3600 + 20)})
_limited("limit_ms", 429, lambda: {"retry-after-ms": "1500", "retry-after": "9"})
_limited("limit_azure_ms", 429, lambda: {"x-ms-retry-after-ms": "1500"})
_limited("limit_reset_go", 429, lambda: {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m6s"})
_limited("limit_reset_go_ms", 429, lambda: {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "2500ms"})
_limited(
    "limit_reset_epoch",
    429,
    lambda: {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": f"{time.time() + 40:.0f}"},
)
_limited(
    "limit_reset_epoch_ms", 429, lambda: {"x-ratelimit-remaining": "0", "x-ratelimit-reset": f"{(time.time() + 40) * 1000:.0f}"}
)
_limited(
    "limit_reset_rfc3339",
    429,
    lambda: {"anthropic-ratelimit-requests-remaining": "0", "anthropic-ratelimit-requests-reset": _rfc3339(40)},
)
_limited("limit_reset_not_spent", 429, lambda: {"x-ratelimit-remaining-requests": "5", "x-ratelimit-reset-requests": "6m0s"})
_limited("limit_google", 429, dict, details=[{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "33s"}])
_limited("limit_absurd", 429, lambda: {"retry-after": "1000000000"})
_limited("limit_negative", 429, lambda: {"retry-after": "-5"})
_limited("limit_nan", 429, lambda: {"retry-after": "NaN"})
_limited("limit_unsaid", 429, dict)
_limited("no_quota", 429, dict, message="You exceeded your current quota", type="insufficient_quota", code="insufficient_quota")
_limited("payment_required", 402, dict, message="Insufficient balance", code=None)
_limited("overloaded_529", 529, dict, message="Overloaded", type="overloaded_error", code=None)
_limited("overloaded_503", 503, dict, message="Busy", type=None, code=None)
_limited("overloaded_503_wait", 503, lambda: {"retry-after": "9"}, message="Busy", type=None, code=None)


# what a provider says is wrong


def _refused(status: int, name: str | None = None, **fields: Any) -> None:
    async def refuse(call: Call) -> None:
        await call.error(status, **fields)

    SCRIPTS[name or f"status_{status}"] = refuse


for _status in (408, 409, 410, 425, 500, 502, 504, 520, 521, 522, 523, 524):
    _refused(_status, message=f"The upstream's own words about {_status}")
for _status in (405, 413, 415, 422):
    _refused(_status, message="The upstream's own words", type="invalid_request_error", param="messages", code="odd_request")
_refused(400, message="Unknown value of `temperature`", type="invalid_request_error", param="temperature", code="invalid_value")
_refused(400, "context_length", message="maximum context length is 8192 tokens", code="context_length_exceeded")
_refused(400, "content_policy", message="flagged by our content policy", code="content_policy_violation")
_refused(401, message="Incorrect API key provided", code="invalid_api_key")
_refused(403, message="Your organisation may not", code=None)
_refused(404, message="The model `x` does not exist", code="model_not_found")


@script
async def key_echoed(call: Call) -> None:
    key = call.headers.get("authorization", "").removeprefix("Bearer ")
    await call.error(401, message=f"Incorrect API key provided: {key}. Mind the key {key}!", code=key)


@script
async def key_echoed_in_400(call: Call) -> None:
    key = call.headers.get("authorization", "").removeprefix("Bearer ")
    await call.error(400, message=f"Bad request with {key}", param=key, code=key)


@script
async def html_502(call: Call) -> None:
    await call.whole(502, b"<html><body><h1>502 Bad Gateway</h1>secret-hostname</body></html>", {"content-type": "text/html"})


@script
async def redirect(call: Call) -> None:
    await call.whole(302, b"", {"location": "http://169.254.169.254/latest/meta-data/"})


@script
async def redirect_here(call: Call) -> None:
    """To an address that is there, and counts who follows."""
    await call.whole(307, b"", {"location": f"http://{call.headers.get('host', '')}{STOLEN}{call.model}"})


# errors dressed as answers


@script
async def masked_error(call: Call) -> None:
    await call.json(200, {"error": {"message": "Internal failure", "type": "server_error", "code": None}})


@script
async def masked_limit(call: Call) -> None:
    await call.json(200, {"error": {"message": "Too many requests", "type": "rate_limit_error", "code": 429}})


@script
async def masked_auth(call: Call) -> None:
    await call.json(200, {"error": {"message": "No auth credentials found", "code": 401}})


@script
async def error_event_first(call: Call) -> None:
    await call.begin_stream()
    await call.event(role())
    await call.event({"error": {"message": "Overloaded", "type": "overloaded_error"}})
    await call.end_stream()


@script
async def key_in_error_event(call: Call) -> None:
    key = call.headers.get("authorization", "").removeprefix("Bearer ")
    await call.content()
    await call.event({"error": {"message": f"Account of {key} is closed", "type": "server_error", "code": key}})
    await call.end_stream()


@script
async def error_event_after_content(call: Call) -> None:
    await call.content()
    await call.event({"error": {"message": "Overloaded, says secret-hostname", "type": "overloaded_error"}})
    await call.end_stream()


# answers that are none


@script
async def empty_body(call: Call) -> None:
    await call.whole(200, b"", JSON)


@script
async def empty_stream(call: Call) -> None:
    await call.begin_stream()
    await call.end_stream()


@script
async def only_done(call: Call) -> None:
    await call.begin_stream()
    await call.chunk(DONE)
    await call.end_stream()


@script
async def no_choices(call: Call) -> None:
    if call.stream:
        await call.begin_stream()
        await call.event(chunk_of([]))
        await call.chunk(DONE)
        await call.end_stream()
    else:
        await call.json(200, completion(choices=[]))


@script
async def null_body(call: Call) -> None:
    await call.whole(200, b"null")


@script
async def bad_json(call: Call) -> None:
    await call.whole(200, b'{"id": "chatcmpl-1", "choices": [{"index": 0,')


@script
async def html_200(call: Call) -> None:
    await call.whole(200, b"<html>Sign in to the Wi-Fi of secret-hostname</html>", {"content-type": "text/html; charset=utf-8"})


@script
async def gzip_unasked(call: Call) -> None:
    await call.whole(200, gzip.compress(json.dumps(completion()).encode()), {**JSON, "content-encoding": "gzip"})


@script
async def gzip_bomb(call: Call) -> None:
    """A tenth of a megabyte that unpacks to a hundred."""
    await call.whole(200, bomb(), {**(SSE_WHOLE if call.stream else JSON), "content-encoding": "gzip"})


@cache
def bomb() -> bytes:
    packed = zlib.compressobj(wbits=31)  # 31: as gzip
    piece = b"x" * (1 << 20)
    start = packed.compress(b'{"choices": [{"message": {"content": "')
    return start + b"".join([packed.compress(piece) for _ in range(100)]) + packed.flush()


@script
async def stream_to_whole(call: Call) -> None:
    """Events, where one object was asked for."""
    await call.content()
    await call.rest()


@script
async def deep_answer(call: Call) -> None:
    """Nested deeper than any parser goes."""
    await call.whole(200, b'{"choices": ' + b"[" * 100_000)


@script
async def giant_event_first(call: Call) -> None:
    await call.begin_stream()
    await _giant(call)


@script
async def giant_event_after_content(call: Call) -> None:
    await call.content()
    await _giant(call)


async def _giant(call: Call) -> None:
    await call.chunk(b'data: {"choices": [{"delta": {"content": "')
    for _ in range(20):
        await call.chunk(b"x" * 65536)
    await call.silence()


@script
async def giant_body(call: Call) -> None:
    await call.head(200, {**JSON, "transfer-encoding": "chunked"})
    piece = b"x" * (1 << 20)
    for _ in range(40):
        await call.chunk(piece)
    await call.end_stream()


@script
async def interim_flood(call: Call) -> None:
    await call.send(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" * 2000)
    await call.silence()


@script
async def giant_head(call: Call) -> None:
    await call.send(rendered_head(200, {**JSON, **{f"x-{number}": "y" * 8000 for number in range(12)}}))
    await call.silence()


@script
async def many_headers(call: Call) -> None:
    await call.send(rendered_head(200, {**JSON, **{f"x-{number}": "y" for number in range(5_000)}}))
    await call.silence()


@script
async def two_framings(call: Call) -> None:
    """Content-length beside transfer-encoding: two readers may see two different answers."""
    body = json.dumps(completion()).encode()
    await call.send(rendered_head(200, {**JSON, "content-length": "5", "transfer-encoding": "chunked"}))
    await call.chunk(body)
    await call.end_stream()


@script
async def huge_chunk(call: Call) -> None:
    """A chunk that says it has more bytes than there are numbers for."""
    await call.head(200, {**JSON, "transfer-encoding": "chunked"})
    await call.send(b"f" * 40 + b"\r\n{")
    await call.silence()


@script
async def not_http(call: Call) -> None:
    await call.send(b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n")
    await call.silence()


@script
async def malformed_events(call: Call) -> None:
    await call.content()
    for number in range(4):
        await call.chunk(b"data: {not json %d\n\n" % number)
    await call.rest()


# oddities that are answers all the same


@script
async def one_malformed_event(call: Call) -> None:
    await call.content()
    await call.chunk(b"data: {not json\n\n")
    await call.rest()


@script
async def bad_utf8(call: Call) -> None:
    if call.stream:
        await call.content()
        await call.chunk(event(delta("§")).replace(b"\\u00a7", b"\xff\xfe"))
        await call.rest()
    else:
        await call.whole(200, json.dumps(completion("§")).encode().replace(b"\\u00a7", b"\xff\xfe"))


@script
async def lone_surrogate(call: Call) -> None:
    if call.stream:
        await call.content()
        await call.chunk(event(delta("§")).replace(b"\\u00a7", b"\\ud83d"))
        await call.rest()
    else:
        await call.whole(200, json.dumps(completion("§")).encode().replace(b"\\u00a7", b"\\ud83d"))


@script
async def split_utf8(call: Call) -> None:
    """A character cut in two by the network is no fault."""
    await call.content()
    whole = json.dumps(delta("é€🎉"), ensure_ascii=False).encode()
    whole = b"data: " + whole + b"\n\n"
    cut = whole.index("🎉".encode()) + 2
    await call.chunk(whole[:cut])
    await asyncio.sleep(PAUSE_S)
    await call.chunk(whole[cut:])
    await call.rest()


@script
async def byte_by_byte(call: Call) -> None:
    """Every byte of the answer in a chunk of its own."""
    await call.begin_stream()
    values = (role(), *map(delta, TEXT), finish(), usage())
    for byte in b"".join(map(event, values)) + DONE:
        call.writer.write(b"1\r\n%c\r\n" % byte)
        await asyncio.sleep(0)
    await call.end_stream()


@script
async def odd_line_ends(call: Call) -> None:
    """Carriage returns, comments, names of events and no blank after the colon: all of it allowed."""
    await call.begin_stream()
    await call.chunk(b": hello\r\n\r\n")
    for value in (role(), *map(delta, TEXT), finish(), usage()):
        await call.chunk(b"event: chunk\r\nid: 7\r\ndata:" + json.dumps(value).encode() + b"\r\n\r\n")
    await call.chunk(b"data:[DONE]\r\n\r\n")
    await call.end_stream()


@script
async def early_hints(call: Call) -> None:
    """A few interim answers, and then the real one."""
    await call.send(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" * 3)
    await ok(call)


@script
async def after_done(call: Call) -> None:
    """Something follows the end mark."""
    await call.content(3)
    await call.event(finish())
    await call.chunk(DONE + event(delta(" and more")))
    await call.end_stream()


@script
async def json_to_stream(call: Call) -> None:
    await call.json(200, completion())


@script
async def empty_text(call: Call) -> None:
    if call.stream:
        await call.begin_stream()
        await call.event(role())
        await call.event(finish())
        await call.event(usage())
        await call.chunk(DONE)
        await call.end_stream()
    else:
        await call.json(200, completion(""))


@script
async def close_delimited(call: Call) -> None:
    """HTTP/1.0: the end of the body is the end of the connection."""
    if call.stream:
        await call.send(rendered_head(200, {"content-type": "text/event-stream"}, "1.0"))
        for value in (role(), delta("".join(TEXT)), finish(), usage()):
            await call.send(event(value))
        await call.send(DONE)
    else:
        await call.send(rendered_head(200, JSON, "1.0") + json.dumps(completion()).encode())
    call.close()


@script
async def no_usage(call: Call) -> None:
    if call.stream:
        await call.content(3)
        await call.event(finish())
        await call.chunk(DONE)
        await call.end_stream()
    else:
        await call.json(200, {key: value for key, value in completion().items() if key != "usage"})


@script
async def absurd_usage(call: Call) -> None:
    absurd = {"prompt_tokens": 90_000_000, "completion_tokens": 7, "total_tokens": 90_000_007}
    if call.stream:
        await call.content(3)
        await call.event(finish())
        await call.event(usage(absurd))
        await call.chunk(DONE)
        await call.end_stream()
    else:
        await call.json(200, completion(usage=absurd))


@script
async def negative_usage(call: Call) -> None:
    await call.json(200, completion(usage={"prompt_tokens": -4, "completion_tokens": 7, "total_tokens": 3}))


@script
async def limit_spent_by_this(call: Call) -> None:
    """A good answer which says that it was the last for a while."""
    headers = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m6s"}
    await call.json(200, completion(), headers)


@script
async def stale(call: Call) -> None:
    """Closes a connection that has served before as soon as it is used again."""
    if call.nth > 1:
        call.close()
    else:
        await ok(call)


@script
async def fails_once(call: Call) -> None:
    """A 500, then good answers; with `limit_once` a short rate limit."""
    if call.upstream.requests[call.model] == 1:
        await call.error(500)
    else:
        await ok(call)


@script
async def limit_once(call: Call) -> None:
    if call.upstream.requests[call.model] == 1:
        await call.error(429, {"retry-after-ms": "300"}, code="rate_limit_exceeded")
    else:
        await ok(call)


@script
async def wants_fine_key(call: Call) -> None:
    if call.headers.get("authorization") == "Bearer sk-fine":
        await ok(call)
    else:
        await call.error(401, message="Incorrect API key provided", code="invalid_api_key")


# held until the test says so


@script
async def hold_before_head(call: Call) -> None:
    await call.held()
    await ok(call)


@script
async def hold_before_content(call: Call) -> None:
    await call.begin_stream()
    await call.event(role())
    await call.held()
    await call.event(delta(TEXT[0]))
    await call.rest()


@script
async def hold_after_content(call: Call) -> None:
    await call.content()
    await call.held()
    await call.rest()
