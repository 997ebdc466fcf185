"""Quotas, budgets and rate limits of a whole proxy: over a restart, over a reload, and as a caller reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from proxy.accounting.quotas import reset_quota
from proxy.torture.upstream import Upstream
from tests.e2e.client import Client, until
from tests.e2e.conftest import Start, provider, write_config
from tests.e2e.running import Proxy

pytestmark = pytest.mark.integration

CLIENTS = {
    "nightly": {"key": "sk-nightly-1", "limits": {"rpm": 3, "tpm": 100_000}},
    "free": {"key": "sk-free-1", "department": "research"},
}
FREE = {"x-api-key": "sk-free-1"}
NIGHTLY = {"x-api-key": "sk-nightly-1"}


def config(upstream: Upstream, *, requests: int = 3) -> dict[str, Any]:
    tier = provider(upstream.url, quotas=[{"requests": requests, "per": "once"}])
    return {
        "providers": {"tier": tier, "paid": provider(upstream.url)},
        "chains": {"smart": ["tier/ok", "paid/ok"], "tier": ["tier/ok"]},
        "clients": CLIENTS,
    }


def answered(client: Client, *, times: int = 1) -> list[str]:
    return [client.chat("smart", headers=FREE).headers.get("x-tollbridge-provider", "none") for _ in range(times)]


def used(proxy: Proxy) -> tuple[int, int]:
    """Of the one quota, and how many are under way."""
    (state,) = proxy.runtime.spending.quotas.states(proxy.runtime.clock.wall())
    return state.used, state.held


def test_a_restart_forgets_neither_quota_nor_budget(tmp_path: Path, upstream: Upstream) -> None:
    path = write_config(tmp_path, {**config(upstream), "departments": {"research": {"budget": {"usd": 50, "per": "once"}}}})
    first = Proxy(path)
    try:
        assert answered(first.client, times=4) == ["tier", "tier", "tier", "paid"]
        (before,) = first.runtime.spending.budgets.states(first.runtime.clock.wall())
        assert before.spent_nusd > 0
    finally:
        first.stop()

    second = Proxy(path)
    try:
        (after,) = second.runtime.spending.budgets.states(second.runtime.clock.wall())
        assert (used(second), after.spent_nusd, after.held_nusd) == ((3, 0), before.spent_nusd, 0)
        (card,) = [one for one in second.runtime.board.cards() if one.name == "tier"]
        assert "quota spent" in (card.reason or "")  # though nobody has called it in this life
        refused = second.client.chat("tier", headers=FREE)
        assert (refused.status, refused.error["code"]) == (503, "all_providers_unavailable")
        assert "quota spent: 3 of 3 requests, does not reset" in refused.error["message"]
        reset_quota(second.runtime.spending.quotas, second.runtime.journal, "tier", wall=second.runtime.clock.wall())
        assert answered(second.client) == ["tier"]
    finally:
        second.stop()

    third = Proxy(path)  # which reads the reset, and what was used since
    try:
        assert used(third) == (1, 0)
        assert answered(third.client, times=3) == ["tier", "tier", "paid"]
    finally:
        third.stop()


def test_a_ledger_that_is_late_is_heard_all_the_same(tmp_path: Path, upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_config(tmp_path, config(upstream))
    first = Proxy(path)
    try:
        assert answered(first.client, times=2) == ["tier", "tier"]
    finally:
        first.stop()
    monkeypatch.setattr("proxy.runtime.CATCH_UP_S", 0.0)
    second = Proxy(path)
    try:
        until(lambda: True if used(second) == (2, 0) else None, what="what the ledger has")
    finally:
        second.stop()


def test_a_quota_that_is_written_later_knows_what_was_used_before(start: Start, upstream: Upstream) -> None:
    without = config(upstream)
    del without["providers"]["tier"]["quotas"]
    proxy = start(without)
    first = [proxy.client.chat("smart", headers=FREE) for _ in range(2)]
    for answer in first:
        proxy.client.row(answer.id)  # it is in the ledger
    path = proxy.runtime.settings.path
    assert path is not None
    Path(write_config(path.parent.parent, config(upstream))).rename(path)
    assert until(lambda: used(proxy) if proxy.runtime.spending.quotas.accounts() else None, what="the reload")
    until(lambda: True if used(proxy) == (2, 0) else None, what="what the ledger has")
    assert answered(proxy.client, times=2) == ["tier", "paid"]


def test_a_client_with_limits_reads_them_on_every_answer(start: Start, upstream: Upstream) -> None:
    proxy = start(config(upstream, requests=100))
    names = {f"x-ratelimit-{what}-{unit}" for what in ("limit", "remaining", "reset") for unit in ("requests", "tokens")}
    answers = [
        proxy.client.chat("smart", headers=NIGHTLY),
        proxy.client.chat("smart", headers=NIGHTLY, stream=True),
        proxy.client.chat("unheard of", headers=NIGHTLY),
        proxy.client.chat("smart", headers=NIGHTLY, messages="none"),
        proxy.client.chat("smart", headers=NIGHTLY),
    ]
    assert [answer.status for answer in answers] == [200, 200, 404, 400, 429]
    assert [names - set(answer.headers) for answer in answers] == [set()] * 5
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["2", "1", "0", "0", "0"]
    refused = answers[-1]
    assert (refused.error["code"], refused.error["type"]) == ("rate_limit_exceeded", "rate_limit_error")
    assert 0 < int(refused.headers["retry-after"]) <= 61
    assert proxy.client.row(refused.id)["outcome"] == "rejected"
    assert names.isdisjoint(proxy.client.chat("smart", headers=FREE).headers)
