import re
from pathlib import Path

import pytest

from proxy.core.errors import Draining, ErrorClass, InternalError, UpstreamError
from proxy.core.target import DEFAULT_FAILOVER_ON
from proxy.routing.verdict import RULES, Effect, client_error, judge

pytestmark = pytest.mark.unit

DOCS = Path(__file__).parents[2] / "docs" / "failover.md"


def error(error_class: ErrorClass, message: str = "as the provider says", *, status: int | None = None, retry_after_s: float |
None = None,
          code: str | None = None, param: str | None = None) -> UpstreamError:  # fmt: skip
    return UpstreamError(error_class, message, status=status, retry_after_s=retry_after_s, code=code, param=param)


def test_every_class_has_a_rule() -> None:
    assert set(RULES) == set(ErrorClass)


def test_the_documentation_shows_the_table() -> None:
    rows = re.findall(
        r"^\| `([^`]+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \| (\d+) `(\w+)` \|$",
        DOCS.read_text(),
        re.MULTILINE,
    )
    expected = []
    for error_class, rule in RULES.items():
        moves_on = "never" if not rule.try_next else "always" if rule.cause is None else f"with `{rule.cause}`"
        expected.append(
            (error_class.value, moves_on, "yes" if rule.same_target else "no", rule.effect.value, rule.category, rule.billed,
             str(rule.status), rule.code)
        )  # fmt: skip
    assert rows == expected


@pytest.mark.parametrize("error_class", ErrorClass)
def test_after_content_nothing_else_is_tried(error_class: ErrorClass) -> None:
    verdict = judge(error(error_class, retry_after_s=3.0), failover_on=DEFAULT_FAILOVER_ON, committed=True)
    assert not verdict.try_next
    told = client_error(error(error_class), committed=True)
    assert (told.type, told.code) == ("upstream_error", "stream_interrupted")


@pytest.mark.parametrize("error_class", [c for c, rule in RULES.items() if rule.cause is not None])
def test_a_cause_that_is_not_named_does_not_fail_over(error_class: ErrorClass) -> None:
    cause = RULES[error_class].cause
    assert cause is not None
    assert not judge(error(error_class), failover_on=frozenset(), committed=False).try_next
    assert judge(error(error_class), failover_on=frozenset((cause,)), committed=False).try_next


def test_overload_with_a_wait_is_a_rate_limit_and_without_one_a_fault() -> None:
    with_wait = judge(error(ErrorClass.OVERLOADED, retry_after_s=1e9), failover_on=DEFAULT_FAILOVER_ON, committed=False)
    assert (with_wait.penalise, with_wait.cooldown_s) == (Effect.RATE, 300)
    without = judge(error(ErrorClass.OVERLOADED), failover_on=DEFAULT_FAILOVER_ON, committed=False)
    assert (without.penalise, without.cooldown_s) == (Effect.FAIL, None)


def test_a_conflict_is_not_held_against_the_upstream() -> None:
    for status, effect in ((409, Effect.NEUTRAL), (408, Effect.FAIL), (425, Effect.FAIL)):
        judged = judge(error(ErrorClass.RETRYABLE_4XX, status=status), failover_on=DEFAULT_FAILOVER_ON, committed=False)
        assert (judged.try_next, judged.penalise) == (True, effect)


def test_an_invalid_request_is_told_in_the_providers_words_on_one_line() -> None:
    told = client_error(
        error(ErrorClass.INVALID_REQUEST, "bad\nthing " + "x" * 400, status=422, code="bad_thing", param="messages[0]")
    )
    assert (told.status, told.type, told.code, told.param) == (422, "invalid_request_error", "bad_thing", "messages[0]")
    assert "\n" not in told.message
    assert len(told.message) == 300


def test_our_own_key_is_never_the_callers_401() -> None:
    told = client_error(error(ErrorClass.AUTH, "your key sk-fake is wrong", status=401))
    assert (told.status, told.code) == (502, "provider_auth")
    assert "sk-fake" not in told.message
    assert client_error(error(ErrorClass.INVALID_REQUEST, status=401)).status == 400


@pytest.mark.parametrize(
    ("classes", "status", "code"),
    [
        (["5xx", "4xx", "5xx"], 400, "invalid_request"),
        (["rate_limited", "rate_limited"], 429, "rate_limit_exceeded"),
        (["stale_retry", "rate_limited"], 429, "rate_limit_exceeded"),
        (["auth", "rate_limited"], 429, "rate_limit_exceeded"),
        (["insufficient_quota", "insufficient_quota"], 429, "insufficient_quota"),
        (["5xx", "rate_limited"], 502, "upstream_unavailable"),
        (["ttfb_timeout", "auth"], 504, "upstream_timeout"),
        (["5xx", "connect_timeout"], 504, "upstream_timeout"),
        (["config_error"], 502, "model_unavailable"),
        (["tls"], 502, "upstream_tls"),
        (["overloaded"], 503, "overloaded"),
        (["context_length"], 400, "context_length_exceeded"),
        (["policy"], 400, "content_policy"),
    ],
)
def test_which_of_several_faults_is_told(classes: list[str], status: int, code: str) -> None:
    errors = [error(ErrorClass(name)) for name in classes]
    told = client_error(errors[-1], earlier=errors[:-1])
    assert (told.status, told.code) == (status, code)


def test_the_shortest_wait_of_the_chain_is_told() -> None:
    told = client_error(
        error(ErrorClass.RATE_LIMITED, retry_after_s=60), earlier=[error(ErrorClass.RATE_LIMITED, retry_after_s=7)]
    )
    assert told.retry_after_s == 7


def test_stopping_and_our_own_faults_have_answers_of_their_own() -> None:
    assert isinstance(client_error(error(ErrorClass.DRAINED)), Draining)
    assert isinstance(client_error(error(ErrorClass.INTERNAL)), InternalError)
