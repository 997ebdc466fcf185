"""What one attempt consumed, in tokens."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class UsageSource(StrEnum):
    PROVIDER = "provider"
    COUNTED = "counted"
    ESTIMATED = "estimated"


@dataclass(slots=True)
class Usage:
    """Made on the hot path, where freezing would cost twice the rest; nobody changes one that is made.

    `input_tokens` includes cache reads and writes and audio, `output_tokens` includes reasoning and audio; the rest are subsets,
    `cache_write_1h_tokens` of `cache_write_tokens`.

    `provider_cost_nusd` is the price that the provider itself put on the answer (OpenRouter does), None where it says nothing.
    `billed` is what it charges for, where it says that this differs from what was consumed (Cohere), and None where it does not.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    input_audio_tokens: int = 0
    output_audio_tokens: int = 0
    source: UsageSource = UsageSource.PROVIDER
    provider_cost_nusd: int | None = None
    cache_write_1h_tokens: int = 0
    billed: Usage | None = None

    @property
    def plain(self) -> bool:
        """Nothing but input and output: no part of either is of a kind of its own."""
        return not (
            self.cached_input_tokens
            or self.cache_write_tokens
            or self.reasoning_tokens
            or self.input_audio_tokens
            or self.output_audio_tokens
        )
