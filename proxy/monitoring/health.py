"""How a provider is doing, fused of what its checks say and what live traffic shows. Pure: a table of rules, the first that holds decides.

    disabled   the file says so, or it has no key
    down       it does not answer, its keys are refused, every circuit to it is open
    degraded   it serves, but not as it should: slow, cooling down, failing now and then, near a limit
    healthy    it answered the last check, or the last calls; nothing above holds
    unknown    it was never asked: there is no free check, and no traffic yet

A check that fails while calls succeed is no outage: what serves is not down. `docs/monitoring.md` shows RULES as a table; a test holds
the two together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from proxy.config.settings import AlertSettings
from proxy.core.limits import HealthSettings
from proxy.core.target import Provider
from proxy.upstream.probe import Finding, Probe

State = Literal["healthy", "degraded", "down", "unknown", "disabled"]
Row = dict[str, Any]

MIN_ATTEMPTS = 10  # fewer in the window say nothing about a rate: then the last one decides
MIN_FIRST_TOKENS = 5  # in the window
MIN_USUAL_FIRST_TOKENS = 20  # before it
NEAR_A_LIMIT = 0.1  # of it is left
MODEL_NOT_FOUND = "model not found"  # what a latch on one model says; any other is on a key


@dataclass(frozen=True, slots=True)
class Check:
    """The last check of a provider. `probes`: one a key. `began` monotonic, `wall` when it ended, in seconds since 1970."""

    provider: Provider
    probes: tuple[Probe, ...]
    began: float
    ended: float
    wall: float

    @property
    def failed(self) -> bool:
        return bool(self.probes) and all(probe.failed for probe in self.probes)

    @property
    def answered(self) -> bool:
        return any(probe.finding is Finding.OK for probe in self.probes)


class Part(NamedTuple):
    """One key at one model, as live traffic left it. `latched`: why nothing is sent. `opens_in_s`: of an open circuit, 0 when a probe is
    due. `refused`: the quota, budget or limit of which nothing is left."""

    model: str
    credential: str
    circuit: str  # closed, half_open, open
    opens_in_s: float
    cooldown_s: float
    latched: str | None
    refused: str | None = None

    @property
    def shut(self) -> str | None:
        """Why this part serves nobody, where that is the provider's or the key's doing and not the model's."""
        if self.latched is not None and self.latched != MODEL_NOT_FOUND:
            return self.latched
        return "circuit open" if self.circuit == "open" and self.opens_in_s > 0 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """What traffic shows. `attempts` and `failed` are of the last minutes, without those that say nothing about the provider;
    `last_ok` and `last_fail` are monotonic; the first tokens' times are medians, with how many they are of."""

    parts: tuple[Part, ...] = ()
    attempts: int = 0
    failed: int = 0
    requests_per_minute: float | None = None
    in_flight: int | None = None
    last_ok: float | None = None
    last_fail: float | None = None
    first_token_ms: float | None = None
    first_tokens: int = 0
    usual_ms: float | None = None
    usual_first_tokens: int = 0


class RateLimit(Protocol):
    """One limit of a provider as it stands: see `accounting/throttle.py`."""

    @property
    def provider(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def limit(self) -> int | None: ...
    @property
    def remaining(self) -> int | None: ...
    @property
    def resets_s(self) -> float | None: ...


@dataclass(frozen=True, slots=True)
class Thresholds:
    """From where on a provider is degraded. None: never for that reason."""

    slow_s: float = 2.0
    error_rate: float | None = 0.05
    first_token: float | None = 2.0

    @classmethod
    def of(cls, health: HealthSettings, alerts: AlertSettings) -> Thresholds:
        """The levels at which an alert would warn."""
        return cls(health.slow_s, alerts.error_rate.warning, alerts.first_token.warning)


@dataclass(frozen=True, slots=True)
class Facts:
    """All that the rules look at. `limits` are those of the provider."""

    provider: Provider
    check: Check | None
    live: Live
    limits: Sequence[RateLimit]
    thresholds: Thresholds

    @property
    def served_since(self) -> bool:
        """A call succeeded after the last check began."""
        return self.check is not None and self.live.last_ok is not None and self.live.last_ok > self.check.began

    @property
    def refused(self) -> list[Probe]:
        """Keys that the provider refused. One that may not list models (403) but serves calls is none of them."""
        probes = self.check.probes if self.check is not None else ()
        return [p for p in probes if p.finding is Finding.BAD_KEY and not (p.status == 403 and self.served_since)]


Test = Callable[[Facts], str | None]


class Rule(NamedTuple):
    """`test` gives the reason where the rule holds, else None."""

    state: State
    name: str
    test: Test


def fuse(facts: Facts) -> tuple[State, str | None]:
    """The state and its reason; the reason is None only for healthy and unknown."""
    for rule in RULES:
        if (reason := rule.test(facts)) is not None:
            return rule.state, reason or None
    return "unknown", None


# -- the rules


def _disabled(facts: Facts) -> str | None:
    return facts.provider.disabled


def _every_key_refused(facts: Facts) -> str | None:
    refused = facts.refused
    if not refused or facts.served_since or facts.check is None or len(refused) < len(facts.check.probes):
        return None
    if facts.provider.credentials and facts.provider.credentials[0].secret is None:
        return f"it wants a key ({refused[0].detail})"
    return f"{_keys(len(refused), len(refused))}: {refused[0].detail}"


def _no_answer(facts: Facts) -> str | None:
    check = facts.check
    if check is None or not check.failed or facts.served_since:
        return None
    return next((p.detail for p in check.probes if p.finding in (Finding.UNREACHABLE, Finding.FAULT)), None)


def _everything_shut(facts: Facts) -> str | None:
    parts = [part for part in facts.live.parts if part.latched != MODEL_NOT_FOUND]
    if parts and all(part.shut for part in parts):
        return parts[0].shut
    return None


def _every_model_unknown(facts: Facts) -> str | None:
    parts = facts.live.parts
    if parts and all(part.latched == MODEL_NOT_FOUND for part in parts) and facts.live.last_ok is None:
        return f"{MODEL_NOT_FOUND}: {', '.join(sorted({part.model for part in parts}))}"
    return None


def _some_keys_refused(facts: Facts) -> str | None:
    refused = facts.refused
    if not refused or facts.check is None:
        return None
    return f"{_keys(len(refused), len(facts.check.probes))}: {refused[0].detail}"


def _check_fails_calls_succeed(facts: Facts) -> str | None:
    check = facts.check
    if check is None or not facts.served_since:
        return None
    failed = next((p for p in check.probes if p.finding in (Finding.UNREACHABLE, Finding.FAULT)), None)
    return None if failed is None else f"the check fails ({failed.detail}), calls succeed"


def _some_checks_fail(facts: Facts) -> str | None:
    probes = facts.check.probes if facts.check is not None else ()
    failed = [p for p in probes if p.finding in (Finding.UNREACHABLE, Finding.FAULT)]
    return f"with {len(failed)} of {len(probes)} keys: {failed[0].detail}" if failed else None


def _some_parts_shut(facts: Facts) -> str | None:
    shut = [part for part in facts.live.parts if part.latched is not None or part.shut]
    return f"{shut[0].model}: {shut[0].latched or shut[0].shut}" if shut else None


def _probing(facts: Facts) -> str | None:
    part = next((part for part in facts.live.parts if part.circuit != "closed"), None)
    if part is None:
        return None
    return f"circuit {'half open' if part.circuit == 'half_open' else 'open until a request probes it'}: {part.model}"


def _cooling(facts: Facts) -> str | None:
    longest = max((part.cooldown_s for part in facts.live.parts), default=0.0)
    return f"cooling down {max(1, round(longest))} s" if longest > 0 else None


def _used_up(facts: Facts) -> str | None:
    return next((f"{part.model}: {part.refused}" for part in facts.live.parts if part.refused is not None), None)


def _errors(facts: Facts) -> str | None:
    live, threshold = facts.live, facts.thresholds.error_rate
    if threshold is None or live.attempts < MIN_ATTEMPTS or live.failed / live.attempts <= threshold:
        return None
    return f"{live.failed / live.attempts:.0%} of {live.attempts} calls failed"


def _last_call_failed(facts: Facts) -> str | None:
    live = facts.live
    if not live.failed or live.attempts >= MIN_ATTEMPTS or live.last_fail is None:
        return None
    return "the last call failed" if live.last_ok is None or live.last_fail > live.last_ok else None


def _slow_check(facts: Facts) -> str | None:
    ms = response_ms(facts.check)
    if ms is None or ms <= 1000 * facts.thresholds.slow_s:
        return None
    return f"slow: the check took {ms / 1000:.1f} s"


def _slow_first_token(facts: Facts) -> str | None:
    live, threshold = facts.live, facts.thresholds.first_token
    if threshold is None or live.first_token_ms is None or live.usual_ms is None:
        return None
    if live.first_tokens < MIN_FIRST_TOKENS or live.usual_first_tokens < MIN_USUAL_FIRST_TOKENS:
        return None
    if live.first_token_ms < threshold * live.usual_ms:
        return None
    return f"slow: first token {live.first_token_ms:.0f} ms, usually {live.usual_ms:.0f} ms"


def _near_a_limit(facts: Facts) -> str | None:
    for unit in ("requests", "tokens"):
        limit = tightest(facts.limits, unit)
        if limit is not None and limit["remaining"] <= NEAR_A_LIMIT * limit["limit"]:
            return f"near its rate limit: {limit['remaining']} of {limit['limit']} {unit} left"
    return None


def _answered(facts: Facts) -> str | None:
    live = facts.live
    answered = (
        facts.provider.transport == "demo" or (facts.check is not None and facts.check.answered) or live.last_ok is not None
    )
    return "" if answered else None


RULES: tuple[Rule, ...] = (
    Rule("disabled", "switched off in the file, or without a key", _disabled),
    Rule("down", "every key is refused, and no call succeeded since", _every_key_refused),
    Rule("down", "no answer, or an error, twice in one check, and no call succeeded since", _no_answer),
    Rule("down", "every circuit is open, or every key is latched", _everything_shut),
    Rule("down", "no model that was asked for is known to it", _every_model_unknown),
    Rule("degraded", "one of several keys is refused", _some_keys_refused),
    Rule("degraded", "the check fails, but calls succeed", _check_fails_calls_succeed),
    Rule("degraded", "the check fails with one of several keys", _some_checks_fail),
    Rule("degraded", "a circuit is open, a key or a model is latched", _some_parts_shut),
    Rule("degraded", "a circuit is half open, or waits for the request that probes it", _probing),
    Rule("degraded", "it asked to be left alone for a while", _cooling),
    Rule("degraded", "nothing is left of a quota, of its budget or of a rate limit", _used_up),
    Rule("degraded", "more of its calls fail than `alerts.error_rate` allows", _errors),
    Rule("degraded", "the last call failed, of few", _last_call_failed),
    Rule("degraded", "the check took longer than `health.slow`", _slow_check),
    Rule("degraded", "the first token takes `alerts.first_token` times its usual time", _slow_first_token),
    Rule("degraded", "less than a tenth of a rate limit is left", _near_a_limit),
    Rule("healthy", "the last check was answered, or a call was", _answered),
)


def _keys(some: int, of: int) -> str:
    return "the key is refused" if of == 1 else f"{some} of {of} keys are refused" if some > 1 else f"1 of {of} keys is refused"


# -- what a card shows besides


def response_ms(check: Check | None) -> float | None:
    """Of the slowest key; None without an answer."""
    return max((probe.ms for probe in check.probes if probe.ms is not None), default=None) if check is not None else None


def key_valid(facts: Facts) -> bool | None:
    """False when a key is refused, None when nothing tells: a provider without a key, or with no check and no traffic."""
    if all(credential.secret is None for credential in facts.provider.credentials):
        return False if facts.refused and not facts.served_since else None
    if facts.refused or any(part.latched == "bad key" for part in facts.live.parts):
        return False
    if (facts.check is not None and facts.check.answered) or facts.live.last_ok is not None:
        return True
    return None


def check_error(check: Check | None) -> str | None:
    return next((probe.detail for probe in check.probes if probe.failed), None) if check is not None else None


def tightest(limits: Sequence[RateLimit], unit: str) -> Row | None:
    """`{"limit", "remaining", "resets_s"}` of the limit of which the least is left."""
    known = [
        (
            limit.remaining / limit.limit,
            {
                "limit": limit.limit,
                "remaining": limit.remaining,
                "resets_s": None if limit.resets_s is None else round(limit.resets_s, 3),
            },
        )
        for limit in limits
        if limit.unit == unit and limit.limit and limit.remaining is not None
    ]
    return min(known, key=lambda entry: entry[0])[1] if known else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderHealth:
    """A provider's card. Times are RFC 3339, shares 0 to 1; None is unknown, of live traffic also where no server runs.

    `models`: how many its list names. `error`: what is wrong with the last check; `last_error`: what was wrong last, be it over.
    `uptime`: the share of a day, a week, a month in which it was not down. `note`: why it stays unknown, or what a check cannot tell.
    `roles`: `{"chain", "role", "position"}`, the role primary or fallback. `targets`: a row for each model, see `states.py`.
    """

    name: str
    state: State
    reason: str | None
    dialect: str
    keys: int
    response_ms: float | None = None
    models: int | None = None
    key_valid: bool | None = None
    circuit: str | None = None
    cooldown_s: float | None = None
    error_rate: float | None = None
    first_token_ms: float | None = None
    first_token_usual_ms: float | None = None
    requests_per_minute: float | None = None
    in_flight: int | None = None
    rate_limit: Mapping[str, Row | None]
    checked: str | None = None
    error: str | None = None
    last_error: str | None = None
    last_error_at: str | None = None
    uptime: Mapping[str, float | None]
    roles: Sequence[Row] = ()
    targets: Sequence[Row] = ()
    note: str | None = None

    def as_dict(self) -> Row:
        """The JSON of the API."""
        row: Row = {name: getattr(self, name) for name in self.__slots__}
        return row | {
            "rate_limit": dict(self.rate_limit),
            "uptime": dict(self.uptime),
            "roles": list(self.roles),
            "targets": list(self.targets),
        }
