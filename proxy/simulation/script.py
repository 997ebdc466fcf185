"""What an upstream does with one call: the scenario's word on it, and what chance makes of that. Pure.

    rpm spent -> 429         an event that fits, in the order of the file -> its fault         else -> an answer
    `slow` only makes the answer slower, and the events after it are looked at, too

Chance is drawn from a generator for each provider, so that what happens at one changes nothing at another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from random import Random
from typing import Literal

from proxy.simulation.schema import EventSection, Scenario, UpstreamSection

FIRST_TOKEN_S = 0.5
REFUSAL_S = 0.05  # until an answer that is an error
_NOTHING_SAID = UpstreamSection.model_construct()

Kind = Literal["answer", "error", "timeout", "refuse", "reset", "cut", "stall", "empty"]
_CODES = {401: "invalid_api_key", 403: "permission_denied", 404: "model_not_found", 429: "rate_limit_exceeded"}


@dataclass(frozen=True, slots=True)
class Act:
    """`first_token_s` until the first content, or until the error; `token_s` for each token."""

    kind: Kind
    first_token_s: float = REFUSAL_S
    token_s: float = 0.0
    status: int = 200
    code: str = ""
    retry_after_s: float | None = None


class Script:
    """`expected`: the first tokens that the configuration expects, in seconds, by (provider, upstream model). `calls` counts them
    by provider."""

    def __init__(self, scenario: Scenario, seed: int, expected: Mapping[tuple[str, str], float] | None = None) -> None:
        self._scenario = scenario
        self._seed = seed
        self._expected = expected or {}
        self._chances: dict[str, Random] = {}
        self._minutes: dict[str, deque[float]] = {}
        self.calls: dict[str, int] = {}
        self._events = [(event, event.at + (event.for_ if event.for_ is not None else inf)) for event in scenario.events]

    def act(self, provider: str, model: str, now: float) -> Act:
        """`now`: seconds since the scenario's start."""
        self.calls[provider] = self.calls.get(provider, 0) + 1
        chance = self._chances.get(provider)
        if chance is None:
            chance = self._chances[provider] = Random(f"{self._seed} upstream {provider}")
        said = self._said(provider, model)
        if said.rpm is not None and (wait_s := self._over(provider, said.rpm, now)) is not None:
            return Act("error", status=429, code=_CODES[429], retry_after_s=wait_s)
        times = 1.0
        for event, until in self._events:
            if event.provider != provider or not event.at <= now < until or event.model not in (None, model):
                continue
            if event.share < 1 and chance.random() >= event.share:
                continue
            if event.fault != "slow":
                return self._fault(event, self._answer(provider, model, said, chance, times))
            times *= event.times
        return self._answer(provider, model, said, chance, times)

    def _said(self, provider: str, model: str) -> UpstreamSection:
        upstreams = self._scenario.upstreams
        return upstreams.get(f"{provider}/{model}") or upstreams.get(provider) or _NOTHING_SAID

    def _over(self, provider: str, rpm: int, now: float) -> float | None:
        """How long until the minute has room again; None while it has."""
        taken = self._minutes.setdefault(provider, deque())
        while taken and taken[0] <= now - 60:
            taken.popleft()
        if len(taken) >= rpm:
            return taken[0] + 60 - now
        taken.append(now)
        return None

    def _answer(self, provider: str, model: str, said: UpstreamSection, chance: Random, times: float) -> Act:
        first_s = said.first_token or self._expected.get((provider, model)) or FIRST_TOKEN_S
        token_s = 1 / said.tokens_per_s
        if said.jitter:
            first_s *= 1 + said.jitter * (2 * chance.random() - 1)
            token_s *= 1 + said.jitter * (2 * chance.random() - 1)
        return Act("answer", first_s * times, token_s * times)

    def _fault(self, event: EventSection, answer: Act) -> Act:
        match event.fault:
            case int() as status:
                code = _CODES.get(status, "server_error" if status >= 500 else "invalid_request_error")
                return Act("error", status=status, code=code, retry_after_s=event.retry_after)
            case "quota":
                return Act("error", status=429, code="insufficient_quota")
            case "cut" | "stall" as kind:
                return Act(kind, answer.first_token_s, answer.token_s)
            case "slow":
                return answer
            case kind:
                return Act(kind)
