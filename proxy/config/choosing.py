"""What a chain says about the choice among its targets, and of what becomes of their answers -> what it comes to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from proxy.config.draft import Draft
from proxy.config.faults import Path
from proxy.config.providers import budget_of
from proxy.config.schema import CacheSection, HedgeSection, QualitySection, WeightsSection
from proxy.core.target import CacheSettings, HedgeSettings, QualitySettings, Weights

_NAMES = {"ttl": "ttl_s"}


def cache_of(section: CacheSection | None, outer: CacheSettings = CacheSettings()) -> CacheSettings:  # noqa: B008 - it is frozen
    """What the section says, laid over what stands outside of it."""
    said: dict[str, Any] = {} if section is None else vars(section)
    return replace(outer, **{_NAMES.get(name, name): value for name, value in said.items() if value is not None})


def chain_cache(section: CacheSection | None, file: CacheSection | None) -> CacheSettings | None:
    """None where neither the chain nor the file speaks of a cache: then only a request that asks for it is kept."""
    return None if section is None and file is None else cache_of(section, cache_of(file))


def weights_of(section: WeightsSection, path: Path, draft: Draft) -> Weights:
    weights = Weights(**{name: value for name, value in vars(section).items() if value is not None})
    if not (weights.capability or weights.cost or weights.performance or weights.availability):
        draft.fault(path, "weights: nothing counts (write one that is above 0)", at_key=True)
    return weights


def quality_of(section: QualitySection | None, path: Path, draft: Draft) -> QualitySettings | None:
    if section is None:
        return None
    if section.judge is not None and section.judge_budget is None:
        draft.fault(
            (*path, "judge"), "judge: each answer would cost a second one (write judge_budget: {usd: 5, per: month}, too)"
        )
    return QualitySettings(section.min, section.judge, budget_of(section.judge_budget))


def hedge_of(section: HedgeSection | None) -> HedgeSettings | None:
    if section is None:
        return None
    after = section.after
    if isinstance(after, str):
        return HedgeSettings(after=int(after[1:]) / 100, after_s=None, max_extra=section.max_extra_cost)
    return HedgeSettings(after=None, after_s=after, max_extra=section.max_extra_cost)
