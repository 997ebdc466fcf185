"""A million requests: whole and streamed, some that fail over, some that break, some whose caller leaves. What the server has grown by
since the first hundred thousand, and its ledger against the upstream's record, request by request and token by token.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter, defaultdict
from typing import Any

from tests.bench.load import Connection
from tests.soak.stage import ODD, Caller, Check, Stage, alone, at_most, each, none_of

_ALL, _ALL_SHORT = 1_000_000, 1_000
_FIRST = 10  # a tenth comes before growth is counted
_CLIENTS = 64
_FILES = 5
_GROWTH_MIB, _GROWTH_SHORT_MIB = 10, 40  # a hundred requests are not all that there is to warm up
_SETTLE_S = 600.0
_STREAMED = frozenset((1, 4, 7))  # of ten
_LEAVING = frozenset((12, 57))  # of a hundred
_FAULTY = frozenset((10, 31, 50, 74, 90))
_FAULTS = (*(f"odd-{name}" for name in ODD), "cut")
_NONE, _WHOLE, _BROKEN, _LEFT, _WRONG = range(5)


async def act(stage: Stage) -> list[Check]:
    wanted = stage.options.of(_ALL, _ALL_SHORT)
    growth_mib = stage.options.of(_GROWTH_MIB, _GROWTH_SHORT_MIB)
    ends = bytearray(wanted)
    wrong: Counter[str] = Counter()

    async def ask(caller: Caller, number: int) -> None:
        ends[number] = await _ask(caller, number, wrong)

    began = time.monotonic()
    numbers = iter(range(wanted))
    first = wanted // _FIRST
    await each(itertools.islice(numbers, first), _CLIENTS, stage.port, ask)
    still = await stage.settled(timeout_s=_SETTLE_S)
    before_mib, before_files = stage.rss_mib(), stage.files()
    await each(numbers, _CLIENTS, stage.port, ask)
    seconds = time.monotonic() - began
    still += await stage.settled(timeout_s=_SETTLE_S)
    after_mib, after_files = stage.rss_mib(), stage.files()
    return [
        Check("requests", f"{wanted:,} in {seconds:,.0f} s"),
        Check("broken off, as they should be; left", f"{ends.count(_BROKEN):,}; {ends.count(_LEFT):,}"),
        none_of("answered otherwise than they should be", ends.count(_WRONG) + ends.count(_NONE)),
        *(Check(f"of them {what}", f"{count:,}") for what, count in wrong.most_common(10)),
        none_of("still in use, here or upstream", still),
        at_most("resident memory, growth after the first tenth", after_mib - before_mib, growth_mib, "MiB"),
        # few requests do not fill the pool of connections, which may keep one for each client
        at_most("open files, growth", after_files - before_files, stage.options.of(_FILES, _CLIENTS), "files"),
        *_compare(stage, ends),
    ]


async def _ask(caller: Caller, number: int, wrong: Counter[str]) -> int:
    marker, stream, model = f"m{number}", number % 10 in _STREAMED, "mixed"
    if number % 100 in _LEAVING:
        await caller.ask("lone-50", stream=True, marker=marker, on_data=Connection.hang_up)
        await caller.close()
        return _LEFT
    status, end = 200, _WHOLE
    if number % 100 in _FAULTY:
        model = _FAULTS[number // 100 % len(_FAULTS)]
        if model == "cut":
            stream, end = True, _BROKEN
        elif model == "odd-echo-400":  # whoever is refused for its own mistake is told so, and nobody else is asked
            status, end = 400, _BROKEN
    answer = await caller.ask(model, stream=stream, marker=marker)
    if answer.status == status and answer.whole != (model == "cut"):
        return end
    wrong[f"{model}, {'streamed' if stream else 'whole'}: {answer.status}, {'complete' if answer.whole else 'broken off'}"] += 1
    return _WRONG


def _compare(stage: Stage, ends: bytearray) -> list[Check]:
    dispatched: dict[str, int] = defaultdict(int)
    given: dict[str, tuple[int, int, int]] = {}
    for record in stage.served():
        marker = record["marker"]
        dispatched[marker] += 1
        if record["status"] == 200 and record["whole"]:
            given[marker] = _tokens(record)
    rows = stage.sql("SELECT task_id, outcome, id, attempts FROM requests WHERE task_id GLOB 'm[0-9]*'")
    by_marker = {row[0]: row for row in rows}
    kept: dict[str, tuple[int, int, int]] = {}
    attempts: dict[str, int] = defaultdict(int)
    for marker, outcome, *tokens in stage.sql(_ATTEMPTS):
        attempts[marker] += 1
        if outcome == "ok":
            kept[marker] = (tokens[0], tokens[1], tokens[2])
    outcomes = {_WHOLE: ("ok",), _BROKEN: ("failed",), _LEFT: ("client_gone", "ok"), _WRONG: (), _NONE: ()}
    whole = [f"m{number}" for number, end in enumerate(ends) if end == _WHOLE]
    missing = [f"m{number}" for number in range(len(ends)) if f"m{number}" not in by_marker and f"m{number}" in dispatched]
    other = [marker for marker, row in by_marker.items() if row[1] not in outcomes[ends[int(marker[1:])]]]
    # a call whose answer never began is made once more on a fresh connection; a caller may leave before the upstream is reached
    unmatched = [
        marker for marker, row in by_marker.items() if ends[int(marker[1:])] == _WHOLE and attempts[marker] != dispatched[marker]
    ]
    upstream = [sum(given[marker][at] for marker in whole if marker in given) for at in range(3)]
    ledger = [sum(kept[marker][at] for marker in whole if marker in kept) for at in range(3)]
    sums = stage.sql("SELECT sum(requests), sum(attempts), sum(output_tokens), sum(cost_nusd) FROM usage_hourly")[0]
    each_row = stage.sql(_ALL_ATTEMPTS)[0]
    requests = stage.sql("SELECT count(*) FROM requests WHERE ended = 1")[0][0]
    return [
        none_of("dispatched without a row", len(missing)),
        none_of("two rows for one request", len(rows) - len(by_marker)),
        none_of("rows with another outcome", len(other)),
        none_of("whole answers with other tokens than the upstream's", sum(kept.get(m) != given.get(m) for m in whole)),
        none_of("whole answers with more or fewer attempts than calls", len(unmatched)),
        Check("tokens in, cached, out", _figures(ledger), _figures(upstream), ledger == upstream),
        Check("sums of the ledger", _figures(sums), _figures((requests, *each_row)), sums == (requests, *each_row)),
    ]


_ATTEMPTS = (
    "SELECT r.task_id, a.outcome, a.input_tokens, a.cached_input_tokens, a.output_tokens FROM attempts a"
    " JOIN request_rows r ON r.id = a.request_id WHERE r.task_id GLOB 'm[0-9]*'"
)
_ALL_ATTEMPTS = "SELECT count(*), sum(output_tokens), sum(cost_nusd) FROM attempt_rows WHERE rank = 2"


def _tokens(record: dict[str, Any]) -> tuple[int, int, int]:
    return record["input_tokens"], record["cached_input_tokens"], record["output_tokens"]


def _figures(values: Any) -> str:
    return ", ".join(f"{value or 0:,}" for value in values)


run = alone(act)
