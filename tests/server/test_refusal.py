"""The answer for which nothing is made anew but the id says what the error of the same name says."""

import orjson
import pytest

from proxy.dialects.openai_request import error_object
from proxy.engine.answers import error_headers
from proxy.server.refusal import RETRY_AFTER_S, Refusal, no_room

pytestmark = pytest.mark.unit


def test_it_is_what_the_error_would_be_rendered_to() -> None:
    dates = [[(b"date", b"Sun, 22 Nov 2026 02:19:32 GMT")], [(b"date", b"Sun, 22 Nov 2026 02:19:33 GMT")]]
    refusal, error = Refusal(), no_room()
    for default_headers in (dates[0], dates[0], dates[1]):
        head, _, body = refusal.answer("01ARZ3NDEKTSV4RRFFQ69G5FAV", default_headers).partition(b"\r\n\r\n")
        status, *lines = head.split(b"\r\n")
        assert status == b"HTTP/1.1 503 Service Unavailable"
        expected = [*error_headers("01ARZ3NDEKTSV4RRFFQ69G5FAV", error), *default_headers]
        assert lines == [*map(b": ".join, expected), b"content-length: %d" % len(body)]
        assert orjson.loads(body) == error_object(error)
        assert (b"retry-after", b"%d" % RETRY_AFTER_S) in expected
