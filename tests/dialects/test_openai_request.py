"""The caller's body: what is refused, with which code and param, and what is read out of the rest."""

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.chat import ChatRequest, Tags
from proxy.core.errors import (
    CallerError,
    InvalidJson,
    InvalidRequest,
    InvalidValue,
    ModelNotFound,
    RequestTooLarge,
)
from proxy.core.target import FEATURES
from proxy.dialects.openai_embeddings import OpenAIEmbeddingsInbound
from proxy.dialects.openai_request import (
    FORBIDDEN,
    MAX_CHOICES,
    MAX_DEPTH,
    MAX_MESSAGES,
    MAX_MODEL_BYTES,
    MAX_TAG_CHARS,
    MAX_TOOLS,
    OpenAIChatInbound,
    checked_model,
    clean_tag,
)

pytestmark = pytest.mark.unit

USER: dict[str, Any] = {"role": "user", "content": "Hi"}


def decode(body: bytes) -> ChatRequest:
    return OpenAIChatInbound().decode_request(body)


def request(**fields: Any) -> ChatRequest:
    return decode(orjson.dumps({"model": "smart", "messages": [USER], **fields}))


def status_of(body: bytes) -> int:
    try:
        decode(body)
    except CallerError as error:
        return error.status
    return 200


def raw(fields: bytes) -> bytes:
    return b'{"model":"smart","messages":[{"role":"user","content":"Hi"}]' + (b"," + fields if fields else b"") + b"}"


def nested(depth: int) -> bytes:
    """A body whose deepest value lies `depth` levels down, the body itself being the first."""
    return raw(b'"extra":' + b"[" * (depth - 1) + b"]" * (depth - 1))


Refusal = tuple[bytes, type[CallerError], str | None]

REFUSED: dict[str, Refusal] = {
    "empty": (b"", InvalidJson, None),
    "blank": (b" \n", InvalidJson, None),
    "not JSON": (b"model=smart", InvalidJson, None),
    "cut off": (raw(b"")[:-1], InvalidJson, None),
    "trailing data": (raw(b"") + b"{}", InvalidJson, None),
    "trailing comma": (b'{"model":"smart",}', InvalidJson, None),
    "single quotes": (b"{'model':'smart'}", InvalidJson, None),
    "NaN": (raw(b'"temperature":NaN'), InvalidJson, None),
    "Infinity": (raw(b'"temperature":Infinity'), InvalidJson, None),
    "1e999": (raw(b'"temperature":1e999'), InvalidJson, None),
    "byte order mark": (b"\xef\xbb\xbf" + raw(b""), InvalidJson, None),
    "UTF-16": ('{"model":"smart"}'.encode("utf-16"), InvalidJson, None),
    "Latin-1": (raw('"user":"é"'.encode("latin-1")), InvalidJson, None),
    "lone surrogate": (raw(rb'"user":"\ud83d"'), InvalidJson, None),
    "NUL byte": (raw(b'"user":"\x00"'), InvalidJson, None),
    "one level too deep": (nested(MAX_DEPTH + 1), InvalidJson, None),
    "as deep as a parser goes": (nested(1000), InvalidJson, None),
    "deeper than a parser goes": (nested(100_000), InvalidJson, None),
    "a list": (b"[]", InvalidRequest, None),
    "a string": (b'"smart"', InvalidRequest, None),
    "null": (b"null", InvalidRequest, None),
    "no model": (orjson.dumps({"messages": [USER]}), InvalidRequest, "model"),
    "model null": (orjson.dumps({"model": None, "messages": [USER]}), InvalidRequest, "model"),
    "model empty": (orjson.dumps({"model": "", "messages": [USER]}), InvalidRequest, "model"),
    "model a number": (orjson.dumps({"model": 4, "messages": [USER]}), InvalidRequest, "model"),
    "model a list": (orjson.dumps({"model": ["a"], "messages": [USER]}), InvalidRequest, "model"),
    "no messages": (b'{"model":"smart"}', InvalidRequest, "messages"),
    "messages null": (b'{"model":"smart","messages":null}', InvalidRequest, "messages"),
    "messages empty": (b'{"model":"smart","messages":[]}', InvalidRequest, "messages"),
    "messages a string": (b'{"model":"smart","messages":"Hi"}', InvalidRequest, "messages"),
    "messages an object": (b'{"model":"smart","messages":{}}', InvalidRequest, "messages"),
    "a message a string": (b'{"model":"smart","messages":["Hi"]}', InvalidRequest, "messages[0]"),
    "a message null": (orjson.dumps({"model": "smart", "messages": [USER, None]}), InvalidRequest, "messages[1]"),
    "no role": (b'{"model":"smart","messages":[{"content":"Hi"}]}', InvalidRequest, "messages[0].role"),
    "role a number": (b'{"model":"smart","messages":[{"role":1}]}', InvalidRequest, "messages[0].role"),
    "messages one too many": (
        orjson.dumps({"model": "smart", "messages": [USER] * (MAX_MESSAGES + 1)}),
        InvalidValue,
        "messages",
    ),
    "tools an object": (raw(b'"tools":{}'), InvalidRequest, "tools"),
    "tools a string": (raw(b'"tools":"x"'), InvalidRequest, "tools"),
    "tools one too many": (raw(b'"tools":' + orjson.dumps([{}] * (MAX_TOOLS + 1))), InvalidValue, "tools"),
    "max_tokens 2^64": (raw(b'"max_tokens":18446744073709551616'), InvalidValue, "max_tokens"),
    "max_tokens 400 digits": (raw(b'"max_tokens":' + b"9" * 400), InvalidJson, None),
    "max_tokens 30 digits": (raw(b'"max_tokens":' + b"9" * 30), InvalidValue, "max_tokens"),
    "max_tokens a float": (raw(b'"max_tokens":10.0'), InvalidValue, "max_tokens"),
    "max_tokens a string": (raw(b'"max_tokens":"10"'), InvalidValue, "max_tokens"),
    "max_tokens true": (raw(b'"max_tokens":true'), InvalidValue, "max_tokens"),
    "max_tokens negative": (raw(b'"max_tokens":-1'), InvalidValue, "max_tokens"),
    "max_completion_tokens negative": (raw(b'"max_completion_tokens":-5'), InvalidValue, "max_completion_tokens"),
    "seed 2^64": (raw(b'"seed":18446744073709551616'), InvalidValue, "seed"),
    "top_logprobs negative": (raw(b'"top_logprobs":-1'), InvalidValue, "top_logprobs"),
    "n zero": (raw(b'"n":0'), InvalidValue, "n"),
    "n negative": (raw(b'"n":-1'), InvalidValue, "n"),
    "n one too many": (raw(b'"n":' + str(MAX_CHOICES + 1).encode()), InvalidValue, "n"),
    "n a string": (raw(b'"n":"2"'), InvalidValue, "n"),
    "n true": (raw(b'"n":true'), InvalidValue, "n"),
    "n huge": (raw(b'"n":1e300'), InvalidValue, "n"),
    "stream a string": (raw(b'"stream":"true"'), InvalidValue, "stream"),
    "stream a number": (raw(b'"stream":1'), InvalidValue, "stream"),
    "stream_options a list": (raw(b'"stream":true,"stream_options":[]'), InvalidRequest, "stream_options"),
    "stream_options true": (raw(b'"stream":true,"stream_options":true'), InvalidRequest, "stream_options"),
}


@pytest.mark.parametrize(("body", "kind", "param"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_refused_says_why_and_where(body: bytes, kind: type[CallerError], param: str | None) -> None:
    with pytest.raises(CallerError) as refused:
        decode(body)
    assert type(refused.value) is kind
    assert refused.value.param == param
    assert 400 <= refused.value.status < 500
    assert len(refused.value.message) < 300
    answer = orjson.loads(OpenAIChatInbound().encode_error(refused.value))
    assert answer == {
        "error": {"message": refused.value.message, "type": "invalid_request_error", "param": param, "code": kind.code}
    }


ACCEPTED: dict[str, bytes] = {
    "as deep as may be": nested(MAX_DEPTH),
    "wide but flat": raw(b'"extra":' + orjson.dumps([[]] * 1000)),
    "many braces in text": raw(b'"extra":' + orjson.dumps("{[" * 1000)),
    "as many messages as may be": orjson.dumps({"model": "smart", "messages": [USER] * MAX_MESSAGES}),
    "as many tools as may be": raw(b'"tools":' + orjson.dumps([{}] * MAX_TOOLS)),
    "as many choices as may be": raw(b'"n":' + str(MAX_CHOICES).encode()),
    "nulls for the optional": raw(
        b'"n":null,"max_tokens":null,"seed":null,"tools":null,"stream":null,"stream_options":null,"metadata":null,'
        b'"response_format":null,"functions":null,"logprobs":null,"top_logprobs":null,"parallel_tool_calls":null'
    ),
    "a negative seed": raw(b'"seed":-1'),
    "surrogates in pairs": raw(rb'"user":"\ud83d\ude00"'),
    "white space around": b" \n" + raw(b"") + b"\n",
    "content null": b'{"model":"smart","messages":[{"role":"assistant","content":null}]}',
    "content of another type": b'{"model":"smart","messages":[{"role":"user","content":7}]}',
    "parts of another type": b'{"model":"smart","messages":[{"role":"user","content":[1,null,"x",{"type":7}]}]}',
}


@pytest.mark.parametrize("body", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_what_is_the_upstreams_to_judge_is_let_through(body: bytes) -> None:
    assert decode(body).model == "smart"


def test_part_types_that_cannot_be_looked_up_are_let_through() -> None:
    made = request(messages=[{"role": "user", "content": [{"type": ["image_url"]}, {"type": {}}]}])
    assert made.needs == frozenset()


def test_duplicate_keys_last_wins_and_what_was_checked_is_what_is_forwarded() -> None:
    made = decode(b'{"model":"a","messages":[{"role":"user","content":"1"}],"model":"b","n":99,"n":2}')
    assert (made.model, made.choices, made.body["n"]) == ("b", 2, 2)


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1), lambda inner: st.lists(inner, max_size=3), max_leaves=200
    )
)
def test_any_json_is_accepted_or_refused_but_never_a_fault(value: object) -> None:
    for body in (orjson.dumps(value), orjson.dumps({"model": "m", "messages": value, "n": value, "tools": value})):
        assert status_of(body) in (200, 400, 404)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused_but_never_a_fault(body: bytes) -> None:
    with pytest.raises(CallerError):
        decode(body)


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(
            [
                "model",
                "messages",
                "n",
                "stream",
                "stream_options",
                "metadata",
                "tools",
                "response_format",
                "logprobs",
                "max_tokens",
            ]
        ),
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=3)
        | st.lists(st.text(max_size=2), max_size=2)
        | st.dictionaries(st.sampled_from(["type", "task", "role"]), st.text(max_size=2)),
    )
)
def test_any_value_anywhere_is_accepted_or_refused_but_never_a_fault(fields: dict[str, Any]) -> None:
    assert status_of(orjson.dumps({"model": "m", "messages": [USER], **fields})) in (200, 400, 404)


# -- model names


@pytest.mark.parametrize(
    "name",
    [
        "gpt-4o",
        "groq/llama-3.3-70b-versatile",
        "together/meta-llama/Llama-3.3-70B-Instruct-Turbo",
        "fine-tuned:ft:gpt-4o:org::id",
        "a name with blanks",
        "modèle",  # composed
        "模型",
        "x" * MAX_MODEL_BYTES,
        "é" * (MAX_MODEL_BYTES // 2),
    ],
)
def test_model_names_that_are_fine(name: str) -> None:
    assert checked_model(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "x" * (MAX_MODEL_BYTES + 1),
        "é" * (MAX_MODEL_BYTES // 2) + "x",
        "x" * 1_000_000,
        "mode\u0300le",  # decomposed
        "a\nb",
        "a\r\nx-injected: 1",
        "a\x00b",
        "a\x7fb",
        "a\u202eb",  # right-to-left override
        "a\u2066b",
        "a\u200bb",  # zero width
        "a\u2028b",
        "a\u0085b",
        "\ufeffa",
        "a\ue000b",  # private use
    ],
)
def test_model_names_that_nobody_could_have_meant_are_not_found(name: str) -> None:
    with pytest.raises(ModelNotFound) as refused:
        checked_model(name)
    assert refused.value.status == 404
    assert refused.value.param == "model"
    # what the caller sent does not come back: it may be a megabyte, or reverse the text around it
    assert name not in refused.value.message
    assert len(refused.value.message) < 300


# -- forbidden fields


@pytest.mark.parametrize("field", sorted(FORBIDDEN))
def test_a_field_that_would_choose_the_upstream_is_dropped(field: str) -> None:
    made = request(**{field: "http://169.254.169.254/", "unknown_field": {"kept": True}})
    assert field not in made.body
    assert made.body["unknown_field"] == {"kept": True}


@pytest.mark.parametrize("inbound", [OpenAIChatInbound, OpenAIEmbeddingsInbound])
def test_whoever_counts_is_told_once_of_a_body_with_such_fields(
    inbound: type[OpenAIChatInbound] | type[OpenAIEmbeddingsInbound],
) -> None:
    told: list[str] = []
    decode = inbound(lambda: told.append("told")).decode_request
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "input": "Hi"}
    decode(orjson.dumps(body))
    assert told == []
    decode(orjson.dumps({**body, "api_base": "http://x", "url": None}))
    assert told == ["told"]


def test_the_forbidden_fields_are_the_ones_that_other_gateways_obey() -> None:
    assert len(FORBIDDEN) == 14


# -- what is read


@pytest.mark.parametrize(
    ("fields", "stream", "include_usage"),
    [
        ({}, False, False),
        ({"stream": False, "stream_options": {"include_usage": True}}, False, False),
        ({"stream": True}, True, False),
        ({"stream": True, "stream_options": None}, True, False),
        ({"stream": True, "stream_options": {}}, True, False),
        ({"stream": True, "stream_options": {"include_usage": False}}, True, False),
        ({"stream": True, "stream_options": {"include_usage": True}}, True, True),
        ({"stream": True, "stream_options": {"include_usage": 1}}, True, False),
    ],
)
def test_streams_and_who_asked_for_usage(fields: dict[str, Any], stream: bool, include_usage: bool) -> None:
    made = request(**fields)
    assert (made.stream, made.include_usage) == (stream, include_usage)


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({}, None),
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 7}, 7),
        ({"max_tokens": 5, "max_completion_tokens": 7}, 7),
        ({"max_tokens": 5, "max_completion_tokens": None}, 5),
    ],
)
def test_the_output_limit(fields: dict[str, Any], limit: int | None) -> None:
    assert request(**fields).max_output_tokens == limit


def parts(*kinds: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": kind, kind: {}} for kind in kinds]}]


@pytest.mark.parametrize(
    ("fields", "needs"),
    [
        ({}, set()),
        ({"tools": []}, set()),
        ({"tools": [{}]}, {"tools"}),
        ({"functions": [{}]}, {"tools"}),
        ({"tools": [{}], "parallel_tool_calls": False}, {"tools"}),
        ({"tools": [{}], "parallel_tool_calls": True}, {"tools", "parallel_tools"}),
        ({"parallel_tool_calls": True}, set()),
        ({"tools": [{}], "stream": True}, {"tools", "streamed_tools"}),
        ({"tools": [{}], "stream": False}, {"tools"}),
        ({"stream": True}, set()),
        ({"response_format": {"type": "text"}}, set()),
        ({"response_format": {"type": "json_object"}}, {"json_object"}),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, {"json_schema"}),
        ({"response_format": "json"}, set()),
        ({"logprobs": True}, {"logprobs"}),
        ({"logprobs": False}, set()),
        ({"top_logprobs": 0}, set()),
        ({"top_logprobs": 2}, {"logprobs"}),
        ({"n": 1}, set()),
        ({"n": 2}, {"n"}),
        ({"messages": parts("text")}, set()),
        ({"messages": parts("text", "image_url", "image_url")}, {"vision"}),
        ({"messages": parts("input_audio")}, {"audio"}),
        ({"messages": parts("file", "video_url")}, {"documents", "video"}),
        ({"messages": parts("something_new")}, set()),
        ({"modalities": ["text"]}, set()),
        ({"modalities": ["text", "audio"]}, {"audio_output"}),
        ({"modalities": ["image", "text"]}, {"image_output"}),
        ({"modalities": [{}, "smell"]}, set()),
        ({"modalities": "audio"}, set()),
        ({"audio": {"voice": "alloy", "format": "wav"}}, {"audio_output"}),
        ({"audio": None}, set()),
    ],
)
def test_what_a_target_must_be_able_to_do(fields: dict[str, Any], needs: set[str]) -> None:
    assert request(**fields).needs == needs
    assert needs <= set(FEATURES)


# -- tags


@pytest.mark.parametrize(
    ("metadata", "tags", "left"),
    [
        ({"task": "search"}, Tags(task="search"), None),
        (
            {"department": "d", "agent": "a", "task": "t", "task_id": "i", "mine": "x"},
            Tags("d", "a", "t", "i"),
            {"mine": "x"},
        ),
        ({"mine": "x"}, Tags(), {"mine": "x"}),
        ({}, Tags(), {}),
        ("a string", Tags(), "a string"),
        (["task"], Tags(), ["task"]),
        ({"task": 7}, Tags(), {"task": 7}),
        ({"task": ""}, Tags(), {"task": ""}),
        ({"task": "a\nb"}, Tags(), {"task": "a\nb"}),
        ({"task": "x" * MAX_TAG_CHARS}, Tags(task="x" * MAX_TAG_CHARS), None),
        ({"task": "x" * (MAX_TAG_CHARS + 1)}, Tags(), {"task": "x" * (MAX_TAG_CHARS + 1)}),
        ({"agent": "a", "task": None}, Tags(agent="a"), {"task": None}),
    ],
)
def test_tags_are_taken_out_of_metadata_and_the_rest_is_the_callers(metadata: Any, tags: Tags, left: Any) -> None:
    made = request(metadata=metadata)
    assert made.tags == tags
    assert made.body.get("metadata") == left


@pytest.mark.parametrize(
    ("model", "fault"), [(None, "is missing"), ("", "is missing"), (5, "must be a text"), (["a"], "must be a text")]
)
def test_a_model_that_names_nothing_is_told_as_what_it_is(model: object, fault: str) -> None:
    with pytest.raises(InvalidRequest, match=f"`model` {fault}: name a chain") as refused:
        checked_model(model)
    assert refused.value.param == "model"


def test_blanks_around_a_tag_are_no_part_of_it() -> None:
    assert clean_tag(" search team \t") == "search team"


@pytest.mark.parametrize("value", [None, 7, "", " ", "a\tb", "a\u202eb", "x" * (MAX_TAG_CHARS + 1), ["a"]])
def test_a_tag_is_short_and_printable_or_none(value: object) -> None:
    assert clean_tag(value) is None


# -- errors on their way out


def test_the_last_event_of_a_broken_stream_is_an_error_and_no_end_mark() -> None:
    event = OpenAIChatInbound().stream_error(RequestTooLarge("too large"))
    assert event.startswith(b"data: {")
    assert event.endswith(b"}\n\n")
    assert b"[DONE]" not in event
    assert orjson.loads(event[6:])["error"]["code"] == "request_too_large"


def test_a_hostile_message_cannot_end_an_error_event_early() -> None:
    event = OpenAIChatInbound().stream_error(InvalidValue("a\n\ndata: [DONE]\n\n"))
    assert event.count(b"\n\n") == 1
