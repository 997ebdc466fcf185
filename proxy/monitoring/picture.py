"""Everything that is known at one moment apart from the ledger: what reports are made of, by a server and by the command line alike.

A running proxy fills it from what it holds in memory (`live`); the command line without a server from its own checks of the
providers and from sums of the ledger, so that rates of the last minute and the state of circuits are missing there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from proxy.accounting.states import BudgetState, QuotaState, RateState
from proxy.config.settings import Settings
from proxy.core.limits import Per, Unit
from proxy.monitoring.health import ProviderHealth

Record = dict[str, Any]


class Rationed(Protocol):
    """What a forecast reads of a quota's state."""

    @property
    def provider(self) -> str: ...
    @property
    def key(self) -> str | None: ...
    @property
    def unit(self) -> Unit: ...
    @property
    def limit(self) -> int: ...
    @property
    def used(self) -> int: ...
    @property
    def held(self) -> int: ...
    @property
    def per(self) -> Per: ...
    @property
    def time_zone(self) -> str: ...
    @property
    def hour(self) -> int: ...
    @property
    def resets(self) -> float | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """`wall`: seconds since 1970. `alerts`: those that are open, newest first, each as the API shows it. `live`: of a running proxy."""

    wall: float
    settings: Settings
    cards: Sequence[ProviderHealth] = ()
    budgets: Sequence[BudgetState] = ()
    quotas: Sequence[QuotaState] = ()
    rates: Sequence[RateState] = ()
    alerts: Sequence[Record] = ()
    live: bool = False
