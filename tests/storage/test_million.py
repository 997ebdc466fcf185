"""A million requests in 90 days, some 390 combinations in every hour: what each report costs.

In processor time, so that a busy machine does not count; a report is one thread's work, so on an idle one it is the time to wait, too.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from proxy.storage.queries import Queries
from tests.storage import big
from tests.storage.big import DAY_MS, FIRST_MS, collecting_as_the_server_does, shown

pytestmark = [pytest.mark.performance, pytest.mark.anyio]

END = FIRST_MS + 90 * DAY_MS
MONTH, WEEK = END - 30 * DAY_MS, END - 7 * DAY_MS
SOME = {"department": "department-1", "model": "model-3"}
ONE = {"department": "department-1"}
RUNS = 20
Ask = Callable[[Queries], Awaitable[Any]]

REPORTS: dict[str, Ask] = {
    **{
        f"a quarter by {group}": lambda q, group=group: q.usage([group], FIRST_MS, END, percentiles=True)  # type: ignore[misc]
        for group in ("provider", "model", "chain", "client", "department", "agent", "task", "key")
    },
    "advice": lambda q: q.usage(["chain", "provider", "model"], MONTH, END),
    "a department's models": lambda q: q.usage(["model"], MONTH, END, filters=ONE, percentiles=True),
    "a department's agents": lambda q: q.usage(["agent"], MONTH, END, filters=ONE, percentiles=True),
    "clients of a department and model": lambda q: q.usage(["client"], MONTH, END, filters=SOME, percentiles=True),
    "a quarter in all": lambda q: q.totals(FIRST_MS, END),
    "a month of a department and model": lambda q: q.totals(MONTH, END, SOME),
    "months in California": lambda q: q.usage(["month"], FIRST_MS, END, time_zone="America/Los_Angeles"),
    "days in Berlin by provider": lambda q: q.timeseries("day", MONTH, END, group_by="provider", time_zone="Europe/Berlin"),
    "days in California": lambda q: q.timeseries("day", FIRST_MS, END, time_zone="America/Los_Angeles"),
    "hours of a month": lambda q: q.timeseries("hour", MONTH, END),
    "hours of a week by provider": lambda q: q.timeseries("hour", WEEK, END, group_by="provider"),
    "hours of a week of a department and model": lambda q: q.timeseries("hour", WEEK, END, filters=SOME),
    "failovers of a quarter": lambda q: q.fallbacks(FIRST_MS, END),
    "failovers of a month": lambda q: q.fallbacks(MONTH, END),
    "what a client spent": lambda q: q.spent_nusd("client", "client-3", MONTH),
    "what a key used": lambda q: q.used("provider-3", "key-3", MONTH + 1_234_567),
    "the newest requests": lambda q: q.list_requests(100),
    "the newest of a department": lambda q: q.list_requests(100, department="department-3"),
    "a month by department and model": lambda q: q.usage(["department", "model"], MONTH, END),
    "a quarter by department and model": lambda q: q.usage(["department", "model"], FIRST_MS, END),
    "months of a quarter by department and model": lambda q: q.usage(["month", "department", "model"], FIRST_MS, END),
    "days of a quarter by provider": lambda q: q.usage(["day", "provider"], FIRST_MS, END, percentiles=True),
    "a week by department, model and day": lambda q: q.usage(
        ["department", "model", "day"], WEEK, END, percentiles=True, limit=1000, bounded=True
    ),
    "hours of a month by five providers": lambda q: q.timeseries(
        "hour", MONTH, END, group_by="provider", among=[f"provider-{number}" for number in range(5)]
    ),
}


@pytest.fixture(scope="session")
def million(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data_dir = tmp_path_factory.mktemp("million")
    big.make(data_dir, requests=1_000_000, days=90)
    return data_dir


@pytest.fixture
async def queries(million: Path) -> AsyncIterator[Queries]:
    queries = Queries(million)
    yield queries
    await queries.aclose()


async def costs_ms(queries: Queries, ask: Ask) -> list[float]:
    costs = []
    with collecting_as_the_server_does():
        for _ in range(RUNS):
            before = time.process_time()
            await ask(queries)
            costs.append((time.process_time() - before) * 1000)
    return costs


@pytest.mark.parametrize("name", REPORTS)
async def test_a_report_takes_less_than_a_tenth_of_a_second(queries: Queries, name: str) -> None:
    words, p95 = shown(await costs_ms(queries, REPORTS[name]))
    print(f"{name}: {words}")
    assert p95 < 100
