"""The configuration as a simulation uses it: every provider has its stand-in in this process, and nobody needs a key.

All else stays as it is written, what the file disables too: chains, prices, limits, budgets, timeouts, clients.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from proxy.config.settings import ChainTemplate, Settings
from proxy.core.target import Chain, Credential, Provider, Secret, Target
from proxy.simulation.upstream import DOMAIN

NO_KEY = "no key"  # how the reason begins for which a provider is disabled that lacks nothing but its key
_KEY = Credential("simulated", Secret("simulated"))


@dataclass(frozen=True, slots=True)
class StandIn:
    """`hosts`: the providers by the host name under which they are asked."""

    settings: Settings
    hosts: Mapping[str, Provider]


def stand_in(settings: Settings, data_dir: Path) -> StandIn:
    """`data_dir`: a folder for the simulation alone."""
    providers = {
        name: provider if provider.transport == "static" else _provider(provider, f"p{number}.{DOMAIN}")
        for number, (name, provider) in enumerate(settings.providers.items())
    }

    def target(of: Target) -> Target:
        return replace(of, provider=providers.get(of.provider.name, of.provider))

    def chain(of: Chain) -> Chain:
        return replace(of, targets=tuple([target(each) for each in of.targets]))

    def template(of: ChainTemplate) -> ChainTemplate:
        return replace(of, make=lambda part: chain(of.make(part)))

    return StandIn(
        replace(
            settings,
            data_dir=data_dir,
            providers=providers,
            chains={name: chain(of) for name, of in settings.chains.items()},
            wildcards=tuple([(pattern, template(of)) for pattern, of in settings.wildcards]),
            direct=lambda provider, model: target(settings.direct(provider, model)),
            auto=None if settings.auto is None else chain(settings.auto),
        ),
        {f"p{number}.{DOMAIN}": provider for number, provider in enumerate(providers.values())},
    )


def _provider(of: Provider, host: str) -> Provider:
    keyless = of.disabled is not None and of.disabled.startswith(NO_KEY)
    return replace(
        of,
        base_url=f"http://{host}",
        transport="native",
        proxy_url=None,
        ca_file=None,
        credentials=of.credentials or (_KEY,),
        disabled=None if keyless else of.disabled,
        project=of.project or "simulated",
        location=of.location or "simulated",
        region=of.region or "simulated" if of.signs else of.region,
    )
