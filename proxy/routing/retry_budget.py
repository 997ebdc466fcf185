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

    __slots__ = ("_at", "_tokens", "firsts")

    def __init__(self, now: float) -> None:
        self._at = now
        self._tokens = PER_SECOND
        self.firsts = 0  # first attempts that are not yet in the bucket: counted on the hot path, poured in when one is taken

    def tokens(self, now: float) -> float:
        elapsed_s = max(0.0, now - self._at)
        return min(CAPACITY, self._tokens + self.firsts * PER_ATTEMPT + elapsed_s * PER_SECOND)

    def take(self, now: float) -> bool:
        self._tokens = self.tokens(now)
        self._at = max(self._at, now)
        self.firsts = 0
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class RetryBudgets:
    """One bucket for each provider by name. Providers come from the configuration; beyond 1,000 the oldest bucket starts anew."""

    __slots__ = ("_buckets",)

    def __init__(self) -> None:
        self._buckets: dict[str, RetryBudget] = {}

    def on_first_attempt(self, provider: str, now: float) -> None:
        (self._buckets.get(provider) or self._new(provider, now)).firsts += 1

    def take(self, provider: str, now: float) -> bool:
        return (self._buckets.get(provider) or self._new(provider, now)).take(now)

    def _new(self, provider: str, now: float) -> RetryBudget:
        if len(self._buckets) >= MAX_PROVIDERS:
            del self._buckets[next(iter(self._buckets))]
        bucket = self._buckets[provider] = RetryBudget(now)
        return bucket
