"""The same script, once in the simulator and once for real: a proxy on a port, upstreams on ports, and callers one after the other.

What is compared is who served, what was tried before and why it failed, what callers were told, and every circuit after every request. The
live run is driven by the requests: before each the proxy's clock is set to the time at which the scenario has it come, and there it
stands. Chance is drawn from the same generators, so that even what is left to it must agree.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

import proxy.runtime
from proxy.config.load import load
from proxy.simulation import wire
from proxy.simulation.loop import BEGAN_S
from proxy.simulation.prompts import Prompts, words
from proxy.simulation.record import Story
from proxy.simulation.schema import Scenario
from proxy.simulation.script import Script
from proxy.simulation.traffic import arrivals
from tests.e2e.conftest import write_config
from tests.e2e.running import Proxy
from tests.simulation import worlds

pytestmark = pytest.mark.integration

SEED = 11
SCENARIO = f"""
seed: {SEED}
traffic:
  - {{to: 110s, rate: 58/m, arrivals: even, model: smart, stream: 0.5, input: 60, output: 20}}
  - {{from: 500ms, to: 110s, rate: 29/m, arrivals: even, model: spread, input: 60, output: 20}}
upstreams:
  a: {{first_token: 1ms, tokens_per_s: 100000}}
  b: {{first_token: 1ms, tokens_per_s: 100000}}
  c: {{first_token: 1ms, tokens_per_s: 100000}}
events:
  - {{at: 10s, for: 15s, provider: a, fault: 503}}
  - {{at: 40s, for: 6s, provider: a, fault: 429, retry_after: 9s}}
  - {{at: 58s, for: 14s, provider: a, fault: cut, share: 0.6}}
  - {{at: 88s, for: 3s, provider: a, fault: reset}}
  - {{at: 74s, for: 24s, provider: c, fault: 400}}
  - {{at: 100s, provider: b, fault: 401}}
"""


class Seen(NamedTuple):
    """A request as its caller and its ledger have it, and the circuits when it was over."""

    model: str
    stream: bool
    outcome: str
    code: str | None
    served_by: str | None
    tries: list[tuple[str, str | None]]
    circuits: dict[str, str]


class Upstreams:
    """The scenario's providers, each on a port of its own. `now`: the scenario's time."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.now = 0.0
        self.faults: list[BaseException] = []
        self._lock = threading.Lock()
        self._script: Script
        self._prompts: Prompts
        self._servers = {name: ThreadingHTTPServer(("127.0.0.1", 0), self._handler(name)) for name in names}
        self.ports = {name: server.server_address[1] for name, server in self._servers.items()}
        for server in self._servers.values():
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

    def follow(self, scenario: Scenario) -> None:
        self._script, self._prompts = Script(scenario, SEED), Prompts(scenario.traffic, SEED)

    def stop(self) -> None:
        for server in self._servers.values():
            server.shutdown()
            server.server_close()

    def _handler(upstreams, name: str) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - `self` is the handler's
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:  # its models, for the health check
                self._send(200, b'{"object": "list", "data": []}')

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                try:
                    upstreams._answer(name, self, body)
                except Exception as fault:
                    upstreams.faults.append(fault)
                    raise

            def _send(self, status: int, body: bytes, *, announced: int = 0, headers: Mapping[str, str] | None = None) -> None:
                self.send_response(status)
                for key, value in {"content-type": "application/json", **(headers or {})}.items():
                    self.send_header(key, value)
                self.send_header("connection", "close")
                self.send_header("content-length", str(len(body) + announced))
                self.end_headers()
                self.wfile.write(body)
                self.close_connection = True

            def log_message(self, *args: Any) -> None:
                """Nothing is told."""

        return Handler

    def _answer(self, name: str, handler: Any, body: bytes) -> None:
        """What the script says, over a connection that serves once."""
        asked = wire.read_request("openai", handler.path, body)
        prompt = self._prompts.found_in(body)
        with self._lock:
            act = self._script.act(name, asked.model, self.now)
        if act.kind == "reset":
            handler.close_connection = True
            return
        if act.kind == "error":
            waits = {} if act.retry_after_s is None else {"retry-after": str(round(act.retry_after_s))}
            handler._send(act.status, wire.error(asked.form, act.status, act.code), headers=waits)
            return
        text = words(prompt.output_tokens, prompt.number)
        answer = wire.Answer("x", asked.model, 0, [text[:20], text[20:]], prompt.input_tokens, prompt.output_tokens)
        kind = {"content-type": wire.headers(asked.form, stream=asked.stream)[0][1].decode()}
        pieces = wire.streamed(asked.form, answer) if asked.stream else [wire.whole(asked.form, answer)]
        if act.kind == "cut":
            pieces = pieces[:1] if asked.stream else [pieces[0][:30]]
            handler._send(200, b"".join(pieces), announced=10, headers=kind)
        else:
            assert act.kind == "answer"
            handler._send(200, b"".join(pieces), headers=kind)


class SetClock:
    """Stands still until it is set to a time of the scenario, so that nothing depends on how long a request really takes."""

    def __init__(self) -> None:
        self._now = BEGAN_S

    def set(self, passed_s: float) -> None:
        self._now = BEGAN_S + passed_s

    def monotonic(self) -> float:
        return self._now


CONFIG: dict[str, Any] = {
    "server": {"log_level": "error"},
    "health": {"interval": "1h"},
    "chains": {
        "smart": ["a/m", "b/m", "c/m"],
        "spread": {
            "strategy": "weighted",
            "targets": [{"target": "a/m", "weight": 3}, {"target": "b/m", "weight": 2}, {"target": "c/m", "weight": 1}],
        },
    },
}


@pytest.fixture(scope="module")
def upstreams() -> Iterator[Upstreams]:
    made = Upstreams(("a", "b", "c"))
    yield made
    made.stop()
    assert made.faults == []


@pytest.fixture(scope="module")
def config(upstreams: Upstreams, tmp_path_factory: pytest.TempPathFactory) -> Path:
    providers = {
        name: {"dialect": "openai", "base_url": f"http://127.0.0.1:{port}/v1", "api_key": "sk-x-1", "prices": worlds.PRICES}
        for name, port in upstreams.ports.items()
    }
    return write_config(tmp_path_factory.mktemp("agreement"), {"providers": providers, **CONFIG})


def live(config: Path, scenario: Scenario, upstreams: Upstreams) -> list[Seen]:
    clock = SetClock()
    upstreams.follow(scenario)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proxy.runtime, "SystemClock", lambda: SimpleNamespace(monotonic=clock.monotonic, wall=time.time))
        patch.setattr(proxy.runtime, "random", SimpleNamespace(random=Random(f"{SEED} engine").random))
        running = Proxy(config)
        try:
            ids, circuits = [], []
            for arrival in arrivals(scenario, SEED):
                clock.set(arrival.at_s)
                upstreams.now = arrival.at_s
                answer = running.client.request("POST", "/v1/chat/completions", arrival.body)
                ids.append((arrival, answer.id))
                circuits.append(_circuits(running))
            found = []
            for (arrival, request_id), states in zip(ids, circuits, strict=True):
                row = running.client.row(request_id)
                tries = [(f"{one['provider']}/{one['upstream_model']}", one["error_class"]) for one in row["attempt_list"]]
                ok = row["outcome"] == "ok"
                served_by = f"{row['provider']}/{row['upstream_model']}" if ok else None
                found.append(Seen(row["model"], arrival.stream, row["outcome"], row["error_code"], served_by, tries, states))
            return found
        finally:
            running.stop()


def _circuits(running: Proxy) -> dict[str, str]:
    """By provider, each of which has one model; closed where nothing is known yet."""
    deployments = running.runtime.gateway.services.deployments
    return {
        one.provider: one.circuit for one in deployments.snapshot(running.runtime.clock.monotonic()) if one.provider != "demo"
    }


def simulated(config: Path, text: str, names: tuple[str, ...]) -> tuple[list[Seen], Scenario]:
    settings = load(config, environ={})
    stories: list[Story] = []
    outcome = worlds.run(settings, text, on_story=stories.append)
    assert outcome.faults == {}
    stories.sort(key=lambda story: story.at_s)
    found = []
    for position, story in enumerate(stories):
        until = stories[position + 1].at_s if position + 1 < len(stories) else float("inf")
        states = dict.fromkeys(names, "closed")
        for change in outcome.timeline.changes:
            if change.what == "circuit" and change.at_s < until:
                states[change.target.partition("/")[0]] = change.to
        tries = [(one.target, one.error) for one in story.tries]
        found.append(Seen(story.model, story.stream, story.outcome, story.code, story.served_by, tries, states))
    return found, worlds.scenario(settings, text)


def test_the_simulator_and_the_proxy_tell_the_same_story(config: Path, upstreams: Upstreams) -> None:
    expected, scenario = simulated(config, SCENARIO, tuple(upstreams.ports))
    found = live(config, scenario, upstreams)
    assert len(found) == len(expected) == 160
    for number, (here, there) in enumerate(zip(found, expected, strict=True)):
        assert here == there, f"request {number}"
    # and it is a story: circuits open and close, streams break, callers are told of faults, all three serve
    assert {state for seen in expected for state in seen.circuits.values()} == {"closed", "open"}
    assert {seen.served_by for seen in expected} == {"a/m", "b/m", "c/m", None}
    assert {seen.outcome for seen in expected} == {"ok", "failed"}
    errors = {error for seen in expected for _, error in seen.tries}
    assert errors == {None, "5xx", "rate_limited", "truncated", "reset", "4xx", "auth"}
