"""Google's own SDK as the judge of what is sent: its request types refuse keys that they do not know.

What it lets pass all the same (roles, keywords within schemas) is for `dialects/gemini/judge.py`.
"""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from proxy.core.target import Provider, Target
from proxy.dialects.gemini.dialect import Gemini
from proxy.dialects.native import NativeDialect
from proxy.dialects.vertex import VertexGemini
from tests.corpus.recordings import needs_corpus
from tests.dialects.fields import FIELDS, FOREIGN_FIELDS, NESTED_FIELDS, PNG, TOOL, chat_request, full_body, with_field
from tests.dialects.gemini_recordings import NoWords, as_openai, asked
from tests.dialects.native_recordings import Recorded

types = pytest.importorskip(
    "google.genai.types", reason="the judge is Google's own SDK, google-genai, which is not installed here"
)

pytestmark = pytest.mark.unit

PROVIDER = Provider("gemini", "gemini", "https://generativelanguage.googleapis.com", ())
DIALECTS: tuple[NativeDialect, ...] = (Gemini(), VertexGemini())
MODELS = ("gemini-3.5-flash", "gemini-2.5-pro", "gemini-2.0-flash")


def judge(body: bytes) -> None:
    request = orjson.loads(body)
    for content in request.pop("contents"):
        types.Content.model_validate(content)
    if "systemInstruction" in request:
        types.Content.model_validate(request.pop("systemInstruction"))
    for tool in request.pop("tools", []):
        types.Tool.model_validate(tool)
    types.ToolConfig.model_validate(request.pop("toolConfig", {}))
    types.GenerationConfig.model_validate(request.pop("generationConfig", {}))
    for setting in request.pop("safetySettings", []):
        if isinstance(setting["category"], str):  # numbers are for those who ask for numbers
            types.SafetySetting.model_validate(setting)
    types.ServiceTier(request.pop("serviceTier", "standard"))
    assert request == {}


def sent(body: dict[str, Any], model: str, dialect: NativeDialect) -> bytes:
    return dialect.encode_request(chat_request(body), Target(PROVIDER, model, model)).body


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("model", MODELS)
def test_the_conversation_that_uses_everything(model: str, dialect: NativeDialect) -> None:
    without = () if model == "gemini-3.5-flash" else ("response_format", "remote image_url")
    judge(sent(full_body(without=without), model, dialect))


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", [*FIELDS, *FOREIGN_FIELDS, *NESTED_FIELDS])
def test_every_field(name: str, dialect: NativeDialect) -> None:
    body, _ = with_field(name)
    judge(sent(body, "gemini-3.5-flash", dialect))


SEALED = {"type": "reasoning.encrypted", "data": "c2Vh", "format": "gemini", "provider": "gemini"}
SEARCH = {"toolCall": {"toolType": "GOOGLE_SEARCH_WEB", "id": "1", "args": {}}}
PICTURE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}


@pytest.mark.parametrize("model", MODELS)
def test_signatures_pictures_in_results_and_googles_own_tools(model: str) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "Hi"},
        {
            "role": "assistant",
            "content": "Look.",
            "tool_calls": [call],
            "reasoning_details": [{**SEALED, "text_end": 2, "part": SEARCH}, {**SEALED, "text_end": 5}, {**SEALED, "id": "a"}],
        },
        {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "21"}, PICTURE]},
    ]
    own: list[dict[str, Any]] = [{"google_search": {}}, {"code_execution": {}}] if model == "gemini-3.5-flash" else []
    judge(sent({"model": "smart", "messages": messages, "tools": [TOOL, *own]}, model, DIALECTS[0]))


@needs_corpus
@pytest.mark.parametrize("recording", list(asked()), ids=lambda recording: recording.id)
def test_requests_rebuilt_from_recordings(recording: Recorded) -> None:
    assert recording.asked is not None
    try:
        body = as_openai(recording.asked)
    except NoWords as reason:
        pytest.skip(f"OpenAI has no words for {reason}")
    judge(sent(body, recording.model, DIALECTS[recording.id.startswith("vertex")]))


def test_the_judge_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="txt"):
        judge(orjson.dumps({"contents": [{"role": "user", "parts": [{"txt": "Hi"}]}]}))
    with pytest.raises(ValueError, match="topLogprobs"):
        judge(orjson.dumps({"contents": [], "generationConfig": {"topLogprobs": 1}}))
