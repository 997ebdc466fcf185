"""The lead sees what all workers have done; what one of them had counted is not lost with it, and what it held is not kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from proxy.monitoring.fleet import GATHER_S, PUBLISH_S, Fleet
from proxy.monitoring.live import LiveTraffic
from proxy.routing.deployment import Deployments, DeploymentSnapshot
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.tables import numbers

pytestmark = pytest.mark.unit


@dataclass
class Memory:
    """As `workers/pulse.py` has it, without the sharing."""

    contents: dict[int, bytes] = field(default_factory=dict)
    times: dict[int, float] = field(default_factory=dict)
    serving: set[int] = field(default_factory=lambda: {0, 1})
    asked_at: float = 0.0
    limit: int = 1 << 20

    def publish(self, index: int, content: bytes, now: float) -> bool:
        if len(content) > self.limit:
            return False
        self.contents[index], self.times[index] = content, now
        return True

    def published(self, index: int) -> bytes | None:
        return self.contents.get(index)

    def published_at(self, index: int) -> float:
        return self.times.get(index, 0.0)

    def is_serving(self, index: int) -> bool:
        return index in self.serving

    def ask(self, now: float) -> None:
        self.asked_at = now


@dataclass
class Held:
    """Deployments as they stand."""

    found: list[DeploymentSnapshot] = field(default_factory=list)

    def snapshot(self, now: float) -> list[DeploymentSnapshot]:
        return self.found


@dataclass
class Log:
    lines: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)

    def error(self, event: str, **fields: Any) -> None:
        self.lines.append((event, fields))


class Worker:
    def __init__(self, memory: Memory, index: int, *, now: float = 1.0, cpu_s: float = 0.0) -> None:
        self.now = now
        self.metrics = Metrics()
        self.held = Held()
        self.log = Log()
        self.problem: str | None = None
        cpu = iter([0.0, cpu_s] * 1000)
        self.fleet = Fleet(
            memory,
            self.metrics,
            cast("Deployments", self.held),
            index=index,
            workers=2,
            monotonic=lambda: self.now,
            log=self.log,
            ledger_problem=lambda: self.problem,
            cpu_s=lambda: next(cpu),
        )

    def attempts(self, count: int, *, first_token_s: float = 0.2, outcome: str = "ok") -> None:
        for _ in range(count):
            self.metrics.request_started()
            self.metrics.attempt_ended("openai", "gpt-5", outcome, 1.0, first_token_s)
            self.metrics.request_ended("smart", outcome, True, 1.0, first_token_s, None)

    def answered(self) -> int:
        tables = self.fleet.together(self.metrics.tables())
        return sum(count for _, count in numbers(tables, "tollbridge_requests_total"))


@pytest.fixture
def memory() -> Memory:
    return Memory()


def test_the_lead_sees_everybodys_counts(memory: Memory) -> None:
    lead, other = Worker(memory, 0), Worker(memory, 1)
    lead.attempts(3)
    other.attempts(4)
    other.metrics.fell_back("smart")
    lead.metrics.answer_measured("openai", "gpt-5", 0.9, low=False)
    other.metrics.answer_measured("openai", "gpt-5", 0.2, low=True)
    other.fleet.publish(1.0)

    assert lead.answered() == 7
    assert lead.fleet.attempts() == {("openai", "gpt-5", "ok"): 7}
    assert lead.fleet.answered_by_chain() == {"smart": (7, 1)}
    assert lead.fleet.measured_by_model() == {("openai", "gpt-5"): (2, 1)}


def test_what_a_worker_had_counted_its_successor_goes_on_with(memory: Memory) -> None:
    lead, other = Worker(memory, 0), Worker(memory, 1)
    other.attempts(4)
    other.metrics.request_started()
    other.fleet.publish(1.0)
    lead.fleet.publish(1.0)
    memory.serving.discard(1)  # it is killed
    dead = lead.fleet.together(lead.metrics.tables())
    assert lead.answered() == 4
    assert dict(dead["tollbridge_requests_in_flight"]) == {(): 0}

    memory.serving.add(1)
    successor = Worker(memory, 1)
    successor.attempts(2)
    successor.fleet.publish(2.0)
    assert lead.answered() == 6

    again = Worker(memory, 0)  # now the lead
    assert again.answered() == 6
    assert again.fleet.attempts() == {("openai", "gpt-5", "ok"): 6}


def test_the_leads_own_counts_go_on_too(memory: Memory) -> None:
    lead = Worker(memory, 0)
    lead.attempts(5)
    lead.metrics.config_reloaded(ok=True)
    lead.fleet.publish(1.0)
    again = Worker(memory, 0)
    again.attempts(1)

    assert again.answered() == 6
    reloads = dict(numbers(again.fleet.together(again.metrics.tables()), "tollbridge_config_reloads_total"))
    assert reloads["ok",] == 1
    assert again.fleet.attempts() == {("openai", "gpt-5", "ok"): 6}


def test_first_tokens_are_heard_once_each(memory: Memory) -> None:
    lead, other = Worker(memory, 0), Worker(memory, 1)
    lead.attempts(1, first_token_s=0.1)
    other.attempts(2, first_token_s=0.5)
    other.fleet.publish(1.0)
    other.fleet.publish(2.0)
    key = ("openai", "gpt-5")
    assert lead.fleet.take_first_tokens() == {key: [0.1, 0.5, 0.5]}
    assert lead.fleet.take_first_tokens() == {}

    other.attempts(1, first_token_s=0.7)
    other.fleet.publish(3.0)
    assert lead.fleet.take_first_tokens() == {key: [0.7]}


def test_live_traffic_is_everybodys(memory: Memory) -> None:
    lead, other = Worker(memory, 0), Worker(memory, 1)
    live = LiveTraffic(lead.fleet, 0.0)
    lead.attempts(4)
    other.attempts(6, outcome="5xx")
    other.fleet.publish(5.0)
    live.sample(5.0)

    seen = live.provider("openai")
    assert (seen.attempts, seen.failed) == (10, 6)


def snapshot(**fields: Any) -> DeploymentSnapshot:
    given: dict[str, Any] = {
        "provider": "openai",
        "credential": "aa",
        "upstream_model": "gpt-5",
        "label": "gpt-5",
        "circuit": "closed",
        "cooldown_s": 0.0,
        "latched": None,
        "in_flight": 0,
        "ok": 0,
        "failed": 0,
        "latency_s": None,
        "last_ok": None,
        "last_fail": None,
    }
    return DeploymentSnapshot(**{**given, **fields})


def test_a_deployment_is_as_bad_as_the_worst_says_and_as_busy_as_all(memory: Memory) -> None:
    lead, other = Worker(memory, 0), Worker(memory, 1)
    lead.held.found = [snapshot(in_flight=2, ok=3, latency_s=1.0, last_ok=90.0)]
    other.held.found = [
        snapshot(circuit="open", opens_in_s=4.0, cooldown_s=3.0, in_flight=1, ok=1, failed=5, latency_s=5.0, last_fail=95.0),
        snapshot(upstream_model="gpt-5-mini", label="gpt-5-mini", latched="key refused"),
    ]
    other.fleet.publish(100.0)
    one, mini = lead.fleet.snapshot(101.0)

    assert (one.circuit, one.opens_in_s, one.cooldown_s) == ("open", 3.0, 2.0)  # a second has passed since it was said
    assert (one.in_flight, one.ok, one.failed, one.latency_s) == (3, 4, 5, 2.0)
    assert (one.last_ok, one.last_fail) == (90.0, 95.0)
    assert (mini.upstream_model, mini.latched) == ("gpt-5-mini", "key refused")
    memory.serving.discard(1)
    assert lead.fleet.snapshot(101.0) == lead.held.found


def test_a_disk_that_fails_one_worker_is_told_by_the_lead(memory: Memory) -> None:
    lead, other = Worker(memory, 0), Worker(memory, 1)
    other.fleet.publish(1.0)
    assert lead.fleet.ledger_problem() is None
    other.problem = "The disk is full."
    other.fleet.publish(2.0)
    assert lead.fleet.ledger_problem() == "The disk is full."
    lead.problem = "So it is here."
    assert lead.fleet.ledger_problem() == "So it is here."


def test_publishing_happens_each_second_and_when_asked(memory: Memory) -> None:
    other = Worker(memory, 1)
    other.fleet.tick(10.0)
    other.fleet.tick(10.1)
    assert memory.times[1] == 10.0
    memory.ask(10.15)
    other.fleet.tick(10.2)
    assert memory.times[1] == 10.2
    other.fleet.tick(10.3)
    assert memory.times[1] == 10.2
    other.fleet.tick(10.2 + PUBLISH_S)
    assert memory.times[1] == 10.2 + PUBLISH_S


def test_who_has_much_to_publish_does_it_less_often(memory: Memory) -> None:
    other = Worker(memory, 1, cpu_s=0.006)
    other.fleet.tick(10.0)
    other.fleet.tick(12.9)
    assert memory.times[1] == 10.0
    other.fleet.tick(13.1)
    assert memory.times[1] == 13.1


def test_what_does_not_fit_is_told_once(memory: Memory) -> None:
    memory.limit = 10
    other = Worker(memory, 1)
    other.fleet.publish(1.0)
    other.fleet.publish(2.0)
    assert [event for event, _ in other.log.lines] == ["counts_too_large"]
    assert memory.contents == {}


@pytest.mark.anyio
async def test_a_scrape_waits_for_all_but_not_for_ever(memory: Memory) -> None:
    lead, other = Worker(memory, 0), Worker(memory, 1)
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        lead.now += seconds
        if len(slept) == 3:
            other.fleet.tick(lead.now)

    await lead.fleet.gather(sleep)
    assert len(slept) == 3

    slept.clear()
    slept.extend([0.0] * 3)  # this time it hangs
    began = lead.now = lead.now + 1.0
    await lead.fleet.gather(sleep)
    assert GATHER_S <= lead.now - began < GATHER_S + 0.1

    memory.serving.discard(1)  # and now it is dead
    began = lead.now
    await lead.fleet.gather(sleep)
    assert lead.now == began


@pytest.mark.anyio
async def test_what_a_scrape_has_shown_outlives_the_lead_that_is_killed_at_once(memory: Memory) -> None:
    async def sleep(seconds: float) -> None:
        raise AssertionError("nobody is to be waited for")

    lead = Worker(memory, 0)
    memory.serving.discard(1)
    lead.attempts(5)
    await lead.fleet.gather(sleep)
    assert lead.answered() == Worker(memory, 0).answered() == 5
