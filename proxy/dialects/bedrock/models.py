"""What the families of models behind Amazon Bedrock take of the one Converse format, and where each wants what Converse has no field for.

https://docs.aws.amazon.com/bedrock/latest/userguide/conversation-inference-supported-models-features.html
https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters.html          additionalModelRequestFields, by family
https://docs.aws.amazon.com/bedrock/latest/userguide/prompt-caching.html            cachePoint: Claude and Nova, Nova not for tools
https://docs.aws.amazon.com/bedrock/latest/userguide/structured-output.html         outputConfig.textFormat, strict tools
https://docs.aws.amazon.com/nova/latest/nova2-userguide/using-converse-api.html     reasoningConfig
https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ToolChoice.html

A model is placed by its name, which regions prefix (`us.`, `global.`) and ARNs of inference profiles end in. What hides its name (an
application inference profile, provisioned throughput, an imported model) is `UNKNOWN`: it gets what every model takes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal

from proxy.dialects.anthropic.models import traits_of

ToolChoice = Literal["any", "tool"]


@dataclass(frozen=True, slots=True)
class Family:
    """`fields`: where an inbound field goes in additionalModelRequestFields. `effort`: how much to think is said as `thinking`
    (Claude), `reasoningConfig` (Nova), or under the name of a plain word; None: it cannot be said. `choices`: how a call can be
    demanded. `cached`: where cache points are taken. `schemas`: the answer can be held to a JSON schema. `call_id`: what the id of a
    call must look like. `user_first`: a conversation must begin with the user. `refused`: kinds of media, and `s3` for links into S3.
    """

    name: str
    fields: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    effort: Literal["thinking", "reasoningConfig", "reasoning_effort", "reasoning.effort", "reasoning_config"] | None = None
    choices: frozenset[ToolChoice] = frozenset(("any",))
    cached: frozenset[str] = frozenset()
    schemas: bool = True
    call_id: re.Pattern[str] = re.compile(r"[a-zA-Z0-9_.:-]{1,64}")
    user_first: bool = True
    refused: frozenset[str] = frozenset()


UNKNOWN = Family("unknown")

_EVERY_CHOICE: frozenset[ToolChoice] = frozenset(("any", "tool"))
_TOP_K: Mapping[str, tuple[str, ...]] = {"top_k": ("top_k",)}
_CLAUDE = Family(
    "claude",
    fields=_TOP_K,
    effort="thinking",
    choices=_EVERY_CHOICE,
    cached=frozenset(("system", "messages", "tools")),
    call_id=re.compile(r"[a-zA-Z0-9_-]{1,64}"),
    user_first=False,
    refused=frozenset(("audio", "video", "s3")),
)
_NOVA = Family(
    "nova",
    fields={"top_k": ("inferenceConfig", "topK")},
    choices=_EVERY_CHOICE,
    cached=frozenset(("system", "messages")),
    schemas=False,
    refused=frozenset(("audio",)),
)
_NOVA_2 = replace(_NOVA, effort="reasoningConfig")
_MISTRAL = Family(
    "mistral",
    fields=_TOP_K,
    call_id=re.compile(r"[a-zA-Z0-9]{9}"),  # its own rule for ids, which Bedrock passes on
    refused=frozenset(("video",)),
)
_PENALTIES: Mapping[str, tuple[str, ...]] = {
    "frequency_penalty": ("frequency_penalty",),
    "presence_penalty": ("presence_penalty",),
}
_COHERE = Family(
    "cohere",
    fields={"top_k": ("k",), "seed": ("seed",), **_PENALTIES},
    schemas=False,
    refused=frozenset(("image", "audio", "video")),
)
# by what a name holds: the first that is found
_FAMILIES: tuple[tuple[re.Pattern[str], Family], ...] = (
    (re.compile(r"claude"), _CLAUDE),
    (re.compile(r"amazon\.nova-2-(?:omni|sonic)"), replace(_NOVA_2, refused=frozenset())),
    (re.compile(r"amazon\.nova-2"), _NOVA_2),
    (re.compile(r"amazon\.nova"), _NOVA),
    (re.compile(r"amazon\.titan"), Family("titan", schemas=False, refused=frozenset(("image", "audio", "video")))),
    (re.compile(r"openai\.gpt-oss"), Family("openai", effort="reasoning_effort", refused=frozenset(("image", "audio", "video")))),
    (re.compile(r"openai\."), Family("openai", effort="reasoning.effort", refused=frozenset(("audio", "video")))),
    (re.compile(r"qwen\."), Family("qwen", effort="reasoning_config")),
    (re.compile(r"mistral\."), _MISTRAL),
    (re.compile(r"cohere\."), _COHERE),
    (re.compile(r"ai21\."), Family("ai21", fields=_PENALTIES, schemas=False, refused=frozenset(("image", "audio", "video")))),
    # `any` is refused
    (re.compile(r"meta\."), Family("meta", choices=frozenset(), schemas=False, refused=frozenset(("audio", "video")))),
    (re.compile(r"(?:deepseek|google|minimax|moonshot|moonshotai|nvidia|writer|zai)\."), Family("other")),
)
# these hold to schemas, but Bedrock refuses `strict` and a format for them (seen in September 2026)
_NO_SCHEMAS_HERE = re.compile(r"claude-(?:opus-4-[78]|opus-5|sonnet-5|fable|mythos)")


@lru_cache(maxsize=1024)
def family_of(model: str) -> Family:
    lower = model.lower()
    return next((family for pattern, family in _FAMILIES if pattern.search(lower)), UNKNOWN)


@lru_cache(maxsize=1024)
def holds_to_schemas(model: str) -> bool:
    family = family_of(model)
    if family.name != "claude":
        return family.schemas
    return traits_of(model).schemas and _NO_SCHEMAS_HERE.search(model.lower()) is None
