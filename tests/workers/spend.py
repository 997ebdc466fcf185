"""Processes that spend one budget as fast as they can; run by `test_shared.py`. Prints what each saw."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from proxy.accounting.budgets import Budgets
from proxy.core.errors import BudgetExceeded
from proxy.core.limits import Budget
from proxy.workers.seat import Seat
from proxy.workers.shared import Table, make

WORKERS = 2
LIMIT = 200_000
BOUND = 100


class Clock:
    """A day that does not end while the test runs."""

    def monotonic(self) -> float:
        return 0.0

    def wall(self) -> float:
        return 86_400.0 * 20_000


def spend(budgets: Budgets) -> int:
    """Until nothing is left, and not because of what another one still holds."""
    admitted = 0
    while True:
        try:
            reserved = budgets.reserve(budgets.of(None, None, None), BOUND, 60.0)
        except BudgetExceeded:
            (state,) = budgets.states(0.0)
            if state.spent_nusd >= LIMIT:
                return admitted
            continue
        reserved.settle(BOUND - admitted % 7)
        admitted += BOUND - admitted % 7


def worker(seat: Seat, memory: Any, ready: int, go: int, write: int) -> None:
    budgets = Budgets(Clock(), Table(memory, seat))
    budgets.configure([("total", None, Budget(LIMIT, "day"))])
    os.write(ready, b".")
    os.read(go, 1)
    admitted = spend(budgets)
    os.write(ready, b".")
    os.read(go, 1)  # until all have ended
    (state,) = budgets.states(0.0)
    os.write(write, json.dumps([admitted, state.spent_nusd, state.held_nusd]).encode())


def main() -> None:
    memory = make(WORKERS)
    ready_in, ready_out = os.pipe()
    told, goes, pids = [], [], []
    for index in range(WORKERS):
        go_in, go_out = os.pipe()
        told_in, told_out = os.pipe()
        pid = os.fork()
        if pid == 0:
            worker(Seat(index, WORKERS, Path("/nowhere")), memory, ready_out, go_in, told_out)
            os._exit(0)
        pids.append(pid)
        goes.append(go_out)
        told.append(told_in)
    for _ in range(2):
        for _ in range(WORKERS):
            os.read(ready_in, 1)
        for go in goes:
            os.write(go, b".")
    answers = [json.loads(os.read(one, 1_000)) for one in told]
    for pid in pids:
        os.waitpid(pid, 0)
    admitted, spent, held = zip(*answers, strict=True)
    json.dump(
        {"workers": WORKERS, "limit": LIMIT, "bound": BOUND, "admitted": admitted, "spent": spent, "held": held}, sys.stdout
    )


if __name__ == "__main__":
    main()
