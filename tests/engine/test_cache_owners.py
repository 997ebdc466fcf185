"""Whoever asks whatever, in whatever order and at the same time: an answer is of one's own question, and of one's own client."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, cast

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.config.settings import ClientSettings
from proxy.core.ports import RequestHead
from proxy.core.target import CacheSettings
from proxy.core.wishes import CacheWish, Wishes
from tests.engine.harness import Call, Response, World, streamed, target, whole, world
from tests.engine.harness import chunk as piece

pytestmark = pytest.mark.property

CLIENTS = [ClientSettings(name, frozenset([name.encode()])) for name in ("ann", "ben")]
ASKED = st.tuples(
    st.sampled_from([*CLIENTS, None]),
    st.sampled_from(["one?", "two?"]),
    st.booleans(),  # streamed
    st.sampled_from(["on", "off", "refresh", None]),
    st.booleans(),  # together with the one before
)


class Numbering:
    """An upstream whose every answer is its number: what it was asked is in `questions`."""

    def __init__(self, w: World) -> None:
        self._world = w
        self.questions: list[str] = []
        w.services.transports = {"native": self}

    async def send(self, head: RequestHead, body: bytes, *, connect_timeout_s: float, fresh: bool = False) -> Response:
        asked: dict[str, Any] = orjson.loads(body)
        number = str(len(self.questions))
        self.questions.append(asked["messages"][0]["content"])
        for _ in range(3):
            await asyncio.sleep(0)
        reply = streamed(piece(number), piece(finish="stop"), b"data: [DONE]\n\n") if asked.get("stream") else whole(number)
        return Response(self._world, reply, Call(b"", asked, fresh))

    async def aclose(self) -> None:
        return


def text_of(body: bytes) -> str:
    if body.startswith(b"data: "):
        return str(orjson.loads(body.partition(b"\n\n")[0][6:])["choices"][0]["delta"]["content"])
    return str(orjson.loads(body)["choices"][0]["message"]["content"])


@settings(max_examples=40, deadline=None)
@given(asked=st.lists(ASKED, min_size=1, max_size=10), shared=st.booleans())
def test_an_answer_is_of_ones_own_question_and_client(asked: list[tuple[Any, ...]], shared: bool) -> None:
    async def play() -> None:
        w = world(target("a"), chain={"cache": CacheSettings(shared=shared)}, a=whole())
        w.configure(clients={client.name: client for client in CLIENTS})
        upstream = Numbering(w)
        served: list[tuple[Any, ...]] = []
        for client, question, stream, wish, together in asked:
            if not together and served:
                await served[-1][-1].task
            messages = [{"role": "user", "content": question}]
            wishes = replace(Wishes(), cache=cast("CacheWish | None", wish))
            one = w.start(client=client, wishes=wishes, messages=messages, stream=stream, temperature=0)
            served.append((client, question, stream, wish, one))
        await asyncio.gather(*[one.task for *_, one in served])
        owners = [begin.request.client if begin.request is not None else None for begin in w.begins]
        for client, question, stream, wish, one in served:
            number = int(text_of(one.sink.body))
            assert upstream.questions[number] == question
            assert one.sink.body.startswith(b"data: ") is stream
            if not shared:
                assert owners[number] == (client.name if client is not None else None)
            assert (one.sink.headers.get(b"x-tollbridge-cache") is None) is (wish == "off")
        assert len(w.services.cache.flights) == w.services.cache.recorded_bytes == 0
        assert len(w.journal.records) == len(asked) + len(upstream.questions)  # a row each, and a begin for each call
        w.executor.shutdown()

    asyncio.run(play())
