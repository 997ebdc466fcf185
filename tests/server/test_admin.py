"""Limits as people write them."""

import pytest

from proxy.core.errors import InvalidValue
from proxy.server.admin import limit_of

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "limit"), [(None, 100), ("", 100), ("1", 1), ("1000", 1000), ("1001", 1000), ("0", 1), ("-5", 1), ("9" * 100, 1000)]
)
def test_the_limit_is_clamped(text: str | None, limit: int) -> None:
    assert limit_of(text) == limit


@pytest.mark.parametrize("text", ["ten", "1.5", "9" * 5000, " "])
def test_a_limit_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue) as refused:
        limit_of(text)
    assert refused.value.param == "limit"
