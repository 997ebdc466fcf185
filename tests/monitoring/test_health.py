"""What a provider's state is, by what checks and traffic say: every rule, its edges, and which of two counts."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.settings import AlertSettings
from proxy.core.alerts import Levels
from proxy.core.limits import HealthSettings
from proxy.core.target import NO_CREDENTIAL, Credential, Provider, Secret
from proxy.monitoring.health import (
    MODEL_NOT_FOUND,
    RULES,
    Check,
    Facts,
    Live,
    Part,
    ProviderHealth,
    Thresholds,
    fuse,
    key_valid,
    tightest,
)
from proxy.routing import deployment
from proxy.routing.verdict import Effect
from proxy.upstream.probe import Finding, Probe

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
KEYS = (Credential("one", Secret("sk-one")), Credential("two", Secret("sk-two")))
PROVIDER = Provider(name="p", dialect="openai", base_url="http://p.invalid", credentials=KEYS[:1], model_list_path="/models")
BEGAN, ENDED = 100.0, 101.0


class Limit(NamedTuple):
    unit: str
    limit: int | None
    remaining: int | None
    resets_s: float | None = 30.0
    provider: str = "p"


def asked(*probes: Probe, provider: Provider = PROVIDER) -> Check:
    return Check(provider, probes, BEGAN, ENDED, 1_700_000_000.0)


def found(finding: Finding, *, ms: float | None = None, detail: str | None = None, status: int | None = None) -> Probe:
    return Probe("p", "…", finding, ms=ms, detail=detail, status=status)


def facts(check: Check | None = None, *, provider: Provider = PROVIDER, limits: tuple[Limit, ...] = (), **live: Any) -> Facts:
    return Facts(provider, check, Live(**live), limits, Thresholds())


def part(circuit: str = "closed", *, opens_in_s: float = 0.0, cooldown_s: float = 0.0, latched: str | None = None) -> Part:
    return Part("m", "one", circuit, opens_in_s, cooldown_s, latched)


OK = found(Finding.OK, ms=120.0)
SLOW = found(Finding.OK, ms=2_100.0)
GONE = found(Finding.UNREACHABLE, detail="cannot connect to p.invalid: Connection refused")
BROKEN = found(Finding.FAULT, detail="it answered 503", status=503)
REFUSED = found(Finding.BAD_KEY, detail="refused with 401", status=401)
FORBIDDEN = found(Finding.BAD_KEY, detail="refused with 403", status=403)
LISTLESS = found(Finding.UNKNOWN, detail="it is there, but has no model list (404)")
LATER, EARLIER = ENDED + 5, BEGAN - 5


@pytest.mark.parametrize(
    ("given", "state", "reason"),
    [
        # nothing is known
        (facts(), "unknown", None),
        (facts(asked(LISTLESS)), "unknown", None),
        (facts(asked()), "unknown", None),  # it has no free check
        # the file
        (facts(asked(OK), provider=replace(PROVIDER, disabled="no key: set P_KEY")), "disabled", "no key: set P_KEY"),
        # the check alone
        (facts(asked(OK)), "healthy", None),
        (facts(asked(SLOW)), "degraded", "slow: the check took 2.1 s"),
        (facts(asked(GONE)), "down", "cannot connect to p.invalid: Connection refused"),
        (facts(asked(BROKEN)), "down", "it answered 503"),
        (facts(asked(REFUSED)), "down", "the key is refused: refused with 401"),
        (facts(asked(REFUSED, REFUSED)), "down", "2 of 2 keys are refused: refused with 401"),
        (facts(asked(OK, REFUSED)), "degraded", "1 of 2 keys is refused: refused with 401"),
        (facts(asked(OK, GONE)), "degraded", "with 1 of 2 keys: cannot connect to p.invalid: Connection refused"),
        (facts(asked(REFUSED, GONE)), "down", "cannot connect to p.invalid: Connection refused"),
        (facts(asked(REFUSED), provider=replace(PROVIDER, credentials=(NO_CREDENTIAL,))), "down", "it wants a key (refused with 401)"),
        # traffic alone
        (facts(last_ok=EARLIER), "healthy", None),
        (facts(parts=(part("open", opens_in_s=4.0),)), "down", "circuit open"),
        (facts(parts=(part("open"),)), "degraded", "circuit open until a request probes it: m"),
        (facts(parts=(part("half_open"),)), "degraded", "circuit half open: m"),
        (facts(parts=(part("open", opens_in_s=4.0), part())), "degraded", "m: circuit open"),
        (facts(parts=(part(latched="bad key"),)), "down", "bad key"),
        (facts(parts=(part(latched="bad key"), part("open", opens_in_s=1.0))), "down", "bad key"),
        (facts(parts=(part(latched="no quota or credit left"), part())), "degraded", "m: no quota or credit left"),
        (facts(parts=(part(latched=MODEL_NOT_FOUND),)), "down", "model not found: m"),
        (facts(parts=(part(latched=MODEL_NOT_FOUND),), last_ok=EARLIER), "degraded", "m: model not found"),
        (facts(parts=(part(latched=MODEL_NOT_FOUND), part())), "degraded", "m: model not found"),
        (facts(parts=(part(cooldown_s=29.6),), last_ok=EARLIER), "degraded", "cooling down 30 s"),
        (
            facts(asked(OK), parts=(part()._replace(refused="quota spent"), part())),
            "degraded",
            "m: quota spent",
        ),
        (facts(attempts=10, failed=1, last_ok=EARLIER), "degraded", "10% of 10 calls failed"),
        (facts(attempts=100, failed=5, last_ok=EARLIER, last_fail=LATER), "healthy", None),
        (facts(attempts=100, failed=6, last_ok=EARLIER), "degraded", "6% of 100 calls failed"),
        (facts(attempts=3, failed=1, last_fail=EARLIER, last_ok=LATER), "healthy", None),  # it works again
        (facts(attempts=3, failed=1, last_fail=LATER, last_ok=EARLIER), "degraded", "the last call failed"),
        (facts(attempts=1, failed=1, last_fail=LATER), "degraded", "the last call failed"),
        # both
        (facts(asked(GONE), last_ok=LATER), "degraded", "the check fails (cannot connect to p.invalid: Connection refused), calls succeed"),
        (facts(asked(GONE), last_ok=EARLIER), "down", "cannot connect to p.invalid: Connection refused"),
        (facts(asked(REFUSED), last_ok=LATER), "degraded", "the key is refused: refused with 401"),
        (facts(asked(FORBIDDEN), last_ok=LATER), "healthy", None),  # a key may call and not list
        (facts(asked(FORBIDDEN)), "down", "the key is refused: refused with 403"),
        (facts(asked(OK), parts=(part("open", opens_in_s=4.0),)), "down", "circuit open"),
        (facts(asked(OK), attempts=0, failed=0, last_fail=EARLIER), "healthy", None),  # long ago
        # first tokens
        (
            facts(asked(OK), first_token_ms=800.0, first_tokens=5, usual_ms=400.0, usual_first_tokens=20),
            "degraded",
            "slow: first token 800 ms, usually 400 ms",
        ),
        (facts(asked(OK), first_token_ms=799.0, first_tokens=5, usual_ms=400.0, usual_first_tokens=20), "healthy", None),
        (facts(asked(OK), first_token_ms=9000.0, first_tokens=4, usual_ms=400.0, usual_first_tokens=20), "healthy", None),
        (facts(asked(OK), first_token_ms=9000.0, first_tokens=5, usual_ms=400.0, usual_first_tokens=19), "healthy", None),
        # rate limits
        (facts(asked(OK), limits=(Limit("requests", 30, 3),)), "degraded", "near its rate limit: 3 of 30 requests left"),
        (facts(asked(OK), limits=(Limit("requests", 30, 4),)), "healthy", None),
        (facts(asked(OK), limits=(Limit("tokens", 1000, 0), Limit("requests", 30, 30))), "degraded",
         "near its rate limit: 0 of 1000 tokens left"),
        (facts(asked(OK), limits=(Limit("tokens", None, 0), Limit("requests", 30, None))), "healthy", None),
        # what is built in
        (facts(provider=replace(PROVIDER, transport="demo")), "healthy", None),
        (facts(provider=replace(PROVIDER, transport="demo"), parts=(part("open", opens_in_s=4.0),)), "down", "circuit open"),
    ],
)  # fmt: skip
def test_the_table(given: Facts, state: str, reason: str | None) -> None:
    assert fuse(given) == (state, reason)


def test_thresholds_are_those_at_which_an_alert_would_warn() -> None:
    alerts = AlertSettings(error_rate=Levels(0.5, None), first_token=Levels(None, 9.0))
    thresholds = Thresholds.of(HealthSettings(slow_s=7.0), alerts)
    assert thresholds == Thresholds(slow_s=7.0, error_rate=0.5, first_token=None)
    lenient = replace(
        facts(asked(SLOW), attempts=10, failed=5, first_token_ms=900.0, first_tokens=9, usual_ms=1.0, usual_first_tokens=99),
        thresholds=thresholds,
    )
    assert fuse(lenient) == ("healthy", None)


def test_a_level_that_is_off_never_degrades() -> None:
    off = replace(facts(asked(OK), attempts=100, failed=100, last_ok=LATER), thresholds=Thresholds(error_rate=None))
    assert fuse(off) == ("healthy", None)


@pytest.mark.parametrize(
    ("given", "valid"),
    [
        (facts(), None),
        (facts(asked(OK)), True),
        (facts(asked(REFUSED)), False),
        (facts(asked(OK, REFUSED)), False),
        (facts(asked(GONE)), None),
        (facts(asked(GONE), last_ok=LATER), True),
        (facts(asked(FORBIDDEN), last_ok=LATER), True),
        (facts(last_ok=LATER), True),
        (facts(asked(OK), parts=(part(latched="bad key"),)), False),
        (facts(asked(OK), parts=(part(latched=MODEL_NOT_FOUND),)), True),
        (facts(asked(OK), provider=replace(PROVIDER, credentials=(NO_CREDENTIAL,))), None),
        (facts(asked(REFUSED), provider=replace(PROVIDER, credentials=(NO_CREDENTIAL,))), False),
    ],
)
def test_whether_the_key_is_right(given: Facts, valid: bool | None) -> None:
    assert key_valid(given) is valid


def test_of_several_limits_the_tightest_is_shown() -> None:
    limits = [Limit("requests", 30, 20), Limit("requests", 1000, 100, 7.0), Limit("tokens", 10, 10)]
    assert tightest(limits, "requests") == {"limit": 1000, "remaining": 100, "resets_s": 7.0}
    assert tightest(limits, "tokens") == {"limit": 10, "remaining": 10, "resets_s": 30.0}
    assert tightest([], "tokens") is None


def test_a_latch_says_what_the_rules_take_it_to_say() -> None:
    assert deployment._LATCHES[Effect.CONFIG][0] == MODEL_NOT_FOUND
    assert deployment._LATCHES[Effect.AUTH][0] == "bad key"


def test_a_card_as_the_api_shows_it() -> None:
    card = ProviderHealth(
        name="p", state="healthy", reason=None, dialect="openai", keys=1, rate_limit={"requests": None, "tokens": None},
        uptime={"day": 1.0, "week": None, "month": None},
    )  # fmt: skip
    assert (
        list(card.as_dict())
        == (
            "name state reason dialect keys response_ms models key_valid circuit cooldown_s error_rate first_token_ms"
            " first_token_usual_ms requests_per_minute in_flight rate_limit checked error last_error last_error_at uptime roles"
            " targets note"
        ).split()
    )


# -- whatever is said

probes = st.sampled_from([OK, SLOW, GONE, BROKEN, REFUSED, FORBIDDEN, LISTLESS])
parts = st.builds(
    Part,
    st.sampled_from(["a", "b"]),
    st.just("one"),
    st.sampled_from(["closed", "half_open", "open"]),
    st.sampled_from([0.0, 5.0]),
    st.sampled_from([0.0, 5.0]),
    st.sampled_from([None, None, "bad key", MODEL_NOT_FOUND]),
)
moments = st.sampled_from([None, EARLIER, LATER])


@st.composite
def anything(draw: st.DrawFn) -> Facts:
    attempts = draw(st.integers(0, 30))
    return facts(
        draw(st.none() | st.lists(probes, max_size=3).map(lambda several: asked(*several))),
        parts=tuple(draw(st.lists(parts, max_size=3))),
        attempts=attempts,
        failed=draw(st.integers(0, attempts)),
        last_ok=draw(moments),
        last_fail=draw(moments),
    )


@pytest.mark.property
@given(anything())
def test_a_state_always_has_a_reason_but_for_the_good_and_the_unknown(given_facts: Facts) -> None:
    state, reason = fuse(given_facts)
    assert (reason is None) == (state in ("healthy", "unknown"))


@pytest.mark.property
@given(anything())
def test_healthy_means_answered_and_a_right_key_and_a_closed_circuit(given_facts: Facts) -> None:
    if fuse(given_facts)[0] == "healthy":
        assert all(one.circuit == "closed" and one.latched is None and not one.cooldown_s for one in given_facts.live.parts)
        assert key_valid(given_facts) is not False
        assert given_facts.live.last_ok is not None or (given_facts.check is not None and given_facts.check.answered)


@pytest.mark.property
@given(anything())
def test_what_serves_calls_after_a_check_is_down_only_by_its_circuits_and_latches(given_facts: Facts) -> None:
    if given_facts.served_since and fuse(given_facts)[0] == "down":
        assert all(one.shut or one.latched for one in given_facts.live.parts)
        assert given_facts.live.parts


# -- the documentation


def test_the_documentation_shows_the_rules_in_their_order() -> None:
    text = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| **")]
    told = [(state.strip("*"), when) for state, when in rows]
    assert told == [(rule.state, rule.name) for rule in RULES]
