"""Recorded Converse requests, told by an OpenAI client and written by us: the same as what was sent, but for what is said otherwise."""

from __future__ import annotations

import copy
from typing import Any
from urllib.parse import unquote

import orjson
import pytest

from proxy.core.errors import CannotCarry
from proxy.dialects.base import OutboundRequest
from tests.corpus.recordings import needs_corpus
from tests.dialects.bedrock_judge import judge_by_botocore, sent, shape_of
from tests.dialects.bedrock_recordings import Exchange, Untold, as_openai, exchanges

pytestmark = [pytest.mark.unit, needs_corpus]

ASKED = [exchange for exchange in exchanges() if exchange.request is not None and "messages" in exchange.request]


def normal(body: dict[str, Any]) -> dict[str, Any]:
    """Without what says nothing, and with schemas reduced to what the caller wrote in them."""
    body = copy.deepcopy(body)
    for name in ("inferenceConfig", "system", "additionalModelRequestFields"):
        if not body.get(name):
            body.pop(name, None)
    config = body.get("toolConfig", {})
    if config.get("toolChoice") == {"auto": {}}:
        del config["toolChoice"]
    for tool in config.get("tools", []):
        if "toolSpec" in tool:
            _plain(tool["toolSpec"]["inputSchema"]["json"])
            tool["toolSpec"].pop("strict", None)
    definition = body.get("outputConfig", {}).get("textFormat", {}).get("structure", {}).get("jsonSchema")
    if definition:
        definition["schema"] = orjson.loads(definition["schema"])
        _plain(definition["schema"])
    for message in body["messages"]:
        for block in message["content"]:
            result = block.get("toolResult")
            if result is not None:
                result.pop("status", None)
                result["content"] = [
                    {"text": orjson.dumps(inner["json"]).decode()} if "json" in inner else inner for inner in result["content"]
                ]
    return body


def _plain(schema: Any) -> None:
    if isinstance(schema, dict):
        for name in ("additionalProperties", "properties"):
            if schema.get(name) in (False, {}):
                del schema[name]
        for inner in schema.values():
            _plain(inner)
    elif isinstance(schema, list):
        for inner in schema:
            _plain(inner)


@pytest.mark.parametrize("exchange", ASKED, ids=lambda exchange: exchange.id)
def test_a_request(exchange: Exchange) -> None:
    assert exchange.request is not None
    stream = exchange.api == "bedrock.converse_stream"
    try:
        body = as_openai(exchange.request, provider="aws")
    except Untold as reason:
        pytest.skip(f"no OpenAI client could have sent it: {reason}")
    named = exchange.path.split("/")[2]
    written = written_or_refused({**body, "stream": stream}, unquote(named))
    if isinstance(written, CannotCarry):
        assert exchange.status == 400, written.feature
        return
    found, outbound = written
    assert normal(found) == normal(exchange.request)
    assert {name for name in outbound.dropped if not name.endswith((".strict", ".filename"))} == set()
    assert outbound.path == f"/model/{named.replace(':', '%3A')}/{'converse-stream' if stream else 'converse'}"


def written_or_refused(body: dict[str, Any], model: str) -> tuple[dict[str, Any], OutboundRequest] | CannotCarry:
    try:
        return sent(body, model)
    except CannotCarry as refused:
        return refused


@pytest.mark.parametrize("exchange", ASKED, ids=lambda exchange: exchange.id)
def test_the_judge_takes_what_was_really_sent(exchange: Exchange) -> None:
    if shape_of(False) is None:
        pytest.skip("botocore is not installed: it is the judge here")
    assert exchange.request is not None
    judge_by_botocore(exchange.request, stream=exchange.api == "bedrock.converse_stream")
