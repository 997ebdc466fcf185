"""The errors that a caller can see: each class states its own status, type and code."""

from collections.abc import Iterator

import orjson
import pytest

from proxy.core.errors import CallerError, ChainSpent, ErrorClass, ProxyError, RateLimitExceeded, UpstreamError
from proxy.dialects.openai_request import error_object

pytestmark = pytest.mark.unit


def kinds(of: type[ProxyError] = ProxyError) -> Iterator[type[ProxyError]]:
    for kind in of.__subclasses__():
        yield kind
        yield from kinds(kind)


FIXED = [kind for kind in kinds() if kind is not ChainSpent]


@pytest.mark.parametrize("kind", FIXED, ids=lambda kind: kind.__name__)
def test_every_error_has_a_status_a_type_and_a_code_of_its_own(kind: type[ProxyError]) -> None:
    error = kind("what is wrong")
    assert 400 <= error.status < 600
    assert error.type
    assert error.code == error.code.lower()
    assert error_object(error) == {"error": {"message": "what is wrong", "type": error.type, "param": None, "code": error.code}}


@pytest.mark.parametrize("kind", [k for k in FIXED if issubclass(k, CallerError)], ids=lambda kind: kind.__name__)
def test_the_callers_mistakes_are_4xx_and_never_retryable(kind: type[ProxyError]) -> None:
    assert 400 <= kind.status < 500
    assert kind.retryable is (kind is RateLimitExceeded)  # which is over in a moment


@pytest.mark.parametrize("kind", [k for k in FIXED if not issubclass(k, CallerError)], ids=lambda kind: kind.__name__)
def test_everything_else_is_5xx(kind: type[ProxyError]) -> None:
    assert kind.status >= 500


def test_codes_tell_the_classes_apart() -> None:
    codes = [kind.code for kind in FIXED if kind is not CallerError and kind.__name__ != "InternalError"]
    assert len(codes) == len(set(codes))


def test_a_spent_chain_carries_the_last_word_and_leaves_the_class_alone() -> None:
    error = ChainSpent("none left", status=429, type_="rate_limit_error", code="rate_limit_exceeded", retry_after_s=1.5)
    assert (error.status, error.type, error.code, error.retry_after_s) == (429, "rate_limit_error", "rate_limit_exceeded", 1.5)
    assert ChainSpent.status == ProxyError.status


def test_error_classes_are_fit_to_be_labels() -> None:
    for error_class in ErrorClass:
        assert error_class.value.isascii()
        assert error_class.value.replace("_", "").isalnum()
        assert orjson.loads(orjson.dumps(error_class)) == error_class.value


def test_an_upstream_error_says_what_is_known_and_no_more() -> None:
    error = UpstreamError(ErrorClass.DNS, "no such host", sent=False)
    assert (error.status, error.code, error.param, error.retry_after_s, error.body_delay, error.sent) == (
        None,
        None,
        None,
        None,
        None,
        False,
    )
    assert str(error) == error.message == "no such host"
