"""The configuration with which a gateway sends each case to the lying upstream: for Tollbridge, for LiteLLM, and in words for any other."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from proxy.torture.scenarios import CALLER, GOOD, Case, Place

UPSTREAM_KEY = "sk-torture-upstream-5d41402abc4b2a76"  # no secret: it opens nothing but the upstream that lies
CALLER_KEY = "torture-caller-9b74c9897bac770f"


@dataclass(frozen=True, slots=True)
class Addresses:
    """Base URLs by place."""

    urls: Mapping[Place, str]

    @classmethod
    def at(cls, host: str, port: int, refused_port: int) -> Addresses:
        """The upstream's, and beside it a port at which nobody listens."""
        return cls(
            {
                "upstream": f"http://{host}:{port}/v1",
                "refused": f"http://{host}:{refused_port}/v1",
                "unknown_host": "http://no-such-host.invalid/v1",
                "not_tls": f"https://{host}:{port}/v1",
            }
        )


class Refusing:
    """A port that is taken, so that nobody else listens there, and refuses every connection. `port` 0 takes a free one."""

    def __init__(self, host: str, port: int = 0) -> None:
        self._socket = socket.socket()
        try:
            self._socket.bind((host, port))
        except OSError:
            self._socket.close()
            raise
        self.port: int = self._socket.getsockname()[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._socket.close()


def for_tollbridge(cases: Iterable[Case], addresses: Addresses, *, key: str = UPSTREAM_KEY) -> str:
    """`providers.yaml`: a provider and a chain for each case."""
    upstream = addresses.urls["upstream"]
    prices = '{"*": {input: 1, output: 2}}'
    providers = [_provider(name, upstream, key, prices, {}) for name in (GOOD, CALLER)]
    chains = [f"  {name}: [{name}/{name}]" for name in (GOOD, CALLER)]
    for case in cases:
        name, scenario = case.name, case.scenario
        providers.append(_provider(name, addresses.urls[scenario.at], key, prices, scenario.short))
        behind = f", {GOOD}/{GOOD}" if case.group == "failover" else ""
        chains.append(f"  {name}: [{name}/{name}{behind}]")
    return "\n".join(
        [
            "data_dir: ./data",
            f"clients: {{torture: {{key: {CALLER_KEY}}}}}",
            "health: {interval: 1h}",
            "providers:",
            *providers,
            "chains:",
            *chains,
            "",
        ]
    )


def _provider(name: str, url: str, key: str, prices: str, short: Mapping[str, float]) -> str:
    clocks = ", ".join(f"{clock}: {round(seconds * 1000)}ms" for clock, seconds in short.items())
    timeouts = f", timeouts: {{{clocks}}}" if clocks else ""
    return f"  {name}: {{dialect: openai, base_url: {json.dumps(url)}, api_key: {key}, prices: {prices}{timeouts}}}"


def for_litellm(cases: Iterable[Case], addresses: Addresses, *, key: str = UPSTREAM_KEY) -> str:
    """LiteLLM's `config.yaml`: a model for each case, and a fallback for those that have one."""
    models = [_model(name, addresses.urls["upstream"], key, {}) for name in (GOOD, CALLER)]
    fallbacks = []
    for case in cases:
        models.append(_model(case.name, addresses.urls[case.scenario.at], key, case.scenario.short))
        if case.group == "failover":
            fallbacks.append(f"    - {json.dumps({case.name: [GOOD]})}")
    return "\n".join(["model_list:", *models, "litellm_settings:", "  num_retries: 1", "  fallbacks:", *fallbacks, ""])


def _model(name: str, url: str, key: str, short: Mapping[str, float]) -> str:
    timeout = f", timeout: {max(short.values()):g}, stream_timeout: {max(short.values()):g}" if short else ""
    return f"  - {{model_name: {name}, litellm_params: {{model: openai/{name}, api_base: {json.dumps(url)}, api_key: {key}{timeout}}}}}"


def in_words(addresses: Addresses, *, key: str = UPSTREAM_KEY) -> str:
    """For a gateway that passes model names on."""
    return (
        f"Send every model whose name begins with `torture-` to {addresses.urls['upstream']} with the key {key}, under the same name.\n"
        f"Those that end in `-backed` need a second target, the model `{GOOD}` at the same address; without one use --no-failover.\n"
    )
