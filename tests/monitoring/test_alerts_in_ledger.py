"""The desk, the real journal and the real ledger: what is open in one is open in the other, step by step and after a restart."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.accounting.journal import Journal
from proxy.core.ulid import UlidFactory
from proxy.monitoring.alerts import DEFAULT_HOLD_S, MAX_OPEN, AlertDesk, Notice
from proxy.storage.drainer import Drainer
from proxy.storage.queries import Queries
from tests.monitoring.test_alerts import DOWN, ERRORS, START, WORSE, RecordingLog, Time
from tests.storage.records import open_journal

pytestmark = [pytest.mark.unit, pytest.mark.anyio]


class Lives:
    """One data directory, and a desk for each life of the proxy."""

    def __init__(self, directory: Path) -> None:
        self.time = Time(START + 0.0004)  # no whole millisecond
        self.directory = directory
        self.told: list[Notice] = []
        self.number = 0
        self.drainer = Drainer(directory, self.time.wall, log=lambda _event, _fields: None)
        self.journal: Journal | None = None

    async def begin(self) -> AlertDesk:
        if self.journal is not None:
            self.journal.close()
        self.number += 1
        self.journal = open_journal(self.directory, f"BOOT{self.number}")
        desk = AlertDesk(
            clock=self.time,
            new_id=UlidFactory(self.time.wall),
            append=self.journal.append,
            tell=self.told.append,
            log=RecordingLog(),
        )
        desk.seed(await self.rows())
        return desk

    async def rows(self, *, open_only: bool = True) -> list[dict[str, object]]:
        self.drainer.drain()
        queries = Queries(self.directory)
        try:
            return await queries.alerts(MAX_OPEN, open_only=open_only)
        finally:
            await queries.aclose()


@pytest.fixture
def lives(tmp_path: Path) -> Iterator[Lives]:
    made = Lives(tmp_path)
    yield made
    made.drainer.close()
    if made.journal is not None:
        made.journal.close()


async def test_the_ledger_has_what_the_desk_has_after_every_step(lives: Lives) -> None:
    desk = await lives.begin()
    reached: list[str] = []
    steps: list[tuple[str, Callable[[], object]]] = [
        ("raised", lambda: desk.update([DOWN, ERRORS])),
        ("acknowledged", lambda: [desk.acknowledge(alert["id"]) for alert in desk.alerts()]),
        ("worse, and so no longer acknowledged", lambda: desk.update([DOWN, WORSE])),
        ("acknowledged again", lambda: [desk.acknowledge(alert["id"]) for alert in desk.alerts()]),
        ("one is gone", lambda: desk.update([WORSE])),
        ("and over", lambda: desk.update([WORSE])),
    ]
    for name, step in steps:
        lives.time.now += DEFAULT_HOLD_S
        step()
        kept = sorted(await lives.rows(), key=lambda row: str(row["id"]))
        assert kept == sorted(desk.alerts(), key=lambda row: str(row["id"])), name
        desk = await lives.begin()  # the next step is another life's
        assert sorted(desk.alerts(), key=lambda row: str(row["id"])) == kept, name
        reached.append(name)
        if name == "one is gone":
            desk.update([WORSE])
    assert len(reached) == len(steps)
    events = [(notice.event, notice.alert["kind"], notice.alert["severity"]) for notice in lives.told]
    assert events == [
        ("raised", "provider_down", "error"),
        ("raised", "error_rate", "warning"),
        ("raised", "error_rate", "error"),
        ("resolved", "provider_down", "error"),
    ]


async def test_what_is_over_is_kept_as_it_was(lives: Lives) -> None:
    desk = await lives.begin()
    desk.update([replace(DOWN, kind="config_reload")])
    lives.time.now += 90
    desk.update([])
    assert await lives.rows() == []
    assert await lives.rows(open_only=False) == [lives.told[-1].alert]
    assert lives.told[-1].alert["resolved"] == "2026-11-01T00:01:30.000Z"
