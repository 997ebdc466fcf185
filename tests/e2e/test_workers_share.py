"""Two workers of one proxy count together, and know what the other has learned."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from proxy.torture.upstream import Upstream
from tests.e2e.client import Client, until
from tests.e2e.conftest import provider, write_config
from tests.e2e.running import Process
from tests.e2e.test_workers import ADMIN, CLIENT, EVERYBODY, PATIENCE, Several

pytestmark = pytest.mark.integration

COOLING = 8
QUOTA = 6
LIMIT = 15


@pytest.fixture(scope="module")
def several(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Several]:
    for number in range(COOLING):
        upstream.aliases[f"cooling{number}"] = "limit_google"  # for 33 s
    directory = tmp_path_factory.mktemp("share")
    config = {
        "auth": {"admin_token": "admin-1"},
        "clients": {"caller": {"key": "sk-caller-1"}, "limited": {"key": "sk-limited-1", "limits": {"rpm": LIMIT}}},
        "providers": {
            "tier": provider(upstream.url, quotas=[{"requests": QUOTA, "per": "once"}]),
            "paid": provider(upstream.url),
        },
        "chains": {
            "smart": ["tier/ok", "paid/ok"],
            "paid": ["paid/ok"],
            **{f"cooling{number}": [f"paid/cooling{number}"] for number in range(COOLING)},
        },
    }
    process = Process(write_config(directory, config), directory, environ=PATIENCE, options=("--workers", "2"))
    try:
        yield Several(process)
    finally:
        process.kill()


def quota(several: Several) -> dict[str, Any]:
    (state,) = Client(several.client.port, ADMIN).get("/api/v1/quotas").json["data"]
    return dict(state)


def test_a_client_has_one_minute_at_both_of_them(several: Several) -> None:
    limited = {"authorization": "Bearer sk-limited-1"}
    statuses = [several.client.chat("paid", headers=limited).status for _ in range(2 * LIMIT)]
    assert set(statuses) == {200, 429}
    assert statuses.count(200) == LIMIT  # one after the other: not one too many


def test_a_quota_is_one_and_outlives_those_who_used_it(several: Several) -> None:
    answered = [several.client.chat("smart").headers["x-tollbridge-provider"] for _ in range(EVERYBODY)]
    assert answered == ["tier"] * QUOTA + ["paid"] * (EVERYBODY - QUOTA)
    assert quota(several)["used"] == QUOTA
    for seat in (1, 0):
        pid = several.state["workers"][seat]
        os.kill(pid, signal.SIGKILL)
        several.replaced(pid)
        until(lambda: several.client.get("/api/v1/quotas", ADMIN).status == 200, what="the lead")
        assert quota(several)["used"] == QUOTA
    assert {several.client.chat("smart").headers["x-tollbridge-provider"] for _ in range(EVERYBODY)} == {"paid"}


def test_what_one_has_to_wait_for_the_other_does_not_ask_again(several: Several) -> None:
    """Within a fifth of a second, which is how often they listen: the more goes on in between, the surer."""
    for number in range(COOLING):
        assert several.client.chat(f"cooling{number}", headers=CLIENT).status == 429
        for _ in range(10 << number):
            assert several.client.chat("paid").status == 200
        assert {several.client.chat(f"cooling{number}").status for _ in range(EVERYBODY)} == {429}
        sent = several.metrics()[f'tollbridge_attempts_total{{model="cooling{number}",outcome="rate_limited",provider="paid"}}']
        if sent == 1:
            return
    pytest.fail("each of the two had to find out for itself")
