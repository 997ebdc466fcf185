"""Deployments as they stood for one request of the past, so that `routing/chosen.py` itself can choose again.

Nothing of them moves: what stood in the way, what was in flight and how well a target had done is set before each plan, from the
request's own trace where that says it, else from what is known of that time (`past.py`).
"""

from __future__ import annotations

from typing import cast

from proxy.core.allowance import Allowance, Ask
from proxy.core.target import NO_CREDENTIAL, Credential, Target
from proxy.routing.breaker import Breaker
from proxy.routing.deployment import MAX_DEPLOYMENTS, Deployment, Deployments, Latch
from proxy.routing.plan import ChainTrickle
from proxy.routing.standing import Standing

_HELD = (cast(Allowance, None),)  # that there is a limit is all that is asked of it


class Stood(Standing):
    """How a target had done, as a trace has it: nothing is added, and nothing grows old."""

    __slots__ = ("_ended", "_first_s")

    def __init__(
        self,
        *,
        first_s: float | None = None,
        tokens_per_s: float | None = None,
        quality: float | None = None,
        ok: int = 0,
        ended: int = 0,
    ) -> None:
        # without the windows of one that lives: there are millions of these
        self._first_s = first_s
        self._ended = ended
        self.ok = ok
        self.tokens_per_s = tokens_per_s
        self.quality = quality

    @property
    def ended(self) -> int:
        return self._ended

    def first_token_s(self, quantile: float) -> float | None:
        return self._first_s

    def forget(self, now: float) -> None:
        return


class Recalled(Deployment):
    """A target at that moment. `reason`: what stood in its way; `wait_s`: how long, where that was a limit of a minute. `busy_then`: what
    was in flight, and of how many; None: unknown, so nothing. `keys`: how many it has, for each of which a limit counts."""

    __slots__ = ("busy_then", "keys", "reason", "wait_s")

    def __init__(self, target: Target) -> None:
        super().__init__(target, NO_CREDENTIAL, Latch(), Latch(), Breaker(target.circuit, _never))
        self.keys = 1
        self.recall(None)

    def recall(
        self,
        reason: str | None,
        *,
        wait_s: float | None = None,
        standing: Standing | None = None,
        latency_s: float | None = None,
        busy: tuple[int, int | None] | None = None,
        chosen: bool = False,
    ) -> None:
        """`chosen`: though its circuit was open it was tried, as a last resort."""
        self.reason = reason
        self.wait_s = wait_s
        self.standing = standing
        self.latency_s = latency_s
        self.busy_then = busy
        self.allowances = () if wait_s is None else _HELD
        self.breaker.until = 0.0 if chosen else 1.0

    def keep_standing(self) -> None:
        return

    def busy(self) -> tuple[int, int | None]:
        return (0, self.limit) if self.busy_then is None else self.busy_then

    @property
    def limit(self) -> int | None:
        """Of what may be in flight at all of its keys."""
        return None if self._limit is None else self._limit * self.keys

    def unusable(self, now: float) -> str | None:
        return self.reason

    def refusal(self, now: float, ask: Ask | None = None) -> str | None:
        return self.reason

    def brief_wait_s(self, now: float, ask: Ask | None = None) -> float | None:
        return self.wait_s

    def usable_in_s(self, now: float, ask: Ask | None = None) -> float:
        return self.wait_s or 0.0

    def latched(self, now: float) -> str | None:
        return self.reason if self.reason is not None and self.reason.startswith("latched") else None

    def only_open(self, now: float) -> bool:
        return self.reason is not None and self.reason.startswith("circuit open")


class Recall(Deployments):
    """One deployment for each target, whatever its keys."""

    __slots__ = ("_targets",)

    def __init__(self) -> None:
        super().__init__(_never)
        self._targets: dict[str, Recalled] = {}

    def get(self, target: Target, credential: Credential) -> Recalled:
        return self.of(target)

    def of(self, target: Target) -> Recalled:
        found = self._targets.get(target.name)
        if found is None:
            if len(self._targets) >= MAX_DEPLOYMENTS:
                self._targets.clear()
                self.layouts.clear()
            found = self._targets[target.name] = Recalled(target)
        return found


class Resort(ChainTrickle):
    """Whether a last resort was to be had."""

    __slots__ = ("there",)

    def __init__(self) -> None:
        super().__init__()
        self.there = False

    def allow(self, chain: str, now: float) -> bool:
        return self.there


def _never() -> float:
    return 0.0
