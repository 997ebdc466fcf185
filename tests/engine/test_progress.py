"""When a stream says how far it is: that bounds what a kill can make the ledger forget, and costs little."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import pytest

from proxy.accounting.usage import BYTES_PER_TOKEN
from proxy.dialects.base import AnswerStream
from proxy.engine.control import Control
from proxy.engine.pipe import FIRST_LOOK_EVENTS, LOOK_EVENTS, PROGRESS_S, PROGRESS_TOKENS, Nobody, Pipe

pytestmark = pytest.mark.unit


class Stream:
    """Every read is an event of so much text. `looks` counts how often that was asked for, which takes its time."""

    done = False
    error = None

    def __init__(self) -> None:
        self.events = self.looks = self._bytes = 0

    def feed(self, data: bytes) -> bytes:
        self.events += 1
        self._bytes += len(data)
        return data

    @property
    def text_bytes(self) -> int:
        self.looks += 1
        return self._bytes


class Idle:
    def cancel(self) -> bool:
        return False

    def uncancel(self) -> int:
        return 0


class Running:
    """A pipe, what it has told, and at how many events."""

    def __init__(self) -> None:
        self.now = 0.0
        self.stream = Stream()
        self.told: list[tuple[int, int]] = []
        stream = cast("AnswerStream", self.stream)
        self.pipe = Pipe(stream, Nobody(), Control(Idle()), self._progress, lambda: self.now, idle_s=30.0, total_at=600.0)

    def _progress(self, tokens: int) -> None:
        self.told.append((self.stream.events, tokens))

    def read(self, tokens: int, times: int = 1, every_s: float = 0.0) -> None:
        for _ in range(times):
            self.now += every_s
            self.pipe.consume(b"x" * (tokens * BYTES_PER_TOKEN))


@pytest.mark.parametrize("event_tokens", [1, 3, 20, 300])
def test_of_a_quick_stream_256_tokens_are_untold_at_most_and_what_comes_in_one_event(event_tokens: int) -> None:
    running = Running()
    events = 40 * PROGRESS_TOKENS // event_tokens
    running.read(event_tokens, events)
    told = [0, *(tokens for _, tokens in running.told), events * event_tokens]
    gaps = [later - sooner for sooner, later in pairwise(told)]
    # before the first look nobody knows how much an event brings
    assert gaps[0] <= max(PROGRESS_TOKENS + event_tokens, FIRST_LOOK_EVENTS * event_tokens)
    assert max(gaps[1:]) < PROGRESS_TOKENS + event_tokens
    assert running.stream.looks <= 2 + len(running.told) * 2 + events / LOOK_EVENTS


def test_of_a_slow_stream_2_seconds_are_untold_at_most() -> None:
    running = Running()
    running.read(1, 40, every_s=0.25)
    assert [events for events, _ in running.told] == [8, 16, 24, 32, 40]
    assert PROGRESS_S == 8 * 0.25


def test_events_that_grow_are_seen_at_the_next_look() -> None:
    running = Running()
    running.read(0, 200)
    running.read(100, LOOK_EVENTS)
    assert 0 < running.told[0][1] <= 100 * LOOK_EVENTS
    before = len(running.told)
    running.read(100, 30)
    assert len(running.told) - before >= 30 // 4, "each after 300 tokens, once it is known how much an event brings"


def test_a_stream_without_text_tells_nothing_of_it_but_that_it_runs() -> None:
    running = Running()
    running.read(0, 1000)
    assert running.told == []
    assert running.stream.looks <= 2 + 1000 / LOOK_EVENTS
    running.read(0, every_s=PROGRESS_S)
    assert running.told == [(1001, 0)]
