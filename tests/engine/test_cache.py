"""Answers that are kept: who is given which, when none is kept, and what becomes of those who ask the same at the same time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import orjson
import pytest

from proxy.accounting.records import Rejected
from proxy.config.settings import ClientSettings
from proxy.core.deadlines import NEVER
from proxy.core.errors import ErrorClass
from proxy.core.kept import Held, Kept, Room, StoreFault
from proxy.core.limits import Budget, RateLimits
from proxy.core.ports import RequestHead
from proxy.core.shared import PeriodCell
from proxy.core.target import CacheSettings, QualitySettings, Target, Timeouts
from proxy.core.wishes import Wishes
from proxy.engine.books import Books
from proxy.engine.cache import LOOKUP_S, RETRY_S, Cache
from proxy.engine.flights import MAX_FAILURES
from proxy.engine.kept_memory import KeptMemory
from tests.engine.harness import (
    COST,
    COUNTED,
    DONE,
    HI,
    ROLE,
    STOP,
    Reply,
    Response,
    Served,
    World,
    chunk,
    refusal,
    streamed,
    target,
    whole,
    world,
)

pytestmark = [pytest.mark.unit, pytest.mark.anyio]

CACHE = CacheSettings()
ON, OFF, REFRESH = Wishes(cache="on"), Wishes(cache="off"), Wishes(cache="refresh")


def cached(*targets: Target, cache: CacheSettings | None = CACHE, chain: dict[str, Any] | None = None, **scripts: Any) -> World:
    return world(*targets, chain={"cache": cache, **(chain or {})}, **scripts)


def client(name: str, **rest: Any) -> ClientSettings:
    return ClientSettings(name, frozenset([name.encode()]), **rest)


def told(served: Served) -> str | None:
    found = served.sink.headers.get(b"x-tollbridge-cache")
    return found.decode() if found is not None else None


async def ask(w: World, **how: Any) -> Served:
    return await w.serve(**{"temperature": 0, **how})


# -- the same again


async def test_the_same_question_is_answered_with_the_same_bytes_and_nobody_is_asked() -> None:
    w = cached(a=whole("Hi"))
    first = await ask(w)
    w.clock.now += 7.9
    second = await ask(w)
    assert (told(first), told(second)) == ("miss", "hit")
    assert second.sink.body == first.sink.body
    assert len(w.upstream.calls) == 1
    assert {name: value for name, value in second.sink.headers.items() if name != b"server-timing"} == {
        b"content-type": b"application/json",
        b"x-request-id": b"R2",
        b"x-tollbridge-provider": b"a",
        b"x-tollbridge-model": b"a-model",
        b"x-tollbridge-attempts": b"0",
        b"x-tollbridge-cache": b"hit",
        b"age": b"7",
        b"cache-control": b"no-cache",
    }
    w.check_books()


async def test_a_stream_is_given_again_as_the_stream_that_it_was() -> None:
    w = cached(a=streamed(ROLE, chunk("One "), chunk("two"), STOP, COUNTED, DONE))
    options = {"stream": True, "stream_options": {"include_usage": True}}
    first, second = await ask(w, **options), await ask(w, **options)
    assert (told(first), told(second)) == ("miss", "hit")
    assert second.sink.body == first.sink.body == b"".join([ROLE, chunk("One "), chunk("two"), STOP, COUNTED, DONE])
    assert second.sink.headers[b"content-type"].startswith(b"text/event-stream")
    w.check_books()


async def test_a_hit_is_a_row_that_costs_nothing_and_says_what_it_saved() -> None:
    w = cached(a=whole("Hi"))
    await ask(w)
    await ask(w)
    end = w.end_of_last
    assert (end.outcome, end.http_status, end.attempts) == ("ok", 200, 0)
    assert end.extra is not None
    assert end.extra["cache"] == {
        "state": "hit",
        "provider": "a",
        "model": "a-model",
        "of": "R1",
        "saved_nusd": COST,
        "input_tokens": 10,
        "output_tokens": 20,
    }
    assert len(w.begins) == len(w.ends) == 1
    line = w.log.requests[-1]
    assert (line["provider"], line["upstream_model"], line["attempts"], line["cost_usd"]) == ("a", "a-model", 0, 0.0)
    assert w.services.cache.counts == {("smart", "miss"): 1, ("smart", "hit"): 1}
    assert w.services.cache.saved_nusd == {"smart": COST}


async def test_what_an_answer_without_a_price_saved_is_unknown() -> None:
    w = cached(target("a", price=None), a=whole("Hi"))
    await ask(w)
    await ask(w)
    assert w.end_of_last.extra is not None
    assert w.end_of_last.extra["cache"]["saved_nusd"] is None
    assert w.services.cache.saved_nusd == {}


async def test_embeddings_are_kept_whatever_else_is_said() -> None:
    w = cached(a=Reply([orjson.dumps({"object": "list", "data": [{"embedding": [0.5]}], "usage": {"prompt_tokens": 3}})]))
    first = await w.serve(input="Hi")
    second = await w.serve(input="Hi")
    assert (told(first), told(second)) == ("miss", "hit")
    assert first.sink.body == second.sink.body


# -- what is looked for


async def test_streams_with_usage_streams_without_and_whole_answers_are_kept_apart() -> None:
    w = cached(a=[whole(), streamed(), streamed(), whole()])
    forms: list[dict[str, Any]] = [
        {},
        {"stream": True},
        {"stream": True, "stream_options": {"include_usage": True}},
    ]
    assert [told(await ask(w, **form)) for form in forms] == ["miss"] * 3
    again = [await ask(w, **form) for form in forms]
    assert [told(served) for served in again] == ["hit"] * 3
    assert [b'"usage"' in served.sink.body for served in again] == [True, False, True]


UNTOUCHED: dict[str, tuple[CacheSettings, Wishes, dict[str, Any]]] = {
    "no temperature": (CACHE, Wishes(), {"temperature": None}),
    "another temperature": (CACHE, Wishes(), {"temperature": 0.1}),
    "a temperature that is none": (CACHE, Wishes(), {"temperature": False}),
    "the caller does not want it": (CACHE, OFF, {}),
    "the chain does not allow it": (replace(CACHE, enabled=False), ON, {}),
    "several choices": (CACHE, ON, {"n": 2}),
    "the provider is to store it": (CACHE, ON, {"store": True}),
    "speech": (CACHE, ON, {"modalities": ["text", "audio"], "audio": {"voice": "x"}}),
    "a search while it answers": (CACHE, Wishes(), {"web_search_options": {"search_context_size": "low"}}),
    "a tool of the provider's": (CACHE, Wishes(), {"tools": [{"type": "web_search"}]}),
}


@pytest.mark.parametrize("case", UNTOUCHED.values(), ids=UNTOUCHED)
async def test_nothing_is_kept_where_the_next_answer_may_be_another(case: tuple[CacheSettings, Wishes, dict[str, Any]]) -> None:
    settings, wishes, body = case
    w = cached(cache=settings, a=whole())
    served = [await ask(w, wishes=wishes, **body), await ask(w, wishes=wishes, **body)]
    assert [told(one) for one in served] == [None, None]
    assert len(w.upstream.calls) == 2
    assert w.services.cache.memory.held() == {}


TAKEN: dict[str, tuple[CacheSettings | None, Wishes, dict[str, Any]]] = {
    "asked for, at any temperature": (CACHE, ON, {"temperature": 0.7}),
    "asked for, on a chain that says nothing of a cache": (None, ON, {"temperature": 0.7}),
    "a chain that keeps every answer": (replace(CACHE, every=True), Wishes(), {"temperature": None}),
    "functions": (CACHE, Wishes(), {"tools": [{"type": "function", "function": {"name": "f"}}]}),
    "a search, when asked for": (CACHE, ON, {"web_search_options": {}}),
}


@pytest.mark.parametrize("case", TAKEN.values(), ids=TAKEN)
async def test_it_is_kept(case: tuple[CacheSettings | None, Wishes, dict[str, Any]]) -> None:
    settings, wishes, body = case
    w = cached(cache=settings, a=whole())
    assert told(await ask(w, wishes=wishes, **body)) == "miss"
    assert told(await ask(w, wishes=wishes, **body)) == "hit"


async def test_a_chain_without_a_cache_has_none_unless_it_is_asked_for() -> None:
    w = cached(cache=None, a=whole())
    await ask(w)
    assert told(await ask(w)) is None
    assert len(w.upstream.calls) == 2


async def test_refresh_asks_anew_and_what_it_brings_is_kept() -> None:
    w = cached(a=[whole("old"), whole("new")])
    await ask(w)
    assert told(await ask(w, wishes=REFRESH)) == "refresh"
    last = await ask(w)
    assert told(last) == "hit"
    assert last.answer["choices"][0]["message"]["content"] == "new"


async def test_an_answer_is_too_old_after_its_time() -> None:
    w = cached(cache=replace(CACHE, ttl_s=60.0), a=whole())
    await ask(w)
    w.clock.now += 59.9
    assert told(await ask(w)) == "hit"
    w.clock.now += 0.2
    assert told(await ask(w)) == "miss"


# -- whose it is


async def test_nothing_of_one_client_reaches_another() -> None:
    w = cached(a=whole())
    assert told(await ask(w, client=client("ann"))) == "miss"
    assert told(await ask(w, client=client("ben"))) == "miss"
    assert told(await ask(w)) == "miss"
    assert told(await ask(w, client=client("ann", key_id="k1"))) == "miss"
    assert told(await ask(w, client=client("ann"))) == "hit"
    assert len(w.upstream.calls) == 4


async def test_clients_who_ask_the_same_at_the_same_time_do_not_wait_for_each_other() -> None:
    w = cached(a=whole())
    served = [w.start(temperature=0, client=client(name)) for name in ("ann", "ben")]
    await asyncio.gather(*[one.task for one in served])
    assert [told(one) for one in served] == ["miss", "miss"]
    assert len(w.upstream.calls) == 2


async def test_what_is_shared_is_everybodys() -> None:
    w = cached(cache=replace(CACHE, shared=True), a=whole())
    assert told(await ask(w, client=client("ann"))) == "miss"
    assert told(await ask(w, client=client("ben"))) == "hit"


async def test_limits_hold_for_hits_and_budgets_do_not_ask_about_them() -> None:
    w = cached(a=whole())
    spender = client("ann", budget=Budget(COST, "day"), limits=RateLimits(rpm=3))
    assert told(await ask(w, client=spender)) == "miss"
    assert w.spent("client", "ann") == (COST, 0)
    assert told(await ask(w, client=spender)) == "hit"
    assert w.spent("client", "ann") == (COST, 0)
    refused = await ask(w, client=spender, seed=1)
    assert refused.code == "budget_exceeded"
    limited = await ask(w, client=spender)
    assert limited.code == "rate_limit_exceeded"


# -- which target's


async def test_an_answer_that_another_target_gave_is_not_given_when_the_first_is_well_again() -> None:
    w = cached(a=[refusal(503), whole("of a")], b=whole("of b"))
    first = await ask(w)
    assert first.sink.headers[b"x-tollbridge-provider"] == b"b"
    second = await ask(w)
    assert (told(second), second.sink.headers[b"x-tollbridge-provider"]) == ("miss", b"a")
    assert (await ask(w, wishes=Wishes(prefer="b"))).sink.headers[b"x-tollbridge-cache"] == b"hit"


async def test_what_is_kept_is_given_while_nothing_can_be_asked() -> None:
    w = cached(a=[whole("Hi"), refusal(429, headers=((b"retry-after", b"50"),))])
    await ask(w)
    assert (await ask(w, seed=1)).sink.status == 429
    served = await ask(w)
    assert (told(served), served.sink.headers[b"x-tollbridge-provider"]) == ("hit", b"a")
    assert (await ask(w, seed=2)).sink.status == 429
    w.check_books()


async def test_a_target_that_the_caller_excludes_gives_nothing_that_is_kept_of_it() -> None:
    w = cached(a=whole("of a"), b=whole("of b"))
    await ask(w)
    served = await ask(w, wishes=Wishes(exclude=frozenset(["a"])))
    assert (told(served), served.sink.headers[b"x-tollbridge-provider"]) == ("miss", b"b")


# -- what is good enough

NOT_KEPT: dict[str, tuple[Reply, dict[str, Any]]] = {
    "no reason why it ended": (whole(choices=[{"index": 0, "message": {"role": "assistant", "content": "Hi"}}]), {}),
    "an error": (refusal(400), {}),
    "filtered": (streamed(ROLE, HI, chunk(finish="content_filter"), DONE), {"stream": True}),
    "empty": (streamed(ROLE, STOP, COUNTED, DONE), {"stream": True}),
    "too long": (streamed(ROLE, HI, chunk(finish="length"), DONE), {"stream": True}),
    "events that could not be read": (streamed(ROLE, HI, b"data: {]\n\n", STOP, DONE), {"stream": True}),
    "broken off": (streamed(ROLE, HI), {"stream": True}),
    "larger than is kept": (streamed(ROLE, *[chunk("x" * 500_000)] * 9, STOP, DONE), {"stream": True}),
}


@pytest.mark.parametrize("case", NOT_KEPT.values(), ids=NOT_KEPT)
async def test_only_whole_good_answers_are_kept(case: tuple[Reply, dict[str, Any]]) -> None:
    reply, body = case
    w = cached(a=reply)
    first, second = await ask(w, **body), await ask(w, **body)
    assert told(second) != "hit"
    assert first.sink.body == second.sink.body
    assert len(w.upstream.calls) == 2
    assert w.services.cache.memory.held() == {}
    assert w.services.cache.recorded_bytes == 0
    assert len(w.services.cache.flights) == 0
    w.check_books()


KEPT_ENDS: dict[str, tuple[str, dict[str, Any]]] = {
    "a limit of the caller's own": ("length", {"max_tokens": 1}),
    "a call of a tool": ("tool_calls", {"tools": [{"type": "function", "function": {"name": "f"}}]}),
}


@pytest.mark.parametrize("case", KEPT_ENDS.values(), ids=KEPT_ENDS)
async def test_it_ended_as_it_was_asked_to(case: tuple[str, dict[str, Any]]) -> None:
    finish, body = case
    w = cached(a=streamed(ROLE, HI, chunk(finish=finish), COUNTED, DONE))
    await ask(w, stream=True, **body)
    assert told(await ask(w, stream=True, **body)) == "hit"


async def test_a_canned_answer_is_not_kept() -> None:
    w = cached(target("a", answer="I am not well"), a=whole("I am not well"))
    await ask(w)
    assert told(await ask(w)) == "miss"


@pytest.mark.parametrize(
    ("extra", "kept"),
    [({"quality": 0.4}, False), ({"quality": 0.6}, True), ({"quality": None}, True), ({"continued": [2]}, False), ({}, True)],
)
async def test_answers_that_were_measured_to_be_bad_or_sewn_together_are_not_kept(
    extra: dict[str, Any], kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = Books.end

    def end_with(books: Books, *how: Any, **more: Any) -> None:
        books.extra = extra
        end(books, *how, **more)

    monkeypatch.setattr(Books, "end", end_with)
    w = cached(chain={"quality": QualitySettings(0.6)}, a=streamed())
    await ask(w, stream=True)
    assert bool(w.services.cache.memory.held()) is kept


@pytest.mark.parametrize(("least", "kept"), [(0.01, True), (1.0, False)])
async def test_a_measured_answer_is_kept_if_it_is_good_enough(least: float, kept: bool) -> None:
    w = cached(chain={"quality": QualitySettings(least)}, a=whole("Paris is a large city. It lies on the"))
    assert (await ask(w)).sink.status == 200
    assert told(await ask(w)) == ("hit" if kept else "miss")
    w.check_books()


async def test_an_answer_that_another_target_went_on_with_is_not_kept() -> None:
    w = cached(chain={"on_break": "continue"}, a=streamed(ROLE, chunk("One ")), b=streamed(ROLE, chunk("two"), STOP, DONE))
    assert (await ask(w, stream=True)).sink.body.endswith(DONE)
    assert w.end.extra is not None
    assert w.end.extra["continued"]
    assert told(await ask(w, stream=True)) == "miss"


# -- at the same time


class Gate:
    """The world's upstream, which answers no call before it is let through."""

    def __init__(self, w: World) -> None:
        self._upstream = w.upstream
        self._waiting: list[asyncio.Event] = []
        w.services.transports = {"native": self}

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    async def send(self, head: RequestHead, body: bytes, *, connect_timeout_s: float, fresh: bool = False) -> Response:
        opened = asyncio.Event()
        self._waiting.append(opened)
        try:
            await opened.wait()
        except asyncio.CancelledError:
            self._waiting.remove(opened)
            raise
        return await self._upstream.send(head, body, connect_timeout_s=connect_timeout_s, fresh=fresh)

    async def aclose(self) -> None:
        return

    async def let(self) -> None:
        """Those who wait are answered, and whatever follows from it happens."""
        waiting, self._waiting = self._waiting, []
        for opened in waiting:
            opened.set()
        await settled()


async def settled() -> None:
    """Everybody has come as far as he can."""
    for _ in range(50):
        await asyncio.sleep(0)


async def ended(served: Sequence[Served]) -> None:
    await asyncio.wait_for(asyncio.gather(*[one.task for one in served]), 60)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_thousand_who_ask_the_same_are_one_call(stream: bool) -> None:
    w = cached(a=streamed() if stream else whole())
    gate = Gate(w)
    served = [w.start(temperature=0, stream=stream) for _ in range(1000)]
    await settled()
    assert gate.waiting == 1
    await gate.let()
    await ended(served)
    assert len(w.upstream.calls) == 1
    assert {one.sink.body for one in served} == {served[0].sink.body}
    assert [told(one) for one in served] == ["miss"] + ["hit"] * 999
    assert w.services.cache.counts == {("smart", "miss"): 1, ("smart", "joined"): 999}
    assert w.services.cache.saved_nusd == {"smart": 999 * COST}
    assert w.end_of_last.extra is not None
    assert w.end_of_last.extra["cache"]["of"] == "R1"
    w.check_books()


async def test_when_the_leader_fails_the_next_one_leads_and_soon_each_goes_alone() -> None:
    w = cached(target("a", retries=0), a=[refusal(500), refusal(500), whole("Hi")])
    gate = Gate(w)
    served = [w.start(temperature=0) for _ in range(6)]
    await settled()
    waiting = []
    while gate.waiting:
        waiting.append(gate.waiting)
        await gate.let()
    await ended(served)
    assert waiting == [1, 1, 4]
    assert MAX_FAILURES == 2
    assert [one.sink.status for one in served] == [502, 502, 200, 200, 200, 200]
    assert len(w.services.cache.flights) == 0
    assert told(await ask(w)) == "hit"
    w.check_books()


async def test_when_the_leader_leaves_the_next_one_leads() -> None:
    w = cached(a=whole())
    gate = Gate(w)
    served = [w.start(temperature=0) for _ in range(5)]
    await settled()
    for left in range(3):
        served[left].control.client_gone()
        await settled()
        assert gate.waiting == 1
    await gate.let()
    await ended(served)
    assert [one.sink.ended for one in served] == ["cut", "cut", "cut", "whole", "whole"]
    assert len(w.upstream.calls) == 1
    w.check_books()


async def test_a_follower_that_leaves_is_only_gone() -> None:
    w = cached(a=whole())
    gate = Gate(w)
    served = [w.start(temperature=0) for _ in range(3)]
    await settled()
    served[1].control.client_gone()
    await gate.let()
    await ended(served)
    assert [one.sink.ended for one in served] == ["whole", "cut", "whole"]
    outcomes = {record.request.id: record.end.outcome for record in w.journal.records if isinstance(record, Rejected)}
    assert outcomes == {"R2": "client_gone", "R3": "ok"}
    w.check_books()


async def test_a_follower_whose_turn_comes_as_it_leaves_hands_it_on() -> None:
    w = cached(a=whole())
    gate = Gate(w)
    served = [w.start(temperature=0) for _ in range(3)]
    await settled()
    (flight,) = [w.services.cache.flights.find(key) for key in list(w.services.cache.flights.keys())]
    assert flight is not None
    first = flight.followers[0]
    served[0].control.client_gone()
    await until(first.done)
    served[1].control.client_gone()
    await settled()
    assert gate.waiting == 1
    await gate.let()
    await ended(served)
    assert [one.sink.ended for one in served] == ["cut", "cut", "whole"]
    w.check_books()


async def test_a_follower_waits_as_long_as_for_a_first_token_and_then_goes_alone() -> None:
    w = cached(target("a", timeouts=Timeouts(first_token_s=20.0)), a=whole())
    gate = Gate(w)
    leader = w.start(temperature=0)
    await settled()
    w.clock.now += 15.0
    follower = w.start(temperature=0)
    await settled()
    assert gate.waiting == 1
    leader.control.deadline = NEVER  # as if its answer had begun
    w.clock.now += 20.5
    w.services.deadlines.tick(w.clock.now)
    await settled()
    assert gate.waiting == 2
    await gate.let()
    await ended([leader, follower])
    assert [told(leader), told(follower)] == ["miss", "miss"]
    w.check_books()


async def test_when_the_answer_is_not_kept_those_who_wait_for_it_all_go_at_once() -> None:
    w = cached(a=streamed(ROLE, HI, chunk(finish="content_filter"), COUNTED, DONE))
    gate = Gate(w)
    served = [w.start(temperature=0, stream=True) for _ in range(4)]
    await settled()
    await gate.let()
    assert gate.waiting == 3
    await gate.let()
    await ended(served)
    assert [told(one) for one in served] == ["miss"] * 4
    w.check_books()


async def test_who_reads_slowly_holds_nobody_up() -> None:
    w = cached(a=whole())
    gate = Gate(w)
    served = [w.start(temperature=0) for _ in range(2)]
    await settled()
    served[0].sink.stuck = True
    await gate.let()
    await ended(served[1:])
    assert told(served[1]) == "hit"
    served[0].control.client_gone()
    await ended(served)


async def test_refreshing_waits_for_nobody() -> None:
    w = cached(a=[whole("first"), whole("second")])
    gate = Gate(w)
    asked, refreshed = w.start(temperature=0), w.start(temperature=0, wishes=REFRESH)
    await settled()
    assert gate.waiting == 2
    await gate.let()
    await ended([asked, refreshed])
    assert (await ask(w)).answer["choices"][0]["message"]["content"] == "second"
    w.check_books()


async def test_who_follows_holds_nothing_of_a_budget() -> None:
    w = cached(a=whole())
    spender = client("ann", budget=Budget(200_000, "day"))  # one request holds more than half of it
    gate = Gate(w)
    served = [w.start(temperature=0, client=spender, max_tokens=20) for _ in range(50)]
    await settled()
    await gate.let()
    await ended(served)
    assert [one.sink.status for one in served] == [200] * 50
    assert w.spent("client", "ann") == (COST, 0)


async def test_when_the_proxy_stops_followers_are_told_so() -> None:
    w = cached(a=whole())
    Gate(w)
    served = [w.start(temperature=0) for _ in range(3)]
    await settled()
    for one in served:
        one.control.interrupt(ErrorClass.DRAINED)
    await ended(served)
    assert [one.sink.status for one in served] == [503] * 3
    assert len(w.services.cache.flights) == 0
    w.check_books()


# -- a configuration that changes, and clearing


async def test_an_edited_target_never_gives_what_the_one_before_answered() -> None:
    w = cached(a=whole())
    await ask(w)
    edited = target("a", provider={"api_version": "2"})
    w.configure(chains={"smart": replace(w.chain, targets=(edited,))})
    assert told(await ask(w)) == "miss"
    w.configure(chains={"smart": w.chain})
    assert told(await ask(w)) == "hit"


async def test_cleared_is_gone_and_what_was_asked_for_before_is_not_kept() -> None:
    w = cached(a=whole())
    await ask(w)
    gate = Gate(w)
    under_way = w.start(temperature=0, seed=1)
    await settled()
    w.clock.now += 1.0
    assert await w.services.cache.clear("other", int(w.clock.wall() * 1000)) == 0
    assert await w.services.cache.clear("smart", int(w.clock.wall() * 1000)) == 1
    await gate.let()
    await ended([under_way])
    assert w.services.cache.memory.held() == {}


async def test_what_one_worker_was_told_to_clear_the_others_clear_too() -> None:
    cells: dict[tuple[str, ...], int] = {}

    class Cell(PeriodCell):
        def __init__(self, key: tuple[str, ...]) -> None:
            self._key = key

        def publish(self, start_ms: int, used: int, held: int) -> None:
            cells[self._key] = start_ms

        def others(self, start_ms: int) -> tuple[int, int]:
            return 0, 0

        def left(self, start_ms: int) -> int:
            return 0

        def latest_ms(self) -> int | None:
            return cells.get(self._key)

        def close(self) -> None:
            return

    class Shared:
        facts = None

        def period(self, *key: str) -> PeriodCell:
            return Cell(key)

    one, two = (Cache(shared=cast("Any", Shared())) for _ in range(2))
    for cache in (one, two):
        cache.put(CACHE, ROOM, b"k", kept(chain="smart"), 1)
        cache.put(CACHE, ROOM, b"l", kept(chain="plain"), 1)
    assert await one.clear("smart", 2_000) == 1
    two.listen()
    assert two.memory.held() == {"plain": Held(1, kept().size)}
    two.put(CACHE, ROOM, b"k", kept(chain="smart", kept_ms=2_100), 1_900)
    assert two.memory.held() == {"plain": Held(1, kept().size)}
    assert await two.clear(None, 3_000) == 1
    one.put(CACHE, ROOM, b"k", kept(chain="smart", kept_ms=3_100), 2_900)  # before it has listened
    one.listen()
    assert one.memory.held() == {}


# -- the file, and what may be wrong with it

ROOM = Room("", 600_000, 100, 1 << 20)


def kept(chain: str = "smart", body: bytes = b"{}", kept_ms: int = 1_000) -> Kept:
    return Kept("R1", chain, "a", "a-model", kept_ms, 1, 2, 3, (), body)


class File(KeptMemory):
    """A file that does as it is told: `wrong` is raised, or waited for."""

    wrong: Exception | threading.Event | None = None

    def get(self, room: Room, key: bytes, now_ms: int) -> Kept | None:
        self._go_wrong()
        return super().get(room, key, now_ms)

    def put(self, room: Room, key: bytes, kept: Kept, began_ms: int) -> None:
        self._go_wrong()
        super().put(room, key, kept, began_ms)

    def _go_wrong(self) -> None:
        if isinstance(self.wrong, Exception):
            raise self.wrong
        if self.wrong is not None:
            self.wrong.wait(60)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine, the file is not given up, and once it was, not asked again before the test says so."""
    assert RETRY_S > LOOKUP_S
    monkeypatch.setattr("proxy.engine.cache.LOOKUP_S", 60.0)
    monkeypatch.setattr("proxy.engine.cache.RETRY_S", 3600.0)


def filed() -> tuple[World, File, list[str]]:
    w = cached(cache=replace(CACHE, store="sqlite"), a=whole())
    file, faults = File(), list[str]()
    w.services.cache = Cache(file, on_fault=faults.append)
    return w, file, faults


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110 - another thread makes it so
            await asyncio.sleep(0)


@pytest.mark.usefixtures("patient")
async def test_what_belongs_into_the_file_is_kept_there() -> None:
    w, file, faults = filed()
    await ask(w)
    await until(lambda: bool(file.held()))
    assert told(await ask(w)) == "hit"
    assert (w.services.cache.memory.held(), w.services.cache.problem, faults) == ({}, None, [])
    assert await w.services.cache.held_in_file() == file.held()
    w.services.cache.sweep(0, file=True)  # from before it was kept: the clock was set back
    await until(lambda: not file.held())
    await ask(w)
    await until(lambda: bool(file.held()))
    assert await w.services.cache.clear(None, int(w.clock.wall() * 1000)) == 1
    assert file.held() == {}
    await w.services.cache.aclose()


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("wrong", [StoreFault("answers.db: disk I/O error"), RuntimeError("a fault of our own")])
async def test_a_broken_file_is_a_miss_and_is_left_alone_for_a_while(wrong: Exception) -> None:
    w, file, faults = filed()
    file.wrong = wrong
    loop = asyncio.get_running_loop()
    served = await ask(w)
    assert (told(served), served.sink.status) == ("miss", 200)
    assert (w.services.cache.faults, faults) == (1, [w.services.cache.problem])
    assert (await ask(w)).sink.status == 200
    assert w.services.cache.faults == 1  # nobody asked it again
    file.wrong = None
    w.services.cache._retry_at = loop.time()  # the while is over
    await ask(w)
    await until(lambda: bool(file.held()))
    await settled()
    assert not w.services.cache.problem
    assert told(await ask(w)) == "hit"
    await w.services.cache.aclose()


async def test_a_file_that_hangs_holds_nobody_up_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.engine.cache.LOOKUP_S", 0.01)
    w, file, faults = filed()
    file.wrong = threading.Event()
    served = await ask(w)
    assert (told(served), served.sink.status, len(faults)) == ("miss", 200, 1)
    file.wrong.set()
    await w.services.cache.aclose()


async def test_a_fault_while_a_copy_is_made_costs_the_copy_and_not_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ValueError("what was asked and answered")

    monkeypatch.setattr("proxy.engine.keeping.is_worth_keeping", broken)
    w = cached(a=streamed())
    served = await ask(w, stream=True)
    assert served.sink.body.endswith(DONE)
    assert ("error", "cache_failed", {"request_id": "R1", "fault": "ValueError"}) in w.log.lines
    assert w.services.cache.recorded_bytes == 0
    w.check_books()
