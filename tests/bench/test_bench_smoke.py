"""The benchmark's own parts agree with each other, with no proxy between them. Nothing here is about time."""

from __future__ import annotations

import socket

import pytest

from tests.bench.load import Plan, Result, run
from tests.bench.rows import LOADS, ROWS, Sample, find
from tests.bench.upstream import Provider, port_of, serve

pytestmark = [pytest.mark.anyio, pytest.mark.performance]


async def _against_the_upstream(plan: Plan) -> tuple[Result, Provider]:
    provider = Provider(keep=True)
    server = await serve(provider)
    try:
        plan.port = port_of(server)
        return await run(plan), provider
    finally:
        server.close()
        await provider.close()


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


def test_every_row_has_its_loads_and_says_what_it_is_held_against() -> None:
    for row in ROWS:
        assert all(name in LOADS for name in row.loads), row.name
    assert {row.name for row in ROWS if row.bar is None} == {"stream", "flood"}
