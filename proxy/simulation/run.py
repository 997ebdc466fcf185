"""One simulation: the engine that serves, on a clock that is set, with callers and upstreams that follow a scenario.

    arrivals ── Gateway.chat ── Relay: plan, breakers, budgets, failover … ── ScriptedUpstream
                                   └── MemoryJournal ── Timeline

Nothing of the engine is imitated here. What is left out is what lies around it: sockets, the drainer and the ledger's files, health
checks, alerts, reloads, other workers.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, cast

import orjson

from proxy.accounting.pricing import PriceBook
from proxy.accounting.spending import Spending
from proxy.config.settings import Settings
from proxy.core.deadlines import TICK_S
from proxy.core.money import nusd_to_usd
from proxy.core.ports import HeaderList
from proxy.core.redact import Redactor
from proxy.core.target import Target
from proxy.core.ulid import UlidFactory
from proxy.engine.assembly import World, assemble
from proxy.engine.control import Control
from proxy.engine.services import Services
from proxy.routing.plan import lay_out
from proxy.server.gateway import Gateway, Surroundings
from proxy.simulation.loop import BEGAN_S, InlineExecutor, VirtualClock, VirtualLoop
from proxy.simulation.prompts import Prompts
from proxy.simulation.record import MemoryJournal, Story
from proxy.simulation.schema import Scenario
from proxy.simulation.script import Script
from proxy.simulation.stand_in import StandIn, stand_in
from proxy.simulation.timeline import Change, Timeline
from proxy.simulation.traffic import Arrival, arrivals
from proxy.simulation.upstream import NothingToSign, ScriptedUpstream
from proxy.telemetry.metrics import Metrics, Sources

SWEEP_EVERY_S = 10.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """`calls`: what reached the upstreams, by provider. `budgets`: how they stand at the end. `faults`: what the log had of faults of the
    proxy's own, by event; nothing, unless something is wrong with it."""

    seed: int
    timeline: Timeline
    calls: dict[str, int]
    budgets: list[dict[str, Any]]
    faults: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            **self.timeline.as_dict(),
            "calls": dict(sorted(self.calls.items())),
            "budgets": self.budgets,
            "faults": self.faults,
        }


class SimulatedLog:
    """`engine.services.Log`, which nobody reads. `errors` by event."""

    def __init__(self) -> None:
        self.errors: Counter[str] = Counter()

    def request(self, fields: dict[str, Any]) -> None:
        """Every request is in the timeline."""

    def debug(self, event: str, **fields: Any) -> None:
        """Nothing is debugged here."""

    def info(self, event: str, **fields: Any) -> None:
        """Likewise."""

    def warning(self, event: str, **fields: Any) -> None:
        """What an upstream did is in the timeline."""

    def error(self, event: str, **fields: Any) -> None:
        self.errors[event] += 1


class CallerSink:
    """`core.ports.Sink` of a caller who reads at once, and of a stream keeps nothing."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.body = b""

    async def respond(self, status: int, headers: HeaderList, body: bytes) -> None:
        self.status, self.body = status, body

    def start(self, status: int, headers: HeaderList) -> None: ...
    def push(self, data: bytes) -> bool:
        return True

    async def drain(self) -> None: ...
    async def finish(self, data: bytes = b"") -> None: ...
    def abort(self) -> None: ...


def simulate(
    scenario: Scenario,
    settings: Settings,
    *,
    prices: PriceBook,
    seed: int | None = None,
    on_story: Callable[[Story], None] = lambda story: None,
) -> Outcome:
    """Runs it to its end, which leaves nothing behind. `prices`: loaded, where targets need it. `on_story` hears of every request."""
    with tempfile.TemporaryDirectory(prefix="tollbridge-simulation-") as folder:
        made = _Simulation(scenario, settings, prices, scenario.seed if seed is None else seed, Path(folder), on_story)
        loop = VirtualLoop(made.clock)
        try:
            loop.run_until_complete(made.run())
        finally:
            loop.close()
        return made.outcome()


class _Simulation:
    def __init__(
        self,
        scenario: Scenario,
        settings: Settings,
        prices: PriceBook,
        seed: int,
        folder: Path,
        on_story: Callable[[Story], None],
    ) -> None:
        self._scenario = scenario
        self._seed = seed
        self._stand_in = stand_in(settings, folder)
        self._on_story = on_story
        self._running: dict[asyncio.Task[None], None] = {}
        self._failed: list[BaseException] = []
        self._circuits: dict[tuple[str, str, str], str] = {}
        self._waits: dict[tuple[str, str, str], tuple[float, str | None]] = {}
        self.clock = clock = VirtualClock(scenario.start)
        self.timeline = Timeline(scenario.length_s, scenario.interval_s)
        self.script = Script(scenario, seed, _expected(self._stand_in.settings))
        self.log = SimulatedLog()
        self.spending = Spending(clock)
        self.spending.configure(self._stand_in.settings)
        self.services = self._services(prices, Random(f"{seed} engine"))
        chance = Random(f"{seed} ids")
        new_id = UlidFactory(clock.wall, chance.randbytes)
        # what the routes off the hot path would ask of the composition root: there are none
        self.gateway = Gateway(self.services, self._stand_in.settings, new_id, cast("Surroundings", None))

    def _services(self, prices: PriceBook, chance: Random) -> Services:
        made: StandIn = self._stand_in
        clock = self.clock
        self._journal = MemoryJournal(self._scenario.start, on_attempt=self._look_at, on_story=self._tell)
        upstream = ScriptedUpstream(self.script, Prompts(self._scenario.traffic, self._seed), made.hosts, clock)
        return assemble(
            World(
                clock=clock,
                random=chance.random,
                sleep=asyncio.sleep,
                journal=self._journal,
                meter=Metrics(Sources()),
                log=self.log,
                redact=Redactor(made.settings.secrets()),
                spending=self.spending,
                prices=prices,
                executor=InlineExecutor(),
                transports={"native": upstream},
                authorizer=NothingToSign(),
            )
        )

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        settings = self._stand_in.settings
        for chain in settings.chains.values():
            lay_out(chain, self.services.deployments)
        ticking = loop.create_task(self._tick())
        for arrival in arrivals(self._scenario, self._seed):
            wait_s = BEGAN_S + arrival.at_s - loop.time()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            task = loop.create_task(self._ask(arrival))
            self._running[task] = None
            task.add_done_callback(self._ended)
        while self._running:
            await asyncio.wait(list(self._running))
        ticking.cancel()
        self.gateway.loop_watch.stop()
        if self._failed:
            raise self._failed[0]

    def outcome(self) -> Outcome:
        self.timeline.finish()
        budgets = [
            {
                "scope": state.scope,
                "name": state.name,
                "limit_usd": nusd_to_usd(state.limit_nusd),
                "spent_usd": nusd_to_usd(state.spent_nusd),
            }
            for state in self.spending.budgets.states(self.clock.wall())
        ]
        return Outcome(self._seed, self.timeline, self.script.calls, budgets, dict(sorted(self.log.errors.items())))

    async def _ask(self, arrival: Arrival) -> None:
        """One request, as a door would hand it over."""
        task = asyncio.current_task()
        assert task is not None
        control = Control(task)
        client = self._stand_in.settings.clients[arrival.client] if arrival.client is not None else None
        sink, gone = CallerSink(), None
        if arrival.patience_s is not None:
            gone = asyncio.get_running_loop().call_later(arrival.patience_s, control.client_gone)
        request_id = self.gateway.new_id()
        try:
            await self.gateway.chat(arrival.headers, arrival.body, client, sink, control, request_id=request_id)
        finally:
            if gone is not None:
                gone.cancel()
        if not self._journal.has_heard_of(request_id):
            self._turned_away(request_id, arrival, sink)

    def _turned_away(self, request_id: str, arrival: Arrival, sink: CallerSink) -> None:
        """At the door, which leaves nothing in a ledger: what cannot be understood, and what is too much at a time."""
        model = self._scenario.traffic[arrival.kind].model
        story = Story(request_id, arrival.at_s, model, None, arrival.client, arrival.stream)
        story.outcome, story.status = "rejected", sink.status
        story.code = orjson.loads(sink.body)["error"]["code"]
        self._tell(story)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task)
        if not task.cancelled() and (fault := task.exception()) is not None:
            self._failed.append(fault)

    async def _tick(self) -> None:
        """What the running proxy's timer does."""
        ticks = 0
        while True:
            await asyncio.sleep(TICK_S)
            now = self.clock.monotonic()
            self.gateway.tick(now)
            self.services.deadlines.tick(now)
            ticks += 1
            if ticks % round(SWEEP_EVERY_S / TICK_S) == 0:
                self.spending.sweep()
                self.services.cache.memory.sweep(int(self.clock.wall() * 1000))

    # -- what is seen of it

    def _tell(self, story: Story) -> None:
        self.timeline.add(story)
        self._on_story(story)

    def _look_at(self, provider: str, credential: str, upstream_model: str) -> None:
        """An attempt has begun or ended there: what has become of the deployment?"""
        found = self.services.deployments.find(provider, credential, upstream_model)
        if found is None:
            return
        at_s, now, key = self.clock.passed_s, self.clock.monotonic(), found.key
        target = f"{provider}/{upstream_model}"
        state = found.breaker.state.value
        if state != self._circuits.get(key, "closed"):
            self._circuits[key] = state
            self.timeline.note(Change(at_s, target, credential, "circuit", state))
        before = self._waits.get(key, (0.0, None))
        latched = found.latched(now)
        if found.cool_until > max(now, before[0]):
            self.timeline.note(Change(at_s, target, credential, "cooling", f"{found.cool_until - now:.0f} s"))
        if latched is not None and latched != before[1]:
            self.timeline.note(Change(at_s, target, credential, "latched", latched))
        self._waits[key] = (found.cool_until, latched)


def _expected(settings: Settings) -> dict[tuple[str, str], float]:
    """The first tokens that the configuration expects, in seconds."""
    targets: list[Target] = [target for chain in settings.chains.values() for target in chain.targets]
    return {
        (target.provider.name, target.upstream_model): target.expected_first_token_s
        for target in targets
        if target.expected_first_token_s is not None
    }
