"""The grammar of a scenario: what is asked, how the upstreams answer, and what goes wrong when. Unknown keys are refused.

    seed: 7
    traffic: [{from: 0s, to: 10m, rate: 5/s, model: smart, stream: 0.5, input: 800, output: 200}]
    upstreams: {openai: {first_token: 400ms, tokens_per_s: 60, jitter: 0.2}}
    events: [{at: 2m, for: 90s, provider: openai, fault: 503, retry_after: 10s, share: 0.5}]

Written and checked as `providers.yaml` is (`config/schema.py`); durations are seconds here, times count from the scenario's start.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from proxy.config.schema import Count, Delay, Moment, Section, Share, Text, Timeout, optional, required, section

RATE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?) ?/ ?(s|m|h)")
PER_S = {"s": 1.0, "m": 60.0, "h": 3600.0}
MAX_TOKENS = 2_000_000
DEFAULT_START = 1_798_761_600.0  # 2027-01-01, a Friday

FaultWord = Literal["timeout", "refuse", "reset", "cut", "stall", "slow", "empty", "quota"]
FAULT_WORDS = ("timeout", "refuse", "reset", "cut", "stall", "slow", "empty", "quota")


def parse_rate(value: object) -> float:
    """`"300/m"` -> 5.0. Requests per second. Raises PydanticCustomError."""
    found = RATE.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None or (rate := float(found[1]) / PER_S[found[2]]) <= 0:
        raise PydanticCustomError("unit", "a rate is needed (write a number with its time: 5/s, 300/m or 20/h)")
    return rate


def _no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise PydanticCustomError("number", "a number is needed")
    return value


def _status(value: object) -> object:
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        if not 400 <= value <= 599:
            raise PydanticCustomError("unit", "no status of an error (write one of 400 to 599, such as 503)")
        return value
    if value not in FAULT_WORDS:
        raise PydanticCustomError("unit", f"no such fault (write a status of 400 to 599, or {', '.join(FAULT_WORDS)})")
    return value


Rate = Annotated[float, BeforeValidator(parse_rate)]
Fault = Annotated[int | FaultWord, BeforeValidator(_status)]
Part = Annotated[float, Field(ge=0, le=1), BeforeValidator(_no_bool)]
Tokens = Annotated[int, Field(ge=1, le=MAX_TOKENS), BeforeValidator(_no_bool)]
Speed = Annotated[float, Field(gt=0, le=100_000), BeforeValidator(_no_bool)]
Times = Annotated[float, Field(ge=1, le=10_000), BeforeValidator(_no_bool)]


class TrafficSection(Section):
    """Requests of one kind, over a time."""

    from_: Delay = Field(0.0, alias="from", description="When the first may come. Default 0s.", examples=["0s"])
    to: Timeout | None = optional("When no more come. Default: the end of the scenario.", "10m")
    rate: Rate = required("How many come.", "5/s")
    arrivals: Literal["random", "even"] = optional(
        "Independent of each other, or one like the other. Default random.", "even", "random"
    )
    model: Text = required("The model that they ask for: a chain, or what else a caller may write.", "smart")
    stream: Part = optional("The share that asks for a stream. Default 0.", 0.5, 0.0)
    input: Tokens = optional("Tokens of a prompt. Default 500.", 800, 500)
    output: Tokens = optional("Tokens of an answer. Default 200.", 200, 200)
    spread: Part = optional("By how much of themselves prompts and answers are longer or shorter. Default 0.", 0.3, 0.0)
    client: Text | None = optional("Whose key they come with, by its name in the configuration.", "search-agent")
    users: Count | None = optional("How many users they come from, each named in `user`. Default: none is named.", 100)
    prompts: Count | None = optional("How many prompts there are; then some are asked again. Default: each is new.", 50)
    patience: Timeout | None = optional("After so long the caller hangs up. Default: never.", "30s")
    headers: dict[Text, Text] = section("Headers of theirs, such as `x-tollbridge-priority`.")
    body: dict[str, Any] = section("What else their bodies hold, such as `temperature: 0` or `tools`.")


class UpstreamSection(Section):
    """How a provider answers while nothing is wrong with it."""

    first_token: Timeout | None = optional(
        "Until the first content. Default: what the configuration expects of the target, else 500ms.", "400ms"
    )
    tokens_per_s: Speed = optional("How fast the rest comes. Default 60.", 60, 60.0)
    jitter: Part = optional("By how much of themselves both vary. Default 0.1.", 0.2, 0.1)
    rpm: Count | None = optional("More than so many requests in a minute get a 429. Default: no limit.", 600)


class EventSection(Section):
    """Something that goes wrong at a provider, for a time."""

    at: Delay = required("When it begins.", "2m")
    for_: Timeout | None = Field(None, alias="for", description="How long it lasts. Default: to the end.", examples=["90s"])
    provider: Text = required("The provider that it happens to.", "openai")
    model: Text | None = optional("Only this one of its models. Default: all.", "gpt-5")
    fault: Fault = required("The status that is answered, or one of the words for what else may happen.", 503)
    share: Share = optional("The share of calls that it happens to. Default 1: all.", 0.5, 1.0)
    retry_after: Delay | None = optional("With a status: the wait that is asked for. Default: none.", "10s")
    times: Times = optional("With `slow`: how many times longer everything takes. Default 10.", 10, 10.0)


class Scenario(Section):
    """A file for `tollbridge simulate`."""

    seed: Annotated[int, Field(ge=0, le=2**53), BeforeValidator(_no_bool)] = optional(
        "What all chance is drawn from; --seed wins. Default 0.", 7, 0
    )
    start: Moment = optional(
        "When it begins, for prices, budgets and quotas. Default 2027-01-01.", "2027-01-31T12:00:00Z", DEFAULT_START
    )
    length: Timeout | None = optional("How long it goes on. Default: until traffic and events end.", "10m")
    interval: Timeout | None = optional("The time that one row of the timeline is about. Default: some 20 rows.", "30s")
    traffic: list[TrafficSection] = required("What is asked.", [{"rate": "5/s", "to": "10m", "model": "smart"}])
    upstreams: dict[Text, UpstreamSection] = section("How providers answer, by name, or as provider/model.")
    events: list[EventSection] = section("What goes wrong.", list)

    @property
    def length_s(self) -> float:
        """How long it goes on; 0 where nothing in it has an end."""
        if self.length is not None:
            return self.length
        ends = [each.to for each in self.traffic if each.to is not None]
        ends += [event.at + event.for_ for event in self.events if event.for_ is not None]
        return max(ends, default=0.0)

    @property
    def interval_s(self) -> float:
        """Of one row: the least of the usual ones that makes at most MAX_ROWS."""
        if self.interval is not None:
            return self.interval
        rows = self.length_s / MAX_ROWS
        return next((each for each in _USUAL_S if each >= rows), _USUAL_S[-1])


MAX_ROWS = 24
_USUAL_S = (1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0, 14400.0, 43200.0, 86400.0)
