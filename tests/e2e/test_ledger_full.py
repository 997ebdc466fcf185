"""A disk without room, seen from outside: what callers get, what /readyz and /metrics say, and that it is over as soon as there is room.

Free space is what the journal is told here; a disk that is really full is filled in tests/storage/test_full_disk.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.accounting.journal import MIN_FREE_BYTES
from tests.e2e.client import until
from tests.e2e.running import Proxy

pytestmark = pytest.mark.integration

FILE = "ledger: {{fsync: strict, on_full: {on_full}}}\nchains: {{demo: [demo/chat]}}\n"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    config = tmp_path_factory.mktemp("full") / "providers.yaml"
    config.write_text(FILE.format(on_full="refuse"), encoding="utf-8")
    proxy = Proxy(config)
    yield proxy
    proxy.stop()


def told_free(proxy: Proxy, free_bytes: int) -> None:
    journal: Any = proxy.runtime.journal
    journal._free_bytes = lambda: free_bytes
    until(lambda: journal.healthy == (free_bytes >= MIN_FREE_BYTES), what="the journal's next look", seconds=20)


def reload(proxy: Proxy, on_full: str) -> None:
    path = proxy.runtime.settings.path
    assert path is not None
    Path(path).write_text(FILE.format(on_full=on_full), encoding="utf-8")
    until(lambda: proxy.runtime.settings.ledger.on_full == on_full, what="the reload", seconds=20)


@pytest.mark.parametrize("stream", [False, True])
def test_at_strict_an_answer_is_as_whole_as_at_any_level(running: Proxy, stream: bool) -> None:
    answer = running.client.chat("demo", stream=stream)
    assert answer.status == 200
    assert not stream or answer.done
    assert running.client.row(answer.id)["outcome"] == "ok"
    assert running.runtime.journal.sync_errors == 0


def test_a_full_disk_refuses_or_serves_as_it_is_told_and_is_over_at_once(running: Proxy) -> None:
    told_free(running, MIN_FREE_BYTES - 1)
    refused = running.client.chat("demo")
    assert (refused.status, refused.error["code"]) == (503, "ledger_unavailable")
    ready = running.client.get("/readyz")
    assert (ready.status, ready.json["reasons"]) == (503, ["the ledger's disk is full or cannot be written"])
    reload(running, "serve")
    served = running.client.chat("demo")
    assert served.status == 200
    ready = running.client.get("/readyz")
    assert ready.status == 200
    assert "without a record" in str(ready.json["notes"])
    told_free(running, MIN_FREE_BYTES * 2)
    reload(running, "refuse")
    assert running.client.chat("demo").status == 200
    ready = running.client.get("/readyz")
    assert (ready.status, ready.json["notes"]) == (200, [])
    assert running.client.row(served.id)["outcome"] == "ok"  # there was room after all
    assert running.client.row(refused.id)["outcome"] in ("failed", "rejected")
    assert "tollbridge_ledger_dropped_total 0.0" in running.client.get("/metrics").body.decode()
