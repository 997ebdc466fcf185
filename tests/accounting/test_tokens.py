"""Counting without a network, against tiktoken's own published examples."""

import hashlib
import lzma
import threading
from base64 import b64encode
from pathlib import Path

import pytest

from proxy.accounting.tokens import (
    ENCODING_FILE,
    IMAGE_TOKENS,
    MAX_COUNTED_BYTES,
    MESSAGE_TOKENS,
    VOCABULARY,
    TokenCounter,
    prompt_overhead,
    prompt_texts,
)

pytestmark = pytest.mark.unit

# What tiktoken expects of o200k_base.tiktoken, in tiktoken_ext/openai_public.py.
TIKTOKEN_SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"


@pytest.fixture(scope="module")
def counter() -> TokenCounter:
    return TokenCounter()


def test_the_packaged_vocabulary_is_tiktokens() -> None:
    raw = lzma.decompress(ENCODING_FILE.read_bytes())
    digest, start = hashlib.sha256(), VOCABULARY
    for rank in range(VOCABULARY):
        digest.update(b64encode(raw[start : start + raw[rank]]) + f" {rank}\n".encode())
        start += raw[rank]
    assert (start, digest.hexdigest()) == (len(raw), TIKTOKEN_SHA256)


def test_the_packaged_file_stays_small() -> None:
    assert ENCODING_FILE.stat().st_size < 900_000


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 0),
        ("hello world", 2),
        ("antidisestablishmentarianism", 6),
        ("2 + 2 = 4", 7),
        ("お誕生日おめでとう", 8),
    ],
)
def test_the_counts_of_openais_cookbook(counter: TokenCounter, text: str, tokens: int) -> None:
    """https://cookbook.openai.com/examples/how_to_count_tokens_with_tiktoken"""
    assert counter.count_texts([text]) == tokens


def test_special_tokens_are_text(counter: TokenCounter) -> None:
    assert counter.count_texts(["<|endoftext|>"]) > 1


def test_a_lone_surrogate_is_counted(counter: TokenCounter) -> None:
    assert counter.count_texts(["\ud800"]) > 0


def test_what_is_beyond_the_bound_is_taken_in_proportion(counter: TokenCounter) -> None:
    line = "the quick brown fox jumps over the lazy dog\n"
    at_bound = (line * (MAX_COUNTED_BYTES // len(line) + 1))[:MAX_COUNTED_BYTES]
    counted = counter.count_texts([at_bound])
    assert counter.count_texts([at_bound + "x"]) == counted + 1
    assert counter.count_texts([at_bound * 3]) == pytest.approx(counted * 3, rel=0.001)
    assert counter.count_texts([at_bound, at_bound]) == counted * 2


def test_the_bound_may_fall_inside_a_character(counter: TokenCounter) -> None:
    assert counter.count_texts(["x" + "漢" * MAX_COUNTED_BYTES]) > MAX_COUNTED_BYTES


def test_it_is_loaded_once_and_only_when_needed() -> None:
    counter = TokenCounter()
    before = counter.loaded
    counts: list[int] = []
    threads = [threading.Thread(target=lambda: counts.append(counter.count_texts(["hello world"]))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (before, counter.loaded) == (False, True)
    assert counts == [2, 2, 2, 2]


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    raw = bytearray(lzma.decompress(ENCODING_FILE.read_bytes()))
    raw[0] += 1
    damaged = tmp_path / "damaged.xz"
    damaged.write_bytes(lzma.compress(bytes(raw), preset=0))
    with pytest.raises(ValueError, match="damaged"):
        TokenCounter(damaged).load()


BODY = {
    "model": "m",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "name": "ann",
            "content": [{"type": "text", "text": "Look"}, {"type": "image_url", "image_url": {"url": "data:,x"}}],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "42"},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
}


def test_the_texts_of_a_prompt() -> None:
    assert prompt_texts(BODY) == [
        *("Be brief.", "system"),
        *("Look", "user", "ann"),
        *("assistant", "f", "{}"),
        *("42", "tool"),
        '[{"type":"function","function":{"name":"f","parameters":{}}}]',
    ]


def test_messages_and_media_have_a_flat_price(counter: TokenCounter) -> None:
    assert prompt_overhead(BODY) == (4, 1)
    assert counter.count_prompt(BODY) == counter.count_texts(prompt_texts(BODY)) + 5 * MESSAGE_TOKENS + IMAGE_TOKENS


@pytest.mark.parametrize(
    "messages", [None, "x", [1], [{"content": 5, "tool_calls": 5, "role": 5}], [{"tool_calls": [{"function": 5}]}]]
)
def test_a_body_of_another_shape_has_no_texts(messages: object) -> None:
    assert prompt_texts({"messages": messages}) == []


@pytest.mark.parametrize(
    ("given", "tokens"),
    [
        ("hello world", 2),
        (["hello world", "hello"], 3),
        ([15339, 1917], 2),
        ([[15339, 1917], [15339]], 3),
        (None, 0),
        ([], 0),
        ([None], 0),
    ],
)
def test_what_is_to_be_embedded_is_counted_in_each_of_its_forms(counter: TokenCounter, given: object, tokens: int) -> None:
    assert counter.count_input(given) == tokens


def test_tokens_are_counted_without_the_vocabulary() -> None:
    counter = TokenCounter(Path("/nowhere"))
    assert counter.count_input([1, 2, 3]) == 3
    assert not counter.loaded
