"""The headers of an answer: nothing that a caller or an upstream sent can add one."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.config.settings import ClientSettings
from proxy.core.chat import ChatRequest, Tags
from proxy.core.errors import (
    AllProvidersUnavailable,
    BudgetExceeded,
    ChainSpent,
    Draining,
    InternalError,
    InvalidJson,
    LedgerUnavailable,
    ModelNotFound,
    Overloaded,
    ProxyError,
)
from proxy.core.redact import MASK, Redactor
from proxy.engine.answers import error_headers, header_value
from proxy.server.gateway import tags_of

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("gpt-4o", b"gpt-4o"),
        ("org/model with blanks", b"org/model with blanks"),
        ("modèle", b"mod?le"),
        ("a\r\nx-injected: 1", b"a??x-injected: 1"),
        ("a\x00b\x7fc", b"a?b?c"),
        ("\u202e", b"?"),
        ("", b""),
    ],
)
def test_a_text_as_a_header_value(text: str, value: bytes) -> None:
    assert header_value(text) == value


@settings(deadline=None)
@given(st.text())
def test_no_text_ends_a_header(text: str) -> None:
    value = header_value(text)
    assert all(32 <= byte < 127 for byte in value)


def spent(retry_after_s: float | None = None) -> ChainSpent:
    return ChainSpent("m", status=502, type_="upstream_error", code="upstream_unavailable", retry_after_s=retry_after_s)


@pytest.mark.parametrize(
    ("error", "should_retry"),
    [
        (spent(), b"false"),
        (AllProvidersUnavailable("m"), b"false"),
        (LedgerUnavailable("m"), b"false"),
        (InternalError("m"), b"false"),
        (BudgetExceeded("m"), b"false"),
        (Overloaded("m"), None),  # another try a moment later is just what is wanted
        (Draining("m"), None),
        (InvalidJson("m"), None),
        (ModelNotFound("m"), None),
    ],
)
def test_sdks_are_told_not_to_repeat_what_the_chain_has_tried(error: ProxyError, should_retry: bytes | None) -> None:
    headers = dict(error_headers("ID", error))
    assert headers.get(b"x-should-retry") == should_retry
    assert headers[b"x-request-id"] == b"ID"
    assert headers[b"content-type"] == b"application/json"
    assert b"x-tollbridge-attempts" not in headers


@pytest.mark.parametrize(
    ("seconds", "value"), [(None, None), (0.0, b"1"), (0.25, b"1"), (1.0, b"1"), (1.01, b"2"), (300.0, b"300")]
)
def test_a_wait_is_in_whole_seconds_rounded_up_and_never_nothing(seconds: float | None, value: bytes | None) -> None:
    assert dict(error_headers("ID", spent(seconds), attempts=2)).get(b"retry-after") == value


def test_how_many_attempts_were_made_is_said_also_when_none_was() -> None:
    assert dict(error_headers("ID", spent(), attempts=0))[b"x-tollbridge-attempts"] == b"0"


def request(tags: Tags) -> ChatRequest:
    return ChatRequest("openai", {}, "m", stream=False, include_usage=False, body_bytes=2, tags=tags)


def test_a_clients_stanza_wins_over_a_header_and_a_header_over_metadata() -> None:
    headers = {b"x-tollbridge-department": b"h-dep", b"x-tollbridge-agent": b"h-agent", b"x-tollbridge-task": b"h-task"}
    client = ClientSettings("c", frozenset(), department="c-dep")
    tags = tags_of(request(Tags("m-dep", "m-agent", "m-task", "m-id")), headers, client)
    assert tags == Tags("c-dep", "h-agent", "h-task", "m-id")
    assert tags_of(request(Tags()), {b"x-tollbridge-task-id": b"h-id"}, None) == Tags(task_id="h-id")


def test_a_key_where_a_tag_belongs_is_none() -> None:
    clean = Redactor(["loaded-secret-fake"]).exact
    headers = {b"x-tollbridge-agent": b"of loaded-secret-fake", b"x-tollbridge-task": b"h-task"}
    client = ClientSettings("c", frozenset(), agent=None, department="c-dep")
    tags = tags_of(request(Tags("m-dep", None, None, "loaded-secret-fake")), headers, client, clean=clean)
    assert tags == Tags("c-dep", f"of {MASK}", "h-task", MASK)


@pytest.mark.parametrize("value", [b"", b"a\tb", "a\u202eb".encode(), b"x" * 129])
def test_a_header_that_is_no_tag_changes_nothing(value: bytes) -> None:
    assert tags_of(request(Tags(task="m-task")), {b"x-tollbridge-task": value}, None).task == "m-task"
