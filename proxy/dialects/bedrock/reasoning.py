"""How much a model behind Amazon Bedrock is to think: `reasoning_effort` and `thinking` in the words of its family.

    family      reasoning_effort                                                none
    Claude      thinking: a budget of tokens, or adaptive with                  disabled, or what else turns it off
                outputConfig.effort                                             (outputConfig.effort low where nothing does)
    Nova 2      reasoningConfig: maxReasoningEffort low, medium, high           disabled
    gpt-oss     reasoning_effort low, medium, high                              dropped
    OpenAI      reasoning: effort                                               dropped
    Qwen        reasoning_config low, medium, high                              dropped
    others      dropped                                                         dropped

    https://docs.aws.amazon.com/bedrock/latest/userguide/claude-messages-adaptive-thinking.html
    https://docs.aws.amazon.com/nova/latest/nova2-userguide/extended-thinking.html

All but outputConfig goes into additionalModelRequestFields. `thinking` is Anthropic's own word, for Claude only, and adapted to the model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from proxy.core.target import Target
from proxy.dialects.anthropic.models import BUDGETS, Traits, level_within, thinking_for, traits_of
from proxy.dialects.bedrock.messages import Conversation
from proxy.dialects.bedrock.models import family_of
from proxy.dialects.knobs import Knobs

MIN_BUDGET = 1024  # the least that may be granted

# what the others know of OpenAI's words
_WORDS = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}


@dataclass(slots=True)
class Reasoning:
    """`fields` of additionalModelRequestFields, `effort` of outputConfig.

    `thinks`: Claude's other limits for that hold. `samples`: temperature and top_p may be given.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    effort: str | None = None
    thinks: bool = False
    samples: bool = True


def read_reasoning(
    knobs: Knobs, target: Target, *, given: dict[str, Any], max_tokens: int | None, forced: bool, conversation: Conversation
) -> Reasoning:
    """`given`: additionalModelRequestFields of the caller's own, `max_tokens` None: as many as the model can, `forced`: a tool call is
    demanded. Takes what cannot be sent back to a model that does not think out of the conversation.
    """
    family = family_of(target.upstream_model)
    found = Reasoning()
    if family.effort == "thinking":
        limit = max_tokens if max_tokens is not None else target.max_output
        _Thinking(knobs, traits_of(target.upstream_model), limit, found).read(given.get("thinking"), conversation, forced=forced)
        return found
    asked = knobs.take("reasoning_effort")
    word = _WORDS.get(asked) if isinstance(asked, str) else None
    if family.effort == "reasoningConfig" and asked == "none":
        found.fields["reasoningConfig"] = {"type": "disabled"}
        return found
    match family.effort:
        case _ if word is None:
            pass
        case "reasoningConfig":
            if word == "high" and max_tokens is not None:
                # "`maxTokens` must be unset when reasoningConfig type is 'enabled' and maxReasoningEffort is 'high'"
                word = "medium"
            found.samples = word != "high"  # the same is said of temperature and topP
            found.fields["reasoningConfig"] = {"type": "enabled", "maxReasoningEffort": word}
        case "reasoning.effort":
            found.fields["reasoning"] = {"effort": word}
        case "reasoning_effort" | "reasoning_config" as name:
            found.fields[name] = word
        case None:
            word = None
    if asked is not None and word != asked:
        knobs.drop("reasoning_effort")
    return found


class _Thinking:
    """Of Claude, by what its model takes."""

    def __init__(self, knobs: Knobs, traits: Traits, limit: int | None, found: Reasoning) -> None:
        self._knobs = knobs
        self._traits = traits
        self._limit = limit
        self._found = found

    def read(self, given: object, conversation: Conversation, *, forced: bool) -> None:
        knobs, found, traits = self._knobs, self._found, self._traits
        effort, asked = knobs.take("reasoning_effort"), knobs.take("thinking")
        if isinstance(given, dict):  # in the caller's own words: nothing is added to that
            found.thinks = given.get("type") in ("enabled", "adaptive")
            for name, value in (("reasoning_effort", effort), ("thinking", asked)):
                if value is not None:
                    knobs.drop(name)
            if not found.thinks:
                conversation.drop_last_thoughts()
            return
        if isinstance(asked, dict):
            config = self._own(asked)
            if effort is not None:
                self._level(effort)
        else:
            config = self._for(effort) if effort is not None else None
            if asked is not None:
                knobs.drop("thinking")
        kind = config.get("type") if config is not None else None
        if config is not None and kind in ("enabled", "adaptive"):
            # it may not think before a demanded call, nor go on with a turn that it began without
            impossible = forced or conversation.prefilled
            if kind == "enabled":
                impossible = impossible or conversation.mid_loop_without_thoughts
                impossible = impossible or not self._make_room(config, fixed=isinstance(asked, dict))
            if impossible:
                config = None
                if kind == "enabled" or not traits.unasked:
                    knobs.drop("thinking" if isinstance(asked, dict) else "reasoning_effort")
        if config is not None:
            found.fields["thinking"] = config
        off = config is not None and config.get("type") in ("disabled", "between_tools")
        found.thinks = (config is not None or traits.unasked) and not off
        if not found.thinks:
            conversation.drop_last_thoughts()

    def _for(self, effort: object) -> dict[str, Any] | None:
        config, level = thinking_for(effort, self._traits)
        if level is not None:
            self._level(level)
        elif config is None:
            self._knobs.drop("reasoning_effort")
        return config

    def _level(self, effort: object) -> None:
        level = level_within(effort, self._traits)
        if level is not None:
            self._found.effort = level
        if level != effort:
            self._knobs.drop("reasoning_effort")

    def _own(self, asked: dict[str, Any]) -> dict[str, Any] | None:
        """A `thinking` in Anthropic's words, in the form that this model takes."""
        traits = self._traits
        match asked.get("type"):
            case "enabled" if traits.thinking == "adaptive":
                self._knobs.drop("thinking.budget_tokens")
                return {**{name: value for name, value in asked.items() if name != "budget_tokens"}, "type": "adaptive"}
            case "adaptive" if traits.thinking == "budget":
                self._knobs.drop("thinking.type")
                return {**asked, "type": "enabled", "budget_tokens": BUDGETS["medium"]}
            case "enabled" | "adaptive" if traits.thinking == "none":
                self._knobs.drop("thinking")
                return None
            case "disabled" | "between_tools" as off if off != traits.off:
                self._knobs.drop("thinking")
                return {"type": traits.off} if traits.off is not None else None
        return dict(asked)

    def _make_room(self, config: dict[str, Any], *, fixed: bool) -> bool:
        """Fits a budget to the limit: a fifth at least is left for the answer. False when there is too little.

        `fixed`: the budget is the caller's own.
        """
        budget, limit = config.get("budget_tokens"), self._limit
        if type(budget) is not int or limit is None or (fixed and budget < limit):
            return True
        room = limit * 4 // 5
        if room < MIN_BUDGET:
            return False
        if budget > room:
            config["budget_tokens"] = room
            if fixed:
                self._knobs.drop("thinking.budget_tokens")
        return True
