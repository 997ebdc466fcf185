"""What wins a case and what loses it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.torture.caller import CANARY, Gateway, Reply, chat
from proxy.torture.judge import MAX_ASKED, Counted, faults, leaving_faults, mistake_faults, passed_on, seen
from proxy.torture.scenarios import LEAVINGS, SCENARIOS, TEXT, Case, Group, Kind, Mistake, Scenario, cases, mistakes
from proxy.torture.scripts import SCRIPTS
from proxy.torture.upstream import completion, delta, event, finish, role

pytestmark = pytest.mark.unit

ERROR = {"error": {"message": "no", "type": "upstream_error", "param": None, "code": "x"}}
WHOLE = json.dumps(completion()).encode()
STREAM = b"".join(map(event, (role(), delta(TEXT), finish()))) + b"data: [DONE]\n\n"
BROKEN = b"".join(map(event, (role(), delta("Hello"))))
CLEAN = Counted(asked=1, keys=frozenset(("sk-secret",)))


def case(due: str, kind: Kind = "whole", group: Group = "told", **more: Any) -> Case:
    return Case(Scenario("s", "says", due, **more), kind, group)  # type: ignore[arg-type]


def reply(status: int, body: bytes = b"", *, whole: bool = True, stream: bool = False) -> Reply:
    kind = "text/event-stream" if stream else "application/json"
    return Reply(status, {"content-type": kind}, bytearray(body), whole=whole)


def error(status: int, **headers: str) -> Reply:
    told = reply(status, json.dumps(ERROR).encode())
    told.headers |= {name.replace("_", "-"): value for name, value in headers.items()}
    return told


WON = {
    "whole": (case("answer"), reply(200, WHOLE)),
    "stream": (case("answer", "stream"), reply(200, STREAM, stream=True)),
    "stream with carriage returns": (case("answer", "stream"), reply(200, STREAM.replace(b"\n", b"\r\n"), stream=True)),
    "mended text": (case("answer"), reply(200, WHOLE.replace(b"Hello", "\ufffdHello".encode()))),
    "any text": (case("answer", text=None), reply(200, WHOLE.replace(b"Hello", b"Else"))),
    "fault": (case("fault"), error(502)),
    "limit": (case("limit", wait_s=7), error(429, retry_after="7")),
    "limit as a date": (
        case("limit", wait_s=20),
        error(429, retry_after="Sat, 21 Nov 2026 10:00:20 GMT", date="Sat, 21 Nov 2026 10:00:00 GMT"),
    ),
    "limit in milliseconds": (case("limit", wait_s=2), error(429, retry_after="9", retry_after_ms="1500")),
    "limit without a wait": (case("limit"), error(429)),
    "busy": (case("busy"), error(429)),
    "callers": (case("callers", statuses=(422,)), error(422)),
    "broken with an error": (case("broken", "stream"), reply(200, BROKEN + event(ERROR), stream=True)),
    "broken and cut": (case("broken", "stream"), reply(200, BROKEN, stream=True, whole=False)),
    "broken and held back": (case("broken", "stream"), error(502)),
    "timeout": (case("timeout"), error(408)),
    "failover": (case("fault", "stream", "failover"), reply(200, STREAM, stream=True)),
}
LOST = {
    "wrong text": (case("answer"), reply(200, WHOLE.replace(b"Hello", b"Jello")), "the text is"),
    "no end mark": (case("answer", "stream"), reply(200, STREAM.replace(b"data: [DONE]\n\n", b""), stream=True), "0 end marks"),
    "two end marks": (case("answer", "stream"), reply(200, STREAM + b"data: [DONE]\n\n", stream=True), "2 end marks"),
    "one body for a stream": (case("answer", "stream"), reply(200, WHOLE), "one body came"),
    "error for an answer": (case("answer"), error(502), "though the answer was good"),
    "cut answer": (case("answer"), reply(200, WHOLE, whole=False), "cut off"),
    "clean 200": (case("fault"), reply(200, b""), "a clean 200"),
    "200 and a break": (case("fault"), reply(200, BROKEN, stream=True, whole=False), "200, and a break"),
    "200 with an error": (case("fault"), error(200), "200 with an error"),
    "wrong status": (case("fault"), error(401), "401 is the wrong status"),
    "no shape": (case("fault"), reply(502, b"Bad Gateway"), "OpenAI's shape"),
    "absurd wait": (case("limit"), error(429, retry_after="1000000000"), "retry-after is"),
    "no number": (case("limit"), error(429, retry_after="NaN"), "retry-after is"),
    "wait forgotten": (case("limit", wait_s=7), error(429), "missing"),
    "looks whole": (case("broken", "stream"), reply(200, BROKEN, stream=True), "as if it were whole"),
    "end mark after a break": (case("broken", "stream"), reply(200, BROKEN + b"data: [DONE]\n\n", stream=True), "[DONE] after"),
    "broken and blamed on the caller": (case("broken", "stream"), error(400), "400 is the wrong status"),
    "text lost": (case("broken", "stream"), reply(200, event(ERROR), stream=True), "not passed on"),
    "no failover": (case("fault", "whole", "failover"), error(502), "another target was there"),
    "hang-up": (case("fault"), Reply(), "hung up"),
    "hung": (case("timeout"), Reply(hung=True, ended_s=30.0), "not over after 30 s"),
    "key": (case("fault"), reply(502, json.dumps(ERROR).replace("no", "sk-secret").encode()), "key is in the answer"),
    "page": (case("fault"), reply(502, b"<html>"), "own page"),
}


@pytest.mark.parametrize("name", WON)
def test_what_wins(name: str) -> None:
    asked, answer = WON[name]
    assert faults(asked, answer, CLEAN) == []


@pytest.mark.parametrize("name", LOST)
def test_what_loses(name: str) -> None:
    asked, answer, why = LOST[name]
    assert any(why in fault for fault in faults(asked, answer, CLEAN))


def test_an_upstream_that_is_asked_again_and_again_or_elsewhere() -> None:
    assert faults(case("fault"), error(502), Counted(MAX_ASKED)) == []
    assert "was asked 4 times" in faults(case("fault"), error(502), Counted(MAX_ASKED + 1))[0]
    assert faults(case("callers", statuses=(400,)), error(400), Counted(2)) != []
    assert faults(case("fault"), error(502), Counted(1, strays=1)) == ["it followed the redirect"]


def test_who_lets_go_and_who_does_not() -> None:
    assert leaving_faults(0.1) == []
    assert leaving_faults(3.0) != []
    assert leaving_faults(None) != []


def test_a_mistake_is_refused_and_goes_nowhere() -> None:
    mistake = Mistake("m", "says", b"", (400, 0))
    assert mistake_faults(mistake, error(400), Counted()) == []
    assert mistake_faults(mistake, Reply(), Counted()) == []
    assert mistake_faults(mistake, error(500), Counted()) != []
    assert mistake_faults(mistake, error(400), Counted(asked=1)) == ["the upstream was asked"]
    served = Mistake("m", "says", b"", (400,), served=True)
    assert mistake_faults(served, reply(200, WHOLE), Counted(asked=1)) == []
    assert mistake_faults(served, reply(200, WHOLE), Counted(strays=1)) == ["the address in the body was asked"]


def test_the_callers_own_headers_go_no_further() -> None:
    assert passed_on([{"host": "x", "authorization": "Bearer upstream"}], "mine") == []
    assert len(passed_on([{"cookie": f"session={CANARY}"}, {"authorization": "Bearer mine"}], "mine")) == 2


def test_what_was_seen_is_said_in_a_few_words() -> None:
    assert seen(reply(200, STREAM, stream=True)) == "200, text, [DONE]"
    assert seen(reply(200, BROKEN, stream=True, whole=False)) == "200, text, cut off"
    assert seen(error(502)) == "502, an error (x)"
    assert seen(Reply()) == "a hang-up"
    assert seen(Reply(hung=True)) == "nothing"


def test_every_scenario_has_its_script_and_every_case_a_name_of_its_own() -> None:
    elsewhere = {scenario.script for scenario in SCENARIOS if scenario.at != "upstream"}
    assert {scenario.script for scenario in (*SCENARIOS, *LEAVINGS)} - elsewhere <= set(SCRIPTS)
    names = [each.name for each in cases()]
    assert len(names) == len(set(names))
    assert {each.group for each in cases(failover=False)} == {"told", "leaving"}
    kinds = [mistake.name for mistake in mistakes("http://127.0.0.1:1/v1")]
    assert len(kinds) == len(set(kinds))


@pytest.mark.parametrize(
    ("url", "host", "port", "base", "tls"),
    [
        ("http://127.0.0.1:4000", "127.0.0.1", 4000, "/v1", False),
        ("127.0.0.1:4000/", "127.0.0.1", 4000, "/v1", False),
        ("https://gateway.example/openai/v1/", "gateway.example", 443, "/openai/v1", True),
        ("http://[::1]:8080/v1", "::1", 8080, "/v1", False),
    ],
)
def test_an_address_with_and_without_its_parts(url: str, host: str, port: int, base: str, tls: bool) -> None:
    gateway = Gateway.at(url)
    assert (gateway.host, gateway.port, gateway.base, gateway.tls) == (host, port, base, tls)
    assert gateway.post(chat("m", stream=True)).startswith(f"POST {base}/chat/completions HTTP/1.1\r\n".encode())


@pytest.mark.parametrize("url", ["", "ftp://x", "http://"])
def test_what_is_no_address_is_said(url: str) -> None:
    with pytest.raises(ValueError, match="is no address"):
        Gateway.at(url)
