"""What a gateway is put through, and what is due to its caller: one table for the runner, the judge and the gateway's configuration.

Every scenario of an upstream is a *case* for each kind of request, once *alone* and, where another target may answer, once *backed* by
a good one. A case has a model name of its own, so that no breaker, cooldown or latch of the gateway carries over from one to the next.

    told       alone: does the caller hear the truth, in time, and nothing that is none of its business?
    failover   backed: is the good target asked, unseen?
    leaving    the caller hangs up: does the gateway let go of the upstream?
    caller     the caller is at fault, or hostile: is it refused, and the upstream left in peace?
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from proxy.torture.caller import MESSAGES
from proxy.torture.upstream import STOLEN

Kind = Literal["whole", "stream"]
Group = Literal["told", "failover", "leaving", "caller"]
GROUPS: tuple[Group, ...] = ("told", "failover", "leaving", "caller")
# where a case's upstream is: the one that lies, or an address at which nothing good can happen
Place = Literal["upstream", "refused", "unknown_host", "not_tls"]
Due = Literal["answer", "fault", "timeout", "limit", "busy", "callers", "broken"]
"""What the caller must get when there is no other target.

    answer    200, whole, with the text and its end       busy      a status of 429 or 5xx
    fault     a status of 5xx                             callers   the upstream's own 4xx
    timeout   a status of 5xx or 408, and in time         broken    200, the text so far, and no end that looks whole; or 5xx
    limit     429, with a wait where one was named
"""
PREFIX = "torture-"
GOOD = "torture-good"  # the target behind each backed case
CALLER = "torture-caller"  # the model of a caller who makes mistakes, and of nobody else: the upstream must not hear of it
TEXT = "Hello from upstream"


@dataclass(frozen=True, slots=True)
class Scenario:
    """`wait_s`: the wait that a `limit` names, None for none. `next`: another target may answer. `short`: the clocks of the gateway that
    must be short for this, in seconds, so that nobody waits for the usual ones. `text` None: whatever it says."""

    script: str
    says: str
    due: Due = "fault"
    kinds: tuple[Kind, ...] = ("whole", "stream")
    next: bool = True
    wait_s: float | None = None
    statuses: tuple[int, ...] = ()
    text: str | None = TEXT
    at: Place = "upstream"
    short: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Case:
    """One request. `name` is the model that the caller asks for and, behind the gateway, the one that the upstream is asked for."""

    scenario: Scenario
    kind: Kind
    group: Group

    @property
    def name(self) -> str:
        return f"{PREFIX}{self.scenario.script}-{self.kind}" + {"failover": "-backed", "leaving": "-left"}.get(self.group, "")


_WHOLE: tuple[Kind, ...] = ("whole",)
_STREAM: tuple[Kind, ...] = ("stream",)
_SHORT = {"first_token": 1.0}


def _answer(script: str, says: str, *kinds: Kind, text: str | None = TEXT) -> Scenario:
    return Scenario(script, says, "answer", kinds or ("whole", "stream"), next=False, text=text)


def _broken(script: str, says: str, **short: float) -> Scenario:
    return Scenario(script, says, "broken", _STREAM, next=False, short=short)


def _limit(script: str, says: str, wait_s: float | None = None) -> Scenario:
    return Scenario(script, says, "limit", wait_s=wait_s)


def _callers(script: str, says: str, *statuses: int) -> Scenario:
    return Scenario(script, says, "callers", next=False, statuses=statuses)


SCENARIOS: tuple[Scenario, ...] = (
    # what must simply work
    _answer("ok", "a good answer"),
    _answer("missing_done", "a stream that ends rightly, but without its `[DONE]`", "stream"),
    _answer("one_malformed_event", "one event among good ones that cannot be read", "stream"),
    _answer("bad_utf8", "bytes that are not UTF-8"),
    _answer("lone_surrogate", "half a surrogate pair"),
    _answer("split_utf8", "a character cut in two between reads", "stream", text="Hello fromé€🎉 upstream"),
    _answer("byte_by_byte", "a stream that comes byte by byte", "stream"),
    _answer("odd_line_ends", "carriage returns, comments, no blank after the colon", "stream"),
    _answer("after_done", "something after the end mark", "stream"),
    _answer("early_hints", "three interim answers before the real one"),
    _answer("close_delimited", "HTTP/1.0, ended by the close"),
    _answer("empty_text", "a finish reason and no text", text=""),
    _answer("no_usage", "no usage"),
    _answer("absurd_usage", "absurd usage"),
    # no connection
    Scenario("refused", "connection refused", at="refused"),
    Scenario("unknown_host", "the host name does not resolve", at="unknown_host"),
    Scenario("not_tls", "TLS fails", at="not_tls"),
    # a connection that breaks
    Scenario("reset_before_headers", "reset before the headers"),
    Scenario("closed_before_headers", "closed before the headers"),
    Scenario("reset_after_headers", "reset after the headers"),
    Scenario("reset_before_content", "reset before the first content", kinds=_STREAM),
    Scenario("short_body", "fewer bytes than announced", kinds=_WHOLE),
    Scenario("short_chunked_body", "a chunked body without its end", kinds=_WHOLE),
    Scenario("cut_before_content", "closed inside the stream before content", kinds=_STREAM),
    Scenario("ends_before_content", "a stream that ends without any content", kinds=_STREAM),
    _broken("reset_after_content", "reset after content"),
    _broken("cut_after_content", "closed inside the stream after content"),
    _broken("ends_after_content", "a stream that ends without finish reason and `[DONE]`"),
    # time
    Scenario("stall_before_head", "no headers in time", "timeout", short=_SHORT),
    Scenario("stall_after_head", "headers, then silence", "timeout", short=_SHORT),
    Scenario("pings_only", "comments, but no content", "timeout", _STREAM, short=_SHORT),
    _broken("stall_after_content", "silence after content", between_tokens=1.0),
    _broken("drip", "a byte at a time after content", between_tokens=1.0),
    _broken("endless", "content without end", total=5.0),
    # limits
    _limit("limit_seconds", "429, `Retry-After: 7`", 7),
    _limit("limit_date", "429, `Retry-After` as a date, by a clock an hour behind", 20),
    _limit("limit_ms", "429, `retry-after-ms`", 2),
    _limit("limit_absurd", "429, a wait of thirty years"),
    _limit("limit_nan", "429, `Retry-After: NaN`"),
    _limit("limit_unsaid", "429 without a word about how long"),
    Scenario("no_quota", "429 for lack of quota", "busy"),
    Scenario("overloaded_529", "529", "busy"),
    Scenario("overloaded_503_wait", "503 with `Retry-After: 9`", "busy"),
    # what the provider says is wrong
    Scenario("status_500", "500"),
    Scenario("html_502", "502 with a page of HTML"),
    Scenario("status_524", "524"),
    _callers("status_400", "400", 400),
    _callers("status_422", "422", 422, 400),
    _callers("context_length", "400, longer than the context", 400),
    _callers("key_echoed_in_400", "400 that repeats the gateway's key", 400),
    Scenario("status_401", "401: the gateway's key is refused"),
    Scenario("key_echoed", "401 that repeats the gateway's key"),
    Scenario("status_404", "404: the provider does not know the model"),
    Scenario("redirect_here", "a redirect to somewhere else"),
    # errors dressed as answers
    Scenario("masked_error", "200 with a server error in it"),
    Scenario("masked_limit", "200 with a rate limit in it", "busy"),
    Scenario("error_event_first", "an error event before content", "busy", _STREAM),
    _broken("error_event_after_content", "an error event after content"),
    _broken("key_in_error_event", "an error event that repeats the gateway's key"),
    # answers that are none
    Scenario("empty_body", "200 without a body"),
    Scenario("empty_stream", "a stream without events", kinds=_STREAM),
    Scenario("only_done", "a stream of `[DONE]` alone", kinds=_STREAM),
    Scenario("no_choices", "`choices: []`"),
    Scenario("null_body", "a body of `null`", kinds=_WHOLE),
    Scenario("bad_json", "invalid JSON"),
    Scenario("deep_answer", "JSON nested a hundred thousand deep"),
    Scenario("html_200", "200 with a page of HTML"),
    Scenario("stream_to_whole", "a stream, where one object was asked for", kinds=_WHOLE),
    Scenario("gzip_bomb", "a tenth of a megabyte that unpacks to a hundred"),
    Scenario("giant_event_first", "an event over 1 MiB without end", kinds=_STREAM, short={"first_token": 5.0}),
    Scenario("giant_body", "a body over 32 MiB that is no JSON", kinds=_WHOLE),
    Scenario("interim_flood", "2,000 interim answers", short={"first_token": 5.0}),
    Scenario("giant_head", "headers over 64 KiB", short={"first_token": 5.0}),
    Scenario("many_headers", "5,000 headers", short={"first_token": 5.0}),
    Scenario("two_framings", "content-length beside transfer-encoding"),
    Scenario("huge_chunk", "a chunk of more bytes than there are", short={"first_token": 5.0}),
    Scenario("not_http", "bytes that are not HTTP", short={"first_token": 5.0}),
)

LEAVINGS: tuple[Scenario, ...] = (
    Scenario("hold_before_head", "the caller leaves before the first byte", next=False),
    Scenario("hold_after_content", "the caller leaves in the middle of a stream", kinds=_STREAM, next=False),
)


@dataclass(frozen=True, slots=True)
class Mistake:
    """What a caller sends, after `POST …/chat/completions HTTP/1.1` and its host. `length` False: the headers say how long the body is.
    `statuses`: what may be answered; 0 is a hang-up without a word. `served`: it may be answered as if nothing were odd."""

    name: str
    says: str
    body: bytes
    statuses: tuple[int, ...] = (400, 422)
    headers: tuple[tuple[str, str], ...] = ()
    length: bool = True
    served: bool = False
    half_close: bool = False


def _body(more: str = "", *, model: str = CALLER) -> bytes:
    asked = json.dumps({"model": model, "messages": MESSAGES})
    return f"{asked[:-1]}{', ' if more else ''}{more}}}".encode()


_DEPTH = 100_000
REDIRECTIONS = ("api_base", "base_url", "api_key", "endpoint", "azure_endpoint", "custom_host", "url", "proxy")


def _redirecting(upstream: str) -> bytes:
    stolen = upstream.removesuffix("/v1") + STOLEN + "body"
    return _body(", ".join(f'"{name}": "{stolen}"' for name in REDIRECTIONS))


def mistakes(upstream: str) -> Iterator[Mistake]:
    """`upstream`: the address of the one that lies, for callers who try to have another one asked."""
    smuggled = (400, 0)
    yield Mistake("empty", "no body at all", b"")
    yield Mistake("truncated", "JSON that breaks off", _body()[:-3])
    yield Mistake("trailing", "JSON with something behind it", _body() + b"{}")
    yield Mistake("nan", "NaN as a number", _body('"temperature": NaN'))
    yield Mistake("a_list", "a list instead of an object", b"[]")
    yield Mistake("too_deep", "JSON nested a hundred thousand deep", _body(f'"x": {"[" * _DEPTH}{"]" * _DEPTH}'), (400, 413, 422))
    yield Mistake("no_messages", "no messages", b'{"model": "%b"}' % CALLER.encode())
    yield Mistake("unknown_model", "a model that nobody configured", _body(model="no-such-model"), (400, 403, 404))
    yield Mistake("long_model", "a model name of a megabyte", _body(model="m" * 1_000_000), (400, 403, 404, 413, 422))
    yield Mistake(
        "hostile_model", "a model name with line ends and zeros", _body(model="a\r\nx-evil: 1\x00"), (400, 403, 404, 422)
    )
    yield Mistake("redirection", "fields that name another address", _redirecting(upstream), (400, 401, 403, 422), served=True)
    yield Mistake(
        "two_lengths",
        "two content-lengths",
        _body(),
        smuggled,
        (("content-length", "4"), ("content-length", "900")),
        length=False,
    )
    yield Mistake(
        "length_and_chunked",
        "content-length beside transfer-encoding",
        b"0\r\n\r\n",
        smuggled,
        (("content-length", "900"), ("transfer-encoding", "chunked")),
        length=False,
    )
    yield Mistake(
        "many_headers", "2,000 headers", _body(), (400, 431, 0), tuple((f"x-{n}", "y") for n in range(2_000)), served=True
    )
    yield Mistake("large_header", "a header of 200 KB", _body(), (400, 431, 0), (("x-large", "y" * 200_000),))
    yield Mistake(
        "half", "half a body, and a hang-up", _body()[:20], (400, 0), (("content-length", "900"),), length=False, half_close=True
    )


def cases(*, failover: bool = True) -> Iterator[Case]:
    """All that have a model name of their own: these must be in the gateway's configuration."""
    for scenario in SCENARIOS:
        for kind in scenario.kinds:
            yield Case(scenario, kind, "told")
            if failover and scenario.next:
                yield Case(scenario, kind, "failover")
    for scenario in LEAVINGS:
        for kind in scenario.kinds:
            yield Case(scenario, kind, "leaving")
