"""What the deployments of several workers learn from each other: facts that end by themselves, never a state.

    cooldown   until then                        taken over; the longest counts, at most 5 minutes
    latch      until then, with its reason       taken over; the longest counts, at most as long as one lasts
    circuit    one has opened, until then        the own circuit is only doubted: a probe goes before it is used again

So a worker that is wrong, or a table that is, can make the others wait a while or ask once more, and no more than that. What was heard is
never told on. It also waits for deployments that are not made yet: those of a worker that has just started, or of a model that nobody has
asked it for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.core.shared import Fact, Facts
from proxy.routing.retry_after import MAX_COOLDOWN_S
from proxy.routing.verdict import Effect

if TYPE_CHECKING:
    from proxy.routing.deployment import Deployment, Latch

Key = tuple[str, str, str]  # provider, credential, upstream model

_COOL, _CIRCUIT, _KEY_LATCH, _MODEL_LATCH = "cool", "circuit", "key", "model"
_REASONS: Final = (Effect.AUTH, Effect.QUOTA, Effect.CONFIG)
"""What shuts a latch; in the table it is a number, from 0."""


class Hearsay:
    """One for all deployments of a worker."""

    __slots__ = ("_cooled", "_facts", "_latched", "_now", "_opened")

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._now = 0.0  # when it last listened
        self._cooled: dict[bytes, Deployment] = {}
        self._opened: dict[bytes, Deployment] = {}
        self._latched: dict[bytes, Latch] = {}

    # -- telling

    def cools(self, key: Key, until: float, now: float) -> None:
        self._facts.tell(self._facts.name(_COOL, *key), until, 0, now)

    def opens(self, key: Key, until: float, now: float) -> None:
        self._facts.tell(self._facts.name(_CIRCUIT, *key), until, 0, now)

    def latches(self, key: Key, effect: Effect, until: float, now: float) -> None:
        of_key, of_model = self._latch_names(key)
        self._facts.tell(of_model if effect is Effect.CONFIG else of_key, until, _REASONS.index(effect), now)

    # -- hearing

    def follow(self, deployment: Deployment, key_latch: Latch, model_latch: Latch) -> None:
        """From now on it hears what the others tell, and at once what they have told."""
        key = deployment.key
        cool, circuit = self._facts.name(_COOL, *key), self._facts.name(_CIRCUIT, *key)
        names = self._latch_names(key)
        self._cooled[cool] = self._opened[circuit] = deployment
        self._latched[names[0]], self._latched[names[1]] = key_latch, model_latch
        for name in (cool, circuit, *names):
            if (fact := self._facts.recall(name, self._now)) is not None:
                self._hear(fact, self._now)

    def forget(self, deployment: Deployment) -> None:
        """It is gone. A latch is kept for others that it concerns: `prune`."""
        self._cooled.pop(self._facts.name(_COOL, *deployment.key), None)
        self._opened.pop(self._facts.name(_CIRCUIT, *deployment.key), None)

    def prune(self, latches: set[Latch]) -> None:
        """Only these latches concern anybody."""
        self._latched = {name: latch for name, latch in self._latched.items() if latch in latches}

    def listen(self, now: float) -> None:
        """Take over what the others have told since the last call."""
        self._now = now
        for fact in self._facts.news(now):
            self._hear(fact, now)

    def _hear(self, fact: Fact, now: float) -> None:
        if fact.until <= now:
            return
        if (deployment := self._cooled.get(fact.name)) is not None:
            deployment.cool_until = max(deployment.cool_until, min(fact.until, now + MAX_COOLDOWN_S))
        elif (deployment := self._opened.get(fact.name)) is not None:
            deployment.breaker.doubt(now)
        elif (latch := self._latched.get(fact.name)) is not None and 0 <= fact.reason < len(_REASONS):
            latch.hear(_REASONS[fact.reason], fact.until, now)

    def _latch_names(self, key: Key) -> tuple[bytes, bytes]:
        provider, credential, model = key
        return self._facts.name(_KEY_LATCH, provider, credential), self._facts.name(_MODEL_LATCH, provider, model)
