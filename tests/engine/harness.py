"""A relay with everything real but the world: fake upstreams that follow a script, a clock that is set, a sink and a journal that
write into one list, so that a test can say what came before what."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import orjson

from proxy.accounting.journal import Journal, JournalError
from proxy.accounting.pricing import PriceBook, Rates, rates_of_price
from proxy.accounting.records import Begin, End, Fields, Progress, Record, Rejected, RequestEnd, RequestOpen
from proxy.accounting.spending import Spending
from proxy.accounting.throttle import ClientAccount
from proxy.accounting.tokens import TokenCounter
from proxy.accounting.usage import usage_from_openai
from proxy.config.settings import ClientSettings, ServerSettings, Settings
from proxy.core.chat import Tags
from proxy.core.deadlines import Deadlines
from proxy.core.errors import ErrorClass, UpstreamError
from proxy.core.ports import HeaderList, RequestHead
from proxy.core.redact import Redactor
from proxy.core.target import Chain, Credential, Price, Provider, Secret, Target
from proxy.core.usage import Usage
from proxy.core.wishes import NO_WISHES, Wishes
from proxy.dialects.openai_chat import OpenAIChat
from proxy.dialects.openai_embeddings import OpenAIEmbeddings, OpenAIEmbeddingsInbound
from proxy.dialects.openai_request import OpenAIChatInbound
from proxy.engine.control import Control
from proxy.engine.exchange import Exchange
from proxy.engine.heads import Heads
from proxy.engine.relay import Relay
from proxy.engine.services import Services
from proxy.routing.deployment import Deployments
from proxy.routing.plan import ChainTrickle
from proxy.routing.retry_budget import RetryBudgets
from proxy.server.fiber import Fiber

WALL = 1_800_000_000.0
JSON = ((b"content-type", b"application/json"),)
SSE = ((b"content-type", b"text/event-stream"),)
PRICE = Price(Decimal(1), Decimal(2))  # per million: 1,000 and 2,000 nano-dollars a token
TAGS = Tags(task="t")
FOREVER = b"<waits for ever>"  # a piece of a script


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return WALL + self.now


# -- upstream


@dataclass
class Reply:
    """What an upstream does with one call. A piece may be bytes, FOREVER, an error to raise, seconds to wait on the loop, or something
    to do first. `head_s`: seconds on the loop until the head comes; `takes_s`: by how much the clock is put forward meanwhile."""

    pieces: Sequence[bytes | Exception | float | Callable[[], None]] = ()
    status: int = 200
    headers: HeaderList = JSON
    takes_s: float = 0.0
    head_s: float = 0.0


Script = Reply | Exception | bytes  # bytes: the head never comes


@dataclass
class Call:
    authorization: bytes
    body: dict[str, Any]
    fresh: bool
    closed: int = 0


class Response:
    reused = False

    def __init__(self, world: World, reply: Reply, call: Call) -> None:
        self.status = reply.status
        self.headers = reply.headers
        self._world = world
        self._call = call
        self._pieces = list(reply.pieces)

    def at_hand(self) -> bytes | None:
        return None

    async def pump(self, consume: Callable[[bytes], bool]) -> bool:
        while data := await self.read():
            if not consume(data):
                return False
        return True

    async def read(self) -> bytes:
        while self._pieces:
            piece = self._pieces.pop(0)
            if isinstance(piece, Exception):
                raise piece
            if piece is FOREVER:
                self._world.waiting.set()
                await asyncio.Event().wait()
            if isinstance(piece, bytes):
                return piece
            if isinstance(piece, float):
                await asyncio.sleep(piece)
            else:
                piece()
        return b""

    def close(self) -> None:
        self._call.closed += 1


class Upstream:
    """One transport for all providers: each provider's script by its name, in the order of its calls; the last one repeats."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.calls: list[Call] = []

    async def send(self, head: RequestHead, body: bytes, *, connect_timeout_s: float, fresh: bool = False) -> Response:
        provider = head.origin.host
        call = Call(dict(head.headers).get(b"authorization", b""), orjson.loads(body), fresh)
        self.calls.append(call)
        self._world.events.append(("send", provider))
        script = self._world.scripts[provider]
        reply = script.pop(0) if len(script) > 1 else script[0]
        if isinstance(reply, bytes):
            self._world.waiting.set()
            await asyncio.Event().wait()
        if isinstance(reply, Exception):
            raise reply
        assert isinstance(reply, Reply)
        if reply.head_s:
            await asyncio.sleep(reply.head_s)
        self._world.clock.now += reply.takes_s
        return Response(self._world, reply, call)

    async def aclose(self) -> None:
        return


# -- the rest of the world


def typed(fields: Fields) -> Record:
    """What was written by position, with its names: as many values as there are fields, or it was written wrongly."""
    letter, *values = fields
    match letter:
        case "B":
            begin = Begin(*values)
            return begin._replace(request=RequestOpen(*begin.request)) if begin.request is not None else begin
        case "P":
            return Progress(*values)
        case "E":
            end = End(*values)
            return end._replace(end=RequestEnd(*end.end)) if end.end is not None else end
        case "R":
            return Rejected(RequestOpen(*values[0]), RequestEnd(*values[1]))
    raise AssertionError(f"no such record: {letter!r}")


class RecordingJournal:
    """Implements the part of `Journal` that the engine uses. `refuse` names the kinds of record that cannot be written."""

    def __init__(self, events: list[tuple[str, Any]]) -> None:
        self._events = events
        self.healthy = True
        self.strict = False
        self.serves = False
        self.dropped = 0
        self.records: list[Record] = []
        self.refuse: set[type] = set()

    def drop(self) -> None:
        self.dropped += 1

    async def synced(self) -> bool:
        self._events.append(("synced", None))
        return True

    def append_fields(self, fields: Fields) -> None:
        orjson.dumps(fields)  # it must be writable as it stands
        record = typed(fields)
        if type(record) in self.refuse:
            raise JournalError("the disk is full")
        self.records.append(record)
        self._events.append((record.t, record))


class RecordingSink:
    """Implements `Sink`. `stuck`: the caller does not read, and every write waits for ever."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.status: int | None = None
        self.headers: dict[bytes, bytes] = {}
        self.body = b""
        self.ended: str | None = None
        self.stuck = False

    def _head(self, status: int, headers: HeaderList) -> None:
        assert self.status is None, "two heads"
        self.status = status
        names = [name for name, _ in headers]
        assert len(names) == len(set(names))
        self.headers = dict(headers)

    async def respond(self, status: int, headers: HeaderList, body: bytes) -> None:
        self._head(status, headers)
        await self._take("respond", body)
        self.ended = "whole"

    def start(self, status: int, headers: HeaderList) -> None:
        self._head(status, headers)

    def push(self, data: bytes) -> bool:
        assert self.status is not None
        assert data
        self._note("write", data)
        return not self.stuck

    async def drain(self) -> None:
        await self._wait()

    async def finish(self, data: bytes = b"") -> None:
        assert self.status is not None
        await self._take("finish", data)
        self.ended = "whole"

    def abort(self) -> None:
        self._world.events.append(("abort", None))
        self.ended = "cut"

    async def _take(self, what: str, data: bytes) -> None:
        self._note(what, data)
        await self._wait()

    def _note(self, what: str, data: bytes) -> None:
        assert self.ended is None, "after the end"
        self._world.events.append((what, data))
        self.body += data

    async def _wait(self) -> None:
        if self.stuck:
            self._world.waiting.set()
            await asyncio.Event().wait()


class RecordingMeter:
    def __init__(self) -> None:
        self.started = 0
        self.ended: list[tuple[str, str, bool]] = []
        self.overheads: list[float | None] = []
        self.attempts: list[tuple[str, str]] = []
        self.failovers: list[tuple[str, str, str]] = []
        self.fallbacks: list[str] = []
        self.hedges: list[tuple[str, str]] = []
        self.measured: list[tuple[str, float, bool]] = []  # target, quality, whether it was low
        self.counts: list[str] = []

    def request_started(self) -> None:
        self.started += 1

    def request_ended(
        self, chain: str, outcome: str, stream: bool, duration_s: float, first_token_s: float | None, overhead_s: float | None
    ) -> None:
        assert duration_s >= 0
        self.ended.append((chain, outcome, stream))
        self.overheads.append(overhead_s)

    def attempt_ended(
        self,
        provider: str,
        model: str,
        outcome: str,
        duration_s: float,
        first_token_s: float | None = None,
        usage: Usage | None = None,
        cost_nusd: int | None = None,
        stream: bool = True,
    ) -> None:
        self.attempts.append((provider, outcome))

    def failover(self, from_: str, to: str, reason: str) -> None:
        self.failovers.append((from_, to, reason))

    def fell_back(self, chain: str) -> None:
        self.fallbacks.append(chain)

    def hedged(self, chain: str, result: str) -> None:
        self.hedges.append((chain, result))

    def answer_measured(self, provider: str, model: str, quality: float, *, low: bool) -> None:
        self.measured.append((f"{provider}/{model}", quality, low))

    def rejected(self, reason: str) -> None:
        self.counts.append(f"rejected {reason}")

    def count(self, name: str) -> None:
        self.counts.append(name)


class RecordingLog:
    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def request(self, fields: dict[str, Any]) -> None:
        self.requests.append(fields)

    def warning(self, event: str, **fields: Any) -> None:
        self.lines.append(("warning", event, fields))

    def error(self, event: str, **fields: Any) -> None:
        self.lines.append(("error", event, fields))


class StampingAuthorizer:
    """What a provider that signs gets: the word `signed` and the length of what is signed, in place of a key."""

    async def authorize(self, provider: Provider, credential: Credential, head: RequestHead, body: bytes) -> RequestHead:
        if credential.secret is None:
            raise UpstreamError(ErrorClass.AUTH, "no credentials", sent=False)
        headers = [(b"authorization", b"signed %d" % len(body))]
        return RequestHead.make(head.origin, head.method, head.path, headers)


class Prices:
    """The targets' own. `contexts`: what the price data says of windows, by provider."""

    ready = True

    def __init__(self, contexts: Mapping[str, int] | None = None) -> None:
        self._contexts = contexts or {}

    def context_window(self, target: Target) -> int | None:
        return target.context if target.context is not None else self._contexts.get(target.provider.name)

    def rates(self, target: Target, wall: float) -> Rates | None:
        return rates_of_price(target.price) if target.price is not None else None


class Counter:
    """So many tokens, without a vocabulary. `fails`: the counting itself breaks."""

    fails = False

    def count_prompt(self, body: dict[str, Any]) -> int:
        if self.fails:
            raise OSError("the vocabulary is gone")
        return 11

    def count_input(self, given: object) -> int:
        return self.count_prompt({}) + 1

    def count_texts(self, texts: Iterable[str]) -> int:
        return sum(len(text) for text in texts)


class Served:
    """One request, and what it has come to. Its control exists once its task has begun."""

    def __init__(self, sink: RecordingSink, task: asyncio.Future[None], controls: list[Control]) -> None:
        self.sink = sink
        self.task = task
        self._controls = controls

    @property
    def control(self) -> Control:
        return self._controls[0]

    @property
    def answer(self) -> Any:
        return orjson.loads(self.sink.body)

    @property
    def code(self) -> str:
        return str(self.answer["error"]["code"])


@dataclass
class World:
    """Everything around the relay. `scripts` by provider; `targets` in the chain `smart`."""

    scripts: dict[str, list[Script]]
    targets: tuple[Target, ...]
    chain_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.clock = Clock()
        self.events: list[tuple[str, Any]] = []
        self.waiting = asyncio.Event()
        self.slept: list[float] = []
        self.journal = RecordingJournal(self.events)
        self.meter = RecordingMeter()
        self.log = RecordingLog()
        self.upstream = Upstream(self)
        self.counter = Counter()
        self.heads = Heads()
        self.ids = 0
        self.executor = ThreadPoolExecutor(1)
        self.chain = Chain("smart", self.targets, **self.chain_options)
        self.settings = settings(self.chain)
        self.spending = Spending(self.clock)
        self.services = Services(
            clock=self.clock,
            random=lambda: 0.5,
            sleep=self.sleep,
            deadlines=Deadlines(),
            journal=cast(Journal, self.journal),
            meter=self.meter,
            log=self.log,
            redact=Redactor(["loaded-secret-fake"]),
            deployments=Deployments(lambda: 0.5, allowances=self.spending.allowances),
            trickle=ChainTrickle(),
            retry_budgets=RetryBudgets(),
            prices=cast(PriceBook, Prices()),
            warming=None,
            budgets=self.spending.budgets,
            quotas=self.spending.quotas,
            throttle=self.spending.throttle,
            counter=cast(TokenCounter, self.counter),
            executor=self.executor,
            transports={"native": self.upstream},
            authorizer=StampingAuthorizer(),
            inbound=OpenAIChatInbound(),
            outbound={"openai": OpenAIChat(usage_from_openai)},
            embeddings_inbound=OpenAIEmbeddingsInbound(),
            embedders={"openai": OpenAIEmbeddings(usage_from_openai)},
        )
        self.configure()

    def configure(self, **changes: Any) -> None:
        """The configuration stays but for these changes: a reload."""
        self.settings = replace(self.settings, **changes)
        self.spending.configure(self.settings)

    def spent(self, scope: str, name: str | None = None) -> tuple[int, int]:
        """What is spent of a budget, and what is held."""
        (state,) = [s for s in self.spending.budgets.states(self.clock.wall()) if (s.scope, s.name) == (scope, name)]
        return state.spent_nusd, state.held_nusd

    def throttle_of(self, client: str) -> ClientAccount:
        return self.spending.throttle.clients[client]

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.clock.now += seconds
        await asyncio.sleep(0)

    def start(
        self,
        *,
        client: ClientSettings | None = None,
        prefer: str | None = None,
        wishes: Wishes = NO_WISHES,
        model: str = "smart",
        tags: Tags = TAGS,
        fiber: bool = False,
        **body: Any,
    ) -> Served:
        """Begins a request; its task, or fiber as on the fast lane, runs on the loop from now on. With an `input` it asks for embeddings.
        A client is configured besides those that are."""
        if "input" in body:
            request = self.services.embeddings_inbound.decode_request(orjson.dumps({"model": model, **body}))
        else:
            raw = orjson.dumps({"model": model, "messages": [{"role": "user", "content": "Hi"}], **body})
            request = self.services.inbound.decode_request(raw)
        self.ids += 1
        if client is not None and self.settings.clients.get(client.name) is not client:
            self.configure(clients={**self.settings.clients, client.name: client})
        exchange = Exchange(
            f"R{self.ids}",
            self.settings,
            client,
            request,
            tags,
            wishes if prefer is None else replace(wishes, prefer=prefer),
            self.clock.monotonic(),
            int(self.clock.wall() * 1000),
        )
        sink = RecordingSink(self)
        controls: list[Control] = []

        async def run() -> None:
            task = asyncio.current_task()
            assert task is not None
            controls.append(Control(task))
            await Relay(self.services, self.heads, controls[0], exchange, sink).serve()

        task = asyncio.get_running_loop().create_task(run()) if not fiber else in_fiber(run())
        return Served(sink, task, controls)

    async def serve(self, **how: Any) -> Served:
        """One request to its end."""
        served = self.start(**how)
        await asyncio.wait_for(served.task, 30)
        return served

    async def interrupted(self, interrupt: Callable[[Served], None], **how: Any) -> Served:
        """One request that is interrupted as soon as it waits for its upstream or its caller."""
        served = self.start(**how)
        either: set[asyncio.Future[Any]] = {served.task, asyncio.create_task(self.waiting.wait())}
        await asyncio.wait(either, timeout=30, return_when=asyncio.FIRST_COMPLETED)
        assert not served.task.done(), "it ended without having to wait"
        interrupt(served)
        await asyncio.wait_for(served.task, 30)
        return served

    def later(self, seconds: float) -> Callable[[Served], None]:
        """An interruption: so much time passes."""

        def pass_time(served: Served) -> None:
            self.clock.now += seconds
            self.services.deadlines.tick(self.clock.now)

        return pass_time

    # -- what was written

    @property
    def begins(self) -> list[Begin]:
        return [record for record in self.journal.records if isinstance(record, Begin)]

    @property
    def ends(self) -> list[End]:
        return [record for record in self.journal.records if isinstance(record, End)]

    @property
    def end(self) -> RequestEnd:
        """The one end of the one request."""
        found = [record.end for record in self.journal.records if isinstance(record, End | Rejected) and record.end is not None]
        assert len(found) == 1
        return found[0]

    @property
    def end_of_last(self) -> RequestEnd:
        """The end of the latest of several requests."""
        return [record.end for record in self.journal.records if isinstance(record, End | Rejected) and record.end is not None][
            -1
        ]

    def check_books(self) -> None:
        """What must hold whatever happened: every attempt begun once and ended once, every permit back, every deadline forgotten."""
        begun = [record.attempt_id for record in self.begins]
        ended = [record.attempt_id for record in self.ends]
        assert len(begun) == len(set(begun))
        assert sorted(begun) == sorted(ended)
        assert len(self.upstream.calls) <= len(begun)
        assert self.meter.started == len(self.meter.ended) == self.ids
        assert len(self.log.requests) == self.ids
        assert all(one.in_flight == 0 for one in self.services.deployments.snapshot(self.clock.now))
        assert len(self.services.deadlines) == 0
        begun_not_sent = 0
        for position, (what, value) in enumerate(self.events):
            if what == "B":
                begun_not_sent += 1
            if what == "send":
                assert begun_not_sent > 0, "sent before its begin record"
                begun_not_sent -= 1
            if what in ("respond", "finish") and not any(kind in ("E", "R") for kind, _ in self.events[:position]):
                raise AssertionError(f"last bytes before the end record: {value!r}")


def in_fiber(request: Coroutine[Any, Any, None]) -> asyncio.Future[None]:
    """Done when the request is, and with what it ended with."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    async def run() -> None:
        try:
            await request
        except asyncio.CancelledError:
            ended.cancel()
        except BaseException as fault:  # noqa: BLE001 - as of a task, it is whose who waits for its end
            ended.set_exception(fault)
        else:
            ended.set_result(None)

    loop.call_soon(Fiber(loop).start, run())
    return ended


def settings(chain: Chain) -> Settings:
    def direct(provider: str, model: str) -> Target:
        raise AssertionError("no direct targets here")

    return Settings(
        hash="0123456789ab",
        path=None,
        data_dir=Path("data"),
        server=ServerSettings(),
        admin_token=None,
        metrics_token=None,
        auth_none=False,
        providers={target.provider.name: target.provider for target in chain.targets},
        chains={chain.name: chain},
        wildcards=(),
        clients={},
        clients_by_digest={},
        warnings=(),
        files=(),
        known_secrets=(),
        direct=direct,
    )


def target(name: str, *, keys: int = 1, provider: dict[str, Any] | None = None, **rest: Any) -> Target:
    credentials = tuple(Credential(f"{name}{n}", Secret(f"fake-{name}-{n}")) for n in range(keys))
    made = Provider(name, "openai", f"http://{name}", credentials, **(provider or {}))
    return Target(made, f"{name}-model", "m", **{"price": PRICE, **rest})


def dialect_of(name: str, dialect: str) -> Target:
    found = target(name)
    return replace(found, provider=replace(found.provider, dialect=dialect))


def world(*targets: Target, chain: dict[str, Any] | None = None, **scripts: Script | list[Script]) -> World:
    """A chain of `targets`, or of one plain target for each script."""
    lists = {name: list(script) if isinstance(script, list) else [script] for name, script in scripts.items()}
    return World(lists, targets or tuple(target(name) for name in scripts), chain or {})


# -- replies

USAGE = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}
COST = 10 * 1000 + 20 * 2000


def event(value: object) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"


def chunk(content: str | None = None, finish: str | None = None, **rest: Any) -> bytes:
    delta = {"content": content} if content is not None else {}
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return event({"id": "c", "object": "chat.completion.chunk", "choices": [choice], **rest})


ROLE = event(
    {"id": "c", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
)
HI = chunk("Hi")
STOP = chunk(finish="stop")
COUNTED = event({"id": "c", "object": "chat.completion.chunk", "choices": [], "usage": USAGE})
DONE = b"data: [DONE]\n\n"


def whole(text: str = "Hi", *, usage: object = USAGE, headers: HeaderList = JSON, **rest: Any) -> Reply:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    body: dict[str, Any] = {"id": "c", "object": "chat.completion", "choices": [choice], **rest}
    if usage is not None:
        body["usage"] = usage
    return Reply([orjson.dumps(body)], headers=headers)


def streamed(*pieces: bytes | Exception | float | Callable[[], None]) -> Reply:
    return Reply(pieces or (ROLE, HI, STOP, COUNTED, DONE), headers=SSE)


def refusal(status: int, message: str = "no", headers: HeaderList = (), **error: Any) -> Reply:
    return Reply([orjson.dumps({"error": {"message": message, **error}})], status=status, headers=(*JSON, *headers))


def fault(error_class: Any, **rest: Any) -> UpstreamError:
    return UpstreamError(error_class, "it broke", **rest)


# -- what a test looks at


def called(around: World) -> list[str]:
    """Providers, in the order in which they were asked."""
    return [provider for what, provider in around.events if what == "send"]


def order(around: World) -> list[str]:
    """What happened, in its order."""
    return [what for what, _ in around.events]


def error_event(served: Served) -> str:
    """The last event of a stream that broke."""
    assert served.sink.body.endswith(b"}\n\n")
    assert b"[DONE]" not in served.sink.body
    return served.sink.body.rpartition(b"data: ")[2].decode()
