"""What is counted, and how it is shown to Prometheus.

Counting is plain: one dict look-up to an object with slots, then additions; no locks, since everything counts on the event
loop. Only a scrape builds metric families, through a collector of prometheus_client.

The number of series is bounded at MAX_SERIES. Label values come from the configuration, which can be large too: what no longer
fits is counted under `other`, so that sums stay right.
Formats: https://prometheus.io/docs/instrumenting/exposition_formats/ and https://prometheus.io/docs/specs/om/open_metrics_spec/
"""

from __future__ import annotations

import platform
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast

from proxy.core.money import NUSD_PER_USD
from proxy.core.usage import Usage
from proxy.core.version import VERSION
from proxy.telemetry.families import (
    ATTEMPT_OUTCOMES,
    CIRCUIT_STATES,
    EVENTS,
    FAMILIES,
    REASONS,
    REQUEST_OUTCOMES,
    TOKEN_KINDS,
    rejection_reasons,
)
from proxy.telemetry.processes import Processes
from proxy.telemetry.readings import MAX_CACHE_SERIES, MAX_READING_SERIES, OTHER, Readings, cached, delivered, samples
from proxy.telemetry.tables import Samples, Tables

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

MAX_SERIES = 5_000
MAX_GAUGED_DEPLOYMENTS = 120  # more could not be counted either: each takes 25 series of counters
MAX_RECENT = 64  # first tokens of one (provider, model) between two looks: a sample, of those that came last

_DURATION_BOUNDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 600.0)
_FIRST_TOKEN_BOUNDS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 6.0, 12.0, 30.0, 60.0)
_OVERHEAD_BOUNDS = (0.000_1, 0.000_2, 0.000_4, 0.000_8, 0.001_5, 0.003, 0.006, 0.012, 0.025, 0.05, 0.1, 0.5)
_BOUNDS = {
    "tollbridge_request_duration_seconds": _DURATION_BOUNDS,
    "tollbridge_request_first_token_seconds": _FIRST_TOKEN_BOUNDS,
    "tollbridge_overhead_seconds": _OVERHEAD_BOUNDS,
    "tollbridge_first_token_seconds": _FIRST_TOKEN_BOUNDS,
}
_Table = tuple[str, Samples]


class DeploymentState(NamedTuple):
    """One (provider, credential, model) as it stands now. `model` is the target's label, `circuit` a key of CIRCUIT_STATES."""

    provider: str
    model: str
    circuit: str
    cooldown_s: float
    latched: bool


class Load(NamedTuple):
    """How much there is to do for this process. `room`: requests that may run at a time."""

    connections: int = 0
    connections_limit: int = 0
    room: int = 0
    loop_delay_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where a scrape reads what others know. Each is called once per scrape and must be quick."""

    deployments: Callable[[], Iterable[DeploymentState]] = tuple
    ledger_lag_s: Callable[[], float] = float
    ledger_errors: Callable[[], int] = int
    ledger_dropped: Callable[[], int] = int
    ledger_sync_errors: Callable[[], int] = int
    config_hash: Callable[[], str] = str
    load: Callable[[], Load] = Load
    draining: Callable[[], bool] = bool
    tasks: Callable[[], int] = int
    redactions: Callable[[], int] = int
    log_lines_dropped: Callable[[], int] = int
    readings: Readings = field(default_factory=Readings)
    processes: Callable[[], Sequence[int]] | None = None  # of which the proxy consists; None: of this one
    restarts: Callable[[], Mapping[str, int]] = dict  # by the kind of process that died
    together: Callable[[Tables], Tables] | None = None  # this worker's tables -> those of all workers of this proxy


class _Histogram:
    """Counts per bucket, not cumulated; the last one is above every bound."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def series(self) -> int:
        return len(self.counts) + 2


class _Requests:
    """Requests of one (chain, outcome, stream). The histograms are shared with its siblings."""

    __slots__ = ("count", "duration", "first_token")

    def __init__(self, duration: _Histogram, first_token: _Histogram) -> None:
        self.count = 0
        self.duration = duration
        self.first_token = first_token


class _Deployment:
    """What is known of one (provider, model). `recent`: the first tokens' times of streams, until somebody takes them."""

    __slots__ = ("attempts", "cost_nusd", "duration_s", "first_token", "recent", "tokens", "unpriced")
    SERIES = 2 + len(_FIRST_TOKEN_BOUNDS) + 3 + len(TOKEN_KINDS) + 2

    def __init__(self) -> None:
        self.attempts = 0
        self.duration_s = 0.0
        self.first_token = _Histogram(_FIRST_TOKEN_BOUNDS)
        self.recent: deque[float] = deque(maxlen=MAX_RECENT)
        self.tokens = [0] * len(TOKEN_KINDS)
        self.cost_nusd = 0
        self.unpriced = 0


# kept free for what counts under OTHER: a deployment, failovers, a chain with and without streaming
_SERIES_OF_OTHER = (
    _Deployment.SERIES
    + 2 * len(ATTEMPT_OUTCOMES)
    + 2 * (len(REQUEST_OUTCOMES) + len(_DURATION_BOUNDS) + 3)
    + len(_FIRST_TOKEN_BOUNDS)
    + 3
    + 1
)


@dataclass(slots=True)
class _Measured:
    """Answers of one (provider, model) that were measured. `sum` of their quality, each 0 to 1."""

    good: int = 0
    low: int = 0
    sum: float = 0.0
    SERIES: ClassVar[int] = 4


class _Attempts:
    """Attempts of one (provider, model, outcome)."""

    __slots__ = ("count", "deployment")

    def __init__(self, deployment: _Deployment) -> None:
        self.count = 0
        self.deployment = deployment


class Metrics:
    """Everything that is counted in this process. Not for use by two threads."""

    def __init__(self, sources: Sources | None = None) -> None:
        self.sources = sources or Sources()
        self.in_flight = 0
        self.config_loaded = True
        self._overhead = _Histogram(_OVERHEAD_BOUNDS)
        self._requests: dict[tuple[str, str, bool], _Requests] = {}
        self._durations: dict[tuple[str, bool], _Histogram] = {}
        self._first_tokens: dict[str, _Histogram] = {}
        self._attempts: dict[tuple[str, str, str], _Attempts] = {}
        self._deployments: dict[tuple[str, str], _Deployment] = {}
        self._failovers: dict[tuple[str, str, str], int] = {}
        self._fallbacks: dict[str, int] = {}
        self._hedges: dict[tuple[str, str], int] = {}
        self._measured: dict[tuple[str, str], _Measured] = {}
        self._rejected: dict[str, int] = dict.fromkeys(sorted(rejection_reasons()), 0)
        self._events: dict[str, int] = dict.fromkeys(EVENTS, 0)
        self._reloads = {"ok": 0, "error": 0}
        self._registry: CollectorRegistry | None = None
        always = len(self._rejected) + len(self._events) + self._overhead.series + 40
        self._series = always + 3 * (MAX_GAUGED_DEPLOYMENTS + 1) + MAX_READING_SERIES + MAX_CACHE_SERIES + _SERIES_OF_OTHER

    # The hot path: one call each per request or attempt.

    def request_started(self) -> None:
        self.in_flight += 1

    def request_ended(
        self,
        chain: str,
        outcome: str,
        stream: bool,
        duration_s: float,
        first_token_s: float | None,
        overhead_s: float | None,
    ) -> None:
        self.in_flight -= 1
        requests = self._requests.get((chain, outcome, stream)) or self._new_requests(chain, outcome, stream)
        requests.count += 1
        histogram = requests.duration
        histogram.counts[bisect_left(_DURATION_BOUNDS, duration_s)] += 1
        histogram.sum += duration_s
        if first_token_s is not None:
            histogram = requests.first_token
            histogram.counts[bisect_left(_FIRST_TOKEN_BOUNDS, first_token_s)] += 1
            histogram.sum += first_token_s
        if overhead_s is not None:
            histogram = self._overhead
            histogram.counts[bisect_left(_OVERHEAD_BOUNDS, overhead_s)] += 1
            histogram.sum += overhead_s

    def attempt_ended(
        self,
        provider: str,
        model: str,
        outcome: str,
        duration_s: float,
        first_token_s: float | None = None,
        usage: Usage | None = None,
        cost_nusd: int | None = None,
        stream: bool = True,
    ) -> None:
        """`outcome` is `ok` or an ErrorClass. `first_token_s` None: there was no content; of a whole answer it is its end's.

        With `usage` it counts tokens and cost too, where `cost_nusd` None means that no price is known. One look-up does for all
        what `first_token`, `tokens`, `cost` and `unpriced` do each with one of their own.
        """
        attempts = self._attempts.get((provider, model, outcome)) or self._new_attempts(provider, model, outcome)
        attempts.count += 1
        deployment = attempts.deployment
        deployment.attempts += 1
        deployment.duration_s += duration_s
        if first_token_s is not None:
            histogram = deployment.first_token
            histogram.counts[bisect_left(_FIRST_TOKEN_BOUNDS, first_token_s)] += 1
            histogram.sum += first_token_s
            if stream:
                deployment.recent.append(first_token_s)
        if usage is not None:
            _add_tokens(deployment.tokens, usage)
            if cost_nusd is None:
                deployment.unpriced += 1
            else:
                deployment.cost_nusd += cost_nusd

    def first_token(self, provider: str, model: str, seconds: float) -> None:
        (self._deployments.get((provider, model)) or self._new_deployment(provider, model)).first_token.observe(seconds)

    def tokens(self, provider: str, model: str, usage: Usage) -> None:
        _add_tokens((self._deployments.get((provider, model)) or self._new_deployment(provider, model)).tokens, usage)

    def cost(self, provider: str, model: str, nusd: int) -> None:
        (self._deployments.get((provider, model)) or self._new_deployment(provider, model)).cost_nusd += nusd

    def unpriced(self, provider: str, model: str) -> None:
        (self._deployments.get((provider, model)) or self._new_deployment(provider, model)).unpriced += 1

    # The rest happens when something is odd.

    def failover(self, from_: str, to: str, reason: str) -> None:
        key = (from_, to, reason)
        if key not in self._failovers and not self._admit(1):
            key = (OTHER, OTHER, reason)
        self._failovers[key] = self._failovers.get(key, 0) + 1

    def fell_back(self, chain: str) -> None:
        """A request was answered, but not by the first target that could have served it."""
        if chain not in self._fallbacks and chain not in self._first_tokens and not self._admit(1):
            chain = OTHER
        self._fallbacks[chain] = self._fallbacks.get(chain, 0) + 1

    def hedged(self, chain: str, result: str) -> None:
        """`result` is one of HEDGE_RESULTS."""
        key = (chain, result)
        if key not in self._hedges and not self._admit(1):
            key = (OTHER, result)
        self._hedges[key] = self._hedges.get(key, 0) + 1

    def answer_measured(self, provider: str, model: str, quality: float, *, low: bool) -> None:
        measured = self._measured.get((provider, model))
        if measured is None:
            if not self._admit(_Measured.SERIES):
                provider = model = OTHER
            measured = self._measured.setdefault((provider, model), _Measured())
        measured.low += low
        measured.good += not low
        measured.sum += quality

    def rejected(self, reason: str) -> None:
        """`reason` is the error code of the answer."""
        reason = REASONS.get(reason, reason)
        self._rejected[reason if reason in self._rejected else OTHER] += 1

    def count(self, event: str) -> None:
        """`event` is one of EVENTS."""
        self._events[event if event in self._events else OTHER] += 1

    # What live monitoring looks at every few seconds.

    def attempts(self) -> dict[tuple[str, str, str], int]:
        """(provider, model's label, outcome) -> how many since the start."""
        return {key: child.count for key, child in self._attempts.items()}

    def take_first_tokens(self) -> dict[tuple[str, str], list[float]]:
        """(provider, model's label) -> seconds to the first token of streams since the last call, the last MAX_RECENT of each."""
        taken = {}
        for key, child in self._deployments.items():
            if child.recent:
                taken[key] = list(child.recent)
                child.recent.clear()
        return taken

    def config_reloaded(self, ok: bool) -> None:
        self.config_loaded = ok
        self._reloads["ok" if ok else "error"] += 1

    # What is watched between scrapes: totals since the start.

    def answered_by_chain(self) -> dict[str, tuple[int, int]]:
        """Chain -> (requests that were answered whole, those of them that were by another target than its first)."""
        answered: dict[str, int] = {}
        for (chain, outcome, _), requests in self._requests.items():
            if outcome == "ok":
                answered[chain] = answered.get(chain, 0) + requests.count
        return {chain: (count, self._fallbacks.get(chain, 0)) for chain, count in answered.items()}

    def unpriced_by_model(self) -> dict[tuple[str, str], int]:
        """(provider, model) -> attempts that consumed tokens of unknown price; only where there are any."""
        return {key: deployment.unpriced for key, deployment in self._deployments.items() if deployment.unpriced}

    def measured_by_model(self) -> dict[tuple[str, str], tuple[int, int]]:
        """(provider, model) -> (answers that were measured, those of them that were low)."""
        return {key: (measured.good + measured.low, measured.low) for key, measured in self._measured.items()}

    def tables(self, *, readings: bool = True) -> Tables:
        """Everything that is counted here, and what others know: the families in their order. Without `readings` nobody is asked who takes
        his time."""
        return dict(_Tables(self).all(readings=readings))

    def render(self, openmetrics: bool) -> tuple[bytes, str]:
        """The body and the content type of a scrape's answer."""
        # prometheus_client costs a start-up 40 ms and an idle process some megabytes: a scrape pays for it
        from prometheus_client import CollectorRegistry, ProcessCollector, exposition
        from prometheus_client.openmetrics import exposition as openmetrics_exposition

        if self._registry is None:
            self._registry = CollectorRegistry(auto_describe=False)
            self._registry.register(_Collector(self))
            if (pids := self.sources.processes) is None:
                ProcessCollector(registry=self._registry)
            else:
                self._registry.register(Processes(pids, lambda pid: ProcessCollector(pid=lambda: pid, registry=None)))
        if openmetrics:
            body: bytes = openmetrics_exposition.generate_latest(self._registry)  # type: ignore[no-untyped-call]
            return body, openmetrics_exposition.CONTENT_TYPE_LATEST
        return exposition.generate_latest(self._registry), exposition.CONTENT_TYPE_LATEST

    # New labels.

    def _admit(self, series: int) -> bool:
        if self._series + series > MAX_SERIES:
            return False
        self._series += series
        return True

    def _new_requests(self, chain: str, outcome: str, stream: bool) -> _Requests:
        new_chain = chain not in self._first_tokens
        series = 1 + (len(_FIRST_TOKEN_BOUNDS) + 4 if new_chain else 0)  # fallbacks too: they are to stand beside requests
        series += len(_DURATION_BOUNDS) + 3 if (chain, stream) not in self._durations else 0
        if chain != OTHER and not self._admit(series):
            return self._requests.get((OTHER, outcome, stream)) or self._new_requests(OTHER, outcome, stream)
        first_token = self._first_tokens.setdefault(chain, _Histogram(_FIRST_TOKEN_BOUNDS))
        duration = self._durations.setdefault((chain, stream), _Histogram(_DURATION_BOUNDS))
        return self._requests.setdefault((chain, outcome, stream), _Requests(duration, first_token))

    def _new_attempts(self, provider: str, model: str, outcome: str) -> _Attempts:
        deployment = self._deployments.get((provider, model)) or self._new_deployment(provider, model)
        is_other = deployment is self._deployments.get((OTHER, OTHER))
        if is_other or not self._admit(1):
            provider = model = OTHER
            if known := self._attempts.get((OTHER, OTHER, outcome)):
                return known
            deployment = self._deployments.get((OTHER, OTHER)) or self._new_deployment(OTHER, OTHER)
        return self._attempts.setdefault((provider, model, outcome), _Attempts(deployment))

    def _new_deployment(self, provider: str, model: str) -> _Deployment:
        if provider != OTHER and not self._admit(_Deployment.SERIES):
            provider = model = OTHER
        return self._deployments.setdefault((provider, model), _Deployment())


def _add_tokens(tokens: list[int], usage: Usage) -> None:
    """In the order of TOKEN_KINDS."""
    tokens[0] += usage.input_tokens
    tokens[3] += usage.output_tokens
    # mostly zero, and a look is cheaper than an addition
    if usage.cached_input_tokens:
        tokens[1] += usage.cached_input_tokens
    if usage.cache_write_tokens:
        tokens[2] += usage.cache_write_tokens
    if usage.reasoning_tokens:
        tokens[4] += usage.reasoning_tokens
    if usage.input_audio_tokens:
        tokens[5] += usage.input_audio_tokens
    if usage.output_audio_tokens:
        tokens[6] += usage.output_audio_tokens


class _Collector:
    """Turns a `Metrics` into prometheus_client's families, at a scrape."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        own, together = self._metrics.tables(), self._metrics.sources.together
        for name, found in (own if together is None else together(own)).items():
            yield _family(name, found)


class _Tables:
    """Tells a `Metrics` in plain tables."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def all(self, *, readings: bool) -> Iterator[_Table]:
        yield from self._requests()
        yield from self._deployments()
        yield from self._gauged()
        for name, told in cached(self._metrics.sources.readings.cache()):
            yield _simple(name, told)
        known = self._metrics.sources.readings
        for name, found in samples(known) if readings else [delivered(known)]:
            yield _simple(name, found)
        yield from self._process()

    def _requests(self) -> Iterator[_Table]:
        metrics = self._metrics
        yield _simple(
            "tollbridge_requests_total",
            (((chain, outcome, _bool(stream)), child.count) for (chain, outcome, stream), child in metrics._requests.items()),
        )
        yield _simple("tollbridge_requests_in_flight", [((), metrics.in_flight)])
        yield _histogram(
            "tollbridge_request_duration_seconds",
            (((chain, _bool(stream)), histogram) for (chain, stream), histogram in metrics._durations.items()),
        )
        yield _histogram(
            "tollbridge_request_first_token_seconds",
            (((chain,), histogram) for chain, histogram in metrics._first_tokens.items()),
        )
        yield _histogram("tollbridge_overhead_seconds", [((), metrics._overhead)])
        yield _simple("tollbridge_rejected_total", (((reason,), count) for reason, count in metrics._rejected.items()))
        yield _simple("tollbridge_failovers_total", metrics._failovers.items())
        yield _simple("tollbridge_fallbacks_total", (((chain,), count) for chain, count in metrics._fallbacks.items()))
        yield _simple("tollbridge_hedges_total", metrics._hedges.items())

    def _deployments(self) -> Iterator[_Table]:
        known = self._metrics._deployments.items()
        yield _simple("tollbridge_attempts_total", ((key, child.count) for key, child in self._metrics._attempts.items()))
        yield "tollbridge_attempt_duration_seconds", [(key, [child.attempts, child.duration_s]) for key, child in known]
        yield _histogram("tollbridge_first_token_seconds", ((key, child.first_token) for key, child in known))
        yield _simple(
            "tollbridge_tokens_total",
            (((*key, kind), count) for key, child in known for kind, count in zip(TOKEN_KINDS, child.tokens, strict=True)),
        )
        yield _simple("tollbridge_cost_usd_total", ((key, child.cost_nusd / NUSD_PER_USD) for key, child in known))
        yield _simple("tollbridge_unpriced_requests_total", ((key, child.unpriced) for key, child in known))
        measured = self._metrics._measured.items()
        yield _simple(
            "tollbridge_answers_measured_total",
            (((*key, result), count) for key, each in measured for result, count in (("good", each.good), ("low", each.low))),
        )
        yield "tollbridge_answer_quality", [(key, [each.good + each.low, each.sum]) for key, each in measured]

    def _gauged(self) -> Iterator[_Table]:
        """Several keys of one target, and the targets beyond the bound, are folded into the worst of them."""
        worst: dict[tuple[str, str], tuple[int, float, bool]] = {}
        for state in self._metrics.sources.deployments():
            key = (state.provider, state.model)
            if key not in worst and len(worst) >= MAX_GAUGED_DEPLOYMENTS:
                key = (OTHER, OTHER)
            circuit, cooldown_s, latched = worst.get(key, (0, 0.0, False))
            worst[key] = (
                max(circuit, CIRCUIT_STATES[state.circuit]),
                max(cooldown_s, state.cooldown_s),
                latched or state.latched,
            )
        yield _simple("tollbridge_circuit_state", ((key, value[0]) for key, value in worst.items()))
        yield _simple("tollbridge_cooldown_seconds", ((key, value[1]) for key, value in worst.items()))
        yield _simple("tollbridge_latched", ((key, int(value[2])) for key, value in worst.items()))

    def _process(self) -> Iterator[_Table]:
        metrics, sources = self._metrics, self._metrics.sources
        yield _simple("tollbridge_events_total", (((event,), count) for event, count in metrics._events.items()))
        yield _simple("tollbridge_redactions_total", [((), sources.redactions())])
        yield _simple("tollbridge_log_lines_dropped_total", [((), sources.log_lines_dropped())])
        yield _simple("tollbridge_ledger_lag_seconds", [((), sources.ledger_lag_s())])
        yield _simple("tollbridge_ledger_errors_total", [((), sources.ledger_errors())])
        yield _simple("tollbridge_ledger_dropped_total", [((), sources.ledger_dropped())])
        yield _simple("tollbridge_ledger_sync_errors_total", [((), sources.ledger_sync_errors())])
        yield _simple("tollbridge_config_last_reload_successful", [((), int(metrics.config_loaded))])
        yield _simple("tollbridge_config_reloads_total", (((result,), count) for result, count in metrics._reloads.items()))
        yield _simple("tollbridge_config_info", [((sources.config_hash(),), 1)])
        yield _simple("tollbridge_build_info", [((VERSION, platform.python_version()), 1)])
        yield _simple("tollbridge_worker_restarts_total", (((kind,), count) for kind, count in sources.restarts().items()))
        load = sources.load()
        yield _simple("tollbridge_connections", [((), load.connections)])
        yield _simple("tollbridge_connections_limit", [((), load.connections_limit)])
        yield _simple("tollbridge_requests_room", [((), load.room)])
        yield _simple("tollbridge_loop_delay_seconds", [((), load.loop_delay_s)])
        yield _simple("tollbridge_draining", [((), int(sources.draining()))])
        yield _simple("tollbridge_tasks", [((), sources.tasks())])


def _simple(name: str, samples: Iterable[tuple[tuple[str, ...], float]]) -> _Table:
    return name, list(samples)


def _histogram(name: str, samples: Iterable[tuple[tuple[str, ...], _Histogram]]) -> _Table:
    return name, [(labels, [histogram.sum, *histogram.counts]) for labels, histogram in samples]


def _family(name: str, found: Samples) -> Metric:
    from prometheus_client.core import (  # as in render
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        SummaryMetricFamily,
    )

    family = FAMILIES[name]
    metric: Any
    match family.kind:
        case "histogram":
            metric = HistogramMetricFamily(family.name, family.help, labels=family.labels)
            for labels, value in found:
                assert isinstance(value, list)
                metric.add_metric(labels, _cumulated(_BOUNDS[name], value[1:]), value[0])
        case "summary":
            metric = SummaryMetricFamily(family.name, family.help, labels=family.labels)
            for labels, value in found:
                assert isinstance(value, list)
                metric.add_metric(labels, *value)
        case kind:
            make = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
            metric = make(family.name, family.help, labels=family.labels)
            for labels, value in found:
                metric.add_metric(labels, value)
    return cast("Metric", metric)


def _cumulated(bounds: Sequence[float], counts: Sequence[float]) -> list[tuple[str, float]]:
    return list(zip([*map(repr, bounds), "+Inf"], accumulate(counts), strict=True))


def _bool(value: bool) -> str:
    return "true" if value else "false"
