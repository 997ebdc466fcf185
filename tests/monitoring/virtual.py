"""A clock that only a test moves, and providers that answer without a socket."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Sequence
from itertools import count

from proxy.core.errors import ErrorClass, UpstreamError
from proxy.core.ports import HeaderList, RequestHead

START = 1_795_000_000.0  # in November 2026
_TURNS = 60  # of the event loop, for everything that waits for nothing to be done


class VirtualClock:
    """`sleep` waits until somebody advances the clock so far."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._number = count()

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return START + self.now

    async def sleep(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now + seconds, next(self._number), future))
        await future

    async def advance(self, seconds: float) -> None:
        """Wakes who sleeps until then, each at its own time."""
        until = self.now + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= until:
            at, _, future = heapq.heappop(self._sleepers)
            self.now = max(self.now, at)
            if not future.done():
                future.set_result(None)
            await settle()
        self.now = until


async def settle() -> None:
    for _ in range(_TURNS):
        await asyncio.sleep(0)


class Answer:
    """`core.ports.UpstreamResponse`."""

    reused = False

    def __init__(self, status: int, body: bytes) -> None:
        self.status = status
        self._body = body

    @property
    def headers(self) -> HeaderList:
        return ()

    async def read(self) -> bytes:
        body, self._body = self._body, b""
        return body

    def at_hand(self) -> bytes | None:
        return None

    async def pump(self, consume: Callable[[bytes], bool]) -> bool:
        return consume(await self.read())

    def close(self) -> None: ...


LIST = b'{"data": [{"id": "a"}, {"id": "b"}]}'


class Upstreams:
    """`core.ports.UpstreamTransport`. `asked`: every head in turn. `say(host)` decides what a host answers: a status, or how it fails."""

    def __init__(self, say: Callable[[str], int | str] = lambda host: 200) -> None:
        self.say = say
        self.asked: list[RequestHead] = []

    async def send(self, head: RequestHead, body: bytes, *, connect_timeout_s: float, fresh: bool = False) -> Answer:
        assert fresh, "a check connects anew"
        self.asked.append(head)
        match self.say(head.origin.host):
            case int(status):
                return Answer(status, LIST if status == 200 else b'{"error": {"message": "no"}}')
            case "hang":
                await asyncio.get_running_loop().create_future()
            case failure:
                raise UpstreamError(ErrorClass.CONNECT, f"cannot connect to {head.origin.authority}: {failure}", sent=False)
        raise AssertionError("it hangs for ever")

    def paths(self, host: str) -> Sequence[str]:
        return [head.path for head in self.asked if head.origin.host == host]

    async def aclose(self) -> None: ...
