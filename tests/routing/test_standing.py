"""What is remembered of how a deployment did lately, and for how long."""

from __future__ import annotations

import random
from math import ceil

import pytest

from proxy.core.target import Chain, Credential, HedgeSettings, Provider, Secret, Strategy, Target
from proxy.routing.deployment import Deployments
from proxy.routing.plan import lay_out
from proxy.routing.standing import LEAST_SAMPLES, MAX_TOKENS_PER_S, RECENT_S, SAMPLES, Standing

pytestmark = pytest.mark.unit


def streamed(standing: Standing, *first_tokens_s: float, now: float = 0.0) -> None:
    for seconds in first_tokens_s:
        standing.note(now, ok=True, stream=True, first_token_s=seconds, total_s=seconds + 1.0, output_tokens=50)


def test_nothing_is_said_below_five_first_tokens() -> None:
    standing = Standing()
    streamed(standing, 0.1, 0.2, 0.3, 0.4)
    assert (standing.first_token_s(0.5), standing.samples) == (None, 4)
    streamed(standing, 9.0)
    assert [standing.first_token_s(q) for q in (0.0, 0.5, 0.95, 1.0)] == [0.1, 0.3, 9.0, 9.0]


@pytest.mark.parametrize(
    ("quick", "slow", "late_s"),
    [
        (4, 0, None),
        (5, 0, 0.2),
        (4, 1, 0.4),  # which may be chance: twice what it may be as well
        (18, 2, 0.4),
        (17, 3, 3.0),  # three of twenty are too many for it
        (117, 11, 0.4),
        (116, 12, 3.0),
        (128, 0, 0.2),
    ],
)
def test_what_is_late_leaves_room_for_chance(quick: int, slow: int, late_s: float | None) -> None:
    standing = Standing()
    streamed(standing, *[0.2] * quick, *[3.0] * slow)
    assert standing.late_s(0.95) == late_s


def test_only_the_last_samples_of_the_last_minutes_count() -> None:
    standing = Standing()
    streamed(standing, *[5.0] * SAMPLES)
    streamed(standing, *[1.0] * SAMPLES, now=1.0)
    assert (standing.samples, standing.ended, standing.first_token_s(1.0)) == (SAMPLES, SAMPLES, 1.0)
    standing.note_quality(0.7)
    standing.forget(RECENT_S + 0.9)
    assert standing.samples == SAMPLES
    standing.forget(RECENT_S + 1.0)
    assert (standing.samples, standing.ended, standing.ok) == (0, 0, 0)
    assert (standing.first_token_s(0.5), standing.tokens_per_s, standing.quality) == (None, None, None)


def test_the_share_of_good_ones_leaves_out_what_says_nothing_about_the_upstream() -> None:
    standing = Standing()
    for ok in (True, False, None, True, None):
        standing.note(0.0, ok=ok, stream=True)
    assert (standing.ok, standing.ended) == (2, 3)


@pytest.mark.parametrize(
    ("stream", "first_s", "total_s", "tokens", "tokens_per_s"),
    [
        (True, 1.0, 3.0, 100, 50.0),
        (False, 2.0, 2.0, 100, 50.0),  # a whole answer: nobody saw when it began
        (True, 1.0, 1.0, 100, MAX_TOKENS_PER_S),
        (True, 1.0, 3.0, 7, None),  # too few to say how fast they come
    ],
)
def test_tokens_a_second_are_counted_from_the_first_one(
    stream: bool, first_s: float, total_s: float, tokens: int, tokens_per_s: float | None
) -> None:
    standing = Standing()
    standing.note(0.0, ok=True, stream=stream, first_token_s=first_s, total_s=total_s, output_tokens=tokens)
    assert standing.tokens_per_s == tokens_per_s
    assert standing.samples == (1 if stream else 0)


def test_the_usual_first_token_is_taken_off_a_whole_answer() -> None:
    standing = Standing()
    streamed(standing, *[1.0] * LEAST_SAMPLES)
    standing.tokens_per_s = None
    standing.note(0.0, ok=True, stream=False, first_token_s=3.0, total_s=3.0, output_tokens=100)
    assert standing.tokens_per_s == 50.0


def test_means_move_by_a_fifth() -> None:
    standing = Standing()
    standing.note_quality(1.0)
    standing.note_quality(0.5)
    assert standing.quality == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("strategy", "hedge", "kept"),
    [
        ("order", None, False),
        ("cheapest", None, False),
        ("fastest", None, True),
        ("score", None, True),
        ("order", HedgeSettings(), True),
    ],
)
def test_it_is_kept_where_a_chain_goes_by_it(strategy: Strategy, hedge: HedgeSettings | None, kept: bool) -> None:
    target = Target(Provider("a", "openai", "http://127.0.0.1", (Credential("a", Secret("fake")),)), "m", "m")
    state = Deployments(lambda: 0.5)
    lay_out(Chain("c", (target,), strategy=strategy, hedge=hedge), state)
    assert (state.get(target, target.provider.credentials[0]).standing is not None) is kept


@pytest.mark.property
def test_the_window_is_what_a_plain_list_would_be() -> None:
    for seed in range(100):
        chance = random.Random(seed)
        standing, now = Standing(), 0.0
        firsts: list[tuple[float, float]] = []
        ends: list[tuple[float, bool]] = []
        for _ in range(chance.randrange(300)):
            now += chance.choice((0.0, 1.0, 7.0, 400.0 * chance.random() ** 9))
            ok, first_s = chance.choice((True, False, None)), chance.choice((None, round(chance.random(), 2)))
            standing.note(now, ok=ok, stream=True, first_token_s=first_s, total_s=first_s or 0.0)
            if first_s is not None:
                firsts.append((now, first_s))
            if ok is not None:
                ends.append((now, ok))
        now += chance.choice((0.0, 300.0))
        standing.forget(now)
        recent = sorted([first_s for at, first_s in firsts[-SAMPLES:] if at > now - RECENT_S])
        ended = [ok for at, ok in ends[-SAMPLES:] if at > now - RECENT_S]
        assert (standing.samples, standing.ok, standing.ended) == (len(recent), sum(ended), len(ended)), seed
        for quantile in (0.0, 0.5, 0.95, 1.0):
            expected = recent[max(1, ceil(quantile * len(recent))) - 1] if len(recent) >= LEAST_SAMPLES else None
            assert standing.first_token_s(quantile) == expected, seed
