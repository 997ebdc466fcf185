"""Who asks what, when. Pure: the same scenario and seed give the same requests."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from random import Random

import orjson

from proxy.simulation.prompts import Prompt, Prompts
from proxy.simulation.schema import Scenario, TrafficSection


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request that comes `at_s` after the scenario's start. `patience_s`: then its caller hangs up; None: never."""

    at_s: float
    kind: int
    prompt: Prompt
    stream: bool
    body: bytes
    headers: dict[bytes, bytes]
    client: str | None
    patience_s: float | None


def arrivals(scenario: Scenario, seed: int) -> Iterator[Arrival]:
    """In the order of their times; of those at the same time, in the order of the file."""
    prompts = Prompts(scenario.traffic, seed)
    kinds = [_of_one_kind(index, each, scenario.length_s, prompts, seed) for index, each in enumerate(scenario.traffic)]
    yield from heapq.merge(*kinds, key=lambda arrival: (arrival.at_s, arrival.kind))


def _of_one_kind(kind: int, traffic: TrafficSection, length_s: float, prompts: Prompts, seed: int) -> Iterator[Arrival]:
    chance = Random(f"{seed} traffic {kind}")
    end_s = min(traffic.to if traffic.to is not None else inf, length_s)
    headers = {name.lower().encode(): value.encode() for name, value in traffic.headers.items()}
    number = 0
    while True:
        if traffic.arrivals == "even":
            at_s = traffic.from_ + number / traffic.rate
        else:
            at_s = (traffic.from_ if not number else at_s) + chance.expovariate(traffic.rate)
        if at_s >= end_s:
            return
        prompt = prompts.make(kind, number if traffic.prompts is None else chance.randrange(traffic.prompts))
        stream = traffic.stream > 0 and chance.random() < traffic.stream
        body = {
            "model": traffic.model,
            "messages": [{"role": "user", "content": prompt.text}],
            **({"stream": True} if stream else {}),
            **({} if traffic.users is None else {"user": f"user-{chance.randrange(traffic.users)}"}),
            **traffic.body,
        }
        yield Arrival(at_s, kind, prompt, stream, orjson.dumps(body), headers, traffic.client, traffic.patience)
        number += 1
