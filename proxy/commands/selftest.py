"""`tollbridge selftest`: labelled requests through the whole proxy, all answered by the built-in demo, and every report held against them.

It costs nothing and needs no key. A proxy that runs where the configuration says is used; where none does, one is started on a free
port with the same configuration and ledger, and stopped afterwards. The requests stay in the ledger, with the task `selftest`: so the
dashboard has something to show.

    what the reports say before ── N requests ── each one's row in the ledger ── what the reports say after:
                                                                                  the difference is exactly these rows
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import typer

from proxy.commands.running import Running
from proxy.commands.shell import Place, console, print_json
from proxy.config.settings import ClientSettings, Settings, usable
from proxy.terminal.reports import checks as checks_sheet
from proxy.terminal.sheet import table

TASK = "selftest"
LABELS = (("research", "search"), ("research", "summarise"), ("support", "triage"), ("sales", "outreach"))
AT_ONCE = 8
ANSWER_S = 30.0
START_S = 20.0
STOP_S = 40.0
LEDGER_S = 15.0
MAX_SAID_BYTES = 4_096
_ROOT = Path(__file__).resolve().parent.parent.parent
_QUESTIONS = (
    "Which way is north?",
    "Summarise: the quick brown fox jumps over the lazy dog.",
    "Where is my parcel?",
    "Write a greeting.",
)

_SELDOM = {4: "demo/slow", 13: "demo/cut"}  # of twenty

Row = Mapping[str, Any]
Counts = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Sent:
    """One request and what came back. `attempts` None: the answer did not say."""

    request_id: str | None
    status: int
    broken: bool
    department: str
    agent: str
    attempts: int | None


@dataclass(frozen=True, slots=True)
class Counted:
    """A report that counts: `read` makes named figures of its answer, `expect` the same of the rows that were added."""

    what: str
    path: str
    read: Callable[[Any], Counts]
    expect: Callable[[Sequence[Row]], Counts]


def selftest(place: Place, *, traffic: int) -> bool:
    """True if all is as it should be."""
    settings = place.settings()
    client = _client_of(place, settings)
    with _proxy(place, settings) as running:
        results = list(_run(place, settings, running, client, traffic))
    if place.as_json:
        print_json(results)
    else:
        terminal = console()
        terminal.print(table(checks_sheet(results), terminal.width))
    return all(result["state"] == "passed" for result in results)


def _run(
    place: Place, settings: Settings, running: Running, client: tuple[ClientSettings, str] | None, traffic: int
) -> Iterator[dict[str, Any]]:
    counted = list(_counted(settings, client))
    before = {one.what: _figures(running, one) for one in counted}
    sent = asyncio.run(_send(settings, running, client, traffic))
    lost = [one for one in sent if one.request_id is None]
    yield _result(f"{len(sent)} requests sent", f"{len(lost)} were not answered" if lost else None, _outcomes(sent))
    rows = _rows(running, [one.request_id for one in sent if one.request_id is not None])
    missing = len(sent) - len(lost) - len(rows)
    yield _result(
        "each is in the ledger", f"{missing} are not there after {LEDGER_S:.0f} s" if missing else None, f"{len(rows)} rows"
    )
    yield _result("each row says what its caller saw", _first(_row_faults(sent, rows, client)), "status, tags and attempts")
    for one in counted:
        expected = one.expect(list(rows.values()))
        found = _difference(before[one.what], _figures(running, one))
        wrong = None if found == expected else f"{dict(found)} were added, and the rows are {dict(expected)}"
        yield _result(
            one.what, wrong, ", ".join(f"{_named(name)} +{count:,}" for name, count in found.items()) or "nothing added"
        )
    for path, fields in _SHAPES.items():
        answered = running.ask(path)
        absent = [name for name in fields if not isinstance(answered.body, dict) or name not in answered.body]
        wrong = answered.problem if answered.status != 200 else f"it has no {', '.join(absent)}" if absent else None
        yield _result(path, wrong, "as documented")
    for path in ("/", "/dashboard", "/metrics", "/livez"):
        status = running.ask(path).status
        yield _result(path, None if status == 200 else f"answered {status}", "answers")


_SHAPES: dict[str, tuple[str, ...]] = {
    "/api/status": ("healthy", "providers", "monitoring", "checked"),
    "/api/monitor": ("status", "health", "metrics", "costs", "providers", "fallbacks", "budgets", "quotas", "alerts", "advice"),
    "/api/v1/admin/monitoring": ("status", "health", "metrics", "costs", "advice", "alerts"),
    "/api/v1/monitoring/dashboard": (
        "calls", "cost_usd", "budget_utilization", "active_providers", "active_alerts", "fallbacks", "by_provider", "by_department",
    ),
    "/api/v1/monitoring/health-check": ("overall", "health_percentage", "providers"),
    "/api/v1/monitoring/provider-status": ("providers",),
    "/api/v1/monitoring/cost-analysis": (
        "cost_usd", "budget_usd", "utilization", "by_provider", "budget_alerts", "projection_usd",
    ),
    "/api/v1/monitoring/department-usage/nobody": ("calls", "tokens", "cost_usd", "success_rate", "p50_ms", "p95_ms", "by_model"),
    "/api/v1/monitoring/agent-usage/nobody": ("calls", "tokens", "cost_usd", "success_rate", "p50_ms", "p95_ms", "by_model"),
    "/api/v1/monitoring/alerts": ("data",),
    "/api/v1/monitoring/budget-alerts": ("data",),
    "/api/v1/monitoring/fallback-stats": ("data", "total"),
    "/api/v1/usage": ("data",),
    "/api/v1/timeseries?step=hour&since=24h": ("data", "step"),
    "/api/v1/budgets": ("data",),
    "/api/v1/quotas": ("data", "chains"),
    "/api/v1/limits": ("data",),
    "/api/v1/advice": ("data",),
    "/api/v1/providers": ("data",),
    "/api/v1/requests?limit=1": ("data", "next"),
    "/api/v1/openapi.json": ("openapi", "paths"),
}  # fmt: skip


# -- what should have been counted


def _counted(settings: Settings, client: tuple[ClientSettings, str] | None) -> Iterator[Counted]:
    def usage(group: str) -> Counted:
        return Counted(
            f"usage by {group}",
            f"/api/v1/usage?task={TASK}&group_by={group}",
            lambda answer: {row[group] or "": row["requests"] for row in answer["data"]},
            lambda rows: Counter(row[group] or "" for row in rows),
        )

    yield from map(usage, ("department", "agent", "chain", "client", "provider"))
    yield Counted(
        "tokens",
        f"/api/v1/usage?task={TASK}",
        lambda answer: {name: sum(row[f"{name}_tokens"] for row in answer["data"]) for name in ("input", "output")},
        lambda rows: {name: sum(row[f"{name}_tokens"] for row in rows) for name in ("input", "output")},
    )
    yield Counted(
        "dashboard",
        f"/api/v1/monitoring/dashboard?task={TASK}",
        lambda answer: {"calls": answer["calls"], "failed over": answer["fallbacks"]},
        lambda rows: {"calls": len(rows), "failed over": sum(row["attempts"] > 1 for row in rows)},
    )
    yield Counted(
        "cost analysis",
        f"/api/v1/monitoring/cost-analysis?task={TASK}",
        lambda answer: {"calls": sum(row["calls"] for row in answer["by_provider"])},
        lambda rows: {"calls": len(rows)},
    )
    yield Counted(
        "everything in one",
        f"/api/monitor?task={TASK}",
        lambda answer: {"calls": answer["metrics"]["calls"]},
        lambda rows: {"calls": len(rows)},
    )
    yield Counted(
        "hours",
        f"/api/v1/timeseries?step=hour&since=24h&task={TASK}",
        lambda answer: {"requests": sum(point["requests"] for point in answer["data"])},
        lambda rows: {"requests": len(rows)},
    )
    for group, names in (("department", _departments(client)), ("agent", _agents(client))):
        for name in names:
            yield Counted(
                f"{group} {name}",
                f"/api/v1/monitoring/{group}-usage/{quote(name, safe='')}?task={TASK}",
                lambda answer: {"calls": answer["calls"], "tokens": answer["tokens"]},
                lambda rows, group=group, name=name: {  # type: ignore[misc]
                    "calls": sum(row[group] == name for row in rows),
                    "tokens": sum(row["input_tokens"] + row["output_tokens"] for row in rows if row[group] == name),
                },
            )


def _figures(running: Running, one: Counted) -> Counts:
    answered = running.ask(one.path)
    return one.read(answered.body) if answered.status == 200 else {answered.problem: 1}


def _difference(before: Counts, after: Counts) -> dict[str, int]:
    return {name: count - before.get(name, 0) for name, count in after.items() if count != before.get(name, 0)}


# -- the requests


def _models(settings: Settings) -> list[str]:
    """What is asked for, in turn: a chain of nothing but the demo, if there is one, and each of the demo's own models."""
    chains = [
        name
        for name, chain in settings.chains.items()
        if len(targets := [t for t in chain.targets if usable(t)]) > 1 and all(t.provider.transport == "demo" for t in targets)
    ]
    usual = chains[0] if chains else "demo/chat"
    return [usual, "demo/chat", usual, "demo/chat", usual, "demo/chat", usual, "demo/flaky", "demo/chat", "demo/down"]


async def _send(settings: Settings, running: Running, client: tuple[ClientSettings, str] | None, traffic: int) -> list[Sent]:
    models, gate = _models(settings), asyncio.Semaphore(AT_ONCE)
    headers = {"authorization": f"Bearer {client[1]}"} if client is not None else {}
    async with httpx2.AsyncClient(base_url=running.url, headers=headers, timeout=ANSWER_S, trust_env=False) as http:

        async def one(number: int) -> Sent:
            async with gate:
                model = _SELDOM.get(number % 20) or models[number % len(models)]
                return await _ask(http, number, model)

        return list(await asyncio.gather(*map(one, range(traffic))))


async def _ask(http: httpx2.AsyncClient, number: int, model: str) -> Sent:
    department, agent = LABELS[number % len(LABELS)]
    body = {
        "model": model,
        "messages": [{"role": "user", "content": _QUESTIONS[number % len(_QUESTIONS)]}],
        "stream": number % 3 == 0 or model == "demo/cut",
    }
    headers = {"x-tollbridge-department": department, "x-tollbridge-agent": agent, "x-tollbridge-task": TASK}
    try:
        answer = await http.post("/v1/chat/completions", json=body, headers=headers)
    except httpx2.HTTPError:
        return Sent(None, 0, broken=True, department=department, agent=agent, attempts=None)
    broken = bool(body["stream"]) and answer.status_code == 200 and b"data: [DONE]" not in answer.content
    attempts = answer.headers.get("x-tollbridge-attempts")
    return Sent(
        answer.headers.get("x-request-id"), answer.status_code, broken, department, agent, int(attempts) if attempts else None
    )


def _outcomes(sent: Sequence[Sent]) -> str:
    """Some are meant to fail: the demo has models for that."""
    found = Counter("cut off" if one.broken else "answered" if one.status == 200 else f"failed ({one.status})" for one in sent)
    return ", ".join(f"{count:,} {what}" for what, count in found.most_common())


def _rows(running: Running, ids: Sequence[str]) -> dict[str, Row]:
    """Those of the requests that are in the ledger and over; it is given some time to take them in."""
    rows: dict[str, Row] = {}
    until = time.monotonic() + LEDGER_S
    while len(rows) < len(ids) and time.monotonic() < until:
        for request_id in ids:
            if request_id not in rows:
                answered = running.ask(f"/api/v1/requests/{request_id}")
                if answered.status == 200 and answered.body["outcome"] != "running":
                    rows[request_id] = answered.body
        if len(rows) < len(ids):
            time.sleep(0.1)
    return rows


def _row_faults(sent: Sequence[Sent], rows: Mapping[str, Row], client: tuple[ClientSettings, str] | None) -> Iterator[str]:
    for one in sent:
        row = rows.get(one.request_id or "")
        if row is None:
            continue
        expected = {
            "department": client[0].department if client and client[0].department else one.department,
            "agent": client[0].agent if client and client[0].agent else one.agent,
            "task": TASK,
            "client": client[0].name if client else None,
            "http_status": one.status,
            **({"attempts": one.attempts} if one.attempts is not None else {}),
        }
        for name, value in expected.items():
            if row[name] != value:
                yield f"{one.request_id}: {name} is {row[name]!r} in the ledger, and {value!r} was seen"
        if (row["outcome"] == "ok") != (one.status == 200 and not one.broken):
            yield f"{one.request_id}: its outcome is {row['outcome']}, and its caller saw {one.status}" + (
                ", cut off" if one.broken else ""
            )


def _departments(client: tuple[ClientSettings, str] | None) -> list[str]:
    """The client's own wins over the label."""
    own = client[0].department if client is not None else None
    return [own] if own else list(dict.fromkeys(department for department, _ in LABELS))


def _agents(client: tuple[ClientSettings, str] | None) -> list[str]:
    own = client[0].agent if client is not None else None
    return [own] if own else [agent for _, agent in LABELS]


def _named(name: str) -> str:
    return name or "none"


def _result(what: str, wrong: str | None, found: str) -> dict[str, Any]:
    return {"state": "passed" if wrong is None else "failed", "what": what, "found": found if wrong is None else wrong}


def _first(faults: Iterator[str]) -> str | None:
    found = list(faults)
    return f"{found[0]} ({len(found)} in all)" if found else None


# -- through which proxy, as whom


def _client_of(place: Place, settings: Settings) -> tuple[ClientSettings, str] | None:
    """A client that may call anything, and its key; None where no key is asked for."""
    if not settings.needs_key or settings.auth_none:
        return None
    keys = {hashlib.sha256(secret.encode()).digest(): secret for secret in settings.secrets()}
    known = [(client, keys.get(digest)) for digest, client in settings.clients_by_digest.items() if not client.is_limited]
    found = [(client, key) for client, key in known if key is not None]
    if found:
        return found[0]
    return place.fail(
        "no client of the configuration may use everything: add one without `chains:` and `models:` for the demo's models"
    )


@contextmanager
def _proxy(place: Place, settings: Settings) -> Iterator[Running]:
    """The one that runs, or one for the purpose."""
    running = Running(settings)
    if place.data_dir is None and running.state() == "ready":
        yield running
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-P", "-m", "proxy", "serve", "--host", "127.0.0.1", "--port", str(port), "--log-level", "error"]
    command += ["--data-dir", str(settings.data_dir)]
    if place.env_file is not None:
        command += ["--env-file", str(place.env_file)]
    if settings.path is not None:
        command += ["--config", str(settings.path)]
    if not place.as_json:
        typer.echo(f"no proxy runs at {running.url}: one is started for this test", err=True)
    started = Running(settings, host="127.0.0.1", port=port)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))}
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said)
        try:
            if (wrong := _not_ready(started, process)) is not None:
                said.seek(0)
                place.fail(f"{wrong}\n{said.read(MAX_SAID_BYTES).decode(errors='replace')}".strip())
            yield started
        finally:
            _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)  # which waits for no load balancer, unlike SIGTERM
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _not_ready(running: Running, process: subprocess.Popen[bytes]) -> str | None:
    """Waits until it is; else why not."""
    until = time.monotonic() + START_S
    while running.state() != "ready":
        if process.poll() is not None:
            return f"the proxy did not start: it ended with {process.returncode}"
        if time.monotonic() > until:
            return f"the proxy was not ready within {START_S:.0f} s"
        time.sleep(0.05)
    return None
