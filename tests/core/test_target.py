"""A secret never shows itself by accident."""

import json
import logging
import pickle
from collections.abc import Callable

import orjson
import pytest

from proxy.core.target import Credential, Provider, Secret, Target

pytestmark = pytest.mark.unit

VALUE = "sk-fake-value-1234"

SHOWN: dict[str, Callable[[Secret], str]] = {
    "repr": repr,
    "str": str,
    "f-string": lambda s: f"{s}",
    "percent": lambda s: "%s %r" % (s, s),  # noqa: UP031 - the old way must be safe too
    "format": lambda s: "{:>30}".format(str(s)),  # noqa: UP032
    "in a credential": lambda s: repr(Credential("id", s)),
    "in a provider": lambda s: repr(Provider("p", "openai", "http://127.0.0.1", (Credential("id", s),), proxy_url=s)),
    "in a list": lambda s: str([s, {"a": s}]),
    "log record": lambda s: logging.LogRecord("n", 10, "p", 1, "%s", (s,), None).getMessage(),
    "fingerprint": lambda s: s.fingerprint(),
    "json default": lambda s: json.dumps({"a": s}, default=str),
    "orjson default": lambda s: orjson.dumps({"a": s}, default=str).decode(),
}


@pytest.mark.parametrize("show", SHOWN.values(), ids=SHOWN.keys())
def test_a_secret_never_shows(show: Callable[[Secret], str]) -> None:
    assert VALUE not in show(Secret(VALUE))


def test_json_refuses_a_secret_rather_than_show_it() -> None:
    with pytest.raises(TypeError):
        json.dumps(Secret(VALUE))
    with pytest.raises(TypeError):
        orjson.dumps(Secret(VALUE))


def test_reveal_is_the_way_in() -> None:
    assert Secret(VALUE).reveal() == VALUE
    assert pickle.loads(pickle.dumps(Secret(VALUE))).reveal() == VALUE


@pytest.mark.parametrize(("value", "tail"), [(VALUE, "…1234"), ("short-key12", "…"), ("x", "…")])
def test_the_tail_is_four_characters_at_most_and_none_of_a_short_secret(value: str, tail: str) -> None:
    assert Secret(value).tail() == tail


def test_an_empty_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        Secret("")


def test_secrets_compare_by_value_and_to_nothing_else() -> None:
    assert Secret("a-secret") == Secret("a-secret")
    assert hash(Secret("a-secret")) == hash(Secret("a-secret"))
    assert Secret("a-secret") != Secret("b-secret")
    assert Secret("a-secret") != "a-secret"
    assert Secret("a-secret").fingerprint() != Secret("b-secret").fingerprint()
    assert len(Secret("a-secret").fingerprint()) == 8


def test_a_target_is_named_by_provider_and_model_and_a_provider_knows_whether_it_is_on() -> None:
    provider = Provider("p", "openai", "http://127.0.0.1", ())
    assert Target(provider, "org/model", "m").name == "p/org/model"
    assert provider.enabled
    assert not Provider("p", "openai", "http://127.0.0.1", (), disabled="no key: set P_KEY").enabled
