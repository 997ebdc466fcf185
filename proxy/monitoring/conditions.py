"""What is worth an alert: from what is seen of the proxy at one moment to the conditions that hold, by a table.

Nothing here remembers anything or reads a clock. What is raised, told once and over again is the business of `alerts.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from proxy.accounting.periods import rfc3339
from proxy.accounting.states import BudgetState, QuotaState, RateState
from proxy.config.settings import Settings
from proxy.core.alerts import ALERT_KINDS, Levels, Severity
from proxy.core.money import NUSD_PER_USD, nusd_to_usd
from proxy.monitoring.health import MIN_ATTEMPTS, MIN_FIRST_TOKENS, MIN_USUAL_FIRST_TOKENS, MODEL_NOT_FOUND

MIN_ANSWERS = 10  # of a chain or a target in five minutes; fewer say nothing about a rate
LOW_ANSWERS = 0.2
_NUSD_PER_CENT = NUSD_PER_USD // 100
LEAST_LOAD = 0.5  # a limit that is used less than this is not about to be hit, however steep the rise

_BAD_KEY = ("bad key", "no quota or credit left")  # what `routing/deployment.py` latches a key for
_ABOUT_KEYS = re.compile(r"the key is refused|\d+ of \d+ keys |it wants a key|bad key|no quota or credit left")


class Card(Protocol):
    """What is read of a provider's health, see `health.py`. `targets` have `model` and `latched` (a reason or None)."""

    @property
    def name(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def reason(self) -> str | None: ...
    @property
    def response_ms(self) -> float | None: ...
    @property
    def key_valid(self) -> bool | None: ...
    @property
    def targets(self) -> Sequence[Mapping[str, Any]]: ...


class Traffic(Protocol):
    """What is read of a provider's last five minutes, see `live.py`: medians in milliseconds, with how many they are of."""

    @property
    def attempts(self) -> int: ...
    @property
    def failed(self) -> int: ...
    @property
    def first_token_ms(self) -> float | None: ...
    @property
    def first_tokens(self) -> int: ...
    @property
    def usual_ms(self) -> float | None: ...
    @property
    def usual_first_tokens(self) -> int: ...


class ChainFlow(NamedTuple):
    """In the last five minutes: requests of a chain that were answered, and those of them that another target than the first answered."""

    chain: str
    answered: int
    fallbacks: int


class AnswerFlow(NamedTuple):
    """In the last five minutes: whole answers of a target that were measured, and those of them that were low."""

    provider: str
    model: str
    measured: int
    low: int


class RateKey(NamedTuple):
    provider: str
    key: str
    model: str | None
    unit: str
    source: str


def rate_key(rate: RateState) -> RateKey:
    return RateKey(rate.provider, rate.key, rate.model, rate.unit, rate.source)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What is seen at one moment. None: it cannot be seen now, and nothing follows from that.

    `traffic` is by provider. `rises`: by how much a rate per minute grows each second. `unpriced`: (provider, model) of tokens that
    nobody could price since the last look. `ledger_problem`: what is wrong with writing records; `config_problem`: with the file that is
    not in force. `ledger_remade`: the ledger's database was set aside since the last look.
    """

    cards: Sequence[Card] | None = None
    traffic: Mapping[str, Traffic] | None = None
    budgets: Sequence[BudgetState] | None = None
    quotas: Sequence[QuotaState] | None = None
    rates: Sequence[RateState] | None = None
    rises: Mapping[RateKey, float] = field(default_factory=dict)
    chains: Sequence[ChainFlow] | None = None
    answers: Sequence[AnswerFlow] | None = None
    unpriced: Sequence[tuple[str, str]] | None = None
    ledger_lag_s: float | None = None
    ledger_problem: str | None = None
    ledger_remade: bool = False
    config_problem: str | None = None


@dataclass(frozen=True, slots=True)
class Condition:
    """Something that holds now and is to be told. `since`: when the period began in which it is told once, None for what has no period."""

    kind: str
    subject: str
    severity: Severity
    message: str
    value: float | None = None
    threshold: float | None = None
    since: float | None = None


class _Found(NamedTuple):
    """A condition before its kind's settings are applied. `severity` None: the kind's own."""

    subject: str
    message: str
    value: float | None = None
    threshold: float | None = None
    severity: Severity | None = None
    since: float | None = None


def observe(observation: Observation, settings: Settings) -> list[Condition]:
    """What holds, in the order of the kinds. Kinds that are off are left out, and the file's severities are in it."""
    alerts = settings.alerts
    conditions: list[Condition] = []
    for kind, (_, look) in _LOOKS.items():
        if kind in alerts.off:
            continue
        for found in look(observation, settings):
            severity = alerts.severities.get(kind) or found.severity or ALERT_KINDS[kind].severity
            assert severity is not None, f"{kind} has no severity of its own and was given none"
            conditions.append(Condition(kind, found.subject, severity, found.message, found.value, found.threshold, found.since))
    return conditions


def unseen(observation: Observation) -> frozenset[str]:
    """The kinds of which nothing can be said: those that are open stay so."""
    return frozenset([kind for kind, (needs, _) in _LOOKS.items() if needs is not None and getattr(observation, needs) is None])


# -- providers


def _down(seen: Observation, _settings: Settings) -> Iterator[_Found]:
    """But for what has an alert of its own: a bad key, a model that there is not."""
    for card in seen.cards or ():
        reason = card.reason or ""
        if card.state == "down" and not _ABOUT_KEYS.match(reason) and not reason.startswith(MODEL_NOT_FOUND):
            yield _Found(card.name, f"{card.name} is down: {card.reason or 'no reason is known'}.")


def _slow(seen: Observation, settings: Settings) -> Iterator[_Found]:
    for card in seen.cards or ():
        provider = settings.providers.get(card.name)
        if provider is None or card.response_ms is None or card.state in ("down", "disabled"):
            continue
        took_s, slow_s = card.response_ms / 1000, provider.health.slow_s
        if took_s > slow_s:
            yield _Found(card.name, f"A check of {card.name} took {took_s:.1f} s, more than {slow_s:g} s.", took_s, slow_s)


def _key(seen: Observation, _settings: Settings) -> Iterator[_Found]:
    for card in seen.cards or ():
        if card.state != "disabled" and _has_bad_key(card):
            reason = next((str(target["latched"]) for target in card.targets if target.get("latched") in _BAD_KEY), _BAD_KEY[0])
            if card.reason is not None and _ABOUT_KEYS.match(card.reason):
                reason = card.reason
            yield _Found(card.name, f"{card.name} does not take a key ({reason}): requests go to other keys and targets.")


def _has_bad_key(card: Card) -> bool:
    return card.key_valid is False or any(target.get("latched") in _BAD_KEY for target in card.targets)


def _model(seen: Observation, _settings: Settings) -> Iterator[_Found]:
    for card in seen.cards or ():
        for target in card.targets:
            if target.get("latched") == MODEL_NOT_FOUND:
                name = f"{card.name}/{target['model']}"
                yield _Found(name, f"{card.name} knows no model {target['model']}: mend its name in the chains that have it.")


def _errors(seen: Observation, settings: Settings) -> Iterator[_Found]:
    for name, traffic in (seen.traffic or {}).items():
        if traffic.attempts >= MIN_ATTEMPTS:
            rate = traffic.failed / traffic.attempts
            message = f"{_percent(rate)} of {traffic.attempts} attempts at {name} failed in the last five minutes."
            yield from _level(settings.alerts.error_rate, name, message, rate)


def _first_token(seen: Observation, settings: Settings) -> Iterator[_Found]:
    for name, traffic in (seen.traffic or {}).items():
        now_ms, usual_ms = traffic.first_token_ms, traffic.usual_ms
        if now_ms is None or not usual_ms:
            continue
        if traffic.first_tokens >= MIN_FIRST_TOKENS and traffic.usual_first_tokens >= MIN_USUAL_FIRST_TOKENS:
            times = now_ms / usual_ms
            message = f"The first token of {name} takes {now_ms:.0f} ms, {times:.1f} times its usual {usual_ms:.0f} ms."
            yield from _level(settings.alerts.first_token, name, message, times)


# -- money and quotas


def _budgets(seen: Observation, settings: Settings) -> Iterator[_Found]:
    shares = settings.alerts.budget
    for budget in seen.budgets or ():
        if not shares or budget.utilization < shares[0]:
            continue
        if budget.limit_nusd == 0 and budget.spent_nusd == 0:
            continue  # nothing may be spent and nothing is: so it is meant
        subject = "total" if budget.name is None else f"{budget.scope} {budget.name}"
        whose = "the total budget" if budget.name is None else f"the budget of {subject}"
        share = budget.utilization
        message = (
            f"{_percent(share)} of {whose} is spent: {_dollars(budget.spent_nusd)} of {_dollars(budget.limit_nusd)}"
            f"{_of_period(budget.per)}{_until(budget.resets)}."
        )
        if budget.hard and share >= 1:
            message += " What would go over it is " + (
                "sent to other targets." if budget.scope == "provider" else "refused with 429 budget_exceeded."
            )
        for threshold in shares:
            if share >= threshold:
                severity: Severity = "error" if threshold == shares[-1] else "warning"
                yield _Found(subject, message, share, threshold, severity, budget.start)


def _quotas(seen: Observation, settings: Settings) -> Iterator[_Found]:
    shares = settings.alerts.quota
    for quota in seen.quotas or ():
        if not shares or quota.utilization < shares[0]:
            continue
        subject = f"{quota.provider} {quota.unit}{_of_period(quota.per)}" + (f", key {quota.key}" if quota.key else "")
        message = (
            f"{_percent(quota.utilization)} of the quota of {subject} is used: {quota.used:,} of {quota.limit:,}"
            f"{_until(quota.resets)}."
        )
        for threshold in shares:
            if quota.utilization >= threshold:
                severity: Severity = "error" if threshold == shares[-1] else "warning"
                yield _Found(subject, message, quota.utilization, threshold, severity, quota.start)


def _rate_limits(seen: Observation, settings: Settings) -> Iterator[_Found]:
    soon_s = settings.alerts.rate_limit_s
    for rate in seen.rates or ():
        hit_s = seconds_to_limit(rate, seen.rises.get(rate_key(rate), 0.0))
        if hit_s is None or hit_s > soon_s:
            continue
        provider = settings.providers.get(rate.provider)
        whose = f"{rate.provider}/{rate.model}" if rate.model else rate.provider
        subject = f"{whose} {rate.unit}"
        if provider is not None and len(provider.credentials) > 1:
            subject += f", key {rate.key}"
        message = (
            f"The limit of {whose}, {rate.limit:,} {rate.unit}, will be hit in {_in(hit_s)} at the present rate of "
            f"{rate.per_minute:,.0f} a minute: {rate.remaining:,} are left."
        )
        yield _Found(subject, message, hit_s, soon_s)


def seconds_to_limit(rate: RateState, rise: float) -> float | None:
    """When the limit will be hit at the present rate, None for never.

    A limit of the file is a sliding minute, which a steady rate below it never fills: it is hit when the rate has grown up to it, `rise`
    a second. A learned one is used up before it is whole again, or it is not.
    """
    per_minute = rate.per_minute
    if per_minute is None or per_minute <= 0:
        return None
    if rate.remaining <= 0:
        return 0.0
    if rate.source == "file":
        if per_minute >= rate.limit:
            return rate.remaining / per_minute * 60
        if rise <= 0 or per_minute < LEAST_LOAD * rate.limit:
            return None
        return (rate.limit - per_minute) / rise
    used_up_s = rate.remaining / per_minute * 60
    return used_up_s if rate.resets_s is not None and used_up_s < rate.resets_s else None


def _quality(seen: Observation, _settings: Settings) -> Iterator[_Found]:
    for flow in seen.answers or ():
        if flow.measured >= MIN_ANSWERS and flow.low >= LOW_ANSWERS * flow.measured:
            name = f"{flow.provider}/{flow.model}"
            message = (
                f"{flow.low} of {flow.measured} whole answers of {name} measured below quality.min in the last five minutes: "
                "other targets were asked as well where there were any."
            )
            yield _Found(name, message, flow.low / flow.measured, LOW_ANSWERS)


def _unpriced(seen: Observation, _settings: Settings) -> Iterator[_Found]:
    for provider, model in seen.unpriced or ():
        yield _Found(
            f"{provider}/{model}",
            f"{provider}/{model} consumed tokens and has no known price: write one under providers.{provider}.prices, "
            "for budgets and reports to count it.",
        )


# -- chains and the proxy itself


def _fallbacks(seen: Observation, _settings: Settings) -> Iterator[_Found]:
    for flow in seen.chains or ():
        if flow.fallbacks:
            yield _Found(flow.chain, _flow_text(flow), flow.fallbacks)


def _failover_rate(seen: Observation, settings: Settings) -> Iterator[_Found]:
    for flow in seen.chains or ():
        if flow.answered >= MIN_ANSWERS:
            yield from _level(settings.alerts.failover_rate, flow.chain, _flow_text(flow), flow.fallbacks / flow.answered)


def _flow_text(flow: ChainFlow) -> str:
    return (
        f"{flow.fallbacks} of {flow.answered} answers of chain {flow.chain} came from another target than its first "
        "in the last five minutes."
    )


def _lag(seen: Observation, settings: Settings) -> Iterator[_Found]:
    if seen.ledger_lag_s is not None:
        message = f"The ledger's tables are {_in(seen.ledger_lag_s)} behind its journal: reports and dashboard are out of date."
        yield from _level(settings.alerts.ledger_lag_s, "ledger", message, seen.ledger_lag_s)


def _writes(seen: Observation, _settings: Settings) -> Iterator[_Found]:
    if seen.ledger_problem is not None:
        yield _Found("ledger", seen.ledger_problem)


def _corrupt(seen: Observation, _settings: Settings) -> Iterator[_Found]:
    if seen.ledger_remade:
        yield _Found(
            "ledger", "The ledger's database was corrupt and is made anew: what the kept journal lacks is in the old file."
        )


def _config(seen: Observation, settings: Settings) -> Iterator[_Found]:
    if seen.config_problem is not None:
        name = settings.path.name if settings.path is not None else "configuration"
        yield _Found(name, f"{name} is broken, and the last good one is in force: {seen.config_problem}")


Look = Callable[[Observation, Settings], Iterator[_Found]]
# kind -> (the field without which nothing can be said of it, how it is looked at)
_LOOKS: dict[str, tuple[str | None, Look]] = {
    "provider_down": ("cards", _down),
    "provider_slow": ("cards", _slow),
    "key_invalid": ("cards", _key),
    "model_unknown": ("cards", _model),
    "budget": ("budgets", _budgets),
    "quota": ("quotas", _quotas),
    "rate_limit": ("rates", _rate_limits),
    "fallback_used": ("chains", _fallbacks),
    "failover_rate": ("chains", _failover_rate),
    "error_rate": ("traffic", _errors),
    "first_token": ("traffic", _first_token),
    "quality": ("answers", _quality),
    "unpriced_model": ("unpriced", _unpriced),
    "ledger_lag": ("ledger_lag_s", _lag),
    "ledger_writes": (None, _writes),
    "ledger_corrupt": (None, _corrupt),
    "config_reload": (None, _config),
}
assert _LOOKS.keys() == ALERT_KINDS.keys()


# -- words


def _level(levels: Levels, subject: str, message: str, value: float) -> Iterator[_Found]:
    severity = levels.severity(value)
    if severity is not None:
        yield _Found(subject, message, value, levels.error if severity == "error" else levels.warning, severity)


def _percent(share: float) -> str:
    """Rounded down: 99.9 % of a budget is not all of it."""
    return f"{int(share * 100 + 1e-9)} %"


def _dollars(nusd: int) -> str:
    """Rounded down to cents, like the share; less than a cent as it is."""
    cents, rest = divmod(nusd, _NUSD_PER_CENT)
    return f"${nusd_to_usd(nusd)}" if rest and not cents else f"${cents // 100:,}.{cents % 100:02d}"


def _of_period(per: str) -> str:
    return "" if per == "once" else f" per {per}"


def _until(resets: float | None) -> str:
    return "; it does not begin anew" if resets is None else f"; it begins anew at {rfc3339(resets)}"


def _in(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
