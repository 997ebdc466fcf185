"""The sections `retention`, `ledger` and `alerts` -> what they come to."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal
from urllib.parse import urlsplit

from proxy.config.draft import Draft
from proxy.config.faults import Path
from proxy.config.providers import url_fault
from proxy.config.schema import (
    AlertsSection,
    DestinationSection,
    FactorsSection,
    LagSection,
    LedgerSection,
    RatesSection,
    RetentionSection,
)
from proxy.config.settings import AlertSettings, Destination, LedgerSettings, Retention
from proxy.core.alerts import Levels
from proxy.core.target import Secret

SLACK_HOST = "hooks.slack.com"
NO_APPRISE = "apprise is not installed, so nothing can be sent there (install it: pip install 'tollbridge[alerts]')"


def retention_of(section: RetentionSection) -> Retention:
    return Retention(**{f"{name}_s": value for name, value in vars(section).items() if value is not None})


def ledger_of(section: LedgerSection) -> LedgerSettings:
    return LedgerSettings(**{name: value for name, value in vars(section).items() if value is not None})


def alerts_of(section: AlertsSection, draft: Draft, secrets: list[Secret]) -> AlertSettings:
    """The addresses that alerts go to are added to the secrets: whoever knows one can write there."""
    default = AlertSettings()
    path: Path = ("alerts",)
    found = [_destination(one, (*path, "to", index), draft) for index, one in enumerate(section.to)]
    destinations = tuple(one for one in found if one is not None)
    secrets += [one.url for one in destinations]
    return AlertSettings(
        budget=default.budget if section.budget is None else tuple(sorted(section.budget)),
        quota=default.quota if section.quota is None else tuple(sorted(section.quota)),
        error_rate=_levels(section.error_rate, default.error_rate, (*path, "error_rate"), draft),
        failover_rate=_levels(section.failover_rate, default.failover_rate, (*path, "failover_rate"), draft),
        first_token=_levels(section.first_token, default.first_token, (*path, "first_token"), draft),
        ledger_lag_s=_levels(section.ledger_lag, default.ledger_lag_s, (*path, "ledger_lag"), draft),
        rate_limit_s=default.rate_limit_s if section.rate_limit is None else section.rate_limit,
        off=frozenset(section.off),
        severities=dict(section.severity),
        to=destinations,
    )


def _levels(section: RatesSection | FactorsSection | LagSection, default: Levels, path: Path, draft: Draft) -> Levels:
    levels = Levels(
        default.warning if section.warning is None else section.warning, default.error if section.error is None else section.error
    )
    if levels.warning is not None and levels.error is not None and levels.warning > levels.error:
        draft.fault(path, f"{path[-1]}: the warning comes after the error (write error above {levels.warning:g})", at_key=True)
    return levels


def _destination(section: DestinationSection, path: Path, draft: Draft) -> Destination | None:
    if (section.webhook is None) == (section.apprise is None):
        draft.fault(path, "alerts go to a webhook or by apprise (write one of the two)")
        return None
    if section.apprise is not None:
        if find_spec("apprise") is None:
            draft.warn((*path, "apprise"), NO_APPRISE)
        return Destination("apprise", Secret(section.apprise), section.least)
    assert section.webhook is not None
    if fault := url_fault(section.webhook, ("http", "https")):
        draft.fault((*path, "webhook"), f"webhook {fault}")
        return None
    guessed: Literal["json", "slack"] = "slack" if urlsplit(section.webhook).hostname == SLACK_HOST else "json"
    return Destination("webhook", Secret(section.webhook), section.least, section.shape or guessed)
