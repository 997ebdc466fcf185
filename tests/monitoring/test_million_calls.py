"""What each report costs over a million requests in 90 days: processor time, so that a busy machine does not count."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from proxy.accounting.states import BudgetState, QuotaState
from proxy.config.load import load
from proxy.monitoring import reports
from proxy.monitoring.picture import Picture
from proxy.monitoring.query import Query, read_query
from proxy.storage.queries import Queries
from tests.storage import big
from tests.storage.big import DAY_MS, FIRST_MS, collecting_as_the_server_does, shown

pytestmark = [pytest.mark.performance, pytest.mark.anyio]

WALL = (FIRST_MS + 90 * DAY_MS) / 1000
RUNS = 20
Ask = Callable[[Picture, Queries], Awaitable[Any]]


def of(**given: str) -> Query:
    return read_query(given, WALL)


REPORTS: dict[str, Ask] = {
    "dashboard, this month": lambda p, q: reports.dashboard(p, q, of()),
    "dashboard, 30 days": lambda p, q: reports.dashboard(p, q, of(since="30d")),
    "dashboard, an hour": lambda p, q: reports.dashboard(p, q, of(since="1h")),
    "dashboard, 30 days of Berlin": lambda p, q: reports.dashboard(p, q, of(since="30d", time_zone="Europe/Berlin")),
    "dashboard, 30 days of a department": lambda p, q: reports.dashboard(p, q, of(since="30d", department="department-1")),
    "cost-analysis": lambda p, q: reports.cost_analysis(p, q, of(since="30d")),
    "department-usage": lambda p, q: reports.department_usage(q, of(since="30d"), "department-1"),
    "agent-usage": lambda p, q: reports.agent_usage(q, of(since="30d"), "agent-1"),
    "fallback-stats": lambda p, q: reports.fallback_stats(q, of(since="30d")),
    "usage by provider and model": lambda p, q: reports.usage(q, of(since="30d"), ["provider", "model"]),
    "timeseries, 30 days": lambda p, q: reports.timeseries(q, of(since="30d")),
    "timeseries, 30 days by provider": lambda p, q: reports.timeseries(q, of(since="30d"), group_by="provider"),
    "timeseries, 72 hours by provider": lambda p, q: reports.timeseries(q, of(since="72h"), group_by="provider"),
    "budgets": reports.budgets,
    "quotas": reports.quotas,
    "alerts": reports.alerts,
    "timeseries, the hours of 30 days by client": lambda p, q: reports.timeseries(
        q, of(since="30d"), step="hour", group_by="client"
    ),
    "a page of usage by client and day": lambda p, q: reports.usage_page(q, of(since="90d"), ["client", "day"]),
    "advice": lambda p, q: reports.advice(p, q, lambda target: None),
    "monitor": lambda p, q: reports.monitor(p, q, of(since="30d"), lambda target: None),
}


@pytest.fixture(scope="module")
def million(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data_dir = tmp_path_factory.mktemp("million")
    big.make(data_dir, requests=1_000_000, days=90)
    return data_dir


@pytest.fixture
async def ledger(million: Path) -> AsyncIterator[Queries]:
    queries = Queries(million)
    yield queries
    await queries.aclose()


@pytest.fixture
def picture(tmp_path: Path) -> Picture:
    path = tmp_path / "providers.yaml"
    names = [f"provider-{number}" for number in range(10)]
    stanzas = "".join(f"  {name}: {{dialect: openai, base_url: 'http://127.0.0.1:1/v1', api_key: k-fake}}\n" for name in names)
    chains = "".join(f"  chain-{number}: [{names[number]}/model-{number}, {names[-1]}/model-9]\n" for number in range(8))
    path.write_text(f"providers:\n{stanzas}chains:\n{chains}", encoding="utf-8")
    ends = WALL + 86_400
    return Picture(
        wall=WALL,
        settings=load(path, environ={}),
        budgets=[
            BudgetState("total", None, 10**15, 10**12, 0, "month", False, WALL - 86_400, ends),
            *[BudgetState("provider", name, 10**14, 10**11, 0, "month", True, WALL - 86_400, ends) for name in names],
            *[BudgetState("client", f"client-{n}", 10**14, 10**11, 0, "day", True, WALL - 86_400, ends) for n in range(10)],
        ],
        quotas=[QuotaState(name, None, "tokens", 10**7, 10**6, 0, "month", "Europe/Berlin", 0, 0.0, ends) for name in names],
    )


@pytest.mark.parametrize("name", REPORTS)
async def test_a_report_takes_less_than_a_tenth_of_a_second(ledger: Queries, picture: Picture, name: str) -> None:
    costs = []
    with collecting_as_the_server_does():
        for _ in range(RUNS):
            before = time.process_time()
            await REPORTS[name](picture, ledger)
            costs.append((time.process_time() - before) * 1000)
    words, p95 = shown(costs)
    print(f"{name}: {words}")
    assert p95 < 100
