"""`tollbridge explain`: a past request's story from the ledger, and which way one would go, by the running proxy or by the file alone."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from proxy.accounting.records import Record
from proxy.config.load import load
from proxy.storage.drainer import Drainer
from tests.command_line import invoke
from tests.storage.records import Wall, begin, closed, end, opened, request_id, write

pytestmark = pytest.mark.unit

FILE = """\
server: {port: 1}
data_dir: data
providers:
  dear: {dialect: openai, base_url: "http://127.0.0.1:9", api_key: k, prices: {"*": {input: 10, output: 20}}}
  fair: {dialect: openai, base_url: "http://127.0.0.1:9", api_key: k, prices: {"*": {input: 1, output: 2}}}
chains:
  cheap: {targets: [dear/m, fair/m], strategy: cheapest}
"""
BODY = {"model": "elsewhere", "messages": [{"role": "user", "content": "Hello " * 400}], "max_tokens": 20}


class Result:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def data(self) -> Any:
        return json.loads(self.out)["data"]


Run = Callable[..., Result]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.endswith(("_API_KEY", "_TOKEN")) or name.startswith("TOLLBRIDGE_")]:
        monkeypatch.delenv(name)
    (tmp_path / "providers.yaml").write_text(FILE, encoding="utf-8")
    (tmp_path / "request.json").write_text(json.dumps(BODY), encoding="utf-8")
    return tmp_path


@pytest.fixture
def run(folder: Path) -> Run:
    def run(*arguments: str, stdin: str | None = None) -> Result:
        done = invoke(["explain", *arguments], input=stdin)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Result(done.exit_code, done.stdout, done.stderr)

    return run


# -- which way one would go


def test_without_a_proxy_it_is_by_the_file_alone_and_says_so(run: Run) -> None:
    done = run("--model", "cheap")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].startswith("A request for cheap goes to fair/m, behind it dear/m. (Chain cheap, strategy cheapest")
    assert [line.split(":")[0] for line in lines if line.startswith("  ")] == ["  1. fair/m", "  2. dear/m"]
    assert lines[-1].startswith("No proxy runs at http://127.0.0.1:1: this is by the configuration alone")
    data = run("--model", "cheap", "--json").data
    assert (data["order"], data["state"]) == (["fair/m", "dear/m"], "fresh")
    assert data["story"] == lines[:-1]


def test_a_file_and_headers_are_the_requests(run: Run) -> None:
    data = run("--model", "cheap", "--file", "request.json", "--header", "x-tollbridge-prefer: dear", "--json").data
    assert (data["model"], data["output_tokens"], data["order"]) == ("cheap", 20, ["dear/m", "fair/m"])
    assert data["input_tokens"] > 300
    data = run("--model", "cheap", "--file", "-", "--json", stdin=json.dumps(BODY)).data
    assert data["output_tokens"] == 20


def test_what_it_would_be_refused_for_is_a_plan_too(run: Run) -> None:
    done = run("--model", "cheap", "-H", "x-tollbridge-exclude: dear, fair")
    assert done.code == 0
    assert "It would be refused: dear/m excluded by the request; fair/m excluded by the request." in done.out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--model", "nobody"), 1, "There is no model `nobody`"),
        (("--file", "request.json"), 1, "There is no model `elsewhere`"),
        (("--model", "cheap", "--client", "nobody"), 1, "There is no client"),
        (("--model", "cheap", "--header", "x-tollbridge-priority: huge"), 1, "must be one of low, normal, high"),
        (("--model", "cheap", "--header", "prefer"), 2, "write 'name: value'"),
        (("--model", "cheap", "--file", "nothing.json"), 1, "nothing.json cannot be read: No such file or directory"),
        (("--model", "cheap", "--file", "-"), 1, "standard input is not JSON"),
        (("--model", "cheap", "--file", "providers.yaml"), 1, "providers.yaml is not JSON"),
        ((), 2, "the ID of a request, or --model"),
        (("SOME-ID", "--model", "cheap"), 2, "an ID is of a request that was"),
        (("SOME-ID",), 1, "no"),
    ],
)
def test_what_makes_no_sense_is_a_sentence(run: Run, arguments: tuple[str, ...], code: int, words: str) -> None:
    done = run(*arguments)
    assert done.code == code
    assert words in " ".join(done.err.replace("│", " ").split())


@pytest.mark.parametrize(
    ("written", "words"),
    [(b"[]", "has no JSON object in it"), (b'{"a": "\xe9"}', "it is not UTF-8 text"), (b"[" * 100_000, "is nested too deeply")],
    ids=["list", "latin-1", "deep"],
)
def test_a_file_that_is_no_request(run: Run, folder: Path, written: bytes, words: str) -> None:
    (folder / "request.json").write_bytes(written)
    done = run("--model", "cheap", "--file", "request.json")
    assert (done.code, words in done.err) == (1, True)


# -- by a proxy that runs


@pytest.fixture
def running(httpserver: HTTPServer, folder: Path) -> HTTPServer:
    """Something that answers as the proxy does, where the configuration says that it listens."""
    (folder / "providers.yaml").write_text(FILE.replace("port: 1}", f"port: {httpserver.port}}}"), encoding="utf-8")
    httpserver.expect_request("/livez").respond_with_json({}, headers={"x-request-id": request_id(1)})
    return httpserver


def told(folder: Path, **changes: Any) -> dict[str, Any]:
    options = {"cache_ttl_s": None, "quality_min": None, "hedged": False, "on_break": None}
    return {
        "model": "cheap", "chain": "cheap", "strategy": "cheapest", "config": load(folder / "providers.yaml", environ={}).hash,
        "order": ["dear/m"], "refused": None, "wait_s": None, "input_tokens": 16, "output_tokens": 1024, "asked": None, "targets": [],
        "trace": [{"target": "dear/m", "kept": True}, {"target": "fair/m", "skipped": "circuit open"}], "options": options,
        "state": "live", **changes,
    }  # fmt: skip


def explains(running: HTTPServer, answer: Any, status: int = 200) -> None:
    running.expect_request("/api/v1/explain", method="POST").respond_with_json(
        answer, status=status, headers={"x-request-id": "R"}
    )


def test_a_proxy_that_runs_says_how_its_targets_are_doing(run: Run, folder: Path, running: HTTPServer) -> None:
    explains(running, told(folder))
    done = run("--model", "cheap", "--file", "request.json", "-H", "X-Tollbridge-Priority: low")
    assert done.code == 0, done.err
    assert "  - fair/m: left out, circuit open" in done.out
    assert done.out.splitlines()[-1] == f"By what the proxy that runs at http://127.0.0.1:{running.port} knows at this moment."
    (asked,) = [json.loads(request.data) for request, _ in running.log if request.path == "/api/v1/explain"]
    assert asked == {"model": "cheap", "request": BODY, "headers": {"x-tollbridge-priority": "low"}}


def test_a_proxy_with_another_configuration_is_not_believed(run: Run, folder: Path, running: HTTPServer) -> None:
    explains(running, told(folder, config="000000000000"))
    done = run("--model", "cheap")
    assert done.out.startswith("A request for cheap goes to fair/m, behind it dear/m.")
    assert "has another configuration (000000000000): this is by the file alone" in done.out


def test_what_the_proxy_refuses_to_explain(run: Run, folder: Path, running: HTTPServer) -> None:
    explains(running, {"error": {"message": "`messages` must be a list.", "param": "messages"}}, 400)
    done = run("--model", "cheap")
    assert (done.code, done.err.strip()) == (1, "`messages` must be a list.")


def test_a_proxy_of_an_earlier_release_does_not_know_the_question(run: Run, folder: Path, running: HTTPServer) -> None:
    explains(running, {"error": {"message": "There is nothing here."}}, 404)
    done = run("--model", "cheap")
    assert done.code == 0
    assert (
        done.out.splitlines()[-1] == "The running proxy answered 404: There is nothing here.: this is by the configuration alone."
    )


# -- a past request


def test_a_story_is_told_from_the_ledger(run: Run, folder: Path) -> None:
    request = opened(1, model="smart\x1b[31m")
    by = [
        {"target": target, "kept": True, "by": {"strategy": "cheapest", "place": place, "expected_cost_usd": cost}}
        for place, target, cost in ((1, "fair/m", "0.002"), (0, "dear/m", "0.02"))
    ]
    note = {"attempt": 1, "target": "fair/m", "error": "connect", "ms": 3.5, "then": "next"}
    ending = closed(attempts=2, trace=[*by, note], extra={"asked": {"tokens": 16, "output": 1024}})
    records: list[Record] = [
        begin(request, 1, "fair"),
        end(request, 1, "fair", "failed"),
        begin(request, 2, "dear"),
        end(request, 2, "dear", end=ending),
    ]
    Drainer(folder / "data", Wall()).close()
    write(folder / "data", records)
    drainer = Drainer(folder / "data", Wall())
    drainer.drain()
    drainer.close()
    done = run(request_id(1))
    assert done.code == 0, done.err
    assert "\x1b" not in done.out
    assert done.out.splitlines()[1:] == [
        "Reckoned with about 16 tokens in and 1,024 out.",
        "  1. fair/m: expected to cost $0.002",
        "  2. dear/m: expected to cost $0.02",
        "Attempt 1, fair/gpt-4o failed after 700 ms: connect (connection refused); the next target was asked.",
        "Attempt 2, dear/gpt-4o answered after 700 ms (first content after 101 ms): 100 tokens in, 50 out, for $0.00125.",
        "It was answered by dear/gpt-4o, HTTP 200, after 812 ms, of which the proxy itself took 0.2 ms. It cost $0.00125.",
    ]
    data = run(request_id(1), "--json").data
    assert (data["order"], data["id"], data["answered"]) == (["fair/m", "dear/m"], request_id(1), 2)
    assert data["story"][-1] == done.out.splitlines()[-1]
