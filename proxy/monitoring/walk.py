"""Down the order that would have been, with what is known of each target: what came of those that were tried, and a guess for the others.

    tried then          as it ended then, priced as its target costs now
    passed over then    passed over again: it had become unusable between the plan and its turn
    a caller's mistake  the same mistake anywhere
    a caller who left   leaves, whoever is asked
    anything else       the target's availability around that time says how likely it was well; without any attempts there, it was well

A guess is drawn by the request's id, so that it is the same whenever it is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any, Protocol

from proxy.accounting.pricing import FROM_PROVIDER, Rates
from proxy.core.errors import ErrorClass, UpstreamError
from proxy.core.target import Chain, FailoverCause, Target
from proxy.core.usage import Usage, UsageSource
from proxy.monitoring.past import Past, answered_by
from proxy.routing.plan import larger_context
from proxy.routing.verdict import judge
from proxy.storage.recorded import RecordedAttempt, RecordedRequest

_GUESSED_FAULT = ErrorClass.SERVER_ERROR
_FROM_OUTSIDE = frozenset(("client_gone", "interrupted"))  # outcomes that are no target's doing
_CALLERS = frozenset((ErrorClass.INVALID_REQUEST, ErrorClass.CONTEXT_LENGTH))


class Prices(Protocol):
    """What a PriceBook tells. `wall`: seconds since 1970."""

    def rates(self, target: Target, wall: float) -> Rates | None: ...

    def context_window(self, target: Target) -> int | None: ...


@dataclass(frozen=True, slots=True)
class Decision:
    """What a request came to, or would have. `order`: the targets to try, None where nothing was chosen. `served`: who answered.

    `assumed`: it came to a target of which it is not known what it would have done. `unpriced`: something was consumed whose price or
    amount is not known. `unknown_model`: nothing of that name was configured.
    """

    order: tuple[str, ...] | None
    skipped: dict[str, str]
    served: str | None
    outcome: str
    attempts: int = 0
    cost_nusd: int = 0
    unpriced: bool = False
    assumed: bool = False
    unknown_model: bool = False

    def differs(self, other: Decision) -> bool:
        """In whom it would have asked, who answered, or what came of it; not in cost alone."""
        return (self.order, self.served, self.outcome) != (other.order, other.served, other.outcome)


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """`targets`: of the configuration, by name. `lacking`: nobody is left for what the request itself asks. `was`: the record.

    `same_rules`: it was recorded under this very configuration; `led_on`: the failures that led on to the next target then.
    """

    chain: Chain
    targets: Mapping[str, Target]
    order: tuple[str, ...]
    skipped: dict[str, str]
    lacking: bool
    was: Decision
    prices: Prices
    past: Past
    same_rules: bool
    led_on: frozenset[FailoverCause]


def walk(request: RecordedRequest, way: Way) -> Decision:
    cached = request.cached
    if cached is not None and not request.attempts and way.order and _keeps_answers(way.chain):
        name = f"{cached['provider']}/{cached['model']}"
        return Decision(way.order, way.skipped, name if name in way.targets else way.order[0], request.outcome)
    return _Walk(request, way).done()


@dataclass(slots=True)
class _Walk:
    request: RecordedRequest
    way: Way
    attempts: int = 0
    cost_nusd: int = 0
    unpriced: bool = False
    assumed: bool = False
    good: list[str] = field(default_factory=list)  # who answered, though not well enough

    def done(self) -> Decision:
        request, way = self.request, self.way
        results: dict[str, list[RecordedAttempt]] = {}
        for attempt in request.attempts:
            results.setdefault(attempt.target, []).append(attempt)
        then = {
            entry["attempt"]: entry for entry in request.trace if "attempt" in entry and ("error" in entry or "quality" in entry)
        }
        passed = self._passed(results, then)
        weighed = any(
            "quality" in entry and entry["then"] == "next" for entry in then.values()
        )  # another was asked for a better one
        served: str | None = None
        outcome: str | None = None
        last: list[RecordedAttempt] = []  # at the target that was come to last
        for name in way.order:
            tried = results.pop(name, None)
            last = tried or []
            if tried is not None:
                served, outcome = self._as_then(name, tried, then, way.order)
            elif self.good and weighed:
                break  # nobody else was to be had then
            elif name not in passed:
                served, outcome = self._guess(name)
            if served is not None or outcome is not None:
                break
        if self.good and (served is None or (weighed and way.was.served in self.good)):
            served = self.good[0]
        if served is not None:
            outcome = "ok"
        for name, tried in results.items():
            if name in way.order:
                self._bill(name, [attempt for attempt in tried if self._went_along(attempt, last)])
        return Decision(
            way.order,
            way.skipped,
            served,
            outcome or self._spent(),
            self.attempts,
            self.cost_nusd,
            self.unpriced,
            self.assumed,
        )

    def _went_along(self, attempt: RecordedAttempt, last: list[RecordedAttempt]) -> bool:
        """Whether it was made besides: to race with another, or between two at the target that was come to last."""
        if attempt.error_class == "hedged_out":
            return self.way.chain.hedge is not None
        return bool(last) and last[0].n < attempt.n < last[-1].n

    def _spent(self) -> str:
        """Nobody is left. What it came to then is what it came to, where nothing was made up."""
        way = self.way
        if not self.assumed and way.was.served is None and way.order == way.was.order:
            return way.was.outcome
        return "rejected" if way.lacking and not way.order else "failed"

    # -- one target

    def _as_then(
        self, name: str, tried: list[RecordedAttempt], then: Mapping[int, Mapping[str, Any]], order: tuple[str, ...]
    ) -> tuple[str | None, str | None]:
        """(who answered, outcome), both None where the next is to be asked."""
        self._bill(name, tried)
        chain, last = self.way.chain, tried[-1]
        note = then.get(last.n)
        if last.outcome == "ok":
            quality = note.get("quality") if note is not None else None
            if quality is not None and chain.quality is not None and quality < chain.quality.min and not self.good:
                self.good.append(name)  # one more is asked, and the better of both is given
                return None, None
            return name, None
        if last.error_class == "hedged_out":
            if chain.hedge is not None and self.way.was.served in order[order.index(name) + 1 :]:
                return None, None
            self.assumed = True  # it was late, and would have answered
            self._consume(name)
            return name, None
        if last.outcome in _FROM_OUTSIDE or (note is None and self.request.outcome in _FROM_OUTSIDE):
            return None, self.request.outcome
        error = _error(last.error_class)
        if note is not None and "not_continued" in note:
            return None, "failed"  # it broke off after what nobody can go on after
        if note is None or note.get("then") == "continue":
            # it broke off after content: another went on, or could have
            if note is None and last.n != self.request.attempts[-1].n:
                return None, None  # asked beside another
            goes_on = chain.on_break == "continue" if note is not None else self._goes_on(last)
            return (None, None) if goes_on else (None, "failed")
        if judge(error, failover_on=chain.failover_on, committed=False).try_next:
            return None, None
        return None, "failed"

    def _goes_on(self, last: RecordedAttempt) -> bool:
        """Whether an answer that broke off after content would have been gone on with by the next target."""
        return self.way.chain.on_break == "continue" and self.request.stream and last.first_token_ms is not None

    def _guess(self, name: str) -> tuple[str | None, str | None]:
        request, way = self.request, self.way
        if request.outcome in _FROM_OUTSIDE:
            if not self.attempts and request.attempts:
                self._consume(name, of=request.attempts[-1].usage)
                self.attempts += 1
            return None, request.outcome
        if self._is_callers(name):
            self.attempts += 1
            return None, "failed"
        self.assumed = True
        self.attempts += 1
        target = way.targets[name]
        availability = None if target.answer is not None else way.past.availability(name, request.time_ms)
        if availability is None or _drawn(request.id, name) < availability:
            self._consume(name)
            return name, None
        goes_on = judge(_error(_GUESSED_FAULT), failover_on=way.chain.failover_on, committed=False).try_next
        return (None, None) if goes_on else (None, "failed")

    def _is_callers(self, name: str) -> bool:
        """Whether what went wrong then was in the request itself, and would be here as well."""
        last = self.request.attempts[-1] if self.request.attempts else None
        if last is None or last.outcome == "ok" or last.error_class is None:
            return False
        error_class = _error(last.error_class).error_class
        if error_class not in _CALLERS:
            return False
        failed = self.way.targets.get(last.target)
        if error_class is ErrorClass.INVALID_REQUEST:
            return True
        here, context_of = self.way.targets[name], self.way.prices.context_window
        return context_of(here) is None if failed is None else not larger_context(here, failed, context_of)

    def _passed(self, results: Mapping[str, Any], then: Mapping[int, Mapping[str, Any]]) -> frozenset[str]:
        """Targets that were kept, and then not asked though their turn had come."""
        request, was = self.request, self.way.was
        order = was.order or ()
        noted = {e["target"] for e in request.trace if "skipped" in e and "attempt" not in e and e["target"] in order}
        places = [place for place, name in enumerate(order) if name in results]
        until = max(places, default=-1)
        if was.served is None and request.outcome not in _FROM_OUTSIDE:
            last = request.attempts[-1] if request.attempts else None
            note = then.get(last.n) if last is not None else None
            led_on = last is None or (
                note is not None and judge(_error(last.error_class), failover_on=self.way.led_on, committed=False).try_next
            )
            until = len(order) if led_on else until
        return frozenset([name for name in order[:until] if name not in results]) | (noted - results.keys())

    # -- what it costs

    def _bill(self, name: str, tried: list[RecordedAttempt]) -> None:
        """As its target costs, for what it consumed then."""
        target = self.way.targets[name]
        for attempt in tried:
            self.attempts += 1
            if attempt.usage is None:
                continue
            rates = self.way.prices.rates(target, attempt.time_ms / 1000)
            if _stays(attempt, rates, same_rules=self.way.same_rules):
                cost_nusd = attempt.cost_nusd
            else:
                cost_nusd = None if rates is None else rates.cost_nusd(attempt.usage)
            self._add(cost_nusd)

    def _consume(self, name: str, of: Usage | None = None) -> None:
        """For an answer like `of`, or like the one that was given, nothing of it cached."""
        usage = self._usual() if of is None else of
        if usage is not None:
            plain = replace(usage, cached_input_tokens=0, cache_write_tokens=0, reasoning_tokens=0)
            rates = self.way.prices.rates(self.way.targets[name], self.request.time_ms / 1000)
            self._add(None if rates is None else rates.cost_nusd(plain))
        elif self.way.targets[name].answer is None:
            self._add(None)

    def _add(self, cost_nusd: int | None) -> None:
        self.unpriced = self.unpriced or cost_nusd is None
        self.cost_nusd += cost_nusd or 0

    def _usual(self) -> Usage | None:
        """What the answer took, else what its kind takes."""
        request = self.request
        answered = answered_by(request)
        consumed = [attempt.usage for attempt in request.attempts if attempt.usage is not None]
        if answered is not None and answered.usage is not None:
            return answered.usage
        if consumed:
            return consumed[-1]
        if request.cached is not None and request.cached.get("input_tokens") is not None:
            return Usage(request.cached["input_tokens"], request.cached.get("output_tokens") or 0)
        asked = request.asked or {}
        input_tokens = asked.get("tokens") or max([attempt.at_risk_tokens for attempt in request.attempts], default=0)
        usual = self.way.past.usual_output(request.chain)
        if not input_tokens or usual is None:
            return None
        return Usage(input_tokens, usual, source=UsageSource.ESTIMATED)


def _stays(attempt: RecordedAttempt, rates: Rates | None, *, same_rules: bool) -> bool:
    """Whether what it cost is what it costs: its provider said so, or the prices are the same."""
    if same_rules or attempt.price_source == FROM_PROVIDER:
        return True
    return rates is not None and not rates.configured and rates.source == attempt.price_source


def _keeps_answers(chain: Chain) -> bool:
    return chain.cache is not None and chain.cache.enabled


def _error(error_class: str | None) -> UpstreamError:
    try:
        return UpstreamError(ErrorClass(error_class or _GUESSED_FAULT), "")
    except ValueError:  # of another release
        return UpstreamError(_GUESSED_FAULT, "")


def _drawn(request_id: str, name: str) -> float:
    """0 to 1, the same whenever it is asked."""
    return int.from_bytes(blake2b(f"{request_id}|{name}".encode(), digest_size=8).digest()) / 2.0**64
