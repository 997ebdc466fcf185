"""What a request asks for and what is known of a target, before anything is decided."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from proxy.core.chat import ChatRequest
from proxy.core.target import Credential, Provider, Secret, Target
from proxy.core.wishes import NO_WISHES, Wishes
from proxy.routing.choice import UNKNOWN_WORD, Facts, facts_of, first_token, heard, listed, ruled_out, sticky_of, told
from proxy.routing.deployment import Deployment, Deployments

pytestmark = pytest.mark.unit


def target(name: str = "a", *, region: str | None = None, location: str | None = None, **rest: Any) -> Target:
    key = Credential(name, Secret("fake"))
    return Target(Provider(name, "openai", "http://127.0.0.1", (key,), region=region, location=location), "m", "m", **rest)


def deployment(of: Target) -> Deployment:
    return Deployments(lambda: 0.5).get(of, of.provider.credentials[0])


CODER = target(capabilities=frozenset(("tools", "code-generation")), region="eu-west-1")


@pytest.mark.parametrize(
    ("one", "wishes", "cost_nusd", "first_ms", "reason"),
    [
        (CODER, Wishes(), None, None, None),
        (CODER, Wishes(exclude=frozenset(("a",))), None, None, "excluded by the request"),
        (CODER, Wishes(exclude=frozenset(("a/m",))), None, None, "excluded by the request"),
        (CODER, Wishes(exclude=frozenset(("a/n", "b"))), None, None, None),
        (CODER, Wishes(require=frozenset(("code-generation", "region:eu"))), None, None, None),
        (CODER, Wishes(require=frozenset(("region:EU-West-1",))), None, None, None),
        (CODER, Wishes(require=frozenset(("region:eu-west",))), None, None, None),
        (CODER, Wishes(require=frozenset(("region:e",))), None, None, "lacks region:e"),
        (CODER, Wishes(require=frozenset(("region:us", "analysis"))), None, None, "lacks analysis, region:us"),
        (target(location="europe-west1"), Wishes(require=frozenset(("region:europe",))), None, None, None),
        (target(), Wishes(require=frozenset(("region:eu",))), None, None, "lacks region:eu"),
        (target(), Wishes(require=frozenset(("analysis",))), None, None, "lacks analysis"),
        (target(), Wishes(max_cost_nusd=20_000_000), 20_000_000, None, None),
        (target(), Wishes(max_cost_nusd=20_000_000), 40_000_000, None, "expected to cost $0.04, more than $0.02"),
        (target(), Wishes(max_cost_nusd=20_000_000), None, None, "no price known, and at most $0.02 is wished"),
        (target(), Wishes(max_cost_nusd=0), 0, None, None),
        (target(), Wishes(max_latency_s=0.8), None, 800.0, None),
        (target(), Wishes(max_latency_s=0.8), None, 1_200.0, "expected first token 1.2 s, more than 800 ms"),
        (target(), Wishes(max_latency_s=0.8), None, None, None),  # nobody would ever know it, were it ruled out
    ],
)
def test_what_rules_a_target_out(
    one: Target, wishes: Wishes, cost_nusd: int | None, first_ms: float | None, reason: str | None
) -> None:
    assert ruled_out(one, Facts(wishes=wishes, expected_cost_nusd=lambda _: cost_nusd), first_ms) == reason


def test_a_refusal_of_its_own_is_told_as_it_is() -> None:
    assert ruled_out(target(), Facts(refusal=lambda one: f"refuses {one.upstream_model}"), None) == "refuses m"


def test_a_callers_own_words_go_no_further() -> None:
    targets = [CODER, target("b")]
    wishes = Wishes(
        prefer="my prompt", exclude=frozenset(("b", "secrets")), require=frozenset(("vision", "region:eu", "my password"))
    )
    assert heard(wishes, targets) == replace(
        wishes, prefer=None, exclude=frozenset("b"), require=frozenset(("vision", "region:eu", UNKNOWN_WORD))
    )
    assert heard(Wishes(prefer="a/m"), targets).prefer == "a/m"
    assert ruled_out(CODER, Facts(wishes=heard(Wishes(require=frozenset("x")), targets)), None) == f"lacks {UNKNOWN_WORD}"


@pytest.mark.parametrize(
    "facts",
    [
        Facts(turn=0),
        Facts(frozenset(("tools", "vision")), NO_WISHES, 12, 1_024, "0f", 77, 3),
        Facts(wishes=Wishes("groq", frozenset("ab"), frozenset(("region:eu",)), 20_000_001, 0.8, "high"), turn=0),
        Facts(wishes=Wishes(max_cost_nusd=0), turn=0),
    ],
)
def test_facts_can_be_written_down_and_read_back(facts: Facts) -> None:
    assert facts_of(told(facts)) == facts


def test_what_was_not_asked_is_not_written_down() -> None:
    assert told(Facts(input_tokens=5)) == {"tokens": 5}
    assert told(Facts(wishes=Wishes(cache="on"))) == {}


@pytest.mark.parametrize(
    ("capabilities", "known"),
    [(None, None), (("analysis",), None), (("tools", "analysis"), {"tools", "analysis"}), ((), set())],
)
def test_a_list_of_what_it_is_good_at_says_nothing_of_features(
    capabilities: tuple[str, ...] | None, known: set[str] | None
) -> None:
    one = target(capabilities=None if capabilities is None else frozenset(capabilities))
    assert listed(one) == known


def test_what_is_known_of_the_first_token_goes_before_what_is_declared() -> None:
    told_ = deployment(target(expected_first_token_s=0.3))
    assert first_token(told_.target, [told_]) == (300.0, "declared")
    told_.keep_standing()
    assert told_.standing is not None
    for _ in range(5):
        told_.standing.note_first_token(0.0, 0.1234)
    assert first_token(told_.target, [told_]) == (123.4, "recent")
    silent = deployment(target())
    assert first_token(silent.target, [silent]) == (None, None)
    permit = silent.acquire(0.0)
    assert permit is not None
    permit.first_content(2.0)
    assert first_token(silent.target, [silent]) == (2_000.0, "mean")


# -- sessions


def request(**body: Any) -> ChatRequest:
    return ChatRequest("openai", body, "smart", False, False, 100)


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"user": "u1", "messages": [user("a")]}, {"user": "u1", "messages": [user("b")]}, True),
        ({"user": "u1"}, {"user": "u2"}, False),
        ({"prompt_cache_key": "k", "user": "u1"}, {"prompt_cache_key": "k", "user": "u2"}, True),
        ({"metadata": {"session_id": "s"}, "user": "u1"}, {"metadata": {"session_id": "s"}, "user": "u2"}, True),
        ({"safety_identifier": "x", "user": "u1"}, {"safety_identifier": "x"}, True),
        ({"user": 7, "messages": [user("a")]}, {"messages": [user("a")]}, True),
        # a conversation that goes on begins as it did
        ({"messages": [SYSTEM, user("Hi")]}, {"messages": [SYSTEM, user("Hi"), {"role": "assistant"}, user("And?")]}, True),
        ({"messages": [SYSTEM, user("Hi")]}, {"messages": [SYSTEM, user("Ho")]}, False),
        ({"messages": [user([{"type": "text", "text": "Hi"}, {"type": "image_url"}])]}, {"messages": [user("Hi")]}, True),
        ({"messages": "nonsense"}, {"messages": [None, {"content": 3}]}, True),
        ({"input": "a"}, {"input": "b"}, True),  # embeddings: by who asks
    ],
)
def test_whose_conversation_it_is(one: dict[str, Any], other: dict[str, Any], same: bool) -> None:
    assert (sticky_of(request(**one), "client") == sticky_of(request(**other), "client")) is same


def test_the_same_name_is_somebody_else_with_another_client_and_is_never_shown() -> None:
    one, other = sticky_of(request(user="u1"), "a"), sticky_of(request(user="u1"), "b")
    assert one != other
    assert len(one) == 16
    assert "u1" not in one
    assert sticky_of(request(user="\ud800"), None)
