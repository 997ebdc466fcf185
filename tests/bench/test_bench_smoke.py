"""The benchmark's own parts agree with each other, with no proxy between them. Nothing here is about time."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace

import orjson
import pytest

from proxy.core.target import Provider as Upstream
from proxy.core.target import Target
from proxy.core.usage import Usage
from proxy.dialects.anthropic.dialect import AnthropicMessages
from proxy.dialects.bedrock.dialect import BedrockConverse
from proxy.dialects.cohere.dialect import CohereChat
from proxy.dialects.gemini.dialect import Gemini
from proxy.dialects.native import NativeDialect
from proxy.dialects.ollama.dialect import OllamaChat
from tests.bench.formats import FORMATS
from tests.bench.load import Plan, Result, chat_body, run
from tests.bench.rows import LOADS, ROWS, Sample, find
from tests.bench.upstream import Provider, port_of, serve
from tests.dialects.fields import chat_request

pytestmark = [pytest.mark.anyio, pytest.mark.integration]

DIALECTS: dict[str, NativeDialect] = {
    "anthropic": AnthropicMessages(),
    "gemini": Gemini(),
    "cohere": CohereChat(),
    "ollama": OllamaChat(),
    "bedrock": BedrockConverse(),
}


async def _against_the_upstream(plan: Plan) -> tuple[Result, Provider]:
    provider = Provider(keep=True)
    server = await serve(provider)
    try:
        plan.port = port_of(server)
        return await run(plan), provider
    finally:
        server.close()
        await provider.close()


async def _asked(path: str, body: bytes) -> tuple[bytes, list[bytes], Provider]:
    """One POST to the upstream: the head of the answer, its body (of a stream, each chunk by itself)."""
    provider = Provider(keep=True)
    server = await serve(provider)
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        writer.write(b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (path.encode(), len(body), body))
        head = await reader.readuntil(b"\r\n\r\n")
        pieces: list[bytes] = []
        if b"content-length: " in head:
            length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
            pieces.append(await reader.readexactly(int(length)))
        else:
            while size := int(await reader.readline(), 16):
                pieces.append((await reader.readexactly(size + 2))[:-2])
        writer.close()
        await writer.wait_closed()
    finally:
        server.close()
        await provider.close()
    return head, pieces, provider


def _target(dialect: str, model: str) -> Target:
    return Target(Upstream(dialect, dialect, "http://127.0.0.1", ()), model, model)


@pytest.mark.parametrize("model", ["whole", "mixed", "mixed-nousage"])
async def test_whole_answers_are_counted_alike_on_both_sides(model: str) -> None:
    result, provider = await _against_the_upstream(Plan(port=0, model=model, connections=4, requests=40))
    assert (result.whole, result.truncated, result.failed) == (40, 0, 0)
    assert provider.counts.requests == len(provider.seen) == 40


@pytest.mark.parametrize(("model", "chunks"), [("lone-3", 3), ("burst-25", 25), ("flood-25", 25)])
async def test_streams_arrive_whole_with_every_event(model: str, chunks: int) -> None:
    plan = Plan(port=0, model=model, stream=True, connections=3, requests=9, events=chunks + 4)
    result, provider = await _against_the_upstream(plan)
    assert (result.whole, result.truncated, result.failed) == (9, 0, 0)
    assert provider.counts.chunks == 9 * chunks
    assert all(served.whole for served in provider.seen)


@pytest.mark.parametrize("dialect", FORMATS)
@pytest.mark.parametrize("kind", ["lone", "burst", "flood"])
async def test_native_streams_are_what_the_dialects_read(dialect: str, kind: str) -> None:
    request, target = chat_request(chat_body("x", stream=True, prompt_bytes=100)), _target(dialect, f"{kind}-25")
    outbound = DIALECTS[dialect].encode_request(request, target)
    head, pieces, provider = await _asked(outbound.path, outbound.body)
    assert b"content-type: " + DIALECTS[dialect].stream_type in head
    stream = DIALECTS[dialect].answer_stream(request, target)
    told = b"".join([stream.feed(piece) for piece in pieces]) + stream.close()
    assert (stream.error, stream.malformed, stream.mended, stream.end_mark_missing) == (None, 0, 0, dialect == "gemini")
    assert stream.usage is not None
    assert replace(stream.usage, billed=None) == Usage(200, 25)
    assert (stream.finish_reason, bytes(stream.text)) == ("stop", b" word" * 25)
    assert told.count(b"data: ") == 25 + LOADS[f"burst_{dialect}"].beside  # what a whole stream of that load is known by
    assert len(pieces) >= 25  # an event is a chunk of the body
    assert provider.counts.chunks == 25
    assert [(served.model, served.stream, served.whole) for served in provider.seen] == [(f"{kind}-25", True, True)]


@pytest.mark.parametrize("dialect", FORMATS)
async def test_native_whole_answers_are_what_the_dialects_read(dialect: str) -> None:
    request, target = chat_request(chat_body("x", stream=False, prompt_bytes=100)), _target(dialect, "whole")
    outbound = DIALECTS[dialect].encode_request(request, target)
    head, pieces, provider = await _asked(outbound.path, outbound.body)
    assert b"content-type: application/json" in head
    answer = DIALECTS[dialect].decode_answer(pieces[0], request, target)
    message = orjson.loads(answer.body)["choices"][0]["message"]
    assert message["content"].startswith("A reverse proxy stands between")
    assert answer.usage is not None
    assert (replace(answer.usage, billed=None), answer.finish_reason) == (Usage(200, 40), "stop")
    assert [(served.model, served.stream, served.whole) for served in provider.seen] == [("whole", False, True)]


@pytest.mark.parametrize("dialect", FORMATS)
async def test_a_model_that_a_native_format_does_not_serve_is_not_found(dialect: str) -> None:
    request = chat_request(chat_body("x", stream=True, prompt_bytes=100))
    outbound = DIALECTS[dialect].encode_request(request, _target(dialect, "mixed"))
    head, _, provider = await _asked(outbound.path, outbound.body)
    assert head.startswith(b"HTTP/1.1 404 ")
    assert provider.counts.requests == 0


async def test_a_missing_event_counts_as_truncated() -> None:
    result, _ = await _against_the_upstream(Plan(port=0, model="flood-5", stream=True, connections=1, requests=2, events=10))
    assert (result.whole, result.truncated) == (0, 2)


async def test_a_failing_upstream_counts_as_failed() -> None:
    result, _ = await _against_the_upstream(Plan(port=0, model="down", connections=2, requests=6))
    assert (result.whole, result.failed, result.statuses) == (0, 6, {"500": 6})


async def test_hanging_up_on_purpose_is_no_failure_and_the_load_goes_on() -> None:
    plan = Plan(port=0, model="lone-4", stream=True, connections=2, requests=8, abort_every=4)
    result, provider = await _against_the_upstream(plan)
    assert (result.whole, result.aborted, result.failed) == (6, 2, 0)
    assert provider.counts.requests == 8


async def test_nobody_listening_ends_at_once() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            await run(Plan(port=unused.getsockname()[1], model="whole", connections=1, requests=1))


def test_a_chunk_costs_what_the_stream_costs_beyond_a_one_chunk_stream() -> None:
    row = next(row for row in ROWS if row.name == "lone")
    base = Sample(cpu_us=100_000.0, result=Result(requests=1_000))  # 100 µs a stream

    def samples(chunk_us: float) -> dict[str, Sample]:
        cpu_us = 20 * 100.0 + chunk_us * 20 * (LOADS["lone"].chunks - 1)
        return {"stream_base": base, "lone": Sample(cpu_us=cpu_us, result=Result(requests=20))}

    finding = find(row, {"tollbridge": [samples(30.0)] * 3, "nginx": [samples(20.0)] * 3})
    assert finding.held == pytest.approx(1.5)
    assert finding.verdict is True


def test_a_translated_chunk_is_held_against_one_passed_through_in_the_same_round() -> None:
    row = next(row for row in ROWS if row.name == "burst_cohere")
    base = Sample(cpu_us=100_000.0, result=Result(requests=1_000))

    def samples(slowness: float) -> dict[str, Sample]:
        def streams(load: str, chunk_us: float) -> Sample:
            return Sample(20 * 100.0 + chunk_us * slowness * 20 * (LOADS[load].chunks - 1), Result(requests=20))

        return {"stream_base": base, "burst": streams("burst", 5.0), "burst_cohere": streams("burst_cohere", 20.0)}

    finding = find(row, {"tollbridge": [samples(0.8), samples(1.0), samples(1.2)], "nginx": [{"stream_base": base}]})
    assert finding.figures == {"tollbridge": pytest.approx(20.0)}
    assert finding.held == pytest.approx(15.0)
    assert find(row, {"tollbridge": [samples(2.0)]}).verdict is False
    assert find(row, {"tollbridge": [samples(0.9)]}).verdict is True
    assert find(row, {"nginx": [{"stream_base": base}]}).verdict is None


def test_every_row_has_its_loads_and_says_what_it_is_held_against() -> None:
    for row in ROWS:
        assert all(name in LOADS for name in row.loads), row.name
    named = {row.name for row in ROWS if row.named}
    assert {row.name for row in ROWS if row.bar is None} == {"stream", "flood"} | named
    assert named == {f"request_{dialect}" for dialect in FORMATS}
    assert {row.own for row in ROWS if row.against == "over_own"} <= {row.name for row in ROWS}
    assert set(DIALECTS) == set(FORMATS)
