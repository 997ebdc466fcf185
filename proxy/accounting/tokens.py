"""Counting tokens ourselves, where a provider does not say: OpenAI's o200k_base, packaged, with no network.

`o200k_base.xz` holds the 199,998 byte strings of the vocabulary in rank order: one byte of length for each, then all of them end
to end, xz-compressed. Its source is tiktoken's `o200k_base.tiktoken` (MIT), checked against the sha256 that tiktoken expects;
docs/decisions/0002-token-encodings.md says how it was made, what loading costs, and how far off it is for other models.
https://github.com/openai/tiktoken
"""

from __future__ import annotations

import lzma
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

if TYPE_CHECKING:
    import tiktoken

ENCODING_FILE: Final = Path(__file__).with_name("o200k_base.xz")
VOCABULARY: Final = 199_998
MAX_COUNTED_BYTES: Final = 256 * 1024  # what lies beyond is taken to be as dense as what lies before
MESSAGE_TOKENS: Final = 3  # around each message, and once more to prime the answer: OpenAI's cookbook
IMAGE_TOKENS: Final = 1_105  # an image or another inline medium: OpenAI's figure for 1024 x 1024 at high detail

# The pattern of tiktoken's o200k_base: words with their case, numbers of up to three digits, punctuation, line ends, blanks.
_SUFFIX: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_UPPER: Final = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER: Final = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_PATTERN: Final = "|".join(
    (
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_SUFFIX}",
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_SUFFIX}",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)


class TokenCounter:
    """Counts text. Blocking, so for a worker thread: the first call loads the vocabulary, each call may take some milliseconds.

    Safe from several threads at once. Special tokens such as `<|endoftext|>` are counted as the text they are.
    """

    def __init__(self, path: Path = ENCODING_FILE) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._encoding: tiktoken.Encoding | None = None

    @property
    def loaded(self) -> bool:
        return self._encoding is not None

    def load(self) -> None:
        """Raises OSError, or ValueError when the file is not what it should be."""
        with self._lock:
            if self._encoding is None:
                self._encoding = _load(self._path)

    def count_texts(self, texts: Iterable[str]) -> int:
        """Of all the texts together. The first `MAX_COUNTED_BYTES` are counted, the rest is added in proportion."""
        if self._encoding is None:
            self.load()
        assert self._encoding is not None
        encode = self._encoding.encode_ordinary
        tokens = counted_bytes = uncounted_bytes = 0
        for text in texts:
            size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
            room = MAX_COUNTED_BYTES - counted_bytes
            if size > room:
                text = text.encode("utf-8", "replace")[:room].decode("utf-8", "ignore")
                uncounted_bytes += size - room
                size = room
            if size:
                tokens += len(encode(text))
                counted_bytes += size
        if uncounted_bytes:
            tokens += -(-uncounted_bytes * tokens // counted_bytes)
        return tokens

    def count_prompt(self, body: Mapping[str, Any]) -> int:
        """A whole chat request: its texts, `MESSAGE_TOKENS` around each message, `IMAGE_TOKENS` for each medium."""
        messages, media = prompt_overhead(body)
        return self.count_texts(prompt_texts(body)) + MESSAGE_TOKENS * (messages + 1) + IMAGE_TOKENS * media

    def count_input(self, given: object) -> int:
        """Of what is to be embedded: a text, texts, or tokens, which are counted already."""
        if isinstance(given, str):
            return self.count_texts([given])
        items = given if isinstance(given, list) else []
        texts = [item for item in items if isinstance(item, str)]
        tokens = sum(len(item) if isinstance(item, list) else isinstance(item, int) for item in items)
        return tokens + (self.count_texts(texts) if texts else 0)


def _load(path: Path) -> tiktoken.Encoding:
    import tiktoken  # 5 MB and 50 ms that most processes never need

    raw = lzma.decompress(path.read_bytes())
    ranks: dict[bytes, int] = {}
    start = VOCABULARY
    for rank in range(VOCABULARY):
        end = start + raw[rank]
        ranks[raw[start:end]] = rank
        start = end
    if start != len(raw) or len(ranks) != VOCABULARY:
        raise ValueError(f"{path} is damaged: {len(ranks)} tokens, {len(raw)} bytes")
    encoding = tiktoken.Encoding("o200k_base", pat_str=_PATTERN, mergeable_ranks=ranks, special_tokens={})
    vars(encoding)["_mergeable_ranks"] = {}  # the encoder has its own copy; Python's is 23 MB that nothing reads
    return encoding


def prompt_texts(body: Mapping[str, Any]) -> list[str]:
    """All of a chat request that the model reads as text: contents, names, tool calls, tools and response format as JSON."""
    texts: list[str] = []
    for message in _dicts(body.get("messages")):
        content = message.get("content")
        if isinstance(content, str):
            texts.append(content)
        for part in _dicts(content):
            texts += [part[key] for key in ("text", "refusal", "thinking") if isinstance(part.get(key), str)]
        texts += [message[key] for key in ("role", "name", "reasoning_content") if isinstance(message.get(key), str)]
        for call in _dicts(message.get("tool_calls")):
            function = call.get("function")
            if isinstance(function, dict):
                texts += [function[key] for key in ("name", "arguments") if isinstance(function.get(key), str)]
    for key in ("tools", "functions", "response_format"):
        if body.get(key):
            texts.append(orjson.dumps(body[key], option=orjson.OPT_NON_STR_KEYS).decode())
    return texts


def prompt_overhead(body: Mapping[str, Any]) -> tuple[int, int]:
    """How many messages a request has, and how many parts that are not text."""
    messages = media = 0
    for message in _dicts(body.get("messages")):
        messages += 1
        media += sum(1 for part in _dicts(message.get("content")) if is_media(part))
    return messages, media


def is_media(part: Mapping[str, Any]) -> bool:
    return part.get("type") not in ("text", "refusal", "thinking", "tool_result")


def _dicts(value: object) -> Iterator[dict[str, Any]]:
    if isinstance(value, list):
        yield from (item for item in value if isinstance(item, dict))
