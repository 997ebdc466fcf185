"""`tollbridge torture`: against this proxy, which wins, and against nothing at all between caller and upstream, which loses."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from pytest_httpserver import HTTPServer
from typer.testing import CliRunner, Result

from proxy.cli import app
from proxy.torture import judge, runner
from proxy.torture.caller import Gateway
from proxy.torture.configuration import UPSTREAM_KEY
from proxy.torture.scenarios import CALLER, GOOD, SCENARIOS, cases
from proxy.torture.scripts import SCRIPTS
from proxy.torture.upstream import Upstream
from tests.e2e.client import WAIT_S

QUICK = [
    *(
        "ok",
        "byte_by_byte",
        "odd_line_ends",
        "after_done",
        "early_hints",
        "refused",
        "not_tls",
        "reset_after_content",
        "limit_ms",
    ),
    *("ends_after_content", "limit_date", "status_500", "status_400", "key_echoed", "redirect_here", "key_in_error_event"),
    *("gzip_bomb", "stream_to_whole", "deep_answer", "two_framings", "hold_before_head", "hold_after_content"),
]
LIES = {"ends_after_content", "html_502", "bad_json", "status_401", "redirect_here", "masked_error", "only_done", "after_done"}
TRUTHS = {"ok", "no_usage", "status_400", "limit_seconds", "reset_after_content"}


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["torture", *arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def listen() -> str:
    """An address with a free port behind its own."""
    ports = range(20_000, 30_000, 2)  # below those that the system gives to whoever asks for any
    for port in random.sample(ports, len(ports)):
        with socket.socket() as first, socket.socket() as second:
            try:
                first.bind(("127.0.0.1", port))
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return f"127.0.0.1:{port}"
    raise AssertionError("no two ports are free")


@pytest.fixture(scope="module")
def nothing() -> Iterator[Upstream]:
    """A gateway that is none: an upstream that answers whatever model it is asked for."""
    made = Upstream(SCRIPTS)
    made.start()
    yield made
    made.stop()


@pytest.mark.integration
def test_this_proxy_wins_every_case_and_the_score_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "LET_GO_S", WAIT_S)  # how quickly is told by `e2e/test_client_gone.py`; this machine may be busy
    monkeypatch.setattr(runner, "LEAVING_S", WAIT_S)
    done = run("--only", ",".join([*QUICK, "callers"]), "--json")
    told = json.loads(done.stdout)

    assert [one for one in told["data"] if not one["passed"]] == []
    assert done.exit_code == 0
    assert {one["name"] for one in told["data"] if one["group"] != "caller"} == set(QUICK)
    assert {one["name"] for one in told["data"] if one["group"] == "caller"} >= {"redirection", "two_lengths", "private"}
    assert told["score"]["all"] == {"passed": len(told["data"]), "of": len(told["data"])}
    assert set(told["score"]) == {"told", "failover", "leaving", "caller", "all"}
    assert done.stderr == ""


@pytest.mark.integration
def test_a_table_for_people_about_another_gateway(nothing: Upstream, listen: str) -> None:
    done = run("--against", nothing.url, "--key", "sk-caller", "--listen", listen, "--only", "ok", "--no-failover")

    assert done.exit_code == 0
    assert "a good answer" in done.stdout
    assert "score: 2 of 2 (told 2 of 2)" in done.stdout
    assert f"http://{listen}/v1" in done.stderr


@pytest.mark.integration
def test_a_case_that_is_lost_is_an_exit_code(nothing: Upstream, listen: str) -> None:
    done = run("--against", nothing.url, "--listen", listen, "--only", "status_500", "--json")

    assert done.exit_code == 1
    assert json.loads(done.stdout)["score"]["told"] == {"passed": 0, "of": 2}


@pytest.mark.integration
def test_with_nothing_in_between_the_lies_arrive() -> None:
    tried = [case for case in cases() if case.scenario.script in LIES | TRUTHS]
    upstream = Upstream(SCRIPTS, aliases=runner.aliases(tried))
    upstream.start()
    try:
        results = asyncio.run(
            runner.torture(Gateway.at(upstream.url, "sk-caller"), upstream, tried, patience_s=20.0, callers=False)
        )
    finally:
        upstream.stop()

    assert {result.name for result in results if result.group == "told" and not result.passed} == LIES
    assert not any(result.passed for result in results if result.group == "failover")
    assert runner.score(results)["failover"]["passed"] == 0
    assert upstream.faults == []


@pytest.mark.integration
def test_a_gateway_that_is_not_configured_gets_no_score(listen: str) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        done = run("--against", f"127.0.0.1:{nobody.getsockname()[1]}", "--listen", listen, "--only", "ok", "--wait", "0")

    assert done.exit_code == 3
    assert "does not serve the model torture-good: nobody answers" in done.stderr
    assert "--print" in done.stderr


@pytest.mark.integration
def test_a_gateway_that_wants_a_key_says_so_at_once(listen: str, httpserver: HTTPServer) -> None:
    httpserver.expect_request("/v1/chat/completions").respond_with_json({"error": {"message": "No API key was sent"}}, status=401)
    done = run("--against", httpserver.url_for("/"), "--listen", listen, "--only", "ok", "--wait", "3600")

    assert done.exit_code == 3
    assert "it answered 401" in done.stderr
    assert "--key" in done.stderr
    assert "--print" not in done.stderr


@pytest.mark.unit
@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--only", "nonsense"), "there is no scenario 'nonsense'"),
        (("--against", "ftp://x"), "is no address of a gateway"),
        (("--against", "http://x", "--listen", "9199"), "write 127.0.0.1:9199"),
        (("--print", "nginx"), "it is one of tollbridge, litellm, words"),
    ],
)
def test_what_cannot_be_meant_is_said(arguments: tuple[str, ...], why: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 3
    assert why in done.stderr


@pytest.mark.unit
def test_the_configuration_has_every_case_in_both_forms() -> None:
    names = {case.name for case in cases()} | {GOOD, CALLER}
    ours: Any = yaml.load(run("--print", "tollbridge").stdout, yaml.CSafeLoader)
    assert set(ours["chains"]) == set(ours["providers"]) == names
    assert ours["chains"]["torture-status_500-whole-backed"][1] == f"{GOOD}/{GOOD}"
    assert ours["providers"]["torture-refused-whole"]["base_url"] == "http://127.0.0.1:9200/v1"

    theirs: Any = yaml.load(run("--print", "litellm").stdout, yaml.CSafeLoader)
    assert {model["model_name"] for model in theirs["model_list"]} == names
    assert {model["litellm_params"]["api_key"] for model in theirs["model_list"]} == {UPSTREAM_KEY}
    backed = {name for fallback in theirs["litellm_settings"]["fallbacks"] for name in fallback}
    assert backed == {case.name for case in cases() if case.group == "failover"}
    assert sum(scenario.next for scenario in SCENARIOS) <= len(backed)

    assert "http://127.0.0.1:9199/v1" in run("--print", "words").stdout
