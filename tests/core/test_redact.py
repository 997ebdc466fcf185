"""Secrets never leave: not the loaded ones, nor what looks like one."""

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.redact import MASK, Redactor, one_line

pytestmark = pytest.mark.unit


def test_loaded_secrets_are_taken_out_wherever_they_stand() -> None:
    redact = Redactor(["hunter2-secret", "other-secret"])
    assert redact("key hunter2-secret, again hunter2-secret; other-secret!") == f"key {MASK}, again {MASK}; {MASK}!"
    assert redact.hits == 3


def test_the_longer_of_two_nested_secrets_goes_first() -> None:
    assert Redactor(["secret", "secret-and-more"])("secret-and-more") == MASK


def test_a_secret_is_taken_literally() -> None:
    redact = Redactor(["a.c+e(f"])
    assert redact("a.c+e(f") == MASK
    assert redact("abc+e(f") == "abc+e(f"


def test_a_secret_too_short_to_tell_from_a_word_is_left() -> None:
    assert Redactor(["demo"])("the demo provider") == "the demo provider"


@pytest.mark.parametrize(
    "text",
    [
        "Incorrect API key provided: sk-abcd1234efgh.",
        "Incorrect API key provided: sk-proj-********wxyz.",
        "gsk_abcdefgh1234 is wrong",
        "token hf_abcdefghijkl",
        "AIza" + "b" * 24,
        "Authorization: Bearer abcdef.ghijkl",
        "bearer   abcdefghijkl",
        "eyJhbGciOiJIUzI1.eyJzdWIi.c2ln",
        "aws AKIAABCDEFGHIJKLMNOP",
        "in organization org-abcdefgh1234 on tokens",
    ],
)
def test_what_looks_like_a_key_is_taken_out(text: str) -> None:
    redact = Redactor()
    assert MASK in redact(text)
    assert redact.hits == 1


@pytest.mark.parametrize(
    "text", ["the model gpt-4o-mini does not exist", "a task-oriented risk-averse desk", "max_tokens is too large: 99999"]
)
def test_ordinary_text_stays(text: str) -> None:
    redact = Redactor(["hunter2-secret"])
    assert redact(text) == text
    assert redact.hits == 0


@settings(deadline=None)
@given(st.text(), st.text(min_size=6, max_size=40), st.text())
def test_no_loaded_secret_survives(before: str, secret: str, after: str) -> None:
    assert secret in MASK * 3 or secret not in Redactor([secret])(before + "\n" + secret + "\n" + after)


@settings(deadline=None)
@given(st.text(max_size=40), st.lists(st.text(min_size=6, max_size=40), max_size=4), st.text(max_size=40), st.booleans())
def test_a_name_changes_if_and_only_if_it_holds_a_loaded_secret(before: str, secrets: list[str], after: str, holds: bool) -> None:
    name = before + (secrets[0] if secrets and holds else "") + after
    assert (Redactor(secrets).exact(name) != name) == any(secret in name for secret in secrets)


KEY_FILE = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0B\nAQEFAASCBKcwggSjAgEAAoIB\nshort\n-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("cannot read MIIEvQIBADANBgkqhkiG9w0B", "cannot read ***"),
        ("AQEFAASCBKcwggSjAgEAAoIB\r\nMIIEvQIBADANBgkqhkiG9w0B", "***\r\n***"),
        (orjson.dumps({"key": KEY_FILE}).decode(), '{"key":"***"}'),
        ("-----BEGIN PRIVATE KEY----- is missing", "-----BEGIN PRIVATE KEY----- is missing"),
        ("a short word", "a short word"),
    ],
)
def test_a_secret_of_several_lines_is_taken_out_line_by_line(text: str, clean: str) -> None:
    assert Redactor([KEY_FILE])(text) == clean


def test_a_secret_is_known_as_json_writes_it() -> None:
    secret = 'pass"word\\with/marks'
    assert Redactor([secret])(orjson.dumps({"said": secret}).decode()) == '{"said":"***"}'


@pytest.mark.parametrize("name", ["fw-mixtral-8x7b-instruct", "hf-internal-testing", "hunter2", ""])
def test_a_name_that_looks_like_a_key_and_is_none_stays(name: str) -> None:
    assert Redactor(["hunter2-secret"]).exact(name) == name


@pytest.mark.parametrize("secrets", [[], ["hunter2-secret"]])
def test_a_runtime_key_is_no_name_though_nobody_holds_its_secret(secrets: list[str]) -> None:
    redact = Redactor(secrets)
    assert redact.exact("mock/tb_3kTMd9CzvBnU5cPYwQ1sJrXe8ZgFhLoA2iVbN7xKmyR0fEu") == f"mock/{MASK}"
    assert redact.exact("tb_llama_3_70b_instruct") == "tb_llama_3_70b_instruct"
    assert redact.hits == 1


def test_one_line_is_one_line_of_bounded_length_without_direction_changes() -> None:
    assert one_line("a\r\nb\tc\x00d\u202ee\u2028f") == "a b c d e f"
    assert one_line("x" * 1000) == "x" * 300
    assert one_line("x" * 1000, 5) == "xxxxx"
    assert one_line("") == ""
