"""What all workers of one proxy have seen together. Each publishes what it has counted; the lead reads that of the others.

A worker publishes once a second, and at its next tick if the lead asks. What one that died had counted, its successor in the seat goes on
counting: what came in the last second before a `kill -9` is lost, but no total that was shown ever falls.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from proxy.monitoring.states import CIRCUITS
from proxy.routing.deployment import Deployments, DeploymentSnapshot
from proxy.telemetry.metrics import MAX_RECENT, Metrics
from proxy.telemetry.tables import Tables, carried_on, continued, goes_on, is_shared, merge, numbers, pack, unpack

PUBLISH_S = 1.0
SHARE = 0.002  # of a worker's time that publishing may take: with thousands of series it is done less often
GATHER_S = 0.5  # for all to publish; who has not by then is told with what it published before
POLL_S = 0.01

FirstTokens = dict[tuple[str, str], list[float]]


class Memory(Protocol):
    """Where it is published: see `workers/pulse.py`. `now` is by the monotonic clock."""

    def publish(self, index: int, content: bytes, now: float) -> bool: ...
    def published(self, index: int) -> bytes | None: ...
    def published_at(self, index: int) -> float: ...
    def is_serving(self, index: int) -> bool: ...
    def ask(self, now: float) -> None: ...

    @property
    def asked_at(self) -> float: ...


class Log(Protocol):
    def error(self, event: str, **fields: Any) -> None: ...


class Fleet:
    """One in each worker. `index` is its seat, of `workers`."""

    def __init__(
        self,
        memory: Memory,
        metrics: Metrics,
        deployments: Deployments,
        *,
        index: int,
        workers: int,
        monotonic: Callable[[], float],
        log: Log,
        ledger_problem: Callable[[], str | None] = lambda: None,
        cpu_s: Callable[[], float] = time.process_time,
    ) -> None:
        self._memory = memory
        self._metrics = metrics
        self._deployments = deployments
        self._index = index
        self._others = [other for other in range(workers) if other != index]
        self._monotonic = monotonic
        self._log = log
        self._ledger_problem = ledger_problem
        self._cpu_s = cpu_s
        self._before: Tables = carried_on(unpack(memory.published(index))["tables"])
        self._due = 0.0
        self._answered_at = 0.0
        self._number = 0
        self._recent: dict[tuple[str, str], deque[tuple[int, float]]] = {}
        self._heard: dict[int, tuple[int, int]] = {}  # seat -> (pid, the number up to which its first tokens were taken)
        self._told: dict[int, tuple[float, dict[str, Any]]] = {}
        self._too_large = False

    # -- every worker

    def tick(self, now: float) -> None:
        asked_at = self._memory.asked_at
        if now >= self._due or asked_at > self._answered_at:
            self.publish(now)

    def publish(self, now: float) -> None:
        began = self._cpu_s()
        self._answered_at = now
        self._number += 1
        more: dict[str, Any] = {"pid": os.getpid()}
        if self._index:
            more["deployments"] = [list(snapshot) for snapshot in self._deployments.snapshot(now)]
            more["recent"] = self._take_recent()
            more["ledger_problem"] = self._ledger_problem()
        tables = {name: samples for name, samples in self._metrics.tables(readings=False).items() if self._tells(name)}
        content = pack(continued(tables, self._before), **more)
        if not self._memory.publish(self._index, content, now) and not self._too_large:
            self._too_large = True
            self._log.error("counts_too_large", bytes=len(content), next="the other workers know what was published before")
        self._due = now + max(PUBLISH_S, (self._cpu_s() - began) / SHARE)

    def _tells(self, name: str) -> bool:
        return is_shared(name) if self._index else is_shared(name) or goes_on(name)

    def _take_recent(self) -> list[tuple[int, str, str, float]]:
        """The last first tokens of each target, with the number of the publication that brought them."""
        for key, seconds in self._metrics.take_first_tokens().items():
            recent = self._recent.setdefault(key, deque(maxlen=MAX_RECENT))
            recent.extend((self._number, round(value, 4)) for value in seconds)
        return [(number, *key, value) for key, recent in self._recent.items() for number, value in recent]

    # -- the lead

    async def gather(self, sleep: Callable[[float], Awaitable[Any]]) -> None:
        """Has all publish, this one last: what is shown next outlives whoever counted it."""
        asked = self._monotonic()
        self._memory.ask(asked)
        while self._monotonic() < asked + GATHER_S and not all(
            not self._memory.is_serving(seat) or self._memory.published_at(seat) >= asked for seat in self._others
        ):
            await sleep(POLL_S)
        self.publish(self._monotonic())

    def together(self, own: Tables) -> Tables:
        """This worker's tables, and those of all."""
        return merge(continued(own, self._before), *(self._tables(seat) for seat in self._others))

    def _tables(self, seat: int) -> Tables:
        tables: Tables = self._read(seat)["tables"]
        return tables if self._memory.is_serving(seat) else carried_on(tables)

    def _read(self, seat: int) -> dict[str, Any]:
        published_at = self._memory.published_at(seat)
        held = self._told.get(seat)
        if held is None or held[0] != published_at:
            held = self._told[seat] = (published_at, unpack(self._memory.published(seat)))
        return held[1]

    def _counted(self, name: str) -> dict[tuple[str, ...], int]:
        """A counter of all workers but this one, those who had this seat before included."""
        found: dict[tuple[str, ...], int] = {}
        for tables in (self._before, *(self._tables(seat) for seat in self._others)):
            for labels, count in numbers(tables, name):
                found[labels] = found.get(labels, 0) + count
        return found

    # what live monitoring looks at (`monitoring/live.py`, `monitoring/watch.py`)

    def attempts(self) -> dict[tuple[str, str, str], int]:
        found = self._metrics.attempts()
        for (provider, model, outcome), count in self._counted("tollbridge_attempts_total").items():
            key = provider, model, outcome
            found[key] = found.get(key, 0) + count
        return found

    def take_first_tokens(self) -> FirstTokens:
        taken = self._metrics.take_first_tokens()
        for seat in self._others:
            told = self._read(seat)
            pid = told.get("pid", 0)
            heard_pid, heard = self._heard.get(seat, (0, 0))
            if pid != heard_pid:
                heard = 0
            latest = heard
            for number, provider, model, seconds in told.get("recent", ()):
                if number > heard:
                    taken.setdefault((provider, model), []).append(seconds)
                latest = max(latest, number)
            self._heard[seat] = (pid, latest)
        return taken

    def answered_by_chain(self) -> dict[str, tuple[int, int]]:
        found = self._metrics.answered_by_chain()
        fallbacks = self._counted("tollbridge_fallbacks_total")
        for (chain, outcome, _), count in self._counted("tollbridge_requests_total").items():
            if outcome == "ok":
                answered, fell_back = found.get(chain, (0, 0))
                found[chain] = answered + count, fell_back
        return {chain: (answered, fell_back + fallbacks.get((chain,), 0)) for chain, (answered, fell_back) in found.items()}

    def unpriced_by_model(self) -> dict[tuple[str, str], int]:
        found = self._metrics.unpriced_by_model()
        for (provider, model), count in self._counted("tollbridge_unpriced_requests_total").items():
            if count:
                found[provider, model] = found.get((provider, model), 0) + count
        return found

    def measured_by_model(self) -> dict[tuple[str, str], tuple[int, int]]:
        found = self._metrics.measured_by_model()
        for (provider, model, result), count in self._counted("tollbridge_answers_measured_total").items():
            measured, low = found.get((provider, model), (0, 0))
            found[provider, model] = measured + count, low + (count if result == "low" else 0)
        return found

    def ledger_problem(self) -> str | None:
        """What is wrong with writing records here, else at whichever worker has something to say."""
        told = (self._read(seat).get("ledger_problem") for seat in self._others if self._memory.is_serving(seat))
        return self._ledger_problem() or next((str(problem) for problem in told if problem), None)

    def snapshot(self, now: float) -> list[DeploymentSnapshot]:
        """Every deployment as it stands: the worst of what the workers say of it, the sum of their counts."""
        found: dict[tuple[str, str, str], DeploymentSnapshot] = {_key(s): s for s in self._deployments.snapshot(now)}
        for seat in self._others:
            if not self._memory.is_serving(seat):
                continue
            told = self._read(seat)
            age_s = max(0.0, now - self._memory.published_at(seat))
            for fields in told.get("deployments", ()):
                other = _aged(DeploymentSnapshot(*fields), age_s)
                key = _key(other)
                found[key] = _worst(found[key], other) if key in found else other
        return list(found.values())


def _key(snapshot: DeploymentSnapshot) -> tuple[str, str, str]:
    return snapshot.provider, snapshot.credential, snapshot.upstream_model


def _aged(snapshot: DeploymentSnapshot, age_s: float) -> DeploymentSnapshot:
    return snapshot._replace(cooldown_s=max(0.0, snapshot.cooldown_s - age_s), opens_in_s=max(0.0, snapshot.opens_in_s - age_s))


def _worst(a: DeploymentSnapshot, b: DeploymentSnapshot) -> DeploymentSnapshot:
    latencies = [(s.latency_s, max(1, s.ok)) for s in (a, b) if s.latency_s is not None]
    weight = sum(count for _, count in latencies)
    return a._replace(
        circuit=max(a.circuit, b.circuit, key=CIRCUITS.index),
        cooldown_s=max(a.cooldown_s, b.cooldown_s),
        latched=a.latched or b.latched,
        in_flight=a.in_flight + b.in_flight,
        ok=a.ok + b.ok,
        failed=a.failed + b.failed,
        latency_s=sum(latency * count for latency, count in latencies) / weight if latencies else None,
        last_ok=_latest(a.last_ok, b.last_ok),
        last_fail=_latest(a.last_fail, b.last_fail),
        opens_in_s=max(a.opens_in_s, b.opens_in_s),
        refused=a.refused or b.refused,
    )


def _latest(*times: float | None) -> float | None:
    return max((at for at in times if at is not None), default=None)
