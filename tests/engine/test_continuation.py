"""A stream that breaks after content and is gone on with by the next target: what the caller sees, and what is written down."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest

from proxy.core.errors import ErrorClass, UpstreamError
from proxy.core.target import Prefix, Quirks, Target
from proxy.dialects.anthropic.dialect import AnthropicMessages
from proxy.dialects.bedrock.dialect import BedrockConverse
from proxy.dialects.cohere.dialect import CohereChat
from proxy.dialects.continuing import INSTRUCTION_START
from proxy.dialects.gemini.dialect import Gemini
from proxy.dialects.ollama.dialect import OllamaChat
from proxy.engine.continuation import MAX_CONTINUATIONS
from tests.dialects.bedrock_recordings import event as bedrock_event
from tests.engine.harness import (
    DONE,
    FOREVER,
    SSE,
    Reply,
    Served,
    World,
    dialect_of,
    event,
    fault,
    refusal,
    target,
    whole,
    world,
)

pytestmark = [pytest.mark.unit, pytest.mark.anyio]

CONTINUE = {"on_break": "continue"}
_TOKENS = (
    "The| bridge| was| built| in| 18|94|,| over| the| ri|ver|.|\n\n|It| is| very| very| old|;| ha| ha| ha|!|\n|```py|\n|def| f|():|\n   "
    "| return| 1|\n|```"
)
TOKENS = tuple(_TOKENS.split("|"))
GOLDEN = "".join(TOKENS)
PREFIX = Quirks(prefix=Prefix(message={"partial": True}, body={"continue_final_message": True}))
ECHO = Quirks(prefix=Prefix(echoes=True))
EXACT = target("b", quirks=PREFIX)


def chunk(of: str, delta: dict[str, Any], finish: str | None = None, **rest: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    base = {"id": f"chatcmpl-{of}", "object": "chat.completion.chunk", "created": len(of), "model": f"model-{of}"}
    return event({**base, "choices": [choice], **rest})


def begun(of: str, *texts: str) -> list[bytes]:
    return [chunk(of, {"role": "assistant", "content": ""}), *[chunk(of, {"content": text}) for text in texts]]


def usage(of: str, tokens_in: int, tokens_out: int) -> bytes:
    said = {"prompt_tokens": tokens_in, "completion_tokens": tokens_out, "total_tokens": tokens_in + tokens_out}
    return event({"id": f"chatcmpl-{of}", "object": "chat.completion.chunk", "created": 1, "choices": [], "usage": said})


def reset() -> UpstreamError:
    return fault(ErrorClass.RESET_STREAM)


def breaks(of: str, *texts: str, how: bytes | None = None) -> Reply:
    """`how`: the last piece; a connection that breaks unless written, and b"" for one that is closed."""
    return Reply([*begun(of, *texts), reset() if how is None else how], headers=SSE)


def goes_on(of: str, *texts: str, tokens_in: int = 40) -> Reply:
    return Reply([*begun(of, *texts), chunk(of, {}, "stop"), usage(of, tokens_in, len(texts)), DONE], headers=SSE)


def chunks(served: Served) -> list[dict[str, Any]]:
    events = served.sink.body.split(b"\n\n")
    assert events[-1] == b""
    return [orjson.loads(each[6:]) for each in events[:-1] if each.startswith(b"data: {")]


def text_of(told: list[dict[str, Any]]) -> str:
    return "".join([choice["delta"].get("content") or "" for each in told for choice in each.get("choices", ())])


def check_one_answer(served: Served, golden: str, *, of: str = "a") -> list[dict[str, Any]]:
    """One id, one role, one finish, one end mark, and the whole text."""
    assert served.sink.ended == "whole"
    told = chunks(served)
    assert text_of(told) == golden
    assert {(each["id"], each["created"], each["model"]) for each in told} == {(f"chatcmpl-{of}", len(of), f"model-{of}")}
    choices = [choice for each in told for choice in each["choices"]]
    assert {choice["index"] for choice in choices} == {0}
    assert [choice["delta"]["role"] for choice in choices if "role" in choice["delta"]] == ["assistant"]
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["stop"]
    assert choices[-1]["finish_reason"] == "stop"
    assert served.sink.body.endswith(b"\n\n" + DONE)
    assert served.sink.body.count(DONE) == 1
    return told


# -- what the caller sees


@pytest.mark.parametrize("how", [None, b"", event({"error": {"message": "busy", "code": 503}})], ids=["reset", "end", "error"])
async def test_cut_anywhere_the_two_halves_are_the_answer_and_both_are_billed(how: bytes | None) -> None:
    for cut in range(1, len(TOKENS) + 1):
        around = world(target("a"), EXACT, chain=CONTINUE, a=breaks("a", *TOKENS[:cut], how=how), b=goes_on("bb", *TOKENS[cut:]))
        served = await around.serve(stream=True, stream_options={"include_usage": True})
        told = check_one_answer(served, GOLDEN)
        call = around.upstream.calls[1].body
        assert call["messages"][-1] == {"role": "assistant", "content": "".join(TOKENS[:cut]), "partial": True}
        assert call["continue_final_message"] is True
        marked = [each["x_tollbridge"] for each in told if "x_tollbridge" in each]
        so_far = len("".join(TOKENS[:cut]))
        assert marked == [{"continued": {"from": "a/a-model", "by": "b/b-model", "after_characters": so_far}}]
        first, second = around.ends
        assert (first.outcome, second.outcome) == ("failed", "ok")
        assert (second.usage_source, second.input_tokens, second.output_tokens) == ("provider", 40, len(TOKENS) - cut)
        assert (first.usage_source, first.output_tokens > 0, first.cost_nusd is not None) == ("estimated", True, True)
        assert told[-1]["usage"]["completion_tokens"] == first.output_tokens + second.output_tokens
        assert told[-1]["usage"]["prompt_tokens"] == first.input_tokens + second.input_tokens
        around.check_books()


async def test_a_figure_that_was_reported_before_the_break_is_what_is_billed_and_summed() -> None:
    """Some tell their usage with every chunk."""
    texts = [chunk("a", {"content": text}, usage={"prompt_tokens": 7, "completion_tokens": 90}) for text in TOKENS[:5]]
    around = world(target("a"), EXACT, chain=CONTINUE, a=Reply([*texts, reset()], headers=SSE), b=goes_on("bb", *TOKENS[5:]))
    served = await around.serve(stream=True, stream_options={"include_usage": True})
    assert text_of(chunks(served)) == GOLDEN
    first, second = around.ends
    assert (first.input_tokens, first.output_tokens, first.usage_source) == (7, 90, "provider")
    assert chunks(served)[-1]["usage"]["completion_tokens"] == 90 + second.output_tokens
    around.check_books()


async def test_who_did_not_ask_for_usage_gets_none() -> None:
    around = world(target("a"), EXACT, chain=CONTINUE, a=breaks("a", *TOKENS[:3]), b=goes_on("bb", *TOKENS[3:]))
    served = await around.serve(stream=True)
    assert not any("usage" in each for each in check_one_answer(served, GOLDEN))


async def test_a_sum_of_which_one_part_is_unknown_is_not_told() -> None:
    rest = Reply([*begun("bb", *TOKENS[3:]), chunk("bb", {}, "stop"), DONE], headers=SSE)
    around = world(target("a"), EXACT, chain=CONTINUE, a=breaks("a", *TOKENS[:3]), b=rest)
    served = await around.serve(stream=True, stream_options={"include_usage": True})
    assert not any("usage" in each for each in check_one_answer(served, GOLDEN))
    assert around.ends[1].usage_source == "counted"


async def test_a_provider_that_says_everything_again_is_not_heard_twice() -> None:
    for cut in range(1, len(TOKENS)):
        again = target("b", quirks=ECHO)
        around = world(target("a"), again, chain=CONTINUE, a=breaks("a", *TOKENS[:cut]), b=goes_on("bb", *TOKENS))
        check_one_answer(await around.serve(stream=True), GOLDEN)


async def test_one_that_takes_no_prefix_is_asked_to_repeat_the_last_words() -> None:
    words = GOLDEN.split(" ")
    for cut in range(1, len(words)):
        so_far = " ".join(words[:cut])
        around = world(a=breaks("a", so_far), b=goes_on("bb", " ".join(words[max(0, cut - 8) :])), chain=CONTINUE)
        served = await around.serve(stream=True)
        *_, said, asked = around.upstream.calls[1].body["messages"]
        assert said == {"role": "assistant", "content": so_far}
        assert asked["role"] == "user"
        assert asked["content"].startswith(INSTRUCTION_START)
        anchor = asked["content"].rpartition("“")[2].removesuffix("”")
        assert so_far.rstrip().endswith(anchor)
        around = world(
            a=breaks("a", so_far),
            b=goes_on("bb", GOLDEN[len(so_far.rstrip()) - len(anchor) :]),
            chain=CONTINUE,
        )
        served = await around.serve(stream=True)
        check_one_answer(served, GOLDEN)


async def test_it_breaks_twice_and_is_still_one_answer() -> None:
    around = world(
        target("a"),
        EXACT,
        target("c", quirks=PREFIX),
        chain=CONTINUE,
        a=breaks("a", *TOKENS[:4]),
        b=breaks("bb", *TOKENS[4:9]),
        c=goes_on("ccc", *TOKENS[9:]),
    )
    served = await around.serve(stream=True, stream_options={"include_usage": True})
    told = check_one_answer(served, GOLDEN)
    assert [each["x_tollbridge"]["continued"]["by"] for each in told if "x_tollbridge" in each] == ["b/b-model", "c/c-model"]
    assert told[-1]["usage"]["completion_tokens"] == sum(end.output_tokens for end in around.ends)
    assert around.end.extra is not None
    assert around.end.extra["continued"] == [1, 2]
    assert around.meter.counts == ["continued", "continued"]
    around.check_books()


async def test_a_third_break_is_the_last() -> None:
    names = ("a", "b", "c", "d")
    assert len(names) == MAX_CONTINUATIONS + 2
    scripts = {name: breaks(name, f"{name} one", " two") for name in names}
    around = world(*[target(name, quirks=PREFIX) for name in names], chain=CONTINUE, **scripts)
    served = await around.serve(stream=True)
    assert len(around.upstream.calls) == MAX_CONTINUATIONS + 1
    assert chunks(served)[-1]["error"]["code"] == "stream_interrupted"
    assert DONE not in served.sink.body
    assert (around.end.outcome, around.end.http_status, around.end.error_code) == ("failed", 200, "stream_interrupted")
    around.check_books()


async def test_a_target_that_fails_before_content_is_passed_by_and_the_caller_sees_nothing_of_it() -> None:
    around = world(
        target("a"),
        target("b", quirks=PREFIX),
        target("c", quirks=PREFIX),
        chain=CONTINUE,
        a=breaks("a", *TOKENS[:6]),
        b=refusal(400, "prefill is not supported", param="messages"),
        c=goes_on("ccc", *TOKENS[6:]),
    )
    served = await around.serve(stream=True)
    check_one_answer(served, GOLDEN)
    assert [end.error_class for end in around.ends] == ["stream_interrupted", "4xx", None]
    around.check_books()


async def test_what_was_still_good_in_the_last_piece_comes_before_the_rest() -> None:
    together = b"".join(begun("a", *TOKENS[:7])) + event({"error": {"message": "gone"}})
    around = world(target("a"), EXACT, chain=CONTINUE, a=Reply([together], headers=SSE), b=goes_on("bb", *TOKENS[7:]))
    check_one_answer(await around.serve(stream=True), GOLDEN)


async def test_the_rest_may_come_as_plain_json_or_in_one_piece() -> None:
    answer = whole("".join(TOKENS[5:]), id="chatcmpl-bb", created=2, model="model-bb")
    around = world(target("a"), EXACT, chain=CONTINUE, a=breaks("a", *TOKENS[:5]), b=answer)
    served = await around.serve(stream=True, stream_options={"include_usage": True})
    told = check_one_answer(served, GOLDEN)
    assert told[-1]["usage"]["completion_tokens"] == around.ends[0].output_tokens + around.ends[1].output_tokens
    rest = b"".join([piece for piece in goes_on("bb", *TOKENS[5:]).pieces if isinstance(piece, bytes)])
    around = world(target("a"), EXACT, chain=CONTINUE, a=breaks("a", *TOKENS[:5]), b=Reply([rest], headers=SSE))
    check_one_answer(await around.serve(stream=True), GOLDEN)


async def test_a_rest_of_nothing_ends_the_answer() -> None:
    around = world(target("a"), EXACT, chain=CONTINUE, a=breaks("a", *TOKENS), b=goes_on("bb"))
    check_one_answer(await around.serve(stream=True), GOLDEN)
    around.check_books()


async def test_the_rest_may_be_tool_calls() -> None:
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    rest = [*begun("bb"), chunk("bb", {"tool_calls": [call]}), chunk("bb", {}, "tool_calls"), DONE]
    around = world(target("a"), EXACT, chain=CONTINUE, a=breaks("a", "Let me", " look."), b=Reply(rest, headers=SSE))
    served = await around.serve(stream=True, tools=[{"type": "function", "function": {"name": "look"}}])
    told = chunks(served)
    assert text_of(told) == "Let me look."
    assert [choice["delta"]["tool_calls"] for each in told for choice in each["choices"] if "tool_calls" in choice["delta"]] == [
        [call]
    ]
    assert told[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_thoughts_stand_before_the_answer_and_not_in_it() -> None:
    thinking = [chunk("a", {"role": "assistant", "reasoning_content": "Hm."}), *[chunk("a", {"content": t}) for t in TOKENS[:4]]]
    rest = [chunk("bb", {"role": "assistant", "reasoning_content": "Well."}), *[chunk("bb", {"content": t}) for t in TOKENS[4:]]]
    around = world(
        target("a"),
        EXACT,
        chain=CONTINUE,
        a=Reply([*thinking, reset()], headers=SSE),
        b=Reply([*rest, chunk("bb", {}, "stop"), DONE], headers=SSE),
    )
    told = check_one_answer(await around.serve(stream=True), GOLDEN)
    thoughts = [choice["delta"].get("reasoning_content") for each in told for choice in each["choices"]]
    assert [thought for thought in thoughts if thought] == ["Hm."]


async def test_a_break_among_the_thoughts_begins_the_answer_anew_at_the_next() -> None:
    thinking = Reply([chunk("a", {"role": "assistant", "reasoning_content": "Hm."}), reset()], headers=SSE)
    around = world(target("a"), EXACT, chain=CONTINUE, a=thinking, b=goes_on("bb", *TOKENS))
    check_one_answer(await around.serve(stream=True), GOLDEN)
    assert around.upstream.calls[1].body["messages"] == [{"role": "user", "content": "Hi"}]


async def test_the_callers_own_beginning_of_the_answer_stays_in_front() -> None:
    around = world(target("a"), EXACT, chain=CONTINUE, a=breaks("a", " bridge"), b=goes_on("bb", " was", " built"))
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "The"}]
    served = await around.serve(stream=True, messages=messages)
    check_one_answer(served, " bridge was built")
    assert around.upstream.calls[1].body["messages"][1:] == [{"role": "assistant", "content": "The bridge", "partial": True}]


async def test_the_rest_gets_the_tokens_that_are_left() -> None:
    around = world(target("a"), EXACT, chain=CONTINUE, a=breaks("a", *TOKENS[:8]), b=goes_on("bb", *TOKENS[8:]))
    await around.serve(stream=True, max_tokens=100)
    assert around.upstream.calls[1].body["max_tokens"] == 100 - around.ends[0].output_tokens
    around = world(target("a"), EXACT, chain=CONTINUE, a=breaks("a", *TOKENS[:8]), b=goes_on("bb", *TOKENS[8:]))
    await around.serve(stream=True, max_completion_tokens=1)
    assert around.upstream.calls[1].body["max_completion_tokens"] == 1


# -- from one format to another


def anthropic(*texts: str, whole: bool) -> list[bytes]:
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude",
        "content": [],
        "usage": {"input_tokens": 30},
    }
    objects: list[dict[str, Any]] = [{"type": "message_start", "message": message}]
    objects.append({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})
    objects += [{"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}} for text in texts]
    if whole:
        objects.append({"type": "content_block_stop", "index": 0})
        objects.append({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 17}})
        objects.append({"type": "message_stop"})
    return [b"event: %b\n" % each["type"].encode() + event(each) for each in objects]


def gemini(*texts: str, whole: bool) -> list[bytes]:
    found: list[dict[str, Any]] = [{"candidates": [{"content": {"role": "model", "parts": [{"text": text}]}}]} for text in texts]
    if whole:
        found.append(
            {
                "candidates": [{"content": {"role": "model", "parts": [{"text": ""}]}, "finishReason": "STOP"}],
                "usageMetadata": {"promptTokenCount": 30, "candidatesTokenCount": 17, "totalTokenCount": 47},
            }
        )
    return [event(each) for each in found]


def cohere(*texts: str, whole: bool) -> list[bytes]:
    found: list[dict[str, Any]] = [{"type": "message-start", "delta": {"message": {"role": "assistant"}}}]
    found.append({"type": "content-start", "index": 0, "delta": {"message": {"content": {"type": "text", "text": ""}}}})
    found += [{"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": text}}}} for text in texts]
    if whole:
        tokens = {"tokens": {"input_tokens": 30, "output_tokens": 17}}
        found.append({"type": "content-end", "index": 0})
        found.append({"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": tokens}})
    return [event(each) for each in found]


def ollama(*texts: str, whole: bool) -> list[bytes]:
    found: list[dict[str, Any]] = [
        {"model": "m", "message": {"role": "assistant", "content": text}, "done": False} for text in texts
    ]
    if whole:
        end = {"model": "m", "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop"}
        found.append(end | {"prompt_eval_count": 30, "eval_count": 17})
    return [orjson.dumps(each) + b"\n" for each in found]


def bedrock(*texts: str, whole: bool) -> list[bytes]:
    found = [bedrock_event("messageStart", {"role": "assistant"})]
    found += [bedrock_event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": text}}) for text in texts]
    if whole:
        found.append(bedrock_event("contentBlockStop", {"contentBlockIndex": 0}))
        found.append(bedrock_event("messageStop", {"stopReason": "end_turn"}))
        tokens = {"inputTokens": 30, "outputTokens": 17, "totalTokens": 47}
        found.append(bedrock_event("metadata", {"usage": tokens, "metrics": {"latencyMs": 1}}))
    return found


def openai(*texts: str, whole: bool) -> list[bytes]:
    return [*begun("x", *texts), *([chunk("x", {}, "stop"), usage("x", 30, 17), DONE] if whole else [])]


Spoken = Callable[..., list[bytes]]
FORMATS: dict[str, tuple[Spoken, bytes, Any]] = {
    "openai": (openai, b"text/event-stream", None),
    "anthropic": (anthropic, b"text/event-stream", AnthropicMessages()),
    "gemini": (gemini, b"text/event-stream", Gemini()),
    "cohere": (cohere, b"text/event-stream", CohereChat()),
    "ollama": (ollama, b"application/x-ndjson", OllamaChat()),
    "bedrock": (bedrock, b"application/vnd.amazon.eventstream", BedrockConverse()),
}


def speaking(name: str, dialect: str) -> Target:
    """Claude where the format has it, so that it takes a prefix."""
    found = dialect_of(name, dialect)
    return replace(found, upstream_model="claude-sonnet-4-5") if dialect in ("anthropic", "bedrock") else found


def said_in(dialect: str, *texts: str, whole: bool) -> list[bytes]:
    return FORMATS[dialect][0](*texts, whole=whole)


def with_formats(around: World) -> World:
    around.services.outbound = {
        **around.services.outbound,
        **{name: dialect for name, (_, _, dialect) in FORMATS.items() if dialect is not None},
    }
    return around


@pytest.mark.parametrize("second", FORMATS)
@pytest.mark.parametrize("first", FORMATS)
async def test_any_format_goes_on_after_any(first: str, second: str) -> None:
    for cut in (1, 6, 14, 31):
        so_far = "".join(TOKENS[:cut])
        exact = second in ("anthropic", "bedrock")
        rest = [GOLDEN[len(so_far.rstrip()) :]] if exact else [GOLDEN[: len(so_far)], *TOKENS[cut:]]
        around = with_formats(
            world(
                speaking("a", first),
                speaking("b", second),
                chain=CONTINUE,
                a=Reply([*said_in(first, *TOKENS[:cut], whole=False), reset()], headers=((b"content-type", FORMATS[first][1]),)),
                b=Reply(said_in(second, *rest, whole=True), headers=((b"content-type", FORMATS[second][1]),)),
            )
        )
        served = await around.serve(stream=True, stream_options={"include_usage": True})
        told = chunks(served)
        assert text_of(told) == GOLDEN
        assert len({(each["id"], each.get("model")) for each in told}) == 1
        assert sum("x_tollbridge" in each for each in told) == 1
        assert [c["delta"]["role"] for each in told for c in each["choices"] if "role" in c["delta"]] == ["assistant"]
        assert [c["finish_reason"] for each in told for c in each["choices"] if c["finish_reason"]] == ["stop"]
        assert served.sink.body.endswith(DONE)
        assert told[-1]["usage"]["completion_tokens"] == around.ends[0].output_tokens + 17
        assert around.ends[1].output_tokens == 17
        around.check_books()


# -- when not


@pytest.mark.parametrize(
    ("body", "deltas", "why"),
    [
        ({"response_format": {"type": "json_object"}}, [], None),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}}, [], None),
        ({"logprobs": True}, [], None),
        ({"n": 2}, [], None),
        (
            {},
            [{"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}]}],
            "a tool call",
        ),
        ({}, [{"refusal": "No."}], "a refusal"),
        ({}, [{"reasoning_details": [{"type": "reasoning.text", "text": "Hm", "signature": "x"}]}], "sealed reasoning"),
        ({}, [{"reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}]}], "sealed reasoning"),
        ({}, [{"content": "x" * (256 * 1024)}], "more than 256 KiB of text"),
    ],
    ids=["json mode", "schema", "logprobs", "n", "tool call", "refusal", "signature", "encrypted", "too much"],
)
async def test_what_is_never_gone_on_after_ends_with_the_error_event(
    body: dict[str, Any], deltas: list[dict[str, Any]], why: str | None
) -> None:
    pieces: list[Any] = [*begun("a", "one"), *[chunk("a", delta) for delta in deltas], reset()]
    around = world(target("a"), EXACT, chain=CONTINUE, a=Reply(pieces, headers=SSE), b=goes_on("bb", " two"))
    served = await around.serve(stream=True, **body)
    assert len(around.upstream.calls) == 1
    assert chunks(served)[-1]["error"]["code"] == "stream_interrupted"
    assert DONE not in served.sink.body
    notes = [note["not_continued"] for note in around.end.trace if "not_continued" in note]
    assert notes == ([] if why is None else [f"{why} cannot be gone on after"])
    around.check_books()


async def test_without_another_target_or_the_option_it_is_as_before() -> None:
    alone = world(target("a"), chain=CONTINUE, a=breaks("a", "one"))
    served = await alone.serve(stream=True)
    assert chunks(served)[-1]["error"]["code"] == "stream_interrupted"
    assert [note["not_continued"] for note in alone.end.trace if "not_continued" in note] == ["no other target is left"]
    plain = world(a=breaks("a", "one"), b=goes_on("bb", " two"))
    served = await plain.serve(stream=True)
    assert chunks(served)[-1]["error"]["code"] == "stream_interrupted"
    assert len(plain.upstream.calls) == 1


async def test_a_cause_that_may_not_lead_to_the_next_target_does_not() -> None:
    around = world(
        target("a"), EXACT, chain=CONTINUE | {"failover_on": frozenset(("429",))}, a=breaks("a", "one"), b=goes_on("b")
    )
    served = await around.serve(stream=True)
    assert chunks(served)[-1]["error"]["code"] == "stream_interrupted"
    refused = breaks("a", "one", how=event({"error": {"message": "no", "code": "content_policy_violation"}}))
    around = world(target("a"), EXACT, chain=CONTINUE, a=refused, b=goes_on("b"))
    await around.serve(stream=True)
    assert len(around.upstream.calls) == 1


async def test_when_nobody_can_go_on_the_break_is_what_is_told() -> None:
    around = world(target("a"), EXACT, chain=CONTINUE, a=breaks("a", "one"), b=refusal(429))
    served = await around.serve(stream=True)
    assert text_of(chunks(served)[:-1]) == "one"
    assert chunks(served)[-1]["error"]["code"] == "stream_interrupted"
    assert (around.end.outcome, around.end.http_status, around.end.error_code) == ("failed", 200, "stream_interrupted")
    around.check_books()


async def test_a_canned_answer_is_the_rest_of_nothing() -> None:
    canned = replace(target("s"), answer="Sorry.")
    around = world(target("a"), canned, chain=CONTINUE, a=breaks("a", "one"), s=goes_on("s", "Sorry."))
    served = await around.serve(stream=True)
    assert chunks(served)[-1]["error"]["code"] == "stream_interrupted"
    assert len(around.upstream.calls) == 1


# -- what may happen meanwhile


async def test_a_caller_who_leaves_while_the_rest_is_waited_for_is_billed_for_what_was_seen() -> None:
    around = world(target("a"), EXACT, chain=CONTINUE, a=breaks("a", *TOKENS[:5]), b=Reply([FOREVER], headers=SSE))
    served = await around.interrupted(lambda served: served.control.client_gone(), stream=True)
    assert served.sink.ended == "cut"
    assert [end.outcome for end in around.ends] == ["failed", "client_gone"]
    assert around.ends[0].output_tokens > 0
    assert around.end.outcome == "client_gone"
    around.check_books()


async def test_a_stop_while_the_rest_is_waited_for_ends_with_the_error_event() -> None:
    around = world(target("a"), EXACT, chain=CONTINUE, a=breaks("a", *TOKENS[:5]), b=Reply([FOREVER], headers=SSE))
    served = await around.interrupted(lambda served: served.control.interrupt(ErrorClass.DRAINED), stream=True)
    assert chunks(served)[-1]["error"]["code"] == "stream_interrupted"
    assert (around.end.outcome, around.end.http_status) == ("interrupted", 200)
    around.check_books()


async def test_a_caller_who_does_not_read_what_was_still_good_is_cut_off() -> None:
    together = b"".join(begun("a", *TOKENS[:7])) + event({"error": {"message": "gone"}})
    around = world(target("a"), EXACT, chain=CONTINUE, a=Reply([together], headers=SSE), b=goes_on("bb", *TOKENS[7:]))
    served = around.start(stream=True)
    served.sink.stuck = True
    await around.waiting.wait()
    around.later(61)(served)
    await served.task
    assert served.sink.ended == "cut"
    assert [end.outcome for end in around.ends] == ["failed"]
    assert around.end.outcome == "client_gone"
    around.check_books()


async def test_the_first_content_is_the_first_ones() -> None:
    late = goes_on("bb", *TOKENS[5:])
    late.takes_s = 7.0
    first = breaks("a", *TOKENS[:5])
    first.takes_s = 0.5
    around = world(target("a"), EXACT, chain=CONTINUE, a=first, b=late)
    await around.serve(stream=True)
    assert around.end.first_token_ms == pytest.approx(500)
    assert around.end.overhead_ms == pytest.approx(0)


async def test_whole_answers_are_as_ever() -> None:
    around = world(target("a"), EXACT, chain=CONTINUE, a=whole("one"), b=whole("two"))
    served = await around.serve()
    assert served.answer["choices"][0]["message"]["content"] == "one"
