"""Checks every provider on what costs nothing, and keeps the cards: one for a running proxy, or one for a command without a server.

A check is of one provider with all its keys at once. Its result is kept for the provider's `health.interval`; whoever asks meanwhile
is told the same, and whoever asks while it runs waits for that one. Nothing is ever asked that is billed, unless `lightest_call` is set
for a provider that has no free check: then one completion of a token goes the way of any request, into the ledger too.

`run` samples traffic, asks what is due and journals a provider's state when it changes, and at least every quarter of an hour.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from math import inf
from typing import Any, Protocol

from proxy.accounting.journal import JournalError
from proxy.accounting.records import Checked
from proxy.config.settings import Settings
from proxy.core.errors import LedgerUnavailable
from proxy.core.ports import Clock, UpstreamTransport
from proxy.core.target import Provider
from proxy.monitoring.health import (
    Check,
    Facts,
    Live,
    ProviderHealth,
    RateLimit,
    Thresholds,
    check_error,
    fuse,
    key_valid,
    response_ms,
    tightest,
)
from proxy.monitoring.live import SAMPLE_S, LiveTraffic
from proxy.monitoring.states import CIRCUITS, Snapshots, parts_of, roles_of, snapshots_of, target_rows, targets_of
from proxy.routing.deployment import DeploymentSnapshot
from proxy.upstream.probe import Sleep, make_transports, no_question, probe

TELL_S = 900.0  # a state that does not change is journalled as often as that
UPTIME_S = 60.0  # so long is what the ledger says of uptime taken for true
AGAIN_S = 10.0  # a failed check is repeated after that, if calls succeed meanwhile
MIN_PAUSE_S = 0.1
FIRST_S = 0.5  # after the start, which is for others
NO_UPTIME: Mapping[str, float | None] = {"day": None, "week": None, "month": None}

Uptimes = Mapping[str, Mapping[str, float | None]]


class Records(Protocol):
    """Where states are written down; implemented by the journal. Raises JournalError."""

    def append(self, record: Checked) -> None: ...


class Log(Protocol):
    def error(self, event: str, **fields: Any) -> None: ...


class HealthBoard:
    """The cards of all providers. Everything but `settings` and `clock` may be missing: then that is unknown."""

    def __init__(
        self,
        settings: Callable[[], Settings],
        clock: Clock,
        *,
        transports: Mapping[str, UpstreamTransport] | None = None,
        deployments: Snapshots | None = None,
        live: LiveTraffic | None = None,
        limits: Callable[[], Iterable[RateLimit]] = tuple,
        uptime: Callable[[int], Awaitable[Uptimes]] | None = None,
        records: Records | None = None,
        lightest_call: Callable[[Provider], Awaitable[None]] | None = None,
        log: Log | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """`transports`: by name, as in the file; its own without. `uptime` is given the time in milliseconds. `lightest_call` asks a
        provider for a completion of a token, and is waited for; what came of it shows in `deployments`."""
        self._settings = settings
        self._clock = clock
        self._own = make_transports(clock.monotonic) if transports is None else {}
        self._transports = transports if transports is not None else self._own
        self._deployments = deployments
        self.live = live
        self._limits = limits
        self._read_uptime = uptime
        self._records = records
        self._lightest_call = lightest_call
        self._log = log
        self._sleep = sleep
        self._checks: dict[str, Check] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._last_errors: dict[str, tuple[str, float]] = {}  # provider -> what, when by the wall
        self._journalled: dict[str, tuple[str, float]] = {}  # provider -> state, when
        self._uptimes: Uptimes = {}
        self._uptimes_at: float | None = None

    # -- what is to be seen

    def cards(self) -> list[ProviderHealth]:
        """One a provider, in the file's order, as everything stands now. Never waits: it takes some milliseconds for a hundred targets. The
        demo has one where something leads to it."""
        return self._make_cards(self._settings(), self._clock.monotonic())

    def card(self, name: str) -> ProviderHealth | None:
        return next((card for card in self.cards() if card.name == name), None)

    # -- checking

    async def refresh(self, names: Collection[str] | None = None, fresh: bool = False) -> None:
        """Checks those whose result is older than their interval, all at once; with `fresh` all of them. Joins what runs already."""
        now = self._clock.monotonic()
        tasks = [
            self._start(provider)
            for provider in self._settings().providers.values()
            if (names is None or provider.name in names) and _can_check(provider) and (fresh or self._due(provider, now))
        ]
        if tasks:
            # a caller that goes does not take the check with it
            await asyncio.gather(*(asyncio.shield(task) for task in tasks))
        await self._refresh_uptime()

    async def run(self) -> None:
        """For as long as the proxy runs. Ends by being cancelled."""
        await self._sleep(FIRST_S)
        told: str | None = None
        while True:
            try:
                self.sample()
                for provider in self._settings().providers.values():
                    if _can_check(provider) and self._due(provider, self._clock.monotonic()):
                        self._start(provider)
                await self._refresh_uptime()
                told = None
            except Exception as fault:  # noqa: BLE001 - one look that fails must not end the checks: it is logged, once until it changes
                if repr(fault) != told and self._log is not None:
                    told = repr(fault)
                    self._log.error("health_cannot_look", fault=told[:500], next="looks again")
            await self._sleep(self._pause_s())

    def _pause_s(self) -> float:
        """Until the next look at traffic, or the next check where that comes first."""
        now = self._clock.monotonic()
        due_in_s = inf
        for provider in self._settings().providers.values():
            if _can_check(provider):
                check = self._checks.get(provider.name)
                began = now if check is None or provider.name in self._running else check.began
                due_in_s = min(due_in_s, began + provider.health.interval_s - now)
        return min(SAMPLE_S, max(MIN_PAUSE_S, due_in_s))

    def sample(self) -> None:
        """Looks at the traffic and writes down what has changed."""
        if self.live is not None:
            wall = self._clock.wall()
            for provider, outcome in self.live.sample(self._clock.monotonic()).items():
                self._last_errors[provider] = (f"a call failed: {outcome}", wall)
        self._told_anew()

    async def aclose(self) -> None:
        """Ends what runs."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
        for transport in self._own.values():
            await transport.aclose()

    def _due(self, provider: Provider, now: float) -> bool:
        check = self._checks.get(provider.name)
        if check is None or check.provider != provider:
            return True
        if now - check.began >= provider.health.interval_s:
            return True
        return check.failed and now - check.ended >= AGAIN_S and self._served_since(check)

    def _served_since(self, check: Check) -> bool:
        """Calls succeed that the check says cannot."""
        if self._deployments is None:
            return False
        snapshots = self._deployments.snapshot(self._clock.monotonic())
        return any(s.provider == check.provider.name and s.last_ok is not None and s.last_ok > check.ended for s in snapshots)

    def _start(self, provider: Provider) -> asyncio.Task[None]:
        running = self._running.get(provider.name)
        if running is None:
            running = self._running[provider.name] = asyncio.get_running_loop().create_task(self._check(provider))
            running.add_done_callback(lambda _: self._running.pop(provider.name, None))
        return running

    async def _check(self, provider: Provider) -> None:
        began = self._clock.monotonic()
        if no_question(provider) is None:
            found = await asyncio.gather(
                *(
                    probe(
                        provider,
                        credential,
                        transports=self._transports,
                        monotonic=self._clock.monotonic,
                        timeout_s=provider.health.timeout_s,
                        sleep=self._sleep,
                    )
                    for credential in provider.credentials
                )
            )
        else:
            found = []
            if self._lightest_call is not None:
                await self._lightest_call(provider)
        wall = self._clock.wall()
        check = self._checks[provider.name] = Check(provider, tuple(found), began, self._clock.monotonic(), wall)
        if (error := check_error(check)) is not None:
            self._last_errors[provider.name] = (error, wall)

    async def _refresh_uptime(self) -> None:
        now = self._clock.monotonic()
        if self._read_uptime is not None and (self._uptimes_at is None or now - self._uptimes_at >= UPTIME_S):
            self._uptimes_at = now
            try:
                self._uptimes = await self._read_uptime(round(self._clock.wall() * 1000))
            except LedgerUnavailable:
                return  # what was said last stays true enough; that the ledger is ill is told by those who keep it

    # -- cards

    def _make_cards(self, settings: Settings, now: float) -> list[ProviderHealth]:
        snapshots = snapshots_of(settings, self._deployments, now)
        targets, roles, limits = targets_of(settings), roles_of(settings), list(self._limits())
        cards = []
        for provider in settings.providers.values():
            name = provider.name
            if provider.transport == "demo" and name not in roles and name not in snapshots:
                continue
            rows = target_rows(provider, targets.get(name, {}), snapshots.get(name, []), self._checked(provider))
            facts = self._facts(
                settings, provider, snapshots.get(name, []), [limit for limit in limits if limit.provider == name]
            )
            cards.append(self._card(facts, rows, roles.get(name, [])))
        return cards

    def _facts(
        self, settings: Settings, provider: Provider, snapshots: list[DeploymentSnapshot], limits: list[RateLimit]
    ) -> Facts:
        check = self._checks.get(provider.name)
        if check is not None and check.provider != provider:
            check = None  # the file has changed since: it was another key, or another address
        thresholds = Thresholds.of(provider.health, settings.alerts)
        return Facts(provider, check, self._live(provider, snapshots), limits, thresholds)

    def _live(self, provider: Provider, snapshots: list[DeploymentSnapshot]) -> Live:
        seen = self.live.provider(provider.name) if self.live is not None else None
        oks = [s.last_ok for s in snapshots if s.last_ok is not None]
        fails = [s.last_fail for s in snapshots if s.last_fail is not None]
        return Live(
            parts=parts_of(snapshots),
            attempts=seen.attempts if seen is not None else 0,
            failed=seen.failed if seen is not None else 0,
            requests_per_minute=round(seen.per_minute, 2) if seen is not None else None,
            in_flight=sum(s.in_flight for s in snapshots) if self._deployments is not None else None,
            last_ok=max(oks, default=None),
            last_fail=max(fails, default=None),
            first_token_ms=seen.first_token_ms if seen is not None else None,
            first_tokens=seen.first_tokens if seen is not None else 0,
            usual_ms=seen.usual_ms if seen is not None else None,
            usual_first_tokens=seen.usual_first_tokens if seen is not None else 0,
        )

    def _card(self, facts: Facts, rows: list[dict[str, object]], roles: list[dict[str, object]]) -> ProviderHealth:
        provider, check, live = facts.provider, facts.check, facts.live
        state, reason = fuse(facts)
        known = self._deployments is not None
        models = [probe.models for probe in check.probes if probe.models is not None] if check is not None else []
        error, error_at = self._last_errors.get(provider.name, (None, None))
        return ProviderHealth(
            name=provider.name,
            state=state,
            reason=reason,
            dialect=provider.dialect,
            keys=sum(credential.secret is not None for credential in provider.credentials),
            response_ms=response_ms(check),
            models=max(models, default=None),
            key_valid=key_valid(facts),
            circuit=max((part.circuit for part in live.parts), key=CIRCUITS.index, default="closed") if known else None,
            cooldown_s=round(max((part.cooldown_s for part in live.parts), default=0.0), 3) if known else None,
            error_rate=round(live.failed / live.attempts, 4) if live.attempts else None,
            first_token_ms=live.first_token_ms,
            first_token_usual_ms=live.usual_ms,
            requests_per_minute=live.requests_per_minute,
            in_flight=live.in_flight,
            rate_limit={unit: tightest(facts.limits, unit) for unit in ("requests", "tokens")},
            checked=self._checked(provider),
            error=check_error(check),
            last_error=error,
            last_error_at=_rfc3339(error_at) if error_at is not None else None,
            uptime=self._uptimes.get(provider.name, NO_UPTIME),
            roles=roles,
            targets=rows,
            note=_note(facts, lightest=self._lightest_call is not None),
        )

    def _checked(self, provider: Provider) -> str | None:
        """When it was last asked and could have answered."""
        check = self._checks.get(provider.name)
        if check is None or check.provider != provider or not check.probes:
            return None
        return _rfc3339(check.wall)

    # -- history

    def _told_anew(self) -> None:
        """Journals the states that have changed, or that were told long ago."""
        if self._records is None:
            return
        wall = self._clock.wall()
        for card in self.cards():
            told = self._journalled.get(card.name)
            if card.state == "disabled" or (told is None and card.state == "unknown"):
                continue
            if told is not None and told[0] == card.state and 0 <= wall - told[1] < TELL_S:
                continue
            record = Checked(
                round(wall * 1000), card.name, card.state, card.reason, card.response_ms, card.models, card.key_valid
            )
            try:
                self._records.append(record)
            except JournalError:
                return  # the disk is full, which `/readyz` tells; the state is written as soon as it can be
            self._journalled[card.name] = (card.state, wall)


def _can_check(provider: Provider) -> bool:
    """Whether there is something to ask: for free, or as the file allows."""
    if not provider.enabled or provider.transport == "demo":
        return False
    return no_question(provider) is None or provider.health.lightest_call


def _note(facts: Facts, *, lightest: bool) -> str | None:
    provider, check = facts.provider, facts.check
    if not provider.enabled:
        return None
    if (why_not := no_question(provider)) is not None:
        if provider.transport == "demo":
            return why_not
        return f"{why_not}: " + (
            "a call of one token asks it" if lightest and provider.health.lightest_call else "only traffic tells"
        )
    if check is None:
        return "it was not asked yet"
    return next((probe.detail for probe in check.probes if not probe.failed and probe.detail is not None), None)


def _rfc3339(wall: float) -> str:
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
