"""What may be spent, asked and used up: budgets, quotas and rate limits as the file states them. All frozen; made by `config`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

JUDGE_TASK = "quality-judge"  # the task of the proxy's own requests to a judge, see `engine/judge.py`

Per = Literal["day", "month", "once"]
Unit = Literal["requests", "tokens"]


@dataclass(frozen=True, slots=True)
class Budget:
    """`hard`: what would cross it is refused; else it is only told. Periods are those of UTC."""

    limit_nusd: int
    per: Per = "month"
    hard: bool = True


@dataclass(frozen=True, slots=True)
class Quota:
    """What a provider gives in a period. It starts anew at `hour` o'clock in `time_zone` (an IANA name), of a month on its first day.

    `each_key`: every key of the provider has as much for itself; else they share it.
    """

    unit: Unit
    limit: int
    per: Per
    time_zone: str = "UTC"
    hour: int = 0
    each_key: bool = False


@dataclass(frozen=True, slots=True)
class RateLimits:
    """In any minute, and at one time. None: no limit."""

    rpm: int | None = None
    tpm: int | None = None
    in_flight: int | None = None


NO_LIMITS = RateLimits()


@dataclass(frozen=True, slots=True)
class HealthSettings:
    """How a provider is checked. `slow_s`: a check that takes longer makes it degraded. `lightest_call`: where there is no free
    check, the shortest of completions may be asked for, which costs money."""

    interval_s: float = 60.0
    timeout_s: float = 10.0
    slow_s: float = 2.0
    lightest_call: bool = False
