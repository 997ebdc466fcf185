"""How many retries at one and the same provider are allowed, so that a storm of faults does not become a storm of requests.

A bucket for each provider: every first attempt puts 0.2 in, every second 1, up to 200; a retry takes 1 out. With everything
failing, retries add at most a fifth to the traffic and one a second. Failovers take nothing: breakers and bulkheads bound those.
"""

from __future__ import annotations

PER_ATTEMPT = 0.2
PER_SECOND = 1.0
CAPACITY = 200.0
MAX_PROVIDERS = 1_000


class RetryBudget:
    """The bucket of one provider. It starts with what one second brings."""

    __slots__ = ("_at", "_tokens")

    def __init__(self, now: float) -> None:
        self._at = now
        self._tokens = PER_SECOND

    @property
    def tokens(self) -> float:
        return self._tokens

    def on_first_attempt(self, now: float) -> None:
        self._refill(now, PER_ATTEMPT)

    def take(self, now: float) -> bool:
        self._refill(now, 0.0)
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def _refill(self, now: float, extra: float) -> None:
        elapsed_s = now - self._at
        if elapsed_s > 0:
            self._at = now
            extra += elapsed_s * PER_SECOND
        self._tokens = min(CAPACITY, self._tokens + extra)


class RetryBudgets:
    """One bucket for each provider by name. Providers come from the configuration; beyond 1,000 the oldest bucket starts anew."""

    __slots__ = ("_buckets",)

    def __init__(self) -> None:
        self._buckets: dict[str, RetryBudget] = {}

    def on_first_attempt(self, provider: str, now: float) -> None:
        (self._buckets.get(provider) or self._new(provider, now)).on_first_attempt(now)

    def take(self, provider: str, now: float) -> bool:
        return (self._buckets.get(provider) or self._new(provider, now)).take(now)

    def _new(self, provider: str, now: float) -> RetryBudget:
        if len(self._buckets) >= MAX_PROVIDERS:
            del self._buckets[next(iter(self._buckets))]
        bucket = self._buckets[provider] = RetryBudget(now)
        return bucket
