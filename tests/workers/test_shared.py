"""The table that workers share: against plain sums, torn at every store, full of garbage, and between two processes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from proxy.core.shared import ALONE, Fact, Facts, Share
from proxy.workers.seat import Seat
from proxy.workers.shared import IMPLAUSIBLE, LONGEST_FACT_S, MAX_HEARD, ROWS, SLOTS, Table, _Row, make

WORKERS = 3
NOW = 1000.0


def seats(of: int = WORKERS) -> list[Seat]:
    return [Seat(index, of, Path("/nowhere")) for index in range(of)]


def tables(of: int = WORKERS) -> list[Table]:
    memory = make(of)
    return [Table(memory, seat) for seat in seats(of)]


def facts_of(table: Table) -> Facts:
    assert table.facts is not None
    return table.facts


# -- cells


@pytest.mark.unit
def test_each_reads_the_sum_of_the_others_and_not_its_own() -> None:
    cells = [table.cell("in_flight", "groq") for table in tables()]
    for number, cell in enumerate(cells, 1):
        cell.publish(number)
    assert [cell.others() for cell in cells] == [5, 4, 3]


@pytest.mark.unit
def test_a_row_that_is_made_later_is_seen_at_once() -> None:
    first, second, _ = tables()
    mine = first.cell("a")
    assert mine.others() == 0
    second.cell("b").publish(9)
    second.cell("a").publish(2)
    assert mine.others() == 2


@pytest.mark.unit
@pytest.mark.parametrize(
    ("one", "other"), [(("a", "bc"), ("ab", "c")), (("a",), ("a", "")), (("1:a",), ("a",)), (("\ud800",), ("\ud801",))]
)
def test_names_that_could_be_confused_are_not(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    first, second, _ = tables()
    first.cell(*one).publish(1)
    assert second.cell(*other).others() == 0
    assert second.cell(*one).others() == 1


@pytest.mark.unit
def test_cells_periods_and_windows_of_one_name_are_three_things() -> None:
    first, second, _ = tables()
    first.cell("a").publish(1)
    first.period("a").publish(0, 10, 20)
    first.window("a").publish(100, NOW + 1, NOW + 60)
    assert second.cell("a").others() == 1
    assert second.period("a").others(0) == (10, 20)
    assert second.window("a").others(NOW) == 100


@pytest.mark.unit
def test_who_is_in_another_period_counts_nothing() -> None:
    cells = [table.period("budget", "total") for table in tables()]
    cells[0].publish(5_000, 7, 1)
    cells[1].publish(6_000, 30, 2)
    assert cells[2].others(5_000) == (7, 1)
    assert cells[2].others(6_000) == (30, 2)
    assert cells[2].others(7_000) == (0, 0)
    assert [cell.latest_ms() for cell in cells] == [6_000] * 3
    assert tables()[0].period("budget", "total").latest_ms() is None


@pytest.mark.unit
def test_a_minute_counts_until_its_last_slot_is_over() -> None:
    first, second, third = [table.window("rpm", "groq") for table in tables()]
    first.publish(4, NOW + 10, NOW + 50)
    second.publish(1, NOW + 20, NOW + 30)
    assert third.others(NOW) == 5
    assert third.others(NOW + 30) == 4
    assert third.others(NOW + 50) == 0
    assert third.shares(NOW + 5) == [Share(4, NOW + 10, NOW + 50), Share(1, NOW + 20, NOW + 30)]
    assert third.shares(NOW + 30) == [Share(4, NOW + 30, NOW + 50)]
    assert third.left(NOW) is None
    second.publish(1, NOW, NOW + 62)  # no minute is that long
    assert (third.others(NOW), third.shares(NOW)) == (4, [Share(4, NOW + 10, NOW + 50)])


@pytest.mark.unit
def test_who_takes_a_seat_finds_what_was_used_there_and_nobody_what_was_held() -> None:
    memory = make(2)
    dead, alive = [Table(memory, seat) for seat in seats(2)]
    dead.cell("in_flight").publish(3)
    dead.period("budget").publish(5_000, 70, 8)
    dead.window("rpm").publish(6, NOW + 1, NOW + 60)
    of_alive = alive.cell("in_flight"), alive.period("budget"), alive.window("rpm")
    assert (of_alive[0].others(), of_alive[1].others(5_000)) == (3, (70, 8))
    successor = Table(memory, seats(2)[0])
    # before it has asked for any of it
    assert (of_alive[0].others(), of_alive[1].others(5_000), of_alive[2].others(NOW)) == (0, (70, 0), 6)
    assert successor.period("budget").left(5_000) == 70
    assert successor.period("budget").left(6_000) == 0
    share = successor.window("rpm").left(NOW)
    assert share is not None
    assert (share.used, share.last) == (6, NOW + 60)
    assert successor.window("rpm").left(NOW + 60) is None
    assert (successor.rows, successor.refused) == (2, 0)


@pytest.mark.unit
def test_what_is_closed_is_gone_and_what_is_still_published_goes_nowhere() -> None:
    first, second, _ = tables()
    closed, other = first.cell("a"), second.cell("a")
    closed.publish(5)
    assert other.others() == 5
    closed.close()
    assert other.others() == 0
    again = first.cell("b")
    closed.publish(7)
    closed.close()
    assert (second.cell("b").others(), other.others(), first.rows) == (0, 0, 1)
    again.publish(1)
    assert second.cell("b").others() == 1


@pytest.mark.unit
def test_a_name_that_is_open_has_one_writer_the_last() -> None:
    first, second, _ = tables()
    before, after = first.cell("a"), first.cell("a")
    after.publish(2)
    before.publish(50)
    before.close()
    assert (second.cell("a").others(), first.rows) == (2, 1)


@pytest.mark.unit
def test_a_full_table_refuses_and_counts_it_until_there_is_room_again() -> None:
    first, second, _ = tables()
    opened = [first.cell(str(number)) for number in range(ROWS)]
    opened[-1].publish(4)
    assert second.cell(str(ROWS - 1)).others() == 4
    refused = first.cell("one more")
    refused.publish(9)
    assert (refused.others(), refused is ALONE.cell("one more"), first.refused) == (0, True, 1)
    assert second.cell("one more").others() == 0
    opened[7].close()
    first.cell("one more").publish(9)
    assert second.cell("one more").others() == 9
    assert second.cell("7").others() == 0


@pytest.mark.unit
def test_who_has_missed_more_than_the_log_holds_looks_at_everything() -> None:
    first, second, _ = tables()
    mine, lasting = second.cell("a"), first.cell("a")
    lasting.publish(3)
    assert mine.others() == 3
    for number in range(ROWS):
        first.cell(str(number)).close()
    first.cell("b").publish(8)
    assert mine.others() == 3
    assert second.cell("b").others() == 8


@pytest.mark.unit
def test_rows_that_the_one_before_left_are_taken_when_there_are_no_others() -> None:
    memory = make(2)
    dead = Table(memory, seats(2)[0])
    for number in range(ROWS):
        dead.cell(f"of a model that is gone {number}")
    successor, other = Table(memory, seats(2)[0]), Table(memory, seats(2)[1])
    for number in range(10):
        successor.cell(str(number)).publish(number)
    assert [other.cell(str(number)).others() for number in range(10)] == list(range(10))
    assert successor.refused == 0


@pytest.mark.unit
@pytest.mark.parametrize("value", [-1, -(2**70), 2**63, 2**200, IMPLAUSIBLE])
def test_numbers_that_have_no_place_in_a_word_are_bounded(value: int) -> None:
    first, second, _ = tables()
    first.cell("a").publish(value)
    first.period("a").publish(0, value, value)
    first.window("a").publish(value, NOW + 1, NOW + 60)
    bound = 0 if value < 0 else IMPLAUSIBLE - 1
    assert (second.cell("a").others(), second.period("a").others(0)) == (bound, (bound, bound))
    assert second.window("a").others(NOW) == bound


@pytest.mark.unit
@pytest.mark.parametrize("value", [-1, -(2**63), 2**63 - 1, IMPLAUSIBLE])
def test_numbers_that_cannot_be_are_none(value: int) -> None:
    memory = make(2)
    first, second = [Table(memory, seat) for seat in seats(2)]
    period, window, cell = first.period("a"), first.window("a"), first.cell("a")
    window.publish(5, NOW + 1, NOW + 60)
    period.publish(0, 5, 5)
    used, held = 3, 4
    for row in (period, window, cell):
        assert isinstance(row, _Row)
        (at,) = second.places(row.key)
        for word in (used,) if row is window else (used, held):
            first._words[at + word] = value
    assert (second.period("a").others(0), second.window("a").others(NOW), second.cell("a").others()) == ((0, 0), 0, 0)
    assert second.window("a").shares(NOW) == []
    assert Table(memory, seats(2)[0]).period("a").left(0) == 0


@pytest.mark.unit
def test_alone_there_is_nobody_else() -> None:
    cell, period, window = ALONE.cell("a"), ALONE.period("a"), ALONE.window("a")
    cell.publish(1)
    period.publish(0, 1, 1)
    window.publish(1, 1.0, 60.0)
    assert (cell.others(), period.others(0), period.left(0), period.latest_ms()) == (0, (0, 0), 0, None)
    assert (window.others(0.0), window.shares(0.0), window.left(0.0), ALONE.facts) == (0, (), None, None)
    for one in (cell, period, window):
        one.close()


class Sums(RuleBasedStateMachine):
    """Workers that open, publish, close and die, against a dict of what each has published."""

    names = st.sampled_from("abcd")
    workers = st.integers(0, WORKERS - 1)
    amounts = st.integers(0, 10**12)
    starts = st.sampled_from([0, 1_000, 2_000])

    @initialize()
    def start(self) -> None:
        self.memory = make(WORKERS)
        self.tables = [Table(self.memory, seat) for seat in seats()]
        self.cells: list[dict[str, Any]] = [{} for _ in range(WORKERS)]
        self.published: list[dict[str, tuple[int, int, int]]] = [{} for _ in range(WORKERS)]

    @rule(worker=workers, name=names, start=starts, used=amounts, held=amounts)
    def publish(self, worker: int, name: str, start: int, used: int, held: int) -> None:
        if name not in self.cells[worker]:
            self.cells[worker][name] = self.tables[worker].period(name)
        self.cells[worker][name].publish(start, used, held)
        self.published[worker][name] = start, used, held

    @rule(worker=workers, name=names)
    def close(self, worker: int, name: str) -> None:
        if name in self.cells[worker]:
            self.cells[worker].pop(name).close()
            del self.published[worker][name]

    @rule(worker=workers)
    def die_and_be_replaced(self, worker: int) -> None:
        self.tables[worker] = Table(self.memory, seats()[worker])
        self.cells[worker] = {}
        self.published[worker] = {name: (start, used, 0) for name, (start, used, _) in self.published[worker].items()}

    @rule(worker=workers, name=names, start=starts)
    def take_up(self, worker: int, name: str, start: int) -> None:
        if name in self.published[worker] and name not in self.cells[worker]:
            cell = self.cells[worker][name] = self.tables[worker].period(name)
            was, used, _ = self.published[worker][name]
            assert cell.left(start) == (used if start == was else 0)

    @invariant()
    def adds_up(self) -> None:
        for worker, cells in enumerate(getattr(self, "cells", ())):
            for name, cell in cells.items():
                for start in (0, 1_000, 2_000):
                    rows = [p[name] for index, p in enumerate(self.published) if index != worker and name in p]
                    rows = [row for row in rows if row[0] == start]
                    assert cell.others(start) == (sum(row[1] for row in rows), sum(row[2] for row in rows))


Sums.TestCase.settings = settings(max_examples=15, stateful_step_count=30, deadline=None)
TestAgainstPlainSums = pytest.mark.property(Sums.TestCase)


# -- torn


class Dead(BaseException):
    """`kill -9` between two stores."""


class Torn:
    """The words of a table as one worker has them: `before(n)` happens before its n-th look at them, or store."""

    def __init__(
        self, words: Any, *, stores: Callable[[int], None] | None = None, loads: Callable[[int], None] | None = None
    ) -> None:
        self.words = words
        self.stores = stores
        self.loads = loads
        self.stored = self.loaded = 0

    def __getitem__(self, at: int) -> int:
        if self.loads is not None:
            self.loads(self.loaded)
        self.loaded += 1
        found: int = self.words[at]
        return found

    def __setitem__(self, at: int, value: int) -> None:
        if self.stores is not None:
            self.stores(self.stored)
        self.stored += 1
        self.words[at] = value


def torn(holder: Any, **hooks: Callable[[int], None]) -> Torn:
    """From now on what it does to the table is seen word by word."""
    holder._words = found = Torn(holder._words, **hooks)
    return found


STEPS = [
    ("a hold", (0, 100, 10), (0, 100, 25)),
    ("a settlement", (0, 100, 10), (0, 104, 0)),
    ("a settlement beyond its hold", (0, 100, 10), (0, 130, 0)),
    ("a release", (0, 100, 10), (0, 100, 0)),
    ("seeding", (0, 100, 10), (0, 900, 10)),
]


@pytest.mark.unit
@pytest.mark.parametrize(("before", "after"), [step[1:] for step in STEPS], ids=[step[0] for step in STEPS])
def test_who_reads_while_another_writes_never_sees_too_little(before: tuple[int, int, int], after: tuple[int, int, int]) -> None:
    writer, reader, _ = [table.period("budget") for table in tables()]
    least = min(sum(before[1:]), sum(after[1:]))
    seen: list[int] = []
    writer.publish(*before)
    words = torn(writer, stores=lambda _: seen.append(sum(reader.others(0))))
    writer.publish(*after)
    assert words.stored == len(seen) >= 2
    assert min(seen) >= least


@pytest.mark.unit
@pytest.mark.parametrize(("before", "after"), [step[1:] for step in STEPS], ids=[step[0] for step in STEPS])
def test_who_is_overtaken_while_it_reads_never_sees_too_little(before: tuple[int, int, int], after: tuple[int, int, int]) -> None:
    writer, reader, _ = [table.period("budget") for table in tables()]
    least = min(sum(before[1:]), sum(after[1:]))
    for moment in range(8):
        writer.publish(*before)

        def overtake(n: int, moment: int = moment) -> None:
            if n == moment:
                writer.publish(*after)

        words = torn(reader, loads=overtake)
        assert sum(reader.others(0)) >= least
        assert words.loaded >= 3


@pytest.mark.unit
def test_the_first_store_of_a_new_period_ends_the_old_one_and_the_last_begins_it() -> None:
    writer, reader, _ = [table.period("budget") for table in tables()]
    writer.publish(0, 100, 10)
    seen: list[tuple[tuple[int, int], tuple[int, int]]] = []
    torn(writer, stores=lambda _: seen.append((reader.others(0), reader.others(1_000))))
    writer.publish(1_000, 1, 2)
    assert seen == [((100, 10), (0, 0)), *[((0, 0), (0, 0))] * 3]
    assert reader.others(1_000) == (1, 2)


def actions(table: Table) -> Iterator[None]:
    """All that a worker does, one thing after the other."""
    budget, window, cell = table.period("budget"), table.window("rpm"), table.cell("in_flight")
    facts = facts_of(table)
    yield
    budget.publish(0, max(100, budget.left(0)), 10)
    window.publish(5, NOW + 1, NOW + 60)
    cell.publish(2)
    facts.tell(facts.name("cool", "groq"), NOW + 30, 0, NOW)
    facts.tell(facts.name("cool", "groq"), NOW + 40, 0, NOW)
    table.cell("brief").close()
    table.cell("brief too")
    budget.publish(0, 120, 0)
    budget.publish(1_000, 3, 0)


@pytest.mark.unit
def test_a_worker_may_die_at_any_store_and_the_next_one_goes_on() -> None:
    died = 0
    for moment in range(200):
        memory = make(2)
        table, other = [Table(memory, seat) for seat in seats(2)]
        reader = other.period("budget"), other.window("rpm"), other.cell("in_flight")

        def die(n: int, moment: int = moment) -> None:
            if n == moment:
                raise Dead

        words = Torn(table._words, stores=die)
        table._words = facts_of(table)._words = words  # type: ignore[assignment, attr-defined]
        try:
            for _ in actions(table):
                pass
        except Dead:
            died += 1
        else:
            break
        assert reader[1].others(NOW) in (0, 5)
        heard = list(facts_of(other).news(NOW))
        successor = Table(memory, seats(2)[0])
        assert reader[2].others() == 0
        assert reader[0].others(0)[1] == 0
        for _ in actions(successor):
            assert reader[0].others(1_000) in ((0, 0), (3, 0))
        assert (reader[0].others(1_000), reader[1].others(NOW), reader[2].others()) == ((3, 0), 5, 2)
        heard += facts_of(other).news(NOW)
        assert max(fact.until for fact in heard) == NOW + 40
    assert died > 40, "it did not get through what it does, or did not do it"


@pytest.mark.property
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_garbage_is_never_believed_and_never_raises(data: st.DataObject) -> None:
    memory = make(2)
    table, other = [Table(memory, seat) for seat in seats(2)]
    for _ in actions(table):
        pass
    for _ in actions(other):
        pass
    whole = len(memory)
    half = whole // 2
    places = [0, half, half + 512, half + 512 + ROWS * 8, half - SLOTS * 64]  # counters, log, rows, facts
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.one_of(st.sampled_from(places), st.integers(0, whole - 4_096)))
        garbage = data.draw(st.one_of(st.binary(min_size=1, max_size=64), st.sampled_from([b"\xff" * 4_096, b"\x7f" * 512])))
        memory[at : at + len(garbage)] = garbage
    for one in (table, other, Table(memory, seats(2)[1])):
        with suppress(StopIteration):
            for _ in actions(one):
                continue
        budget, window = one.period("budget"), one.window("rpm")
        assert all(0 <= value < 2 * IMPLAUSIBLE for value in (*budget.others(0), one.cell("in_flight").others()))
        assert budget.latest_ms() is None or budget.latest_ms() >= 0  # type: ignore[operator]
        assert all(share.last <= NOW + 61 for share in window.shares(NOW))
        for fact in facts_of(one).news(NOW):
            assert NOW < fact.until <= NOW + LONGEST_FACT_S


# -- facts


@pytest.mark.unit
def test_a_fact_is_news_once_to_each_and_never_to_who_told_it() -> None:
    first, second, third = [facts_of(table) for table in tables()]
    name = first.name("cool", "groq", "key0", "m")
    first.tell(name, NOW + 30, 2, NOW)
    assert second.news(NOW) == [Fact(name, NOW + 30, 2)]
    assert (second.news(NOW), first.news(NOW)) == ([], [])
    assert third.news(NOW + 1) == [Fact(name, NOW + 30, 2)]
    assert second.recall(name, NOW) == Fact(name, NOW + 30, 2)
    assert second.recall(name, NOW + 30) is None
    assert first.recall(name, NOW) is None


@pytest.mark.unit
def test_of_two_facts_the_longer_is_true() -> None:
    first, second, third = [facts_of(table) for table in tables()]
    name = first.name("cool")
    first.tell(name, NOW + 30, 0, NOW)
    first.tell(name, NOW + 20, 1, NOW)
    assert third.news(NOW) == [Fact(name, NOW + 30, 0)]
    second.tell(name, NOW + 10, 1, NOW)
    assert third.news(NOW) == [Fact(name, NOW + 10, 1)]
    assert third.recall(name, NOW) == Fact(name, NOW + 30, 0)
    first.tell(name, NOW + 50, 1, NOW)
    assert third.news(NOW) == [Fact(name, NOW + 50, 1)]


@pytest.mark.unit
def test_what_is_over_is_no_news_and_what_lasts_too_long_is_cut() -> None:
    first, second, _ = [facts_of(table) for table in tables()]
    first.tell(first.name("over"), NOW - 1, 0, NOW)
    first.tell(first.name("for ever"), NOW + 1e9, 0, NOW)
    assert second.news(NOW) == [Fact(first.name("for ever"), NOW + LONGEST_FACT_S, 0)]


@pytest.mark.unit
def test_a_new_worker_hears_what_is_so_from_the_others_and_from_the_one_before_it() -> None:
    memory = make(2)
    dead, other = [facts_of(Table(memory, seat)) for seat in seats(2)]
    dead.tell(dead.name("latch"), NOW + 600, 1, NOW)
    dead.tell(dead.name("cool"), NOW + 1, 0, NOW)
    other.tell(dead.name("open"), NOW + 30, 0, NOW)
    successor = facts_of(Table(memory, seats(2)[0]))
    expected = {Fact(dead.name("latch"), NOW + 600, 1), Fact(dead.name("open"), NOW + 30, 0)}
    assert set(successor.news(NOW + 2)) == expected
    successor.tell(dead.name("latch"), NOW + 300, 0, NOW)  # what the one before told still stands
    assert [fact.until for fact in other.news(NOW + 2)] == [NOW + 600]


@pytest.mark.unit
def test_when_all_slots_are_taken_a_fact_that_is_over_makes_room() -> None:
    tables_ = tables(2)
    first, second = [facts_of(table) for table in tables_]
    for number in range(SLOTS):
        first.tell(first.name(str(number)), NOW + 10 + (number == 0), 0, NOW)
    first.tell(first.name("too many"), NOW + 20, 0, NOW)
    assert tables_[0].refused == 1
    assert len(list(second.news(NOW))) == SLOTS
    first.tell(first.name("later"), NOW + 20, 3, NOW + 10)
    assert second.news(NOW + 10) == [Fact(first.name("later"), NOW + 20, 3)]
    assert second.recall(first.name("0"), NOW + 10) is not None


@pytest.mark.unit
def test_what_was_heard_is_bounded() -> None:
    tables_ = tables(6)
    all_facts = [facts_of(table) for table in tables_]
    listener = all_facts.pop(0)
    for worker, facts in enumerate(all_facts):
        for number in range(SLOTS):
            facts.tell(facts.name(str(worker), str(number)), NOW + 10, 0, NOW)
    heard = list(listener.news(NOW))
    assert len(heard) == 5 * SLOTS
    assert sum(listener.recall(fact.name, NOW) is not None for fact in heard) == MAX_HEARD
    all_facts[0].tell(listener.name("0", "0"), NOW + 30, 0, NOW)
    assert [fact.until for fact in listener.news(NOW + 20)] == [NOW + 30]
    assert listener.recall(listener.name("0", "0"), NOW + 20) is not None


@pytest.mark.unit
def test_half_a_fact_is_none_and_a_whole_one_is_heard() -> None:
    writer, reader = tables(2)
    heard: list[Fact] = []
    facts = facts_of(writer)
    torn(facts, stores=lambda _: heard.extend(facts_of(reader).news(NOW)))
    name = facts.name("cool")
    facts.tell(name, NOW + 10, 1, NOW)
    heard += facts_of(reader).news(NOW)
    facts.tell(name, NOW + 20, 2, NOW)
    heard += facts_of(reader).news(NOW)
    assert heard == [Fact(name, NOW + 10, 1), Fact(name, NOW + 20, 2)]


# -- processes


@pytest.mark.integration
def test_two_processes_spend_one_budget() -> None:
    script = Path(__file__).with_name("spend.py")
    root = script.parent.parent.parent
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    told = json.loads(done.stdout)
    workers, limit, bound = told["workers"], told["limit"], told["bound"]
    assert told["spent"] == [sum(told["admitted"])] * workers, "each sees what all have spent, to the last"
    assert limit <= told["spent"][0] <= limit + workers * bound
    assert told["held"] == [0] * workers
    assert all(admitted for admitted in told["admitted"]), "all of them got some of it"
