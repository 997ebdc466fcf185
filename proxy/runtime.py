"""One running proxy: everything made, started, kept ticking, reloaded and stopped. `app.py` puts it behind a server."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from proxy.accounting.journal import Journal, JournalError
from proxy.accounting.pricing import PriceBook
from proxy.accounting.quotas import reset_quota
from proxy.accounting.spending import Spending
from proxy.accounting.tokens import TokenCounter
from proxy.accounting.usage import usage_from_openai
from proxy.config.faults import ConfigError
from proxy.config.reload import ConfigWatcher
from proxy.config.settings import Settings
from proxy.core.deadlines import TICK_S, Deadlines
from proxy.core.errors import LedgerUnavailable
from proxy.core.redact import Redactor
from proxy.core.ulid import UlidFactory
from proxy.dialects.anthropic.dialect import AnthropicMessages
from proxy.dialects.base import OutboundDialect
from proxy.dialects.bedrock.dialect import BedrockConverse
from proxy.dialects.bedrock.embeddings import BedrockEmbeddings
from proxy.dialects.cohere.dialect import CohereChat
from proxy.dialects.gemini.dialect import Gemini
from proxy.dialects.native_embeddings import CohereEmbeddings, GeminiEmbeddings, OllamaEmbeddings, VertexEmbeddings
from proxy.dialects.ollama.dialect import OllamaChat
from proxy.dialects.openai_chat import AzureChat, OpenAIChat
from proxy.dialects.openai_embeddings import AzureEmbeddings, OpenAIEmbeddings, OpenAIEmbeddingsInbound
from proxy.dialects.openai_request import OpenAIChatInbound
from proxy.dialects.vertex import Vertex
from proxy.engine.services import Services
from proxy.monitoring import gauges
from proxy.monitoring.alerts import MAX_OPEN, AlertDesk
from proxy.monitoring.checker import HealthBoard
from proxy.monitoring.delivery import Delivery
from proxy.monitoring.live import LiveTraffic, Seen
from proxy.monitoring.picture import Picture
from proxy.monitoring.watch import Views, Watch
from proxy.routing.deployment import Deployments
from proxy.routing.plan import ChainTrickle, lay_out
from proxy.routing.retry_budget import RetryBudgets
from proxy.server.fiber import new_waiter
from proxy.server.gateway import Gateway, Note, Readiness
from proxy.server.lightest import lightest_call
from proxy.storage.queries import Queries
from proxy.storage.retention import Retention, write_retention
from proxy.telemetry.logs import Logs, capture
from proxy.telemetry.metrics import DeploymentState, Metrics, Sources
from proxy.telemetry.readings import Readings
from proxy.upstream.auth import Authorizer
from proxy.upstream.client import HttpxTransport
from proxy.upstream.demo import DemoTransport
from proxy.upstream.pool import NativeTransport

CATCH_UP_S = 30.0  # for the ledger to know what budgets have been spent, where there are any
DRAINER_RESTART_S = 1.0
SEED_AGAIN_S = 5.0
SWEEP_EVERY_S = 10.0
STOP_S = 10.0
GC_THRESHOLDS = (20_000, 20, 20)


_ROOT = str(Path(__file__).resolve().parent.parent)  # where a child process finds this package


class SystemClock:
    monotonic = staticmethod(time.monotonic)
    wall = staticmethod(time.time)


class Runtime:
    """Made once a process; `start` and `stop` belong to the event loop that serves."""

    def __init__(self, settings: Settings, *, reload: Callable[[], Settings], watch: bool = True) -> None:
        """`reload` loads the configuration anew and raises ConfigError. Raises JournalError when the ledger cannot be written."""
        self._reload = reload
        self._watch = watch
        self._config_problem: str | None = None
        self._stopping = False
        self._ticks = 0
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._drainer: asyncio.subprocess.Process | None = None
        self._caught_up = asyncio.Event()
        self._lag_s = 0.0
        self.settings = settings
        clock = self.clock = SystemClock()
        new_id = UlidFactory(clock.wall)
        redactor = Redactor(settings.secrets())
        self.logs = Logs(level=settings.server.log_level, redact=redactor)
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._data_dir = settings.data_dir
        self.journal = Journal(settings.data_dir / "journal", boot_id=new_id(), clock=clock)
        self.ledger = Queries(settings.data_dir)
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
                config_hash=lambda: self.settings.hash,
                draining=lambda: self.gateway.draining,
                redactions=lambda: self.gateway.services.redact.hits,
                log_lines_dropped=lambda: self.logs.dropped,
                readings=Readings(
                    providers=lambda: gauges.of_cards(self.board.cards()),
                    budgets=lambda: gauges.of_budgets(self.spending.budgets.states(clock.wall())),
                    quotas=lambda: gauges.of_quotas(self.spending.quotas.states(clock.wall())),
                    rates=lambda: gauges.of_rates(self.spending.throttle.states(clock.monotonic())),
                    alerts_open=self.desk.counts,
                    deliveries=lambda: self.delivery.counts,
                ),
            )
        )
        chats: dict[str, OutboundDialect] = {
            "openai": OpenAIChat(usage_from_openai),
            "azure": AzureChat(usage_from_openai),
            "anthropic": AnthropicMessages(),
            "gemini": Gemini(),
            "vertex": Vertex(),
            "cohere": CohereChat(),
            "ollama": OllamaChat(),
            "bedrock": BedrockConverse(),
        }
        spending = self.spending = Spending(clock)
        spending.configure(settings)
        services = Services(
            clock=clock,
            random=random.random,
            sleep=asyncio.sleep,
            deadlines=Deadlines(),
            journal=self.journal,
            meter=self.metrics,
            log=self.logs,
            redact=redactor,
            deployments=Deployments(random.random, allowances=spending.allowances),
            trickle=ChainTrickle(),
            retry_budgets=RetryBudgets(),
            prices=PriceBook(settings.data_dir / "cache"),
            warming=None,
            budgets=spending.budgets,
            quotas=spending.quotas,
            throttle=spending.throttle,
            counter=TokenCounter(),
            executor=ThreadPoolExecutor(1, thread_name_prefix="count"),
            transports={"native": self.native, "httpx": HttpxTransport(), "demo": DemoTransport(clock)},
            authorizer=Authorizer(),
            inbound=OpenAIChatInbound(),
            outbound=chats,
            embeddings_inbound=OpenAIEmbeddingsInbound(),
            embedders={
                "openai": OpenAIEmbeddings(usage_from_openai),
                "azure": AzureEmbeddings(usage_from_openai),
                "gemini": GeminiEmbeddings(chats["gemini"]),
                "vertex": VertexEmbeddings(chats["vertex"]),
                "cohere": CohereEmbeddings(chats["cohere"]),
                "ollama": OllamaEmbeddings(chats["ollama"]),
                "bedrock": BedrockEmbeddings(chats["bedrock"]),
            },
        )
        spending.throttle.learned = lambda now: services.deployments.told_limits(now, clock.wall())
        self.gateway = Gateway(services, settings, new_id, self)
        self.board = HealthBoard(
            lambda: self.settings,
            clock,
            deployments=services.deployments,
            live=LiveTraffic(self.metrics, clock.monotonic()),
            limits=lambda: services.throttle.states(clock.monotonic()),
            uptime=self.ledger.uptime,
            records=self.journal,
            lightest_call=lambda provider: lightest_call(self.gateway, provider),
            log=self.logs,
        )

        self.lookout = Watch(
            Views(
                settings=lambda: self.settings,
                cards=self.board.cards,
                traffic=self._traffic,
                budgets=lambda: self.spending.budgets.states(clock.wall()),
                quotas=lambda: self.spending.quotas.states(clock.wall()),
                rates=lambda: self.spending.throttle.states(clock.monotonic()),
                answered=self.metrics.answered_by_chain,
                unpriced=self.metrics.unpriced_by_model,
                ledger_lag_s=self._read_lag,
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
        services = self.gateway.services
        services.warming = asyncio.create_task(self._warm())
        self._tasks.append(asyncio.create_task(self._keep_draining()))
        if self._watch and self.settings.path is not None:
            self.watcher = ConfigWatcher(self._reload, self.settings, on_change=self._apply, on_error=self._refuse)
            self._tasks.append(asyncio.create_task(self.watcher.run()))
        self._tasks.append(asyncio.create_task(self.board.run()))
        self.delivery.configure(self.settings.alerts.to)
        self._lay_out(self.settings)
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)
        # what is there now stays: the collector need not look at it again, and what a request makes is mostly freed by counting
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        gc.enable()
        if self.spending.is_counted:
            await self._seed_spending()
        # now that it is known what was spent: a budget that seems untouched would end its alert, only to raise it again
        self._tasks.append(asyncio.create_task(self._keep_watch()))

    async def stop(self) -> None:
        self._stopping = True
        if self._timer is not None:
            self._timer.cancel()
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
        await self._stop_drainer()
        for transport in services.transports.values():
            await transport.aclose()
        await self.ledger.aclose()
        services.executor.shutdown(wait=False, cancel_futures=True)
        self.logs.close()

    def hang_up(self) -> None:
        """SIGHUP: read the configuration now."""
        if self._watch and self.settings.path is not None:
            self.watcher.trigger()

    def _tick(self) -> None:
        now = self.clock.monotonic()
        self.gateway.services.deadlines.tick(now)
        self.logs.flush()
        self._ticks += 1
        if self._ticks % round(1 / TICK_S) == 0:
            self.journal.tick()
            self.native.tick()
        if self._ticks % round(SWEEP_EVERY_S / TICK_S) == 0 and (lost := self.spending.sweep()):
            self.logs.warning("holds_swept", count=lost)
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)

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
                await self._caught_up.wait()
        except TimeoutError:
            reason = "the ledger did not catch up in time: until it has, spending is counted from now on"
            self.logs.error("budgets_not_seeded", reason=reason)
            self._tasks.append(asyncio.create_task(self._seed_late()))
            return
        await self._seed()

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
        await self._seed()
        await asyncio.sleep(SEED_AGAIN_S)
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
            self._lag_s = (await self.ledger.ledger_lag(self.clock.wall())).seconds
        except LedgerUnavailable:
            return None
        return self._lag_s

    # -- the drainer's process

    def _tell_retention(self) -> None:
        """The drainer reads it each minute."""
        kept = self.settings.retention
        try:
            write_retention(self._data_dir, Retention(kept.requests_s, kept.rollups_s, kept.health_s))
        except OSError as error:
            self.logs.error("retention_not_told", reason=error.strerror, next="the ledger keeps what it was last told")

    async def _keep_draining(self) -> None:
        self._tell_retention()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [_ROOT, os.environ.get("PYTHONPATH")]))}
        while not self._stopping:
            self._drainer = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-m",
                "proxy.storage.drainer",
                str(self.settings.data_dir),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=environment,
            )
            assert self._drainer.stdout is not None
            if await self._drainer.stdout.readline():
                self._caught_up.set()
            code = await self._drainer.wait()
            if not self._stopping:
                self.logs.error("drainer_stopped", code=code, next="started again")
                await asyncio.sleep(DRAINER_RESTART_S)

    async def _stop_drainer(self) -> None:
        """Its standard input ends, it takes in what is left and goes; what it does not manage stays in the journal."""
        drainer = self._drainer
        if drainer is None or drainer.returncode is not None:
            return
        assert drainer.stdin is not None
        drainer.stdin.close()
        try:
            async with asyncio.timeout(STOP_S):
                await drainer.wait()
        except TimeoutError:
            drainer.kill()
            await drainer.wait()

    # -- configuration

    def _apply(self, settings: Settings) -> None:
        before = self.settings
        self.settings = self.gateway.settings = settings
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
        self._tell_retention()
        services.deployments.layouts.clear()  # they are of chains that are gone; the deployments' state stays
        self._lay_out(settings)
        self.metrics.config_reloaded(True)
        self.logs.info("config_reloaded", hash=settings.hash)
        for what in _needs_restart(before, settings):
            self.logs.warning("config_needs_restart", key=what)
        self._tasks.append(asyncio.create_task(self._seed_again()))
        self._tasks = [task for task in self._tasks if not task.done()]

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
        self._lag_s = (await self.ledger.ledger_lag(self.clock.wall())).seconds
        return self.metrics.render(openmetrics)

    def readiness(self) -> Readiness:
        reasons = ["draining"] if self.gateway.draining else []
        if not self.journal.healthy:
            reasons.append("the ledger's disk is full or cannot be written")
        notes = []
        if self._config_problem is not None:
            notes.append(Note("the configuration file is broken; the last good one is in force", self._config_problem))
        if self.gateway.services.prices.problem is not None:
            notes.append(Note("there is no price data", self.gateway.services.prices.problem))
        return Readiness(reasons, notes)

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
        "server.host": (before.server.host, after.server.host),
        "server.port": (before.server.port, after.server.port),
    }
    return [name for name, (old, new) in pairs.items() if old != new]


__all__ = ["JournalError", "Runtime", "SystemClock"]
