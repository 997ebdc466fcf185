"""Usage objects, as real providers fill them in and as no provider should."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.accounting.usage import (
    MAX_TOKENS,
    UNSEEN_TOKENS,
    estimate_input,
    estimate_output,
    refers_outside,
    suspect,
    usage_from_openai,
)
from proxy.core.target import Quirks
from proxy.core.usage import Usage, UsageSource

pytestmark = pytest.mark.unit

CORPUS = Path(__file__).parents[3] / "shared" / "corpus"
PLAIN = Quirks()
XAI = Quirks(reasoning_excluded=True)


def read(obj: dict[str, Any], quirks: Quirks = PLAIN) -> Usage:
    usage = usage_from_openai(obj, quirks)
    assert usage is not None
    return usage


def totals(**more: Any) -> dict[str, Any]:
    return {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 999, **more}


# -- The map -------------------------------------------------------------------------------------------------------------------


def test_openai_in_full() -> None:
    usage = read(
        totals(
            prompt_tokens_details={"cached_tokens": 64, "audio_tokens": 8},
            completion_tokens_details={"reasoning_tokens": 30, "audio_tokens": 5, "accepted_prediction_tokens": 1},
        )
    )
    assert usage == Usage(100, 50, 64, 0, 30, 8, 5, UsageSource.PROVIDER, None)


@pytest.mark.parametrize(
    "more",
    [
        {"prompt_tokens_details": {"cached_tokens": 64}},
        {"cached_tokens": 64},
        {"prompt_cache_hit_tokens": 64, "prompt_cache_miss_tokens": 36},
        {"num_cached_tokens": 64},
        {"num_cached_tokens": 64, "prompt_tokens_details": {"cached_tokens": 64}},
        {"prompt_tokens_details": None, "cached_tokens": 64},
    ],
    ids=["openai", "together and moonshot", "deepseek", "mistral", "mistral twice", "null details"],
)
def test_every_name_of_cache_reads(more: dict[str, Any]) -> None:
    assert read(totals(**more)).cached_input_tokens == 64


@pytest.mark.parametrize(
    "more",
    [
        {"prompt_tokens_details": {"cache_write_tokens": 32}},
        {"prompt_tokens_details": {"cache_creation_tokens": 32}},
        {"cache_creation_input_tokens": 32},
    ],
)
def test_every_name_of_cache_writes(more: dict[str, Any]) -> None:
    assert read(totals(**more)).cache_write_tokens == 32


def test_xai_leaves_reasoning_out_of_the_completion() -> None:
    obj = {"prompt_tokens": 165, "completion_tokens": 200, "completion_tokens_details": {"reasoning_tokens": 129}}
    assert read(obj, XAI).output_tokens == 329
    assert read(obj).output_tokens == 200


def test_reasoning_larger_than_the_completion_was_left_out_of_it() -> None:
    assert (
        read({"prompt_tokens": 28, "completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 61}}).output_tokens
        == 70
    )


def test_responses_names_are_read_where_chat_names_are_missing() -> None:
    obj = {
        "input_tokens": 1750,
        "input_tokens_details": {"cached_tokens": 8},
        "output_tokens": 400,
        "output_tokens_details": {"reasoning_tokens": 192},
    }
    assert read(obj) == Usage(1750, 400, 8, 0, 192)


def test_embeddings_have_no_completion() -> None:
    assert read({"prompt_tokens": 8, "total_tokens": 8}) == Usage(8, 0)


@pytest.mark.parametrize("value", [-1, 1.5, True, "many", "-3", [], {}, float("nan"), float("inf"), MAX_TOKENS + 1, "9" * 13])
@pytest.mark.parametrize("name", ["prompt_tokens", "completion_tokens"])
def test_a_total_that_is_wrong_is_no_usage(name: str, value: Any) -> None:
    assert usage_from_openai({**totals(), name: value}, PLAIN) is None


@pytest.mark.parametrize("obj", [{}, {"total_tokens": 7}, {"prompt_tokens": None, "completion_tokens": None}])
def test_no_totals_are_no_usage(obj: dict[str, Any]) -> None:
    assert usage_from_openai(obj, PLAIN) is None


def test_totals_may_be_floats_or_strings() -> None:
    assert read({"prompt_tokens": 12.0, "completion_tokens": "7"}) == Usage(12, 7)


def test_a_subset_is_never_larger_than_its_whole() -> None:
    """Azure's Grok reports 161 cached of 24 prompt tokens."""
    usage = read(
        {"prompt_tokens": 24, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 161, "cache_write_tokens": 9}}
    )
    assert (usage.cached_input_tokens, usage.cache_write_tokens) == (24, 0)


@pytest.mark.parametrize("value", [None, -5, "x", [], {"a": 1}, 1.5, False])
def test_a_subset_that_makes_no_sense_is_nothing(value: Any) -> None:
    details = {"cached_tokens": value, "audio_tokens": value, "cache_write_tokens": value, "reasoning_tokens": value}
    assert read(totals(prompt_tokens_details=details, completion_tokens_details=details)) == Usage(100, 50)


@pytest.mark.parametrize("details", [None, [], "x", 5])
def test_details_that_are_no_object_are_nothing(details: Any) -> None:
    assert read(totals(prompt_tokens_details=details, completion_tokens_details=details)) == Usage(100, 50)


@pytest.mark.parametrize(
    ("more", "nusd"),
    [
        ({"cost": 0.000231}, 231_000),
        ({"cost": 1e-09}, 1),
        ({"cost": 0}, 0),
        ({"cost": 2}, 2_000_000_000),
        ({"cost": "0.5"}, 500_000_000),
        ({"cost": {"input_tokens_cost": 2e-05, "total_cost": 0.00528}}, 5_280_000),
        ({"cost": 0.00001, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.0002}}, 210_000),
        ({"cost": 0.0002, "is_byok": False, "cost_details": {"upstream_inference_cost": 0.0002}}, 200_000),
        ({"cost": 0, "is_byok": True, "cost_details": None}, 0),
        ({"cost_in_usd_ticks": 1_497_500}, 149_750),
        ({"cost_in_usd_ticks": 0}, None),
        ({"cost": None}, None),
        ({"cost": -1}, None),
        ({"cost": "free"}, None),
        ({"cost": True}, None),
        ({"cost": float("nan")}, None),
        ({"cost": float("inf")}, None),
        ({"cost": []}, None),
        ({}, None),
    ],
)
def test_the_providers_own_cost(more: dict[str, Any], nusd: int | None) -> None:
    assert read(totals(**more)).provider_cost_nusd == nusd


anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 500),
    st.integers(0, 10**12),
    st.floats(),
    st.text("0.-e9x", max_size=14),
    st.just([]),
)
NAMES = [
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "num_cached_tokens",
    "cache_creation_input_tokens",
    "cost",
    "is_byok",
]
DETAILS = ["cached_tokens", "audio_tokens", "reasoning_tokens", "cache_write_tokens", "upstream_inference_cost"]
details_objects = st.dictionaries(st.sampled_from(DETAILS), anything)
usage_objects = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(NAMES, anything),
        "prompt_tokens_details": anything | details_objects,
        "completion_tokens_details": anything | details_objects,
        "cost_details": anything | details_objects,
        "cost_in_usd_ticks": anything,
    },
)


@pytest.mark.property
@given(usage_objects, st.sampled_from([PLAIN, XAI]))
def test_whatever_comes_the_usage_is_consistent(obj: dict[str, Any], quirks: Quirks) -> None:
    usage = usage_from_openai(obj, quirks)
    if usage is not None:
        assert 0 <= usage.cached_input_tokens + usage.cache_write_tokens <= usage.input_tokens <= MAX_TOKENS
        assert 0 <= usage.input_audio_tokens <= usage.input_tokens
        assert 0 <= usage.reasoning_tokens <= usage.output_tokens
        assert 0 <= usage.output_audio_tokens <= usage.output_tokens
        assert usage.provider_cost_nusd is None or usage.provider_cost_nusd >= 0


# -- Absurd figures ------------------------------------------------------------------------------------------------------------


def test_ten_times_the_prompt_is_absurd() -> None:
    body_bytes = 40_000
    honest = Usage(estimate_input(body_bytes), 100)
    assert not suspect(honest, body_bytes=body_bytes, text_bytes=400, max_output=None)
    assert suspect(Usage(honest.input_tokens * 10, 100), body_bytes=body_bytes, text_bytes=400, max_output=None)


def test_ten_times_the_answer_is_absurd_where_the_request_limits_it() -> None:
    assert not suspect(Usage(10, 1_000), body_bytes=100, text_bytes=4_000, max_output=1_000)
    assert suspect(Usage(10, 10_000), body_bytes=100, text_bytes=4_000, max_output=1_000)


def test_ten_times_a_long_answer_is_absurd() -> None:
    assert not suspect(Usage(10, 16_000), body_bytes=100, text_bytes=64_000, max_output=None)
    assert suspect(Usage(10, 160_000), body_bytes=100, text_bytes=64_000, max_output=None)


def test_thoughts_that_are_reported_are_not_held_against_the_text() -> None:
    assert not suspect(Usage(10, 90_000, reasoning_tokens=89_990), body_bytes=100, text_bytes=40, max_output=None)


def test_the_bound_of_the_prompt_is_exact() -> None:
    assert not suspect(Usage(1_000 + UNSEEN_TOKENS, 0), body_bytes=1_000, text_bytes=0, max_output=None)
    assert suspect(Usage(1_001 + UNSEEN_TOKENS, 0), body_bytes=1_000, text_bytes=0, max_output=None)


def part(kind: str, value: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "?"}, {"type": kind, kind: value}]}]}


@pytest.mark.parametrize(
    ("body", "outside"),
    [
        ({"messages": [{"role": "user", "content": "?"}]}, False),
        (part("image_url", {"url": "https://example.org/a.png"}), True),
        (part("image_url", {"url": "data:image/png;base64,AAAA"}), False),
        (part("image_url", "data:image/png;base64,AAAA"), False),
        (part("file", {"file_id": "file-1"}), True),
        (part("file", {"file_data": "data:application/pdf;base64,AAAA"}), False),
        (part("input_audio", {"data": "AAAA"}), False),
        (part("something_new", {}), True),
        ({"web_search_options": {"search_context_size": "low"}}, True),
        ({"plugins": [{"id": "web"}]}, True),
        ({"tools": [{"type": "web_search"}]}, True),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, False),
        ({"messages": "?", "tools": "?"}, False),
        ({"messages": [1, {"content": [1]}]}, False),
    ],
)
def test_what_refers_to_content_outside_the_body(body: dict[str, Any], outside: bool) -> None:
    assert refers_outside(body) is outside
    usage = Usage(UNSEEN_TOKENS + 5_000, 1)
    assert suspect(usage, body_bytes=100, text_bytes=10, max_output=None, body=body) is not outside


def test_estimates_are_four_bytes_a_token_rounded_up() -> None:
    assert [estimate_input(n) for n in (0, 1, 4, 5)] == [0, 1, 1, 2]
    assert estimate_output(9) == 3


# -- Recorded traffic ----------------------------------------------------------------------------------------------------------


def payloads(recording: dict[str, Any]) -> Iterator[dict[str, Any]]:
    body = recording["response"]["body"]
    lines = [body] if recording["response"]["framing"] == "json" else [x[5:] for x in body.split("\n") if x.startswith("data:")]
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            yield value


def relayed(payload: dict[str, Any]) -> int:
    choices = payload.get("choices") or []
    return sum(len(json.dumps(choice.get("delta") or choice.get("message") or {})) for choice in choices)


@pytest.mark.skipif(not CORPUS.is_dir(), reason=f"the recorded traffic is not at {CORPUS}: it is not part of the repository")
def test_every_recorded_usage_is_read_and_none_is_doubted() -> None:
    read_count = 0
    for line in (CORPUS / "index.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if entry["api"] != "openai.chat":
            continue
        recording = json.loads((CORPUS / entry["file"]).read_text())
        quirks = XAI if entry["provider"] == "xai" else PLAIN
        text_bytes, usage = 0, None
        for payload in payloads(recording):
            text_bytes += relayed(payload)
            groq = payload.get("x_groq")
            for obj in (payload.get("usage"), groq.get("usage") if isinstance(groq, dict) else None):
                if isinstance(obj, dict) and obj:
                    usage = read(obj, quirks)
                    theirs = obj.get("prompt_tokens", obj.get("input_tokens", 0))
                    assert usage.input_tokens == theirs, entry["id"]
                    said = int(obj.get("completion_tokens") or obj.get("output_tokens") or 0)
                    assert usage.output_tokens in (said, said + usage.reasoning_tokens), entry["id"]
                    if entry["provider"] == "xai":
                        assert usage.input_tokens + usage.output_tokens == obj["total_tokens"], entry["id"]
        body = recording["request"].get("json")
        if usage is None or not isinstance(body, dict):
            continue
        read_count += 1
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        assert not suspect(
            usage,
            body_bytes=len(json.dumps(body, ensure_ascii=False).encode()),
            text_bytes=text_bytes,
            max_output=int(limit) * (body.get("n") or 1) if limit else None,
            body=body,
        ), entry["id"]
    assert read_count > 500
