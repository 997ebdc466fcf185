"""A target that says the same whatever it is asked: what stands at the end of a chain for when nothing else can answer.

It speaks OpenAI's words, so its answers are read like any other; its text stands in the configuration (`Target.answer`), and goes with the
request to who gives it (`upstream/static.py`). Both usage and cost are 0, for nothing was consumed.
"""

from __future__ import annotations

import orjson

from proxy.core.chat import ChatRequest
from proxy.core.target import Target
from proxy.dialects.base import OutboundRequest
from proxy.dialects.openai_chat import OpenAIChat, completion_id


class StaticChat(OpenAIChat):
    def encode_request(self, request: ChatRequest, target: Target) -> OutboundRequest:
        asked = {
            "id": completion_id(request),
            "created": request.created,
            "model": target.upstream_model,
            "stream": request.stream,
            "answer": target.answer or "",
        }
        return OutboundRequest("/answer", orjson.dumps(asked), ())
