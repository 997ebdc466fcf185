"""Limits of a minute: what is let go in any sixty seconds, what clients are told of theirs, what providers say of theirs."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.accounting.throttle import MAX_WINDOWS, SLOT_S, WINDOW_S, ClientAccount, RateAccount, Throttle, Window
from proxy.config.settings import ClientSettings, Settings
from proxy.core.allowance import Ask
from proxy.core.errors import RateLimitExceeded
from proxy.core.limits import NO_LIMITS, RateLimits, Unit
from proxy.core.target import Chain, Credential, Provider, Secret, Target
from tests.engine import harness

pytestmark = pytest.mark.unit


def ask(tokens: int = 100) -> Ask:
    return Ask(10 * tokens, tokens, None, 1e9)


# -- A window


def test_a_place_is_free_again_a_minute_after_it_was_taken() -> None:
    window = Window("requests", 2)
    window.take(10.0, 1)
    window.take(20.1, 1)
    assert not window.fits(30.0, 1)
    assert window.free_in_s(30.0, 1) == 40.25
    assert window.free_in_s(30.0, 2) == 50.25
    assert not window.fits(70.24, 1)
    assert (window.fits(70.25, 1), window.free_in_s(70.25, 1), window.used(70.25)) == (True, 0.0, 1)
    assert window.whole_in_s(70.25) == 10.0
    assert (window.used(80.25), window.whole_in_s(80.25)) == (0, 0.0)


def test_what_is_larger_than_the_limit_goes_when_the_window_is_empty() -> None:
    window = Window("tokens", 100)
    assert window.fits(0.0, 5_000)
    window.take(0.0, 1)
    assert not window.fits(0.0, 5_000)
    assert window.free_in_s(0.0, 5_000) == 60.25


def test_what_turns_out_otherwise_is_corrected_while_it_counts() -> None:
    window = Window("tokens", 100)
    slot = window.take(0.0, 90)
    window.correct(slot, -80)
    assert window.used(1.0) == 10
    assert window.used(61.0) == 0
    window.correct(slot, 50)
    assert window.used(61.0) == 0


def test_a_window_is_bounded() -> None:
    window = Window("tokens", 10**9)
    for n in range(100_000):
        window.take(n * 0.01, 1)
    assert len(window._slots) == WINDOW_S / SLOT_S + 1


@pytest.mark.property
@settings(deadline=None)
@given(
    limit=st.integers(1, 20),
    steps=st.lists(st.tuples(st.floats(0, 30, allow_nan=False), st.integers(1, 20)), min_size=1, max_size=60),
)
def test_in_no_sixty_seconds_is_more_let_go_than_the_limit(limit: int, steps: list[tuple[float, int]]) -> None:
    window, now = Window("tokens", limit), 0.0
    gone: list[tuple[float, int]] = []
    for pause_s, amount in steps:
        now += pause_s
        if window.fits(now, amount):
            assert window.free_in_s(now, amount) == 0.0 or amount > limit
            window.take(now, amount)
            gone.append((now, amount))
        else:
            wait_s = window.free_in_s(now, amount)
            assert 0 < wait_s <= WINDOW_S + SLOT_S
            assert any(now - moment < WINDOW_S + SLOT_S for moment, _ in gone)  # nothing older stands in the way
            now += wait_s + 1e-6
            assert window.fits(now, amount)
    for moment, _ in gone:
        within = [amount for at, amount in gone if moment <= at < moment + WINDOW_S]
        assert sum(within) <= limit or within == [amount for amount in within if amount > limit]


# -- A provider's limits


def account(rpm: int | None = None, tpm: int | None = None) -> RateAccount:
    return RateAccount(("groq", "key0", None), RateLimits(rpm, tpm))


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (RateLimits(rpm=2), "rate limit: 2 requests a minute, free in 61 s"),
        (RateLimits(tpm=1_050), "rate limit: 1,050 tokens a minute, free in 61 s"),
        (RateLimits(rpm=2, tpm=1_050), "rate limit: 2 requests a minute, free in 61 s"),
        (RateLimits(in_flight=1), None),
    ],
)
def test_a_full_minute_says_what_is_full_and_when_it_is_not(limits: RateLimits, reason: str | None) -> None:
    rate = RateAccount(("groq", "key0", None), limits)
    for _ in range(2):
        assert rate.refuses(0.0, ask(500)) is None
        rate.take(0.0, ask(500))
    assert rate.refuses(0.0, ask(500)) == reason
    assert rate.free_in_s(0.0, ask(500)) == (60.25 if reason else 0.0)
    assert rate.brief


def test_without_a_request_in_hand_only_what_is_quite_full_refuses() -> None:
    rate = account(tpm=1_000)
    rate.take(0.0, ask(900))
    assert (rate.refuses(0.0), rate.free_in_s(0.0)) == (None, 0.0)
    assert rate.refuses(0.0, ask(200)) is not None


def test_tokens_are_settled_at_what_they_were_and_what_never_left_is_given_back() -> None:
    rate = account(rpm=10, tpm=1_000)
    first, second = rate.take(0.0, ask(400)), rate.take(0.0, ask(400))
    first.settle(1, 50, None)
    first.settle(1, 50, None)
    second.release()
    assert [window.used(0.0) for window in rate.windows()] == [1, 50]


# -- Which limits there are


def target(name: str = "groq", model: str = "m", limits: RateLimits = NO_LIMITS, own: RateLimits = NO_LIMITS) -> Target:
    credentials = (Credential("key0", Secret("fake")), Credential("key1", Secret("fake")))
    return Target(Provider(name, "openai", "http://x", credentials, limits=limits), model, model, limits=own)


def configured(*targets: Target, **rest: Any) -> tuple[Throttle, Settings]:
    throttle, stated = Throttle(), replace(harness.settings(Chain("smart", targets)), **rest)
    throttle.configure(stated, 0.0)
    return throttle, stated


def shown(throttle: Throttle, now: float = 0.0) -> list[tuple[str, str, str | None, Unit, int, int]]:
    return [(s.provider, s.key, s.model, s.unit, s.limit, s.used) for s in throttle.states(now)]


def test_a_providers_limits_are_each_keys_and_a_models_each_keys_at_the_model() -> None:
    both = RateLimits(rpm=30, tpm=500)
    one, two = target(limits=both, own=RateLimits(rpm=3)), target(model="n", limits=both)
    throttle, _ = configured(one, two)
    first, second = one.provider.credentials
    for account in throttle.of(one, first, 0.0):
        account.take(0.0, ask())
    for account in throttle.of(two, first, 0.0):
        account.take(0.0, ask())
    for account in throttle.of(two, second, 0.0):
        account.take(0.0, ask())
    assert shown(throttle) == [
        ("groq", "key0", None, "requests", 30, 2),
        ("groq", "key0", None, "tokens", 500, 200),
        ("groq", "key0", "m", "requests", 3, 1),
        ("groq", "key1", None, "requests", 30, 1),
        ("groq", "key1", None, "tokens", 500, 100),
        ("groq", "key1", "m", "requests", 3, 0),
    ]
    state = throttle.states(0.0)[1]
    assert (state.remaining, state.resets_s, state.source, state.per_minute) == (300, 60.25, "file", 200.0)


def test_a_reload_keeps_the_minute_and_drops_limits_that_are_gone() -> None:
    one, two = target(limits=RateLimits(rpm=30)), target("cohere", limits=RateLimits(rpm=9))
    throttle, stated = configured(one, two)
    throttle.of(one, one.provider.credentials[0], 0.0)[0].take(0.0, ask())
    throttle.configure(replace(stated, chains={"smart": Chain("smart", (target(limits=RateLimits(rpm=40)),))}), 1.0)
    assert shown(throttle, 1.0) == [("groq", "key0", None, "requests", 40, 1), ("groq", "key1", None, "requests", 40, 0)]


def test_a_target_without_limits_or_of_no_use_has_no_account() -> None:
    throttle, _ = configured()
    plain = target(limits=RateLimits(in_flight=3))
    off = replace(plain, provider=replace(plain.provider, limits=RateLimits(rpm=3), disabled="no key"))
    credential = plain.provider.credentials[0]
    assert throttle.of(plain, credential, 0.0) == throttle.of(off, credential, 0.0) == ()


def test_the_number_of_accounts_is_bounded() -> None:
    throttle, _ = configured()
    one = target(limits=RateLimits(rpm=3), own=RateLimits(rpm=3))
    busy = throttle.of(replace(one, upstream_model="busy"), one.provider.credentials[0], 0.0)
    for each in busy:
        each.take(0.0, ask())
    for n in range(MAX_WINDOWS + 10):
        throttle.of(replace(one, upstream_model=f"model-{n}"), one.provider.credentials[0], 0.0)
    assert len(throttle._accounts) < 20
    assert throttle.of(replace(one, upstream_model="busy"), one.provider.credentials[0], 0.0) == busy


# -- What providers say


@dataclass
class Told:
    attempts: int
    tokens: int
    remaining: int = 40
    unit: Unit = "requests"
    provider: str = "groq"
    credential: str = "key0"
    model: str = "m"
    limit: int = 100
    resets_s: float | None = 6.0


def test_what_was_learned_is_shown_with_the_present_rate() -> None:
    throttle, _ = configured()
    told = [Told(0, 0), Told(0, 0, unit="tokens", limit=5_000)]
    throttle.learned = lambda now: told
    state, _ = throttle.states(0.0)
    assert (state.used, state.remaining, state.resets_s, state.source, state.per_minute) == (60, 40, 6.0, "learned", None)
    for one in told:
        one.attempts, one.tokens = 30, 6_000
    assert [state.per_minute for state in throttle.states(30.0)] == [60.0, 12_000.0]
    for second in range(31, 200):
        throttle.states(float(second))  # nothing more was asked
    assert [state.per_minute for state in throttle.states(200.0)] == [0.0, 0.0]
    throttle.learned = lambda now: []
    assert throttle.states(201.0) == []
    assert throttle._samples == {}


# -- Clients


def client(**limits: int) -> ClientAccount:
    return ClientAccount("nightly", RateLimits(**limits))


def test_a_client_is_told_how_it_stands() -> None:
    nightly = client(rpm=60, tpm=10_000)
    seat = nightly.enter(0.0, 1_500)
    assert dict(nightly.headers(0.0)) == {
        b"x-ratelimit-limit-requests": b"60",
        b"x-ratelimit-remaining-requests": b"59",
        b"x-ratelimit-reset-requests": b"61s",
        b"x-ratelimit-limit-tokens": b"10000",
        b"x-ratelimit-remaining-tokens": b"8500",
        b"x-ratelimit-reset-tokens": b"61s",
    }
    seat.leave(20)
    assert dict(nightly.headers(30.0))[b"x-ratelimit-remaining-tokens"] == b"9980"
    assert dict(nightly.headers(61.0))[b"x-ratelimit-reset-tokens"] == b"0s"
    assert client(in_flight=3).headers(0.0) == []


@pytest.mark.parametrize(
    ("limits", "message", "retry_after_s"),
    [
        ({"rpm": 2}, "Client nightly may ask 2 requests in a minute (`limits.rpm`).", 60.25),
        ({"tpm": 2_000}, "Client nightly may ask 2,000 tokens in a minute (`limits.tpm`).", 60.25),
        ({"in_flight": 2}, "Client nightly may have 2 requests running at a time (`limits.in_flight`).", 1.0),
    ],
)
def test_a_client_over_its_limit_is_refused(limits: dict[str, int], message: str, retry_after_s: float) -> None:
    nightly = client(**limits)
    seats = [nightly.enter(0.0, 1_000) for _ in range(2)]
    with pytest.raises(RateLimitExceeded) as caught:
        nightly.enter(0.0, 1_000)
    assert (caught.value.message, caught.value.retry_after_s, caught.value.status) == (message, retry_after_s, 429)
    for seat in seats:
        seat.leave(0)
        seat.leave(0)
    assert nightly.in_flight == 0
    nightly.enter(retry_after_s, 1_000)


def test_a_clients_minute_outlives_a_reload() -> None:
    nightly = ClientSettings("nightly", frozenset(), limits=RateLimits(rpm=5))
    throttle, stated = configured(clients={"nightly": nightly, "free": ClientSettings("free", frozenset())})
    throttle.clients["nightly"].enter(0.0, 1)
    throttle.configure(replace(stated, clients={"nightly": replace(nightly, limits=RateLimits(rpm=9))}), 1.0)
    assert list(throttle.clients) == ["nightly"]
    assert dict(throttle.clients["nightly"].headers(1.0))[b"x-ratelimit-remaining-requests"] == b"8"
