"""`provider/model` -> `Target`, with every level of the file laid over the catalogue's facts and the defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from proxy.config.catalogue import ModelFacts, Stanza, known_as, with_quirks
from proxy.config.patterns import best_match
from proxy.config.schema import File, LimitsSection, ModelSection, PriceSection, ProviderSection, TargetSection, Tuning
from proxy.core.limits import RateLimits
from proxy.core.target import STATIC, CircuitSettings, Price, Provider, Target, Timeouts

NO_FACTS = ModelFacts()
# constructed, not validated: that would build validators of their own at import
NO_MODEL = ModelSection.model_construct()
NO_SECTION = ProviderSection.model_construct()


@dataclass(frozen=True, slots=True)
class TargetFactory:
    """`listed`: the (provider, model) pairs that the configuration names, which metrics may show."""

    file: File
    catalogue: Mapping[str, Stanza]
    providers: Mapping[str, Provider]
    listed: frozenset[tuple[str, str]]

    def make(self, provider_name: str, model: str, nearer: Sequence[Tuning] = ()) -> Target:
        """`nearer`: the chain's options, then the target's own."""
        provider = self.providers[provider_name]
        section = self.file.providers.get(provider_name, NO_SECTION)
        written = best_match(section.models, model) or NO_MODEL
        stanza = known_as(self.catalogue, provider_name, section.dialect, addressed=section.base_url is not None)
        facts = (best_match(stanza.models, model) if stanza else None) or NO_FACTS
        if stanza is not None and stanza.dialect != provider.dialect:
            facts = replace(facts, lacks=frozenset(), quirks={})  # which are about another format
        price = written.price or best_match(section.prices, model)
        timeouts, circuit, retries = lay_over([self.file.defaults, section, written, *nearer])
        exact = model in section.models or model in section.prices or (stanza is not None and model in stanza.models)
        return Target(
            provider=provider,
            upstream_model=model,
            label=model if exact or (provider_name, model) in self.listed else "other",
            timeouts=timeouts,
            circuit=circuit,
            retries=retries,
            price=_price(price) if price else None,
            context=written.context or facts.context,
            max_output=written.max_output or facts.max_output,
            capabilities=facts.capabilities if written.capabilities is None else _capabilities(written.capabilities),
            lacks=facts.lacks,
            quirks=with_quirks(provider.quirks, facts.quirks),
            reasoning=facts.reasoning,
            limits=rate_limits(written.limits),
            disabled=None if written.enabled else "disabled in the file",
            weight=next((level.weight for level in nearer if isinstance(level, TargetSection)), 1.0),
            quality=written.quality,
            expected_first_token_s=written.expected_first_token,
        )


def static_target(answer: str) -> Target:
    """It costs nothing and never fails; its name is the same whatever it says."""
    return Target(STATIC, "static", "static", price=Price(Decimal(0), Decimal(0)), answer=answer)


def lay_over(levels: Sequence[Tuning]) -> tuple[Timeouts, CircuitSettings, int]:
    """The last level that says something wins."""
    timeouts: dict[str, Any] = {}
    circuit: dict[str, Any] = {}
    retries = 1
    for level in levels:
        timeouts |= {name: value for name, value in vars(level.timeouts).items() if value is not None}
        circuit |= {name: value for name, value in vars(level.circuit).items() if value is not None}
        retries = retries if level.retries is None else level.retries
    durations = {"window", "open", "open_max"}
    settings = CircuitSettings(**{f"{name}_s" if name in durations else name: value for name, value in circuit.items()})
    return Timeouts(**{f"{name}_s": value for name, value in timeouts.items()}), settings, retries


def rate_limits(section: LimitsSection) -> RateLimits:
    return RateLimits(**vars(section))


def _capabilities(written: Sequence[str]) -> frozenset[str]:
    """Who can call tools can do so in a stream: the exceptions are the catalogue's to know, not the user's to deny."""
    return frozenset(written) | ({"streamed_tools"} if "tools" in written else frozenset())


def _price(section: PriceSection) -> Price:
    return Price(**vars(section))
