"""A scenario's faults: where, what, and what to write instead, all at once."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from proxy.config.faults import ConfigError, ConfigFault
from proxy.config.settings import Settings
from proxy.simulation.load import load_scenario
from proxy.simulation.schema import DEFAULT_START, Scenario
from tests.simulation import worlds

pytestmark = pytest.mark.unit

PLAIN = "traffic: [{rate: 5/s, to: 10m, model: smart}]\n"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return worlds.configured(tmp_path_factory.mktemp("load"), worlds.AB)


def faults(settings: Settings, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        worlds.scenario(settings, text)
    return [str(fault).removeprefix("outage.yaml:") for fault in caught.value.faults]


def test_what_is_not_written_has_its_default(settings: Settings) -> None:
    found = worlds.scenario(settings, PLAIN)
    (traffic,) = found.traffic
    assert (found.seed, found.start, found.length_s, found.interval_s) == (0, DEFAULT_START, 600.0, 30.0)
    assert (traffic.from_, traffic.to, traffic.rate, traffic.stream) == (0.0, 600.0, 5.0, 0.0)
    assert (traffic.input, traffic.output, traffic.arrivals, traffic.client) == (500, 200, "random", None)
    assert (found.upstreams, found.events) == ({}, [])


def test_every_key_is_taken(settings: Settings) -> None:
    found = worlds.scenario(
        settings,
        """
seed: 9
start: 2027-03-01T12:00:00Z
length: 1h
interval: 5m
traffic:
  - {from: 1m, to: 30m, rate: 120/m, arrivals: even, model: smart, stream: 0.5, input: 10, output: 20, spread: 0.5, users: 3,
     prompts: 4, patience: 5s, headers: {x-tollbridge-priority: low}, body: {temperature: 0}}
  - {rate: 36/h, model: a/other}
upstreams:
  a: {first_token: 400ms, tokens_per_s: 60, jitter: 0.2, rpm: 100}
  b/m: {first_token: 1s}
events:
  - {at: 2m, for: 90s, provider: a, model: m, fault: 503, retry_after: 10s, share: 0.5}
  - {at: 3m, provider: b, fault: slow, times: 4}
""",
    )
    assert (found.seed, found.length_s, found.interval_s) == (9, 3600.0, 300.0)
    assert [traffic.rate for traffic in found.traffic] == [2.0, 0.01]
    assert found.traffic[0].body == {"temperature": 0}
    assert [(event.at, event.for_, event.fault) for event in found.events] == [(120.0, 90.0, 503), (180.0, None, "slow")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["1:1: a scenario is a mapping (write keys such as traffic: at the beginning of a line)"]),
        ("- 5", ["1:1: a scenario is a mapping (write keys such as traffic: at the beginning of a line)"]),
        ("seed: 1\n", ["1:1: 'traffic' is missing (write for example traffic: [{rate: 5/s, to: 10m, model: smart}])"]),
        ("length: 1m\ntraffic: []\n", ["2:10: nothing is asked (write for example - {rate: 5/s, to: 10m, model: smart})"]),
        (PLAIN + "evnts: []\n", ["2:1: unknown key 'evnts' (did you mean 'events'?)"]),
        (
            "traffic: [{rate: 5/s, frm: 0s, to: 10m, model: smart}]",
            ["1:23: unknown key 'frm' (did you mean 'from'?)"],
        ),
        (
            "traffic: [{rate: 5, to: 10m, model: smart}]",
            ["1:18: rate: '5': a rate is needed (write a number with its time: 5/s, 300/m or 20/h)"],
        ),
        (
            "traffic: [{rate: 5/s, to: ten, model: smart}]",
            ["1:27: to: 'ten': a duration is needed (write a number with its unit: 250ms, 3s, 2m or 1h)"],
        ),
        (
            "traffic: [{rate: 5/s, from: 3, to: 10m, model: smart, stream: 2}]",
            [
                "1:29: from: '3': a duration is needed (write a number with its unit: 250ms, 3s, 2m or 1h)",
                "1:63: stream: '2': must be at most 1.0 (write for example stream: 0.5)",
            ],
        ),
        ("traffic: [{rate: 5/s, model: smart}]", ["1:1: it has no end (write length: 10m, or to: 10m with the traffic)"]),
        (
            "traffic: [{rate: 5/s, to: 10m, model: smrt}]",
            ["1:39: 'smrt' is no model of the configuration (did you mean 'smart'?)"],
        ),
        (
            "length: 5m\ntraffic: [{rate: 5/s, from: 10m, model: smart}]",
            ["2:29: it begins at 600s and ends at 300s (write a from that is before that)"],
        ),
        (
            PLAIN + "upstreams: {zeta: {first_token: 1s}}",
            ["2:13: 'zeta' is no provider of the configuration (write it under providers: there, or into a chain)"],
        ),
        (
            PLAIN + "events: [{at: 1m, provider: a, fault: 200}]",
            ["2:39: fault: '200': no status of an error (write one of 400 to 599, such as 503)"],
        ),
        (
            PLAIN + "events: [{at: 1m, provider: a, fault: gone}]",
            [
                ("2:39: fault: 'gone': no such fault "
                "(write a status of 400 to 599, or timeout, refuse, reset, cut, stall, slow, empty, quota)")
            ],
        ),
        (
            PLAIN + "events:\n  - {at: 20m, provider: x, fault: cut, retry_after: 1s}\n  - {fault: 500}",
            [
                "4:5: 'at' is missing (write for example at: 2m)",
                "4:5: 'provider' is missing (write for example provider: openai)",
            ],
        ),
        (
            "length: 10m\n" + PLAIN + "events:\n  - {at: 20m, provider: openai, fault: cut, retry_after: 1s}",
            [
                "4:10: the scenario is over by then: it ends at 600s (write an earlier time, or a longer length)",
                "4:25: 'openai' is no provider of the configuration (write it under providers: there, or into a chain)",
                "4:58: a fault 'cut' has no headers (leave it out, or write a status such as 429)",
            ],
        ),
        (
            "traffic: [{rate: 5/s, to: 10m, model: smart, client: me}]",
            ["1:54: 'me' is no client of the configuration (leave it out, or write the client there)"],
        ),
        (
            "traffic: [{rate: 5/s, to: 10m, model: smart, body: {stream: true}, headers: {accept: x}}]",
            [
                "1:61: 'stream' is written by the simulator (leave it out)",
                "1:86: 'accept' means nothing to the engine (write x-tollbridge-…)",
            ],
        ),
        (
            "length: 1h\ninterval: 1s\n" + PLAIN.replace("5/s", "500/s"),
            ["2:11: more than 2,000 intervals (make them longer)"],
        ),
        (
            PLAIN.replace("5/s", "5000/s"),
            ["1:10: 3,000,000 requests, more than 1,000,000 (make it shorter, or the rates lower)"],
        ),
        ("length: 40d\n" + PLAIN, ["1:9: longer than 31 days (make it shorter)"]),
        ("traffic: [{rate: 0/s, to: 1m, model: smart}]", [("1:18: rate: '0/s': a rate is needed "
         "(write a number with its time: 5/s, 300/m or 20/h)")]),
        ("a: [", [("2:1: not valid YAML: did not find expected node content "
         "(check the indentation, brackets and quotes here and on the line before)")]),
    ],
)  # fmt: skip
def test_a_fault_is_told_with_its_place_and_what_to_write(settings: Settings, text: str, expected: list[str]) -> None:
    assert faults(settings, text) == expected


def test_where_clients_need_a_key_the_traffic_names_one(tmp_path: Path) -> None:
    config = {**worlds.AB, "clients": {"app": {"key": "sk-client-0001"}}}
    with_clients = worlds.configured(tmp_path, config)
    assert faults(with_clients, PLAIN) == [
        "1:11: the configuration lets nobody in without a key (write client: with one of its clients: app)"
    ]
    assert worlds.scenario(with_clients, PLAIN.replace("model:", "client: app, model:")).traffic[0].client == "app"


def test_a_file_that_cannot_be_read_is_a_fault_too(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml:1:1: cannot be read: No such file or directory \(name another"):
        load_scenario(tmp_path / "none.yaml", settings)
    (tmp_path / "latin.yaml").write_bytes("a: ä".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.yaml:1:1: not UTF-8 text"):
        load_scenario(tmp_path / "latin.yaml", settings)


@pytest.mark.parametrize(
    ("length", "interval"),
    [("20s", 1.0), ("24s", 1.0), ("25s", 2.0), ("10m", 30.0), ("1h", 300.0), ("1d", 3600.0), ("31d", 86_400.0)],
)
def test_an_interval_that_is_not_written_makes_some_twenty_rows(length: str, interval: float) -> None:
    found = Scenario.model_validate({"length": length, "traffic": []})
    assert found.interval_s == interval


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 10**12),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from(["", "5/s", "10m", "503", "slow", "a", "a/m", "smart", "\u0000", "2027-01-01", "${HOME}", "[", "x" * 300]),
    st.lists(st.integers(0, 3), max_size=2),
    st.dictionaries(st.sampled_from(["rate", "from", "a", "first_token"]), st.integers(0, 3), max_size=2),
)
PLACES = [
    ("seed",), ("start",), ("length",), ("interval",), ("traffic",), ("upstreams",), ("events",), ("new",),
    ("traffic", 0), *[("traffic", 0, key) for key in ("from", "to", "rate", "arrivals", "model", "stream", "input", "output", "spread")],
    *[("traffic", 0, key) for key in ("client", "users", "prompts", "patience", "headers", "body", "new")],
    ("upstreams", "a"), ("upstreams", "new"), *[("upstreams", "a", key) for key in ("first_token", "tokens_per_s", "jitter", "rpm")],
    ("events", 0), *[("events", 0, key) for key in ("at", "for", "provider", "model", "fault", "share", "retry_after", "times")],
]  # fmt: skip


@pytest.fixture(scope="module")
def read(settings: Settings) -> Callable[[str], object]:
    """Reads a scenario. Of a function hypothesis writes down the name only, of settings 70 KB."""
    return lambda text: worlds.scenario(settings, text)


@pytest.mark.property
@hypothesis_settings(max_examples=100, deadline=None)
@given(changes=st.lists(st.tuples(st.sampled_from(PLACES), ODD), min_size=1, max_size=3))
def test_whatever_is_written_is_a_scenario_or_has_faults_with_places(
    read: Callable[[str], object], changes: list[tuple[Any, Any]]
) -> None:
    written: dict[str, Any] = {
        "seed": 1,
        "length": "10m",
        "traffic": [{"rate": "5/s", "model": "smart"}],
        "upstreams": {"a": {"first_token": "1s"}},
        "events": [{"at": "1m", "provider": "a", "fault": 503}],
    }
    for path, value in changes:
        parent: Any = written
        with suppress(KeyError, IndexError, TypeError):  # an earlier change left nothing at that place
            for element in path[:-1]:
                parent = parent[element]
            parent[path[-1]] = value
    text = yaml.safe_dump(written, sort_keys=False)
    found: list[ConfigFault] = []
    lines = text.count("\n") + 1
    try:
        read(text)
    except ConfigError as error:
        found = error.faults
        if not found:
            pytest.fail("an error without a fault")
    assert all(1 <= fault.line <= lines and fault.col >= 1 and fault.message for fault in found)
