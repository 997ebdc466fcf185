"""When two requests ask the same, and which answers may be kept. Pure.

The key of an answer is a digest of four things:

    the request      every field of its body but those of NO_MEANING, with what is said below
    the target       everything about it and its provider that may change what is sent or answered; credentials by their fingerprints
    the chain        its name, `strict` and `quality`
    the owner        the client, unless the answers are shared

`null` is as good as not there, 0 and 0.0 are one number, and the order of keys does not matter at the top and within `messages`. It does
in every other field: the order of a schema's properties is the order in which a model fills them in. A streamed answer and a whole one
are kept apart, and so are streams with and without usage: each is given again byte for byte.
"""

from __future__ import annotations

from dataclasses import replace
from hashlib import blake2b
from typing import Any

import orjson

from proxy.config.settings import fingerprint
from proxy.core.chat import ChatRequest
from proxy.core.limits import NO_LIMITS, HealthSettings
from proxy.core.target import CacheSettings, Chain, CircuitSettings, Target, Timeouts
from proxy.core.wishes import CacheWish

KEY_BYTES = 20

NO_MEANING = frozenset(
    (
        "model",  # the chain and the target say what it means
        "user",
        "safety_identifier",
        "metadata",
        "store",  # true is never kept
        "prompt_cache_key",
        "prompt_cache_retention",
        "stream",  # kept apart in another way
        "stream_options",
    )
)
"""Fields of a request that may differ between two that ask the same."""

NEVER = frozenset(("audio_output", "image_output"))  # needs: such answers name what the provider forgets after a while
# what looks things up while it answers: the same question has another answer tomorrow
_LOOKS_THINGS_UP = ("web_search_options", "search_parameters", "plugins")
_OWN_TOOLS = frozenset(("function", "custom"))
_EXACT = 1 << 53
_LOST_FIELDS = {"limits": NO_LIMITS, "budget": None, "quotas": (), "health": HealthSettings(), "disabled": None}


def may_keep(request: ChatRequest, settings: CacheSettings, wish: CacheWish | None) -> bool:
    """Whether its answer may be kept, or taken from what is kept."""
    if not settings.enabled or wish == "off":
        return False
    body = request.body
    if request.choices > 1 or body.get("store") is True or not NEVER.isdisjoint(request.needs):
        return False
    return wish is not None or settings.every or is_repeatable(request)


def is_repeatable(request: ChatRequest) -> bool:
    """Whether it asks for what is the same each time: temperature 0, said in so many words, and nothing looked up meanwhile."""
    if request.kind == "embeddings":
        return True
    body = request.body
    temperature = body.get("temperature")
    if type(temperature) not in (int, float) or temperature != 0:
        return False
    if any(body.get(name) for name in _LOOKS_THINGS_UP):
        return False
    tools = body.get("tools") or ()
    return all(isinstance(tool, dict) and tool.get("type", "function") in _OWN_TOOLS for tool in tools)


def is_worth_keeping(request: ChatRequest, finish_reason: str | None) -> bool:
    """Whether an answer that ended so is whole: one that ran into the limit is, where the request set that limit."""
    if request.kind == "embeddings":
        return True
    if finish_reason == "length":
        return request.max_output_tokens is not None
    return finish_reason in ("stop", "tool_calls", "function_call")


def asked(request: ChatRequest) -> bytes:
    """A digest of what the request asks."""
    body = request.body
    said = {name: _number(body[name]) for name in sorted(body) if name not in NO_MEANING and body[name] is not None}
    messages = said.pop("messages", None)
    options = body.get("stream_options") if request.stream else None
    more = {name: value for name, value in options.items() if name != "include_usage"} if isinstance(options, dict) else {}
    form = (request.kind, request.stream, request.include_usage, more)
    # JSON has no byte 0 of its own: where one part ends is beyond doubt
    parts = (orjson.dumps((form, said)), orjson.dumps(messages, option=orjson.OPT_SORT_KEYS))
    return blake2b(b"\0".join(parts), digest_size=KEY_BYTES).digest()


def identity(chain: Chain, target: Target) -> str:
    """Twelve hex digits that change with whatever of the configuration changes what is sent or answered. What only says when and how
    often a target is asked, and what that costs, is left out."""
    provider = replace(
        target.provider,
        **_LOST_FIELDS,  # type: ignore[arg-type]
        price_source=None,
        check_url=None,
        model_list_path=None,
        transport="native",
        proxy_url=None,
        ca_file=None,
        drain_on_disconnect=False,
    )
    plain = replace(
        target,
        provider=provider,
        label="",
        timeouts=Timeouts(),
        circuit=CircuitSettings(),
        retries=0,
        price=None,
        limits=NO_LIMITS,
        disabled=None,
        weight=1.0,
        quality=None,
        expected_first_token_s=None,
    )
    return fingerprint((chain.name, chain.strict, chain.quality, plain))


def key_of(question: bytes, identity_: str, owner: str | None) -> bytes:
    """`owner`: the client whose answers they are; None where they are everybody's, empty where nobody is known by name."""
    whose = b"*" if owner is None else b"=" + owner.encode()
    return blake2b(b"%b%b\0%b" % (question, identity_.encode(), whose), digest_size=KEY_BYTES).digest()


def _number(value: Any) -> Any:
    """1.0 is 1; what no integer of JSON can hold stays as it is."""
    return int(value) if type(value) is float and value.is_integer() and abs(value) < _EXACT else value
