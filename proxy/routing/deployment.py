"""What is remembered about each (provider, credential, upstream model) from one request to the next.

Five mechanisms, never mixed, each with its own way to be over:

    breaker     faults: opens, probes, closes (`breaker.py`)
    cooldown    the upstream asked us to wait: until then, never shortened by a later and shorter wish
    latch       what only the operator can mend. A refused or spent key: 15 min for all models of (provider, credential);
                a model that the provider does not know: 5 min for (provider, model), whichever the key
    bulkhead    at most so many requests in flight; off unless configured
    allowances  quotas, rate limits and the provider's budget, which are counted elsewhere (`core/allowance.py`): until there is
                something left of them; off unless configured

All of it lives in memory, in this process. Where it has siblings, cooldowns, latches and opened circuits are told to them (`hearsay.py`),
and a bulkhead counts what is in flight in all of them. Nothing here waits or reads a clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import Any, NamedTuple

from proxy.core.allowance import Allowance, Ask, Held
from proxy.core.limits import Unit
from proxy.core.ports import HeaderList
from proxy.core.shared import ALONE, LONE_CELL, Cell, Shared
from proxy.core.target import Credential, Target
from proxy.routing.breaker import Breaker, State
from proxy.routing.hearsay import Hearsay
from proxy.routing.learned import LearnedLimit, learned_limits
from proxy.routing.retry_after import clamp_cooldown
from proxy.routing.standing import Standing
from proxy.routing.verdict import Effect

CREDENTIAL_LATCH_S = 900.0
MODEL_LATCH_S = 300.0
MAX_DEPLOYMENTS = 10_000
TOLD_FOR_S = 3600.0  # for so long headers are kept for what they say of limits
_EVICTED_AT_ONCE = 100
_LATENCY_WEIGHT = 0.1
_AT_CAPACITY_S = 1.0

_LATCHES: dict[Effect, tuple[str, float]] = {
    Effect.AUTH: ("bad key", CREDENTIAL_LATCH_S),
    Effect.QUOTA: ("no quota or credit left", CREDENTIAL_LATCH_S),
    Effect.CONFIG: ("model not found", MODEL_LATCH_S),
}


class Latch:
    """Shut until `until`. Shared by every deployment that it concerns."""

    __slots__ = ("reason", "until")

    def __init__(self) -> None:
        self.until = 0.0
        self.reason = ""

    def shut(self, effect: Effect, now: float) -> None:
        self.hear(effect, inf, now)

    def hear(self, effect: Effect, until: float, now: float) -> None:
        """Somebody else has shut his own until then."""
        reason, length_s = _LATCHES[effect]
        until = min(until, now + length_s)
        if until > self.until:
            self.until = until
            self.reason = reason


Allowances = Callable[[Target, Credential], tuple[Allowance, ...]]


def no_allowances(target: Target, credential: Credential) -> tuple[Allowance, ...]:
    return ()


class ToldLimit(NamedTuple):
    """A rate limit as the provider told of it in its last answer at one deployment, brought forward to now. `attempts` and `tokens`
    count since the start."""

    provider: str
    credential: str
    model: str
    unit: Unit
    limit: int
    remaining: int
    resets_s: float | None
    attempts: int
    tokens: int


class DeploymentSnapshot(NamedTuple):
    """One deployment as it stands. `latched` is the reason or None; `latency_s` a moving mean until the first content; `opens_in_s`:
    how long an open circuit stays so, 0 once a probe may go; `refused`: the allowance of which nothing is left, in the trace's words."""

    provider: str
    credential: str
    upstream_model: str
    label: str
    circuit: str  # closed, open, half_open
    cooldown_s: float
    latched: str | None
    in_flight: int
    ok: int
    failed: int
    latency_s: float | None
    last_ok: float | None  # monotonic
    last_fail: float | None
    opens_in_s: float = 0.0
    refused: str | None = None


class Deployment:
    """`in_flight` counts the permits that are out. `ok`, `failed` and `tokens` are totals since the start. `heard` are the headers of the
    last answer, which came at `heard_at`: they are read when somebody asks. `standing` is kept from `keep_standing` on, and None before.
    """

    __slots__ = (
        "_cell",
        "_hearsay",
        "_key_latch",
        "_limit",
        "_model_latch",
        "_read",
        "_shared",
        "_unlimited",
        "allowances",
        "breaker",
        "cool_until",
        "failed",
        "heard",
        "heard_at",
        "in_flight",
        "key",
        "label",
        "last_fail",
        "last_ok",
        "latency_s",
        "ok",
        "standing",
        "target",
        "tokens",
        "used_at",
    )

    def __init__(
        self,
        target: Target,
        credential: Credential,
        key_latch: Latch,
        model_latch: Latch,
        breaker: Breaker,
        allowances: tuple[Allowance, ...] = (),
        shared: Shared = ALONE,
        hearsay: Hearsay | None = None,
    ) -> None:
        self._shared = shared
        self._hearsay = hearsay
        self._cell: Cell = LONE_CELL
        self.key = (target.provider.name, credential.id, target.upstream_model)
        self._key_latch = key_latch
        self._model_latch = model_latch
        self.breaker = breaker
        self.cool_until = 0.0
        self.in_flight = 0
        self.ok = 0
        self.failed = 0
        self.tokens = 0
        self.heard: HeaderList | None = None
        self.heard_at = 0.0
        self._read: tuple[HeaderList, list[LearnedLimit]] | None = None  # of `heard`, which limits are read when somebody asks
        self.latency_s: float | None = None
        self.last_ok: float | None = None
        self.last_fail: float | None = None
        self.used_at = 0.0
        self.standing: Standing | None = None
        self.configure(target, allowances)

    def configure(self, target: Target, allowances: tuple[Allowance, ...] = ()) -> None:
        """Take over what a reload may have changed; the state stays."""
        self.target = target
        self.label = target.label
        own = target.limits.in_flight
        self._limit = own if own is not None else target.provider.limits.in_flight
        self.allowances = allowances
        self._unlimited = self._limit is None and not allowances
        if self._limit is None:
            self.close()
        elif self._cell is LONE_CELL:
            self._cell = self._shared.cell("in_flight", *self.key)
            self._cell.publish(self.in_flight)
        if self.breaker.settings != target.circuit:
            self.breaker.configure(target.circuit)

    def keep_standing(self) -> None:
        """From now on it is remembered how it does: some chain chooses by that."""
        if self.standing is None:
            self.standing = Standing()

    def close(self) -> None:
        """What is in flight here is no longer told to anybody."""
        self._cell.close()
        self._cell = LONE_CELL

    # -- may it be tried?

    def unusable(self, now: float) -> str | None:
        """None if a request may go, else the reason, in the decision trace's words."""
        if (
            self.breaker.calm
            and self.cool_until <= now
            and self._unlimited
            and self._key_latch.until <= now
            and self._model_latch.until <= now
        ):
            return None
        return self._obstacle(now) or self.refusal(now)

    def _obstacle(self, now: float) -> str | None:
        """What stands in the way apart from the allowances."""
        if (latched := self.latched(now)) is not None:
            return f"latched: {latched}"
        if self.cool_until > now:
            return f"cooling down {_seconds(self.cool_until - now)}"
        if not self.breaker.ready(now):
            return {State.OPEN: "circuit open", State.HALF_OPEN: "circuit half open, a probe is out"}.get(
                self.breaker.state, "slow start"
            )
        if self._limit is not None and self._is_full(self._limit):
            return "at capacity"
        return None

    def _is_full(self, limit: int) -> bool:
        return self.in_flight + self._cell.others() >= limit

    def busy(self) -> tuple[int, int | None]:
        """What is in flight, in other workers too where that is limited, and the limit."""
        return (self.in_flight if self._limit is None else self.in_flight + self._cell.others()), self._limit

    def refusal(self, now: float, ask: Ask | None = None) -> str | None:
        """Why the first of the allowances refuses; None while all have something left, and enough for `ask`."""
        for allowance in self.allowances:
            reason = allowance.refuses(now, ask)
            if reason is not None:
                return reason
        return None

    def brief_wait_s(self, now: float, ask: Ask | None = None) -> float | None:
        """Seconds until it may be tried, if all that stands in the way are limits of a minute; None otherwise."""
        if not self.allowances or self._obstacle(now) is not None:
            return None
        waits = [
            allowance.free_in_s(now, ask) if allowance.brief else inf
            for allowance in self.allowances
            if allowance.refuses(now, ask) is not None
        ]
        wait_s = max(waits, default=inf)
        return wait_s if wait_s < inf else None

    def latched(self, now: float) -> str | None:
        for latch in (self._key_latch, self._model_latch):
            if latch.until > now:
                return latch.reason
        return None

    def usable_in_s(self, now: float, ask: Ask | None = None) -> float:
        """Seconds until it may be tried, as far as is known; 0 when now, infinity for never."""
        waits = (
            self._key_latch.until - now,
            self._model_latch.until - now,
            self.cool_until - now,
            self.breaker.opens_in_s(now),
            _AT_CAPACITY_S if self._limit is not None and self._is_full(self._limit) else 0.0,
            *[allowance.free_in_s(now, ask) for allowance in self.allowances],
        )
        return max(0.0, *waits)

    def only_open(self, now: float) -> bool:
        """Whether an open circuit is all that stands in the way: then it may be tried as a last resort."""
        return (
            self.breaker.state is State.OPEN
            and self.cool_until <= now
            and self.latched(now) is None
            and (self._limit is None or not self._is_full(self._limit))
            and self.refusal(now) is None
        )

    # -- permits

    def acquire(self, now: float, ask: Ask | None = None) -> Permit | None:
        """A permit for one request, perhaps the one probe; None when it is unusable. It must be released.

        `ask` is what the request may take, and must be given where there are allowances; what it then holds must be settled too.
        """
        if self.cool_until > now or self._key_latch.until > now or self._model_latch.until > now:
            return None
        if self._limit is not None and self._is_full(self._limit):
            return None
        if self.allowances and (ask is None or self.refusal(now, ask) is not None):
            return None
        generation = self.breaker.acquire(now)
        if generation is None:
            return None
        self.in_flight += 1
        if self._limit is not None:
            self._cell.publish(self.in_flight)
        self.used_at = now
        permit = Permit(self, generation, now)
        if ask is not None:
            permit.held = [allowance.take(now, ask) for allowance in self.allowances]
        return permit

    def cool(self, cooldown_s: float | None, now: float) -> None:
        self.cool_until = max(self.cool_until, now + clamp_cooldown(cooldown_s))
        if self._hearsay is not None:
            self._hearsay.cools(self.key, self.cool_until, now)

    def latch(self, effect: Effect, now: float) -> None:
        latch = self._model_latch if effect is Effect.CONFIG else self._key_latch
        latch.shut(effect, now)
        if self._hearsay is not None:
            self._hearsay.latches(self.key, effect, latch.until, now)

    def fault(self, generation: int, now: float) -> None:
        self.breaker.fail(generation, now)
        if self._hearsay is not None and self.breaker.state is State.OPEN:
            self._hearsay.opens(self.key, self.breaker.until, now)

    def told_limits(self, now: float, wall: float) -> list[ToldLimit]:
        """What its last answer said of rate limits. One whose reset has passed is whole again; what is old says nothing any more."""
        age_s = now - self.heard_at
        if self.heard is None or age_s > TOLD_FOR_S:
            self.heard = self._read = None
            return []
        if self._read is None or self._read[0] is not self.heard:
            self._read = self.heard, learned_limits(self.heard, wall=wall - age_s)
        told = []
        for unit, limit, remaining, resets_s in self._read[1]:
            over = resets_s is not None and resets_s <= age_s
            left_s = None if resets_s is None else max(0.0, resets_s - age_s)
            told.append(
                ToldLimit(*self.key, unit, limit, limit if over else remaining, left_s, self.ok + self.failed, self.tokens)
            )
        return told

    def snapshot(self, now: float) -> DeploymentSnapshot:
        provider, credential, upstream_model = self.key
        return DeploymentSnapshot(
            provider,
            credential,
            upstream_model,
            self.label,
            self.breaker.state.value,
            max(0.0, self.cool_until - now),
            self.latched(now),
            self.in_flight,
            self.ok,
            self.failed,
            self.latency_s,
            self.last_ok,
            self.last_fail,
            max(0.0, self.breaker.until - now) if self.breaker.state is State.OPEN else 0.0,
            self.refusal(now),
        )


_OK = Effect.OK  # a member looked up on its class costs fifteen times what a global does


class Permit:
    """The right to send one request. `release` exactly once counts: later calls are ignored. `held` is what it has taken of allowances:
    whoever knows what was used settles it, or `unused` gives it back."""

    __slots__ = ("_at", "_deployment", "_generation", "_heard_ok", "_released", "held")

    def __init__(self, deployment: Deployment, generation: int, now: float) -> None:
        self._deployment = deployment
        self._generation = generation
        self._at = now
        self._heard_ok = False
        self._released = False
        self.held: list[Held] | None = None

    def first_content(self, now: float) -> None:
        """The upstream works: for the breaker that is success, told once. A later fault is told by `release`."""
        if self._heard_ok or self._released:
            return
        self._heard_ok = True
        deployment = self._deployment
        self._generation = deployment.breaker.ok(self._generation, now)
        deployment.ok += 1
        deployment.last_ok = now
        taken_s = now - self._at
        known_s = deployment.latency_s
        deployment.latency_s = taken_s if known_s is None else known_s + _LATENCY_WEIGHT * (taken_s - known_s)

    def release(self, effect: Effect, now: float, cooldown_s: float | None = None) -> None:
        """The request is over. A cooldown that is given is taken over whatever the effect."""
        if self._released:
            return
        if effect is _OK and not self._heard_ok:
            self.first_content(now)
        self._released = True
        deployment = self._deployment
        deployment.in_flight -= 1
        if deployment._limit is not None:
            deployment._cell.publish(deployment.in_flight)
        if effect is _OK:
            pass  # by far the most
        elif effect is Effect.FAIL:
            deployment.fault(self._generation, now)
            deployment.failed += 1
            deployment.last_fail = now
        elif effect in _LATCHES:
            deployment.latch(effect, now)
            deployment.failed += 1
            deployment.last_fail = now
        if cooldown_s is not None or (effect is not _OK and effect is Effect.RATE):
            deployment.cool(cooldown_s, now)
        if not deployment.breaker.calm:
            deployment.breaker.done(self._generation)

    def settle(self, requests: int, tokens: int, cost_nusd: int | None) -> None:
        """What was really used of the allowances. `requests` is 1 if it was sent, else 0."""
        for held in self.held or ():
            held.settle(requests, tokens, cost_nusd)

    def unused(self, now: float) -> None:
        """Nothing was sent after all."""
        for held in self.held or ():
            held.release()
        self.release(Effect.NEUTRAL, now)


class Deployments:
    """All deployments by key, made on demand, at most `limit`: beyond, those idle for longest go.

    `layouts` belongs to `plan.py`: what is known of a chain apart from the moment's state. It is emptied whenever a deployment
    goes. Of a layout's `pool`, the circuits of targets that share a chain's load, half at most open by their rate, one at least.
    """

    __slots__ = (
        "_allowances",
        "_by_key",
        "_hearsay",
        "_key_latches",
        "_limit",
        "_model_latches",
        "_random",
        "_shared",
        "layouts",
    )

    def __init__(
        self,
        random: Callable[[], float],
        *,
        limit: int = MAX_DEPLOYMENTS,
        allowances: Allowances = no_allowances,
        shared: Shared = ALONE,
    ) -> None:
        """`allowances` makes what a target with one key is held against; it is asked whenever either is new."""
        self._shared = shared
        self._hearsay = Hearsay(shared.facts) if shared.facts is not None else None
        self._random = random
        self._allowances = allowances
        self._limit = limit
        self._by_key: dict[tuple[str, str, str], Deployment] = {}
        self._key_latches: dict[tuple[str, str], Latch] = {}
        self._model_latches: dict[tuple[str, str], Latch] = {}
        self.layouts: dict[int, Any] = {}

    def get(self, target: Target, credential: Credential) -> Deployment:
        """The deployment; its settings become those of `target`, its state stays whatever object asks for it."""
        key = (target.provider.name, credential.id, target.upstream_model)
        found = self._by_key.get(key)
        if found is None:
            if len(self._by_key) >= self._limit:
                self._drop_idle()
            key_latch = self._key_latches.setdefault(key[:2], Latch())
            model_latch = self._model_latches.setdefault((key[0], key[2]), Latch())
            found = self._by_key[key] = Deployment(
                target,
                credential,
                key_latch,
                model_latch,
                Breaker(target.circuit, self._random, self._may_open),
                self._allowances(target, credential),
                self._shared,
                self._hearsay,
            )
            if self._hearsay is not None:
                self._hearsay.follow(found, key_latch, model_latch)
        elif found.target is not target:
            found.configure(target, self._allowances(target, credential))
        return found

    def _may_open(self, breaker: Breaker) -> bool:
        """By its rate: what opens for faults in a row does so whatever the others do."""
        for layout in self.layouts.values():
            pool: Sequence[Breaker] = layout.pool
            if breaker in pool:
                out = sum([other.by_rate and other.state is not State.CLOSED for other in pool])
                if out >= max(1, len(pool) // 2):
                    return False
        return True

    def find(self, provider: str, credential: str, upstream_model: str) -> Deployment | None:
        """The deployment of that key, if there is one."""
        return self._by_key.get((provider, credential, upstream_model))

    def snapshot(self, now: float) -> list[DeploymentSnapshot]:
        return [deployment.snapshot(now) for deployment in self._by_key.values()]

    def told_limits(self, now: float, wall: float) -> list[ToldLimit]:
        """What providers have said of their rate limits."""
        return [told for deployment in self._by_key.values() for told in deployment.told_limits(now, wall)]

    def listen(self, now: float) -> None:
        """Take over what other workers have learned since the last call."""
        if self._hearsay is not None:
            self._hearsay.listen(now)

    def __len__(self) -> int:
        return len(self._by_key)

    def _drop_idle(self) -> None:
        """Those in flight stay: somebody holds their permit. So the bound is `limit` plus what is in flight."""
        # one that was never used was made a moment ago: it counts as the latest, the older ones of those first
        latest = max([deployment.used_at for deployment in self._by_key.values()], default=0.0)
        idle = sorted([d for d in self._by_key.values() if d.in_flight == 0], key=lambda deployment: deployment.used_at or latest)
        for deployment in idle[: max(1, min(_EVICTED_AT_ONCE, self._limit // 10))]:
            del self._by_key[deployment.key]
            deployment.close()
            if self._hearsay is not None:
                self._hearsay.forget(deployment)
        self.layouts.clear()
        keys = {key[:2] for key in self._by_key}
        models = {(key[0], key[2]) for key in self._by_key}
        self._key_latches = {key: latch for key, latch in self._key_latches.items() if key in keys}
        self._model_latches = {key: latch for key, latch in self._model_latches.items() if key in models}
        if self._hearsay is not None:
            self._hearsay.prune({*self._key_latches.values(), *self._model_latches.values()})


def _seconds(wait_s: float) -> str:
    return f"{wait_s:.0f} s" if wait_s >= 1 else "under 1 s"
