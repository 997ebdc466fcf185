"""One running proxy: everything made, started, kept ticking, reloaded and stopped. `app.py` puts it behind a server."""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from proxy.accounting.group_commit import open_journal
from proxy.accounting.journal import JournalError
from proxy.accounting.pricing import PriceBook
from proxy.accounting.quotas import reset_quota
from proxy.accounting.spending import Spending
from proxy.config.faults import ConfigError
from proxy.config.key_rules import warnings_of
from proxy.config.key_store import KeysBroken, KeyStore
from proxy.config.reload import ConfigWatcher
from proxy.config.settings import Settings
from proxy.core.clock import WallWatch
from proxy.core.deadlines import STEP_S, TICK_S
from proxy.core.errors import LedgerUnavailable
from proxy.core.garbage import thresholds
from proxy.core.kept import Held
from proxy.core.redact import Redactor
from proxy.core.shared import ALONE
from proxy.core.ulid import UlidFactory
from proxy.engine.assembly import World, assemble
from proxy.engine.cache import Cache
from proxy.monitoring import cached, gauges
from proxy.monitoring.alerts import MAX_OPEN, AlertDesk
from proxy.monitoring.checker import HealthBoard
from proxy.monitoring.degraded import FACTS, Degraded, Faults
from proxy.monitoring.delivery import Delivery
from proxy.monitoring.fleet import Fleet
from proxy.monitoring.live import LiveTraffic, Seen
from proxy.monitoring.picture import Picture
from proxy.monitoring.watch import Views, Watch
from proxy.routing.plan import lay_out
from proxy.server.fiber import new_waiter
from proxy.server.gateway import Gateway, Note, Readiness
from proxy.server.key_desk import KeyDesk
from proxy.server.lightest import lightest_call
from proxy.storage.kept_file import KeptFile
from proxy.storage.queries import Queries
from proxy.storage.retention import Retention, write_retention
from proxy.storage.sqlite import remark as sqlite_remark
from proxy.telemetry.ledger_counts import LedgerCounts
from proxy.telemetry.logs import Logs, capture
from proxy.telemetry.metrics import DeploymentState, Load, Metrics, Sources
from proxy.telemetry.readings import CacheReading, Readings
from proxy.telemetry.tables import Tables
from proxy.upstream.auth import Authorizer
from proxy.upstream.client import HttpxTransport
from proxy.upstream.demo import DemoTransport
from proxy.upstream.pool import NativeTransport
from proxy.workers.drainer import DrainerProcess
from proxy.workers.pulse import Pulse
from proxy.workers.seat import Seat
from proxy.workers.shared import Table

CATCH_UP_S = 30.0  # for the ledger to know what budgets have been spent, where there are any
SOON_S = 0.01  # how often a start looks whether another process is ready; the timer is too slow for that
DRAINER_WAITS_S = 0.1
SEED_AGAIN_S = 5.0
SEED_KEYS_S = 2.0
SEED_PASSES = 2
LISTEN_EVERY_S = 0.2
LOSS_IS_KNOWN_S = 75.0  # after a worker's death: a minute, and then some, for the drainer to close its rows
SWEEP_EVERY_S = 10.0


class SystemClock:
    monotonic = staticmethod(time.monotonic)
    wall = staticmethod(time.time)


class Runtime:
    """Made once a process; `start` and `stop` belong to the event loop that serves."""

    def __init__(
        self,
        settings: Settings,
        *,
        reload: Callable[[], Settings],
        watch: bool = True,
        seat: Seat | None = None,
        pulse: Pulse | None = None,
    ) -> None:
        """`reload` loads the configuration anew and raises ConfigError. One of several workers has a seat, and the page of memory that its
        supervisor shares with all. Raises JournalError when the ledger cannot be written."""
        self._seat = seat
        self._pulse = pulse
        self._leads = seat is None or seat.leads
        self._reload = reload
        self._watch = watch
        self._config_problem: str | None = None
        self._seed_in = 0  # times that budgets of new keys are still to be raised to the ledger's sum
        self._seeding_keys = False
        self.ticks: int | None = 0  # how often the loop's timer came round; None once it is being stopped
        self._timer: asyncio.TimerHandle | None = None
        self._turning_out: asyncio.TimerHandle | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._checks: asyncio.Task[None] | None = None  # of the providers' health, where this process makes them
        self._drainer: DrainerProcess | None = None
        self._caught_up = asyncio.Event()
        self._lag_s = 0.0
        if settings.keys_problem is not None:
            raise KeysBroken(settings.keys_problem)
        self.settings = settings
        clock = self.clock = SystemClock()
        self._wall_watch = WallWatch(clock)
        new_id = UlidFactory(clock.wall)
        redactor = Redactor(settings.secrets())
        self.logs = Logs(level=settings.server.log_level, redact=redactor)
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._data_dir = settings.data_dir
        self.journal = open_journal(settings.data_dir / "journal", boot_id=new_id(), clock=clock, fsync=settings.ledger.fsync)
        self.journal.serves = settings.ledger.on_full == "serve"
        self.ledger = Queries(settings.data_dir)
        store = KeyStore(settings.data_dir)
        self.keys = KeyDesk(store, lambda: self.settings, self._apply_keys, wall=clock.wall, log=self.logs)
        self.native = NativeTransport(clock, new_waiter=new_waiter)
        self.delivery = Delivery(log=self.logs)
        self.desk = AlertDesk(
            clock=clock, new_id=new_id, append=self.journal.append, tell=self.delivery.tell, log=self.logs, redact=redactor
        )
        self.metrics = Metrics(
            Sources(
                deployments=self._deployment_states,
                ledger_lag_s=lambda: self._lag_s,
                ledger_errors=lambda: self.journal.errors,
                ledger_dropped=lambda: self.journal.dropped,
                ledger_sync_errors=lambda: self.journal.sync_errors,
                config_hash=lambda: self.settings.hash,
                load=self._load,
                draining=lambda: self.gateway.draining,
                tasks=lambda: len(asyncio.all_tasks()),
                redactions=lambda: self.gateway.services.redact.hits,
                log_lines_dropped=lambda: self.logs.dropped,
                restarts=self._restarts,
                processes=None if pulse is None else pulse.processes,
                together=None if seat is None else self._together,
                readings=Readings(
                    providers=lambda: gauges.of_cards(self.board.cards()),
                    budgets=lambda: gauges.of_budgets(self.spending.budgets.states(clock.wall())),
                    quotas=lambda: gauges.of_quotas(self.spending.quotas.states(clock.wall())),
                    rates=lambda: gauges.of_rates(self.spending.throttle.states(clock.monotonic())),
                    alerts_open=self.desk.counts,
                    deliveries=lambda: self.delivery.counts,
                    cache=self._cache_reading,
                ),
            )
        )
        self._ledger_counts = LedgerCounts(self.metrics.count)
        self.shared = Table(pulse.table, seat) if pulse is not None and seat is not None else None
        self._shared_refused = 0
        self._replaced = 0  # workers, as far as their losses are seen to
        shared = self.shared or ALONE
        spending = self.spending = Spending(clock, shared)
        spending.configure(settings)
        services = assemble(
            World(
                clock=clock,
                random=random.random,
                sleep=asyncio.sleep,
                journal=self.journal,
                meter=self.metrics,
                log=self.logs,
                redact=redactor,
                spending=spending,
                prices=PriceBook(settings.data_dir / "cache"),
                executor=ThreadPoolExecutor(1, thread_name_prefix="count"),
                transports={"native": self.native, "httpx": HttpxTransport(), "demo": DemoTransport(clock)},
                authorizer=Authorizer(),
                shared=shared,
            )
        )
        services.cache = Cache(KeptFile(settings.data_dir), shared=shared, on_fault=self._cache_failed)
        self._kept_in_file: Mapping[str, Held] = {}
        self.gateway = Gateway(services, settings, new_id, self)
        self.native.turn = self.gateway.turn
        self.gateway.turn.hurried = self._pause
        self.fleet: Fleet | None = None
        if seat is not None and pulse is not None:
            self.fleet = Fleet(
                pulse,
                self.metrics,
                services.deployments,
                index=seat.index,
                workers=seat.of,
                monotonic=clock.monotonic,
                log=self.logs,
                ledger_problem=self.journal.problem,
            )
        seen = self.fleet or self.metrics
        self.board = HealthBoard(
            lambda: self.settings,
            clock,
            deployments=self.fleet or services.deployments,
            live=LiveTraffic(seen, clock.monotonic()),
            limits=lambda: services.throttle.states(clock.monotonic()),
            uptime=self.ledger.uptime,
            records=self.journal,
            lightest_call=lambda provider: lightest_call(self.gateway, provider),
            log=self.logs,
        )

        self.degraded = Degraded(
            Faults(
                lag_s=self._read_lag,
                journal=self.journal.problem,
                cache=lambda: services.cache.problem,
                prices=lambda: services.prices.problem,
                health=self._checks_problem,
            ),
            self._tell_degraded,
        )
        self.lookout = Watch(
            Views(
                settings=lambda: self.settings,
                cards=self.board.cards,
                traffic=self._traffic,
                budgets=lambda: self.spending.budgets.states(clock.wall()),
                quotas=lambda: self.spending.quotas.states(clock.wall()),
                rates=lambda: self.spending.throttle.states(clock.monotonic()),
                answered=seen.answered_by_chain,
                unpriced=seen.unpriced_by_model,
                measured=seen.measured_by_model,
                ledger_lag_s=self._read_lag,
                ledger_problem=self.journal.problem if self.fleet is None else self.fleet.ledger_problem,
                ledger_remade=lambda: self._ledger_counts.remade,
                config_problem=lambda: self._config_problem,
            ),
            self.desk,
            clock=clock,
            sleep=asyncio.sleep,
            log=self.logs,
        )

    # -- life

    async def start(self) -> None:
        capture(self.logs, "uvicorn.error", "asyncio")
        if (said := sqlite_remark()) is not None:
            self.logs.debug("sqlite_release", remark=said)
        services = self.gateway.services
        services.warming = asyncio.create_task(self._warm())
        if self._leads:
            self._tell_retention()
            self._tasks.append(asyncio.create_task(self._begin_counting()))  # before the drainer counts anything
        if self._seat is None:
            self._drainer = DrainerProcess(self._data_dir, on_caught_up=self._caught_up.set, log=self.logs)
            # what nothing waits for leaves the processor to what makes this one ready
            self._tasks.append(asyncio.create_task(self._drainer.run(in_s=0.0 if self.spending.is_counted else DRAINER_WAITS_S)))
        if self._watch and self.settings.path is not None:
            self.watcher = ConfigWatcher(self._reload, self.settings, on_change=self._apply, on_error=self._refuse)
            self._tasks.append(asyncio.create_task(self.watcher.run()))
        self._tasks.append(asyncio.create_task(self.keys.run()))
        if self._leads:
            self._checks = asyncio.create_task(self.board.run())
            self._tasks.append(self._checks)
        self._tasks.append(asyncio.create_task(self.degraded.run()))
        self.delivery.configure(self.settings.alerts.to)
        self._lay_out(self.settings)
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)
        if self.fleet is not None:
            self.fleet.publish(self.clock.monotonic())  # so that nobody takes what the last one in this seat said for what is now
        if gc.isenabled():  # else the process has just begun: to find that there is nothing to collect takes a tenth of the start
            gc.collect()
        # what is there now stays: the collector need not look at it again, and what a request makes is mostly freed by counting
        gc.freeze()
        gc.set_threshold(*thresholds(connections=0))
        gc.enable()
        if not self._leads:
            await self._wait_for_seeds()
            return
        if self.spending.is_counted:
            await self._seed_spending()
        if self._pulse is not None:
            self._pulse.has_seeded()
        # now that it is known what was spent: a budget that seems untouched would end its alert, only to raise it again
        self._tasks.append(asyncio.create_task(self._keep_watch()))

    async def stop(self) -> None:
        self.ticks = None
        for timer in (self._timer, self._turning_out):
            if timer is not None:
                timer.cancel()
        self.gateway.loop_watch.stop()
        services = self.gateway.services
        for task in [*self._tasks, *([services.warming] if services.warming is not None else [])]:
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                pass
            except Exception as fault:  # noqa: BLE001 - whatever ended a task must not keep the rest from being closed
                self.logs.error("task_failed", fault=repr(fault)[:500])
        await self.board.aclose()
        await self.delivery.aclose()
        self.journal.close()
        if self._drainer is not None:
            await self._drainer.stop()
        for transport in services.transports.values():
            await transport.aclose()
        await self.ledger.aclose()
        await services.cache.aclose()
        services.executor.shutdown(wait=False, cancel_futures=True)
        self.logs.close()

    def hang_up(self) -> None:
        """SIGHUP: read the configuration now."""
        if self._watch and self.settings.path is not None:
            self.watcher.trigger()

    def _tick(self) -> None:
        now = self.clock.monotonic()
        self.gateway.tick(now)
        if self.gateway.services.deadlines.turn(now):
            self._turning_out = asyncio.get_running_loop().call_later(STEP_S, self._turn_out)
        self.logs.flush()
        gc.set_threshold(*thresholds(self.gateway.door.connections))
        self.ticks = ticks = (self.ticks or 0) + 1
        if self._pulse is not None:
            self._keep_pulse(self._pulse, now)
        if self.shared is not None and ticks % round(LISTEN_EVERY_S / TICK_S) == 0:
            self._listen(self.shared, now)
        if ticks % round(1 / TICK_S) == 0:
            self.journal.tick()
            self.native.tick()
            if (step_s := self._wall_watch.look()) is not None:
                self.metrics.count("clock_step")
                self.logs.warning("clock_step", seconds=round(step_s, 3))
        if ticks % round(SWEEP_EVERY_S / TICK_S) == 0:
            self.gateway.services.cache.sweep(int(self.clock.wall() * 1000), file=self._leads)
        if ticks % round(SWEEP_EVERY_S / TICK_S) == 0 and (lost := self.spending.sweep()):
            self.logs.warning("holds_swept", count=lost)
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def _turn_out(self) -> None:
        """Some more of many whose time was over at the last tick."""
        if self.gateway.services.deadlines.go_on(self.clock.monotonic()):
            self._turning_out = asyncio.get_running_loop().call_later(STEP_S, self._turn_out)

    @property
    def signs_of_life(self) -> int | None:
        """Moves while the event loop gets on, be it in one long turn. None: it is being stopped, and may stand still."""
        return None if self.ticks is None else self.ticks + self.gateway.turn.pauses

    def _pause(self) -> None:
        """In the midst of a turn of the event loop, which may be so long that the next tick is far."""
        self.gateway.pause()
        if self._pulse is not None and self._seat is not None:
            self._pulse.beat(self._seat.index, self.clock.monotonic())

    def _keep_pulse(self, pulse: Pulse, now: float) -> None:
        """What a worker does at each tick: it says that it lives and what it has counted."""
        if self._seat is not None and self.fleet is not None:
            pulse.beat(self._seat.index, now)
            self.fleet.tick(now)
        if pulse.caught_up:
            self._caught_up.set()

    def _listen(self, shared: Table, now: float) -> None:
        """What the other workers have learned and used."""
        self.gateway.services.deployments.listen(now)
        self.spending.listen()
        self.gateway.services.cache.listen()
        if shared.refused != self._shared_refused:
            self.metrics.count("shared_table_full")
            if not self._shared_refused:
                self.logs.error(
                    "shared_table_full", rows=shared.rows, next="what has no place in it each worker counts for itself"
                )
            self._shared_refused = shared.refused
        if self._leads and self._pulse is not None and self._pulse.worker_restarts != self._replaced:
            self._replaced = self._pulse.worker_restarts
            self._tasks.append(asyncio.create_task(self._seed_after_loss()))

    async def _warm(self) -> None:
        prices = self.gateway.services.prices
        await prices.warm()
        if prices.problem is not None:
            self.logs.warning("no_price_data", reason=prices.problem)
        wall = self.clock.wall()
        for chain in self.settings.chains.values():
            for target in chain.targets:
                prices.rates(
                    target, wall
                )  # the first look at a provider reads its part of the table, which is not for a request to wait for
                await asyncio.sleep(0)

    async def _seed_spending(self) -> None:
        """What was spent and used before this start, once the ledger has taken in all that the last life left behind."""
        try:
            async with asyncio.timeout(CATCH_UP_S):
                while self._pulse is not None and not self._pulse.caught_up:  # noqa: ASYNC110 - another process says so
                    await asyncio.sleep(SOON_S)
                if self._pulse is None:
                    await self._caught_up.wait()
        except TimeoutError:
            reason = "the ledger did not catch up in time: until it has, spending is counted from now on"
            self.logs.error("budgets_not_seeded", reason=reason)
            self._tasks.append(asyncio.create_task(self._seed_late()))
            return
        await self._seed()

    async def _wait_for_seeds(self) -> None:
        """The lead raises what is counted to the ledger's sums, for all workers."""
        until = self.clock.monotonic() + CATCH_UP_S
        pulse = self._pulse
        while self.spending.is_counted and pulse is not None and not pulse.seeded and self.clock.monotonic() < until:  # noqa: ASYNC110 - another process says so
            await asyncio.sleep(SOON_S)

    async def _seed_late(self) -> None:
        await self._caught_up.wait()
        await self._seed()

    async def _seed(self) -> None:
        try:
            await self.spending.seed(self.ledger)
        except LedgerUnavailable as error:
            self.logs.error("budgets_not_seeded", reason=f"{error}: spending is counted from now on")

    async def _seed_again(self) -> None:
        """After a reload: at once, and once more when the ledger has what ended in the moment before."""
        if not self._leads:
            return
        await self._seed()
        await asyncio.sleep(SEED_AGAIN_S)
        await self._seed()

    async def _seed_after_loss(self) -> None:
        """A worker died: what its requests have cost is known to nobody but the ledger, once that has closed their rows."""
        await asyncio.sleep(LOSS_IS_KNOWN_S)
        if self.spending.is_counted:
            await self._seed()

    # -- alerts

    async def _keep_watch(self) -> None:
        """Once the ledger has said what was open before this start, so that it is not told again."""
        try:
            async with asyncio.timeout(CATCH_UP_S):
                await self._caught_up.wait()
            self.desk.seed(await self.ledger.alerts(MAX_OPEN, open_only=True))
        except (TimeoutError, LedgerUnavailable):
            reason = "the ledger did not catch up in time: what was open before may be told again"
            self.logs.error("alerts_not_read", reason=reason)
        await self.lookout.run()

    async def _traffic(self) -> dict[str, Seen]:
        """One provider at a time: with hundreds of targets they are too much to be added up in one go."""
        found: dict[str, Seen] = {}
        for name in self.settings.providers:
            if self.board.live is not None:
                found[name] = self.board.live.provider(name)
            await asyncio.sleep(0)
        return found

    async def _read_lag(self) -> float | None:
        try:
            return await self._look_at_ledger()
        except LedgerUnavailable:
            return None

    async def _begin_counting(self) -> None:
        try:
            await self._look_at_ledger()
        except LedgerUnavailable:
            self._ledger_counts.look({})

    async def _look_at_ledger(self) -> float:
        """Its lag in seconds. Raises LedgerUnavailable."""
        lag = await self.ledger.ledger_lag(self.clock.wall())
        self._ledger_counts.look(lag.counters)
        self._lag_s = lag.seconds
        return lag.seconds

    # -- the drainer

    def _tell_retention(self) -> None:
        """The drainer reads it each minute."""
        kept = self.settings.retention
        try:
            write_retention(self._data_dir, Retention(kept.requests_s, kept.rollups_s, kept.health_s))
        except OSError as error:
            self.logs.error("retention_not_told", reason=error.strerror, next="the ledger keeps what it was last told")

    # -- configuration

    def _apply(self, settings: Settings) -> None:
        before = self.settings
        settings = self.keys.adopt(settings)
        self.settings = settings
        self.gateway.configure(settings)
        self._config_problem = None
        services = self.gateway.services
        hits = services.redact.hits
        services.redact = Redactor(settings.secrets())
        services.redact.hits = hits
        self.logs.set_redactor(services.redact)
        self.desk.set_redactor(services.redact)
        self.delivery.configure(settings.alerts.to)
        self.logs.set_level(settings.server.log_level)
        self.spending.configure(settings)
        if self._leads:
            self._tell_retention()
        self.journal.serves = settings.ledger.on_full == "serve"
        services.cache.reloaded()
        services.deployments.layouts.clear()  # they are of chains that are gone; the deployments' state stays
        self._lay_out(settings)
        self.metrics.config_reloaded(True)
        self.logs.info("config_reloaded", hash=settings.hash)
        for what in _needs_restart(before, settings):
            self.logs.warning("config_needs_restart", key=what)
        self._tasks.append(asyncio.create_task(self._seed_again()))
        self._tasks = [task for task in self._tasks if not task.done()]

    def _apply_keys(self, settings: Settings) -> None:
        """The same settings but for their clients: a runtime key came, changed or ended."""
        known = self.settings.clients
        self.settings = self.gateway.settings = settings
        self.spending.configure(settings)
        for warning in warnings_of(settings):
            self.logs.warning("key_opens_nothing", reason=warning)
        if any(client.budget is not None and name not in known for name, client in settings.clients.items()):
            self._seed_in = SEED_PASSES
        if self._seed_in and not self._seeding_keys:
            self._tasks.append(asyncio.create_task(self._seed_keys()))
            self._tasks = [task for task in self._tasks if not task.done()]

    async def _seed_keys(self) -> None:
        """A name may have had a budget before. Once for all keys that come within a moment of each other, and once more when the
        ledger has what ended in the moment before."""
        self._seeding_keys = True
        try:
            while self._seed_in:
                self._seed_in -= 1
                await self._seed()
                await asyncio.sleep(SEED_KEYS_S)
        finally:
            self._seeding_keys = False

    def _lay_out(self, settings: Settings) -> None:
        for chain in settings.chains.values():
            lay_out(chain, self.gateway.services.deployments)

    def _refuse(self, error: ConfigError) -> None:
        self._config_problem = str(error.faults[0])
        self.metrics.config_reloaded(False)
        for fault in error.faults:
            self.logs.error("config_reload_failed", fault=str(fault))

    # -- Surroundings

    async def metrics_page(self, *, openmetrics: bool) -> tuple[bytes, str]:
        await self._look_at_ledger()
        await self._look_at_kept()
        if self.fleet is not None:
            await self.fleet.gather(asyncio.sleep)
        return self.metrics.render(openmetrics)

    async def cache_report(self) -> dict[str, Any]:
        await self._look_at_kept()
        if self.fleet is not None:
            await self.fleet.gather(asyncio.sleep)
        return cached.report(self._together(self.metrics.tables(readings=False)), self.gateway.services.cache.problem)

    async def clear_cache(self, chain: str | None) -> int:
        before = (await self.cache_report())["data"]  # of all workers, which this one cannot count by itself
        await self.gateway.services.cache.clear(chain, int(self.clock.wall() * 1000))
        return sum(row["entries"] for row in before if chain in (None, row["chain"]))

    async def _look_at_kept(self) -> None:
        """One worker speaks for the file, which is all workers'."""
        if self._leads:
            self._kept_in_file = await self.gateway.services.cache.held_in_file()

    def _cache_reading(self) -> CacheReading:
        cache = self.gateway.services.cache
        return cached.reading(cache, cache.memory.held(), self._kept_in_file)

    def _cache_failed(self, why: str) -> None:
        self.logs.warning(
            "cache_failed", reason=why, next="answers that are kept in the file are asked for anew until it is well"
        )

    def _load(self) -> Load:
        governor, door = self.gateway.governor, self.gateway.door
        return Load(door.connections, door.cap, governor.room, governor.late_s)

    def _restarts(self) -> dict[str, int]:
        if self._pulse is not None:
            return {"worker": self._pulse.worker_restarts, "drainer": self._pulse.drainer_restarts}
        return {"worker": 0, "drainer": self._drainer.restarts if self._drainer is not None else 0}

    def _together(self, own: Tables) -> Tables:
        return own if self.fleet is None else self.fleet.together(own)

    def _checks_problem(self) -> str | None:
        if self._checks is None or not self._checks.done() or self.ticks is None:
            return None
        fault = None if self._checks.cancelled() else self._checks.exception()
        return f"they ended with {fault!r}"[:500] if fault is not None else "they were ended"

    def _tell_degraded(self, names: bytes) -> None:
        self.gateway.services.degraded = names
        parts = self.degraded.parts
        if parts:
            self.logs.warning("degraded", **parts, next="requests go on without")
        else:
            self.logs.info("degraded_no_more")

    def readiness(self) -> Readiness:
        reasons = ["draining"] if self.gateway.draining else []
        if not (self.journal.healthy or self.journal.serves):
            reasons.append("the ledger's disk is full or cannot be written")
        notes = []
        if self.journal.dropped or (self.journal.serves and not self.journal.healthy):
            lost = f"{self.journal.dropped} records are lost since the start"
            notes.append(Note("requests are or were answered without a record in the ledger", lost))
        if self._config_problem is not None:
            notes.append(Note("the configuration file is broken; the last good one is in force", self._config_problem))
        if self.keys.problem is not None:
            notes.append(Note("the file of the runtime keys cannot be read; what was last read is in force", self.keys.problem))
        degraded = self.degraded.parts
        # what the journal has to say stands above
        notes += [Note(FACTS[part], detail) for part, detail in degraded.items() if part != "ledger" or self.degraded.database]
        if self.gateway.governor.shedding:
            notes.append(Note("there is more to do than can be done: some requests are refused"))
        if self.gateway.door.shut:
            notes.append(Note("no connections are taken in: the file descriptors are used up"))
        return Readiness(reasons, notes, list(degraded))

    async def check_health(self, providers: Sequence[str]) -> None:
        await self.board.refresh(providers or None, fresh=True)

    def acknowledge(self, alert_id: str) -> dict[str, Any] | None:
        return self.desk.acknowledge(alert_id)

    def reset_quotas(self, provider: str, key: str | None) -> None:
        try:
            reset_quota(self.spending.quotas, self.journal, provider, key, wall=self.clock.wall())
        except JournalError as error:
            raise LedgerUnavailable("the ledger's disk is full or cannot be written: nothing is changed") from error

    def picture(self) -> Picture:
        wall = self.clock.wall()
        return Picture(
            wall=wall,
            settings=self.settings,
            cards=self.board.cards(),
            budgets=self.spending.budgets.states(wall),
            quotas=self.spending.quotas.states(wall),
            rates=self.spending.throttle.states(self.clock.monotonic()),
            alerts=self.desk.alerts(),
            live=True,
        )

    def _deployment_states(self) -> list[DeploymentState]:
        now = self.clock.monotonic()
        return [
            DeploymentState(s.provider, s.label, s.circuit, s.cooldown_s, s.latched is not None)
            for s in self.gateway.services.deployments.snapshot(now)
        ]


def _needs_restart(before: Settings, after: Settings) -> list[str]:
    """Keys that are read once, at the start."""
    pairs = {
        "data_dir": (before.data_dir, after.data_dir),
        "ledger.fsync": (before.ledger.fsync, after.ledger.fsync),
        "server.host": (before.server.host, after.server.host),
        "server.port": (before.server.port, after.server.port),
    }
    return [name for name, (old, new) in pairs.items() if old != new]


__all__ = ["JournalError", "Runtime", "SystemClock"]
