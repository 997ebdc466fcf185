"""Vertex AI: Google's models in Gemini's format and Anthropic's in their own, under one project and location.

https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/inference
https://cloud.google.com/vertex-ai/generative-ai/docs/partner-models/claude/use-claude

    model                                      path under /v1/projects/{project}/locations/{location}
    gemini-2.5-pro                             /publishers/google/models/gemini-2.5-pro:generateContent
    claude-sonnet-4-5@20250929                 /publishers/anthropic/models/claude-sonnet-4-5@20250929:rawPredict
    endpoints/123                              /endpoints/123:generateContent            a tuned Gemini
    publishers/google/models/…, …/anthropic/…  as the first two

Streams are `:streamGenerateContent?alt=sse` and `:streamRawPredict`. The key is an OAuth token, which others get.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from proxy.core.chat import ChatRequest
from proxy.core.errors import CannotCarry, UpstreamError
from proxy.core.events import Event
from proxy.core.target import Target
from proxy.dialects.anthropic.dialect import VertexAnthropic
from proxy.dialects.base import OutboundRequest
from proxy.dialects.gemini.contents import VERTEX_AI
from proxy.dialects.gemini.dialect import Gemini, method, written
from proxy.dialects.gemini.request import encode_body
from proxy.dialects.native import NativeDialect, StreamDecoder
from proxy.dialects.openai_chat import parse_mending

_GOOGLE = "publishers/google/models/"
_ANTHROPIC = "publishers/anthropic/models/"
_ENDPOINTS = "endpoints/"


class VertexGemini(Gemini):
    """Gemini's bodies under Vertex AI's paths, with what differs between the services."""

    def encode_request(self, request: ChatRequest, target: Target) -> OutboundRequest:
        body, dropped = encode_body(request, target, VERTEX_AI)
        return OutboundRequest(f"/{_resource(target.upstream_model)}:{method(request)}", written(body), dropped)


class Vertex(NativeDialect):
    """Both, told apart by the model's name."""

    def __init__(self) -> None:
        self._gemini = VertexGemini()
        self._anthropic = VertexAnthropic()

    def encode_request(self, request: ChatRequest, target: Target) -> OutboundRequest:
        project, location = target.provider.project, target.provider.location
        if not project or not location:
            raise CannotCarry("anything to Vertex AI without a project and a location")
        if _is_claude(target):
            bare = replace(target, upstream_model=target.upstream_model.removeprefix(_ANTHROPIC))
            found = self._anthropic.encode_request(request, bare)
        else:
            found = self._gemini.encode_request(request, target)
        found.path = f"/v1/projects/{quote(project, safe=':')}/locations/{quote(location, safe='')}{found.path}"
        return found

    def decode_response(self, answer: dict[str, Any], target: Target) -> list[Event]:
        return self._of(target).decode_response(answer, target)

    def decoder(self, request: ChatRequest, target: Target) -> StreamDecoder:
        return self._of(target).decoder(request, target)

    def decode_error(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> UpstreamError:
        """What Vertex AI itself refuses is Google's error, whoever's the model; Anthropic's own are `{"type": "error", …}`."""
        parsed, _ = parse_mending(body)
        inner = self._anthropic if isinstance(parsed, dict) and parsed.get("type") == "error" else self._gemini
        return inner.decode_error(status, headers, body)

    def _of(self, target: Target) -> NativeDialect:
        return self._anthropic if _is_claude(target) else self._gemini


def _is_claude(target: Target) -> bool:
    return target.upstream_model.startswith(("claude-", _ANTHROPIC))


def _resource(model: str) -> str:
    """Raises CannotCarry for the models of others, who have formats of their own."""
    if model.startswith(_ENDPOINTS):
        return _ENDPOINTS + quote(model.removeprefix(_ENDPOINTS), safe="")
    name = model.removeprefix(_GOOGLE).removeprefix("models/")
    if name.startswith("publishers/"):
        raise CannotCarry(f"anything to {name} on Vertex AI, whose format is its publisher's own")
    return f"{_GOOGLE}{quote(name, safe='@')}"
