"""No report and no budget reads a number that the rows do not add up to, whatever the journal has been through."""

import asyncio
import shutil
import sqlite3
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.accounting.records import Record
from proxy.storage.drainer import Drainer
from proxy.storage.queries import Queries
from proxy.storage.sqlite import LEDGER
from proxy.storage.verify import verify
from tests.storage.records import NOW_MS, Wall, begin, closed, end, opened, progress, rejected, write

pytestmark = pytest.mark.property

HOUR_MS = 3_600_000
SCOPES = {"provider": ("groq", "openai"), "client": ("a", "b"), "department": ("x", "y"), "agent": ("search",)}


def quiet(_event: str, _fields: dict[str, Any]) -> None:
    return None


@dataclass(frozen=True)
class Life:
    """What one process wrote before it died: `torn` bytes of its last segment are missing, `again`: another wrote the same."""

    records: list[Record]
    torn: int
    again: bool
    batch: int
    waits_s: float


@st.composite
def requests(draw: st.DrawFn, number: int) -> list[Record]:
    at = NOW_MS + draw(st.integers(-3, 3)) * HOUR_MS + draw(st.sampled_from([0, 1, 1_800_000, HOUR_MS - 1]))
    request = opened(
        number,
        at,
        client=draw(st.sampled_from(["a", "b", None])),
        department=draw(st.sampled_from(["x", "y", None])),
        stream=draw(st.booleans()),
    )
    if draw(st.integers(0, 9)) == 0:
        return [rejected(number, at, client=request.client)]
    records: list[Record] = []
    attempts = draw(st.integers(1, 3))
    for n in range(1, attempts + 1):
        provider = draw(st.sampled_from(["groq", "openai"]))
        records.append(begin(request, n, provider))
        if request.stream and draw(st.booleans()):
            records.append(progress(request, draw(st.integers(0, 500)), n))
        if draw(st.integers(0, 7)) == 0:
            return records  # it died here
        last = n == attempts
        ends_at = at + n + draw(st.sampled_from([0, 0, HOUR_MS // 2]))
        cost = draw(st.sampled_from([None, 0, 1_250_000, 7]))
        if last:
            records.append(end(request, n, provider, time_ms=ends_at, cost_nusd=cost, end=closed(attempts=attempts)))
        else:
            records.append(end(request, n, provider, "failed", time_ms=ends_at))
    return records


@st.composite
def lives(draw: st.DrawFn) -> list[Life]:
    found: list[Life] = []
    for number in range(draw(st.integers(1, 4))):
        told = [draw(requests(number * 10 + each)) for each in range(draw(st.integers(1, 6)))]
        found.append(
            Life(
                [record for request in told for record in request],
                draw(st.sampled_from([0, 0, 1, 40, 300])),
                draw(st.booleans()),
                draw(st.sampled_from([1, 3, 2000])),
                draw(st.sampled_from([0.0, 40.0, 90.0])),
            )
        )
    return found


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("empty")
    Drainer(folder, Wall(), log=quiet).close()
    return folder / LEDGER


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(story=lives())
def test_sums_budgets_and_quotas_are_what_the_rows_say(empty: Path, story: list[Life]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(empty, folder / LEDGER)
        lived(folder, story)
        found = verify(folder)
        assert not found.differing, found.differences
        asyncio.run(compared(folder))


def lived(folder: Path, story: list[Life]) -> None:
    wall = Wall()
    wall.now += 4 * 3600
    for number, life in enumerate(story):
        write(folder, life.records, f"BOOT{number}")
        (path,) = (folder / "journal").glob(f"BOOT{number}.*.seg")
        path.write_bytes(path.read_bytes()[: max(0, path.stat().st_size - life.torn)])
        if life.again:
            write(folder, life.records, f"BOOT{number}-AGAIN")
        drainer = Drainer(folder, wall, log=quiet, batch_records=life.batch)
        drainer.drain()
        wall.now += life.waits_s
        drainer.drain()
        drainer.close()


async def compared(folder: Path) -> None:
    connection = sqlite3.connect(folder / LEDGER)
    ledger = Queries(folder)
    try:
        for since_ms in (0, NOW_MS, NOW_MS + HOUR_MS):
            assert await ledger.spent_nusd("total", None, since_ms) == spent(connection, "1", None, since_ms)
            for scope, names in SCOPES.items():
                for name in names:
                    assert await ledger.spent_nusd(scope, name, since_ms) == spent(connection, scope, name, since_ms), (
                        scope,
                        name,
                    )
        for since_ms in (NOW_MS, NOW_MS + 1, NOW_MS + 1_800_000, NOW_MS + HOUR_MS - 1):
            for provider in SCOPES["provider"]:
                for key in ("cafe0123", None):
                    assert await ledger.used(provider, key, since_ms) == used(connection, provider, since_ms), (
                        provider,
                        since_ms,
                    )
        (requests_, attempts, cost) = connection.execute(
            "SELECT (SELECT count(*) FROM requests WHERE ended = 1), count(*), coalesce(sum(cost_nusd), 0) FROM attempts WHERE rank = 2"
        ).fetchone()
        for group in ("provider", "client", "department", "day", "hour", "key"):
            rows = await ledger.usage((group,))
            assert sum(row["requests"] for row in rows) == requests_, group
            assert sum(row["attempts"] for row in rows) == attempts, group
        assert await ledger.spent_nusd("total", None, 0) == cost
    finally:
        await ledger.aclose()
        connection.close()


def spent(connection: sqlite3.Connection, scope: str, name: str | None, since_ms: int) -> int:
    """Of attempts in whole hours, as budgets count; the tags are the request's, the provider the attempt's."""
    column = {"provider": "a.provider", "1": "NULL"}.get(scope, f"r.{scope}")
    sql = f"""SELECT coalesce(sum(a.cost_nusd), 0) FROM attempts AS a LEFT JOIN requests AS r ON r.id = a.request_id
        WHERE a.rank = 2 AND a.time_ms >= ? / 3600000 * 3600000 AND {column} IS ?"""
    return int(connection.execute(sql, (since_ms, name)).fetchone()[0])


def used(connection: sqlite3.Connection, provider: str, since_ms: int) -> tuple[int, int]:
    sql = """SELECT count(*), coalesce(sum(input_tokens + output_tokens), 0) FROM attempts
        WHERE rank = 2 AND provider = ? AND time_ms >= ?"""
    attempts, tokens = connection.execute(sql, (provider, since_ms)).fetchone()
    return attempts, tokens
