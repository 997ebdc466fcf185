"""Counters of the ledger become events: what was there before the start is not told again."""

import pytest

from proxy.telemetry.families import EVENTS
from proxy.telemetry.ledger_counts import EVENTS_OF, LedgerCounts

pytestmark = pytest.mark.unit


def test_what_is_added_is_counted_and_what_was_there_is_not() -> None:
    events: list[str] = []
    counts = LedgerCounts(events.append)
    counts.look({"interrupted_attempts": 40, "torn_segments": 2})
    counts.look({"interrupted_attempts": 42, "torn_segments": 3})
    counts.look({"interrupted_attempts": 42, "torn_segments": 3})
    assert events == ["recovered"] * 2


def test_a_ledger_that_was_made_anew_begins_at_nothing() -> None:
    events: list[str] = []
    counts = LedgerCounts(events.append)
    counts.look({"interrupted_attempts": 40})
    counts.look({"corrupt": 1})
    counts.look({"corrupt": 1, "interrupted_attempts": 3})
    assert events == ["ledger_corrupt", "recovered", "recovered", "recovered"]
    assert counts.remade == 1


def test_its_events_are_of_the_list() -> None:
    assert set(EVENTS_OF.values()) <= set(EVENTS)
