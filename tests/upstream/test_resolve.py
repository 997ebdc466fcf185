"""Names are looked up off the loop, once for all who wait, remembered for a while, and given up on in time."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import pytest

from proxy.core.errors import ErrorClass, UpstreamError
from proxy.upstream import resolve
from proxy.upstream.resolve import Resolver, in_turn, is_address

if TYPE_CHECKING:
    from tests.upstream.conftest import ManualClock

pytestmark = [pytest.mark.unit, pytest.mark.anyio]


class Names:
    """The event loop's `getaddrinfo`, counted; `gate` holds the answers back."""

    def __init__(self, *addresses: str, error: Exception | None = None) -> None:
        self.addresses, self.error = addresses, error
        self.asked: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.called = asyncio.Event()

    async def __call__(self, host: str, port: None, *, type: int) -> list[Any]:  # noqa: A002 - socket.getaddrinfo's name
        self.asked.append(host)
        self.called.set()
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return [(socket.AF_INET, type, 6, "", (address, 0)) for address in self.addresses]


class Loop:
    """The running loop with another `getaddrinfo`: uvloop's own cannot be replaced."""

    def __init__(self, names: Names) -> None:
        self._loop = asyncio.get_running_loop()
        self.getaddrinfo = names

    def create_task(self, coroutine: Any) -> asyncio.Task[Any]:
        return self._loop.create_task(coroutine)


def use(monkeypatch: pytest.MonkeyPatch, names: Names) -> Names:
    loop = Loop(names)
    monkeypatch.setattr(resolve, "running_loop", lambda: loop)
    return names


async def test_an_answer_is_remembered_for_thirty_seconds(monkeypatch: pytest.MonkeyPatch, clock: ManualClock) -> None:
    names = use(monkeypatch, Names("192.0.2.1", "2001:db8::1", "192.0.2.1"))
    resolver = Resolver(clock)
    assert list(await resolver("api.example.com")) == ["192.0.2.1", "2001:db8::1"]
    clock.now += 29.9
    await resolver("api.example.com")
    assert len(names.asked) == 1
    clock.now += 0.1
    await resolver("api.example.com")
    assert len(names.asked) == 2


async def test_all_who_wait_share_one_lookup_and_one_may_leave(monkeypatch: pytest.MonkeyPatch, clock: ManualClock) -> None:
    names = use(monkeypatch, Names("192.0.2.1"))
    names.gate.clear()
    resolver = Resolver(clock)
    waiting = [asyncio.create_task(resolver("api.example.com")) for _ in range(5)]
    await names.called.wait()
    waiting[0].cancel()
    await asyncio.sleep(0)
    names.gate.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1:] == [["192.0.2.1"]] * 4
    assert len(names.asked) == 1


async def test_a_lookup_that_takes_too_long(monkeypatch: pytest.MonkeyPatch, clock: ManualClock) -> None:
    names = use(monkeypatch, Names("192.0.2.1"))
    names.gate.clear()
    monkeypatch.setattr(resolve, "LOOKUP_S", 0.02)
    with pytest.raises(UpstreamError) as caught:
        await Resolver(clock)("api.example.com")
    assert (caught.value.error_class, caught.value.sent) == (ErrorClass.DNS, False)


async def test_a_failure_is_not_remembered(monkeypatch: pytest.MonkeyPatch, clock: ManualClock) -> None:
    names = use(monkeypatch, Names("192.0.2.1", error=socket.gaierror(socket.EAI_NONAME, "Name or service not known")))
    resolver = Resolver(clock)
    with pytest.raises(UpstreamError) as caught:
        await resolver("api.example.com")
    assert caught.value.error_class is ErrorClass.DNS
    names.error = None
    assert await resolver("api.example.com") == ["192.0.2.1"]


async def test_no_more_names_are_remembered_than_allowed(monkeypatch: pytest.MonkeyPatch, clock: ManualClock) -> None:
    names = use(monkeypatch, Names("192.0.2.1"))
    monkeypatch.setattr(resolve, "MAX_NAMES", 2)
    resolver = Resolver(clock)
    for host in ("a.example", "b.example", "c.example", "b.example", "a.example"):
        await resolver(host)
    assert names.asked == ["a.example", "b.example", "c.example", "a.example"]


async def test_addresses_need_no_lookup(monkeypatch: pytest.MonkeyPatch, clock: ManualClock) -> None:
    names = use(monkeypatch, Names())
    assert [list(await Resolver(clock)(host)) for host in ("192.0.2.1", "::1")] == [["192.0.2.1"], ["::1"]]
    assert names.asked == []


async def test_closing_ends_a_lookup(monkeypatch: pytest.MonkeyPatch, clock: ManualClock) -> None:
    names = use(monkeypatch, Names("192.0.2.1"))
    names.gate.clear()
    resolver = Resolver(clock)
    waiting = asyncio.create_task(resolver("api.example.com"))
    await names.called.wait()
    await resolver.aclose()
    with pytest.raises(asyncio.CancelledError):
        await waiting


def test_families_alternate() -> None:
    assert in_turn(["::1", "::2", "::3", "192.0.2.1", "::1"]) == ["::1", "192.0.2.1", "::2", "::3"]
    assert in_turn([]) == []
    assert not is_address("localhost")
