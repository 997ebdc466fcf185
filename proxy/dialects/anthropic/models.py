"""What each Claude model takes of the Messages API: models differ more than the format does, and a mismatch is a 400.

https://platform.claude.com/docs/en/build-with-claude/thinking-troubleshooting   thinking, by model
https://platform.claude.com/docs/en/build-with-claude/effort                     levels of `output_config.effort`
https://platform.claude.com/docs/en/about-claude/models/migration-guide          sampling, prefill, forced tools
https://platform.claude.com/docs/en/build-with-claude/structured-outputs         JSON schemas, strict tools

A model is placed by the family and version in its name, in any provider's spelling (`claude-3-7-sonnet@20250219`,
`us.anthropic.claude-sonnet-4-5-20250929-v1:0`, `anthropic/claude-opus-4.5`), and takes what the newest row that is not newer than
itself says: a model that comes out tomorrow is like the last one of its family. Who is no Claude is `UNKNOWN`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

LEVELS = ("low", "medium", "high", "xhigh", "max")
# tokens of thought, for the models that want them counted
BUDGETS = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 16384, "xhigh": 32768, "max": 65536}


@dataclass(frozen=True, slots=True)
class Traits:
    """`thinking`: the form in which it is asked for; a budget of tokens, or adaptive with an effort out of `efforts`.

    `off` is the `thinking.type` that turns it off, None where nothing does. `unasked`: it thinks without being told to, and
    `silent`: does not show its thoughts without being told to. `bound`: takes back no thoughts of another model. `sampling`:
    temperature and top_p may be given `both`, only `one` of them, or `none`, and no top_k either. `prefill`: a conversation may
    end with an assistant message, which the model then continues. `forced_tools`: a tool call can be demanded. `schemas`: the
    answer, and the input of a strict tool, can be held to a JSON schema.
    """

    thinking: Literal["none", "budget", "adaptive"] = "none"
    efforts: tuple[str, ...] = ()
    off: Literal["disabled", "between_tools"] | None = "disabled"
    unasked: bool = False
    silent: bool = False
    bound: bool = False
    sampling: Literal["both", "one", "none"] = "both"
    prefill: bool = True
    forced_tools: bool = True
    schemas: bool = False


Version = tuple[int, int]

_V3 = Traits()
_V37 = replace(_V3, thinking="budget")
_V41 = replace(_V37, sampling="one")
_V45 = replace(_V41, schemas=True)
_V46 = replace(_V45, thinking="adaptive", efforts=("low", "medium", "high", "max"), prefill=False)
_V47 = replace(_V46, efforts=LEVELS, sampling="none", silent=True)
_V5 = replace(_V47, unasked=True)
_V55 = replace(_V5, bound=True)
_ALWAYS = replace(_V5, off=None)  # thinks always
_ALWAYS_BOUND = replace(_ALWAYS, bound=True, forced_tools=False)

_GENERATIONS: tuple[tuple[Version, Traits], ...] = (
    ((0, 0), _V3),
    ((3, 7), _V37),
    ((4, 1), _V41),
    ((4, 5), _V45),
    ((4, 6), _V46),
    ((4, 7), _V47),
    ((5, 0), _V5),
    ((5, 5), _V55),
)
# where a family goes its own way: instead of the rows above from the first version here on
_FAMILIES: dict[str, tuple[tuple[Version, Traits], ...]] = {
    "opus": (((5, 5), _ALWAYS_BOUND),),
    "sonnet": (((5, 5), replace(_V55, off="between_tools", forced_tools=False)),),
    "fable": (((0, 0), _ALWAYS), ((5, 1), _ALWAYS_BOUND)),
    "mythos": (((0, 0), replace(_ALWAYS, efforts=("low", "medium", "high", "max"))), ((5, 0), _ALWAYS), ((5, 1), _ALWAYS_BOUND)),
}
# others speak this format for models of their own (DeepSeek, Moonshot, Z.ai, MiniMax): they judge for themselves
UNKNOWN = Traits(schemas=True)
UNKNOWN_THINKING = replace(UNKNOWN, thinking="budget")

# a date or a build follows the version in most names: eight digits are never a minor version
_NAMES = (
    re.compile(r"claude-(?P<family>[a-z]+)-(?P<major>\d{1,2})(?!\d)(?:[-.](?P<minor>\d{1,2})(?!\d))?"),
    re.compile(r"claude-(?P<major>\d{1,2})(?!\d)(?:[-.](?P<minor>\d{1,2})(?!\d))?-(?P<family>[a-z]+)"),
    re.compile(r"claude-(?P<family>instant|v)?-?v?(?P<major>\d)(?:\.(?P<minor>\d))?"),
    re.compile(r"claude-(?P<family>[a-z]+)-preview"),  # as yet without a version: the oldest of its family
)


@lru_cache(maxsize=1024)
def _named(model: str) -> Traits | None:
    for pattern in _NAMES:
        found = pattern.search(model)
        if found is not None:
            parts = found.groupdict()
            return _row(parts.get("family") or "", (int(parts.get("major") or 0), int(parts.get("minor") or 0)))
    return None


def traits_of(model: str, *, reasoning: bool = False) -> Traits:
    """`reasoning`: the configuration says that the model thinks, which counts for names that say nothing themselves."""
    known = _named(model.lower())
    if known is not None:
        return known
    return UNKNOWN_THINKING if reasoning else UNKNOWN


def continues_prefix(model: str) -> bool:
    """Whether it is known to go on with an assistant's message at the end of a conversation."""
    known = _named(model.lower())
    return known is not None and known.prefill


def thinking_for(effort: object, traits: Traits) -> tuple[dict[str, Any] | None, object]:
    """For OpenAI's `reasoning_effort` the `thinking` object and the level of effort beside it. Neither: it says nothing to the model."""
    if effort == "none":
        return ({"type": traits.off}, None) if traits.off is not None else (None, "minimal")  # as little as can be had
    if not isinstance(effort, str) or effort not in BUDGETS or traits.thinking == "none":
        return None, None
    if traits.thinking == "budget":
        return {"type": "enabled", "budget_tokens": BUDGETS[effort]}, None
    return {"type": "adaptive", "display": "summarized"} if traits.silent else {"type": "adaptive"}, effort


def level_within(effort: object, traits: Traits) -> str | None:
    """The level that is wanted, else the next lower, else the lowest; None where the model has none, or the word is none."""
    wanted = "low" if effort == "minimal" else effort
    if wanted not in LEVELS or not traits.efforts:
        return None
    return [level for level in traits.efforts if LEVELS.index(level) <= LEVELS.index(str(wanted))][-1]


def thoughts_fit(model: str, thinker: str) -> bool:
    """Whether `model` takes back the thoughts of `thinker`: older models read each other's, newer ones only their own."""
    return model == thinker or not (traits_of(model).bound or traits_of(thinker).bound)


def _row(family: str, version: Version) -> Traits:
    rows = [row for row in _FAMILIES.get(family, ()) if row[0] <= version]
    if not rows:
        rows = [row for row in _GENERATIONS if row[0] <= version]
    return rows[-1][1]
