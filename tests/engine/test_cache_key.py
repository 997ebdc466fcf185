"""When two requests ask the same: what may differ, what may not, and what of the configuration counts."""

from __future__ import annotations

from dataclasses import fields, replace
from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.chat import ChatRequest
from proxy.core.limits import Budget, HealthSettings, Quota, RateLimits
from proxy.core.target import (
    CacheSettings,
    Chain,
    CircuitSettings,
    Credential,
    HedgeSettings,
    Price,
    Provider,
    QualitySettings,
    Quirks,
    Secret,
    Target,
    Timeouts,
    Weights,
)
from proxy.dialects.openai_embeddings import OpenAIEmbeddingsInbound
from proxy.dialects.openai_request import OpenAIChatInbound
from proxy.engine.cache_key import NO_MEANING, asked, identity, is_worth_keeping, key_of

BODY: dict[str, Any] = {
    "model": "smart",
    "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
    "temperature": 0,
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {}, "b": {}}}}}],
}


def request(**body: Any) -> ChatRequest:
    return OpenAIChatInbound().decode_request(orjson.dumps({**BODY, **body}))


SAME: dict[str, dict[str, Any]] = {
    "another name for the same chain's target": {"model": "other"},
    "whom it is for": {"user": "u", "safety_identifier": "s"},
    "notes": {"metadata": {"a": "b"}, "store": False},
    "where its prefix is cached": {"prompt_cache_key": "k", "prompt_cache_retention": "24h"},
    "nothing, said aloud": {"top_p": None, "stream": None, "stream_options": None},
    "another way to write a number": {"temperature": 0.0},
    "no stream, in so many words": {"stream": False, "stream_options": {"include_usage": True}},
    "the order of a message's keys": {"messages": [{"content": [{"text": "Hi", "type": "text"}], "role": "user"}]},
}
OTHER: dict[str, dict[str, Any]] = {
    "another word": {"messages": [{"role": "user", "content": "Hi!"}]},
    "another shape of the same word": {"messages": [{"role": "user", "content": "Hi"}]},
    "another role": {"messages": [{"role": "system", "content": "Hi"}]},
    "one message more": {"messages": [*BODY["messages"], {"role": "user", "content": "Hi"}]},
    "another temperature": {"temperature": 1},
    "a limit": {"max_tokens": 10},
    "a seed": {"seed": 0},
    "a stop": {"stop": ["x"]},
    "a stop of another shape": {"stop": "x"},
    "a form": {"response_format": {"type": "json_object"}},
    "the order of a schema's properties": {
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"b": {}, "a": {}}}}}]
    },
    "no tools": {"tools": None},
    "another service tier": {"service_tier": "flex"},
    "a field that nobody knows": {"guided_choice": ["a"]},
    "a stream": {"stream": True},
    "a stream with usage": {"stream": True, "stream_options": {"include_usage": True}},
    "a stream without padding": {"stream": True, "stream_options": {"include_obfuscation": False}},
    "true for a number": {"top_p": True},
    "one": {"top_p": 1},
}


@pytest.mark.unit
@pytest.mark.parametrize("changes", SAME.values(), ids=SAME)
def test_it_asks_the_same(changes: dict[str, Any]) -> None:
    assert asked(request(**changes)) == asked(request())


@pytest.mark.unit
def test_every_other_difference_is_one() -> None:
    digests = {name: asked(request(**changes)) for name, changes in OTHER.items()} | {"nothing": asked(request())}
    assert len(set(digests.values())) == len(OTHER) + 1


@pytest.mark.unit
def test_the_order_of_keys_does_not_matter_at_the_top() -> None:
    turned = OpenAIChatInbound().decode_request(orjson.dumps(dict(reversed(BODY.items()))))
    assert asked(turned) == asked(request())


@pytest.mark.unit
def test_embeddings_are_asked_apart() -> None:
    decode = OpenAIEmbeddingsInbound().decode_request
    bodies = [{"model": "m", "input": "Hi"}, {"model": "m", "input": ["Hi"]}, {"model": "m", "input": "Hi", "dimensions": 5}]
    digests = {asked(decode(orjson.dumps(body))) for body in bodies}
    assert len(digests) == 3
    assert asked(decode(orjson.dumps({"user": "u", "input": "Hi", "model": "n"}))) in digests


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.property
@settings(max_examples=40, deadline=None)
@given(
    extra=st.dictionaries(st.text(min_size=1).filter(lambda name: name not in BODY), VALUES, max_size=4),
    noise=st.dictionaries(st.sampled_from(sorted(NO_MEANING - {"model", "stream", "stream_options"})), VALUES, max_size=3),
)
def test_whatever_is_asked_has_one_digest_and_another_with_anything_else(extra: dict[str, Any], noise: dict[str, Any]) -> None:
    def plain(body: dict[str, Any]) -> ChatRequest:
        return ChatRequest("openai", body, "smart", False, False, 0)

    body = orjson.loads(orjson.dumps({**BODY, **{name: value for name, value in extra.items() if name not in NO_MEANING}}))
    digest = asked(plain(body))
    assert asked(plain({**dict(reversed(body.items())), **noise})) == digest
    for name in extra:
        if body.get(name) is not None:
            assert asked(plain({key: value for key, value in body.items() if key != name})) != digest
            assert asked(plain({**body, name: [body[name]]})) != digest


# -- the configuration

PROVIDER = Provider("a", "openai", "http://a/v1", (Credential("k1", Secret("fake-key")),))
TARGET = Target(PROVIDER, "m", "m")
CHAIN = Chain("smart", (TARGET,))
# every field that there is, changed: a new one must be looked at, and put into one of the two
PROVIDER_COUNTS: dict[str, Any] = {
    "name": "b",
    "dialect": "anthropic",
    "base_url": "http://b",
    "credentials": (Credential("k2", Secret("another")),),
    "auth_header": "x-key",
    "auth_prefix": "",
    "headers": {"x": "y"},
    "api_version": "2",
    "quirks": Quirks(drop=frozenset(["seed"])),
    "lacks": frozenset(["tools"]),
    "region": "eu",
    "project": "p",
    "location": "l",
    "signs": True,
}
PROVIDER_DOES_NOT: dict[str, Any] = {
    "transport": "httpx",
    "proxy_url": Secret("http://user:pw@p:1"),
    "ca_file": "/ca",
    "model_list_path": "/m",
    "check_url": "http://c",
    "price_source": "openai",
    "limits": RateLimits(rpm=1),
    "budget": Budget(1, "day"),
    "quotas": (Quota("requests", 1, "day"),),
    "health": HealthSettings(interval_s=1.0),
    "disabled": "no key",
    "drain_on_disconnect": True,
}
TARGET_COUNTS: dict[str, Any] = {
    "upstream_model": "n",
    "context": 10,
    "max_output": 10,
    "capabilities": frozenset(["tools"]),
    "lacks": frozenset(["tools"]),
    "quirks": Quirks(rename={"a": "b"}),
    "reasoning": True,
    "answer": "canned",
}
TARGET_DOES_NOT: dict[str, Any] = {
    "label": "other",
    "timeouts": Timeouts(total_s=1.0),
    "circuit": CircuitSettings(failures=1),
    "retries": 5,
    "price": Price(Decimal(1), Decimal(1)),
    "limits": RateLimits(rpm=1),
    "disabled": "by hand",
    "weight": 2.0,
    "quality": 50.0,
    "expected_first_token_s": 1.0,
}
CHAIN_COUNTS: dict[str, Any] = {"name": "other", "strict": True, "quality": QualitySettings(0.5)}
CHAIN_DOES_NOT: dict[str, Any] = {
    "targets": (TARGET, TARGET),
    "failover_on": frozenset(["429"]),
    "on_break": "continue",
    "direct": True,
    "strategy": "score",
    "weights": Weights(cost=1.0),
    "cache": CacheSettings(ttl_s=1.0),
    "hedge": HedgeSettings(),
}


@pytest.mark.unit
def test_every_field_of_the_configuration_is_looked_at() -> None:
    assert {f.name for f in fields(Provider)} == PROVIDER_COUNTS.keys() | PROVIDER_DOES_NOT.keys()
    assert {f.name for f in fields(Target)} == TARGET_COUNTS.keys() | TARGET_DOES_NOT.keys() | {"provider"}
    assert {f.name for f in fields(Chain)} == CHAIN_COUNTS.keys() | CHAIN_DOES_NOT.keys()


@pytest.mark.unit
def test_what_changes_an_answer_changes_its_key_and_nothing_else_does() -> None:
    before = identity(CHAIN, TARGET)

    def of_provider(name: str, value: Any) -> str:
        return identity(CHAIN, replace(TARGET, provider=replace(PROVIDER, **{name: value})))

    changed = {f"provider.{name}": of_provider(name, value) for name, value in PROVIDER_COUNTS.items()}
    changed |= {f"target.{name}": identity(CHAIN, replace(TARGET, **{name: value})) for name, value in TARGET_COUNTS.items()}
    changed |= {f"chain.{name}": identity(replace(CHAIN, **{name: value}), TARGET) for name, value in CHAIN_COUNTS.items()}
    assert len({before, *changed.values()}) == len(changed) + 1
    same = {f"provider.{name}": of_provider(name, value) for name, value in PROVIDER_DOES_NOT.items()}
    same |= {f"target.{name}": identity(CHAIN, replace(TARGET, **{name: value})) for name, value in TARGET_DOES_NOT.items()}
    same |= {f"chain.{name}": identity(replace(CHAIN, **{name: value}), TARGET) for name, value in CHAIN_DOES_NOT.items()}
    assert {name for name, found in same.items() if found != before} == set()


@pytest.mark.unit
def test_the_key_of_everybody_is_nobodys_and_the_key_of_nobody_is_no_clients() -> None:
    owners: list[str | None] = [None, "", "*", "=", "ann", "ann\0k1"]
    assert len({key_of(b"q" * 20, "0123456789ab", owner) for owner in owners}) == len(owners)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("finish_reason", "body", "kept"),
    [
        ("stop", {}, True),
        ("tool_calls", {}, True),
        ("function_call", {}, True),
        ("length", {}, False),
        ("length", {"max_tokens": 5}, True),
        ("length", {"max_completion_tokens": 5}, True),
        ("content_filter", {}, False),
        ("something_else", {}, False),
        (None, {}, False),
    ],
)
def test_an_answer_is_worth_keeping_if_it_ended_as_it_was_asked_to(
    finish_reason: str | None, body: dict[str, Any], kept: bool
) -> None:
    assert is_worth_keeping(request(**body), finish_reason) is kept
