"""What is fuzzed: for each door that foreign bytes come through, a check that must hold for any bytes at all.

A check raises when it does not hold, and returns nothing. Everywhere it is the same promise: no exception but the typed ones, nothing
that grows beyond its bound, and the same answer however the bytes were cut. `http.py` holds those that need an event loop.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from ipaddress import ip_address
from math import isfinite
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zlib import crc32

import orjson

from proxy.accounting.journal import HEAD, MAGIC, frames, split_frames
from proxy.accounting.usage import usage_from_openai
from proxy.config.environment import parse_env
from proxy.config.faults import ConfigError, ConfigFault
from proxy.config.key_rules import wanted_of
from proxy.config.key_store import _Unreadable, keyring_of, text_of
from proxy.config.keyring import Keyring, KeySecret, RuntimeKey
from proxy.config.load import load
from proxy.config.settings import PerAddress
from proxy.core.chat import ChatRequest
from proxy.core.errors import CallerError, CannotCarry, ErrorClass, InvalidValue, ModelNotFound, ProxyError, UpstreamError
from proxy.core.limits import Budget, RateLimits
from proxy.core.redact import Redactor
from proxy.core.target import Provider, Target
from proxy.core.usage import Usage
from proxy.dialects.anthropic.dialect import AnthropicMessages
from proxy.dialects.base import MAX_KEPT_TEXT_BYTES, AnswerStream, InboundDialect, OutboundDialect
from proxy.dialects.bedrock.dialect import BedrockConverse
from proxy.dialects.bedrock.embeddings import BedrockEmbeddings
from proxy.dialects.cohere.dialect import CohereChat
from proxy.dialects.gemini.dialect import Gemini
from proxy.dialects.native_embeddings import CohereEmbeddings, GeminiEmbeddings, OllamaEmbeddings, VertexEmbeddings
from proxy.dialects.ollama.dialect import OllamaChat
from proxy.dialects.openai_chat import AzureChat, OpenAIChat
from proxy.dialects.openai_embeddings import AzureEmbeddings, OpenAIEmbeddings, OpenAIEmbeddingsInbound
from proxy.dialects.openai_request import FORBIDDEN, OpenAIChatInbound, error_object
from proxy.dialects.vertex import Vertex
from proxy.engine.answers import error_headers, header_value
from proxy.monitoring.query import read_query
from proxy.routing.retry_after import clamp_cooldown, retry_after_s
from proxy.routing.verdict import client_error, judge
from proxy.server.addresses import Addresses
from proxy.storage.fold import Batch
from tests.fuzz import http, seeds
from tests.fuzz.mutation import TOKENS, cut_places, pieces_of

SECRET = "canary-7f3a9c51d2e84b06"
WALL = 1_760_000_000.0
_BODY_RATIO, _BODY_SLACK = 64, 64 * 1024  # an answer may grow by being told in other words, but not without measure
_PATH = re.compile(r"/[A-Za-z0-9._~:@!$&'()*+,;=%/-]*(\?[A-Za-z0-9._~=&%-]*)?")


@dataclass(frozen=True)
class FuzzTarget:
    """`examples`: how many mutants `make test` tries; the slower a check, the fewer."""

    name: str
    check: Callable[[bytes], None]
    seeds: Callable[[], Sequence[bytes]]
    tokens: Sequence[bytes] = TOKENS
    examples: int = 80


# -- requests


@dataclass(frozen=True)
class Place:
    """A dialect and a target that speaks it."""

    name: str
    dialect: OutboundDialect
    target: Target


def _target(name: str, model: str, **more: Any) -> Target:
    provider = Provider(name, name, f"https://{name}.example", (), region="us-east-1", project="p", location="l", **more)
    return Target(provider, model, model)


CHAT_PLACES = (
    Place("openai", OpenAIChat(usage_from_openai), _target("openai", "gpt-4o")),
    Place("azure", AzureChat(usage_from_openai), _target("azure", "gpt-4o", api_version="2024-10-21")),
    Place("anthropic", AnthropicMessages(), _target("anthropic", "claude-sonnet-4-5")),
    Place("gemini", Gemini(), _target("gemini", "gemini-2.5-pro")),
    Place("vertex", Vertex(), _target("vertex", "claude-sonnet-4-5@20250929")),
    Place("cohere", CohereChat(), _target("cohere", "command-a-reasoning-08-2025")),
    Place("ollama", OllamaChat(), _target("ollama", "qwen3:14b")),
    Place("bedrock", BedrockConverse(), _target("bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0")),
)
EMBEDDING_PLACES = (
    Place("openai", OpenAIEmbeddings(usage_from_openai), _target("openai", "text-embedding-3-small")),
    Place("azure", AzureEmbeddings(usage_from_openai), _target("azure", "text-embedding-3-small")),
    Place("gemini", GeminiEmbeddings(Gemini()), _target("gemini", "gemini-embedding-001")),
    Place("vertex", VertexEmbeddings(Vertex()), _target("vertex", "text-embedding-005")),
    Place("cohere", CohereEmbeddings(CohereChat()), _target("cohere", "embed-v4.0")),
    Place("ollama", OllamaEmbeddings(OllamaChat()), _target("ollama", "nomic-embed-text")),
    Place("bedrock", BedrockEmbeddings(BedrockConverse()), _target("bedrock", "amazon.titan-embed-text-v2:0")),
)


def told(error: ProxyError, *, most: int = 599) -> bytes:
    """An error as its caller gets it: a status of HTTP, headers that are headers, a body that is JSON."""
    assert 400 <= error.status <= most, error.status
    for name, value in error_headers("ID", error):
        assert re.fullmatch(rb"[\x20-\x7e]*", value), (name, value)
    body = orjson.dumps(error_object(error))
    assert set(orjson.loads(body)["error"]) == {"message", "type", "param", "code"}
    assert "\n" not in error.message
    return body


def check_request(inbound: InboundDialect, places: Sequence[Place], data: bytes) -> None:
    """A body is refused with 4xx, or becomes a request that every dialect writes down, refuses, or says that it cannot carry."""
    try:
        request = inbound.decode_request(data)
    except CallerError as error:
        told(error, most=499)
        return
    assert FORBIDDEN.isdisjoint(request.body)
    before = orjson.dumps(request.body)
    for place in places:
        check_encoding(request, place, len(data))
        assert orjson.dumps(request.body) == before, f"{place.name} changed the request that others are still to get"


def check_encoding(request: ChatRequest, place: Place, size: int) -> None:
    try:
        made = place.dialect.encode_request(request, place.target)
    except CannotCarry:
        return
    except CallerError as error:
        told(error)
        return
    check_path(made.path)
    body = orjson.loads(made.body)
    assert type(body) is dict
    assert len(made.body) <= _BODY_RATIO * size + _BODY_SLACK
    for name in made.dropped:
        header_value(name)


def check_path(path: str) -> None:
    """It stands in a request line, under the provider's own address and nowhere above it."""
    assert _PATH.fullmatch(path), path
    assert not {".", ".."} & set(path.partition("?")[0].replace("%2F", "/").replace("%2E", ".").split("/")), path


def check_model_name(data: bytes) -> None:
    """Whatever is asked for is a chain, a target, or not found; and no name leaves its place in a path or header."""
    name = data.decode("utf-8", "replace")
    try:
        request = OpenAIChatInbound().decode_request(
            orjson.dumps({"model": name, "messages": [{"role": "user", "content": "Hi"}]})
        )
    except CallerError as error:
        told(error)
        return
    assert request.model == name
    assert name.isprintable()
    assert len(name.encode()) <= 256
    chain = http.settings().resolve(name)
    for target in chain.targets if chain is not None else ():
        for place in CHAT_PLACES:
            if place.name == target.provider.dialect:
                check_encoding(request, Place(place.name, place.dialect, target), len(data))
        assert target.label == "other" or target.label in http.LABELS
        header_value(target.name)
        told(ModelNotFound(name))


# -- answers


def _request(*, stream: bool, embeddings: bool = False) -> ChatRequest:
    if embeddings:
        return OpenAIEmbeddingsInbound().decode_request(seeds.EMBEDDINGS[1])
    body = {"model": "smart", "messages": [{"role": "user", "content": "Hi"}], "stream": stream}
    if stream:
        body["stream_options"] = {"include_usage": True}
    request = OpenAIChatInbound().decode_request(orjson.dumps(body))
    request.id, request.created = "01JZ0000000000000000000000", 1_750_000_000
    return request


def check_usage(usage: Usage | None) -> None:
    if usage is None:
        return
    assert 0 <= usage.cached_input_tokens + usage.cache_write_tokens <= usage.input_tokens
    assert 0 <= usage.reasoning_tokens <= usage.output_tokens


def check_whole(place: Place, data: bytes, *, embeddings: bool = False) -> None:
    """A body becomes an answer in OpenAI's words, or is the upstream's fault."""
    request = _request(stream=False, embeddings=embeddings)
    try:
        answer = place.dialect.decode_answer(data, request, place.target)
    except UpstreamError as error:
        check_failure(error)
        return
    found = orjson.loads(answer.body)
    assert type(found) is dict
    assert len(answer.body) <= _BODY_RATIO * len(data) + _BODY_SLACK
    check_usage(answer.usage)
    if not embeddings:
        assert answer.finish_reason is None or type(answer.finish_reason) is str
        place.dialect.text_of(answer.body)
        try:
            streamed = place.dialect.stream_from_whole(answer.body, _request(stream=True))
        except UpstreamError as error:
            check_failure(error)
        else:
            check_chunks(streamed)


def check_failure(error: UpstreamError) -> None:
    """An error of an upstream's can be judged, and told to a caller without the secret that it quotes."""
    assert error.error_class in ErrorClass
    assert error.retry_after_s is None or isfinite(error.retry_after_s)
    assert error.body_delay is None or type(error.body_delay) is str
    judge(error, failover_on=frozenset(), committed=False)
    redact = Redactor([SECRET])
    error.message = redact(error.message)
    error.code = redact(error.code) if error.code else error.code
    error.param = redact(error.param) if error.param else error.param
    for committed in (False, True):
        body = told(client_error(error, committed=committed))
        assert len(body) < 4096
        assert SECRET.encode() not in body


def check_error(place: Place, data: bytes) -> None:
    """The status and a header are drawn from the bytes, so that every body meets every status."""
    number = crc32(data)
    headers = (
        (b"content-type", b"application/json"),
        (b"x-amzn-errortype", data[:40].replace(b"\n", b"")),
        (b"retry-after", data[-9:]),
    )
    check_failure(place.dialect.decode_error(300 + number % 300, headers[: number % 4], data))


def told_stream(stream: AnswerStream, pieces: Sequence[bytes]) -> tuple[Any, ...]:
    """All that a caller and the books learn of a stream. Comments are left out: there may be one for every read."""
    out = []
    for piece in pieces:
        out.append(stream.feed(piece))
        if stream.error is not None or stream.done:
            break
    if stream.error is None:
        out.append(stream.close())
    error = stream.error
    assert len(stream.text) <= MAX_KEPT_TEXT_BYTES + 64 * 1024
    check_usage(stream.usage)
    data = b"\n\n".join(event for event in b"".join(out).split(b"\n\n") if not event.startswith(b":") or b"\n" in event)
    return data, stream.committed, stream.done, stream.finish_reason, stream.usage, stream.text_bytes, error and error.error_class


def check_stream(place: Place, data: bytes) -> None:
    """However it is cut, a stream says the same, ends as it should, and never as if it were whole when it is not."""
    whole = told_stream(place.dialect.answer_stream(_request(stream=True), place.target), [data])
    for pieces in (pieces_of(data, cut_places(data)), [data[i : i + 1] for i in range(len(data))]):
        if len(pieces) <= 4096:
            stream = place.dialect.answer_stream(_request(stream=True), place.target)
            assert told_stream(stream, pieces) == whole
    out, *_, error_class = whole
    assert len(out) <= _BODY_RATIO * len(data) + _BODY_SLACK
    check_chunks(out, whole=error_class is None, strict=place.name not in ("openai", "azure"))


def check_chunks(out: bytes, *, whole: bool = True, strict: bool = True) -> None:
    """What a caller reads: events of JSON objects, an end mark where the answer was whole and none where it was not."""
    out.decode("utf-8")
    *events, rest = out.split(b"\n\n")
    assert rest == b"", rest
    marks = [event for event in events if event == b"data: [DONE]"]
    assert len(marks) == whole
    assert not whole or events[-1] == marks[0]
    for event in events:
        if strict and event != b"data: [DONE]":
            assert type(orjson.loads(event.removeprefix(b"data: "))) is dict


def framed_lines(data: bytes) -> bytes:
    """A line `type JSON` each as a frame of AWS's, sound on the outside whatever is inside."""
    events = [line.partition(b" ") for line in data.split(b"\n") if line]
    return b"".join(
        seeds.aws_frame(kind.decode("latin-1")[:40], payload, message_type="exception" if kind[-9:] == b"Exception" else "event")
        for kind, _, payload in events
    )


# -- what is not a dialect


def check_retry_after(data: bytes) -> None:
    """A line each: a header, or what an upstream's body says."""
    pairs = [(name.strip(), value.strip()) for name, _, value in (line.partition(b":") for line in data.split(b"\n"))]
    headers = [(name.lower(), value) for name, value in pairs if name != b"body"]
    delays = [value.decode("latin-1") for name, value in pairs if name == b"body"]
    found = retry_after_s(headers, wall=WALL, body_delay=delays[0] if delays else None)
    assert found is None or (isfinite(found) and found >= 0)
    assert 0 < clamp_cooldown(found) <= 300


def framed(payload: bytes) -> bytes:
    return HEAD.pack(MAGIC, len(payload), crc32(payload, len(payload))) + payload


RECORDS = (
    (
        b'["B","01JZ-1","01JZ",1,1760000000000,"groq","llama","0a1b2c3d",12,'
        b'["01JZ",1760000000000,null,"research",null,null,null,"smart","smart",true,"0123456789ab"]]'
    ),
    b'["P","01JZ-1",256]',
    (
        b'["E","01JZ-1","01JZ",1,1760000000000,"groq","llama","0a1b2c3d","ok",200,null,null,null,12.5,80.0,7,2,0,3,1,0,0,"provider",1700,'
        b'"file",0,"stop",["ok",200,1,81.0,12.5,0.5,"stop",null,[{"target":"groq/llama","kept":true}],["seed"]]]'
    ),
    (
        b'["R",["01JY",1760000000000,null,null,null,null,null,"nothing",null,false,"0123456789ab"],'
        b'["rejected",404,0,0.5,null,0.5,null,"model_not_found",[],[]]]'
    ),
    b'["H",1760000000000,"groq","healthy",null,42.0,7,true]',
    b'["A","01JX",1760000000000,"raised","budget","groq","warning","m",0.8,0.8]',
    b'["Q",1760000000000,"groq",null]',
)


def check_journal(data: bytes) -> None:
    """A reader takes whole frames from the head and stops; more bytes never change what came before."""
    whole = list(frames(data))
    position = 0
    for end, payload in whole:
        assert end - len(payload) - HEAD.size == position
        assert data[end - len(payload) : end] == payload
        position = end
    for cut in cut_places(data):
        part = list(frames(data[:cut]))
        assert part == whole[: len(part)]
    limit = len(data) % 7 + 1
    records, size = split_frames(data, limit)
    assert len(records) == len(whole[:limit])
    assert size == (whole[:limit] or [(0, b"")])[-1][0]
    batch = Batch()
    batch.add(records, "w")
    assert batch.unreadable <= len(records)


def check_records(data: bytes) -> None:
    """Sound frames with anything in them, a line each: counted as unreadable, or read."""
    check_journal(b"".join(map(framed, data.split(b"\n"))))


@cache
def _folder() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="tollbridge-fuzz-")


def check_config(data: bytes) -> None:
    """A file is a configuration, or every fault of it has its place, one line, and nothing of a secret."""
    path = Path(_folder().name) / "providers.yaml"
    path.write_bytes(data)
    try:
        found = load(path, environ={"KEY": SECRET})
    except ConfigError as error:
        check_faults(error.faults)
        return
    assert not any(SECRET in warning or "\n" in warning for warning in found.warnings)
    assert SECRET not in repr(found)
    found.listed_models()


def check_faults(faults: Sequence[ConfigFault]) -> None:
    assert faults
    for fault in faults:
        assert min(fault.line, fault.col) >= 1
        assert fault.message
        assert not re.search(rf"\n|{SECRET}", str(fault))


def check_env_file(data: bytes) -> None:
    """A line is a variable, or a fault that does not quote it: it may hold a key."""
    values, faults = parse_env(data.decode("utf-8", "replace"), ".env")
    assert all(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) for name in values)
    if faults:
        check_faults(faults)


def check_query(data: bytes) -> None:
    """A query string of the API: `name value` on each line."""
    given = dict(line.partition(" ")[::2] for line in data.decode("utf-8", "replace").split("\n"))
    try:
        query = read_query(given, WALL)
    except InvalidValue as error:
        told(error)
        return
    assert 0 <= query.since_ms <= query.until_ms
    earlier = query.before()
    assert earlier.since_ms <= earlier.until_ms
    assert set(query.period) == {"since", "until"}


def check_key_request(data: bytes) -> None:
    """What somebody asks of a runtime key: a key that is allowed here, or a refusal that names the field."""
    try:
        body = orjson.loads(data)
    except ValueError:
        return
    if type(body) is not dict:
        return
    try:
        wanted = wanted_of(body, http.settings(), round(WALL * 1000))
    except InvalidValue as error:
        told(error, most=400)
        return
    assert set(wanted.chains or ()) <= set(http.settings().chains) | set(dict(http.settings().wildcards))
    assert wanted.expires_ms is None or wanted.expires_ms > WALL * 1000


def check_keys_file(data: bytes) -> None:
    """The file of runtime keys is understood as a whole, and says so again; or it is broken, and nothing of it is taken."""
    try:
        keyring = keyring_of(data)
    except _Unreadable:
        return
    assert keyring_of(text_of(keyring)) == keyring


def check_forwarded(data: bytes) -> None:
    """Whoever writes `X-Forwarded-For`: the caller is an address, or unknown; and never a proxy of ours unless nobody else is named."""
    addresses = Addresses()
    addresses.configure(PerAddress(in_flight=1), ("10.0.0.0/8", "2001:db8::/32"))
    caller = addresses.caller("10.0.0.1", {b"x-forwarded-for": data})
    if caller is not None:
        ip_address(caller.partition("%")[0])
        assert caller == "10.0.0.1" or not caller.startswith("10.")
        name = addresses.enter(caller)
        assert name is not None
        addresses.leave(name)
    assert addresses.caller("192.0.2.1", {b"x-forwarded-for": data}) == "192.0.2.1"


KEY_REQUEST = (
    b'{"name": "agent-1", "department": "research", "agent": "a", "chains": ["smart", "any-*"], "models": ["gpt-*", "smart"],'
    b' "expires": "90d", "budget": {"usd": 5.5, "per": "month", "hard": true}, "limits": {"rpm": 60, "tpm": 1000, "in_flight": 4}}'
)
FORWARDED = (b"203.0.113.9, 10.0.0.2", b"[2001:db8::1]:443, 198.51.100.7:80", b"unknown, fe80::1%eth0, ::ffff:10.0.0.9")


def _keys_file() -> tuple[bytes, ...]:
    secret = KeySecret(bytes(range(32)), None, "tail", 1)
    limits, budget = RateLimits(rpm=60), Budget(5_000_000_000, "month", hard=True)
    key = RuntimeKey(
        id="01JZ", name="agent-1", created_ms=1, secrets=(secret,), chains=("smart",), expires_ms=9, budget=budget, limits=limits
    )
    return (text_of(Keyring((key,), made=True)),)


QUERIES = (
    b"since 7d\nuntil 2026-11-21T00:00:00Z\ntime_zone Europe/Berlin\nprovider groq", b"since 2026-11-01\ntime_zone America/St_Johns",
    b"since 1700000000\nuntil 1760000000000", b"time_zone UTC",
)  # fmt: skip


# -- all of them

_STREAMS: dict[str, Callable[[], tuple[bytes, ...]]] = {
    "openai": lambda: (seeds.OPENAI_STREAM, seeds.OPENAI_BROKEN),
    "azure": lambda: (seeds.OPENAI_STREAM,),
    "anthropic": lambda: (seeds.golden("anthropic/stream.sse"),),
    "gemini": lambda: (seeds.GEMINI_STREAM, seeds.GEMINI_BLOCKED),
    "vertex": lambda: (seeds.golden("anthropic/stream.sse"),),
    "cohere": lambda: (seeds.golden("cohere/stream.sse"),),
    "ollama": lambda: (seeds.OLLAMA_STREAM, seeds.golden("ollama/stream.ndjson")),
    "bedrock": lambda: (seeds.aws_stream(seeds.bedrock_events()),),
}
_WHOLES = {
    "openai": seeds.OPENAI_WHOLE, "azure": seeds.OPENAI_WHOLE, "anthropic": seeds.ANTHROPIC_WHOLE, "gemini": seeds.GEMINI_WHOLE,
    "vertex": seeds.ANTHROPIC_WHOLE, "cohere": seeds.COHERE_WHOLE, "ollama": seeds.OLLAMA_WHOLE, "bedrock": seeds.BEDROCK_WHOLE,
}  # fmt: skip


def _targets() -> list[FuzzTarget]:
    bedrock = CHAT_PLACES[-1]
    made = [
        FuzzTarget("request_chat", partial(check_request, OpenAIChatInbound(), CHAT_PLACES), seeds.chats, examples=120),
        FuzzTarget(
            "request_embeddings", partial(check_request, OpenAIEmbeddingsInbound(), EMBEDDING_PLACES), lambda: seeds.EMBEDDINGS
        ),
        FuzzTarget("model_name", check_model_name, lambda: http.MODEL_NAMES, http.NAME_TOKENS, examples=250),
        FuzzTarget(
            "bedrock_events",
            lambda data: check_stream(bedrock, framed_lines(data)),
            lambda: (seeds.bedrock_lines(),),
            examples=20,
        ),
        FuzzTarget("retry_after", check_retry_after, lambda: seeds.RETRY_AFTER, examples=250),
        FuzzTarget(
            "journal", check_journal, lambda: (b"".join(map(framed, RECORDS)),), (*TOKENS, MAGIC, struct.pack("<I", 1 << 20))
        ),
        FuzzTarget("records", check_records, lambda: (b"\n".join(RECORDS),), examples=200),
        FuzzTarget("config", check_config, lambda: (seeds.CONFIG,), http.YAML_TOKENS, examples=40),
        FuzzTarget(
            "env_file",
            check_env_file,
            lambda: (seeds.ENV_FILE.replace(b"SECRET", SECRET.encode()),),
            http.YAML_TOKENS,
            examples=200,
        ),
        FuzzTarget("query", check_query, lambda: QUERIES, http.NAME_TOKENS, examples=200),
        FuzzTarget("key_request", check_key_request, lambda: (KEY_REQUEST,)),
        FuzzTarget("keys_file", check_keys_file, _keys_file),
        FuzzTarget("forwarded", check_forwarded, lambda: FORWARDED, http.NAME_TOKENS),
        FuzzTarget("http_request", http.check_requests, lambda: seeds.REQUESTS, (*TOKENS, *seeds.HTTP_TOKENS), examples=100),
        FuzzTarget("http_response", http.check_response, lambda: seeds.RESPONSES, (*TOKENS, *seeds.HTTP_TOKENS), examples=50),
    ]
    for place in CHAT_PLACES:
        wholes = (_WHOLES[place.name],)
        made += [
            FuzzTarget(f"{place.name}_whole", partial(check_whole, place), partial(tuple, wholes)),
            FuzzTarget(f"{place.name}_stream", partial(check_stream, place), _STREAMS[place.name], examples=30),
            FuzzTarget(
                f"{place.name}_error", partial(check_error, place), lambda: (*seeds.ERRORS, SECRET.encode()), examples=150
            ),
        ]
    for place in EMBEDDING_PLACES:
        check = partial(check_whole, place, embeddings=True)
        made.append(FuzzTarget(f"{place.name}_embedded", check, lambda: (*seeds.EMBEDDED, seeds.OPENAI_EMBEDDINGS), examples=120))
    return made


TARGETS = {target.name: target for target in _targets()}
