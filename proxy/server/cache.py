"""The cache under `/api`: what it holds and has saved, and clearing it."""

from __future__ import annotations

from proxy.config.settings import Settings
from proxy.core.errors import InvalidValue
from proxy.server.endpoints import Answer, Call, Declared, json_answer
from proxy.server.guard import Scope

DIRECT = "direct"  # the chain of whatever is asked for as provider/model


async def show(call: Call) -> Answer:
    return json_answer(await call.gateway.surroundings.cache_report())


async def clear(call: Call) -> Answer:
    """Of one chain with `chain=`, which may be one that the configuration no longer has; else everything."""
    surroundings = call.gateway.surroundings
    chain = call.request.query_params.get("chain") or None
    if chain is not None and not _is_known(chain, call.gateway.settings):
        kept = [row["chain"] for row in (await surroundings.cache_report())["data"]]
        if chain not in kept:
            raise InvalidValue("There is no chain of that name, and nothing is kept of one.", param="chain")
    return json_answer({"chain": chain, "cleared": await surroundings.clear_cache(chain)})


def _is_known(chain: str, settings: Settings) -> bool:
    patterns = [pattern for pattern, _ in settings.wildcards]
    return (
        chain in settings.chains
        or chain in patterns
        or chain == DIRECT
        or (settings.auto is not None and chain == settings.auto.name)
    )


CACHE = [
    Declared("/api/v1/cache", Scope.ADMIN, show),
    Declared("/api/v1/cache", Scope.ADMIN, clear, "DELETE"),
]
