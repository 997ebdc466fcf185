"""The reports of the command line: of a ledger alone, and of a running proxy; what they print, what they write, how they exit."""

import csv
import json
import os
import random
import re
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from proxy.accounting.records import Alerted, Begin, Checked, End, Record, RequestEnd
from proxy.core.target import Secret
from proxy.storage.drainer import Drainer
from tests.command_line import invoke
from tests.e2e.running import Process
from tests.storage.records import open_journal, opened, request_id, write

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parent.parent
DAY_MS = 86_400_000
FILE = """\
server: {port: 1}
budget: {usd: 500, per: month, hard: false}
departments: {research: {budget: {usd: 100, per: month}}}
providers:
  openai: {api_key: "${OPENAI_API_KEY}", budget: {usd: 50, per: month}, prices: {gpt-4o: {input: 5, output: 20}}}
  cohere:
    api_keys: ["${COHERE_A}", "${COHERE_B}"]
    prices: {"*": {input: 0.5, output: 2}}
    quotas: [{tokens: 5000000, per: month}, {requests: 1000, per: day, each_key: true}]
  huggingface: {api_key: "${HF_TOKEN}", quotas: [{tokens: 30000, per: month}]}
  groq: {}
chains:
  smart: [openai/gpt-4o, cohere/command-r]
  free: [huggingface/llama, cohere/command-r]
"""
KEYS = {
    "OPENAI_API_KEY": "sk-openai-key-abcd",
    "COHERE_A": "cohere-key-a-1234",
    "COHERE_B": "cohere-key-b-5678",
    "HF_TOKEN": "hf-token-key-9999",
}
READING = (
    ["status"],
    ["usage", "--by", "department"],
    ["usage", "--by", "day", "--compact"],
    ["budgets"],
    ["quotas", "--tokens-per-day", "10000"],
    ["alerts"],
    ["advice"],
    ["requests"],
)


class Result:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def data(self) -> Any:
        return self.json["data"]


Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.endswith(("_API_KEY", "_TOKEN")) or name.startswith("TOLLBRIDGE_")]:
        monkeypatch.delenv(name)
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> Result:
        done = invoke(list(arguments))
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Result(done.exit_code, done.stdout, done.stderr)

    return run


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "providers.yaml"
    path.write_text(FILE, encoding="utf-8")
    return path


def fingerprint(name: str) -> str:
    return Secret(KEYS[name]).fingerprint()


def tried(number: int, n: int, target: str, time_ms: int, *, ok: bool, tags: dict[str, str], chain: str) -> list[Record]:
    """An attempt of 1,000 tokens in and 100 out, and the request's end with the last that is ok."""
    request = opened(number, time_ms, chain=chain, model=chain, client=None, task="chat", **tags)
    provider, _, model = target.partition("/")
    key = fingerprint("COHERE_A") if provider == "cohere" else "cafe0123"
    rate = {"openai": 7_000_000, "cohere": 700_000}[provider]
    trace: list[dict[str, Any]] = [{"target": target, "kept": True}]
    if n > 1:
        trace.append({"attempt": 1, "target": "openai/gpt-4o", "error": "rate_limited", "ms": 3.0, "then": "next"})
    last = RequestEnd("ok", 200, n, 900.0 * n, 200.0, 0.2, "stop", None, trace, []) if ok else None
    begin = Begin(f"{request.id}-{n}", request.id, n, time_ms + n, provider, model, key, 100, request if n == 1 else None)
    tokens = (1_000, 0, 0, 100, 0, 0, 0) if ok else (0,) * 7
    end = End(
        begin.attempt_id, request.id, n, time_ms + n, provider, model, key, "ok" if ok else "failed", 200 if ok else 429,
        None if ok else "rate_limited", None if ok else "transient", None, 200.0 if ok else None, 900.0, *tokens,
        "provider" if ok else None, rate if ok else 0, "test", 0, "stop" if ok else None, last,
    )  # fmt: skip
    return [begin, end]


@pytest.fixture(scope="session")
def month(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A ledger of 30 days, 30 requests a day: every fifth fails over from openai to cohere. And how many requests are in it."""
    data_dir = tmp_path_factory.mktemp("month") / "data"
    now_ms, dice, number = int(time.time() * 1000), random.Random(7), 0
    records: list[Record] = []
    for day in range(30):
        for _ in range(30):
            number += 1
            when = now_ms - day * DAY_MS - dice.randrange(20_000)
            department, agent = dice.choice([("research", "search"), ("support", "=HYPERLINK()"), ("[red]sales", "triage")])
            tags = {"department": department, "agent": agent}
            if number % 5:
                records += tried(number, 1, "openai/gpt-4o", when, ok=True, tags=tags, chain="smart")
            else:
                records += tried(number, 1, "openai/gpt-4o", when, ok=False, tags=tags, chain="smart")
                records += tried(number, 2, "cohere/command-r", when, ok=True, tags=tags, chain="smart")
    records += [
        Checked(now_ms - 60_000, "openai", "healthy", None, 212.0, 80, True),
        Checked(now_ms - 60_000, "cohere", "degraded", "slow: the check took 3.1 s", 3_100.0, 20, True),
        Alerted("01ALERT1", now_ms - 90_000, "raised", "provider_slow", "cohere", "warning", "cohere is slow.", 3.1, 2.0),
        Alerted("01ALERT2", now_ms - 95_000, "raised", "provider_down", "openai", "error", "openai is down.", None, None),
        Alerted("01ALERT2", now_ms - 80_000, "resolved"),
    ]
    write(data_dir, records)
    drainer = Drainer(data_dir, time.time)
    drainer.drain()
    drainer.close()
    return data_dir, number


@pytest.fixture
def ledger(month: tuple[Path, int], file: Path) -> Path:
    """Beside the configuration, where its data_dir is."""
    source, _ = month
    target = file.parent / "data"
    target.mkdir()
    for path in source.iterdir():
        if path.is_file() and not path.name.endswith(("-wal", "-shm")):
            (target / path.name).write_bytes(path.read_bytes())
    return target


# -- every report


@pytest.mark.parametrize("arguments", READING, ids=" ".join)
def test_reports_work_with_no_server_and_change_nothing(run: Run, ledger: Path, arguments: list[str]) -> None:
    def contents() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in ledger.rglob("*") if path.is_file() and "cache" not in path.parts}

    before = contents()
    done = run(*arguments)
    assert done.code == 0, done.err
    assert done.out.strip()
    assert run(*arguments, "--json").data
    after = contents()
    assert {path: text for path, text in after.items() if not path.endswith(("-wal", "-shm"))} == before


@pytest.mark.parametrize("arguments", READING, ids=" ".join)
def test_no_report_shows_a_key(run: Run, ledger: Path, arguments: list[str]) -> None:
    for done in (run(*arguments), run(*arguments, "--json")):
        assert not [key for key in KEYS.values() if key in done.out + done.err]


@pytest.mark.parametrize("arguments", [*READING[:-1], ["report", "--compact"]], ids=" ".join)
def test_an_empty_ledger_is_a_report_too(run: Run, file: Path, arguments: list[str]) -> None:
    file.write_text("server: {port: 1}\nchains: {demo: [demo/chat]}\n", encoding="utf-8")
    done = run(*arguments)
    assert done.code == 0, done.err
    assert done.out.strip()
    assert not (file.parent / "data").exists()


@pytest.mark.parametrize(
    ("version", "said"),
    [(1, "by an earlier release (start the server once"), (999, "by a later release (read it with that one)")],
)
def test_a_ledger_of_another_release_says_so(run: Run, file: Path, version: int, said: str) -> None:
    (file.parent / "data").mkdir()
    with closing(sqlite3.connect(file.parent / "data" / "ledger.db")) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
        connection.commit()
    for command in (["usage"], ["budgets"], ["requests"]):
        done = run(*command)
        assert done.code == 1
        assert said in done.err


# -- usage


def test_usage_counts_every_request_once(run: Run, ledger: Path, month: tuple[Path, int]) -> None:
    rows = run("usage", "--by", "department", "--since", "60d", "--json").data
    assert sum(row["requests"] for row in rows) == month[1]
    assert {row["department"] for row in rows} == {"research", "support", "[red]sales"}
    only = run("usage", "--by", "agent", "--since", "60d", "--department", "research", "--json").data
    assert [row["agent"] for row in only] == ["search"]


def test_one_group_has_a_curve_and_names_are_text(run: Run, ledger: Path) -> None:
    shown = run("usage", "--by", "department", "--since", "7d").out
    assert re.search(r"[▁▂▃▄▅▆▇█]{4}", shown)
    assert "[red]sales" in shown
    assert "requests over time" in shown
    compact = run("usage", "--by", "department", "--since", "7d", "--compact").out
    assert "share of the cost" in compact
    assert "p95" not in compact


def test_days_stand_in_their_order(run: Run, ledger: Path) -> None:
    shown = re.findall(r"20\d\d-\d\d-\d\d(?= )", run("usage", "--by", "department,day", "--since", "20d").out.partition("day")[2])
    assert len(set(shown)) > 15
    assert shown == sorted(shown)


@pytest.mark.parametrize("suffix", ["csv", "json", "md", "txt"])
def test_usage_goes_into_a_file_in_the_format_of_its_name(run: Run, ledger: Path, suffix: str) -> None:
    done = run("usage", "--by", "agent", "--since", "60d", "--export", f"use.{suffix}")
    assert (done.code, done.out) == (0, "")
    assert f"use.{suffix}" in done.err
    text = Path(f"use.{suffix}").read_text(encoding="utf-8")
    match suffix:
        case "csv":
            names = [row["agent"] for row in csv.DictReader(text.splitlines())]
            assert sorted(names) == ["'=HYPERLINK()", "search", "triage"]
        case "json":
            assert {row["agent"] for row in json.loads(text)["data"]} == {"=HYPERLINK()", "search", "triage"}
        case _:
            assert "search" in text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--export", "use.xls"], "must end in one of .csv, .json, .md, .txt"),
        (["--time-zone", "Mars/Olympus"], "time zone"),
        (["--since", "2026-11-02", "--until", "2026-11-01"], "must not be later"),
        (["--by", "colour"], "colour"),
    ],
)
def test_what_cannot_be_meant_is_refused(run: Run, ledger: Path, options: list[str], said: str) -> None:
    done = run("usage", *options)
    assert done.code == 2
    assert said in re.sub(r"[│\s]+", " ", done.err)


def test_a_file_that_cannot_be_written_is_a_failure(run: Run, ledger: Path) -> None:
    done = run("usage", "--export", "no/such/folder/use.csv")
    assert done.code == 1
    assert "no/such/folder/use.csv cannot be written" in done.err


# -- budgets and quotas


def test_budgets_say_what_is_spent_and_what_will_be(run: Run, ledger: Path) -> None:
    rows = {(row["scope"], row["name"]): row for row in run("budgets", "--json").data}
    assert set(rows) == {("total", None), ("provider", "openai"), ("department", "research")}
    openai = rows["provider", "openai"]
    assert float(openai["spent_usd"]) > 0
    assert float(openai["projection_usd"]) >= float(openai["spent_usd"])
    shown = run("budgets").out
    assert "everything" in shown
    assert "department research" in shown


def test_quotas_say_how_long_they_last(run: Run, ledger: Path) -> None:
    report = run("quotas", "--tokens-per-day", "10000", "--json")
    quotas = {(row["provider"], row["unit"]): row for row in report.data}
    assert quotas["cohere", "tokens"]["lasts_days"] == 500
    assert quotas["huggingface", "tokens"]["lasts_days"] == 3
    assert quotas["huggingface", "tokens"]["runs_out"] is not None
    assert {chain["chain"] for chain in report.json["chains"]} == {"smart", "free"}
    shown = run("quotas", "--tokens-per-day", "10000").out
    assert "500 days" in shown
    assert "never" in shown


@pytest.mark.parametrize("keys", [("COHERE", "AI21", "GROQ", "HUGGINGFACE", "OPENAI", "GEMINI"), ()], ids=["keys", "no keys yet"])
def test_the_free_tiers_that_are_shipped_last_as_long_as_people_say(
    run: Run, keys: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in keys:
        monkeypatch.setenv(f"{name}_API_KEY", f"key-of-{name}-0123456789")
    asked = ("--tokens-per-day", "10000", "--tokens-per-request", "500", "--data-dir", ".")
    example = ("--config", str(ROOT / "docs/examples/free-tier.yaml"))
    told = run("quotas", *asked, *example, "--json")
    rows = told.data
    assert [chain["chain"] for chain in told.json["chains"]] == ["free"]
    assert ("groq is reckoned with as if it could be used: no key" in run("quotas", *asked, *example).out) == (not keys)
    now = {row["provider"] for row in run("quotas", "--data-dir", ".", *example, "--json").data}
    assert ("groq" in now) == bool(keys), "how things stand is another matter"
    lasts = {row["provider"]: row["lasts_days"] for row in rows}
    assert {name: lasts[name] for name in ("cohere", "ai21", "groq", "huggingface", "openai", "gemini")} == {
        "cohere": 500, "ai21": 30, "groq": 720, "huggingface": 3, "openai": 0.5, "gemini": 250,
    }  # fmt: skip
    never = {row["provider"] for row in rows if row["runs_out"] is None}
    assert never == {"cohere", "groq", "gemini"}


def test_without_any_a_report_says_how_to_get_one(run: Run, file: Path) -> None:
    file.write_text("chains: {demo: [demo/chat]}\n", encoding="utf-8")
    assert "providers.NAME.budget" in run("budgets").out
    assert "providers.NAME.quotas" in run("quotas").out


def test_a_quota_of_a_provider_without_a_key_is_not_passed_over_in_silence(run: Run, file: Path) -> None:
    file.write_text("providers: {groq: {quotas: [{requests: 5, per: day}]}}\nchains: {demo: [demo/chat]}\n", encoding="utf-8")
    assert "groq has quotas, but cannot be used: no key: set GROQ_API_KEY" in run("quotas").out


def test_quotas_begin_anew_with_no_server(run: Run, ledger: Path) -> None:
    def used() -> dict[tuple[str, str | None], int]:
        return {(row["unit"], row["key"]): row["used"] for row in run("quotas", "--json").data if row["provider"] == "cohere"}

    key = fingerprint("COHERE_A")
    before = used()
    assert before["tokens", None] > 0
    done = run("quotas", "reset", "cohere", "--key", key)
    assert done.code == 0, done.err
    assert f"The quotas of cohere, key {key} begin anew, in the ledger." in done.out
    assert used()["requests", key] == 0
    assert used()["tokens", None] == before["tokens", None], "what all keys share begins anew only for all of them"
    assert run("quotas", "reset", "cohere").code == 0
    assert set(used().values()) == {0}


def test_a_reset_beside_a_drainer_is_left_to_it(run: Run, ledger: Path) -> None:
    drainer = Drainer(ledger, time.time)
    done = run("quotas", "reset", "cohere")
    assert done.code == 0
    assert "as soon as the ledger has taken it in" in done.out
    drainer.drain()
    drainer.close()
    rows = [row for row in run("quotas", "--json").data if row["provider"] == "cohere"]
    assert {row["used"] for row in rows} == {0}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["openai"], "'openai' has no quota in the configuration: cohere, huggingface have"),
        (["nobody"], "'nobody' has no quota"),
        (["cohere", "--key", "ffffffff"], "no key of cohere with the fingerprint 'ffffffff'"),
        (["huggingface", "--key", "x"], "leave --key out"),
    ],
)
def test_a_reset_of_what_is_not_there_fails(run: Run, ledger: Path, arguments: list[str], said: str) -> None:
    done = run("quotas", "reset", *arguments)
    assert done.code == 1
    assert said in done.err


# -- alerts


def test_alerts_are_listed_open_ones_first(run: Run, ledger: Path) -> None:
    report = run("alerts", "--json")
    assert [(row["id"], row["state"]) for row in report.data] == [("01ALERT1", "open"), ("01ALERT2", "resolved")]
    assert report.json["open"] == 1
    assert [row["id"] for row in run("alerts", "--state", "resolved", "--json").data] == ["01ALERT2"]
    assert "▲ warning" in run("alerts").out
    assert run("alerts", "--state", "broken").code == 2


def test_only_a_running_proxy_can_note_that_an_alert_was_seen(run: Run, ledger: Path) -> None:
    done = run("alerts", "--acknowledge", "01ALERT1")
    assert done.code == 1
    assert "no proxy runs at http://127.0.0.1:1" in done.err


def test_a_test_message_goes_to_every_destination(run: Run, file: Path, httpserver: HTTPServer) -> None:
    assert "the log alone" in run("alerts", "--test").err
    seen: list[Any] = []

    def taken(request: Request) -> Response:
        seen.append(request.get_json())
        return Response("ok")

    httpserver.expect_request("/hook").respond_with_handler(taken)
    httpserver.expect_request("/refuses").respond_with_data("no", status=404)
    hooks = f'alerts: {{to: [{{webhook: "{httpserver.url_for("/hook")}"}}]}}\n'
    file.write_text(FILE + hooks, encoding="utf-8")
    done = run("alerts", "--test", "--json")
    assert done.code == 0, done.out + done.err
    assert [row["sent"] for row in done.data] == [True]
    assert seen[0]["event"] == "test"
    file.write_text(FILE + hooks.replace("/hook", "/refuses"), encoding="utf-8")
    failed = run("alerts", "--test")
    assert failed.code == 1
    assert "not sent" in failed.out


# -- advice


def test_advice_comes_with_figures_and_can_be_compared(run: Run, ledger: Path) -> None:
    found = {row["kind"]: row for row in run("advice", "--json").data}
    assert found["failing_first"]["figures"]["target"] == "openai/gpt-4o"
    assert found["cheaper"]["figures"]["usd_per_million"]["openai/gpt-4o"] > "6"
    shown = run("advice").out
    assert "−90 %" in shown
    assert "saves $" in shown
    only = run("advice", "--compare", "huggingface/llama", "--kind", "cheaper", "--json").data
    assert {row["kind"] for row in only} == {"cheaper"}
    assert run("advice", "--compare", "nobody/x").code == 2


# -- health


@pytest.fixture
def providers(httpserver: HTTPServer, file: Path) -> Callable[..., None]:
    """Rewrites the configuration: these providers, each answering its list of models with a status."""

    def write_file(**statuses: int) -> None:
        lines = []
        httpserver.clear()
        for name, status in statuses.items():
            httpserver.expect_request(f"/{name}/models").respond_with_json({"data": [{}, {}]}, status=status)
            lines.append(
                f'  {name}: {{dialect: openai, base_url: "{httpserver.url_for(f"/{name}")}", api_key: "${{HF_TOKEN}}"}}\n'
            )
        file.write_text("server: {port: 1}\nproviders:\n" + "".join(lines) + "  groq: {}\n", encoding="utf-8")

    return write_file


@pytest.mark.parametrize(
    ("statuses", "names", "code", "overall"),
    [
        ({"a": 200, "b": 200}, [], 0, "healthy"),
        ({"a": 200, "b": 401}, [], 1, "degraded"),
        ({"a": 200, "b": 401}, ["a"], 0, "healthy"),
        ({"a": 200, "b": 401}, ["b"], 2, "down"),
        ({"a": 401, "b": 401}, [], 2, "down"),
        ({"a": 200}, ["groq"], 2, "unknown"),  # it has no key
    ],
)
def test_health_exits_as_the_providers_are(
    run: Run, providers: Callable[..., None], statuses: dict[str, int], names: list[str], code: int, overall: str
) -> None:
    providers(**statuses)
    done = run("health", *names, "--json")
    assert done.code == code, done.out
    assert done.data["overall"] == overall
    assert run("health", *names).code == code


def test_health_shows_what_it_found(run: Run, providers: Callable[..., None]) -> None:
    providers(a=200, b=401)
    shown = run("health").out
    assert "● healthy" in shown
    assert "✖ down" in shown
    assert "asked directly" in shown
    assert "hf-token" not in shown


@pytest.mark.parametrize("text", ["serverr: {}\n", None])
def test_health_that_cannot_be_told_is_neither_well_nor_down(run: Run, file: Path, text: str | None) -> None:
    if text is not None:
        file.write_text(text, encoding="utf-8")
    done = run("health", *([] if text else ["nobody"]))
    assert done.code == 3
    assert done.err


# -- a proxy that runs


@pytest.fixture
def running(httpserver: HTTPServer, file: Path) -> HTTPServer:
    """Something that answers as the proxy does, where the configuration says that it listens."""
    file.write_text(FILE.replace("port: 1}", f"port: {httpserver.port}}}"), encoding="utf-8")
    for path in ("/livez", "/readyz"):
        httpserver.expect_request(path).respond_with_json({}, headers={"x-request-id": request_id(1)})
    return httpserver


HEALTH = {
    "overall": "degraded",
    "health_percentage": 50.0,
    "checked": "2026-11-21T14:30:00.000Z",
    "providers": [{"name": "openai", "state": "degraded", "reason": "circuit half open", "response_ms": 12.0, "models": 2,
                   "key_valid": True, "circuit": "half_open", "checked": "2026-11-21T14:30:00.000Z"}],
}  # fmt: skip


def test_health_and_status_are_the_running_proxys(run: Run, ledger: Path, running: HTTPServer) -> None:
    running.expect_request("/api/v1/monitoring/health-check").respond_with_json(HEALTH, headers={"x-request-id": "R"})
    done = run("health", "openai", "--fresh")
    assert done.code == 1
    assert "circuit half open" in done.out
    assert f"told by the proxy at http://127.0.0.1:{running.port}" in done.out
    asked = [request.query_string for request, _ in running.log if request.path.endswith("health-check")]
    assert asked == [b"provider=openai&fresh=1"]
    status = run("status", "--json").data
    assert status["server"]["state"] == "ready"
    (openai,) = [entry for entry in status["providers"] if entry["name"] == "openai"]
    assert openai["health"]["reason"] == "circuit half open"


def test_a_reset_goes_to_the_running_proxy(run: Run, ledger: Path, running: HTTPServer) -> None:
    quota = run("quotas", "--json").data[0]
    running.expect_request("/api/v1/quotas/reset", method="POST", json={"provider": "cohere"}).respond_with_json(
        {"data": [quota]}, headers={"x-request-id": "R"}
    )
    done = run("quotas", "reset", "cohere")
    assert done.code == 0, done.err
    assert "by the running proxy" in done.out
    error = {"error": {"message": "The token is wrong."}}
    running.expect_request("/api/v1/quotas/reset").respond_with_json(error, status=401, headers={"x-request-id": "R"})
    refused = run("quotas", "reset", "huggingface")
    assert refused.code == 1
    assert "the running proxy answered 401: The token is wrong." in refused.err


def test_a_running_proxy_that_does_not_answer_is_no_reason_to_write_into_its_journal(
    run: Run, ledger: Path, running: HTTPServer
) -> None:
    running.expect_request("/api/v1/quotas/reset").respond_with_data("not ours")
    done = run("quotas", "reset", "cohere")
    assert done.code == 1
    assert "the running proxy did not answer" in done.err
    assert not (ledger / "journal").exists()


def test_status_of_a_ledger_tells_what_was_last_known(run: Run, ledger: Path) -> None:
    shown = run("status")
    assert "not running" in shown.out
    assert "▲ degraded" in shown.out
    assert "slow: the check took 3.1 s" in shown.out
    assert "cohere is slow." in shown.out, "an open alert"
    assert "skipped: no key: set GROQ_API_KEY" in shown.out
    assert run("status", "--watch", "--json").code == 2


def test_status_can_be_watched_until_it_is_enough(run: Run, ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("proxy.commands.overview.time.sleep", sleep)
    done = run("status", "--watch")
    assert done.code == 0
    assert looks == [2.0, 2.0]
    assert "Ctrl-C ends it" in done.out


# -- report


def test_a_report_has_everything(run: Run, ledger: Path) -> None:
    Path("providers.yaml").write_text(FILE.replace("api_key:", "enabled: false, api_key:"), encoding="utf-8")
    data = run("report", "--json").data
    assert set(data) == {
        "status", "health", "metrics", "costs", "providers", "fallbacks", "budgets", "quotas", "alerts", "advice",
    }  # fmt: skip
    shown = run("report", "--since", "60d").out
    for part in ("alerts: 1 open", "use and cost", "health:", "budgets", "by department", "failovers: 180", "advice"):
        assert part in shown
    compact = run("report", "--compact").out
    assert re.search(r"^requests +\d+", compact, flags=re.MULTILINE)
    assert all(len(line) > 10 for line in compact.splitlines())


@pytest.mark.parametrize("suffix", ["csv", "json", "md", "txt"])
@pytest.mark.parametrize("options", [[], ["--compact"]], ids=["whole", "compact"])
def test_a_report_goes_into_a_file(run: Run, ledger: Path, suffix: str, options: list[str]) -> None:
    Path("providers.yaml").write_text(FILE.replace("api_key:", "enabled: false, api_key:"), encoding="utf-8")
    done = run("report", "--since", "60d", *options, "--export", f"out.{suffix}")
    assert (done.code, done.out) == (0, "")
    text = Path(f"out.{suffix}").read_text(encoding="utf-8")
    assert "cohere is slow." in text
    if suffix == "json":
        assert json.loads(text)["data"]["fallbacks"]["total"] == 180


# -- the whole


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Process]:
    config = tmp_path / "providers.yaml"
    config.write_text(
        "chains: {demo: [demo/down, demo/chat]}\n"
        'auth: {admin_token: "admin-token-0123456789"}\n'
        'clients: {app: {key: "client-key-0123456789", department: research, budget: {usd: 5}}}\n'
        "departments: {research: {budget: {usd: 10}}}\n",
        encoding="utf-8",
    )
    process = Process(config, tmp_path)
    process.ready()
    text = config.read_text(encoding="utf-8")
    config.write_text(f"server: {{port: {process.port}}}\n{text}", encoding="utf-8")
    yield process
    process.kill()


@pytest.mark.integration
def test_a_selftest_passes_and_the_command_line_says_what_the_api_says(run: Run, served: Process, tmp_path: Path) -> None:
    done = run("selftest", "--traffic", "24", "--json")
    assert [row for row in done.data if row["state"] != "passed"] == []
    assert done.code == 0
    for command, path in {
        ("budgets",): "/api/v1/budgets",
        ("quotas",): "/api/v1/quotas",
        ("usage", "--by", "chain,department"): "/api/v1/usage?group_by=chain,department",
        ("advice",): "/api/v1/advice",
    }.items():
        told = urllib.request.Request(
            f"http://127.0.0.1:{served.port}{path}", headers={"authorization": "Bearer admin-token-0123456789"}
        )
        with urllib.request.urlopen(told) as answered:
            api, cli = json.load(answered)["data"], run(*command, "--json").data
        for row in (*api, *cli):
            row.pop("source", None)  # of advice, with the moment at which it was asked for
        assert api == cli
    report = run("report", "--json").data
    assert report["metrics"]["calls"] == 24
    assert [card["circuit"] for card in report["health"]["providers"]] != [None], "told by the running proxy"


@pytest.mark.integration
def test_a_selftest_brings_its_own_proxy_where_none_runs(run: Run, tmp_path: Path) -> None:
    (tmp_path / "providers.yaml").write_text("server: {port: 1}\nchains: {demo: [demo/flaky, demo/chat]}\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "proxy", "selftest", "--traffic", "8", "--config", str(tmp_path / "providers.yaml")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "checks passed" in done.stdout
    assert "one is started for this test" in done.stderr
    assert len(run("requests", "--json").data) == 8


def test_a_selftest_needs_a_client_that_may_call_the_demo(run: Run, file: Path) -> None:
    file.write_text(
        'chains: {demo: [demo/chat]}\nclients: {app: {key: "client-key-0123456789", chains: [demo]}}\n', encoding="utf-8"
    )
    done = run("selftest")
    assert done.code == 1
    assert "add one without `chains:`" in done.err


def test_a_selftest_says_why_its_proxy_did_not_start(run: Run, file: Path) -> None:
    journal = file.parent / "data" / "journal"
    journal.parent.mkdir()
    journal.write_text("not a folder", encoding="utf-8")
    file.write_text("server: {port: 1}\nchains: {demo: [demo/chat]}\n", encoding="utf-8")
    done = run("selftest")
    assert done.code == 1
    assert "did not start" in done.err


def test_a_ledger_of_another_writer_is_read_while_it_is_written(run: Run, ledger: Path, month: tuple[Path, int]) -> None:
    journal = open_journal(ledger, "BOOT2")
    for record in tried(5_000, 1, "openai/gpt-4o", int(time.time() * 1000), ok=True, tags={}, chain="smart"):
        journal.append(record)
    drainer = Drainer(ledger, time.time)
    drainer.drain()
    assert sum(row["requests"] for row in run("usage", "--since", "60d", "--json").data) == month[1] + 1
    drainer.close()
    journal.close()
