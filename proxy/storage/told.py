"""What was told of the proxy itself, into its tables: checks of providers, alerts, quotas that begin anew. Rare, so one at a time.

A check also makes longer the span of time in which the provider was said to be so; two checks further apart than GAP_MS have nobody
knows what between them. Told twice, nothing changes the second time.

    healthy ──────────── down ── healthy ────────       (nobody looked)       ── healthy ──
    span                 span    span                                            span
"""

from __future__ import annotations

import sqlite3

from proxy.accounting.records import Fields
from proxy.storage.fold import Batch
from proxy.storage.uptime import GAP_MS

_CHECK = "INSERT OR IGNORE INTO checks VALUES (?,?,?,?,?,?,?)"
_LAST_SPAN = "SELECT since_ms, until_ms, state FROM health_spans WHERE provider = ? ORDER BY since_ms DESC LIMIT 1"
_LENGTHEN = "UPDATE health_spans SET until_ms = ? WHERE provider = ? AND since_ms = ?"
_BEGIN_SPAN = "INSERT OR IGNORE INTO health_spans (provider, since_ms, until_ms, state) VALUES (?,?,?,?)"

_ALERT = {
    "raised": """
INSERT INTO alerts (id, raised_ms, said_ms, kind, subject, severity, message, value, threshold)
VALUES (:id, :time, :time, :kind, :subject, :severity, :message, :value, :threshold)
ON CONFLICT (id) DO UPDATE SET raised_ms = coalesce(raised_ms, excluded.raised_ms), said_ms = excluded.said_ms, kind = excluded.kind,
    subject = excluded.subject, severity = excluded.severity, message = excluded.message, value = excluded.value,
    threshold = excluded.threshold, resolved_ms = iif(resolved_ms < excluded.said_ms, NULL, resolved_ms),
    acknowledged_ms = iif(acknowledged_ms < excluded.said_ms, NULL, acknowledged_ms)
WHERE said_ms IS NULL OR excluded.said_ms >= said_ms""",
    "resolved": """
INSERT INTO alerts (id, resolved_ms) VALUES (:id, :time)
ON CONFLICT (id) DO UPDATE SET resolved_ms = coalesce(resolved_ms, excluded.resolved_ms)
WHERE said_ms IS NULL OR excluded.resolved_ms >= said_ms""",
    "acknowledged": """
INSERT INTO alerts (id, acknowledged_ms) VALUES (:id, :time)
ON CONFLICT (id) DO UPDATE SET acknowledged_ms = coalesce(acknowledged_ms, excluded.acknowledged_ms)
WHERE said_ms IS NULL OR excluded.acknowledged_ms >= said_ms""",
}
_ALERT_FIELDS = ("id", "time", "action", "kind", "subject", "severity", "message", "value", "threshold")

_QUOTA_RESET = """
INSERT INTO quota_resets (provider, credential, time_ms) VALUES (?,?,?)
ON CONFLICT DO UPDATE SET time_ms = max(time_ms, excluded.time_ms)"""


def write_told(connection: sqlite3.Connection, batch: Batch) -> None:
    """Inside the caller's transaction."""
    for check in sorted(batch.checks, key=lambda check: check[1]):
        _write_check(connection, check)
    for alert in batch.alerts:
        values = dict(zip(_ALERT_FIELDS, alert[1:], strict=False))
        connection.execute(_ALERT[values["action"]], values)
    for _, time_ms, provider, credential, *_ in batch.resets:
        connection.execute(_QUOTA_RESET, (provider, credential or "", time_ms))


def _write_check(connection: sqlite3.Connection, check: Fields) -> None:
    _, time_ms, provider, state, reason, response_ms, models, key_valid, *_ = check
    if not connection.execute(_CHECK, (provider, time_ms, state, reason, response_ms, models, key_valid)).rowcount:
        return
    last = connection.execute(_LAST_SPAN, (provider,)).fetchone()
    if last is not None:
        since_ms, until_ms, before = last
        if time_ms < until_ms:
            return  # told late, of a time that is already accounted for
        if time_ms - until_ms <= GAP_MS:
            connection.execute(_LENGTHEN, (time_ms, provider, since_ms))
            if state == before:
                return
    connection.execute(_BEGIN_SPAN, (provider, time_ms, time_ms, state))
