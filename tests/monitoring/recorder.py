"""A ledger of traffic that the production router chose for: real plans, breakers, cooldowns, latches and standings on a clock that is set,
over upstreams that fail by phases. Only the answers are made up, and what a relay notes of them is noted here."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from proxy.accounting.pricing import PriceBook
from proxy.accounting.records import Begin, End, Fields, Record, Rejected, RequestEnd, RequestOpen, positional
from proxy.accounting.usage import estimate_input
from proxy.config.load import load
from proxy.config.settings import Settings
from proxy.core.chat import ChatRequest
from proxy.core.errors import ErrorClass, UpstreamError
from proxy.core.target import Chain, Target
from proxy.core.ulid import UlidFactory
from proxy.core.usage import Usage
from proxy.core.wishes import wishes_of
from proxy.dialects.openai_request import OpenAIChatInbound
from proxy.engine.choosing import make_plan
from proxy.routing.deployment import Deployments, Permit
from proxy.routing.plan import Candidate, ChainTrickle, Plan
from proxy.routing.verdict import RULES, Effect, judge
from proxy.storage.fold import Batch
from proxy.storage.ledger import Ledger
from proxy.storage.sqlite import LEDGER, open_writer

RECORDS_A_BATCH = 2_000
BEGAN_S = 1_799_971_200.0  # midnight, UTC
FILE = """\
providers:
  alpha: &p
    dialect: openai
    base_url: http://127.0.0.1:1/v1
    api_keys: [alpha-key-fake-0001]
    region: eu-west-1
    prices: {m: {input: 1, output: 4}, large: {input: 3, output: 12}}
    models:
      m: {quality: 60, capabilities: [tools, json_object], expected_first_token: 300ms, context: 8000}
      large: {quality: 90, expected_first_token: 900ms}
  beta:
    <<: *p
    api_keys: [beta-key-fake-0001, beta-key-fake-0002]
    region: us-east-1
    limits: {in_flight: 3}
    prices: {m: {input: 0.5, output: 2}}
    models: {m: {quality: 50}}
  gamma: {<<: *p, api_keys: [gamma-key-fake-001], region: eu-north-1, prices: {}, models: {m: {quality: 75, capabilities: [tools, vision]}}}
  delta: {<<: *p, api_keys: [delta-key-fake-001], prices: {"*": {input: 0, output: 0}}, models: {m: {enabled: false}}}
  groq: {}
chains:
  ordered: [alpha/m, groq/llama-3.3-70b-versatile, beta/m, gamma/m]
  weighted: {strategy: weighted, targets: [{target: alpha/m, weight: 3}, beta/m, {target: gamma/m, weight: 0.5}, delta/m]}
  turns: {strategy: round_robin, targets: [alpha/m, beta/m, gamma/m]}
  busy: {strategy: least_busy, targets: [alpha/m, beta/m, gamma/m, delta/free]}
  quick: {strategy: fastest, targets: [alpha/large, alpha/m, beta/m, gamma/m]}
  cheap: {strategy: cheapest, targets: [alpha/large, alpha/m, beta/m, gamma/m, delta/free]}
  best:
    strategy: score
    weights: {cost: 40}
    failover_on: [5xx, timeout, connection, policy]
    targets: [alpha/large, alpha/m, beta/m, gamma/m]
  sticky: {strategy: sticky, targets: [alpha/m, {target: beta/m, weight: 2}, gamma/m]}
  canned: [gamma/m, {static: "Please come back later."}]
  "pre-*": {strategy: score, targets: [beta/*, alpha/m]}
"""
CHOOSING = ("weighted", "turns", "busy", "quick", "cheap", "best", "sticky", "canned", "pre-m", "auto", "alpha/m", "nobody")
MODELS = (*CHOOSING, *["ordered"] * (2 * len(CHOOSING)))
_WISHES: tuple[dict[bytes, bytes], ...] = (
    {b"x-tollbridge-prefer": b"gamma"},
    {b"x-tollbridge-prefer": b"beta/m", b"x-tollbridge-exclude": b"alpha/m"},
    {b"x-tollbridge-require": b"region:eu"},
    {b"x-tollbridge-require": b"tools, region:us"},
    {b"x-tollbridge-max-cost": b"0.0035"},
    {b"x-tollbridge-max-latency": b"400ms"},
    {b"x-tollbridge-priority": b"high"},
    {b"x-tollbridge-priority": b"low", b"x-tollbridge-max-cost": b"0.005"},
)
_FAULTS = (ErrorClass.SERVER_ERROR, ErrorClass.RATE_LIMITED, ErrorClass.CONNECT, ErrorClass.CONTENT_POLICY)
_TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


@dataclass
class Clock:
    now: float = 0.0


@dataclass
class Recorder:
    """`settings` come from FILE. What it records ends in the ledger of `folder` when it is closed."""

    folder: Path
    seed: int = 7
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.settings = write_file(self.folder / "providers.yaml", FILE)
        self.prices = PriceBook(self.folder / "nowhere")
        self.deployments = Deployments(self.random.random)
        self.trickle = ChainTrickle()
        self._records: list[Fields] = []
        self.new_id = UlidFactory(lambda: BEGAN_S + self.clock.now, self.random.randbytes)
        self.inbound = OpenAIChatInbound()
        self._out: deque[tuple[float, Permit]] = deque()
        self._ill: dict[str, ErrorClass] = {}
        self._requests: dict[tuple[Any, ...], ChatRequest] = {}
        self.plans: dict[str, list[str]] = {}  # request id -> the names of its candidates, each once

    def close(self) -> None:
        """Into the tables, as the drainer does it."""
        (self.folder / "data").mkdir()
        connection = open_writer(self.folder / "data" / LEDGER)
        ledger = Ledger(connection)
        for begin in range(0, len(self._records), RECORDS_A_BATCH):
            batch = Batch()
            batch.add(self._records[begin : begin + RECORDS_A_BATCH], "BOOT1.1")
            connection.execute("BEGIN IMMEDIATE")
            ledger.write(batch)
            connection.execute("COMMIT")
        connection.close()

    def record(self, requests: int) -> None:
        for _ in range(requests):
            self.clock.now += self.random.random() * 0.6
            self._change_health()
            self._request(self.random.choice(MODELS))

    def _change_health(self) -> None:
        if self.random.random() < 0.02 and len(self._ill) < 2:
            self._ill[self.random.choice(("alpha", "beta", "gamma"))] = self.random.choice(_FAULTS)
        if self._ill and self.random.random() < 0.05:
            del self._ill[self.random.choice(list(self._ill))]
        while self._out and self._out[0][0] <= self.clock.now:
            self._out.popleft()[1].release(Effect.OK, self.clock.now)

    def _request(self, model: str) -> None:
        dice = self.random
        chain = self.settings.resolve(model)
        said = (model, dice.choice((5, 5, 300, 7_000)), dice.random() < 0.2, dice.choice((None, 16, 600)), dice.randrange(8))
        request = self._requests.get(said) or self._new_request(*said)
        opened = RequestOpen(
            self.new_id(), int((BEGAN_S + self.clock.now) * 1000), f"client-{dice.randrange(3)}", None, None, None, None, model,
            None if chain is None else chain.name, request.stream, self.settings.hash,
        )  # fmt: skip
        if chain is None:
            closed = RequestEnd("rejected", 404, 0, 0.1, None, None, None, "model_not_found", [], [], None)
            self._write(Rejected(opened, closed))
            return
        made = self._plan(chain, request, opened.client)
        self.plans[opened.id] = list(dict.fromkeys(candidate.target.name for candidate in made.candidates))
        self._walk(opened, chain, request, made)

    def _new_request(self, model: str, words: int, tools: bool, max_tokens: int | None, user: int) -> ChatRequest:
        body: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": "word " * words}],
            "stream": user % 2 == 0,
        }
        body |= {"tools": [_TOOL]} if tools else {}
        body |= {"max_tokens": max_tokens} if max_tokens is not None else {}
        body |= {"user": f"user-{user}"} if user < 5 else {}
        made = self._requests[model, words, tools, max_tokens, user] = self.inbound.decode_request(orjson.dumps(body))
        return made

    def _plan(self, chain: Chain, request: ChatRequest, client: str | None) -> Plan:
        return make_plan(
            chain,
            request,
            wishes=wishes_of(self.random.choice(_WISHES) if self.random.random() < 0.15 else {}),
            client=client,
            deployments=self.deployments,
            prices=self.prices,
            now=self.clock.now,
            wall=BEGAN_S + self.clock.now,
            random=self.random.random,
            trickle=self.trickle,
        )

    # -- what a relay does

    def _walk(self, opened: RequestOpen, chain: Chain, request: ChatRequest, made: Plan) -> None:
        notes: list[dict[str, Any]] = []
        ends: list[End] = []
        outcome, status = ("rejected", 400) if made.lacking is not None and not made.candidates else ("failed", 503)
        for place, candidate in enumerate(made.candidates):
            permit = candidate.deployment.acquire(self.clock.now, None)
            if permit is None:
                notes.append({"target": candidate.target.name, "skipped": "no permit: circuit or capacity"})
                continue
            end, error = self._attempt(opened, candidate, permit, request, len(ends) + 1)
            ends.append(end)
            if error is None:
                outcome, status = "ok", 200
                break
            verdict = judge(error, failover_on=chain.failover_on, committed=False)
            permit.release(verdict.penalise, self.clock.now, verdict.cooldown_s)
            later = [c for c in made.candidates[place + 1 :] if c.deployment.unusable(self.clock.now) is None]
            then = "next" if verdict.try_next and later else "stop"
            notes.append(
                {"attempt": end.n, "target": candidate.target.name, "error": error.error_class.value, "ms": 1.5, "then": then}
            )
            if then == "stop":
                break
        closed = RequestEnd(
            outcome, status, len(ends), 30.0, None, None, None, None if outcome == "ok" else "failed", [*made.trace, *notes], [],
            None if made.asked is None else {"asked": made.asked},
        )  # fmt: skip
        if not ends:
            self._write(Rejected(opened, closed))
        for end in ends:
            begin = Begin(
                end.attempt_id, opened.id, end.n, end.time_ms, end.provider, end.upstream_model, end.credential, 0, None
            )
            self._write(begin._replace(request=opened) if end.n == 1 else begin)
            self._write(end._replace(end=closed) if end is ends[-1] else end)

    def _write(self, record: Record) -> None:
        self._records.append(positional(record))

    def _attempt(
        self, opened: RequestOpen, candidate: Candidate, permit: Permit, request: ChatRequest, n: int
    ) -> tuple[End, UpstreamError | None]:
        target = candidate.target
        error = self._fault(target)
        first_s = (0.2 + 0.6 * self.random.random()) * (2 if target.upstream_model == "large" else 1)
        usage = Usage(estimate_input(request.body_bytes), self.random.randrange(5, 400))
        rates = self.prices.rates(target, opened.time_ms / 1000)
        if error is None:
            permit.first_content(self.clock.now)
            self._out.append((self.clock.now + 1.0, permit))
        if (standing := candidate.deployment.standing) is not None:
            ok = None if error is not None and RULES[error.error_class].effect is Effect.NEUTRAL else error is None
            first = first_s if error is None else None
            tokens = usage.output_tokens if error is None else 0
            standing.note(
                self.clock.now, ok=ok, stream=request.stream, first_token_s=first, total_s=first_s + 2, output_tokens=tokens
            )
        read, written, source = (usage.input_tokens, usage.output_tokens, "provider") if error is None else (0, 0, None)
        cost_nusd = 0 if error is not None else None if rates is None else rates.cost_nusd(usage)
        price = None if error is not None or rates is None else rates.source
        return End(
            f"{opened.id}-{n}", opened.id, n, opened.time_ms, target.provider.name, target.upstream_model, candidate.credential.id,
            "ok" if error is None else "failed", 200 if error is None else 500, None if error is None else error.error_class.value,
            None if error is None else "transient", None, first_s * 1000 if error is None else None, first_s * 1000 + 2000,
            read, 0, 0, written, 0, 0, 0, source, cost_nusd, price, 0, "stop" if error is None else None, None,
        ), error  # fmt: skip

    def _fault(self, target: Target) -> UpstreamError | None:
        ill = self._ill.get(target.provider.name)
        if target.answer is None and ill is not None and self.random.random() < 0.9:
            wait_s = self.random.choice((0.5, 4.0, 30.0)) if ill is ErrorClass.RATE_LIMITED else None
            return UpstreamError(ill, "it broke", retry_after_s=wait_s)
        return UpstreamError(ErrorClass.INVALID_REQUEST, "no") if self.random.random() < 0.01 else None


def write_file(path: Path, text: str) -> Settings:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return load(path, environ={})
