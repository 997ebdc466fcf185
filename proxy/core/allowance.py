"""What a provider still allows: the port between `routing`, which asks before it lets an attempt go, and `accounting`, which counts.

refuses(ask)? ──no──▶ take(ask) ──▶ Held ──▶ settle(what it really was)
                                     └─────▶ release(): it never left
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Ask:
    """What one attempt may take. `tokens` is the most, `expected_tokens` what is likely. `cost_nusd` is the most, None without a
    price. `until`, monotonic: by then it is over, whatever happens."""

    tokens: int
    expected_tokens: int
    cost_nusd: int | None
    until: float


class Held(Protocol):
    """What an attempt has taken. Exactly one of the two counts; whatever follows is ignored."""

    def settle(self, requests: int, tokens: int, cost_nusd: int | None) -> None:
        """It is over. `requests` is 1 if it was sent, else 0. `cost_nusd` None: nobody knows, and what was held is charged."""

    def release(self) -> None:
        """Nothing was sent."""


class Allowance(Protocol):
    """A quota, a budget or a rate limit. Times are monotonic; between `refuses` and `take` nothing else runs."""

    @property
    def brief(self) -> bool:
        """It comes back within a minute, so that a short wait may be worth it."""

    def refuses(self, now: float, ask: Ask | None = None) -> str | None:
        """Why nothing may be asked now, in the decision trace's words; None if it may. Without an `ask`: why nothing at all."""

    def free_in_s(self, now: float, ask: Ask | None = None) -> float:
        """Seconds until it no longer refuses, as far as is known: 0 for now, infinity for never."""

    def take(self, now: float, ask: Ask) -> Held: ...
