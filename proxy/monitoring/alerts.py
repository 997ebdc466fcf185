"""The life of an alert: raised once, told again only when it gets worse, over when its condition has been gone for a while.

                 a condition holds                      gone for HOLD_S
    (nothing) ───────────────────▶ open ──────────────────────────────────▶ resolved
                                   │  ▲ worse: raised again under its id        ▲
                      acknowledge  ▼  │                                         │
                                 acknowledged ──────────────────────────────────┘

Two conditions are one alert if kind and subject are equal; of budgets and quotas each threshold is an alert of its own, and one that
was raised in an earlier period is over when the next begins, so that each threshold is told once a period. What is open survives a
restart: every step is journalled, and `seed` reads it back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from proxy.accounting.journal import JournalError
from proxy.accounting.records import Alerted
from proxy.core.alerts import ALERT_KINDS, SEVERITIES, Severity, help_for
from proxy.core.ports import Clock
from proxy.core.redact import Redactor, one_line
from proxy.monitoring.conditions import Condition
from proxy.monitoring.query import rfc3339

MAX_OPEN = 1_000
MAX_MESSAGE = 500  # characters
MAX_SUBJECT = 200
# how long a condition must be gone before its alert is over, so that what comes and goes is told once
HOLD_S = {
    "budget": 0.0,
    "quota": 0.0,
    "config_reload": 0.0,
    "fallback_used": 300.0,
    "unpriced_model": 3600.0,
    "ledger_corrupt": 3600.0,
}
DEFAULT_HOLD_S = 60.0
_ROUNDING_S = 0.001  # the ledger keeps milliseconds
_ONCE_A_PERIOD = frozenset(("budget", "quota"))

Key = tuple[str, str, float | None]


class Notice(NamedTuple):
    """Something to tell. `event`: raised, resolved or test; `alert`: as the API shows it."""

    event: str
    alert: dict[str, Any]


class Log(Protocol):
    def error(self, event: str, **fields: Any) -> None: ...


@dataclass(slots=True)
class _Alert:
    """Times are seconds since 1970, but for `gone_at`: monotonic, since when its condition no longer holds."""

    id: str
    kind: str
    subject: str
    severity: Severity
    message: str
    value: float | None
    threshold: float | None
    raised: float
    acknowledged: float | None = None
    resolved: float | None = None
    gone_at: float | None = None
    latest: Condition | None = None  # as it was seen, for a look at the same to cost nothing

    def as_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "kind": self.kind,
            "severity": self.severity,
            "subject": self.subject,
            "message": self.message,
            "value": self.value,
            "threshold": self.threshold,
            "raised": rfc3339(self.raised),
            "resolved": None if self.resolved is None else rfc3339(self.resolved),
            "acknowledged": None if self.acknowledged is None else rfc3339(self.acknowledged),
            "state": self.state,
            "help": help_for(self.kind),
        }

    @property
    def state(self) -> str:
        if self.resolved is not None:
            return "resolved"
        return "open" if self.acknowledged is None else "acknowledged"

    @property
    def key(self) -> Key:
        return _key(self.kind, self.subject, self.threshold)


class AlertDesk:
    """What is open, at most MAX_OPEN. `append` writes to the journal, `tell` passes on what is to be told; neither waits."""

    def __init__(
        self,
        *,
        clock: Clock,
        new_id: Callable[[], str],
        append: Callable[[Alerted], object],
        tell: Callable[[Notice], None],
        log: Log,
        redact: Redactor | None = None,
    ) -> None:
        self._clock = clock
        self._new_id = new_id
        self._append = append
        self._tell = tell
        self._log = log
        self._redact = redact or Redactor()
        self._open: dict[Key, _Alert] = {}
        self._subjects: dict[str, str] = {}
        self._full = False

    def set_redactor(self, redact: Redactor) -> None:
        """After a reload: there may be new secrets."""
        self._redact = redact
        self._subjects.clear()

    def seed(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Takes over alerts that an earlier life left open, as the API shows them. What was raised here meanwhile takes the place of
        its older self, which is over."""
        known = {alert.id for alert in self._open.values()}
        for row in rows:
            alert = _from_row(row)
            if alert is None or alert.id in known:
                continue
            if alert.key in self._open or len(self._open) >= MAX_OPEN:
                self._write(Alerted(alert.id, self._now_ms(), "resolved"))
            else:
                self._open[alert.key] = alert

    def update(self, conditions: Iterable[Condition], unseen: Collection[str] = ()) -> None:
        """What holds now. Alerts of the kinds in `unseen` stay as they are."""
        holding: set[Key] = set()
        for condition in conditions:
            key = _key(condition.kind, self._subject(condition.subject), condition.threshold)
            holding.add(key)
            alert = self._open.get(key)
            if alert is not None and condition.since is not None and alert.raised < condition.since - _ROUNDING_S:
                self._resolve(alert)
                alert = None
            if alert is None:
                self._raise(key, condition)
            else:
                self._keep(alert, condition)
        now = self._clock.monotonic()
        for key, alert in list(self._open.items()):
            if key in holding or alert.kind in unseen:
                alert.gone_at = None
                continue
            if alert.gone_at is None:
                alert.gone_at = now
            if now - alert.gone_at >= HOLD_S.get(alert.kind, DEFAULT_HOLD_S):
                self._resolve(alert)

    def acknowledge(self, alert_id: str) -> dict[str, Any] | None:
        """The alert as it then is: somebody has seen it. None if none of that id is open. A second time changes nothing."""
        alert = next((alert for alert in self._open.values() if alert.id == alert_id), None)
        if alert is None:
            return None
        if alert.acknowledged is None:
            alert.acknowledged = self._clock.wall()
            self._write(Alerted(alert.id, round(alert.acknowledged * 1000), "acknowledged"))
        return alert.as_dict()

    def alerts(self) -> list[dict[str, Any]]:
        """Those that are open, acknowledged ones included, newest first, as the API shows them."""
        return [
            alert.as_dict() for alert in sorted(self._open.values(), key=lambda alert: (alert.raised, alert.id), reverse=True)
        ]

    def counts(self) -> dict[str, int]:
        """How many are open, by severity."""
        counts: dict[str, int] = dict.fromkeys(SEVERITIES, 0)
        for alert in self._open.values():
            counts[alert.severity] += 1
        return counts

    # -- steps

    def _raise(self, key: Key, condition: Condition) -> None:
        if len(self._open) >= MAX_OPEN:
            if not self._full:
                self._log.error("alerts_full", open=MAX_OPEN, next="what is raised now is told when others are over")
            self._full = True
            return
        self._full = False
        alert = self._open[key] = _Alert(
            self._new_id(),
            condition.kind,
            key[1],
            condition.severity,
            self._message(condition.message),
            condition.value,
            condition.threshold,
            self._clock.wall(),
            latest=condition,
        )
        self._say_raised(alert, alert.raised)

    def _keep(self, alert: _Alert, condition: Condition) -> None:
        """It still holds: shown with its present figures, told again only if it has become worse. What becomes better stays as bad as it
        was until it is over."""
        if condition == alert.latest:
            return
        alert.latest = condition
        alert.message, alert.value = self._message(condition.message), condition.value
        if SEVERITIES.index(condition.severity) > SEVERITIES.index(alert.severity):
            alert.severity, alert.threshold, alert.acknowledged = condition.severity, condition.threshold, None
            self._say_raised(alert, self._clock.wall())

    def _say_raised(self, alert: _Alert, wall: float) -> None:
        step = Alerted(
            alert.id,
            round(wall * 1000),
            "raised",
            alert.kind,
            alert.subject,
            alert.severity,
            alert.message,
            alert.value,
            alert.threshold,
        )
        self._write(step)
        self._tell(Notice("raised", alert.as_dict()))

    def _resolve(self, alert: _Alert) -> None:
        del self._open[alert.key]
        alert.resolved = self._clock.wall()
        self._write(Alerted(alert.id, round(alert.resolved * 1000), "resolved"))
        self._tell(Notice("resolved", alert.as_dict()))

    def _write(self, step: Alerted) -> None:
        try:
            self._append(step)
        except JournalError as error:
            # it is told all the same; after a restart it would be told again
            self._log.error("alert_not_journalled", alert=step.id, action=step.action, fault=str(error))

    def _message(self, text: str) -> str:
        """Reasons hold what providers said: one line of it, without secrets."""
        return one_line(self._redact(text), MAX_MESSAGE)

    def _subject(self, text: str) -> str:
        """Likewise; the same ones come again and again."""
        cleaned = self._subjects.get(text)
        if cleaned is None:
            if len(self._subjects) >= 2 * MAX_OPEN:
                self._subjects.clear()
            cleaned = self._subjects[text] = one_line(self._redact(text), MAX_SUBJECT)
        return cleaned

    def _now_ms(self) -> int:
        return round(self._clock.wall() * 1000)


def _key(kind: str, subject: str, threshold: float | None) -> Key:
    return kind, subject, threshold if kind in _ONCE_A_PERIOD else None


def _from_row(row: Mapping[str, Any]) -> _Alert | None:
    """None for a kind that this release does not know, or one that is over."""
    if row["kind"] not in ALERT_KINDS or row["severity"] not in SEVERITIES or row["resolved"] is not None:
        return None
    return _Alert(
        row["id"],
        row["kind"],
        row["subject"],
        row["severity"],
        row["message"],
        row["value"],
        row["threshold"],
        datetime.fromisoformat(row["raised"]).timestamp(),
        None if row["acknowledged"] is None else datetime.fromisoformat(row["acknowledged"]).timestamp(),
    )
