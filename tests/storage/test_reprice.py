"""Attempts that are priced again: which of them, what changes, what is kept of before, and that the sums follow."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from proxy.core.usage import Usage
from proxy.storage.drainer import Drainer, DrainerBusy
from proxy.storage.reprice import Wanted, apply, preview
from proxy.storage.retention import Retention, write_retention
from proxy.storage.sqlite import LEDGER
from proxy.storage.verify import verify
from tests.storage.records import NOW_MS, Wall, begin, closed, end, opened, write

pytestmark = pytest.mark.unit

HOUR_MS = 3_600_000


def quiet(_event: str, _fields: dict[str, Any]) -> None:
    return None


def price(provider: str, _model: str, usage: Usage, _time_ms: int) -> tuple[int | None, str | None]:
    """3 nano-dollars a token of OpenAI's; nobody knows what others charge."""
    return (3 * (usage.input_tokens + usage.output_tokens), "list") if provider == "openai" else (None, None)


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """An unpriced attempt, a priced one, one that the provider priced, one of a provider without prices, one that failed for nothing."""
    Drainer(tmp_path, Wall(), log=quiet).close()
    told: list[dict[str, Any]] = [
        {"cost_nusd": None, "price_source": None},
        {},
        {"cost_nusd": 999, "price_source": "provider"},
        {"cost_nusd": None, "price_source": None, "provider": "vllm"},
        {"outcome": "failed", "end": closed("failed")},
    ]
    records: list[Any] = []
    for number, changes in enumerate(told):
        request = opened(number, NOW_MS + number * HOUR_MS)
        records += [begin(request, provider=changes.get("provider", "openai")), end(request, **changes)]
    write(tmp_path, records)
    drainer = Drainer(tmp_path, Wall(), log=quiet)
    drainer.drain()
    drainer.close()
    return tmp_path


def query(data_dir: Path, sql: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(data_dir / LEDGER)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


COSTS = "SELECT cost_nusd, price_source FROM attempts ORDER BY request_id"
SPENT = "SELECT sum(cost_nusd), sum(unpriced) FROM usage_hourly"


def test_what_had_no_price_gets_the_present_one_and_the_sums_follow(ledger: Path) -> None:
    assert query(ledger, SPENT) == [(1_250_999, 2)]
    changes = apply(ledger, Wanted(), price, Wall(), log=quiet)
    assert changes.changed == 1
    assert query(ledger, COSTS) == [(450, "list"), (1_250_000, "test"), (999, "provider"), (None, None), (0, None)]
    assert query(ledger, SPENT) == [(1_251_449, 1)]
    assert query(ledger, "SELECT sum(cost_nusd) FROM daily_sums WHERE slice = 1") == [(1_251_449,)]
    assert query(ledger, "SELECT n, time_ms, cost_nusd, price_source FROM repriced") == [(1, NOW_MS, None, None)]
    assert verify(ledger).differing == 0
    assert apply(ledger, Wanted(), price, Wall(), log=quiet).changed == 0


def test_a_preview_says_the_same_and_changes_nothing(ledger: Path) -> None:
    before = query(ledger, COSTS), query(ledger, SPENT)
    shown = preview(ledger, Wanted(unpriced_only=False), price)
    assert (query(ledger, COSTS), query(ledger, SPENT)) == before
    done = apply(ledger, Wanted(unpriced_only=False), price, Wall(), log=quiet)
    assert shown == done
    openai = shown.of["openai", "gpt-4o"]
    assert (openai.attempts, openai.changed, openai.before_nusd, openai.unpriced_before) == (2, 2, 1_250_000, 1)
    assert (openai.after_nusd, openai.unpriced_after) == (900, 0)
    assert (shown.of["vllm", "gpt-4o"].unpriced_after, shown.of["vllm", "gpt-4o"].changed) == (1, 0)
    assert query(ledger, "SELECT cost_nusd, price_source FROM repriced ORDER BY request_id") == [
        (None, None),
        (1_250_000, "test"),
    ]


@pytest.mark.parametrize(
    ("wanted", "attempts"),
    [
        (Wanted(), 2),
        (Wanted(unpriced_only=False), 3),
        (Wanted(provider="vllm"), 1),
        (Wanted(model="gpt-4o", unpriced_only=False), 3),
        (Wanted(model="gpt-5"), 0),
        (Wanted(since_ms=NOW_MS + 2), 1),
        (Wanted(until_ms=NOW_MS + 2), 1),
        (Wanted(since_ms=NOW_MS + 1, until_ms=NOW_MS + 1), 0),
    ],
)
def test_only_what_is_wanted_is_looked_at(ledger: Path, wanted: Wanted, attempts: int) -> None:
    assert sum(change.attempts for change in preview(ledger, wanted, price).of.values()) == attempts


def test_what_is_too_old_to_be_summed_up_anew_is_left_alone(ledger: Path) -> None:
    write_retention(ledger, Retention(requests_s=HOUR_MS / 1000))
    wall = Wall()
    wall.now += 1.5 * 3600
    drainer = Drainer(ledger, wall, log=quiet)
    for _ in range(20):
        drainer.step()
    drainer.close()
    drainer = Drainer(ledger, Wall(), log=quiet)
    drainer.close()
    write(
        ledger, [begin(opened(80, NOW_MS + 60_000)), end(opened(80, NOW_MS + 60_000), cost_nusd=None, price_source=None)], "BOOT2"
    )
    changes = apply(ledger, Wanted(), price, Wall(), log=quiet)
    assert (changes.too_old, changes.changed) == (1, 0)


def test_while_a_server_runs_nothing_is_priced_again(ledger: Path) -> None:
    drainer = Drainer(ledger, Wall(), log=quiet)
    with pytest.raises(DrainerBusy):
        apply(ledger, Wanted(), price, Wall(), log=quiet)
    assert preview(ledger, Wanted(), price).changed == 1
    drainer.close()


def test_a_fault_on_the_way_changes_nothing(ledger: Path) -> None:
    def fails(*_: object) -> tuple[int | None, str | None]:
        raise sqlite3.OperationalError("disk I/O error")

    before = query(ledger, COSTS), query(ledger, SPENT)
    with pytest.raises(sqlite3.OperationalError):
        apply(ledger, Wanted(), fails, Wall(), log=quiet)
    assert (query(ledger, COSTS), query(ledger, SPENT), query(ledger, "SELECT count(*) FROM repriced")) == (*before, [(0,)])
