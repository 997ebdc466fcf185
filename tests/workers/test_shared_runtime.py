"""A worker that listens to the others, five times a second."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxy import runtime as module
from proxy.accounting.states import Sums
from proxy.config.load import load
from proxy.runtime import Runtime
from proxy.workers.pulse import Pulse
from proxy.workers.seat import Seat
from proxy.workers.shared import ROWS, Table

pytestmark = [pytest.mark.unit, pytest.mark.anyio]

Worker = Callable[[int], Runtime]


@pytest.fixture
def pulse() -> Pulse:
    return Pulse(2)


@pytest.fixture
def worker(tmp_path: Path, pulse: Pulse) -> Iterator[Worker]:
    begun: list[Runtime] = []
    config = tmp_path / "providers.yaml"
    config.write_text(f"data_dir: {tmp_path}/data\nbudget: {{usd: 1, per: day}}\n")

    def begin(index: int) -> Runtime:
        settings = load(config, environ={})
        begun.append(Runtime(settings, reload=lambda: settings, watch=False, seat=Seat(index, 2, tmp_path), pulse=pulse))
        return begun[-1]

    yield begin
    for runtime in begun:
        runtime.journal.close()
        runtime.gateway.services.executor.shutdown()


def listen(runtime: Runtime) -> None:
    assert isinstance(runtime.shared, Table)
    runtime._listen(runtime.shared, 0.0)


async def test_after_a_worker_died_the_lead_asks_the_ledger_what_its_requests_cost(
    worker: Worker, pulse: Pulse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOSS_IS_KNOWN_S", 0.0)
    lead, other = worker(0), worker(1)
    asked: list[str] = []
    for runtime, name in ((lead, "lead"), (other, "other")):

        async def seed(ledger: Sums, name: str = name) -> None:
            asked.append(name)

        monkeypatch.setattr(runtime.spending, "seed", seed)
    for restarts in range(3):
        for runtime in (lead, other):
            listen(runtime)
            listen(runtime)
            for task in runtime._tasks:
                await task
        assert asked == ["lead"] * restarts
        pulse.count_restart(of_worker=True)


async def test_a_ledger_that_was_made_anew_is_an_alert(worker: Worker) -> None:
    runtime = worker(0)
    for counters in ({}, {"corrupt": 1}):
        runtime._ledger_counts.look(counters)
        await runtime.lookout.look()
    assert [(alert["kind"], alert["subject"]) for alert in runtime.desk.alerts()] == [("ledger_corrupt", "ledger")]


async def test_a_full_table_is_told_once_and_counted(worker: Worker, capfd: pytest.CaptureFixture[str]) -> None:
    runtime = worker(0)
    listen(runtime)
    assert runtime.shared is not None
    for number in range(ROWS):
        runtime.shared.cell(str(number))
    for _ in range(3):
        runtime.shared.cell("one more")
        listen(runtime)
        listen(runtime)
    runtime.logs.flush()
    assert capfd.readouterr().err.count('"event":"shared_table_full"') == 1
    body, _ = runtime.metrics.render(openmetrics=False)
    assert b'tollbridge_events_total{event="shared_table_full"} 3.0' in body
