"""What an operator is told of: the kinds of alert there are. `docs/alerts.md` is held to this table by a test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["info", "warning", "error"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "error")  # the least first


@dataclass(frozen=True, slots=True)
class AlertKind:
    """`severity` None: it depends on which of its thresholds is crossed, the last of a list being an error, those before it warnings.

    `setting` is the key under `alerts:` that holds its threshold, None where there is none to set.
    """

    name: str
    severity: Severity | None
    setting: str | None
    meaning: str


_TABLE = (
    AlertKind("provider_down", "error", None, "A provider does not answer, or every circuit to it is open."),
    AlertKind("provider_slow", "warning", None, "A provider's check takes longer than `health.slow`."),
    AlertKind("key_invalid", "error", None, "A provider refuses a key, or its account has no credit left."),
    AlertKind("model_unknown", "warning", None, "A provider does not know a model that the configuration names."),
    AlertKind("budget", None, "budget", "This share of a budget is spent."),
    AlertKind("quota", None, "quota", "This share of a quota is used."),
    AlertKind("rate_limit", "warning", "rate_limit", "At the present rate a provider's limit will be hit within this time."),
    AlertKind("fallback_used", "info", None, "A request was answered by another target than its chain's first."),
    AlertKind("failover_rate", None, "failover_rate", "This share of a chain's requests needed more than one target."),
    AlertKind("error_rate", None, "error_rate", "This share of a provider's attempts fails."),
    AlertKind("first_token", None, "first_token", "The first token takes this many times what is usual for the provider."),
    AlertKind("quality", "warning", None, "A fifth and more of a target's whole answers measure below `quality.min`."),
    AlertKind("unpriced_model", "warning", None, "A model consumed tokens and has no known price: budgets cannot count it."),
    AlertKind("ledger_lag", None, "ledger_lag", "The tables are so far behind the journal."),
    AlertKind(
        "ledger_writes",
        "error",
        None,
        "The ledger's disk is full, fails or has just failed: requests are refused or go unrecorded.",
    ),
    AlertKind("ledger_corrupt", "error", None, "The ledger's database was corrupt, and was made anew from the journal."),
    AlertKind("config_reload", "error", None, "The configuration file is broken; the last good one is in force."),
)
ALERT_KINDS: dict[str, AlertKind] = {kind.name: kind for kind in _TABLE}
HELP = "docs/troubleshooting.md#"


def help_for(kind: str) -> str:
    """Where it is written what such an alert comes from, and what mends it."""
    return HELP + kind


@dataclass(frozen=True, slots=True)
class Levels:
    """From here on a warning, from there on an error. None: never."""

    warning: float | None
    error: float | None

    def severity(self, value: float) -> Severity | None:
        if self.error is not None and value >= self.error:
            return "error"
        return "warning" if self.warning is not None and value >= self.warning else None
