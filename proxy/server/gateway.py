"""What both doors, the protocol's fast lane and the ASGI routes, share: the configuration in force, the engine, who is being served."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from proxy.config.settings import ClientSettings, Settings
from proxy.core.chat import NO_TAGS, ChatRequest, Tags
from proxy.core.deadlines import NEVER
from proxy.core.errors import Draining, ErrorClass, Overloaded, ProxyError
from proxy.core.ports import Sink
from proxy.core.turn import Turn
from proxy.core.wishes import wishes_of
from proxy.dialects.base import InboundDialect
from proxy.dialects.openai_request import clean_tag
from proxy.engine.answers import error_headers
from proxy.engine.control import Control
from proxy.engine.exchange import Exchange
from proxy.engine.heads import Heads
from proxy.engine.judge import Judge
from proxy.engine.quality_gate import get_ready
from proxy.engine.relay import Relay
from proxy.engine.services import Services
from proxy.monitoring.picture import Picture
from proxy.monitoring.sums import Ledger
from proxy.server.addresses import Addresses
from proxy.server.door import Door
from proxy.server.doorbell import Doorbell
from proxy.server.guard import Guard
from proxy.server.key_desk import KeyDesk
from proxy.server.line import Line
from proxy.server.overload import Governor, LoopWatch
from proxy.server.refusal import Refusal, no_room
from proxy.server.run_delay import RunDelay


class LedgerReader(Ledger, Protocol):
    """What the admin API reads; implemented by the storage."""

    async def list_requests(
        self,
        limit: int = 100,
        before: str | None = None,
        *,
        model: str | None = None,
        provider: str | None = None,
        client: str | None = None,
        department: str | None = None,
        outcome: str | None = None,
    ) -> tuple[list[dict[str, Any]], str | None]: ...
    async def get_request(self, request_id: str) -> dict[str, Any] | None: ...
    async def last_used(self) -> Mapping[str, int]:
        """When each client last called, by name: milliseconds since 1970. Nobody who has no row left."""
        ...


@dataclass(frozen=True, slots=True)
class Note:
    """Something that is wrong but does not stop service: the fact for everybody, the detail for the admin."""

    fact: str
    detail: str | None = None


@dataclass(slots=True)
class Readiness:
    """`reasons` why not to send requests here, `notes` on what is wrong but does not stop service; `degraded` names the parts of it that
    do not work meanwhile."""

    reasons: list[str]
    notes: list[Note]
    degraded: Sequence[str] = ()


class Surroundings(Protocol):
    """What the routes off the hot path ask of the composition root."""

    @property
    def ledger(self) -> LedgerReader: ...
    async def metrics_page(self, *, openmetrics: bool) -> tuple[bytes, str]: ...
    @property
    def keys(self) -> KeyDesk: ...
    def readiness(self) -> Readiness: ...
    async def cache_report(self) -> dict[str, Any]:
        """What the cache holds and has saved, by chain."""
        ...

    async def clear_cache(self, chain: str | None) -> int:
        """Forgets what is kept of a chain, or everything, in every worker. How many answers that were."""
        ...

    def picture(self) -> Picture:
        """How everything stands, from memory."""
        ...

    async def check_health(self, providers: Sequence[str]) -> None:
        """Asks these providers now, all of them if none is named."""
        ...

    def reset_quotas(self, provider: str, key: str | None) -> None:
        """They begin anew now, of one key only if given; and stay so when the proxy starts again. Raises NotFound, LedgerUnavailable."""
        ...

    def acknowledge(self, alert_id: str) -> dict[str, Any] | None:
        """The alert, which somebody has seen; None where none of that id is open."""
        ...


HeaderMap = Mapping[bytes, bytes]


class Gateway:
    """`settings` is swapped whole on reload; a request keeps the one it began with."""

    def __init__(self, services: Services, settings: Settings, new_id: Callable[[], str], surroundings: Surroundings) -> None:
        self.services = services
        self.surroundings = surroundings
        self.settings = settings
        self.new_id = new_id
        self.guard = Guard(services.clock.monotonic)
        self.heads = Heads()
        self.draining = False
        self.closed = False  # the drain is over: nothing more is begun
        self.live: set[Control] = set()
        self.governor = Governor()
        self.refusal = Refusal()
        self.addresses = Addresses()
        monotonic = services.clock.monotonic
        self.door = Door(services.meter, services.log, new_id=new_id, addresses=self.addresses, monotonic=monotonic)
        self.bell = Doorbell(self.door, monotonic=monotonic, turn_began=lambda: self._turn_from)
        self._turn_from = NEVER  # when there was the first pause in the present turn of the loop
        self.turn = Turn()  # each read of a caller's bytes is a piece of it, and each of an upstream's
        self.turn.hurried = self.pause
        self.line = Line(monotonic=monotonic, heard=self.bell.listen)
        self.loop_watch = LoopWatch(
            self.governor, self.live, self.line, self.bell, monotonic=monotonic, run_delay=RunDelay(), log=services.log
        )
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """These are in force from now on."""
        server = settings.server
        self.settings = settings
        self.governor.configure(max_in_flight=server.max_in_flight, max_wait_s=server.max_wait_s)
        self.addresses.configure(server.per_ip, server.trusted_proxies)
        judged = any(quality.judge is not None for quality in settings.gates().values())
        get_ready(settings)
        self.services.judge = (self.services.judge or Judge(self.services, self.heads, self.new_id)) if judged else None

    def tick(self, now: float) -> None:
        """Each `TICK_S`."""
        self.loop_watch.tick(now)
        self.door.tick()

    def pause(self) -> None:
        """In the midst of a turn of the event loop, in none of its tasks."""
        now = self.services.clock.monotonic()
        if self._turn_from == NEVER:
            self._turn_from = now
            asyncio.get_running_loop().call_soon(self._turn_over)
        self.line.pause(now, long=self.bell.in_a_long_turn(now))
        if now > self.loop_watch.too_long_at and not self.turn.too_long:
            self.turn.is_too_long()
            asyncio.get_running_loop().call_soon(self.turn.end)
        self.bell.listen()

    def _turn_over(self) -> None:
        self._turn_from = NEVER

    def in_a_long_turn(self) -> bool:
        return self.bell.in_a_long_turn(self.services.clock.monotonic())

    def is_full(self) -> bool:
        """Whether the request that was just read is one too many. Those count that stand in line."""
        return self.governor.refuses(len(self.live) + len(self.line), self.services.clock.monotonic())

    def overloaded(self) -> Overloaded:
        """Counts one that is refused; the answer for it."""
        self.governor.refused += 1
        self.services.meter.count("shed")
        return no_room()

    def refuse(self, default_headers: Sequence[tuple[bytes, bytes]]) -> bytes:
        """The same as bytes, on a connection that stays; whoever sends them has nothing more to count."""
        self.governor.refused += 1
        meter = self.services.meter
        meter.count("shed")
        meter.rejected(Overloaded.code)
        return self.refusal.answer(self.new_id(), default_headers)

    async def chat(
        self,
        headers: HeaderMap,
        body: bytes,
        client: ClientSettings | None,
        sink: Sink,
        control: Control,
        *,
        request_id: str,
        inbound: InboundDialect | None = None,
        admitted: bool = False,
    ) -> None:
        """`POST /v1/chat/completions`: answers through `sink`, whatever happens. `admitted`: there is room for it, whatever has become
        of that while it stood in line."""
        services = self.services
        received = services.clock.monotonic()
        time_ms = round(services.clock.wall() * 1000)
        live = self.live
        try:
            if self.closed:
                raise Draining("The proxy is stopping; try again.", retry_after_s=1)
            governor = self.governor
            late = len(live) >= governor.room or received > governor.late_at
            if late and not admitted and governor.refuses(len(live), received):
                raise self.overloaded()
            if client is not None and self.settings.clients.get(client.name) is not client:
                client = self.guard.still(self.settings, client)
            request = (inbound or services.inbound).decode_request(body)
            request.id = request_id
            request.created = time_ms // 1000
            wishes = wishes_of(headers)
        except ProxyError as error:
            services.meter.rejected(error.code)
            told = error_headers(request_id, error)
            if client is not None and (limits := services.throttle.clients.get(client.name)) is not None:
                told += limits.headers(received)
            await sink.respond(error.status, told, services.inbound.encode_error(error))
            return
        exchange = Exchange(
            request_id,
            self.settings,
            client,
            request,
            tags_of(request, headers, client, clean=services.redact.exact),
            wishes,
            received,
            time_ms,
        )
        live.add(control)
        try:
            await Relay(services, self.heads, control, exchange, sink).serve()
        finally:
            live.discard(control)

    async def embeddings(
        self, headers: HeaderMap, body: bytes, client: ClientSettings | None, sink: Sink, control: Control, *, request_id: str
    ) -> None:
        """`POST /v1/embeddings`, likewise."""
        inbound = self.services.embeddings_inbound
        await self.chat(headers, body, client, sink, control, request_id=request_id, inbound=inbound)

    def cut_all(self) -> int:
        """Ends what is still running: each gets an error event or answer, and its row. Returns how many."""
        self.closed = True
        cut = list(self.live)
        for control in cut:
            control.interrupt(ErrorClass.DRAINED)
        return len(cut)


def tags_of(
    request: ChatRequest, headers: HeaderMap, client: ClientSettings | None, *, clean: Callable[[str], str] = str
) -> Tags:
    """The client's stanza wins over a header, a header over `metadata`. `clean` takes secrets out of what the caller says."""
    tags = request.tags
    if not _TAG_HEADERS.keys().isdisjoint(headers):
        sent = {
            name: clean_tag(headers[header].decode("utf-8", "replace"))
            for header, name in _TAG_HEADERS.items()
            if header in headers
        }
        tags = replace(tags, **{name: tag for name, tag in sent.items() if tag is not None})
    if tags is not NO_TAGS:
        tags = Tags(*[None if tag is None else clean(tag) for tag in (tags.department, tags.agent, tags.task, tags.task_id)])
    if client is not None and (client.department is not None or client.agent is not None):
        tags = replace(tags, department=client.department or tags.department, agent=client.agent or tags.agent)
    return tags


_TAG_HEADERS = {
    b"x-tollbridge-department": "department",
    b"x-tollbridge-agent": "agent",
    b"x-tollbridge-task": "task",
    b"x-tollbridge-task-id": "task_id",
}
