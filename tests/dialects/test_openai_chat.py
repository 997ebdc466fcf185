"""Pass-through of OpenAI chat completions: what is patched on the way in, what every kind of stream becomes on the way out."""

from collections.abc import Iterable
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.accounting.usage import usage_from_openai
from proxy.core.chat import ChatRequest
from proxy.core.errors import ErrorClass, UpstreamError
from proxy.core.target import Provider, Quirks, Target
from proxy.core.usage import Usage
from proxy.dialects.base import MAX_KEPT_TEXT_BYTES
from proxy.dialects.openai_chat import (
    DONE,
    FINISH_REASONS,
    MAX_MALFORMED_EVENTS,
    AzureChat,
    ChatStream,
    OpenAIChat,
    parse_mending,
    patched_body,
    whole_to_stream,
)
from proxy.dialects.openai_request import OpenAIChatInbound
from proxy.wire.sse import MAX_EVENT_BYTES

pytestmark = pytest.mark.unit

USAGE = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
DIALECT = OpenAIChat(usage_from_openai)


def target(quirks: Quirks | None = None, *, model: str = "org/model", api_version: str | None = None) -> Target:
    provider = Provider("p", "openai", "http://127.0.0.1/v1", (), api_version=api_version)
    return Target(provider, model, "m", quirks=quirks or Quirks())


def request(**fields: Any) -> ChatRequest:
    body = {"model": "smart", "messages": [{"role": "user", "content": "Hi"}], **fields}
    return OpenAIChatInbound().decode_request(orjson.dumps(body))


# -- the way in


def test_the_model_is_the_targets_and_the_callers_body_is_left_alone() -> None:
    asked = request(stream=True, stream_options={"include_obfuscation": False}, max_tokens=5, user="u", anything={"at": ["all"]})
    before = orjson.dumps(asked.body)
    quirks = Quirks(rename={"max_tokens": "max_completion_tokens"}, drop=frozenset(("user",)), developer_role="system")
    body, dropped = patched_body(asked, target(quirks))
    assert body["model"] == "org/model"
    assert body["anything"] == {"at": ["all"]}
    assert dropped == ("user",)
    assert orjson.dumps(asked.body) == before


@pytest.mark.parametrize(
    ("fields", "expected", "lost"),
    [
        ({"max_tokens": 5}, {"max_completion_tokens": 5}, ()),
        ({"max_completion_tokens": 7}, {"max_completion_tokens": 7}, ()),
        ({"max_tokens": 5, "max_completion_tokens": 7}, {"max_completion_tokens": 7}, ("max_tokens",)),
        ({"max_tokens": 7, "max_completion_tokens": 7}, {"max_completion_tokens": 7}, ()),
        ({"max_tokens": None, "max_completion_tokens": 7}, {"max_completion_tokens": 7}, ()),
        ({"max_tokens": 5, "max_completion_tokens": None}, {"max_completion_tokens": 5}, ()),
        ({}, {}, ()),
    ],
)
def test_a_renamed_parameter_yields_to_one_that_has_the_name_already(
    fields: dict[str, Any], expected: dict[str, Any], lost: tuple[str, ...]
) -> None:
    body, dropped = patched_body(request(**fields), target(Quirks(rename={"max_tokens": "max_completion_tokens"})))
    assert {name: body[name] for name in body.keys() & {"max_tokens", "max_completion_tokens"}} == expected
    assert dropped == lost


def test_dropped_parameters_are_named_in_order_and_only_those_that_were_there() -> None:
    quirks = Quirks(drop=frozenset(("user", "logit_bias", "seed")))
    body, dropped = patched_body(request(user="u", logit_bias={}, temperature=1), target(quirks))
    assert dropped == ("logit_bias", "user")
    assert body.keys() == {"model", "messages", "temperature"}


def test_the_developer_role_is_replaced_where_it_is_refused() -> None:
    messages = [{"role": "developer", "content": "Be brief", "name": "d"}, {"role": "user", "content": "Hi"}]
    body, _ = patched_body(request(messages=messages), target(Quirks(developer_role="system")))
    assert body["messages"] == [{"role": "system", "content": "Be brief", "name": "d"}, {"role": "user", "content": "Hi"}]
    assert patched_body(request(messages=messages), target())[0]["messages"] == messages


@pytest.mark.parametrize(
    ("how", "fields", "options"),
    [
        ("stream_options", {"stream": True}, {"include_usage": True}),
        ("stream_options", {"stream": True, "stream_options": None}, {"include_usage": True}),
        ("stream_options", {"stream": True, "stream_options": {"include_usage": False}}, {"include_usage": True}),
        ("stream_options", {"stream": True, "stream_options": {"x": 1}}, {"x": 1, "include_usage": True}),
        ("stream_options", {}, None),
        ("always", {"stream": True, "stream_options": {"include_usage": True}}, None),
        ("never", {"stream": True, "stream_options": {"include_usage": True}}, None),
    ],
)
def test_usage_is_asked_of_every_stream_whose_provider_can_be_asked(how: Any, fields: dict[str, Any], options: Any) -> None:
    body, dropped = patched_body(request(**fields), target(Quirks(usage_in_stream=how)))
    assert body.get("stream_options") == options
    assert dropped == ()


def test_what_is_sent_is_what_was_checked() -> None:
    raw = b'{"model":"a","model":"smart","api_base":"http://169.254.169.254","messages":[{"role":"user","content":"Hi"}],"n":1}'
    sent = DIALECT.encode_request(OpenAIChatInbound().decode_request(raw), target())
    assert sent.path == "/chat/completions"
    assert orjson.loads(sent.body) == {"model": "org/model", "messages": [{"role": "user", "content": "Hi"}], "n": 1}


@pytest.mark.parametrize(
    ("model", "version", "path"),
    [
        ("gpt-4o", None, "/openai/v1/chat/completions"),
        ("gpt-4o", "2024-10-21", "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"),
        ("../../x?y#z\r\n é", "2024", "/openai/deployments/..%2F..%2Fx%3Fy%23z%0D%0A%20%C3%A9/chat/completions?api-version=2024"),
    ],
)
def test_azures_two_paths(model: str, version: str | None, path: str) -> None:
    assert AzureChat(usage_from_openai).encode_request(request(), target(model=model, api_version=version)).path == path


# -- streams


def stream(*, include_usage: bool = False, quirks: Quirks | None = None) -> ChatStream:
    return ChatStream(usage_from_openai, quirks=quirks or Quirks(), include_usage=include_usage)


def event(value: object) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"


def chunk(delta: object = None, finish: str | None = None, **rest: Any) -> bytes:
    choice = {"index": 0, "delta": {} if delta is None else delta, "finish_reason": finish}
    return event({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice], **rest})


def bare(**rest: Any) -> bytes:
    return event({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [], **rest})


ROLE = chunk({"role": "assistant", "content": "", "refusal": None})
HI = chunk({"content": "Hi"})
END = chunk({}, "stop")
COUNTED = bare(usage=USAGE)


def run(pieces: Iterable[bytes], **how: Any) -> tuple[bytes, ChatStream]:
    """All that the caller gets, and what is known then."""
    made = stream(**how)
    out = b"".join([made.feed(piece) for piece in pieces])
    return out + made.close(), made


def test_a_clean_stream_goes_through_byte_for_byte() -> None:
    out, seen = run([ROLE, HI, END, DONE])
    assert out == ROLE + HI + END + DONE
    assert (seen.committed, seen.done, seen.finish_reason, seen.error, seen.end_mark_missing) == (True, True, "stop", None, False)
    assert (bytes(seen.text), seen.text_bytes) == (b"Hi", 2)


NO_CONTENT = {
    "a role chunk": ROLE,
    "a role chunk without content": chunk({"role": "assistant"}),
    "content null": chunk({"content": None, "tool_calls": None, "refusal": None}),
    "a comment": b": OPENROUTER PROCESSING\n\n",
    "a ping event": b"event: ping\n\n",
    "Azure's first chunk": event(
        {"id": "", "model": "", "object": "", "created": 0, "choices": [], "prompt_filter_results": [{"prompt_index": 0}]}
    ),
    "no choices": bare(),
    "usage alone": COUNTED,
    "empty lists": chunk({"tool_calls": [], "reasoning_details": [], "images": []}),
    "an empty finish reason": chunk({"content": ""}, ""),
    "a choice that is none": event({"object": "chat.completion.chunk", "choices": [None, 1]}),
    "a delta that is none": chunk("text"),
}


@pytest.mark.parametrize("data", NO_CONTENT.values(), ids=NO_CONTENT.keys())
def test_what_is_no_content_does_not_commit(data: bytes) -> None:
    seen = stream()
    seen.feed(data)
    assert not seen.committed
    assert seen.error is None
    assert seen.text_bytes == 0


CALL = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"a":'}}
CONTENT: dict[str, tuple[bytes, bytes]] = {
    "text": (chunk({"content": "Hi"}), b"Hi"),
    "role and text at once": (chunk({"role": "assistant", "content": "Hi"}), b"Hi"),
    "a blank": (chunk({"content": " "}), b" "),
    "reasoning_content (DeepSeek)": (chunk({"content": None, "reasoning_content": "Hm"}), b"Hm"),
    "reasoning (Groq)": (chunk({"reasoning": "Hm"}), b"Hm"),
    "text and reasoning": (chunk({"content": "Hi", "reasoning": "Hm"}), b"HiHm"),
    "a refusal": (chunk({"refusal": "No"}), b"No"),
    "a tool call": (chunk({"tool_calls": [CALL]}), b'look{"a":'),
    "arguments only": (chunk({"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]}), b"1}"),
    "arguments null (GPUStack)": (chunk({"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": None}}]}), b"f"),
    "the old function_call": (chunk({"function_call": {"name": "look", "arguments": "{}"}}), b"look{}"),
    "a list of parts (Mistral)": (
        chunk({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}, {"type": "text", "text": "Hi"}]}),
        b"HmHi",
    ),
    "parts within parts": (chunk({"content": "Hi"}).replace(b'"Hi"', b"[" * 900 + b'"Hi"' + b"]" * 900), b"Hi"),
    "audio": (chunk({"audio": {"data": "AAAA"}}), b""),
    "an image": (chunk({"images": [{"type": "image_url"}]}), b""),
    "a finish reason alone": (chunk({}, "length"), b""),
}


@pytest.mark.parametrize(("data", "text"), CONTENT.values(), ids=CONTENT.keys())
def test_what_is_content_commits_and_its_text_is_kept_to_be_counted(data: bytes, text: bytes) -> None:
    seen = stream()
    assert seen.feed(data) == data
    assert seen.committed
    assert bytes(seen.text) == text
    assert seen.text_bytes == len(text)


def test_text_is_kept_up_to_a_bound_and_its_size_beyond() -> None:
    seen = stream()
    piece = chunk({"content": "x" * 100_000})
    for _ in range(10):
        seen.feed(piece)
    assert MAX_KEPT_TEXT_BYTES <= len(seen.text) <= MAX_KEPT_TEXT_BYTES + 100_000
    assert seen.text_bytes == 1_000_000


# usage


@pytest.mark.parametrize("include_usage", [True, False])
def test_the_usage_chunk_reaches_only_those_who_asked(include_usage: bool) -> None:
    out, seen = run([HI, END, COUNTED, DONE], include_usage=include_usage)
    assert out == HI + END + (COUNTED if include_usage else b"") + DONE
    assert seen.usage == Usage(5, 7)


def test_usage_on_the_finish_chunk_is_read_and_passes_deepseek() -> None:
    end = chunk({"content": ""}, "stop", usage=USAGE)
    out, seen = run([HI, end, DONE])
    assert out == HI + end + DONE
    assert seen.usage == Usage(5, 7)


def test_usage_null_in_other_chunks_is_no_usage_chunk() -> None:
    first = bare(usage=None)
    out, seen = run([first, chunk({"content": "Hi"}, usage=None), END, COUNTED, DONE])
    assert out.startswith(first)
    assert seen.usage == Usage(5, 7)


def test_usage_in_every_chunk_is_set_and_not_added_perplexity() -> None:
    pieces = [chunk({"content": "Hi"}, usage={"prompt_tokens": 5, "completion_tokens": n}) for n in (1, 2, 3)]
    _, seen = run([*pieces, END])
    assert seen.usage == Usage(5, 3)


def test_usage_in_x_groq_and_again_in_usage_is_not_added() -> None:
    end = chunk({}, "stop", x_groq={"id": "r", "usage": USAGE})
    _, seen = run([HI, end, COUNTED, DONE])
    assert seen.usage == Usage(5, 7)


def test_usage_in_x_groq_alone_counts() -> None:
    assert run([HI, chunk({}, "stop", x_groq={"usage": USAGE}), DONE])[1].usage == Usage(5, 7)
    assert run([HI, chunk({}, "stop", x_groq={"id": "r"}), DONE])[1].usage is None
    assert run([HI, chunk({}, "stop", x_groq=7), DONE])[1].usage is None


def test_later_usage_that_makes_no_sense_does_not_hide_what_was_known() -> None:
    assert run([HI, END, COUNTED, bare(usage={"prompt_tokens": -1}), DONE])[1].usage == Usage(5, 7)


def test_reasoning_left_out_of_the_completion_is_added_where_the_provider_does_so_xai() -> None:
    usage = {"prompt_tokens": 165, "completion_tokens": 2, "completion_tokens_details": {"reasoning_tokens": 129}}
    seen = run([HI, END, bare(usage=usage), DONE], quirks=Quirks(reasoning_excluded=True))[1]
    assert seen.usage == Usage(165, 131, reasoning_tokens=129)


# ends


def test_a_missing_end_mark_is_added_after_a_finish_reason() -> None:
    out, seen = run([HI, END])
    assert out == HI + END + DONE
    assert (seen.end_mark_missing, seen.error, seen.done) == (True, None, True)


def test_a_finish_chunk_without_the_last_blank_line_still_counts() -> None:
    out, seen = run([HI, END[:-2]])
    assert out == HI + END + DONE
    assert seen.error is None


def test_an_end_mark_without_a_line_end_is_an_end_mark() -> None:
    out, seen = run([HI, END, b"data: [DONE]"])
    assert out == HI + END + DONE
    assert not seen.end_mark_missing


@pytest.mark.parametrize(
    "mark", [b"data:[DONE]\n\n", b"data: [DONE]\r\n\r\n", b"data: [DONE] \n\n", b"event: done\ndata: [DONE]\n\n"]
)
def test_every_spelling_of_the_end_mark_is_understood(mark: bytes) -> None:
    out, seen = run([HI, END, mark])
    assert out == HI + END + DONE
    assert not seen.end_mark_missing


def test_a_stream_cut_after_content_is_never_made_whole() -> None:
    out, seen = run([ROLE, HI])
    assert out == ROLE + HI
    assert seen.error is not None
    assert seen.error.error_class is ErrorClass.TRUNCATED
    assert not seen.done


def test_a_stream_cut_inside_an_event_is_truncated() -> None:
    out, seen = run([HI, END[:20]])
    assert out == HI
    assert seen.error is not None
    assert seen.error.error_class is ErrorClass.TRUNCATED


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([], ErrorClass.EMPTY),
        ([b"\n\n\n"], ErrorClass.EMPTY),
        ([ROLE], ErrorClass.TRUNCATED),
        ([b"data: <html>\n\n"], ErrorClass.MALFORMED),
        ([b"not an event stream at all"], ErrorClass.TRUNCATED),
        ([DONE], ErrorClass.EMPTY),
        ([ROLE, DONE], ErrorClass.EMPTY),
    ],
)
def test_a_stream_without_any_content_is_an_error(pieces: list[bytes], expected: ErrorClass) -> None:
    out, seen = run(pieces)
    assert seen.error is not None
    assert seen.error.error_class is expected
    assert b"[DONE]" not in out


def test_no_text_and_a_finish_reason_is_a_legal_answer() -> None:
    out, seen = run([ROLE, END, DONE])
    assert out == ROLE + END + DONE
    assert seen.error is None


def test_no_finish_reason_but_an_end_mark_is_a_whole_answer_snowflake() -> None:
    text = chunk({"content": "4"}, "")
    out, seen = run([text, COUNTED, DONE])
    assert out == text + DONE
    assert (seen.error, seen.finish_reason, seen.usage) == (None, None, Usage(5, 7))


def test_what_follows_the_end_mark_is_not_relayed() -> None:
    out, seen = run([HI + END + DONE + chunk({"content": "more"}), HI])
    assert out == HI + END + DONE
    assert bytes(seen.text) == b"Hi"


@pytest.mark.parametrize("reason", ["tool_calls", "function_call", "content_filter", "something_new"])
def test_any_finish_reason_ends_an_answer(reason: str) -> None:
    assert run([HI, chunk({}, reason)])[1].finish_reason == reason


QUOTING = chunk({"content": 'so it says "finish_reason":"eos" there'})


@pytest.mark.parametrize("reason", FINISH_REASONS)
@pytest.mark.parametrize("cut", ["events", "a read", "bytes"])
def test_a_finish_reason_of_the_providers_own_is_told_in_openais_word(reason: str, cut: str) -> None:
    end = chunk({}, reason, obfuscation="x").replace(b'"finish_reason":', b'"finish_reason" : ')
    events = [ROLE, HI, QUOTING, end, COUNTED, DONE]
    data = b"".join(events)
    pieces = {"events": events, "a read": [ROLE, data[len(ROLE) :]], "bytes": [bytes([byte]) for byte in data]}
    out, seen = run(pieces[cut], include_usage=True)
    assert out == ROLE + HI + QUOTING + end.replace(reason.encode(), b"stop") + COUNTED + DONE
    assert (seen.finish_reason, seen.error, seen.mended) == ("stop", None, 0)


# errors inside a 200


ERROR = {"error": {"message": "boom", "type": "server_error", "code": None}}
ERRORS: dict[str, tuple[bytes, ErrorClass]] = {
    "an error event": (event(ERROR), ErrorClass.SERVER_ERROR),
    "an error event by name (Groq)": (
        b"event: error\n" + event({"error": {"message": "m", "status_code": 400}}),
        ErrorClass.INVALID_REQUEST,
    ),
    "an error with a chunk around it (OpenRouter)": (
        event(
            {
                **ERROR,
                "object": "chat.completion.chunk",
                "error": {"code": 429, "message": "slow down"},
                "choices": [{"delta": {"content": ""}}],
            }
        ),
        ErrorClass.RATE_LIMITED,
    ),
    "an error that is a string": (event({"error": "Internal error"}), ErrorClass.SERVER_ERROR),
    "an error that says nothing": (event({"error": {}}), ErrorClass.SERVER_ERROR),
    "a flat error": (event({"message": "boom", "code": 503}), ErrorClass.OVERLOADED),
    "a flat error with a detail": (event({"detail": "boom"}), ErrorClass.SERVER_ERROR),
    "an error object (vLLM)": (event({"object": "error", "message": "boom", "code": 400}), ErrorClass.INVALID_REQUEST),
    "a rate limit": (event({"error": {"message": "m", "code": "rate_limit_exceeded"}}), ErrorClass.RATE_LIMITED),
}


@pytest.mark.parametrize(("data", "expected"), ERRORS.values(), ids=ERRORS.keys())
def test_an_error_event_before_content_is_an_error_with_nothing_relayed(data: bytes, expected: ErrorClass) -> None:
    seen = stream()
    assert seen.feed(data) == b""
    assert not seen.committed
    assert seen.error is not None
    assert seen.error.error_class is expected
    assert seen.close() == b""


@pytest.mark.parametrize(("data", "expected"), ERRORS.values(), ids=ERRORS.keys())
def test_an_error_event_after_content_ends_the_stream_and_takes_no_end_mark(data: bytes, expected: ErrorClass) -> None:
    out, seen = run([HI + data + END + DONE])
    assert out == HI
    assert seen.error is not None
    assert seen.error.error_class is expected
    assert not seen.done


def test_usage_beside_an_error_is_kept() -> None:
    assert run([HI, event({**ERROR, "usage": USAGE})])[1].usage == Usage(5, 7)


def test_error_null_is_no_error() -> None:
    assert run([chunk({"content": "Hi"}, error=None), END, DONE])[1].error is None


def test_an_object_from_beyond_the_format_is_let_through() -> None:
    other = event({"type": "response.metadata", "value": 1})
    assert run([other, HI, END, DONE])[0] == other + HI + END + DONE


# faulty events


BAD = [b"data: {oops\n\n", b"data: null\n\n", b"data: 7\n\n", event({"object": "chat.completion.chunk", "choices": {"a": 1}})]


@pytest.mark.parametrize("bad", BAD)
def test_up_to_three_malformed_events_are_skipped_and_counted(bad: bytes) -> None:
    out, seen = run([HI, *[bad] * MAX_MALFORMED_EVENTS, END, DONE])
    assert out == HI + END + DONE
    assert (seen.malformed, seen.error) == (3, None)


@pytest.mark.parametrize("bad", BAD)
def test_the_fourth_malformed_event_ends_the_stream(bad: bytes) -> None:
    out, seen = run([HI, *[bad] * (MAX_MALFORMED_EVENTS + 1), END, DONE])
    assert out == HI
    assert seen.error is not None
    assert seen.error.error_class is ErrorClass.MALFORMED_EVENT


def test_utf_8_cut_between_chunks_is_no_error() -> None:
    data = chunk({"content": "größer 😀"})
    for at in range(len(data)):
        out, seen = run([data[:at], data[at:], END, DONE])
        assert out == data + END + DONE
        assert seen.mended == 0


def test_bytes_that_are_not_utf_8_become_replacement_characters() -> None:
    out, seen = run([chunk({"content": "aXb"}).replace(b"X", b"\xff"), END, DONE])
    assert out == chunk({"content": "a\ufffdb"}) + END + DONE
    assert (seen.mended, seen.malformed, bytes(seen.text)) == (1, 0, "a\ufffdb".encode())


@pytest.mark.parametrize("line", [b": \xff\n\n", b"event: \xff\n"])
def test_bytes_that_are_not_utf_8_outside_the_data_are_replaced_too(line: bytes) -> None:
    out, seen = run([line + HI, END, DONE])
    assert out == line.replace(b"\xff", "\ufffd".encode()) + HI + END + DONE
    assert seen.mended == 1


def test_a_lone_surrogate_escape_is_replaced_and_a_pair_is_not() -> None:
    data = rb'data: {"choices":[{"delta":{"content":"\ud83d|\ude00|\ud83d\ude00|\\ud83d|\uD83D\u0041"}}],"big":1e2}' + b"\n\n"
    out, seen = run([data, END, DONE])
    expected = 'data: {"choices":[{"delta":{"content":"\ufffd|\ufffd|\\ud83d\\ude00|\\\\ud83d|\ufffd\\u0041"}}],"big":1e2}\n\n'
    assert out == expected.encode() + END + DONE
    assert (seen.mended, seen.malformed) == (1, 0)
    assert bytes(seen.text) == "\ufffd|\ufffd|😀|\\ud83d|\ufffdA".encode()


def test_a_mended_event_of_several_lines_becomes_one() -> None:
    out, seen = run([b'data: {"choices":[\ndata: {"delta":{"content":"\xff"}}]}\n\n', END, DONE])
    assert seen.error is None
    assert orjson.loads(out.split(b"\n\n")[0].replace(b"\ndata: ", b" ")[6:]) == {"choices": [{"delta": {"content": "\ufffd"}}]}


def test_mending_never_fails_on_what_only_python_could_read() -> None:
    for text in (b'{"a":' + b"9" * 5000 + b',"b":"\\ud83d"}', b"[" * 100_000 + b'"\\ud83d"', b'{"a":NaN,"b":"\\ud83d"}'):
        assert run([b"data: " + text + b"\n\n", HI, END, DONE])[1].malformed == 1
    value, text_of = parse_mending(b'{"a":123456789012345678901234567890,"b":"\\ud83d"}')
    assert value == {"a": 1.2345678901234568e29, "b": "\ufffd"}
    assert text_of == '{"a":123456789012345678901234567890,"b":"\ufffd"}'.encode()


def test_an_event_may_be_a_megabyte_and_no_more() -> None:
    room = MAX_EVENT_BYTES - len(chunk({"content": ""})) + 2
    fits = chunk({"content": "x" * room})
    assert run([fits, END, DONE])[1].error is None
    seen = run([chunk({"content": "x" * (room + 1)}), END, DONE])[1]
    assert seen.error is not None
    assert seen.error.error_class is ErrorClass.TOO_LARGE


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("field", [b"data: ", b"data:"])
def test_every_framing_of_the_same_events_is_read_the_same(line_end: bytes, field: bytes) -> None:
    out, seen = run([(ROLE + HI + END + DONE).replace(b"data: ", field).replace(b"\n", line_end)])
    assert out == (ROLE + HI + END).replace(b"data: ", field) + DONE
    assert (seen.finish_reason, seen.error, bytes(seen.text)) == ("stop", None, b"Hi")


def test_comments_are_passed_on_so_that_the_connection_stays_alive() -> None:
    ping = b": ping\n\n"
    out, seen = run([ping, ping, HI, ping, END, DONE])
    assert out == ping + ping + HI + ping + END + DONE
    assert seen.committed


ANY_STREAM = st.lists(
    st.sampled_from([ROLE, HI, END, DONE, COUNTED, *CONTENT["a list of parts (Mistral)"][:1], *NO_CONTENT.values(), *BAD])
    | st.binary(max_size=8),
    max_size=10,
).map(b"".join)


@pytest.mark.property
@given(ANY_STREAM, st.lists(st.integers(0, 600), max_size=8))
@settings(max_examples=150, deadline=None)
def test_any_cut_of_any_stream_gives_the_caller_the_same_bytes(data: bytes, cuts: list[int]) -> None:
    at = sorted({min(cut, len(data)) for cut in cuts})
    whole, seen = run([data])
    pieces, seen_in_pieces = run([data[a:b] for a, b in zip([0, *at], [*at, len(data)], strict=True)])
    assert pieces == whole
    assert (seen.committed, seen.done, seen.usage, seen.events) == (
        seen_in_pieces.committed,
        seen_in_pieces.done,
        seen_in_pieces.usage,
        seen_in_pieces.events,
    )
    # without an error it ends as a whole one does, and all of it can be read
    assert seen.error is not None or whole.endswith(DONE)
    whole.decode("utf-8")


# -- whole answers


def answer(**rest: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": "Hi", "refusal": None}
    choices = [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}]
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": choices, **rest}


def test_a_clean_whole_answer_goes_through_byte_for_byte() -> None:
    body = orjson.dumps(answer(usage=USAGE, unknown={"x": 1}), option=orjson.OPT_INDENT_2)
    read = DIALECT.decode_answer(body, request(), target())
    assert read.body is body
    assert (read.usage, read.finish_reason, read.mended) == (Usage(5, 7), "stop", False)


def test_without_usage_the_text_is_there_to_be_counted() -> None:
    calls = [{"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}, {"function": None}, 7]
    messages = [
        {"content": "Hi", "reasoning_content": "Hm", "tool_calls": calls},
        {"content": [{"type": "text", "text": "Ho"}], "refusal": "No", "function_call": {"name": "old", "arguments": "1"}},
    ]
    read = DIALECT.decode_answer(orjson.dumps({"choices": [{"message": m} for m in messages] + [{}, 7]}), request(), target())
    assert read.usage is None
    assert DIALECT.text_of(read.body) == b"HiHmlook{}HoNoold1"


def test_a_long_answer_without_usage_is_counted_whole() -> None:
    body = orjson.dumps({"choices": [{"message": {"content": "x" * (MAX_KEPT_TEXT_BYTES + 10)}}]})
    assert len(DIALECT.text_of(body)) == MAX_KEPT_TEXT_BYTES + 10


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"{oops", ErrorClass.MALFORMED),
        (b"<html>", ErrorClass.MALFORMED),
        (b'{"choices":[{"message":NaN}]}', ErrorClass.MALFORMED),
        (b"null", ErrorClass.EMPTY),
        (b"{}", ErrorClass.EMPTY),
        (b"[]", ErrorClass.EMPTY),
        (b'"text"', ErrorClass.EMPTY),
        (b'{"choices":[]}', ErrorClass.EMPTY),
        (b'{"choices":null}', ErrorClass.EMPTY),
        (b'{"choices":{}}', ErrorClass.EMPTY),
        (b'{"choices":[null]}', ErrorClass.EMPTY),
        (b'{"error":{"message":"m","type":"server_error"}}', ErrorClass.SERVER_ERROR),
        (b'{"error":{"message":"m","code":"rate_limit_exceeded"}}', ErrorClass.RATE_LIMITED),
        (b'{"error":{"message":"m","code":429},"choices":[{"message":{}}]}', ErrorClass.RATE_LIMITED),
        (b'[{"error":{"code":400,"message":"API key not valid","status":"INVALID_ARGUMENT"}}]', ErrorClass.AUTH),
        (b'{"error":"text"}', ErrorClass.SERVER_ERROR),
        (b'{"code":503,"message":"m"}', ErrorClass.OVERLOADED),
        (b'{"detail":"m"}', ErrorClass.SERVER_ERROR),
        (
            b'{"error":{"message":"m","code":"content_filter","innererror":{"code":"ResponsibleAIPolicyViolation"}}}',
            ErrorClass.CONTENT_POLICY,
        ),
    ],
)
def test_a_200_that_is_no_answer_is_an_error(body: bytes, expected: ErrorClass) -> None:
    with pytest.raises(UpstreamError) as refused:
        DIALECT.decode_answer(body, request(), target())
    assert refused.value.error_class is expected


@pytest.mark.parametrize(
    "choice",
    [
        {"message": {"content": ""}, "finish_reason": "stop"},
        {"message": {"content": None}, "finish_reason": "length"},
        {"finish_reason": "content_filter"},  # Azure: no message at all
        {"message": {"content": None, "tool_calls": [CALL]}, "finish_reason": "stop"},
        {"message": {"content": [{"type": "text", "text": "Hi"}]}, "finish_reason": None},
    ],
)
def test_an_answer_with_little_in_it_is_legal(choice: dict[str, Any]) -> None:
    read = DIALECT.decode_answer(orjson.dumps({"choices": [choice], "error": None}), request(), target())
    assert read.finish_reason == choice["finish_reason"]


@pytest.mark.parametrize("reason", FINISH_REASONS)
def test_a_whole_answer_has_its_finish_reasons_in_openais_words(reason: str) -> None:
    said = {"role": "assistant", "content": 'so it says "finish_reason":"eos" there'}
    choices = [{"index": 0, "message": said, "finish_reason": "length"}, {"index": 1, "message": said, "finish_reason": reason}]
    body = orjson.dumps(answer(choices=choices), option=orjson.OPT_INDENT_2)
    read = DIALECT.decode_answer(body, request(), target())
    assert read.body == body.replace(b': "%b"' % reason.encode(), b': "stop"')
    assert (read.finish_reason, read.mended) == ("length", False)
    read = DIALECT.decode_answer(orjson.dumps(answer(choices=choices[1:])), request(), target())
    assert (read.finish_reason, orjson.loads(read.body)["choices"][0]["finish_reason"]) == ("stop", "stop")


def test_a_faulty_text_in_a_whole_answer_is_mended() -> None:
    body = b'{"choices":[{"message":{"content":"a\xff\\ud83db"},"finish_reason":"stop"}]}'
    read = DIALECT.decode_answer(body, request(), target())
    assert orjson.loads(read.body)["choices"][0]["message"]["content"] == "a\ufffd\ufffdb"
    assert read.mended


# -- a whole answer for a stream


def chunks(data: bytes) -> list[Any]:
    assert data.endswith(DONE)
    return [orjson.loads(part[6:]) for part in data.removesuffix(DONE).split(b"\n\n")[:-1]]


def test_a_whole_answer_becomes_the_stream_that_was_asked_for() -> None:
    data = whole_to_stream(answer(usage=USAGE), include_usage=True)
    first, end, counted = chunks(data)
    assert first["choices"] == [
        {"index": 0, "delta": {"role": "assistant", "content": "Hi", "refusal": None}, "finish_reason": None}
    ]
    assert end["choices"] == [{"index": 0, "delta": {}, "finish_reason": "stop"}]
    assert (counted["choices"], counted["usage"]) == ([], USAGE)
    assert {(c["id"], c["object"], c["created"], c["model"]) for c in (first, end, counted)} == {
        ("c", "chat.completion.chunk", 1, "m")
    }
    assert len(chunks(whole_to_stream(answer(usage=USAGE), include_usage=False))) == 2
    assert len(chunks(whole_to_stream(answer(), include_usage=True))) == 2


def test_tool_calls_of_a_whole_answer_get_their_index() -> None:
    calls = [{"id": n, "type": "function", "function": {"name": n, "arguments": "{}"}} for n in "ab"]
    whole = answer(choices=[{"message": {"content": None, "tool_calls": calls}, "finish_reason": "tool_calls"}])
    first, end = chunks(whole_to_stream(whole, include_usage=False))
    assert first["choices"][0]["delta"]["tool_calls"] == [{"index": 0, **calls[0]}, {"index": 1, **calls[1]}]
    assert end["choices"][0]["finish_reason"] == "tool_calls"


def test_every_choice_has_its_chunks_and_ids_are_never_missing() -> None:
    whole = {"choices": [{"message": {"content": str(n)}, "finish_reason": None} for n in range(3)]}
    found = chunks(whole_to_stream(whole, include_usage=False))
    assert [c["choices"][0]["index"] for c in found] == [0, 0, 1, 1, 2, 2]
    assert {c["choices"][0]["finish_reason"] for c in found} == {None, "stop"}
    assert all(c["id"] and c["object"] == "chat.completion.chunk" and c["created"] == 0 for c in found)


@pytest.mark.parametrize("choice", [None, 7, {}, {"message": None}, {"message": "text"}, {"message": [1]}])
def test_a_choice_of_another_shape_is_no_fault(choice: object) -> None:
    assert whole_to_stream({"choices": [choice]}, include_usage=False).endswith(DONE)


def test_what_becomes_a_stream_can_be_read_as_one() -> None:
    whole = orjson.dumps(answer(usage=USAGE))
    made = DIALECT.stream_from_whole(DIALECT.decode_answer(whole, request(), target()).body, request(stream=True))
    out, seen = run([made])
    assert out == made
    assert (seen.finish_reason, bytes(seen.text), seen.error) == ("stop", b"Hi", None)
