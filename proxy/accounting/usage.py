"""What a provider says it consumed, brought to one shape, and what to think of it.

The usage object of OpenAI's chat completions, as some thirty providers fill it in:

    ours                 theirs, the first that is there
    input_tokens         prompt_tokens, input_tokens
    output_tokens        completion_tokens, output_tokens; plus reasoning where that was left out (see below)
    cached_input_tokens  prompt_tokens_details.cached_tokens, cached_tokens (Together, Moonshot), prompt_cache_hit_tokens
                         (DeepSeek), num_cached_tokens (Mistral)
    cache_write_tokens   prompt_tokens_details.cache_write_tokens, prompt_tokens_details.cache_creation_tokens,
                         cache_creation_input_tokens (gateways to Anthropic)
    reasoning_tokens     completion_tokens_details.reasoning_tokens, reasoning_tokens
    input_audio_tokens   prompt_tokens_details.audio_tokens
    output_audio_tokens  completion_tokens_details.audio_tokens
    provider_cost_nusd   cost (OpenRouter, Vercel, Avian), cost.total_cost (Perplexity), cost_in_usd_ticks (xAI)

`total_tokens` is never read. xAI leaves reasoning out of completion_tokens (`Quirks.reasoning_excluded`), and so does any
provider whose reasoning exceeds its completion: a part is not larger than its whole (Vercel's Gemini; its own cost confirms it).
https://platform.openai.com/docs/api-reference/chat/object
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from proxy.core.money import NUSD_PER_USD, usd_to_nusd
from proxy.core.target import Quirks
from proxy.core.usage import Usage, UsageSource

MAX_TOKENS: Final = 100_000_000  # no request has ever had more: beyond it a figure is noise
UNSEEN_TOKENS: Final = 32_768  # what a provider may add out of our sight: templates, built-in search, thoughts that it keeps
SLACK_TOKENS: Final = 1_024
BYTES_PER_TOKEN: Final = 4
_TICKS_PER_NUSD: Final = 10  # xAI: 1 USD is 10,000,000,000 ticks
_WRONG: Final = -1
_PROVIDER: Final = UsageSource.PROVIDER
_OWN_NAMES: Final = frozenset(
    (
        "cached_tokens",
        "prompt_cache_hit_tokens",
        "num_cached_tokens",
        "cache_creation_input_tokens",
        "reasoning_tokens",
        "cost",
        "cost_in_usd_ticks",
    )
)
_NOTHING: Final[Mapping[str, Any]] = {}


def usage_from_openai(obj: Mapping[str, Any], quirks: Quirks) -> Usage | None:
    """The usage object of an answer or of a chunk. None when it has no usable totals: negative, fractional, not a number.

    Of two totals one may be absent: that is 0. A subset that makes no sense is 0, one that is larger than its whole is cut to it.
    """
    get = obj.get
    input_tokens = get("prompt_tokens")
    output_tokens = get("completion_tokens")
    if input_tokens is None and output_tokens is None:
        input_tokens, output_tokens = get("input_tokens"), get("output_tokens")
        if input_tokens is None and output_tokens is None:
            return None
    if type(input_tokens) is not int or not 0 <= input_tokens <= MAX_TOKENS:
        input_tokens = _total(input_tokens)
    if type(output_tokens) is not int or not 0 <= output_tokens <= MAX_TOKENS:
        output_tokens = _total(output_tokens)
    if input_tokens < 0 or output_tokens < 0:
        return None

    own_names = not _OWN_NAMES.isdisjoint(obj)  # a provider's own, beside or instead of OpenAI's
    cached = written = input_audio = reasoning = output_audio = 0
    details = get("prompt_tokens_details") or get("input_tokens_details")
    if own_names or (type(details) is dict and any(details.values())):
        cached, written, input_audio = _input_parts(obj, details if type(details) is dict else _NOTHING, input_tokens)
    details = get("completion_tokens_details") or get("output_tokens_details")
    if own_names or (type(details) is dict and any(details.values())):
        if type(details) is not dict:
            details = _NOTHING
        reasoning = _part(details.get("reasoning_tokens") or get("reasoning_tokens"), MAX_TOKENS)
        if reasoning and (reasoning > output_tokens or quirks.reasoning_excluded):
            output_tokens += reasoning
        output_audio = _part(details.get("audio_tokens"), output_tokens)
    provider_cost = _provider_cost(obj) if own_names else None
    return Usage(input_tokens, output_tokens, cached, written, reasoning, input_audio, output_audio, _PROVIDER, provider_cost)


def _input_parts(obj: Mapping[str, Any], details: Mapping[str, Any], input_tokens: int) -> tuple[int, int, int]:
    """What of the input was read from a cache, written to one, and audio."""
    get = obj.get
    cached = _part(
        details.get("cached_tokens") or get("cached_tokens") or get("prompt_cache_hit_tokens") or get("num_cached_tokens"),
        input_tokens,
    )
    written = _part(
        details.get("cache_write_tokens") or details.get("cache_creation_tokens") or get("cache_creation_input_tokens"),
        input_tokens - cached,
    )
    return cached, written, _part(details.get("audio_tokens"), input_tokens)


def _total(value: object) -> int:
    """A count that is not a plain int: 12.0 and "12" are, None is 0, anything else is wrong."""
    if value is None:
        return 0
    if isinstance(value, str) and len(value) <= 12 and value.isascii() and value.isdecimal():
        value = float(value)
    if isinstance(value, float) and value.is_integer() and 0 <= value <= MAX_TOKENS:
        return int(value)
    return _WRONG


def _part(value: object, whole: int) -> int:
    if not value:  # None and 0, by far the most
        return 0
    count = value if type(value) is int else _total(value)
    if count < 0:
        return 0
    return min(count, whole)


def _provider_cost(obj: Mapping[str, Any]) -> int | None:
    """The price that the provider put on the answer. With the caller's own key behind a gateway (`is_byok`), `cost` is only the
    gateway's fee, and `cost_details.upstream_inference_cost` is what the key's owner pays besides. Ticks of 0 say nothing:
    Azure's Grok sends them always."""
    if "cost" not in obj and "cost_in_usd_ticks" not in obj:
        return None
    cost = obj.get("cost")
    if isinstance(cost, dict):
        cost = cost.get("total_cost")
    if cost is None:
        ticks = obj.get("cost_in_usd_ticks")
        if type(ticks) is int and 0 < ticks <= MAX_TOKENS * NUSD_PER_USD:
            return (ticks + _TICKS_PER_NUSD // 2) // _TICKS_PER_NUSD
        return None
    nusd = _nusd(cost)
    if nusd is not None and obj.get("is_byok") is True:
        details = obj.get("cost_details")
        upstream = details.get("upstream_inference_cost") if isinstance(details, dict) else None
        return nusd + (_nusd(upstream) or 0)
    return nusd


def _nusd(usd: object) -> int | None:
    """A JSON number or decimal string of dollars, exactly: a float stands for its shortest decimal."""
    if isinstance(usd, bool) or not isinstance(usd, int | float | str):
        return None
    try:
        amount = Decimal(usd if isinstance(usd, int) else str(usd)[:40])
    except InvalidOperation:
        return None
    if not amount.is_finite() or not 0 <= amount <= MAX_TOKENS:
        return None
    return usd_to_nusd(amount)


def suspect(
    usage: Usage,
    *,
    body_bytes: int,
    text_bytes: int,
    max_output: int | None,
    body: Mapping[str, Any] | None = None,
) -> bool:
    """Whether a provider's figure is absurd, so that our own count is taken instead and the row is flagged.

    A token of a byte-level vocabulary is at least one byte, so no prompt has more tokens than bytes, and no answer either, but
    for what we cannot see: `UNSEEN_TOKENS` are granted for that, in the answer `max_output` (for all choices) in their place when
    the request set it. The rule thus never doubts a long answer or a chatty template, and catches ten times too much in any
    prompt of more than about 22 KB; below that an error is bounded by the grant. Content that is only referred to (an image by
    URL, a file by id, a search that the request asks for) has no visible size: with `body` given, such prompts are only held to
    `MAX_TOKENS`. `text_bytes` is the answer's text, thoughts and tool arguments that were relayed.
    """
    visible = usage.output_tokens - usage.reasoning_tokens
    if visible > text_bytes + (UNSEEN_TOKENS if max_output is None else max_output) + SLACK_TOKENS:
        return True
    if usage.input_tokens > MAX_TOKENS or usage.reasoning_tokens > MAX_TOKENS:
        return True
    if usage.input_tokens <= body_bytes + UNSEEN_TOKENS:
        return False
    return body is None or not refers_outside(body)


def refers_outside(body: Mapping[str, Any]) -> bool:
    """Whether part of the prompt is not in the body: media by URL or id, a provider's own tools or search."""
    if body.get("web_search_options") or body.get("plugins") or body.get("search_parameters"):
        return True
    tools = body.get("tools")
    if isinstance(tools, list) and any(isinstance(tool, dict) and tool.get("type", "function") != "function" for tool in tools):
        return True
    messages = body.get("messages")
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict) and _by_reference(part):
                return True
    return False


def _by_reference(part: Mapping[str, Any]) -> bool:
    kind = part.get("type")
    if kind in ("text", "refusal", "input_audio", "thinking"):
        return False
    media = part.get(kind) if isinstance(kind, str) else None
    if isinstance(media, dict):
        if media.get("file_id"):
            return True
        media = media.get("url") or media.get("file_data")
    return not (isinstance(media, str) and media.startswith("data:"))


def estimate_tokens(text_bytes: int) -> int:
    """The last resort where nothing can be counted: a token for every four bytes, rounded up."""
    return -(-text_bytes // BYTES_PER_TOKEN)


def estimate_input(body_bytes: int) -> int:
    """Of a prompt, from the size of the request's body."""
    return estimate_tokens(body_bytes)


def estimate_output(text_bytes: int) -> int:
    """Of an answer, from the bytes of text, thoughts and tool arguments that came."""
    return estimate_tokens(text_bytes)
