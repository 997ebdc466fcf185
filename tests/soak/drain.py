"""SIGTERM with streams open: all of them end well; and again with too little time, where all of them are told and have their row."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.bench.load import Answer, Connection
from tests.soak.stage import Caller, Check, Options, Stage, all_of, at_most, guarded, mock_provider, none_of

_STREAMS, _STREAMS_SHORT = 200, 24
# words at 20 ms each: within the drain's time, and beyond it
_FITS, _FITS_SHORT = 250, 30
_LASTS = 30_000
_DRAIN_S, _DRAIN_SHORT_S = 3.0, 0.5
_EXIT_S = 5.0  # for the error events, the last rows and the end of the process


async def run(folder: Path, options: Options) -> list[Check]:
    streams = options.of(_STREAMS, _STREAMS_SHORT)
    drain_s = _DRAIN_SHORT_S if options.short else _DRAIN_S
    found: list[Check] = []
    with Stage(folder, options) as stage:
        config = mock_provider(stage)
        fits, lasts = f"lone-{options.of(_FITS, _FITS_SHORT)}", f"lone-{_LASTS}"
        config["chains"] |= {model: [f"mock/{model}"] for model in (fits, lasts)}
        config["server"]["drain"] = {"delay": "100ms", "timeout": "60s"}
        stage.prepare(config)
        answers, code, seconds = await _drained(stage, streams, fits)
        found += [
            Check("with time enough: ended after", f"{seconds:.1f} s"),
            all_of("with time enough: whole, with [DONE]", sum(answer.whole and answer.done for answer in answers), streams),
            all_of("with time enough: rows that say ok", _rows(stage, fits, "ok"), streams),
            none_of("with time enough: exit code", code),
        ]
        config["server"]["drain"] = {"delay": "100ms", "timeout": f"{drain_s * 1000:.0f}ms"}
        stage.server.write(guarded(config))
        answers, code, seconds = await _drained(stage, streams, lasts)
        rows = _rows(stage, lasts, "interrupted")
    told = [answer for answer in answers if not answer.whole and not answer.done and _has_error(answer)]
    framed = sum(answer.body.endswith(b"0\r\n\r\n") for answer in answers)
    return [
        *found,
        all_of(f"with {drain_s:g} s: error event and no [DONE]", len(told), streams),
        all_of(f"with {drain_s:g} s: the framing ended as it should", framed, streams),
        all_of(f"with {drain_s:g} s: rows that say interrupted", rows, streams),
        none_of(f"with {drain_s:g} s: exit code", code),
        at_most(f"with {drain_s:g} s: ended after", seconds, drain_s + _EXIT_S, "s", timing=True),
    ]


async def _drained(stage: Stage, streams: int, model: str) -> tuple[list[Answer], int, float]:
    """(answers, exit code, seconds from the signal to the end)."""
    await asyncio.to_thread(stage.start)
    flowing = asyncio.Event()
    begun: set[Connection] = set()

    def began(connection: Connection) -> None:
        connection.on_data = None
        begun.add(connection)
        if len(begun) == streams:
            flowing.set()

    callers = [Caller(stage.port, keep=True) for _ in range(streams)]
    asked = [
        asyncio.ensure_future(caller.ask(model, stream=True, marker=f"t{number}", on_data=began))
        for number, caller in enumerate(callers)
    ]
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(60):
        await flowing.wait()
    signalled = loop.time()
    code = await asyncio.to_thread(stage.stop)
    seconds = loop.time() - signalled
    answers = await asyncio.gather(*asked)
    for caller in callers:
        await caller.close()
    return answers, code, seconds


def _has_error(answer: Answer) -> bool:
    return answer.status == 200 and b'data: {"error":' in answer.body


def _rows(stage: Stage, model: str, outcome: str) -> int:
    """Straight from the database: the server is gone."""
    query = "SELECT count(*), count(DISTINCT task_id) FROM requests WHERE model = ? AND outcome = ? AND ended = 1"
    rows, tasks = stage.sql(query, model, outcome)[0]
    return int(rows) if rows == tasks else -1
