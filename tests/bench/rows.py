"""What is measured, as a table: which load each row puts on a subject, and which bar it is held against.

A *load* is one run of the load generator with CPU taken before and after. A *row* makes a figure of one or two loads. Loads are
run interleaved (subject A, B, C, then A again …), every round whole before the next begins, so that a slow minute of the machine
strikes all alike; a row's figure is the median over the rounds.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tests.bench.formats import FORMATS
from tests.bench.load import Plan, Result

LONE_CHUNKS = 150
BURST_CHUNKS = 1_500
FLOOD_CHUNKS = 200
CROWD_CHUNKS = 100
NATIVE_CHUNKS = 500
_STREAM_EVENTS = 4  # role, finish, usage, [DONE]
# translated: the role is told with the first word; what Cohere bills and how long Ollama took stand in an event of their own
_NATIVE_EVENTS = {"anthropic": 3, "gemini": 3, "cohere": 4, "ollama": 4, "bedrock": 3}


@dataclass(frozen=True, slots=True)
class Load:
    """`requests` is shared out over `connections`; the port is filled in for each subject. `beside`: events that are no chunks."""

    name: str
    model: str
    requests: int
    connections: int
    stream: bool = False
    chunks: int = 0
    beside: int = _STREAM_EVENTS
    prompt_bytes: int = 800
    warmup: int = 0
    skip: tuple[str, ...] = ()  # subjects that this load would only bring to their knees

    def plan(self, port: int, *, share: float = 1.0) -> Plan:
        """`share` < 1 is for a quick look."""
        fixed = self.requests <= self.connections
        return Plan(
            port=port,
            model=self.model,
            stream=self.stream,
            connections=self.connections,
            requests=self.requests if fixed else max(self.connections, int(self.requests * share)),
            warmup=self.warmup,
            prompt_bytes=self.prompt_bytes,
            events=self.chunks + self.beside if self.stream else 0,
            time_limit_s=60.0,
        )


_OTHERS = ("nginx", "obvious", "direct")  # who passes bytes on cannot make OpenAI's of them


def _native_loads(dialect: str) -> tuple[Load, Load]:
    model, beside = f"burst-{NATIVE_CHUNKS}@{dialect}", _NATIVE_EVENTS[dialect]
    return (
        Load(f"burst_{dialect}", model, 20, 20, stream=True, chunks=NATIVE_CHUNKS, beside=beside, skip=_OTHERS),
        Load(f"request_{dialect}", f"whole@{dialect}", 1_000, 16, warmup=100, skip=_OTHERS),
    )


LOADS = {
    load.name: load
    for load in (
        Load("request", "whole", 3_000, 16, warmup=200),
        Load("request_100k", "whole", 600, 8, prompt_bytes=100_000, warmup=50),
        Load("latency", "whole", 1_000, 1, warmup=100),
        Load("stream_base", "flood-1", 1_000, 16, stream=True, chunks=1, warmup=100),
        Load("lone", f"lone-{LONE_CHUNKS}", 20, 20, stream=True, chunks=LONE_CHUNKS),
        Load("burst", f"burst-{BURST_CHUNKS}", 20, 20, stream=True, chunks=BURST_CHUNKS),
        Load("flood", f"flood-{FLOOD_CHUNKS}", 100, 8, stream=True, chunks=FLOOD_CHUNKS, warmup=8),
        Load("crowd", f"lone-{CROWD_CHUNKS}", 1_000, 1_000, stream=True, chunks=CROWD_CHUNKS, skip=("obvious",)),
        *(load for dialect in FORMATS for load in _native_loads(dialect)),
    )
}
MODELS = tuple(dict.fromkeys(load.model for load in LOADS.values()))


@dataclass(slots=True)
class Sample:
    """One load on one subject: the subject's CPU while it ran and settled, and what the load generator saw.

    `own_us`: the part of `cpu_us` that the first process took; with Tollbridge the rest is the ledger's writer.
    """

    cpu_us: float
    result: Result
    own_us: float = 0.0

    @property
    def us_per_request(self) -> float:
        return self.cpu_us / max(1, self.result.requests)


Round = Mapping[str, Sample]  # by load
Figure = Callable[[Round], float]


@dataclass(frozen=True, slots=True)
class Row:
    """`against`: how the bar reads. `ratio`: subject / nginx; `over`: subject - nginx; `plain`: the figure itself;
    `over_own`: Tollbridge - what it has itself in the row `own`, round by round.
    """

    name: str
    what: str
    unit: str
    loads: tuple[str, ...]
    figure: Figure
    against: Literal["ratio", "over", "plain", "over_own"]
    bar: float | None  # None: for information
    worst: bool = False  # the worst round counts, not the median
    own: str = ""
    named: bool = False  # run only if it is named


def _request_us(load: str) -> Figure:
    return lambda samples: samples[load].us_per_request


def _chunk_us(load: str, chunks: int) -> Figure:
    """What the streams cost beyond as many streams of a single chunk, by chunk."""

    def figure(samples: Round) -> float:
        sample, base = samples[load], samples["stream_base"]
        return (sample.cpu_us - sample.result.requests * base.us_per_request) / (sample.result.requests * (chunks - 1))

    return figure


def _faults(samples: Round) -> float:
    result = samples["crowd"].result
    return result.truncated + result.failed + result.unfinished


def _native_rows(dialect: str) -> tuple[Row, Row]:
    """What a chunk and a whole request cost that are translated, over those that are passed through."""
    chunk, request = f"burst_{dialect}", f"request_{dialect}"
    return (
        Row(
            chunk,
            f"burst chunk, {dialect}",
            "µs",
            ("stream_base", "burst", chunk),
            _chunk_us(chunk, NATIVE_CHUNKS),
            "over_own",
            15.0,
            own="burst",
        ),
        Row(
            request,
            f"whole request, {dialect}",
            "µs",
            ("request", request),
            _request_us(request),
            "over_own",
            None,
            own="request",
            named=True,
        ),
    )


ROWS: tuple[Row, ...] = (
    Row("request", "whole request, 1 KB", "µs", ("request",), _request_us("request"), "ratio", 6.0),
    Row("request_100k", "request with a 100 KB prompt", "µs", ("request_100k",), _request_us("request_100k"), "over", 300.0),
    Row("stream", "streamed request, one chunk", "µs", ("stream_base",), _request_us("stream_base"), "ratio", None),
    Row("lone", "lone chunk, each 20 ms", "µs", ("stream_base", "lone"), _chunk_us("lone", LONE_CHUNKS), "ratio", 2.0),
    Row(
        "burst",
        "burst chunk, ten at a time",
        "µs",
        ("stream_base", "burst"),
        _chunk_us("burst", BURST_CHUNKS),
        "ratio",
        2.5,
    ),
    Row(
        "flood",
        "chunk at full speed",
        "µs",
        ("stream_base", "flood"),
        _chunk_us("flood", FLOOD_CHUNKS),
        "ratio",
        None,
    ),
    Row("p50", "one connection, p50", "ms", ("latency",), lambda samples: samples["latency"].result.latency_p50_ms, "over", 0.5),
    Row("p99", "one connection, p99", "ms", ("latency",), lambda samples: samples["latency"].result.latency_p99_ms, "over", 2.0),
    Row("truncated", "1,000 streams: not whole", "", ("crowd",), _faults, "plain", 0.0, worst=True),
    Row("gap", "1,000 streams: gap p99", "ms", ("crowd",), lambda samples: samples["crowd"].result.gap_p99_ms, "plain", 60.0),
    *(row for dialect in FORMATS for row in _native_rows(dialect)),
)


@dataclass(frozen=True, slots=True)
class Finding:
    """A row's figures by subject. `verdict`: Tollbridge against the bar; None where something that it needs was not run."""

    row: Row
    figures: dict[str, float]
    spread: dict[str, tuple[float, float]]
    held: float | None  # what is compared with the bar
    verdict: bool | None


def find(row: Row, rounds: Mapping[str, Sequence[Round]]) -> Finding:
    """`rounds` is by subject. A difference or ratio to nginx is made of the two medians."""
    figures: dict[str, float] = {}
    spread: dict[str, tuple[float, float]] = {}
    for subject, samples in rounds.items():
        if subject == "direct" and row.unit == "µs":
            continue  # there is no process to ask
        values = [row.figure(sample) for sample in samples if all(load in sample for load in row.loads)]
        if values:
            figures[subject] = max(values) if row.worst else statistics.median(values)
            spread[subject] = (min(values), max(values))
    held = _over_own(row, rounds) if row.against == "over_own" else compare(row, figures, "tollbridge")
    return Finding(row, figures, spread, held, None if held is None or row.bar is None else held <= row.bar)


def _over_own(row: Row, rounds: Mapping[str, Sequence[Round]]) -> float | None:
    """Both figures are of the same round, so that what moves the machine in between does not count."""
    own = next(other for other in ROWS if other.name == row.own)
    needed = {*row.loads, *own.loads}
    samples = [sample for sample in rounds.get("tollbridge", ()) if needed <= sample.keys()]
    return statistics.median(row.figure(sample) - own.figure(sample) for sample in samples) if samples else None


def compare(row: Row, figures: Mapping[str, float], subject: str) -> float | None:
    """The subject to nginx."""
    mine, yardstick = figures.get(subject), figures.get("nginx")
    if mine is None:
        return None
    if row.against == "plain":
        return mine
    if yardstick is None:
        return None
    return mine / yardstick if row.against == "ratio" else mine - yardstick
