"""The recorded traffic of real providers, as the corpus beside this repository keeps it. `README.md` there describes the files.

The corpus is not part of the repository: where it is missing, whatever stands on it is skipped and says so. `TOLLBRIDGE_CORPUS` names
another folder of the same shape.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import orjson
import pytest

# finish reasons that callers are told in OpenAI's word
FOREIGN_REASONS = {"eos": "stop", "eos_token": "stop", "stop_sequence": "stop"}
ROOT = Path(__file__).resolve().parents[2]
CORPUS = Path(os.environ.get("TOLLBRIDGE_CORPUS", ROOT.parent / "shared" / "corpus"))

needs_corpus = pytest.mark.skipif(
    not (CORPUS / "index.jsonl").is_file(),
    reason=f"the corpus of recorded traffic is not at {CORPUS} (TOLLBRIDGE_CORPUS names another place)",
)


@dataclass(frozen=True, eq=False)  # the one that there is of each
class Recording:
    """One exchange. `request` is what the caller is to send: the recorded body, or a plausible one where none was kept."""

    id: str
    provider: str
    model: str
    path: str
    recorded_request: dict[str, Any] | None
    status: int
    headers: tuple[tuple[str, str], ...]
    framing: str
    body: bytes

    @property
    def streamed(self) -> bool:
        return self.framing == "sse"

    @cached_property
    def request(self) -> dict[str, Any]:
        recorded = self.recorded_request
        if recorded is None or "messages" not in recorded:
            # as long as the recorded prompt was, or its tokens could not be believed
            said = self.usage_objects[-1].get("prompt_tokens") or 1 if self.usage_objects else 1
            body: dict[str, Any] = {"model": self.model, "messages": [{"role": "user", "content": "Hello " * said}]}
            return {**body, "stream": True, "stream_options": {"include_usage": True}} if self.streamed else body
        return {**recorded, "model": self.model}

    @property
    def wants_usage_chunk(self) -> bool:
        options = self.request.get("stream_options")
        return bool(self.request.get("stream")) and isinstance(options, dict) and options.get("include_usage") is True

    @cached_property
    def objects(self) -> list[dict[str, Any]]:
        """The JSON objects of the body: one, or one per event. Read line by line, unlike anything in the proxy."""
        if not self.streamed:
            found = orjson.loads(self.body)
            return [found] if isinstance(found, dict) else []
        lines = [line.strip() for line in self.body.replace(b"\r", b"\n").split(b"\n")]
        payloads = [line[5:].strip() for line in lines if line.startswith(b"data:")]
        return [orjson.loads(payload) for payload in payloads if payload not in (b"", b"[DONE]")]

    @cached_property
    def usage_objects(self) -> list[dict[str, Any]]:
        """Every usage that is reported, in order; in a stream the last one holds."""
        found = [item.get("usage") or (item.get("x_groq") or {}).get("usage") for item in self.objects]
        return [usage for usage in found if isinstance(usage, dict)]

    @property
    def finish_reason(self) -> str | None:
        """The last one that is said, in OpenAI's word: of the first choice in a whole answer, of any in a stream."""
        choices = [choice for item in self.objects for choice in item.get("choices") or []]
        if not self.streamed:
            choices = choices[:1]
        said = next((choice["finish_reason"] for choice in reversed(choices) if choice.get("finish_reason")), None)
        return FOREIGN_REASONS.get(said, said) if said is not None else None


def _recording(entry: Mapping[str, Any], raw: Mapping[str, Any]) -> Recording:
    request, response = raw["request"], raw["response"]
    recorded = request["json"]
    model = (recorded or {}).get("model") or entry["model"] or "unnamed"
    return Recording(
        id=entry["id"],
        provider=entry["provider"],
        model=model,
        path=request["path"] or "",
        recorded_request=recorded,
        status=response["status"] or 400,
        headers=tuple((response["headers"] or {}).items()),
        framing=response["framing"],
        body=response["body"].encode(),
    )


@cache
def chat_recordings() -> tuple[Recording, ...]:
    """Every `openai.chat` exchange, in the index's order; none where the corpus is missing."""
    index = CORPUS / "index.jsonl"
    if not index.is_file():
        return ()
    entries = [orjson.loads(line) for line in index.read_bytes().splitlines()]
    return tuple(
        _recording(entry, orjson.loads((CORPUS / entry["file"]).read_bytes()))
        for entry in entries
        if entry["api"] == "openai.chat"
    )
