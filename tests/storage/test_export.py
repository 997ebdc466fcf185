"""The rows as they are taken away: all of them, once, in order, and no more than a page of them in memory."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from proxy.storage import export
from proxy.storage.drainer import Drainer
from proxy.storage.sqlite import LEDGER
from tests.storage.records import NOW_MS, Wall, begin, completion, end, failover, opened, rejected, request_id, write

pytestmark = pytest.mark.unit

EVER = (0, 1 << 60)


def quiet(_event: str, _fields: dict[str, Any]) -> None:
    return None


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    Drainer(tmp_path, Wall(), log=quiet).close()
    write(tmp_path, [*completion(1), *failover(2, NOW_MS + 10), rejected(3, NOW_MS + 20), begin(opened(4, NOW_MS + 30))])
    unpriced = opened(5, NOW_MS + 40, stream=True)
    write(tmp_path, [begin(unpriced), end(unpriced, cost_nusd=None, usage_source="estimated")], "BOOT2")
    drainer = Drainer(tmp_path, Wall(), log=quiet)
    drainer.drain()
    drainer.close()
    return tmp_path


@pytest.mark.parametrize("page", [1, 2, 1000])
def test_every_row_comes_once_and_in_order_whatever_the_page(ledger: Path, page: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_REQUESTS", "_ATTEMPTS"):
        monkeypatch.setattr(export, name, getattr(export, name).replace("LIMIT 1000", f"LIMIT {page}"))
    requests = list(export.requests(ledger, *EVER))
    assert [row["id"] for row in requests] == [
        request_id(n, NOW_MS + at) for n, at in ((1, 0), (2, 10), (3, 20), (4, 30), (5, 40))
    ]
    attempts = list(export.attempts(ledger, *EVER))
    assert [(row["request_id"], row["n"]) for row in attempts] == [
        (request_id(1), 1),
        (request_id(2, NOW_MS + 10), 1),
        (request_id(2, NOW_MS + 10), 2),
        (request_id(4, NOW_MS + 30), 1),
        (request_id(5, NOW_MS + 40), 1),
    ]


def test_a_request_has_the_sums_of_its_attempts_and_unknown_is_null(ledger: Path) -> None:
    first, second, refused, running, unpriced = export.requests(ledger, *EVER)
    assert tuple(first) == export.REQUEST_FIELDS
    assert (first["time"], first["cost_usd"], first["input_tokens"], first["stream"]) == (
        "2027-01-15T08:00:00.000Z",
        "0.00125",
        100,
        False,
    )
    assert (second["attempts"], second["provider"], second["cost_usd"]) == (2, "openai", "0.00125")
    assert (refused["outcome"], refused["http_status"], refused["error_code"], refused["cost_usd"]) == (
        "rejected",
        429,
        "budget_exceeded",
        "0",
    )
    assert (running["outcome"], running["cost_usd"], running["duration_ms"]) == ("running", None, None)
    assert (unpriced["cost_usd"], unpriced["usage_source"], unpriced["stream"]) == (None, "estimated", True)


def test_an_attempt_says_what_it_was(ledger: Path) -> None:
    _, failed, ok, running, unpriced = export.attempts(ledger, *EVER)
    assert tuple(failed) == export.ATTEMPT_FIELDS
    assert (failed["provider"], failed["error_class"], failed["cost_usd"], failed["usage_source"]) == (
        "groq",
        "connect",
        "0",
        None,
    )
    assert (ok["outcome"], ok["credential"], ok["price_source"]) == ("ok", "cafe0123", "test")
    assert (running["outcome"], running["at_risk_tokens"], unpriced["cost_usd"]) == ("running", 100, None)


def test_a_period_begins_with_its_first_millisecond_and_ends_before_its_last(ledger: Path) -> None:
    found = [row["id"] for row in export.requests(ledger, NOW_MS + 10, NOW_MS + 30)]
    assert found == [request_id(2, NOW_MS + 10), request_id(3, NOW_MS + 20)]
    assert [row["n"] for row in export.attempts(ledger, NOW_MS + 11, NOW_MS + 13)] == [1, 2]


def test_what_changes_between_two_pages_is_neither_told_twice_nor_in_the_way(
    ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_REQUESTS", export._REQUESTS.replace("LIMIT 1000", "LIMIT 2"))
    rows = export.requests(ledger, *EVER)
    seen = [next(rows)["id"]]
    connection = sqlite3.connect(ledger / LEDGER)
    connection.execute("DELETE FROM request_rows WHERE id <= ?", (request_id(2, NOW_MS + 10),))
    connection.commit()
    connection.close()
    seen += [row["id"] for row in rows]
    assert seen == sorted(set(seen))
    assert len(seen) == 5
