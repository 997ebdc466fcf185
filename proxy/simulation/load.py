"""A scenario's file -> `Scenario`, or every fault at once with its line and column, as for `providers.yaml`."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from math import inf
from pathlib import Path as FilePath
from typing import Any, cast

from pydantic import ValidationError

from proxy.config.faults import ConfigError, ConfigFault, Path, did_you_mean, one_line
from proxy.config.messages import Details, describe
from proxy.config.settings import Settings
from proxy.config.source import read_yaml
from proxy.simulation.schema import EventSection, Scenario, TrafficSection

MAX_REQUESTS = 1_000_000
MAX_INTERVALS = 2_000
MAX_LENGTH_S = 31 * 86_400.0
MAX_EVENTS = 1_000


def load_scenario(path: FilePath, settings: Settings) -> Scenario:
    """`settings`: the configuration that it is run with. Raises ConfigError with all faults."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError([ConfigFault(str(path), line, 1, "not UTF-8 text (save the file as UTF-8)")]) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a path"
        raise ConfigError([ConfigFault(str(path), 1, 1, f"cannot be read: {reason} (name another with --scenario)")]) from None
    return read_scenario(text, str(path), settings)


def read_scenario(text: str, name: str, settings: Settings) -> Scenario:
    """Likewise, of the file's text."""
    source = read_yaml(text, name)
    if not isinstance(source.data, dict):
        source.fault((), "a scenario is a mapping (write keys such as traffic: at the beginning of a line)")
        raise ConfigError(source.faults)
    try:
        scenario = Scenario.model_validate(source.data)
    except ValidationError as error:
        for raw in error.errors(include_url=False, include_input=False):
            details = cast("Details", raw)
            # the arms of a choice are no part of the file
            path = tuple(part for part in details["loc"] if not (isinstance(part, str) and part.startswith(("literal[", "int"))))
            source.fault(
                path, describe(details, path, _at(source.data, path), Scenario), at_key=details["type"] == "extra_forbidden"
            )
        raise ConfigError(source.faults) from None
    for place, message in _faults(scenario, settings):
        source.fault(place, message, at_key=bool(place) and place[-1] in scenario.upstreams)
    if source.faults:
        raise ConfigError(source.faults)
    return scenario


def _at(data: Any, path: Path) -> Any:
    for element in path:
        try:
            data = data[element]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def _faults(scenario: Scenario, settings: Settings) -> Iterator[tuple[Path, str]]:
    """What is well written and cannot be run."""
    length_s = scenario.length_s
    if not scenario.traffic:
        yield ("traffic",), "nothing is asked (write for example - {rate: 5/s, to: 10m, model: smart})"
    if not length_s:
        yield (), "it has no end (write length: 10m, or to: 10m with the traffic)"
        return
    if length_s > MAX_LENGTH_S:
        yield ("length",), f"longer than {MAX_LENGTH_S / 86_400:.0f} days (make it shorter)"
        return
    if length_s / scenario.interval_s > MAX_INTERVALS:
        yield ("interval",), f"more than {MAX_INTERVALS:,} intervals (make them longer)"
    if len(scenario.events) > MAX_EVENTS:
        yield ("events",), f"more than {MAX_EVENTS:,} events (leave some out)"
    expected = 0.0
    for index, traffic in enumerate(scenario.traffic):
        yield from _traffic_faults(("traffic", index), traffic, length_s, settings)
        expected += traffic.rate * max(0.0, min(traffic.to or inf, length_s) - traffic.from_)
    if expected > MAX_REQUESTS:
        yield ("traffic",), f"{expected:,.0f} requests, more than {MAX_REQUESTS:,} (make it shorter, or the rates lower)"
    for name in scenario.upstreams:
        yield from _unknown_provider(("upstreams", name), name.partition("/")[0], settings.providers)
    for index, event in enumerate(scenario.events):
        yield from _event_faults(("events", index), event, length_s, settings)


def _traffic_faults(path: Path, traffic: TrafficSection, length_s: float, settings: Settings) -> Iterator[tuple[Path, str]]:
    end_s = min(traffic.to or inf, length_s)
    if traffic.from_ >= end_s:
        yield (*path, "from"), f"it begins at {traffic.from_:g}s and ends at {end_s:g}s (write a from that is before that)"
    if settings.resolve(traffic.model) is None:
        advice = did_you_mean(traffic.model, settings.chains, otherwise="name one of its chains, or provider/model")
        yield (*path, "model"), f"'{one_line(traffic.model)}' is no model of the configuration{advice}"
    if traffic.client is not None and traffic.client not in settings.clients:
        advice = did_you_mean(traffic.client, settings.clients, otherwise="leave it out, or write the client there")
        yield (*path, "client"), f"'{one_line(traffic.client)}' is no client of the configuration{advice}"
    if traffic.client is None and settings.needs_key:
        names = ", ".join(list(settings.clients)[:3])
        yield path, f"the configuration lets nobody in without a key (write client: with one of its clients: {names})"
    for key in traffic.body:
        if key in ("model", "messages", "stream"):
            yield (*path, "body", key), f"'{key}' is written by the simulator (leave it out)"
    for name in traffic.headers:
        if not name.lower().startswith("x-tollbridge-"):
            yield (*path, "headers", name), f"'{one_line(name)}' means nothing to the engine (write x-tollbridge-…)"


def _event_faults(path: Path, event: EventSection, length_s: float, settings: Settings) -> Iterator[tuple[Path, str]]:
    yield from _unknown_provider((*path, "provider"), event.provider, settings.providers)
    if event.at >= length_s:
        yield (*path, "at"), f"the scenario is over by then: it ends at {length_s:g}s (write an earlier time, or a longer length)"
    if event.retry_after is not None and not isinstance(event.fault, int):
        yield (*path, "retry_after"), f"a fault '{event.fault}' has no headers (leave it out, or write a status such as 429)"


def _unknown_provider(path: Path, name: str, providers: Collection[str]) -> Iterator[tuple[Path, str]]:
    if name not in providers:
        advice = did_you_mean(name, providers, otherwise="write it under providers: there, or into a chain")
        yield path, f"'{one_line(name)}' is no provider of the configuration{advice}"
