"""What is told of providers, alerts and quotas: folded from the journal, the same however often it is told."""

import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from proxy.accounting.records import Record
from proxy.storage.drainer import Drainer
from proxy.storage.queries import Queries
from proxy.storage.sqlite import LEDGER
from proxy.storage.uptime import GAP_MS, uptimes
from tests.storage.records import NOW_MS, Wall, acknowledged, checked, quota_reset, raised, resolved, write

pytestmark = [pytest.mark.unit, pytest.mark.anyio]

MINUTE_MS = 60_000
DAY_MS = 86_400_000


@pytest.fixture
def drainer(tmp_path: Path) -> Iterator[Drainer]:
    drainer = Drainer(tmp_path, Wall(), log=lambda _event, _fields: None)
    yield drainer
    drainer.close()


@pytest.fixture
async def queries(tmp_path: Path) -> AsyncIterator[Queries]:
    queries = Queries(tmp_path)
    yield queries
    await queries.aclose()


async def test_checks_are_listed_newest_first(tmp_path: Path, drainer: Drainer, queries: Queries) -> None:
    down = checked("groq", NOW_MS + 5000, state="down", reason="no answer", response_ms=None, models=None, key_valid=None)
    write(tmp_path, [checked("groq"), checked("openai", NOW_MS + 1), down])
    drainer.drain()
    assert await queries.checks(limit=1) == [
        {
            "time": "2027-01-15T08:00:05.000Z",
            "provider": "groq",
            "state": "down",
            "reason": "no answer",
            "response_ms": None,
            "models": None,
            "key_valid": None,
        }
    ]
    assert [(row["provider"], row["key_valid"]) for row in await queries.checks("openai")] == [("openai", True)]
    assert [row["state"] for row in await queries.checks("groq", NOW_MS + 1)] == ["down"]


SPANS: list[tuple[str, list[tuple[int, str]], int, float | None]] = [
    ("always well", [(0, "healthy"), (15, "healthy"), (30, "healthy")], 40, 1.0),
    ("slow is not down", [(0, "healthy"), (15, "degraded"), (30, "healthy")], 30, 1.0),
    ("down for ten of forty", [(0, "healthy"), (20, "down"), (30, "healthy"), (40, "healthy")], 40, 0.75),
    ("the last word holds until now", [(0, "healthy"), (10, "down")], 20, 0.5),
    ("but not for ever", [(0, "healthy"), (30, "down")], 1000, 0.5),
    ("nobody looked for an hour", [(0, "healthy"), (10, "healthy"), (70, "down"), (80, "down")], 80, 0.5),
    ("unknown time is no time", [(0, "unknown"), (10, "healthy")], 20, 1.0),
    ("never known", [(0, "unknown")], 10, None),
]


@pytest.mark.parametrize(("checks", "until", "share"), [case[1:] for case in SPANS], ids=[case[0] for case in SPANS])
async def test_uptime_is_the_share_of_known_time_that_it_was_not_down(
    tmp_path: Path, drainer: Drainer, queries: Queries, checks: list[tuple[int, str]], until: int, share: float | None
) -> None:
    records: list[Record] = [checked("groq", NOW_MS + minute * MINUTE_MS, state=state) for minute, state in checks]
    write(tmp_path, records)
    drainer.drain()
    write(tmp_path, records, "BOOT2")  # told again: nothing changes
    drainer.drain()
    found = await queries.uptime(NOW_MS + until * MINUTE_MS)
    assert found == {"groq": {"day": share, "week": share, "month": share}}


def test_a_day_is_a_day_and_a_week_a_week() -> None:
    spans = [("groq", -8 * DAY_MS, -2 * DAY_MS, "down"), ("groq", -2 * DAY_MS, -GAP_MS, "healthy")]
    assert uptimes(spans, 0) == {"groq": {"day": 1.0, "week": pytest.approx(2 / 7, abs=1e-6), "month": 0.25}}


STEPS: list[Record] = [
    raised("A1"),
    raised("A1", NOW_MS + 10, severity="error"),
    acknowledged("A1", NOW_MS + 20),
    resolved("A1", NOW_MS + 30),
]


@pytest.mark.parametrize(
    ("steps", "state", "severity"),
    [
        (STEPS[:1], "open", "warning"),
        (STEPS[:2], "open", "error"),
        (STEPS[:3], "acknowledged", "error"),
        (STEPS, "resolved", "error"),
        ([*STEPS, *STEPS], "resolved", "error"),
        ([*STEPS, raised("A1", NOW_MS + 40)], "open", "warning"),
        ([*STEPS, raised("A1", NOW_MS + 40), *STEPS], "open", "warning"),
    ],
)
async def test_the_life_of_an_alert(
    tmp_path: Path, drainer: Drainer, queries: Queries, steps: list[Record], state: str, severity: str
) -> None:
    for number, step in enumerate(steps):
        write(tmp_path, [step], f"BOOT{number:02}")
        drainer.drain()
    (alert,) = await queries.alerts()
    assert (alert["state"], alert["severity"], alert["raised"]) == (state, severity, "2027-01-15T08:00:00.000Z")


async def test_an_alert_has_the_fields_of_the_api(tmp_path: Path, drainer: Drainer, queries: Queries) -> None:
    write(tmp_path, STEPS)
    drainer.drain()
    assert await queries.alerts() == [
        {
            "id": "A1",
            "kind": "budget",
            "severity": "error",
            "subject": "client search-agent",
            "message": "80 % is spent",
            "value": 0.8,
            "threshold": 0.8,
            "raised": "2027-01-15T08:00:00.000Z",
            "resolved": "2027-01-15T08:00:00.030Z",
            "acknowledged": "2027-01-15T08:00:00.020Z",
            "state": "resolved",
            "help": "docs/troubleshooting.md#budget",
        }
    ]


async def test_open_alerts_come_first_and_can_be_asked_for(tmp_path: Path, drainer: Drainer, queries: Queries) -> None:
    write(
        tmp_path,
        [
            raised("A1"),
            raised("A2", NOW_MS + 1, kind="provider_down"),
            raised("A3", NOW_MS + 2),
            resolved("A3", NOW_MS + 3),
            resolved("A9"),
        ],
    )
    drainer.drain()
    assert [alert["id"] for alert in await queries.alerts()] == ["A2", "A1", "A3"]
    assert [alert["id"] for alert in await queries.alerts(open_only=True)] == ["A2", "A1"]
    assert [alert["id"] for alert in await queries.alerts(kind="budget", limit=1)] == ["A1"]
    assert [alert["id"] for alert in await queries.alerts(since_ms=NOW_MS + 2)] == ["A3"]


async def test_the_last_reset_of_a_quota_counts(tmp_path: Path, drainer: Drainer, queries: Queries) -> None:
    write(tmp_path, [quota_reset("groq", time_ms=7), quota_reset("groq", time_ms=5), quota_reset("groq", "cafe", 6)])
    drainer.drain()
    assert await queries.quota_resets() == {("groq", None): 7, ("groq", "cafe"): 6}


async def test_what_cannot_be_told_is_counted_and_passed_over(tmp_path: Path, drainer: Drainer, queries: Queries) -> None:
    write(tmp_path, [raised("A1")._replace(action="burst"), raised("A2")])
    drainer.drain()
    assert [alert["id"] for alert in await queries.alerts()] == ["A2"]
    with sqlite3.connect(tmp_path / LEDGER) as connection:
        assert connection.execute("SELECT value FROM counters WHERE name = 'unreadable_records'").fetchone() == (1,)
    connection.close()
